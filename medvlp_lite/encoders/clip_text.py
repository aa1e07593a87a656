"""CLIP's text tower, which the official MedFILIP code uses: needed to read its checkpoints (F-6).

Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from medvlp_lite.encoders.text import ReportTokenizer

CLIP_B32 = "openai/clip-vit-base-patch32"
END = "<|endoftext|>"


class CLIPText(nn.Module):
    """Twelve causal layers of width 512: texts to the state at their end token, (B, 512), from random weights.

    ``tokenizer`` wraps CLIP's byte-pair definition (``clip_tokenizer``). Texts of more than 77 pieces are cut; the
    official code fails on them.
    """

    def __init__(self, tokenizer: ReportTokenizer):
        super().__init__()
        from tokenizers import Tokenizer
        from transformers import CLIPTextConfig, CLIPTextModel

        model = CLIPTextModel(CLIPTextConfig(attn_implementation="eager"))
        self.core = getattr(model, "text_model", model)  # transformers 4 wraps it once more
        self.pieces, self.width, self.max_length = Tokenizer.from_str(tokenizer.definition), 512, 77

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        """Piece numbers (B, L), filled up with the end token."""
        end = self.pieces.token_to_id(END)
        rows = [encoding.ids for encoding in self.pieces.encode_batch(list(texts))]
        rows = [row if len(row) <= self.max_length else [*row[: self.max_length - 1], end] for row in rows]
        longest = max(map(len, rows))
        return torch.tensor([row + [end] * (longest - len(row)) for row in rows])

    def forward(self, texts: Sequence[str]) -> torch.Tensor:
        ids = self.ids(texts).to(next(self.parameters()).device)
        states = self.core(input_ids=ids).last_hidden_state
        first_end = (ids == ids[:, -1:]).int().argmax(dim=1)  # causal: what fills up after it changes nothing
        return states[torch.arange(len(ids)), first_end]


def clip_tokenizer(name: str = CLIP_B32) -> ReportTokenizer:
    """CLIP's own word pieces, from the hub's cache, the hub or a downloaded folder.

    Raises OSError with one sentence when they are neither here nor reachable.
    """
    from transformers import AutoTokenizer

    try:
        return ReportTokenizer(AutoTokenizer.from_pretrained(name).backend_tokenizer.to_str())
    except OSError as error:
        raise OSError(
            f"tokenizer {name!r} is not in the local cache and the hub cannot be reached; go online once, or give the path of a downloaded folder"
        ) from error
