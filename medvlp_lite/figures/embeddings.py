"""Maps of an embedding space. A map is a picture, not a measurement: show several seeds and a number beside it.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from medvlp_lite.figures.curves import legend_below
from medvlp_lite.figures.style import MARKERS


def project(vectors: np.ndarray, method: str = "tsne", *, seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """Vectors (N, d) to points (N, 2) by t-SNE or UMAP on cosine distance.

    ``perplexity`` (UMAP: number of neighbours) is lowered when there are too few points. Raises ValueError for an unknown
    method or fewer than 5 points.
    """
    if len(vectors) < 5:
        raise ValueError(f"a map needs at least 5 points, got {len(vectors)}")
    nearby = min(perplexity, (len(vectors) - 1) / 3)
    if method == "tsne":
        from sklearn.manifold import TSNE

        return TSNE(perplexity=nearby, metric="cosine", init="random", random_state=seed).fit_transform(vectors)
    if method == "umap":
        import warnings

        import torch

        threads = torch.get_num_threads()
        try:
            from umap import UMAP

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return UMAP(n_neighbors=max(2, int(nearby)), metric="cosine", random_state=seed).fit_transform(vectors)
        finally:
            torch.set_num_threads(threads)  # UMAP's numba changes it, and many small steps then wait for each other
    raise ValueError(f"method must be 'tsne' or 'umap', got {method!r}")


def plot_map(
    points: np.ndarray,
    groups: Sequence[str],
    *,
    title: str,
    axes: Axes | None = None,
    legend: bool = True,
    most: int = 6,
) -> Axes:
    """Points (N, 2), one colour and marker for each of the ``most`` largest groups; all others are small and grey."""
    axes = axes or plt.subplots(figsize=(4.6, 4.2))[1]
    groups = np.asarray(groups)
    names, counts = np.unique(groups, return_counts=True)
    named = sorted(names[np.argsort(-counts, kind="stable")][:most])
    rest = ~np.isin(groups, named)
    if rest.any():
        axes.scatter(*points[rest].T, s=8, color="0.75", label="others", linewidths=0)
    for place, (name, colour) in enumerate(zip(named, sns.color_palette("colorblind", len(named)))):
        chosen = groups == name
        axes.scatter(
            *points[chosen].T, s=20, color=colour, marker=MARKERS[place % len(MARKERS)], label=name, linewidths=0
        )
    axes.set(xticks=[], yticks=[], title=title)
    if legend:
        legend_below(axes, drop=0.12, markerscale=1.4)
    return axes
