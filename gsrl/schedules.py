"""Schedules: functions of the remaining progress, as Stable-Baselines3's are, beside those that it has."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ExponentialSchedule"]


@dataclass(frozen=True)
class ExponentialSchedule:
    """Goes from one number to another by the same factor at every step, and stays there.

    Args:
        start: Value at the start, above 0.
        end: Value at the end, above 0.
        end_fraction: Share of the training after which the end is reached, in (0, 1].

    Raises:
        ValueError: An argument is out of range; the message names it.

    Example:
        >>> schedule = ExponentialSchedule(1.0, 0.01)
        >>> [round(schedule(remaining), 3) for remaining in (1.0, 0.5, 0.0)]
        [1.0, 0.1, 0.01]
    """

    start: float
    end: float
    end_fraction: float = 1.0

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, but got {getattr(self, name)}.")
        if not 0 < self.end_fraction <= 1:
            raise ValueError(f"end_fraction must be in (0, 1], but got {self.end_fraction}.")

    def __call__(self, progress_remaining: float) -> float:
        """The value now.

        Args:
            progress_remaining: Share of the training that is to come.
        """
        share = min(1.0, (1.0 - progress_remaining) / self.end_fraction)
        return self.start * (self.end / self.start) ** share
