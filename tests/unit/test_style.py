"""The look of pictures: colours are told apart, whoever looks, and nobody has others."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gsrl._style import COLOURS, STYLE, styled
from tests.common.wheels import ROOT

# Machado et al., "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009: severity 1.
SEEN_BY = {
    "everybody": np.eye(3),
    "deuteranopes": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanopes": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
}
XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
WHITE = np.array([0.9505, 1.0, 1.0888])


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    """CIELAB of a colour as it is seen."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    shares = XYZ @ np.clip(seen @ linear, 0, 1) / WHITE
    x, y, z = np.where(shares > 0.008856, np.cbrt(shares), 7.787 * shares + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("who", SEEN_BY)
def test_any_two_colours_are_apart(who: str) -> None:
    """A difference of 2.3 is just noticed; these are lines far from each other."""
    places = np.array([lab(colour, SEEN_BY[who]) for colour in (*COLOURS, "#ffffff")])
    distances = np.linalg.norm(places[:, None] - places, axis=-1)[~np.eye(len(places), dtype=bool)]
    assert distances.min() > 15


def test_figures_inside_have_the_look_and_others_do_not() -> None:
    mpl = pytest.importorskip("matplotlib")
    before = dict(mpl.rcParams)
    with styled(font__size=7):
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == list(COLOURS)
        assert (mpl.rcParams["savefig.dpi"], mpl.rcParams["font.size"]) == (STYLE["savefig.dpi"], 7)
    assert dict(mpl.rcParams) == before


def test_there_is_one_look() -> None:
    own = re.compile(r"rcParams|rc_context|style\.use\((?!STYLE|SMALL)")
    files = [path for folder in ("gsrl", "benchmarks", "agents") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in files if own.search(path.read_text("utf-8")) and path.name != "_style.py"] == []
