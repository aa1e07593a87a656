import numpy as np
import pytest
from PIL import Image

from medvlp_lite.sources.base import read_image


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "P", "LA", "1"])
def test_read_image_flattens_every_mode(tmp_path, mode):
    grey = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.dtype == np.uint8 and read.shape == (8, 8)
    assert np.abs(read.astype(int) - grey).max() <= (255 if mode == "1" else 3)


def test_a_broken_image_names_its_file(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        read_image(tmp_path / "broken.png")
