"""Agents that learn to talk: a discrete channel, senders and receivers, signalling games, and their language.

Games and agents are in :mod:`gsrl.comms.games` and :mod:`gsrl.comms.agents`, who talks to whom in
:mod:`gsrl.comms.topologies`, measures of a language in :mod:`gsrl.comms.metrics`. :class:`SignallingGame` trains;
:class:`DIAL` trains agents that talk in an environment.
"""

from __future__ import annotations

import warnings
from typing import Any

from gsrl.comms import metrics
from gsrl.comms.agents import (
    DiscriminationReceiver,
    MLPReceiver,
    MLPSender,
    Receiver,
    RecurrentReceiver,
    RecurrentSender,
    Sender,
)
from gsrl.comms.channel import Channel, ChannelNoise, Estimate, Message
from gsrl.comms.dial import DIAL, DIALEvaluation, TalkingEnv, Turn
from gsrl.comms.games import AttributeValueGame, DiscriminationGame, Game, GameBatch, LewisGame
from gsrl.comms.protocol import MessageProtocol
from gsrl.comms.signalling import Evaluation, SignallingGame
from gsrl.comms.topologies import (
    Audience,
    BroadcastGame,
    Community,
    Dialogue,
    PopulationGame,
    QuestionGame,
    TargetedGame,
)

__all__ = [
    "DIAL",
    "AttributeValueGame",
    "Audience",
    "BroadcastGame",
    "Channel",
    "ChannelNoise",
    "Community",
    "DIALEvaluation",
    "Dialogue",
    "DiscriminationGame",
    "DiscriminationReceiver",
    "Estimate",
    "Evaluation",
    "Game",
    "GameBatch",
    "LewisGame",
    "MLPReceiver",
    "MLPSender",
    "Message",
    "MessageProtocol",
    "PopulationGame",
    "QuestionGame",
    "Receiver",
    "RecurrentReceiver",
    "RecurrentSender",
    "Sender",
    "SignallingGame",
    "TalkingEnv",
    "TargetedGame",
    "Turn",
    "metrics",
]


def __getattr__(name: str) -> Any:
    if name != "Protocol":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "gsrl.comms.Protocol is now gsrl.comms.MessageProtocol; this name goes with the next version.",
        DeprecationWarning,
        stacklevel=2,
    )
    return MessageProtocol
