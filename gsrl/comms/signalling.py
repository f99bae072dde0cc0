"""Training of agents that learn to talk: one game, or many in lock-step."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gsrl import checkpoint
from gsrl._random import default_generator_lent, seed_of, seed_sequence
from gsrl._settings import fixed
from gsrl.checks import NonFiniteError, check_finite, largest
from gsrl.comms.agents import (
    DiscriminationReceiver,
    MLPReceiver,
    MLPSender,
    RecurrentReceiver,
    RecurrentSender,
)
from gsrl.comms.channel import Channel, ChannelNoise, Message
from gsrl.comms.games import DiscriminationGame, Game
from gsrl.comms.protocol import MessageProtocol
from gsrl.comms.topologies import Audience, BroadcastGame, Community, Dialogue, PopulationGame, QuestionGame
from gsrl.learning import Task

__all__ = ["Evaluation", "SignallingGame", "SignallingLoss"]

Agent: TypeAlias = str | nn.Module | Callable[[], nn.Module]
"""A name, ``"mlp"``, ``"gru"`` or ``"lstm"``; a function that makes one; or, for a single game, the module itself."""

AGENTS = ("mlp", "gru", "lstm")

SAMPLED_EPISODES = 10_000
"""Episodes of an evaluation that cannot list them."""

LOGGED_EPISODES = 1_000
"""Episodes of those in the middle of the training."""


class SignallingLoss(nn.Module):
    """The expected cost of a game between two agents, as :class:`gsrl.learning.Learner` minimises it.

    Args:
        game: What is played.
        sender: See :class:`gsrl.comms.Sender`.
        receiver: See :class:`gsrl.comms.Receiver`.
        channel: Between them.

    Example:
        >>> from gsrl import comms
        >>> game, channel = comms.LewisGame(4), comms.Channel(3)
        >>> loss = SignallingLoss(game, comms.MLPSender(4, 3), comms.MLPReceiver(3, 4), channel)
        >>> batch, noise = game.inputs(), channel.draw_noise((4,))
        >>> value, metrics = loss(batch.sender_input, batch.receiver_input, batch.target, noise)
        >>> value.shape, sorted(metrics)
        (torch.Size([]), ['cost', 'diversity', 'entropy', 'length'])
    """

    def __init__(self, game: Game, sender: nn.Module, receiver: nn.Module, channel: Channel) -> None:
        super().__init__()
        self.game = game
        self.sender: Any = sender
        self.receiver: Any = receiver
        self.channel = channel

    def forward(
        self, sender_input: Tensor, receiver_input: Any, target: Tensor, noise: ChannelNoise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cost of a batch, less the bonus of the sender's entropy; and means as metrics."""

        def cost(message: Message) -> Tensor:
            return message.cost(self.receiver, receiver_input, lambda output: self.game.cost(output, target))

        estimate = self.channel.expectation(self.sender, sender_input, cost, noise)
        return self.channel.loss(estimate), {k: v.detach().mean() for k, v in estimate._asdict().items()}


@dataclass(frozen=True)
class Evaluation:
    """How ``S`` games went, with hard messages: ``N`` episodes each.

    Example:
        >>> from gsrl import comms
        >>> evaluation = SignallingGame(comms.LewisGame(3), comms.Channel(4), seeds=[0]).evaluate()
        >>> evaluation.messages.shape, evaluation.meanings.shape  # a game, three meanings
        ((1, 3, 1), (1, 3, 1))
        >>> evaluation.probabilities
        array([0.33333333, 0.33333333, 0.33333333])
    """

    accuracy: NDArray[np.float64]
    """Share of the right answers ``[S]``, each episode by its probability."""
    cost: NDArray[np.float64]
    """Mean cost of the answers ``[S]``, without that of the length."""
    mean_length: NDArray[np.float64]
    """Mean number of symbols before the end ``[S]``."""
    correct: NDArray[np.bool_]
    """Which answers were right, ``[S, N]``."""
    messages: NDArray[np.int64]
    """As they were sent, ``[S, N, L]``. With an end symbol, that is 0, and so is all that follows it."""
    lengths: NDArray[np.int64]
    """Symbols before the end, ``[S, N]``."""
    meanings: NDArray[np.int64]
    """Values of the attributes, ``[S, N, A]``."""
    probabilities: NDArray[np.float64]
    """Weight of each episode ``[N]``; they sum to 1."""


