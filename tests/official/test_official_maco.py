import argparse
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import made_up_studies

from medvlp_lite.components.masked_contrastive import importance
from medvlp_lite.components.reconstruction import patchify, position_map, random_masking
from medvlp_lite.encoders.image import sincos_positions
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.official import maco as official
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems.base import Query
from medvlp_lite.systems.maco import MaCo, MaCoConfig

WIDTH, DEPTH, GRID, PATCH, TEXT, LAYERS, WORDS, POSITIONS = 128, 2, 4, 4, 24, 2, 30, 12


def official_state(text=TEXT, scale=2) -> dict:
    """Random tensors with the names and the layout of the released checkpoint, at a fraction of its size."""
    generator = torch.Generator().manual_seed(5)
    state = {}

    def put(name, *shape):
        state[name] = torch.randn(*shape, generator=generator) * 0.2

    def block(name, width):
        for norm in ("norm1", "norm2"):
            put(f"{name}.{norm}.weight", width), put(f"{name}.{norm}.bias", width)
        sizes = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
        for part, (outs, ins) in sizes.items():
            put(f"{name}.{part}.weight", outs * width, ins * width), put(f"{name}.{part}.bias", outs * width)

    put("cls_token", 1, 1, WIDTH), put("pos_embed", 1, GRID**2 + 1, WIDTH)
    put("patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH), put("patch_embed.proj.bias", WIDTH)
    put("mask_token", 1, 1, TEXT), put("decoder_pos_embed", 1, GRID**2 + 1, TEXT)
    for n in range(DEPTH):
        block(f"blocks.{n}", WIDTH)
    block("decoder_blocks.0", TEXT)
    for name, outs, ins in (("decoder_embed", TEXT, WIDTH), ("decoder_pred", (scale * PATCH) ** 2 * 3, TEXT),
                            ("img_mlp", TEXT, WIDTH), ("pos_weight_img", 1, GRID**2)):  # fmt: skip
        put(f"{name}.weight", outs, ins), put(f"{name}.bias", outs)
    for name, width in (("norm", WIDTH), ("decoder_norm", TEXT)):
        put(f"{name}.weight", width), put(f"{name}.bias", width)
    state["Tpar"], state["logit_scale"] = torch.tensor(33.3), torch.tensor(1.0)
    put("pos_weight_text.weight", 1, text), put("pos_cat.weight", 1, 2), put("WCE.weight", 64)
    bert = "bert_encoder.model.bert."
    put(bert + "embeddings.word_embeddings.weight", WORDS, text)
    put(bert + "embeddings.position_embeddings.weight", POSITIONS, text)
    put(bert + "embeddings.token_type_embeddings.weight", 2, text)
    state[bert + "embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    norms, dense = ["embeddings.LayerNorm"], {"pooler.dense": (text, text)}
    for n in range(LAYERS):
        layer = f"encoder.layer.{n}."
        norms += [layer + "attention.output.LayerNorm", layer + "output.LayerNorm"]
        dense |= {layer + f"attention.self.{part}": (text, text) for part in ("query", "key", "value")}
        dense |= {layer + "attention.output.dense": (text, text), layer + "intermediate.dense": (4 * text, text),
                  layer + "output.dense": (text, 4 * text)}  # fmt: skip
    for name in norms:
        put(f"{bert}{name}.weight", text), put(f"{bert}{name}.bias", text)
    for name, (outs, ins) in dense.items():
        put(f"{bert}{name}.weight", outs, ins), put(f"{bert}{name}.bias", outs)
    put("bert_encoder.model.cls.predictions.bias", WORDS)
    return state


def write(state, tmp_path, **extra):
    path = tmp_path / "maco.pth"
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3, **extra}, path)
    return path


