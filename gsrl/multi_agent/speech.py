"""Messages between agents: which part of actions and observations they are, and environments with more of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gsrl._random import seed_sequence
from gsrl.checks import EnvironmentDataError
from gsrl.masking import MASK_KEY
from gsrl.multi_agent.vec_env import ACTIVE_KEY, Joint, Step, TeamSpaces, Worlds, given_mask, without_mask
from gsrl.multi_agent.wrappers import ParallelWrapper, Returned

__all__ = ["CommWrapper", "Speech", "SplitActions"]

SAY = "say"
"""Name of the factors of :class:`SplitActions` that are messages."""

NOTHING = -1
"""In the place of a symbol: nobody speaks."""


@dataclass(frozen=True)
class Speech:
    """What an agent says, hears, and alone knows. Places are those of the flat observation, without a mask.

    Example:
        >>> Speech(factors=(1,), heard=tuple(range(11, 21)), private=(8, 9, 10))  # of ReferenceEnv, split
        Speech(factors=(1,), heard=(11, 12, 13, 14, 15, 16, 17, 18, 19, 20), private=(8, 9, 10))
    """

    factors: tuple[int, ...] = ()
    """Which factors of its action are messages."""
    heard: tuple[int, ...] = ()
    """Where its observation holds what it hears."""
    private: tuple[int, ...] = ()
    """Where its observation holds what it alone knows."""

    @staticmethod
    def of(env: Any, given: Mapping[str, Speech] | None = None) -> dict[str, Speech]:
        """That of every agent of a Parallel environment.

        Args:
            env: The environment.
            given: By agent; None: the environment's own, ``env.speech``, if it has any. Agents that are not named say
                and hear nothing.

        Raises:
            ValueError: It names an agent that there is not, or a factor or place that it has not.
        """
        team = TeamSpaces(env)
        given = getattr(env, "speech", {}) if given is None else given
        for agent, speech in given.items():
            if agent not in team.index:
                raise ValueError(f"speech must be of agents among {team.agents}, but names {agent!r}.")
            i = team.index[agent]
            of_action, of_observation = team.codecs[i].n, team.sizes[i]
            _check_places(agent, "factors", speech.factors, of_action, f"an action of {of_action} factors")
            for name in ("heard", "private"):
                places = getattr(speech, name)
                _check_places(agent, name, places, of_observation, f"an observation of {of_observation} numbers")
        return {agent: given.get(agent, Speech()) for agent in team.agents}


def _check_places(agent: str, name: str, places: Iterable[int], count: int, of: str) -> None:
    for place in places:
        if not 0 <= place < count:
            raise ValueError(f"{name} of {agent} must be within {of}, from 0 to {count - 1}, but got {place}.")


class SplitActions(ParallelWrapper):
    r"""Shows a ``Discrete`` action that is several choices in one as what it is, ``MultiDiscrete``.

    With sizes :math:`k_1, k_2, \dots` the action that is taken is :math:`a_1 + k_1 (a_2 + k_2 (\dots))`, the first
    factor fastest. A mask must allow all combinations of what it allows in each factor. Masks are in infos; in the
    observation there is none any more.

    Many worlds of an environment that steps them in arrays are still stepped in arrays.

    Args:
        env: A Parallel environment.
        factors: Of each agent whose action is split, the sizes of the factors by name; those that are called ``"say"``
            are messages. None: those of the environment, ``env.action_factors``.

    Attributes:
        speech: That of the environment, with these messages.

    Raises:
        TypeError: It is no Parallel environment, or the action of one of these agents is not ``Discrete``.
        ValueError: An agent is unknown; sizes are below 1, or their product is not the number of actions.

    Example:
        >>> from envs.mpe import ReferenceEnv
        >>> env = SplitActions(ReferenceEnv())
        >>> ReferenceEnv().action_space("agent_0"), env.action_space("agent_0")
        (Discrete(50), MultiDiscrete([ 5 10]))
    """

    def __init__(self, env: Any, factors: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self._inner = TeamSpaces(env)
        super().__init__(env)
        factors = getattr(env, "action_factors", {}) if factors is None else factors
        if not factors:
            raise ValueError("factors must name an agent at least: the environment has no action_factors of its own.")
        self.sizes: dict[str, tuple[int, ...]] = {}
        speech = dict(getattr(env, "speech", {}))
        for agent, named in factors.items():
            if agent not in self._inner.index:
                raise ValueError(f"factors must be of agents among {self._inner.agents}, but names {agent!r}.")
            space, sizes = env.action_space(agent), tuple(named.values())
            if not isinstance(space, spaces.Discrete):
                raise TypeError(f"action_space of {agent} must be Discrete to be split, but got {space}.")
            if min(sizes, default=0) < 1 or math.prod(sizes) != space.n:
                raise ValueError(
                    f"factors of {agent} must be of sizes whose product is {space.n}, but got {dict(named)}."
                )
            self.sizes[agent] = sizes
            self.action_spaces[agent] = spaces.MultiDiscrete(list(sizes))
            said = tuple(i for i, name in enumerate(named) if name == SAY)
            speech[agent] = replace(speech.get(agent, Speech()), factors=said)
        self.speech: dict[str, Speech] = speech
        for agent, observed in zip(self._inner.agents, self._inner.observation_spaces, strict=True):
            self.observation_spaces[agent] = observed

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begins an episode."""
        observations, infos = self.env.reset(seed=seed, options=options)
        self.agents = list(self.env.agents)
        return self._shown(observations, infos)

    def step(self, actions: Mapping[str, Any]) -> Returned:
        """Takes the actions, put together.

        Returns:
            Observations, rewards, terminated, truncated and infos.
        """
        joined = {}
        for agent, action in actions.items():
            joined[agent] = action
            if agent in self.sizes:
                place = np.ravel_multi_index(tuple(action), self.sizes[agent], order="F")
                joined[agent] = self._inner.codecs[self._inner.index[agent]].from_indices(np.array([place]))[()]
        observations, rewards, terminated, truncated, infos = self.env.step(joined)
        self.agents = list(self.env.agents)
        observations, infos = self._shown(observations, infos)
        return observations, rewards, terminated, truncated, infos

    def _shown(
        self, observations: Mapping[str, Any], infos: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        shown = {}
        for agent, info in infos.items():
            mask, shown[agent] = given_mask(observations.get(agent), info), dict(info)
            if mask is not None:
                shown[agent][MASK_KEY] = mask
                if agent in self.sizes:
                    parts = split_mask(mask[None].astype(np.bool_), self.sizes[agent], agent)
                    shown[agent][MASK_KEY] = np.concatenate([part[0] for part in parts]).astype(np.int8)
        return {agent: without_mask(observation) for agent, observation in observations.items()}, shown

    def batched(self, n_envs: int) -> Worlds | None:
        """Many worlds in arrays, of an environment that has such; else None."""
        inner: Worlds | None = self.env.batched(n_envs) if hasattr(self.env, "batched") else None
        return None if inner is None else _SplitWorlds(inner, self._inner, TeamSpaces(self), self.sizes)


def split_mask(mask: NDArray[np.bool_], sizes: Sequence[int], agent: str) -> list[NDArray[np.bool_]]:
    """The masks ``[B, k]`` of factors of sizes k, of masks ``[B, product of k]`` of all combinations."""
    grid = mask.reshape(-1, *sizes[::-1])  # the first factor last
    axes = range(1, grid.ndim)
    parts = [np.asarray(grid.any(tuple(axis for axis in axes if axis != own))) for own in reversed(axes)]
    product = np.ones((len(grid), 1), np.bool_)
    for part in parts:
        product = (part[:, :, None] & product[:, None]).reshape(len(grid), -1)
    if not (product == mask.reshape(len(grid), -1)).all():
        raise EnvironmentDataError(
            f"{MASK_KEY} of {agent} must allow all combinations of what it allows in each factor, but does not"
        )
    return parts


class _SplitWorlds:
    """Worlds in arrays whose actions are split."""

    def __init__(self, inner: Worlds, within: TeamSpaces, team: TeamSpaces, sizes: Mapping[str, Sequence[int]]) -> None:
        self.inner, self.within, self.team = inner, within, team
        self.sizes = {within.index[agent]: each for agent, each in sizes.items()}
        # An action within is this times the factors shown.
        self._weights = np.zeros((len(team.agents), team.n, within.n), np.int64)
        for i, codec in enumerate(within.codecs):
            if i in self.sizes:
                self._weights[i, : len(self.sizes[i]), 0] = np.cumprod((1, *self.sizes[i][:-1]))
            else:
                self._weights[i, range(codec.n), range(codec.n)] = 1

    @property
    def over(self) -> NDArray[np.bool_]:
        return self.inner.over

    def reset(self, worlds: NDArray[np.int64], seeds: Sequence[int] | None) -> Joint:
        return self._shown(self.inner.reset(worlds, seeds))

    def step(self, actions: NDArray[np.int64]) -> Step:
        joint, rewards, terminated, truncated = self.inner.step((actions[..., None] * self._weights).sum(-2))
        return self._shown(joint), rewards, terminated, truncated

    def states(self) -> NDArray[np.float32]:
        return self.inner.states()

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        return self.inner.load_state_dict(state)

    def _shown(self, joint: Joint) -> Joint:
        team, within = self.team, self.within
        masks = np.broadcast_to(team.legal, (len(joint.masks), *team.legal.shape))
        if (joint.masks == within.legal).all():
            return joint._replace(masks=masks)
        masks = masks.copy()
        for i, codec in enumerate(team.codecs):
            if i in self.sizes:
                for factor, part in enumerate(
                    split_mask(joint.masks[:, i, 0, : within.codecs[i].K], self.sizes[i], team.agents[i])
                ):
                    masks[:, i, factor, : part.shape[1]] = part
            else:
                masks[:, i, : codec.n, : codec.K] = joint.masks[:, i, : codec.n, : codec.K]
        return joint._replace(masks=masks)


class CommWrapper(ParallelWrapper):
    r"""Messages for agents that have none: each says ``length`` symbols with every action, and hears those of others.

    An action has ``length`` factors more, behind its own, and is ``MultiDiscrete``, counted from 0. An observation is
    flat, with the symbols of those whom the agent hears behind it, one-hot, in the order of ``hears``; zeros where
    nothing was said: before the first message arrives, by agents that have left, and by inactive ones. Masks are in
    infos.

    Noise is that of :class:`gsrl.comms.Channel`, drawn for each symbol and each listener by itself: with probability
    ``substitution`` the symbol arrives as another one, drawn uniformly, and with probability ``erasure`` as the erased
    one, an extra and last column.

    Args:
        env: A Parallel environment.
        vocabulary: Symbols that carry meaning, at least 2.
        length: Symbols of a message, at least 1.
        hears: Whom each agent hears, by name; an agent that is not named hears nobody. None: all hear all others.
        delay: Steps after which a message is heard, at least 1: then it is part of what the action led to.
        substitution: Probability that a symbol arrives as another one.
        erasure: Probability that a symbol arrives as the erased one.
        cost: What each symbol costs the one who says it, in units of reward. Above 0 there is one more choice, choice
            0, which ends the message: nothing from there on is heard or costs anything. Symbols are numbered from 1.

    Attributes:
        speech: That of the environment, with these messages.

    Raises:
        TypeError: It is no Parallel environment, actions are not discrete, or observations cannot be made flat.
        ValueError: An argument is out of its range, or ``hears`` names an agent that there is not.

    Example:
        >>> from envs.mpe import SpreadEnv
        >>> env = CommWrapper(SpreadEnv(), vocabulary=4, erasure=0.1)
        >>> env.action_space("agent_0")
        MultiDiscrete([5 4])
    """

    def __init__(
        self,
        env: Any,
        vocabulary: int,
        length: int = 1,
        hears: Mapping[str, Sequence[str]] | None = None,
        delay: int = 1,
        substitution: float = 0.0,
        erasure: float = 0.0,
        cost: float = 0.0,
    ) -> None:
        for name, value, least in (("vocabulary", vocabulary, 2), ("length", length, 1), ("delay", delay, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, but got {value!r}.")
        for name, chance in (("substitution", substitution), ("erasure", erasure)):
            if not 0 <= chance <= 1:
                raise ValueError(f"{name} must be a probability, in [0, 1], but got {chance!r}.")
        if not 0 <= cost < math.inf:
            raise ValueError(f"cost must be finite and at least 0, but got {cost!r}.")
        self._inner = TeamSpaces(env)
        super().__init__(env)
        self.vocabulary, self.length, self.delay = vocabulary, length, delay
        self.substitution, self.erasure, self.cost = substitution, erasure, cost
        self._has_end = cost > 0
        agents = self._inner.agents
        hears = {agent: [other for other in agents if other != agent] for agent in agents} if hears is None else hears
        for listener, heard in hears.items():
            for agent in (listener, *heard):
                if agent not in self._inner.index:
                    raise ValueError(f"hears must be of agents among {agents}, but names {agent!r}.")
        self.hears = {agent: list(hears.get(agent, ())) for agent in agents}
        self._ears = [np.array([self._inner.index[other] for other in self.hears[agent]], np.int64) for agent in agents]
        self.width = vocabulary + (erasure > 0)
        """Columns of each symbol that is heard."""
        self._columns = np.concatenate([np.zeros((1, self.width)), np.eye(self.width)]).astype(np.float32)
        symbols = [vocabulary + self._has_end] * length
        within: Mapping[str, Speech] = getattr(env, "speech", {})
        self.speech: dict[str, Speech] = {}
        for i, (agent, codec) in enumerate(zip(agents, self._inner.codecs, strict=True)):
            self.action_spaces[agent] = spaces.MultiDiscrete([*codec.sizes, *symbols])
            flat: Any = spaces.flatten_space(self._inner.observation_spaces[i])
            count = len(self._ears[i]) * length * self.width
            low, high = (np.append(bound.ravel(), [x] * count) for bound, x in ((flat.low, 0), (flat.high, 1)))
            self.observation_spaces[agent] = spaces.Box(
                low.astype(np.float32), high.astype(np.float32), dtype=np.float32
            )
            before, size = within.get(agent, Speech()), self._inner.sizes[i]
            self.speech[agent] = Speech(
                (*before.factors, *range(codec.n, codec.n + length)),
                (*before.heard, *range(size, size + count)),
                before.private,
            )
        self._rng = np.random.default_rng()

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begins an episode, in which nothing was said so far."""
        if seed is not None:
            self._rng = np.random.default_rng(seed_sequence(seed, "noise"))
        observations, infos = self.env.reset(seed=seed, options=options)
        self.agents = list(self.env.agents)
        nothing = np.full((len(self.possible_agents), self.length), NOTHING)
        self._on_the_way = deque([nothing] * self.delay)
        self._active: set[str] = set()
        return self._shown(observations, infos)

    def step(self, actions: Mapping[str, Any]) -> Returned:
        """Takes the actions, and passes the messages on.

        Returns:
            Observations, rewards, terminated, truncated and infos.
        """
        own, said = {}, np.full((len(self.possible_agents), self.length), NOTHING)
        for agent, action in actions.items():
            i = self._inner.index[agent]
            codec, chosen = self._inner.codecs[i], np.asarray(action)
            own[agent] = codec.from_indices(chosen[: codec.n])[()]
            if agent in self._active:
                symbols = chosen[codec.n :] - self._has_end
                ended = np.logical_or.accumulate(symbols < 0)
                said[i] = np.where(ended, NOTHING, symbols)
        observations, rewards, terminated, truncated, infos = self.env.step(own)
        self.agents = list(self.env.agents)
        if self.cost:
            costs = self.cost * (said != NOTHING).sum(1)
            rewards = {agent: reward - costs[self._inner.index[agent]] for agent, reward in rewards.items()}
        self._on_the_way.popleft()
        self._on_the_way.append(said)
        observations, infos = self._shown(observations, infos)
        return observations, rewards, terminated, truncated, infos

    def _shown(
        self, observations: Mapping[str, Any], infos: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        arrived = self._arrived(self._on_the_way[0])
        self._active = {agent for agent in self.agents if infos.get(agent, {}).get(ACTIVE_KEY, True)}
        seen, shown = {}, {}
        for agent, observation in observations.items():
            i = self._inner.index[agent]
            ears = self._columns[1 + arrived[i, self._ears[i]]].ravel()
            seen[agent] = np.concatenate([self._inner.flat(i, without_mask(observation), 0), ears])
        for agent, info in infos.items():
            if agent in self._inner.index:
                mask = self._mask(agent, given_mask(observations.get(agent), info), agent in self._active)
                shown[agent] = {**info, MASK_KEY: mask}
        return seen, shown

    def _arrived(self, said: NDArray[np.int64]) -> NDArray[np.int64]:
        """What each agent would hear of each other, ``[A, A, length]``, of what they said ``[A, length]``."""
        shape = (len(said), *said.shape)
        arrived = np.broadcast_to(said, shape)
        if self.substitution > 0:
            shifts = self._rng.integers(1, self.vocabulary, shape) * (self._rng.random(shape) < self.substitution)
            arrived = np.where(arrived == NOTHING, NOTHING, (arrived + shifts) % self.vocabulary)
        if self.erasure > 0:
            is_erased = (self._rng.random(shape) < self.erasure) & (arrived != NOTHING)
            arrived = np.where(is_erased, self.vocabulary, arrived)
        return arrived

    def _mask(self, agent: str, own: NDArray[Any] | None, is_active: bool) -> NDArray[np.int8]:
        codec = self._inner.codecs[self._inner.index[agent]]
        own = np.ones(sum(codec.sizes)) if own is None else own
        symbols = np.ones((self.length, self.vocabulary + self._has_end))
        symbols[:, 1:] = is_active
        return np.concatenate([own, symbols.ravel()]).astype(np.int8)
