"""Proximal policy optimisation, from Stable-Baselines3: the on-policy baseline.

Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017. The tuned settings are those that RL
Baselines3 Zoo publishes (``hyperparams/ppo.yml``), and our own for this project's environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from agents.common import constructor_arguments

__all__ = ["ACTION_SPACES", "MASKS", "SUMMARY", "TUNED", "Settings", "make"]

SUMMARY = "proximal policy optimisation (Stable-Baselines3)"
ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
MASKS = "ignored"


@dataclass(frozen=True)
class Settings:
    """Settings of PPO, named as Stable-Baselines3 names them."""

    learning_rate: float = 3e-4
    """Learning rate of Adam."""
    n_steps: int = 2048
    """Steps of each environment between two updates."""
    batch_size: int = 64
    """Transitions in a minibatch."""
    n_epochs: int = 10
    """Passes over the transitions of an update."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Trade between bias (0) and variance (1) of the advantages."""
    clip_range: float = 0.2
    """How far the ratio of the new to the old policy may move from 1."""
    ent_coef: float = 0.0
    """Weight of the entropy in the loss."""
    vf_coef: float = 0.5
    """Weight of the value function in the loss."""
    max_grad_norm: float = 0.5
    """Largest norm of the gradient."""
    linear_decay: bool = False
    """Let the learning rate and the clip range fall linearly to 0 over the run."""
    normalize: bool = False
    """Normalise observations and rewards by their running statistics."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of the policy as of the value function."""


_MATCH: dict[str, Any] = {"steps": 30_000, "n_envs": 8, "n_steps": 32, "gamma": 0.0, "learning_rate": 1e-3}

GRID: dict[str, Any] = {
    "steps": 20_000,
    "n_envs": 8,
    "n_steps": 64,
    "gamma": 0.9,
    "learning_rate": 1e-3,
    "net_arch": (256, 256),
}
"""For the maze, with masks or without."""

TUNED: dict[str, dict[str, Any]] = {
    "gsrl/UnmaskedGrid-v0": GRID,
    "gsrl/FactoredMatch-v0": _MATCH,
    "gsrl/BitMatch-v0": _MATCH,
    "CartPole-v1": {
        "n_envs": 8,
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "learning_rate": 1e-3,
        "linear_decay": True,
    },
    "Acrobot-v1": {
        "steps": 1_000_000,
        "n_envs": 16,
        "normalize": True,
        "n_steps": 256,
        "gae_lambda": 0.94,
        "n_epochs": 4,
    },
    "LunarLander-v3": {
        "steps": 1_000_000,
        "n_envs": 16,
        "n_steps": 1024,
        "gae_lambda": 0.98,
        "gamma": 0.999,
        "n_epochs": 4,
        "ent_coef": 0.01,
    },
}


def make(env: VecEnv, settings: Settings, *, seed: int, device: str) -> PPO:
    """Builds the agent.

    Args:
        env: Where it trains.
        settings: Its settings.
        seed: Seeds the agent, the environment, and Python's, NumPy's and torch's global generators, as
            Stable-Baselines3 does.
        device: Where its networks are.
    """
    arguments = constructor_arguments(env, settings, decaying=("learning_rate", "clip_range"))
    return PPO(**arguments, seed=seed, device=device)
