"""Environments by name: made vectorised, with errors that say what to do."""

from __future__ import annotations

import re

import gymnasium as gym
from gymnasium.error import DependencyNotInstalled
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from agents import get_agent, nearest

__all__ = ["check_environment", "make_environments"]

EXTRAS = ("box2d", "mujoco")
"""Extras of this project that hold what an environment needs."""


def check_environment(env_id: str, agent: str) -> None:
    """Makes one environment, to see that it exists, is installed and suits the agent.

    Args:
        env_id: Gymnasium's name of the environment.
        agent: A key of :data:`agents.AGENTS`.

    Raises:
        ValueError: It does not; the message says what to do.
    """
    if env_id not in gym.registry:
        raise ValueError(f"unknown environment {env_id!r}; {nearest(env_id, gym.registry)}")
    try:
        env = gym.make(env_id)
    except DependencyNotInstalled as error:
        extra = re.search(r"gymnasium\[(\w+)\]", str(error))
        remedy = f'pip install -e ".[{extra[1]}]"' if extra and extra[1] in EXTRAS else str(error)
        raise ValueError(f"{env_id} needs packages that are not installed: {remedy}") from error
    except Exception as error:  # environments raise what they like
        raise ValueError(f"{env_id} cannot be made: {error}") from error
    action_space = env.action_space
    env.close()
    action_spaces = get_agent(agent).ACTION_SPACES
    if not isinstance(action_space, action_spaces):
        names = " or ".join(space.__name__ for space in action_spaces)
        raise ValueError(f"{agent} needs a {names} action space, but {env_id} has {action_space}")


def make_environments(env_id: str, n_envs: int, seed: int) -> VecEnv:
    """Makes ``n_envs`` environments stepped together, seeded with ``seed``, ``seed + 1`` and so on.

    Args:
        env_id: Gymnasium's name of the environment.
        n_envs: How many.
        seed: Of the first one.
    """
    return make_vec_env(env_id, n_envs, seed)
