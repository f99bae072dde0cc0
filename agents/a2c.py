"""Advantage actor-critic, from Stable-Baselines3: the simplest on-policy baseline.

Source: Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016, in its synchronous form. The tuned
settings are those that RL Baselines3 Zoo publishes (``hyperparams/a2c.yml``), and our own for this project's
environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import VecEnv

from agents.common import constructor_arguments

__all__ = ["ACTION_SPACES", "MASKS", "SUMMARY", "TUNED", "Settings", "make"]

SUMMARY = "advantage actor-critic (Stable-Baselines3)"
ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
MASKS = "ignored"


@dataclass(frozen=True)
class Settings:
    """Settings of A2C, named as Stable-Baselines3 names them."""

    learning_rate: float = 7e-4
    """Learning rate of RMSprop."""
    n_steps: int = 5
    """Steps of each environment between two updates."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 1.0
    """Trade between bias (0) and variance (1) of the advantages."""
    ent_coef: float = 0.0
    """Weight of the entropy in the loss."""
    vf_coef: float = 0.5
    """Weight of the value function in the loss."""
    max_grad_norm: float = 0.5
    """Largest norm of the gradient."""
    linear_decay: bool = False
    """Let the learning rate fall linearly to 0 over the run."""
    normalize: bool = False
    """Normalise observations and rewards by their running statistics."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of the policy as of the value function."""


_MATCH: dict[str, Any] = {"steps": 30_000, "n_envs": 8, "gamma": 0.0, "learning_rate": 3e-3}

TUNED: dict[str, dict[str, Any]] = {
    "gsrl/FactoredMatch-v0": _MATCH,
    "gsrl/BitMatch-v0": _MATCH,
    "CartPole-v1": {"steps": 500_000, "n_envs": 8},
    "Acrobot-v1": {"steps": 500_000, "n_envs": 16, "normalize": True},
    "LunarLander-v3": {
        "steps": 200_000,
        "n_envs": 8,
        "gamma": 0.995,
        "learning_rate": 8.3e-4,
        "linear_decay": True,
        "ent_coef": 1e-5,
    },
}


def make(env: VecEnv, settings: Settings, *, seed: int, device: str) -> A2C:
    """Builds the agent.

    Args:
        env: Where it trains.
        settings: Its settings.
        seed: Seeds the agent, the environment, and Python's, NumPy's and torch's global generators, as
            Stable-Baselines3 does.
        device: Where its networks are.
    """
    return A2C(**constructor_arguments(env, settings), seed=seed, device=device)
