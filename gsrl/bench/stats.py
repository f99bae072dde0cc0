"""Statistics of a few seeds: pure functions of arrays.

The scores of one agent are given by environment: a sequence of arrays ``[seeds]``, the *strata*, which may differ in
length. Resampling keeps to its stratum.

Sources: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021 (arXiv
2108.13264), for what is computed; Hesterberg, "What Teachers Should Know About the Bootstrap", 2014 (arXiv 1411.5279),
section 3.2, for how far an interval must reach with few seeds. ``benchmarks/studies/coverage.py`` measures how well
that works.

The module is not called ``statistics``: programs in this folder would then find it in the place of Python's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, norm, rankdata, t, trim_mean

__all__ = [
    "CONFIDENCE",
    "FEW",
    "RESAMPLES",
    "Interval",
    "expanded_confidence",
    "holm",
    "interval",
    "iqm",
    "iqm_curve",
    "iqm_interval",
    "mann_whitney",
    "performance_profile",
    "probability_of_improvement",
    "rank_probabilities",
    "steps_to_threshold",
]

CONFIDENCE = 0.95
"""Share of the intervals that should hold the true value."""
FEW = 10
"""Seeds below which an interval is a rough one."""
RESAMPLES = 5_000
"""Of a bootstrap, unless told otherwise."""

COUNTED = 100
"""Scores of a stratum up to which a test counts all ways to share them out."""

Array = NDArray[np.floating]
Strata = Sequence[Array]


class Statistic(Protocol):
    """A number, or one for each column, of strata whose axis ``axis`` is that of the seeds."""

    def __call__(self, *strata: Array, axis: int) -> Array:
        """Computes it."""


class Interval(NamedTuple):
    """An estimate and where its true value may lie; arrays, of a statistic with several columns.

    Example:
        >>> Interval(1.0, 0.5, 1.5).high
        1.5
    """

    estimate: Any
    low: Any
    """Not a number where there is one seed alone."""
    high: Any


def iqm(*strata: Array, axis: int = 0) -> Array:
    """Interquartile mean: the mean of the middle half of all strata together.

    A quarter at either end, rounded down to whole values, is left out.

    Args:
        *strata: The scores, joined along ``axis``.
        axis: That of the seeds.

    Example:
        >>> float(iqm(np.array([0.0, 1.0, 3.0, 100.0])))
        2.0
    """
    return np.asarray(trim_mean(np.concatenate(strata, axis=axis), 0.25, axis=axis))


def expanded_confidence(counts: Sequence[int], confidence: float = CONFIDENCE) -> float:
    r"""Confidence to ask a percentile bootstrap for, so that its interval is wide enough with few seeds.

    A bootstrap's spread is too small by :math:`\sqrt{(n-1)/n}`, and its quantiles are those of a normal where Student's
    are due. Both are mended by quantiles further out (Hesterberg, section 3.2):

    .. math:: \alpha' / 2 = \Phi\left(\sqrt{n/(n-1)} \; t_{\alpha/2,\,\nu}\right)

    With several strata, n is the smallest count, and :math:`\nu = \sum_i (n_i - 1)`.

    Args:
        counts: Seeds of each stratum, at least 2.
        confidence: The one that is wanted.

    Example:
        >>> expanded_confidence([5]) > 0.95
        True
    """
    least, freedom = min(counts), sum(counts) - len(counts)
    tail = norm.cdf(math.sqrt(least / (least - 1)) * t.ppf((1 - confidence) / 2, freedom))
    return float(1 - 2 * tail)


def interval(
    strata: Strata,
    statistic: Statistic,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
    expanded: bool = True,
) -> Interval:
    """Estimates a statistic with a stratified bootstrap.

    Args:
        strata: Arrays ``[seeds, ...]``, each resampled along its first axis.
        statistic: Of the strata, along ``axis``.
        confidence: Share of such intervals that should hold the true value.
        resamples: How many.
        seed: Of the resampling.
        expanded: Whether the interval is widened for few seeds, see :func:`expanded_confidence`. Else it is the plain
            percentile interval.

    Raises:
        ValueError: There is no stratum, or one is empty.

    Example:
        >>> found = interval([np.arange(10.0)], iqm, confidence=0.9)
        >>> float(found.estimate)
        4.5
    """
    if len(strata) == 0 or any(len(stratum) == 0 for stratum in strata):
        raise ValueError(f"strata must hold scores, but got {[len(stratum) for stratum in strata]} of them.")
    estimate = statistic(*strata, axis=0)
    counts = [len(stratum) for stratum in strata]
    if min(counts) == 1:
        nothing = np.full_like(np.asarray(estimate, dtype=float), np.nan)[()]
        return Interval(estimate[()], nothing, nothing)
    found = bootstrap(
        tuple(strata),
        statistic,
        axis=0,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 20_000_000 // (8 * sum(stratum.size for stratum in strata))),
        confidence_level=expanded_confidence(counts, confidence) if expanded else confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    # Sums of the same numbers in another order: an interval of equal scores must not lie beside them.
    return Interval(estimate[()], np.minimum(found.low, estimate)[()], np.maximum(found.high, estimate)[()])


def iqm_interval(strata: Strata, **arguments: Any) -> Interval:
    """Estimates the interquartile mean; the arguments are those of :func:`interval`.

    Example:
        >>> found = iqm_interval([np.arange(10.0)])
        >>> bool(found.low < found.estimate < found.high)
        True
    """
    return interval(strata, iqm, **arguments)


def rank_probabilities(x: Array, y: Array, axis: int = 0) -> Array:
    """Probability that a score of x is above one of y, ties counted half: Mann and Whitney's U over the pairs.

    Example:
        >>> float(rank_probabilities(np.array([2.0, 3.0]), np.array([1.0, 2.0])))
        0.875
    """
    x, y = np.moveaxis(x, axis, -1)[..., :, None], np.moveaxis(y, axis, -1)[..., None, :]
    return np.mean(np.greater(x, y) + 0.5 * np.equal(x, y), axis=(-2, -1))


def probability_of_improvement(x: Strata, y: Strata, **arguments: Any) -> Interval:
    """Probability that a run of x ends above one of y, in an environment drawn at random.

    Args:
        x: Scores by environment.
        y: Scores in the same environments.
        **arguments: Of :func:`interval`.

    Where all of one are above all of the other, the bootstrap has nothing to vary; the interval then reaches to
    the probability that would still give so many pairs, one for each two runs, by a chance of 2.5 %.

    Example:
        >>> float(probability_of_improvement([np.arange(5.0)], [np.arange(5.0) + 9]).estimate)
        0.0
    """

    def mean(*strata: Array, axis: int) -> Array:
        pairs = zip(strata[: len(x)], strata[len(x) :], strict=True)
        return np.mean([rank_probabilities(first, second, axis) for first, second in pairs], axis=0)

    estimate, low, high = interval([*x, *y], mean, **arguments)
    # All above all others: so are they in every resample. What is left is the chance that so many pairs would be.
    count = sum(2 / (1 / len(first) + 1 / len(second)) for first, second in zip(x, y, strict=True))
    bound = ((1 - arguments.get("confidence", CONFIDENCE)) / 2) ** (1 / count)
    if estimate == 1 and math.isfinite(low):
        low = bound
    elif estimate == 0 and math.isfinite(low):
        high = 1 - bound
    return Interval(estimate, low, high)


def mann_whitney(x: Strata, y: Strata) -> float:
    r"""P-value of Mann and Whitney's test that neither of two tends to be above the other, within strata.

    .. math:: p = P\left(|\textstyle\sum_i (U_i - m_i n_i / 2)| \ge |\text{the one observed}|\right)

    Two-sided and exact: over all ways to share out the scores of each stratum, ties as they are. Where a stratum has
    more than :data:`COUNTED` scores, the normal law with a correction for continuity takes the place of counting; with
    few it is no good in the tails, which is where a correction for many tests looks.

    Args:
        x: Scores by environment.
        y: Scores in the same environments.

    Example:
        >>> round(mann_whitney([np.array([1.0, 2.0])], [np.array([3.0, 4.0])]), 3)
        0.333
    """
    shift, variance = 0, 0.0  # of twice the sum of U - mn/2, a whole number
    law, middle = np.ones(1), 0
    counted = all(len(first) + len(second) <= COUNTED for first, second in zip(x, y, strict=True))
    for first, second in zip(x, y, strict=True):
        m, n = len(first), len(second)
        ranks = np.rint(2 * rankdata(np.concatenate([first, second]))).astype(int)
        mean = m * (m + n + 1)  # of the sum of the first m
        shift += int(ranks[:m].sum()) - mean
        variance += m * n * float(ranks.var(ddof=1)) / (m + n)
        if counted:
            law, middle = np.convolve(law, _sums(tuple(sorted(ranks.tolist())), m)), middle + mean
    if variance == 0:  # all are equal
        return 1.0
    if counted:
        return float(min(1.0, law[np.abs(np.arange(len(law)) - middle) >= abs(shift)].sum()))
    return float(min(1.0, 2 * norm.sf((abs(shift) - 1) / math.sqrt(variance))))


@lru_cache(maxsize=1024)  # without ties, ranks are the same again and again
def _sums(values: tuple[int, ...], count: int) -> NDArray[np.float64]:
    """Probability of each sum of ``count`` of the ascending values, drawn without replacement."""
    ways = np.zeros((count + 1, sum(values[-count:]) + 1))
    ways[0, 0] = 1
    for value in values:
        ways[1:, value:] += ways[:-1, : ways.shape[1] - value].copy()
    return np.asarray(ways[count] / ways[count].sum())


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    r"""P-values adjusted for their number, so that the smallest is below 5 % in 5 % of the families at most.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min\{1, (m - j + 1)\, p_{(j)}\}

    Whatever is true of the others, and however they depend on each other: pairs of a few agents do.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".

    Args:
        p_values: Of m tests, the family, in any order.

    Returns:
        ``[m]``, in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def performance_profile(strata: Strata, thresholds: Array, **arguments: Any) -> Interval:
    """Share of the runs above each threshold, a mean over environments, with pointwise intervals.

    Args:
        strata: Scores by environment.
        thresholds: ``[thresholds]``.
        **arguments: Of :func:`interval`.

    Example:
        >>> performance_profile([np.arange(4.0)], np.array([0.5, 2.5])).estimate
        array([0.75, 0.25])
    """
    above = [np.asarray(stratum)[:, None] > thresholds for stratum in strata]

    def share(*strata: Array, axis: int) -> Array:
        return np.mean([stratum.mean(axis=axis) for stratum in strata], axis=0)

    return interval([stratum.astype(float) for stratum in above], share, **arguments)


def iqm_curve(strata: Strata, **arguments: Any) -> Interval:
    """The interquartile mean at each step, with pointwise intervals; seeds are resampled with their whole curves.

    Args:
        strata: Arrays ``[seeds, steps]`` by environment, of the same steps.
        **arguments: Of :func:`interval`.

    Example:
        >>> iqm_curve([np.arange(8.0).reshape(4, 2)]).estimate
        array([3., 4.])
    """
    return interval(strata, iqm, **arguments)


def steps_to_threshold(steps: Sequence[float], scores: Sequence[float], threshold: float) -> float:
    """Returns the first of ``steps`` whose score reaches the threshold; infinity if none does."""
    return next((float(at) for at, score in zip(steps, scores, strict=True) if score >= threshold), math.inf)
