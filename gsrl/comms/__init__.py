"""Agents that learn to talk: a discrete channel, senders and receivers, signalling games, and their language.

Games and agents are in :mod:`gsrl.comms.games` and :mod:`gsrl.comms.agents`, who talks to whom in
:mod:`gsrl.comms.topologies`, measures of a language in :mod:`gsrl.comms.metrics`. :class:`SignallingGame` trains;
:class:`DIAL` trains agents that talk in an environment.
"""

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
from gsrl.comms.protocol import Protocol
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
    "PopulationGame",
    "Protocol",
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
