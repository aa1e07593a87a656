"""One tiny untrained system of every kind, and what to ask it."""

import torch
from conftest import WORDS

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems import convirt, maco, medfilip, medklip, mskpt, mskpt_staging, supervised, unimodal
from medvlp_lite.systems.base import Query, System

STAGES = ("stage 0", "stage II", "pneumoconiosis")
SIZE = {"image_size": 32}


BUILDERS = {
    "convirt": lambda t, _, **o: convirt.ConVIRT(t, convirt.ConVIRTConfig(max_length=24, dim=16, **o)),
    "maco": lambda t, _, **o: maco.MaCo(t, maco.MaCoConfig(max_length=24, dim=16, **o)),
    "medfilip": lambda t, _, **o: medfilip.MedFILIP(t, medfilip.MedFILIPConfig(categories=WORDS, dim=16, **o)),
    "medklip": lambda t, _, **o: medklip.MedKLIP(
        t, medklip.MedKLIPConfig(**{"entities": WORDS, "width": 16, "heads": 2, "feedforward": 16, **o})
    ),
    "mskpt": lambda t, _, **o: mskpt.MSKPT(t, mskpt.MSKPTConfig(max_length=24, dim=16, **o)),
    "staging": lambda t, _, **o: mskpt_staging.MSKPTStaging(
        t, mskpt_staging.MSKPTStagingConfig(**{"text_weight": 0.0, "data_weight": 0.0, **o})
    ),
    "supervised": lambda t, data, **o: supervised.Supervised(t, supervised.SupervisedConfig(data.entities, **o)),
    "unimodal": lambda t, _, **o: unimodal.Unimodal(t, unimodal.UnimodalConfig(max_length=24, dim=16, **o)),
}


def build(name: str, dataset: StudyDataset, **options) -> System:
    """A system of this name for images of side 32. Raises KeyError for a name that nobody told this module of."""
    torch.manual_seed(0)
    tokenizer = ReportTokenizer.train(dataset.reports, 120)
    return BUILDERS[name](tokenizer, dataset, **SIZE, **options).eval()


def queries(name: str) -> list[Query]:
    """Three questions that a system of this name can answer."""
    return [Query.about(word) for word in (STAGES if name == "staging" else ("effusion", "nodule", "edema"))]
