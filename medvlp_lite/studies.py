"""The one record that everything passes around: a study, its findings, and the batch a system sees.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SEVERITIES = ("mild", "moderate", "severe")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Box:
    """A rectangle in fractions of the image, which survive every resize: left, top, width and height, each in [0, 1].

    Image left is the patient's right.
    """

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def from_pixels(cls, x: float, y: float, width: float, height: float, *, image_size: tuple[float, float]) -> Box:
        """From pixel coordinates in an image of ``image_size = (width, height)``; clipped to the image.

        Raises ValueError if nothing of the box lies inside the image.
        """
        full_width, full_height = image_size
        left, top = max(0.0, x / full_width), max(0.0, y / full_height)
        right, bottom = min(1.0, (x + width) / full_width), min(1.0, (y + height) / full_height)
        if right <= left or bottom <= top:
            raise ValueError(f"box x={x}, y={y}, width={width}, height={height} lies outside an image of {image_size}")
        return cls(left, top, right - left, bottom - top)

    def mask(self, height: int, width: int) -> np.ndarray:
        """The box as a bool mask (H, W); every pixel whose centre it covers, and at least one."""
        rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        inside = np.outer(
            (rows >= self.y) & (rows < self.y + self.height), (columns >= self.x) & (columns < self.x + self.width)
        )
        if not inside.any():
            row = min(int((self.y + self.height / 2) * height), height - 1)
            inside[row, min(int((self.x + self.width / 2) * width), width - 1)] = True
        return inside


@dataclass(frozen=True)
class Finding:
    """One observation in one study.

    ``present`` is True (seen), False (said or known to be absent) or None (unknown: not mentioned, or hedged).
    ``side`` is "left", "right", "bilateral" or None, always the *patient's* side. ``position`` is a zone or structure.
    ``severity`` is a word (the phantom uses "mild", "moderate", "severe"). ``mask`` is bool (H, W) at image resolution.
    ``mentioned`` tells whether the study's report speaks of it.
    """

    entity: str
    present: bool | None = True
    side: str | None = None
    position: str | None = None
    severity: str | None = None
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)
    boxes: tuple[Box, ...] = ()
    mentioned: bool | None = None

    def region(self, height: int, width: int) -> np.ndarray | None:
        """Where the finding is, as a bool mask (H, W), from its mask or the union of its boxes; None if unknown."""
        if self.mask is not None:
            return resize_mask(self.mask, height, width)
        if self.boxes:
            return np.any([box.mask(height, width) for box in self.boxes], axis=0)
        return None


@dataclass(frozen=True)
class Triplet:
    """One statement of a report: MedKLIP's {entity, position, exist} and MedFILIP's {severity, location, category}.

    ``present`` is True, False or None (uncertain). ``span`` holds the character offsets of the
    entity's words in the report. Equations K-3 and F-1.
    """

    entity: str
    position: str = "unspecified"
    present: bool | None = True
    severity: str | None = None
    side: str | None = None
    location: str | None = None
    category: str | None = None
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Study:
    """One examination: an image, the report that goes with it, and what is known about it.

    ``pixels`` is a uint8 array (H, W), a function that reads one (so that a folder of files costs no memory), or None
    when there is a report without an image. ``stage`` is the pneumoconiosis stage 0-3, or None. ``licence`` and ``url``
    must be shown beside the image. ``meta`` keeps what only one source has.
    """

    study_id: str
    patient_id: str
    source: str
    pixels: np.ndarray | Callable[[], np.ndarray] | None = field(default=None, repr=False, compare=False)
    report: str = ""
    findings: tuple[Finding, ...] = ()
    view: str | None = None
    stage: int | None = None
    licence: str = ""
    url: str = ""
    meta: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def image(self) -> np.ndarray:
        """The image as uint8 (H, W), 0 dark to 255 bright. Raises ValueError when the study has none, or one of another kind."""
        if self.pixels is None:
            raise ValueError(f"study {self.study_id} from {self.source} has no image; only its report is at hand")
        image = self.pixels() if callable(self.pixels) else self.pixels
        if image.dtype != np.uint8 or image.ndim != 2:
            raise ValueError(f"study {self.study_id}: image must be uint8 (H, W), got {image.dtype} {image.shape}")
        return image

    def finding(self, entity: str) -> Finding | None:
        """The first finding of this name, or None if the study says nothing about it."""
        return next((finding for finding in self.findings if finding.entity == entity), None)

    def label(self, entity: str, *, from_report: bool = False) -> float:
        """1.0 present, 0.0 absent, NaN unknown. ``from_report`` counts what the report leaves out as unknown."""
        states = [f.present for f in self.findings if f.entity == entity and not (from_report and f.mentioned is False)]
        if True in states:
            return 1.0
        return 0.0 if False in states else float("nan")

    def region(self, entity: str, height: int, width: int) -> np.ndarray | None:
        """The union of all places (H, W) where ``entity`` is present, or None if no place is known."""
        regions = [f.region(height, width) for f in self.findings if f.entity == entity and f.present]
        regions = [region for region in regions if region is not None]
        return np.any(regions, axis=0) if regions else None

    def with_image(self, pixels: np.ndarray) -> Study:
        """The same study with other pixels."""
        return replace(self, pixels=pixels)


@dataclass
class Batch:
    """What a system sees at once. B studies, E entities, all tensors on one device.

    images (B, 1, H, W) float in [0, 1] | reports: B strings | labels (B, E) float: 1, 0 or NaN for unknown (a mean over
    unknowns is NaN, never a number) | stages (B,) long, -1 where there is none | findings: what each study's report
    states | indices (B,) long: position in the data set | study_ids: B strings | inputs: what a system's loss reads of
    the reports, by name, B rows each (``System.text_inputs``); empty until a system has read them.
    """

    images: torch.Tensor
    reports: list[str]
    labels: torch.Tensor
    stages: torch.Tensor
    findings: list[tuple[Finding, ...]]
    indices: torch.Tensor
    study_ids: list[str]
    entities: tuple[str, ...]
    inputs: dict[str, torch.Tensor | list] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.reports)

    def to(self, device: Any, non_blocking: bool = False, **_: Any) -> Batch:
        """The same batch with its tensors on ``device``."""
        values = {name: getattr(self, name) for name in ("images", "labels", "stages", "indices")}
        inputs = {name: rows for name, rows in self.inputs.items() if not isinstance(rows, list)}
        moved = [
            {name: x.to(device, non_blocking=non_blocking) for name, x in part.items()} for part in (values, inputs)
        ]
        return replace(self, **moved[0], inputs={**self.inputs, **moved[1]})


class StudyDataset:
    """Studies as a map-style data set: images resized once to ``size`` and kept as uint8, labels as floats with NaN.

    ``entities`` fixes the columns of ``labels``; by default every entity that occurs, sorted. ``label_from`` is "truth"
    (all findings) or "report" (what the report leaves out is unknown). Raises ValueError on an empty list or an unknown
    option.
    """

    def __init__(
        self, studies: Sequence[Study], *, size: int, entities: Sequence[str] | None = None, label_from: str = "truth"
    ):
        if not studies:
            raise ValueError("StudyDataset needs at least one study, got none")
        if label_from not in ("truth", "report"):
            raise ValueError(f"label_from must be 'truth' or 'report', got {label_from!r}")
        self.studies, self.size, self.label_from = list(studies), size, label_from
        self.entities = tuple(entities) if entities else tuple(sorted({f.entity for s in studies for f in s.findings}))
        said = label_from == "report"
        rows = [[study.label(entity, from_report=said) for entity in self.entities] for study in studies]
        self.labels = np.asarray(rows, dtype=np.float32).reshape(len(studies), len(self.entities))
        self.inputs: dict[str, torch.Tensor | list] = {}

    @cached_property
    def images(self) -> np.ndarray:
        """All images, uint8 (N, size, size), read and resized at first use."""
        return np.stack([resize_image(study.image, self.size, self.size) for study in self.studies])

    @property
    def reports(self) -> list[str]:
        """All reports, in order."""
        return [study.report for study in self.studies]

    @cached_property
    def stages(self) -> np.ndarray:
        """Stages (N,), -1 where a study has none."""
        return np.asarray([-1 if study.stage is None else study.stage for study in self.studies], dtype=np.int64)

    @property
    def findings(self) -> list[tuple[Finding, ...]]:
        """What is stated of each study: all its findings, or with ``label_from`` "report" those that its report mentions."""
        truth = self.label_from == "truth"
        return [tuple(f for f in study.findings if truth or f.mentioned is not False) for study in self.studies]

    def with_inputs(self, inputs: dict[str, torch.Tensor | list]) -> StudyDataset:
        """The same studies, with what a system's loss reads of the reports: one row per study, else ValueError."""
        wrong = [name for name, rows in inputs.items() if len(rows) != len(self)]
        if wrong:
            raise ValueError(f"inputs need one row for each of {len(self)} studies: {', '.join(wrong)} does not fit")
        again = copy.copy(self)
        again.inputs = inputs
        return again

    def with_studies(self, studies: Sequence[Study]) -> StudyDataset:
        """Other studies, read as these are: the same size, entities and source of labels."""
        return StudyDataset(studies, size=self.size, entities=self.entities, label_from=self.label_from)

    def subset(self, indices: Sequence[int]) -> StudyDataset:
        """The studies at ``indices``, with the same columns, images as far as they are read, and inputs."""
        rows = [int(i) for i in indices]
        if not rows:
            raise ValueError("StudyDataset needs at least one study, got none")
        part = copy.copy(self)
        part.studies = [self.studies[i] for i in rows]
        for name in ("labels", "images", "stages"):
            if name in self.__dict__:
                setattr(part, name, self.__dict__[name][rows])
        part.inputs = {name: _rows(values, rows) for name, values in self.inputs.items()}
        return part

    def fingerprint(self) -> str:
        """A hash of ids, pixels, reports and labels: two data sets with the same one train the same system."""
        digest = hashlib.sha256(repr((self.size, self.entities, self.label_from)).encode())
        for study in self.studies:
            digest.update(f"{study.study_id}\0{study.report}\0".encode())
        digest.update(np.ascontiguousarray(self.images).tobytes() + self.labels.tobytes())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> tuple[StudyDataset, int]:
        return self, index


