"""Sets drawn without replacement have the probabilities they claim, and REINFORCE with them is unbiased.

Each chi-squared test rejects at 1e-3 / 50, and there are fewer than 40 of them. A mean may miss its expected value by
five standard errors (P = 5.7e-7), and there are fewer than 50 such comparisons. So right code fails one of all these
with probability below 1e-3. The seeds are fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from gsrl.subsets import SubsetOfK, gumbel_top_k, relaxed_subset

SIGNIFICANCE = 1e-3 / 50
DEVIATIONS = 5
N = 100_000
LOGITS = torch.tensor([1.2, 0.3, -0.5, 0.8, 0.0])
MASKS = {"unmasked": None, "masked": torch.tensor([True, True, False, True, True])}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def k_hot(indices: Tensor) -> Tensor:
    return torch.zeros(*indices.shape[:-1], 5).scatter(-1, indices, 1.0)


def assert_frequencies(drawn: Tensor, outcomes: Tensor, probs: Tensor) -> None:
    """Rows of ``drawn`` are the rows of ``outcomes`` with probabilities ``probs``."""
    weights = 7 ** torch.arange(drawn.shape[-1])
    codes = (outcomes.long() * weights).sum(-1)
    counts = (codes.unsqueeze(-1) == (drawn.long() * weights).sum(-1)).sum(-1)
    assert counts.sum() == drawn.shape[0]
    probs = probs.double()
    assert not counts[probs == 0].any(), "an illegal choice was drawn"
    expected = probs[probs > 0] / probs.sum() * drawn.shape[0]
    assert expected.min() > 5, "too few draws for the test"
    assert chisquare(counts[probs > 0].numpy(), expected.numpy()).pvalue > SIGNIFICANCE


SAMPLERS: dict[str, Callable[[Tensor, int, Tensor | None], Tensor]] = {
    "gumbel_top_k": lambda logits, k, mask: k_hot(gumbel_top_k(logits, k, mask=mask, generator=generator())),
    "relaxed_subset, cold": lambda logits, k, mask: relaxed_subset(
        logits, k, 0.1, True, mask=mask, generator=generator()
    ),
    "relaxed_subset, hot": lambda logits, k, mask: relaxed_subset(
        logits, k, 5.0, True, mask=mask, generator=generator()
    ),
    "sample, batch": lambda logits, k, mask: SubsetOfK(logits, k, mask).sample(generator=generator()),
    "sample, sample_shape": lambda logits, k, mask: SubsetOfK(logits[0], k, mask).sample((N,), generator=generator()),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frequencies_of_sets(sampler, k, mask):
    policy = SubsetOfK(LOGITS, k, MASKS[mask])
    support = policy.enumerate_support()
    assert_frequencies(SAMPLERS[sampler](LOGITS.expand(N, 5), k, MASKS[mask]), support, policy.log_prob(support).exp())


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("k", [2, 3])
def test_frequencies_of_orders(k, mask):
    policy = SubsetOfK(LOGITS, k, MASKS[mask])
    orders = torch.tensor(list(itertools.permutations(range(5), k)))
    drawn = policy.sample_ordered((N,), generator=generator())
    assert_frequencies(drawn, orders, policy.log_prob_ordered(orders).exp())


def objective(subset: Tensor) -> Tensor:
    """Coupled: a cubic of the whole set."""
    return (0.5 + subset @ torch.tensor([0.8, -0.4, 0.9, -1.1, 0.3])) ** 3


def exact_gradient(mask: Tensor | None) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    policy = SubsetOfK(logits, 2, mask)
    support = policy.enumerate_support()
    return torch.autograd.grad((policy.log_prob(support).exp() * objective(support)).sum(), logits)[0]


def mean_and_error(gradients: Tensor) -> tuple[Tensor, Tensor]:
    return gradients.double().mean(0), gradients.double().std(0) / gradients.shape[0] ** 0.5


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("ordered", [False, True], ids=["set", "order"])
def test_reinforce_is_unbiased(ordered, mask):
    logits = LOGITS.repeat(N, 1).requires_grad_()
    policy = SubsetOfK(logits, 2, MASKS[mask])
    indices = policy.sample_ordered(generator=generator())
    subset = k_hot(indices)
    log_prob = policy.log_prob_ordered(indices) if ordered else policy.log_prob(subset)
    mean, error = mean_and_error(torch.autograd.grad((objective(subset) * log_prob).sum(), logits)[0])
    assert ((mean - exact_gradient(MASKS[mask])).abs() <= DEVIATIONS * error + 1e-6).all()


def relaxed_bias(temperature: float, hard: bool) -> tuple[Tensor, Tensor]:
    """Norm of the bias and five times that of its error, both relative to the exact gradient."""
    logits, exact = LOGITS.repeat(N, 1).requires_grad_(), exact_gradient(None)
    value = objective(relaxed_subset(logits, 2, temperature, hard, generator=generator()))
    mean, error = mean_and_error(torch.autograd.grad(value.sum(), logits)[0])
    return (mean - exact).norm() / exact.norm(), DEVIATIONS * error.norm() / exact.norm()


def test_the_relaxation_is_biased_and_less_so_when_cold():
    (hot, hot_error), (cold, cold_error) = (relaxed_bias(temperature, hard=False) for temperature in (1.0, 0.1))
    assert hot > hot_error
    assert cold + cold_error < 0.5 * hot


def test_straight_through_is_biased_also_when_cold():
    for temperature in (1.0, 0.1):
        bias, error = relaxed_bias(temperature, hard=True)
        assert bias > error
