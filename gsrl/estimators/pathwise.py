"""Estimators whose samples are differentiable: Gumbel-softmax and straight-through."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from gsrl._shapes import Float
from gsrl.distributions import FactoredCategorical
from gsrl.estimators.base import Estimator, Noise, Objective, evaluate
from gsrl.relaxations import check_temperature, gumbel_softmax, straight_through
from gsrl.temperature import Temperature, as_temperature

__all__ = ["GumbelSoftmax", "Pathwise", "STGumbel", "StraightThrough"]


class Pathwise(Estimator):
    """An estimator with differentiable samples, which may be used inside a larger graph.

    Args:
        temperature: Positive; a float, a :class:`gsrl.temperature.Temperature`, or a tensor that broadcasts to
            ``[*batch, n, 1]`` (what a per-state temperature returned for this batch).

    Raises:
        ValueError: A temperature is not positive.

    Example:
        >>> estimator = StraightThrough()
        >>> isinstance(estimator, Pathwise)
        True
        >>> estimator.sample(gsrl.FactoredCategorical(torch.zeros(2, 3))).sum(-1)
        tensor([1., 1.])
    """

    biased = True
    temperature: Tensor | Temperature

    def __init__(self, temperature: float | Tensor | Temperature = 1.0) -> None:
        super().__init__()
        if isinstance(temperature, Tensor):
            check_temperature(temperature, validate_args=True)
            self.register_buffer("temperature", temperature, persistent=False)
        else:
            self.temperature = as_temperature(temperature)

    def calls(self, n: int, K: int) -> int:
        """1: the sample."""
        return 1

    def sample(
        self, policy: FactoredCategorical, noise: Noise | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch n K"]:
        """Draws differentiable samples.

        Args:
            policy: Distribution with batch shape ``[*batch]`` and event shape ``(n, K)``.
            noise: What ``draw_noise`` returned for a policy of this shape; drawn if None.
            generator: Source of the noise if none is given; torch's default one if None.

        Returns:
            ``[*batch, n, K]``: one-hot, except for plain Gumbel-softmax.

        Raises:
            ValueError: ``noise`` has another shape.
        """
        return self._sample(policy, self._noise(policy, noise, generator))

    @abstractmethod
    def _sample(self, policy: FactoredCategorical, noise: Any) -> Tensor:
        """:meth:`sample` with the noise at hand."""

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Noise) -> Tensor:
        return evaluate(f, self._sample(policy, noise).unsqueeze(0)).squeeze(0)

    def step(self, cost: Float[Tensor, "..."]) -> None:
        """Advances the temperature's schedule."""
        if isinstance(self.temperature, Temperature):
            self.temperature.step()

    @property
    def settings(self) -> dict[str, Any]:
        """The temperature."""
        return {"temperature": self.temperature}

    def __getattr__(self, name: str) -> Any:
        if name in ("draw", "surrogate"):
            raise AttributeError(
                f"{self.name} has no {name}: its samples are differentiable. "
                "For decisions taken in sequence use sample at every decision."
            )
        return super().__getattr__(name)

    def _temperature(self) -> Tensor:
        return self.temperature() if isinstance(self.temperature, Temperature) else self.temperature


class GumbelSoftmax(Pathwise):
    r"""Gumbel-softmax (Concrete): ``f`` is evaluated at the relaxed sample.

    .. math:: y = \mathrm{softmax}((\theta + G) / \tau), \qquad \hat g = \tau^{-1}\, y \odot (f'(y) - y \cdot f'(y))

    Biased for every temperature above 0: it is the gradient of E[f(y)], of another objective. One call of ``f``, which
    must take rows on the simplex. Use it when ``f`` is smooth between the vertices and has been trained there.

    Source: Jang et al. 2017 (1611.01144), Eq. 2; Maddison et al. 2017 (1611.00712), Eq. 10.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> GumbelSoftmax(temperature=0.5).expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "gumbel-softmax"
    source = "1611.01144 Eq. 2; 1611.00712"

    def _sample(self, policy: FactoredCategorical, noise: Tensor) -> Tensor:
        return gumbel_softmax(policy.logits, self._temperature(), noise=noise, validate_args=False)


class STGumbel(Pathwise):
    r"""Straight-through Gumbel-softmax: ``f`` is evaluated at the one-hot arg max of the relaxed sample.

    .. math:: y = \mathrm{softmax}((\theta + G) / \tau), \quad D = \mathrm{onehot}(\arg\max y), \qquad
              \hat g = \tau^{-1}\, y \odot (f'(D) - y \cdot f'(D))

    The value is exact in distribution at every temperature; the gradient is biased. One call of ``f``, at a vertex. The
    variance grows without bound as the temperature falls, while the mean tends to that of ``reinmax`` at temperature 1:
    the bias does not vanish in general. Use it when ``f`` must see real choices.

    Source: Jang et al. 2017 (1611.01144), Section 2.2.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> STGumbel(temperature=0.5).expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "st-gumbel"
    source = "1611.01144 Section 2.2"

    def _sample(self, policy: FactoredCategorical, noise: Tensor) -> Tensor:
        return gumbel_softmax(policy.logits, self._temperature(), hard=True, noise=noise, validate_args=False)


class StraightThrough(Pathwise):
    r"""Straight-through without noise in the backward pass.

    .. math:: D \sim \mathrm{Cat}(\mathrm{softmax}(\theta)), \quad q = \mathrm{softmax}(\theta / \tau), \qquad
              \hat g = \tau^{-1}\, q \odot (f'(D) - q \cdot f'(D))

    Exact in expectation at temperature 1 for ``f`` linear in each factor given the others, biased otherwise. With one
    factor and a linear ``f`` it has no variance either: it *is* the exact gradient. One call of ``f``, at a vertex.

    Source: Bengio et al. 2013 (1308.3432); with a temperature: Paulus et al. 2021 (2010.04838), Eq. 5.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> StraightThrough().expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad  # exact: the objective is linear in each factor
        tensor([[ 0.2222, -0.1111, -0.1111],
                [ 0.2222, -0.1111, -0.1111]])
    """

    name = "straight-through"
    source = "1308.3432"

    def _sample(self, policy: FactoredCategorical, noise: Tensor) -> Tensor:
        return straight_through(policy.logits, self._temperature(), noise=noise, validate_args=False)
