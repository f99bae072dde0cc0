"""Differentiable inter-agent learning: agents in an environment that learn what to do, and what to tell each other.

Agents with one shared recurrent network act by Q-learning. At every step each also emits a message, which others hear
at the next step. The error of the *listener's* value is differentiated through the message into the *speaker*: the
channel is an estimator of gsrl (``st-gumbel``, ...), in the place of the paper's noise unit, so that messages are
symbols in training too.

An update plays a batch of episodes with the current network, and stores what chance and exploration decided: what was
observed, who could hear whom, the actions, and the noise of the messages. The loss then unrolls the network over these
episodes anew and sends the same messages from the same noise, now with gradients. This is right wherever what is
observed depends on the messages through the actions alone, as what is heard is not part of an observation.

Source: Foerster et al. 2016 (1605.06676), Algorithm 1 and Eqs. 1 and 2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from gsrl import checkpoint
from gsrl._modes import evaluation_mode
from gsrl._random import seed_sequence
from gsrl._settings import fixed, settings_of
from gsrl.checks import as_finite, check_finite, to_numpy
from gsrl.comms.agents import GRUCell
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import RLOO, Estimator, Pathwise, ScoreFunction, make_estimator
from gsrl.estimators.base import draw_noise_in_lockstep
from gsrl.learning import Mapped, Task

__all__ = ["DIAL", "SILENCE", "DIALEvaluation", "DIALLoss", "RecurrentQNetwork", "TalkingEnv", "Turn"]

SILENCE = -1
"""What an ear listens to that hears nobody."""

COMMUNICATIONS = ("dial", "rial", "none")

INPUT_SCALE = 1.0
"""Standard deviation of the weights of what is seen and heard, at first."""

LOGGED_EPISODES = 500
"""Episodes of an evaluation in the middle of the training."""


class Turn(NamedTuple):
    """What ``n`` agents have before them in ``B`` episodes: features, ears and choices.

    Example:
        >>> from gsrl.comms.riddle import SwitchRiddle
        >>> turn = SwitchRiddle(visits=[[0, 1, 2, 0, 1, 2]]).reset(1, np.random.default_rng(0))
        >>> turn.observations.squeeze(-1)  # the first prisoner is in the room
        array([[1., 0., 0.]], dtype=float32)
        >>> turn.masks[0]  # the others have one action
        array([[ True,  True],
               [ True, False],
               [ True, False]])
    """

    observations: NDArray[np.float32]
    """``[B, n, n_features]``, without anything that was said."""
    heard: NDArray[np.int64]
    """Whose message of the step before each ear hears, an agent's index, or :data:`SILENCE`; ``[B, n, n_ears]``."""
    masks: NDArray[np.bool_]
    """Which actions are legal, ``[B, n, n_actions]``; one of each agent at least."""


class TalkingEnv(Protocol):
    """A batch of episodes, in NumPy, of an environment whose agents hear each other.

    It does not see the messages: it says who hears whom. It may have a method ``best_returns() -> [B]``: what the best
    agents there could be, with all knowledge, would get in the episodes of the last reset.

    Example:
        >>> class Guess:  # two agents see a bit each; for a step each hears the other, and is to name the other's bit
        ...     n_agents, n_actions, n_features, n_ears, horizon = 2, 2, 1, 1, 2
        ...
        ...     def reset(self, batch_size, rng):
        ...         self.bits, self.t = rng.integers(2, size=(batch_size, 2)), 0
        ...         return self.turn()
        ...
        ...     def turn(self):
        ...         heard = np.broadcast_to([[1], [0]] if self.t else SILENCE, (*self.bits.shape, 1))
        ...         return Turn(self.bits[..., None].astype(np.float32), heard, np.ones((*self.bits.shape, 2), bool))
        ...
        ...     def step(self, actions):
        ...         rewards = (actions == self.bits[:, ::-1]).astype(np.float32) * (self.t == 1)
        ...         self.t += 1
        ...         return self.turn(), rewards, np.full(len(self.bits), self.t == 2)
        >>> DIAL(Guess, seeds=[0]).evaluate(10).returns.shape
        (1, 10)
    """

    n_agents: int
    """``n``."""
    n_actions: int
    """Of each agent."""
    n_features: int
    """Numbers in an agent's observation."""
    n_ears: int
    """How many others an agent hears at most."""
    horizon: int
    """Steps after which every episode is over."""

    def reset(self, batch_size: int, rng: np.random.Generator) -> Turn:
        """Begins a batch of episodes."""

    def step(self, actions: NDArray[np.int64]) -> tuple[Turn, NDArray[np.float32], NDArray[np.bool_]]:
        """Takes actions ``[B, n]``; returns the next turn, the rewards ``[B, n]``, and which episodes are over ``[B]``.

        Episodes that are over are stepped still, with the others: their rewards are 0.
        """


