"""The report as one page: HTML, CSS and inline SVG alone, so that it can be mailed, and opened without a network.

Texts and elements are in ``page.html.j2`` and ``parts.html.j2``, the style in ``page.css``; here is what is shown of an
analysis: places in percent, and paths. Everything is drawn to the width of the window: texts are HTML, placed in
percent; only lines and bands are SVG, which is stretched. The page is well-formed XML too, so that a test can read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from gsrl._style import GREEN, ORANGE
from gsrl.bench.analysis import EVERYWHERE, LEADERS, THRESHOLDS, Analysis, Entry, Gradient, Panel, ratios
from gsrl.bench.look import (
    DIVERGED,
    colours,
    costs,
    duration,
    number,
    significant,
    span,
    spread,
    steps_text,
    ticks,
    variants,
)
from gsrl.bench.stats import FEW

__all__ = ["page"]

WIDTH, HEIGHT = 1000, 400
"""Of a drawing, before it is stretched."""
BETTER, WORSE = GREEN, ORANGE
"""Colours of probabilities above and below one half."""

Scale = Callable[[float], float]
"""From a value to percent of the width, or of the height from above."""
Lines = Mapping[str, tuple[NDArray[np.float64], Sequence[NDArray[np.float64]]]]
"""By label as ranked: steps; and estimate, low and high."""
View = dict[str, Any]
"""What a macro of ``parts.html.j2`` shows."""


def page(analysis: Analysis) -> str:
    """The report as HTML."""
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            analysis=analysis,
            top=_top(analysis),
            profiles=[_profiles(panel) for panel in analysis.panels if panel.name == EVERYWHERE],
            environments=[_environment(panel, analysis) for panel in analysis.environments],
            gradients=_gradients(analysis),
            colours=colours(analysis),
            variants=variants(analysis),
            classes={label: f"k{index}" for index, label in enumerate(analysis.labels)},
        )
    )


def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(number=number, span=span, duration=duration, steps=steps_text)
    templates.filters.update(listed=_listed, percent=_percent, place=_place)
    templates.tests["finite"] = math.isfinite
    templates.globals.update(FEW=FEW, LEADERS=LEADERS, DIVERGED=DIVERGED, WIDTH=WIDTH, HEIGHT=HEIGHT)
    return templates


# What the sections show


def _top(analysis: Analysis) -> View:
    panel = analysis.headline
    rivals = panel.entries[1:]
    return {
        "panel": panel,
        "everywhere": panel.name == EVERYWHERE,
        "runs": sum(len(scores) for entry in panel.entries for scores in entry.scores),
        "rivals": rivals,
        "ties": panel.ties,
        "chance": panel.pair(panel.best.label, rivals[0].label).probability if rivals else None,
        "cheapest": _cheapest(panel),
        "ranking": _ranking(panel),
    }


def _cheapest(panel: Panel) -> Entry | None:
    """Which of those that are not told apart from the best costs least, if that is much less."""
    equals = [panel.best, *(entry for entry in panel.entries if entry.label in panel.ties)]
    least = min(equals, key=lambda entry: entry.seconds)
    return least if least.seconds <= 0.6 * panel.best.seconds else None


def _ranking(panel: Panel) -> View:
    """The entries as a table of intervals."""
    low, high = panel.score_range()
    margin = 0.02 * (high - low) or 1.0
    scale = _linear(low - margin, high + margin)
    goal = None if panel.threshold is None else scale(panel.threshold)
    return {
        "unit": "normalised score" if panel.name == EVERYWHERE else "score",
        "axis": _axis(ticks(low, high), scale, _tick),
        "grid": [scale(tick) for tick in ticks(low, high)],
        "goal": goal if goal is not None and 0 <= goal <= 100 else None,
        "rows": [_ranked(entry, scale) for entry in panel.entries],
    }


def _ranked(entry: Entry, scale: Scale) -> View:
    interval = None
    if math.isfinite(entry.iqm.low):
        left, right = _clipped(scale(entry.iqm.low)), _clipped(scale(entry.iqm.high))
        interval = {"left": left, "width": right - left}
    seeds = [scale(value) for scores in entry.scores for value in scores]
    return {
        "entry": entry,
        "seeds": [{"left": _clipped(at), "beyond": "less" if at < 0 else "more" if at > 100 else ""} for at in seeds],
        "interval": interval,
        "iqm": _clipped(scale(entry.iqm.estimate)),
    }


def _profiles(panel: Panel) -> View:
    lines = {label: (THRESHOLDS, profile) for label, profile in panel.profiles.items()}
    across, up = [0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0.25, 0.5, 0.75, 1]
    plot = _plot(lines, _linear(0, 1), _upward(_linear(0, 1)), across, up, _tick, _percent, at=panel.parted)
    return {"plot": plot, "matrix": _matrix(panel)}


def _environment(panel: Panel, analysis: Analysis) -> View:
    curves = {entry.label: entry.curve for entry in panel.entries if entry.curve is not None}
    begin = min(float(curve.steps[0]) for curve in curves.values())
    end = max(float(curve.steps[-1]) for curve in curves.values())
    if analysis.logarithmic:
        x, x_ticks = _logarithmic(begin, end), _decades(begin, end)
    else:
        x, x_ticks = _linear(0, end), [tick for tick in ticks(0, end) if tick > 0]
    low, high = panel.extent(curves.values())
    margin = 0.03 * (high - low) or 1.0
    y = _upward(_linear(low - margin, high + margin))
    lines = {label: (curve.steps, curve.returns) for label, curve in curves.items()}
    return {
        "panel": panel,
        "ranking": None if panel is analysis.headline else _ranking(panel),
        "plot": _plot(lines, x, y, x_ticks, ticks(low, high), steps_text, _tick, panel.threshold),
        "costs": costs(panel),
        "matrix": _matrix(panel) if len(panel.entries) > 1 else None,
    }


def _gradients(analysis: Analysis) -> list[View]:
    names = dict.fromkeys(gradient.env for gradient in analysis.gradients)
    return [_gradient(name, [each for each in analysis.gradients if each.env == name]) for name in names]


def _gradient(name: str, own: Sequence[Gradient]) -> View:
    """Of one environment: the ratios along the training, and medians."""
    found = ratios(own)
    lines = {
        label: (steps[known], (values[known], np.full(known.sum(), np.nan), values[known]))
        for label, (steps, values) in found.lines.items()
        if (known := np.isfinite(values)).any()
    }
    end = max(float(gradient.steps[-1]) for gradient in own)
    edges = {edge: text for edge, text in ((found.zero, "0"), (found.infinite, "∞")) if found.drawn(edge)}
    y = _upward(_logarithmic(min([found.low / 1.1, *edges]), max([found.high * 1.1, *edges])))
    x_ticks, y_ticks = [tick for tick in ticks(0, end) if tick > 0], [*_decades(found.low, found.high), *edges]
    figures = ("snr", "cosine", "relative_bias", "relative_bias_error")
    head = ["agent", "signal-to-noise, median", "cosine with the gradient", "relative bias", "of it by chance"]
    return {
        "env": name,
        "plot": _plot(
            lines, _linear(0, end), y, x_ticks, y_ticks, steps_text, lambda tick: edges.get(tick) or significant(tick)
        ),
        "medians": (head, [[each.label, *(significant(each.median(figure)) for figure in figures)] for each in own]),
    }


# Parts


def _matrix(panel: Panel) -> list[View]:
    """A row for each label: the probabilities that it ends above each of the others, and nothing for itself."""
    labels = [entry.label for entry in panel.entries]
    return [
        {"label": row, "cells": [None if row == column else _cell(panel, row, column) for column in labels]}
        for row in labels
    ]


def _cell(panel: Panel, row: str, column: str) -> View:
    pair = panel.pair(row, column)
    estimate, low, high = pair.probability
    return {
        "colour": BETTER if estimate > 0.5 else WORSE,
        "strength": f"{60 * abs(2 * estimate - 1) * (1 if pair.told_apart else 0.3):.0f}",
        "percent": f"{100 * estimate:.0f}",
        "interval": f"{100 * low:.0f}–{100 * high:.0f}" if math.isfinite(low) else "–",
        "told_apart": pair.told_apart,
    }


def _plot(
    lines: Lines,
    x: Scale,
    y: Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    goal: float | None = None,
    at: int = -1,
) -> View:
    """Lines with bands, whose names are tied to the step ``at``."""
    heights = [1 - _clipped(y(float(middle[at]))) / 100 for _, (middle, *_) in lines.values()]
    places = spread(heights, min(0.055, 1 / max(1, len(lines) - 1)))
    across, down = partial(_at, x, WIDTH), partial(_at, y, HEIGHT)
    drawn = []
    for rank, ((label, (steps, (middle, low, high))), place) in enumerate(zip(lines.items(), places, strict=True)):
        band = ""
        if np.isfinite(low).all():
            band = f"M{_points(x, y, steps, high)}L{_points(x, y, steps[::-1], low[::-1])}Z"
        end = "h6" if len(steps) == 1 else ""  # a line of one point would not be seen
        begin = f"M{across(steps[at])} {down(middle[at])}"
        drawn.append(
            {
                "label": label,
                "kind": "k" if rank < LEADERS else "k rest",
                "band": band,
                "tie": f"{begin}H{WIDTH}L{WIDTH + 14} {HEIGHT * (1 - place):.1f}",
                "line": f"M{_points(x, y, steps, middle)}{end}",
                "name_top": 100 * (1 - place),
            }
        )
    return {
        "lines": drawn,
        "grid": [down(tick) for tick in y_ticks],
        "goal": down(goal) if goal is not None and 0 <= y(goal) <= 100 else None,
        "x_axis": _axis(x_ticks, x, x_text),
        "y_axis": [{"top": y(tick), "text": y_text(tick)} for tick in y_ticks],
        "widest": max(lines, key=len, default=""),
    }


def _axis(values: Sequence[float], scale: Scale, text: Callable[[float], str]) -> list[View]:
    places = [scale(value) for value in values]
    return [
        {"left": _clipped(at), "side": "l" if at < 3 else "r" if at > 97 else "", "text": text(value)}
        for value, at in zip(values, places, strict=True)
    ]


# Places


def _linear(low: float, high: float) -> Scale:
    return lambda value: 100 * (value - low) / ((high - low) or 1.0)


def _logarithmic(low: float, high: float) -> Scale:
    return lambda value: 100 * math.log(value / low) / (math.log(high / low) or 1.0)


def _upward(scale: Scale) -> Scale:
    return lambda value: 100 - scale(value)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; powers of ten alone where these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]
    if len(found) > 8:
        found = [value for value in found if math.log10(value).is_integer()]
    return found


def _points(x: Scale, y: Scale, steps: Iterable[float], values: Iterable[float]) -> str:
    return "L".join(f"{_at(x, WIDTH, s)} {_at(y, HEIGHT, v)}" for s, v in zip(steps, values, strict=True))


def _at(scale: Scale, size: int, value: float) -> str:
    # Far outside is as good as farther outside: the picture is not clipped.
    return f"{min(max(scale(float(value)), -2.0), 102.0) * size / 100:.1f}"


def _clipped(percent: float) -> float:
    return min(max(percent, 0.0), 100.0)


# Texts


def _place(percent: float) -> str:
    return f"{percent:.2f}%"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _listed(names: Sequence[str], most: int = 6) -> str:
    names = [*names[:most], f"{len(names) - most} more"] if len(names) > most else list(names)
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
