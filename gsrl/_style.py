"""One look for all pictures: ink, colours that colour-blind readers tell apart, and matplotlib's settings."""

from __future__ import annotations

from typing import Any

__all__ = ["BLUE", "COLOURS", "FAINT", "INK", "ORANGE", "PALE", "SOFT", "STYLE"]

INK, SOFT, FAINT = "#222222", "#666666", "#e5e5e5"
"""Of text and lines; of what is said beside; and of grids."""

BLUE, ORANGE = "#0072B2", "#D55E00"
"""The first two of :data:`COLOURS`: what is shown, and what is pointed out in it."""

PALE = "#9fc3dc"
"""Of single seeds and episodes, behind what is made of them."""

COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4F9A", "#8C6D31", "#4D4D4D", "#A6B727")
"""Of what is compared, in this order: those of Okabe and Ito, "Color Universal Design", 2008, but for yellow and black,
which are not seen on white or taken for ink, and four more."""

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "grid.color": FAINT,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "xtick.color": INK,
    "ytick.color": INK,
}
"""Settings of matplotlib."""
