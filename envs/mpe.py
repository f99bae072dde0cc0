"""Three particle worlds, many at once: speaker and listener, reference, and spread, bit by bit those of ``mpe2``.

Agents are points in the plane. Each step one is pushed to the left, right, down or up, or not at all, and what an agent
says is heard at the next step. Goals are landmarks, and rewards are distances to them, which all want small.

| environment | agents | an agent's action |
|---|---|---|
| :class:`SpeakerListenerEnv` | one knows the goal and says one of 3 words; one hears them, and moves | 3, or 5 moves |
| :class:`ReferenceEnv` | two, each of which knows the goal of the other, and says one of 10 words | move + 5 * word |
| :class:`SpreadEnv` | ``N`` who say nothing; landmarks are to be covered without collisions | 5 moves |

With ``render_mode="rgb_array"`` they draw themselves, by Pillow: landmarks are squares, agents are discs.

Each world draws from a generator of its own, as ``mpe2`` does: from the same seed, and in the episodes that follow
without one, observations and rewards are the same to the bit.

Source: Lowe et al. 2017 (1706.02275), Section 5 and the particle environments that belong to it; ``mpe2`` 1.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from gsrl.multi_agent import Joint, Speech, TeamSpaces

__all__ = ["DAMPING", "DT", "PUSHES", "MPEEnv", "MPEWorlds", "ReferenceEnv", "SpeakerListenerEnv", "SpreadEnv"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DT, DAMPING = 0.1, 0.25
"""Seconds of a step, and the share of a velocity that is lost in it."""

PUSHES = np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]]) * 5.0
"""The force of each move."""

MOVES = len(PUSHES)

PICTURE = 256
"""Pixels of the side of a picture."""

GREY, BLUE = (90, 90, 90), (80, 110, 200)


class MPEWorlds(ABC):
    """Many worlds of one kind: :class:`gsrl.multi_agent.Worlds`.

    Args:
        team: Agents and their spaces.
        n_envs: ``B``.
        landmarks: ``L``.
        goals: How many landmarks are drawn to be somebody's goal.
        max_cycles: Steps of an episode.
        speakers: How many agents speak.
        words: Of each that there are.

    Attributes:
        positions: Of the agents, ``[B, A, 2]``.
        velocities: Likewise.
        landmarks: Where these are, ``[B, L, 2]``.
        goals: Which landmarks are goals, ``[B, goals]``.
        said: The last words of those who speak, one-hot, ``[B, speakers, words]``; zeros before the first.
        steps: Of the episodes, ``[B]``.
    """

    ARRAYS = ("positions", "velocities", "landmarks", "goals", "said", "steps", "over")
    """Attributes that say where the worlds are, beside their generators."""

    def __init__(
        self, team: TeamSpaces, n_envs: int, landmarks: int, goals: int, max_cycles: int, speakers: int, words: int
    ) -> None:
        agents = len(team.agents)
        self.team, self.max_cycles = team, max_cycles
        self.positions, self.velocities = np.zeros((n_envs, agents, 2)), np.zeros((n_envs, agents, 2))
        self.landmarks, self.goals = np.zeros((n_envs, landmarks, 2)), np.zeros((n_envs, goals), np.int64)
        self.said = np.zeros((n_envs, speakers, words))
        self.steps, self.over = np.zeros(n_envs, np.int64), np.ones(n_envs, np.bool_)
        self._rngs = [np.random.default_rng() for _ in range(n_envs)]
        self._rows = np.arange(n_envs)
        self._masks = np.broadcast_to(team.legal, (n_envs, *team.legal.shape))
        self._active = np.broadcast_to(np.True_, (n_envs, agents))
        self._no_end = np.zeros((n_envs, agents), np.bool_)

    def reset(self, worlds: Ints, seeds: Sequence[int] | None) -> Joint:
        """Begins these worlds anew; see :meth:`gsrl.multi_agent.Worlds.reset`."""
        agents, count = self.positions.shape[1], self.landmarks.shape[1]
        places = np.empty((len(worlds), agents + count, 2))
        goals = self.goals.shape[1]
        for row, world in enumerate(worlds.tolist()):
            if seeds is not None:
                self._rngs[world] = np.random.default_rng(seeds[row])
            rng = self._rngs[world]
            for goal in range(goals):
                self.goals[world, goal] = rng.integers(count)
            rng.random(out=places[row])
        places = -1.0 + 2.0 * places
        self.positions[worlds], self.landmarks[worlds] = places[:, :agents], places[:, agents:]
        self.velocities[worlds], self.said[worlds] = 0.0, 0.0
        self.steps[worlds], self.over[worlds] = 0, False
        return self._joint(worlds)

    def step(self, actions: Ints) -> tuple[Joint, Floats, NDArray[np.bool_], NDArray[np.bool_]]:
        """Takes actions ``[B, A, 1]``; see :meth:`gsrl.multi_agent.Worlds.step`."""
        self._act(actions[..., 0])
        self.steps += 1
        self.over = self.steps >= self.max_cycles
        truncated = np.repeat(self.over[:, None], self.positions.shape[1], 1)
        return self._joint(slice(None)), self._rewards(), self._no_end.copy(), truncated

    def states(self) -> NDArray[np.float32]:
        """What all agents observe, one after another, ``[B, D]``."""
        observations = self._joint(slice(None)).observations
        return np.concatenate([observations[:, i, :size] for i, size in enumerate(self.team.sizes)], -1)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`gsrl.multi_agent.Worlds.state_dict`."""
        arrays = {name: getattr(self, name).copy() for name in self.ARRAYS}
        return {**arrays, "rngs": [rng.bit_generator.state for rng in self._rngs]}

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        """See :meth:`gsrl.multi_agent.Worlds.load_state_dict`."""
        for name in self.ARRAYS:
            getattr(self, name)[...] = state[name]
        for rng, own in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = own
        return self._joint(slice(None)).observations

    def _move(self, agents: slice, forces: Floats) -> None:
        """Moves agents by their velocities, and then changes these by forces ``[B, agents, 2]``."""
        self.positions[:, agents] += self.velocities[:, agents] * DT
        self.velocities[:, agents] = self.velocities[:, agents] * (1 - DAMPING) + forces * DT

    def _joint(self, worlds: Ints | slice) -> Joint:
        observations = np.zeros((len(self.steps[worlds]), len(self.team.agents), self.team.O), np.float32)
        self._observe(worlds, observations)
        return Joint(observations, self._masks[worlds], self._active[worlds])

    @abstractmethod
    def _act(self, actions: Ints) -> None:
        """Takes actions ``[B, A]``."""

    @abstractmethod
    def _observe(self, worlds: Ints | slice, observations: NDArray[np.float32]) -> None:
        """Writes what the agents of these worlds see, ``[W, A, O]``, where there are zeros."""

    @abstractmethod
    def _rewards(self) -> Floats:
        """``[B, A]``."""

    @abstractmethod
    def colors(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Of agents and landmarks in a picture of the first world, ``[A, 3]`` and ``[L, 3]``."""


class _SpeakerListenerWorlds(MPEWorlds):
    COLORS = np.array([[0.65, 0.15, 0.15], [0.15, 0.65, 0.15], [0.15, 0.15, 0.65]])

    def __init__(self, team: TeamSpaces, n_envs: int, max_cycles: int) -> None:
        super().__init__(team, n_envs, landmarks=3, goals=1, max_cycles=max_cycles, speakers=1, words=3)

    def _act(self, actions: Ints) -> None:
        self._move(slice(1, 2), PUSHES[actions[:, 1:]])
        self.said = np.eye(3)[actions[:, :1]]

    def _observe(self, worlds: Ints | slice, observations: NDArray[np.float32]) -> None:
        observations[:, 0, :3] = self.COLORS[self.goals[worlds, 0]]
        listener = observations[:, 1]
        listener[:, :2] = self.velocities[worlds, 1]
        listener[:, 2:8] = (self.landmarks[worlds] - self.positions[worlds, 1][:, None]).reshape(-1, 6)
        listener[:, 8:11] = self.said[worlds, 0]

    def _rewards(self) -> Floats:
        way = self.positions[:, 1] - self.landmarks[self._rows, self.goals[:, 0]]
        return np.repeat(-_squared(way)[:, None], 2, 1)

    def colors(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The listener has the colour of the goal, which it cannot see."""
        landmarks = (255 * self.COLORS).astype(np.uint8)
        return np.stack([np.array(GREY, np.uint8), landmarks[self.goals[0, 0]]]), landmarks


class _ReferenceWorlds(MPEWorlds):
    COLORS = np.array([[0.75, 0.25, 0.25], [0.25, 0.75, 0.25], [0.25, 0.25, 0.75]])

    def __init__(self, team: TeamSpaces, n_envs: int, max_cycles: int, local_ratio: float) -> None:
        super().__init__(team, n_envs, landmarks=3, goals=2, max_cycles=max_cycles, speakers=2, words=10)
        self.local_ratio = local_ratio

    def _act(self, actions: Ints) -> None:
        words, moves = np.divmod(actions, MOVES)
        self._move(slice(None), PUSHES[moves])
        self.said = np.eye(10)[words]

    def _observe(self, worlds: Ints | slice, observations: NDArray[np.float32]) -> None:
        observations[..., :2] = self.velocities[worlds]
        ways = self.landmarks[worlds][:, None] - self.positions[worlds][:, :, None]
        observations[..., 2:8] = ways.reshape(-1, 2, 6)
        observations[..., 8:11] = self.COLORS[self.goals[worlds]]
        observations[..., 11:] = self.said[worlds][:, ::-1]

    def _rewards(self) -> Floats:
        own = -np.sqrt(_squared(self.positions[:, ::-1] - self.landmarks[self._rows[:, None], self.goals]))
        together = (own[:, :1] + own[:, 1:]) / 2
        return together * (1 - self.local_ratio) + own * self.local_ratio

    def colors(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Each agent has the colour of its goal, which the other knows."""
        landmarks = (255 * self.COLORS).astype(np.uint8)
        return landmarks[self.goals[0, ::-1]], landmarks


class _SpreadWorlds(MPEWorlds):
    SIZE = 0.15
    CONTACT_FORCE, CONTACT_MARGIN = 1e2, 1e-3

    def __init__(self, team: TeamSpaces, n_envs: int, max_cycles: int, local_ratio: float) -> None:
        agents = len(team.agents)
        super().__init__(team, n_envs, landmarks=agents, goals=0, max_cycles=max_cycles, speakers=0, words=0)
        self.local_ratio = local_ratio
        pairs = np.array(list(combinations(range(agents), 2)), np.int64).reshape(-1, 2)
        self._first, self._second = pairs.T
        self._pairs: list[tuple[int, int]] = [(a, b) for a, b in pairs.tolist()]
        self._others = np.array([[j for j in range(agents) if j != i] for i in range(agents)], np.int64)

    def _act(self, actions: Ints) -> None:
        forces = PUSHES[actions]
        contact = self._contact_forces()
        for pair, (a, b) in enumerate(self._pairs):
            forces[:, a] += contact[:, pair]
            forces[:, b] -= contact[:, pair]
        self._move(slice(None), forces)

    def _contact_forces(self) -> Floats:
        """On the first of each pair, ``[B, pairs, 2]``."""
        way = self.positions[:, self._first] - self.positions[:, self._second]
        distance = np.sqrt(_squared(way))[..., None]
        margin = self.CONTACT_MARGIN
        penetration = np.logaddexp(0, -(distance - (self.SIZE + self.SIZE)) / margin) * margin
        return self.CONTACT_FORCE * way / distance * penetration

    def _observe(self, worlds: Ints | slice, observations: NDArray[np.float32]) -> None:
        positions = self.positions[worlds]
        observations[..., :2], observations[..., 2:4] = self.velocities[worlds], positions
        count, agents = positions.shape[:2]
        own, to = positions[:, :, None], 4 + 2 * agents
        observations[..., 4:to] = (self.landmarks[worlds][:, None] - own).reshape(count, agents, -1)
        # Behind the others is what they say, which is nothing.
        observations[..., to : to + 2 * (agents - 1)] = (positions[:, self._others] - own).reshape(count, agents, -1)

    def _rewards(self) -> Floats:
        distances = np.sqrt(_squared(self.landmarks[:, :, None] - self.positions[:, None]))
        nearest = distances.min(-1)
        together = -nearest[:, 0]
        for distance in nearest.T[1:]:
            together = together - distance
        way = self.positions[:, self._first] - self.positions[:, self._second]
        collide = np.sqrt(_squared(way)) < self.SIZE + self.SIZE
        own = np.zeros(self.positions.shape[:2])
        for pair, (a, b) in enumerate(self._pairs):
            own[:, a] -= collide[:, pair]
            own[:, b] -= collide[:, pair]
        return together[:, None] * (1 - self.local_ratio) + own * self.local_ratio

    def colors(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """All agents are alike, and all landmarks."""
        count = self.positions.shape[1]
        return np.array([BLUE] * count, np.uint8), np.array([GREY] * count, np.uint8)


def _squared(ways: Floats) -> Floats:
    """Squared lengths of ``[..., 2]``."""
    return np.square(ways[..., 0]) + np.square(ways[..., 1])


class MPEEnv(ParallelEnv[str, NDArray[np.float32], np.int64]):
    """One of these worlds, for PettingZoo; :meth:`batched` is many.

    Args:
        observations: Numbers in the observation of each agent, by its name.
        actions: Choices of each.
        max_cycles: Steps of an episode, at the end of which all agents are truncated.
        render_mode: ``"rgb_array"``, or None: nothing is drawn.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "mpe", "render_modes": ["rgb_array"]}

    def __init__(
        self, observations: Mapping[str, int], actions: Mapping[str, int], max_cycles: int, render_mode: str | None
    ) -> None:
        if not isinstance(max_cycles, int) or isinstance(max_cycles, bool) or max_cycles < 1:
            raise ValueError(f"max_cycles must be an integer of at least 1, but got {max_cycles!r}.")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, but got {render_mode!r}.")
        self.episode_steps = max_cycles
        self.render_mode = render_mode
        self.possible_agents = list(actions)
        self.agents: list[str] = []
        self.observation_spaces: dict[str, spaces.Space[Any]] = {
            agent: spaces.Box(-np.inf, np.inf, (size,), np.float32) for agent, size in observations.items()
        }
        self.action_spaces: dict[str, spaces.Space[Any]] = {agent: spaces.Discrete(n) for agent, n in actions.items()}
        self.team = TeamSpaces(self)
        self.state_space = spaces.Box(-np.inf, np.inf, (sum(self.team.sizes),), np.float32)
        self.world = self.batched(1)

    @abstractmethod
    def batched(self, n_envs: int) -> MPEWorlds:
        """Many worlds of these settings."""

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """What an agent sees and hears."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """What an agent may do and say."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, dict[str, Any]]]:
        """Draws goals and places."""
        self.agents = list(self.possible_agents)
        joint = self.world.reset(np.zeros(1, np.int64), None if seed is None else [seed])
        return self._named(joint), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """Lets all agents act.

        Returns:
            Observations, rewards, terminated, truncated and infos.
        """
        agents = self.agents
        taken = np.array([[[int(actions[agent])] for agent in agents]])
        joint, rewards, terminated, truncated = self.world.step(taken)
        if self.world.over[0]:
            self.agents = []
        named = (dict(zip(agents, each[0].tolist(), strict=True)) for each in (rewards, terminated, truncated))
        return self._named(joint), *named, {agent: {} for agent in agents}

    def state(self) -> NDArray[np.float32]:
        """What all agents observe, one after another."""
        return self.world.states()[0]

    def render(self) -> NDArray[np.uint8] | None:
        """The world from above, ``[256, 256, 3]``; None without a ``render_mode``."""
        if self.render_mode is None:
            return None
        from PIL import Image, ImageDraw

        world = self.world
        agents, landmarks = world.positions[0], world.landmarks[0]
        reach = max(1.2, 1.1 * float(np.abs(np.concatenate([agents, landmarks])).max()))
        image = Image.new("RGB", (PICTURE, PICTURE), "white")
        draw, scale = ImageDraw.Draw(image), PICTURE / 2 / reach
        of_agents, of_landmarks = world.colors()
        for shape, places, colors, size in (
            (draw.rectangle, landmarks, of_landmarks, 0.07),
            (draw.ellipse, agents, of_agents, 0.1),
        ):
            for (x, y), color in zip(places * scale, colors, strict=True):
                left, top, half = PICTURE / 2 + x, PICTURE / 2 - y, size * scale
                shape((left - half, top - half, left + half, top + half), tuple(color.tolist()), "black")
        return np.asarray(image)

    def _named(self, joint: Joint) -> dict[str, NDArray[np.float32]]:
        return {
            agent: row[:size]
            for agent, row, size in zip(self.possible_agents, joint.observations[0], self.team.sizes, strict=True)
        }


class SpeakerListenerEnv(MPEEnv):
    """A speaker sees the colour of the goal, one of three landmarks; a listener hears its word of the step before.

    The speaker observes the colour, 3 numbers; the listener its velocity, where the landmarks are from where it is, and
    the word, one-hot: 2 + 6 + 3. Both get minus the squared distance between the listener and the goal. It equals
    ``mpe2``'s ``simple_speaker_listener_v4``.

    Args:
        max_cycles: Steps of an episode.
        render_mode: ``"rgb_array"``, or None.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "speaker_listener_v0", "render_modes": ["rgb_array"]}
    speech: ClassVar[dict[str, Speech]] = {
        "speaker_0": Speech(factors=(0,), private=(0, 1, 2)),
        "listener_0": Speech(heard=(8, 9, 10)),
    }

    def __init__(self, max_cycles: int = 25, render_mode: str | None = None) -> None:
        choices = {"speaker_0": 3, "listener_0": MOVES}
        super().__init__({"speaker_0": 3, "listener_0": 11}, choices, max_cycles, render_mode)

    def batched(self, n_envs: int) -> MPEWorlds:
        """Many worlds of these settings."""
        return _SpeakerListenerWorlds(self.team, n_envs, self.episode_steps)


class ReferenceEnv(MPEEnv):
    """Two who move and speak; each sees the colour of the goal of the other, one of three landmarks.

    An agent observes its velocity, where the landmarks are, the colour, and the word that the other said at the step
    before, one-hot: 2 + 6 + 3 + 10. Its action is ``move + 5 * word``, which
    :class:`gsrl.multi_agent.SplitActions` shows as two choices. With d the distance between an agent and its
    goal, the reward of the one who *knows* this goal is -d, by a share of ``local_ratio``, and the mean of both by the
    rest. It equals ``mpe2``'s ``simple_reference_v3``.

    Args:
        local_ratio: Share, in [0, 1].
        max_cycles: Steps of an episode.
        render_mode: ``"rgb_array"``, or None.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "reference_v0", "render_modes": ["rgb_array"]}
    action_factors: ClassVar[dict[str, dict[str, int]]] = {
        "agent_0": {"move": MOVES, "say": 10},
        "agent_1": {"move": MOVES, "say": 10},
    }
    speech: ClassVar[dict[str, Speech]] = {
        "agent_0": Speech(heard=tuple(range(11, 21)), private=(8, 9, 10)),
        "agent_1": Speech(heard=tuple(range(11, 21)), private=(8, 9, 10)),
    }

    def __init__(self, local_ratio: float = 0.5, max_cycles: int = 25, render_mode: str | None = None) -> None:
        self.local_ratio = _share(local_ratio)
        agents = ("agent_0", "agent_1")
        super().__init__(dict.fromkeys(agents, 21), dict.fromkeys(agents, MOVES * 10), max_cycles, render_mode)

    def batched(self, n_envs: int) -> MPEWorlds:
        """Many worlds of these settings."""
        return _ReferenceWorlds(self.team, n_envs, self.episode_steps, self.local_ratio)


