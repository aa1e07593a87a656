import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import made_up_studies
from processes import run_two_processes

import medvlp_lite.training as training
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems.convirt import ConVIRT, ConVIRTConfig
from medvlp_lite.training import (
    NonFiniteLossError,
    TrainingConfig,
    batch_order,
    fit,
    validation_steps,
)

CONFIG = TrainingConfig(steps=7, batch_size=6, learning_rate=1e-3)


@pytest.fixture(scope="module")
def data():
    return StudyDataset(made_up_studies(20), size=32)


def build(data) -> ConVIRT:
    torch.manual_seed(0)
    return ConVIRT(ReportTokenizer.train(data.reports, 120), ConVIRTConfig(image_size=32, max_length=24, dim=16))


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
    history = fit(whole, data, CONFIG, log=None, validate=mean_score)
    broken, keep = build(data), {"checkpoints": tmp_path, "checkpoint_every": 2, "validate": mean_score}
    with pytest.raises(Stop):
        fit(broken, data, CONFIG, **keep, log=stop_after(killed_at), log_every=1)
    resumed = build(data)
    torch.manual_seed(12345)  # a fresh process has other random state
    again = fit(resumed, data, CONFIG, **keep, log=None)
    assert same_weights(whole, resumed)
    assert again.losses == history.losses and len(history.losses) == CONFIG.steps
    assert again.validation == history.validation and again.images == history.images == 42
    assert again.seconds > 0


