"""The one interface that every system offers, so that all of them meet the same test in one run.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.studies import Batch, Finding

# Chosen among four families on validation phantoms (chapter 03): "There is no {}" fails, because a small text encoder
# hears the finding's name in it and little of the "no".
AFFIRMING = ("Severe {} is present.", "There is moderate {}.", "Mild {} is seen.", "{}.")
NORMAL = ("No acute cardiopulmonary abnormality.", "The lungs are clear.", "Normal chest radiograph.")


@dataclass(frozen=True)
class Query:
    """What is asked of an image: a name, sentences that affirm it, sentences to compare them with, and a description.

    Each system uses the part its paper uses.
    """

    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()
    description: str = ""

    @classmethod
    def about(cls, name: str, description: str = "") -> Query:
        """The standard question about an entity: its affirming sentences against those of a normal examination."""
        texts = [template.format(name) for template in AFFIRMING]
        return cls(name, tuple(text[0].upper() + text[1:] for text in texts), NORMAL, description)


@dataclass
class LossTerms:
    """Named scalar loss terms and their weights; a term without a weight counts once."""

    terms: dict[str, torch.Tensor]
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> torch.Tensor:
        """The weighted sum that is optimised."""
        return torch.stack([self.weights.get(name, 1.0) * term for name, term in self.terms.items()]).sum()


class System(nn.Module, ABC):
    """A vision-language system: one loss to train it and four ways to ask it something.

    A subclass names its dataclass of options ``Config`` and defines the abstract methods. Images are (B, 1, H, W) in [0, 1].
    """

    registry: ClassVar[dict[str, type[System]]] = {}
    name: ClassVar[str] = ""
    Config: ClassVar[type]

    def __init__(self, tokenizer: ReportTokenizer, config: Any):
        super().__init__()
        self.tokenizer, self.config = tokenizer, config

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if cls.name:
            System.registry[cls.name] = cls

    def text_inputs(self, reports: Sequence[str], findings: Sequence[tuple[Finding, ...]]) -> dict[str, Any]:
        """What the loss reads of N reports, or of the ``findings`` stated in them, made once: values by name, N rows each."""
        return {}

    @abstractmethod
    def compute_loss(self, batch: Batch) -> LossTerms:
        """The training loss on a batch that carries ``text_inputs``."""

    def loss(self, batch: Batch) -> LossTerms:
        """The training loss on a batch; a batch whose reports nobody has read yet is read here."""
        if not batch.inputs:
            batch = replace(batch, inputs=self.text_inputs(batch.reports, batch.findings)).to(batch.images.device)
        return self.compute_loss(batch)

    @abstractmethod
    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, d)."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (len(texts), d)."""

    @abstractmethod
    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """How much each image speaks for each query: (B, Q), larger is more; comparable within a query only."""

    @abstractmethod
    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """Where each image speaks for each query: (B, Q, h, w) on the system's own grid, larger is more."""

    def forward(self, batch: Batch) -> LossTerms:
        return self.loss(batch)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Local features before any projection (B, C, h, w), of images prepared as the system does: what a probe reads."""
        return self.image_encoder(images)

    def lr_multipliers(self) -> dict[str, float]:
        """Multiples of the learning rate, for parameters whose name begins so; weight decay stays as it is."""
        return {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, ``config.json`` and ``tokenizer.json`` to ``folder``, each whole or not at all."""
        from safetensors.torch import save_model

        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        config = json.dumps({"system": self.name, **asdict(self.config)}, indent=2)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as partial:
            save_model(self, str(Path(partial) / "model.safetensors"))
            (Path(partial) / "config.json").write_text(config, encoding="utf-8")
            (Path(partial) / "tokenizer.json").write_text(self.tokenizer.definition, encoding="utf-8")
            folder.mkdir(exist_ok=True)
            for path in Path(partial).iterdir():
                os.replace(path, folder / path.name)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> System:
        """Read what ``save_pretrained`` wrote. Raises FileNotFoundError or ValueError naming the file at fault."""
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        folder = Path(folder)
        for file_name in ("config.json", "tokenizer.json", "model.safetensors"):
            if not (folder / file_name).is_file():
                raise FileNotFoundError(f"{folder / file_name} is missing; {folder} is not a saved system")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = System.registry.get(config.pop("system", ""))
        if kind is None or not issubclass(kind, cls):
            raise ValueError(f"{folder / 'config.json'} does not describe a {cls.__name__}")
        tokenizer = ReportTokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"))
        system = kind(tokenizer, _read_config(kind.Config, config, folder / "config.json"))
        try:
            load_model(system, str(folder / "model.safetensors"))
        except (RuntimeError, OSError, SafetensorError) as error:
            raise ValueError(f"{folder / 'model.safetensors'} does not fit its config.json: {error}") from error
        return system.eval()


def _read_config(kind: type, values: dict[str, Any], path: Path) -> Any:
    """A config dataclass from JSON, whose lists become tuples. Raises ValueError naming options that do not exist."""
    if unknown := set(values) - {field.name for field in fields(kind)}:
        raise ValueError(f"{path} has options that {kind.__name__} does not know: {', '.join(sorted(unknown))}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
