"""Environments put back where they were in the middle of an episode, without storing what is inside them.

Most simulators are functions of their generator's state at the last reset, and of the actions since: from these, a new
instance is stepped to the same point, and what it shows there is compared bit for bit. Environments that depend on
anything else are found out by trying it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from gsrl.masking import MASK_KEY, to_matrix
from gsrl.multi_agent import AgentsVecEnv
from gsrl.multi_agent.vec_env import WorldStateError
from gsrl.spaces import OneHotCodec

__all__ = ["RewindError", "Rewindable", "restore", "snapshot", "why_not_rewindable"]

TRIAL_STEPS = 50
"""Steps of each part of the trial: a first episode, the one that is repeated, and what follows."""


class RewindError(RuntimeError):
    """An environment, stepped again, did not come to where it was."""


class Rewindable(gym.Wrapper):
    """Remembers how the episode came about, so that another instance can be brought to the same point.

    That is the state of ``unwrapped.np_random`` before the last reset, the arguments of that reset, and the actions
    since. It goes outside all wrappers with a state of their own, which are stepped again with the environment.

    Args:
        env: The environment.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._origin: dict[str, Any] = {}
        self._actions: list[Any] = []
        self._shown: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode, and forgets the one before."""
        generator = self._generator()
        state = None if generator is None else generator.bit_generator.state
        self._origin, self._actions = {"generator": state, "seed": seed, "options": options}, []
        observation, info = self.env.reset(seed=seed, options=options)
        self._shown = {"observation": observation, MASK_KEY: info.get(MASK_KEY)}
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes a step, and remembers it."""
        self._actions.append(copy.copy(action))  # the caller may use the array again
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._shown = {"observation": observation, MASK_KEY: info.get(MASK_KEY)}
        return observation, reward, terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """Returns how the episode came about, and what it shows now, as a tree that checkpoints store."""
        return {**self._origin, "actions": np.array(self._actions), **_as_arrays(self._shown)}

    def set_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Brings the environment to where another one was.

        Args:
            state: What that one's :meth:`get_state` returned.

        Returns:
            The info of the reset with which the episode began.

        Raises:
            RewindError: It comes to another point.
        """
        generator = self._generator()
        if generator is not None and state["generator"] is not None:
            generator.bit_generator.state = state["generator"]
        _, reset_info = self.reset(seed=state["seed"], options=state["options"])
        for number, action in enumerate(state["actions"], start=1):
            _, _, terminated, truncated, _ = self.step(action)
            if terminated or truncated:
                raise RewindError(f"the episode ended after {number} of its {len(state['actions'])} steps")
        for name, value in _as_arrays(self._shown).items():
            if not data_equivalence(value, state.get(name), exact=True):  # checkpoints were once written without masks
                raise RewindError(f"it shows another {name} after the same {len(state['actions'])} steps")
        return reset_info

    def _generator(self) -> np.random.Generator | None:
        """The environment's own; None where it has none of the usual kind."""
        generator = getattr(self.unwrapped, "np_random", None)
        return generator if isinstance(generator, np.random.Generator) else None


# All environments of a training


def snapshot(env: VecEnv) -> dict[str, Any]:
    """Returns where environments are in their episodes.

    Args:
        env: Vectorised :class:`Rewindable` environments that have been reset, or agents of worlds, normalised or not.
    """
    normalized, base = unwrap_vec_normalize(env), env.unwrapped
    return {
        "episodes": base.state_dict() if isinstance(base, AgentsVecEnv) else env.env_method("get_state"),
        "normalizer": None
        if normalized is None
        else {"returns": normalized.returns, "old_obs": normalized.old_obs, "old_reward": normalized.old_reward},
    }


def restore(env: VecEnv, state: Mapping[str, Any]) -> None:
    """Brings environments to where others were; the running statistics of a normalisation are another's to restore.

    Args:
        env: As many environments of the same kind.
        state: What :func:`snapshot` returned.

    Raises:
        RewindError: One of them comes to another point, or raises on its way. Then all must be reset.
    """
    if isinstance(env.unwrapped, AgentsVecEnv):
        try:
            env.unwrapped.load_state_dict(state["episodes"])
        except WorldStateError as error:
            raise RewindError(str(error)) from error
    for index, episode in enumerate([] if isinstance(env.unwrapped, AgentsVecEnv) else state["episodes"]):
        try:
            (env.unwrapped.reset_infos[index],) = env.env_method("set_state", episode, indices=index)
        except Exception as error:  # environments raise what they like
            raise RewindError(f"environment {index}: {error}") from error
    env.unwrapped._reset_seeds()  # those for a first reset, which is past
    normalized = unwrap_vec_normalize(env)
    if normalized is not None:
        for name in ("returns", "old_obs", "old_reward"):
            setattr(normalized, name, state["normalizer"][name])


def why_not_rewindable(make: Callable[[], gym.Env]) -> str | None:
    """Tries it: plays with one instance, brings another to the same point, and goes on with both.

    Args:
        make: Makes an instance.

    Returns:
        None if both go the same way; else how they differ.
    """
    instances: list[Rewindable] = []
    rng = np.random.default_rng(0)
    try:
        for _ in range(2):
            instances.append(Rewindable(make()))
        first, second = instances
        space = copy.deepcopy(first.action_space)  # the environment's own generator is not to be drawn from
        space.seed(0)
        for seed in (0, None):  # what an episode leaves behind must not matter in the next
            _, info = first.reset(seed=seed)
            for _ in range(TRIAL_STEPS):
                _, info = _step(first, _random_action(space, info, rng))
        second.set_state(first.get_state())
        for _ in range(TRIAL_STEPS):
            action = _random_action(space, info, rng)
            (expected, info), (outcome, _) = _step(first, action), _step(second, action)
            if not data_equivalence(outcome, expected, exact=True):
                return "it goes on in another way"
    except Exception as error:  # environments raise what they like
        return str(error) if isinstance(error, RewindError) else f"{type(error).__name__}: {error}"
    finally:
        for instance in instances:
            with suppress(Exception):
                instance.close()
    return None


def _step(env: gym.Env, action: Any) -> tuple[Any, dict[str, Any]]:
    """Takes a step, into the next episode where one ends; returns all that it shows, and the latest info."""
    observation, reward, terminated, truncated, info = env.step(action)
    shown = [observation, reward, terminated, truncated, info.get(MASK_KEY)]
    if terminated or truncated:
        observation, info = env.reset()
        shown += [observation, info.get(MASK_KEY)]
    return _as_arrays(tuple(shown)), info


def _random_action(space: gym.Space[Any], info: Mapping[str, Any], rng: np.random.Generator) -> Any:
    """Draws a legal action."""
    if info.get(MASK_KEY) is None:
        return space.sample()
    codec = OneHotCodec(space)
    indices = [rng.choice(np.flatnonzero(legal)) for legal in to_matrix(codec, info[MASK_KEY])]
    return codec.from_indices(np.array(indices))[()]


def _as_arrays(value: Any) -> Any:
    """Returns nested dicts and tuples with arrays at their leaves, or None."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: _as_arrays(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_as_arrays(item) for item in value)
    return np.asarray(value)
