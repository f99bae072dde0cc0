"""REINFORCE with RELAX: a value network, and a learned control variate of the relaxed action.

Source: Grathwohl et al., "Backpropagation through the Void", 2018. Its count of CartPole's episodes is, by the code
that was published with it, one of updates, each from one episode of every environment, until the mean return of the
latest 100 episodes is 195.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from agents import reinforce
from agents.reinforce import ACTION_SPACES, ALGORITHM, MASKS, TUNED
from agents.reinforce_baseline import Settings
from gsrl.algorithms.reinforce import Reinforce

__all__ = ["ACTION_SPACES", "ALGORITHM", "MASKS", "SUMMARY", "TUNED", "Settings", "arguments", "make"]

SUMMARY = "REINFORCE, a value network and RELAX's control variate"


def arguments(env: VecEnv, settings: Settings) -> dict[str, Any]:
    """Returns what :class:`gsrl.Reinforce` and :class:`gsrl.Population` build the agent from.

    Args:
        env: Where it trains.
        settings: Its settings.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    return reinforce.arguments(env, settings, "relax")


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
