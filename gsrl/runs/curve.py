"""The learning curves of runs, as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gsrl._files import save_figure
from gsrl._style import BLUE, COLOURS, INK, ORANGE, PALE, styled
from gsrl.runs.scores import interquartile_mean

if TYPE_CHECKING:  # matplotlib takes a second to import, and only pictures need it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["RETURN", "STEPS", "Curve", "plot_curves", "plot_learning_curve", "plot_population", "plot_search"]

CROSS: dict[str, Any] = {"marker": "x", "linestyle": "", "color": INK, "markersize": 6, "clip_on": False}
"""How what diverged is marked."""
STEPS = "environment steps"
"""The horizontal axis of a learning curve, unless told otherwise."""

RETURN = "return (sum of rewards of an episode)"
"""The vertical axis of a learning curve, unless told otherwise."""


@styled()
def plot_learning_curve(
    path: Path,
    title: str,
    evaluations: Sequence[Mapping[str, str]],
    episodes: Sequence[Mapping[str, str]],
    *,
    finished: bool,
) -> None:
    """Draws the greedy evaluations, each with its standard deviation, over the returns of the training episodes.

    Args:
        path: Path of the PNG.
        title: Title of the plot.
        evaluations: Rows with ``steps``, ``mean_return``, ``std_return`` and ``episodes``.
        episodes: Rows with ``steps`` and ``return``.
        finished: Whether the last evaluation is the final one, which is marked.
    """
    figure = _new_figure(4.2)
    axes = figure.add_subplot()
    if episodes:
        steps, returns = _columns(episodes, "steps", "return")
        axes.plot(steps, returns, ".", color=PALE, markersize=5, markeredgewidth=0, label="training episode")
    if evaluations:
        steps, mean, std = _columns(evaluations, "steps", "mean_return", "std_return")
        axes.plot(steps, mean, "o-", color=BLUE, markersize=4, linewidth=1.8, label="greedy evaluation, mean")
        label = "± one standard deviation of its episodes"
        axes.fill_between(steps, mean - std, mean + std, color=BLUE, alpha=0.18, linewidth=0, label=label)
        if finished:
            label = f"final evaluation, mean of {evaluations[-1]['episodes']} episodes: {mean[-1]:.1f}"
            axes.plot(steps[-1], mean[-1], "D", color=ORANGE, markersize=7, clip_on=False, zorder=3, label=label)
    _finish(figure, axes, title)
    save_figure(figure, path)


@styled()
def plot_population(
    path: Path,
    title: str,
    steps: Sequence[int],
    returns: NDArray[np.floating],
    *,
    finished: bool,
    x: str = STEPS,
    y: str = RETURN,
    best: float | None = None,
    decimals: int = 1,
    diverged_at: Sequence[int | None] = (),
) -> None:
    """Draws the evaluations of every agent, and above them their interquartile mean and range.

    Args:
        path: Path of the PNG.
        title: Title of the plot.
        steps: Steps of each evaluation.
        returns: Mean return of each agent, ``[agents, evaluations]``.
        finished: Whether the last evaluation is the final one, which is marked.
        x: What the steps are.
        y: What the returns are.
        best: The largest that there can be, a line; None: it is not known.
        decimals: Of numbers in the legend.
        diverged_at: Steps after which each agent diverged, which is marked by a cross; None: it did not.
    """
    figure = _new_figure(4.2)
    axes = figure.add_subplot()
    if best is not None:
        label = f"the best there can be: {best:.{decimals}f}"
        axes.axhline(best, color=INK, linestyle="--", linewidth=0.9, label=label)
    if len(steps):
        mean = "interquartile mean" if len(returns) > 1 else "greedy evaluation"
        if len(returns) > 1:
            for row in returns:
                axes.plot(steps, row, color=PALE, linewidth=0.9, label="_")
            axes.plot([], [], color=PALE, linewidth=0.9, label=f"each of {len(returns)} seeds, greedy evaluation")
            lower, upper = np.quantile(returns, (0.25, 0.75), axis=0)
            axes.fill_between(steps, lower, upper, color=BLUE, alpha=0.18, linewidth=0, label="interquartile range")
        means = [interquartile_mean(column) for column in returns.T]
        axes.plot(steps, means, "o-", color=BLUE, markersize=4, linewidth=2.4, label=mean)
        if finished:
            label = f"final {mean}: {means[-1]:.{decimals}f}"
            axes.plot(steps[-1], means[-1], "D", color=ORANGE, markersize=7, clip_on=False, zorder=3, label=label)
    lost = [(at, row) for at, row in zip(diverged_at, returns, strict=False) if at is not None]
    if lost and len(steps):
        label = f"diverged: {len(lost)} of {len(returns)} seeds, shown as they were before"
        axes.plot([at for at, _ in lost], [np.interp(at, steps, row) for at, row in lost], label=label, **CROSS)
    _finish(figure, axes, title, x, y)
    save_figure(figure, path)


class Curve(NamedTuple):
    """The evaluations of a run, of one agent or more."""

    label: str
    """What tells it from the others."""
    steps: Sequence[int]
    """Of the evaluations."""
    returns: NDArray[np.floating]
    """Mean return of each agent, ``[agents, evaluations]``."""
    decimals: int
    """Of the returns, in the legend."""


@styled()
def plot_curves(path: Path, panels: Mapping[tuple[str, str, str], Sequence[Curve]]) -> None:
    """Draws several runs side by side: the interquartile mean of each, with its interquartile range.

    Args:
        path: Path of the picture.
        panels: The runs of each panel, by its title and the names of its axes.
    """
    columns = min(3, len(panels))
    lines, height = -(-len(panels) // columns), 3.6 + 0.22 * max(map(len, panels.values()))
    figure = _new_figure(height * lines, max(7.0, 5.2 * columns))
    every = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    for axes, ((title, x, y), curves) in zip(every, panels.items(), strict=False):
        for index, (label, steps, returns, decimals) in enumerate(curves):
            color, style = COLOURS[index % len(COLOURS)], "-" if index < len(COLOURS) else "--"
            means = np.array([interquartile_mean(column) for column in returns.T])
            if len(returns) > 1:
                lower, upper = np.nanquantile(returns, (0.25, 0.75), axis=0)
                axes.fill_between(steps, lower, upper, color=color, alpha=0.13, linewidth=0)
                label = f"{label}, {len(returns)} seeds"
            label = f"{label}: {means[-1]:.{decimals}f}"
            axes.plot(steps, means, style, marker="o", color=color, markersize=3.5, linewidth=1.8, label=label)
        _style(axes, title, x, y)
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.16))
    figure.supxlabel(
        "Greedy evaluations; of several seeds their interquartile mean and range. The numbers are those of the last.",
        fontsize="x-small",
        color=INK,
    )
    save_figure(figure, path)


@styled()
def plot_search(
    path: Path,
    title: str,
    grid: Mapping[str, Sequence[Any]],
    settings: Sequence[Mapping[str, Any]],
    steps: Sequence[int],
    scores: Sequence[Sequence[float]],
    diverged_at: Sequence[int | None],
) -> None:
    """Draws the scores of all settings at each rung, and those at the first rung against each value of the grid.

    Args:
        path: Path of the PNG.
        title: Title of the plot.
        grid: The values that were tried, by name.
        settings: The settings, best first.
        steps: Steps of each rung.
        scores: Scores of each of the settings, at the rungs that it reached; of one that diverged, at those before.
        diverged_at: Steps after which each diverged, which is marked by a cross; None: it did not.
    """
    figure = _new_figure(6.2)
    names = list(grid)
    halves = figure.add_gridspec(2, 1, height_ratios=(3, 2))
    axes = figure.add_subplot(halves[0])
    for own in reversed(scores):  # the best on top
        survived = len(own) == len(steps)
        color, width = (BLUE, 1.6) if survived else (PALE, 0.9)
        axes.plot(steps[: len(own)], own, "o-", color=color, linewidth=width, markersize=3)
    has_winner = diverged_at[0] is None
    if has_winner:
        axes.plot(steps[: len(scores[0])], scores[0], "o-", color=ORANGE, linewidth=2.4, markersize=5)
    for color, label in ((PALE, "left behind"), (BLUE, "at the last rung"), (ORANGE, "best")):
        axes.plot([], [], "o-", color=color, markersize=4, label=label)
    axes.plot([], [], "_", color=BLUE, markersize=10, markeredgewidth=2.4, label="mean of the settings with a value")
    lost = [at for at in diverged_at if at is not None]
    if lost:
        label = f"diverged: {len(lost)} of {len(settings)} settings"
        axes.plot(lost, np.zeros(len(lost)), transform=axes.get_xaxis_transform(), label=label, **CROSS)
    _finish(figure, axes, title)
    axes.set_ylabel("score (mean return)")
    panels = halves[1].subgridspec(1, len(names)).subplots(sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        values = list(grid[name])
        at = [values.index(each[name]) for each in settings]
        first = np.array([own[0] if own else np.nan for own in scores])
        panel.plot(at, first, "o", color=PALE, markersize=4)
        scored = [first[(np.array(at) == index) & np.isfinite(first)] for index in range(len(values))]
        means = [each.mean() if len(each) else np.nan for each in scored]
        panel.plot(range(len(values)), means, "_", color=BLUE, markersize=16, markeredgewidth=2.4)
        if has_winner:
            panel.plot(at[0], first[0], "o", color=ORANGE, markersize=6)
        unscored = [place for place, score in zip(at, first, strict=True) if np.isnan(score)]
        if unscored:
            panel.plot(unscored, np.zeros(len(unscored)), transform=panel.get_xaxis_transform(), **CROSS)
        panel.set_xticks(range(len(values)), [f"{value:g}" if isinstance(value, float) else value for value in values])
        panel.set_xlim(-0.5, len(values) - 0.5)
        panel.set_xlabel(name)
    panels[0].set_ylabel(f"score at {steps[0]} steps")
    save_figure(figure, path)


def _new_figure(height: float, width: float = 7.0) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _finish(figure: Figure, axes: Axes, title: str, x: str = STEPS, y: str = RETURN) -> None:
    """Styles the only axes of a figure, and puts its legend below them."""
    _style(axes, title, x, y)
    if axes.has_data():
        figure.legend(loc="outside lower center", ncols=2)


def _style(axes: Axes, title: str, x: str, y: str) -> None:
    """Names the axes of a learning curve, and takes away what is not needed."""
    from matplotlib.ticker import EngFormatter

    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.grid()


def _columns(rows: Sequence[Mapping[str, str]], *names: str) -> list[np.ndarray]:
    return [np.array([float(row[name]) for row in rows]) for name in names]
