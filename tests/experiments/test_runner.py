import hashlib
import json
import shutil
from dataclasses import replace

import pytest

from medvlp_lite import experiments
from medvlp_lite.evaluation.zero_shot import zero_shot
from medvlp_lite.experiments import PROFILES, ROWS, Profile, runner
from medvlp_lite.records.record import RunRecord, results_folder

TINY = Profile(studies=120, steps=6, batch_size=8, seeds=2, name="tiny")
LONG = PROFILES["long"]
PRETRAINED = ("maco_hr", "start", "start_vit")  # a start for other rows, which cannot be asked anything
REFERENCES = sorted(folder.name for folder in experiments.WEIGHTS.glob("*") if folder.is_dir())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The record of a tiny row, and the folder it was made in."""
    out = tmp_path_factory.mktemp("out")
    return runner.run_row(ROWS["convirt"], TINY, out), out


def test_a_record_keeps_plan_curve_and_draw_once_each(made):
    record, _ = made
    settings, run = record.settings, record.metrics["runs"][1]
    assert settings["draw"]["studies"] == 120 == sum(settings["parts"][part] for part in ("train", "val", "test"))
    assert settings["training"]["steps"] == 6 and "steps" not in settings and "studies" not in settings
    assert run["curve"]["images"][-1] == 48 and len(run["curve"]["images"]) == len(run["curve"]["loss"]) == 6
    validation = run["curve"]["validation"]
    assert validation["measure"] == "macro_auc" and validation["images"] == [8, 16, 24, 48]
    assert all(0 <= value <= 1 for value in validation["values"])
    assert record.data and record.seeds == [0, 1] and set(settings["weights"]) == {"0", "1"}


def test_the_last_validation_point_is_the_trained_system(made):
    _, out = made
    from medvlp_lite.evaluation.zero_shot import macro_auc_on_val

    system = experiments.runner.System.from_pretrained(out / "weights" / "convirt")
    run = RunRecord.load(out / "convirt-tiny.json").metrics["runs"][0]
    assert macro_auc_on_val(system, ROWS["convirt"].data(TINY)) == run["curve"]["validation"]["values"][-1]


def test_a_record_is_fresh_until_something_that_decides_it_changes(made):
    record, _ = made
    row = ROWS["convirt"]
    assert runner.stale(row, record, TINY) == ""
    changes = {
        "training.steps 6, now 3": (replace(row, training=replace(row.training, share=0.5)), TINY),
        "draw.studies 120, now 60": (row, replace(TINY, studies=60)),
        "train_set whole, now shuffled": (replace(row, train_set=runner.shuffled), TINY),
        "config.dim 128, now 64": (replace(row, options={"dim": 64}), TINY),
        "measures": (replace(row, measures=("zero_shot",)), TINY),
        "seeds [0, 1], now [0, 1, 2]": (row, replace(TINY, seeds=3)),
        "words": (replace(row, words=("a",)), TINY),
    }
    for reason, (other, profile) in changes.items():
        assert reason in runner.stale(other, record, profile)
    assert runner.stale(row, None, TINY) == "missing"


def test_a_child_is_stale_when_its_parent_is_trained_otherwise_but_not_when_it_is_measured_otherwise(monkeypatch):
    before = runner.fingerprint(ROWS["staging"], TINY)
    parent = ROWS["mskpt"]
    monkeypatch.setitem(ROWS, "mskpt", replace(parent, measures=()))
    assert runner.fingerprint(ROWS["staging"], TINY) == before
    monkeypatch.setitem(ROWS, "mskpt", replace(parent, options={"dim": 64}))
    assert runner.fingerprint(ROWS["staging"], TINY) != before


def test_other_measures_do_not_train_again(made, monkeypatch):
    record, out = made
    monkeypatch.setattr(runner, "fit", lambda *_, **__: pytest.fail("the weights are there"))
    row = replace(ROWS["convirt"], measures=("unseen",))
    entry = runner.run_seed(row, TINY, 0, out)["entry"]
    assert "unseen" in entry and "macro_auc" not in entry
    assert (
        runner.run_seed(ROWS["convirt"], TINY, 0, out)["entry"]["macro_auc"] == record.metrics["runs"][0]["macro_auc"]
    )


def test_rows_start_from_parents_of_their_own_seed(tmp_path, monkeypatch):
    """Every parent is that of the seed: also a pre-training."""
    seen = {}

    def stop(row, data, profile, seed, parents):
        seen.update(parents)
        raise InterruptedError

    train = runner.train_seed
    monkeypatch.setattr(runner, "train_seed", lambda row, profile, seed, *_: f"{row.name} {seed}")
    monkeypatch.setattr(runner.System, "from_pretrained", lambda folder: folder)
    for name, expected in {
        "maco_pretrained": {"start": "start 0", "image": "maco_hr 2"},
        "staging": {"teacher": "mskpt 2"},
    }.items():
        seen.clear()
        with pytest.raises(InterruptedError):
            train(replace(ROWS[name], start=stop), replace(TINY, seeds=3), 2, tmp_path)
        assert seen == expected


def test_a_parent_is_loaded_from_the_committed_weights_only_when_training_would_give_them(tmp_path, monkeypatch):
    row, profile = ROWS["start"], replace(TINY, seeds=1, steps=2)
    record = runner.run_row(replace(row, measures=()), profile, tmp_path)
    (tmp_path / "weights" / "sha256.json").write_text(
        json.dumps({"start": hashlib.sha256((tmp_path / "weights/start/model.safetensors").read_bytes()).hexdigest()})
    )
    monkeypatch.setattr(runner, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(runner, "load_record", lambda name: record)
    assert runner.committed(row, profile, 0) and not runner.committed(row, profile, 1)
    assert not runner.committed(row, replace(profile, steps=3), 0)
    monkeypatch.setattr(runner, "fit", lambda *_, **__: pytest.fail("its weights are committed"))
    seen = {}
    stop = replace(ROWS["convirt"], start=lambda row, data, profile, seed, parents: seen.update(parents) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runner.train_seed(stop, profile, 0, tmp_path / "child")
    assert seen["start"].name == "unimodal"


def test_work_is_kept_where_it_was_done_when_the_last_write_fails(made, tmp_path):
    """The folder for results turns into a file while training runs: record and weights go where the work was done."""
    _, state = made
    out, said = tmp_path / "out", []
    out.write_text("in the way")
    record = runner.run_row(ROWS["convirt"], TINY, out, log=said.append, state=state)
    assert (state / "convirt-tiny.json").is_file() and (state / "weights" / "convirt" / "model.safetensors").is_file()
    assert "cannot be written" in said[-1] and str(state) in said[-1] and record.metrics["runs"]


def test_committed_records_are_judged_by_computing(capsys):
    """None of them may claim to be what it is not: each is fresh, or the reason why it is stale can be read."""
    states = experiments.reproduce.states(LONG)
    committed = {path.stem.removesuffix("-long") for path in results_folder().glob("*-long.json")}
    assert {name for name, reason in states.items() if reason == "missing"} == set(ROWS) - committed
    for name in committed:
        record = experiments.load_record(name)
        fresh = record.settings.get("fingerprint") == runner.fingerprint(ROWS[name], LONG)
        assert bool(states[name]) != fresh, name


def test_no_committed_record_contradicts_itself():
    for name in ROWS:
        if record := experiments.load_record(name):
            settings = record.settings
            assert "plan" not in settings and "steps" not in settings and "studies" not in settings, name
            if not runner.stale(ROWS[name], record, LONG):
                assert settings["draw"]["studies"] == LONG.studies, name
            assert settings["training"]["steps"] >= 1 and settings["parts"]["test"] < settings["draw"]["studies"]


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_weights_are_small_whole_and_backed_by_a_record(name):
    assert (experiments.WEIGHTS / name / "model.safetensors").stat().st_size <= 4_000_000
    system, record = experiments.load_pretrained(name), experiments.load_record(name)
    assert (
        system.name == {"start": "unimodal", "start_vit": "maco"}.get(name, name.split("_")[0]) and record.seeds[0] == 0
    )
    assert name in PRETRAINED or len(record.seeds) >= 3 or record.of_today
    assert record.commit and not record.commit.endswith("+changes")


def of_today(name):
    """Whether reference weights learned from the phantom of today; those of an earlier one see new films in the tests below."""
    return experiments.load_record(name).of_today


def test_reference_weights_answer_better_than_chance_on_new_phantoms():
    fresh = experiments.phantom_data(240, seed=11)
    scores = {
        name: zero_shot(experiments.load_pretrained(name), fresh)["macro_auc"]["value"]
        for name in REFERENCES
        if name not in PRETRAINED and not name.startswith("staging")  # asked about stages instead
    }
    for name, score in scores.items():
        record = experiments.load_record(name)
        known = record.metrics.get("macro_auc_over_seeds", {}).get("value", 0.6)
        assert score > (known - 0.1 if of_today(name) else 0.55) and (score > 0.5), (name, scores)


def test_reference_stagers_know_new_phantoms_better_than_the_most_frequent_stage():
    import numpy as np

    from medvlp_lite.evaluation.inference import stage_probabilities
    from medvlp_lite.evaluation.staging import stage_scores

    fresh = experiments.screening_data(160, seed=12).train
    for name in (name for name in REFERENCES if name.startswith("staging")):
        scores = stage_scores(fresh.stages, stage_probabilities(experiments.load_pretrained(name), fresh))
        assert scores.auc > (0.75 if of_today(name) else 0.6), name
        assert not of_today(name) or scores.accuracy > np.bincount(fresh.stages).max() / len(fresh)


def test_changed_reference_weights_are_refused(tmp_path):
    shutil.copytree(experiments.WEIGHTS, tmp_path / "weights")
    file = tmp_path / "weights" / "convirt" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is not the committed file"):
        experiments.load_pretrained("convirt", tmp_path / "weights")
    assert experiments.load_pretrained("nothing") is None and experiments.load_record("nothing") is None


def test_chapters_train_live_from_committed_parents(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path))
    profile = Profile(studies=160, steps=2, batch_size=16, seeds=1)
    data = experiments.screening_data(160)
    system, history = experiments.train_system("staging", data, profile, log=None)
    assert history.source == "trained" and system.config.taught and system.text_bank.any()
    assert experiments.train_system("staging", data, profile, log=None)[1].source == "cached"
    with pytest.raises(ValueError, match="no row 'gan'; use one of"):
        experiments.train_system("gan", data, profile)
