import pytest
import torch

from medvlp_lite.components.reconstruction import (
    MaskedDecoder,
    patchify,
    position_map,
    random_masking,
    reconstruction_loss,
    shrink,
    unpatchify,
    visible_count,
)  # fmt: skip


@pytest.mark.parametrize(
    "patches, ratio, count", [(196, 0.5, 98), (196, 0.75, 49), (16, 0, 16), (9, 0.5, 4), (100, 0.9, 10)]
)
def test_as_many_patches_stay_as_the_equation_says(patches, ratio, count):
    assert visible_count(patches, ratio) == count


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 0.999])
def test_a_mask_that_hides_everything_is_refused(ratio):
    with pytest.raises(ValueError, match="mask_ratio must lie"):
        visible_count(196, ratio)


@pytest.mark.parametrize("grid, ratio, block", [(4, 0.5, 1), (14, 0.75, 1), (14, 0.5, 4), (7, 0.3, 7), (3, 0, 2)])
def test_every_map_has_exactly_as_many_ones(grid, ratio, block):
    torch.manual_seed(0)
    visible = random_masking(50, grid, ratio, block=block)
    seen = position_map(visible, grid * grid)
    assert seen.shape == (50, grid * grid) and set(seen.unique().tolist()) <= {0.0, 1.0}
    assert (seen.sum(dim=1) == visible_count(grid * grid, ratio)).all()
    assert ratio == 0 or len({tuple(row) for row in seen.tolist()}) > 25, "each image draws its own mask"


def test_every_patch_is_seen_equally_often():
    torch.manual_seed(0)
    for block in (1, 3):
        rate = position_map(random_masking(4000, 6, 0.5, block=block), 36).mean(dim=0)
        assert (rate - 0.5).abs().max() < 0.05


def test_block_masks_hide_neighbours_together():
    torch.manual_seed(0)

    def agreement(block):
        seen = position_map(random_masking(400, 12, 0.5, block=block), 144).view(-1, 12, 12)
        return (seen[:, :, 1:] == seen[:, :, :-1]).float().mean().item()

    assert agreement(1) == pytest.approx(0.5, abs=0.03) and agreement(4) > 0.8
    with pytest.raises(ValueError, match=r"block must lie in 1\.\.4"):
        random_masking(2, 4, 0.5, block=5)


def test_patches_by_hand_in_row_column_channel_order():
    image = torch.arange(32.0).view(1, 2, 4, 4)  # channel 0 holds 0..15, channel 1 holds 16..31
    patches = patchify(image, 2)
    assert patches.shape == (1, 4, 8)
    assert patches[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]
    assert torch.equal(unpatchify(patches, 2, channels=2), image)
    images = torch.rand(3, 1, 12, 12)
    assert torch.equal(unpatchify(patchify(images, 4), 4), images)
    with pytest.raises(ValueError, match="cannot be cut"):
        patchify(images, 5)
    with pytest.raises(ValueError, match="do not form a square"):
        unpatchify(torch.zeros(1, 3, 4), 2)


def cubic(x, a=-0.75):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_half_size_is_bicubic_without_antialiasing():
    image = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    weights = [cubic(offset) for offset in (-1.5, -0.5, 0.5, 1.5)]
    inner = image[0, 0, 1:5, 3:7]  # what output pixel (1, 2) reads
    by_hand = sum(weights[r] * weights[c] * inner[r, c] for r in range(4) for c in range(4))
    assert shrink(image)[0, 0, 1, 2].item() == pytest.approx(by_hand.item(), rel=1e-9)
    assert torch.equal(shrink(image, 1), image)
    with pytest.raises(ValueError, match="cannot be shrunk by 2"):
        shrink(torch.zeros(1, 1, 7, 8))


def slow_loss(predicted, target, seen, norm):
    total, hidden = 0.0, 0
    for b in range(len(seen)):
        for n in range(seen.shape[1]):
            if seen[b, n] == 0:
                truth = target[b, n].tolist()
                squares = [(p - t) ** 2 for p, t in zip(predicted[b, n].tolist(), truth)]
                total += sum(squares) / len(squares) if norm == "mean" else sum(squares)
                hidden += 1
    return total / (hidden if norm == "mean" else len(seen))


@pytest.mark.parametrize("norm", ["mean", "sum"])
def test_loss_equals_the_loop(norm):
    generator = torch.Generator().manual_seed(0)
    predicted, target = (torch.randn(3, 9, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    seen = (torch.rand(3, 9, generator=generator) < 0.5).double()
    fast = reconstruction_loss(predicted, target, seen, norm=norm)
    assert fast.item() == pytest.approx(slow_loss(predicted, target, seen, norm), rel=1e-9)


def test_loss_where_nothing_is_hidden_is_zero_and_not_nan():
    predicted = torch.randn(2, 4, 3, requires_grad=True)
    loss = reconstruction_loss(predicted, torch.randn(2, 4, 3), torch.ones(2, 4))
    loss.backward()
    assert loss.item() == 0 and predicted.grad.abs().sum() == 0


def test_only_hidden_patches_teach():
    predicted, seen = torch.randn(1, 4, 3, requires_grad=True), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    reconstruction_loss(predicted, torch.randn(1, 4, 3), seen).backward()
    assert (predicted.grad.abs().sum(dim=2) > 0).tolist() == [[False, True, False, True]]


def test_loss_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit together"):
        reconstruction_loss(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), torch.zeros(1, 5))
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        reconstruction_loss(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), torch.zeros(1, 4), norm="l1")


def test_decoder_puts_each_token_back_where_it_came_from():
    torch.manual_seed(0)
    decoder = MaskedDecoder(8, 4, 3, width=16, depth=2, heads=2).eval()
    tokens, visible = torch.randn(2, 5, 8), torch.stack([torch.randperm(9)[:4] for _ in range(2)])
    drawn = decoder(tokens, visible)
    assert drawn.shape == (2, 9, 4)
    order = torch.tensor([2, 0, 3, 1])
    moved = torch.cat([tokens[:, :1], tokens[:, 1:][:, order]], dim=1)
    assert torch.allclose(decoder(moved, visible[:, order]), drawn, atol=1e-5), "the order of tokens must not matter"
    assert not torch.allclose(decoder(tokens, visible.flip(1)), drawn, atol=1e-3), "their places must"


def test_hidden_patches_differ_only_by_their_place():
    torch.manual_seed(0)
    decoder = MaskedDecoder(8, 4, 3, width=16).eval()
    decoder.positions.zero_()
    drawn = decoder(torch.randn(1, 3, 8), torch.tensor([[0, 4]]))[0]
    hidden = drawn[[1, 2, 3, 5, 6, 7, 8]]
    assert torch.allclose(hidden, hidden[:1].expand_as(hidden), atol=1e-5)
