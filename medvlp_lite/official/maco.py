"""Reading the released MaCo checkpoint: names, sizes, and what is left out.

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from medvlp_lite.encoders.image import sincos_positions
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.official.checkpoint import official_state, require_fit
from medvlp_lite.systems.maco import MaCo, MaCoConfig

OFFICIAL_NAMES = {
    "cls_token": "image_encoder.class_token",
    "pos_embed": "image_encoder.positions",
    "patch_embed.proj.": "image_encoder.patches.",
    "blocks.": "image_encoder.blocks.",
    "norm.": "image_encoder.norm.",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.positions",
    "decoder_embed.": "decoder.embed.",
    "decoder_blocks.": "decoder.blocks.",
    "decoder_norm.": "decoder.norm.",
    "decoder_pred.": "decoder.predict.",
    "img_mlp.": "image_projection.",
    "pos_weight_img.": "importance_score.",
    "Tpar": "logit_multiplier",
    "bert_encoder.model.bert.pooler.dense.": "text_pooler.",
    "bert_encoder.model.bert.": "text_encoder.bert.",
}
OFFICIAL_UNUSED = ("WCE.", "logit_scale", "pos_weight_text.", "pos_cat.", "bert_encoder.model.cls.")


def from_official(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    text_heads: int = 6,
    decoder_heads: int = 6,
    trust: bool = False,
) -> MaCo:
    """The authors' released checkpoint as a MaCo of ours: every size is read from its tensors, heads of 64 for the ViT.

    ``tokenizer`` is the authors' word-piece file; without it every word is unknown, and only images can be asked. Colour
    channels of the patch embedding are added up, since a radiograph has the same grey in all three. The class token takes
    its position code along. Left out: the loss buffer, ``position_ids``, and heads that the method does not use. Where
    the text is narrower than the image side, as in the released configuration, they cannot be multiplied, and comparing
    them raises ValueError. ``trust`` allows a file that holds more than tensors (a pickle can run code: only for a file
    you know). Raises ValueError listing every name that is missing, unexpected or of another shape, or the first one
    without which no size can be read.
    """  # fmt: skip
    state = _official_state(path, trust)
    try:
        sizes = _official_sizes(state, text_heads, decoder_heads)
        words = _official_tokenizer(tokenizer, len(state["text_encoder.bert.embeddings.word_embeddings.weight"]))
    except KeyError as error:
        raise ValueError(f"{path} is not an official MaCo checkpoint: missing {error.args[0]}") from error
    config = MaCoConfig(**sizes, weighting="split", lam=None, text_projection=False)
    system = MaCo(words, config)
    own = {name: tensor for name, tensor in system.state_dict().items() if name not in ("weight_trace", "steps_seen")}
    require_fit(state, own, path, "MaCo")
    system.load_state_dict(state, strict=False)
    return system.eval()


def with_released_positions(system: MaCo) -> MaCo:
    """The same system with the position codes of the released code, which a new model built like the released one needs.

    Checkpoints hold their own. See ``sincos_positions`` for the two readings.
    """
    encoder, decoder = system.image_encoder, system.decoder
    encoder.positions.copy_(sincos_positions(encoder.grid, encoder.width, "maco"))
    decoder.positions[1:] = sincos_positions(encoder.grid, decoder.positions.shape[1], "maco")
    return system


def _official_state(path: str | Path, trust: bool) -> dict[str, torch.Tensor]:
    found = official_state(path, OFFICIAL_NAMES, trust=trust, safe=[argparse.Namespace])  # it keeps its command line
    state = {
        name: tensor
        for name, tensor in found.items()
        if not name.startswith(OFFICIAL_UNUSED) and not name.endswith("position_ids")
    }
    if {"image_encoder.class_token", "image_encoder.positions"} <= set(state):
        positions = state["image_encoder.positions"]
        state["image_encoder.class_token"] = state["image_encoder.class_token"] + positions[:, :1]
        state["image_encoder.positions"] = positions[0, 1:]
    if "decoder.positions" in state:
        state["decoder.positions"] = state["decoder.positions"][0]
    if "image_encoder.patches.weight" in state:
        state["image_encoder.patches.weight"] = state["image_encoder.patches.weight"].sum(dim=1, keepdim=True)
    return state


def _official_sizes(state: Mapping[str, torch.Tensor], text_heads: int, decoder_heads: int) -> dict:
    patch, positions = state["image_encoder.patches.weight"].shape[-1], state["image_encoder.positions"]
    ratio = math.isqrt(len(state["decoder.predict.weight"]) // 3) // patch
    text = "text_encoder.bert.embeddings."
    text_width = state[text + "word_embeddings.weight"].shape[1]
    layers = {
        part: len({name[len(part) :].split(".")[0] for name in state if name.startswith(part)})
        for part in ("image_encoder.blocks.", "decoder.blocks.", "text_encoder.bert.encoder.layer.")
    }
    depth, decoder_depth, text_depth = layers.values()
    return {
        "vit": (positions.shape[1], depth, max(1, positions.shape[1] // 64), patch),
        "decoder": (len(state["decoder.embed.weight"]), decoder_depth, decoder_heads),
        "text_encoder": (text_width, text_depth, text_heads,
                         len(state["text_encoder.bert.encoder.layer.0.intermediate.dense.weight"])),
        "max_length": len(state[text + "position_embeddings.weight"]),
        "dim": len(state["image_projection.weight"]),
        "image_size": math.isqrt(len(positions)) * patch * ratio,
        "downsample": ratio,
        "hr": ratio > 1,
        "channels": 3,
    }  # fmt: skip


def _official_tokenizer(path: str | Path | None, size: int) -> ReportTokenizer:
    from tokenizers import Tokenizer, models, processors

    if path is None:
        names = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", *(f"[unused{number}]" for number in range(4, size))]
        words = Tokenizer(models.WordPiece({name: place for place, name in enumerate(names)}, unk_token="[UNK]"))
    else:
        try:
            words = Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing more specific
            raise ValueError(f"{path} is no tokenizer file: {error}") from error
    if words.get_vocab_size() != size:
        raise ValueError(f"{path} holds {words.get_vocab_size()} word pieces, the checkpoint {size}")
    start = ("[CLS]", words.token_to_id("[CLS]"))
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[start])
    return ReportTokenizer(words.to_str())
