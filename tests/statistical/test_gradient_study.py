"""The study of gradient estimators: the same seed gives the same table, and a second sitting adds what is missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gsrl import FactoredCategorical
from gsrl.estimators import make_estimator
from gsrl.objectives import polynomial

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gradients"


def load(name: str) -> ModuleType:
    """Imports a script of the study."""
    spec = importlib.util.spec_from_file_location(f"study_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_grid_is_the_same_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = load("grid")
    monkeypatch.setattr(grid, "SAMPLES", (20, 50))
    monkeypatch.setattr(grid, "ADAPT_STEPS", 3)
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    grid.main(["--choices", "2", "3", "--factors", "2", "--out", str(whole)])
    grid.main(["--choices", "3", "--factors", "2", "--out", str(parts)])
    grid.main(["--choices", "2", "3", "--factors", "2", "--out", str(parts)])
    assert whole.read_text() == parts.read_text()
    assert len(whole.read_text().splitlines()) > 80


def test_polynomial_programming_is_the_same_twice(tmp_path: Path) -> None:
    polynomial = load("polynomial")
    options = ["--exponents", "2", "--seeds", "2", "--updates", "10"]
    first, second = tmp_path / "first", tmp_path / "second"
    polynomial.main([*options, "--estimators", "exact", "reinmax", "rebar", "--out", str(first)])
    polynomial.main([*options, "--estimators", "exact", "--out", str(second)])
    polynomial.main([*options, "--estimators", "exact", "reinmax", "rebar", "--out", str(second)])
    table = (first / "polynomial-q2.csv").read_text()
    assert table == (second / "polynomial-q2.csv").read_text()
    assert len(table.splitlines()) == 1 + 2 * 4


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0])
def test_local_expectation_is_the_exact_gradient_of_polynomial_programming(exponent: float) -> None:
    """Which is why the study does not train by it."""
    problem = polynomial(exponent)
    logits = problem.logits.clone().requires_grad_()
    cost = make_estimator("local-expectation").expectation(
        FactoredCategorical(logits), problem.f, generator=torch.Generator().manual_seed(0)
    )
    cost.backward()
    torch.testing.assert_close(logits.grad, problem.exact_gradient().float(), rtol=1e-3, atol=1e-8)
