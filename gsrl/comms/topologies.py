"""Who talks to whom: broadcast, targeted messages, populations of pairs, dialogue.

A topology is a game around a game, which says who sees what and whose answer counts, and an agent made of agents. So
the channel, its estimators and the loss know nothing of it. :class:`gsrl.comms.SignallingGame` makes the agents that
belong to a topology by itself, where they are given by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gsrl.checkpoint import register
from gsrl.comms.games import Game, GameBatch, cross_entropy

__all__ = ["Audience", "BroadcastGame", "Community", "Dialogue", "PopulationGame", "QuestionGame", "TargetedGame"]


class _WrappedGame(Game):
    """A game around another one, with the same meanings."""

    def __init__(self, game: Game, name: str, size: int) -> None:
        if not isinstance(game, Game):
            raise TypeError(f"game must be a gsrl.comms.Game, but got {type(game).__name__}.")
        if not isinstance(size, int) or isinstance(size, bool) or size < 2:
            raise ValueError(f"{name} must be an integer of at least 2, but got {size!r}.")
        self.game = game
        self.exhaustive = game.exhaustive
        self.attributes, self.values, self.meanings = game.attributes, game.values, game.meanings
        self.sender_features, self.receiver_features = game.sender_features, game.receiver_features
        self.outputs = game.outputs

    def indices(self, split: str = "train") -> Tensor:
        """See :meth:`Game.indices`."""
        return self.game.indices(split)

    def probabilities(self, split: str = "train") -> Tensor:
        """See :meth:`Game.probabilities`."""
        return self.game.probabilities(split)

    def sample(self, batch_size: int, generator: torch.Generator, split: str = "train") -> GameBatch:
        """Draws episodes of the game within; see :meth:`Game.sample`."""
        return self._around(self.game.sample(batch_size, generator, split), generator)

    def draw(self, batch_size: int, generator: torch.Generator, split: str = "train") -> Tensor:
        """Draws meanings of the game within; see :meth:`Game.draw`."""
        return self.game.draw(batch_size, generator, split)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> GameBatch:
        """Makes episodes of meanings; see :meth:`Game.batch`."""
        return self._around(self.game.batch(indices, generator), generator)

    def _around(self, batch: GameBatch, generator: torch.Generator | None) -> GameBatch:
        """What becomes of episodes of the game within."""
        return batch

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """That of the game within; see :meth:`Game.cost`."""
        return self.game.cost(output, target)

    def correct(self, output: Tensor, target: Any) -> Tensor:
        """That of the game within; see :meth:`Game.correct`."""
        return self.game.correct(output, target)


@register("gsrl.comms.BroadcastGame")
class BroadcastGame(_WrappedGame):
    """Broadcast: several receivers hear the same message, and each answers.

    The cost is the mean of theirs; an answer is right if all of them are. The receiver is an :class:`Audience`.

    Args:
        game: What each of them plays.
        receivers: How many, at least 2.

    Raises:
        TypeError: ``game`` is none.
        ValueError: ``receivers`` is below 2.

    Example:
        >>> from gsrl import comms
        >>> BroadcastGame(comms.LewisGame(5), receivers=3).receivers
        3
    """

    def __init__(self, game: Game, receivers: int) -> None:
        super().__init__(game, "receivers", receivers)
        self.receivers = receivers
        self.outputs = receivers * game.outputs

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"game": self.game, "receivers": self.receivers}

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """The mean of the receivers' costs; see :meth:`Game.cost`."""
        return self.game.cost(self._apart(output), target).mean(0)

    def correct(self, output: Tensor, target: Any) -> Tensor:
        """Whether all are right; see :meth:`Game.correct`."""
        return self.game.correct(self._apart(output), target).all(0)

    def _apart(self, output: Tensor) -> Tensor:
        """The answers of all, ``[receivers, *lead, *batch, outputs of each]``."""
        return output.unflatten(-1, (self.receivers, self.game.outputs)).movedim(-2, 0)


@register("gsrl.comms.TargetedGame")
class TargetedGame(BroadcastGame):
    """Targeted messages: the sender is told whom to address, and the answer of that receiver alone counts.

    Beside what it sees of the game, the sender sees the one-hot number of the receiver, drawn uniformly; receivers do
    not see whom a message is for. The receiver is an :class:`Audience`.

    Args:
        game: What is played.
        receivers: How many there are, at least 2.

    Raises:
        TypeError: ``game`` is none.
        ValueError: ``receivers`` is below 2.

    Example:
        >>> from gsrl import comms
        >>> game = TargetedGame(comms.LewisGame(3), receivers=2)
        >>> batch = game.sample(4, torch.Generator().manual_seed(0))
        >>> batch.sender_input.shape  # a meaning out of three, an address out of two
        torch.Size([4, 5])
        >>> answers = torch.tensor([0.0, 9.0, 0.0, 9.0, 0.0, 0.0])  # the first says 1, the second 0
        >>> game.correct(answers, (torch.tensor([0]), torch.tensor([0.0, 1.0])))
        tensor(True)
    """

    def __init__(self, game: Game, receivers: int) -> None:
        super().__init__(game, receivers)
        self.exhaustive = False
        self.sender_features = game.sender_features + receivers

    def _around(self, batch: GameBatch, generator: torch.Generator | None) -> GameBatch:
        shape = batch.sender_input.shape[:-1]
        address = torch.eye(self.receivers)[torch.randint(self.receivers, shape, generator=generator)]
        sender_input = torch.cat([batch.sender_input, address], -1)
        return batch._replace(sender_input=sender_input, target=(batch.target, address))

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """The cost of the receiver that is addressed; see :meth:`Game.cost`."""
        target, address = target
        costs = self.game.cost(self._apart(output), target).movedim(0, -1)
        return (costs * address).sum(-1)

    def correct(self, output: Tensor, target: Any) -> Tensor:
        """Whether the receiver that is addressed is right; see :meth:`Game.correct`."""
        target, address = target
        correct = self.game.correct(self._apart(output), target).movedim(0, -1)
        return (correct & (address > 0)).any(-1)


