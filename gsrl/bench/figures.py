"""The pictures of a report, for papers and for Markdown: scores, curves and profiles, as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from gsrl._files import save_figure
from gsrl._style import INK, SOFT, styled
from gsrl.bench.analysis import EVERYWHERE, LEADERS, THRESHOLDS, Analysis, Entry, Panel, Ratios, ratios
from gsrl.bench.look import colours, number, spread, variants

__all__ = ["draw"]

WIDTH = 4.4
"""Of a panel, in inches."""
MOST = 3
"""Panels side by side."""
SMALL = 7.5
"""Size of the labels of lines, in points."""
CHARACTER = 0.085
"""Of a name beside a panel: its width in inches, about."""
AROUND = 0.85
"""Inches of a panel's height that title and axis take."""
METADATA = {"png": {}, "svg": {"Date": None}}
"""No dates: the same results make the same files."""


def draw(analysis: Analysis, folder: Path) -> list[Path]:
    """Draws all pictures that there is something for.

    Args:
        analysis: What is to be seen.
        folder: Where they go.

    Returns:
        The paths of the files.
    """
    with styled(svg__hashsalt="gsrl", svg__fonttype="path"):
        return _draw(analysis, folder)


def _draw(analysis: Analysis, folder: Path) -> list[Path]:
    figures = {"scores": _scores(analysis), "curves": _curves(analysis)}
    if analysis.headline.profiles:
        figures["profiles"] = _profiles(analysis)
    if analysis.gradients:
        figures["gradients"] = _gradients(analysis)
    paths = []
    for name, figure in figures.items():
        for kind, metadata in METADATA.items():
            paths.append(folder / f"{name}.{kind}")
            save_figure(figure, paths[-1], metadata=metadata, bbox_inches="tight")
    return paths


def _panels(
    names: Sequence[str], height: float, width: float = WIDTH, beside: float = 0.0
) -> tuple[Figure, list[tuple[Axes, str]]]:
    """A figure with a panel for each name, in rows that are all as wide: at most three side by side, and no gap.

    Args:
        names: Of the panels.
        height: Of each, in inches.
        width: Likewise, of the first row's, and more where it is needed.
        beside: Inches that texts take beside each panel.
    """
    lines = math.ceil(len(names) / MOST)
    counts = [len(part) for part in np.array_split(np.arange(len(names)), lines)]
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(max(width, 2.4 + beside) * counts[0], height * lines), layout=layout)
    panels: list[tuple[Axes, str]] = []
    # Each row is laid out by itself: in one grid, names beside panels of all rows would take their room from each.
    for row, count in zip(figure.subfigures(lines, squeeze=False)[:, 0], counts, strict=True):
        for column in range(count):
            panels.append((row.add_subplot(1, count, column + 1), names[len(panels)]))
    for axes, name in panels:
        axes.set_title(name, parse_math=False)
        axes.spines["left"].set_visible(False)
        axes.grid()
        axes.tick_params(length=0)
    return figure, panels


# Final scores


