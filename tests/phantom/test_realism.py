import numpy as np
import pytest

from medvlp_lite.phantom import make_studies
from medvlp_lite.phantom.realism import pairwise_correlation, spectral_slope


def noise(exponent: float, count: int, size: int = 128, seed: int = 0) -> np.ndarray:
    """(count, size, size): Gaussian fields whose power is frequency ** exponent."""
    rng = np.random.default_rng(seed)
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    radius[0, 0] = 1
    return np.fft.irfft2(np.fft.rfft2(rng.normal(size=(count, size, size))) * radius ** (exponent / 2))


@pytest.mark.parametrize("exponent", [0.0, -1.0, -2.0, -3.0])
def test_spectral_slope_finds_the_power_law(exponent):
    slopes = spectral_slope(noise(exponent, 24))
    assert slopes.shape == (24,) and slopes.mean() == pytest.approx(exponent, abs=0.05)


def test_spectral_slope_depends_on_neither_brightness_nor_contrast():
    images = noise(-2.0, 3)
    np.testing.assert_allclose(spectral_slope(40 * images + 7), spectral_slope(images), atol=1e-9)


def test_spectral_slope_looks_only_at_the_frequencies_asked_for():
    fine = 3 * np.cos(2 * np.pi * 52 * np.arange(128) / 128)
    rough, images = noise(-2.0, 4), noise(-2.0, 4) + fine
    np.testing.assert_allclose(spectral_slope(images, 6, 30), spectral_slope(rough, 6, 30), atol=1e-3)
    assert (spectral_slope(images, 6, 60) > spectral_slope(rough, 6, 60)).all()


def test_pairwise_correlation_equals_the_mean_of_all_pairs():
    images = noise(-2.0, 5, 16)
    table = np.corrcoef(images.reshape(5, -1))
    assert pairwise_correlation(images) == pytest.approx(table[np.triu_indices(5, 1)].mean())


def test_pairwise_correlation_is_1_for_the_same_and_minus_1_for_the_opposite():
    image = noise(-2.0, 1)[0]
    assert pairwise_correlation(np.stack([image, 3 * image + 2, image])) == pytest.approx(1)
    assert pairwise_correlation(np.stack([image, -image])) == pytest.approx(-1)


def test_pairwise_correlation_of_a_shared_part_is_its_share_of_the_variance():
    rng = np.random.default_rng(1)
    images = rng.normal(size=(1, 200, 200)) + rng.normal(size=(12, 200, 200))
    assert pairwise_correlation(images) == pytest.approx(0.5, abs=0.01)


def test_phantoms_are_as_varied_and_as_rough_as_clinical_films():
    """200 films of NIH ChestX-ray14 measure -3.16 and .53 this way; the bounds are 0.2 of slope and .62."""
    images = np.stack([study.image for study in make_studies(60, seed=500, size=256)])
    assert spectral_slope(images).mean() == pytest.approx(-3.16, abs=0.2)
    assert pairwise_correlation(images) <= 0.62


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spectral_slope(np.zeros((8, 8))), "array"),
        (lambda: spectral_slope(noise(0, 1)[:, :64]), "square"),
        (lambda: spectral_slope(noise(0, 1), 6, 64), "low|<="),
        (lambda: spectral_slope(np.ones((2, 128, 128))), "image 0 is constant"),
        (lambda: pairwise_correlation(noise(0, 1)), "two images"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
