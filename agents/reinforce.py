"""REINFORCE: four agents, which differ in the baseline alone."""

from __future__ import annotations

import dataclasses
from typing import Literal

from gsrl import Reinforce
from gsrl.runs.cards import Card
from gsrl.runs.settings import Setting

__all__ = ["BASELINE", "CARD", "RELAX", "RLOO"]

CARD = Card(
    name="reinforce",
    algorithm=Reinforce,
    summary="REINFORCE, without a baseline or with a running mean of returns",
    source='Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", '
    "1992",
    without=("gae_lambda", "critic_updates"),  # of value networks
    own={
        "baseline": Setting(
            "none",
            Literal["none", "running-mean"],
            "What returns are compared with: nothing, or a running mean of earlier ones.",
        )
    },
    tuned={
        "CartPole-v1": {"learning_rate": 1e-2},
        "Acrobot-v1": {"learning_rate": 1e-2, "n_episodes": 16, "ent_coef": 0.01},
        "LunarLander-v3": {"learning_rate": 1e-2, "n_episodes": 4, "ent_coef": 0.01},
    },
)

RLOO = dataclasses.replace(
    CARD,
    name="reinforce-rloo",
    summary="REINFORCE, the other episodes of an update as the baseline",
    source='Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!", 2019',
    own={},
    fixed={"baseline": "leave-one-out"},
)

BASELINE = dataclasses.replace(
    CARD,
    name="reinforce-baseline",
    summary="REINFORCE, a value network as the baseline",
    source='Sutton and Barto, "Reinforcement Learning: An Introduction", 2018, Section 13.4; Schulman et al., '
    '"High-Dimensional Continuous Control Using Generalized Advantage Estimation", 2016',
    without=(),
    own={},
    fixed={"baseline": "value"},
)

# The paper's count of CartPole's episodes is, by the code that was published with it, one of updates, each from one
# episode of every environment, until the mean return of the latest 100 episodes is 195.
RELAX = dataclasses.replace(
    BASELINE,
    name="reinforce-relax",
    summary="REINFORCE, a value network and RELAX's control variate",
    source='Grathwohl et al., "Backpropagation through the Void", 2018',
    fixed={"baseline": "relax"},
)
