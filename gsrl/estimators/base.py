"""The protocol that every gradient estimator keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from gsrl.distributions import FactoredCategorical
from gsrl.relaxations import gumbel_noise

__all__ = ["Estimator", "Noise", "Objective", "attach_gradient", "evaluate", "value_and_slope"]

Objective: TypeAlias = Callable[[Tensor], Tensor]
"""A function of one-hot matrices, ``[M, *batch, n, K] -> [M, *batch]``.

It broadcasts over the leading ``M`` what it captured, treats batch rows independently, and is finite where a choice has
zero probability.
"""

Noise: TypeAlias = Tensor | tuple[Tensor, ...]
"""What an estimator draws: float32 tensors."""


class Estimator(nn.Module, ABC):
    r"""An estimator of :math:`\nabla_\theta \mathbb{E}_{D \sim P_\theta}[f(D)]`, for a :class:`FactoredCategorical` P.

    :meth:`expectation` returns ``f`` at the samples; calling ``backward`` on it gives the estimate. Parameters inside
    ``f`` receive the gradient of that primal evaluation alone. An estimator is a module, so that what it learns or
    counts (a temperature, a running baseline) is in its ``state_dict``, and ``torch.func.functional_call`` works.

    Attributes:
        name: The name that :func:`gsrl.make_estimator` knows.
        biased: Whether the estimate is biased for a general ``f``.
        calls: How many configurations ``f`` is evaluated at for one estimate, as a formula.
        source: Where it was published.
    """

    name: ClassVar[str]
    biased: ClassVar[bool]
    calls: ClassVar[str]
    source: ClassVar[str]

    def draw_noise(self, policy: FactoredCategorical, generator: torch.Generator | None = None) -> Noise:
        """Draws the noise of one estimate: Gumbel noise of the policy's shape, unless a class says otherwise.

        Args:
            policy: Its shape and device count, not its values.
            generator: Source of randomness; torch's default one if None.

        Returns:
            float32 ``[*batch, n, K]``.
        """
        return gumbel_noise(policy.logits.shape, generator=generator, device=policy.logits.device)

    def expectation(
        self,
        policy: FactoredCategorical,
        f: Objective,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Estimates E[f]; its ``backward`` estimates the gradient. A pure function of its arguments if noise is given.

        Args:
            policy: Distribution with batch shape ``[*batch]`` and event shape ``(n, K)``.
            f: Maps ``[M, *batch, n, K]`` to ``[M, *batch]``, see :data:`Objective`.
            noise: What :meth:`draw_noise` returned for a policy of this shape; drawn if None.
            generator: Source of the noise if none is given; torch's default one if None.

        Returns:
            ``[*batch]``.

        Raises:
            ValueError: ``f`` returned another shape.
        """
        return self._expectation(policy, f, self.draw_noise(policy, generator) if noise is None else noise)

    def forward(
        self,
        policy: FactoredCategorical,
        f: Objective,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """:meth:`expectation`, for ``torch.func.functional_call``."""
        return self.expectation(policy, f, noise, generator)

    @abstractmethod
    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Any) -> Tensor:
        """:meth:`expectation` with the noise at hand."""

    def step(self, cost: Tensor) -> None:
        """Advances what the estimator keeps between updates, once after each; by default it keeps nothing.

        Args:
            cost: The values that :meth:`expectation` returned in this update.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, so that ``make_estimator(e.name, **e.settings)`` builds an equal estimator."""
        return {}

    def __getattr__(self, name: str) -> Any:
        if name == "sample":
            raise AttributeError(f"{self.name} has no differentiable samples: use a pathwise estimator for sample.")
        if name in ("draw", "surrogate"):
            raise AttributeError(
                f"{self.name} has no {name}: it needs the whole matrix of choices at once. "
                "For decisions taken in sequence use reinforce or rloo."
            )
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        """The settings that are not modules."""
        return ", ".join(f"{k}={v!r}" for k, v in self.settings.items() if not isinstance(v, nn.Module))


def evaluate(f: Objective, configurations: Tensor) -> Tensor:
    """Calls ``f`` on ``[M, *batch, n, K]`` and checks that it returns ``[M, *batch]``."""
    values = f(configurations)
    if values.shape != configurations.shape[:-2]:
        raise ValueError(
            f"f must map [M, *batch, n, K] to [M, *batch]: given shape {tuple(configurations.shape)}, it must return "
            f"{tuple(configurations.shape[:-2])}, but returned shape {tuple(values.shape)}."
        )
    return values


def value_and_slope(f: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluates a control variate: ``f`` at fixed ``rows`` and its slope there.

    Args:
        f: Maps ``[*batch, n, K]`` to ``[*batch]``, each batch row by itself.
        rows: ``[*batch, n, K]``. Receives no gradient.

    Returns:
        ``[*batch]`` and ``[*batch, n, K]``, differentiable in what ``f`` captured.
    """
    values, pullback = torch.func.vjp(f, rows.detach())  # type: ignore[misc]
    (slope,) = pullback(torch.ones_like(values))
    return values, slope


def attach_gradient(cost: Tensor, policy: FactoredCategorical, gradient: Tensor) -> Tensor:
    """Returns the value ``cost``, whose ``backward`` also sends ``gradient`` to the policy's normalised logits.

    In the unnormalised logits this is ``gradient - probs * gradient.sum(-1)``; illegal choices receive nothing.

    Args:
        cost: ``[*batch]``. Its own gradient is kept.
        policy: Distribution with batch shape ``[*batch]``.
        gradient: ``[*batch, n, K]``, finite.
    """
    logits = policy.finite_logits
    return cost + (gradient.detach() * (logits - logits.detach())).sum((-2, -1)).to(cost.dtype)
