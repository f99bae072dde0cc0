"""How often do 95 % intervals of the interquartile mean hold the true one? On synthetic scores, by number of seeds.

Compared are the percentile bootstrap, as it is commonly used, and the expanded one of :mod:`gsrl.bench.stats`, which
the reports show. True values come from the quantiles of each law. The rows of "3 environments" are stratified: three
laws together, and the seeds are those of each.

    python benchmarks/studies/coverage.py

Writes ``coverage.csv`` and ``coverage.md`` into ``benchmarks/results``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as laws

from benchmarks.studies.common import RESULTS, start, write_page
from gsrl.bench.stats import CONFIDENCE, expanded_confidence, iqm

__all__ = ["SHAPES", "coverage", "true_iqm"]

SEEDS = (5, 10, 20)

Array = NDArray[np.float64]
Quantiles = Callable[[Array], Array]
"""A law, by its quantile function."""


def _mixture(*parts: tuple[float, Quantiles]) -> Quantiles:
    """Laws of which each lies wholly above the one before, by their shares."""
    ends = np.cumsum([share for share, _ in parts])

    def quantiles(u: Array) -> Array:
        begins = [0.0, *ends[:-1]]
        inside = [law(np.clip((u - begin) / share, 0, 1)) for begin, (share, law) in zip(begins, parts, strict=True)]
        return np.select([u <= end for end in ends], inside, inside[-1])

    return quantiles


def _ceiling(share: float) -> Quantiles:
    return _mixture((1 - share, laws.uniform(100, 400).ppf), (share, lambda u: np.full_like(u, 500.0)))


SHAPES: dict[str, Quantiles] = {
    "normal": laws.norm(450, 30).ppf,
    "uniform": laws.uniform(0, 500).ppf,
    "heavy tails": laws.t(3, 100, 20).ppf,
    "skewed": laws.lognorm(0.8, scale=100).ppf,
    "skewed below": lambda u: -laws.lognorm(0.8, scale=100).ppf(1 - u),
    "some failed": _mixture((0.3, laws.uniform(50, 150).ppf), (0.7, laws.uniform(350, 150).ppf)),
    "ceiling, 40 % at it": _ceiling(0.4),
    "ceiling, 60 % at it": _ceiling(0.6),
}
"""Laws of final returns. Those with a ceiling are like CartPole, where many seeds end at 500 exactly."""

TOGETHER = ("normal", "some failed", "ceiling, 40 % at it")
"""Laws of the stratified rows, each scaled to a standard deviation of 1 around its mean."""


def true_iqm(mixed: Sequence[Quantiles], points: int = 2_000_001) -> float:
    """The interquartile mean of a law, or of several mixed in equal parts."""
    u = (np.arange(points) + 0.5) / points
    values = np.sort(np.concatenate([law(u) for law in mixed]))
    quarter = len(values) // 4
    return float(values[quarter : len(values) - quarter].mean())


def coverage(
    mixed: Sequence[Quantiles], seeds: int, trials: int, resamples: int, rng: np.random.Generator
) -> dict[str, float]:
    """Shares of the trials in which each interval held the true value, and their mean widths.

    Args:
        mixed: Laws of the scores in each environment.
        seeds: Drawn from each.
        trials: How many experiments.
        resamples: Of each bootstrap.
        rng: Of all.
    """
    truth = true_iqm(mixed)
    margin = 1e-9 * max(1.0, abs(truth))
    levels = {"percentile": CONFIDENCE, "expanded": expanded_confidence([seeds] * len(mixed))}
    held, width = dict.fromkeys(levels, 0), dict.fromkeys(levels, 0.0)
    for _ in range(trials):
        # All of it as scipy.stats.bootstrap does, which gsrl.bench.stats calls, but both intervals from one draw.
        strata = [law(rng.random(seeds)) for law in mixed]
        drawn = [stratum[rng.integers(seeds, size=(resamples, seeds))] for stratum in strata]
        estimates = iqm(*drawn, axis=1)
        for name, level in levels.items():
            low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
            held[name] += low - margin <= truth <= high + margin
            width[name] += high - low
    return {
        **{name: held[name] / trials for name in levels},
        **{f"{name} width": width[name] / trials for name in levels},
    }


def _standardised(law: Quantiles) -> Quantiles:
    values = law((np.arange(100_000) + 0.5) / 100_000)
    mean, deviation = values.mean(), values.std()
    return lambda u: (law(u) - mean) / deviation


def main(*, trials: int = 4_000, resamples: int = 2_000, out: Path = RESULTS) -> None:
    """Measures, and writes the table."""
    cases: dict[str, list[Quantiles]] = {name: [law] for name, law in SHAPES.items()}
    cases["3 environments"] = [_standardised(SHAPES[name]) for name in TOGETHER]
    rows = []
    for index, (shape, mixed) in enumerate(cases.items()):
        for seeds in SEEDS:
            row = coverage(mixed, seeds, trials, resamples, np.random.default_rng([index, seeds]))
            rows.append({"scores": shape, "seeds": seeds, **{name: round(value, 4) for name, value in row.items()}})
            print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "coverage.csv", index=False)
    error = 100 * 2 * math.sqrt(0.95 * 0.05 / trials)
    write_page(
        out / "coverage.md",
        "Coverage of 95 % intervals of the interquartile mean",
        "In how many of a hundred experiments the interval held the true value, by number of seeds; the reports show "
        f"the expanded one. {trials:,} experiments each, so ± {error:.1f}; {resamples:,} resamples.",
        {"": table(frame)},
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each law of the scores."""
    lines = []
    for shape, group in frame.groupby("scores", sort=False):
        by_seeds = group.set_index("seeds")
        ratio = by_seeds["expanded width"] / by_seeds["percentile width"]
        held = {
            f"{kind}, {seeds}": f"{100 * by_seeds[kind][seeds]:.1f}"
            for kind in ("percentile", "expanded")
            for seeds in SEEDS
        }
        wider = {f"wider by, {SEEDS[0]}": f"{ratio[SEEDS[0]]:.2f}", f"{SEEDS[-1]}": f"{ratio[SEEDS[-1]]:.2f}"}
        lines.append({"scores": shape, **held, **wider})
    return pd.DataFrame(lines)


if __name__ == "__main__":
    start(main, __doc__)
