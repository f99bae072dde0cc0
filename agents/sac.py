"""Soft actor-critic for continuous actions, from Stable-Baselines3: the baseline beside ours on binned actions.

Source: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018. The tuned settings are those that RL
Baselines3 Zoo publishes (``hyperparams/sac.yml``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnv

from agents.common import constructor_arguments

__all__ = ["ACTION_SPACES", "MASKS", "SUMMARY", "TUNED", "Settings", "make"]

SUMMARY = "soft actor-critic for continuous actions (Stable-Baselines3)"
ACTION_SPACES = (spaces.Box,)
MASKS = "ignored"


@dataclass(frozen=True)
class Settings:
    """Settings of SAC, named as Stable-Baselines3 names them."""

    learning_rate: float = 3e-4
    """Learning rate of Adam, for actor, critics and entropy coefficient."""
    buffer_size: int = 1_000_000
    """Transitions that replay keeps."""
    learning_starts: int = 100
    """Steps with random actions before the first update."""
    batch_size: int = 256
    """Transitions of a gradient step."""
    tau: float = 0.005
    """Share of the new parameters in an update of the target critics (Polyak)."""
    gamma: float = 0.99
    """Discount factor."""
    train_freq: int = 1
    """Steps of each environment between two updates."""
    gradient_steps: int = 1
    """Gradient steps of an update; -1 for one a step collected."""
    ent_coef: float | str = "auto"
    """Entropy coefficient, a number; or "auto" to learn it, "auto_0.1" to learn it from 0.1."""
    net_arch: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers, of the actor as of the critics."""


TUNED: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"steps": 20_000, "learning_rate": 1e-3},
}


def make(env: VecEnv, settings: Settings, *, seed: int, device: str) -> SAC:
    """Builds the agent.

    Args:
        env: Where it trains.
        settings: Its settings.
        seed: Seeds the agent, the environment, and Python's, NumPy's and torch's global generators, as
            Stable-Baselines3 does.
        device: Where its networks are.
    """
    if isinstance(settings.ent_coef, str) and not re.fullmatch(r"auto(_\d+(\.\d*)?)?", settings.ent_coef):
        raise ValueError(f"ent_coef must be a number, auto, or auto_0.1 and the like, but got {settings.ent_coef!r}")
    return SAC(**constructor_arguments(env, settings), seed=seed, device=device)
