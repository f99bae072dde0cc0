"""Masks that choose: each of N things is kept or dropped, with a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, GumbelSoftmax, Noise, Pathwise, make_estimator
from gsrl.relaxations import replace_value
from gsrl.temperature import ExponentialTemperature, Temperature

__all__ = ["GumbelSoftMask", "keep_or_drop", "make_pathwise"]


def keep_or_drop(logits: Tensor, mask: Tensor | None = None, *, validate_args: bool = False) -> FactoredCategorical:
    r"""The distribution of N independent choices to keep (1) or to drop (0): :math:`P(\mathrm{keep}) = \sigma(l)`.

    Args:
        logits: l, ``[*batch, N]``.
        mask: Boolean ``[*batch, N]``, or what broadcasts to it; False where a thing cannot be kept.
        validate_args: Whether values are checked.

    Returns:
        Batch shape ``[*batch]``, event shape ``(N, 2)``, from the logits (0, l).

    Example:
        >>> keep_or_drop(torch.zeros(8, 16)).event_shape
        torch.Size([16, 2])
    """
    pair = torch.stack([torch.zeros_like(logits), logits], -1)
    if mask is None:
        return FactoredCategorical(pair, validate_args=validate_args)
    allowed = torch.stack([torch.ones_like(mask), mask], -1)
    return FactoredCategorical(pair, allowed, validate_args=validate_args)


class GumbelSoftMask(nn.Module):
    r"""A mask of N things, each kept or dropped by itself, whose temperature falls as it is trained.

    .. math:: m_i = \mathrm{softmax}\big(((0, l_i) + (G_{i0}, G_{i1})) / \tau\big)_1
              = \sigma\big((l_i + G_{i1} - G_{i0}) / \tau\big)

    The noise of a binary choice is the *difference* of two Gumbel variables. So, whatever the temperature,
    :math:`P(m_i > 1/2) = \sigma(l_i)`. With a single one on l alone it would be :math:`1 - \exp(-e^{l_i})`, .632 at 0.
    The gradient is the estimator's: biased, as all pathwise ones are.

    Source: Jang et al. 2017 (1611.01144), Eq. 2; Maddison et al. 2017 (1611.00712), Eq. 16.

    Args:
        temperature: A positive number, or a :class:`gsrl.temperature.Temperature`. None: exponential, from 1 to .1 over
            10,000 steps. Its steps are in the state.
        estimator: Name of a pathwise estimator, or one, which then has a temperature of its own.

    Raises:
        TypeError: ``estimator`` is of another kind, or is an object and a temperature is given as well.
        ValueError: There is no such estimator, or it has no differentiable samples.

    Example:
        >>> mask = GumbelSoftMask(temperature=0.5)
        >>> mask(torch.zeros(8, 16)).shape
        torch.Size([8, 16])
        >>> bool(((mask(torch.zeros(8, 16), hard=True) - 0.5).abs() == 0.5).all())
        True
        >>> mask.step()  # once an update
    """

    estimator: Any

    def __init__(
        self, temperature: float | Temperature | None = None, estimator: str | Estimator = "gumbel-softmax"
    ) -> None:
        super().__init__()
        if not isinstance(estimator, str) and temperature is not None:
            raise TypeError(
                f"temperature must be None with an estimator that is an object, which has its own, but got "
                f"{temperature}."
            )
        if isinstance(estimator, str):
            falling = ExponentialTemperature(1.0, 0.1, 10_000) if temperature is None else temperature
            estimator = make_pathwise(estimator, falling)
        if not isinstance(estimator, Pathwise):
            raise TypeError(f"estimator must be a name, or a pathwise estimator, but got {type(estimator).__name__}.")
        self.estimator = estimator

    def draw_noise(self, shape: Sequence[int], generator: torch.Generator | None = None) -> Noise:
        """Draws the noise of one call.

        Args:
            shape: Of the logits, ``[*batch, N]``.
            generator: Source of randomness; torch's default one if None.
        """
        return self.estimator.draw_noise(keep_or_drop(torch.zeros(*shape)), generator)

    def forward(
        self,
        logits: Tensor,
        mask: Tensor | None = None,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
        hard: bool | None = None,
        deterministic: bool = False,
    ) -> Tensor:
        """Draws a mask; a pure function of its arguments, and of the temperature, if noise is given.

        Args:
            logits: l, the log-odds of being kept, ``[*batch, N]``.
            mask: Boolean ``[*batch, N]``, False where a thing is never kept: its entry is 0, without gradient.
            noise: What :meth:`draw_noise` returned for this shape; drawn if None.
            generator: Source of the noise if none is given; torch's default one if None.
            hard: Whether entries are exactly 0 or 1, with the gradient of the estimator. None: as its samples are;
                those of plain Gumbel-softmax are between.
            deterministic: Whether what is more probable is taken: 1 where l > 0, without gradient.

        Returns:
            ``[*batch, N]``, in [0, 1], dtype of ``logits``.

        Raises:
            ValueError: ``logits`` is not floating, has no dimension or holds NaN; ``mask`` is not boolean or has
                another shape; ``noise`` has another shape; ``hard`` is False and the estimator has hard samples alone.
        """
        if not logits.is_floating_point() or logits.dim() == 0:
            raise ValueError(
                f"logits must be a floating-point tensor [*batch, N], but got dtype {logits.dtype}, shape "
                f"{tuple(logits.shape)}."
            )
        if hard is False and not isinstance(self.estimator, GumbelSoftmax):
            raise ValueError(f"hard must be True or None with {self.estimator.name}, whose samples are, but got False.")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != logits.shape):
            raise ValueError(
                f"mask must be boolean, of the shape of logits, {tuple(logits.shape)}, but got dtype {mask.dtype}, "
                f"shape {tuple(mask.shape)}."
            )
        policy = keep_or_drop(logits, mask, validate_args=True)
        if deterministic:
            return policy.mode[..., 1]
        sample = self.estimator.sample(policy, noise, generator)[..., 1]
        if hard and isinstance(self.estimator, GumbelSoftmax):
            sample = replace_value(sample, (sample > 0.5).to(sample.dtype))
        return sample

    def step(self) -> None:
        """Advances the temperature's schedule, once an update; no call does."""
        self.estimator.step(torch.zeros(()))


def make_pathwise(name: str, temperature: float | Temperature) -> Pathwise:
    """Builds the estimator of a name, with a temperature of its gradient, if it has differentiable samples.

    Raises:
        ValueError: There is no such estimator, or it has none.

    Example:
        >>> type(make_pathwise("st-gumbel", 0.5)).__name__
        'STGumbel'
    """
    found = type(make_estimator(name, shape=(1, 2)))
    if not issubclass(found, Pathwise):
        raise ValueError(f"estimator must have differentiable samples, as st-gumbel has, but {name} has none.")
    return found(**{"backward_temperature" if name == "decoupled-st" else "temperature": temperature})
