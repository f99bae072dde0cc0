r"""The values that critics give to one-hot matrices at a batch of states, in three forms.

All C critics and all B states are evaluated together. What differs is what is known between the vertices: values of all
choices (linear, for one factor), a function multilinear in the rows, or a network that takes the matrix as an input and
was only ever trained at vertices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from gsrl._shapes import Bool, Float
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Objective

__all__ = [
    "ActionValues",
    "ChoiceValues",
    "CriticCombination",
    "MultilinearValues",
    "NetworkValues",
    "combine_critics",
    "q_value",
    "soft_value",
]

CriticCombination: TypeAlias = Literal["min", "mean"]


def q_value(values: Float[Tensor, "*#batch n K"], one_hot: Float[Tensor, "*#batch n K"]) -> Float[Tensor, "*#batch"]:
    """The value of one-hot matrices, linear in each row.

    Args:
        values: ``[..., n, K]``, the value of every choice.
        one_hot: Broadcastable with ``values``.

    Returns:
        ``[...]``.

    Example:
        >>> q_value(torch.tensor([[1.0, 5.0]]), torch.tensor([[0.0, 1.0]]))
        tensor(5.)
    """
    return (values * one_hot).sum((-2, -1))


def combine_critics(values: Float[Tensor, "C *shape"], critics: CriticCombination) -> Float[Tensor, "*shape"]:
    """Combines the critics into one estimate, entry by entry.

    ``"min"`` is pessimistic, against overestimation (Fujimoto et al. 2018, 1802.09477). With discrete actions it
    tends to underestimate, and ``"mean"`` often does better (Zhou et al. 2022, 2209.10081).

    Args:
        values: ``[C, ...]``.
        critics: ``"min"`` or ``"mean"``.

    Example:
        >>> values = torch.tensor([[1.0, 4.0], [3.0, 2.0]])  # two critics, two states
        >>> combine_critics(values, "min"), combine_critics(values, "mean")
        (tensor([1., 2.]), tensor([2., 3.]))
    """
    return values.amin(0) if critics == "min" else values.mean(0)


def soft_value(
    policy: FactoredCategorical,
    values: Float[Tensor, "*batch n K"],
    ent_coef: Float[Tensor, "..."],
    *,
    entropy: bool = True,
) -> Float[Tensor, "*batch"]:
    r"""The value of a state under the policy, an exact expectation, for values linear in each row.

    .. math:: V(s) = \sum_a \pi(a | s)\, (Q(s, a) - \alpha \log \pi(a | s))

    Source: Christodoulou 2019 (1910.07207), Eq. 10.

    Args:
        policy: At the states ``[B]``.
        values: ``[B, n, K]``.
        ent_coef: Alpha, broadcastable with ``values``.
        entropy: Whether the entropy term is kept. Without it the critic predicts rewards alone, which several studies
            report to be more robust (2509.09838).

    Returns:
        ``[B]``.

    Example:
        >>> policy = gsrl.FactoredCategorical(torch.zeros(1, 2))
        >>> soft_value(policy, torch.tensor([[1.0, 3.0]]), torch.tensor(0.0))
        tensor(2.)
    """
    if entropy:
        values = values - ent_coef * policy.finite_logits
    return q_value(values, policy.probs)


SMALLEST_SPREAD = 0.1
"""Share of the batch's mean spread that a state's is at least, about: below it, what choices differ by is error."""


def spread_of_choices(
    values: Float[Tensor, "B n K"], mask: Bool[Tensor, "B n K"], counted: Bool[Tensor, "B"] | None = None
) -> Float[Tensor, "B n"]:
    r"""How much the legal choices of each factor differ in value: their standard deviation, with a floor.

    .. math:: \sigma_i(s) = \sqrt{d_i(s)^2 + (0.1\, \mathrm{mean}_{s'}\, d_i(s'))^2}, \qquad
              d_i(s)^2 = \frac{1}{\lvert L_i \rvert} \sum_{k \in L_i} (A_{ik}(s) - \bar A_i(s))^2

    where L are the legal choices. With all values times a number it is multiplied by its size.

    Args:
        values: A, of every choice, ``[B, n, K]``; of illegal ones anything finite.
        mask: True where a choice is legal, ``[B, n, K]``.
        counted: True where a state counts in the mean over states, ``[B]``; None: all do.

    Returns:
        ``[B, n]``, positive.
    """
    count = mask.sum(-1, keepdim=True)
    mean = (values * mask).sum(-1, keepdim=True) / count
    square = ((values - mean).square() * mask).sum(-1) / count.squeeze(-1)
    deviation = square.sqrt()
    if counted is None:
        usual = deviation.mean(0, keepdim=True)
    else:
        usual = (deviation * counted.unsqueeze(-1)).sum(0, keepdim=True) / counted.sum()
    floor = SMALLEST_SPREAD * usual
    return (square + floor.square()).sqrt().clamp_min(1e-12)


class ActionValues(ABC):
    """Values of C critics at states ``[B]``; calling it evaluates one-hot matrices there.

    Attributes:
        sampled: Whether :meth:`soft_value` needs noise: where no expectation is known in closed form.

    Example:
        >>> class Count(ActionValues):
        ...     def __call__(self, one_hot):
        ...         return one_hot[..., 1].sum(-1).unsqueeze(0)  # one critic, linear in each row
        ...
        ...     def detach(self):
        ...         return self
        ...
        ...     def spread(self, policy, critics, counted=None):
        ...         return policy.logits.new_full(policy.logits.shape[:-1], 0.5)
        >>> Count()(torch.eye(2).unsqueeze(0))
        tensor([[1.]])
        >>> Count().soft_value(FactoredCategorical(torch.zeros(1, 3, 2)), torch.zeros(3), "min")  # three even odds
        tensor([1.5000])
    """

    sampled = False

    @abstractmethod
    def __call__(self, one_hot: Float[Tensor, "*batch n K"]) -> Float[Tensor, "C *batch"]:
        """Maps ``[*M, B, n, K]`` to ``[C, *M, B]``."""

    @abstractmethod
    def detach(self) -> ActionValues:
        """The same values; gradients reach the one-hot matrices alone."""

    def objective(self, critics: CriticCombination) -> Objective:
        """What the actor maximises beside its entropy: the combined value, ``[M, B, n, K] -> [M, B]``, detached."""
        fixed = self.detach()
        return lambda one_hot: combine_critics(fixed(one_hot), critics)

    @abstractmethod
    def spread(
        self, policy: FactoredCategorical, critics: CriticCombination, counted: Bool[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B n"]:
        """How much the legal choices of each factor differ in value, beside what the policy does in the others.

        Args:
            policy: At the states ``[B]``.
            critics: How critics are combined.
            counted: See :func:`spread_of_choices`.

        Returns:
            ``[B, n]``, without gradient; see :func:`spread_of_choices`.
        """

    def soft_value(
        self,
        policy: FactoredCategorical,
        ent_coef: Float[Tensor, "*#batch n"],
        critics: CriticCombination,
        *,
        entropy: bool = True,
        noise: Float[Tensor, "B n K"] | None = None,
    ) -> Float[Tensor, "B"]:
        """The value of the states under the policy, see :func:`soft_value`; the entropy is exact.

        Args:
            policy: At the states ``[B]``.
            ent_coef: Alpha of each factor, ``[n]`` or ``[B, n]``.
            critics: How critics are combined.
            entropy: Whether the entropy term is kept.
            noise: Gumbel noise ``[B, n, K]`` of the one sample that ``sampled`` values are taken at.

        Returns:
            ``[B]``.

        Raises:
            ValueError: ``noise`` is needed and missing.
        """
        if self.sampled and noise is None:
            raise ValueError(
                "noise must be Gumbel noise [B, n, K] for values whose expectation is sampled, but got None."
            )
        value = combine_critics(self(policy.sample(noise=noise) if self.sampled else policy.probs), critics)
        return value + (ent_coef * policy.factor_entropy()).sum(-1) if entropy else value


class ChoiceValues(ActionValues):
    """The values of all choices of one factor, so linear in the row; critics are combined choice by choice.

    Args:
        values: ``[C, B, 1, K]``.

    Example:
        >>> values = ChoiceValues(torch.tensor([[[[1.0, 5.0]]]]))  # one critic, one state, one factor
        >>> values(torch.tensor([[[0.0, 1.0]]]))
        tensor([[5.]])
    """

    def __init__(self, values: Float[Tensor, "C B 1 K"]) -> None:
        self.values = values

    def __call__(self, one_hot: Float[Tensor, "*batch n K"]) -> Float[Tensor, "C *batch"]:
        """Maps ``[*M, B, 1, K]`` to ``[C, *M, B]``."""
        values = self.values
        for _ in range(one_hot.dim() - 3):
            values = values.unsqueeze(1)
        return q_value(values, one_hot)

    def detach(self) -> ChoiceValues:
        """See :meth:`ActionValues.detach`."""
        return ChoiceValues(self.values.detach())

    def spread(
        self, policy: FactoredCategorical, critics: CriticCombination, counted: Bool[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B n"]:
        """See :meth:`ActionValues.spread`."""
        return spread_of_choices(combine_critics(self.values.detach(), critics), policy.mask, counted)

    def objective(self, critics: CriticCombination) -> Objective:
        """See :meth:`ActionValues.objective`: here a linear function, however the critics are combined."""
        combined = combine_critics(self.values.detach(), critics)
        return lambda one_hot: q_value(combined, one_hot)

    def soft_value(
        self,
        policy: FactoredCategorical,
        ent_coef: Float[Tensor, "*#batch n"],
        critics: CriticCombination,
        *,
        entropy: bool = True,
        noise: Float[Tensor, "B n K"] | None = None,
    ) -> Float[Tensor, "B"]:
        """See :meth:`ActionValues.soft_value`: the exact expectation of the combined critics."""
        return soft_value(policy, combine_critics(self.values, critics), ent_coef.unsqueeze(-1), entropy=entropy)


class MultilinearValues(ActionValues):
    r"""A function multilinear in the rows: a value of the state, of each choice, and of pairs of choices, at low rank.

    .. math:: Q(s, D) = V(s) + \sum_i \langle D_i, A_i(s) \rangle
              + \sum_{i < j} \sum_r \sigma_r\, \langle D_i, U_{ir}(s) \rangle \langle D_j, U_{jr}(s) \rangle

    with signs :math:`\sigma_r` that are + for one half of the ranks and - for the other. The pairs are summed as half
    the square of a sum less the sum of squares, in time linear in n. What it is at the matrix of probabilities is its
    exact expectation; a noiseless straight-through gradient is unbiased, unless the minimum of critics is taken, which
    is not multilinear: hence critics are better averaged here. In a target, the minimum is that of the expectations.

    Source: dueling heads, Wang et al. 2016 (1511.06581); pairs as in factorisation machines, Rendle 2010.

    Args:
        state: ``[C, B]``, V.
        choices: ``[C, B, n, K]``, A.
        pairs: ``[C, B, n, K, R]``, U; None: no pairs.

    Example:
        >>> values = MultilinearValues(torch.ones(1, 1), torch.tensor([[[[0.0, 2.0], [3.0, 0.0]]]]), None)
        >>> values(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))  # 1 + 2 + 3
        tensor([[6.]])
    """

    def __init__(
        self, state: Float[Tensor, "C B"], choices: Float[Tensor, "C B n K"], pairs: Float[Tensor, "C B n K R"] | None
    ) -> None:
        self.state = state
        self.choices = choices
        self.pairs = pairs

    def __call__(self, one_hot: Float[Tensor, "*batch n K"]) -> Float[Tensor, "C *batch"]:
        """Maps ``[*M, B, n, K]`` to ``[C, *M, B]``, rows on the simplex too."""
        flat = one_hot.reshape(-1, *one_hot.shape[-3:])  # [M, B, n, K]
        values = self.state.unsqueeze(1) + torch.einsum("mbnk,cbnk->cmb", flat, self.choices)
        if self.pairs is not None:
            if flat.shape[0] == 1:  # this product does not copy U, and takes half the time
                taken = (flat[0].unsqueeze(-2) @ self.pairs).squeeze(-2).unsqueeze(1)  # [C, 1, B, n, R]
            else:
                taken = torch.einsum("mbnk,cbnkr->cmbnr", flat, self.pairs)
            products = 0.5 * (taken.sum(-2).square() - taken.square().sum(-2))  # [C, M, B, R]
            half = products.shape[-1] // 2
            values = values + products[..., half:].sum(-1) - products[..., :half].sum(-1)
        return values.reshape(values.shape[0], *one_hot.shape[:-2])

    def spread(
        self, policy: FactoredCategorical, critics: CriticCombination, counted: Bool[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B n"]:
        """See :meth:`ActionValues.spread`: of the expected values of choices, for the mean of critics exact."""
        choices = self.choices.detach()
        if self.pairs is not None:
            pairs = self.pairs.detach()
            taken = (policy.probs.detach().unsqueeze(-2) @ pairs).squeeze(-2)  # [C, B, n, R]
            others = taken.sum(-2, keepdim=True) - taken
            half = others.shape[-1] // 2
            signed = torch.cat([-others[..., :half], others[..., half:]], -1)
            choices = choices + (pairs @ signed.unsqueeze(-1)).squeeze(-1)
        return spread_of_choices(combine_critics(choices, critics), policy.mask, counted)

    def detach(self) -> MultilinearValues:
        """See :meth:`ActionValues.detach`."""
        pairs = None if self.pairs is None else self.pairs.detach()
        return MultilinearValues(self.state.detach(), self.choices.detach(), pairs)


class NetworkValues(ActionValues):
    """Networks that take the matrix as an input beside the state: free of any form, and of any constraint between.

    Args:
        evaluate: Maps ``[M, B, n K]`` to ``[C, M, B]``.
        evaluate_detached: The same without gradients to anything but its argument.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))  # two critics
        >>> evaluate = lambda flat: network(flat).movedim(-1, 0)
        >>> values = NetworkValues(evaluate, evaluate)
        >>> values(torch.eye(2).expand(5, 2, 2)).shape  # at five states
        torch.Size([2, 5])
        >>> values.sampled  # no expectation in closed form
        True
    """

    sampled = True

    def __init__(self, evaluate: Callable[[Tensor], Tensor], evaluate_detached: Callable[[Tensor], Tensor]) -> None:
        self._evaluate = evaluate
        self._evaluate_detached = evaluate_detached

    def __call__(self, one_hot: Float[Tensor, "*batch n K"]) -> Float[Tensor, "C *batch"]:
        """Maps ``[*M, B, n, K]`` to ``[C, *M, B]``."""
        values = self._evaluate(one_hot.reshape(-1, one_hot.shape[-3], one_hot.shape[-2] * one_hot.shape[-1]))
        return values.reshape(values.shape[0], *one_hot.shape[:-2])

    def spread(
        self, policy: FactoredCategorical, critics: CriticCombination, counted: Bool[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B n"]:
        """See :meth:`ActionValues.spread`: of the slopes at the matrix of probabilities, a first-order estimate."""
        objective = self.objective(critics)
        slopes = torch.func.grad(lambda rows: objective(rows).sum())(policy.probs.detach())
        return spread_of_choices(slopes, policy.mask, counted)

    def detach(self) -> NetworkValues:
        """See :meth:`ActionValues.detach`."""
        return NetworkValues(self._evaluate_detached, self._evaluate_detached)
