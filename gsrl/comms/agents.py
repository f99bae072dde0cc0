"""Senders and receivers: networks that may be exchanged for any others that keep the two protocols."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "DiscriminationReceiver",
    "MLPReceiver",
    "MLPSender",
    "Receiver",
    "RecurrentReceiver",
    "RecurrentSender",
    "Sender",
]

Cell = Literal["gru", "lstm"]


class Sender(Protocol):
    """A module that speaks, symbol by symbol. Batch dimensions may be any, and rows are treated independently.

    For many games in lock-step it must bear ``torch.func.vmap``, which ``torch.nn.GRU`` and ``LSTM`` do not.

    Example:
        >>> from gsrl import comms
        >>> class Parrot(nn.Module):  # says what it sees, at each position
        ...     def start(self, sender_input):
        ...         return sender_input
        ...
        ...     def step(self, state, previous):
        ...         return state, state
        >>> comms.Channel(3, length=2).send(Parrot(), torch.eye(3)[[2]]).symbols.argmax(-1)
        tensor([[2, 2]])
    """

    def start(self, sender_input: Tensor) -> Any:
        """Maps what it sees, ``[*batch, sender_features]``, to its state: a tensor or a tree of tensors."""

    def step(self, state: Any, previous: Tensor | None) -> tuple[Tensor, Any]:
        """Chooses the next symbol.

        Args:
            state: What the last step left.
            previous: The symbol before, ``[*batch, symbols]``, one-hot or soft; None: this is the first one. It may
                have dimensions in front of the state's, for several messages of the same input.

        Returns:
            Logits ``[*batch, symbols]``, and the new state.
        """


class Receiver(Protocol):
    """A module that hears a message and answers. Batch dimensions may be any, and rows are treated independently.

    Example:
        >>> class First(nn.Module):  # answers with the first symbol
        ...     def forward(self, message, receiver_input):
        ...         return message[..., 0, :]
        ...
        ...     def after_each(self, message, receiver_input):
        ...         return message[..., :1, :].movedim(-2, 0).expand(message.shape[-2], *message[..., 0, :].shape)
        >>> First()(torch.eye(3).unsqueeze(0), None)  # of the message 0, 1, 2
        tensor([[1., 0., 0.]])
    """

    def __call__(self, message: Tensor, receiver_input: Any) -> Tensor:
        """What it answers at the end of a message.

        Args:
            message: ``[*lead, *batch, L, width]``, one-hot or soft rows.
            receiver_input: What it sees beside, ``[*batch, ...]``; None: nothing.

        Returns:
            ``[*lead, *batch, outputs]``.
        """

    def after_each(self, message: Tensor, receiver_input: Any) -> Tensor:
        """What it would answer if the message ended at each position, ``[L, *lead, *batch, outputs]``.

        Only channels of variable length ask for it.
        """


class MLPSender(nn.Module):
    """A multilayer perceptron that chooses all symbols at once, independently of one another: see :class:`Sender`.

    Args:
        features: Numbers that it sees.
        symbols: Choices at each position, :attr:`gsrl.comms.Channel.symbols`.
        length: Positions.
        hidden: Width of the hidden layer.

    Example:
        >>> sender = MLPSender(features=4, symbols=3, length=2)
        >>> logits, state = sender.step(sender.start(torch.eye(4)), None)
        >>> logits.shape, len(state)  # of the first symbol of four messages; one more is to come
        (torch.Size([4, 3]), 1)
    """

    def __init__(self, features: int, symbols: int, length: int = 1, hidden: int = 64) -> None:
        super().__init__()
        self.symbols = symbols
        self.network = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, length * symbols))

    def start(self, sender_input: Tensor) -> tuple[Tensor, ...]:
        """The logits of all positions: see :meth:`Sender.start`."""
        return self.network(sender_input).split(self.symbols, -1)

    def step(self, state: tuple[Tensor, ...], previous: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The logits of the next position: see :meth:`Sender.step`."""
        return state[0], state[1:]


