"""Gradient estimators of an expectation over discrete choices, behind one interface."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from typing import Any, TypeVar

from gsrl.estimators.base import (
    Estimator,
    Noise,
    Objective,
    attach_gradient,
    evaluate,
    gradient_only,
    replace_rows,
    value_and_slope,
)
from gsrl.estimators.control_variate import MuProp, Rebar, Relax, RelaxedControl
from gsrl.estimators.coupled import ARM, ARSM, DisARM
from gsrl.estimators.exact import Exact, LocalExpectation
from gsrl.estimators.pathwise import GumbelSoftmax, Pathwise, STGumbel, StraightThrough
from gsrl.estimators.score_function import RLOO, ReinforceEstimator, ScoreFunction
from gsrl.estimators.straight_through import DecoupledStraightThrough, GappedStraightThrough, GumbelRao, ReinMax
from gsrl.estimators.unordered_set import UnorderedSet
from gsrl.relaxations import replace_value

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
    "ReinforceEstimator",
    "Relax",
    "RelaxedControl",
    "STGumbel",
    "ScoreFunction",
    "StraightThrough",
    "UnorderedSet",
    "attach_gradient",
    "evaluate",
    "gradient_only",
    "make_estimator",
    "register_estimator",
    "replace_rows",
    "replace_value",
    "value_and_slope",
]

EstimatorClass = TypeVar("EstimatorClass", bound=type[Estimator])

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
        ReinforceEstimator,
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
"""Every estimator by its name; :func:`register_estimator` adds one."""


def register_estimator(cls: EstimatorClass) -> EstimatorClass:
    """Adds an estimator of one's own to those that have a name; to be used as a decorator.

    The name is then known to :func:`make_estimator`, to agents and channels, to the command line, and to files: what
    was saved with the estimator can be loaded wherever the name is registered. Nothing is imported to find it.

    Args:
        cls: A class with a ``name`` of its own, whose constructor needs no arguments, but for ``n`` and ``K`` of one
            that is ``shaped``.

    Returns:
        The class itself.

    Raises:
        TypeError: ``cls`` is no subclass of :class:`Estimator`, lacks one of its methods, or needs arguments.
        ValueError: The name is no word, or that of another estimator.

    Example:
        >>> @register_estimator
        ... class Mine(Pathwise):
        ...     name = "mine"
        ...     source = "unpublished"
        ...
        ...     def _sample(self, policy, noise):
        ...         return replace_value(policy.probs, policy.sample(noise=noise))
        >>> make_estimator("mine").sample(gsrl.FactoredCategorical(torch.zeros(1, 4))).sum(-1).item()
        1.0
        >>> agent = gsrl.DiscreteSAC("MlpPolicy", "CartPole-v1", estimator="mine", buffer_size=100)
        >>> _ = ESTIMATORS.pop("mine")  # the name is free again
    """
    if not (isinstance(cls, type) and issubclass(cls, Estimator)):
        raise TypeError(f"cls must be a subclass of gsrl.estimators.Estimator, but got {cls!r}.")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise TypeError(f"cls must have all methods of an estimator, but {cls.__name__} lacks {missing}.")
    for each in inspect.signature(cls).parameters.values():
        optional = each.default is not each.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        if not optional and not (cls.shaped and each.name in ("n", "K")):
            raise TypeError(f"{each.name} of {cls.__name__} must have a default, for a name is all that it is made of.")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name):
        raise ValueError(f"name must be a word, hyphens allowed, but {cls.__name__} has {name!r}.")
    if ESTIMATORS.setdefault(name, cls) is not cls:
        raise ValueError(f"name must be that of no other estimator, but got {name!r}, that of {ESTIMATORS[name]!r}.")
    return cls


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

    Example:
        >>> estimator = make_estimator("st-gumbel", temperature=0.5)
        >>> estimator.sample(gsrl.FactoredCategorical(torch.zeros(8, 1, 4))).shape
        torch.Size([8, 1, 4])
        >>> make_estimator("rloo", num_samples=2).biased
        False
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


def __getattr__(name: str) -> Any:
    if name != "Reinforce":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "gsrl.estimators.Reinforce is now gsrl.estimators.ReinforceEstimator; this name goes with the next version.",
        DeprecationWarning,
        stacklevel=2,
    )
    return ReinforceEstimator
