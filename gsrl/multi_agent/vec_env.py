"""Many worlds with several agents each, of PettingZoo's Parallel interface, side by side in NumPy arrays.

Agents are a dimension of the arrays, and what is unequal about them is padding: there are ``B`` worlds, ``A`` agents,
observations of ``O`` numbers, and actions of ``n`` factors with ``K`` choices, each the largest of any agent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gsrl._random import Role, environment_seeds
from gsrl.checks import EnvironmentDataError, checked_end, checked_observation, checked_real
from gsrl.masking import MASK_KEY, to_matrix
from gsrl.spaces import OneHotCodec

__all__ = [
    "ACTIVE_KEY",
    "Joint",
    "ParallelVecEnv",
    "Step",
    "TeamSpaces",
    "WorldStateError",
    "Worlds",
    "given_mask",
    "without_mask",
]

ACTIVE_KEY = "active"
"""Where an agent's info says whether it is on turn; without it, it is."""

Step: TypeAlias = tuple["Joint", NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]
"""A joint, and of each agent ``[B, A]`` its reward, whether it terminated, and whether it was truncated."""


class WorldStateError(RuntimeError):
    """Worlds could not be brought to where others were.

    Example:
        >>> from envs.mpe import SpreadEnv
        >>> env = ParallelVecEnv(SpreadEnv, n_envs=1)
        >>> _ = env.reset()
        >>> state = env.state_dict()
        >>> state["joint"]["observations"] += 1.0
        >>> env.load_state_dict(state)
        Traceback (most recent call last):
            ...
        gsrl.multi_agent.vec_env.WorldStateError: they show other observations after the same steps
    """


class Joint(NamedTuple):
    """What all agents of ``B`` worlds have before them.

    Example:
        >>> from envs.switch_riddle import SwitchRiddleEnv
        >>> joint = ParallelVecEnv(lambda: SwitchRiddleEnv(3), n_envs=4).reset()
        >>> joint.observations.shape, joint.masks.shape, joint.active.shape
        ((4, 3, 5), (4, 3, 2, 2), (4, 3))
    """

    observations: NDArray[np.float32]
    """Flat, ``[B, A, O]``; zeros behind the last number of an agent, and where an agent is not there."""
    masks: NDArray[np.bool_]
    """Which choices are legal, ``[B, A, n, K]``: the first one alone in factors that an agent does not have, and in all
    those of an inactive agent."""
    active: NDArray[np.bool_]
    """Who is to choose, ``[B, A]``: agents that are there, and on turn."""


