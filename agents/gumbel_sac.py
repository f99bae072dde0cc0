"""Soft actor-critic for discrete actions whose actor learns through straight-through Gumbel-softmax samples.

Sources: Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019; Jang et al., "Categorical
Reparameterization with Gumbel-Softmax", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from agents import discrete_sac
from agents.discrete_sac import ACTION_SPACES
from gsrl.algorithms.discrete_sac import DiscreteSAC
from gsrl.estimators import make_estimator

__all__ = ["ACTION_SPACES", "SUMMARY", "TUNED", "Settings", "make"]

SUMMARY = "discrete soft actor-critic, straight-through Gumbel-softmax gradient"


@dataclass(frozen=True)
class Settings(discrete_sac.Settings):
    """Settings of discrete soft actor-critic, and the temperature of its relaxation."""

    temperature: float = 1.0
    """Temperature of the relaxed samples that carry the gradient."""


TUNED: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 10_000,
        "learning_rate": 1e-3,
        "batch_size": 128,
        "learning_starts": 200,
        "n_steps": 10,
        "target_entropy_ratio": 0.1,
        "net_arch": (64, 64),
    },
}


def make(env: VecEnv, settings: Settings, *, seed: int, device: str) -> DiscreteSAC:
    """Builds the agent.

    Args:
        env: Where it trains.
        settings: Its settings.
        seed: Seeds the agent and the environment.
        device: Where its networks are.
    """
    estimator = make_estimator("st-gumbel", temperature=settings.temperature)
    return discrete_sac.build(env, settings, estimator, seed=seed, device=device)