class SpreadEnv(MPEEnv):
    """``N`` agents that are to cover as many landmarks, and push each other away where they collide.

    An agent observes its velocity and position, where the landmarks and the others are from where it is, and what the
    others say, which is nothing: 4 + 2 N + 2 (N - 1) zeros behind 2 (N - 1) numbers. All get minus the sum over the
    landmarks of the distance to the nearest agent, by a share of ``1 - local_ratio``; by the rest, an agent loses 1 for
    each other one that it collides with. It equals ``mpe2``'s ``simple_spread_v3``.

    Args:
        N: Agents.
        local_ratio: Share, in [0, 1].
        max_cycles: Steps of an episode.
        render_mode: ``"rgb_array"``, or None.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "spread_v0", "render_modes": ["rgb_array"]}

    def __init__(
        self, N: int = 3, local_ratio: float = 0.5, max_cycles: int = 25, render_mode: str | None = None
    ) -> None:
        if not isinstance(N, int) or isinstance(N, bool) or N < 1:
            raise ValueError(f"N must be an integer of at least 1, but got {N!r}.")
        self.local_ratio = _share(local_ratio)
        agents = [f"agent_{i}" for i in range(N)]
        super().__init__(dict.fromkeys(agents, 6 * N), dict.fromkeys(agents, MOVES), max_cycles, render_mode)

    def batched(self, n_envs: int) -> MPEWorlds:
        """Many worlds of these settings."""
        return _SpreadWorlds(self.team, n_envs, self.episode_steps, self.local_ratio)


def _share(local_ratio: float) -> float:
    if not 0 <= local_ratio <= 1:
        raise ValueError(f"local_ratio must be in [0, 1], but got {local_ratio!r}.")
    return float(local_ratio)
