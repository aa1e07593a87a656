"""Reading the released MedFILIP checkpoint.

Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvlp_lite.encoders.image import GREY_MEAN, GREY_STD
from medvlp_lite.encoders.text import CLIP_B32, ReportTokenizer, hub_tokenizer
from medvlp_lite.official.checkpoint import official_state, require_fit
from medvlp_lite.reports.knowledge import base
from medvlp_lite.systems.medfilip import MedFILIP, MedFILIPConfig

TRUNK = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
OFFICIAL_NAMES = {
    **{f"image_model.{name}.": f"image_encoder.body.{place}." for name, place in TRUNK.items()},
    "image_model.fc.": "image_projection.",
    "text_model.": "text_encoder.core.",
    "text_projection.": "text_projection.",
}


def from_official(
    path: str | Path,
    *,
    tokenizer: ReportTokenizer | None = None,
    categories: Sequence[str] | None = None,
    grey: tuple[float, float] = (GREY_MEAN, GREY_STD),
    trust: bool = False,
) -> MedFILIP:
    """The authors' checkpoint as a MedFILIP of ours: ResNet-50, CLIP's text tower, and the choices of the released code.

    ``tokenizer`` is CLIP's, fetched when not given; ``categories`` are by default the 61 explained ones; ``grey`` is the mean
    and standard deviation of the training images in [0, 1], which the file does not hold. ``trust`` allows a file that holds more than
    tensors (a pickle can run code: only for a file you know). Raises ValueError listing every name that is missing, unexpected
    or of another shape.
    """
    state = official_state(path, OFFICIAL_NAMES, key="network", trust=trust)
    state = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}  # old transformers
    config = MedFILIPConfig(
        categories=tuple(categories or sorted(base()["categories"])), image_encoder="resnet50", text_encoder="clip",
        image_size=448, dim=768, grey=grey, similarity_model="mpnet", centre_similarity=False, same_category_only=True,
        clamp_min=None, mse_on="scaled", template="code",
    )  # fmt: skip
    system = MedFILIP(tokenizer or hub_tokenizer(CLIP_B32), config)
    own = system.state_dict()
    require_fit(state, own, path, "MedFILIP")
    system.load_state_dict(state)
    return system.eval()
