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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from medvlp_lite.augment import intensity_jitter, random_resized_crop
from medvlp_lite.studies import Batch, StudyDataset, collate
from medvlp_lite.systems.base import System

SOURCE_ROOMS = (
    "studies.py",
    "augment.py",
    "training.py",
    "phantom",
    "sources",
    "reports",
    "encoders",
    "components",
    "systems",
)


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the studies of the batch."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to learn.

    ``batch_size`` counts studies per process and step; with ``accumulate`` > 1 that many batches make one optimiser step
    (a contrastive loss then still sees only one batch's negatives). ``warmup`` is the share of steps in which the learning
    rate rises from 0 to ``learning_rate``; it then falls to 0 along a cosine. ``precision`` is Accelerate's: "no", "bf16",
    "fp16". ``clip`` bounds the gradient norm; 0 leaves it alone. ``augment`` shifts images and rescales their grey values;
    ``crop`` is the smallest share of an image's area that ``random_resized_crop`` then keeps, 1 for all of it.
    """

    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 0.06
    accumulate: int = 1
    clip: float = 1.0
    precision: str = "no"
    augment: bool = True
    crop: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or not 0 <= self.warmup < 1:
            raise ValueError(f"need learning_rate > 0 and 0 <= warmup < 1, got {self.learning_rate} and {self.warmup}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is a share of an image's area in (0, 1], got {self.crop}")

    def rate(self, step: int) -> float:
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
    seconds: float = 0.0
    images_per_second: float = 0.0
    source: str = "trained"

    def note(self, terms: dict[str, float], total: float) -> None:
        """Add one step."""
        self.losses.append(total)
        for name, value in terms.items():
            self.terms.setdefault(name, []).append(value)


def batch_order(count: int, plan: TrainingConfig, start: int = 0) -> Iterator[list[int]]:
    """The index lists of every batch from optimiser step ``start`` on: each epoch a new order drawn from (seed, epoch).

    Batch k depends on nothing but the plan and k, which is what makes an interrupted run resume exactly. The rest of an
    epoch that fills no batch is left out. Raises ValueError when there are fewer studies than one batch needs.
    """
    per_epoch = count // plan.batch_size
    if not per_epoch:
        raise ValueError(f"a batch of {plan.batch_size} needs at least as many studies, got {count}; lower batch_size")
    order, order_epoch = [], -1
    for position in range(start * plan.accumulate, plan.steps * plan.accumulate):
        epoch, place = divmod(position, per_epoch)
        if epoch != order_epoch:
            generator = torch.Generator().manual_seed(_derived_seed(plan.seed, "order", epoch))
            order, order_epoch = torch.randperm(count, generator=generator).tolist(), epoch
        yield order[place * plan.batch_size : (place + 1) * plan.batch_size]


def _derived_seed(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def fit(
    system: System,
    dataset: StudyDataset,
    plan: TrainingConfig,
    *,
    checkpoints: str | Path | None = None,
    checkpoint_every: int = 0,
    on_step: Callable[[int, System], None] | None = None,
    log: Callable[[str], None] | None = print,
    log_every: int = 0,
) -> History:
    """Train ``system`` on ``dataset`` as ``plan`` says and return what happened; the system is changed in place.

    With ``checkpoints`` a folder, the state is written there every ``checkpoint_every`` steps, and a run that finds one
    goes on from it: on a CPU, interrupted plus resumed equals uninterrupted bit for bit. ``on_step`` is called
    on the main process with the number of steps done and the system, which it may ask but not change; steps since the last
    checkpoint come again after an interruption. ``log`` gets progress as text.
    Launched by ``accelerate launch`` or ``torchrun`` it uses all processes. Raises NonFiniteLossError when the loss is
    NaN or infinite, ValueError when a checkpoint belongs to another plan.
    """
    accelerator = _accelerator(plan)
    optimizer = torch.optim.AdamW(_parameter_groups(system, plan), lr=plan.learning_rate, betas=(0.9, 0.98))
    folder = Path(checkpoints) if checkpoints else None
    with _prepared(accelerator, system, optimizer) as (model, optimizer):
        history, start = _resume(accelerator, folder, plan)
        loader = accelerator.prepare(_loader(dataset, plan, start, accelerator.num_processes))
        progress = _Progress(plan, accelerator, log, log_every or max(1, plan.steps // 6))
        model.train()
        micro = start * plan.accumulate
        for batch in loader:
            step = micro // plan.accumulate
            torch.manual_seed(_derived_seed(plan.seed, "step", micro, accelerator.process_index))
            with accelerator.accumulate(model):
                if plan.augment:
                    batch = replace(batch, images=intensity_jitter(batch.images))
                if plan.crop < 1:
                    batch = replace(batch, images=random_resized_crop(batch.images, plan.crop))
                losses = model(batch)
                total = losses.total
                _check_finite(total, losses.terms, step, batch)
                accelerator.backward(total)
                if accelerator.sync_gradients:
                    if plan.clip:
                        accelerator.clip_grad_norm_(model.parameters(), plan.clip)
                    for group in optimizer.param_groups:
                        group["lr"] = plan.rate(step) * group["rate"]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            micro += 1
            if micro % plan.accumulate == 0:
                history.note({name: float(term.detach()) for name, term in losses.terms.items()}, float(total.detach()))
                progress.after(step, history)
                if on_step and accelerator.is_main_process:
                    on_step(step + 1, system)
                    model.train()
                if folder and checkpoint_every and (step + 1) % checkpoint_every == 0 and step + 1 < plan.steps:
                    _save(accelerator, folder, plan, history, step + 1)
    system.eval()
    history.seconds, history.images_per_second = progress.totals()
    return history


@contextmanager
def _prepared(accelerator: Any, system: System, optimizer: torch.optim.Optimizer) -> Iterator[tuple[Any, Any]]:
    """System and optimizer as Accelerate wraps them; afterwards the system computes in its own precision again."""
    model, optimizer = accelerator.prepare(system, optimizer)
    try:
        yield model, optimizer
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def _accelerator(plan: TrainingConfig) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DataLoaderConfiguration

    AcceleratorState._reset_state(reset_partial_state=False)  # precision may differ from an earlier fit in this process
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    return Accelerator(
        cpu=not accelerated,  # else Accelerate does not see the processes of a torchrun without GPUs
        mixed_precision=plan.precision,
        gradient_accumulation_steps=plan.accumulate,
        dataloader_config=DataLoaderConfiguration(even_batches=False),
    )


def _parameter_groups(system: System, plan: TrainingConfig) -> list[dict[str, Any]]:
    rates, groups = system.lr_multipliers(), {}
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for start, rate in rates.items() if name.startswith(start)), 1.0)
            groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "rate": rate, "weight_decay": plan.weight_decay / rate if matrix else 0.0}
        for (rate, matrix), parameters in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


def _loader(dataset: StudyDataset, plan: TrainingConfig, start: int, processes: int) -> torch.utils.data.DataLoader:
    whole = replace(plan, batch_size=plan.batch_size * processes)
    batches = [
        indices[part * plan.batch_size : (part + 1) * plan.batch_size]
        for indices in batch_order(len(dataset), whole, start)
        for part in range(processes)
    ]
    return torch.utils.data.DataLoader(dataset, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())


def _check_finite(total: torch.Tensor, terms: dict[str, torch.Tensor], step: int, batch: Batch) -> None:
    if not torch.isfinite(total.detach()):
        values = ", ".join(f"{name} = {float(term.detach()):.4g}" for name, term in terms.items())
        raise NonFiniteLossError(
            f"loss is not finite at step {step} ({values}) on studies {', '.join(batch.study_ids[:8])}"
            f"{' ...' if len(batch) > 8 else ''}; lower the learning rate or look at these studies"
        )


def _resume(accelerator: Any, folder: Path | None, plan: TrainingConfig) -> tuple[History, int]:
    if folder is None or not (folder / "progress.json").is_file():
        return History(), 0
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    if progress["plan"] != asdict(plan):
        raise ValueError(f"checkpoint {folder} belongs to another training plan; delete the folder or restore the plan")
    accelerator.load_state(str(folder / progress["state"]))
    return History(losses=progress["losses"], terms=progress["terms"]), progress["step"]


def _save(accelerator: Any, folder: Path, plan: TrainingConfig, history: History, step: int) -> None:
    state = f"step-{step}"
    accelerator.save_state(str(folder / state), safe_serialization=True)
    if accelerator.is_main_process:
        progress = {
            "plan": asdict(plan),
            "state": state,
            "step": step,
            "losses": history.losses,
            "terms": history.terms,
        }
        partial = folder / "progress.json.partial"
        partial.write_text(json.dumps(progress), encoding="utf-8")
        os.replace(partial, folder / "progress.json")  # the old state stands until the new one is whole
        for old in folder.glob("step-*"):
            if old.name != state:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()


class _Progress:
    """Progress as plain text: a bar that redraws itself would fill a rendered page with copies."""

    def __init__(self, plan: TrainingConfig, accelerator: Any, log: Callable[[str], None] | None, every: int):
        self.plan, self.every = plan, every
        self.log = log if accelerator.is_main_process else None
        self.images_per_step = plan.batch_size * plan.accumulate * accelerator.num_processes
        self.start, self.steps_done = time.perf_counter(), 0

    def after(self, step: int, history: History) -> None:
        self.steps_done += 1
        if self.log and ((step + 1) % self.every == 0 or step + 1 == self.plan.steps):
            seconds, rate = self.totals()
            left = (self.plan.steps - step - 1) * seconds / self.steps_done
            recent = history.losses[-self.every :]
            self.log(
                f"step {step + 1}/{self.plan.steps}  loss {sum(recent) / len(recent):.3f}  "
                f"{rate:.0f} images/s  {left:.0f} s left"
            )

    def totals(self) -> tuple[float, float]:
        seconds = max(time.perf_counter() - self.start, 1e-9)
        return seconds, self.steps_done * self.images_per_step / seconds


def source_fingerprint() -> str:
    """A hash of the library's source in every room that training depends on."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for room in SOURCE_ROOMS:
        root = package / room
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file() and path.suffix in (".py", ".json"):
                digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where trained systems are kept: MEDVLP_CACHE, else the user's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("MEDVLP_CACHE") or user_cache_dir("medvlp_lite"))


def train_or_load(
    build: Callable[[], System],
    dataset: StudyDataset,
    plan: TrainingConfig,
    *,
    log: Callable[[str], None] | None = print,
) -> tuple[System, History]:
    """Train the system that ``build`` makes, or load it if exactly this was trained before.

    The key hashes the configuration, the library's source and the data, so a changed library never shows an old number.
    A run that was interrupted goes on from its last checkpoint.
    ``History.source`` says "trained" or "cached". Random weights are drawn from ``plan.seed``.
    """
    from accelerate import PartialState

    torch.manual_seed(plan.seed)
    system = build()
    identity = (system.name, system.config, system.tokenizer.definition, asdict(plan), dataset.fingerprint())
    key = hashlib.sha256(repr((identity, source_fingerprint(), torch.__version__)).encode()).hexdigest()[:20]
    folder = cache_folder() / "systems" / f"{system.name}-{key}"
    if (folder / "history.json").is_file():
        history = History(**json.loads((folder / "history.json").read_text(encoding="utf-8")))
        history.source = "cached"
        if log:
            log(f"loaded {system.name} from {folder.name} (trained earlier in {history.seconds:.0f} s)")
        return System.from_pretrained(folder), history
    if log:
        log(f"training {system.name} on {len(dataset)} studies for {plan.steps} steps of {plan.batch_size}")
    unfinished = folder.with_name(folder.name + "-unfinished")
    every = max(100, plan.steps // 10)
    history = fit(system, dataset, plan, checkpoints=unfinished, checkpoint_every=every, log=log)
    processes = PartialState()
    if processes.is_main_process:
        system.save_pretrained(folder)
        whole = folder / "history.json.partial"
        whole.write_text(json.dumps(asdict(history)), encoding="utf-8")
        os.replace(whole, folder / "history.json")
        shutil.rmtree(unfinished, ignore_errors=True)
    processes.wait_for_everyone()
    return system, history