@register("gsrl.comms.PopulationGame")
class PopulationGame(_WrappedGame):
    """Many to many: as many senders as receivers, paired anew at random in each batch.

    A batch is ``[size, batch_size // size]`` episodes, a row for each sender. :class:`gsrl.comms.SignallingGame` takes
    a ``batch_size`` that is a multiple of ``size``. ``receiver_input`` is the order, of which receiver ``j`` hears the
    sender ``order[j]``, and what the game shows it. Both agents are a :class:`Community`.

    Args:
        game: What each pair plays.
        size: Senders, and receivers, at least 2.

    Raises:
        TypeError: ``game`` is none.
        ValueError: ``size`` is below 2.

    Example:
        >>> from gsrl import comms
        >>> game = PopulationGame(comms.LewisGame(3), size=2)
        >>> batch = game.sample(8, torch.Generator().manual_seed(0))
        >>> batch.sender_input.shape  # four episodes of each sender
        torch.Size([2, 4, 3])
    """

    def __init__(self, game: Game, size: int) -> None:
        super().__init__(game, "size", size)
        self.size = size
        self.exhaustive = False

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"game": self.game, "size": self.size}

    def sample(self, batch_size: int, generator: torch.Generator, split: str = "train") -> GameBatch:
        """Draws episodes, equally many of each sender and one at least; see :meth:`Game.sample`."""
        share = max(1, batch_size // self.size)
        batch = self.game.sample(self.size * share, generator, split)
        rows: GameBatch = tree_map(
            lambda part: part.unflatten(0, (self.size, share)) if isinstance(part, Tensor) else part, batch
        )
        order = torch.randperm(self.size, generator=generator)
        return rows._replace(receiver_input=(order, rows.receiver_input))


@register("gsrl.comms.QuestionGame")
class QuestionGame(Game):
    """The receiver wants to know one attribute; which one, the sender learns only if it is asked.

    Both speak, in turns, so the sender is a :class:`Dialogue`: ``sender_input`` holds the question, ``A`` numbers,
    which its first speaker sees, and the meaning, which its second one sees. ``receiver_input`` is the question too,
    ``target`` the value of the attribute, ``[*batch]``. Without a question, a message of one symbol would have to tell
    of all attributes. :class:`gsrl.comms.SignallingGame` makes the speakers by name where that is ``"gru"`` or
    ``"lstm"``, and the channel's length at least 2.

    Args:
        attributes: ``A``, attributes of a meaning.
        values: ``V``, values of each attribute, at least 2.
        held_out: Share of the meanings that are never trained on, see :class:`Game`.
        split_seed: Decides which ones.
        prior: Weight of each meaning, ``[V ** A]``; None: all are equally likely.

    Example:
        >>> game = QuestionGame(attributes=2, values=4)
        >>> batch = game.sample(1, torch.Generator().manual_seed(0))
        >>> batch.receiver_input.shape, batch.sender_input.shape  # the question; the question and the meaning
        (torch.Size([1, 2]), torch.Size([1, 10]))
        >>> bool(batch.target[0] == batch.meaning[0, batch.receiver_input[0].argmax()])
        True
    """

    exhaustive = False

    def __init__(
        self,
        attributes: int = 2,
        values: int = 4,
        *,
        held_out: float = 0.0,
        split_seed: int = 0,
        prior: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(attributes, values, held_out=held_out, split_seed=split_seed, prior=prior)
        self.sender_features = attributes + attributes * values
        self.receiver_features, self.outputs = attributes, values

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> GameBatch:
        """Draws a question for each meaning, uniformly; see :meth:`Game.batch`."""
        batch = super().batch(indices, generator)
        asked = torch.randint(self.attributes, indices.shape, generator=generator)
        question = torch.eye(self.attributes)[asked]
        target = batch.meaning.gather(-1, asked.unsqueeze(-1)).squeeze(-1)
        return GameBatch(torch.cat([question, batch.sender_input], -1), question, target, batch.meaning)

    def cost(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of the value; see :meth:`Game.cost`."""
        return cross_entropy(output, target)

    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        """Whether the value has the largest number; see :meth:`Game.correct`."""
        return output.argmax(-1) == target


class Audience(nn.Module):
    """Several receivers that hear the same: see :class:`gsrl.comms.Receiver`. It answers with all answers in a row.

    Args:
        receivers: Of equally many outputs.

    Example:
        >>> from gsrl import comms
        >>> audience = Audience([comms.MLPReceiver(width=3, outputs=4) for _ in range(2)])
        >>> audience(torch.eye(3).unsqueeze(-2), None).shape  # both answers to each of three messages
        torch.Size([3, 8])
    """

    def __init__(self, receivers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.receivers = nn.ModuleList(receivers)

    def forward(self, message: Tensor, receiver_input: Any) -> Tensor:
        """``[*lead, *batch, receivers * outputs]``."""
        return torch.cat([receiver(message, receiver_input) for receiver in self.receivers], -1)

    def after_each(self, message: Tensor, receiver_input: Any) -> Tensor:
        """``[L, *lead, *batch, receivers * outputs]``."""
        receivers: Any = self.receivers
        return torch.cat([receiver.after_each(message, receiver_input) for receiver in receivers], -1)


class Community(nn.Module):
    """Agents of one role, each with a row of the batch ``[size, B]``: a sender or a receiver, as its members are.

    Args:
        members: Senders, or receivers, that are exchangeable.

    Example:
        >>> from gsrl import comms
        >>> senders = Community([comms.MLPSender(features=4, symbols=3) for _ in range(2)])
        >>> logits, _ = senders.step(senders.start(torch.zeros(2, 5, 4)), None)
        >>> logits.shape  # five messages of each of two senders
        torch.Size([2, 5, 3])
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(members)

    def start(self, sender_input: Tensor) -> list[Any]:
        """The members' states, from ``[size, B, features]``: see :meth:`gsrl.comms.Sender.start`."""
        return [member.start(own) for member, own in zip(self.members, sender_input.unbind(-3), strict=True)]

    def step(self, state: list[Any], previous: Tensor | None) -> tuple[Tensor, list[Any]]:
        """Logits ``[size, B, symbols]``: see :meth:`gsrl.comms.Sender.step`."""
        heard = [None] * len(state) if previous is None else previous.unbind(-3)
        steps = [member.step(own, x) for member, own, x in zip(self.members, state, heard, strict=True)]
        return torch.stack([logits for logits, _ in steps], -3), [own for _, own in steps]

    def forward(self, message: Tensor, receiver_input: Any) -> Tensor:
        """Answers to the messages ``[*lead, size, B, L, width]``, in the order of the senders."""
        return self._answers(message, receiver_input, [member.__call__ for member in self.members])

    def after_each(self, message: Tensor, receiver_input: Any) -> Tensor:
        """See :meth:`gsrl.comms.Receiver.after_each`."""
        return self._answers(message, receiver_input, [member.after_each for member in self.members])

    def _answers(self, message: Tensor, receiver_input: Any, calls: Sequence[Any]) -> Tensor:
        order, seen = receiver_input
        heard = message.index_select(-4, order).unbind(-4)
        own = [None] * len(calls) if seen is None else seen.index_select(0, order).unbind(0)
        answers = torch.stack([call(x, y) for call, x, y in zip(calls, heard, own, strict=True)], -3)
        return answers.index_select(-3, order.argsort())


class Dialogue(nn.Module):
    """Two speakers in turns, each of whom hears all that is said: a :class:`gsrl.comms.Sender`.

    The message is the whole dialogue; its noise befalls what the receiver hears of it, not what the speakers do.

    Args:
        first: The sender that begins.
        second: The one that replies.
        features: How many of the numbers in ``sender_input`` are the first one's, and the second one's.
        length: Symbols of each turn.

    Example:
        >>> from gsrl import comms
        >>> asks, replies = comms.RecurrentSender(2, 3), comms.RecurrentSender(8, 3)
        >>> dialogue = Dialogue(asks, replies, features=(2, 8))
        >>> comms.Channel(3, length=2).send(dialogue, torch.zeros(1, 10)).symbols.shape  # a question and an answer
        torch.Size([1, 2, 3])
    """

    def __init__(self, first: nn.Module, second: nn.Module, features: tuple[int, int], length: int = 1) -> None:
        super().__init__()
        self.first: Any = first
        self.second: Any = second
        self.features, self.length = features, length

    def start(self, sender_input: Tensor) -> tuple[Any, Any, int]:
        """Both states, and the position: see :meth:`gsrl.comms.Sender.start`."""
        first, second = sender_input.split(self.features, -1)
        return self.first.start(first), self.second.start(second), 0

    def step(self, state: tuple[Any, Any, int], previous: Tensor | None) -> tuple[Tensor, tuple[Any, Any, int]]:
        """The logits of whose turn it is: see :meth:`gsrl.comms.Sender.step`."""
        first, second, position = state
        first_logits, first = self.first.step(first, previous)
        second_logits, second = self.second.step(second, previous)
        is_second = position // self.length % 2
        return second_logits if is_second else first_logits, (first, second, position + 1)
