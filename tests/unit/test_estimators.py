from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gsrl.distributions import FactoredCategorical
from gsrl.estimators import (
    ARM,
    ARSM,
    ESTIMATORS,
    RLOO,
    DecoupledStraightThrough,
    DisARM,
    Estimator,
    Exact,
    GappedStraightThrough,
    GumbelRao,
    GumbelSoftmax,
    LocalExpectation,
    MuProp,
    Pathwise,
    Rebar,
    Reinforce,
    ReinMax,
    Relax,
    STGumbel,
    StraightThrough,
    UnorderedSet,
    make_estimator,
)
from gsrl.estimators.base import evaluate
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


def _reinmax_reference(logits: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
    one_hot = gumbel_max(logits, noise=noise)
    middle = 0.5 * ((logits / 1.5).softmax(-1) + one_hot)
    return 2 * _vjp(middle, slope, 1.0) - 0.5 * _vjp(logits.softmax(-1), slope, 1.0)


def _gapped_reference(logits: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
    """Given the sample: its logit becomes the largest, every other is at least 1 below."""
    chosen = gumbel_max(logits, noise=noise).bool()
    largest = logits.amax(-1, keepdim=True)
    moved = torch.where(chosen, largest, torch.minimum(logits, largest - 1))
    return _vjp((moved / TEMPERATURE).softmax(-1), slope)


def _relax(n: int, K: int, soft_rows: bool = False, **settings: Any) -> Any:
    class Learned(Relax):
        """Its surrogate starts away from 0, where it would be REINFORCE."""

        def __init__(self):
            super().__init__(n, K, **settings)
            for parameter in self.parameters():
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))

    return Learned, {"supports": lambda factors, choices: (factors, choices) == (n, K), "soft_rows": soft_rows}


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
    "reinmax, tempered": (lambda: ReinMax(1.5), {"reference_gradient": _reinmax_reference}),
    "decoupled-st": (
        lambda: DecoupledStraightThrough(1.0, TEMPERATURE),
        {"reference_gradient": _straight_through_reference},
    ),
    "decoupled-st, forward": (
        lambda: DecoupledStraightThrough(2.0, TEMPERATURE),
        {"reference_gradient": _straight_through_reference, "sampled_logits": lambda logits: logits / 2},
    ),
    "gapped-st": (lambda: GappedStraightThrough(TEMPERATURE), {"reference_gradient": _gapped_reference}),
    "gapped-st, gap p": (lambda: GappedStraightThrough(gap="p"), {}),
    "gapped-st, learned": (lambda: GappedStraightThrough(LearnedTemperature(1.0, 0.1)), {}),
    "gumbel-rao": (lambda: GumbelRao(TEMPERATURE), {}),
    "gumbel-rao, m = 1": (lambda: GumbelRao(TEMPERATURE, num_samples=1), {}),
    "reinforce": (Reinforce, {}),
    "reinforce, running mean": (lambda: Reinforce("running-mean"), {}),
    "reinforce, callable": (lambda: Reinforce(lambda policy: policy.entropy().detach()), {}),
    "rloo": (RLOO, {}),
    "rloo, m = 2": (lambda: RLOO(2), {}),
    "local-expectation": (LocalExpectation, {}),
    "muprop": (MuProp, {"soft_rows": True}),
    "rebar": (Rebar, {"soft_rows": True}),
    "rebar, cold and weak": (lambda: Rebar(0.3, 0.2), {"soft_rows": True}),
    "relax": (lambda: Relax(3, 4), {"supports": lambda n, K: (n, K) == (3, 4)}),
    "relax, learned, 1 x 2": _relax(1, 2),
    "relax, learned, 1 x 4": _relax(1, 4),
    "relax, learned, 3 x 2": _relax(3, 2),
    "relax, learned, with the objective": _relax(1, 4, add_objective=True, soft_rows=True),
    "arm": (ARM, {"supports": lambda n, K: K == 2}),
    "disarm": (DisARM, {"supports": lambda n, K: K == 2}),
    "arsm": (ARSM, {}),
    # The suite's mask leaves a single configuration of one binary factor, and two of three binary ones: fewer than m.
    "unordered-set, m = 2": (lambda: UnorderedSet(2), {}),
    "unordered-set, m = 3": (lambda: UnorderedSet(3), {}),
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