@fixed("seeds", "game", "channel", "sender", "receiver", "hidden", "batch_size", "learning_rate", "max_grad_norm")
class SignallingGame(Task):
    """A game between agents that learn to talk; with ``seeds``, as many games in lock-step, each by itself.

    What is trained is a sender, a receiver and what the channel learns, by Adam on the game's cost; how the gradient
    gets from the receiver to the sender is the channel's estimator. A game has the initialisation and the random
    numbers of its seed, and so does not depend on its company but by rounding.

    Args:
        game: What is played.
        channel: Between the agents; each game gets a copy of it.
        sender: Network of the sender: ``"mlp"``, which chooses all symbols at once, ``"gru"`` or ``"lstm"``; or a
            function that makes a :class:`gsrl.comms.Sender`; for a single game, also the module itself.
        receiver: Network of the receiver: ``"mlp"``, ``"gru"`` or ``"lstm"``; or a function that makes a
            :class:`gsrl.comms.Receiver`; for a single game, also the module itself.
        seed: Of a single game; None: entropy of the operating system.
        seeds: Of each of several games.
        batch_size: Episodes of an update.
        learning_rate: Adam's step size, or a function of the share of the training that remains, from 1 down to 0.
        hidden: Width of the agents that are made by name.
        max_grad_norm: Largest norm of the gradient of each agent, and of the channel; None: no clipping.
        device: Of the networks.
        compile: Whether the update is compiled, see :class:`gsrl.learning.Learner`.
        tensorboard_log: Folder for TensorBoard; None: there is no log.
        verbose: 1: what is logged is printed, of the first game.

    Attributes:
        seeds: As a list; that of a single game too.
        lockstep: The games: their losses, learners and generators, and who still learns.
        num_updates: Updates so far.
        history: What evaluations along the way have found: ``updates``, ``samples`` and ``accuracy``, one a game.
        loggers: Of each game, while and after it learns.

    Raises:
        TypeError: An argument is of another kind.
        ValueError: An argument is out of its range, or the agents do not fit the game or the channel.

    Example:
        >>> from gsrl import comms
        >>> games = SignallingGame(comms.LewisGame(3), comms.Channel(3), seeds=range(2))
        >>> games.learn(1).evaluate().accuracy.shape
        (2,)
    """

    unit, score, member = "sample", "accuracy", "game"
    advanced = ("channel", "cost")

    def __init__(
        self,
        game: Game,
        channel: Channel,
        sender: Agent = "mlp",
        receiver: Agent = "mlp",
        *,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        batch_size: int = 128,
        learning_rate: float | Callable[[float], float] = 1e-2,
        hidden: int = 64,
        max_grad_norm: float | None = None,
        device: torch.device | str = "auto",
        compile: bool = False,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        _saved: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if not isinstance(game, Game):
            raise TypeError(f"game must be a gsrl.comms.Game, but got {type(game).__name__}.")
        if not isinstance(channel, Channel):
            raise TypeError(f"channel must be a gsrl.comms.Channel, but got {type(channel).__name__}.")
        if (seeds is not None and seed is not None) or (seeds is not None and not len(seeds)):
            raise ValueError(f"give seed, or seeds with at least one, but got seed={seed}, seeds={seeds}.")
        if seed is not None and seed < 0:
            raise ValueError(f"seed must be at least 0, but got {seed}.")
        if not isinstance(hidden, int) or isinstance(hidden, bool) or hidden < 1:
            raise ValueError(f"hidden must be an integer of at least 1, but got {hidden!r}.")
        self.game, self.channel = game, channel
        self.sender, self.receiver, self.hidden = sender, receiver, hidden
        self.is_single = seeds is None
        own: Sequence[int] = [_entropy() if seed is None else seed] if seeds is None else seeds
        super().__init__(
            own,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
            device=device,
            compile=compile,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            make_generator=lambda each: torch.Generator().manual_seed(seed_of(_sequences(each)[1])),
            alone=self.is_single,
            _saved=_saved,
        )

    # Construction

    def make_loss(self, seed: int) -> SignallingLoss:
        """The loss of a game, with its agents."""
        with default_generator_lent(seed_of(_sequences(seed)[0])):
            sender, receiver = self._make_agent("sender"), self._make_agent("receiver")
        loss = SignallingLoss(self.game, sender, receiver, copy.deepcopy(self.channel)).to(self.device)
        if seed == self.seeds[0]:
            self._check(loss)
        return loss

    def check_saved(self, members: Sequence[Mapping[str, Any]]) -> None:
        """Compares the agents of these settings with saved ones, see :meth:`gsrl.learning.Task.check_saved`."""
        agents = [_renamed(member)["loss"] for member in members]
        stored = checkpoint.Stored.of(agents)
        channel = {name: getattr(self.channel, name) for name in ("vocabulary", "length")}
        stored.check({"hidden": self.hidden, **channel})
        if self.batch_size > checkpoint.SMALL or channel["length"] * self.channel.width > checkpoint.SMALL:
            raise ValueError(f"batch_size {self.batch_size} and channel {channel} are too large for a file")
        game: Any = self.game
        while isinstance(game, Game):
            parts = [getattr(game, name) for name in ("size", "receivers", "candidates") if hasattr(game, name)]
            if max(parts, default=0) > max(stored.tensors, 64):
                raise ValueError(f"{type(game).__name__} is of {max(parts)}, which the agents there are not")
            game = getattr(game, "game", None)

        def make() -> nn.Module:
            return nn.ModuleDict({"sender": self._make_agent("sender"), "receiver": self._make_agent("receiver")})

        for index, each in enumerate(agents):
            checkpoint.check_module(each, make, f"members.{index}.loss")

    def _make_agent(self, role: str) -> nn.Module:
        agent = getattr(self, role)
        if isinstance(agent, nn.Module):
            if not self.is_single:
                raise ValueError(f"{role} must be a function that makes one, for there are several, but got a module.")
            return agent
        if isinstance(agent, str) and agent in AGENTS:
            return self._make_sender(self.game, agent) if role == "sender" else self._make_receiver(self.game, agent)
        made = agent() if callable(agent) else None
        if not isinstance(made, nn.Module):
            raise TypeError(f"{role} must be one of {AGENTS}, or a function that makes a module, but got {agent!r}.")
        return made

    def _make_sender(self, game: Game, name: Any) -> nn.Module:
        if isinstance(game, PopulationGame):
            return Community([self._make_sender(game.game, name) for _ in range(game.size)])
        features, symbols = game.sender_features, self.channel.symbols
        if isinstance(game, QuestionGame):
            if name == "mlp":
                raise ValueError(
                    "sender must be 'gru' or 'lstm' in a QuestionGame, to hear the question, but got 'mlp'."
                )
            if self.channel.length < 2:
                raise ValueError(
                    "length must be at least 2 in a QuestionGame, for a question and an answer, but the channel's is "
                    f"{self.channel.length}."
                )
            shares = (game.attributes, features - game.attributes)
            first, second = (RecurrentSender(share, symbols, self.hidden, name) for share in shares)
            return Dialogue(first, second, shares)
        if name == "mlp":
            return MLPSender(features, symbols, self.channel.length, self.hidden)
        return RecurrentSender(features, symbols, self.hidden, name)

    def _make_receiver(self, game: Game, name: Any) -> nn.Module:
        if isinstance(game, PopulationGame):
            return Community([self._make_receiver(game.game, name) for _ in range(game.size)])
        if isinstance(game, BroadcastGame):
            return Audience([self._make_receiver(game.game, name) for _ in range(game.receivers)])
        points = isinstance(game, DiscriminationGame)
        outputs = self.hidden if points else game.outputs
        features = 0 if points else game.receiver_features
        width, length = self.channel.width, self.channel.length
        receiver: nn.Module
        if name == "mlp":
            receiver = MLPReceiver(width, outputs, length, features, self.hidden)
        else:
            receiver = RecurrentReceiver(width, outputs, features, self.hidden, name)
        return DiscriminationReceiver(receiver, game.receiver_features, outputs) if points else receiver

    @torch.no_grad()
    def _check(self, loss: SignallingLoss) -> None:
        """Refuses agents that do not fit, before anything is trained."""
        game, channel = self.game, self.channel
        generator = torch.Generator().manual_seed(0)
        count = game.sample(self.batch_size, generator).sender_input.shape[:-1].numel()
        if count != self.batch_size:  # num_samples would not be true
            raise ValueError(
                f"batch_size must be a number of episodes that {type(game).__name__} can draw, such as {count}, but "
                f"got {self.batch_size}. A population draws a multiple of its size."
            )
        batch = _to(game.sample(2, generator), self.device)
        check_finite(batch.sender_input, batch.sender_input.shape[:-1], "sender_input")
        given = (batch.sender_input.shape[-1], game.sender_features)
        if given[0] != given[1]:
            raise ValueError(f"game must give senders its sender_features, {given[1]} numbers, but gives {given[0]}.")
        shape = tuple(batch.sender_input.shape[:-1])
        said = _shape_of(
            "sender",
            f"inputs of the game, {tuple(batch.sender_input.shape)}",
            lambda: loss.sender.step(loss.sender.start(batch.sender_input), None)[0],
        )
        if said != (*shape, channel.symbols):
            raise ValueError(
                f"sender must choose among the channel's {channel.symbols} symbols, with logits of shape "
                f"{(*shape, channel.symbols)}, but gives {said}."
            )
        message = torch.zeros(*shape, channel.length, channel.width, device=self.device)
        answered = _shape_of(
            "receiver",
            f"the channel's messages, {tuple(message.shape)} with its width of {channel.width}",
            lambda: loss.receiver(message, batch.receiver_input),
        )
        if answered != (*shape, game.outputs):
            raise ValueError(
                f"receiver must answer with the game's {game.outputs} outputs, in the shape {(*shape, game.outputs)}, "
                f"but gives {answered}."
            )
        priced = _shape_of(
            "game",
            f"answers of its own {game.outputs} outputs",
            lambda: game.cost(torch.zeros(answered, device=self.device), batch.target),
        )
        if priced != shape:
            raise ValueError(f"game must give each episode a cost, in the shape {shape}, but gives {priced}.")
        noise = channel.draw_noise(shape, generator)
        loss(*batch[:3], _to(noise, self.device))  # an estimator that does not fit the channel says so

    # Training

    @property
    def num_samples(self) -> int:
        """Episodes of each game so far."""
        return self.steps

    def learn(  # type: ignore[override]
        self,
        updates: int,
        callback: Callable[[SignallingGame], bool | None] | None = None,
        *,
        log_interval: int = 100,
        stop: float | None = None,
        progress_bar: bool = False,
        tb_log_name: str = "signalling",
        reset_num_updates: bool = False,
        total: int | None = None,
    ) -> Self:
        """Trains for some more updates.

        Args:
            updates: How many.
            callback: Called with this object after every evaluation; returning False ends the training.
            log_interval: Updates between two evaluations, which are logged and added to :attr:`history`.
            stop: An accuracy: the training ends once an evaluation of each game has reached it.
            progress_bar: Whether a progress bar is shown, of episodes; needs tqdm.
            tb_log_name: Name of the run in TensorBoard.
            reset_num_updates: Whether updates are counted from 0, and the history begins anew.
            total: Episodes of the whole training, see :meth:`gsrl.learning.Task.learn`.

        Returns:
            This object.

        Raises:
            FloatingPointError: The cost of a single game is not finite.
        """
        if reset_num_updates:
            self.num_updates, self.history, self.loggers = 0, [], []

        def goes_on(games: SignallingGame) -> bool:
            if callback is not None and callback(games) is False:
                return False
            return stop is None or not np.isfinite(games.samples_to(stop)).all()

        return super().learn(
            updates * self.batch_size,
            goes_on,
            total=total,
            log_interval=log_interval,
            progress_bar=progress_bar,
            tb_log_name=tb_log_name,
        )

    def collect(self) -> tuple[Any, ...]:
        """Episodes and noise of an update; of several games with a leading dimension of them."""
        game, count, generators = self.game, self.batch_size, self.lockstep.generators
        if self.is_single:
            batch = game.sample(count, generators[0])
            noise = self.channel.draw_noise(batch.sender_input.shape[:-1], generators[0])
        else:
            # Meanings are all there is to an episode, unless a game draws otherwise.
            if game.exhaustive and type(game).sample is Game.sample:
                batch = game.batch(torch.stack([game.draw(count, generator) for generator in generators]), None)
            else:
                batch = tree_map(_stacked, *(game.sample(count, generator) for generator in generators))
            noise = self.channel.draw_noise_in_lockstep(batch.sender_input.shape[1:-1], generators)
        args: tuple[Any, ...] = (*batch[:3], noise)
        return args if self.device.type == "cpu" else _to(args, self.device)

    def samples_to(self, accuracy: float) -> NDArray[np.float64]:
        """Episodes until an evaluation in :attr:`history` first reached an accuracy, of each game; infinite: never."""
        reached = np.full(len(self.seeds), np.inf)
        for row in reversed(self.history):
            reached[np.array(row["accuracy"]) >= accuracy] = row["samples"]
        return reached

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """Accuracy, cost and length of messages."""
        result = self.evaluate(episodes=None if self._lists_episodes else LOGGED_EPISODES)
        return {name: getattr(result, name) for name in ("accuracy", "cost", "mean_length")}

    def _logged_at(self) -> int:
        return self.num_updates

    # Execution

    @property
    def _lists_episodes(self) -> bool:
        return self.game.exhaustive and not self.channel.is_noisy

    def agents(self, index: int = 0) -> SignallingLoss:
        """The sender, receiver and channel of a game, as they are trained, of these names."""
        loss: SignallingLoss = self.lockstep.losses[index]
        return loss

    def evaluate(  # type: ignore[override]
        self,
        split: str = "train",
        episodes: int | None = None,
        *,
        scramble: bool = False,
        deterministic: bool = True,
        seed: int = 0,
    ) -> Evaluation:
        """Plays with hard messages, without learning.

        Where a meaning is all there is to an episode, each meaning is played once and counts by its probability.
        Otherwise (a game with random candidates, a noisy channel, scrambled or sampled messages, or where ``episodes``
        says so) episodes are drawn; they are the same at each call.

        Args:
            split: Of the meanings: ``"train"``, ``"held_out"`` or ``"all"``.
            episodes: How many are drawn.
            scramble: Whether receivers hear messages of other episodes: what they get right then, they have not
                learned from the messages.
            deterministic: Whether the most probable symbols are sent; otherwise they are sampled.
            seed: Of the episodes and the noise, beside the game's own.

        Raises:
            gsrl.checks.NonFiniteError: A parameter of a single game is not finite. One of several games is frozen.
            ValueError: ``episodes`` is below 1, ``seed`` is below 0, or there are no such meanings.
        """
        if episodes is not None and (not isinstance(episodes, int) or episodes < 1):
            raise ValueError(f"episodes must be None, or an integer of at least 1, but got {episodes!r}.")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, but got {seed}.")
        listed = episodes is None and self._lists_episodes and deterministic and not scramble
        count = SAMPLED_EPISODES if episodes is None else episodes
        how: dict[str, Any] = {"split": split, "listed": listed, "scramble": scramble, "deterministic": deterministic}
        results = []
        for index, is_alive in enumerate(self.lockstep.alive.tolist()):
            try:
                results.append(self.play(index, count, seed, **how, validate_args=is_alive))
            except NonFiniteError:
                if self.is_single:
                    raise
                self.lockstep.alive[index] = False  # the others go on
                results.append(self.play(index, count, seed, **how, validate_args=False))
        self._report_diverged()
        columns = {name: np.stack([result[name] for result in results]) for name in results[0]}
        count = columns["correct"].shape[1]
        weights = self.game.probabilities(split).double().numpy() if listed else np.full(count, 1 / count)
        return Evaluation(
            accuracy=1 - ~columns["correct"] @ weights,  # exactly 1 where all are right
            cost=columns.pop("cost") @ weights,
            mean_length=columns["lengths"] @ weights,
            probabilities=weights,
            **columns,
        )

    @torch.no_grad()
    def play(
        self,
        index: int,
        episodes: int,
        seed: int,
        *,
        split: str = "train",
        listed: bool = False,
        scramble: bool = False,
        deterministic: bool = True,
        validate_args: bool = True,
    ) -> dict[str, NDArray[Any]]:
        """How the episodes of a game went, of those fields of an :class:`Evaluation` that are one an episode; and cost.

        Args:
            index: Of the game.
            episodes: How many are drawn.
            seed: Of the draws.
            split: See :meth:`evaluate`.
            listed: Whether each meaning is played once instead.
            scramble: Whether receivers hear messages of other episodes.
            deterministic: Whether the most probable symbols are sent; otherwise they are sampled.
            validate_args: Whether what is not finite is an error.
        """
        loss = self.agents(index)
        generator = torch.Generator().manual_seed(seed_of(seed_sequence(self.seeds[index], "evaluation", seed)))
        batch = self.game.inputs(split) if listed else self.game.sample(episodes, generator, split)
        on_device = _to(batch, self.device)
        how = {"deterministic": deterministic, "validate_args": validate_args}
        message = loss.channel.send(loss.sender, on_device.sender_input, generator, **how)
        heard = message
        if scramble:
            order = torch.randperm(message.received.shape[-3], generator=generator).to(self.device)
            ends = None if message.ends is None else message.ends.index_select(-1, order)
            heard = message._replace(received=message.received.index_select(-3, order), ends=ends)
        output = heard.read(loss.receiver, on_device.receiver_input)
        if validate_args:
            largest(output.unsqueeze(-2), heard.received, loss.receiver)
        symbols = message.symbols.argmax(-1)
        lengths = message.length.long()
        if self.channel.variable_length:
            symbols[torch.arange(self.channel.length, device=self.device) >= lengths.unsqueeze(-1)] = 0
        flat = batch.sender_input.dim() - 2  # batch dimensions become one
        return {
            "correct": self.game.correct(output, on_device.target).flatten().cpu().numpy(),
            "cost": self.game.cost(output, on_device.target).double().flatten().cpu().numpy(),
            "messages": symbols.flatten(0, flat).cpu().numpy(),
            "lengths": lengths.flatten().cpu().numpy(),
            "meanings": batch.meaning.flatten(0, flat).numpy(),
        }

    def protocol(self, index: int = 0, split: str = "all") -> MessageProtocol:
        """The language of a game: which message stands for which meanings.

        Args:
            index: Of the game.
            split: Of the meanings.
        """
        result = self.evaluate(split)
        return MessageProtocol.of_episodes(
            result.messages[index],
            result.lengths[index],
            result.meanings[index],
            result.correct[index],
            result.probabilities,
        )

    # State

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state, see :meth:`gsrl.learning.Task.load_state_dict`."""
        checkpoint.check_entries(state, {"members": None})
        super().load_state_dict({**state, "members": [_renamed(member) for member in state["members"]]})

    def settings(self) -> dict[str, Any]:
        """What a file holds beside the state; a game or agent that is not gsrl's own by its name alone."""
        names = ("sender", "receiver", "is_single", "seeds", "batch_size", "learning_rate", "hidden", "max_grad_norm")
        own = {name: getattr(self, name) for name in names}
        return {"game": _described(self.game), "channel": self.channel.settings, **own}

    @classmethod
    def of_saved(cls, tree: Mapping[str, Any], *given: Any, **how: Any) -> Self:
        """Games with the settings of a file."""
        seeds = {"seed": tree["seeds"][0]} if tree["is_single"] else {"seeds": tree["seeds"]}
        names = ("sender", "receiver", "batch_size", "learning_rate", "hidden", "max_grad_norm")
        own: dict[str, Any] = {**seeds, **{name: tree[name] for name in names}, **how}
        return cls(_made(tree["game"]), Channel(**tree["channel"]), *given, **own)


def _shape_of(role: str, what: str, call: Callable[[], Tensor]) -> tuple[int, ...]:
    """The shape that an agent returns; one error if it cannot take what it is given."""
    try:
        return tuple(call().shape)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{role} must take {what}, but cannot: {reason}.") from error


def _described(game: Game) -> dict[str, Any]:
    """A game, and those within, as classes and settings."""
    settings = {name: _described(x) if isinstance(x, Game) else x for name, x in game.settings.items()}
    return {"class": type(game), "settings": settings}


def _made(game: Any) -> Any:
    """The game of which this is the description."""
    if not isinstance(game, dict):
        return game
    if not (isinstance(game["class"], type) and issubclass(game["class"], Game)):
        raise TypeError(f"game must be of a class of gsrl.comms.Game, but is of {game['class']!r}")
    return game["class"](**{name: _made(x) if name == "game" else x for name, x in game["settings"].items()})


def _stacked(*leaves: Any) -> Any:
    """One leaf of the trees of all games, with a leading dimension of them."""
    return torch.stack(leaves) if isinstance(leaves[0], Tensor) else leaves[0]


def _to(tree: Any, device: torch.device) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)


def _renamed(member: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of a member, in which losses were called agents."""
    return {"loss": member["agents"], **member} if "agents" in member else member


def _sequences(seed: int) -> list[np.random.SeedSequence]:
    """What the initialisation and the episodes of a game come from."""
    return np.random.SeedSequence(seed).spawn(2)


def _entropy() -> int:
    """A seed of the operating system's choosing."""
    return secrets.randbits(63)
