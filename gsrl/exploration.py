"""Moved to :mod:`gsrl.replay`; this name goes with the next version."""

import warnings

from gsrl.replay import PersistentExploration

__all__ = ["PersistentExploration"]

warnings.warn("gsrl.exploration is now gsrl.replay.", DeprecationWarning, stacklevel=2)