class SlopeTwice(_Broken):
    def _sample(self, policy, noise):
        sample = super()._sample(policy, noise)
        return 2 * sample - sample.detach()


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


class ForwardTemperatureAfterTheNoise(DecoupledStraightThrough):
    """The arg max does not see it."""

    def _sample(self, policy, noise):
        hard = gumbel_max((policy.logits + noise) / self.forward_temperature(), noise=torch.zeros_like(noise))
        soft = (policy.logits / self._temperature()).softmax(-1)
        return hard + (soft - soft.detach())


class Unnamed(_Broken):
    name = ""


class FalselyUnbiased(_Broken):
    biased = False


class FalselyOneCall(RLOO):
    calls = "1"


class FormulaOfOtherCalls(RLOO):
    calls = "n * num_samples"


class CallsInProse(RLOO):
    calls = "m"


class NoiseUnchecked(ARM):
    def _noise(self, policy, noise, generator):
        return self.draw_noise(policy, generator) if noise is None else noise


class NoiseOfAnotherShape(RLOO):
    def draw_noise(self, policy, generator=None):
        return gumbel_noise(policy.logits.shape, generator=generator)

    def noise_shape(self, policy):
        return (self.num_samples, *policy.logits.shape)


class AnotherValueWithoutGradient(Reinforce):
    def _expectation(self, policy, f, noise):
        value = super()._expectation(policy, f, noise)
        return value if torch.is_grad_enabled() else value + 1


class DeafUnderVmap(STGumbel):
    """Its temperature learns, but not where ``requires_grad`` is hidden."""

    def __init__(self):
        super().__init__(LearnedTemperature(1.0, 0.1))

    def _temperature(self):
        temperature = super()._temperature()
        return temperature if self.temperature.w.requires_grad else temperature.detach()


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
    SlopeTwice: "closed form",
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
    FormulaOfOtherCalls: "calls is 'n \\* num_samples', 30, but f was evaluated at 10 configurations",
    CallsInProse: "calls must be an expression of .*num_samples.*NameError",
    NoiseUnchecked: "noise of shape .* must be a ValueError",
    NoiseOfAnotherShape: "draw_noise must return a tensor of noise_shape",
    AnotherValueWithoutGradient: "under torch.no_grad",
    DeafUnderVmap: "same gradient under torch.func.vmap",
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
        return broken(TEMPERATURE) if issubclass(broken, _Broken) else broken()

    reference = _gumbel_reference if BROKEN[broken] == "closed form" else None
    supports = (lambda n, K: K == 2) if issubclass(broken, ARM) else (lambda n, K: True)
    with pytest.raises(ConformanceError, match=f"{broken.__name__}: .*({BROKEN[broken]})"):
        check_estimator(make, supports=supports, reference_gradient=reference)


def test_suite_refuses_settings_that_forget_the_seed(monkeypatch):
    class Forgetful(Relax):
        @property
        def settings(self):
            return {name: value for name, value in super().settings.items() if name != "seed"}

    monkeypatch.setitem(ESTIMATORS, "relax", Forgetful)
    # The network starts at 0: estimates are the same, and only the weights tell.
    with pytest.raises(ConformanceError, match="must build an equal estimator"):
        check_estimator(lambda: Forgetful(1, 4, seed=3), supports=lambda n, K: (n, K) == (1, 4))


def test_suite_leaves_noise_of_an_unsaid_shape_alone():
    class Pairs(STGumbel):
        """Two draws, of which it takes the second."""

        def draw_noise(self, policy, generator=None):
            return gumbel_noise((2, *policy.logits.shape), generator=generator)

        def _sample(self, policy, noise):
            return super()._sample(policy, noise[1])

    check_estimator(Pairs)


