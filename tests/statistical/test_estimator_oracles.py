"""Bias and variance of the estimators against values computed by enumeration and quadrature.

Rows of one large batch, each with its own noise, are independent estimates. A mean may miss its expected value by five
standard errors (P = 5.7e-7) beyond the rounding of the printed digits. There are fewer than 1500 such comparisons, so
right code fails one of them with probability below 1e-3; the seeds are fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gsrl.distributions import FactoredCategorical
from gsrl.estimators import (
    RLOO,
    Estimator,
    Exact,
    LocalExpectation,
    MuProp,
    Rebar,
    ReinforceEstimator,
    Relax,
    UnorderedSet,
    make_estimator,
)
from gsrl.relaxations import conditional_gumbel, gumbel_noise

DEVIATIONS = 5
N = 200_000
BATCHES = 2  # of N estimates each


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def estimates(
    estimator: Estimator, logits: Tensor, f: Callable[[Tensor], Tensor], mask: Tensor | None = None, batches: int = 1
) -> tuple[Tensor, Tensor]:
    """Values ``[draws]`` and gradients ``[draws, n, K]`` of independent estimates."""
    values, gradients = [], []
    for seed in range(batches):
        rows = logits.expand(N, *logits.shape).clone().requires_grad_()
        value = estimator.expectation(FactoredCategorical(rows, mask), f, generator=generator(seed))
        values.append(value.detach().double())
        gradients.append(torch.autograd.grad(value.sum(), rows)[0].double())
    return torch.cat(values), torch.cat(gradients)


def assert_mean(draws: Tensor, expected: Tensor | float, rounding: float = 1e-5) -> None:
    """Every entry of the mean over draws, within its standard error and the rounding of the expected value."""
    error = (draws.mean(0) - torch.as_tensor(expected)).abs()
    allowed = DEVIATIONS * draws.std(0) / draws.shape[0] ** 0.5 + rounding
    assert (error <= allowed).all(), f"mean {draws.mean(0)}, expected {expected}, error {error}, allowed {allowed}"


def assert_bias_and_variance(gradients: Tensor, exact: Tensor, bias: float, variance: float) -> None:
    """Relative bias to four decimals, total variance to the printed digits."""
    mean = gradients.mean(0)
    # One norm of the sampling error exceeds five root-traces no more often than a normal variable five deviations.
    allowed = DEVIATIONS * (variance / gradients.shape[0]) ** 0.5 / exact.norm() + 1e-4
    assert abs((mean - exact).norm() / exact.norm() - bias) <= allowed
    assert_mean((gradients - mean).square().sum((-2, -1)), variance, rounding=1e-3 * variance)


# One Bernoulli variable, p = sigmoid(theta), f(z) = |z - .45|^q: E[estimate] / exact, to the printed digit.

ESTIMATORS = [
    ("straight-through", 1.0),
    ("reinmax", 1.0),
    ("st-gumbel", 1.0),
    ("st-gumbel", 0.5),
    ("st-gumbel", 0.1),
    ("gumbel-softmax", 1.0),
    ("gumbel-softmax", 0.5),
    ("gumbel-softmax", 0.1),
    ("gapped-st", 1.0),
    ("gapped-st", 0.5),
]
BERNOULLI = {
    (1.5, 0.5): (0.02651, [0.50, 0.50, 0.33, 0.43, 0.50, 0.80, 0.92, 1.00, 0.39, 0.42]),
    (1.5, 0.9): (0.00954, [8.49, 0.50, 8.03, 5.64, 1.61, 6.88, 5.23, 1.92, 7.37, 0.31]),
    (2.0, 0.5): (0.02500, [1.00, 1.00, 0.67, 0.86, 0.99, 0.67, 0.86, 0.99, 0.79, 0.84]),
    (2.0, 0.9): (0.00900, [9.00, 1.00, 8.62, 6.20, 2.12, 5.87, 4.68, 1.81, 7.93, 0.55]),
    (3.0, 0.5): (0.01881, [1.99, 1.99, 1.33, 1.71, 1.98, 0.50, 0.77, 0.99, 1.57, 1.67]),
    (3.0, 0.9): (0.00677, [10.05, 1.99, 9.83, 7.35, 3.12, 4.60, 3.99, 1.66, 9.09, 1.02]),
}


def bernoulli(q: float, p: float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    logits = torch.tensor([[0.0, torch.tensor(p).logit()]])
    return logits, lambda one_hot: (one_hot[..., 0, 1] - 0.45).abs() ** q


@pytest.mark.parametrize(("q", "p"), BERNOULLI)
def test_bernoulli_exact(q, p):
    logits, f = bernoulli(q, p)
    logits.requires_grad_()
    Exact().expectation(FactoredCategorical(logits), f).backward()
    assert abs(logits.grad[0, 1] - BERNOULLI[q, p][0]) < 0.6e-5


@pytest.mark.parametrize("column", range(len(ESTIMATORS)), ids=[f"{name} {tau}" for name, tau in ESTIMATORS])
@pytest.mark.parametrize(("q", "p"), BERNOULLI)
def test_bernoulli_ratio(q, p, column):
    name, temperature = ESTIMATORS[column]
    logits, f = bernoulli(q, p)
    _, gradients = estimates(make_estimator(name, temperature=temperature), logits, f)
    # p (1 - p) (f(1) - f(0)): more digits than the table has.
    exact = p * (1 - p) * (0.55**q - 0.45**q)
    assert_mean(gradients[:, 0, 1] / exact, BERNOULLI[q, p][1][column], rounding=0.0055)


# Four choices, f(z) = z' W z: relative bias and total variance.

W = torch.tensor([[1.0, 0.5, -1.0, 0.0], [0.5, -1.0, 1.0, 0.5], [-1.0, 1.0, 2.0, -0.5], [0.0, 0.5, -0.5, 3.0]])
QUADRATIC_LOGITS = torch.tensor([[1.2, 0.3, -0.5, -1.5]])
QUADRATIC_VALUE = 0.70054
QUADRATIC_GRADIENT = torch.tensor([[0.18078, -0.41739, 0.14331, 0.09329]])


def quadratic(one_hot: Tensor) -> Tensor:
    return ((one_hot @ W) * one_hot).sum((-2, -1))


def test_four_choices_exact():
    logits = QUADRATIC_LOGITS.clone().requires_grad_()
    value = Exact().expectation(FactoredCategorical(logits), quadratic)
    value.backward()
    torch.testing.assert_close(value.detach(), torch.tensor(QUADRATIC_VALUE), rtol=0, atol=0.6e-5)
    torch.testing.assert_close(logits.grad, QUADRATIC_GRADIENT, rtol=0, atol=0.6e-5)


@pytest.mark.parametrize(
    ("name", "settings", "bias", "variance"),
    [
        ("exact", {}, 0, 0),
        ("straight-through", {"temperature": 1.0}, 0.8841, 0.4263),
        ("straight-through", {"temperature": 1.5}, 0.9307, 0.2395),
        ("st-gumbel", {"temperature": 1.0}, 0.6086, 0.6098),
        ("st-gumbel", {"temperature": 0.5}, 0.3812, 1.6698),
        ("st-gumbel", {"temperature": 0.1}, 0.0849, 11.072),
        ("gumbel-softmax", {"temperature": 1.0}, 0.6505, 0.1335),
        ("gumbel-softmax", {"temperature": 0.5}, 0.3932, 0.5236),
        ("gumbel-softmax", {"temperature": 0.1}, 0.0872, 4.735),
        ("reinmax", {}, 0, 1.8102),
        ("reinmax", {"temperature": 1.3}, 0.1943, 1.7160),
        ("gumbel-rao", {"temperature": 1.0}, 0.6086, 0.4875),
        ("gumbel-rao", {"temperature": 0.5}, 0.3812, 0.9720),
        ("gumbel-rao", {"temperature": 0.1}, 0.0849, 2.528),
        ("gapped-st", {"temperature": 1.0}, 0.5725, 0.6061),
        ("gapped-st", {"temperature": 0.5}, 0.2338, 0.7788),
        ("gapped-st", {"temperature": 1.0, "gap": "p"}, 0.6274, 0.6270),
        ("decoupled-st", {"forward_temperature": 2.0, "backward_temperature": 1.0}, 0.8554, 0.5857),
        ("decoupled-st", {"forward_temperature": 1.0, "backward_temperature": 2.0}, 0.9513, 0.1455),
        ("reinforce", {}, 0, 1.1689),
        ("rloo", {"num_samples": 2}, 0, 0.9285),
        ("rloo", {"num_samples": 4}, 0, 0.3159),
        ("unordered-set", {"num_samples": 2}, 0, 0.5010),
        ("unordered-set", {"num_samples": 4}, 0, 0),
        ("local-expectation", {}, 0, 0),
    ],
)
def test_four_choices(name, settings, bias, variance):
    estimator = make_estimator(name, **settings)
    values, gradients = estimates(estimator, QUADRATIC_LOGITS, quadratic, batches=BATCHES)
    if name != "gumbel-softmax" and settings.get("forward_temperature", 1.0) == 1.0:
        assert_mean(values, QUADRATIC_VALUE)
    if not estimator.biased:
        assert_mean(gradients, QUADRATIC_GRADIENT)
    assert_bias_and_variance(gradients, QUADRATIC_GRADIENT, bias, variance)


# Three factors of three choices, coupled: f(Z) = (1/2 + <A, Z>)^3.

A = torch.tensor([[0.8, -0.4, 0.1], [-0.6, 0.5, 0.9], [0.3, -0.7, 0.4]])
CUBIC_LOGITS = torch.tensor([[0.5, -0.3, 0.0], [-1.0, 0.4, 0.8], [0.2, 1.0, -0.6]])
CUBIC_VALUE, CUBIC_INNER = 3.76052, 6.04249
CUBIC_GRADIENT = torch.tensor(
    [[1.24971, -0.70392, -0.54579], [-0.34535, -0.39655, 0.74190], [0.98561, -1.56282, 0.57721]]
)
CUBIC_MASK = torch.tensor([[True, True, False], [True, True, True], [True, True, True]])
MASKED_CUBIC_VALUE = 4.53472
MASKED_CUBIC_GRADIENT = torch.tensor(
    [[1.23853, -1.23853, 0.0], [-0.41062, -0.45363, 0.86425], [1.13945, -1.80142, 0.66197]]
)
SCORE_FUNCTION = {
    "reinforce": ReinforceEstimator,
    "reinforce, running mean": lambda: stepped(ReinforceEstimator("running-mean")),
    "reinforce, callable": lambda: ReinforceEstimator(lambda policy: policy.entropy() + 2),
    "rloo, m = 2": lambda: RLOO(2),
    "rloo, m = 5": lambda: RLOO(5),
}
# What must hold whatever the shape, and whatever was learned; binary ones have tests of their own.
UNBIASED = {
    **{name: lambda shape, make=make: make() for name, make in SCORE_FUNCTION.items()},
    "local-expectation": lambda shape: LocalExpectation(),
    "muprop": lambda shape: MuProp(),
    "rebar": lambda shape: Rebar(),
    "rebar, cold and weak": lambda shape: Rebar(eta=0.3, temperature=0.2),
    "relax": lambda shape: surrogate(Relax(*shape)),
    "relax with the objective": lambda shape: surrogate(Relax(*shape, add_objective=True)),
    "arsm": lambda shape: make_estimator("arsm"),
    "unordered-set, m = 2": lambda shape: UnorderedSet(2),
    "unordered-set, m = 3": lambda shape: UnorderedSet(3),
}


def stepped(estimator: Estimator) -> Estimator:
    estimator.step(torch.tensor([3.0, 4.0]))
    estimator.step(torch.tensor([5.0, 4.0]))
    return estimator


def surrogate(relax: Relax) -> Relax:
    """Takes it away from 0, where it would be REINFORCE."""
    with torch.no_grad():
        for parameter in relax.parameters():
            parameter.normal_(generator=generator(1))
    return relax


def cubic(one_hot: Tensor, offset: Tensor | float = 0.5) -> Tensor:
    return (offset + (one_hot * A).sum((-2, -1))) ** 3


@pytest.mark.parametrize(
    ("mask", "value", "gradient"),
    [(None, CUBIC_VALUE, CUBIC_GRADIENT), (CUBIC_MASK, MASKED_CUBIC_VALUE, MASKED_CUBIC_GRADIENT)],
    ids=["unmasked", "masked"],
)
def test_three_factors_exact(mask, value, gradient):
    logits, offset = CUBIC_LOGITS.clone().requires_grad_(), torch.tensor(0.5, requires_grad=True)
    actual = Exact().expectation(FactoredCategorical(logits, mask), lambda z: cubic(z, offset))
    actual.backward()
    torch.testing.assert_close(actual.detach(), torch.tensor(value), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits.grad, gradient, rtol=0, atol=1e-5)
    if mask is None:
        torch.testing.assert_close(offset.grad, torch.tensor(CUBIC_INNER), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "bias", "variance"),
    [
        ("straight-through", {}, 0.1957, 7.333),
        ("reinmax", {}, 0.0997, 12.446),
        ("st-gumbel", {"temperature": 1.0}, 0.3253, 6.915),
        ("st-gumbel", {"temperature": 0.5}, 0.1552, 20.154),
        ("gumbel-softmax", {"temperature": 1.0}, 0.4801, 1.877),
        ("gumbel-softmax", {"temperature": 0.5}, 0.2444, 9.064),
        ("reinforce", {}, 0, 65.01),
    ],
)
def test_three_factors(name, settings, bias, variance):
    values, gradients = estimates(make_estimator(name, **settings), CUBIC_LOGITS, cubic, batches=BATCHES)
    if name != "gumbel-softmax":
        assert_mean(values, CUBIC_VALUE)
    assert_bias_and_variance(gradients, CUBIC_GRADIENT, bias, variance)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("case", UNBIASED)
def test_unbiased_over_three_factors(case, masked):
    mask, value, gradient = None, CUBIC_VALUE, CUBIC_GRADIENT
    if masked:
        mask, value, gradient = CUBIC_MASK, MASKED_CUBIC_VALUE, MASKED_CUBIC_GRADIENT
    values, gradients = estimates(UNBIASED[case]((3, 3)), CUBIC_LOGITS, cubic, mask)
    assert_mean(values, value)
    assert_mean(gradients, gradient)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("case", UNBIASED)
def test_unbiased_over_one_factor(case, masked):
    mask = torch.tensor([[True, True, False, True]]) if masked else None
    logits = QUADRATIC_LOGITS.clone().requires_grad_()
    exact = Exact().expectation(FactoredCategorical(logits, mask), quadratic)
    exact.backward()
    values, gradients = estimates(UNBIASED[case]((1, 4)), QUADRATIC_LOGITS, quadratic, mask)
    assert_mean(values, exact.detach())
    assert_mean(gradients, logits.grad)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", ["arm", "disarm"])
def test_binary_estimators_are_unbiased(name, n, masked):
    # A factor with an illegal choice has no gradient, and must not disturb the others.
    mask = torch.tensor([[True, True], [True, False], [True, True]])[:n] if masked and n > 1 else None
    f = lambda one_hot: (0.5 + (one_hot * A[:n, :2]).sum((-2, -1))) ** 3  # noqa: E731
    logits = CUBIC_LOGITS[:n, :2].clone().requires_grad_()
    exact = Exact().expectation(FactoredCategorical(logits, mask), f)
    exact.backward()
    values, gradients = estimates(make_estimator(name), logits.detach(), f, mask)
    assert_mean(values, exact.detach())
    assert_mean(gradients, logits.grad)


@pytest.mark.parametrize("case", ["straight-through", "st-gumbel", "gumbel-rao", "gapped-st", "reinmax", *UNBIASED])
def test_parameters_inside_the_objective(case):
    estimator = UNBIASED[case]((3, 3)) if case in UNBIASED else make_estimator(case)
    offsets = torch.full((N,), 0.5, requires_grad=True)
    policy = FactoredCategorical(CUBIC_LOGITS.expand(N, 3, 3))
    value = estimator.expectation(policy, lambda z: cubic(z, offsets), generator=generator())
    value.sum().backward()
    assert_mean(offsets.grad.double(), CUBIC_INNER)


@pytest.mark.parametrize("name", ["arm", "disarm"])
def test_parameters_inside_the_objective_of_binary_factors(name):
    f = lambda one_hot, offset: (offset + (one_hot * A[:, :2]).sum((-2, -1))) ** 3  # noqa: E731
    offset = torch.tensor(0.5, requires_grad=True)
    Exact().expectation(FactoredCategorical(CUBIC_LOGITS[:, :2]), lambda z: f(z, offset)).backward()
    offsets = torch.full((N,), 0.5, requires_grad=True)
    policy = FactoredCategorical(CUBIC_LOGITS[:, :2].expand(N, 3, 2))
    make_estimator(name).expectation(policy, lambda z: f(z, offsets), generator=generator()).sum().backward()
    assert_mean(offsets.grad.double(), offset.grad)


@pytest.mark.parametrize("case", ["reinforce, running mean", "reinforce, callable"])
def test_a_baseline_near_the_mean_lowers_the_variance(case):
    _, gradients = estimates(SCORE_FUNCTION[case](), CUBIC_LOGITS, cubic)
    assert gradients.var(0).sum() < 0.8 * 65.01


def total_variance(estimator: Estimator, logits: Tensor, f: Callable[[Tensor], Tensor]) -> float:
    return estimates(estimator, logits, f)[1].var(0).sum().item()


@pytest.mark.parametrize("log_odds", [0.0, 1.0, -3.0])
def test_disarm_has_less_variance_than_arm(log_odds):
    logits = torch.tensor([[0.0, log_odds]])
    f = lambda one_hot: 1 + one_hot[..., 0, 1]  # noqa: E731
    p = torch.tensor(log_odds).sigmoid()
    # Its value is 1[b != b~] sigmoid(|phi|) / 2, and b differs from b~ with probability 2 min(p, 1 - p).
    unequal, weight = 2 * torch.minimum(p, 1 - p), 0.5 * torch.maximum(p, 1 - p)
    disarm = total_variance(make_estimator("disarm"), logits, f)
    assert disarm == pytest.approx(2 * (unequal * (1 - unequal) * weight**2).item(), rel=0.02, abs=1e-6)
    assert disarm < total_variance(make_estimator("arm"), logits, f)


@pytest.mark.parametrize(("temperature", "variance"), [(1.0, 0.4739), (0.5, 0.8944), (0.1, 1.578)])
def test_the_variance_of_gumbel_rao_between_samples(temperature, variance):
    # What is left of it at m = infinity, from two values of m: v(m) = between + within / m.
    totals = {}
    for m in (8, 32):
        estimator = make_estimator("gumbel-rao", temperature=temperature, num_samples=m)
        _, gradients = estimates(estimator, QUADRATIC_LOGITS, quadratic)
        totals[m] = (gradients - gradients.mean(0)).square().sum((-2, -1))  # the same samples for both m
    between = (32 * totals[32] - 8 * totals[8]) / 24
    assert_mean(between, variance, rounding=1e-3 * variance)


def test_the_variance_of_gumbel_rao_falls_with_the_draws():
    # Between the samples, plus within over m: two numbers explain every m. m = 1 is st-gumbel, in law.
    one, ten = (total_variance(make_estimator("gumbel-rao", num_samples=m), CUBIC_LOGITS, cubic) for m in (1, 10))
    assert one == pytest.approx(6.915, rel=0.03)
    within = (one - ten) / 0.9
    assert within > 0.1
    three = total_variance(make_estimator("gumbel-rao", num_samples=3), CUBIC_LOGITS, cubic)
    assert three == pytest.approx(one - within + within / 3, rel=0.02)


# REBAR from the paper: two independent draws, and the gradient by autograd.


def rebar_reference(
    logits: Tensor, f: Callable[[Tensor], Tensor], *, conditioned: bool = True, differentiated: bool = True
) -> Tensor:
    """Gradients ``[N, n, K]`` of eta = 1, temperature .5, one draw for the sample and another given it."""
    rows = logits.expand(N, *logits.shape).clone().requires_grad_()
    log_probs = rows.log_softmax(-1)
    noise = gumbel_noise((2, *rows.shape), generator=generator(5))
    z = log_probs + noise[0]
    one_hot = torch.nn.functional.one_hot(z.argmax(-1), logits.shape[-1]).float()
    other = conditional_gumbel(log_probs, one_hot, noise[1]) if conditioned else log_probs + noise[1]
    if not differentiated:
        other = other.detach()
    control, other_control = (f((scores / 0.5).softmax(-1)) for scores in (z, other))
    advantage = (f(one_hot) - other_control).detach()
    surrogate = advantage * (log_probs * one_hot).sum((-2, -1)) + control - other_control
    return torch.autograd.grad(surrogate.sum(), rows)[0].double()


@pytest.mark.parametrize(
    ("logits", "f", "exact"),
    [(QUADRATIC_LOGITS, quadratic, QUADRATIC_GRADIENT), (CUBIC_LOGITS, cubic, CUBIC_GRADIENT)],
    ids=["one factor", "three factors"],
)
def test_coupled_draws_serve_rebar_better_than_independent_ones(logits, f, exact):
    reference = rebar_reference(logits, f)
    unconditioned = rebar_reference(logits, f, conditioned=False)
    assert_mean(reference, exact)
    assert_mean(unconditioned, exact)
    coupled = total_variance(Rebar(eta=1.0, temperature=0.5), logits, f)
    # At equal calls of f: two, and three. A second draw that ignores the sample makes things worse.
    assert 2 * coupled < 0.8 * 3 * reference.var(0).sum()
    assert reference.var(0).sum() < 0.5 * unconditioned.var(0).sum()

    detached = rebar_reference(logits, f, differentiated=False).mean(0)
    assert (detached - exact).norm() > 0.1 * exact.norm()


# Where 1 - p(S) would cancel.


def concentrated(n: int, gap: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits whose first choices are ahead by a gap, in nats; E[f] and its gradient in units of their size."""
    logits = torch.zeros(n, 5, dtype=torch.float64)
    logits[:, 0] = gap
    leaf = logits.clone().requires_grad_()
    value = Exact().expectation(FactoredCategorical(leaf), lambda z: index_sum(z, gap))
    value.backward()
    return logits, value.detach(), leaf.grad


