"""The study of gradient estimators: the same seed gives the same table, and a second sitting adds what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.studies.gradients import grid, polynomial
from gsrl import FactoredCategorical, objectives
from gsrl.estimators import make_estimator


def test_the_grid_is_the_same_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "SAMPLES", (20, 50))
    monkeypatch.setattr(grid, "ADAPT_STEPS", 3)
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    grid.main(choices=(2, 3), factors=(2,), out=whole)
    grid.main(choices=(3,), factors=(2,), out=parts)
    grid.main(choices=(2, 3), factors=(2,), out=parts)
    assert whole.read_text() == parts.read_text()
    assert len(whole.read_text().splitlines()) > 80


def test_polynomial_programming_is_the_same_twice(tmp_path: Path) -> None:
    options = {"exponents": (2.0,), "seeds": 2, "updates": 10}
    first, second = tmp_path / "first", tmp_path / "second"
    polynomial.main(estimators=("exact", "reinmax", "rebar"), out=first, **options)
    polynomial.main(estimators=("exact",), out=second, **options)
    polynomial.main(estimators=("exact", "reinmax", "rebar"), out=second, **options)
    table = (first / "polynomial-q2.csv").read_text()
    assert table == (second / "polynomial-q2.csv").read_text()
    assert len(table.splitlines()) == 1 + 2 * 4


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0])
def test_local_expectation_is_the_exact_gradient_of_polynomial_programming(exponent: float) -> None:
    """Which is why the study does not train by it."""
    problem = objectives.polynomial(exponent)
    logits = problem.logits.clone().requires_grad_()
    cost = make_estimator("local-expectation").expectation(
        FactoredCategorical(logits), problem.f, generator=torch.Generator().manual_seed(0)
    )
    cost.backward()
    torch.testing.assert_close(logits.grad, problem.exact_gradient().float(), rtol=1e-3, atol=1e-8)
