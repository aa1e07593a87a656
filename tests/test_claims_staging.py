import pytest

from medvlp_lite.claims import claims, staging
from medvlp_lite.experiments import ROWS
from medvlp_lite.figures.ledger import Claim
from medvlp_lite.records.record import RunRecord

RECIPES = [name for name, row in ROWS.items() if row.system == "staging"]
CONFUSION = [[60, 40, 0, 0], [30, 50, 20, 0], [0, 30, 60, 10], [0, 0, 0, 50]]


def record(name, values):
    runs = [
        {"scores": {"accuracy": v, "mean": v + 0.1}, "confusion": CONFUSION, "grad_cam": {"energy": v},
         "doubt": {"max": {"accuracy_kept": {"80%": v + 0.05}}}}
        for v in values
    ]  # fmt: skip
    return RunRecord(name, "long", [0, 1, 2], "d", metrics={"runs": runs})


def test_confusion_counts_cases_of_both_stages():
    run = record("staging", [0.6]).metrics["runs"][0]
    assert staging.normal_and_first(run) == pytest.approx(70 / 200)
    assert staging.worst_other_pair(run) == pytest.approx(50 / 200)


def test_every_claim_is_about_a_recipe_and_becomes_a_row():
    records = {name: record(name, [0.5, 0.6, 0.7]) for name in RECIPES}
    assert all({c.worse, c.better} <= set(RECIPES) for c in staging.COMPARISONS)
    rows = [row for row in claims(records) if row["chapter"] == staging.CHAPTER]
    assert len(rows) == len(staging.COMPARISONS) == len([Claim(**row) for row in rows])
    verdicts = {row["claim"]: row["verdict"] for row in rows}
    assert verdicts["Accuracy rises when the least sure fifth is referred"] == "reproduced"
    assert verdicts["Stage 0 and stage I are confused most"] == "reproduced"
    assert verdicts["Token-wise alignment helps staging"] == "not reproduced"
