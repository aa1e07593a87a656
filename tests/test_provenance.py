import json

import numpy as np
import pytest

from medvlp_lite.records.record import (
    RunRecord,
    last_doubling,
    load_record,
    lowest_recall,
    peak_memory_mb,
    results_folder,
)


def test_record_round_trips_and_holds_what_is_needed(tmp_path):
    record = RunRecord.start("baseline", profile="smoke", seeds=[0, 1], data="abc", settings={"steps": 3})
    record.metrics["auc"] = np.float32(0.5)
    record.metrics["curve"] = np.array([1.0, float("nan")])
    path = record.finish().save(tmp_path)
    assert path.name == "baseline-smoke.json"
    again = RunRecord.load(path)
    assert again.metrics == {"auc": 0.5, "curve": [1.0, None]}
    assert (
        again.seconds >= 0 and again.peak_memory_mb > 10 and again.device and again.source and again.packages["torch"]
    )
    json.loads(path.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))


def test_a_file_that_is_no_record_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"name": "a", "surprise": 1}')
    with pytest.raises(ValueError, match=r"x\.json is not a run record"):
        RunRecord.load(tmp_path / "x.json")


def test_peak_memory_is_in_megabytes():
    assert 10 < peak_memory_mb() < 100_000


def test_a_record_says_whether_a_class_is_hardly_ever_answered():
    assert lowest_recall([[9, 1], [0, 10]]) == 0.9 and lowest_recall([[5, 0, 0], [0, 0, 0], [1, 0, 1]]) == 0.5
    good, bad = [[90, 10], [5, 95]], [[100, 0], [96, 4]]
    record = RunRecord(
        "a", "long", [0, 1, 2], "d", metrics={"runs": [{"confusion": table} for table in (good, bad, bad)]}
    )
    assert record.collapsed == 2
    record.metrics["runs"] = [{"probe": {"confusion": [[100, 0], [95, 5]]}}, {"auc": 0.5}]
    assert record.collapsed == 0, "five in a hundred is the limit, and a record without a table says nothing"


def test_a_record_is_fitted_when_the_last_doubling_moved_little():
    assert last_doubling([100, 200, 400], [0.5, 0.7, 0.8]) == pytest.approx(0.1)
    assert last_doubling([100, 300, 400], [0.5, 0.7, 0.8]) == pytest.approx(0.2), "linear between the points"
    assert last_doubling([300, 350, 400], [0.7, 0.75, 0.6]) == pytest.approx(0.1), (
        "from the first point, where it begins later"
    )
    curves = {"images": [1, 2, 4], "values": [0.5, 0.791, 0.8]}, {"images": [1, 2, 4], "values": [0.5, 0.78, 0.8]}
    runs = [{"curve": {"validation": curve}} for curve in curves]
    for chosen, expected in ((runs[:1], True), (runs, False), ([*runs, {}], None), ([], None)):
        assert RunRecord("a", "long", [0], "d", metrics={"runs": chosen}).converged is expected


def test_committed_records_load_and_hold_no_claims():
    files = sorted(results_folder().glob("*.json"))
    assert files and not [path.name for path in files if "claims" in json.loads(path.read_text(encoding="utf-8"))]
    assert {load_record(path.stem.removesuffix("-long")).name for path in files} == {
        p.stem.removesuffix("-long") for p in files
    }
    assert load_record("nothing") is None