class Worlds(Protocol):
    """``B`` worlds in arrays. An environment whose method ``batched(n_envs)`` returns such is stepped without a loop.

    Worlds do not begin anew by themselves.

    Example:
        >>> from envs.mpe import SpreadEnv
        >>> worlds: Worlds = SpreadEnv().batched(100)
        >>> joint = worlds.reset(np.arange(100), range(100))
        >>> joint, rewards, terminated, truncated = worlds.step(np.zeros((100, 3, 1), np.int64))
        >>> rewards.shape, worlds.states().shape
        ((100, 3), (100, 54))
    """

    @property
    def over(self) -> NDArray[np.bool_]:
        """Which episodes are over, ``[B]``: they are reset before the next step."""

    def reset(self, worlds: NDArray[np.int64], seeds: Sequence[int] | None) -> Joint:
        """Begins these worlds anew, each from its seed; None: its random numbers go on. Returns their rows alone."""

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Takes actions ``[B, A, n]``, legal ones; returns as :meth:`ParallelVecEnv.step`."""

    def states(self) -> NDArray[np.float32]:
        """The state of each world, flat, ``[B, D]``; asked for only where an environment says that it has some."""

    def state_dict(self) -> dict[str, Any]:
        """Where all worlds are in their episodes, as a tree that :func:`gsrl.checkpoint.save` stores; a copy."""

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        """Brings as many worlds to where those of :meth:`state_dict` were.

        Returns:
            What is observed there, ``[B, A, O]``.

        Raises:
            Exception: They cannot be brought there; they are to be reset then.
        """


class TeamSpaces:
    """How the spaces of several agents become arrays of one shape.

    Observations are flat: a ``Box`` in C order, one-hot numbers for ``Discrete`` and ``MultiDiscrete``, a ``Dict`` or
    ``Tuple`` one part after another. An entry ``"action_mask"`` of a ``Dict`` is a mask, and not observed.

    Args:
        env: An environment of PettingZoo's Parallel interface.

    Attributes:
        agents: Names of all agents, in the order of the arrays.
        index: The place of each, by name.
        codecs: Of the action space of each.
        observation_spaces: Of each, without masks.
        sizes: Numbers in the observation of each.
        O: The largest of these.
        n: Factors of an action, the largest number of any agent.
        K: Choices of a factor, likewise.
        legal: Which choices there are, bool ``[A, n, K]``: the first one alone in factors that an agent does not have.
        no_op: The mask of who is not to choose, ``[n, K]``: the first choice of each factor.

    Raises:
        TypeError: It is an AEC environment, or none of PettingZoo's; an action space is not discrete; an observation
            space cannot be made flat.

    Example:
        >>> from envs.mpe import SpeakerListenerEnv
        >>> team = TeamSpaces(SpeakerListenerEnv())
        >>> team.agents, team.sizes, team.K
        (['speaker_0', 'listener_0'], [3, 11], 5)
        >>> team.legal[:, 0]  # the speaker has three symbols, the listener five ways to go
        array([[ True,  True,  True, False, False],
               [ True,  True,  True,  True,  True]])
    """

    def __init__(self, env: Any) -> None:
        if hasattr(env, "agent_iter"):
            raise TypeError(
                f"env must be a Parallel environment, but got the AEC environment {env}: wrap it in "
                "gsrl.multi_agent.TurnBased, or in pettingzoo.utils.aec_to_parallel if all agents act at once."
            )
        if not all(hasattr(env, name) for name in ("possible_agents", "observation_space", "action_space")):
            raise TypeError(f"env must be a Parallel environment of PettingZoo, but got {env!r}.")
        self.agents: list[str] = list(env.possible_agents)
        self.index = {agent: i for i, agent in enumerate(self.agents)}
        self.codecs = [_codec(agent, env.action_space(agent)) for agent in self.agents]
        self.observation_spaces = [_observed(agent, env.observation_space(agent)) for agent in self.agents]
        self.sizes: list[int] = [spaces.flatdim(space) for space in self.observation_spaces]
        self.O, self.n, self.K = max(self.sizes), max(c.n for c in self.codecs), max(c.K for c in self.codecs)
        self.no_op = np.zeros((self.n, self.K), np.bool_)
        self.no_op[:, 0] = True
        self.legal = np.stack([self.no_op] * len(self.agents))
        for i, codec in enumerate(self.codecs):
            self.legal[i, : codec.n, : codec.K] = True if codec.mask is None else codec.mask.numpy()

    def joint(self, n_envs: int) -> Joint:
        """That of ``n_envs`` worlds in which nobody is there."""
        shape = (n_envs, len(self.agents))
        return Joint(
            np.zeros((*shape, self.O), np.float32),
            np.broadcast_to(self.no_op, (*shape, *self.no_op.shape)).copy(),
            np.zeros(shape, np.bool_),
        )

    def flat(self, agent: int, observation: Any, world: int) -> NDArray[np.float32]:
        """The observation of an agent, ``[sizes[agent]]``.

        Raises:
            EnvironmentDataError: It is not of its space: by its shape, or by its numbers, where these are choices.
        """
        return _flat(f"observation of {self.agents[agent]}", self.observation_spaces[agent], observation, world)

    def mask(self, agent: int, flat: NDArray[Any] | None, world: int) -> NDArray[np.bool_]:
        """A flat mask of an agent as ``[n, K]``; None: all choices that there are.

        Raises:
            EnvironmentDataError: It has another shape, other entries than 0 and 1, or no legal choice of a factor.
        """
        if flat is None:
            return self.legal[agent]
        codec, mask = self.codecs[agent], self.legal[agent].copy()
        try:
            mask[: codec.n, : codec.K] = to_matrix(codec, flat)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise EnvironmentDataError(f"{reason}, of {self.agents[agent]} in world {world}") from None
        return mask


def given_mask(observation: Any, info: Mapping[str, Any]) -> NDArray[Any] | None:
    """The flat mask that an agent's info or observation holds, see :mod:`gsrl.masking`; None: there is none.

    Example:
        >>> given_mask({"observation": 3, "action_mask": [1, 0]}, {})
        array([1, 0])
        >>> given_mask(3, {"action_mask": ([1, 0], [1, 1, 1])})  # of two factors
        array([1, 0, 1, 1, 1])
    """
    mask = info.get(MASK_KEY)
    if mask is None and isinstance(observation, Mapping):
        mask = observation.get(MASK_KEY)
    if mask is None:
        return None
    return np.hstack(mask) if isinstance(mask, tuple) else np.asarray(mask)


class ParallelVecEnv:
    """Worlds of PettingZoo's Parallel interface side by side, in padded arrays; each begins anew when it is over.

    A world that is over is reset at once. So there are two joints after a step: what the actions led to, with the final
    observations, which :meth:`step` returns; and what is to be acted on next, with the first ones, :attr:`joint`.

    An agent is inactive when it has left, and when it is not on turn (``info["active"]`` is False, as
    :class:`gsrl.multi_agent.TurnBased` says). It has one choice then, no part in what is learned, and is asked again
    when it is its turn. In the joint that a step returns, one that was truncated in it has the turn that it had lost:
    its return goes on from there. One that terminated has not.

    World j of the member with seed s begins with ``environment_seed(s, "environment", j)``; its later episodes go on
    with its own random numbers.

    Args:
        make_env: A function that makes a world: an environment of PettingZoo's Parallel interface, with ``Discrete``,
            ``MultiDiscrete`` or ``MultiBinary`` actions. Masks are taken from ``info["action_mask"]``, or from an entry
            ``"action_mask"`` of the observation. If it has a method ``batched(n_envs) -> Worlds | None``, this is
            called once, and all worlds are stepped by it.
        n_envs: Worlds of a member, at least 1.
        seeds: Of the members, at least one: there are ``B = len(seeds) * n_envs`` worlds, those of a member together.
        with_states: Whether states are asked for: what ``env.state()`` says, of ``env.state_space``.

    Attributes:
        spaces: Agents, and how their spaces become arrays.
        joint: What is to be acted on.
        over: Which episodes ended by the last step, ``[B]``.
        states: Of the worlds, flat, as they are to be acted on, ``[B, D]``; D is 0 without ``with_states``.
        states_after: What the last step led to, likewise.
        worlds: The worlds themselves.

    Raises:
        TypeError: ``make_env`` returns something else, such as an AEC environment, or actions are continuous.
        ValueError: ``n_envs`` is below 1; there is no seed; worlds are the same object, or of other agents or spaces,
            or have no states.

    Example:
        >>> from envs.switch_riddle import SwitchRiddleEnv
        >>> env = ParallelVecEnv(lambda: SwitchRiddleEnv(3), n_envs=4, seeds=(0,))
        >>> observations, masks, active = env.reset()
        >>> observations.shape, masks.shape, active.shape
        ((4, 3, 5), (4, 3, 2, 2), (4, 3))
        >>> after, rewards, terminated, truncated = env.step(masks.argmax(-1))
        >>> rewards.shape
        (4, 3)
    """

    def __init__(
        self, make_env: Callable[[], Any], n_envs: int, seeds: Sequence[int] = (0,), *, with_states: bool = False
    ) -> None:
        if not isinstance(n_envs, int) or isinstance(n_envs, bool) or n_envs < 1:
            raise ValueError(f"n_envs must be an integer of at least 1, but got {n_envs!r}.")
        self.n_envs, self.seeds = n_envs, [int(seed) for seed in seeds]
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds must hold at least one, integers of at least 0, but got {self.seeds}.")
        first = make_env()
        self.spaces = TeamSpaces(first)
        if with_states and not isinstance(getattr(first, "state_space", None), spaces.Box):
            raise ValueError(f"state_space of {first} must be a Box where states are asked for, but there is none.")
        self.with_states = with_states
        self.num_worlds = n_envs * len(self.seeds)
        batched = first.batched(self.num_worlds) if hasattr(first, "batched") else None
        self.worlds: Worlds = _Separate(self.spaces, first, make_env, self.num_worlds) if batched is None else batched
        self.joint = self.spaces.joint(self.num_worlds)
        self.over = np.zeros(self.num_worlds, np.bool_)
        size = int(np.prod(first.state_space.shape)) if with_states else 0
        self.states = self.states_after = np.zeros((self.num_worlds, size), np.float32)
        self._is_reset = False
        shape = self.joint.masks.shape
        self._first_choices = shape[-1] * np.arange(np.prod(shape[:-1])).reshape(shape[:-1])  # in flat masks
        self.seed("environment")

    def seed(self, role: Role, *index: int) -> None:
        """Lets the next :meth:`reset` begin world j of each member with ``environment_seed(seed, role, *index, j)``.

        Args:
            role: What the worlds are for, such as ``"evaluation"``.
            *index: Which of these, such as the number of a batch of episodes.
        """
        each = [environment_seeds(self.n_envs, seed, role, *index) for seed in self.seeds]
        self.seed_each([seed for member in each for seed in member])

    def seed_each(self, seeds: Sequence[int]) -> None:
        """Lets the next :meth:`reset` begin each world with a seed of its own, as many as there are worlds."""
        self._next_seeds: list[int] | None = list(seeds)

    def reset(self) -> Joint:
        """Begins all worlds anew: the first time, and after :meth:`seed`, from seeds; else their random numbers go on.

        Raises:
            EnvironmentDataError: A world returned something else than it may.
        """
        self.joint = self.worlds.reset(np.arange(self.num_worlds), self._next_seeds)
        self._next_seeds = None
        self._is_reset = True
        self.over = np.zeros(self.num_worlds, np.bool_)
        self.states = self.states_after = self._ask_states()
        return self.joint

    def _ask_states(self) -> NDArray[np.float32]:
        if not self.with_states:
            return self.states
        states = self.worlds.states()
        if states.shape != self.states.shape or not np.isfinite(states).all():
            raise EnvironmentDataError(
                f"states must be finite numbers of shape {self.states.shape}, but got shape {states.shape}"
            )
        return states

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Takes an action of every agent; worlds that are over by it begin anew, see :attr:`joint`.

        Args:
            actions: Choices of the factors, counted from 0, integers ``[B, A, n]``: 0 in factors that an agent does not
                have, and of inactive agents.

        Returns:
            The joint that the actions led to, rewards float64 ``[B, A]``, and who terminated and who was truncated in
            this step, bool ``[B, A]``. Agents that are not there have reward 0 and do not end.

        Raises:
            EnvironmentDataError: A world returned something else than it may; nothing is to be learned of this step.
            RuntimeError: :meth:`reset` was never called.
            TypeError: The actions are no integers.
            ValueError: The actions have another shape, or one is illegal.
        """
        if not self._is_reset:
            raise RuntimeError("reset must be called before step.")
        actions = self._checked(np.asarray(actions))
        step = after, _, terminated, truncated = self.worlds.step(actions)
        self.over = over = self.worlds.over.copy()
        self.states = self.states_after = self._ask_states()
        gone = (terminated | truncated) & ~over[:, None]
        is_over, are_gone = over.any(), gone.any()
        if is_over or are_gone:
            after = Joint(after.observations.copy(), after.masks.copy(), after.active.copy())
        if are_gone:
            after.observations[gone], after.masks[gone], after.active[gone] = 0, self.spaces.no_op, False
        if is_over:
            (worlds,) = over.nonzero()
            for array, rows in zip(after, self.worlds.reset(worlds, None), strict=True):
                array[worlds] = rows
            self.states = self._ask_states()
        self.joint = after
        return step

    def _checked(self, actions: NDArray[Any]) -> NDArray[np.int64]:
        shape = self.joint.masks.shape[:-1]
        if actions.dtype.kind not in "iu":
            raise TypeError(f"actions must be integers, but got an array of dtype {actions.dtype}.")
        if actions.shape != shape:
            raise ValueError(f"actions must have shape {shape}, [B, A, n], but got shape {actions.shape}.")
        masks = self.joint.masks
        is_within = (actions >= 0) & (actions < self.spaces.K)
        choices = actions.astype(np.int64, copy=False)
        if not (is_within.all() and masks.reshape(-1).take(choices + self._first_choices).all()):
            legal = is_within & np.take_along_axis(masks, np.where(is_within, choices, 0)[..., None], -1)[..., 0]
            world, agent, factor = np.argwhere(~legal)[0].tolist()
            raise ValueError(
                f"actions must be legal, but {self.spaces.agents[agent]} of world {world} took choice "
                f"{choices[world, agent, factor]} of factor {factor}, of which "
                f"{masks[world, agent, factor].nonzero()[0].tolist()} are legal."
            )
        return choices

    def state_dict(self) -> dict[str, Any]:
        """Where all worlds are in their episodes, as a tree that :func:`gsrl.checkpoint.save` stores; a copy.

        Raises:
            RuntimeError: :meth:`reset` was never called.
        """
        if not self._is_reset:
            raise RuntimeError("reset must be called before state_dict.")
        joint = {name: array.copy() for name, array in self.joint._asdict().items()}
        return {"joint": joint, "over": self.over.copy(), "worlds": self.worlds.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Brings as many worlds to where those of :meth:`state_dict` were.

        Worlds that are objects are stepped there again, from the states of their generators at the last reset: those
        that are attributes of the environment, or of one within.

        Raises:
            WorldStateError: They come to another point, or raise on their way; they are to be reset then.
        """
        joint = Joint(**{name: np.array(state["joint"][name]) for name in Joint._fields})
        try:
            observations = self.worlds.load_state_dict(state["worlds"])
        except Exception as error:  # environments raise what they like
            raise WorldStateError(f"{type(error).__name__}: {error}") from error
        if not np.array_equal(observations[joint.active], joint.observations[joint.active]):
            raise WorldStateError("they show other observations after the same steps")
        self.joint, self.over = joint, np.array(state["over"])
        self.states = self.states_after = self._ask_states()
        self._next_seeds, self._is_reset = None, True

    def close(self) -> None:
        """Closes all worlds."""
        if isinstance(self.worlds, _Separate):
            for env in self.worlds.envs:
                env.close()


class _Separate:
    """Worlds that are an object each, stepped in turn."""

    def __init__(self, team: TeamSpaces, first: Any, make_env: Callable[[], Any], n_envs: int) -> None:
        self.team, self.envs = team, [first, *(make_env() for _ in range(n_envs - 1))]
        if len({id(env) for env in self.envs}) < n_envs:
            raise ValueError("make_env must return another environment at each call, but returned one of before.")
        for number, env in enumerate(self.envs[1:], 1):
            other = TeamSpaces(env)
            same = [codec.space for codec in other.codecs] == [codec.space for codec in team.codecs]
            if other.agents != team.agents or not same or other.observation_spaces != team.observation_spaces:
                raise ValueError(
                    f"make_env must always return environments of the same agents and spaces, but that of world "
                    f"{number} has others than that of world 0."
                )
        self.over = np.ones(n_envs, np.bool_)
        # How each episode came about: its generators and seed at the reset, and the actions since.
        self._origins: list[dict[str, Any]] = [{} for _ in range(n_envs)]
        self._taken: list[list[NDArray[np.int64]]] = [[] for _ in range(n_envs)]

    def reset(self, worlds: NDArray[np.int64], seeds: Sequence[int] | None) -> Joint:
        joint = self.team.joint(len(worlds))
        for row, world in enumerate(worlds.tolist()):
            env, seed = self.envs[world], None if seeds is None else seeds[row]
            states = [generator.bit_generator.state for generator in _generators(env)] if seed is None else []
            self._origins[world], self._taken[world] = {"generators": states, "seed": seed}, []
            observations, infos = env.reset() if seed is None else env.reset(seed=seed)
            self._show_first(joint, row, world, observations, infos)
        return joint

    def _show_first(
        self, joint: Joint, row: int, world: int, observations: Mapping[str, Any], infos: Mapping[str, Any]
    ) -> None:
        agents = self.envs[world].agents
        self.over[world] = not agents
        for agent in agents:
            self._show(joint, row, world, agent, observations, infos)
        if not agents:
            raise EnvironmentDataError(f"agents must not be empty after a reset, but are in world {world}")

    def step(self, actions: NDArray[np.int64]) -> Step:
        team, shape = self.team, actions.shape[:2]
        chosen = [codec.from_indices(actions[:, i, : codec.n]) for i, codec in enumerate(team.codecs)]
        joint, rewards = team.joint(len(self.envs)), np.zeros(shape)
        step = joint, rewards, np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        for world, own in enumerate(actions.copy()):
            self._taken[world].append(own)
            self._step_one(world, [of_agent[world] for of_agent in chosen], step)
        return step

    def _step_one(self, world: int, chosen: Sequence[Any], step: Step) -> None:
        """Lets one world make a step, by the action of each agent, and writes its row."""
        team, env, (joint, rewards, terminated, truncated) = self.team, self.envs[world], step
        agents = list(env.agents)
        observations, *given, infos = env.step({agent: chosen[team.index[agent]] for agent in agents})
        place = f"world {world}"
        for agent in agents:
            i = team.index[agent]
            reward, has_terminated, was_truncated = (
                _entry(name, values, agent, world)
                for name, values in zip(("rewards", "terminated", "truncated"), given, strict=True)
            )
            rewards[world, i] = checked_real(f"reward of {agent}", reward, place)
            terminated[world, i] = checked_end(f"terminated of {agent}", has_terminated, place)
            truncated[world, i] = checked_end(f"truncated of {agent}", was_truncated, place)
            if not (terminated[world, i] or truncated[world, i] or agent in env.agents):
                raise EnvironmentDataError(
                    f"agents must keep those whose part has not ended, but {agent} is gone in {place}"
                )
            has_left = bool(terminated[world, i])
            self._show(joint, world, world, agent, observations, infos, has_left, bool(truncated[world, i]))
        for agent in env.agents:
            if agent not in agents:
                self._show(joint, world, world, agent, observations, infos)
        ended = terminated[world] | truncated[world]
        self.over[world] = all(ended[team.index[agent]] for agent in env.agents)

    def states(self) -> NDArray[np.float32]:
        return np.stack([np.asarray(env.state(), np.float32).ravel() for env in self.envs])

    def state_dict(self) -> dict[str, Any]:
        pairs = zip(self._origins, self._taken, strict=True)
        return {"episodes": [{**origin, "actions": [own.copy() for own in taken]} for origin, taken in pairs]}

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        team, shape = self.team, (len(self.envs), len(self.team.agents))
        joint = team.joint(len(self.envs))
        step = joint, np.zeros(shape), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        for world, (env, episode) in enumerate(zip(self.envs, state["episodes"], strict=True)):
            seed, states, actions = (episode[name] for name in ("seed", "generators", "actions"))
            if seed is None:
                env.reset(seed=0)  # some make their generator there
                for generator, own in zip(_generators(env), states, strict=True):
                    generator.bit_generator.state = own
            self._origins[world], self._taken[world] = {"generators": states, "seed": seed}, list(actions)
            self._show_first(joint, world, world, *(env.reset() if seed is None else env.reset(seed=seed)))
            for number, action in enumerate(actions, 1):
                pairs = zip(team.codecs, action, strict=True)
                self._step_one(world, [codec.from_indices(own[: codec.n])[()] for codec, own in pairs], step)
                if self.over[world]:
                    raise ValueError(f"the episode of world {world} ended after {number} of {len(actions)} steps")
        return joint.observations

    def _show(
        self,
        joint: Joint,
        row: int,
        world: int,
        agent: str,
        observations: Mapping[str, Any],
        infos: Mapping[str, Any],
        has_left: bool = False,
        was_truncated: bool = False,
    ) -> None:
        """Writes what an agent has before it into a row."""
        if agent not in self.team.index:
            raise EnvironmentDataError(f"possible_agents must name all agents, but lacks {agent!r}")
        if has_left and agent not in observations:
            return
        i, observation = self.team.index[agent], _entry("observations", observations, agent, world)
        joint.observations[row, i, : self.team.sizes[i]] = self.team.flat(i, without_mask(observation), world)
        info = infos.get(agent, {})
        if has_left or not info.get(ACTIVE_KEY, True):
            return
        mask = given_mask(observation, info)
        if was_truncated and mask is not None and not mask.any():
            mask = None  # nobody acts there any more, so that environments need not say what would be legal
        joint.masks[row, i] = self.team.mask(i, mask, world)
        joint.active[row, i] = True


def _generators(env: Any) -> list[np.random.Generator]:
    """NumPy's generators that are attributes of an environment, or of those within it."""
    found = []
    while env is not None:
        own = getattr(env, "__dict__", {})
        found += [value for value in own.values() if isinstance(value, np.random.Generator)]
        env = next((own[name] for name in ("env", "aec_env") if name in own), None)
    return found


def _codec(agent: str, space: Any) -> OneHotCodec:
    try:
        return OneHotCodec(space)
    except TypeError:
        raise TypeError(
            f"action_space of {agent} must be Discrete, MultiDiscrete or MultiBinary, but got {space}."
        ) from None


def _observed(agent: str, space: Any) -> spaces.Space[Any]:
    """A space of observations without the mask in it."""
    if isinstance(space, spaces.Dict) and MASK_KEY in space.spaces:
        rest = {key: each for key, each in space.spaces.items() if key != MASK_KEY}
        space = next(iter(rest.values())) if list(rest) == ["observation"] else spaces.Dict(rest)
    if not _is_flat(space):
        raise TypeError(f"observation_space of {agent} must be one that can be made flat, but got {space}.")
    return space


def _is_flat(space: Any) -> bool:
    return isinstance(space, spaces.Space) and space.is_np_flattenable


def without_mask(observation: Any) -> Any:
    """An observation without the mask in it, of what :attr:`TeamSpaces.observation_spaces` says.

    Example:
        >>> without_mask({"observation": 3, "action_mask": [1, 0]})
        3
    """
    if isinstance(observation, Mapping) and MASK_KEY in observation:
        rest = {key: value for key, value in observation.items() if key != MASK_KEY}
        return rest["observation"] if list(rest) == ["observation"] else rest
    return observation


def _flat(name: str, space: spaces.Space[Any], value: Any, world: int) -> NDArray[np.float32]:
    if isinstance(space, spaces.Box):
        return checked_observation(name, value, space.shape, space.dtype, world).astype(np.float32).ravel()
    try:
        if isinstance(space, spaces.Dict):
            parts = [_flat(f"{name}[{key!r}]", each, value[key], world) for key, each in space.spaces.items()]
            return np.concatenate(parts)
        if isinstance(space, spaces.Tuple):
            parts = [_flat(f"{name}[{i}]", each, value[i], world) for i, each in enumerate(space.spaces)]
            return np.concatenate(parts)
    except (IndexError, KeyError, TypeError):
        raise EnvironmentDataError(f"{name} must be of {space}, but got {value!r} in world {world}") from None
    if not space.contains(value):
        raise EnvironmentDataError(f"{name} must be of {space}, but got {value!r} in world {world}")
    return np.asarray(spaces.flatten(space, value), np.float32)


def _entry(name: str, values: Any, agent: str, world: int) -> Any:
    try:
        return values[agent]
    except (KeyError, TypeError):
        raise EnvironmentDataError(
            f"{name} must have an entry for every agent that is there, but {agent} has none in world {world}"
        ) from None