@pytest.mark.parametrize("killed_at", [None, 3, 6])
def test_the_best_state_of_the_curve_is_kept_also_through_a_kill(data, tmp_path, killed_at):
    """The curve is made to peak after step 4, whose weights are the best; the run goes on to step 7."""
    system, states, steps = build(data), {}, iter(range(1, 100))

    def peaked(system):
        states[step := next(steps)] = {name: value.clone() for name, value in system.state_dict().items()}
        return -abs(step - 4)

    keep = {"checkpoints": tmp_path, "checkpoint_every": 2, "validate": peaked, "validate_at": range(1, 8)}
    if killed_at:
        with pytest.raises(Stop):
            fit(build(data), data, CONFIG, **keep, keep_best=True, log=stop_after(killed_at), log_every=1)
        steps = iter(range((killed_at - 1) // 2 * 2 + 1, 100))  # after the last checkpoint
    history = fit(system, data, CONFIG, **keep, keep_best=True, log=None)
    assert [value for _, value in history.validation] == [-3, -2, -1, 0, -1, -2, -3]
    assert all(torch.equal(value, states[4][name]) for name, value in system.state_dict().items())


def mean_score(system) -> float:
    """A measure that draws random numbers of its own, as a bootstrap does."""
    torch.rand(3)
    assert not system.training and not torch.is_grad_enabled()
    return float(system.embed_images(torch.full((2, 1, 32, 32), 0.5)).sum())


def test_the_validation_curve_stands_at_log_spaced_points_by_images_seen(data):
    validated, plain = build(data), build(data)
    history = fit(validated, data, CONFIG, log=None, validate=mean_score)
    assert [images for images, _ in history.validation] == [6 * step for step in validation_steps(7)] == [6, 12, 24, 42]
    with torch.no_grad():
        assert history.validation[-1][1] == mean_score(validated)
    assert validation_steps(1000) == [8, 16, 31, 62, 125, 250, 500, 1000] and validation_steps(1) == [1]
    fit(plain, data, CONFIG, log=None)
    assert same_weights(validated, plain), "validation must change no weight"
    assert [
        n for n, _ in fit(build(data), data, CONFIG, log=None, validate=mean_score, validate_at=[3]).validation
    ] == [18]


def test_resumes_within_an_accumulated_run(data, tmp_path):
    config = TrainingConfig(steps=4, batch_size=4, accumulate=2)
    whole = build(data)
    fit(whole, data, config, log=None)
    with pytest.raises(Stop):
        fit(build(data), data, config, checkpoints=tmp_path, checkpoint_every=1, log=stop_after(3), log_every=1)
    resumed = build(data)
    fit(resumed, data, config, checkpoints=tmp_path, checkpoint_every=1, log=None)
    assert same_weights(whole, resumed)


def test_a_checkpoint_of_another_config_is_refused(data, tmp_path):
    with pytest.raises(Stop):
        fit(build(data), data, CONFIG, checkpoints=tmp_path, checkpoint_every=2, log=stop_after(4), log_every=1)
    with pytest.raises(ValueError, match="belongs to another config"):
        fit(build(data), data, TrainingConfig(steps=9, batch_size=6), checkpoints=tmp_path, log=None)


def test_checkpoints_are_safetensors_and_only_the_last_is_kept(data, tmp_path):
    fit(build(data), data, CONFIG, checkpoints=tmp_path, checkpoint_every=2, log=None)
    states = list(tmp_path.glob("step-*"))
    assert [state.name for state in states] == ["step-6"]
    assert (states[0] / "model.safetensors").is_file()
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 6


def test_it_learns(data):
    config = TrainingConfig(steps=60, batch_size=12, learning_rate=3e-3)
    losses = fit(build(data), data, config, log=None).losses
    assert sum(losses[-10:]) / 10 < sum(losses[:5]) / 5 - 0.5


def test_same_seed_same_weights_other_seed_other_weights(data):
    first, again, other = build(data), build(data), build(data)
    fit(first, data, CONFIG, log=None)
    fit(again, data, CONFIG, log=None)
    fit(other, data, TrainingConfig(steps=7, batch_size=6, learning_rate=1e-3, seed=1), log=None)
    assert same_weights(first, again) and not same_weights(first, other)


def test_a_loss_that_is_not_finite_names_the_batch(data):
    system = build(data)
    with torch.no_grad():
        system.image_projection.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 0 \(contrastive = nan\) on studies s0"):
        fit(system, data, CONFIG, log=None)


def test_learning_rate_warms_up_and_falls_to_zero():
    config = TrainingConfig(steps=100, warmup=0.1, learning_rate=2.0)
    assert config.lr_at(0) == pytest.approx(0.2) and config.lr_at(9) == pytest.approx(2.0)
    assert config.lr_at(10) == pytest.approx(2.0)
    assert config.lr_at(55) == pytest.approx(1.0)
    assert 0 < config.lr_at(99) < 0.001
    assert all(config.lr_at(i) >= config.lr_at(i + 1) for i in range(10, 99))


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"crop": 0.0}]
)
def test_impossible_configs_are_refused(wrong):
    with pytest.raises(ValueError):
        TrainingConfig(**wrong)


def test_batches_cover_an_epoch_once_and_can_start_anywhere():
    config = TrainingConfig(steps=9, batch_size=4)
    batches = list(batch_order(14, config))
    assert len(batches) == 9 and all(len(batch) == 4 for batch in batches)
    first, second = ([i for batch in part for i in batch] for part in (batches[:3], batches[3:6]))
    assert len(set(first)) == 12 and first != second
    assert list(batch_order(14, config, start=5)) == batches[5:]
    with pytest.raises(ValueError, match="needs at least as many studies, got 3"):
        next(batch_order(3, config))


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_after_training_the_system_computes_in_full_precision_again(data, precision):
    system = build(data)
    seen = []
    system.loss = lambda batch, loss=system.loss: (seen.append(torch.is_autocast_enabled("cpu")), loss(batch))[1]
    fit(system, data, TrainingConfig(1, 6, precision=precision), log=None)
    system(collate([data[i] for i in range(6)]))
    assert seen == [precision == "bf16", False]


def test_half_precision_learns_on_a_cpu(data):
    config = TrainingConfig(steps=60, batch_size=12, learning_rate=3e-3, precision="bf16")
    losses = fit(build(data), data, config, log=None).losses
    assert sum(losses[-10:]) / 10 < sum(losses[:5]) / 5 - 0.5


