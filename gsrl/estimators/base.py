"""The protocol that every gradient estimator keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from gsrl._shapes import Float
from gsrl.distributions import FactoredCategorical
from gsrl.relaxations import gumbel_noise

__all__ = [
    "Estimator",
    "Noise",
    "Objective",
    "attach_gradient",
    "draw_noise_in_lockstep",
    "evaluate",
    "gradient_only",
    "replace_rows",
    "value_and_slope",
]

Objective: TypeAlias = Callable[[Tensor], Tensor]
"""A function of one-hot matrices, ``[M, *batch, n, K] -> [M, *batch]``, floating.

It broadcasts over the leading ``M`` what it captured, treats batch rows independently, and is finite where a choice has
zero probability.
"""

Noise: TypeAlias = Tensor | tuple[Tensor, ...]
"""What an estimator draws: float32 tensors."""


class Estimator(nn.Module, ABC):
    r"""An estimator of :math:`\nabla_\theta \mathbb{E}_{D \sim P_\theta}[f(D)]`, for a :class:`FactoredCategorical` P.

    :meth:`expectation` returns an estimate of E[f], made of ``f`` at its samples; calling ``backward`` on it gives the
    estimate of the gradient. Parameters inside ``f`` receive the gradient of the value that is returned; where ``f``
    serves as a control variate, it sends them nothing. An estimator is a module, so that what it learns or counts (a
    temperature, a running baseline) is in its ``state_dict``, and ``torch.func.functional_call`` works.

    Attributes:
        name: The name that :func:`gsrl.make_estimator` knows.
        biased: Whether the estimate is biased for a general ``f``.
        source: Where it was published.
        shaped: Whether the constructor needs ``n`` and ``K`` of the policies it will see.

    Example:
        >>> logits = torch.zeros(1, 2, requires_grad=True)
        >>> estimator = gsrl.make_estimator("exact")
        >>> cost = estimator.expectation(gsrl.FactoredCategorical(logits), lambda choices: choices[..., 0, 0])
        >>> cost.backward()
        >>> cost.item(), logits.grad
        (0.5, tensor([[ 0.2500, -0.2500]]))
    """

    name: ClassVar[str]
    biased: ClassVar[bool]
    source: ClassVar[str]
    shaped: ClassVar[bool] = False

    @abstractmethod
    def calls(self, n: int, K: int) -> int:
        """Returns how many configurations ``f`` is evaluated at for one estimate; several may go in one batched call.

        Args:
            n: Factors of the policy.
            K: Choices of each factor.
        """

    def noise_shape(self, policy: FactoredCategorical) -> tuple[int, ...] | None:
        """The shape that the noise of one estimate must have: the policy's, unless a class says otherwise.

        None: it is not checked. So it is for a class that overrides :meth:`draw_noise` alone.
        """
        return tuple(policy.logits.shape) if type(self).draw_noise is Estimator.draw_noise else None

    def draw_noise(self, policy: FactoredCategorical, generator: torch.Generator | None = None) -> Noise:
        """Draws the noise of one estimate: Gumbel noise, unless a class says otherwise.

        Args:
            policy: Its shape and device count, not its values.
            generator: Source of randomness; torch's default one if None.

        Returns:
            float32, of :meth:`noise_shape` if that says one.
        """
        shape = self.noise_shape(policy) or policy.logits.shape
        return gumbel_noise(shape, generator=generator, device=policy.logits.device)

    def expectation(
        self,
        policy: FactoredCategorical,
        f: Objective,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch"]:
        """Estimates E[f]; its ``backward`` estimates the gradient. A pure function of its arguments if noise is given.

        Args:
            policy: Distribution with batch shape ``[*batch]`` and event shape ``(n, K)``.
            f: Maps ``[M, *batch, n, K]`` to ``[M, *batch]``, see :data:`Objective`.
            noise: What :meth:`draw_noise` returned for a policy of this shape; drawn if None.
            generator: Source of the noise if none is given; torch's default one if None.

        Returns:
            ``[*batch]``.

        Raises:
            ValueError: ``f`` returned another shape, or a tensor that is not floating; ``noise`` has another shape.
        """
        return self._expectation(policy, f, self._noise(policy, noise, generator))

    def forward(
        self,
        policy: FactoredCategorical,
        f: Objective,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch"]:
        """:meth:`expectation`, for ``torch.func.functional_call``."""
        return self.expectation(policy, f, noise, generator)

    def _noise(self, policy: FactoredCategorical, noise: Noise | None, generator: torch.Generator | None) -> Noise:
        """Draws noise, or checks what was given."""
        if noise is None:
            return self.draw_noise(policy, generator)
        expected = self.noise_shape(policy)
        if expected is not None:
            given = tuple(noise.shape) if isinstance(noise, Tensor) else f"{type(noise).__name__} {noise}"
            if given != expected:
                raise ValueError(
                    f"noise must have the shape that draw_noise of {self.name} gives it for this policy, {expected}, "
                    f"but got {given}."
                )
        return noise

    @abstractmethod
    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Any) -> Tensor:
        """:meth:`expectation` with the noise at hand."""

    def step(self, cost: Float[Tensor, "..."]) -> None:
        """Advances what the estimator keeps between updates, once after each; by default it keeps nothing.

        Args:
            cost: The values that :meth:`expectation` returned in this update.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, so that ``make_estimator(e.name, **e.settings)`` builds an equal estimator.

        A module among them, a temperature, is the estimator's own: the one that is built shares it.
        """
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


def draw_noise_in_lockstep(
    estimator: Estimator, policy: FactoredCategorical, generators: Sequence[torch.Generator]
) -> Noise:
    """Draws what :meth:`Estimator.draw_noise` draws of each generator, with a leading dimension of them.

    Args:
        estimator: One of several of the same settings.
        policy: See :meth:`Estimator.draw_noise`.
        generators: One for each.

    Example:
        >>> estimator, policy = gsrl.make_estimator("st-gumbel"), gsrl.FactoredCategorical(torch.zeros(8, 2, 3))
        >>> generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        >>> draw_noise_in_lockstep(estimator, policy, generators).shape
        torch.Size([2, 8, 2, 3])
    """
    if type(estimator).draw_noise is Estimator.draw_noise:  # all at once
        shape = estimator.noise_shape(policy) or policy.logits.shape
        return gumbel_noise((len(generators), *shape), generator=generators, device=policy.logits.device)
    drawn = [estimator.draw_noise(policy, generator) for generator in generators]
    if isinstance(drawn[0], Tensor):
        return torch.stack([noise for noise in drawn if isinstance(noise, Tensor)])
    return tuple(torch.stack(tensors) for tensors in zip(*drawn, strict=True))


def evaluate(f: Objective, configurations: Float[Tensor, "M *batch n K"]) -> Float[Tensor, "M *batch"]:
    """Calls ``f``, and checks what it returns.

    Args:
        f: See :data:`Objective`.
        configurations: ``[M, *batch, n, K]``, floating.

    Returns:
        ``[M, *batch]``.

    Raises:
        ValueError: ``configurations``, or what ``f`` returned, is not floating; ``f`` returned another shape.

    Example:
        >>> evaluate(lambda choices: choices[..., 0, 0], torch.eye(2).reshape(2, 1, 2))
        tensor([1., 0.])
    """
    if not configurations.is_floating_point():
        raise ValueError(
            f"configurations must have the dtype of the policy's logits, for f takes floating rows, but got "
            f"{configurations.dtype}: what F.one_hot returns is cast by .to(policy.logits.dtype)."
        )
    values = f(configurations)
    if not values.is_floating_point():
        raise ValueError(f"f must return a floating-point tensor, but returned dtype {values.dtype}.")
    if values.shape != configurations.shape[:-2]:
        raise ValueError(
            f"f must map [M, *batch, n, K] to [M, *batch]: given shape {tuple(configurations.shape)}, it must return "
            f"{tuple(configurations.shape[:-2])}, but returned shape {tuple(values.shape)}."
        )
    return values


def value_and_slope(
    f: Callable[[Tensor], Tensor], rows: Float[Tensor, "*batch n K"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch n K"]]:
    """Evaluates a control variate: ``f`` at fixed ``rows`` and its slope there.

    Args:
        f: Maps ``[*batch, n, K]`` to ``[*batch]``, each batch row by itself.
        rows: ``[*batch, n, K]``. Receives no gradient.

    Returns:
        ``[*batch]`` and ``[*batch, n, K]``, differentiable in what ``f`` captured.

    Example:
        >>> value, slope = value_and_slope(lambda rows: (rows**2).sum((-2, -1)), torch.tensor([[0.0, 1.0]]))
        >>> value.item(), slope
        (1.0, tensor([[0., 2.]]))
    """
    values, pullback = torch.func.vjp(f, rows.detach())[:2]
    (slope,) = pullback(torch.ones_like(values))
    return values, slope


def replace_rows(one_hot: Float[Tensor, "*batch n K"]) -> Float[Tensor, "replaced *batch n K"]:
    """Replaces one row at a time by each choice.

    Args:
        one_hot: ``[*batch, n, K]``.

    Returns:
        ``[n * K, *batch, n, K]``, choices innermost.

    Example:
        >>> replace_rows(torch.eye(2)).shape  # each of two rows, replaced by each of two choices
        torch.Size([4, 2, 2])
    """
    n, K = one_hot.shape[-2:]
    ones = [1] * (one_hot.dim() - 2)
    row = torch.eye(n, dtype=torch.bool, device=one_hot.device).reshape(n, 1, *ones, n, 1)
    choice = torch.eye(K, dtype=one_hot.dtype, device=one_hot.device).reshape(1, K, *ones, 1, K)
    return torch.where(row, choice, one_hot).flatten(0, 1)


def gradient_only(weights: Float[Tensor, "*#shape"], variables: Float[Tensor, "*#shape"]) -> Float[Tensor, "*#shape"]:
    """Returns zeros whose ``backward`` sends ``weights``, held fixed, to ``variables``.

    Args:
        weights: Of any shape.
        variables: Of a shape that broadcasts with it, finite.

    Example:
        >>> variables = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> surrogate = gradient_only(torch.tensor([3.0, 4.0]), variables)
        >>> surrogate.sum().backward()
        >>> surrogate.tolist(), variables.grad
        ([0.0, 0.0], tensor([3., 4.]))
    """
    return weights.detach() * (variables - variables.detach())


def attach_gradient(
    cost: Float[Tensor, "*batch"], policy: FactoredCategorical, gradient: Float[Tensor, "*batch n K"]
) -> Float[Tensor, "*batch"]:
    """Returns the value ``cost``, whose ``backward`` also sends ``gradient`` to the policy's normalised logits.

    In the unnormalised logits this is ``gradient - probs * gradient.sum(-1)``; illegal choices receive nothing.

    Args:
        cost: ``[*batch]``. Its own gradient is kept.
        policy: Distribution with batch shape ``[*batch]``.
        gradient: ``[*batch, n, K]``, finite. No gradient reaches it.

    Returns:
        ``[*batch]``, of the dtype of ``cost``.

    Example:
        >>> logits = torch.zeros(1, 2, requires_grad=True)
        >>> cost = attach_gradient(torch.tensor(3.0), gsrl.FactoredCategorical(logits), torch.tensor([[1.0, -1.0]]))
        >>> cost.backward()
        >>> cost.item(), logits.grad
        (3.0, tensor([[ 1., -1.]]))
    """
    return cost + gradient_only(gradient, policy.finite_logits).sum((-2, -1)).to(cost.dtype)