def _scores(analysis: Analysis) -> Figure:
    tint, hollow = colours(analysis), variants(analysis)
    panels = {panel.name: panel for panel in analysis.panels}
    rows = max(len(panel.entries) for panel in analysis.panels)
    longest = max(len(_named(entry)) for panel in analysis.panels for entry in panel.entries)
    figure, places = _panels(list(panels), 0.9 + 0.27 * rows, 5.2, CHARACTER * longest)
    for axes, name in places:
        entries = panels[name].entries[::-1]
        low, high = panels[name].score_range()
        margin = 0.04 * (high - low) or 1.0
        axes.set_xlim(low - margin, high + margin)
        for place, entry in enumerate(entries):
            scores, colour = np.concatenate(entry.scores), tint[entry.label]
            inside = scores[(scores >= low) & (scores <= high)]
            axes.plot(inside, np.full(len(inside), place), "o", color=colour, alpha=0.25, markersize=4, mew=0)
            for edge, beyond, marker in ((low, scores < low, "<"), (high, scores > high, ">")):
                if beyond.any():
                    side = edge + math.copysign(0.5 * margin, edge - (low + high) / 2)
                    axes.plot(side, place, marker, color=colour, alpha=0.6, markersize=4, mew=0)
            if math.isfinite(entry.iqm.low):
                interval = np.clip([entry.iqm.low, entry.iqm.high], low, high)
                axes.plot(interval, [place, place], color=colour, linewidth=5, alpha=0.5, solid_capstyle="butt")
            fill = "white" if entry.label in hollow else colour
            estimate = float(entry.iqm.estimate)
            if low <= estimate <= high:
                axes.plot(estimate, place, "o", markersize=7, markerfacecolor=fill, markeredgecolor=colour)
            else:
                side, align = (0.05, "left") if estimate < low else (0.95, "right")
                across = axes.get_yaxis_transform()
                text = axes.text(side, place, number(estimate), transform=across, color=colour, fontweight="bold")
                text.set(ha=align, va="center", fontsize="small")
        axes.set_yticks(range(len(entries)), list(map(_named, entries)), parse_math=False)
        axes.set_ylim(-0.6, len(entries) - 0.4)
        _goal(axes, panels[name], vertical=True)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.set_xlabel("normalised score" if name == EVERYWHERE else "score")
    caption = (
        "Final score: IQM, bar: its 95 % interval, pale: every seed. Triangles: seeds beyond the axis; a number: an "
        "IQM beyond it. Dotted: solved."
    )
    figure.supxlabel(caption, fontsize="small", color=SOFT)
    return figure


# Lines


def _curves(analysis: Analysis) -> Figure:
    panels = {panel.name: panel for panel in analysis.environments}
    figure, places = _panels(list(panels), _height(analysis), 5.2, _beside(analysis))
    for axes, name in places:
        curves = {entry.label: entry.curve for entry in panels[name].entries if entry.curve is not None}
        low, high = panels[name].extent(curves.values())
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
        end = max(curve.steps[-1] for curve in curves.values())
        begin = min(curve.steps[0] for curve in curves.values())
        if analysis.logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlim(begin / 1.05, end)
        else:
            axes.set_xlim(0, end)
        lines = {label: (curve.steps, curve.returns) for label, curve in curves.items()}
        ends = {label: (float(curve.steps[-1]), float(curve.returns.estimate[-1])) for label, curve in curves.items()}
        _lines(axes, lines, ends, analysis)
        _goal(axes, panels[name], vertical=False)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("steps")
    figure.axes[0].set_ylabel("score, IQM of greedy evaluations")
    return figure


def _profiles(analysis: Analysis) -> Figure:
    profiles = analysis.headline.profiles
    height = max(4.4, _height(analysis))
    figure, ((axes, _),) = _panels(["performance profiles"], height, 7.4, _beside(analysis))
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    at = analysis.headline.parted
    anchors = {label: (float(THRESHOLDS[at]), float(profile.estimate[at])) for label, profile in profiles.items()}
    _lines(axes, {label: (THRESHOLDS, profile) for label, profile in profiles.items()}, anchors, analysis)
    axes.set_xlabel("normalised score")
    axes.set_ylabel("share of the runs above it")
    return figure