class RecurrentQNetwork(nn.Module):
    """Values of the actions, and logits of a message, from what an agent has seen and heard so far.

    Args:
        inputs: Numbers that it sees and hears at a step.
        n_actions: Of the agent.
        length: Symbols of a message.
        vocabulary: Kinds of symbols.
        hidden: Width.
        layers: Of gated recurrent units, one on the other.

    Example:
        >>> network = RecurrentQNetwork(inputs=3, n_actions=2, length=1, vocabulary=4, hidden=8, layers=1)
        >>> inputs = torch.zeros(5, 3)
        >>> values, logits, _ = network(inputs, network.first((5,), inputs))
        >>> values.shape, logits.shape
        (torch.Size([5, 2]), torch.Size([5, 1, 4]))
    """

    def __init__(self, inputs: int, n_actions: int, length: int, vocabulary: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.n_actions, self.length, self.vocabulary, self.hidden = n_actions, length, vocabulary, hidden
        cells = [GRUCell(hidden if layer else inputs, hidden) for layer in range(layers)]
        # Inputs are few, and most are one-hot. At the usual scale, 1 / sqrt(hidden), states would hardly differ by what
        # is seen and heard: agents that say nothing, and are not listened to, are long in learning either.
        nn.init.normal_(cells[0].weight_ih, std=INPUT_SCALE)
        self.cells = nn.ModuleList(cells)
        self.head = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_actions + length * vocabulary)
        )

    def first(self, shape: Sequence[int], like: Tensor) -> tuple[Tensor, ...]:
        """The state before the first step, zeros: ``[*shape, hidden]`` of each layer."""
        return tuple(like.new_zeros((*shape, self.hidden)) for _ in self.cells)

    def forward(self, inputs: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """One step.

        Args:
            inputs: ``[*batch, inputs]``.
            state: ``[*batch, hidden]`` of each layer.

        Returns:
            Values ``[*batch, n_actions]``, logits ``[*batch, length, vocabulary]``, and the next state.
        """
        x, states = inputs, []
        for cell, before in zip(self.cells, state, strict=True):
            (x,) = cell(x, (before,))
            states.append(x)
        values, logits = self.head(x).split([self.n_actions, self.length * self.vocabulary], -1)
        return values, logits.unflatten(-1, (self.length, self.vocabulary)), tuple(states)


class Batch(NamedTuple):
    """Episodes as the loss needs them: ``T`` steps of ``B`` episodes with ``n`` agents, those after the end too."""

    context: Tensor
    """What each agent sees: its observation, who it is, and its last action; ``[T, B, n, C]``."""
    routes: Tensor
    """1 where an ear hears an agent, ``[T, B, n * n_ears, n]``."""
    masks: Tensor
    """Legal actions, bool ``[T, B, n, n_actions]``."""
    actions: Tensor
    """One-hot, ``[T, B, n, n_actions]``."""
    rewards: Tensor
    """``[T, B, n]``."""
    begun: Tensor
    """1 where the episode is not over before the step, ``[T, B]``."""
    goes_on: Tensor
    """1 where it is not over after the step, ``[T, B]``."""
    noise: Tensor
    """Of the messages, ``[T, ...]``."""


class DIALLoss(nn.Module):
    r"""The loss of a batch of episodes, as :class:`gsrl.learning.Learner` minimises it.

    .. math:: \frac{1}{2Bn} \sum_{b,i,t}
              \left(r_t + \gamma \max_{a'} Q^-_{t+1}(a') - Q_t(a_t)\right)^2

    Q is unrolled with its own messages, whose gradient is the listeners'; the target :math:`Q^-` with those of its own,
    of the same noise. With ``"rial"`` no gradient passes a message. Speakers learn by REINFORCE instead: the cost of
    what agent i said at t, if it was heard, is :math:`Q_t(a_t) - \sum_{s \ge t} \gamma^{s-t} r_s`. Its value is a
    baseline that does not depend on the message, so that this is unbiased.

    Args:
        network: Of all agents.
        estimator: Pathwise for ``"dial"``; of the score function for ``"rial"``; None for ``"none"``.
        communication: ``"dial"``, ``"rial"`` or ``"none"``.
        gamma: Discount.
        entropy_bonus: Weight of the entropy of the messages that are heard, in nats.

    Example:
        >>> from gsrl.comms.riddle import SwitchRiddle
        >>> dial = DIAL(SwitchRiddle, seeds=[0], batch_size=4)
        >>> loss, metrics = dial.lockstep.losses[0](*(part[0] for part in dial.collect()))
        >>> loss.shape, sorted(metrics)
        (torch.Size([]), ['loss', 'message_cost', 'message_entropy', 'td_error', 'value'])
    """

    def __init__(
        self,
        network: RecurrentQNetwork,
        estimator: Estimator | None,
        communication: str,
        gamma: float,
        entropy_bonus: float,
    ) -> None:
        super().__init__()
        self.network = network
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.estimator: Any = estimator
        self.communication, self.gamma, self.entropy_bonus = communication, gamma, entropy_bonus

    def forward(self, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and means as metrics; of the fields of a :class:`Batch`."""
        episodes = Batch(*batch)
        values, policies, log_probs = self._unroll(self.network, episodes)
        with torch.no_grad(), evaluation_mode(self.target):
            target_values, _, _ = self._unroll(self.target, episodes)
            best = target_values.masked_fill(~episodes.masks, -torch.inf).amax(-1)
            after = torch.cat([best[1:], torch.zeros_like(best[:1])])
            target = episodes.rewards + self.gamma * episodes.goes_on.unsqueeze(-1) * after
        taken = (values * episodes.actions).sum(-1)
        begun = episodes.begun.unsqueeze(-1)
        count = taken[0].numel()
        errors = (target - taken) * begun
        loss = 0.5 * errors.square().sum() / count
        metrics = {
            "td_error": errors.detach().abs().sum() / (begun.sum() * taken.shape[-1]),
            "value": (taken.detach() * begun).sum() / (begun.sum() * taken.shape[-1]),
        }
        if self.communication != "none":
            # What was said at the last step nobody hears, nor what is said after the end.
            is_heard = F.pad(episodes.routes.amax(-2)[1:], (0, 0, 0, 0, 0, 1)) * episodes.goes_on.unsqueeze(-1)
            entropy = (torch.stack([policy.entropy() for policy in policies]) * is_heard).sum()
            cost = (taken - self._returns(episodes.rewards)).detach()
            num_heard = is_heard.sum().clamp_min(1.0)
            metrics["message_entropy"] = (entropy / num_heard).detach()
            metrics["message_cost"] = (cost * is_heard).sum() / num_heard
            if self.communication == "rial":
                surrogate = self.estimator.surrogate(cost, torch.stack(log_probs))
                loss = loss + ((surrogate - surrogate.detach()) * is_heard).sum() / count
            loss = loss - self.entropy_bonus * entropy / count
        metrics["loss"] = loss.detach()
        return loss, metrics

    def _returns(self, rewards: Tensor) -> Tensor:
        """Discounted sums of what is still to come, ``[T, B, n]``."""
        returns = [rewards[-1]]
        for reward in rewards[:-1].flip(0).unbind(0):
            returns.append(reward + self.gamma * returns[-1])
        return torch.stack(returns[::-1])

    def _unroll(
        self, network: RecurrentQNetwork, episodes: Batch
    ) -> tuple[Tensor, list[FactoredCategorical], list[Tensor]]:
        """Values ``[T, B, n, n_actions]``, and of each step the speakers' policies and log-probabilities."""
        state = network.first(episodes.context.shape[1:3], episodes.context)
        messages = None
        all_values, policies, log_probs = [], [], []
        for context, routes, noise in zip(episodes.context, episodes.routes, episodes.noise, strict=True):
            values, policy, state = look(network, context, self.hear(messages, routes), state)
            all_values.append(values)
            if self.communication != "none":
                messages, log_prob = self.say(policy, noise)
                policies.append(policy)
                log_probs.append(log_prob)
        return torch.stack(all_values), policies, log_probs

    def say(self, policy: FactoredCategorical, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Messages ``[B, n, length, vocabulary]``, and their log-probabilities ``[B, n]`` (with ``"dial"``, zeros)."""
        if self.communication == "rial":
            return self.estimator.draw(policy, noise)
        sample = self.estimator.sample(policy, noise)
        return sample, sample.new_zeros(sample.shape[:-2])

    def hear(self, messages: Tensor | None, routes: Tensor) -> Tensor:
        """What each agent hears, ``[B, n, n_ears * length * vocabulary]``: zeros where an ear hears nobody."""
        B, ears, n = routes.shape
        width = self.network.length * self.network.vocabulary
        if messages is None:
            return routes.new_zeros(B, n, ears // n * width)
        return (routes @ messages.flatten(-2)).reshape(B, n, ears // n * width)


def look(
    network: RecurrentQNetwork, context: Tensor, heard: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, FactoredCategorical, tuple[Tensor, ...]]:
    """One step of all agents: values ``[B, n, n_actions]``, what they would say, and their next state."""
    values, logits, state = network(torch.cat([context, heard], -1), state)
    return values, FactoredCategorical(logits, validate_args=False), state


@dataclass(frozen=True)
class DIALEvaluation:
    """How episodes went, with hard messages: ``N`` of each of ``S`` members.

    Example:
        >>> evaluation = DIALEvaluation(np.array([[1.0, 0.0]]), np.array([[3, 6]]), np.array([[1.0, 1.0]]))
        >>> evaluation.normalized_return
        array([0.5])
    """

    returns: NDArray[np.float64]
    """Undiscounted, the mean over the agents, ``[S, N]``."""
    lengths: NDArray[np.int64]
    """Steps, ``[S, N]``."""
    best_returns: NDArray[np.float64] | None
    """What was to be had in these episodes, ``[S, N]``; None: the environment does not say."""

    @property
    def mean_return(self) -> NDArray[np.float64]:
        """``[S]``."""
        return self.returns.mean(1)

    @property
    def normalized_return(self) -> NDArray[np.float64]:
        """Mean return in units of the best mean return of the same episodes, ``[S]``.

        Raises:
            ValueError: The environment does not say what is best.
        """
        if self.best_returns is None:
            raise ValueError("normalized_return needs an environment with a method best_returns.")
        return self.mean_return / self.best_returns.mean(1)


@fixed(
    *("seeds", "estimator", "communication", "vocabulary", "length", "hidden", "layers"),
    *("batch_size", "gamma", "max_grad_norm", "entropy_bonus"),
)
class DIAL(Task):
    """Agents that learn to act and to talk, centrally, and then act each by itself; several seeds in lock-step.

    All agents of a team share one network, which is told who it is. With ``"dial"`` the gradient passes the messages;
    ``"rial"`` learns what to say by REINFORCE; with ``"none"`` nothing is heard. Teams of different seeds share
    nothing: each has the initialisation, episodes and noise of its seed, whatever its company, and parameters differ by
    rounding alone. A team whose loss or values are not finite is reported by a warning and frozen.

    Args:
        env: A function that makes a :class:`TalkingEnv`; each team gets its own.
        seeds: Of each team.
        communication: ``"dial"``, ``"rial"`` or ``"none"``.
        estimator: Of the gradient through a message, a name or an estimator of which each team gets a copy. For
            ``"dial"`` a pathwise one, by default ``"st-gumbel"``; for ``"rial"`` ``"reinforce"``, the default.
        vocabulary: Kinds of symbols, at least 2.
        length: Symbols of a message, at least 1; they are chosen at once.
        hidden: Width of the network.
        layers: Recurrent layers.
        batch_size: Episodes of an update.
        learning_rate: Adam's step size, or a function of the share of the training that remains, from 1 down to 0, such
            as Stable-Baselines3's ``LinearSchedule``; the training is the ``total`` of :meth:`learn`.
        gamma: Discount.
        epsilon: Probability of a random action while training.
        target_interval: Updates after which the target network becomes a copy of the network.
        max_grad_norm: Largest norm of the gradient; None: no clipping.
        entropy_bonus: Weight of the entropy of messages, in nats.
        device: Of the networks.
        compile: Whether the update is compiled, see :class:`gsrl.learning.Learner`.
        tensorboard_log: Folder for TensorBoard; None: there is no log.
        verbose: 1: what is logged is printed, of the first team.

    Attributes:
        lockstep: The teams: their losses, learners and generators, and who still learns.
        num_updates: Updates so far.
        history: What evaluations along the way have found: ``updates``, ``episodes`` and ``return``, one a team.
        loggers: Of each team, while and after it learns.

    Raises:
        TypeError: ``env`` makes no :class:`TalkingEnv`, or ``estimator`` is of another kind.
        ValueError: An argument is out of its range.

    Example:
        >>> from gsrl.comms.riddle import SwitchRiddle
        >>> dial = DIAL(SwitchRiddle, seeds=[0, 1], batch_size=4).learn(8)
        >>> dial.num_updates, dial.evaluate(10).returns.shape
        (2, (2, 10))
    """

    unit, score, member = "episode", "return", "team"
    advanced = ("estimator", "message_cost")

    def __init__(
        self,
        env: Callable[[], TalkingEnv],
        seeds: Sequence[int] = (0,),
        *,
        communication: str = "dial",
        estimator: str | Estimator | None = None,
        vocabulary: int = 2,
        length: int = 1,
        hidden: int = 128,
        layers: int = 1,
        batch_size: int = 32,
        learning_rate: float | Callable[[float], float] = 3e-3,
        gamma: float = 1.0,
        epsilon: float = 0.2,
        target_interval: int = 20,
        max_grad_norm: float | None = 10.0,
        entropy_bonus: float = 0.0,
        device: torch.device | str = "auto",
        compile: bool = False,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        _saved: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.communication = communication
        self.vocabulary, self.length, self.hidden, self.layers = vocabulary, length, hidden, layers
        self.gamma, self.epsilon = gamma, epsilon
        self.target_interval, self.entropy_bonus = target_interval, entropy_bonus
        self._check_settings()
        self.estimator = self._checked_estimator(estimator)
        self._make_env = env
        self._envs = [self._new_env() for _ in seeds]
        super().__init__(
            seeds,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
            device=device,
            compile=compile,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            targets=[("network", "target")],
            rngs={"play": "data", "explore": "exploration"},
            _saved=_saved,
        )
        self._step = Mapped(self.lockstep, _step, ["network", "estimator"], "a step")

    SETTINGS = settings_of(__init__, without=("tensorboard_log", "verbose"))

    # Construction

    def _check_settings(self) -> None:
        if self.communication not in COMMUNICATIONS:
            raise ValueError(f"communication must be one of {COMMUNICATIONS}, but got {self.communication!r}.")
        least = {"vocabulary": 2, "length": 1, "hidden": 1, "layers": 1, "target_interval": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < bound:
                raise ValueError(f"{name} must be an integer of at least {bound}, but got {value!r}.")
        for name in ("gamma", "epsilon"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], but got {getattr(self, name)}.")

    def _checked_estimator(self, estimator: str | Estimator | None) -> Estimator | None:
        if self.communication == "none":
            if estimator is not None:
                raise ValueError(f"estimator must be None without communication, but got {estimator!r}.")
            return None
        if estimator is None:
            estimator = "st-gumbel" if self.communication == "dial" else "reinforce"
        shape = (self.length, self.vocabulary)
        made = make_estimator(estimator, shape=shape) if isinstance(estimator, str) else estimator
        if not isinstance(made, Estimator):
            raise TypeError(f"estimator must be a name or an estimator, but got {type(made).__name__}.")
        kind = Pathwise if self.communication == "dial" else ScoreFunction
        if not isinstance(made, kind) or isinstance(made, RLOO):
            needed = "a pathwise one" if self.communication == "dial" else "'reinforce'"
            raise ValueError(f"estimator must be {needed} for {self.communication!r}, but got {made.name!r}.")
        return made

    def _new_env(self) -> TalkingEnv:
        env: Any = self._make_env() if callable(self._make_env) else None
        names = ("n_agents", "n_actions", "n_features", "n_ears", "horizon", "reset", "step")
        missing = [name for name in names if not hasattr(env, name)]
        if missing:
            raise TypeError(
                f"env must be a function that makes a gsrl.comms.TalkingEnv, but {self._make_env!r} makes "
                f"{type(env).__name__}, which lacks {', '.join(missing)}."
            )
        made: TalkingEnv = env
        return made

    def check_saved(self, members: Sequence[Mapping[str, Any]]) -> None:
        """Compares the networks of these settings with saved ones, see :meth:`gsrl.learning.Task.check_saved`."""
        stored = checkpoint.Stored.of([member["loss"] for member in members])
        stored.check({name: getattr(self, name) for name in ("hidden", "layers", "length", "vocabulary")})
        if self.layers > stored.tensors or len(self.seeds) != len(members) or self.batch_size > checkpoint.SMALL:
            raise ValueError(
                f"{len(self.seeds)} seeds, {self.layers} layers and a batch_size of {self.batch_size} are too many for "
                f"{len(members)} members of {stored.tensors} tensors"
            )
        env = self._envs[0]
        for index, member in enumerate(members):
            networks = {name: part for name, part in member["loss"].items() if str(name).startswith("network.")}
            checkpoint.check_module(
                networks, lambda: nn.ModuleDict({"network": self._make_network(env)}), f"members.{index}.loss"
            )

    def _make_network(self, env: TalkingEnv) -> RecurrentQNetwork:
        inputs = env.n_features + env.n_agents + env.n_actions + env.n_ears * self.length * self.vocabulary
        return RecurrentQNetwork(inputs, env.n_actions, self.length, self.vocabulary, self.hidden, self.layers)

    def make_loss(self, seed: int) -> DIALLoss:
        """The loss of a team, with its network."""
        network, estimator = self._make_network(self._envs[0]), copy.deepcopy(self.estimator)
        return DIALLoss(network, estimator, self.communication, self.gamma, self.entropy_bonus)

    # Training

    @property
    def num_episodes(self) -> int:
        """Episodes of each team so far."""
        return self.steps

    def tau(self) -> float | None:
        """1, so that targets become copies, where that is due."""
        return 1.0 if (self.num_updates + 1) % self.target_interval == 0 else None

    @torch.no_grad()
    def collect(self) -> Batch:
        """Episodes of all teams, with leading dimensions ``[S, T, B]``."""
        env, S, B = self._envs[0], len(self.seeds), self.batch_size
        turns = [own.reset(B, rng) for own, rng in zip(self._envs, self.rngs["play"], strict=True)]
        last = np.zeros((S, B, env.n_agents, env.n_actions), np.float32)
        over = np.zeros((S, B), np.bool_)
        noise = self._draw_noise()
        messages = noise.new_zeros(S, B, env.n_agents, self.length, self.vocabulary)
        state = self.lockstep.losses[0].network.first((S, B, env.n_agents), noise)
        columns: list[list[Tensor]] = []
        for t in range(env.horizon):
            context, routes, masks = self._inputs(turns, last)
            values, messages, state = self._step(context, routes, messages, state, noise[:, t])
            last = self._explore(self._finite(values, context, range(S)), masks)
            results = [own.step(chosen.argmax(-1)) for own, chosen in zip(self._envs, last, strict=True)]
            turns = [turn for turn, _, _ in results]
            given = np.concatenate([each for _, each, _ in results])  # environments are counted through all members
            rewards = as_finite("rewards", given, np.dtype(np.float32)).reshape(S, B, -1)
            begun, over = ~over, np.stack([e for _, _, e in results])
            stored = (masks, last, rewards, begun.astype(np.float32), (~over).astype(np.float32))
            columns.append([context, routes, *(torch.from_numpy(array).to(self.device) for array in stored)])
        return Batch._make([*(torch.stack(column, 1) for column in zip(*columns, strict=True)), noise])

    def _finite(self, scores: Tensor, context: Tensor, indices: Sequence[int]) -> NDArray[np.float32]:
        """Reads back what teams choose by, ``[len(indices), B, ...]``.

        Teams of which a number is NaN are frozen, and go on with zeros; an observation that is not finite is an error.
        """
        values, is_nan = to_numpy(scores)
        if is_nan:
            check_finite(context, context.shape[:2])
            for row in np.flatnonzero(np.isnan(values).reshape(len(values), -1).any(1)):
                self.lockstep.alive[indices[int(row)]] = False
            values = np.nan_to_num(values, nan=0.0)
        return values

    def _draw_noise(self) -> Tensor:
        """Of the messages of all teams, ``[S, T, ...]``."""
        env = self._envs[0]
        if self.estimator is None:
            return torch.zeros(len(self.seeds), env.horizon, 0, device=self.device)
        shape = (self.batch_size, env.n_agents, self.length, self.vocabulary)
        blank = FactoredCategorical(torch.zeros(shape), validate_args=False)
        steps = []
        for _ in range(env.horizon):
            noise = draw_noise_in_lockstep(self.estimator, blank, self.lockstep.generators)
            if not isinstance(noise, Tensor):
                raise TypeError(f"estimator must draw its noise as one tensor, but {self.estimator.name} does not.")
            steps.append(noise)
        return torch.stack(steps, 1).to(self.device)

    def _inputs(self, turns: Sequence[Turn], last: NDArray[np.float32]) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
        """What agents see, who hears whom, and what is legal, of all teams.

        Args:
            turns: Of each of S teams.
            last: One-hot actions of the step before ``[S, B, n, n_actions]``; zeros at the first one.
        """
        observations, heard, masks = (np.stack(arrays) for arrays in zip(*turns, strict=True))
        *batch, n, ears = heard.shape
        who = np.broadcast_to(np.eye(n, dtype=np.float32), (*batch, n, n))
        context = np.concatenate([observations, who, last], -1)
        routes = (heard.reshape(*batch, n * ears, 1) == np.arange(n)).astype(np.float32)
        return torch.from_numpy(context).to(self.device), torch.from_numpy(routes).to(self.device), masks

    def _explore(self, values: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions that are best with probability ``1 - epsilon``, else random, one-hot ``[S, B, n, n_actions]``."""
        shape = (*masks.shape[1:-1], masks.shape[-1] + 1)
        uniform = np.stack([rng.random(shape) for rng in self.rngs["explore"]])
        scores = np.where(uniform[..., :1] < self.epsilon, uniform[..., 1:], values)
        best = np.where(masks, scores, -np.inf).argmax(-1)
        return np.eye(masks.shape[-1], dtype=np.float32)[best]

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """Mean return and length, and the return in units of the best where the environment says what that is."""
        result = self.evaluate(LOGGED_EPISODES)
        figures = {"mean_return": result.mean_return, "mean_length": result.lengths.mean(1)}
        return figures if result.best_returns is None else {**figures, "normalized_return": result.normalized_return}

    # Execution

    def evaluate(  # type: ignore[override]
        self,
        episodes: int = 1000,
        *,
        scramble: bool = False,
        env: Callable[[], TalkingEnv] | None = None,
        seed: int = 0,
    ) -> DIALEvaluation:
        """Plays with the best actions and hard messages (of each symbol the most probable), without learning.

        The episodes are the same at each call.

        Args:
            episodes: How many of each team; they are played at once.
            scramble: Whether what is heard at a step is shuffled among those who hear something, in all episodes that
                go on: a return that survives this was not got by talking.
            env: A function that makes the environment to play in; None: that of the training.
            seed: Of the episodes, beside the team's own.

        Raises:
            ValueError: ``episodes`` is below 1, or the environment gives what is not finite.
        """
        if not isinstance(episodes, int) or episodes < 1:
            raise ValueError(f"episodes must be an integer of at least 1, but got {episodes!r}.")
        results = [self.play(index, episodes, seed, scramble=scramble, env=env) for index in range(len(self.seeds))]
        self._report_diverged()
        returns, lengths, best = zip(*results, strict=True)
        return DIALEvaluation(np.stack(returns), np.stack(lengths), None if best[0] is None else np.stack(best))

    @torch.no_grad()
    def play(
        self,
        index: int,
        episodes: int,
        seed: int,
        *,
        scramble: bool = False,
        env: Callable[[], TalkingEnv] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None]:
        """Returns, lengths and best returns ``[N]`` of one team; see :meth:`evaluate`."""
        loss, own = self.lockstep.losses[index], self._make_env() if env is None else env()
        rng = np.random.default_rng(seed_sequence(self.seeds[index], "evaluation", seed))
        turn = own.reset(episodes, rng)
        best = own.best_returns() if hasattr(own, "best_returns") else None
        last = np.zeros((episodes, own.n_agents, own.n_actions), np.float32)
        returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
        over = np.zeros(episodes, np.bool_)
        messages = torch.zeros(episodes, own.n_agents, self.length, self.vocabulary, device=self.device)
        state = loss.network.first((episodes, own.n_agents), messages)
        for _ in range(own.horizon):
            (context,), (routes,), (masks,) = self._inputs([turn], last[None])
            heard = loss.hear(messages, routes)
            if scramble:
                heard = _shuffled(heard, (turn.heard != SILENCE) & ~over[:, None, None], rng)
            values, policy, state = look(loss.network, context, heard, state)
            if self.communication != "none":
                messages = policy.mode
                self._finite(policy.logits.unsqueeze(0), context.unsqueeze(0), [index])
            (finite,) = self._finite(values.unsqueeze(0), context.unsqueeze(0), [index])
            last = np.eye(own.n_actions, dtype=np.float32)[np.where(masks, finite, -np.inf).argmax(-1)]
            lengths += ~over
            turn, rewards, over = own.step(last.argmax(-1))
            returns += rewards.mean(-1)
        return returns, lengths, best


def _step(
    loss: DIALLoss, context: Tensor, routes: Tensor, messages: Tensor, state: tuple[Tensor, ...], noise: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """A step of one team, on tensors alone: values, messages and states."""
    values, policy, state = look(loss.network, context, loss.hear(messages, routes), state)
    if loss.communication != "none":
        messages, _ = loss.say(policy, noise)
    return values, messages, state


def _shuffled(heard: Tensor, is_heard: NDArray[np.bool_], rng: np.random.Generator) -> Tensor:
    """What is heard ``[B, n, n_ears * width]``, exchanged among the ears that hear something ``[B, n, n_ears]``."""
    rows = heard.reshape(is_heard.size, -1).clone()
    (listening,) = is_heard.reshape(-1).nonzero()
    rows[listening] = rows[rng.permutation(listening)]
    return rows.view_as(heard)
