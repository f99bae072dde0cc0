"""Straight-through estimators with less bias or less variance: ReinMax and Gumbel-Rao."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gsrl.distributions import FactoredCategorical
from gsrl.estimators.base import Noise
from gsrl.estimators.pathwise import Pathwise
from gsrl.relaxations import conditional_gumbel, gumbel_noise, replace_value
from gsrl.temperature import Temperature

__all__ = ["GumbelRao", "ReinMax"]


class ReinMax(Pathwise):
    r"""ReinMax: straight-through of second order, by Heun's method.

    .. math:: D \sim \mathrm{Cat}(p), \quad \pi = \tfrac12 (\mathrm{softmax}(\theta / \tau) + D), \qquad
              \hat g = 2 J(\pi) f'(D) - \tfrac12 J(p) f'(D), \quad J(q) = \mathrm{diag}(q) - q q^\top

    Exact in expectation at temperature 1 for ``f`` quadratic in each factor given the others; biased otherwise. One
    call of ``f``, at a vertex. Use it where straight-through would do, and its bias is what hurts.

    Source: Liu et al. 2023 (2304.08612).

    Args:
        temperature: At least 1 in the paper; see :class:`Pathwise`. A learned one would receive no gradient.
    """

    name = "reinmax"
    source = "2304.08612"

    def _sample(self, policy: FactoredCategorical, noise: Tensor) -> Tensor:
        one_hot = policy.sample(noise=noise)
        fixed = policy.logits.detach()
        middle = 0.5 * ((fixed / self._temperature().detach()).softmax(-1) + one_hot)  # pi
        logits = policy.finite_logits
        slope = 2 * _row_softmax_gradient(middle, logits) - 0.5 * _row_softmax_gradient(fixed.exp(), logits)
        return replace_value(slope, one_hot).to(policy.logits.dtype)


class GumbelRao(Pathwise):
    r"""Gumbel-Rao: straight-through Gumbel-softmax, averaged over the noise that leads to the same sample.

    .. math:: \hat g = \frac1m \sum_{i=1}^{m} V(\mathrm{softmax}(A_i / \tau), f'(D), \tau), \quad
              V(y, g, \tau) = \tau^{-1}\, y \odot (g - y \cdot g)

    ``D`` is drawn once; ``A_i`` are perturbed logits given that ``D`` is their arg max, see
    :func:`gsrl.relaxations.conditional_gumbel`, whose noise receives no gradient. The mean, and so the bias, is that of
    ``st-gumbel``; the variance falls to its part between the samples as ``m`` grows. One call of ``f``.

    Source: Paulus et al. 2021 (2010.04838).

    Args:
        temperature: See :class:`Pathwise`.
        num_samples: ``m``, at least 1.

    Raises:
        ValueError: ``num_samples`` is below 1.
    """

    name = "gumbel-rao"
    source = "2010.04838"

    def __init__(self, temperature: float | Tensor | Temperature = 1.0, num_samples: int = 10) -> None:
        super().__init__(temperature)
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, but got {num_samples}.")
        self.num_samples = num_samples

    def draw_noise(self, policy: FactoredCategorical, generator: torch.Generator | None = None) -> Noise:
        """Gumbel noise of the sample and of each conditional draw, float32 ``[1 + m, *batch, n, K]``."""
        shape = (1 + self.num_samples, *policy.logits.shape)
        return gumbel_noise(shape, generator=generator, device=policy.logits.device)

    def _sample(self, policy: FactoredCategorical, noise: Tensor) -> Tensor:
        one_hot = policy.sample(noise=noise[0])
        perturbed = conditional_gumbel(policy.logits.detach(), one_hot, noise[1:])
        logits = policy.finite_logits
        # The clamp keeps the gradient of a learned temperature finite; the softmax is still 0 there.
        perturbed = perturbed.clamp_min(-1e30) + (logits - logits.detach())
        soft = (perturbed / self._temperature()).softmax(-1).mean(0)
        return replace_value(soft, one_hot).to(policy.logits.dtype)

    @property
    def settings(self) -> dict[str, Any]:
        """The temperature and the number of conditional draws."""
        return {**super().settings, "num_samples": self.num_samples}


def _row_softmax_gradient(probs: Tensor, logits: Tensor) -> Tensor:
    """A function of the logits whose Jacobian, row by row, is ``diag(probs) - probs probs^T``."""
    return probs * (logits - (probs * logits).sum(-1, keepdim=True))
