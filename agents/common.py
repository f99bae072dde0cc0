"""What a user can mend, and how it is said; see :mod:`gsrl.runs.errors`."""

from __future__ import annotations

from gsrl.runs.errors import UsageError, counted, is_short_of_memory

__all__ = ["UsageError", "counted", "is_short_of_memory"]
