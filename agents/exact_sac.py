"""Soft actor-critic for discrete actions whose actor follows the exact gradient, a sum over all actions.

Source: Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019.
"""

from __future__ import annotations

from stable_baselines3.common.vec_env import VecEnv

from agents.common import constructor_arguments
from agents.discrete_sac import ACTION_SPACES, MASKS, TUNED, Settings
from gsrl.algorithms.discrete_sac import DiscreteSAC

__all__ = ["ACTION_SPACES", "MASKS", "SUMMARY", "TUNED", "Settings", "make"]

SUMMARY = "discrete soft actor-critic, exact gradient"


def make(env: VecEnv, settings: Settings, *, seed: int, device: str) -> DiscreteSAC:
    """Builds the agent.

    Args:
        env: Where it trains.
        settings: Its settings.
        seed: Seeds the agent and the environment.
        device: Where its networks are.
    """
    return DiscreteSAC(**constructor_arguments(env, settings), estimator="exact", seed=seed, device=device)
