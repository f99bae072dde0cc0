"""Replay: rows of transitions (:mod:`ring`), windows of their steps, checks; whole episodes; exploration that lasts."""

from gsrl.replay.buffer import ReplayBatch, ReplayBuffer
from gsrl.replay.episodes import Episodes, Rollout
from gsrl.replay.exploration import PersistentExploration
from gsrl.replay.ring import Column, Ring

__all__ = ["Column", "Episodes", "PersistentExploration", "ReplayBatch", "ReplayBuffer", "Ring", "Rollout"]
