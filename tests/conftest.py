"""Small made-up studies that every test can use without drawing a phantom."""

import os

import numpy as np
import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from rendered import browser, pages  # noqa: F401 (fixtures of every test that reads the built book)

from medvlp_lite.studies import Finding, Study, StudyDataset

WORDS = ("opacity", "effusion", "nodule", "edema")


def made_up_studies(count: int, size: int = 32, seed: int = 0) -> list[Study]:
    """Studies whose one finding is a bright quadrant, named in the report."""
    generator = np.random.default_rng(seed)
    studies = []
    for number in range(count):
        kind = number % len(WORDS)
        pixels = generator.integers(0, 90, (size, size), dtype=np.uint8)
        mask = np.zeros((size, size), dtype=bool)
        mask[(kind // 2) * size // 2 :, (kind % 2) * size // 2 :][: size // 2, : size // 2] = True
        pixels[mask] += 120
        findings = tuple(
            Finding(word, present=True if i == kind else (None if i == (kind + 1) % 4 else False),
                    mask=mask if i == kind else None, mentioned=i != (kind + 2) % 4)
            for i, word in enumerate(WORDS)
        )  # fmt: skip
        studies.append(
            Study(
                f"s{number:03d}",
                f"p{number // 2:03d}",
                "made up",
                pixels,
                f"There is {WORDS[kind]} number {number}.",
                findings,
            )
        )
    return studies


@pytest.fixture
def studies() -> list[Study]:
    return made_up_studies(24)


@pytest.fixture
def dataset(studies) -> StudyDataset:
    return StudyDataset(studies, size=32)
