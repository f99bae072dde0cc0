"""Seeds of generators."""

from __future__ import annotations

import numpy as np

__all__ = ["seed_of"]


def seed_of(sequence: np.random.SeedSequence) -> int:
    """A seed of 63 bits, which is what a torch generator takes."""
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