def test_suite_refuses_a_forward_temperature_after_the_noise():
    with pytest.raises(ConformanceError, match="value must have the mean"):
        check_estimator(lambda: ForwardTemperatureAfterTheNoise(2.0), sampled_logits=lambda logits: logits / 2)


def test_suite_refuses_an_estimator_that_reads_values_under_torch_func():
    with pytest.raises(ConformanceError, match=r"without reading values.*vmap"):
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


def test_registry():
    assert {
        "exact": Exact,
        "local-expectation": LocalExpectation,
        "gumbel-softmax": GumbelSoftmax,
        "st-gumbel": STGumbel,
        "straight-through": StraightThrough,
        "decoupled-st": DecoupledStraightThrough,
        "gumbel-rao": GumbelRao,
        "gapped-st": GappedStraightThrough,
        "reinmax": ReinMax,
        "reinforce": Reinforce,
        "rloo": RLOO,
        "muprop": MuProp,
        "rebar": Rebar,
        "relax": Relax,
        "arm": ARM,
        "disarm": DisARM,
        "arsm": ARSM,
        "unordered-set": UnorderedSet,
    } == ESTIMATORS


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


def test_a_rebuilt_estimator_shares_the_temperature():
    estimator = STGumbel(LearnedTemperature(1.0, 0.1))
    assert make_estimator(estimator.name, **estimator.settings).temperature is estimator.temperature


# Errors.


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "exact"])
def test_noise_of_a_wrong_shape(name):
    # For one matrix in the place of four: it would broadcast, and correlate them.
    settings = {"relax": {"n": 3, "K": 2}, "unordered-set": {"num_samples": 2}}.get(name, {})
    estimator = make_estimator(name, **settings)
    noise = estimator.draw_noise(FactoredCategorical(torch.zeros(3, 2)))
    policy = FactoredCategorical(torch.zeros(4, 3, 2))
    methods = [lambda: estimator.expectation(policy, lambda z: z.sum((-2, -1)), noise)]
    if isinstance(estimator, Pathwise):
        methods.append(lambda: estimator.sample(policy, noise))
    for method in methods:
        with pytest.raises(ValueError, match=rf"noise must have the shape that draw_noise of {name} gives") as error:
            method()
        assert f"{estimator.noise_shape(policy)}, but got {tuple(noise.shape)}." in str(error.value)


def test_noise_of_another_kind():
    with pytest.raises(ValueError, match=r"noise must have the shape .* \(1, 2\), but got tuple \(\)"):
        STGumbel().sample(FactoredCategorical(torch.zeros(1, 2)), ())


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
@pytest.mark.parametrize("name", ["exact", "st-gumbel", "reinforce", "local-expectation", "rebar", "arsm"])
def test_objective_of_a_wrong_dtype(name, dtype):
    policy = FactoredCategorical(torch.zeros(5, 2, 3))
    with pytest.raises(ValueError, match=f"f must return a floating-point tensor, but returned dtype {dtype}"):
        make_estimator(name).expectation(policy, lambda z: z[..., 0, 0].to(dtype))


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: ReinMax(LearnedTemperature(1.0, 0.1)), "temperature"),
        (lambda: ReinMax(torch.ones(2, 1, 1, requires_grad=True)), "temperature"),
        (lambda: DecoupledStraightThrough(LearnedTemperature(1.0, 0.1)), "forward_temperature"),
    ],
)
def test_temperatures_that_would_never_move(make, argument):
    with pytest.raises(ValueError, match=f"^{argument} must not be learned, for no gradient reaches it here"):
        make()


