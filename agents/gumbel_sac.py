"""Soft actor-critic for discrete actions whose actor learns through samples: straight-through Gumbel-softmax."""

from __future__ import annotations

import dataclasses

from agents import discrete_sac
from gsrl.runs.settings import Setting

__all__ = ["CARD"]

CARD = dataclasses.replace(
    discrete_sac.CARD,
    name="gumbel-sac",
    summary="discrete soft actor-critic, straight-through Gumbel-softmax gradient, or another estimator's",
    source=f'{discrete_sac.CARD.source}; Jang et al., "Categorical Reparameterization with Gumbel-Softmax", 2017',
    own={"estimator": Setting("st-gumbel").over(discrete_sac.ESTIMATORS)},
)
