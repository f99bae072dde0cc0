"""Quantile-regression deep Q-learning, from sb3-contrib: the distributional off-policy baseline.

Source: Dabney et al., "Distributional Reinforcement Learning with Quantile Regression", 2018. The tuned settings are
those that RL Baselines3 Zoo publishes (``hyperparams/qrdqn.yml``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from agents.common import UsageError, constructor_arguments

if TYPE_CHECKING:
    from sb3_contrib import QRDQN

__all__ = ["ACTION_SPACES", "MASKS", "SUMMARY", "TUNED", "Settings", "make"]

SUMMARY = "quantile-regression deep Q-learning (sb3-contrib)"
ACTION_SPACES = (spaces.Discrete,)
MASKS = "ignored"


@dataclass(frozen=True)
class Settings:
    """Settings of QR-DQN, named as sb3-contrib names them."""

    learning_rate: float = 5e-5
    """Learning rate of Adam."""
    linear_decay: bool = False
    """Let the learning rate fall linearly to 0 over the run."""
    n_quantiles: int = 200
    """Quantiles of the return that the network tells."""
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
    exploration_fraction: float = 0.005
    """Share of the run over which the chance of a random action falls."""
    exploration_initial_eps: float = 1.0
    """Chance of a random action at the start."""
    exploration_final_eps: float = 0.01
    """Chance of a random action after that."""
    max_grad_norm: float | None = None
    """Largest norm of the gradient; None for any."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""


TUNED: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 50_000,
        "learning_rate": 2.3e-3,
        "n_quantiles": 10,
        "batch_size": 64,
        "learning_starts": 1000,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
        "net_arch": (256, 256),
    },
    "Acrobot-v1": {
        "learning_rate": 6.3e-4,
        "n_quantiles": 25,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 0,
        "target_update_interval": 250,
        "gradient_steps": -1,
        "exploration_fraction": 0.12,
        "exploration_final_eps": 0.1,
        "net_arch": (256, 256),
    },
    "LunarLander-v3": {
        "learning_rate": 1.5e-3,
        "linear_decay": True,
        "n_quantiles": 170,
        "batch_size": 128,
        "learning_starts": 10_000,
        "gamma": 0.995,
        "target_update_interval": 1,
        "train_freq": 256,
        "gradient_steps": -1,
        "exploration_fraction": 0.24,
        "exploration_final_eps": 0.18,
        "net_arch": (256, 256),
    },
}


def make(env: VecEnv, settings: Settings, *, seed: int, device: str) -> QRDQN:
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
        from sb3_contrib import QRDQN
    except ModuleNotFoundError as error:
        raise UsageError('sb3-contrib is not installed: pip install -e ".[contrib]"') from error
    arguments = constructor_arguments(env, settings)
    arguments["policy_kwargs"]["n_quantiles"] = arguments.pop("n_quantiles")
    return QRDQN(**arguments, seed=seed, device=device)
