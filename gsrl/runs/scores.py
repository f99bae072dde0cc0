"""The returns of many agents in one number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["interquartile_mean", "mean_interval"]

RESAMPLES = 2_000


def interquartile_mean(values: Sequence[float] | NDArray[np.floating]) -> float:
    """Mean of the middle half: without the lowest and the highest quarter, each rounded down to whole values.

    Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021.

    Raises:
        ValueError: There are no values.

    Example:
        >>> interquartile_mean([0.0, 1.0, 3.0, 100.0])
        2.0
    """
    if len(values) == 0:
        raise ValueError("values must hold at least one, but got none.")
    left_out = len(values) // 4
    return float(np.mean(np.sort(values)[left_out : len(values) - left_out]))


def mean_interval(values: Sequence[float] | NDArray[np.floating], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean by a percentile bootstrap, with random numbers of its own.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.

    Args:
        values: Of which the mean is.
        confidence: Share of such intervals that should hold the true mean.

    Raises:
        ValueError: There are no values.
    """
    if len(values) == 0:
        raise ValueError("values must hold at least one, but got none")
    array = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(0).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.quantile(array[drawn].mean(1), ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)
