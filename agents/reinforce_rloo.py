"""REINFORCE whose baseline is the mean of the other episodes of the update: leave-one-out.

Source: Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!", 2019.
"""

from __future__ import annotations

from stable_baselines3.common.vec_env import VecEnv

from agents import reinforce
from agents.reinforce import ACTION_SPACES, MASKS, TUNED
from agents.reinforce import Shared as Settings
from gsrl.algorithms.reinforce import Reinforce

__all__ = ["ACTION_SPACES", "MASKS", "SUMMARY", "TUNED", "Settings", "make"]

SUMMARY = "REINFORCE, the other episodes of an update as the baseline"


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
    return reinforce.make(env, settings, seed=seed, device=device, baseline="leave-one-out")
