"""Soft actor-critic for continuous actions, from Stable-Baselines3: the baseline beside ours on binned actions."""

from __future__ import annotations

import re
from typing import Any

from gymnasium import spaces
from stable_baselines3 import SAC

from gsrl.runs.cards import Card
from gsrl.runs.settings import Setting

__all__ = ["CARD"]


def _ent_coef(env: Any, settings: Any) -> float | str:
    """Refuses words that Stable-Baselines3 would stumble over later."""
    given: float | str = settings.ent_coef
    if isinstance(given, str) and not re.fullmatch(r"auto(_\d+(\.\d*)?)?", given):
        raise ValueError(f"ent_coef must be a number, auto, or auto_0.1 and the like, but got {given!r}")
    return given


CARD = Card(
    name="sac",
    algorithm=SAC,
    summary="soft actor-critic for continuous actions (Stable-Baselines3)",
    source='Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018. Tuned: hyperparams/sac.yml of RL '
    "Baselines3 Zoo",
    names=(
        *("learning_rate", "buffer_size", "learning_starts", "batch_size", "tau", "gamma", "train_freq"),
        *("gradient_steps", "ent_coef", "net_arch"),
    ),
    own={"net_arch": Setting((256, 256))},
    made={"ent_coef": _ent_coef},
    tuned={"Pendulum-v1": {"steps": 20_000, "learning_rate": 1e-3}},
    action_spaces=(spaces.Box,),
    masks="ignored",
)
