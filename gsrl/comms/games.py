"""Signalling games, as pure samplers: what a sender sees, what a receiver sees, and what its answer costs.

A meaning is a row of ``A`` attributes of ``V`` values each; a sender sees it as ``A`` one-hot rows, side by side. Which
of all meanings are trained on, and which are held out, is the game's own affair: nothing but ``split_seed`` decides it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gsrl.checkpoint import register

__all__ = ["SPLITS", "AttributeValueGame", "DiscriminationGame", "Game", "GameBatch", "LewisGame", "cross_entropy"]

SPLITS = ("train", "held_out", "all")
"""Sets of meanings."""

MAX_MEANINGS = 2**16
"""The most meanings that a game lists."""


class GameBatch(NamedTuple):
    """Episodes of a game.

    Example:
        >>> batch = AttributeValueGame(attributes=2, values=2, held_out=0.0).inputs()
        >>> batch.sender_input[1], batch.target[1]  # the second meaning, 0 and 1
        (tensor([1., 0., 0., 1.]), tensor([0, 1]))
    """

    sender_input: Tensor
    """``[*batch, sender_features]``."""
    receiver_input: Any
    """What the receiver sees beside the message, a tensor ``[*batch, ...]`` or a tuple of tensors; None: nothing."""
    target: Any
    """What the receiver should answer, int64, of the game's own shape ``[*batch, ...]``, or a tuple of tensors."""
    meaning: Tensor
    """The values of the attributes, int64 ``[*batch, A]``: for tables and metrics, the agents do not see it."""