def index_sum(one_hot: Tensor, gap: float) -> Tensor:
    """The sum of the indices, in units of what the others have together in probability."""
    return (one_hot * torch.arange(5.0, dtype=torch.float64)).sum((-2, -1)) * torch.tensor(gap).double().exp()


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("gap", [34.0, 38.0, 45.0])
def test_unordered_set_of_a_concentrated_policy(n, gap):
    logits, value, gradient = concentrated(n, gap)
    values, gradients = estimates(UnorderedSet(2), logits, lambda z: index_sum(z, gap))
    assert value > 1
    assert_mean(values, value)
    assert_mean(gradients, gradient)


@pytest.mark.parametrize("num_samples", [4, 5])
@pytest.mark.parametrize("gap", [34.0, 38.0, 45.0, 1e4])
def test_unordered_set_of_everything_is_exact_at_any_concentration(num_samples, gap):
    logits, f = torch.zeros(1, 5, dtype=torch.float64), lambda z: z[..., 1].sum(-1)
    logits[:, 0] = gap
    logits[:, num_samples:] = -torch.inf
    leaf = logits.clone().requires_grad_()
    Exact().expectation(FactoredCategorical(leaf), f).backward()
    rows = logits.expand(100, 1, 5).clone().requires_grad_()
    UnorderedSet(num_samples).expectation(FactoredCategorical(rows), f, generator=generator()).sum().backward()
    torch.testing.assert_close(rows.grad, leaf.grad.expand_as(rows), rtol=1e-9, atol=0)


