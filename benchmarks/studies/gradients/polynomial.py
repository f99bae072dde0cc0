"""Polynomial programming: what each estimator's gradient is worth when something is learned from it.

128 binary latents are to bring ``f = mean |z - .45|^q`` down; the optimum has every z at 0. Logits start from
U(-.01, .01) and are shared by a batch of 64 samples; Adam at 1e-3 takes 8,000 updates: the settings of the toy problem
of ReinMax (2304.08612). What is reported is the *expected* loss of the policy, in closed form, so that a relaxed
objective cannot flatter itself: its mean over the last 200 updates, and how many updates it took to close half and nine
tenths of the gap between the loss at the start and the optimum.

Rows are appended to ``polynomial-q<q>.csv`` as each estimator ends; those that are there already are not run
again. The seeds of an estimator are trained side by side. The figures depend on the seeds alone. Not here:
``local-expectation``, which is the exact gradient of this separable f at 256 calls a sample, as a test holds;
``unordered-set``, which is ``rloo`` where none of the 2^128 configurations is ever drawn twice.

    python benchmarks/studies/gradients/polynomial.py [--exponents 1.5 2 3] [--seeds 10] [--out FOLDER]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.studies.common import RESULTS, Rows, start
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import make_estimator
from gsrl.objectives import Problem, polynomial

LATENTS, BATCH, UPDATES, LEARNING_RATE, LAST = 128, 64, 8_000, 1e-3, 200

TEMPERATURES = {
    "gumbel-softmax": (0.1, 0.5, 1.0, 2.0),
    "st-gumbel": (0.1, 0.5, 1.0, 2.0),
    "gapped-st": (1.0,),
    "straight-through": (1.0, 2.0),
    "reinmax": (1.0, 1.3),
}
SUBJECTS: dict[tuple[str, float | None], dict[str, Any]] = {
    ("exact", None): {},
    **{(name, tau): {"temperature": tau} for name, taus in TEMPERATURES.items() for tau in taus},
    ("decoupled-st", 1.0): {"forward_temperature": 2.0, "backward_temperature": 1.0},
    ("reinforce", None): {},
    ("reinforce, running mean", None): {"baseline": "running-mean"},
    **{(name, None): {} for name in ("muprop", "arm", "disarm", "arsm", "rebar")},
    ("rloo", None): {"num_samples": 10},
    ("relax", None): {"shape": (LATENTS, 2)},
    ("gumbel-rao", 1.0): {"temperature": 1.0, "num_samples": 3},
}
"""Settings of the estimators, by name, with what is said of it, and temperature."""


def train(name: str, settings: Mapping[str, Any], problem: Problem, seeds: int, updates: int) -> Tensor:
    """Expected losses ``[updates, seeds]`` before each update; ``exact`` takes the gradient of these."""
    assert problem.expected is not None  # as of every problem with a name
    starts = [polynomial(latents=LATENTS, seed=seed).logits for seed in range(seeds)]
    logits = torch.stack(starts).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    # What an estimator keeps or learns belongs to one seed; those that keep nothing serve all seeds at once.
    estimators = [] if name == "exact" else [make_estimator(name, **settings)]
    if estimators and estimators[0].state_dict():
        estimators += [make_estimator(name, **settings) for _ in range(seeds - 1)]
    learned = [parameter for estimator in estimators for parameter in estimator.parameters()]
    optimizer = torch.optim.Adam([logits, *learned], lr=LEARNING_RATE)
    groups = logits.shape[0] // max(len(estimators), 1)
    losses = []
    for _ in range(updates):
        optimizer.zero_grad()
        expected = problem.expected(logits)
        losses.append(expected.detach())
        if name == "exact":
            expected.sum().backward()
        for estimator, part in zip(estimators, logits.split(groups), strict=False):
            policy = FactoredCategorical(part.unsqueeze(1), validate_args=False).expand((len(part), BATCH))
            cost = estimator.expectation(policy, problem.f, generator=generator)
            (cost.sum() / BATCH).backward()
            estimator.step(cost.detach())
        optimizer.step()
    return torch.stack(losses)


def rows_of(losses: Tensor, problem: Problem) -> list[dict[str, float | None]]:
    """One for each seed."""
    assert problem.expected is not None
    everywhere_0 = torch.tensor([[-100.0, 100.0]]).expand(LATENTS, 2)
    optimum = problem.expected(everywhere_0).item()
    rows = []
    for seed, curve in enumerate(losses.unbind(1)):
        closed = (curve[0] - curve) / (curve[0] - optimum)
        rows.append(
            {
                "seed": seed,
                "first_loss": curve[0].item(),
                "final_loss": curve[-LAST:].mean().item(),
                "optimum": optimum,
                **{
                    f"updates_to_{share}": closed.ge(share / 100).nonzero()[0].item() if closed.max() >= share / 100
                    else None
                    for share in (50, 90)
                },
            }
        )  # fmt: skip
    return rows


def main(
    *,
    exponents: tuple[float, ...] = (1.5, 2.0, 3.0),
    estimators: tuple[str, ...] = (),
    seeds: int = 10,
    updates: int = UPDATES,
    out: Path = RESULTS / "gradients",
) -> None:
    """Trains what is missing, and appends it.

    Args:
        exponents: q.
        estimators: Names; all if none is given.
        seeds: Seeds 0, 1, ..., side by side.
        updates: Of a training.
        out: Folder of the rows.
    """
    for exponent in exponents:
        problem, rows = polynomial(exponent, LATENTS), Rows(out / f"polynomial-q{exponent:g}.csv")
        runs = [{"exponent": exponent, "estimator": name, "temperature": temperature} for name, temperature in SUBJECTS]
        for run in rows.missing(run for run in runs if not estimators or run["estimator"] in estimators):
            name, settings = run["estimator"].partition(",")[0], SUBJECTS[run["estimator"], run["temperature"]]
            rows.add(rows_of(train(name, settings, problem, seeds, updates), problem), **run)


if __name__ == "__main__":
    start(main, __doc__)
