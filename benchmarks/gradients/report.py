"""Tables and figures from the rows of grid.py and polynomial.py; nothing is measured here.

Writes ``bias-and-variance.png``, ``variance-by-factors.png`` and ``polynomial.png`` beside the rows, and prints the
tables of ``docs/gradient-study.md``.

    python benchmarks/gradients/report.py [--results benchmarks/gradients/results]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common import markdown

RESULTS = Path(__file__).parent / "results"
COLOURS = {
    "gumbel-softmax": "#0072B2",
    "st-gumbel": "#D55E00",
    "gumbel-rao": "#E69F00",
    "straight-through": "#009E73",
    "gapped-st": "#56B4E9",
    "reinmax": "#CC79A7",
    "reinforce, b = E f": "#666666",
    "rloo": "#000000",
}
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
    columns: dict[str, list[str]] = {}
    swept = sorted(grid["temperature"].dropna().unique())
    for n, K in CELLS:
        for name in ("gumbel-softmax", "st-gumbel"):
            rows = [select(grid, n, K, name, temperature) for temperature in swept]
            columns[f"{name}, n={n} K={K}"] = [
                f"{row['relative_bias']:.2f} / {row['relative_variance']:.2g}" for row in rows
            ]
    return pd.DataFrame(columns, index=pd.Index([f"{t:g}" for t in swept], name="temperature")).T


def factors_table(grid: pd.DataFrame, K: int) -> pd.DataFrame:
    """Relative variance at one call, and relative bias, against the number of factors."""
    names = {
        "reinforce": None,
        "reinforce, b = E f": None,
        "rloo": None,
        "relax": None,
        "rebar": None,
        "local-expectation": None,
        "gumbel-softmax": 1.0,
        "st-gumbel": 1.0,
        "straight-through": 1.0,
        "reinmax": None,
    }
    sizes = sorted(grid["n"].unique())
    table = {}
    for name, temperature in names.items():
        rows = [select(grid, n, K, name, temperature) for n in sizes]
        table[name] = [
            f"{row['relative_variance']:.3g}" + (f" ({row['relative_bias']:.2f})" if row["biased"] else "")
            for row in rows
        ]
    return pd.DataFrame(table, index=[f"n = {n}" for n in sizes]).T


def ties_table(grid: pd.DataFrame) -> pd.DataFrame:
    """Calls from which RLOO has the smaller error."""
    subjects = [("gumbel-softmax", t) for t in (0.1, 0.5, 1.0)] + [("st-gumbel", t) for t in (0.5, 1.0)]
    subjects += [("straight-through", 1.0), ("reinmax", None)]
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


def draw_temperatures(grid: pd.DataFrame, path: Path) -> None:
    """Bias and spread against temperature, with what REINFORCE has for comparison."""
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    axes = figure.subplots(2, len(CELLS), sharex=True, sharey="row")
    for column, (n, K) in enumerate(CELLS):
        bias, spread = axes[0, column], axes[1, column]
        bias.set_title(f"n = {n}, K = {K}", fontsize=8)
        for name in ("gumbel-softmax", "st-gumbel", "gumbel-rao", "straight-through"):
            rows = grid[(grid["n"] == n) & (grid["K"] == K) & (grid["estimator"] == name)]
            bias.plot(rows["temperature"], rows["relative_bias"], "o-", color=COLOURS[name], ms=3, lw=1, label=name)
            spread.plot(rows["temperature"], np.sqrt(rows["relative_variance"]), "o-", color=COLOURS[name], ms=3, lw=1)
        for name, style in (("reinforce, b = E f", "--"), ("rloo", ":")):
            row = select(grid, n, K, name)
            spread.axhline(np.sqrt(row["relative_variance"]), color=COLOURS[name], ls=style, lw=1, label=name)
        spread.set_xlabel("temperature", fontsize=8)
    axes[0, 0].set(xscale="log", yscale="log", ylim=(0.01, 20))
    axes[1, 0].set(yscale="log", ylim=(0.01, 300))
    axes[0, 0].set_ylabel("relative bias", fontsize=8)
    axes[1, 0].set_ylabel("relative std, one call", fontsize=8)
    _finish(axes.ravel())
    handles = [*axes[0, 0].get_legend_handles_labels()[0], *axes[1, 0].get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    figure.savefig(path, dpi=200)


def draw_factors(grid: pd.DataFrame, path: Path) -> None:
    """Spread against the number of factors."""
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    sizes = (2, 16, 64)
    axes = figure.subplots(1, len(sizes), sharey=True)
    for K, panel in zip(sizes, axes, strict=True):
        panel.set_title(f"K = {K}", fontsize=8)
        for name, temperature in (
            ("gumbel-softmax", 1.0),
            ("st-gumbel", 1.0),
            ("straight-through", 1.0),
            ("reinmax", None),
            ("reinforce, b = E f", None),
            ("rloo", None),
        ):
            rows = [select(grid, n, K, name, temperature) for n in (1, 4, 16, 64)]
            values = [np.sqrt(row["relative_variance"]) for row in rows]
            panel.plot((1, 4, 16, 64), values, "o-", color=COLOURS[name], ms=3, lw=1, label=name)
        panel.set(xscale="log", yscale="log", xticks=(1, 4, 16, 64), xticklabels=("1", "4", "16", "64"))
        panel.set_xlabel("factors n", fontsize=8)
    axes[0].set_ylabel("relative std, one call", fontsize=8)
    _finish(axes)
    figure.legend(handles=axes[0].get_lines(), loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    figure.savefig(path, dpi=200)


def load_polynomial(results: Path) -> pd.DataFrame:
    """The rows of polynomial programming, with the share of the gap to the optimum that was closed."""
    rows = pd.concat([pd.read_csv(path) for path in sorted(results.glob("polynomial-q*.csv"))], ignore_index=True)
    suffix = rows["temperature"].map(lambda t: "" if np.isnan(t) else f", {t:g}")
    rows["label"] = rows["estimator"] + suffix
    rows["closed"] = (rows["first_loss"] - rows["final_loss"]) / (rows["first_loss"] - rows["optimum"])
    return rows


def polynomial_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Final expected loss: mean over seeds, worst seed, and the share of the gap closed."""
    groups = rows.groupby(["label", "exponent"], sort=False)
    text = groups.apply(
        lambda group: (
            f"{group['final_loss'].mean():.4f} ({group['final_loss'].max():.4f}; {group['closed'].mean():.0%})"
        ),
        include_groups=False,
    )
    table = text.unstack("exponent")
    order = rows.groupby("label")["closed"].mean().sort_values(ascending=False).index
    return table.reindex(order).fillna("–").rename(columns=lambda q: f"q = {q:g}").rename_axis(index="estimator")


