"""The built-in test problems, against published figures and enumeration."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from gsrl import FactoredCategorical, make_estimator
from gsrl.objectives import OBJECTIVES, Problem, bernoulli_power, cubic, make_objective, polynomial, quadratic

SMALL = {
    "bernoulli": bernoulli_power(1.5, p=0.9),
    "quadratic": quadratic(),
    "quadratic-6": quadratic(6),
    "cubic": cubic(),
    "cubic-2-5": cubic(2, 5),
    "polynomial": polynomial(3.0, latents=6),
    "polynomial-batch": polynomial(1.5, latents=4, batch=3),
}


def value(problem: Problem) -> float:
    assert problem.expected is not None
    return problem.expected(problem.logits.double()).item()


def gradient(problem: Problem) -> Tensor:
    exact = problem.exact_gradient()
    assert exact is not None
    return exact


def without_closed_form(problem: Problem) -> Problem:
    return dataclasses.replace(problem, expected=None)


@pytest.mark.parametrize(
    ("exponent", "p", "slope"),
    [(1.5, 0.5, 0.02651), (1.5, 0.9, 0.00954), (2, 0.5, 0.025), (2, 0.9, 0.009), (3, 0.5, 0.01881), (3, 0.9, 0.00677)],
)
def test_bernoulli_power_has_the_known_slope(exponent: float, p: float, slope: float) -> None:
    problem = bernoulli_power(exponent, p)
    assert problem.policy().probs[0, 1].item() == pytest.approx(p, abs=1e-7)
    torch.testing.assert_close(gradient(problem), torch.tensor([[-slope, slope]]).double(), atol=5.1e-6, rtol=0)
    assert value(problem) == pytest.approx((1 - p) * 0.45**exponent + p * 0.55**exponent, abs=1e-7)


def test_quadratic_of_four_choices_has_the_known_gradient() -> None:
    expected = torch.tensor([[0.18078, -0.41739, 0.14331, 0.09329]]).double()
    assert value(quadratic()) == pytest.approx(0.70054, abs=5.1e-6)
    torch.testing.assert_close(gradient(quadratic()), expected, atol=5.1e-6, rtol=0)
    assert gradient(quadratic()).norm().item() == pytest.approx(0.48594, abs=5.1e-6)


def test_quadratic_slopes_between_the_vertices_are_those_of_the_whole_form() -> None:
    z = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]], requires_grad=True)
    f = quadratic().f(z)
    (slope,) = torch.autograd.grad(f.sum(), z)
    assert f.item() == pytest.approx(0.25 * (1 + 2 * 0.5 - 1))
    torch.testing.assert_close(slope, torch.tensor([[[1.5, -0.5, 0.0, 0.5]]]))  # 2 W z


def test_cubic_of_three_by_three_has_the_known_gradient() -> None:
    expected = [[1.24971, -0.70392, -0.54579], [-0.34535, -0.39655, 0.74190], [0.98561, -1.56282, 0.57721]]
    assert value(cubic()) == pytest.approx(3.76052, abs=5.1e-6)
    torch.testing.assert_close(gradient(cubic()), torch.tensor(expected).double(), atol=5.1e-6, rtol=0)
    assert gradient(cubic()).norm().item() == pytest.approx(2.63232, abs=5.1e-6)


@pytest.mark.parametrize("closed_form", [True, False])
def test_masked_cubic_has_the_known_gradient(closed_form: bool) -> None:
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[0, 2] = False
    masked = dataclasses.replace(cubic(), mask=mask)
    assert masked.expected is not None
    assert masked.expected(masked.policy().logits).item() == pytest.approx(4.53472, abs=1e-5)
    expected = [[1.23853, -1.23853, 0], [-0.41062, -0.45363, 0.86425], [1.13945, -1.80142, 0.66197]]
    exact = gradient(masked if closed_form else without_closed_form(masked))
    torch.testing.assert_close(exact, torch.tensor(expected).double(), atol=5.1e-6, rtol=0)
    assert exact[0, 2] == 0


@pytest.mark.parametrize(
    ("exponent", "at_zero", "optimum"), [(1.5, 0.3549, 0.3019), (2, 0.2525, 0.2025), (3, 0.1288, 0.0911)]
)
def test_polynomial_has_the_known_values(exponent: float, at_zero: float, optimum: float) -> None:
    problem = polynomial(exponent)
    assert problem.expected is not None
    assert problem.logits.shape == (128, 2)
    assert problem.logits.abs().max() <= 0.01
    assert problem.expected(torch.zeros(128, 2)).item() == pytest.approx(at_zero, abs=5.1e-5)
    all_at_zero = torch.tensor([0.0, 1.0]).expand(1, 128, 2)
    assert problem.f(all_at_zero).item() == pytest.approx(optimum, abs=5.1e-5)
    # E f = mean of p_i a + (1 - p_i) b, so the slope in a first logit is p (1 - p) (a - b) / n.
    probability = problem.logits.double().softmax(-1)[:, 0]
    slope = probability * (1 - probability) * (0.55**exponent - 0.45**exponent) / 128
    torch.testing.assert_close(gradient(problem), torch.stack([slope, -slope], -1), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_the_closed_form_is_the_enumerated_expectation(name: str) -> None:
    problem = SMALL[name]
    assert problem.expected is not None
    logits = problem.logits.double()
    enumerated = make_estimator("exact").expectation(FactoredCategorical(logits), problem.f)
    torch.testing.assert_close(problem.expected(logits), enumerated)
    torch.testing.assert_close(gradient(problem), gradient(without_closed_form(problem)))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_f_keeps_leading_dimensions_and_dtype_and_takes_soft_rows(name: str, dtype: torch.dtype) -> None:
    problem = SMALL[name]
    generator = torch.Generator().manual_seed(1)
    soft = torch.randn(5, *problem.logits.shape, generator=generator).softmax(-1).to(dtype).requires_grad_()
    values = problem.f(soft)
    assert values.shape == soft.shape[:-2]
    assert values.dtype == dtype
    (slopes,) = torch.autograd.grad(values.sum(), soft)
    assert slopes.isfinite().all()
    assert slopes.any()
    torch.testing.assert_close(problem.f(soft[2:3])[0], values[2])


def test_problems_are_the_same_each_time_and_carry_the_key_they_have() -> None:
    for name in OBJECTIVES:
        first, second = make_objective(name), make_objective(name)
        assert first.name == name
        assert torch.equal(first.logits, second.logits)
        assert first.logits.dtype == torch.float32
    assert torch.equal(cubic(4, 5).logits, cubic(4, 5).logits)
    assert not torch.equal(polynomial(seed=1).logits, polynomial(seed=0).logits)
    assert make_objective("polynomial", latents=3, batch=2).logits.shape == (2, 3, 2)


def test_the_spread_of_a_cubic_stays_of_order_one_and_its_gradient_is_known_at_any_size() -> None:
    problem = cubic(200, 6)
    assert problem.expected is not None
    draws = problem.policy().sample((20_000,), generator=torch.Generator().manual_seed(0))
    values = problem.f(draws).double()
    # A z-test at 5 standard errors, fails in less than one in a million.
    assert abs(values.mean().item() - value(problem)) < 5 * values.std().item() / math.sqrt(20_000)
    roots = values.sign() * values.abs() ** (1 / 3)
    assert 0.5 < roots.std().item() < 2
    assert gradient(problem).shape == (200, 6)
    assert without_closed_form(problem).exact_gradient() is None


def test_no_global_random_state_is_touched() -> None:
    before = torch.get_rng_state()
    for name in OBJECTIVES:
        make_objective(name)
    cubic(4, 4), quadratic(5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cubical", {}, "name must be one of .*'cubic'.*got 'cubical'"),
        ("bernoulli", {"exponent": 0.5}, "exponent must be finite and at least 1, but got 0.5"),
        ("bernoulli", {"p": 1.0}, "p must lie between 0 and 1, both excluded, but got 1.0"),
        ("quadratic", {"K": 1}, "K must be at least 2, but got 1"),
        ("cubic", {"n": 0}, "n must be at least 1, but got 0"),
        ("cubic", {"K": 1}, "K must be at least 2, but got 1"),
        ("polynomial", {"exponent": math.inf}, "exponent must be finite"),
        ("polynomial", {"latents": 0}, "latents must be at least 1, but got 0"),
        ("polynomial", {"batch": 0}, "batch must be at least 1, but got 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_objective(name, **settings)


def test_a_setting_that_a_problem_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="latents"):
        make_objective("cubic", latents=3)
