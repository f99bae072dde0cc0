"""Bias and variance of every estimator over the number of choices, of factors, and the temperature.

The objective is the cubic of :mod:`gsrl.objectives`, which couples all factors and whose exact gradient is known for
any size. Estimators that take more calls of f an estimate are compared at equal calls by ``variance * calls``: the
variance that is left when one call is spent, if estimates are averaged.

Rows are appended to ``results/grid.csv`` as each pair of sizes ends; pairs that are there already are not run again.
The figures depend on the seed alone.

    python benchmarks/gradients/grid.py [--choices 2 4 16 64] [--factors 1 4 16 64] [--out results/grid.csv]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from agents.gradients import ADAPT_STEPS, ADAPTED, fitting_estimators
from benchmarks.common import Rows
from gsrl.diagnostics import adapt, compare
from gsrl.estimators import Estimator, Reinforce, make_estimator
from gsrl.objectives import Problem, cubic

OUT = Path(__file__).parent / "results" / "grid.csv"
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
            value = problem.expected(problem.policy().logits)
            chosen["reinforce, b = E f", None] = Reinforce(lambda policy, value=value: value)
    return chosen


def measure(problem: Problem, seed: int) -> list[dict[str, object]]:
    """The rows of one pair of sizes."""
    n, K = problem.logits.shape
    policy, exact, rows = problem.policy(), problem.exact_gradient(), []
    for (name, temperature), estimator in subjects(problem).items():
        if name in ADAPTED:
            adapt(estimator, policy, problem.f, ADAPT_STEPS, seed=seed)
        options = {"exact": exact, "seed": seed, "measure_cost": False}
        calls = compare(policy, problem.f, {name: estimator}, 2, **options).rows[0].calls
        samples = int(min(max(WORK / (calls * n * K), SAMPLES[0]), SAMPLES[1]))
        comparison = compare(policy, problem.f, {name: estimator}, samples, **options)
        measured = dataclasses.asdict(comparison.rows[0])
        rows.append(
            {
                "n": n,
                "K": K,
                "estimator": name,
                "temperature": temperature,
                **{column: measured[column] for column in KEPT},
                "gradient_norm": comparison.gradient_norm,
                "variance_at_one_call": measured["variance"] * measured["calls"],
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, and appends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choices", type=int, nargs="+", default=[2, 4, 16, 64], help="K")
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 4, 16, 64], help="n")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = Rows(arguments.out, order=lambda row: (row["n"], row["K"]))
    for n, K in itertools.product(arguments.factors, arguments.choices):
        if not rows.holds(n=n, K=K):
            rows.add(measure(cubic(n, K), arguments.seed))
            print(f"n = {n}, K = {K}: done", flush=True)


if __name__ == "__main__":
    main()