def speed_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Median updates until half, and nine tenths, of the gap were closed; those that never got there are left out."""
    groups = rows.groupby(["label", "exponent"], sort=False)[["updates_to_50", "updates_to_90"]].median()
    text = groups.apply(lambda row: " / ".join("–" if np.isnan(v) else f"{v:,.0f}" for v in row), axis=1)
    table = text[groups["updates_to_50"].notna()].unstack("exponent")
    order = groups["updates_to_50"].dropna().groupby("label").mean().sort_values().index
    return table.reindex(order).fillna("–").rename(columns=lambda q: f"q = {q:g}").rename_axis(index="estimator")


def draw_polynomial(rows: pd.DataFrame, path: Path) -> None:
    """Share of the gap closed, by estimator and exponent: mean, and the range over seeds."""
    exponents = sorted(rows["exponent"].unique())
    order = rows.groupby("label")["closed"].mean().sort_values().index
    figure = Figure(figsize=(7.2, 0.8 + 0.17 * len(order)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(exponents), sharey=True))
    for exponent, panel in zip(exponents, axes, strict=True):
        groups = rows[rows["exponent"] == exponent].groupby("label")["closed"]
        for place, label in enumerate(order):
            if label not in groups.groups:
                continue
            closed = groups.get_group(label)
            colour = COLOURS.get(label.split(",")[0], "#888888")
            panel.barh(place, closed.mean(), color=colour)
            panel.plot([closed.min(), closed.max()], [place, place], color="black", lw=1)
        panel.set_title(f"q = {exponent:g}", fontsize=8)
        panel.set_yticks(range(len(order)), order)
        panel.axvline(0, color="black", lw=0.6)
        panel.set_xlabel("share of the gap closed", fontsize=8)
    _finish(axes)
    figure.savefig(path, dpi=200)


def _finish(axes: Sequence[Axes]) -> None:
    for panel in axes:
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)


def main(argv: Sequence[str] | None = None) -> None:
    """Draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    grid, rows = load_grid(arguments.results), load_polynomial(arguments.results)
    draw_temperatures(grid, arguments.results / "bias-and-variance.png")
    draw_factors(grid, arguments.results / "variance-by-factors.png")
    draw_polynomial(rows, arguments.results / "polynomial.png")
    for title, table in (
        ("Relative bias / relative variance at one call, against temperature", temperatures_table(grid)),
        ("Relative variance at one call (relative bias), K = 16", factors_table(grid, 16)),
        ("Calls of f from which RLOO has the smaller mean squared error", ties_table(grid)),
        ("Final expected loss: mean of the seeds (worst seed; share of the gap closed)", polynomial_table(rows)),
        ("Updates until half / nine tenths of the gap are closed, median of the seeds", speed_table(rows)),
    ):
        print(f"### {title}\n\n{markdown(table.reset_index())}\n")


if __name__ == "__main__":
    main()
