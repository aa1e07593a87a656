"""Frozen text models: short texts to vectors, to ask with (K-4, K-5) and to compare labels by (F-5).

Built in chapters 04_entity_fusion and 06_similarity_labels.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F

from medvlp_lite.encoders.text import ReportTokenizer, TextEncoder, masked_mean

SENTENCE_MODELS = {
    "clinicalbert": "emilyalsentzer/Bio_ClinicalBERT",  # named in the MedFILIP paper
    "mpnet": "sentence-transformers/all-mpnet-base-v2",  # loaded by its code
}
STORED = Path(__file__).parent / "data"
WORD = re.compile(r"[a-z]+")
Encode = Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]]


class HashedTfidf:
    """Texts to unit vectors of weighted words, with no pretrained model.

    A text becomes the TF-IDF vector of its words and of their five-letter starts (so that "effusion" meets "effusions"),
    folded to ``width`` numbers by fixed random signs. ``corpus`` sets the word weights only; unknown words count too.
    """

    def __init__(self, corpus: Sequence[str], width: int = 256):
        self.width, self.count = width, len(corpus)
        self.seen: dict[str, int] = {}
        for text in corpus:
            for part in set(_parts(text)):
                self.seen[part] = self.seen.get(part, 0) + 1

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (len(texts), width). Raises ValueError for a text without a word."""
        return torch.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> torch.Tensor:
        parts = _parts(text)
        if not parts:
            raise ValueError(f"a description needs at least one word, got {text!r}")
        total = torch.zeros(self.width)
        for part in parts:
            rarity = torch.log(torch.tensor((1 + self.count) / (1 + self.seen.get(part, 0)))) + 1
            total += rarity * _signs(part, self.width)
        return F.normalize(total, dim=0)


def _parts(text: str) -> list[str]:
    words = WORD.findall(text.lower().replace("_", " "))
    return [*words, *(f"{word[:5]}-" for word in words)]


@lru_cache(maxsize=20_000)
def _signs(part: str, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(part.encode()))
    return torch.randint(0, 2, (width,), generator=generator) * 2.0 - 1.0


class ClassTokenVectors:
    """Texts to the [CLS] vector of a frozen BERT (K-4, K-5). Raises OSError when it can neither be found nor fetched."""

    def __init__(self, name: str = SENTENCE_MODELS["clinicalbert"]):
        self.encoder = TextEncoder.from_hub(name).eval()
        self.width = self.encoder.width

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Vectors (len(texts), width), not normalised."""
        return self.encoder(list(texts))[0][:, 0].cpu()


class SentenceEncoder:
    """Texts to unit vectors: the mean of a frozen text encoder's token states, padding left out.

    ``encode`` turns texts into states (B, L, width) and the mask (B, L) of those that are no padding. ``centre`` (width,)
    is subtracted from the mean.
    """

    def __init__(self, encode: Encode, centre: torch.Tensor | float = 0.0):
        self.encode, self.centre = encode, centre

    @torch.no_grad()
    def pooled(self, texts: Sequence[str]) -> torch.Tensor:
        """Mean token states (len(texts), width), neither centred nor of length 1."""
        parts = [masked_mean(*self.encode(list(texts[i : i + 64]))) for i in range(0, len(texts), 64)]
        return torch.cat(parts).float()

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (len(texts), width)."""
        return F.normalize(self.pooled(texts) - self.centre, dim=-1)

    def centred(self, texts: Sequence[str]) -> SentenceEncoder:
        """The same model with the mean vector of ``texts`` taken away, which spreads crowded cosines."""
        return SentenceEncoder(self.encode, self.pooled(texts).mean(dim=0))

    @classmethod
    def from_hub(cls, name: str, max_length: int = 128) -> SentenceEncoder:
        """A published model: "clinicalbert" (the paper's), "mpnet" (its code's), any hub name, or a downloaded folder.

        Raises OSError with one sentence when it is neither in the local cache nor reachable.
        """
        return cls(TextEncoder.from_hub(SENTENCE_MODELS.get(name, name), max_length).eval().requires_grad_(False))

    @classmethod
    def stored(cls, folder: Path = STORED) -> SentenceEncoder:
        """The small encoder that comes with the package; ``similarity_text.json`` beside it says what it was made of."""
        from safetensors.torch import load_file

        about = json.loads((folder / "similarity_text.json").read_text(encoding="utf-8"))
        state = {name: tensor.float() for name, tensor in load_file(folder / "similarity_text.safetensors").items()}
        encoder = TextEncoder(
            ReportTokenizer(json.dumps(about["tokenizer"])), (128, 1, 4), max_length=about["max_length"]
        )
        encoder.load_state_dict(state)
        return cls(encoder.eval().requires_grad_(False))
