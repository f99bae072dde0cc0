"""Moved to :mod:`gsrl.replay`; this name goes with the next version."""

import warnings

from gsrl.replay import ReplayBatch, ReplayBuffer

__all__ = ["ReplayBatch", "ReplayBuffer"]

warnings.warn("gsrl.buffers is now gsrl.replay.", DeprecationWarning, stacklevel=2)
