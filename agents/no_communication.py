"""The baseline of agents that talk: they act in the same environment, and say nothing.

What they reach anyone reaches without a word; see :mod:`agents.dial`.
"""

from __future__ import annotations

from typing import Any

from agents import dial
from agents.dial import ALGORITHM, ENVIRONMENTS, TUNED, best_score, learn, load, play
from agents.dial import Shared as Settings
from gsrl.comms import DIAL

__all__ = ["ALGORITHM", "ENVIRONMENTS", "SUMMARY", "TUNED", "Settings", "best_score", "learn", "load", "make", "play"]

SUMMARY = "agents that act where others talk, and hear nothing: the baseline"


def make(env: str, settings: Settings, **arguments: Any) -> DIAL:
    """Builds the teams; see :func:`agents.dial.make`."""
    return dial.make_team(settings, communication="none", **arguments)
