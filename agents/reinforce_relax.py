"""REINFORCE with RELAX: a value network, and a learned control variate of the relaxed action.

Source: Grathwohl et al., "Backpropagation through the Void", 2018.
"""

from __future__ import annotations

from stable_baselines3.common.vec_env import VecEnv

from agents import reinforce
from agents.reinforce import ACTION_SPACES, MASKS, TUNED
from agents.reinforce_baseline import Settings
from gsrl.algorithms.reinforce import Reinforce

__all__ = ["ACTION_SPACES", "MASKS", "SUMMARY", "TUNED", "Settings", "make"]

SUMMARY = "REINFORCE, a value network and RELAX's control variate"


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
    return reinforce.make(env, settings, seed=seed, device=device, baseline="relax")
