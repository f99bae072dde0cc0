"""Test problems on which gradient estimators are compared: logits, an objective, and what is known about both.

Each objective follows the dtype and device of its argument, broadcasts over all leading dimensions, and is defined on
the whole simplex: estimators that evaluate it at soft rows see the polynomial or power that is written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsrl.distributions import MAX_SUPPORT, FactoredCategorical
from gsrl.estimators import Exact, Objective

__all__ = [
    "OBJECTIVES",
    "Problem",
    "bernoulli_power",
    "cubic",
    "make_objective",
    "polynomial",
    "quadratic",
]


@dataclass(frozen=True, eq=False)
class Problem:
    """A policy and an objective.

    Example:
        >>> problem = cubic()
        >>> policy = gsrl.FactoredCategorical(problem.logits)
        >>> problem.f(policy.sample((5,))).shape
        torch.Size([5])
    """

    name: str
    """What it is called, a key of :data:`OBJECTIVES` for those built here."""
    logits: Tensor
    """``[*batch, n, K]``."""
    f: Objective
    """Maps ``[M, *batch, n, K]``, one-hot or soft rows, to ``[M, *batch]``."""
    mask: Tensor | None = None
    """Broadcastable to ``logits``, True where a choice is legal; None: all are."""
    expected: Callable[[Tensor], Tensor] | None = None
    """E[f] in closed form: maps logits, ``-inf`` where illegal, to ``[*batch]``; None if it is not known."""

    def policy(self) -> FactoredCategorical:
        """Returns the distribution of the logits."""
        return FactoredCategorical(self.logits, self.mask)

    def exact_gradient(self) -> Tensor | None:
        """Returns the gradient of E[f] in the logits, float64 ``[*batch, n, K]``.

        By differentiating the closed form if there is one, else by enumeration; None where there are too many
        configurations for that, more than :data:`gsrl.distributions.MAX_SUPPORT`.
        """
        logits = self.logits.detach().double().requires_grad_()
        policy = FactoredCategorical(logits, self.mask)
        if self.expected is not None:
            value = self.expected(policy.logits)
        elif policy.K**policy.n <= MAX_SUPPORT:
            value = Exact().expectation(policy, self.f)
        else:
            return None
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        return gradient


def bernoulli_power(exponent: float = 2.0, p: float = 0.5, target: float = 0.45) -> Problem:
    r"""One Bernoulli variable and a power of its distance to a target.

    .. math:: f(z) = |z_1 - c|^q, \qquad \mathbb{E} f = (1 - p)\, |c|^q + p\, |1 - c|^q

    ``n = 1``, ``K = 2``; :math:`z_1` is the second column, and the logits are :math:`(0, \mathrm{logit}\, p)`.
    With c = .45 the two values are close: what is not the difference of them must cancel.

    Source: the toy problem of Tucker et al. 2017 (1703.07370), there with q = 2.

    Args:
        exponent: q, at least 1, so that slopes are finite.
        p: Probability of the second choice, between 0 and 1.
        target: c.

    Raises:
        ValueError: ``exponent`` or ``p`` is out of range.

    Example:
        >>> bernoulli_power(p=0.5).logits.shape
        torch.Size([1, 2])
    """
    _check_exponent(exponent)
    if not 0 < p < 1:
        raise ValueError(f"p must lie between 0 and 1, both excluded, but got {p}.")

    def f(z: Tensor) -> Tensor:
        return (z[..., 0, 1] - target).abs() ** exponent

    def expected(logits: Tensor) -> Tensor:
        probability = logits.softmax(-1)[..., 0, 1]
        return (1 - probability) * abs(target) ** exponent + probability * abs(1 - target) ** exponent

    logits = torch.tensor([[0.0, p]], dtype=torch.float64)
    logits[0, 1].logit_()
    return Problem("bernoulli", logits.float(), f, expected=expected)


def quadratic(K: int = 4) -> Problem:
    r"""One categorical variable and a quadratic form.

    .. math:: f(z) = z^\top W z, \qquad \mathbb{E} f = \sum_k p_k W_{kk}

    ``n = 1``. The off-diagonal entries of the symmetric W are nothing to the expectation, and all to an estimator that
    looks at slopes. ReinMax is unbiased here, other straight-through estimators are not.

    Args:
        K: Choices, at least 2. 4: a fixed example; otherwise W and logits are drawn from N(0, 1), the same each time.

    Raises:
        ValueError: ``K`` is below 2.

    Example:
        >>> quadratic(K=4).logits.shape
        torch.Size([1, 4])
    """
    _check_at_least("K", K, 2)
    if K == 4:
        weights = _matrix([[1, 0.5, -1, 0], [0.5, -1, 1, 0.5], [-1, 1, 2, -0.5], [0, 0.5, -0.5, 3]])
        logits = _matrix([[1.2, 0.3, -0.5, -1.5]])
    else:
        generator = torch.Generator().manual_seed(0)
        logits = _normal((1, K), generator)
        square = _normal((K, K), generator)
        weights = (square + square.T) / 2**0.5

    def f(z: Tensor) -> Tensor:
        row = z[..., 0, :]
        return ((row @ weights.to(z)) * row).sum(-1)

    def expected(logits: Tensor) -> Tensor:
        return (logits.softmax(-1)[..., 0, :] * weights.diagonal().to(logits)).sum(-1)

    return Problem("quadratic", logits.float(), f, expected=expected)


def cubic(n: int = 3, K: int = 3) -> Problem:
    r"""The cube of a linear form: a polynomial of third order that couples all factors.

    .. math:: f(Z) = (c + \langle A, Z \rangle)^3, \qquad \mathbb{E} f = m^3 + 3 m v + \kappa_3

    with c = 1/2, m = c + E⟨A, Z⟩, and v and :math:`\kappa_3` the variance and the third central moment of ⟨A, Z⟩:
    sums over the factors, which are independent. So the gradient is known whatever ``K**n`` is. Straight-through is
    exact for what is linear in each factor and ReinMax for what is quadratic; both are biased here.

    Args:
        n: Factors, at least 1.
        K: Choices of each, at least 2. ``(3, 3)``: a fixed example; otherwise the logits are drawn from N(0, 1) and A
            from N(0, 1/n), the same each time, so that the spread of ⟨A, Z⟩ does not grow with n.

    Raises:
        ValueError: ``n`` is below 1 or ``K`` below 2.

    Example:
        >>> cubic().logits.shape
        torch.Size([3, 3])
    """
    _check_at_least("n", n, 1)
    _check_at_least("K", K, 2)
    if (n, K) == (3, 3):
        weights = _matrix([[0.8, -0.4, 0.1], [-0.6, 0.5, 0.9], [0.3, -0.7, 0.4]])
        logits = _matrix([[0.5, -0.3, 0], [-1, 0.4, 0.8], [0.2, 1, -0.6]])
    else:
        generator = torch.Generator().manual_seed(0)
        logits = _normal((n, K), generator)
        weights = _normal((n, K), generator) / n**0.5

    def f(z: Tensor) -> Tensor:
        return (0.5 + (z * weights.to(z)).sum((-2, -1))) ** 3

    def expected(logits: Tensor) -> Tensor:
        probs, values = logits.softmax(-1), weights.to(logits)
        means = (probs * values).sum(-1, keepdim=True)
        m = 0.5 + means.sum((-2, -1))
        v = (probs * (values - means) ** 2).sum((-2, -1))
        kappa_3 = (probs * (values - means) ** 3).sum((-2, -1))
        return m**3 + 3 * m * v + kappa_3

    return Problem("cubic", logits.float(), f, expected=expected)


def polynomial(
    exponent: float = 2.0, latents: int = 128, target: float = 0.45, seed: int = 0, batch: int | None = None
) -> Problem:
    r"""Polynomial programming: many Bernoulli variables, each to be brought near a target.

    .. math:: f(Z) = \frac{1}{n} \sum_i |z_i - c|^q, \qquad
              \mathbb{E} f = \frac{1}{n} \sum_i p_i\, |1 - c|^q + (1 - p_i)\, |c|^q

    ``K = 2``; :math:`z_i` is the *first* column of row i. The logits are drawn from U(-.01, .01). For c < 1/2 the
    optimum has all z at 0.

    Source: the polynomial programming of Liu et al. 2023 (2304.08612).

    Args:
        exponent: q, at least 1, so that slopes are finite.
        latents: n, at least 1.
        target: c.
        seed: Seed of the logits.
        batch: Rows of the batch, each with logits of its own; None: no batch dimension.

    Raises:
        ValueError: ``exponent``, ``latents`` or ``batch`` is out of range.

    Example:
        >>> polynomial(latents=8).logits.shape
        torch.Size([8, 2])
    """
    _check_exponent(exponent)
    _check_at_least("latents", latents, 1)
    if batch is not None:
        _check_at_least("batch", batch, 1)
    shape = (latents, 2) if batch is None else (batch, latents, 2)
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        return ((z[..., 0] - target).abs() ** exponent).mean(-1)

    def expected(logits: Tensor) -> Tensor:
        probability = logits.softmax(-1)[..., 0]
        return (probability * abs(1 - target) ** exponent + (1 - probability) * abs(target) ** exponent).mean(-1)

    return Problem("polynomial", (0.02 * uniform - 0.01).float(), f, expected=expected)


OBJECTIVES: dict[str, Callable[..., Problem]] = {
    "bernoulli": bernoulli_power,
    "quadratic": quadratic,
    "cubic": cubic,
    "polynomial": polynomial,
}
"""Every built-in test problem by its name."""


def make_objective(name: str, **settings: Any) -> Problem:
    """Builds a test problem by name.

    Args:
        name: A key of :data:`OBJECTIVES`.
        **settings: Arguments of its function.

    Raises:
        ValueError: ``name`` is unknown; the message lists the names. Or a setting is out of range.
        TypeError: The problem has no such setting.

    Example:
        >>> make_objective("cubic").name
        'cubic'
    """
    if name not in OBJECTIVES:
        raise ValueError(f"name must be one of {sorted(OBJECTIVES)}, but got {name!r}.")
    return OBJECTIVES[name](**settings)


def _matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _check_exponent(exponent: float) -> None:
    if not 1 <= exponent < float("inf"):
        raise ValueError(f"exponent must be finite and at least 1, but got {exponent}.")


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but got {value}.")
