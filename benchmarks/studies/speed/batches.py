"""Transitions of noise: the time of an update does not depend on them."""

from __future__ import annotations

import torch

from gsrl.replay import ReplayBatch

__all__ = ["GAMMA", "random_batch"]

GAMMA = 0.99


def random_batch(
    *shape: int, observations: int = 4, factors: int = 1, choices: int = 2, generator: torch.Generator | None = None
) -> ReplayBatch:
    """Transitions of as many members and rows as the shape says, of CartPole's sizes unless told otherwise.

    Args:
        *shape: ``[batch]`` or ``[members, batch]``.
        observations: Numbers in an observation.
        factors: Of an action.
        choices: Of each factor.
        generator: Of the noise; one of seed 0 if None.
    """
    generator = generator or torch.Generator().manual_seed(0)
    before, after = torch.randn(2, *shape, observations, generator=generator)
    actions = torch.randint(choices, (*shape, factors), generator=generator)
    rewards = torch.randn(shape, generator=generator)
    return ReplayBatch(before, actions, rewards, after, torch.full(shape, GAMMA))