# Where straight-through is exact.


def test_straight_through_is_the_exact_gradient_of_a_linear_objective_of_one_factor():
    logits, slope = torch.randn(2, 1000, 1, 5, generator=generator()).unbind(0)

    def gradient(name: str) -> Tensor:
        leaf = logits.clone().requires_grad_()
        f = lambda z: (z * slope).sum((-2, -1))  # noqa: E731
        value = make_estimator(name).expectation(FactoredCategorical(leaf), f, generator=generator())
        return torch.autograd.grad(value.sum(), leaf)[0]

    # In every sample: there is no variance.
    torch.testing.assert_close(gradient("straight-through"), gradient("exact"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["straight-through", "local-expectation"])
def test_what_is_unbiased_for_a_multilinear_objective(name):
    first, second = torch.randn(2, 3, 3, generator=generator()).unbind(0)

    def f(one_hot: Tensor) -> Tensor:
        a, b, c = one_hot.unbind(-2)
        return ((a @ first) * b).sum(-1) * (c @ second[0]) + (a * second[1]).sum(-1)

    logits = CUBIC_LOGITS.clone().requires_grad_()
    Exact().expectation(FactoredCategorical(logits), f).backward()
    _, gradients = estimates(make_estimator(name), CUBIC_LOGITS, f)
    assert gradients.var(0).sum() > 0
    assert_mean(gradients, logits.grad)


# Two decisions in sequence: the logits of the second depend on the first choice.

FIRST = torch.tensor([[0.4, -0.7]])
SECOND = torch.tensor([[0.3, -0.2, 0.9], [-1.0, 0.6, 0.1]])  # a row for each first choice
COSTS = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.2, -1.0]])


