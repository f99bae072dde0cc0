"""Differentiable policies over discrete choices: gradient estimators, policy heads, DiscreteSAC and Reinforce.

Nothing is imported before it is used, so that what needs no PyTorch, such as the help of the command ``gsrl``, does not
wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gsrl._version import __version__

if TYPE_CHECKING:
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

_MODULES = {
    "algorithms": ("CategoricalActorCriticPolicy", "DiscreteSAC", "Reinforce"),
    "checkpoint": (),
    "checks": (),
    "distributions": ("FactoredCategorical",),
    "estimators": ("Estimator", "make_estimator"),
    "evaluation": (),
    "heads": ("ActionHead",),
    "learning": (),
    "losses": (),
    "masking": (),
    "normalization": (),
    "perception": (),
    "perception.masks": ("GumbelSoftMask",),
    "population": ("Population",),
    "relaxations": ("binary_concrete", "gumbel_max", "gumbel_noise", "gumbel_softmax", "straight_through"),
    "replay": (),
    "schedules": (),
    "spaces": ("OneHotCodec",),
    "subsets": ("SubsetOfK",),
    "temperature": (),
    "timing": (),
    "values": (),
    "vec_env": (),
}
"""Modules that are attributes of this one, and the names that it takes from them."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *(module for module in _MODULES if "." not in module)})
