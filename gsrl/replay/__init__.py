"""Replay: rows of transitions (:mod:`ring`), windows, checks, frames stored once; episodes; exploration that lasts."""

from gsrl.replay.buffer import ReplayBatch, ReplayBuffer
from gsrl.replay.episodes import Episodes, Rollout
from gsrl.replay.exploration import PersistentExploration
from gsrl.replay.frames import Stack, stack_of
from gsrl.replay.ring import Column, Ring

__all__ = [
    "Column",
    "Episodes",
    "PersistentExploration",
    "ReplayBatch",
    "ReplayBuffer",
    "Ring",
    "Rollout",
    "Stack",
    "stack_of",
]
