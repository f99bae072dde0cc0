"""Stable-Baselines3 algorithms and policies over discrete actions."""

from gsrl.algorithms.discrete_sac import DiscreteSAC
from gsrl.algorithms.policies import (
    CategoricalActorCriticPolicy,
    CnnPolicy,
    DiscreteSACPolicy,
    MlpPolicy,
    MultiInputPolicy,
)

__all__ = [
    "CategoricalActorCriticPolicy",
    "CnnPolicy",
    "DiscreteSAC",
    "DiscreteSACPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
]
