"""The tuned settings of all discrete soft actor-critics, so that they differ in the actor's gradient alone.

Evidence: ``docs/benchmarks.md``, and the searches that ``docs/decisions.md`` names.
"""

from __future__ import annotations

from typing import Any

from gsrl import DiscreteSAC
from gsrl.algorithms.policies import DiscreteSACPolicy
from gsrl.runs.cards import tune

# fmt: off
_GRID = {
    "steps": 20_000, "gamma": 0.9, "learning_rate": 1e-3, "batch_size": 128, "target_entropy_ratio": 0.05,
    "tau": 0.01, "critics": "mean", "layer_norm": True, "net_arch": (128, 128),
}
# Each question is drawn anew: no action has an effect beyond its reward. With critics that are networks they learn
# faster still.
_MATCH = {"steps": 30_000, "gamma": 0.0, "learning_rate": 1e-3, "batch_size": 64, "critic": "multilinear"}
_PENDULUM = {
    "steps": 10_000, "gamma": 0.97, "learning_rate": 1e-3, "batch_size": 128, "tau": 0.01, "critics": "mean",
}
_SEARCHED: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 10_000, "learning_rate": 2e-3, "learning_starts": 200, "batch_size": 128, "n_steps": 5,
        "reward_scale": 0.1, "ent_coef": 0.4, "entropy_in_target": False, "tau": 0.01, "critics": "mean",
        # A fixed entropy coefficient does not mind a temperature of 1.
        "layer_norm": True, "temperature": 1.0,
    },
    "LunarLander-v3": {
        "learning_rate": 1e-3, "linear_decay": True, "learning_starts": 1000, "batch_size": 128, "n_steps": 5,
        "reward_scale": 0.1, "ent_coef": 0.1, "entropy_in_target": False, "critics": "mean",
        "exploration_eps": 0.04, "layer_norm": True, "temperature": 1.0,
    },
    "Acrobot-v1": {
        "steps": 30_000, "learning_rate": 2e-3, "linear_decay": True, "learning_starts": 1000, "batch_size": 128,
        "n_steps": 3, "critics": "mean", "layer_norm": True,
    },
    **dict.fromkeys(("gsrl/FactoredMatch-v0", "gsrl/BitMatch-v0"), _MATCH),
    "gsrl/LargeDiscrete-v0": {
        "steps": 30_000, "gamma": 0.0, "learning_rate": 1e-3, "batch_size": 64, "train_freq": 4, "critics": "mean",
    },
    **dict.fromkeys(("gsrl/MaskedGrid-v0", "gsrl/UnmaskedGrid-v0"), _GRID),
    **dict.fromkeys(("gsrl/Pendulum-11bins-v1", "gsrl/Pendulum-11centers-v1"), _PENDULUM),
}
# fmt: on
"""Searched for from what the defaults were then."""

for _name in ("discrete-sac", "gumbel-sac", "exact-sac"):
    tune(
        _name,
        {
            env: {**DiscreteSAC.EARLIER, **DiscreteSACPolicy.EARLIER, "estimator": "st-gumbel", **found}
            for env, found in _SEARCHED.items()
        },
    )
