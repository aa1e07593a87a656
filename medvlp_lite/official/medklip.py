"""Reading the released MedKLIP checkpoint.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from pathlib import Path

import torch

from medvlp_lite.encoders.sentence import SENTENCE_MODELS
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.official.checkpoint import official_state, require_fit
from medvlp_lite.reports.knowledge import describe
from medvlp_lite.reports.vocabulary import vocabulary
from medvlp_lite.systems.medklip import POSITION_PROMPT, MedKLIP, MedKLIPConfig

OFFICIAL_NAMES = {
    "res_features.": "image_encoder.body.",
    "res_l1.": "token_mlp.0.",
    "res_l2.": "token_mlp.2.",
    "disease_embedding_layer.": "query_projection.",
    "cl_fc.": "position_head.",
    "classifier.": "existence_head.",
    "decoder.": "decoder.",
}
BIO_CLINICAL_BERT = SENTENCE_MODELS["clinicalbert"]


def from_official(
    path: str | Path,
    *,
    entity_vectors: torch.Tensor | None = None,
    position_vectors: torch.Tensor | None = None,
    trust: bool = False,
) -> MedKLIP:
    """The authors' released checkpoint as a MedKLIP of ours: ResNet-50 through layer3, 4 layers, 75 entities.

    The file does not hold the frozen text vectors (75, 768) and (51, 768). What is not given of them is computed with
    Bio_ClinicalBERT from our descriptions, which are not the authors'; offline and not cached, that is an OSError. ``trust`` allows a file that holds more than tensors
    (a pickle can run code: only for a file you know). Raises ValueError listing every name that is missing, unexpected or
    of another shape.
    """
    state = official_state(path, OFFICIAL_NAMES, trust=trust)
    words = vocabulary()
    text_width = state["query_projection.weight"].shape[1] if "query_projection.weight" in state else 768
    tokenizer = ReportTokenizer.train([describe(name) for name in words["entities"]])
    config = MedKLIPConfig(
        tuple(words["entities"]), "resnet50_layer3", image_size=224, width=256, heads=4, layers=4, feedforward=1024,
        dropout=0.1, init_std=0.02, attention_start=1.0, memory_norm=False, position_weight=1.0,
        text_model=BIO_CLINICAL_BERT, text_width=text_width,
    )  # fmt: skip
    system = MedKLIP(tokenizer, config)
    own = {name: tensor for name, tensor in system.state_dict().items() if not name.endswith("_vectors")}
    require_fit(state, own, path, "MedKLIP")
    wordings = {
        "entity_vectors": (entity_vectors, [describe(name) for name in words["entities"]]),
        "position_vectors": (position_vectors, [POSITION_PROMPT.format(name) for name in words["positions"]]),
    }
    for name, (given, texts) in wordings.items():
        state[name] = system.texts(texts) if given is None else given
        if state[name].shape != (len(texts), text_width):
            raise ValueError(f"{name} must be {(len(texts), text_width)}, got {tuple(state[name].shape)}")
    system.load_state_dict(state)
    return system.eval()