def _gradients(analysis: Analysis) -> Figure:
    names = list(dict.fromkeys(gradient.env for gradient in analysis.gradients))
    figure, places = _panels(names, 3.6, 5.2)
    for axes, name in places:
        own = [gradient for gradient in analysis.gradients if gradient.env == name]
        found = ratios(own)
        axes.set_yscale("log")
        axes.set_ylim(
            *(
                found.zero / 1.15 if found.drawn(found.zero) else found.low / 1.1,
                found.infinite * 1.25 if found.drawn(found.infinite) else found.high * 1.1,
            )
        )
        for edge, text in ((found.zero, "0"), (found.infinite, "∞: no noise")):
            if found.drawn(edge):
                axes.axhline(edge, color=SOFT, linewidth=0.8, linestyle=(0, (1, 3)))
                across = axes.get_yaxis_transform()
                axes.text(0.01, edge, text, transform=across, va="bottom", color=SOFT, fontsize="small")
        lines, ends = {}, {}
        for label, (steps, values) in found.lines.items():
            nothing = np.full_like(values, np.nan)
            lines[label] = steps, (values, nothing, nothing)
            known = np.flatnonzero(np.isfinite(values))
            if len(known):
                ends[label] = float(steps[known[-1]]), float(values[known[-1]])
        _lines(axes, lines, ends, analysis, leaders=0)
        axes.yaxis.set_major_locator(LogLocator())
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatted(partial(_ratio, found))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(0, max(gradient.steps[-1] for gradient in own))
        axes.set_xlabel("environment steps")
    figure.axes[0].set_ylabel("signal-to-noise ratio of the actor's gradient")
    return figure


def _ratio(found: Ratios, value: float, _: int | None = None) -> str:
    """A tick, between what stands for 0 and for infinity."""
    return f"{value:g}" if found.zero < value < found.infinite else ""


def _lines(
    axes: Axes,
    lines: Mapping[str, tuple[NDArray[np.float64], Sequence[NDArray[np.float64]]]],
    anchors: Mapping[str, tuple[float, float]],
    analysis: Analysis,
    leaders: int = LEADERS,
) -> None:
    """Draws lines, given as ranked, with bands of the first and their names beside the panel.

    Args:
        axes: Its limits are set.
        lines: By label: steps; and estimate, low and high.
        anchors: By label: the point that its name is tied to.
        analysis: Whose colours they have.
        leaders: How many are drawn bold, and with bands.
    """
    tint, dashed = colours(analysis), variants(analysis)
    for rank, (label, (x, (middle, low, high))) in enumerate(lines.items()):
        style, colour, order = "--" if label in dashed else "-", tint[label], 3 - rank / len(lines)
        marker = "o" if len(x) == 1 else None
        width = 1.9 if rank < leaders else 1.1 if leaders else 1.5
        axes.plot(x, middle, style, color=colour, linewidth=width, marker=marker, markersize=4, zorder=order)
        if rank < leaders and np.isfinite(low).all():
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0, zorder=1)
    if not anchors:
        return
    bottom, top = axes.get_ylim()
    points = np.array([(x, min(max(y, bottom), top)) for x, y in anchors.values()])
    begins, heights = (axes.transScale + axes.transLimits).transform(points).T.tolist()  # in shares of the panel
    figure = axes.get_figure(root=True)
    assert figure is not None
    inches = figure.get_figheight() / len(figure.subfigs) - AROUND
    ends = spread(heights, 1.25 * SMALL / (72 * inches))
    for label, begin, height, end in zip(anchors, begins, heights, ends, strict=True):
        (tie,) = axes.plot([begin, 1, 1.025], [height, height, end], ":", color=tint[label], linewidth=0.7, zorder=1)
        tie.set_transform(axes.transAxes)
        tie.set_clip_on(False)
        text = axes.text(1.035, end, label, transform=axes.transAxes, color=tint[label], parse_math=False)
        text.set(fontsize=SMALL, va="center")


def _height(analysis: Analysis) -> float:
    """Of a panel whose lines have names beside it, in inches."""
    return max(3.6, AROUND + 0.13 * max(len(panel.entries) for panel in analysis.panels))


def _beside(analysis: Analysis) -> float:
    """What the names of lines take beside a panel, in inches."""
    return 0.75 * CHARACTER * max(map(len, analysis.labels))


def _goal(axes: Axes, panel: Panel, *, vertical: bool) -> None:
    low, high = axes.get_xlim() if vertical else axes.get_ylim()
    if panel.threshold is not None and low <= panel.threshold <= high:
        draw_line = axes.axvline if vertical else axes.axhline
        draw_line(panel.threshold, color=INK, linewidth=1, linestyle=":", alpha=0.6)


def _named(entry: Entry) -> str:
    return entry.label + (f" (n={entry.seeds})" if entry.few else "")
