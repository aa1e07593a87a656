import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import made_up_studies

import medvlp_lite.training as training
from medvlp_lite.augment import intensity_jitter, random_resized_crop
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems.convirt import ConVIRT
from medvlp_lite.training import (
    NonFiniteLossError,
    TrainingConfig,
    batch_order,
    fit,
    train_or_load,
)

PLAN = TrainingConfig(steps=7, batch_size=6, learning_rate=1e-3)


@pytest.fixture(scope="module")
def data():
    return StudyDataset(made_up_studies(20), size=32)


def build(data) -> ConVIRT:
    torch.manual_seed(0)
    return ConVIRT(ReportTokenizer.train(data.reports, 120), image_size=32, max_length=24, dim=16)


def same_weights(a, b) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[name], other[name]) for name in mine)


class Stop(Exception):
    pass


def stop_after(step):
    def report(line):
        if line.startswith(f"step {step}/"):
            raise Stop

    return report


@pytest.mark.parametrize("killed_at", [3, 4, 6])
def test_killed_and_resumed_equals_never_killed(data, tmp_path, killed_at):
    whole = build(data)
    history = fit(whole, data, PLAN, log=None)
    broken = build(data)
    with pytest.raises(Stop):
        fit(broken, data, PLAN, checkpoints=tmp_path, checkpoint_every=2, log=stop_after(killed_at), log_every=1)
    resumed = build(data)
    torch.manual_seed(12345)  # a fresh process has other random state
    again = fit(resumed, data, PLAN, checkpoints=tmp_path, checkpoint_every=2, log=None)
    assert same_weights(whole, resumed)
    assert again.losses == history.losses and len(history.losses) == PLAN.steps


def test_resumes_within_an_accumulated_run(data, tmp_path):
    plan = TrainingConfig(steps=4, batch_size=4, accumulate=2)
    whole = build(data)
    fit(whole, data, plan, log=None)
    with pytest.raises(Stop):
        fit(build(data), data, plan, checkpoints=tmp_path, checkpoint_every=1, log=stop_after(3), log_every=1)
    resumed = build(data)
    fit(resumed, data, plan, checkpoints=tmp_path, checkpoint_every=1, log=None)
    assert same_weights(whole, resumed)


def test_a_checkpoint_of_another_plan_is_refused(data, tmp_path):
    with pytest.raises(Stop):
        fit(build(data), data, PLAN, checkpoints=tmp_path, checkpoint_every=2, log=stop_after(4), log_every=1)
    with pytest.raises(ValueError, match="belongs to another training plan"):
        fit(build(data), data, TrainingConfig(steps=9, batch_size=6), checkpoints=tmp_path, log=None)


def test_checkpoints_are_safetensors_and_only_the_last_is_kept(data, tmp_path):
    fit(build(data), data, PLAN, checkpoints=tmp_path, checkpoint_every=2, log=None)
    states = list(tmp_path.glob("step-*"))
    assert [state.name for state in states] == ["step-6"]
    assert (states[0] / "model.safetensors").is_file()
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 6


def test_it_learns(data):
    plan = TrainingConfig(steps=60, batch_size=12, learning_rate=3e-3)
    losses = fit(build(data), data, plan, log=None).losses
    assert sum(losses[-10:]) / 10 < sum(losses[:5]) / 5 - 0.5


def test_same_seed_same_weights_other_seed_other_weights(data):
    first, again, other = build(data), build(data), build(data)
    fit(first, data, PLAN, log=None)
    fit(again, data, PLAN, log=None)
    fit(other, data, TrainingConfig(steps=7, batch_size=6, learning_rate=1e-3, seed=1), log=None)
    assert same_weights(first, again) and not same_weights(first, other)


def test_a_loss_that_is_not_finite_names_the_batch(data):
    system = build(data)
    with torch.no_grad():
        system.image_projection.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 0 \(contrastive = nan\) on studies s0"):
        fit(system, data, PLAN, log=None)


def test_learning_rate_warms_up_and_falls_to_zero():
    plan = TrainingConfig(steps=100, warmup=0.1, learning_rate=2.0)
    assert plan.rate(0) == pytest.approx(0.2) and plan.rate(9) == pytest.approx(2.0)
    assert plan.rate(10) == pytest.approx(2.0)
    assert plan.rate(55) == pytest.approx(1.0)
    assert 0 < plan.rate(99) < 0.001
    assert all(plan.rate(i) >= plan.rate(i + 1) for i in range(10, 99))


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"crop": 0.0}]
)
def test_impossible_plans_are_refused(wrong):
    with pytest.raises(ValueError):
        TrainingConfig(**wrong)


def test_batches_cover_an_epoch_once_and_can_start_anywhere():
    plan = TrainingConfig(steps=9, batch_size=4)
    batches = list(batch_order(14, plan))
    assert len(batches) == 9 and all(len(batch) == 4 for batch in batches)
    first, second = ([i for batch in part for i in batch] for part in (batches[:3], batches[3:6]))
    assert len(set(first)) == 12 and first != second
    assert list(batch_order(14, plan, start=5)) == batches[5:]
    with pytest.raises(ValueError, match="needs at least as many studies, got 3"):
        next(batch_order(3, plan))


def test_augmentation_never_mirrors_and_stays_in_range():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 32).expand(2, 1, 32, 32)
    out = intensity_jitter(ramp, shift=0)
    assert out.min() >= 0 and out.max() <= 1
    assert (out[..., -1] > out[..., 0]).all()


