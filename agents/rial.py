"""The baseline of agents that talk whose messages are learned by REINFORCE: no gradient passes them.

After reinforced inter-agent learning of Foerster et al., "Learning to Communicate with Deep Multi-Agent Reinforcement
Learning", 2016, where messages are learned by their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agents import dial
from agents.dial import ALGORITHM, ENVIRONMENTS, TUNED, best_score, learn, load, play
from gsrl import make_estimator
from gsrl.comms import DIAL

__all__ = ["ALGORITHM", "ENVIRONMENTS", "SUMMARY", "TUNED", "Settings", "best_score", "learn", "load", "make", "play"]

SUMMARY = "agents that act and talk: messages are learned by REINFORCE"


@dataclass(frozen=True)
class Settings(dial.Shared):
    """Settings of agents that talk."""

    vocabulary: int = 2
    """Kinds of symbols: the switch has 2."""
    length: int = 1
    """Symbols of a message."""
    entropy_bonus: float = 0.0
    """Weight of the entropy of messages, in nats."""


def make(env: str, settings: Settings, **arguments: Any) -> DIAL:
    """Builds the teams; see :func:`agents.dial.make`."""
    names = ("vocabulary", "length", "entropy_bonus")
    own: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return dial.make_team(settings, communication="rial", estimator=make_estimator("reinforce"), **own, **arguments)
