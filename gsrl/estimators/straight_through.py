"""Straight-through estimators with less bias or less variance."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from gsrl.distributions import FactoredCategorical
from gsrl.estimators.pathwise import Pathwise
from gsrl.relaxations import NEVER, conditional_gumbel, gumbel_max, replace_value
from gsrl.temperature import Temperature, as_temperature

__all__ = ["DecoupledStraightThrough", "GappedStraightThrough", "GumbelRao", "ReinMax"]


class DecoupledStraightThrough(Pathwise):
    r"""Straight-through with a temperature for the sample and another for its gradient.

    .. math:: D \sim \mathrm{Cat}(\mathrm{softmax}(\theta / \tau_f)), \quad q = \mathrm{softmax}(\theta / \tau_b),
              \hat g = \tau_b^{-1}\, q \odot (f'(D) - q \cdot f'(D))

    The forward temperature changes the distribution of the samples, so the value, and what is estimated, are E[f] under
    ``softmax(theta / forward_temperature)``. Biased, but for an ``f`` linear in each factor if both temperatures are
    equal. One call of ``f``, at a vertex. Use it to sharpen or flatten the samples of a trained policy, or to smooth
    the gradient, one without the other.

    Source: Shah et al. 2024 (2410.13331, second version); Eq. 2 of docs/estimators.md.

    Args:
        forward_temperature: Of the samples; positive, a float or a :class:`gsrl.temperature.Temperature`, but not a
            learned one: no gradient would reach it.
        backward_temperature: Of the gradient; see :class:`Pathwise`.

    Raises:
        ValueError: A temperature is not positive; ``forward_temperature`` is learned.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> DecoupledStraightThrough(0.5, 1.0).expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "decoupled-st"
    source = "2410.13331"

    def __init__(
        self,
        forward_temperature: float | Temperature = 1.0,
        backward_temperature: float | Tensor | Temperature = 1.0,
    ) -> None:
        super().__init__(backward_temperature)
        self.forward_temperature = as_temperature(forward_temperature)
        _check_not_learned("forward_temperature", self.forward_temperature)

    def _sample(self, policy: FactoredCategorical, noise: Tensor) -> Tensor:
        one_hot = gumbel_max(policy.logits / self.forward_temperature(), noise=noise, validate_args=False)
        soft = (_legal(policy) / self._temperature()).softmax(-1)
        return replace_value(soft, one_hot).to(policy.logits.dtype)

    def step(self, cost: Tensor) -> None:
        """Advances the schedules of both temperatures."""
        super().step(cost)
        self.forward_temperature.step()

    @property
    def settings(self) -> dict[str, Any]:
        """Both temperatures."""
        return {"forward_temperature": self.forward_temperature, "backward_temperature": self.temperature}