def test_a_frozen_temperature_needs_no_gradient():
    frozen = LearnedTemperature(1.5, 0.1).requires_grad_(False)
    assert ReinMax(frozen).temperature is frozen
    assert DecoupledStraightThrough(frozen, LearnedTemperature(1.0, 0.1)).forward_temperature is frozen


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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("K", [2, 3, 18, 300])
def test_exact_of_one_factor_is_the_sum_over_configurations_bit_for_bit(K, masked):
    generator = torch.Generator().manual_seed(K)
    logits = torch.randn(100, 1, K, generator=generator, requires_grad=True)
    values = torch.randn(100, 1, K, generator=generator)
    mask = torch.rand(100, 1, K, generator=generator) < 0.7
    mask[..., 0] = True
    policy = FactoredCategorical(logits, mask if masked else None)
    support = policy.enumerate_support()
    expected = (policy.log_prob(support).exp() * (values * support).sum((-2, -1))).sum(0)
    expectation = Exact().expectation(policy, lambda one_hot: (values * one_hot).sum((-2, -1)))
    assert torch.equal(expectation, expected)
    gradients = [torch.autograd.grad(value.mean(), logits, retain_graph=True)[0] for value in (expectation, expected)]
    assert torch.equal(*gradients)


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
    logits, noise, slope = torch.randn(3, 5, 2, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    leaf, f = logits.clone().requires_grad_(), lambda z: (z * slope).sum((-2, -1))
    # softplus(0) + .1 for the temperature, in the place of .7.
    arguments = (FactoredCategorical(leaf), f, noise)
    torch.func.functional_call(estimator, {"temperature.w": torch.zeros(())}, arguments).sum().backward()
    temperature = math.log(2) + 0.1
    torch.testing.assert_close(leaf.grad, _vjp(((logits + noise) / temperature).softmax(-1), slope, temperature))
    torch.testing.assert_close(estimator.temperature(), torch.tensor(0.7))


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
    with pytest.raises(ValueError, match=r"baseline must return shape \[\*batch\], \(4,\), or its last dimensions"):
        estimator.expectation(policy, lambda choices: choices.sum((-2, -1)))


def test_a_baseline_is_the_same_along_the_dimensions_it_leaves_out():
    baseline = torch.tensor([1.0, -2.0, 0.5, 3.0])
    logits = torch.zeros(7, 4, 1, 2, requires_grad=True)
    noise = gumbel_noise(logits.shape, generator=torch.Generator().manual_seed(0))
    f = lambda z: 5 * z[..., 0, 0]  # noqa: E731
    Reinforce(lambda policy: baseline).expectation(FactoredCategorical(logits), f, noise).sum().backward()
    one_hot = gumbel_max(logits, noise=noise)
    expected = (f(one_hot) - baseline)[..., None, None] * (one_hot - 0.5)
    torch.testing.assert_close(logits.grad, expected)


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


# Two temperatures, and a gap.


def test_decoupled_samples_follow_the_forward_temperature_and_gradients_the_backward_one():
    logits = torch.tensor([[0.8, 0.0, -0.4]], requires_grad=True)
    slope, noise = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.0, 0.5, 0.0]])
    # .8 / 2 < .5, so that choice 1 wins; at a forward temperature of 1, choice 0 does.
    sample = DecoupledStraightThrough(2.0, 0.5).sample(FactoredCategorical(logits), noise)
    assert torch.equal(sample.detach(), torch.tensor([[0.0, 1.0, 0.0]]))
    other = DecoupledStraightThrough(1.0, 0.5).sample(FactoredCategorical(logits), noise)
    assert torch.equal(other.detach(), torch.tensor([[1.0, 0.0, 0.0]]))
    (sample * slope).sum().backward()
    torch.testing.assert_close(logits.grad, _vjp((logits.detach() / 0.5).softmax(-1), slope, 0.5))


def test_decoupled_schedules_both_advance():
    forward, backward = ExponentialTemperature(2.0, 0.5, 4), ExponentialTemperature(1.0, 0.5, 4)
    make_estimator("decoupled-st", forward_temperature=forward, backward_temperature=backward).step(torch.zeros(3))
    assert forward.count == backward.count == 1


