"""One training loop for all systems, on Hugging Face Accelerate: a CPU, a GPU, several, several machines.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from medvlp_lite.augment import intensity_jitter, random_resized_crop
from medvlp_lite.studies import Batch, StudyDataset, collate
from medvlp_lite.systems.base import System

Log = Callable[[str], None]
READ_EVERY = 20  # steps between two looks at the losses on a GPU, which each look would otherwise keep waiting


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the studies of the batch."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to learn. Raises ValueError for impossible values."""

    steps: int = 300  # optimiser steps
    batch_size: int = 64  # studies per process and batch
    learning_rate: float = 1e-3  # at its highest
    weight_decay: float = 0.02  # of weight matrices; biases and norms have none
    warmup: float = (
        0.06  # share of the steps in which the learning rate rises from 0; it then falls to 0 along a cosine
    )
    accumulate: int = 1  # batches per optimiser step; a contrastive loss still sees one batch's negatives only
    clip: float = 1.0  # bound on the gradient's norm; 0 leaves it alone
    precision: str = "no"  # Accelerate's: "no", "bf16", "fp16"
    augment: bool = True  # ``intensity_jitter``
    crop: float = 1.0  # ``random_resized_crop`` with scale (crop, 1); 1 leaves the image whole
    seed: int = 0  # of weights in ``train_or_load``, order, augmentation and all draws

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or not 0 <= self.warmup < 1:
            raise ValueError(f"need learning_rate > 0 and 0 <= warmup < 1, got {self.learning_rate} and {self.warmup}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is a share of an image's area in (0, 1], got {self.crop}")

    def lr_at(self, step: int) -> float:
        """The learning rate of optimiser step ``step`` (0-based): linear warm-up, then half a cosine down to 0."""
        rising = math.ceil(self.warmup * self.steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        done = (step - rising) / max(1, self.steps - rising)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class History:
    """What happened in training: one entry per optimiser step in ``losses`` and in each of ``terms``."""

    losses: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)
    validation: list[tuple[int, float]] = field(default_factory=list)  # (images seen, value)
    images: int = 0  # seen in all, by all processes, repeats counted
    seconds: float = 0.0  # without validation
    images_per_second: float = 0.0
    source: str = "trained"  # or "cached"


def validation_steps(steps: int, points: int = 8) -> list[int]:
    """After how many optimiser steps to validate: up to ``points`` of them, each twice the one before, the last at the end."""
    return sorted({max(1, round(steps / 2**k)) for k in range(points)})


def batch_order(count: int, config: TrainingConfig, start: int = 0) -> Iterator[list[int]]:
    """The index lists of every batch from optimiser step ``start`` on: each epoch a new order drawn from (seed, epoch).

    Batch k depends on the config and k alone, so that an interrupted run resumes exactly. What fills no batch is left out.
    Raises ValueError when there are fewer studies than one batch needs.
    """
    size = config.batch_size
    per_epoch = count // size
    if not per_epoch:
        raise ValueError(f"a batch of {size} needs at least as many studies, got {count}; lower batch_size")
    order, order_epoch = [], -1
    for position in range(start * config.accumulate, config.steps * config.accumulate):
        epoch, place = divmod(position, per_epoch)
        if epoch != order_epoch:
            generator = torch.Generator().manual_seed(_derived_seed(config.seed, "order", epoch))
            order, order_epoch = torch.randperm(count, generator=generator).tolist(), epoch
        yield order[place * size : (place + 1) * size]


