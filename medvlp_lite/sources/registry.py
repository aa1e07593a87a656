"""Which real data sets there are, where they lie on this machine, and how to get them."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from medvlp_lite.sources.base import LoadResult, SourceError, read_rows
from medvlp_lite.sources.download import RemoteFile, fetch_files

_OPENI = "https://openi.nlm.nih.gov/imgs/collections"
_NIH_BOX = "https://nihcc.box.com/shared/static"
_NIH_PARTS = (
    "vfk49d74nhbxq3nqjg0900w5nvkorp5c",
    "i28rlmbvmfjbl8p2n3ril0pptcmcu9d1",
    "f1t00wrtdk94satdfb9olcolqx20z2jp",
    "0aowwzs5lhjrceb3qp67ahp0rd1l1etg",
    "v5e3goj22zr6h8tzualxfsqlqaygfbsn",
    "asi7ikud9jwnkrnkj99jnpfkjdes7l6l",
    "jn1b4mw4n6lnh74ovmcjb8y48h8xj07n",
    "tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j",
    "upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj",
    "l6nilvfa9cg3s28tqv1qc1olm3gnz54p",
    "hhq8fkdgvcari67vfhs7ppg2w6ni4jze",
    "ioqwiy20ihqwyr8pf4c24eazhh281pbu",
)


@dataclass(frozen=True)
class DataSet:
    """One real data set: what it is, under which terms, which folder names it goes by, and how it is obtained.

    ``markers`` are glob patterns in the set's folder; one must match for the set to count as present. ``counted`` is the
    pattern of what there is one of per study: files, or the one archive or table that lists them. ``files`` are those the home lets anyone download; none of them has a
    published hash, so the first download records its own (see ``download``). ``by_hand``: its tables are not among them.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    markers: tuple[str, ...]
    counted: tuple[str, ...]
    licence: str
    citation: str
    size: str
    home: str
    instruction: str
    files: tuple[RemoteFile, ...] = ()
    by_hand: bool = False


