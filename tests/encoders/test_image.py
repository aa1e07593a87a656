import math

import pytest
import torch

from medvlp_lite.encoders.image import IMAGE_ENCODERS, ViTEncoder, image_encoder, sincos_positions, standardise


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_every_image_encoder_gives_the_map_it_promises(name):
    size = 64 if "vit" not in name else (112 if name == "vit_lite" else 224)
    if name == "vit_b16":
        pytest.skip("86 M parameters: its shape is the lite one's with other numbers")
    encoder = image_encoder(name, size).eval()
    with torch.no_grad():
        out = encoder(torch.rand(2, 1, size, size))
    assert out.shape == (2, encoder.width, size // encoder.stride, size // encoder.stride)


def test_resnet50_layer3_is_the_map_of_equation_k2():
    encoder = image_encoder("resnet50_layer3", 224).eval()
    with torch.no_grad():
        assert encoder(torch.rand(1, 1, 224, 224)).shape == (1, 1024, 14, 14)


def test_lite_sizes_fit_a_laptop():
    for name in ("resnet_lite", "vit_lite"):
        assert sum(p.numel() for p in image_encoder(name, 112).parameters()) < 1_000_000


def test_unknown_encoders_are_refused_by_name():
    with pytest.raises(ValueError, match="no image encoder 'vgg'"):
        image_encoder("vgg", 112)
    with pytest.raises(ValueError, match="not a multiple of the patch side"):
        ViTEncoder("lite", 100)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="images must be"):
        standardise(torch.zeros(shape))


def test_vit_on_all_patches_in_any_order_equals_the_full_map():
    torch.manual_seed(0)
    encoder = ViTEncoder("lite", 32).eval()
    images = torch.rand(2, 1, 32, 32)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    with torch.no_grad():
        tokens, full = encoder(images, order), encoder(images).flatten(2).transpose(1, 2)
    assert torch.allclose(tokens, full.gather(1, order.unsqueeze(-1).expand(-1, -1, 128)), atol=1e-5)


def test_vit_cannot_see_what_is_not_visible():
    torch.manual_seed(0)
    encoder = ViTEncoder("lite", 32).eval()
    images = torch.rand(1, 1, 32, 32)
    changed = images.clone()
    changed[..., 8:, :] = 0  # rows of patches 1..3
    visible = torch.arange(4).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(encoder(images, visible), encoder(changed, visible))


def test_position_codes_are_distinct_and_bounded():
    codes = sincos_positions(14, 128)
    assert codes.shape == (196, 128) and codes.abs().max() <= 1
    assert torch.unique(codes, dim=0).shape[0] == 196
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions(4, 6)


def test_position_codes_put_the_column_first_as_mae_does():
    codes, grid, width = sincos_positions(3, 8), 3, 8
    for row in range(grid):
        for column in range(grid):
            rates = [10_000 ** (-k / (width / 4)) for k in range(width // 4)]
            expected = [f(place * rate) for place in (column, row) for f in (math.sin, math.cos) for rate in rates]
            assert codes[row * grid + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_numbers_instead_of_a_name_size_a_vit():
    encoder = ViTEncoder([8, 3, 2, 4], 16)
    assert (encoder.width, len(encoder.blocks), encoder.stride, encoder.grid) == (8, 3, 4, 4)
