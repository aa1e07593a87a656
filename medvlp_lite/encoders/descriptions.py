"""Frozen vectors of short texts: the entity descriptions and position prompts that MedKLIP asks with (K-4, K-5).

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F

from medvlp_lite.encoders.text import TextEncoder

WORD = re.compile(r"[a-z]+")


class HashedTfidf:
    """Texts to unit vectors of weighted word pieces, with no pretrained model: what can be had offline.

    A text becomes the TF-IDF vector of its words and of their five-letter starts (so that "effusion" meets "effusions"),
    folded to ``width`` numbers by fixed random signs. ``corpus`` sets the word weights only; unknown words count too.
    """

    def __init__(self, corpus: Sequence[str], width: int = 256):
        self.width = width
        self.count = len(corpus)
        self.seen: dict[str, int] = {}
        for text in corpus:
            for part in set(self._parts(text)):
                self.seen[part] = self.seen.get(part, 0) + 1

    @staticmethod
    def _parts(text: str) -> list[str]:
        words = WORD.findall(text.lower().replace("_", " "))
        return [*words, *(f"{word[:5]}-" for word in words)]

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (len(texts), width). Raises ValueError for a text without a word."""
        return torch.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> torch.Tensor:
        parts = self._parts(text)
        if not parts:
            raise ValueError(f"a description needs at least one word, got {text!r}")
        total = torch.zeros(self.width)
        for part in parts:
            rarity = torch.log(torch.tensor((1 + self.count) / (1 + self.seen.get(part, 0)))) + 1
            total += rarity * _signs(part, self.width)
        return F.normalize(total, dim=0)


@lru_cache(maxsize=20_000)
def _signs(part: str, width: int) -> torch.Tensor:
    import zlib

    generator = torch.Generator().manual_seed(zlib.crc32(part.encode()))
    return torch.randint(0, 2, (width,), generator=generator) * 2.0 - 1.0


class ClassTokenVectors:
    """Texts to the [CLS] vector of a frozen BERT, as the official code does with Bio_ClinicalBERT (K-4, K-5).

    Raises OSError when the model can neither be found nor fetched.
    """

    def __init__(self, name: str = "emilyalsentzer/Bio_ClinicalBERT"):
        self.encoder = TextEncoder.from_hub(name).eval()
        self.width = self.encoder.width

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Vectors (len(texts), width), not normalised."""
        return self.encoder(list(texts))[0][:, 0].cpu()
