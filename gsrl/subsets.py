r"""Subsets of ``k`` of ``N`` choices, drawn without replacement: samples, probabilities, a relaxation.

The draws follow the Plackett-Luce model. From the set A of what was drawn, the next item is t with probability
``p_t / (1 - p(A))``. An ordered draw has a probability in closed form. That of a *set* is a sum over its ``k!`` orders,
which :func:`log_continuations` takes over ``2**k`` subsets instead.

Masks, noise, dtypes and checks are those of :mod:`gsrl.relaxations`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from gsrl._shapes import Bool, Float, Float64, Int
from gsrl._validation import first, is_concrete
from gsrl.distributions import MAX_SUPPORT
from gsrl.relaxations import NEVER, check_temperature, divide, masked_logits, perturbation, replace_value

__all__ = ["MAX_SUBSET", "SubsetOfK", "gumbel_top_k", "log_continuations", "relaxed_subset"]

MAX_SUBSET = 16
"""The most items of a set whose probability :func:`log_continuations` computes."""


def log_continuations(
    log_probs: Float[Tensor, "*batch m"], log_rest: Float[Tensor, "*batch"] | None = None
) -> Float64[Tensor, "*batch subsets"]:
    r"""Log-probabilities that draws without replacement complete a set S, from every subset A of it.

    .. math:: B(A) = \sum_{t \in S \setminus A} \frac{p_t}{1 - p(A)} B(A \cup \{t\}), \qquad B(S) = 1

    B(∅) is the probability that ``m`` draws give S, :math:`B(\{s\})` that ``m - 1`` draws from the domain without s,
    renormalised, give S without s, and so on. Takes the time and memory of ``m * 2**(m - 1)`` terms. :math:`1 - p(A)`
    is summed over what is left, never subtracted, apart from the one subtraction when ``log_rest`` is not given.

    Source: the set probabilities and leave-one-out ratios of Kool et al. 2020 (2002.06043), by dynamic programming.

    Args:
        log_probs: Log-probabilities of the items of S, finite, ``[*batch, m]``.
        log_rest: Log-probability ``[*batch]`` of all items outside S together, ``-inf`` if there are none. All may
            then share a scale: nothing need be normalised. None: :math:`1 - p(S)`, at least 0, which is exact to the
            rounding of ``log_probs`` and no better; give it where p(S) is close to 1.

    Returns:
        float64 ``[*batch, 2**m]``, differentiable. Subset A is at the index that has bit s set for every item s of A.

    Raises:
        ValueError: ``log_probs`` has no dimension, or ``m`` exceeds :data:`MAX_SUBSET`.

    Example:
        >>> log_continuations(torch.tensor([0.5, 0.5]).log()).exp()  # of {}, {0}, {1}, {0, 1}
        tensor([1.0000, 1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """
    if log_probs.dim() == 0 or log_probs.shape[-1] > MAX_SUBSET:
        raise ValueError(
            f"log_probs must have shape [*batch, m] with m at most {MAX_SUBSET}, "
            f"but got shape {tuple(log_probs.shape)}."
        )
    m = log_probs.shape[-1]
    log_probs = log_probs.double()
    if log_rest is None:
        log_rest = _log_rest(log_probs)
    # From here on a subset is what is left, C = S \ A, and its index is a bit mask. log_left[C] = log(1 - p(A)).
    log_left = log_rest.double().unsqueeze(-1)
    for item in range(m):
        log_left = torch.cat([log_left, torch.logaddexp(log_left, log_probs[..., item : item + 1])], -1)

    bits = 1 << torch.arange(m, device=log_probs.device)
    member = (torch.arange(2**m, device=log_probs.device).unsqueeze(-1) & bits).ne(0).int()
    by_size = member.sum(-1).argsort(stable=True)
    rank = by_size.argsort()
    blocks = [torch.zeros_like(log_left[..., :1])]  # log B by size, of the empty subset first
    start = 0
    for size in range(1, m + 1):
        previous_start, start = start, start + math.comb(m, size - 1)
        subsets = by_size[start : start + math.comb(m, size)]
        items = member[subsets].argsort(dim=-1, descending=True, stable=True)[:, :size]
        smaller = rank[subsets.unsqueeze(-1) ^ bits[items]] - previous_start
        terms = _take(log_probs, items) + _take(blocks[-1], smaller)
        blocks.append(terms.logsumexp(-1) - _take(log_left, subsets))
    return _take(torch.cat(blocks, -1), rank.flip(-1))  # flipped: the index of A, not of C


def gumbel_top_k(
    logits: Float[Tensor, "*batch N"],
    k: int,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    noise: Float[Tensor, "*batch N"] | None = None,
    generator: torch.Generator | None = None,
    validate_args: bool = True,
) -> Int[Tensor, "*batch k"]:
    """Draws ``k`` choices without replacement: the ``k`` largest of ``logits + G``. Exact; not differentiable.

    Source: Vieira 2014; Kool et al. 2019 (1903.06059).

    Args:
        logits: ``[..., N]``.
        k: Number of choices.
        mask: Boolean, broadcastable to ``logits``; True where legal.
        noise: Gumbel noise of the shape of ``logits``.
        generator: Source of the noise if none is given.
        validate_args: Whether values are checked.

    Returns:
        Indices ``[..., k]``, in the order of the draw.

    Raises:
        ValueError: As :func:`gsrl.relaxations.masked_logits`; ``k`` is not in 1..N or exceeds the number of legal
            choices of a row; ``noise`` has another shape.

    Example:
        >>> gumbel_top_k(torch.zeros(4, 10), k=3).shape
        torch.Size([4, 3])
    """
    perturbed = _legal_logits(logits, k, mask, validate_args) + perturbation(logits, noise, generator)
    return perturbed.detach().topk(k).indices


def relaxed_subset(
    logits: Float[Tensor, "*batch N"],
    k: int,
    temperature: float | Float[Tensor, "..."] = 1.0,
    hard: bool = False,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    noise: Float[Tensor, "*batch N"] | None = None,
    generator: torch.Generator | None = None,
    validate_args: bool = True,
) -> Float[Tensor, "*batch N"]:
    r"""Draws relaxed subsets: ``k`` softmaxes in turn, each of which pushes down what it took.

    .. math:: \alpha^1 = \theta + G, \quad a^i = \mathrm{softmax}(\alpha^i / \tau), \quad
              \alpha^{i+1} = \alpha^i + \log(1 - a^i), \qquad y = \sum_{i=1}^k a^i

    ``y`` sums to ``k``, and tends to the ``k``-hot top of :math:`\alpha^1` as the temperature tends to 0. At higher
    temperatures an entry may exceed 1: near temperature 1, an item far ahead of the rest ends at 1.5 for ``k = 2``.
    With ``hard=True`` the value is that ``k``-hot vector, an exact sample, and the gradient is that of ``y``. Both are
    biased for every temperature above 0. The bias tends to 0 with the temperature for ``y``, but need not with
    ``hard=True``. ``k = 1`` is :func:`gsrl.relaxations.gumbel_softmax`.

    Source: Xie and Ermon 2019 (1901.10517).

    Args:
        logits: ``[..., N]``.
        k: Number of choices.
        temperature: Positive; a float, or a tensor broadcastable to ``[..., 1]``, one number a row.
        hard: Whether the value is ``k``-hot.
        mask: Boolean, broadcastable to ``logits``; True where legal.
        noise: Gumbel noise of the shape of ``logits``.
        generator: Source of the noise if none is given.
        validate_args: Whether values are checked.

    Returns:
        ``[..., N]``, rows that sum to ``k``, dtype of ``logits``; exactly ``k``-hot with ``hard=True``.

    Raises:
        ValueError: As :func:`gumbel_top_k`; ``temperature`` is not positive.

    Example:
        >>> relaxed_subset(torch.zeros(4, 10), k=3, hard=True).sum(-1)
        tensor([3., 3., 3., 3.])
    """
    legal = _legal_logits(logits, k, mask, validate_args)
    check_temperature(temperature, validate_args, logits)
    perturbed = legal + perturbation(logits, noise, generator)
    scaled = divide(perturbed, temperature)
    soft = scaled.softmax(-1)
    for _ in range(k - 1):
        scaled = scaled + divide(_log_complement(scaled), temperature)
        soft = soft + scaled.softmax(-1)
    if hard:
        soft = replace_value(soft, _k_hot(perturbed.detach().topk(k).indices, perturbed))
    return soft.to(logits.dtype)


class SubsetOfK(Distribution):
    r"""A set of ``k`` of ``N`` choices, drawn without replacement; a value is a ``k``-hot vector ``[N]``.

    .. math:: P(S) = \sum_{\pi \in \mathrm{orders}(S)} \prod_{i=1}^{k} \frac{p_{\pi_i}}{1 - \sum_{j<i} p_{\pi_j}},
              \qquad p = \mathrm{softmax}(\theta)

    This is the Plackett-Luce model with its order forgotten. A set with an illegal choice has log-probability ``-inf``
    and no gradient. Samples carry no gradient; :meth:`relaxed_sample` does.

    Args:
        logits: Unnormalised log-probabilities, ``[*batch, N]``; ``-inf`` marks an illegal choice.
        k: Number of choices in the set.
        mask: Boolean, broadcastable to ``logits``, True where a choice is legal. None: all are.
        validate_args: Whether values are checked (shapes always are). torch's global default has no say.

    Attributes:
        logits: Normalised log-probabilities of the first draw, ``[*batch, N]``, ``-inf`` where illegal.
        k: Number of choices in the set.

    Raises:
        ValueError: As :func:`gsrl.relaxations.masked_logits`; ``k`` is not in 1..N or exceeds the number of legal
            choices of a row.

    Example:
        >>> subset = SubsetOfK(torch.tensor([0.0, 0.0, -torch.inf]), k=2)
        >>> subset.sample()
        tensor([1., 1., 0.])
        >>> subset.log_prob(torch.tensor([1.0, 1.0, 0.0])).exp().item()
        1.0
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}  # noqa: RUF012 (torch's own form)
    has_enumerate_support = True

    def __init__(
        self,
        logits: Float[Tensor, "*batch N"],
        k: int,
        mask: Bool[Tensor, "..."] | None = None,
        validate_args: bool = True,
    ) -> None:
        self.logits = _legal_logits(logits, k, mask, validate_args).log_softmax(-1).to(logits.dtype)
        self.k = k
        # The base class would check the normalised logits again.
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)
        self._validate_args = validate_args

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """``k``-hot vectors."""
        return _KHot(self.k)

    @property
    def mask(self) -> Bool[Tensor, "*batch N"]:
        """True where a choice is legal, ``[*batch, N]``."""
        return ~self.logits.isneginf()

    @property
    def mode(self) -> Float[Tensor, "*batch N"]:
        """The most probable set, ``k``-hot ``[*batch, N]``: the ``k`` most probable choices.

        Seen as a race of exponential clocks at rates p, S wins if its last arrival precedes the first of the others.
        Let i be in S and j not, and fix the other arrivals. Then i before j at times x < y has density
        ``p_i p_j exp(-p_i x - p_j y)``, and exchanging i and j multiplies it by ``exp((p_j - p_i) (y - x))``. So
        taking the more probable of the two never makes a set less probable.
        """
        return _k_hot(self.logits.detach().topk(self.k).indices, self.logits)

    def sample(
        self,
        sample_shape: torch.Size | list[int] | tuple[int, ...] = (),
        *,
        noise: Float[Tensor, "*batch N"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch N"]:
        """Draws sets by the Gumbel-top-k trick.

        Args:
            sample_shape: Leading shape of the draws.
            noise: Gumbel noise ``[*sample_shape, *batch, N]``, see :func:`gsrl.relaxations.gumbel_noise`.
            generator: Source of the noise if none is given; torch's default one if None.

        Returns:
            ``k``-hot ``[*sample_shape, *batch, N]``, without gradient.
        """
        return _k_hot(self.sample_ordered(sample_shape, noise=noise, generator=generator), self.logits)

    def sample_ordered(
        self,
        sample_shape: torch.Size | list[int] | tuple[int, ...] = (),
        *,
        noise: Float[Tensor, "*batch N"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "*batch k"]:
        """Draws the sets of :meth:`sample` with their order.

        Args:
            sample_shape: Leading shape of the draws.
            noise: Gumbel noise ``[*sample_shape, *batch, N]``.
            generator: Source of the noise if none is given; torch's default one if None.

        Returns:
            Indices ``[*sample_shape, *batch, k]``, in the order of the draw.
        """
        logits = self.logits.detach().expand((*sample_shape, *self.logits.shape))
        return gumbel_top_k(logits, self.k, noise=noise, generator=generator, validate_args=False)

    def relaxed_sample(
        self,
        temperature: float | Float[Tensor, "..."] = 1.0,
        hard: bool = False,
        *,
        noise: Float[Tensor, "*batch N"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch N"]:
        """Draws a differentiable sample; see :func:`relaxed_subset`, also for the bias.

        Args:
            temperature: Positive; a float, or a tensor broadcastable to ``[*batch, 1]``, one number a row.
            hard: Whether the value is ``k``-hot.
            noise: Gumbel noise ``[*batch, N]``.
            generator: Source of the noise if none is given; torch's default one if None.

        Returns:
            ``[*batch, N]``, rows that sum to ``k``.
        """
        return relaxed_subset(
            self.logits, self.k, temperature, hard, noise=noise, generator=generator, validate_args=False
        )

    def log_prob(self, value: Float[Tensor, "*#batch N"]) -> Float[Tensor, "*#batch"]:
        """Log-probability of sets, whatever the order of the draw.

        Args:
            value: ``k``-hot, broadcastable with ``[*batch, N]``. Receives no gradient.

        Returns:
            ``[*batch]``, in nats; ``-inf`` for a set with an illegal choice.

        Raises:
            ValueError: ``k`` exceeds :data:`MAX_SUBSET`; ``value`` has another event shape or, with validation on, is
                not ``k``-hot.
        """
        if value.shape[-1:] != self.event_shape:
            raise ValueError(
                f"value must have shape [..., N] with N = {self.event_shape[0]}, but got shape {tuple(value.shape)}."
            )
        if self._validate_args and is_concrete(value) and not bool(self.support.check(value).all()):
            wrong = first(value, ~self.support.check(value))
            raise ValueError(f"value must be k-hot with k = {self.k} in its last dimension, but got {wrong}.")
        return self._log_prob(value != 0).to(self.logits.dtype)

    def log_prob_ordered(self, indices: Int[Tensor, "*#batch k"]) -> Float[Tensor, "*#batch"]:
        r"""Log-probability of ordered draws, :math:`\sum_i \log p_{\pi_i} - \log(1 - \sum_{j<i} p_{\pi_j})`; any ``k``.

        Args:
            indices: Integers ``[..., k]`` in the order of the draw, batch dimensions broadcastable with ``[*batch]``.

        Returns:
            ``[*batch]``, in nats; ``-inf`` for a draw of an illegal choice.

        Raises:
            ValueError: ``indices`` is not of an integer dtype or its last dimension is not ``k``; with validation on,
                an index is out of range or stands twice in a draw.
        """
        N = self.event_shape[0]
        if indices.dtype not in (torch.int64, torch.int32) or indices.shape[-1:] != (self.k,):
            raise ValueError(
                f"indices must be integers of shape [..., k] with k = {self.k}, "
                f"but got dtype {indices.dtype}, shape {tuple(indices.shape)}."
            )
        if self._validate_args and is_concrete(indices):
            ascending = indices.sort(-1).values
            wrong = ~((indices >= 0) & (indices < N)).all(-1) | ~(ascending[..., 1:] > ascending[..., :-1]).all(-1)
            if bool(wrong.any()):
                found = first(indices, wrong)
                raise ValueError(f"indices must be different and in 0..{N - 1} in every draw, but got {found}.")
        batch_shape = torch.broadcast_shapes(indices.shape[:-1], self.batch_shape)
        indices = indices.long().expand(*batch_shape, self.k)
        log_probs = self._finite_logits().expand(*batch_shape, N)
        log_rest = log_probs.scatter(-1, indices, NEVER).logsumexp(-1, keepdim=True)
        drawn = log_probs.gather(-1, indices)
        # What is left before a draw: the rest, and the draws from this one on.
        log_left = torch.cat([log_rest, drawn.flip(-1)], -1).logcumsumexp(-1)[..., 1:].flip(-1)
        illegal = (drawn == NEVER).any(-1)
        return (drawn - log_left).sum(-1).masked_fill(illegal, -torch.inf).to(self.logits.dtype)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy of the set, ``[*batch]``, in nats, by enumeration: a sum of ``k * 2**(k - 1)`` terms for every set.

        Raises:
            ValueError: There are more than :data:`gsrl.distributions.MAX_SUPPORT` sets, or ``k`` exceeds
                :data:`MAX_SUBSET`.
        """
        log_probs = self._log_prob(self.enumerate_support(expand=False) != 0)
        # A product with a log-probability of -inf would be NaN.
        return -(log_probs.exp() * log_probs.clamp_min(-1e3)).sum(0).to(self.logits.dtype)

    def enumerate_support(self, expand: bool = True) -> Float[Tensor, "count *batch N"]:
        """Lists every set of ``k`` choices in lexicographic order, illegal ones included.

        Args:
            expand: Whether the batch dimensions are expanded or of size 1.

        Returns:
            ``k``-hot ``[count, *batch, N]``, or ``[count, 1, ..., 1, N]``, with ``count`` the binomial of N and k.

        Raises:
            ValueError: There are more than :data:`gsrl.distributions.MAX_SUPPORT` sets.
        """
        N = self.event_shape[0]
        count = math.comb(N, self.k)
        if count > MAX_SUPPORT:
            raise ValueError(
                f"enumerate_support lists every set, at most {MAX_SUPPORT}, but there are {count} sets of "
                f"k = {self.k} of N = {N} choices."
            )
        indices = torch.tensor(list(itertools.combinations(range(N), self.k)), device=self.logits.device)
        support = _k_hot(indices, self.logits).reshape(count, *(1 for _ in self.batch_shape), N)
        return support.expand(count, *self.batch_shape, N) if expand else support

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None) -> SubsetOfK:
        """Returns the distribution with batch dimensions expanded to ``batch_shape``, without copying."""
        new = self._get_checked_instance(SubsetOfK, _instance)
        batch_shape = torch.Size(batch_shape)
        new.logits = self.logits.expand(batch_shape + self.event_shape)
        new.k = self.k
        super(SubsetOfK, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _finite_logits(self) -> Tensor:
        return self.logits.double().masked_fill(self.logits.isneginf(), NEVER)

    def _log_prob(self, selected: Tensor) -> Tensor:
        """:meth:`log_prob` in float64, of boolean ``k``-hot vectors."""
        if self.k > MAX_SUBSET:
            raise ValueError(
                f"the probability of a set takes 2**k terms, with k at most {MAX_SUBSET}, but got k = {self.k}. "
                "Use sample_ordered and log_prob_ordered."
            )
        selected, log_probs = torch.broadcast_tensors(selected, self._finite_logits())
        drawn = log_probs.gather(-1, selected.int().topk(self.k).indices)
        log_rest = log_probs.masked_fill(selected, NEVER).logsumexp(-1)
        illegal = (drawn == NEVER).any(-1)
        return log_continuations(drawn, log_rest)[..., 0].masked_fill(illegal, -torch.inf)


class _KHot(constraints.Constraint):
    """Vectors of ``k`` ones and otherwise zeros."""

    is_discrete = True
    event_dim = 1

    def __init__(self, k: int) -> None:
        self.k = k

    def check(self, value: Tensor) -> Tensor:
        ones = value == 1
        return ((value == 0) | ones).all(-1) & (ones.sum(-1) == self.k)


def _legal_logits(logits: Tensor, k: int, mask: Tensor | None, validate_args: bool) -> Tensor:
    """:func:`masked_logits` of rows that have ``k`` legal choices."""
    legal = masked_logits(logits, mask, validate_args=validate_args)
    N = logits.shape[-1]
    if not isinstance(k, int) or not 1 <= k <= N:
        raise ValueError(f"k must be an integer from 1 to the number of choices, {N}, but got {k!r}.")
    if validate_args and is_concrete(legal):
        short = (~legal.isneginf()).sum(-1) < k
        if bool(short.any()):
            rows = [tuple(row) for row in short.nonzero()[:5].tolist()]
            raise ValueError(
                f"k must be at most the number of legal choices in every row of logits, shape {tuple(logits.shape)}, "
                f"but k = {k} and {int(short.sum())} have fewer; first rows {rows}."
            )
    return legal


def _k_hot(indices: Tensor, like: Tensor) -> Tensor:
    """``k``-hot vectors in the dtype and with the last dimension of ``like``."""
    zeros = torch.zeros((*indices.shape[:-1], like.shape[-1]), dtype=like.dtype, device=like.device)
    return zeros.scatter(-1, indices, 1.0)


def _log_complement(scores: Tensor) -> Tensor:
    """``log(1 - softmax(scores))``, finite and exact also where the softmax rounds to 1."""
    largest = torch.arange(scores.shape[-1], device=scores.device) == scores.argmax(-1, keepdim=True)
    # The largest leaves the sum of the others. No other exceeds one half.
    others = scores.masked_fill(largest, NEVER).logsumexp(-1, keepdim=True) - scores.logsumexp(-1, keepdim=True)
    return torch.where(largest, others, torch.log1p(-scores.softmax(-1).masked_fill(largest, 0.0)))


def _log_rest(log_probs: Tensor) -> Tensor:
    """``log(max(0, 1 - p(S)))``, with the gradient of 0 where it is ``-inf``."""
    rest = 1 - log_probs.exp().sum(-1)
    positive = rest > 0
    return torch.where(positive, rest.where(positive, 1.0).log(), -torch.inf)


def _take(values: Tensor, indices: Tensor) -> Tensor:
    """``values[..., indices]``, with the faster gradient of ``index_select``."""
    return values.index_select(-1, indices.flatten()).unflatten(-1, indices.shape)
