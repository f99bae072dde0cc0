"""Deep Q-learning, from Stable-Baselines3: the off-policy baseline.

Source: Mnih et al., "Human-level control through deep reinforcement learning", 2015. The tuned settings are those that
RL Baselines3 Zoo publishes (``hyperparams/dqn.yml``), and our own for this project's environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import VecEnv

from agents.common import constructor_arguments

__all__ = ["ACTION_SPACES", "MASKS", "SUMMARY", "TUNED", "Settings", "make"]

SUMMARY = "deep Q-learning (Stable-Baselines3)"
ACTION_SPACES = (spaces.Discrete,)
MASKS = "ignored"


@dataclass(frozen=True)
class Settings:
    """Settings of DQN, named as Stable-Baselines3 names them."""

    learning_rate: float = 1e-4
    """Learning rate of Adam."""
    buffer_size: int = 100_000
    """Transitions that replay keeps."""
    learning_starts: int = 100
    """Steps with random actions before the first update."""
    batch_size: int = 32
    """Transitions of a gradient step."""
    tau: float = 1.0
    """Share of the new parameters in an update of the target network (Polyak)."""
    gamma: float = 0.99
    """Discount factor."""
    train_freq: int = 4
    """Steps of each environment between two updates."""
    gradient_steps: int = 1
    """Gradient steps of an update; -1 for one a step collected."""
    target_update_interval: int = 10_000
    """Steps between two updates of the target network."""
    exploration_fraction: float = 0.1
    """Share of the run over which the chance of a random action falls."""
    exploration_initial_eps: float = 1.0
    """Chance of a random action at the start."""
    exploration_final_eps: float = 0.05
    """Chance of a random action after that."""
    max_grad_norm: float = 10.0
    """Largest norm of the gradient."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""


_CLASSIC: dict[str, Any] = {
    "learning_rate": 6.3e-4,
    "batch_size": 128,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "target_update_interval": 250,
    "gradient_steps": -1,
    "exploration_fraction": 0.12,
    "exploration_final_eps": 0.1,
    "net_arch": (256, 256),
}

TUNED: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 50_000,
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "learning_starts": 1000,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
        "net_arch": (256, 256),
    },
    "gsrl/LargeDiscrete-v0": {
        "steps": 30_000,
        "gamma": 0.0,
        "learning_rate": 1e-3,
        "batch_size": 64,
        "exploration_fraction": 0.5,
    },
    # The Zoo gives both the same.
    "Acrobot-v1": _CLASSIC,
    "LunarLander-v3": _CLASSIC,
}


def make(env: VecEnv, settings: Settings, *, seed: int, device: str) -> DQN:
    """Builds the agent.

    Args:
        env: Where it trains.
        settings: Its settings.
        seed: Seeds the agent, the environment, and Python's, NumPy's and torch's global generators, as
            Stable-Baselines3 does.
        device: Where its networks are.
    """
    return DQN(**constructor_arguments(env, settings), seed=seed, device=device)
