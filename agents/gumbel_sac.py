"""Soft actor-critic for discrete actions whose actor learns through samples: straight-through Gumbel-softmax.

Sources: Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019; Jang et al., "Categorical
Reparameterization with Gumbel-Softmax", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents import discrete_sac
from agents.discrete_sac import ACTION_SPACES, ALGORITHM, EARLIER, MASKS, EstimatorName, arguments, make

__all__ = ["ACTION_SPACES", "ALGORITHM", "EARLIER", "MASKS", "SUMMARY", "TUNED", "Settings", "arguments", "make"]

SUMMARY = "discrete soft actor-critic, straight-through Gumbel-softmax gradient, or another estimator's"


@dataclass(frozen=True)
class Settings(discrete_sac.Settings):
    """Settings of discrete soft actor-critic, and of the actor's gradient."""

    estimator: EstimatorName = "st-gumbel"
    """Estimator of the actor's gradient."""


TUNED = {
    env: {name: value for name, value in tuned.items() if name != "estimator"}
    for env, tuned in discrete_sac.TUNED.items()
}
"""Those of all soft actor-critic agents."""
