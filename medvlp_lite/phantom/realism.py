"""How like real films a set of images is: the slope of its power spectrum and how alike its images are.

Both measures need no labels. Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import numpy as np


def spectral_slope(images: np.ndarray, low: int = 6, high: int = 60) -> np.ndarray:
    """Exponent b of the power law, power ~ f**b, that fits each image's radial power spectrum best.

    Each image loses its mean and is multiplied by a Hann window; power is averaged over rings of one cycle per image and a
    line is fitted to log power over log frequency. White noise has b = 0, radiographs about -3.

    Args:
        images: (N, S, S), square.
        low: first frequency of the fit, in cycles per image.
        high: last one, at most S / 2 - 1.

    Returns:
        The slopes, (N,) float64.

    Raises:
        ValueError: for images that are not square or constant, or frequencies that they do not have.
    """
    images = _stack(images)
    size = images.shape[-1]
    if images.shape[1] != size:
        raise ValueError(f"images must be square, got shape {images.shape}")
    if not 1 <= low < high <= size // 2 - 1:
        raise ValueError(f"1 <= low < high <= {size // 2 - 1} is needed at size {size}, got {low} and {high}")
    window = np.hanning(size)
    ring = np.rint(np.hypot(np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size)[None])).astype(int)
    count = np.bincount(ring.ravel())
    frequency = np.log(np.arange(low, high + 1))
    slopes = []
    for image in images:
        power = np.abs(np.fft.rfft2((image - image.mean()) * window[:, None] * window)) ** 2
        rings = np.bincount(ring.ravel(), weights=power.ravel()) / count
        slopes.append(np.polyfit(frequency, np.log(rings[low : high + 1]), 1)[0])
    return np.asarray(slopes)


def pairwise_correlation(images: np.ndarray) -> float:
    """Mean Pearson correlation, over pixels, of all pairs of different images (N, H, W): 1 where all show the same.

    Raises:
        ValueError: for fewer than two images, or a constant one.
    """
    pixels = _stack(images)
    if len(pixels) < 2:
        raise ValueError(f"pairs need at least two images, got {len(pixels)}")
    pixels = pixels.reshape(len(pixels), -1)
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    total = np.square(pixels.sum(axis=0)).sum()  # the sum over all pairs, each image with itself included
    return float((total - len(pixels)) / (len(pixels) * (len(pixels) - 1)))


def _stack(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, dtype=float)
    if images.ndim != 3:
        raise ValueError(f"images must be an array (N, H, W), got shape {images.shape}")
    flat = np.ptp(images, axis=(1, 2)) == 0
    if flat.any():
        raise ValueError(f"image {int(flat.argmax())} is constant")
    return images
