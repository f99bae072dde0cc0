"""Samples have the distribution they claim, by chi-squared tests with fixed seeds.

Each test rejects at 1e-3 / 50, and there are fewer than 50: right code fails one of them with probability below 1e-3.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor

from gsrl.distributions import FactoredCategorical
from gsrl.estimators import RLOO, ReinforceEstimator, STGumbel, StraightThrough
from gsrl.relaxations import (
    binary_concrete,
    conditional_gumbel,
    gumbel_max,
    gumbel_noise,
    gumbel_softmax,
    logistic_noise,
    straight_through,
)

SIGNIFICANCE = 1e-3 / 50
N = 100_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_frequencies(counts: Tensor, probs: Tensor) -> None:
    counts, probs = counts.double().flatten(), probs.double().flatten()
    assert not counts[probs == 0].any(), "an illegal choice was drawn"
    possible = probs > 0
    probs = probs[possible] / probs[possible].sum()
    expected = probs * counts.sum()
    assert expected.min() > 5, "too few draws for the test"
    assert chisquare(counts[possible].numpy(), expected.numpy()).pvalue > SIGNIFICANCE


SAMPLERS = {
    "gumbel_max": lambda logits, mask: gumbel_max(logits, mask=mask, generator=generator()),
    "gumbel_softmax, cold": lambda logits, mask: gumbel_softmax(logits, 0.1, True, mask=mask, generator=generator()),
    "gumbel_softmax, hot": lambda logits, mask: gumbel_softmax(logits, 5.0, True, mask=mask, generator=generator()),
    "straight_through, cold": lambda logits, mask: straight_through(logits, 0.1, mask=mask, generator=generator()),
    "straight_through, hot": lambda logits, mask: straight_through(logits, 5.0, mask=mask, generator=generator()),
    "STGumbel": lambda logits, mask: STGumbel(0.5).sample(policy(logits, mask), generator=generator()).squeeze(-2),
    "StraightThrough": lambda logits, mask: (
        StraightThrough(0.5).sample(policy(logits, mask), generator=generator()).squeeze(-2)
    ),
    "ReinforceEstimator.draw": lambda logits, mask: (
        ReinforceEstimator().draw(policy(logits, mask), generator=generator())[0].squeeze(-2)
    ),
    "FactoredCategorical": lambda logits, mask: policy(logits, mask).sample(generator=generator()).squeeze(-2),
}


def policy(logits: Tensor, mask: Tensor | None) -> FactoredCategorical:
    return FactoredCategorical(logits.unsqueeze(-2), mask)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frequencies(sampler, masked):
    logits = torch.tensor([1.2, 0.3, -0.5, -1.5, 0.0])
    mask = torch.tensor([True, True, False, True, False]) if masked else None
    legal = logits if mask is None else logits.masked_fill(~mask, -torch.inf)
    one_hot = SAMPLERS[sampler](logits.expand(N, 5), mask)
    assert_frequencies(one_hot.sum(0), legal.softmax(-1))


@pytest.mark.parametrize("K", [2, 10, 1000])
def test_frequencies_by_number_of_choices(K):
    logits = 0.5 * torch.randn(K, generator=generator(1))
    counts = sum(gumbel_max(logits.expand(10_000, K), generator=generator(seed)).sum(0) for seed in range(10))
    assert_frequencies(counts, logits.softmax(-1))


def test_minus_infinity_is_a_mask():
    logits = torch.tensor([0.0, -torch.inf, 1.0])
    assert_frequencies(gumbel_max(logits.expand(N, 3), generator=generator()).sum(0), logits.softmax(-1))


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.0])
def test_binary_concrete_is_a_bernoulli(logit):
    # A single Gumbel variable instead of logistic noise would give P(1) = .632 at logit 0.
    ones = binary_concrete(torch.full((N,), logit), 0.5, hard=True, generator=generator()).sum()
    assert_frequencies(torch.stack([N - ones, ones]), torch.tensor([-logit, logit]).sigmoid())


def joint_counts(one_hot: Tensor) -> Tensor:
    n, K = one_hot.shape[-2:]
    index = (one_hot.argmax(-1) * K ** torch.arange(n - 1, -1, -1)).sum(-1)
    return torch.bincount(index.flatten(), minlength=K**n)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("draw", ["sample_shape", "batch", "rloo"])
def test_factors_are_independent(draw, masked):
    logits = torch.tensor([[0.5, -0.3, 0.0], [-1.0, 0.4, 0.8], [0.2, 1.0, -0.6]])
    mask = torch.tensor([[True, True, False], [True] * 3, [False, True, False]]) if masked else None
    joint = FactoredCategorical(logits, mask)
    if draw == "sample_shape":
        one_hot = joint.sample((N,), generator=generator())
    elif draw == "batch":
        one_hot = joint.expand((N,)).sample(generator=generator())
    else:
        calls = []
        record = lambda z: calls.append(z) or z.sum((-2, -1))  # noqa: E731
        RLOO(4).expectation(joint.expand((N // 4,)), record, generator=generator())
        (one_hot,) = calls
    probs = [joint.probs[range(3), list(choices)].prod().item() for choices in itertools.product(range(3), repeat=3)]
    assert_frequencies(joint_counts(one_hot), torch.tensor(probs))


def test_gumbel_noise():
    assert kstest(gumbel_noise((N,), generator=generator()).numpy(), "gumbel_r").pvalue > SIGNIFICANCE


def test_logistic_noise():
    assert kstest(logistic_noise((N,), generator=generator()).numpy(), "logistic").pvalue > SIGNIFICANCE


def test_binary_concrete_noise_is_the_difference_of_two_gumbels():
    first, second = gumbel_noise((2, N), generator=generator()).unbind(0)
    assert kstest((first - second).numpy(), logistic_noise((N,), generator=generator(1)).numpy()).pvalue > SIGNIFICANCE


def test_conditional_gumbel_is_what_rejection_leaves():
    """Arg max always, and means and second moments within five standard errors (P < 1e-5 over the six)."""
    log_probs = torch.tensor([0.8, -0.5, 0.1]).log_softmax(-1)
    one_hot = torch.tensor([0.0, 1.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    conditional = conditional_gumbel(log_probs, one_hot, gumbel_noise((400_000, 3), generator=generator))
    assert (conditional.argmax(-1) == 1).all()
    free = log_probs + gumbel_noise((2_000_000, 3), generator=generator)
    accepted = free[free.argmax(-1) == 1]
    for power in (1, 2):
        left, right = conditional.double() ** power, accepted.double() ** power
        error = (left.var(0) / len(left) + right.var(0) / len(right)).sqrt()
        assert ((left.mean(0) - right.mean(0)).abs() <= 5 * error).all()


def test_conditional_gumbel_keeps_illegal_choices_out():
    log_probs = torch.tensor([0.5, 0.5, 0.0]).log()
    drawn = conditional_gumbel(log_probs, torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3))
    assert drawn[2] == -torch.inf
    assert drawn[:2].isfinite().all()
