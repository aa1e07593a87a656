"""Tiny made-up trees in the official layout of each set, with every known quirk; and the real sets, where they are."""

import csv
import functools
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlp_lite.sources import registry
from medvlp_lite.sources.covid import HUMAN_MASKS


def draw(path: Path, size=(40, 30), mode="L", value=100) -> Path:
    """A grey picture of ``size = (width, height)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fill = {"L": value, "RGB": (value,) * 3, "RGBA": (value, value, value, 255)}[mode]
    Image.new(mode, size, fill).save(path, format={".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower(), "PNG"))
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def table(path: Path, header: str, *rows) -> Path:
    """A CSV file with a header line as it stands and properly quoted rows."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return write(path, f"{header}\n{out.getvalue()}")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def refuses(call, *words: str) -> None:
    """The call fails with one sentence that names all the words, and no error from elsewhere behind it."""
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def nih_row(image, labels, age="57", view="PA"):
    return (image, labels, 0, int(image[:8]), age, "M", view, 2682, 2749, 0.143, 0.143)


def nih_tree(root: Path) -> Path:
    """ChestX-ray14 in its official layout: three images with a row, one row without an image, boxes and split lists."""
    table(
        root / "Data_Entry_2017_v2020.csv",
        NIH_HEADER,
        nih_row("00000001_000.png", "Cardiomegaly"),
        nih_row("00000001_001.png", "No Finding", age="414", view="AP"),
        nih_row("00000002_000.png", "Infiltration|Pleural_Thickening", age="013M"),
        nih_row("00000003_000.png", "Mass"),
    )
    table(
        root / "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        ("00000002_000.png", "Infiltrate", 256.0, 512.0, 128.0, 64.0, "", "", ""),
        ("00000002_000.png", "Infiltrate", 960.0, 0.0, 128.0, 64.0, "", "", ""),
        ("00000001_000.png", "Nodule", 0, 0, 512, 1024, "", "", ""),
        ("00009999_000.png", "Mass", 1, 1, 5, 5, "", "", ""),
    )
    write(root / "train_val_list.txt", "00000001_000.png\n00000001_001.png\n\n")
    write(root / "test_list.txt", "00000002_000.png\n00000003_000.png\n")
    draw(root / "images_001" / "images" / "00000001_000.png", mode="RGBA", value=50)
    draw(root / "images_002" / "images" / "00000001_001.PNG", mode="RGB")
    draw(root / "images" / "00000002_000.jpg")
    return root


COVID_HEADER = "patientid,offset,finding,view,modality,folder,filename,url,license,clinical_notes,other_notes,"


def covid_row(
    patient, offset, finding, name, view="PA", modality="X-ray", folder="images", licence="CC BY 4.0", notes=""
):
    return (patient, offset, finding, view, modality, folder, name, f"https://x/{name}", licence, notes, "", "")


def covid_tree(root: Path) -> Path:
    """The COVID collection with every known quirk of its table, annotations and masks."""
    table(
        root / "metadata.csv",
        COVID_HEADER,
        covid_row("4", 10, "COVID-19, ARDS", "late.jpg", notes="Known  COVID-19,\nworse."),
        covid_row("4", 0, "COVID-19", "early.png", view="AP"),
        covid_row("4", "?", "COVID-19", "undated.jpg", view="AP Supine"),
        covid_row("5", 3, "No Finding", "normal.JPG", licence=""),
        covid_row("6", 3, "todo", "todo.jpg"),
        covid_row("7", 1, "Pneumonia", "shared.jpg"),
        covid_row("8", 1, "Pneumonia", "shared.jpg"),
        covid_row("8", 2, "Pneumonia/Viral/COVID-19", "deep.jpg", licence="CC BY-NC-ND 4.0"),
        covid_row("9", 2, "SARS", "gone.jpg"),
        covid_row("9", 2, "SARS", "side.jpg", view="L"),
        covid_row("9", 2, "SARS", "odd.jpg", view="?"),
        covid_row("9", 2, "SARS", "slice.jpg", view="Axial", modality="CT"),
        covid_row("9", 2, "SARS", "stack.nii.gz", modality="CT", folder="volumes"),
        covid_row("9", 2, "Influenza", "copy.jpg"),
    )
    for value, name in enumerate(
        ("late.jpg", "early.png", "undated.jpg", "normal.JPG", "todo.jpg", "side.jpg", "odd.jpg")
    ):
        draw(root / "images" / name, value=value * 20)
    draw(root / "images" / "shared.jpg", value=200, size=(64, 48))
    draw(root / "images" / "deep.jpg", value=210)
    draw(root / "images" / "copy.jpg", value=200, size=(64, 48))
    write(
        root / "annotations" / "covid-severity-scores.csv",
        "## Title,,\n## Note: commas, quotes,,\nfilename,geographic_mean,opacity_mean\nearly.png,6.0,4.0\n",
    )
    boxes = {
        "categories": [{"id": 1, "name": "Right Lung"}, {"id": 2, "name": "Left Lung"}],
        "images": [{"id": 1, "file_name": "early.png", "width": 400, "height": 300}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [40, 30, 100, 150]},
            {"image_id": 1, "category_id": 2, "bbox": [None, None, None, None]},
        ],
    }
    write(root / "annotations" / "imageannotation_ai_lung_bounding_boxes.json", json.dumps(boxes))
    mask = np.zeros((300, 400), dtype=np.uint8)
    mask[:, :200], mask[:150, 200:] = 255, 127
    with zipfile.ZipFile(root / HUMAN_MASKS, "w") as archive:
        for name, values in (("early.png", mask), ("late.jpg", np.zeros_like(mask))):
            picture = io.BytesIO()
            Image.fromarray(values).save(picture, format="PNG")
            archive.writestr(f"semantic_masks_v7labs_lungs/{name}", picture.getvalue())
    model = root / "annotations" / "lungVAE-masks" / "late_mask.png"
    model.parent.mkdir()
    Image.fromarray(np.where(mask == 255, 255, 90).astype(np.uint8)).save(model)
    return root


def real(name, **options):
    if not os.environ.get("MEDVLP_DATA") or registry.find(name) is None:
        pytest.skip(f"MEDVLP_DATA holds no {name}")
    return loaded_once(name, **options)


loaded_once = functools.cache(registry.load)
