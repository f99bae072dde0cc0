"""Proximal policy optimisation that takes legal actions alone, from sb3-contrib: the on-policy baseline with masks.

Source: Huang and Ontañón, "A Closer Look at Invalid Action Masking in Policy Gradient Algorithms", 2022. The settings
are those of PPO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from agents.common import UsageError, constructor_arguments
from agents.ppo import GRID, Settings

if TYPE_CHECKING:
    from sb3_contrib import MaskablePPO

__all__ = ["ACTION_SPACES", "MASKS", "SUMMARY", "TUNED", "Settings", "make"]

SUMMARY = "proximal policy optimisation with action masks (sb3-contrib)"
ACTION_SPACES = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
MASKS = "required"

TUNED: dict[str, dict[str, Any]] = {"gsrl/MaskedGrid-v0": GRID}


def make(env: VecEnv, settings: Settings, *, seed: int, device: str) -> MaskablePPO:
    """Builds the agent.

    Args:
        env: Where it trains.
        settings: Its settings.
        seed: Seeds the agent, the environment, and Python's, NumPy's and torch's global generators, as
            Stable-Baselines3 does.
        device: Where its networks are.

    Raises:
        UsageError: sb3-contrib is not installed.
    """
    try:
        from sb3_contrib import MaskablePPO
    except ModuleNotFoundError as error:
        raise UsageError('sb3-contrib is not installed: pip install -e ".[contrib]"') from error
    arguments = constructor_arguments(env, settings, decaying=("learning_rate", "clip_range"))
    return MaskablePPO(**arguments, seed=seed, device=device)
