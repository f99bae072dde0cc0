"""Moved to :mod:`gsrl.learning`; this name goes with the next version."""

import warnings

from gsrl.learning.learner import Learner, adam_, bias_corrections, clip_by_norm_

__all__ = ["Learner", "adam_", "bias_corrections", "clip_by_norm_"]

warnings.warn("gsrl.learner is now gsrl.learning.", DeprecationWarning, stacklevel=2)