@pytest.mark.parametrize(
    ("chosen", "gap", "moved"),
    [
        # The second is raised to .8, the others are lowered to -.2, but for the one that is there already.
        (1, 1.0, [-0.2, 0.8, -0.4]),
        # The first is the largest; the second is 0.8 below it, which is not enough.
        (0, 1.0, [0.8, -0.2, -0.4]),
        (0, 0.5, [0.8, 0.0, -0.4]),
    ],
)
def test_gapped_by_hand(chosen, gap, moved):
    logits = torch.tensor([[0.8, 0.0, -0.4]], requires_grad=True)
    slope, noise = torch.tensor([[1.0, -2.0, 0.5]]), 9 * torch.eye(3)[chosen : chosen + 1]
    sample = GappedStraightThrough(TEMPERATURE, gap).sample(FactoredCategorical(logits), noise)
    assert sample.argmax() == chosen
    (sample * slope).sum().backward()
    torch.testing.assert_close(logits.grad, _vjp((torch.tensor([moved]) / TEMPERATURE).softmax(-1), slope))


@pytest.mark.parametrize("p", [1e-6, 0.2, 0.5, 0.9, 1 - 1e-6])
def test_gap_p_is_the_mean_gap_of_the_noise(p):
    # Two choices at a gap large enough to bind: y_D = sigmoid(gap / temperature).
    logits = torch.tensor([[p, 1 - p]], dtype=torch.float64).log().requires_grad_()
    sample = GappedStraightThrough(gap="p").sample(FactoredCategorical(logits), torch.tensor([[99.0, 0.0]]))
    sample[0, 0].backward()
    gap = max(-math.log1p(-p) / p, math.log(p / (1 - p)))
    soft = torch.tensor(gap, dtype=torch.float64).sigmoid()
    torch.testing.assert_close(logits.grad[0, 0], soft * (1 - soft), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gap", [-1.0, math.inf, math.nan, "q"])
def test_unknown_gap(gap):
    with pytest.raises(ValueError, match="gap must be 'p' or a finite number of at least 0"):
        GappedStraightThrough(gap=gap)


# Estimators that couple samples.


def test_local_expectation_by_hand():
    # f = 5 a_0 + 7 a_0 b_1; the sample is (0, 1), f = 12. Given b: F_1 = (12, 0). Given a: F_2 = (5, 12).
    logits = torch.tensor([[1.0, 3.0], [1.0, 1.0]]).log().requires_grad_()
    f = lambda z: 5 * z[..., 0, 0] + 7 * z[..., 0, 0] * z[..., 1, 1]  # noqa: E731
    noise = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    value = LocalExpectation().expectation(FactoredCategorical(logits), f, noise)
    value.backward()
    assert value.item() == 12
    # p_0 p_1 (F_0 - F_1) in each row.
    torch.testing.assert_close(logits.grad, torch.tensor([[2.25, -2.25], [-1.75, 1.75]]))


def test_local_expectation_is_exact_for_one_factor():
    logits = torch.randn(2, 6, 1, 5, generator=torch.Generator().manual_seed(0))[0].requires_grad_()
    f = lambda z: (z * torch.arange(5.0)).sum((-2, -1)).exp()  # noqa: E731
    gradients = []
    for estimator in (LocalExpectation(), Exact()):
        value = estimator.expectation(FactoredCategorical(logits), f)
        gradients.append(torch.autograd.grad(value.sum(), logits)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("logistic", [0.3, -2.0])
def test_arm_and_disarm_by_hand(logistic):
    # phi = 1: b = 1[1 + L > 0], b~ = 1[1 - L > 0]; f(1) - f(0) = 3.
    f = lambda z: 3 * z[..., 0, 1] + 1  # noqa: E731
    gradients = {}
    for cls in (ARM, DisARM):
        logits = torch.tensor([[0.5, 1.5]], requires_grad=True)
        value = cls().expectation(FactoredCategorical(logits), f, torch.tensor([logistic]))
        value.backward()
        gradients[cls] = logits.grad
        assert value.item() == {0.3: 4.0, -2.0: 2.5}[logistic]
    if logistic == 0.3:
        expected = {ARM: 0.0, DisARM: 0.0}  # both samples are 1
    else:
        u = torch.tensor(logistic).sigmoid()
        expected = {ARM: -3 * (u - 0.5), DisARM: 0.5 * 3 * torch.tensor(1.0).sigmoid()}
    for cls, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[cls] * torch.tensor([[-1.0, 1.0]]))


def test_arsm_by_hand():
    # K = 3, f = (1, 2, 4): every exchange, one at a time, from the definition.
    logits, noise = torch.tensor([[0.4, -0.3, 0.1]], requires_grad=True), torch.tensor([[1.0, -0.5, 0.2]])
    costs = torch.tensor([1.0, 2.0, 4.0])
    value = ARSM().expectation(FactoredCategorical(logits), lambda z: (z * costs).sum((-2, -1)), noise)
    value.backward()
    pi = (-noise[0]).exp() / (-noise[0]).exp().sum()
    table = torch.zeros(3, 3)
    for c in range(3):
        for j in range(3):
            exchanged = pi.clone()
            exchanged[[c, j]] = pi[[j, c]]
            table[c, j] = costs[(exchanged.log() - logits.detach()[0]).argmin()]
    expected = torch.tensor(
        [sum((table[c, j] - table[:, j].mean()) * (1 / 3 - pi[j]) for j in range(3)) for c in range(3)]
    )
    assert value.item() == table[0, 0]
    torch.testing.assert_close(logits.grad[0], expected)


def test_unordered_set_by_hand():
    # m = 2, S = {a, b}, by the closed forms of the weights.
    p = torch.tensor([0.5, 0.3, 0.2])
    logits = p.log().unsqueeze(0).requires_grad_()
    costs = torch.tensor([1.0, 2.0, 4.0])
    noise = torch.zeros(1, 2, 3)
    noise[0, 0] = torch.tensor([9.0, 0.0, 8.0])  # S = {0, 2}
    value = UnorderedSet(2).expectation(FactoredCategorical(logits), lambda z: (z * costs).sum((-2, -1)), noise)
    value.backward()
    a, b = 0, 2
    both = p[a] * p[b] / (1 - p[a]) + p[a] * p[b] / (1 - p[b])
    weight = {a: p[b] / (1 - p[a]) / both, b: p[a] / (1 - p[b]) / both}
    ratio = {(a, b): (1 - p[a]) / p[b], (b, a): (1 - p[b]) / p[a]}
    expected = torch.zeros(3)
    for s, other in ((a, b), (b, a)):
        baseline = p[s] * costs[s] + p[other] * ratio[s, other] * costs[other]
        expected += p[s] * (torch.eye(3)[s] - p) * weight[s] * (costs[s] - baseline)
    torch.testing.assert_close(value.detach(), sum(p[s] * weight[s] * costs[s] for s in (a, b)))
    torch.testing.assert_close(logits.grad[0], expected)


def test_unordered_set_of_everything_is_exact():
    logits = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    f = lambda z: (0.5 + (z * torch.tensor([[1.0, -1.0, 0.5], [2.0, 0.3, -1.0]])).sum((-2, -1))) ** 3  # noqa: E731
    results = []
    for estimator in (UnorderedSet(9), Exact()):
        value = estimator.expectation(FactoredCategorical(logits), f)
        results.append((value, torch.autograd.grad(value.sum(), logits)[0]))
    torch.testing.assert_close(results[0], results[1])


def test_unordered_set_draws_different_legal_configurations():
    mask = torch.tensor([[True, False, False], [True, True, True], [False, True, True]])
    policy = FactoredCategorical(1e3 * torch.randn(500, 3, 3, generator=torch.Generator().manual_seed(0)), mask)
    estimator, seen = UnorderedSet(6), []
    estimator.expectation(policy, lambda z: (seen.append(z), z.sum((-2, -1)))[1])
    assert not seen[0][..., ~mask].any()
    code = (seen[0].argmax(-1) * torch.tensor([9, 3, 1])).sum(-1).sort(0).values
    assert (code.diff(dim=0) > 0).all()


@pytest.mark.parametrize("num_samples", [1, 17])
def test_unordered_set_size(num_samples):
    with pytest.raises(ValueError, match=f"num_samples must be from 2 to 16, but got {num_samples}"):
        UnorderedSet(num_samples)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("n", [1, 2])
def test_unordered_set_is_exact_where_fewer_configurations_are_legal(n, scale):
    # Every mask of one factor of four choices, beside one, two or four legal choices of a second factor.
    rows = torch.tensor(list(itertools.product([True, False], repeat=4))[:-1])
    second = torch.tensor([[True, False, False, False], [False, True, True, False], [True, True, True, True]])
    mask = rows.unsqueeze(1)
    if n == 2:
        mask = torch.stack([rows.repeat(3, 1), second.repeat_interleave(15, 0)], 1)
    legal = mask.sum(-1).prod(-1)
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(mask.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    slope = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    seen = []

    def f(z):
        seen.append(z)
        return (0.5 + (z * slope).sum((-2, -1))) ** 3

    results = []
    for estimator in (UnorderedSet(3), Exact()):
        value = estimator.expectation(FactoredCategorical(logits, mask), f, generator=generator)
        results.append((value, torch.autograd.grad(value.sum(), logits)[0]))
    for estimate, exact in zip(*results, strict=True):
        assert estimate.isfinite().all()
        torch.testing.assert_close(estimate[legal <= 3], exact[legal <= 3])
    assert {1, 2, 3} < set(legal.tolist())
    assert not seen[0][..., ~mask].any()
    if scale == 1.0:
        assert not torch.isclose(results[0][0], results[1][0])[legal > 3].any()


def test_unordered_set_of_a_row_does_not_depend_on_how_few_configurations_others_have():
    logits = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.tensor([[[True, True, True, True]], [[True, False, False, False]]])
    f, noise = lambda z: z.square() @ torch.arange(4.0, dtype=torch.float64), torch.rand(2, 1, 3, 4)
    estimate = lambda logits, mask, noise: UnorderedSet(3).expectation(  # noqa: E731
        FactoredCategorical(logits, mask), lambda z: f(z).sum(-1), noise
    )
    together, alone = estimate(logits, mask, noise), estimate(logits[:1], mask[:1], noise[:1])
    torch.testing.assert_close(together[0], alone[0])
    assert together[1] == 0  # f of choice 0, the only one
    torch.testing.assert_close(torch.func.vmap(estimate)(logits, mask, noise), together)


def test_unordered_set_larger_than_the_domain_is_exact_with_a_call_for_each_configuration():
    logits = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    calls = []
    f = lambda z: (calls.append(len(z)), (z * torch.tensor([[1.0, -1.0], [2.0, 0.3]])).sum((-2, -1)) ** 3)[1]  # noqa: E731
    values = [estimator.expectation(FactoredCategorical(logits), f) for estimator in (UnorderedSet(10), Exact())]
    gradients = [torch.autograd.grad(value.sum(), logits)[0] for value in values]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    assert calls == [4, 4]


@pytest.mark.parametrize("cls", [ARM, DisARM])
def test_binary_estimators_refuse_more_choices(cls):
    with pytest.raises(ValueError, match="is for binary factors, K = 2, but got K = 3"):
        cls().expectation(FactoredCategorical(torch.zeros(1, 3)), lambda z: z.sum((-2, -1)))


# Control variates.


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
    for estimator in (MuProp(), Relax(2, 3), Reinforce()):  # unbiased without
        value = estimator.expectation(FactoredCategorical(logits), f, generator=torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert (gradient != 0).any()


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"relax"}))
def test_no_factors_leave_the_objective_of_nothing(name, batch):
    logits, inner = torch.zeros(*batch, 0, 2, requires_grad=True), torch.tensor(2.5, requires_grad=True)
    value = make_estimator(name).expectation(FactoredCategorical(logits), lambda z: z.sum((-2, -1)) + inner)
    torch.testing.assert_close(value.detach(), torch.full(batch, 2.5))
    gradients = torch.autograd.grad(value.sum(), (logits, inner), materialize_grads=True)
    assert gradients[0].shape == logits.shape
    assert gradients[1].item() == pytest.approx(value.numel())


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_logits_as_large_as_floats_give_finite_estimates(name):
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    costs = torch.tensor([1.0, 3.0])
    for n in (1, 2, 4):
        logits = (1e38 * signs[:n]).requires_grad_()
        estimator = make_estimator(name, shape=(n, 2))
        value = estimator.expectation(FactoredCategorical(logits), lambda z: (z * costs).sum((-2, -1)))
        assert value.item() == pytest.approx({1: 1.0, 2: 4.0, 4: 8.0}[n])
        (gradient,) = torch.autograd.grad(value, logits)
        assert (gradient == 0).all()


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