def test_a_crop_is_a_part_of_the_image_of_the_promised_size():
    def cropped(plane, least, **options):
        torch.manual_seed(1)
        return random_resized_crop(plane.expand(500, 1, 64, 64), least, **options)

    def span(plane):
        part = cropped(plane, 0.3)
        assert part.shape == (500, 1, 64, 64) and part.min() >= 0 and part.max() <= 1
        return part.amax((1, 2, 3)) - part.amin((1, 2, 3))

    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    height, width = span(rows), span(columns)
    area = height * width
    assert 0.25 < area.min() < 0.4 and area.max() > 0.9 and 0.55 < area.mean() < 0.7
    assert (width / height).max() > 1.2 and (width / height).min() < 1 / 1.2
    part = cropped(columns, 0.3)
    assert (part[..., -1] > part[..., 0]).all()  # never mirrored
    torch.testing.assert_close(cropped(columns, 1.0, stretch=1.0)[0, 0], columns, atol=1e-6, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_after_training_the_system_computes_in_full_precision_again(data, precision):
    system = build(data)
    seen = []
    system.loss = lambda batch, loss=system.loss: (seen.append(torch.is_autocast_enabled("cpu")), loss(batch))[1]
    fit(system, data, TrainingConfig(1, 6, precision=precision), log=None)
    system(collate([data[i] for i in range(6)]))
    assert seen == [precision == "bf16", False]


def test_cache_answers_only_for_the_same_plan_data_and_source(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path))
    said = []
    make = lambda: build(data)  # noqa: E731
    first, history = train_or_load(make, data, PLAN, log=said.append)
    again, cached = train_or_load(make, data, PLAN, log=said.append)
    assert (history.source, cached.source) == ("trained", "cached") and same_weights(first, again)
    assert cached.losses == history.losses and said[-1].startswith("loaded convirt")
    assert train_or_load(make, data, TrainingConfig(steps=2, batch_size=6), log=None)[1].source == "trained"
    other = StudyDataset(made_up_studies(20, seed=5), size=32)
    assert train_or_load(make, other, PLAN, log=None)[1].source == "trained"
    monkeypatch.setattr(training, "source_fingerprint", lambda: "the library has changed")
    assert train_or_load(make, data, PLAN, log=None)[1].source == "trained"


def test_source_fingerprint_sees_one_changed_line(tmp_path, monkeypatch):
    import shutil
    from pathlib import Path

    package = Path(training.__file__).parent
    copy = tmp_path / "medvlp_lite"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(training, "__file__", str(copy / "training.py"))
    before = training.source_fingerprint()
    target = copy / "components" / "contrastive.py"
    target.write_text(target.read_text() + "\n# one line\n")
    assert training.source_fingerprint() != before


def test_progress_is_plain_text(data):
    lines = []
    fit(build(data), data, PLAN, log=lines.append)
    assert lines and all(" images/s " in line and line.endswith("s left") and "\r" not in line for line in lines)
    assert lines[-1].startswith(f"step {PLAN.steps}/{PLAN.steps}")
    assert math.isfinite(float(lines[-1].split("loss ")[1].split()[0]))


KILLED = """
import hashlib, sys, torch
sys.path.insert(0, sys.argv[2])
from conftest import made_up_studies
from test_training import PLAN, build
from medvlp_lite.studies import StudyDataset
from medvlp_lite.training import fit
data = StudyDataset(made_up_studies(20), size=32)
system = build(data)
fit(system, data, PLAN, checkpoints=sys.argv[1], checkpoint_every=1, log=lambda line: print(line, flush=True), log_every=1)
print("weights", hashlib.sha256(b"".join(t.numpy().tobytes() for t in system.state_dict().values())).hexdigest())
"""


def test_a_process_killed_without_warning_resumes_to_the_same_weights(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script)]
    here = str(Path(__file__).parent)
    whole = subprocess.run([*command, tmp_path / "whole", here], capture_output=True, text=True, check=True).stdout
    step = random.Random().randint(1, PLAN.steps - 1)
    with subprocess.Popen([*command, tmp_path / "broken", here], stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            if line.startswith(f"step {step}/"):
                run.kill()
                break
    resumed = subprocess.run([*command, tmp_path / "broken", here], capture_output=True, text=True, check=True).stdout
    assert resumed.split("weights ")[1] == whole.split("weights ")[1], f"killed at step {step}"


TOGETHER = """
import hashlib, os, sys
sys.path.insert(0, sys.argv[1])
from conftest import made_up_studies
from test_training import build
from medvlp_lite.studies import StudyDataset
from medvlp_lite.training import TrainingConfig, fit
data = StudyDataset(made_up_studies(24), size=32)
system = build(data)
history = fit(system, data, TrainingConfig(steps=3, batch_size=6), log=print, log_every=1)
weights = b"".join(p.detach().numpy().tobytes() for p in system.parameters())
line = f"weights {hashlib.sha256(weights).hexdigest()} {history.losses[0] > 2.0}\\n"
os.write(1, line.encode())  # in one piece: two processes share this output
"""


def test_two_processes_train_one_model_on_twice_the_batch(tmp_path):
    (tmp_path / "train.py").write_text(TOGETHER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, tmp_path / "train.py", Path(__file__).parent], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    weights = [line for line in done.stdout.splitlines() if line.startswith("weights")]
    assert len(weights) == 2 and len(set(weights)) == 1, "both processes must hold the same weights"
    assert weights[0].endswith("True"), "the loss must run over the negatives of both processes"
    assert done.stdout.count("step 3/3") == 1, "only one process reports"
