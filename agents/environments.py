"""Environments by name: made vectorised, with errors that say what to do."""

from __future__ import annotations

import re
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.error import DependencyNotInstalled, UnregisteredEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import check_for_nested_spaces, get_obs_shape
from stable_baselines3.common.vec_env import VecEnv

import envs  # noqa: F401  # registers the environments of the checkout
from agents import AGENTS, TALKERS, get_agent, nearest
from agents.common import UsageError
from agents.rewind import Rewindable
from gsrl.masking import adapt, shows_masks

__all__ = ["EnvironmentFailure", "check_environment", "check_origin", "make_environment", "make_environments"]

EXTRAS = ("box2d", "minatar", "minigrid", "mujoco")
"""Extras of this project that hold what an environment needs."""

NEED_JAX = ("phys2d/", "tabular/")
"""Beginnings of the names that are not suggested: no extra of this project makes them work."""


class EnvironmentFailure(RuntimeError):
    """An environment raised while it was reset or stepped; the message says what and where."""


class _Watched(gym.Wrapper):
    """Tells what the environment raises from what its users raise."""

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        try:
            return self.env.reset(**arguments)
        except Exception as error:
            raise self._failure("reset", error) from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        try:
            return self.env.step(action)
        except Exception as error:
            raise self._failure(f"step({action})", error) from error

    def _failure(self, call: str, error: Exception) -> EnvironmentFailure:
        innermost = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(innermost.filename).name}, line {innermost.lineno}"
        name = self.spec.id if self.spec is not None else str(self.unwrapped)
        return EnvironmentFailure(f"{name} raised {type(error).__name__} in {call}: {error} ({place})")


def check_environment(env_id: str, agent: str) -> None:
    """Sees that an environment exists and suits the agent; one of Gymnasium's is made, to see that it can be.

    Args:
        env_id: Gymnasium's name of the environment; ``module:name`` imports the module that registers it. Of agents
            that talk, one of their own.
        agent: A key of :data:`agents.AGENTS` or :data:`agents.TALKERS`.

    Raises:
        UsageError: It does not; the message says what to do.
    """
    if agent in TALKERS:
        known = TALKERS[agent].ENVIRONMENTS
        if env_id not in known:
            raise UsageError(f"unknown environment {env_id!r} of {agent}; {nearest(env_id, known)}")
        return
    talkers = [name for name, other in TALKERS.items() if env_id in other.ENVIRONMENTS]
    if talkers:
        raise UsageError(f"{env_id} is for agents that talk ({', '.join(talkers)}), and {agent} does not")
    with closing(_make(env_id)) as env:
        try:
            check_for_nested_spaces(env.observation_space)
            get_obs_shape(env.observation_space)
        except NotImplementedError as error:
            raise UsageError(f"{agent} cannot read what {env_id} shows: {error}") from error
        action_spaces = get_agent(agent).ACTION_SPACES
        if not isinstance(env.action_space, action_spaces):
            names = " or ".join(space.__name__ for space in action_spaces)
            raise UsageError(f"{agent} needs a {names} action space, but {env_id} has {env.action_space}")
        _check_masks(env, env_id, agent)


def check_origin(env_id: str, path: Path) -> None:
    """Sees that an environment that a file names can be made without importing anything.

    Args:
        env_id: The name in the file.
        path: Path of the file.

    Raises:
        UsageError: The name is ``module:name``, and the module has not been imported.
    """
    module, colon, _ = env_id.partition(":")
    if colon and module not in sys.modules:
        raise UsageError(
            f"{path} names the environment {env_id!r}: making it imports {module}, which runs that module's code; give "
            "--trust if you trust where the file came from"
        )


def make_environments(env_id: str, n_envs: int, seed: int) -> VecEnv:
    """Makes ``n_envs`` environments stepped together, seeded with ``seed``, ``seed + 1`` and so on.

    Each can be rewound (see :mod:`agents.rewind`), and raises :class:`EnvironmentFailure` whatever goes wrong inside.
    Masks of legal actions that it gives by a method ``action_masks()`` or in its observations are in its infos as well.

    Args:
        env_id: Gymnasium's name of the environment; ``module:name`` imports the module that registers it.
        n_envs: How many.
        seed: Of the first one.
    """
    # Given a name, make_vec_env would ask for pictures, for which LunarLander simulates the sparks of its engines: with
    # them a step takes five times as long.
    return make_vec_env(
        lambda: gym.make(env_id), n_envs, seed, wrapper_class=lambda env: Rewindable(_Watched(adapt(env)))
    )


def make_environment(env_id: str) -> gym.Env:
    """Makes one environment, in all as those of :func:`make_environments`.

    Args:
        env_id: Gymnasium's name of the environment.
    """
    vec_env: Any = make_environments(env_id, 1, 0)
    env: gym.Env = vec_env.envs[0]
    return env


def _make(env_id: str) -> gym.Env:
    try:
        return gym.make(env_id)
    except UnregisteredEnv as error:
        known = [name for name in gym.registry if not name.startswith(NEED_JAX)]
        raise UsageError(f"unknown environment {env_id!r}; {nearest(env_id.rpartition(':')[2], known)}") from error
    except (DependencyNotInstalled, ModuleNotFoundError) as error:
        # Gymnasium's environments name its extra; other extras are named after the package that is missing.
        named = re.search(r"gymnasium\[(\w+)\]", str(error))
        extra = named[1] if named else (getattr(error, "name", None) or "").partition(".")[0]
        remedy = f'pip install -e ".[{extra}]"' if extra in EXTRAS else str(error)
        raise UsageError(f"{env_id} needs packages that are not installed: {remedy}") from error
    except Exception as error:  # environments raise what they like
        raise UsageError(f"{env_id} cannot be made: {error}") from error


def _check_masks(env: gym.Env, env_id: str, agent: str) -> None:
    """Raises ``UsageError`` if the agent would take illegal actions, or lacks the masks that it needs."""
    masks = get_agent(agent).MASKS
    if masks == "kept":
        return
    # Masks in the info alone are Gymnasium's way to give advice, as in Taxi: to ignore them is no mistake.
    fits = {
        "kept": True,
        "required": _has_masks(env),
        "ignored": not (_has_masks(env) or shows_masks(env.observation_space)),
    }
    if fits[masks]:
        return
    others = [
        name
        for name, other in AGENTS.items()
        if fits[other.MASKS] and isinstance(env.action_space, other.ACTION_SPACES)
    ]
    reason = {
        "required": f"{agent} reads masks of legal actions from a method action_masks() alone, and {env_id} has none",
        "ignored": f"{agent} would take illegal actions: it ignores the masks that {env_id} gives",
    }[masks]
    raise UsageError(f"{reason}; " + (f"train with {' or '.join(others)}" if others else "no agent of the zoo fits"))


def _has_masks(env: gym.Env) -> bool:
    return env.has_wrapper_attr("action_masks")
