"""Settings of deep Q-learning: ``hyperparams/dqn.yml`` and ``qrdqn.yml`` of RL Baselines3 Zoo, and our own."""

from __future__ import annotations

from typing import Any

from gsrl.runs.cards import tune

# fmt: off
_CARTPOLE: dict[str, Any] = {
    "steps": 50_000, "learning_rate": 2.3e-3, "batch_size": 64, "learning_starts": 1000, "train_freq": 256,
    "target_update_interval": 10, "gradient_steps": 128, "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04, "net_arch": (256, 256),
}
_CLASSIC: dict[str, Any] = {
    "learning_rate": 6.3e-4, "batch_size": 128, "buffer_size": 50_000, "learning_starts": 0, "gradient_steps": -1,
    "target_update_interval": 250, "exploration_fraction": 0.12, "exploration_final_eps": 0.1,
    "net_arch": (256, 256),
}
# fmt: on

tune(
    "dqn",
    {
        "CartPole-v1": _CARTPOLE,
        "gsrl/LargeDiscrete-v0": {
            "steps": 30_000,
            "gamma": 0.0,
            "learning_rate": 1e-3,
            "batch_size": 64,
            "exploration_fraction": 0.5,
        },
        **dict.fromkeys(("Acrobot-v1", "LunarLander-v3"), _CLASSIC),
    },
)
tune(
    "qrdqn",
    {
        "CartPole-v1": {**_CARTPOLE, "n_quantiles": 10},
        "Acrobot-v1": {**_CLASSIC, "n_quantiles": 25},
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
    },
)
