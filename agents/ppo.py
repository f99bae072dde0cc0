"""Proximal policy optimisation, from Stable-Baselines3: the on-policy baseline; and sb3-contrib's, with masks."""

from __future__ import annotations

import dataclasses
from typing import Any

from gymnasium import spaces
from stable_baselines3 import PPO

from gsrl.runs.cards import DISCRETE, Card

__all__ = ["CARD", "MASKABLE"]

# fmt: off
_MATCH: dict[str, Any] = {"steps": 30_000, "n_envs": 8, "n_steps": 32, "gamma": 0.0, "learning_rate": 1e-3}
_GRID: dict[str, Any] = {
    "steps": 20_000, "n_envs": 8, "n_steps": 64, "gamma": 0.9, "learning_rate": 1e-3, "net_arch": (256, 256),
}
# fmt: on

CARD = Card(
    name="ppo",
    algorithm=PPO,
    summary="proximal policy optimisation (Stable-Baselines3)",
    source='Schulman et al., "Proximal Policy Optimization Algorithms", 2017. Tuned: hyperparams/ppo.yml of RL '
    "Baselines3 Zoo, and our own for this project's environments",
    names=(
        *("learning_rate", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range", "ent_coef"),
        *("vf_coef", "max_grad_norm", "linear_decay", "normalize", "net_arch"),
    ),
    tuned={
        "gsrl/UnmaskedGrid-v0": _GRID,
        **dict.fromkeys(("gsrl/FactoredMatch-v0", "gsrl/BitMatch-v0"), _MATCH),
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
    },
    action_spaces=(spaces.Box, *DISCRETE),
    masks="ignored",
)

MASKABLE = dataclasses.replace(
    CARD,
    name="maskable-ppo",
    algorithm="sb3_contrib.MaskablePPO",
    summary="proximal policy optimisation with action masks (sb3-contrib)",
    source='Huang and Ontañón, "A Closer Look at Invalid Action Masking in Policy Gradient Algorithms", 2022',
    constructors=(PPO,),
    tuned={"gsrl/MaskedGrid-v0": _GRID},
    action_spaces=DISCRETE,
    masks="required",
)