def _derived_seed(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def fit(
    system: System,
    dataset: StudyDataset,
    config: TrainingConfig,
    *,
    checkpoints: str | Path | None = None,
    checkpoint_every: int = 0,
    log: Log | None = print,
    log_every: int = 0,
    validate: Callable[[System], float] | None = None,
    validate_at: Sequence[int] | None = None,
    keep_best: bool = False,
) -> History:
    """Train ``system`` on ``dataset`` and return what happened; the system is changed in place.

    The reports are read once, before the first step. Launched by ``accelerate launch`` or ``torchrun``, all processes
    train one model.

    Args:
        checkpoints: a folder in which the state is written every ``checkpoint_every`` steps. A run that finds one goes on
            from it: on a CPU, interrupted plus resumed equals uninterrupted bit for bit.
        log: gets progress as text, every ``log_every`` steps.
        validate: a measure of the system, called in evaluation mode without gradient after each of the optimiser steps
            ``validate_at``, by default ``validation_steps(config.steps)``; see ``History.validation``.
        keep_best: end with the weights of the highest point of the validation curve (early stopping); the points are then, by
            default, the twelfths of the training.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
        ValueError: a checkpoint belongs to another config, or there are fewer studies than a batch needs.
    """
    accelerator = _accelerator(config)
    dataset = dataset.with_inputs(system.text_inputs(dataset.reports, dataset.findings))
    optimizer = torch.optim.AdamW(_parameter_groups(system, config), config.learning_rate, (0.9, 0.98), fused=True)
    folder = Path(checkpoints) if checkpoints else None
    if validate_at is None:
        validate_at = _evenly(config.steps) if keep_best else validation_steps(config.steps)
    points, best = set(validate_at) if validate else set(), _Best(folder) if keep_best else None
    with _prepared(accelerator, system, optimizer) as (model, optimizer):
        history, start = _resume(accelerator, folder, config)
        loader = accelerator.prepare(_loader(dataset, config, start, accelerator.num_processes))
        progress = _Progress(config, accelerator, history, log, log_every or max(1, config.steps // 6))
        losses = PendingLosses(history, every=1 if accelerator.device.type == "cpu" else READ_EVERY)
        model.train()
        for micro, batch in enumerate(loader, start * config.accumulate):
            step, part = divmod(micro, config.accumulate)
            torch.manual_seed(_derived_seed(config.seed, "step", micro, accelerator.process_index))
            with accelerator.accumulate(model):
                found = model(_augmented(batch, config))
                total = found.total
                losses.add(step, found.terms, total, batch, counts=part + 1 == config.accumulate)
                accelerator.backward(total)
                if accelerator.sync_gradients:
                    _before_step(accelerator, model, optimizer, config, config.lr_at(step))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if part + 1 < config.accumulate:
                continue
            progress.step()
            if (step + 1) in points:
                losses.read()
                progress.validate(validate, system)
                if best:
                    best.look(history, system)
            if (step + 1) % progress.every == 0 or step + 1 == config.steps:
                losses.read()
                progress.write()
            if folder and checkpoint_every and (step + 1) % checkpoint_every == 0 and step + 1 < config.steps:
                losses.read()
                _save(accelerator, folder, config, history, step + 1)
    if best:
        best.restore(system)
    system.eval()
    return history


class _Best:
    """The weights of the highest point of a validation curve, kept beside the checkpoints where there are any."""

    def __init__(self, folder: Path | None):
        self.file, self.state = folder / "best.pt" if folder else None, {}

    def look(self, history: History, system: System) -> None:
        """Keep the weights when the last point is the highest so far."""
        values = [value for _, value in history.validation]
        if values[-1] > max(values[:-1], default=-math.inf):
            self.state = {name: value.detach().cpu().clone() for name, value in system.state_dict().items()}
            if self.file:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                torch.save(self.state, self.file)

    def restore(self, system: System) -> None:
        """Put them back."""
        system.load_state_dict(self.state or torch.load(self.file, map_location="cpu"))


def _evenly(steps: int, points: int = 12) -> list[int]:
    return sorted({max(1, round(steps * (k + 1) / points)) for k in range(points)})


def _augmented(batch: Batch, config: TrainingConfig) -> Batch:
    images = intensity_jitter(batch.images) if config.augment else batch.images
    return replace(batch, images=random_resized_crop(images, (config.crop, 1.0)) if config.crop < 1 else images)


def _before_step(accelerator: Any, model: Any, optimizer: Any, config: TrainingConfig, lr: float) -> None:
    """Bound the gradient's norm and set the learning rate of every group."""
    if config.clip:
        accelerator.unscale_gradients()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip, foreach=True)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["multiplier"]


@contextmanager
def _prepared(accelerator: Any, system: System, optimizer: torch.optim.Optimizer) -> Iterator[tuple[Any, Any]]:
    """System and optimizer as Accelerate wraps them; afterwards the system computes in its own precision again."""
    model, optimizer = accelerator.prepare(system, optimizer)
    try:
        yield model, optimizer
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def _accelerator(config: TrainingConfig) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DataLoaderConfiguration

    AcceleratorState._reset_state(reset_partial_state=False)  # precision may differ from an earlier fit in this process
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    return Accelerator(
        cpu=not accelerated,  # else Accelerate does not see the processes of a torchrun without GPUs
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
        dataloader_config=DataLoaderConfiguration(even_batches=False),
    )


def _parameter_groups(system: System, config: TrainingConfig) -> list[dict[str, Any]]:
    multipliers, groups = system.lr_multipliers(), {}
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            multiplier = next((value for start, value in multipliers.items() if name.startswith(start)), 1.0)
            groups.setdefault((multiplier, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "multiplier": multiplier, "weight_decay": config.weight_decay / multiplier * matrix}
        for (multiplier, matrix), parameters in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


def _loader(dataset: StudyDataset, config: TrainingConfig, start: int, processes: int) -> torch.utils.data.DataLoader:
    size = config.batch_size
    batches = [
        indices[part * size : (part + 1) * size]
        for indices in batch_order(len(dataset), replace(config, batch_size=size * processes), start)
        for part in range(processes)
    ]
    return torch.utils.data.DataLoader(dataset, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())


class PendingLosses:
    """Losses, kept as tensors and read into the history ``every`` few batches; reading raises NonFiniteLossError."""

    def __init__(self, history: History, every: int):
        self.history, self.every = history, every
        self.held: list[tuple[int, list[str], torch.Tensor, list[str], bool]] = []

    def add(self, step: int, terms: Mapping, total: torch.Tensor, batch: Batch, counts: bool = True) -> None:
        """Keep one batch's losses (total and terms by name); those that do not count are only checked."""
        values = torch.stack([total, *terms.values()]).detach()
        self.held.append((step, list(terms), values, batch.study_ids, counts))
        if len(self.held) >= self.every:
            self.read()

    def read(self) -> None:
        """Look at all that is kept."""
        rows = torch.cat([values for _, _, values, _, _ in self.held]).tolist() if self.held else []
        for step, names, values, study_ids, counts in self.held:
            total, *terms = rows[: len(values)]
            rows = rows[len(values) :]
            if not math.isfinite(total):
                said = ", ".join(f"{name} = {term:.4g}" for name, term in zip(names, terms))
                raise NonFiniteLossError(
                    f"loss is not finite at step {step} ({said}) on studies {', '.join(study_ids[:8])}"
                    f"{' ...' if len(study_ids) > 8 else ''}; lower the learning rate or look at these studies"
                )
            if counts:
                self.history.losses.append(total)
                for name, term in zip(names, terms):
                    self.history.terms.setdefault(name, []).append(term)
        self.held.clear()


def _resume(accelerator: Any, folder: Path | None, config: TrainingConfig) -> tuple[History, int]:
    if folder is None or not (folder / "progress.json").is_file():
        return History(), 0
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    if progress["config"] != asdict(config):
        raise ValueError(f"checkpoint {folder} belongs to another config; delete the folder or restore the config")
    accelerator.load_state(str(folder / progress["state"]))
    return read_history(progress["history"]), progress["step"]


def read_history(values: dict[str, Any]) -> History:
    """A history from JSON."""
    return History(**{**values, "validation": [tuple(point) for point in values["validation"]]})


def _save(accelerator: Any, folder: Path, config: TrainingConfig, history: History, step: int) -> None:
    state = f"step-{step}"
    accelerator.save_state(str(folder / state), safe_serialization=True)
    if accelerator.is_main_process:
        progress = {"config": asdict(config), "state": state, "step": step, "history": asdict(history)}
        write_whole(folder / "progress.json", json.dumps(progress))  # the old state stands until the new one is whole
        for old in set(folder.glob("step-*")) - {folder / state}:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place and move it there, so that it is never half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


class _Progress:
    """Time, images and progress as plain text: a bar that redraws itself would fill a rendered page with copies."""

    def __init__(self, config: TrainingConfig, accelerator: Any, history: History, log: Log | None, every: int):
        self.config, self.history, self.every = config, history, every
        self.log = log if accelerator.is_main_process else None
        self.images_per_step = config.batch_size * config.accumulate * accelerator.num_processes
        self.began, self.before, self.steps = time.perf_counter(), history.seconds, 0

    def step(self) -> None:
        """Count one optimiser step."""
        self.steps += 1
        seconds = max(time.perf_counter() - self.began, 1e-9)
        self.history.images += self.images_per_step
        self.history.seconds = self.before + seconds
        self.history.images_per_second = self.steps * self.images_per_step / seconds

    @torch.no_grad()
    def validate(self, measure: Callable[[System], float], system: System) -> None:
        """Note one point of the validation curve; its time does not count."""
        paused = time.perf_counter()
        system.eval()
        self.history.validation.append((self.history.images, float(measure(system))))
        system.train()
        self.began += time.perf_counter() - paused

    def write(self) -> None:
        """Say how far training is, with the mean of the last losses."""
        if self.log:
            history, done = self.history, self.history.images // self.images_per_step
            left = (self.config.steps - done) * self.images_per_step / history.images_per_second
            recent = history.losses[-self.every :]
            self.log(
                f"step {done}/{self.config.steps}  loss {sum(recent) / len(recent):.3f}  "
                f"{history.images_per_second:.0f} images/s  {left:.0f} s left"
            )
