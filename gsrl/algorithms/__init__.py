"""Stable-Baselines3 algorithms and policies over discrete actions."""

from gsrl.algorithms.discrete_sac import DiscreteSAC
from gsrl.algorithms.extractors import SmallCNN
from gsrl.algorithms.policies import (
    CategoricalActorCriticPolicy,
    CnnPolicy,
    DiscreteSACPolicy,
    MlpPolicy,
    MultiInputPolicy,
)
from gsrl.algorithms.reinforce import (
    Reinforce,
    ReinforceCnnPolicy,
    ReinforceMultiInputPolicy,
    ReinforcePolicy,
)

__all__ = [
    "CategoricalActorCriticPolicy",
    "CnnPolicy",
    "DiscreteSAC",
    "DiscreteSACPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
    "Reinforce",
    "ReinforceCnnPolicy",
    "ReinforceMultiInputPolicy",
    "ReinforcePolicy",
    "SmallCNN",
]
