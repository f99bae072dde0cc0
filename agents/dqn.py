"""Deep Q-learning, from Stable-Baselines3: the off-policy baseline; and sb3-contrib's, of quantiles."""

from __future__ import annotations

import dataclasses
from typing import Any

from gymnasium import spaces
from stable_baselines3 import DQN

from gsrl.runs.cards import Card
from gsrl.runs.settings import Setting

__all__ = ["CARD", "QUANTILES"]

_NAMES = (
    *("buffer_size", "learning_starts", "batch_size", "tau", "gamma", "train_freq", "gradient_steps"),
    *("target_update_interval", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps"),
    *("max_grad_norm", "net_arch"),
)
# The Zoo sets that to this or less everywhere.
_BUFFER = {"buffer_size": Setting(100_000)}

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

CARD = Card(
    name="dqn",
    algorithm=DQN,
    summary="deep Q-learning (Stable-Baselines3)",
    source='Mnih et al., "Human-level control through deep reinforcement learning", 2015. Tuned: hyperparams/dqn.yml '
    "of RL Baselines3 Zoo, and our own for this project's environments",
    names=("learning_rate", *_NAMES),
    own=_BUFFER,
    tuned={
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
    action_spaces=(spaces.Discrete,),
    masks="ignored",
)

QUANTILES = dataclasses.replace(
    CARD,
    name="qrdqn",
    algorithm="sb3_contrib.QRDQN",
    summary="quantile-regression deep Q-learning (sb3-contrib)",
    source='Dabney et al., "Distributional Reinforcement Learning with Quantile Regression", 2018. Tuned: '
    "hyperparams/qrdqn.yml of RL Baselines3 Zoo",
    constructors=(DQN,),
    names=("learning_rate", "linear_decay", "n_quantiles", *_NAMES),
    own={
        **_BUFFER,
        # Where sb3-contrib's defaults are not those of DQN; it need not be installed.
        "learning_rate": Setting(5e-5),
        "n_quantiles": Setting(200, int, "Quantiles of the return that the network tells."),
        "exploration_fraction": Setting(0.005),
        "exploration_final_eps": Setting(0.01),
        "max_grad_norm": Setting(None),
    },
    tuned={
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
