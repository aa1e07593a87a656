import numpy as np
import pytest
from PIL import Image

from medvlp_lite.sources import pneumocxr, registry
from medvlp_lite.studies import split_by_patient

TABLE = """image,patient,stage,report,split,reader_1,reader_2
a.png,1,0,"Clear lungs, no dust disease.",train,0,0
b.png,1,stage-2,"Numerous small rounded opacities.",train,2,1
sub/c.png,2,III,,test,,
gone.png,3,1,No image here.,,,
d.png,4,,Unclear.,val,,
"""


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "pneumocxr"
    (folder / "images").mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "pneumocxr.csv").write_text(TABLE, encoding="utf-8")
    for name in ("images/a.png", "images/b.png", "sub/c.png", "images/d.png"):
        Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(folder / name)
    return folder


def test_a_users_own_table_becomes_studies(root):
    found = registry.load("pneumocxr", root)
    assert [study.stage for study in found.studies] == [0, 2, 3, None]
    assert found.skipped == {"image file not here": 1}
    assert found.notes == {"without stage": 1, "without report": 1, "readers differ": 1}
    first, second, third, last = found.studies
    assert first.image.shape == (20, 30) and first.label("pneumoconiosis") == 0 and first.patient_id == "1"
    assert second.finding("pneumoconiosis").severity == "moderate" and second.meta["readers"] == {
        "reader_1": 2,
        "reader_2": 1,
    }
    assert third.finding("pneumoconiosis").severity == "severe" and third.meta["split"] == "test"
    assert last.findings == () and np.isnan(last.label("pneumoconiosis"))
    splits = split_by_patient(found.studies, (0.5, 0.25, 0.25))
    assert any({0, 1} <= set(getattr(splits, part)) for part in ("train", "val", "test"))
    assert len(pneumocxr.load(root)) == 4


def test_only_columns_that_begin_with_reader_and_a_bar_are_readers(root):
    table = root / "pneumocxr.csv"
    table.write_text("image,patient,stage,report,readers,reader_a\na.png,1,1.0,,two of four,1.0\n", encoding="utf-8")
    study = pneumocxr.load(root).studies[0]
    assert study.stage == 1 and study.meta["readers"] == {"reader_a": 1}


@pytest.mark.parametrize(
    "text, stage", [("0", 0), ("stage-3", 3), ("Stage II", 2), ("Normal", 0), (" i ", 1), ("2.0", 2), ("", None)]
)
def test_stages_as_people_write_them(text, stage):
    assert pneumocxr.stage_of(text) == stage


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("stage-2", "4", ("line 3", "got '4'")),
        ("stage-2", "1.5", ("line 3", "got '1.5'")),
        ("2,1\n", "2,5\n", ("line 3", "got '5'")),
        ("a.png,1", "a.png,", ("line 2", "must not be empty")),
        ("b.png", "a.png", ("line 3", "stands twice")),
        (",test,", ",holdout,", ("line 4", "'holdout'")),
        ("image,patient", "file,patient", ("lacks the column 'image'",)),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(root, old, new, words):
    table = root / "pneumocxr.csv"
    text = table.read_text(encoding="utf-8")
    assert old in text
    table.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        pneumocxr.load(root)
    assert "pneumocxr.csv" in str(caught.value) and all(word in str(caught.value) for word in words)
