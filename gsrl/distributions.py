"""The one distribution of the library: independent categorical factors as a matrix of one-hot rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl

from gsrl._shapes import Bool, Float, Int
from gsrl._validation import first, is_concrete
from gsrl.relaxations import gumbel_max, masked_logits, perturbed_logits

__all__ = ["MAX_SUPPORT", "FactoredCategorical", "kl_divergence"]

MAX_SUPPORT = 2**16
"""The most configurations that :meth:`FactoredCategorical.enumerate_support` returns."""


class FactoredCategorical(Distribution):
    r"""``n`` independent categorical factors of ``K`` choices each; a value is a matrix of one-hot rows ``[n, K]``.

    .. math:: P(D) = \prod_{i=1}^{n} \prod_{k=1}^{K} \mathrm{softmax}(\theta_i)_k^{D_{ik}}

    ``log_prob`` and ``entropy`` sum over the factors, ``factor_entropy`` does not. An illegal choice has probability 0,
    log-probability ``-inf``, no part in the entropy, and a gradient of exactly 0; nothing is ever NaN.

    Samples carry no gradient: how a gradient flows through a discrete choice is the business of ``gsrl.estimators``.

    Args:
        logits: Unnormalised log-probabilities, ``[*batch, n, K]``; ``-inf`` marks an illegal choice.
        mask: Boolean, broadcastable to ``logits``, True where a choice is legal. None: all are.
        validate_args: Whether values are checked (shapes always are). torch's global default has no say: compiling any
            function turns it off.

    Attributes:
        logits: Normalised log-probabilities, ``[*batch, n, K]``, ``-inf`` where illegal.

    Raises:
        ValueError: ``logits`` has fewer than two dimensions, is not floating or holds NaN; ``mask`` is not boolean or
            does not broadcast to ``logits``; a factor has no legal choice.

    Example:
        >>> policy = FactoredCategorical(torch.zeros(32, 3, 5))  # 3 factors of 5 choices
        >>> one_hot = policy.sample()
        >>> one_hot.shape, policy.log_prob(one_hot).shape, policy.entropy().shape
        (torch.Size([32, 3, 5]), torch.Size([32]), torch.Size([32]))
        >>> legal = torch.tensor([True, True, False, False, False])
        >>> FactoredCategorical(torch.zeros(1, 5), legal).probs
        tensor([[0.5000, 0.5000, 0.0000, 0.0000, 0.0000]])
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 2)}  # noqa: RUF012 (torch's own form)
    support = constraints.independent(constraints.one_hot, 1)
    has_enumerate_support = True

    def __init__(
        self, logits: Float[Tensor, "*batch n K"], mask: Bool[Tensor, "..."] | None = None, validate_args: bool = True
    ) -> None:
        if logits.dim() < 2:
            raise ValueError(f"logits must have shape [*batch, n, K], but got shape {tuple(logits.shape)}.")
        self.logits = masked_logits(logits, mask, validate_args=validate_args).log_softmax(-1).to(logits.dtype)
        # The base class would check the normalised logits again.
        super().__init__(logits.shape[:-2], logits.shape[-2:], validate_args=False)
        self._validate_args = validate_args

    @property
    def n(self) -> int:
        """Number of factors."""
        return self.event_shape[0]

    @property
    def K(self) -> int:
        """Number of choices of each factor."""
        return self.event_shape[1]

    @property
    def probs(self) -> Float[Tensor, "*batch n K"]:
        """Probabilities, ``[*batch, n, K]``."""
        return self.logits.exp()

    @property
    def mask(self) -> Bool[Tensor, "*batch n K"]:
        """True where a choice is legal, ``[*batch, n, K]``."""
        return ~self.logits.isneginf()

    @property
    def mean(self) -> Float[Tensor, "*batch n K"]:
        """The mean of the one-hot matrix: ``probs``."""
        return self.probs

    @property
    def variance(self) -> Float[Tensor, "*batch n K"]:
        """The variance of every entry of the one-hot matrix, ``[*batch, n, K]``."""
        return self.probs * (1 - self.probs)

    @property
    def mode(self) -> Float[Tensor, "*batch n K"]:
        """The most probable matrix (the first one among equals), one-hot ``[*batch, n, K]``."""
        index = self.logits.detach().argmax(-1, keepdim=True)
        return torch.zeros_like(self.logits).scatter(-1, index, 1.0)

    def sample(
        self,
        sample_shape: torch.Size | list[int] | tuple[int, ...] = (),
        *,
        noise: Float[Tensor, "*batch n K"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch n K"]:
        """Draws one-hot matrices by the Gumbel-max trick.

        Args:
            sample_shape: Leading shape of the draws.
            noise: Gumbel noise ``[*sample_shape, *batch, n, K]``, see :func:`gsrl.relaxations.gumbel_noise`.
            generator: Source of the noise if none is given; torch's default one if None.

        Returns:
            One-hot ``[*sample_shape, *batch, n, K]``, without gradient.
        """
        logits = self.logits.detach()
        if sample_shape:
            logits = logits.expand((*sample_shape, *logits.shape))
        return gumbel_max(logits, noise=noise, generator=generator, validate_args=False)

    def sample_indices(
        self, *, noise: Float[Tensor, "*batch n K"] | None = None, generator: torch.Generator | None = None
    ) -> Int[Tensor, "*batch n"]:
        """Draws the index of every factor's choice, int64 ``[*batch, n]``: :meth:`sample` with the same generator.

        Args:
            noise: Gumbel noise ``[*batch, n, K]``; drawn if None.
            generator: Source of the noise; torch's default one if None.
        """
        return self.perturbed(noise=noise, generator=generator).argmax(-1)

    def perturbed(
        self, *, noise: Float[Tensor, "*batch n K"] | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch n K"]:
        """Draws logits plus Gumbel noise, ``[*batch, n, K]``: of their arg max, :meth:`sample_indices`.

        Args:
            noise: Gumbel noise ``[*batch, n, K]``; drawn if None.
            generator: Source of the noise; torch's default one if None.
        """
        return perturbed_logits(self.logits.detach(), noise=noise, generator=generator)

    def log_prob(self, value: Float[Tensor, "*#batch n K"]) -> Float[Tensor, "*#batch"]:
        """Log-probability of one-hot matrices.

        Args:
            value: One-hot, broadcastable with ``[*batch, n, K]``. Receives no gradient.

        Returns:
            ``[*batch]``, in nats; ``-inf`` for an illegal choice.

        Raises:
            ValueError: With validation on, ``value`` is not one-hot or has another event shape.
        """
        if value.shape[-2:] != self.event_shape:
            raise ValueError(
                f"value must have shape [..., n, K] with (n, K) = {tuple(self.event_shape)}, "
                f"but got shape {tuple(value.shape)}."
            )
        if self._validate_args and is_concrete(value) and not bool(constraints.one_hot.check(value).all()):
            wrong = ~constraints.one_hot.check(value)
            raise ValueError(f"value must be one-hot in its last dimension, but got {first(value, wrong)}.")
        # Not a product: -inf times 0 is NaN.
        return self.logits.masked_fill(value == 0, 0.0).sum((-2, -1))

    @property
    def finite_logits(self) -> Float[Tensor, "*batch n K"]:
        """``logits``, at least -1000, ``[*batch, n, K]``: for products with probabilities.

        The bound is where probabilities are 0 in every dtype. A product is 0 there, not NaN, and so is its gradient.
        """
        return self.logits.clamp_min(-1e3)

    def scale_gradient(self, factor: Float[Tensor, "*batch n"]) -> FactoredCategorical:
        """The same distribution, to the bit; what it sends back to the logits of each factor is multiplied.

        Args:
            factor: ``[*batch, n]``. Receives no gradient.
        """
        fixed = self.logits.detach()
        moved = torch.where(fixed.isneginf(), 0.0, self.logits - fixed)  # 0, and -inf less -inf is not
        new = self.expand(self.batch_shape)
        new.logits = fixed + factor.detach().unsqueeze(-1) * moved
        return new

    def factor_entropy(self) -> Float[Tensor, "*batch n"]:
        """Entropy of every factor, ``[*batch, n]``, in nats."""
        return -(self.probs * self.finite_logits).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy of the joint choice, ``[*batch]``, in nats: the sum over factors."""
        return -(self.probs * self.finite_logits).sum((-2, -1))

    def max_entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy of the uniform distribution over the legal choices, ``[*batch]``, in nats."""
        return self.mask.sum(-1).to(self.logits.dtype).log().sum(-1)

    def enumerate_support(self, expand: bool = True) -> Float[Tensor, "count *batch n K"]:
        """Lists every configuration of the factors, the last factor varying fastest, illegal ones included.

        Args:
            expand: Whether the batch dimensions are expanded or of size 1.

        Returns:
            One-hot ``[K**n, *batch, n, K]``, or ``[K**n, 1, ..., 1, n, K]``.

        Raises:
            ValueError: There are more than :data:`MAX_SUPPORT` configurations.
        """
        n, K = self.event_shape
        if n * math.log(K) > math.log(MAX_SUPPORT) + 1e-9:
            raise ValueError(
                f"enumerate_support lists K**n configurations, at most {MAX_SUPPORT}, but got n = {n}, K = {K}. "
                "Use an estimator that samples."
            )
        support = torch.eye(K, dtype=self.logits.dtype, device=self.logits.device)
        if n == 0:  # one configuration, which is empty
            support = support[:0]
        elif n > 1:
            factors = torch.arange(n - 1, -1, -1, device=support.device)
            support = support[torch.arange(K**n, device=support.device).unsqueeze(-1) // K**factors % K]
        support = support.reshape(K**n, *(1 for _ in self.batch_shape), n, K)
        return support.expand(K**n, *self.batch_shape, n, K) if expand else support

    def support_log_probs(self) -> Float[Tensor, "count *batch"]:
        """Log-probabilities of :meth:`enumerate_support`, ``[K**n, *batch]``, in nats: outer sums over the factors.

        They are those of :meth:`log_prob`, but for rounding, without a matrix for each configuration and batch row.
        """
        if self.n == 0:
            return self.logits.sum((-2, -1)).unsqueeze(0)
        first, *others = self.logits.movedim((-2, -1), (0, 1)).unbind(0)
        for other in others:
            first = (first.unsqueeze(1) + other).flatten(0, 1)
        return first

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None
    ) -> FactoredCategorical:
        """Returns the distribution with batch dimensions expanded to ``batch_shape``, without copying."""
        new = self._get_checked_instance(FactoredCategorical, _instance)
        batch_shape = torch.Size(batch_shape)
        new.logits = self.logits.expand(batch_shape + self.event_shape)
        super(FactoredCategorical, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


@register_kl(FactoredCategorical, FactoredCategorical)
def _kl(p: FactoredCategorical, q: FactoredCategorical) -> Tensor:
    """KL(p, q), ``[*batch]``, in nats; infinite where ``p`` allows a choice that ``q`` forbids."""
    forbidden = ~q.mask
    terms = p.probs * (p.finite_logits - q.logits.masked_fill(forbidden, 0.0))
    return terms.masked_fill(~p.mask, 0.0).masked_fill(forbidden & p.mask, torch.inf).sum((-2, -1))
