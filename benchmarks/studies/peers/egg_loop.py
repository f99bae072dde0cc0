"""EGG's training loop, written anew: what gsrl's signalling games are timed against where EGG is not at hand.

EGG (Kharitonov et al. 2019, 1907.00852; github.com/facebookresearch/EGG) is not on the package index. This has the
shape of its trainer for a game of one symbol, with none of its code: an iterator that draws one-hot meanings with
NumPy, a wrapper that samples the sender's symbol from ``torch.distributions.RelaxedOneHotCategorical`` and passes it
straight through, a game that returns its loss and a record of all that was said, ``torch.optim.Adam``, records that are
moved to the CPU after every batch and joined after every epoch. What EGG does besides (callbacks, distributed training,
mixed precision) is left out.

    python benchmarks/studies/peers/egg_loop.py [--updates 1000] [--seed 0]

trains it on the Lewis game of ten meanings, and prints the share of the right answers, with hard messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import RelaxedOneHotCategorical
from torch.nn import functional as F

from benchmarks.studies.common import start


class Meanings:
    """Batches of one-hot meanings, drawn with NumPy, as a loader of an epoch.

    Args:
        meanings: How many there are.
        batch_size: Of each batch.
        batches: Of an epoch.
        seed: Of the draws.
    """

    def __init__(self, meanings: int, batch_size: int, batches: int, seed: int = 0) -> None:
        self.probabilities = np.full(meanings, 1 / meanings)
        self.batch_size, self.batches = batch_size, batches
        self.rng = np.random.RandomState(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch: meanings ``[B, n]``, and labels that nobody reads."""
        for _ in range(self.batches):
            drawn = self.rng.multinomial(1, self.probabilities, size=self.batch_size)
            yield torch.from_numpy(drawn).float(), torch.zeros(1)


class Sender(nn.Module):
    """A multilayer perceptron with log-probabilities of the symbols."""

    def __init__(self, meanings: int, symbols: int, hidden: int = 64) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(meanings, hidden), nn.ReLU(), nn.Linear(hidden, symbols), nn.LogSoftmax(dim=-1)
        )

    def forward(self, sender_input: Tensor, aux_input: object = None) -> Tensor:
        """``[B, meanings]`` to ``[B, symbols]``."""
        return self.network(sender_input)


class Receiver(nn.Module):
    """A multilayer perceptron with logits of the meanings."""

    def __init__(self, symbols: int, meanings: int, hidden: int = 64) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(symbols, hidden), nn.ReLU(), nn.Linear(hidden, meanings))

    def forward(self, message: Tensor, receiver_input: object = None, aux_input: object = None) -> Tensor:
        """``[B, symbols]`` to ``[B, meanings]``."""
        return self.network(message)


class StraightThroughSender(nn.Module):
    """Samples a symbol in training, and takes the most probable one otherwise."""

    def __init__(self, agent: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        self.agent, self.temperature = agent, torch.tensor(temperature)

    def forward(self, sender_input: Tensor, aux_input: object = None) -> Tensor:
        """One-hot symbols ``[B, symbols]``."""
        logits = self.agent(sender_input, aux_input)
        if not self.training:
            return one_hot(logits)
        soft = RelaxedOneHotCategorical(self.temperature, logits=logits).rsample()
        return one_hot(soft) - soft.detach() + soft


def one_hot(scores: Tensor) -> Tensor:
    """Rows ``[B, K]`` with a 1 at the largest of each."""
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)


class Record(NamedTuple):
    """What went on in a batch."""

    sender_input: Tensor
    message: Tensor
    message_length: Tensor
    receiver_output: Tensor
    accuracy: Tensor

    def to(self, device: str) -> Record:
        """Moves it."""
        return Record(*(part.to(device) for part in self))


def joined(records: list[Record]) -> Record:
    """Those of an epoch as one."""
    return Record(*map(torch.cat, zip(*records, strict=True)))


def right_answers(sender_input: Tensor, receiver_output: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy of each answer, ``[B]``."""
    target = sender_input.argmax(dim=1)
    accuracy = (receiver_output.argmax(dim=1) == target).detach().float()
    return F.cross_entropy(receiver_output, target, reduction="none"), accuracy


class SymbolGame(nn.Module):
    """A sender, a receiver and a loss."""

    def __init__(self, sender: nn.Module, receiver: nn.Module) -> None:
        super().__init__()
        self.sender, self.receiver = sender, receiver

    def forward(self, sender_input: Tensor, labels: Tensor) -> tuple[Tensor, Record]:
        """The mean loss, and a record."""
        message = self.sender(sender_input)
        output = self.receiver(message)
        loss, accuracy = right_answers(sender_input, output)
        length = torch.ones(message.size(0))
        return loss.mean(), Record(sender_input, message.detach(), length, output.detach(), accuracy)


class Trainer:
    """An optimiser's step a batch, and a record of everything.

    Args:
        game: What is trained.
        data: Its loader.
        learning_rate: Of Adam.
    """

    def __init__(self, game: SymbolGame, data: Meanings, learning_rate: float = 1e-2) -> None:
        self.game, self.data = game, data
        self.optimizer = torch.optim.Adam(game.parameters(), lr=learning_rate)

    def train_epoch(self) -> tuple[float, Record]:
        """The mean loss of an epoch, and all that was said."""
        self.game.train()
        self.optimizer.zero_grad()
        total, records = torch.zeros(()), []
        for sender_input, labels in self.data:
            loss, record = self.game(sender_input.to("cpu"), labels.to("cpu"))
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            total = total + loss.detach()
            records.append(record.to("cpu"))
        return (total / len(records)).item(), joined(records)


def make_trainer(
    meanings: int = 10, batch_size: int = 128, hidden: int = 64, batches: int = 100, seed: int = 0
) -> Trainer:
    """A trainer of the Lewis game of as many symbols as meanings, whose epochs have ``batches`` updates."""
    sender = StraightThroughSender(Sender(meanings, meanings, hidden))
    game = SymbolGame(sender, Receiver(meanings, meanings, hidden))
    return Trainer(game, Meanings(meanings, batch_size, batches, seed))


def main(*, updates: int = 1000, seed: int = 0) -> None:
    """Trains it."""
    torch.manual_seed(seed)
    trainer = make_trainer(batches=updates, seed=seed)
    loss, _ = trainer.train_epoch()
    trainer.game.eval()
    with torch.no_grad():
        _, record = trainer.game(torch.eye(10), torch.zeros(1))
    print(f"mean loss {loss:.3f}; {record.accuracy.mean().item():.0%} of the meanings are understood")


if __name__ == "__main__":
    start(main, __doc__)
