"""Schedules: what they return, what they refuse, and that checkpoints keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gsrl import checkpoint
from gsrl.schedules import ExponentialSchedule


def test_an_exponential_schedule_falls_by_the_same_factor_and_stays() -> None:
    schedule = ExponentialSchedule(0.4, 0.004, end_fraction=0.5)
    assert [schedule(remaining) for remaining in (1.0, 0.75, 0.5, 0.2, 0.0)] == pytest.approx(
        [0.4, 0.04, 0.004, 0.004, 0.004]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0), "start must be positive, but got 0.0"),
        ((1.0, -1.0), "end must be positive, but got -1.0"),
        ((1.0, 0.1, 0.0), r"end_fraction must be in \(0, 1\], but got 0.0"),
    ],
)
def test_bad_arguments(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExponentialSchedule(*arguments)


def test_checkpoints_keep_it(tmp_path: Path) -> None:
    schedule = ExponentialSchedule(1.0, 0.1, 0.7)
    checkpoint.save(tmp_path / "schedule.zip", {"schedule": schedule})
    assert checkpoint.load(tmp_path / "schedule.zip") == {"schedule": schedule}