# The addresses below were collected without reaching the homes; one that has moved answers with an error that is passed on.
SETS: dict[str, DataSet] = {
    entry.name: entry
    for entry in (
        DataSet(
            name="openi",
            title="Open-i Indiana reports",
            folders=("openi", "open-i", "indiana", "nlmcxr", "chest-xrays-indiana-university"),
            markers=("*reports*.tgz", "ecgen-radiology/*.xml", "indiana_reports.csv", "[0-9]*.xml"),
            counted=("ecgen-radiology/*.xml", "*reports*.tgz", "indiana_reports.csv"),
            licence="CC BY-NC-ND 4.0",
            citation="demnerfushman2016openi",
            size="1 MB; with images over 1 GB",
            home="https://openi.nlm.nih.gov/faq",
            instruction="download NLMCXR_reports.tgz, and NLMCXR_png.tgz for the images, into one folder named openi",
            files=(
                RemoteFile(f"{_OPENI}/NLMCXR_reports.tgz", "NLMCXR_reports.tgz"),
                RemoteFile(f"{_OPENI}/NLMCXR_png.tgz", "NLMCXR_png.tgz", unpack_to="NLMCXR_png", images=True),
            ),
        ),
        DataSet(
            name="nih",
            title="NIH ChestX-ray14",
            folders=(
                "nih",
                "nih_chestxray14",
                "chestx-ray14",
                "chestxray14",
                "chestxray-nihcc",
                "nih-chest-xrays",
                "cxr8",
            ),
            markers=("Data_Entry_2017*.csv",),
            counted=("images/*.*", "images_*/images/*.*"),
            licence="no restriction, attribution",
            citation="wang2017chestxray8",
            size="42 GB",
            home="https://nihcc.app.box.com/v/ChestXray-NIHCC",
            instruction="download Data_Entry_2017_v2020.csv, BBox_List_2017.csv, train_val_list.txt and test_list.txt into one "
            "folder named nih, and the images (or: medvlp-lite data get nih --images)",
            by_hand=True,
            files=tuple(
                RemoteFile(f"{_NIH_BOX}/{part}.gz", f"images_{i:03d}.tar.gz", unpack_to=f"images_{i:03d}", images=True)
                for i, part in enumerate(_NIH_PARTS, 1)
            ),
        ),
        DataSet(
            name="rsna",
            title="RSNA pneumonia 2018",
            folders=("rsna", "rsna_pneumonia", "rsna-pneumonia-detection-challenge", "rsna-pneumonia"),
            markers=("stage_2_train_labels.csv",),
            counted=("stage_2_train_images/*.*",),
            licence="RSNA terms, attribution",
            citation="shih2019rsna",
            size="4 GB",
            home="https://www.rsna.org/education/ai-resources-and-training/ai-image-challenge/rsna-pneumonia-detection-challenge-2018",
            instruction="accept the terms at the home page or on Kaggle (rsna-pneumonia-detection-challenge), then unpack "
            "stage_2_train_labels.csv, stage_2_detailed_class_info.csv and stage_2_train_images/ into one folder named rsna",
            by_hand=True,
            files=(
                RemoteFile(
                    "https://s3.amazonaws.com/east1.public.rsna.org/AI/2018/pneumonia-challenge-dataset-mappings_2018.json",
                    "pneumonia-challenge-dataset-mappings_2018.json",
                ),
            ),
        ),
        DataSet(
            name="covid",
            title="COVID-19 image data collection",
            folders=(
                "covid-chestxray",
                "covid_chestxray",
                "covid-chestxray-dataset",
                "covid-chestxray-dataset-master",
                "covid",
            ),
            markers=("metadata.csv",),
            counted=("images/*.*",),
            licence="per image; metadata CC BY-NC-SA 4.0",
            citation="cohen2020covid",
            size="about 1 GB",
            home="https://github.com/ieee8023/covid-chestxray-dataset",
            instruction="clone or download the repository into a folder named covid-chestxray",
            files=(
                RemoteFile(
                    "https://github.com/ieee8023/covid-chestxray-dataset/archive/cec70df07d40383581484c70bb6ada1e6a2fc077.zip",
                    "covid-chestxray-dataset.zip",
                    unpack_to=".",
                    strip_top=True,
                ),
                RemoteFile(
                    "https://github.com/mlmed/torchxrayvision/raw/913e4e0bdd289c2a9a0ce3678943f4089b4b284f/torchxrayvision/data/semantic_masks_v7labs_lungs.zip",
                    "semantic_masks_v7labs_lungs.zip",
                ),
            ),
        ),
        DataSet(
            name="brixia",
            title="Brixia severity scores",
            folders=("brixia", "brixia-score-covid-19", "brixia-score-covid-19-master"),
            markers=("data/public-annotations.csv", "public-annotations.csv"),
            counted=("data/public-annotations.csv", "public-annotations.csv"),
            licence="CC BY-NC-SA 4.0",
            citation="signoroni2021brixia",
            size="10 kB, and the COVID collection",
            home="https://github.com/BrixIA/Brixia-score-COVID-19",
            instruction="download data/public-annotations.csv into brixia/data, and get the set covid for the images",
            files=(
                RemoteFile(
                    "https://github.com/BrixIA/Brixia-score-COVID-19/raw/770036d297b3c52a6789f134bd9d8c8953d33ec1/data/public-annotations.csv",
                    "data/public-annotations.csv",
                ),
            ),
        ),
        DataSet(
            name="pneumocxr",
            title="PneumoCXR layout",
            folders=("pneumocxr",),
            markers=("pneumocxr.csv",),
            counted=("pneumocxr.csv",),
            licence="your own data",
            citation="ren2025mskpt",
            size="yours",
            home="https://doi.org/10.1177/08953996241296400",
            instruction="the paper's set is private; put your own table pneumocxr.csv (columns image, patient, stage, report) and the "
            "images that it names into one folder named pneumocxr",
            by_hand=True,
        ),
    )
}