class _WithOneHot(Estimator):
    name, biased, calls, source = "with-one-hot", False, "1", "a user's own"
    dtype = torch.float32

    def _expectation(self, policy, f, noise):
        indices = (policy.logits.detach() + noise).argmax(-1)
        one_hot = torch.nn.functional.one_hot(indices, policy.K).to(self.dtype)
        cost = self._evaluate(f, one_hot.unsqueeze(0)).squeeze(0)
        return cost + cost.detach() * (policy.log_prob(one_hot) - policy.log_prob(one_hot).detach())

    def _evaluate(self, f, rows):
        return evaluate(f, rows)


def test_one_hot_rows_of_torch_are_told_the_rule_they_break():
    class Integers(_WithOneHot):
        dtype = torch.int64

    class Unchecked(Integers):
        def _evaluate(self, f, rows):
            return f(rows)

    with pytest.raises(ConformanceError, match=r"without reading values.* F\.one_hot \(scatter does the same\)"):
        check_estimator(_WithOneHot)
    with pytest.raises(ValueError, match=r"must have the dtype of the policy's logits, .* but got torch\.int64"):
        check_estimator(Integers)
    with pytest.raises(ConformanceError, match=r"rows of the policy's dtype, torch\.float32 .* but got torch\.int64"):
        check_estimator(Unchecked)


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
        ({"n": 1, "K": 2, "temperature": 0.0}, "`temperature` must be finite and above 0, got 0.0"),
        ({"n": 1, "K": 2, "temperature": math.inf}, "`temperature` must be finite and above 0, got inf"),
    ],
)
def test_relax_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Relax(**arguments)


# What an estimator cannot serve, it says.


@pytest.mark.parametrize("name", ["arsm", "unordered-set", "local-expectation", "exact", "muprop", "rebar", "disarm"])
@pytest.mark.parametrize("method", ["draw", "surrogate"])
def test_estimators_of_the_whole_matrix_have_no_sequences(name, method):
    estimator = make_estimator(name)
    assert not hasattr(estimator, method)
    with pytest.raises(AttributeError, match=f"{name} has no {method}: it needs the whole matrix of choices at once"):
        getattr(estimator, method)


@pytest.mark.parametrize("name", ["gumbel-softmax", "st-gumbel", "reinmax", "gumbel-rao"])
@pytest.mark.parametrize("method", ["draw", "surrogate"])
def test_pathwise_estimators_take_sequences_by_sample(name, method):
    estimator = make_estimator(name)
    assert not hasattr(estimator, method)
    with pytest.raises(AttributeError, match=f"{name} has no {method}: .* use sample at every decision"):
        getattr(estimator, method)


def test_score_function_estimators_have_no_differentiable_samples():
    with pytest.raises(AttributeError, match="rloo has no differentiable samples"):
        RLOO().sample(FactoredCategorical(torch.zeros(1, 2)))
