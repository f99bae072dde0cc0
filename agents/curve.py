"""The learning curve of a run, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

__all__ = ["plot_learning_curve"]

INK, ACCENT, FAINT, FINAL = "#333333", "#1f5fa8", "#9db9d8", "#c8501e"


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
    figure = Figure(figsize=(7, 4.2), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    if episodes:
        steps, returns = _columns(episodes, "steps", "return")
        axes.plot(steps, returns, ".", color=FAINT, markersize=5, markeredgewidth=0, label="training episode")
    if evaluations:
        steps, mean, std = _columns(evaluations, "steps", "mean_return", "std_return")
        axes.plot(steps, mean, "o-", color=ACCENT, markersize=4, linewidth=1.8, label="greedy evaluation, mean")
        label = "± one standard deviation of its episodes"
        axes.fill_between(steps, mean - std, mean + std, color=ACCENT, alpha=0.18, linewidth=0, label=label)
        if finished:
            label = f"final evaluation, mean of {evaluations[-1]['episodes']} episodes: {mean[-1]:.1f}"
            axes.plot(steps[-1], mean[-1], "D", color=FINAL, markersize=7, clip_on=False, zorder=3, label=label)
    axes.set_title(title, loc="left", color=INK)
    axes.set_xlabel("environment steps", color=INK)
    axes.set_ylabel("return (sum of rewards of an episode)", color=INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    if axes.has_data():
        figure.legend(frameon=False, fontsize="small", loc="outside lower center", ncols=2)
    figure.savefig(path)


def _columns(rows: Sequence[Mapping[str, str]], *names: str) -> list[np.ndarray]:
    return [np.array([float(row[name]) for row in rows]) for name in names]