def collate(items: Sequence[tuple[StudyDataset, int]]) -> Batch:
    """Turn items of one StudyDataset into a Batch."""
    import torch

    dataset, indices = items[0][0], [index for _, index in items]
    part = dataset.subset(indices)
    return Batch(
        images=torch.from_numpy(dataset.images[indices]).unsqueeze(1).float().div_(255),
        reports=part.reports,
        labels=torch.from_numpy(part.labels),
        stages=torch.from_numpy(part.stages),
        findings=part.findings,
        indices=torch.tensor(indices),
        study_ids=[study.study_id for study in part.studies],
        entities=part.entities,
        inputs=part.inputs,
    )


def _rows(values: torch.Tensor | list, indices: list[int]) -> torch.Tensor | list:
    return [values[i] for i in indices] if isinstance(values, list) else values[indices]


@dataclass(frozen=True)
class Splits:
    """Index lists for train, val and test, and a hash of them that two readers can compare."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    fingerprint: str


def split_by_patient(
    studies: Sequence[Study], fractions: tuple[float, float, float] = (0.7, 0.1, 0.2), seed: int = 0
) -> Splits:
    """Split so that no patient stands in two parts; the part depends on the patient's id and the seed alone.

    ``fractions`` are the shares of patients in train, val and test, summing to 1. Raises ValueError otherwise.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be three shares that sum to 1, got {fractions}")
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    for index, study in enumerate(studies):
        draw = random.Random(f"{seed}/{study.patient_id}").random()
        part = "train" if draw < fractions[0] else "val" if draw < fractions[0] + fractions[1] else "test"
        parts[part].append(index)
    listing = "\n".join(f"{name} {studies[i].study_id}" for name in SPLITS for i in parts[name])
    fingerprint = hashlib.sha256(listing.encode()).hexdigest()[:12]
    return Splits(*(tuple(parts[name]) for name in SPLITS), fingerprint=fingerprint)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a uint8 image (H, W) with antialiasing; the aspect ratio is not kept (zero-shot code squashes too)."""
    if image.shape == (height, width):
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a bool mask (H, W) so that nothing vanishes: a pixel is set if any pixel it covers was set."""
    if mask.shape == (height, width):
        return mask.astype(bool)
    rows, columns = np.nonzero(mask)
    if height >= mask.shape[0] and width >= mask.shape[1]:
        row_index = np.arange(height) * mask.shape[0] // height
        return mask.astype(bool)[np.ix_(row_index, np.arange(width) * mask.shape[1] // width)]
    small = np.zeros((height, width), dtype=bool)
    small[rows * height // mask.shape[0], columns * width // mask.shape[1]] = True
    return small
