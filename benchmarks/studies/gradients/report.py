"""Tables and figures from the rows of grid.py and polynomial.py; nothing is measured here.

Writes ``bias-and-variance.png``, ``variance-by-factors.png`` and ``polynomial.png`` beside the rows, and prints the
tables of ``docs/gradient-study.md``.

    python benchmarks/studies/gradients/report.py [--results FOLDER]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure

from benchmarks.studies.common import RESULTS, markdown, start
from gsrl._files import save_figure
from gsrl._style import COLOURS, INK, SOFT

SMALL: dict[str, Any] = {
    **dict.fromkeys(("axes.labelsize", "axes.titlesize"), 8),
    **dict.fromkeys(("legend.fontsize", "xtick.labelsize", "ytick.labelsize"), 7),
    "lines.linewidth": 1,
    "lines.markersize": 3,
}
"""Texts and lines of the pictures."""
TINTS = {
    "gumbel-softmax": COLOURS[0],
    "st-gumbel": COLOURS[1],
    "straight-through": COLOURS[2],
    "reinmax": COLOURS[3],
    "gumbel-rao": COLOURS[4],
    "gapped-st": COLOURS[5],
    "reinforce, b = E f": SOFT,
    "rloo": INK,
}
FACTORS = (1, 4, 16, 64)
UNBIASED = ("reinforce", "reinforce, b = E f", "rloo", "relax", "rebar", "local-expectation")
AT_1 = ("gumbel-softmax", "st-gumbel", "straight-through")
"""Shown at temperature 1."""
CELLS = ((1, 4), (4, 16), (64, 2), (64, 64))
"""Sizes (n, K) of the figures and tables: the corners, and two between."""


def load_grid(results: Path) -> pd.DataFrame:
    """The rows of the grid, with the variance of one call relative to the squared norm of the gradient."""
    grid = pd.read_csv(results / "grid.csv")
    grid["relative_variance"] = grid["variance_at_one_call"] / grid["gradient_norm"] ** 2
    return grid


def calls_to_tie(biased: pd.Series, unbiased: pd.Series) -> float:
    """Calls of f at which an unbiased estimator has the smaller mean squared error; 0: from the first one.

    Averaged over N calls, the errors are ``bias^2 + v / N`` and ``u / N``, equal at ``N = (u - v) / bias^2``.
    """
    excess = unbiased["relative_variance"] - biased["relative_variance"]
    return max(excess, 0) / biased["relative_bias"] ** 2


def select(grid: pd.DataFrame, n: int, K: int, estimator: str, temperature: float | None = None) -> pd.Series:
    """The row of one estimator at one pair of sizes."""
    rows = grid[(grid["n"] == n) & (grid["K"] == K) & (grid["estimator"] == estimator)]
    return (rows if temperature is None else rows[rows["temperature"] == temperature]).iloc[0]


def temperatures_table(grid: pd.DataFrame) -> pd.DataFrame:
    """Bias and variance against temperature."""
    swept = sorted(grid["temperature"].dropna().unique())
    table = {}
    for n, K in CELLS:
        for name in ("gumbel-softmax", "st-gumbel"):
            rows = [select(grid, n, K, name, temperature) for temperature in swept]
            cells = [f"{row['relative_bias']:.2f} / {row['relative_variance']:.2g}" for row in rows]
            table[f"{name}, n={n} K={K}"] = cells
    return pd.DataFrame(table, index=pd.Index([f"{t:g}" for t in swept], name="temperature")).T


def factors_table(grid: pd.DataFrame, K: int) -> pd.DataFrame:
    """Relative variance at one call, and relative bias, against the number of factors."""
    table = {}
    for name in (*UNBIASED, *AT_1, "reinmax"):
        rows = [select(grid, n, K, name, 1.0 if name in AT_1 else None) for n in FACTORS]
        table[name] = [
            f"{row['relative_variance']:.3g}" + (f" ({row['relative_bias']:.2f})" if row["biased"] else "")
            for row in rows
        ]
    return pd.DataFrame(table, index=[f"n = {n}" for n in FACTORS]).T


def ties_table(grid: pd.DataFrame) -> pd.DataFrame:
    """Calls from which RLOO has the smaller error."""
    subjects: list[tuple[str, float | None]] = [("straight-through", 1.0), ("reinmax", None)]
    subjects[:0] = [*(("gumbel-softmax", t) for t in (0.1, 0.5, 1.0)), *(("st-gumbel", t) for t in (0.5, 1.0))]
    table = {}
    for name, temperature in subjects:
        cells = []
        for n, K in CELLS:
            biased, rloo = select(grid, n, K, name, temperature), select(grid, n, K, "rloo")
            unresolved = biased["relative_bias"] < 3 * biased["relative_bias_error"]
            calls = calls_to_tie(biased, rloo)
            cells.append(f"{'> ' if unresolved else ''}{float(f'{calls:.2g}'):,.0f}")
        table[name if temperature is None else f"{name}, {temperature:g}"] = cells
    return pd.DataFrame(table, index=[f"n={n}, K={K}" for n, K in CELLS]).T


def draw_temperatures(grid: pd.DataFrame) -> Figure:
    """Bias and spread against temperature, with what REINFORCE has for comparison."""
    figure = Figure(figsize=(7.2, 3.9))
    axes = figure.subplots(2, len(CELLS), sharex=True, sharey="row")
    for (n, K), bias, spread in zip(CELLS, *axes, strict=True):
        bias.set_title(f"n = {n}, K = {K}")
        for name in ("gumbel-softmax", "st-gumbel", "gumbel-rao", "straight-through"):
            rows = grid[(grid["n"] == n) & (grid["K"] == K) & (grid["estimator"] == name)]
            bias.plot(rows["temperature"], rows["relative_bias"], "o-", color=TINTS[name], label=name)
            spread.plot(rows["temperature"], np.sqrt(rows["relative_variance"]), "o-", color=TINTS[name])
        for name, dashes in (("reinforce, b = E f", "--"), ("rloo", ":")):
            row = select(grid, n, K, name)
            spread.axhline(np.sqrt(row["relative_variance"]), color=TINTS[name], ls=dashes, label=name)
        spread.set_xlabel("temperature")
    axes[0, 0].set(xscale="log", yscale="log", ylim=(0.01, 20), ylabel="relative bias")
    axes[1, 0].set(yscale="log", ylim=(0.01, 300), ylabel="relative std, one call")
    handles = [handle for panel in axes[:, 0] for handle in panel.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
    return figure


def draw_factors(grid: pd.DataFrame) -> Figure:
    """Spread against the number of factors."""
    figure = Figure(figsize=(7.2, 2.6))
    sizes = (2, 16, 64)
    axes = figure.subplots(1, len(sizes), sharey=True)
    for K, panel in zip(sizes, axes, strict=True):
        for name in (*AT_1, "reinmax", "reinforce, b = E f", "rloo"):
            rows = [select(grid, n, K, name, 1.0 if name in AT_1 else None) for n in FACTORS]
            values = [np.sqrt(row["relative_variance"]) for row in rows]
            panel.plot(FACTORS, values, "o-", color=TINTS[name], label=name)
        panel.set(xscale="log", yscale="log", xlabel="factors n", title=f"K = {K}")
        panel.set_xticks(FACTORS, map(str, FACTORS))
    axes[0].set_ylabel("relative std, one call")
    figure.legend(handles=axes[0].get_lines(), loc="outside lower center", ncols=6)
    return figure


def load_polynomial(results: Path) -> pd.DataFrame:
    """The rows of polynomial programming, with the share of the gap to the optimum that was closed."""
    rows = pd.concat([pd.read_csv(path) for path in sorted(results.glob("polynomial-q*.csv"))], ignore_index=True)
    suffix = rows["temperature"].map(lambda t: "" if np.isnan(t) else f", {t:g}")
    rows["label"] = rows["estimator"] + suffix
    rows["closed"] = (rows["first_loss"] - rows["final_loss"]) / (rows["first_loss"] - rows["optimum"])
    return rows


def by_exponent(text: pd.Series, order: pd.Series) -> pd.DataFrame:
    """Texts by label and exponent as a table, a line for each label, in the order of other numbers' means."""
    lines = order.groupby("label").mean().sort_values().index
    return (
        text.unstack("exponent")
        .reindex(lines)
        .fillna("–")
        .rename(columns=lambda q: f"q = {q:g}")
        .rename_axis(index="estimator")
    )