class Game(ABC):
    """A game over meanings of ``attributes`` with ``values`` each.

    A game of one's own overrides :meth:`cost` and :meth:`correct`, sets :attr:`outputs`, and, where the receiver sees
    something, :meth:`batch` and :attr:`receiver_features`. Costs must be pure functions of their arguments.

    Args:
        attributes: ``A``, attributes of a meaning, at least 1.
        values: ``V``, values of each attribute, at least 2.
        held_out: Share of the meanings that are never trained on, in [0, 1). Every value still occurs in training.
        split_seed: Decides which ones.
        prior: Weight of each meaning, ``[V ** A]`` in the order of :attr:`meanings`; None: all are equally likely.

    Attributes:
        meanings: All meanings, int64 ``[V ** A, A]``, the last attribute varying fastest.
        sender_features: Numbers that the sender sees.
        receiver_features: Numbers that the receiver sees beside the message: of each candidate, if there are several.
        outputs: Numbers that the receiver answers with.

    Raises:
        ValueError: An argument is out of its range, or the share cannot be held out.

    Example:
        >>> class FirstAttribute(Game):  # the receiver names the value of the first attribute
        ...     outputs = 3
        ...
        ...     def cost(self, output, target):
        ...         return cross_entropy(output, target[..., 0])
        ...
        ...     def correct(self, output, target):
        ...         return output.argmax(-1) == target[..., 0]
        >>> game = FirstAttribute(attributes=2, values=3)
        >>> game.correct(torch.eye(3), torch.tensor([[0, 2], [1, 2], [0, 1]]))
        tensor([ True,  True, False])
    """

    exhaustive: bool = True
    """Whether a meaning makes an episode: then :meth:`inputs` lists all there are."""

    receiver_features: int = 0
    outputs: int

    def __init__(
        self,
        attributes: int,
        values: int,
        *,
        held_out: float = 0.0,
        split_seed: int = 0,
        prior: Sequence[float] | Tensor | None = None,
    ) -> None:
        for name, value, least in (("attributes", attributes, 1), ("values", values, 2)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, but got {value!r}.")
        if values**attributes > MAX_MEANINGS:
            raise ValueError(
                f"values ** attributes must be at most {MAX_MEANINGS} meanings, but got {values} ** {attributes}."
            )
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out must be a share in [0, 1), but got {held_out}.")
        self.attributes, self.values = attributes, values
        self.held_out, self.split_seed = held_out, split_seed
        self.sender_features = attributes * values
        places = values ** torch.arange(attributes - 1, -1, -1)
        self.meanings = torch.arange(values**attributes).unsqueeze(-1) // places % values
        self.prior = _weights(prior, len(self.meanings))
        self._features = torch.eye(values)[self.meanings].flatten(-2)
        held = _held_out(self.meanings, values, round(held_out * len(self.meanings)), split_seed)
        self._indices = {"train": (~held).nonzero().squeeze(-1), "held_out": held.nonzero().squeeze(-1)}
        self._indices["all"] = torch.arange(len(self.meanings))
        if self.prior is not None and not self.prior[self._indices["train"]].sum() > 0:
            raise ValueError("prior must leave a meaning that is trained on possible, but gives all of them 0.")

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("attributes", "values", "held_out", "split_seed", "prior")
        return {name: getattr(self, name) for name in names}

    def indices(self, split: str = "train") -> Tensor:
        """Which of :attr:`meanings` a split holds, int64 ``[N]``.

        Raises:
            ValueError: There is no such split, or it is empty.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, but got {split!r}.")
        if not len(self._indices[split]):
            raise ValueError(f"split {split!r} is empty: this game holds out nothing.")
        return self._indices[split]

    def probabilities(self, split: str = "train") -> Tensor:
        """How often each meaning of a split is drawn, float64 ``[N]``.

        Raises:
            ValueError: As :meth:`indices`; or the prior of all of them is 0.
        """
        indices = self.indices(split)
        weights = torch.ones(len(indices)) if self.prior is None else _possible(self.prior[indices], split)
        return weights.double() / weights.double().sum()

    def sample(self, batch_size: int, generator: torch.Generator, split: str = "train") -> GameBatch:
        """Draws episodes.

        Args:
            batch_size: How many.
            generator: Source of randomness, on the CPU.
            split: Of the meanings.
        """
        return self.batch(self.draw(batch_size, generator, split), generator)

    def draw(self, batch_size: int, generator: torch.Generator, split: str = "train") -> Tensor:
        """Draws the meanings of episodes, int64 ``[batch_size]``; arguments as in :meth:`sample`."""
        indices = self.indices(split)
        if self.prior is None:
            drawn = torch.randint(len(indices), (batch_size,), generator=generator)
        else:
            weights = _possible(self.prior[indices], split)
            drawn = torch.multinomial(weights, batch_size, replacement=True, generator=generator)
        return indices[drawn]

    def inputs(self, split: str = "train") -> GameBatch:
        """All meanings of a split, each once, in their order.

        Raises:
            ValueError: A meaning alone is no episode of this game.
        """
        if not self.exhaustive:
            raise ValueError(f"a meaning alone is no episode of {type(self).__name__}: draw some with sample.")
        return self.batch(self.indices(split), None)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> GameBatch:
        """Makes episodes of meanings.

        Args:
            indices: Of the meanings, int64 ``[B]``; where :attr:`exhaustive`, of any shape.
            generator: Source of all else that is random; None where :attr:`exhaustive`.
        """
        meaning = self.meanings[indices]
        return GameBatch(self._features[indices], None, meaning, meaning)

    @abstractmethod
    def cost(self, output: Tensor, target: Tensor) -> Tensor:
        """What answers cost, to be minimised; in nats, unless a game says otherwise.

        Args:
            output: ``[*lead, *batch, outputs]``.
            target: ``[*batch, ...]``, of a :class:`GameBatch`.

        Returns:
            ``[*lead, *batch]``.
        """

    @abstractmethod
    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        """Whether answers are right, bool ``[*lead, *batch]``; arguments as in :meth:`cost`."""


@register("gsrl.comms.AttributeValueGame")
class AttributeValueGame(Game):
    r"""Reconstruction: the receiver names the value of every attribute.

    .. math:: \mathrm{cost} = -\sum_{a=1}^{A} \log \mathrm{softmax}(\mathrm{output}_a)_{v_a}

    An answer is right if all attributes are. ``outputs`` is ``A * V``, ``target`` the meaning.

    Arguments are those of :class:`Game`.

    Source: Kottur et al. 2017 (1706.08502) and Chaabouni et al. 2020 (2004.09124), Section 3.

    Example:
        >>> AttributeValueGame(attributes=2, values=3, held_out=0.0).meanings.shape
        torch.Size([9, 2])
    """

    def __init__(
        self,
        attributes: int = 2,
        values: int = 10,
        *,
        held_out: float = 0.2,
        split_seed: int = 0,
        prior: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(attributes, values, held_out=held_out, split_seed=split_seed, prior=prior)
        self.outputs = attributes * values

    def cost(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, summed over the attributes; see :meth:`Game.cost`."""
        if self.attributes == 1:
            return cross_entropy(output, target.squeeze(-1))
        return cross_entropy(output.unflatten(-1, (self.attributes, self.values)), target).sum(-1)

    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        """Whether every attribute's largest number is that of its value; see :meth:`Game.correct`."""
        return (output.unflatten(-1, (self.attributes, self.values)).argmax(-1) == target).all(-1)


@register("gsrl.comms.LewisGame")
class LewisGame(AttributeValueGame):
    r"""The signalling game of Lewis: ``n`` meanings, of which the receiver must name the one that the sender saw.

    With K messages at most :math:`\min(1, K / n)` of the answers can be right, if all meanings are equally likely.

    Source: Lewis 1969, "Convention"; as a game of two networks: Chaabouni et al. 2019 (1905.12561).

    Args:
        meanings: ``n``, at least 2.
        prior: Weight of each meaning, ``[n]``; None: all are equally likely.

    Raises:
        ValueError: ``meanings`` is below 2 or above 65,536, or ``prior`` is no distribution over them.

    Example:
        >>> LewisGame(5).meanings.shape
        torch.Size([5, 1])
    """

    def __init__(self, meanings: int, prior: Sequence[float] | Tensor | None = None) -> None:
        if not isinstance(meanings, int) or isinstance(meanings, bool) or meanings < 2:
            raise ValueError(f"meanings must be an integer of at least 2, but got {meanings!r}.")
        if meanings > MAX_MEANINGS:
            raise ValueError(f"meanings must be at most {MAX_MEANINGS}, but got {meanings}.")
        super().__init__(1, meanings, held_out=0.0, prior=prior)

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"meanings": self.values, "prior": self.prior}


