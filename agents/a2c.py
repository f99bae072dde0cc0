"""Advantage actor-critic, from Stable-Baselines3: the simplest on-policy baseline."""

from __future__ import annotations

from gymnasium import spaces
from stable_baselines3 import A2C

from gsrl.runs.cards import DISCRETE, Card

__all__ = ["CARD"]

_MATCH = {"steps": 30_000, "n_envs": 8, "gamma": 0.0, "learning_rate": 3e-3}

CARD = Card(
    name="a2c",
    algorithm=A2C,
    summary="advantage actor-critic (Stable-Baselines3)",
    source='Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016, in its synchronous form. Tuned: '
    "hyperparams/a2c.yml of RL Baselines3 Zoo, and our own for this project's environments",
    names=(
        *("learning_rate", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "linear_decay"),
        *("normalize", "net_arch"),
    ),
    tuned={
        **dict.fromkeys(("gsrl/FactoredMatch-v0", "gsrl/BitMatch-v0"), _MATCH),
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
    },
    action_spaces=(spaces.Box, *DISCRETE),
    masks="ignored",
)
