"""The exact expectation, by enumeration."""

from __future__ import annotations

import torch
from torch import Tensor

from gsrl.distributions import FactoredCategorical
from gsrl.estimators.base import Estimator, Noise, Objective, evaluate

__all__ = ["Exact"]


class Exact(Estimator):
    r"""The exact expectation and its exact gradient, by evaluating ``f`` at every configuration.

    .. math:: \mathbb{E}[f] = \sum_D P_\theta(D) f(D), \qquad
              \nabla_\theta \mathbb{E}[f] = \sum_D f(D) \nabla_\theta P_\theta(D)

    Unbiased, without variance. ``K**n`` calls of ``f``, in one batch; refused above ``gsrl.distributions.MAX_SUPPORT``.
    The choice for a single factor whose values come all at once.
    """

    name = "exact"
    biased = False
    calls = "K^n"
    source = "the definition of the expectation"

    def draw_noise(self, policy: FactoredCategorical, generator: torch.Generator | None = None) -> Noise:
        """Nothing is random: an empty tuple."""
        return ()

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Noise) -> Tensor:
        support = policy.enumerate_support()
        return (policy.log_prob(support).exp() * evaluate(f, support)).sum(0)