@register("gsrl.comms.DiscriminationGame")
class DiscriminationGame(Game):
    """Discrimination: the receiver sees candidates, and points at the one that the sender saw.

    The others are drawn from the other meanings of the same split, each by itself, whatever the prior. The cost is the
    cross-entropy of the candidates; guessing is right once in ``candidates``. ``receiver_input`` holds the candidates
    as the sender would see them, ``[*batch, candidates, sender_features]``, ``target`` the place of the right one.

    Arguments that are not named here are those of :class:`Game`.

    Source: Lazaridou et al. 2017 (1612.07182), Section 2; Havrylov and Titov 2017 (1705.11192).

    Args:
        candidates: Meanings among which the receiver chooses, at least 2.

    Raises:
        ValueError: As :class:`Game`; ``candidates`` is below 2; a split has one meaning alone.

    Example:
        >>> DiscriminationGame(attributes=2, values=3, candidates=4).candidates
        4
    """

    exhaustive = False

    def __init__(
        self,
        attributes: int = 2,
        values: int = 10,
        *,
        candidates: int = 5,
        held_out: float = 0.2,
        split_seed: int = 0,
        prior: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(attributes, values, held_out=held_out, split_seed=split_seed, prior=prior)
        if not isinstance(candidates, int) or candidates < 2:
            raise ValueError(f"candidates must be an integer of at least 2, but got {candidates!r}.")
        if any(len(indices) == 1 for indices in self._indices.values()):
            raise ValueError("held_out must leave each split two meanings at least, or none, to choose between.")
        self.candidates = self.outputs = candidates
        self.receiver_features = self.sender_features
        # Where each meaning stands in the list of its own split.
        self._place = torch.empty(len(self.meanings), dtype=torch.int64)
        for split in ("train", "held_out"):
            self._place[self._indices[split]] = torch.arange(len(self._indices[split]))
        self._is_held_out = torch.ones(len(self.meanings), dtype=torch.bool)
        self._is_held_out[self._indices["train"]] = False

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().settings, "candidates": self.candidates}

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> GameBatch:
        """Draws the other candidates, and their order; see :meth:`Game.batch`."""
        train, held_out = self._indices["train"], self._indices["held_out"]
        is_held_out = self._is_held_out[indices].unsqueeze(-1)
        size = torch.where(is_held_out, len(held_out), len(train))
        # A shift along the list of the split, by less than its length, leads to any other meaning of it.
        uniform = torch.rand((len(indices), self.candidates), generator=generator, dtype=torch.float64)
        place = (self._place[indices].unsqueeze(-1) + 1 + (uniform * (size - 1)).long()) % size
        others = train[torch.where(is_held_out, 0, place)]
        if len(held_out):
            others = torch.where(is_held_out, held_out[torch.where(is_held_out, place, 0)], others)
        target = torch.randint(self.candidates, (len(indices),), generator=generator)
        shown = others.scatter(-1, target.unsqueeze(-1), indices.unsqueeze(-1))
        return GameBatch(self._features[indices], self._features[shown], target, self.meanings[indices])

    def cost(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of the candidates; see :meth:`Game.cost`."""
        return cross_entropy(output, target)

    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        """Whether the right candidate has the largest number; see :meth:`Game.correct`."""
        return output.argmax(-1) == target


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Minus the log-probability of ``target [*batch]`` under ``logits [*lead, *batch, K]``, ``[*lead, *batch]``.

    Example:
        >>> cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
        tensor([0.6931])
    """
    index = target.expand(logits.shape[:-1]).unsqueeze(-1)
    return -logits.log_softmax(-1).gather(-1, index).squeeze(-1)


def _weights(prior: Sequence[float] | Tensor | None, count: int) -> Tensor | None:
    """The prior, float32 and normalised."""
    if prior is None:
        return None
    weights = torch.as_tensor(prior, dtype=torch.float32)
    if weights.shape != (count,) or not bool(weights.isfinite().all()) or bool((weights < 0).any()):
        raise ValueError(f"prior must hold {count} finite weights of at least 0, one a meaning, but got {prior}.")
    if not weights.sum() > 0:
        raise ValueError("prior must hold a weight above 0, but all are 0.")
    return weights / weights.sum()


def _possible(weights: Tensor, split: str) -> Tensor:
    """The prior of a split's meanings, not all of which may be 0."""
    if not weights.sum() > 0:
        raise ValueError(f"prior must leave a meaning of split {split!r} possible, but gives all of them 0.")
    return weights


def _held_out(meanings: Tensor, values: int, count: int, seed: int) -> Tensor:
    """Chooses ``count`` meanings of which every value still occurs among the others: bool ``[N]``."""
    held_out = torch.zeros(len(meanings), dtype=torch.bool)
    if count == 0:
        return held_out
    occurrences = [[len(meanings) // values] * values for _ in range(meanings.shape[1])]
    chosen = 0
    for index in torch.randperm(len(meanings), generator=torch.Generator().manual_seed(seed)).tolist():
        row = meanings[index].tolist()
        if all(counts[value] > 1 for counts, value in zip(occurrences, row, strict=True)):
            for counts, value in zip(occurrences, row, strict=True):
                counts[value] -= 1
            held_out[index] = True
            chosen += 1
            if chosen == count:
                return held_out
    raise ValueError(
        f"held_out must leave every value of every attribute in training, but {count} of {len(meanings)} meanings "
        "are too many."
    )
