"""One look for all pictures: ink, colours that colour-blind readers tell apart, and matplotlib's settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["BLUE", "COLOURS", "FAINT", "GREEN", "INK", "ORANGE", "PALE", "SOFT", "STYLE", "styled"]

INK, SOFT, FAINT = "#222222", "#666666", "#e5e5e5"
"""Of text and lines; of what is said beside, and of what others are held against; and of grids."""

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
"""The first of :data:`COLOURS`: what is shown, what is pointed out in it, and what is good."""

PALE = "#9fc3dc"
"""Of single seeds and episodes, behind what is made of them."""

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#1B1B6B", "#6B4226", "#000000")
"""Of what is compared, in this order: those of Okabe and Ito, "Color Universal Design", 2008, but for yellow, which is
not seen on white, and three dark ones. As the colour-blind see them, any two are apart."""

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 200,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
"""Settings of matplotlib."""


@contextmanager
def styled(**others: Any) -> Iterator[None]:
    """Lets figures that are made and saved inside have this look; a decorator of functions that draw, too.

    Args:
        **others: Settings of matplotlib, with double underscores for dots.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    from matplotlib import rc_context

    settings: Any = STYLE | {name.replace("__", "."): value for name, value in others.items()}
    with rc_context(settings):
        yield
