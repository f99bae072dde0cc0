"""The returns of many agents in one number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["interquartile_mean"]


def interquartile_mean(values: Sequence[float] | NDArray[np.floating]) -> float:
    """Mean of the middle half: without the lowest and the highest quarter, each rounded down to whole values.

    Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021.

    Raises:
        ValueError: There are no values.
    """
    if len(values) == 0:
        raise ValueError("values must hold at least one, but got none.")
    left_out = len(values) // 4
    return float(np.mean(np.sort(values)[left_out : len(values) - left_out]))
