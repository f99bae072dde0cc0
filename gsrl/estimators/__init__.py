"""Gradient estimators of an expectation over discrete choices, behind one interface."""

from __future__ import annotations

from typing import Any

from gsrl.estimators.base import Estimator, Noise, Objective
from gsrl.estimators.control_variate import MuProp, Rebar, Relax, RelaxedControl
from gsrl.estimators.coupled import ARM, ARSM, DisARM
from gsrl.estimators.exact import Exact, LocalExpectation
from gsrl.estimators.pathwise import GumbelSoftmax, Pathwise, STGumbel, StraightThrough
from gsrl.estimators.score_function import RLOO, Reinforce, ScoreFunction
from gsrl.estimators.straight_through import DecoupledStraightThrough, GappedStraightThrough, GumbelRao, ReinMax
from gsrl.estimators.unordered_set import UnorderedSet

__all__ = [
    "ARM",
    "ARSM",
    "ESTIMATORS",
    "RLOO",
    "DecoupledStraightThrough",
    "DisARM",
    "Estimator",
    "Exact",
    "GappedStraightThrough",
    "GumbelRao",
    "GumbelSoftmax",
    "LocalExpectation",
    "MuProp",
    "Noise",
    "Objective",
    "Pathwise",
    "Rebar",
    "ReinMax",
    "Reinforce",
    "Relax",
    "RelaxedControl",
    "STGumbel",
    "ScoreFunction",
    "StraightThrough",
    "UnorderedSet",
    "make_estimator",
]

ESTIMATORS: dict[str, type[Estimator]] = {
    cls.name: cls
    for cls in (
        Exact,
        LocalExpectation,
        GumbelSoftmax,
        STGumbel,
        StraightThrough,
        DecoupledStraightThrough,
        GumbelRao,
        GappedStraightThrough,
        ReinMax,
        Reinforce,
        RLOO,
        MuProp,
        Rebar,
        Relax,
        ARM,
        DisARM,
        ARSM,
        UnorderedSet,
    )
}
"""Every estimator by its name."""


def make_estimator(name: str, **settings: Any) -> Estimator:
    """Builds an estimator by name.

    Args:
        name: A key of :data:`ESTIMATORS`.
        **settings: Arguments of its constructor.

    Raises:
        ValueError: ``name`` is unknown; the message lists the names.
        TypeError: The estimator has no such setting, or needs one that is missing: ``relax`` needs ``n`` and ``K``.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"name must be one of {sorted(ESTIMATORS)}, but got {name!r}.")
    return ESTIMATORS[name](**settings)
