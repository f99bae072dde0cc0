"""A2C's settings: ``hyperparams/a2c.yml`` of RL Baselines3 Zoo, and our own for this project's environments."""

from __future__ import annotations

from gsrl.runs.cards import tune

_MATCH = {"steps": 30_000, "n_envs": 8, "gamma": 0.0, "learning_rate": 3e-3}

tune(
    "a2c",
    {
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
)
