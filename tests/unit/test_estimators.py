from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gsrl.distributions import FactoredCategorical
from gsrl.estimators import (
    ESTIMATORS,
    RLOO,
    Exact,
    GumbelRao,
    GumbelSoftmax,
    Pathwise,
    Reinforce,
    ReinMax,
    STGumbel,
    StraightThrough,
    make_estimator,
)
from gsrl.relaxations import conditional_gumbel, gumbel_max, gumbel_noise, gumbel_softmax, straight_through
from gsrl.temperature import ExponentialTemperature, LearnedTemperature
from gsrl.testing import ConformanceError, check_estimator

TEMPERATURE = 0.7


def _vjp(soft: Tensor, slope: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """V(y, g, temperature) = y * (g - y . g) / temperature."""
    return soft * (slope - (soft * slope).sum(-1, keepdim=True)) / temperature


def _gumbel_reference(logits: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
    return _vjp(((logits + noise) / TEMPERATURE).softmax(-1), slope)


def _straight_through_reference(logits: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
    return _vjp((logits / TEMPERATURE).softmax(-1), slope)


CONFORMING: dict[str, tuple[Any, dict[str, Any]]] = {
    "exact": (Exact, {}),
    "gumbel-softmax": (
        lambda: GumbelSoftmax(TEMPERATURE),
        {"soft_value": True, "reference_gradient": _gumbel_reference},
    ),
    "st-gumbel": (lambda: STGumbel(TEMPERATURE), {"reference_gradient": _gumbel_reference}),
    "st-gumbel, scheduled": (lambda: STGumbel(ExponentialTemperature(2.0, 0.5, 4)), {}),
    "st-gumbel, learned": (lambda: STGumbel(LearnedTemperature(1.0, 0.1)), {}),
    "st-gumbel, tensor": (lambda: STGumbel(torch.tensor(0.5)), {}),
    "straight-through": (lambda: StraightThrough(TEMPERATURE), {"reference_gradient": _straight_through_reference}),
    "reinmax": (ReinMax, {}),
    "reinmax, tempered": (lambda: ReinMax(1.5), {}),
    "gumbel-rao": (lambda: GumbelRao(TEMPERATURE), {}),
    "gumbel-rao, m = 1": (lambda: GumbelRao(TEMPERATURE, num_samples=1), {}),
    "reinforce": (Reinforce, {}),
    "reinforce, running mean": (lambda: Reinforce("running-mean"), {}),
    "reinforce, callable": (lambda: Reinforce(lambda policy: policy.entropy().detach()), {}),
    "rloo": (RLOO, {}),
    "rloo, m = 2": (lambda: RLOO(2), {}),
}


@pytest.mark.parametrize("case", CONFORMING)
def test_conforms(case):
    make, arguments = CONFORMING[case]
    check_estimator(make, **arguments)


def test_suite_covers_the_registry():
    assert {make().name for make, _ in CONFORMING.values()} >= set(ESTIMATORS)


class _Broken(STGumbel):
    """Each subclass breaks one promise; the parent keeps them all."""


class LogitsTwice(_Broken):
    def _sample(self, policy, noise):
        return gumbel_softmax(2 * policy.logits, self._temperature(), hard=True, noise=noise)


class OneNoiseForAllFactors(_Broken):
    def _sample(self, policy, noise):
        return gumbel_softmax(policy.logits, hard=True, noise=noise[..., :1, :].expand(noise.shape))


class SavedTensorOverwritten(_Broken):
    def _sample(self, policy, noise):
        soft = gumbel_softmax(policy.logits, self._temperature(), noise=noise)
        soft.data.copy_(gumbel_max(policy.logits, noise=noise))
        return soft


class TemperatureForgotten(_Broken):
    def _sample(self, policy, noise):
        return gumbel_softmax(policy.logits, 1.0, hard=True, noise=noise)


class SoftValue(_Broken):
    def _sample(self, policy, noise):
        return gumbel_softmax(policy.logits, self._temperature(), noise=noise)


class AlmostOneHot(_Broken):
    def _sample(self, policy, noise):
        soft = gumbel_softmax(policy.logits, self._temperature(), noise=noise)
        return gumbel_max(policy.logits, noise=noise) + soft - soft.detach()


class MaskForgotten(_Broken):
    def _sample(self, policy, noise):
        return straight_through(policy.logits.clamp_min(-1.0), noise=noise)


class NoiseIgnored(_Broken):
    def _sample(self, policy, noise):
        return gumbel_softmax(policy.logits, self._temperature(), hard=True)


class NoiseOverwritten(_Broken):
    def _sample(self, policy, noise):
        return gumbel_softmax(policy.logits, hard=True, noise=noise.mul_(0.5))


class LogitsOverwritten(_Broken):
    def _sample(self, policy, noise):
        policy.logits.data.mul_(0.5)
        return super()._sample(policy, noise)


class DoubleNoise(_Broken):
    def draw_noise(self, policy, generator=None):
        return super().draw_noise(policy, generator).double()


class GeneratorIgnored(_Broken):
    def draw_noise(self, policy, generator=None):
        return super().draw_noise(policy)


class ExpectationOfAnotherSample(_Broken):
    def _expectation(self, policy, f, noise):
        return f(straight_through(policy.logits, noise=noise).unsqueeze(0)).squeeze(0)


class RowsMixed(_Broken):
    def _sample(self, policy, noise):
        soft = policy.logits.softmax(-1)
        if soft.dim() == 3:
            soft = soft + 0.1 * (soft.mean(0) - soft)
        hard = gumbel_max(policy.logits, noise=noise)
        return hard - soft.detach() + soft


class FloatSample(_Broken):
    def _sample(self, policy, noise):
        return super()._sample(policy, noise).float()


class Unnamed(_Broken):
    name = ""


class FalselyUnbiased(_Broken):
    biased = False


class FalselyOneCall(RLOO):
    calls = "1"


class GradientTwice(Reinforce):
    def _expectation(self, policy, f, noise):
        value = super()._expectation(policy, f, noise)
        return 2 * value - value.detach()


class ScoreTwice(Reinforce):
    def _expectation(self, policy, f, noise):
        one_hot, log_prob = self.draw(policy, noise)
        return self.surrogate(f(one_hot.unsqueeze(0)).squeeze(0), [log_prob, log_prob])


class SampleInBaseline(Reinforce):
    def _expectation(self, policy, f, noise):
        one_hot, log_prob = self.draw(policy, noise)
        cost = f(one_hot.unsqueeze(0)).squeeze(0)
        advantage = (0.5 * cost + 0.5 * one_hot[..., 0].sum(-1)).detach()
        return cost + advantage * (log_prob - log_prob.detach())


class InnerGradientLost(Reinforce):
    def _expectation(self, policy, f, noise):
        return super()._expectation(policy, lambda z: f(z).detach(), noise)


class NoGradient(Exact):
    def _expectation(self, policy, f, noise):
        return super()._expectation(policy, f, noise).detach()


class ValueKeepsRunning(Reinforce):
    def __init__(self):
        super().__init__("running-mean")

    def _expectation(self, policy, f, noise):
        value = super()._expectation(policy, f, noise)
        self.step(value)
        return value


class StateNotSaved(Reinforce):
    def __init__(self):
        super().__init__()
        self.average = 0.0

    def step(self, cost):
        self.average = cost.mean()

    def _constant_baseline(self):
        return self.average


class ReadsValues(_Broken):
    def _sample(self, policy, noise):
        if noise.max().item() > 1e9:
            return noise
        return super()._sample(policy, noise)


BROKEN = {
    LogitsTwice: "value must have the mean",
    OneNoiseForAllFactors: "value must have the mean",
    SavedTensorOverwritten: "closed form",
    TemperatureForgotten: "closed form",
    SoftValue: "exactly one-hot",
    AlmostOneHot: "exactly one-hot",
    MaskForgotten: "illegal choices",
    NoiseIgnored: "the same noise must give",
    NoiseOverwritten: "must not write",
    LogitsOverwritten: "must not write",
    DoubleNoise: "finite float32",
    GeneratorIgnored: "generator of the same seed",
    ExpectationOfAnotherSample: "what sample returns",
    RowsMixed: "must not depend on the logits of another",
    FloatSample: "dtype of the logits",
    Unnamed: "attribute name",
    FalselyUnbiased: "unbiased gradient must have the mean",
    FalselyOneCall: "evaluated at 10 configurations",
    GradientTwice: "parameter in f must get the gradient",
    ScoreTwice: "unbiased gradient must have the mean",
    SampleInBaseline: "unbiased gradient must have the mean",
    InnerGradientLost: "parameter in f must get the gradient",
    NoGradient: "carry a gradient",
    ValueKeepsRunning: "own state",
    StateNotSaved: "state_dict",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda cls: cls.__name__)
def test_suite_refuses(broken):
    def make():
        return broken(TEMPERATURE) if issubclass(broken, Pathwise) else broken()

    reference = _gumbel_reference if BROKEN[broken] == "closed form" else None
    with pytest.raises(ConformanceError, match=f"{broken.__name__}: .*({BROKEN[broken]})"):
        check_estimator(make, reference_gradient=reference)


def test_suite_refuses_an_estimator_that_reads_values_under_torch_func():
    with pytest.raises(RuntimeError, match="vmap"):
        check_estimator(ReadsValues)


def test_suite_needs_a_supported_shape():
    with pytest.raises(ValueError, match="supports must accept one of the shapes"):
        check_estimator(Exact, supports=lambda n, K: False)


def test_suite_asks_only_for_supported_shapes():
    class Binary(STGumbel):
        def _sample(self, policy, noise):
            if policy.K != 2:
                raise ValueError("K must be 2")
            return super()._sample(policy, noise)

    check_estimator(Binary, supports=lambda n, K: K == 2)
    with pytest.raises(ValueError, match="K must be 2"):
        check_estimator(Binary)


# The registry.


def test_registry_names():
    assert {name: cls.name for name, cls in ESTIMATORS.items()} == {name: name for name in ESTIMATORS}
    assert {"exact", "gumbel-softmax", "st-gumbel", "straight-through", "reinforce", "rloo"} <= set(ESTIMATORS)


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"name must be one of \[.*'rloo'.*\], but got 'st-gumble'"):
        make_estimator("st-gumble")


def test_unknown_setting():
    with pytest.raises(TypeError, match="temperature"):
        make_estimator("rloo", temperature=1.0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("exact", {}),
        ("st-gumbel", {"temperature": LearnedTemperature(1.0, 0.1)}),
        ("reinforce", {"baseline": "running-mean"}),
        ("rloo", {"num_samples": 4}),
    ],
)
def test_settings_are_the_constructors_arguments(name, settings):
    assert make_estimator(name, **settings).settings == settings


def test_a_number_becomes_a_constant_temperature():
    assert make_estimator("gumbel-softmax", temperature=0.5).settings["temperature"]() == 0.5


# Errors.


@pytest.mark.parametrize("name", ["exact", "gumbel-softmax", "st-gumbel", "straight-through", "reinforce", "rloo"])
def test_objective_of_a_wrong_shape(name):
    policy = FactoredCategorical(torch.zeros(5, 2, 3))
    with pytest.raises(
        ValueError, match=r"f must map \[M, \*batch, n, K\] to \[M, \*batch\].* returned shape \(\d+, 5, 2\)"
    ):
        make_estimator(name).expectation(policy, lambda z: z.sum(-1))


@pytest.mark.parametrize("num_samples", [1, 0, -3])
def test_rloo_needs_two_samples(num_samples):
    with pytest.raises(ValueError, match=f"num_samples must be at least 2.* got {num_samples}"):
        RLOO(num_samples)


@pytest.mark.parametrize("cost", [torch.zeros(1, 5), torch.zeros(())])
def test_rloo_surrogate_needs_two_samples(cost):
    with pytest.raises(ValueError, match=r"cost must have shape \[m, \*batch\] with m >= 2"):
        RLOO().surrogate(cost, cost)


def test_unknown_baseline():
    with pytest.raises(ValueError, match="baseline must be 'none', 'running-mean' or a callable, but got 'mean'"):
        Reinforce("mean")


def test_callable_baseline_has_no_policy_in_a_sequence():
    with pytest.raises(ValueError, match="no policy to call baseline with"):
        Reinforce(lambda policy: policy.entropy()).surrogate(torch.zeros(3), torch.zeros(3))


def test_exact_refuses_a_large_support():
    with pytest.raises(ValueError, match="at most 65536, but got n = 17, K = 2"):
        Exact().expectation(FactoredCategorical(torch.zeros(17, 2)), lambda z: z.sum((-2, -1)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="above 0"):
        STGumbel(temperature)


# Values by hand.


def test_reinforce_by_hand():
    # p = (1/4, 3/4); the noise picks choice 0, f = 5, b = 2: (5 - 2) (1 - 1/4, -3/4).
    logits = torch.tensor([[1.0, 3.0]]).log().requires_grad_()
    estimator = Reinforce(lambda policy: torch.tensor(2.0))
    value = estimator.expectation(FactoredCategorical(logits), lambda z: 5 * z[..., 0, 0], torch.tensor([[9.0, 0.0]]))
    value.backward()
    assert value.item() == 5
    torch.testing.assert_close(logits.grad, torch.tensor([[2.25, -2.25]]))


def test_rloo_by_hand():
    # p = (1/4, 3/4); samples 0, 1, 1 with f = 5, 0, 0, so f - mean = 10/3, -5/3, -5/3, over m - 1 = 2.
    # Entry 0: (10/3 * 3/4 + 2 * 5/3 * 1/4) / 2 = 5/3.
    logits = torch.tensor([[1.0, 3.0]]).log().requires_grad_()
    noise = torch.tensor([[[9.0, 0.0]], [[0.0, 9.0]], [[0.0, 9.0]]])
    value = RLOO(3).expectation(FactoredCategorical(logits), lambda z: 5 * z[..., 0, 0], noise)
    value.backward()
    torch.testing.assert_close(value, torch.tensor(5 / 3))
    torch.testing.assert_close(logits.grad, torch.tensor([[5 / 3, -5 / 3]]))


def test_running_mean_advances_by_step_alone():
    estimator = Reinforce("running-mean")
    policy = FactoredCategorical(torch.zeros(4, 1, 2))
    estimator.expectation(policy, lambda z: 3 * torch.ones(z.shape[:-2]))
    assert estimator._constant_baseline() == 0
    estimator.step(torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(estimator._constant_baseline(), torch.tensor(3.0))
    estimator.step(torch.tensor([5.0]))
    # (.99 * .01 * 3 + .01 * 5) / (.99 * .01 + .01)
    torch.testing.assert_close(estimator._constant_baseline(), torch.tensor((0.99 * 3 + 5) / 1.99))


def test_running_mean_is_the_baseline():
    estimator = Reinforce("running-mean")
    estimator.step(torch.tensor(2.0))
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    value = estimator.surrogate(torch.tensor([5.0, 1.0]), log_prob)
    value.sum().backward()
    torch.testing.assert_close(value, torch.tensor([5.0, 1.0]))
    torch.testing.assert_close(log_prob.grad, torch.tensor([3.0, -1.0]))


def test_surrogate_adds_the_log_probs_of_a_sequence():
    first, second = torch.tensor([-1.0], requires_grad=True), torch.tensor([-2.0], requires_grad=True)
    Reinforce().surrogate(torch.tensor([4.0]), [first, second]).sum().backward()
    assert first.grad.item() == second.grad.item() == 4


def test_exact_by_hand():
    # E f = 1/4 * 5, and d p_0 / d theta = p_0 p_1 (1, -1) = 3/16 (1, -1).
    logits = torch.tensor([[1.0, 3.0]]).log().requires_grad_()
    value = Exact().expectation(FactoredCategorical(logits), lambda z: 5 * z[..., 0, 0])
    value.backward()
    torch.testing.assert_close(value, torch.tensor(1.25))
    torch.testing.assert_close(logits.grad, torch.tensor([[15 / 16, -15 / 16]]))


@pytest.mark.parametrize("name", ["gumbel-softmax", "st-gumbel", "straight-through"])
def test_step_advances_the_schedule(name):
    schedule = ExponentialTemperature(2.0, 0.5, 4)
    make_estimator(name, temperature=schedule).step(torch.zeros(3))
    assert schedule.count == 1


def test_learned_temperature_gets_the_gradient_of_the_soft_sample():
    temperature = LearnedTemperature(0.7, 0.1)
    logits, noise, slope = torch.randn(3, 4, 2, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    policy = FactoredCategorical(logits)
    STGumbel(temperature).expectation(policy, lambda z: (z * slope).sum((-2, -1)), noise).sum().backward()

    scale = torch.tensor(0.7, requires_grad=True)
    (((logits + noise) / scale).softmax(-1) * slope).sum().backward()
    torch.testing.assert_close(temperature.w.grad, scale.grad * temperature.w.detach().sigmoid())


def test_temperature_by_state_broadcasts():
    temperature = torch.tensor([0.5, 2.0]).reshape(2, 1, 1)
    logits, noise = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    sample = GumbelSoftmax(temperature).sample(FactoredCategorical(logits), noise)
    for row, scale in enumerate([0.5, 2.0]):
        torch.testing.assert_close(sample[row], ((logits[row] + noise[row]) / scale).softmax(-1))


def test_sample_inside_a_larger_graph():
    # Chain rule by hand: the gradient at the sample comes from a downstream network.
    generator = torch.Generator().manual_seed(0)
    logits, noise = torch.randn(2, 5, 2, 3, generator=generator).unbind(0)
    logits.requires_grad_()
    weights = torch.randn(6, generator=generator)
    sample = StraightThrough().sample(FactoredCategorical(logits), noise)
    torch.tanh(sample.flatten(1) @ weights).sum().backward()
    slope = (1 - torch.tanh(sample.detach().flatten(1) @ weights) ** 2)[:, None, None] * weights.reshape(2, 3)
    torch.testing.assert_close(logits.grad, _vjp(logits.detach().softmax(-1), slope, 1.0))


def test_estimators_are_modules():
    estimator = STGumbel(LearnedTemperature(0.7, 0.1))
    assert isinstance(estimator, nn.Module)
    policy, noise = FactoredCategorical(torch.zeros(2, 1, 3)), torch.zeros(2, 1, 3)
    parameters = {name: torch.zeros_like(value) for name, value in estimator.named_parameters()}
    f = lambda z: z[..., 0, 0]  # noqa: E731
    value = torch.func.functional_call(estimator, parameters, (policy, f, noise))
    assert torch.equal(value, torch.ones(2))


def test_repr_shows_the_settings():
    assert repr(RLOO(4)) == "RLOO(num_samples=4)"


def test_reinmax_by_hand():
    logits = torch.tensor([[0.4, -0.3, 0.1]], requires_grad=True)
    slope = torch.tensor([[1.0, -2.0, 0.5]])
    policy = FactoredCategorical(logits)
    one_hot = ReinMax(1.3).sample(policy, noise=torch.tensor([[0.0, 3.0, 0.0]]))
    assert torch.equal(one_hot.detach(), torch.tensor([[0.0, 1.0, 0.0]]))
    (one_hot * slope).sum().backward()
    probs, middle = logits.detach().softmax(-1), 0.5 * ((logits.detach() / 1.3).softmax(-1) + one_hot.detach())
    torch.testing.assert_close(logits.grad, 2 * _vjp(middle, slope, 1.0) - 0.5 * _vjp(probs, slope, 1.0))


def test_gumbel_rao_by_hand():
    logits = torch.tensor([[0.4, -0.3, 0.1]], requires_grad=True)
    slope = torch.tensor([[1.0, -2.0, 0.5]])
    policy = FactoredCategorical(logits)
    noise = gumbel_noise((4, 1, 3), generator=torch.Generator().manual_seed(0))
    one_hot = GumbelRao(TEMPERATURE, num_samples=3).sample(policy, noise)
    assert torch.equal(one_hot.detach(), policy.sample(noise=noise[0]))
    (one_hot * slope).sum().backward()
    perturbed = conditional_gumbel(policy.logits.detach(), one_hot.detach(), noise[1:])
    expected = _vjp((perturbed / TEMPERATURE).softmax(-1), slope).mean(0)
    torch.testing.assert_close(logits.grad, expected)


def test_gumbel_rao_needs_a_sample():
    with pytest.raises(ValueError, match="num_samples must be at least 1, but got 0"):
        GumbelRao(num_samples=0)


@pytest.mark.parametrize("cls", [GumbelSoftmax, STGumbel, StraightThrough])
def test_learned_temperature_gets_the_same_gradient_with_a_mask_as_without_the_choice(cls):
    weights = torch.tensor([1.0, 2.0, 3.0])
    noise = torch.tensor([[[0.3, -0.2, 5.0]]])
    gradients = []
    for kept in (2, 3):
        estimator = cls(temperature=LearnedTemperature(0.8, 0.1))
        mask = torch.tensor([True, True, False])[:kept]
        policy = FactoredCategorical(torch.tensor([[[0.5, -0.4, 9.0]]])[..., :kept], mask)
        f = lambda choices, kept=kept: (choices * weights[:kept]).sum((-2, -1)) ** 2  # noqa: E731
        estimator.expectation(policy, f, noise[..., :kept]).sum().backward()
        gradients.append(estimator.temperature.w.grad)
    assert gradients[0].abs() > 1e-4
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("shape", [(4, 1), (1,), (3,)])
def test_a_baseline_of_another_shape_is_refused(shape):
    estimator = Reinforce(baseline=lambda policy: torch.zeros(shape))
    policy = FactoredCategorical(torch.zeros(4, 1, 2))
    with pytest.raises(ValueError, match=r"baseline must return shape \[\*batch\], \(4,\)"):
        estimator.expectation(policy, lambda choices: choices.sum((-2, -1)))


def test_a_temperature_tensor_follows_the_module_and_must_be_positive():
    estimator = STGumbel(temperature=torch.full((2, 1, 1), 0.5)).to(torch.float64)
    assert estimator.temperature.dtype == torch.float64
    with pytest.raises(ValueError, match="temperature must be positive"):
        STGumbel(temperature=torch.tensor([[[1.0]], [[-1.0]]]))


def test_calling_an_estimator_is_its_expectation_also_where_that_is_overridden():
    class Constant(Exact):
        def expectation(self, policy, f, noise=None, generator=None):
            return torch.full(policy.batch_shape, 7.0)

    assert Constant()(FactoredCategorical(torch.zeros(1, 2)), lambda choices: choices.sum((-2, -1))) == 7