def polynomial_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Final expected loss: mean over seeds, worst seed, and the share of the gap closed."""
    groups = rows.groupby(["label", "exponent"], sort=False)
    found = groups.agg(mean=("final_loss", "mean"), worst=("final_loss", "max"), closed=("closed", "mean"))
    text = found.apply(lambda row: f"{row['mean']:.4f} ({row['worst']:.4f}; {row['closed']:.0%})", axis=1)
    return by_exponent(text, -rows.set_index("label")["closed"])


def speed_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Median updates until half, and nine tenths, of the gap were closed; those that never got there are left out."""
    medians = rows.groupby(["label", "exponent"], sort=False)[["updates_to_50", "updates_to_90"]].median()
    medians = medians[medians["updates_to_50"].notna()]
    text = medians.apply(lambda row: " / ".join("–" if np.isnan(v) else f"{v:,.0f}" for v in row), axis=1)
    return by_exponent(text, medians["updates_to_50"])


def draw_polynomial(rows: pd.DataFrame) -> Figure:
    """Share of the gap closed, by estimator and exponent: mean, and the range over seeds."""
    exponents = sorted(rows["exponent"].unique())
    order = rows.groupby("label")["closed"].mean().sort_values().index
    figure = Figure(figsize=(7.2, 0.8 + 0.17 * len(order)))
    panels = figure.subplots(1, len(exponents), sharey=True, squeeze=False)[0]
    for exponent, panel in zip(exponents, panels, strict=True):
        groups = rows[rows["exponent"] == exponent].groupby("label")["closed"]
        closed = groups.agg(["mean", "min", "max"]).reindex(order)
        colours = [TINTS.get(label.split(",")[0], SOFT) for label in order]
        panel.barh(range(len(order)), closed["mean"], color=colours)
        panel.hlines(range(len(order)), closed["min"], closed["max"], color="black", lw=1)
        panel.set_yticks(range(len(order)), order)
        panel.axvline(0, color="black", lw=0.6)
        panel.set(xlabel="share of the gap closed", title=f"q = {exponent:g}")
    return figure


def main(*, results: Path = RESULTS / "gradients") -> None:
    """Draws and prints."""
    style.use(SMALL)
    grid, rows = load_grid(results), load_polynomial(results)
    save_figure(draw_temperatures(grid), results / "bias-and-variance.png")
    save_figure(draw_factors(grid), results / "variance-by-factors.png")
    save_figure(draw_polynomial(rows), results / "polynomial.png")
    for title, table in (
        ("Relative bias / relative variance at one call, against temperature", temperatures_table(grid)),
        ("Relative variance at one call (relative bias), K = 16", factors_table(grid, 16)),
        ("Calls of f from which RLOO has the smaller mean squared error", ties_table(grid)),
        ("Final expected loss: mean of the seeds (worst seed; share of the gap closed)", polynomial_table(rows)),
        ("Updates until half / nine tenths of the gap are closed, median of the seeds", speed_table(rows)),
    ):
        print(f"### {title}\n\n{markdown(table.reset_index())}\n")


if __name__ == "__main__":
    start(main, __doc__)