def test_reports_are_read_once_and_never_in_a_step(data, monkeypatch):
    system, read = build(data), []
    plain = system.text_inputs
    monkeypatch.setattr(
        system, "text_inputs", lambda reports, findings: read.append(len(reports)) or plain(reports, findings)
    )
    fit(system, data, CONFIG, log=None)
    assert read == [len(data)] and not data.inputs


def test_losses_are_read_a_few_steps_at_a_time_where_that_matters(data, monkeypatch):
    steps, late = fit(build(data), data, CONFIG, log=None), []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t, plain=torch.Tensor.tolist: late.append(t.ndim) or plain(t))
    slow = training.History()
    losses = training.PendingLosses(slow, every=4)
    batch = collate([data[i] for i in range(2)])
    for step, value in enumerate([0.5, 0.25, 0.125]):
        losses.add(step, {"a": torch.tensor(value)}, torch.tensor(2 * value), batch)
    assert not late and not slow.losses
    losses.read()
    assert slow.losses == [1.0, 0.5, 0.25] and slow.terms == {"a": [0.5, 0.25, 0.125]}
    losses.add(3, {"a": torch.tensor(1.0)}, torch.tensor(1.0), batch, counts=False)
    losses.add(4, {"a": torch.tensor(math.inf)}, torch.tensor(math.inf), batch)
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 4 \(a = inf\) on studies s000, s001;"):
        losses.read()
    assert len(slow.losses) == 3 and len(steps.losses) == 7


def test_progress_is_plain_text(data):
    lines = []
    fit(build(data), data, CONFIG, log=lines.append)
    assert lines and all(" images/s " in line and line.endswith("s left") and "\r" not in line for line in lines)
    assert lines[-1].startswith(f"step {CONFIG.steps}/{CONFIG.steps}")
    assert math.isfinite(float(lines[-1].split("loss ")[1].split()[0]))


KILLED = """
import hashlib, sys, torch
sys.path.insert(0, sys.argv[2])
from conftest import made_up_studies
from test_training import CONFIG, build
from medvlp_lite.studies import StudyDataset
from medvlp_lite.training import fit
data = StudyDataset(made_up_studies(20), size=32)
system = build(data)
fit(system, data, CONFIG, checkpoints=sys.argv[1], checkpoint_every=1, log=lambda line: print(line, flush=True), log_every=1)
print("weights", hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in system.state_dict().values())).hexdigest())
"""


def test_a_process_killed_without_warning_resumes_to_the_same_weights(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script)]
    here = str(Path(__file__).parent)
    whole = subprocess.run([*command, tmp_path / "whole", here], capture_output=True, text=True, check=True).stdout
    step = random.Random().randint(1, CONFIG.steps - 1)
    with subprocess.Popen([*command, tmp_path / "broken", here], stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            if line.startswith(f"step {step}/"):
                run.kill()
                break
    resumed = subprocess.run([*command, tmp_path / "broken", here], capture_output=True, text=True, check=True).stdout
    assert resumed.split("weights ")[1] == whole.split("weights ")[1], f"killed at step {step}"


TOGETHER = """
import hashlib
from conftest import made_up_studies
from test_training import build, mean_score
from medvlp_lite.studies import StudyDataset
from medvlp_lite.training import TrainingConfig, fit
data = StudyDataset(made_up_studies(24), size=32)
system = build(data)
history = fit(system, data, TrainingConfig(3, 6), log=lambda line: say("log", line), log_every=1, validate=mean_score)
weights = b"".join(p.detach().cpu().numpy().tobytes() for p in system.parameters())
say("weights", hashlib.sha256(weights).hexdigest(), history.losses[0] > 2.0, history.images, history.validation[-1][0])
"""


def test_two_processes_train_one_model_on_twice_the_batch(tmp_path):
    first, second = run_two_processes(TOGETHER, tmp_path)
    weights = first.splitlines()[-1]
    assert weights == second, "both processes must hold the same weights, and only one reports"
    assert weights.endswith("True 36 36"), "the loss must run over the negatives of both processes"
    assert first.count("log step 3/3") == 1
