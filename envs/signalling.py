"""Signalling games for PettingZoo: the games and the channel of :mod:`gsrl.comms`, for agents of any kind.

A sender sees a meaning and says something; a receiver hears it, as the channel lets it arrive, and answers. An episode
has two steps: in the first one only the sender's action counts, in the second one only the receiver's. Both then get
the reward, 1 for the right answer and 0 for another, less what the channel asks for the length of the message.

| game | the receiver answers with |
|---|---|
| :class:`gsrl.comms.LewisGame`, ``n`` meanings | the meaning, ``Discrete(n)`` |
| :class:`gsrl.comms.AttributeValueGame` | every attribute's value, ``MultiDiscrete([values] * attributes)`` |
| :class:`gsrl.comms.DiscriminationGame` | the right candidate's place, ``Discrete(candidates)`` |

With K messages to choose from, Lewis's game of n meanings is won with probability K/n at best; a channel that erases
one symbol with probability p leaves (1 - p) + p/n, one that substitutes it 1 - p.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv
from torch import Tensor

from gsrl.comms import AttributeValueGame, Channel, DiscriminationGame, Game

__all__ = ["SignallingEnv", "SignallingRounds"]

Ints = NDArray[np.int64]

SENDER, RECEIVER = "sender", "receiver"


class SignallingRounds:
    """Many episodes at once.

    Args:
        game: One of the three.
        channel: What is said has to pass it. Its estimator is of no account here.
        split: Of the game's meanings: ``"train"``, ``"held_out"`` or ``"all"``.

    Attributes:
        meaning_sizes: How many values each number of a meaning has.
        symbol_sizes: How many the sender can choose from at each position: the end symbol, if there is one, is 0.
        heard_sizes: How many values each position has as it is heard: 0 for nothing, the symbols from 1 on, and the
            erased symbol, if there is one, last.
        candidate_sizes: How many values each number has that the receiver sees of the candidates, one after another.
        answer_sizes: How many values each number of an answer has.

    Raises:
        TypeError: ``game`` is another one.
        ValueError: There is no such split, or it is empty.
    """

    def __init__(self, game: Game, channel: Channel, split: str = "train") -> None:
        if not isinstance(game, AttributeValueGame | DiscriminationGame):
            raise TypeError(f"game must be a reconstruction or discrimination game, but got {type(game).__name__}.")
        game.indices(split)
        self.game, self.channel, self.split = game, channel, split
        self.meaning_sizes = [game.values] * game.attributes
        self.symbol_sizes = [channel.symbols] * channel.length
        self.heard_sizes = [1 + channel.vocabulary + (channel.erasure > 0)] * channel.length
        self.candidate_sizes: list[int] = []
        self.answer_sizes = self.meaning_sizes
        if isinstance(game, DiscriminationGame):
            self.candidate_sizes = self.meaning_sizes * game.candidates
            self.answer_sizes = [game.candidates]

    def reset(self, batch_size: int, generator: torch.Generator) -> tuple[Ints, Ints]:
        """Draws meanings ``[B, A]``, and the candidates that receivers see ``[B, C * A]``; C may be 0.

        Args:
            batch_size: ``B``.
            generator: Source of randomness, of what happens on the way too.
        """
        self._generator = generator
        self._batch = self.game.sample(batch_size, generator, self.split)
        candidates = torch.zeros(batch_size, 0)
        if self.candidate_sizes:
            candidates = self._batch.receiver_input.unflatten(-1, (-1, self.game.values)).argmax(-1).flatten(1)
        return self._batch.meaning.numpy(), candidates.long().numpy()

    @torch.no_grad()
    def say(self, symbols: Ints) -> Ints:
        """Sends messages ``[B, L]``, and returns what is heard of them ``[B, L]``: nothing, 0, from the end on."""
        one_hot = _one_hot(torch.from_numpy(symbols), self.channel.symbols)
        noise = self.channel.draw_disturbance(symbols.shape[:1], self._generator)
        message = self.channel.transmit(one_hot, noise)
        self._lengths = message.length.numpy()
        heard = message.received.argmax(-1).numpy() + (not self.channel.variable_length)
        heard[np.arange(self.channel.length) >= self._lengths[:, None]] = 0
        return heard

    def answer(self, answers: Ints) -> NDArray[np.float64]:
        """Returns the rewards ``[B]`` of answers ``[B, len(answer_sizes)]``."""
        one_hot = _one_hot(torch.from_numpy(answers), self.answer_sizes[0]).flatten(1)
        correct = self.game.correct(one_hot, self._batch.target).numpy()
        return correct - self.channel.length_cost * self._lengths.astype(np.float64)


class SignallingEnv(ParallelEnv[str, Any, Any]):
    """One episode at a time, for PettingZoo.

    Spaces are ``Discrete`` where one number is chosen or seen, else ``MultiDiscrete``. The sender observes the meaning.
    The receiver observes what it has heard, 0 before anything was said, and behind it the candidates, if there are any.
    ``info["action_mask"]`` says whose turn it is: who is not to act has one legal choice, 0.

    Args:
        game: See :class:`SignallingRounds`.
        channel: See :class:`SignallingRounds`.
        split: See :class:`SignallingRounds`.
        render_mode: ``"ansi"``: :meth:`render` returns a line about the episode; None: there is nothing to see.
    """

    metadata = {"name": "signalling_v0", "render_modes": ["ansi"]}  # noqa: RUF012 (PettingZoo's own form)

    def __init__(self, game: Game, channel: Channel, split: str = "train", render_mode: str | None = None) -> None:
        self.rounds = rounds = SignallingRounds(game, channel, split)
        self.render_mode = render_mode
        self.possible_agents = [SENDER, RECEIVER]
        self.agents: list[str] = []
        self.observation_spaces: dict[str, spaces.Space[Any]] = {
            SENDER: _space(rounds.meaning_sizes),
            RECEIVER: _space(rounds.heard_sizes + rounds.candidate_sizes),
        }
        self.action_spaces: dict[str, spaces.Space[Any]] = {
            SENDER: _space(rounds.symbol_sizes),
            RECEIVER: _space(rounds.answer_sizes),
        }
        self._generator = torch.Generator()
        self._generator.seed()

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """What an agent sees and hears."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """What an agent says, or answers."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Draws a meaning."""
        if seed is not None:
            self._generator.manual_seed(seed)
        (self._meaning,), (self._candidates,) = self.rounds.reset(1, self._generator)
        self._heard: Ints | None = None
        self._answer: Ints | None = None
        self.agents = list(self.possible_agents)
        return self._observe()

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Lets the sender speak, or the receiver answer.

        Returns:
            Observations, rewards, terminated, truncated and infos.
        """
        reward = 0.0
        if self._heard is None:
            (self._heard,) = self.rounds.say(np.atleast_1d(actions[SENDER])[None])
        else:
            self._answer = np.atleast_1d(actions[RECEIVER])
            reward = float(self.rounds.answer(self._answer[None])[0])
        over = self._answer is not None
        observations, infos = self._observe()
        if over:
            self.agents = []
        both = self.possible_agents
        return observations, dict.fromkeys(both, reward), dict.fromkeys(both, over), dict.fromkeys(both, False), infos

    def render(self) -> str | None:
        """A line about the episode, with ``render_mode="ansi"``."""
        if self.render_mode is None:
            return None
        said, answer = (None if x is None else x.tolist() for x in (self._heard, self._answer))
        return f"meaning {self._meaning.tolist()}, heard {said}, answer {answer}"

    def _observe(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        heard = np.zeros(self.rounds.channel.length, np.int64) if self._heard is None else self._heard
        observations = {
            SENDER: _number(self._meaning),
            RECEIVER: _number(np.concatenate([heard, self._candidates])),
        }
        sizes = {SENDER: self.rounds.symbol_sizes, RECEIVER: self.rounds.answer_sizes}
        turn = SENDER if self._heard is None else RECEIVER
        return observations, {agent: {"action_mask": _mask(sizes[agent], agent == turn)} for agent in self.agents}


def _one_hot(indices: Tensor, count: int) -> Tensor:
    return torch.nn.functional.one_hot(indices.long(), count).float()


def _space(sizes: list[int]) -> spaces.Space[Any]:
    return spaces.Discrete(sizes[0]) if len(sizes) == 1 else spaces.MultiDiscrete(sizes)


def _number(values: Ints) -> Any:
    """What belongs to :func:`_space`."""
    return values[0] if len(values) == 1 else values


def _mask(sizes: list[int], is_on: bool) -> NDArray[np.int8]:
    """All choices of each number, or the first one alone."""
    return np.concatenate([np.arange(size) == 0 if not is_on else np.ones(size, np.bool_) for size in sizes]).astype(
        np.int8
    )
