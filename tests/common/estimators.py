"""What tests of estimators share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from gsrl.estimators import ESTIMATORS, Estimator, register_estimator

TEMPERATURE = 0.7


def vjp(soft: Tensor, slope: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """V(y, g, temperature) = y * (g - y . g) / temperature."""
    return soft * (slope - (soft * slope).sum(-1, keepdim=True)) / temperature


@contextmanager
def registered(cls: type[Estimator]) -> Iterator[None]:
    """An estimator that has its name for a while."""
    register_estimator(cls)
    try:
        yield
    finally:
        del ESTIMATORS[cls.name]
