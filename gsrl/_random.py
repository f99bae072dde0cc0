"""Seeds of generators: one function of the user's seed, of what is drawn, and of a number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch

__all__ = ["Role", "default_generator_lent", "environment_seed", "environment_seeds", "seed_of", "seed_sequence"]

Role: TypeAlias = Literal[
    "noise",  # of actions and estimators
    "initialisation",  # of networks
    "data",  # of updates: draws from replay, episodes of a game
    "exploration",
    "environment",  # of training, by number
    "evaluation",  # an environment, by number; or an evaluation along the way, by steps
    "final evaluation",
    "resumption",  # an environment of training that begins anew in the middle, by steps and number
    "actions",  # of an action space
    "measurement",  # of gradients, by steps
]
"""What is drawn. A role's place is part of its streams: new ones go to the end."""

ROLES: tuple[Role, ...] = get_args(Role)


def seed_sequence(seed: int | None, role: Role, *index: int) -> np.random.SeedSequence:
    """What the random numbers of one thing come from; another seed, role or index gives others.

    Role and index are in the spawn key: in the entropy, NumPy would take ``[5, 0]`` for ``5``. Each part of the index
    is two words there: by itself, NumPy would take ``(2**32,)`` for ``(0, 1)``.

    Args:
        seed: The user's, not negative and below 2**128; None: entropy of the operating system.
        role: What is drawn.
        *index: Which one of those with this role.
    """
    words = [word for part in index for word in divmod(part, 2**32)]
    return np.random.SeedSequence(seed, spawn_key=(ROLES.index(role), *words))


def seed_of(sequence: np.random.SeedSequence) -> int:
    """A seed of 63 bits, which is what a torch generator takes."""
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def environment_seed(seed: int, role: Role, *index: int) -> int:
    """A seed of :func:`seed_sequence` for what others wrote, of 31 bits: many an environment takes no larger one.

    With so few bits, two of them are equal with a chance of 5e-10.
    """
    return int(seed_sequence(seed, role, *index).generate_state(1)[0] >> 1)


def environment_seeds(count: int, seed: int, role: Role, *index: int) -> list[int]:
    """Those of several environments, whose numbers from 0 on are the last part of their index."""
    return [environment_seed(seed, role, *index, number) for number in range(count)]


@contextmanager
def default_generator_lent(seed: int) -> Iterator[None]:
    """Seeds torch's default generator, from which it initialises networks, and then puts it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
        yield