class GappedStraightThrough(Pathwise):
    r"""Gapped straight-through: a soft sample that is moved, without noise, until it agrees with the hard one.

    .. math:: D \sim \mathrm{Cat}(p), \quad m_1 = (\max\theta - \theta) \odot D, \quad
              m_2 = (\theta + \mathrm{gap} - \max\theta)_+ \odot (1 - D), \\
              y = \mathrm{softmax}((\theta + m_1 - m_2) / \tau), \qquad
              \hat g = \tau^{-1}\, y \odot (f'(D) - y \cdot f'(D))

    The chosen logit is raised to the largest, the others are lowered until they are ``gap`` below it; neither shift
    receives a gradient. Biased. One call of ``f``, at a vertex. Use it in the place of ``st-gumbel``: given the sample,
    its gradient has no noise.

    Source: Fan et al. 2022 (2206.07235); Eq. 3 of docs/estimators.md.

    Args:
        temperature: See :class:`Pathwise`.
        gap: At least 0, in units of logits; 1 in the paper (GST-1.0). ``"p"`` takes the mean gap that Gumbel noise
            would have left, :math:`-\log(1 - p_D) / p_D` (GST-p).

    Raises:
        ValueError: ``gap`` is negative or another word.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> GappedStraightThrough().expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "gapped-st"
    source = "2206.07235"

    def __init__(self, temperature: float | Tensor | Temperature = 1.0, gap: float | Literal["p"] = 1.0) -> None:
        super().__init__(temperature)
        if gap != "p" and not (isinstance(gap, int | float) and 0 <= gap < math.inf):
            raise ValueError(f"gap must be 'p' or a finite number of at least 0, but got {gap!r}.")
        self.gap = gap

    def _sample(self, policy: FactoredCategorical, noise: Tensor) -> Tensor:
        one_hot = policy.sample(noise=noise)
        logits = _legal(policy)
        fixed = logits.detach()
        largest = fixed.amax(-1, keepdim=True)
        gap: float | Tensor
        if self.gap == "p":
            chosen = (fixed * one_hot).sum(-1, keepdim=True).exp().clamp_min(1e-30)
            # log(1 - p_D), in the form that is precise on its side of 1/2
            others = fixed.masked_fill(one_hot > 0, -torch.inf).logsumexp(-1, keepdim=True).clamp_min(-1e3)
            gap = -torch.where(chosen < 0.5, torch.log1p(-chosen), others) / chosen
        else:
            gap = self.gap
        raised, lowered = (largest - fixed) * one_hot, (fixed + gap - largest).clamp_min(0) * (1 - one_hot)
        soft = ((logits + raised - lowered) / self._temperature()).softmax(-1)
        return replace_value(soft, one_hot).to(policy.logits.dtype)

    @property
    def settings(self) -> dict[str, Any]:
        """The temperature and the gap."""
        return {**super().settings, "gap": self.gap}


class ReinMax(Pathwise):
    r"""ReinMax: straight-through of second order, by Heun's method.

    .. math:: D \sim \mathrm{Cat}(p), \quad \pi = \tfrac12 (\mathrm{softmax}(\theta / \tau) + D), \qquad
              \hat g = 2 J(\pi) f'(D) - \tfrac12 J(p) f'(D), \quad J(q) = \mathrm{diag}(q) - q q^\top

    Exact in expectation at temperature 1 for ``f`` quadratic in each factor given the others; biased otherwise. One
    call of ``f``, at a vertex. Use it where straight-through would do, and its bias is what hurts.

    Source: Liu et al. 2023 (2304.08612), Algorithm 2.

    Args:
        temperature: At least 1 in the paper; see :class:`Pathwise`. Not a learned one: no gradient would reach it.

    Raises:
        ValueError: ``temperature`` is not positive, or learned.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> ReinMax().expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "reinmax"
    source = "2304.08612"

    def __init__(self, temperature: float | Tensor | Temperature = 1.0) -> None:
        super().__init__(temperature)
        _check_not_learned("temperature", self.temperature)

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
    ``st-gumbel``; the variance falls to its part between the samples as ``m`` grows. One call of ``f``, at a vertex.
    Use it in the place of ``st-gumbel`` at low temperatures, where ``f`` costs more than ``m`` softmaxes.

    Source: Paulus et al. 2021 (2010.04838), Eqs. 7 and 10.

    Args:
        temperature: See :class:`Pathwise`.
        num_samples: ``m``, at least 1.

    Raises:
        ValueError: ``num_samples`` is below 1.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> GumbelRao(num_samples=4).expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "gumbel-rao"
    source = "2010.04838"

    def __init__(self, temperature: float | Tensor | Temperature = 1.0, num_samples: int = 10) -> None:
        super().__init__(temperature)
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, but got {num_samples}.")
        self.num_samples = num_samples

    def noise_shape(self, policy: FactoredCategorical) -> tuple[int, ...]:
        """``[1 + m, *batch, n, K]``: noise of the sample, then of each conditional draw."""
        return (1 + self.num_samples, *policy.logits.shape)

    def _sample(self, policy: FactoredCategorical, noise: Tensor) -> Tensor:
        one_hot = policy.sample(noise=noise[0])
        perturbed = conditional_gumbel(policy.logits.detach(), one_hot, noise[1:])
        logits = policy.finite_logits
        # The clamp keeps the gradient of a learned temperature finite; the softmax is still 0 there.
        perturbed = perturbed.clamp_min(NEVER) + (logits - logits.detach())
        soft = (perturbed / self._temperature()).softmax(-1).mean(0)
        return replace_value(soft, one_hot).to(policy.logits.dtype)

    @property
    def settings(self) -> dict[str, Any]:
        """The temperature and the number of conditional draws."""
        return {**super().settings, "num_samples": self.num_samples}


def _legal(policy: FactoredCategorical) -> Tensor:
    """Logits in float32 at least, finite: so low at illegal choices that they have weight 0 at any temperature."""
    logits = policy.logits
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).clamp_min(NEVER)


def _check_not_learned(name: str, temperature: Tensor | Temperature) -> None:
    """Refuses what would silently stay as it is."""
    parameters = [temperature] if isinstance(temperature, Tensor) else temperature.parameters()
    if any(parameter.requires_grad for parameter in parameters):
        raise ValueError(f"{name} must not be learned, for no gradient reaches it here, but got {temperature}.")


def _row_softmax_gradient(probs: Tensor, logits: Tensor) -> Tensor:
    """A function of the logits whose Jacobian, row by row, is ``diag(probs) - probs probs^T``."""
    return probs * (logits - (probs * logits).sum(-1, keepdim=True))
