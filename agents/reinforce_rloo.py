"""REINFORCE whose baseline is the mean of the other episodes of the update: leave-one-out.

Source: Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!", 2019.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from agents import reinforce
from agents.reinforce import ACTION_SPACES, ALGORITHM, MASKS, TUNED
from agents.reinforce import Shared as Settings
from gsrl.algorithms.reinforce import Reinforce

__all__ = ["ACTION_SPACES", "ALGORITHM", "MASKS", "SUMMARY", "TUNED", "Settings", "arguments", "make"]

SUMMARY = "REINFORCE, the other episodes of an update as the baseline"


def arguments(env: VecEnv, settings: Settings) -> dict[str, Any]:
    """Returns what :class:`gsrl.Reinforce` and :class:`gsrl.Population` build the agent from.

    Args:
        env: Where it trains.
        settings: Its settings.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    return reinforce.arguments(env, settings, "leave-one-out")


def make(env: VecEnv, settings: Settings, *, seed: int, device: str) -> Reinforce:
    """Builds the agent.

    Args:
        env: Where it trains.
        settings: Its settings.
        seed: Seeds the agent and the environment.
        device: Where its networks are.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    return Reinforce(**arguments(env, settings), seed=seed, device=device)
