"""REINFORCE whose baseline is a learned network of state values.

Source: Sutton and Barto, "Reinforcement Learning: An Introduction", 2018, Section 13.4; generalised advantages:
Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation", 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from agents import reinforce
from agents.reinforce import ACTION_SPACES, ALGORITHM, MASKS, TUNED, Shared
from gsrl.algorithms.reinforce import Reinforce

__all__ = ["ACTION_SPACES", "ALGORITHM", "MASKS", "SUMMARY", "TUNED", "Settings", "arguments", "make"]

SUMMARY = "REINFORCE, a value network as the baseline"


@dataclass(frozen=True)
class Settings(Shared):
    """Settings of REINFORCE, and of its value network."""

    critic_updates: int = 10
    """Steps of the value network for each one of the policy."""
    gae_lambda: float = 1.0
    """Trade between bias (0) and variance (1) of the advantages."""


def arguments(env: VecEnv, settings: Settings) -> dict[str, Any]:
    """Returns what :class:`gsrl.Reinforce` and :class:`gsrl.Population` build the agent from.

    Args:
        env: Where it trains.
        settings: Its settings.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    return reinforce.arguments(env, settings, "value")


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
