"""Expectations by enumeration: of all factors at once, and of one at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from gsrl.distributions import FactoredCategorical
from gsrl.estimators.base import Estimator, Noise, Objective, attach_gradient, evaluate, replace_rows

__all__ = ["Exact", "LocalExpectation"]


class Exact(Estimator):
    r"""The exact expectation and its exact gradient, by evaluating ``f`` at every configuration.

    .. math:: \mathbb{E}[f] = \sum_D P_\theta(D) f(D), \qquad
              \nabla_\theta \mathbb{E}[f] = \sum_D f(D) \nabla_\theta P_\theta(D)

    Unbiased, without variance. ``K**n`` calls of ``f``, in one batch; refused above ``gsrl.distributions.MAX_SUPPORT``.
    The choice for a single factor whose values come all at once. All batch rows have the same configurations: ``f`` is
    given a view whose strides over the batch are 0, and may compute once what depends on nothing else.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> Exact().expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad
        tensor([[ 0.2222, -0.1111, -0.1111],
                [ 0.2222, -0.1111, -0.1111]])
    """

    name = "exact"
    biased = False
    source = "the definition of the expectation"

    def calls(self, n: int, K: int) -> int:
        """``K**n``: all configurations."""
        return K**n

    def draw_noise(self, policy: FactoredCategorical, generator: torch.Generator | None = None) -> Noise:
        """Nothing is random: an empty tuple."""
        return ()

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Noise) -> Tensor:
        values = evaluate(f, policy.enumerate_support())
        return (values * policy.support_log_probs().exp()).sum(0)


class LocalExpectation(Estimator):
    r"""Local expectation gradients: each factor by enumeration, given a sample of all others.

    .. math:: D \sim P_\theta, \qquad F_{ik} = f(D \text{ with row } i \text{ set to } e_k), \qquad
              \hat g_i = J(p_i) F_i, \quad J(q) = \mathrm{diag}(q) - q q^\top

    Unbiased; exact, without variance, for a single factor. ``n K`` calls of ``f`` in one batch, which need no gradient
    of ``f``. The reference for factored policies whose ``K**n`` configurations are too many to list.

    Source: Titsias and Lázaro-Gredilla 2015 (1503.01494); Eq. 1 of docs/estimators.md, with its derivation.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> LocalExpectation().expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "local-expectation"
    biased = False
    source = "1503.01494"

    def calls(self, n: int, K: int) -> int:
        """``n K``: every choice of every factor; 1 where there is none."""
        return n * K or 1

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Tensor) -> Tensor:
        one_hot = policy.sample(noise=noise)
        if policy.n == 0:  # there is nothing to replace
            return evaluate(f, one_hot.unsqueeze(0)).squeeze(0)
        values = evaluate(f, replace_rows(one_hot)).unflatten(0, policy.event_shape).movedim((0, 1), (-2, -1))
        cost = (values[..., 0, :] * one_hot[..., 0, :]).sum(-1)  # any row would do: this is f at the sample
        return attach_gradient(cost, policy, policy.probs * values)
