import pytest

from medvlp_lite.claims import claims, effect, macro_auc, small_pointing, spread, unseen_auc, verdict
from medvlp_lite.evaluation.classification import Interval
from medvlp_lite.figures.ledger import Claim
from medvlp_lite.records.record import RunRecord


def record(name, values, seeds=(0, 1, 2), data="d"):
    runs = [
        {"macro_auc": {"value": v}, "unseen": {"description": {"value": v}, "name": {"value": 0.5}},
         "grounding": {"nodule": {"pointing": v, "baselines": {"average lesion": 0.2}}, "edema": {"pointing": 1.0}}}
        for v in values
    ]  # fmt: skip
    return RunRecord(name, "long", list(seeds), data, metrics={"runs": runs})


def test_effect_is_paired_by_seed():
    low, high = record("a", [0.5, 0.6, 0.7]), record("b", [0.61, 0.7, 0.81])
    difference = effect(high, low, macro_auc)
    assert difference.value == pytest.approx(0.32 / 3) and difference.low > 0.08, "the seeds' common spread cancels"
    assert spread(low, macro_auc).value == pytest.approx(0.6)
    for other in (record("c", [0.5, 0.6], seeds=(0, 1)), record("c", [0.5, 0.6, 0.7], data="e")):
        with pytest.raises(ValueError, match="same seeds on the same data"):
            effect(high, other, macro_auc)


def test_measures_leave_the_large_findings_out():
    run = record("a", [0.3]).metrics["runs"][0]
    assert small_pointing(run) == pytest.approx(0.3) and unseen_auc(run) == 0.3 and unseen_auc(run, "name") == 0.5


def test_verdicts():
    assert verdict(Interval(0.1, 0.01, 0.2)) == "reproduced"
    assert verdict(Interval(0.1, -0.01, 0.2)) == "trend only"
    assert verdict(Interval(-0.1, -0.2, 0.3)) == "not reproduced"
    assert verdict(Interval(0.1, float("nan"), float("nan"))) == "trend only", "one seed proves nothing"


def test_the_ledger_takes_every_row():
    names = ("convirt", "medklip", "medklip_names", "medklip_names_no_position", "medklip_no_crop")
    records = {name: record(name, [0.5 + i / 10] * 3) for i, name in enumerate(names)}
    rows = claims(records)
    assert len(rows) == 9 and len([Claim(**row) for row in rows]) == 9
    assert [row["ours"][:14] for row in rows if "usual place" in row["claim"]] == ["0.200 to 0.600"]
    assert claims({"convirt": records["convirt"]}) == []
