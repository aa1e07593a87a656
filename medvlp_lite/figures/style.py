"""One look for all figures: readable in light and dark pages, and not by colour alone.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "d", "p")
LINES = ("-", "--", "-.", ":")


def use_style() -> None:
    """Opaque white ground, colour-blind-safe palette, at most 6.5 inches wide, no type below 9 points ("small")."""
    import matplotlib as mpl
    import seaborn as sns

    sns.set_theme(style="ticks", palette="colorblind", context="notebook", font_scale=0.9)
    mpl.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 110,
            "figure.figsize": (6.2, 3.4),
            "legend.fontsize": 9,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "image.cmap": "gray",
        }
    )
