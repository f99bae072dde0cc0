"""Where the time of a run goes."""

from __future__ import annotations

import time

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up the time between laps, by the name of what it was spent on.

    A lap costs a quarter of a microsecond, so that a loop can afford several each time round:

        stopwatch.start()
        for batch in batches:
            learn(batch)
            stopwatch.lap("update")
            log()
            stopwatch.lap("logging")

    On a device that works on its own, a lap counts the time until the work was handed over, not until it was done.

    Attributes:
        seconds: The time spent on each name so far, in the order in which they first came.

    Example:
        >>> stopwatch = Stopwatch()
        >>> _ = sum(range(1000))
        >>> stopwatch.lap("adding")
        >>> _ = sorted(range(1000))
        >>> stopwatch.lap("sorting")
        >>> list(stopwatch.seconds), round(sum(stopwatch.shares().values()), 6)
        (['adding', 'sorting'], 1.0)
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Forgets the time since the last lap, which then counts for nothing."""
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Adds the time since the last lap, or since :meth:`start`, to a name."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def shares(self) -> dict[str, float]:
        """The share of each name in the time of all, in [0, 1]; zeros where no time has passed."""
        total = sum(self.seconds.values())
        return {name: seconds / total if total else 0.0 for name, seconds in self.seconds.items()}
