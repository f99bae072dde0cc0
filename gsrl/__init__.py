"""Differentiable policies over discrete choices: gradient estimators, policy heads, DiscreteSAC and Reinforce."""

from gsrl._version import __version__
from gsrl.algorithms import CategoricalActorCriticPolicy, DiscreteSAC, Reinforce
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, make_estimator
from gsrl.heads import ActionHead
from gsrl.perception.masks import GumbelSoftMask
from gsrl.population import Population
from gsrl.relaxations import binary_concrete, gumbel_max, gumbel_noise, gumbel_softmax, straight_through
from gsrl.spaces import OneHotCodec
from gsrl.subsets import SubsetOfK

__all__ = [
    "ActionHead",
    "CategoricalActorCriticPolicy",
    "DiscreteSAC",
    "Estimator",
    "FactoredCategorical",
    "GumbelSoftMask",
    "OneHotCodec",
    "Population",
    "Reinforce",
    "SubsetOfK",
    "__version__",
    "binary_concrete",
    "gumbel_max",
    "gumbel_noise",
    "gumbel_softmax",
    "make_estimator",
    "straight_through",
]
