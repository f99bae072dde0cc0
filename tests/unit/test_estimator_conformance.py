"""Every estimator keeps the promises of the protocol, and the suite refuses those that break one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
    Rebar,
    ReinforceEstimator,
    ReinMax,
    Relax,
    STGumbel,
    StraightThrough,
    UnorderedSet,
)
from gsrl.estimators.base import evaluate
from gsrl.relaxations import gumbel_max, gumbel_noise, gumbel_softmax, straight_through
from gsrl.temperature import ExponentialTemperature, LearnedTemperature
from gsrl.testing import ConformanceError, check_estimator
from tests.common.estimators import TEMPERATURE, vjp


def _gumbel_reference(logits: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
    return vjp(((logits + noise) / TEMPERATURE).softmax(-1), slope)


def _straight_through_reference(logits: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
    return vjp((logits / TEMPERATURE).softmax(-1), slope)


def _reinmax_reference(logits: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
    one_hot = gumbel_max(logits, noise=noise)
    middle = 0.5 * ((logits / 1.5).softmax(-1) + one_hot)
    return 2 * vjp(middle, slope, 1.0) - 0.5 * vjp(logits.softmax(-1), slope, 1.0)


def _gapped_reference(logits: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
    """Given the sample: its logit becomes the largest, every other is at least 1 below."""
    chosen = gumbel_max(logits, noise=noise).bool()
    largest = logits.amax(-1, keepdim=True)
    moved = torch.where(chosen, largest, torch.minimum(logits, largest - 1))
    return vjp((moved / TEMPERATURE).softmax(-1), slope)


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
    "reinforce": (ReinforceEstimator, {}),
    "reinforce, running mean": (lambda: ReinforceEstimator("running-mean"), {}),
    "reinforce, callable": (lambda: ReinforceEstimator(lambda policy: policy.entropy().detach()), {}),
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
    def calls(self, n, K):
        return 1


class CountOfOtherCalls(RLOO):
    def calls(self, n, K):
        return n * self.num_samples


class CallsInWords(RLOO):
    calls = "num_samples"


class FractionOfCalls(RLOO):
    def calls(self, n, K):
        return self.num_samples / 1


class NoiseUnchecked(ARM):
    def _noise(self, policy, noise, generator):
        return self.draw_noise(policy, generator) if noise is None else noise


class NoiseOfAnotherShape(RLOO):
    def draw_noise(self, policy, generator=None):
        return gumbel_noise(policy.logits.shape, generator=generator)

    def noise_shape(self, policy):
        return (self.num_samples, *policy.logits.shape)


class AnotherValueWithoutGradient(ReinforceEstimator):
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


class GradientTwice(ReinforceEstimator):
    def _expectation(self, policy, f, noise):
        value = super()._expectation(policy, f, noise)
        return 2 * value - value.detach()


class ScoreTwice(ReinforceEstimator):
    def _expectation(self, policy, f, noise):
        one_hot, log_prob = self.draw(policy, noise)
        return self.surrogate(f(one_hot.unsqueeze(0)).squeeze(0), [log_prob, log_prob])


class SampleInBaseline(ReinforceEstimator):
    def _expectation(self, policy, f, noise):
        one_hot, log_prob = self.draw(policy, noise)
        cost = f(one_hot.unsqueeze(0)).squeeze(0)
        advantage = (0.5 * cost + 0.5 * one_hot[..., 0].sum(-1)).detach()
        return cost + advantage * (log_prob - log_prob.detach())


class InnerGradientLost(ReinforceEstimator):
    def _expectation(self, policy, f, noise):
        return super()._expectation(policy, lambda z: f(z).detach(), noise)


class NoGradient(Exact):
    def _expectation(self, policy, f, noise):
        return super()._expectation(policy, f, noise).detach()


class ValueKeepsRunning(ReinforceEstimator):
    def __init__(self):
        super().__init__("running-mean")

    def _expectation(self, policy, f, noise):
        value = super()._expectation(policy, f, noise)
        self.step(value)
        return value


class StateNotSaved(ReinforceEstimator):
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
    CountOfOtherCalls: r"calls\(3, \d\) is 30, but f was evaluated at 10 configurations",
    CallsInWords: "calls must be a method of n and K, but got 'num_samples'",
    FractionOfCalls: r"calls\(\d, \d\) is 10.0, but f was evaluated at 10 configurations",
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


# Control variates.


class _WithOneHot(Estimator):
    name, biased, source = "with-one-hot", False, "a user's own"
    dtype = torch.float32

    def calls(self, n, K):
        return 1

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