class MLPReceiver(nn.Module):
    """A multilayer perceptron that sees all positions side by side: see :class:`Receiver`.

    Args:
        width: Columns of each symbol, :attr:`gsrl.comms.Channel.width`.
        outputs: Numbers that it answers with.
        length: Positions.
        features: Numbers that it sees beside the message; 0: it sees nothing else.
        hidden: Width of the hidden layer.

    Example:
        >>> message = torch.eye(3)[torch.tensor([[0, 2], [1, 1]])]  # two messages of two symbols
        >>> MLPReceiver(width=3, outputs=5, length=2)(message, None).shape
        torch.Size([2, 5])
    """

    def __init__(self, width: int, outputs: int, length: int = 1, features: int = 0, hidden: int = 64) -> None:
        super().__init__()
        self.features = features
        self.network = nn.Sequential(
            nn.Linear(length * width + features, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, message: Tensor, receiver_input: Tensor | None) -> Tensor:
        """See :meth:`Receiver.__call__`."""
        return self.network(_beside(message.flatten(-2), receiver_input if self.features else None))

    def after_each(self, message: Tensor, receiver_input: Tensor | None) -> Tensor:
        """Answers to each beginning of the message, with zeros in the place of the rest: see :class:`Receiver`."""
        length = message.shape[-2]
        heard = torch.ones(length, length, dtype=message.dtype, device=message.device).tril()
        beginnings = heard.view(length, *[1] * (message.dim() - 2), length, 1) * message
        return self(beginnings, receiver_input)


class RecurrentSender(nn.Module):
    """A recurrent network that hears its own symbols: see :class:`Sender`.

    What it sees becomes the first hidden state; a symbol goes into the cell as it is, which is to embed it.

    Args:
        features: Numbers that it sees.
        symbols: Choices at each position, :attr:`gsrl.comms.Channel.symbols`.
        hidden: Size of the state.
        cell: ``"gru"`` or ``"lstm"``.

    Raises:
        ValueError: ``cell`` is another word.

    Example:
        >>> from gsrl import comms
        >>> sender = RecurrentSender(features=4, symbols=3)
        >>> comms.Channel(3, length=6).send(sender, torch.eye(4)).symbols.shape
        torch.Size([4, 6, 3])
    """

    def __init__(self, features: int, symbols: int, hidden: int = 64, cell: Cell = "gru") -> None:
        super().__init__()
        self.symbols = symbols
        self.read = nn.Linear(features, hidden)
        self.cell = _make_cell(cell, symbols, hidden)
        self.choose = nn.Linear(hidden, symbols)

    def start(self, sender_input: Tensor) -> tuple[Tensor, ...]:
        """The cell's state: see :meth:`Sender.start`."""
        return self.cell.first(self.read(sender_input))

    def step(self, state: tuple[Tensor, ...], previous: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step of the cell: see :meth:`Sender.step`."""
        if previous is None:
            previous = state[0].new_zeros(*state[0].shape[:-1], self.symbols)
        state = self.cell(previous, state)
        return self.choose(state[0]), state


class RecurrentReceiver(nn.Module):
    """A recurrent network that hears a message symbol by symbol: see :class:`Receiver`.

    Args:
        width: Columns of each symbol, :attr:`gsrl.comms.Channel.width`.
        outputs: Numbers that it answers with.
        features: Numbers that it sees beside the message, from which its first state is made; 0: it sees nothing else.
        hidden: Size of the state.
        cell: ``"gru"`` or ``"lstm"``.

    Raises:
        ValueError: ``cell`` is another word.

    Example:
        >>> receiver, message = RecurrentReceiver(width=3, outputs=5), torch.eye(3)[None]  # the message 0, 1, 2
        >>> receiver.after_each(message, None).shape  # its answers after one, two and three symbols
        torch.Size([3, 1, 5])
        >>> torch.allclose(receiver.after_each(message, None)[-1], receiver(message, None))
        True
    """

    def __init__(self, width: int, outputs: int, features: int = 0, hidden: int = 64, cell: Cell = "gru") -> None:
        super().__init__()
        self.hidden = hidden
        self.read = nn.Linear(features, hidden) if features else None
        self.cell = _make_cell(cell, width, hidden)
        self.answer = nn.Linear(hidden, outputs)

    def forward(self, message: Tensor, receiver_input: Tensor | None) -> Tensor:
        """See :meth:`Receiver.__call__`."""
        return self.answer(self._states(message, receiver_input)[-1])

    def after_each(self, message: Tensor, receiver_input: Tensor | None) -> Tensor:
        """See :meth:`Receiver.after_each`."""
        return self.answer(torch.stack(self._states(message, receiver_input)))

    def _states(self, message: Tensor, receiver_input: Tensor | None) -> list[Tensor]:
        """Hidden states after each symbol, ``[*batch, hidden]``."""
        batch = message.shape[:-2]
        if self.read is None or receiver_input is None:
            hidden = message.new_zeros(*batch, self.hidden)
        else:
            hidden = self.read(receiver_input).expand(*batch, self.hidden)
        state, states = self.cell.first(hidden), []
        for symbol in message.unbind(-2):
            state = self.cell(symbol, state)
            states.append(state[0])
        return states


class DiscriminationReceiver(nn.Module):
    r"""Points at one of several candidates: the one whose embedding fits best to what was heard.

    .. math:: \mathrm{output}_c = h(\text{message}) \cdot W x_c

    Source: Lazaridou et al. 2017 (1612.07182), Section 3.

    Args:
        reader: A :class:`Receiver` with ``embedding`` outputs, which sees the message alone.
        features: Numbers of each candidate.
        embedding: Size of the embeddings.

    Example:
        >>> receiver = DiscriminationReceiver(MLPReceiver(width=3, outputs=8), features=4, embedding=8)
        >>> candidates = torch.eye(4)[None, :2]
        >>> receiver(torch.eye(3)[None, :1], candidates).shape  # a score of each of two candidates
        torch.Size([1, 2])
    """

    def __init__(self, reader: nn.Module, features: int, embedding: int = 64) -> None:
        super().__init__()
        self.reader = reader
        self.embed = nn.Linear(features, embedding, bias=False)  # one would add the same to all scores

    def forward(self, message: Tensor, receiver_input: Tensor) -> Tensor:
        """Scores of the candidates ``[*batch, C, features]``, ``[*lead, *batch, C]``: see :class:`Receiver`."""
        return self._scores(self.reader(message, None), receiver_input)

    def after_each(self, message: Tensor, receiver_input: Tensor) -> Tensor:
        """See :meth:`Receiver.after_each`."""
        reader: Any = self.reader
        return self._scores(reader.after_each(message, None), receiver_input)

    def _scores(self, heard: Tensor, candidates: Tensor) -> Tensor:
        return (self.embed(candidates) @ heard.unsqueeze(-1)).squeeze(-1)


class GRUCell(nn.GRUCell):
    """``torch.nn.GRUCell``, for any batch dimensions and under ``vmap``; its state is a tuple of one tensor."""

    def first(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """The state before the first symbol, from a hidden state ``[*batch, hidden]``."""
        return (hidden,)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Maps symbols ``[*batch, width]`` and the state to the next state."""
        (hidden,) = state
        x_r, x_z, x_n = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, -1)
        h_r, h_z, h_n = F.linear(hidden, self.weight_hh, self.bias_hh).chunk(3, -1)
        candidate = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
        return (candidate + (x_z + h_z).sigmoid() * (hidden - candidate),)


class _LSTMCell(nn.LSTMCell):
    """``torch.nn.LSTMCell``, likewise; its state is the hidden state and the cell's."""

    def first(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """The state before the first symbol, from a hidden state ``[*batch, hidden]``."""
        return hidden, torch.zeros_like(hidden)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Maps symbols ``[*batch, width]`` and the state to the next state."""
        hidden, cell = state
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(hidden, self.weight_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


def _make_cell(name: str, width: int, hidden: int) -> Any:
    if name not in ("gru", "lstm"):
        raise ValueError(f"cell must be 'gru' or 'lstm', but got {name!r}.")
    cell = GRUCell(width, hidden) if name == "gru" else _LSTMCell(width, hidden)
    # A symbol is a single 1 among its columns. Weights for `hidden` inputs would let the cell all but overhear it.
    nn.init.uniform_(cell.weight_ih, -1.0, 1.0)
    return cell


def _beside(message: Tensor, receiver_input: Tensor | None) -> Tensor:
    """A message ``[*lead, *batch, X]`` with what is seen ``[*batch, F]`` beside it."""
    if receiver_input is None:
        return message
    seen = receiver_input.expand(*message.shape[:-1], receiver_input.shape[-1])
    return torch.cat([message, seen], -1)
