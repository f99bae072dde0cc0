"""Seeds of generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["default_generator_lent", "seed_of"]


def seed_of(sequence: np.random.SeedSequence) -> int:
    """A seed of 63 bits, which is what a torch generator takes."""
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def default_generator_lent(seed: int) -> Iterator[None]:
    """Seeds torch's default generator, from which it initialises networks, and then puts it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
        yield
