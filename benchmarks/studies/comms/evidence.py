"""What the studies of this folder share: how games are trained, and how figures are written.

All figures are of hard messages. Beside each accuracy stands the one that is left when messages are shuffled among the
episodes (*scrambled*): what survives that was not told. Seconds are those of the processor, on one thread.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.studies import common
from gsrl.bench.stats import interval
from gsrl.comms import SignallingGame

RESULTS = common.RESULTS / "comms"

BONUSES: dict[str, Any] = {"entropy_bonus": 0.05, "diversity_bonus": 1.0}
"""Of channels with hardly more messages than meanings, all equally likely: see :class:`gsrl.comms.Channel`."""

EPSILON = 1e-9
"""What accuracies, which are sums, may miss by rounding."""

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def learn(games: SignallingGame, updates: int, log_interval: int) -> float:
    """Trains, and returns the seconds of the processor that each game took."""
    start = time.process_time()
    games.learn(updates, log_interval=log_interval)
    return round((time.process_time() - start) / len(games.seeds), 3)


def share_of(count: ArrayLike) -> str:
    """How many of all are true."""
    values = np.asarray(count)
    return f"{int(values.sum())}/{values.size}"


def median(values: ArrayLike) -> str:
    """The median of numbers of samples, some of which may be infinite."""
    middle = float(np.median(np.asarray(values, dtype=float)))
    return f"{middle:,.0f}" if math.isfinite(middle) else "never"


def mean_interval(values: ArrayLike, digits: int = 3) -> str:
    """The mean over seeds with its 95 % bootstrap interval."""

    def mean(*strata: NDArray[np.floating], axis: int) -> NDArray[np.floating]:
        return np.asarray(strata[0].mean(axis=axis))

    found = interval([np.asarray(values, dtype=float)], mean)
    return f"{found.estimate:z.{digits}f} [{found.low:z.{digits}f}, {found.high:z.{digits}f}]"
