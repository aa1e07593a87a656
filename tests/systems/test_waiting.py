"""A step must not ask the device for a number: the processor would wait for the GPU, and the GPU then for the processor."""

import traceback
from contextlib import nullcontext

import pytest
import torch
from small_systems import build
from test_devices import Elsewhere, SecondDevice, moved

from medvlp_lite.components.contrastive import require_positive
from medvlp_lite.studies import collate

ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal")


class Asked(SecondDevice):
    """Notes which line of components or systems asks a tensor on the second device for its numbers."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function).split(".")[1] in ASKING and any(isinstance(x, Elsewhere) for x in args):
            ours = [frame for frame in traceback.extract_stack() if "medvlp_lite" in frame.filename]
            if ours and "encoders" not in ours[-1].filename:
                self.lines.append(f"{ours[-1].filename.rsplit('/', 1)[-1]}: {ours[-1].line}")
        return super().__torch_dispatch__(function, types, args, kwargs)


def lines_that_wait(system, dataset) -> list[str]:
    read = dataset.with_inputs(system.text_inputs(dataset.reports, dataset.findings))
    batch = collate([read[i] for i in range(6)])
    with Asked() as asked, torch.no_grad():
        system.train().loss(batch.to("meta"))
    return asked.lines


WAYS = [
    ("maco", {"trace_every": 2, "affine": True}), ("maco", {"weighting": "joint_normalised"}), ("maco", {"weighting": "arxiv", "lam": None}), ("medfilip", {}), ("medfilip", {"use_entities": False}),
    ("mskpt", {}), ("mskpt", {"tokens": "batch", "prototypes": "supervised", "label_weight": 1.0}), ("staging", {"weight": "gate", "patience": 1}),
]  # fmt: skip


@pytest.mark.parametrize("name, options", WAYS)
def test_no_step_waits_for_its_device(name, options, dataset, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda device_type, *_, **__: nullcontext())
    assert lines_that_wait(moved(build(name, dataset, **options)), dataset) == []


def test_distillation_waits_for_nothing(dataset, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda device_type, *_, **__: nullcontext())
    dataset.stages[:] = [i % 4 for i in range(len(dataset))]
    teacher = build("convirt", dataset)
    student = build("staging", dataset, text_weight=1.0, data_weight=1.0, width=16).set_teacher(teacher, dataset)
    teacher.to = lambda device: teacher
    moved(teacher)
    assert lines_that_wait(moved(student), dataset) == []


def test_a_line_that_asks_is_found():
    with Asked() as asked:
        require_positive(Elsewhere(torch.ones(())))
    assert len(asked.lines) == 1 and asked.lines[0].startswith("contrastive.py: ")
