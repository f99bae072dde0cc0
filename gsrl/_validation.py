"""Checks of arguments, and when the values of a tensor may be looked at."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

__all__ = ["check_count", "first", "is_concrete", "is_number", "positive"]


def is_concrete(tensor: Tensor) -> bool:
    """Returns whether the values of ``tensor`` can be read: it is eager, and nothing transforms or records it."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not torch._C._is_tracing()
    )


def first(values: Tensor, invalid: Tensor) -> str:
    """Says what stands at the first place of ``values`` where ``invalid``, over their leading dimensions, is true."""
    place = tuple(invalid.nonzero()[0].tolist())
    return f"{values[place].tolist()} at {place}"


def is_number(value: object) -> bool:
    """Returns whether ``value`` is a real number, which a boolean is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_count(name: str, value: object, least: int) -> None:
    """Raises an error that calls ``value`` by ``name`` unless it is an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, but got {value!r}.")


def positive(name: str, value: float) -> float:
    """Returns ``value``, or raises an error that calls it ``name`` unless it is a finite number above 0."""
    if not is_number(value):
        raise TypeError(f"{name} must be a number, but got {type(value).__name__}.")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and above 0, but got {value}.")
    return float(value)
