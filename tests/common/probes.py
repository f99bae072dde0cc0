"""Agents for the probes of :mod:`envs.probes`: small, seeded, with learning rates that fall to 0."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

import envs  # noqa: F401  # registers the probes
from gsrl import DiscreteSAC, Population, Reinforce

GAMMA = 0.5

SAC: dict[str, Any] = {
    "learning_rate": lambda remaining: 1e-2 * remaining,
    "learning_starts": 64,
    "batch_size": 64,
    "tau": 0.1,
    "gamma": GAMMA,
    "n_steps": 1,
    "reward_scale": 1.0,
    "estimator": "exact",
    "ent_coef": 0.0,
    "critics": "min",
    "entropy_in_target": True,
    "exploration_eps": 0.0,
    "policy_kwargs": {"net_arch": [16], "layer_norm": False, "normalize_observations": False},
    "device": "cpu",
}
"""About one update a step, towards values in units of rewards."""

REINFORCE: dict[str, Any] = {
    "learning_rate": lambda remaining: 5e-2 * remaining,
    "gamma": GAMMA,
    "critic_updates": 3,
    "policy_kwargs": {"net_arch": [16]},
    "device": "cpu",
}


def probe_id(probe: str) -> str:
    return f"gsrl/Probe{probe}-v0"


def train_sac(probe: str, steps: int = 600, policy: str = "MlpPolicy", **settings: Any) -> DiscreteSAC:
    networks = SAC["policy_kwargs"] | settings.pop("policy_kwargs", {})
    settings = SAC | {"buffer_size": steps, "seed": 0, "policy_kwargs": networks} | settings
    return DiscreteSAC(policy, gym.make(probe_id(probe)), **settings).learn(steps)


def train_reinforce(probe: str, steps: int = 600, policy: str = "MlpPolicy", **settings: Any) -> Reinforce:
    settings = REINFORCE | {"seed": 0} | settings
    return Reinforce(policy, gym.make(probe_id(probe)), **settings).learn(steps, log_interval=None)


def train_population(algorithm: Any, probe: str, steps: int, **settings: Any) -> list[Any]:
    """Two agents that learned in lock-step."""
    population = Population(algorithm, probe_id(probe), [0, 1], **settings).learn(steps)
    return [population.member(index) for index in range(2)]


@torch.no_grad()
def values(agent: Any, observation: Any) -> Tensor:
    """What each critic holds of each action, ``[C, K]``; what the value network of Reinforce holds, ``[]``."""
    observations, _ = agent.policy.obs_to_tensor(observation)
    held = agent.policy.critic(observations)
    return held[0] if isinstance(agent, Reinforce) else held.values[:, 0, 0]


@torch.no_grad()
def policy(agent: Any, observation: Any) -> Tensor:
    """Probabilities ``[K]``."""
    observations, _ = agent.policy.obs_to_tensor(observation)
    return agent.policy.actor(observations).probs[0, 0]


def vector(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def assert_close(actual: Tensor, expected: Any, tolerance: float) -> None:
    expected = torch.as_tensor(expected, dtype=actual.dtype).expand_as(actual)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0.0)
