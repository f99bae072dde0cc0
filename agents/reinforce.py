"""REINFORCE without a learned baseline, and what all REINFORCE agents share: they differ in the baseline alone.

Source: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", 1992.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from agents.common import constructor_arguments
from gsrl.algorithms.reinforce import Reinforce

__all__ = ["ACTION_SPACES", "ALGORITHM", "MASKS", "SUMMARY", "TUNED", "Settings", "Shared", "arguments", "make"]

SUMMARY = "REINFORCE, without a baseline or with a running mean of returns"
ACTION_SPACES = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
MASKS = "kept"
ALGORITHM = Reinforce


@dataclass(frozen=True)
class Shared:
    """Settings of REINFORCE with any baseline, named as ``gsrl.Reinforce`` names them."""

    learning_rate: float = 3e-3
    """Learning rate of Adam."""
    linear_decay: bool = False
    """Let the learning rate fall linearly to 0 over the run."""
    n_episodes: int = 8
    """Whole episodes between two updates, a multiple of the number of environments."""
    gamma: float = 0.99
    """Discount factor."""
    normalize_advantage: bool = False
    """Shift and scale the advantages of each update to mean 0 and deviation 1."""
    ent_coef: float = 0.0
    """Weight of the entropy in the loss."""
    max_grad_norm: float | None = None
    """Largest norm of the gradient; None for any."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of every network."""


@dataclass(frozen=True)
class Settings(Shared):
    """Settings of REINFORCE without a learned baseline."""

    baseline: Literal["none", "running-mean"] = "none"
    """What returns are compared with: nothing, or a running mean of earlier ones."""


TUNED: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"learning_rate": 1e-2},
    "Acrobot-v1": {"learning_rate": 1e-2, "n_episodes": 16, "ent_coef": 0.01},
    "LunarLander-v3": {"learning_rate": 1e-2, "n_episodes": 4, "ent_coef": 0.01},
}
"""The tuned settings of all REINFORCE agents."""


def arguments(env: VecEnv, settings: Shared, baseline: str | None = None) -> dict[str, Any]:
    """Returns what :class:`gsrl.Reinforce` and :class:`gsrl.Population` build the agent from.

    Args:
        env: Where it trains.
        settings: Its settings.
        baseline: Of an agent whose settings do not say it.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    return constructor_arguments(env, settings) | ({} if baseline is None else {"baseline": baseline})


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
