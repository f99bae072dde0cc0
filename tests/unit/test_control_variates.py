"""MuProp, REBAR and RELAX: estimators with a control variate, fixed or learned."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Exact, MuProp, Rebar, ReinforceEstimator, Relax, make_estimator
from gsrl.relaxations import gumbel_noise


def test_muprop_has_no_variance_for_a_linear_objective():
    logits, slope = torch.randn(2, 50, 2, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    f = lambda z: (z * slope).sum((-2, -1))  # noqa: E731
    gradients = []
    for estimator in (MuProp(), Exact()):
        leaf = logits.clone().requires_grad_()
        estimator.expectation(FactoredCategorical(leaf), f).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def _controlled(estimator, parameters, logits, noise, f):
    """The mean squared estimate, from outside."""
    leaf = logits.clone().requires_grad_()
    with torch.no_grad():
        for parameter, value in zip(estimator.parameters(), parameters, strict=True):
            parameter.copy_(value)
    value = estimator.expectation(FactoredCategorical(leaf), f, noise)
    return torch.autograd.grad(value.sum(), leaf)[0].square().sum((-2, -1)).mean()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("add_objective", [None, False, True])
def test_controls_descend_the_second_moment_of_the_estimate(add_objective, sign):
    source = torch.Generator().manual_seed(0)
    make = Rebar if add_objective is None else lambda: Relax(2, 3, width=4, add_objective=add_objective)
    estimator = make().double()
    logits, weights = torch.randn(2, 5, 2, 3, generator=source, dtype=torch.float64).unbind(0)
    inner = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    f = lambda z: (inner + (z * weights).sum((-2, -1))) ** 3  # noqa: E731
    noise = estimator.draw_noise(FactoredCategorical(logits), source)
    parameters = [torch.randn(p.shape, generator=source, dtype=torch.float64) for p in estimator.parameters()]
    _controlled(estimator, parameters, logits, noise, f)

    policy = FactoredCategorical(logits)
    (sign * estimator.expectation(policy, f, noise).mean()).backward()
    for i, parameter in enumerate(estimator.parameters()):
        flat = parameters[i].flatten()
        for entry in range(min(flat.numel(), 3)):
            moved = []
            for step in (1e-5, -1e-5):
                changed = [p.clone() for p in parameters]
                changed[i].view(-1)[entry] += step
                moved.append(_controlled(make().double(), changed, logits, noise, f))
            difference = (moved[0] - moved[1]) / 2e-5
            torch.testing.assert_close(parameter.grad.flatten()[entry], difference, rtol=1e-5, atol=1e-7)
    # And what is inside f sees the hard sample alone.
    one_hot = policy.sample(noise=noise)
    expected = sign * 3 * (inner + (one_hot * weights).sum((-2, -1))).square().mean()
    torch.testing.assert_close(inner.grad, expected)


@pytest.mark.parametrize("make", [lambda: Rebar(eta=0.0), lambda: Relax(1, 4)])
def test_controls_learn_to_lower_the_variance(make):
    source = torch.Generator().manual_seed(0)
    logits = torch.tensor([[1.2, 0.3, -0.5, -1.5]])
    f = lambda z: 3 + ((z * torch.tensor([1.0, -1.0, 2.0, 3.0])).sum((-2, -1))) ** 2  # noqa: E731
    estimator = make()

    def variance():
        leaf = logits.expand(20_000, 1, 4).clone().requires_grad_()
        value = estimator.expectation(FactoredCategorical(leaf), f, generator=torch.Generator().manual_seed(1))
        return torch.autograd.grad(value.sum(), leaf)[0].var(0).sum()

    before = variance()
    optimizer = torch.optim.Adam(estimator.parameters(), lr=2e-2)
    for _ in range(300):
        optimizer.zero_grad()
        estimator.expectation(FactoredCategorical(logits.expand(32, 1, 4)), f, generator=source).mean().backward()
        optimizer.step()
    assert variance() < 0.3 * before


def _control(estimator: Rebar | Relax, rows: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """c at perturbed logits, in the formula of the papers."""
    soft = (rows / estimator.control.log_temperature.detach().exp()).softmax(-1)
    if isinstance(estimator, Rebar):
        return estimator.control.eta.detach() * f(soft)
    value = estimator.control.network(soft.flatten(-2)).squeeze(-1)
    return value + f(soft) if estimator.settings["add_objective"] else value


def _randomised(estimator: Relax) -> Relax:
    for parameter in estimator.control.network.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return estimator


CONTROLS = {
    "rebar": (lambda: Rebar(0.6, 0.4), 2),
    "relax": (lambda: _randomised(Relax(2, 3, temperature=0.4)), 1),
    "relax with the objective": (lambda: _randomised(Relax(2, 3, temperature=0.4, add_objective=True)), 2),
}


@pytest.mark.parametrize("case", CONTROLS)
def test_control_variates_by_the_two_draws_of_the_papers(case):
    # With noise E of the sample, and E' of the draw given it: E'_D = E_D / p_D, E'_j = E_j - p_j E_D / p_D.
    estimator, calls = CONTROLS[case][0]().double(), CONTROLS[case][1]
    logits, weights = torch.randn(2, 50, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = estimator.draw_noise(FactoredCategorical(logits), torch.Generator().manual_seed(1))
    evaluated = []

    def f(rows: Tensor) -> Tensor:
        evaluated.append(rows.shape)
        return (0.5 + (rows * weights).sum((-2, -1))) ** 3

    leaf = logits.clone().requires_grad_()
    estimator.expectation(FactoredCategorical(leaf), f, noise).sum().backward()
    assert evaluated == [(1, 50, 2, 3)] * calls

    theta = logits.clone().requires_grad_()
    log_probs, exponential = theta.log_softmax(-1), (-noise.double()).exp()
    probs = log_probs.detach().exp()
    z = log_probs - exponential.log()
    one_hot = nn.functional.one_hot(z.argmax(-1), 3).double()
    first = (exponential * one_hot).sum(-1, keepdim=True) / (probs * one_hot).sum(-1, keepdim=True)  # E'_D
    other_noise = torch.where(one_hot > 0, first, exponential - probs * first)
    other = torch.where(one_hot > 0, -first.log(), -(other_noise / log_probs.exp() + first).log())
    torch.testing.assert_close(other, z)
    control, other_control = _control(estimator, z, f), _control(estimator, other, f)
    score = (log_probs * one_hot).sum((-2, -1))
    ((f(one_hot) - other_control).detach() * score + control - other_control).sum().backward()
    torch.testing.assert_close(leaf.grad, theta.grad, rtol=1e-5, atol=1e-7)


def test_rebar_by_hand():
    # p = (1/4, 3/4), E = (1, 1): z = log p, D = (0, 1). f = 3 z_1^2, temperature 1/2, eta 2: y_1 = 9/10, c = 4.86.
    # c' = 2 * 6 y_1 * dy_1, dy_1 = 2 * y_0 y_1 (-1, 1) = .18 (-1, 1): 1.944 (-1, 1). exp(z - z_D) = (1/3, 1).
    logits = torch.tensor([[1.0, 3.0]]).log().requires_grad_()
    value = Rebar(2.0, 0.5).expectation(FactoredCategorical(logits), lambda z: 3 * z[..., 0, 1] ** 2, torch.zeros(1, 2))
    value.backward()
    assert value.item() == 3
    slope = torch.tensor([-0.648, 1.944])
    expected = (3 - 4.86) * torch.tensor([-0.25, 0.25]) + slope - torch.tensor([0.25, 0.75]) * slope.sum()
    torch.testing.assert_close(logits.grad[0], expected)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_objective_without_gradient_is_refused_by_controls_that_hold_it(frozen):
    logits = torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    f = lambda z: (z == z.amax(-1, keepdim=True)).to(z.dtype)[..., 0].sum(-1)  # noqa: E731
    for estimator in (Rebar(), Relax(2, 3, add_objective=True)):
        estimator.requires_grad_(not frozen)
        message = f"f must be differentiable in soft rows for {estimator.name}, but .* such as rloo"
        with pytest.raises(ValueError, match=message):
            estimator.expectation(FactoredCategorical(logits), f)
    for estimator in (MuProp(), Relax(2, 3), ReinforceEstimator()):  # unbiased without
        value = estimator.expectation(FactoredCategorical(logits), f, generator=torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert (gradient != 0).any()


def test_relax_is_made_for_a_shape():
    assert (
        make_estimator("relax", shape=(3, 2), width=8).settings | {"n": 3, "K": 2, "width": 8}
        == make_estimator("relax", n=3, K=2, width=8).settings
    )
    assert make_estimator("rloo", shape=(3, 2)).settings == make_estimator("rloo").settings
    with pytest.raises(TypeError, match=r"shape must be given for relax, \(n, K\) of the policies it will see"):
        make_estimator("relax")
    with pytest.raises(ValueError, match=r"shape must be \(n, K\), factors and choices, but got \(1, 2, 3\)"):
        make_estimator("relax", shape=(1, 2, 3))


@pytest.mark.parametrize("case", CONTROLS)
def test_frozen_controls_give_the_same_estimate_and_receive_nothing(case):
    logits, weights = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    noise = gumbel_noise(logits.shape, generator=torch.Generator().manual_seed(1))
    results = []
    for frozen in (False, True):
        estimator = CONTROLS[case][0]().requires_grad_(not frozen)
        leaf = logits.clone().requires_grad_()
        value = estimator.expectation(FactoredCategorical(leaf), lambda z: (z * weights).sum((-2, -1)) ** 2, noise)
        value.sum().backward()
        results.append((value.detach(), leaf.grad))
        assert all((parameter.grad is None) == frozen for parameter in estimator.parameters())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_controls_learn_by_the_absolute_weight_of_their_values():
    # A sum over a batch of 4 weighs each value by 1, the mean by 1/4; half of them with a minus makes no difference.
    logits = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0))
    noise = gumbel_noise(logits.shape, generator=torch.Generator().manual_seed(1))
    gradients = []
    for weights in ([0.25] * 4, [1.0] * 4, [1.0, -1.0, 1.0, -1.0]):
        estimator = Rebar(0.6, 0.4)
        value = estimator.expectation(FactoredCategorical(logits), lambda z: z[..., 0, 0] ** 2, noise)
        (value * torch.tensor(weights)).sum().backward()
        gradients.append(torch.stack([parameter.grad for parameter in estimator.parameters()]))
    torch.testing.assert_close(4 * gradients[0], gradients[1])
    torch.testing.assert_close(gradients[2], gradients[1])


def test_the_weights_of_relax_come_from_its_seed():
    state = torch.get_rng_state()
    first, second, other = Relax(2, 3, seed=3), Relax(2, 3, seed=3), Relax(2, 3, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.control.network[0].weight, other.control.network[0].weight)
    rebuilt = make_estimator("relax", **first.settings)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), rebuilt.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_relax_refuses_another_shape():
    with pytest.raises(ValueError, match=r"made for \(n, K\) = \(2, 3\), but got a policy of \(2, 4\)"):
        Relax(2, 3).expectation(FactoredCategorical(torch.zeros(2, 4)), lambda z: z.sum((-2, -1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "K": 2}, "n must be at least 1, but got 0"),
        ({"n": 1, "K": 2, "temperature": 0.0}, "temperature must be finite and above 0, but got 0.0"),
        ({"n": 1, "K": 2, "temperature": math.inf}, "temperature must be finite and above 0, but got inf"),
    ],
)
def test_relax_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Relax(**arguments)
