"""The pictures of a report, for papers and for Markdown: scores, curves and profiles, as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from benchmarks.analysis import EVERYWHERE, THRESHOLDS, Analysis, Panel
from benchmarks.page import colours, variants

__all__ = ["draw"]

INK, FAINT = "#1b2430", "#e3e7ec"
WIDTH = 4.4
"""Of a panel, in inches."""
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
    figures = {"scores": _scores(analysis), "curves": _curves(analysis)}
    if analysis.headline.profiles:
        figures["profiles"] = _profiles(analysis)
    if analysis.gradients:
        figures["gradients"] = _gradients(analysis)
    paths = []
    with mpl.rc_context({"svg.hashsalt": "gsrl", "svg.fonttype": "path"}):
        for name, figure in figures.items():
            for kind, metadata in METADATA.items():
                paths.append(folder / f"{name}.{kind}")
                figure.savefig(paths[-1], metadata=metadata, dpi=160, bbox_inches="tight")
    return paths


def _panels(names: Sequence[str], height: float) -> tuple[Figure, list[tuple[Axes, str]]]:
    """A figure with a panel for each name, at most three side by side."""
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH * columns, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for extra in axes[len(names) :]:
        extra.set_visible(False)
    panels = list(zip(axes, names, strict=False))
    for axis, name in panels:
        axis.set_title(name, loc="left", color=INK, fontsize="medium")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.grid(color=FAINT, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=INK, length=0)
    return figure, panels


def _scores(analysis: Analysis) -> Figure:
    tint, hollow = colours(analysis), variants(analysis)
    panels = {panel.name: panel for panel in analysis.panels}
    rows = max(len(panel.entries) for panel in analysis.panels)
    figure, places = _panels(list(panels), 0.9 + 0.27 * rows)
    for axes, name in places:
        entries = panels[name].entries[::-1]
        for place, entry in enumerate(entries):
            scores = np.concatenate(entry.scores)
            colour = tint[entry.label]
            axes.plot(scores, np.full(len(scores), place), "o", color=colour, alpha=0.25, markersize=4, mew=0)
            if math.isfinite(entry.iqm.low):
                axes.plot([entry.iqm.low, entry.iqm.high], [place, place], color=colour, linewidth=5, alpha=0.5)
            fill = "white" if entry.label in hollow else colour
            axes.plot(entry.iqm.estimate, place, "o", markersize=7, markerfacecolor=fill, markeredgecolor=colour)
        axes.set_yticks(range(len(entries)), [f"{each.label}{_few(each.few, each.seeds)}" for each in entries])
        axes.set_ylim(-0.6, len(entries) - 0.4)
        _goal(axes, panels[name], vertical=True)
        axes.set_xlabel("normalised score" if name == EVERYWHERE else "score", color=INK)
    figure.suptitle("final score: IQM with 95 % interval, and every seed", fontsize="medium", color=INK)
    return figure


def _curves(analysis: Analysis) -> Figure:
    tint, dashed = colours(analysis), variants(analysis)
    panels = {panel.name: panel for panel in analysis.panels if panel.name != EVERYWHERE}
    figure, places = _panels(list(panels), 3.6)
    for axes, name in places:
        curves = {entry.label: entry.curve for entry in panels[name].entries if entry.curve is not None}
        ends = [curve.steps[-1] for curve in curves.values()]
        if max(ends) > 4 * min(ends):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        for label, (steps, (middle, low, high)) in curves.items():
            style = "--" if label in dashed else "-"
            mark = "o" if len(steps) == 1 else None
            axes.plot(steps, middle, style, color=tint[label], linewidth=1.6, marker=mark, markersize=4)
            if np.isfinite(low).all():
                axes.fill_between(steps, low, high, color=tint[label], alpha=0.5 / (3 + len(curves)), linewidth=0)
        low, high = panels[name].extent(curves.values())
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
        _goal(axes, panels[name], vertical=False)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("steps", color=INK)
    figure.axes[0].set_ylabel("score, IQM of greedy evaluations", color=INK)
    _legend(figure, analysis.labels, tint, dashed)
    return figure


def _profiles(analysis: Analysis) -> Figure:
    tint, dashed = colours(analysis), variants(analysis)
    profiles = analysis.headline.profiles
    figure, places = _panels(["performance profiles"], 3.8)
    for axes, _ in places:
        for label, (share, low, high) in profiles.items():
            axes.plot(THRESHOLDS, share, "--" if label in dashed else "-", color=tint[label], linewidth=1.6)
            if np.isfinite(low).all():
                axes.fill_between(
                    THRESHOLDS, low, high, color=tint[label], alpha=0.5 / (3 + len(profiles)), linewidth=0
                )
        axes.set_xlabel("normalised score", color=INK)
        axes.set_ylabel("share of the runs above it", color=INK)
    _legend(figure, list(profiles), tint, dashed)
    return figure


def _gradients(analysis: Analysis) -> Figure:
    tint, dashed = colours(analysis), variants(analysis)
    names = list(dict.fromkeys(gradient.env for gradient in analysis.gradients))
    figure, places = _panels(names, 3.2)
    for axes, name in places:
        for gradient in analysis.gradients:
            kept = np.isfinite(gradient.snr) & (gradient.snr > 0)
            if gradient.env == name and kept.any():
                style = "--" if gradient.label in dashed else "-"
                axes.plot(gradient.steps[kept], gradient.snr[kept], style, color=tint[gradient.label], linewidth=1.6)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("environment steps", color=INK)
    figure.axes[0].set_ylabel("signal-to-noise ratio of the actor's gradient", color=INK)
    _legend(figure, list(dict.fromkeys(gradient.label for gradient in analysis.gradients)), tint, dashed)
    return figure


def _goal(axes: Axes, panel: Panel, *, vertical: bool) -> None:
    if panel.threshold is not None:
        draw_line = axes.axvline if vertical else axes.axhline
        draw_line(panel.threshold, color=INK, linewidth=1, linestyle=":", alpha=0.6)


def _few(few: bool, seeds: int) -> str:
    return f" (n={seeds})" if few else ""


def _legend(figure: Figure, labels: Sequence[str], tint: dict[str, str], dashed: set[str]) -> None:
    lines = [
        mpl.lines.Line2D([], [], color=tint[label], linestyle="--" if label in dashed else "-", label=label)
        for label in labels
    ]
    columns = max(1, int(figure.get_figwidth() / 1.9))
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
