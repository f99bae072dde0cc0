"""Arrays that stand together, as in observations of ``Dict`` and ``Tuple`` spaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["map_arrays"]


def map_arrays(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Applies a function to arrays, or to those in dicts and tuples, nested or not; None stays None.

    (``torch.utils._pytree`` takes ten times as long, and a step of an environment calls this several times.)

    Args:
        function: Of as many arrays as there are trees.
        first: A tree.
        others: Trees with the entries of the first, and perhaps more.
    """
    if isinstance(first, dict):
        return {key: map_arrays(function, value, *[other[key] for other in others]) for key, value in first.items()}
    if type(first) is tuple:  # a named tuple is what it is, and none of these
        return tuple([map_arrays(function, *parts) for parts in zip(first, *others, strict=True)])
    return None if first is None else function(first, *others)