def timm_block(x, state, name, heads):
    """One pre-norm block as the official encoder computes it, head by head."""

    def linear(value, part):
        return value @ state[f"{name}.{part}.weight"].t() + state[f"{name}.{part}.bias"]

    def norm(value, part):
        return F.layer_norm(value, value.shape[-1:], state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"], 1e-6)

    q, k, v = linear(norm(x, "norm1"), "attn.qkv").chunk(3, dim=-1)
    size = q.shape[-1] // heads
    parts = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        shares = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)).softmax(-1)
        parts.append(shares @ v[..., part])
    x = x + linear(torch.cat(parts, dim=-1), "attn.proj")
    return x + linear(F.gelu(linear(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")


def official_forward(state, images, visible):
    """Image vectors, drawing and raw scores as the released code computes them, on three equal channels."""
    colour = ((images - 0.4978) / 0.2449).expand(-1, 3, -1, -1)
    small = F.interpolate(colour, scale_factor=0.5, mode="bicubic", align_corners=False)
    tokens = F.conv2d(small, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    tokens = tokens.flatten(2).transpose(1, 2) + state["pos_embed"][:, 1:]
    tokens = torch.stack([row[chosen] for row, chosen in zip(tokens, visible)])
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(tokens), -1, -1)
    tokens = torch.cat([first, tokens], dim=1)
    for n in range(DEPTH):
        tokens = timm_block(tokens, state, f"blocks.{n}", 2)
    tokens = F.layer_norm(tokens, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
    vectors = (tokens[:, 1:] @ state["img_mlp.weight"].t() + state["img_mlp.bias"]).mean(dim=1)
    narrow = tokens @ state["decoder_embed.weight"].t() + state["decoder_embed.bias"]
    full = state["mask_token"].repeat(len(tokens), GRID**2, 1)
    for row, source, chosen in zip(full, narrow, visible):
        row[chosen] = source[1:]
    full = torch.cat([narrow[:, :1], full], dim=1) + state["decoder_pos_embed"]
    full = timm_block(full, state, "decoder_blocks.0", 6)
    full = F.layer_norm(full, (TEXT,), state["decoder_norm.weight"], state["decoder_norm.bias"], 1e-6)
    drawn = (full @ state["decoder_pred.weight"].t() + state["decoder_pred.bias"])[:, 1:]
    seen = torch.zeros(len(tokens), GRID**2).scatter_(1, visible, 1.0)
    return vectors, drawn, seen @ state["pos_weight_img.weight"][0] + state["pos_weight_img.bias"], colour, seen


def test_official_checkpoint_computes_what_the_released_code_computes(tmp_path):
    state = official_state()
    system = official.from_official(write(state, tmp_path, args=argparse.Namespace(lam=0.9)))
    assert system.config.image_size == 32 and system.config.hr and system.config.weighting == "split"
    torch.manual_seed(0)
    images, visible = torch.rand(3, 1, 32, 32), random_masking(3, GRID, 0.5)
    vectors, drawn, scores, colour, seen = official_forward(state, images, visible)
    with torch.no_grad():
        assert torch.allclose(system.view(images, visible), vectors, atol=1e-4)
        assert torch.allclose(system.importance_score(position_map(visible, 16)), scores, atol=1e-5)
        ours = patchify(system.reconstruct(images, visible), 8)
        assert torch.allclose(ours, drawn, atol=1e-4)
    target = colour.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
    batch = collate([StudyDataset(made_up_studies(4), size=32)[i] for i in range(3)])
    batch.images = images
    torch.manual_seed(7)
    with torch.no_grad():
        losses = system.loss(batch)
    torch.manual_seed(7)
    vectors, drawn, scores, colour, seen = official_forward(state, images, random_masking(3, GRID, 0.5))
    expected = (((drawn - target) ** 2).mean(-1) * (1 - seen)).sum() / (1 - seen).sum()
    assert losses.terms["reconstruction"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert losses.total.item() == pytest.approx(sum(losses.terms.values()).item(), rel=1e-6)
    cosine = F.normalize(vectors, dim=-1) @ F.normalize(system.text_features(["a"]), dim=-1).detach().t()
    logits, s, own = 33.3 * cosine.expand(-1, 3), importance(scores), torch.arange(3)
    ce = F.cross_entropy
    code = (ce(s[:, None] * logits, own) + ce(s[:, None] * logits.t(), own) + ce(logits, own, reduction="none") @ s / s.sum()
            + ce(logits.t(), own, reduction="none") @ s / s.sum()) / 4  # fmt: skip
    with torch.no_grad():
        texts = system.text_features(["a"] * 3)
        assert system.contrast(vectors, texts, scores).item() == pytest.approx(code.item(), rel=1e-4)


def test_official_text_is_the_pooler_of_bert_without_projection(tmp_path):
    state = official_state()
    system = official.from_official(write(state, tmp_path))
    with torch.no_grad():
        tokens, _ = system.text_encoder(["one two"])
        first = tokens[:, 0] @ state["bert_encoder.model.bert.pooler.dense.weight"].t()
        expected = (first + state["bert_encoder.model.bert.pooler.dense.bias"]).tanh()
        assert torch.allclose(system.text_features(["one two"]), expected, atol=1e-5)
    assert system.text_encoder.max_length == POSITIONS


def test_official_words_come_from_the_authors_file(tmp_path):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    names = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", "effusion", "left", *(f"word{n}" for n in range(WORDS - 6))]
    words = Tokenizer(models.WordPiece({name: place for place, name in enumerate(names)}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.Whitespace()
    path, file = write(official_state(), tmp_path), tmp_path / "words.json"
    words.save(str(file))
    system = official.from_official(path, tokenizer=file)
    assert system.tokenizer(["Left effusion"], 100).tolist() == [[2, 5, 4]]
    assert system.tokenizer(["effusion " * 200], 100).shape == (1, 100), "cut, and no end token is known"
    small = Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1}, unk_token="[UNK]"))
    small.save(str(file))
    with pytest.raises(ValueError, match="holds 2 word pieces, the checkpoint 30"):
        official.from_official(path, tokenizer=file)


def test_official_widths_that_cannot_be_multiplied_load_and_say_so(tmp_path):
    system = official.from_official(write(official_state(text=12), tmp_path))
    assert system.text_encoder.width == 12 and system.embed_images(torch.rand(1, 1, 32, 32)).shape == (1, TEXT)
    with pytest.raises(ValueError, match="width 24 but text vectors have width 12"):
        system.contrast(torch.zeros(2, TEXT), torch.zeros(2, 12), torch.zeros(2))
    with pytest.raises(ValueError, match="texts have 12 numbers, images 24"):
        system.score(torch.rand(1, 1, 32, 32), [Query.about("effusion")])


def test_official_checkpoint_without_high_resolution(tmp_path):
    system = official.from_official(write(official_state(scale=1), tmp_path))
    assert system.config.image_size == 16 and not system.config.hr and system.config.downsample == 1


def test_official_files_that_do_not_fit_are_refused(tmp_path):
    state = official_state()
    del state["blocks.1.norm1.bias"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"missing image_encoder\.blocks\.1\.norm1\.bias; unexpected extra\.weight"):
        official.from_official(write(state, tmp_path))
    with pytest.raises(ValueError, match=r"missing image_encoder\.patches\.weight"):
        official.from_official(write({"a": torch.zeros(1)}, tmp_path))
    state = official_state()
    del state["Tpar"]
    with pytest.raises(ValueError, match="missing logit_multiplier"):
        official.from_official(write(state, tmp_path))
    with pytest.raises(ValueError, match="trust=True"):
        official.from_official(write(state, tmp_path, model_class=MaCo))
    with pytest.raises(FileNotFoundError):
        official.from_official(tmp_path / "none.pth")


def test_a_new_model_like_the_released_one_takes_its_position_codes():
    tokenizer = ReportTokenizer.train(["a b"], 50)
    system = MaCo(tokenizer, MaCoConfig(vit=(16, 1, 2, 4), decoder=(8, 1, 2), text_encoder=(16, 1, 2), image_size=32))
    released = official.with_released_positions(system)
    for codes, width in ((released.image_encoder.positions, 16), (released.decoder.positions[1:], 8)):
        for place in range(16):
            row, column = divmod(place, 4)
            for axis, start in ((column, 0), (row, width // 2)):
                for i in range(width // 4):
                    rate = 10_000.0 ** (-i / (2 * (width // 2)))
                    assert codes[place, start + i].item() == pytest.approx(math.sin(axis * rate), abs=1e-5)
                    assert codes[place, start + width // 4 + i].item() == pytest.approx(math.cos(axis * rate), abs=1e-5)
    assert not torch.equal(released.image_encoder.positions, sincos_positions(4, 16))
    with pytest.raises(ValueError, match="reading must be 'mae' or 'maco'"):
        sincos_positions(4, 16, "other")
