"""Gradient estimators of an expectation over discrete choices, behind one interface."""

from __future__ import annotations

import difflib
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


def make_estimator(name: str, *, shape: tuple[int, int] | None = None, **settings: Any) -> Estimator:
    """Builds an estimator by name.

    Args:
        name: A key of :data:`ESTIMATORS`.
        shape: ``(n, K)`` of the policies it will see, which ``relax`` needs: its network has that many inputs. Others
            serve any shape, and take no notice.
        **settings: Arguments of its constructor.

    Raises:
        ValueError: ``name`` is unknown; the message lists the names, and offers the nearest. Or ``shape`` is no pair.
        TypeError: The estimator has no such setting, or needs one that is missing.
    """
    if name not in ESTIMATORS:
        near = difflib.get_close_matches(str(name), ESTIMATORS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"name must be one of {sorted(ESTIMATORS)}, but got {name!r}.{hint}")
    if shape is not None and len(shape) != 2:
        raise ValueError(f"shape must be (n, K), factors and choices, but got {shape}.")
    estimator = ESTIMATORS[name]
    if estimator.shaped:
        if shape is not None:
            settings = {"n": shape[0], "K": shape[1], **settings}
        elif not {"n", "K"} <= settings.keys():
            raise TypeError(f"shape must be given for {name}, (n, K) of the policies it will see, but got None.")
    return estimator(**settings)
