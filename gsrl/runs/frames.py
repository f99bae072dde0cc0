"""What a recording shows at one step: the environment, and beside it what the agent takes its actions by.

Drawn by Pillow, in a few milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gsrl._style import BLUE, FAINT, INK, ORANGE, SOFT

__all__ = ["Decision", "Scene", "compose"]

PICTURE = (320, 240)
"""Width and height that the environment's picture has at most."""
PANEL = 236
"""Width of what stands beside it, or below."""
MARGIN = 10
ROW = 19
"""Height of a line of the panel."""
MOST_ACTIONS, MOST_FACTORS = 8, 10
"""Rows of the panel: actions, the most probable of more; and factors, the first of more."""
CURVE = 36
"""Height of the curve of the entropy."""
STEPS = 200
"""Of an episode that the curve shows, the last ones."""

TERMINAL = ("#1e1e1e", "#c0392b", "#1e8449", "#b7950b", "#2471a3", "#7d3c98", "#148f9c", "#f2f2f2")
"""The eight colours that ANSI escape sequences name."""


class Decision(NamedTuple):
    """What an agent does at one step, and what it takes it by; None for what it does not have."""

    action: NDArray[np.generic]
    """Index of the choice of each factor, ``[n]``; or the numbers of a continuous action."""
    probabilities: NDArray[np.float64] | None = None
    """Of each choice, ``[n, K]``."""
    legal: NDArray[np.bool_] | None = None
    """Which choices there are, ``[n, K]``."""
    entropy: float | None = None
    """Of all factors together, in nats."""
    values: NDArray[np.float64] | None = None
    """Q of each action, ``[K]``, where there is one factor."""
    value: float | None = None
    """Q of the action that is taken."""


class Scene(NamedTuple):
    """An agent at one step."""

    title: str
    """What tells it from others, or the environment; shortened where it is long."""
    picture: NDArray[np.uint8] | str
    """The environment, ``[height, width, 3]`` or text with ANSI's escape sequences."""
    decision: Decision
    """What it does next; at the end of an episode what it has done."""
    entropies: Sequence[float]
    """Of the steps of the episode so far, as shares of the largest that there can be."""
    steps: int
    """Steps of the episode so far."""
    total: float
    """Return of the episode so far."""
    has_ended: bool = False
    """Whether the episode is over."""


def compose(scenes: Sequence[Scene]) -> Image.Image:
    """Draws agents side by side: of one the panel stands beside the picture, of several below it.

    Args:
        scenes: One for each agent; at each step of a recording as many, of the same environment.

    Returns:
        An image in RGB, whose width and height are even, as videos want them.
    """
    cells = [_cell(scene, beside=len(scenes) == 1) for scene in scenes]
    width, height = sum(cell.width for cell in cells), max(cell.height for cell in cells)
    image = Image.new("RGB", (width + width % 2, height + height % 2), "white")
    left = 0
    for cell in cells:
        image.paste(cell, (left, 0))
        left += cell.width
    return image


