"""Estimators that evaluate ``f`` at samples coupled through their noise: ARM, DisARM and ARSM."""

from __future__ import annotations

from abc import abstractmethod
from itertools import combinations

import torch
from torch import Tensor

from gsrl.distributions import FactoredCategorical
from gsrl.estimators.base import Estimator, Noise, Objective, attach_gradient, evaluate
from gsrl.relaxations import gumbel_max, logistic_noise

__all__ = ["ARM", "ARSM", "DisARM"]


class _Antithetic(Estimator):
    """A pair of samples of binary factors, from logistic noise and from the same noise with its sign changed."""

    biased = False

    def calls(self, n: int, K: int) -> int:
        """2: the sample and its antithetic one."""
        return 2

    def noise_shape(self, policy: FactoredCategorical) -> tuple[int, ...]:
        """``[*batch, n]``."""
        return tuple(policy.logits.shape[:-1])

    def draw_noise(self, policy: FactoredCategorical, generator: torch.Generator | None = None) -> Noise:
        """Logistic noise, float32 ``[*batch, n]``."""
        return logistic_noise(self.noise_shape(policy), generator=generator, device=policy.logits.device)

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Tensor) -> Tensor:
        if policy.K != 2:
            raise ValueError(f"{self.name} is for binary factors, K = 2, but got K = {policy.K}.")
        log_probs = policy.finite_logits.detach()
        log_odds = log_probs[..., 1] - log_probs[..., 0]
        pair = torch.stack([log_odds + noise > 0, log_odds - noise > 0])  # [2, *batch, n]
        values = evaluate(f, torch.stack([~pair, pair], -1).to(log_probs.dtype))
        half_difference = 0.5 * (values[0] - values[1]).detach()
        gradient = half_difference.unsqueeze(-1) * self._weight(log_odds, noise, pair)
        return attach_gradient(values.mean(0), policy, torch.stack([-gradient, gradient], -1))

    @abstractmethod
    def _weight(self, log_odds: Tensor, noise: Tensor, pair: Tensor) -> Tensor:
        """What half the difference of the values is multiplied by, ``[*batch, n]``, to estimate d / d log-odds."""


class ARM(_Antithetic):
    r"""Augment-REINFORCE-merge, for binary factors: an antithetic pair, weighted by its noise.

    .. math:: \hat g_\phi = (f(1[u > \sigma(-\phi)]) - f(1[u < \sigma(\phi)]))\,(u - \tfrac12), \quad
              \phi = \theta_1 - \theta_0, \qquad \hat g_{\theta_1} = \hat g_\phi = -\hat g_{\theta_0}

    Unbiased. Two calls of ``f`` in one batch, which need no gradient; the value is their mean. DisARM has the same cost
    and never more variance: use ARM to compare with published results. The logistic function of the noise is ``u``.

    Source: Yin and Zhou 2019 (1807.11143), Theorem 1, Eq. 4.

    Raises:
        ValueError: From :meth:`expectation`: the policy's K is not 2.

    Example:
        >>> logits = torch.zeros(2, 2, requires_grad=True)  # 2 factors of 2 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> ARM().expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 2])
    """

    name = "arm"
    source = "1807.11143"

    def _weight(self, log_odds: Tensor, noise: Tensor, pair: Tensor) -> Tensor:
        return 2 * noise.sigmoid() - 1


class DisARM(_Antithetic):
    r"""DisARM, for binary factors: ARM with the noise that does not matter integrated out.

    .. math:: \hat g_\phi = \tfrac12 (f(b) - f(\tilde b))\,(-1)^{\tilde b}\, 1[b \ne \tilde b]\, \sigma(|\phi|), \quad
              b = 1[1 - u < \sigma(\phi)],\ \tilde b = 1[u < \sigma(\phi)],\ \phi = \theta_1 - \theta_0

    Unbiased, with at most the variance of ARM. Two calls of ``f`` in one batch, which need no gradient; the value is
    their mean. The choice for binary factors when ``f`` has no gradient and may be called twice.

    Source: Dong et al. 2020 (2006.10680), also published as U2G by Yin et al. 2020; Eq. 4 of docs/estimators.md, with
    its derivation.

    Raises:
        ValueError: From :meth:`expectation`: the policy's K is not 2.

    Example:
        >>> logits = torch.zeros(2, 2, requires_grad=True)  # 2 factors of 2 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> DisARM().expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 2])
    """

    name = "disarm"
    source = "2006.10680"

    def _weight(self, log_odds: Tensor, noise: Tensor, pair: Tensor) -> Tensor:
        return (pair[0].to(log_odds.dtype) - pair[1].to(log_odds.dtype)) * log_odds.abs().sigmoid()


class ARSM(Estimator):
    r"""Augment-REINFORCE-swap-merge: samples whose noise has two choices exchanged, for every pair of them.

    .. math:: \hat g_c = \sum_j \Big[f(z^{c \rightleftharpoons j}) - \tfrac1K \sum_i f(z^{i \rightleftharpoons j})\Big]
              (\tfrac1K - \pi_j), \qquad \pi \sim \mathrm{Dir}(1), \quad
              z^{c \rightleftharpoons j} = \arg\min_k (\log \pi^{c \rightleftharpoons j}_k - \theta_k)

    With n factors the same pair is exchanged in all rows, each with its own :math:`\pi`. Unbiased. ``K(K - 1)/2 + 1``
    calls of ``f`` in one batch, which need no gradient; the value is ``f`` where nothing was exchanged. For categorical
    factors with few choices; the cost is quadratic in K.

    Source: Yin et al. 2019 (1905.01413); Eq. 5 of docs/estimators.md, with its derivation.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> ARSM().expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "arsm"
    biased = False
    source = "1905.01413"

    def calls(self, n: int, K: int) -> int:
        """``K (K - 1) / 2 + 1``: the sample, and one for each pair of choices that is exchanged."""
        return K * (K - 1) // 2 + 1

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Tensor) -> Tensor:
        K, device = policy.K, noise.device
        exchanges, index = _exchanges(K)
        swapped = noise[..., torch.tensor(exchanges, device=device)].movedim(-2, 0)  # [M, *batch, n, K]
        values = evaluate(f, gumbel_max(policy.logits.expand_as(swapped), noise=swapped, validate_args=False))
        table = values.detach()[torch.tensor(index, device=device)].movedim((0, 1), (-2, -1))  # [*batch, K, K]
        centred = table - table.mean(-2, keepdim=True)
        weights = 1 / K - (-noise).softmax(-1)  # 1/K - pi, [*batch, n, K]
        return attach_gradient(values[0], policy, weights @ centred.mT.to(weights.dtype))


def _exchanges(K: int) -> tuple[list[list[int]], list[list[int]]]:
    """Permutations ``[M, K]``, the identity first, then each exchange; and which exchanges c and j, ``[K, K]``."""
    exchanges, index = [list(range(K))], [[0] * K for _ in range(K)]
    for c, j in combinations(range(K), 2):
        index[c][j] = index[j][c] = len(exchanges)
        order = list(range(K))
        order[c], order[j] = j, c
        exchanges.append(order)
    return exchanges, index
