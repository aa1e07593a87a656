import json

import pytest

from medvlp_lite.figures.ledger import ledger_table, read_claims

ROW = {
    "claim": "A < B",
    "paper": "0.90",
    "ours": "0.71 ± 0.02",
    "verdict": "trend only",
    "reason": "other data",
    "chapter": "03_contrastive_baseline",
}


def test_claims_are_read_from_records_and_others_left_alone(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps({"claims": [ROW]}), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps({"metrics": {"auc": 0.7}}), encoding="utf-8")
    (tmp_path / "c.json").write_text("[1, 2]", encoding="utf-8")
    table = ledger_table(read_claims(tmp_path))
    assert "<td>A &lt; B</td>" in table and 'href="03_contrastive_baseline.html">03</a>' in table
    assert table.count("<tr>") == 2


@pytest.mark.parametrize("change", [{"verdict": "proved"}, {"extra": "x"}, {"claim": None}])
def test_a_faulty_record_is_named(tmp_path, change):
    row = {key: value for key, value in (ROW | change).items() if value is not None}
    (tmp_path / "run.json").write_text(json.dumps({"claims": [row]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.json"):
        read_claims(tmp_path)


def test_no_claims_gives_a_sentence(tmp_path):
    assert ledger_table(read_claims(tmp_path)) == "<p>No claim has been recorded yet.</p>"
