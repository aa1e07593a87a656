"""Training speed of every system as a share of the supervised bound's, on one thread: python benchmarks/training_speed.py.

Systems take turns step by step, so that other work on the machine slows all of them alike; times are processor time, shares
medians over rounds. A step is what ``fit`` does: collate, augment, loss, gradient, update. The last row is a vision transformer
that sees every patch, to be compared with MaCo, which sees half.
"""

import argparse
import random
import time
from dataclasses import replace
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.augment import intensity_jitter, random_resized_crop
from medvlp_lite.encoders.image import ViTEncoder
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.phantom.corpus import make_studies
from medvlp_lite.phantom.patients import ENTITIES
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.reports.structured_labels import explanation_of
from medvlp_lite.studies import Batch, StudyDataset, collate
from medvlp_lite.systems import convirt, maco, medfilip, medklip, mskpt, supervised
from medvlp_lite.systems.base import LossTerms

ENTITIES = tuple(ENTITIES)
SYSTEMS = {
    "convirt": (convirt.ConVIRT, convirt.ConVIRTConfig(), 64, 1.0),
    "medklip": (medklip.MedKLIP, medklip.MedKLIPConfig(ENTITIES), 32, 0.5),
    "medfilip": (medfilip.MedFILIP, medfilip.MedFILIPConfig(categories=ENTITIES), 32, 1.0),
    "mskpt": (mskpt.MSKPT, mskpt.MSKPTConfig(), 64, 1.0),
    "maco": (maco.MaCo, maco.MaCoConfig(), 64, 1.0),
}  # system, config, batch and crop as in its row


class WholeViT(nn.Module):
    """MaCo's image encoder with nothing hidden, told the labels."""

    def __init__(self):
        super().__init__()
        self.image_encoder = ViTEncoder("lite_p4", 56)
        self.head = nn.Linear(self.image_encoder.width, len(ENTITIES))

    def loss(self, batch: Batch) -> LossTerms:
        """Binary cross-entropy on the known labels."""
        known = ~batch.labels.isnan()
        logits = self.head(self.image_encoder(F.avg_pool2d(batch.images, 2)).mean(dim=(2, 3)))
        return LossTerms({"existence": F.binary_cross_entropy_with_logits(logits[known], batch.labels[known])})


class Runner:
    """One system that takes one optimiser step at a time."""

    def __init__(self, system: nn.Module, data: StudyDataset, size: int, crop: float):
        self.system, self.data, self.size, self.crop = system.train(), data, size, crop
        self.parameters = [p for p in system.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, 1e-4, fused=True)
        self.draw = random.Random(0)

    def step(self, precision: str) -> float:
        """The processor time of one step in seconds."""
        chosen, start = self.draw.sample(range(len(self.data)), self.size), time.process_time()
        batch = collate([self.data[i] for i in chosen])
        images = intensity_jitter(batch.images)
        batch = replace(batch, images=random_resized_crop(images, (self.crop, 1.0)) if self.crop < 1 else images)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            total = self.system.loss(batch).total
        total.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - start


def runners(studies: int) -> dict[tuple[str, int], Runner]:
    """All runners by name and batch; the supervised bound once for every batch size."""
    data = StudyDataset(make_studies(studies, seed=0, size=112), size=112, entities=ENTITIES)
    tokenizer = ReportTokenizer.train([*map(findings_text, data.reports), *map(explanation_of, ENTITIES)])
    made = {}
    for size in sorted({size for _, _, size, _ in SYSTEMS.values()}):
        system = supervised.Supervised(tokenizer, supervised.SupervisedConfig(ENTITIES))
        made["supervised", size] = Runner(system, data, size, 1.0)
    for name, (kind, config, size, crop) in SYSTEMS.items():
        system = kind(tokenizer, config)
        made[name, size] = Runner(system, data.with_inputs(system.text_inputs(data.reports, data.findings)), size, crop)
    return {**made, ("whole ViT", 64): Runner(WholeViT(), data, 64, 1.0)}


def main() -> None:
    """Print one table per precision."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--studies", type=int, default=480)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = runners(chosen.studies)
    for precision in ("bf16", "no"):
        seconds = {key: [] for key in steps}
        for turn in range(chosen.rounds + 2):
            for key, runner in steps.items():
                took = runner.step(precision)
                if turn > 1:  # the first two warm up
                    seconds[key].append(took)
        print(f"precision {precision}\n{'system':12s} {'batch':>5s} {'images/s':>9s}  of supervised")
        for (name, size), times in seconds.items():
            share = median(bound / own for bound, own in zip(seconds["supervised", size], times))
            print(f"{name:12s} {size:5d} {size / median(times):9.0f}  {share:.2f}")


if __name__ == "__main__":
    main()