def data_root() -> Path:
    """The folder of data sets: ``MEDVLP_DATA``, else one in this user's cache folder."""
    named = os.environ.get("MEDVLP_DATA")
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("medvlp-lite", appauthor=False) / "data"


def entry_of(name: str) -> DataSet:
    """The table's entry. Raises SourceError listing the names there are."""
    if name not in SETS:
        raise SourceError(f"there is no data set {name!r}; the names are {', '.join(SETS)}")
    return SETS[name]


def find(name: str, root: Path | str | None = None) -> Path | None:
    """The set's folder in ``root`` (default ``data_root()``): one of its folder names, the folder inside that an archive
    unpacked to, or ``root`` itself. None when it is not there."""
    entry, root = entry_of(name), data_root() if root is None else Path(root).expanduser()
    if not root.is_dir():
        return None
    named = [path for path in root.iterdir() if path.name.lower() in entry.folders and path.is_dir()]
    named.sort(key=lambda path: entry.folders.index(path.name.lower()))
    inner = [path for folder in named for path in sorted(folder.iterdir()) if path.is_dir()]
    return next((folder for folder in (*named, *inner, root) if _matches(folder, entry.markers)), None)


def _matches(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def locate(name: str, root: Path | str | None = None) -> Path:
    """The folder (or archive file) to load ``name`` from. Raises SourceError that tells how to get the set."""
    entry = entry_of(name)
    if root is not None and not Path(root).expanduser().exists():
        raise SourceError(f"folder {root} does not exist; give the folder that holds {entry.title}")
    if root is not None and Path(root).expanduser().is_file():
        return Path(root).expanduser()
    folder = find(name, root)
    if folder:
        return folder
    if root is None:
        way = f"run 'medvlp-lite data get {name}', or let MEDVLP_DATA name the folder that holds it"
        raise SourceError(f"{entry.title} is not in {data_root()}; {way}")
    raise SourceError(f"folder {root} holds no {' or '.join(entry.markers)}; give the folder that holds {entry.title}")


def count(name: str, folder: Path) -> int | None:
    """How many reports or images lie in ``folder``, cheaply: files are counted, not opened. None where that is not known."""
    for pattern in entry_of(name).counted:
        paths = sorted(folder.glob(pattern))
        if paths and paths[0].suffix == ".csv":
            return sum(1 for _ in read_rows(paths[0], ()))
        if paths and paths[0].suffix == ".tgz":
            try:
                with tarfile.open(paths[0]) as archive:
                    return sum(member.endswith(".xml") for member in archive.getnames())
            except (tarfile.TarError, OSError, EOFError, zlib.error):
                return None
        if paths:
            return len(paths)
    return None


def load(name: str, root: Path | str | None = None, **options: object) -> LoadResult:
    """Load a set by its name, with its module's options. Raises SourceError for an unknown name."""
    return import_module(f"medvlp_lite.sources.{entry_of(name).name}").load(root, **options)


def fetch(name: str, *, images: bool = False, log: Callable[[str], None] = print) -> Path:
    """Download what the set's home gives without a form into ``data_root()``, verified and resumable.

    ``images`` also takes the large image archives. What is there already is left alone. Raises SourceError when a
    download fails, or when the set's tables must be fetched by hand (how, ``log`` has said before).
    """
    entry, found = entry_of(name), find(name)
    if entry.by_hand and not found:
        log(f"The tables of {entry.title} must be fetched by hand: {entry.instruction}, in {data_root()}")
    wanted = [file for file in entry.files if images or not file.images]
    if found:
        wanted = [file for file in wanted if file.unpack_to != "."]
    fetch_files(wanted, found or data_root() / entry.folders[0], log=log)
    folder = find(name)
    if folder is None:
        raise SourceError(f"{entry.title} is not complete before its tables are fetched by hand from {entry.home}")
    return folder