def _cell(scene: Scene, *, beside: bool) -> Image.Image:
    picture, panel = _picture(scene), _panel(scene)
    if beside:
        size = (picture.width + panel.width + 3 * MARGIN, max(picture.height, panel.height) + 2 * MARGIN)
        places = ((MARGIN, (size[1] - picture.height) // 2), (picture.width + 2 * MARGIN, MARGIN))
    else:
        size = (max(picture.width, panel.width) + 2 * MARGIN, picture.height + panel.height + 3 * MARGIN)
        across = [(size[0] - part.width) // 2 for part in (picture, panel)]
        places = ((across[0], MARGIN), (across[1], picture.height + 2 * MARGIN))
    cell = Image.new("RGB", size, "white")
    for part, place in zip((picture, panel), places, strict=True):
        cell.paste(part, place)
    return cell


# The environment


def _picture(scene: Scene) -> Image.Image:
    if isinstance(scene.picture, str):
        image = _text(scene.picture)
    else:
        image = Image.fromarray(np.asarray(scene.picture, np.uint8)[..., :3])
        scale = min(PICTURE[0] / image.width, PICTURE[1] / image.height)
        how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BILINEAR  # large pixels stay sharp
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)
    if scene.has_ended:
        image = Image.blend(image, Image.new("RGB", image.size, "white"), 0.55)
    return image


def _text(text: str) -> Image.Image:
    """Text as a terminal shows it, as large as there is room for."""
    lines = [_coloured(line) for line in text.expandtabs(4).strip("\n").split("\n")]
    longest = max(1, max(sum(len(part) for part, *_ in line) for line in lines))
    size = 16
    while size > 6 and (longest * _font(size, mono=True).getlength("m") > PICTURE[0] or len(lines) * size > 190):
        size -= 1
    font = _font(size, mono=True)
    image = Image.new("RGB", PICTURE, "#fafafa")
    draw = ImageDraw.Draw(image)
    wide, high = font.getlength("m"), size * 1.25
    left = max(0.0, (PICTURE[0] - longest * wide) / 2)
    top = max(0.0, (PICTURE[1] - len(lines) * high) / 2)
    for number, line in enumerate(lines):
        x, y = left, top + number * high
        for part, foreground, background in line:
            if background is not None:
                draw.rectangle((x, y, x + len(part) * wide, y + high), fill=background)
            draw.text((x, y), part, font=font, fill="white" if background and foreground is None else foreground or INK)
            x += len(part) * wide
    return image


def _coloured(line: str) -> list[tuple[str, str | None, str | None]]:
    """Parts of a line, each with its colours of letters and ground; None where there is none."""
    parts: list[tuple[str, str | None, str | None]] = []
    foreground = background = None
    for text, codes in re.findall(r"([^\x1b]*)(?:\x1b\[([\d;]*)[A-Za-z])?", line):
        if text:
            parts.append((text, foreground, background))
        for code in (int(each or 0) for each in codes.split(";")) if codes else ():
            if code == 0:
                foreground = background = None
            elif 30 <= code <= 37:
                foreground = TERMINAL[code - 30]
            elif 40 <= code <= 47:
                background = TERMINAL[code - 40]
    return parts


# The agent


def _panel(scene: Scene) -> Image.Image:
    decision = scene.decision
    rows = _rows(decision)
    has_entropy = decision.entropy is not None
    height = ROW * (1 + len(rows)) + 8 + (ROW + CURVE + 6 if has_entropy else 0)
    image = Image.new("RGB", (PANEL, height), "white")
    draw = ImageDraw.Draw(image)
    told = f"step {scene.steps}   return {_number(scene.total)}"
    left = _right(draw, PANEL, 2, told, ORANGE if scene.has_ended else SOFT)
    title, font = scene.title, _font(13, bold=True)
    while font.getlength(title) > left - 8:
        title = title.rstrip("…")[:-1] + "…"
    draw.text((0, 1), title, font=font, fill=INK)
    y = ROW + 4
    for row in rows:
        row.draw(draw, y)
        y += ROW
    if decision.entropy is not None:
        y += 4
        draw.text((0, y), "entropy", font=_font(11), fill=SOFT)
        _right(draw, PANEL, y, f"{decision.entropy:.2f} nats", INK)
        _curve(draw, y + ROW, scene.entropies)
    return image


class _Row:
    """A line of the panel: a text alone."""

    def __init__(self, text: str, value: str = "", colour: str = SOFT) -> None:
        self.text, self.value, self.colour = text, value, colour

    def draw(self, draw: ImageDraw.ImageDraw, y: int) -> None:
        draw.text((0, y), self.text, font=_font(11), fill=self.colour)
        _right(draw, PANEL, y, self.value, self.colour)


class _Action(_Row):
    """An action with its probability, as a bar, and its value."""

    def __init__(self, text: str, share: float | None, legal: bool, value: str, taken: bool) -> None:
        super().__init__(text, value, (INK if taken else SOFT) if legal else "#b5b5b5")
        self.share, self.legal, self.taken = share, legal, taken

    def draw(self, draw: ImageDraw.ImageDraw, y: int) -> None:
        bold = self.taken
        draw.text((0, y), self.text, font=_font(11, bold=bold), fill=self.colour)
        if self.share is not None:
            left, width = 26, 96
            draw.rectangle((left, y + 2, left + width, y + 12), fill="#f3f3f3" if self.legal else "white")
            if self.share > 0:
                bar = (left, y + 2, left + round(width * self.share), y + 12)
                draw.rectangle(bar, fill=ORANGE if self.taken else BLUE)
            told = f"{self.share:.0%}" if self.legal else "illegal"
            _right(draw, left + width + 44, y, told, self.colour, bold=bold)
        _right(draw, PANEL, y, self.value, self.colour, bold=bold)


class _Factor(_Row):
    """The choices of a factor, as cells that are the darker the more probable; the one that is taken has a frame."""

    def __init__(self, text: str, shares: NDArray[np.float64], legal: NDArray[np.bool_], taken: int) -> None:
        super().__init__(text)
        self.shares, self.legal, self.taken = shares, legal, taken

    def draw(self, draw: ImageDraw.ImageDraw, y: int) -> None:
        super().draw(draw, y)
        left, width = 54, (PANEL - 55) / len(self.shares)
        for index, (share, legal) in enumerate(zip(self.shares, self.legal, strict=True)):
            box = (left + index * width, y + 1, left + (index + 1) * width - 1, y + 14)
            if legal:
                draw.rectangle(box, fill=_between("#f3f3f3", BLUE, float(share)))
            if index == self.taken:
                draw.rectangle(box, outline=ORANGE, width=2)


def _rows(decision: Decision) -> list[_Row]:
    """What the panel says of probabilities and values, line by line."""
    probabilities, legal, values = decision.probabilities, decision.legal, decision.values
    taken = decision.action
    if probabilities is not None and len(probabilities) > 1:
        assert legal is not None
        rows: list[_Row] = [
            _Factor(f"factor {i}", probabilities[i], legal[i], int(taken[i]))
            for i in range(min(len(probabilities), MOST_FACTORS))
        ]
        if len(probabilities) > MOST_FACTORS:
            rows.append(_Row(f"and {len(probabilities) - MOST_FACTORS} more factors"))
        return rows if decision.value is None else [*rows, _Row("Q of the action", _number(decision.value), INK)]
    if probabilities is None and values is None:
        return [_Row(f"action {np.array2string(taken, precision=2)}", colour=INK)]
    shares = None if probabilities is None else probabilities[0]
    ranked = shares if shares is not None else values
    assert ranked is not None
    count = len(ranked)
    order = np.argsort(-ranked, kind="stable") if count > MOST_ACTIONS else np.arange(count)
    what = "" if shares is None else "probability"
    rows = [_Row(f"action   {what}", "" if values is None else "Q")]
    for index in order[:MOST_ACTIONS].tolist():
        share = None if shares is None else float(shares[index])
        is_legal = legal is None or bool(legal[0, index])
        value = "" if values is None or not is_legal else _number(float(values[index]))
        rows.append(_Action(str(index), share, is_legal, value, index == taken[0]))
    if count > MOST_ACTIONS:
        rows.append(_Row(f"and {count - MOST_ACTIONS} more"))
    return rows


def _curve(draw: ImageDraw.ImageDraw, y: int, shares: Sequence[float]) -> None:
    """The entropies of an episode, from 0 to the largest that there can be."""
    draw.rectangle((0, y, PANEL - 1, y + CURVE), fill="#fafafa", outline=FAINT)
    shown = list(shares)[-STEPS:]
    across = (PANEL - 4) / STEPS
    points = [(1 + i * across, y + CURVE - 2 - (CURVE - 4) * min(1.0, share)) for i, share in enumerate(shown)]
    if len(points) > 1:
        draw.line(points, fill=BLUE, width=1)
    if points:
        x, level = points[-1]
        draw.ellipse((x - 2, level - 2, x + 2, level + 2), fill=BLUE)


def _right(draw: ImageDraw.ImageDraw, right: float, y: float, text: str, colour: str, *, bold: bool = False) -> float:
    """Writes a text up to a place, and returns where it begins."""
    font = _font(11, bold=bold)
    left = right - font.getlength(text)
    draw.text((left, y), text, font=font, fill=colour)
    return left


def _number(value: float) -> str:
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
    return text.replace("-", "−")


def _between(low: str, high: str, share: float) -> tuple[int, ...]:
    """A colour between two."""
    return tuple(round(int(low[i : i + 2], 16) * (1 - share) + int(high[i : i + 2], 16) * share) for i in (1, 3, 5))


@cache
def _font(size: int, *, bold: bool = False, mono: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu, which comes with matplotlib."""
    import matplotlib

    name = f"DejaVuSans{'Mono' if mono else ''}{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
