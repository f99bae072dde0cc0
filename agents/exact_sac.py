"""Soft actor-critic for discrete actions whose actor follows the exact gradient, a sum over all actions.

Source: Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from agents import discrete_sac
from agents.discrete_sac import ACTION_SPACES, ALGORITHM, EARLIER, MASKS
from agents.discrete_sac import CommonSettings as Settings
from gsrl.algorithms.discrete_sac import DiscreteSAC

__all__ = ["ACTION_SPACES", "ALGORITHM", "EARLIER", "MASKS", "SUMMARY", "TUNED", "Settings", "arguments", "make"]

SUMMARY = "discrete soft actor-critic, exact gradient"

TUNED = {
    env: {name: value for name, value in tuned.items() if name not in ("estimator", "temperature")}
    for env, tuned in discrete_sac.TUNED.items()
}
"""Those of all soft actor-critic agents."""


def arguments(env: VecEnv, settings: Settings) -> dict[str, Any]:
    """Returns what :func:`agents.discrete_sac.build` and :class:`gsrl.Population` build the agent from.

    Args:
        env: Where it trains.
        settings: Its settings.
    """
    return {**discrete_sac.soft_actor_critic_arguments(env, settings), "estimator": "exact", "temperature": None}


def make(env: VecEnv, settings: Settings, *, seed: int, device: str, compile: bool = False) -> DiscreteSAC:
    """Builds the agent.

    Args:
        env: Where it trains.
        settings: Its settings.
        seed: Seeds the agent and the environment.
        device: Where its networks are.
        compile: Whether updates are compiled.
    """
    return discrete_sac.build(arguments(env, settings), seed=seed, device=device, compile=compile)
