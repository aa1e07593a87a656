import json

import numpy as np
import pytest

from medvlp_lite.records.record import RunRecord, peak_memory_mb


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