def sequence_exact() -> tuple[Tensor, Tensor, Tensor]:
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    probs = first.softmax(-1).T * second.softmax(-1)
    value = sum(probs[i, j] * COSTS[i, j] for i, j in itertools.product(range(2), range(3)))
    return value.detach(), *torch.autograd.grad(value, (first, second))


@pytest.mark.parametrize("case", ["reinforce", "reinforce, running mean", "rloo, m = 2", "rloo, m = 5"])
def test_decisions_in_sequence(case):
    estimator, source = SCORE_FUNCTION[case](), generator()
    first = FIRST.expand(N, 1, 2).clone().requires_grad_()
    second = SECOND.expand(N, 2, 3).clone().requires_grad_()
    batch = (estimator.num_samples, N) if isinstance(estimator, RLOO) else (N,)

    choice, first_log_prob = estimator.draw(FactoredCategorical(first).expand(batch), generator=source)
    other, second_log_prob = estimator.draw(FactoredCategorical(choice @ second), generator=source)
    cost = (choice.mT * other * COSTS).sum((-2, -1))
    value = estimator.surrogate(cost, [first_log_prob, second_log_prob])
    value.sum().backward()

    exact_value, exact_first, exact_second = sequence_exact()
    assert value.shape == (N,)
    assert_mean(value.detach().double(), exact_value)
    assert_mean(first.grad.double(), exact_first)
    assert_mean(second.grad.double(), exact_second)
