"""PPO's settings: ``hyperparams/ppo.yml`` of RL Baselines3 Zoo, and our own for this project's environments."""

from __future__ import annotations

from typing import Any

from gsrl.runs.cards import tune

# fmt: off
_MATCH: dict[str, Any] = {"steps": 30_000, "n_envs": 8, "n_steps": 32, "gamma": 0.0, "learning_rate": 1e-3}
_GRID: dict[str, Any] = {
    "steps": 20_000, "n_envs": 8, "n_steps": 64, "gamma": 0.9, "learning_rate": 1e-3, "net_arch": (256, 256),
}
# fmt: on

tune(
    "ppo",
    {
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
)
tune("maskable-ppo", {"gsrl/MaskedGrid-v0": _GRID})
