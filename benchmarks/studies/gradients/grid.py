"""Bias and variance of every estimator over the number of choices, of factors, and the temperature.

The objective is the cubic of :mod:`gsrl.objectives`, which couples all factors and whose exact gradient is known for
any size. Estimators that take more calls of f an estimate are compared at equal calls by ``variance * calls``: the
variance that is left when one call is spent, if estimates are averaged.

Rows are appended to ``grid.csv`` in ``benchmarks/results/gradients`` as each pair of sizes ends; pairs that are there
already are not run again. The figures depend on the seed alone.

    python benchmarks/studies/gradients/grid.py [--choices 2 4 16 64] [--factors 1 4 16 64] [--out FILE]
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.studies.common import RESULTS, Rows, start
from gsrl.diagnostics import adapt, compare
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, ReinforceEstimator, make_estimator
from gsrl.objectives import Problem, cubic
from gsrl.runs.gradients import ADAPT_STEPS, ADAPTED, fitting_estimators

TEMPERATURES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
SWEPT = ("gumbel-softmax", "st-gumbel", "gumbel-rao", "gapped-st", "straight-through")
WORK = 2e8
"""Numbers that f may be given for one estimator at one pair of sizes; what limits the estimates of dear ones."""
SAMPLES = (400, 20_000)
"""The fewest and the most estimates of one estimator."""
KEPT = ("biased", "calls", "samples", "relative_bias", "relative_bias_error", "variance", "cosine", "cosine_of_mean")


def subjects(problem: Problem) -> dict[tuple[str, float | None], Estimator]:
    """Every estimator that fits, by name and temperature: None where it has none or fits it itself."""
    n, K = problem.logits.shape
    fitting = {name: estimator for name, estimator in fitting_estimators(n, K).items() if name != "exact"}
    chosen: dict[tuple[str, float | None], Estimator] = {}
    for name, estimator in fitting.items():
        if name in SWEPT:
            chosen |= {(name, tau): make_estimator(name, temperature=tau) for tau in TEMPERATURES}
        else:
            chosen[name, None] = estimator
        if name == "reinforce":
            # The best that a constant baseline can do, or nearly: E[f], which is known here.
            assert problem.expected is not None
            chosen["reinforce, b = E f", None] = ReinforceEstimator(constant(problem.expected(problem.policy().logits)))
    return chosen


def constant(value: Tensor) -> Callable[[FactoredCategorical], Tensor]:
    """A baseline that is the same for every policy."""
    return lambda policy: value


def measure(problem: Problem, seed: int) -> list[dict[str, object]]:
    """The rows of one pair of sizes."""
    n, K = problem.logits.shape
    policy, exact, rows = problem.policy(), problem.exact_gradient(), []
    for (name, temperature), estimator in subjects(problem).items():
        if name in ADAPTED:
            adapt(estimator, policy, problem.f, ADAPT_STEPS, seed=seed)
        options: dict[str, Any] = {"exact": exact, "seed": seed, "measure_cost": False}
        calls = compare(policy, problem.f, {name: estimator}, 2, **options).rows[0].calls
        samples = int(min(max(WORK / (calls * n * K), SAMPLES[0]), SAMPLES[1]))
        comparison = compare(policy, problem.f, {name: estimator}, samples, **options)
        measured = dataclasses.asdict(comparison.rows[0])
        rows.append(
            {
                "estimator": name,
                "temperature": temperature,
                **{column: measured[column] for column in KEPT},
                "gradient_norm": comparison.gradient_norm,
                "variance_at_one_call": measured["variance"] * measured["calls"],
            }
        )
    return rows


def main(
    *,
    choices: tuple[int, ...] = (2, 4, 16, 64),
    factors: tuple[int, ...] = (1, 4, 16, 64),
    seed: int = 0,
    out: Path = RESULTS / "gradients" / "grid.csv",
) -> None:
    """Measures what is missing, and appends it."""
    rows = Rows(out, order=("n", "K"))
    for sizes in rows.missing({"n": n, "K": K} for n, K in itertools.product(factors, choices)):
        rows.add(measure(cubic(**sizes), seed), **sizes)


if __name__ == "__main__":
    start(main, __doc__)
