"""The stopwatch, by a clock that the tests turn."""

from __future__ import annotations

import time

import pytest

from gsrl.timing import Stopwatch


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_laps_of_the_same_name_add_up(clock: Clock) -> None:
    stopwatch = Stopwatch()
    for name, seconds in (("environment", 1.0), ("update", 4.0), ("environment", 2.0), ("logging", 1.0)):
        clock.now += seconds
        stopwatch.lap(name)
    assert stopwatch.seconds == {"environment": 3.0, "update": 4.0, "logging": 1.0}
    assert stopwatch.shares() == {"environment": 0.375, "update": 0.5, "logging": 0.125}


def test_start_forgets_what_has_passed_since_the_last_lap(clock: Clock) -> None:
    stopwatch = Stopwatch()
    clock.now += 1.0
    stopwatch.lap("update")
    clock.now += 50.0
    stopwatch.start()
    clock.now += 2.0
    stopwatch.lap("update")
    assert stopwatch.seconds == {"update": 3.0}


def test_shares_where_no_time_has_passed(clock: Clock) -> None:
    stopwatch = Stopwatch()
    assert stopwatch.shares() == {}
    stopwatch.lap("update")
    assert stopwatch.shares() == {"update": 0.0}
