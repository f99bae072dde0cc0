"""One function of seed, role and index: no two things share a stream."""

from __future__ import annotations

import itertools

import numpy as np

from gsrl._random import ROLES, environment_seed, environment_seeds, seed_of, seed_sequence

SEEDS = [*range(100), 2**31 - 1, 2**32, 2**32 + 1, 2**32 + 5, 2**63]
INDICES: list[tuple[int, ...]] = [(), *((i,) for i in range(32)), (0, 0), (0, 1), (1, 0), (2**32,), (1000, 3)]


def test_no_two_things_share_a_stream() -> None:
    states = {
        tuple(seed_sequence(seed, role, *index).generate_state(2, np.uint64).tolist())
        for seed, role, index in itertools.product(SEEDS, ROLES, INDICES)
    }
    assert len(states) == len(SEEDS) * len(ROLES) * len(INDICES)


def test_no_two_environments_share_a_seed() -> None:
    roles = [role for role in ROLES if role in ("environment", "evaluation", "resumption")]
    seeds = [environment_seed(*each) for each in itertools.product(range(200), roles, range(32))]
    assert len(set(seeds)) == len(seeds) == 200 * 3 * 32
    assert 0 <= min(seeds) < 2**20
    assert 2**31 - 2**20 < max(seeds) < 2**31


def test_numbers_are_not_taken_apart() -> None:
    """As NumPy does with large ones, and it pads entropy with zeros."""
    assert np.array_equal(np.random.SeedSequence([5, 0]).generate_state(4), np.random.SeedSequence(5).generate_state(4))
    assert seed_of(seed_sequence(5, "noise")) != seed_of(seed_sequence(5, "noise", 0))
    assert seed_of(seed_sequence(5, "noise", 1)) != seed_of(seed_sequence(2**32 + 5, "noise"))
    assert seed_of(seed_sequence(5, "noise", 2**32)) != seed_of(seed_sequence(5, "noise", 0, 1))


def test_several_environments_are_numbered_last() -> None:
    expected = [environment_seed(3, "resumption", 70, number) for number in range(4)]
    assert environment_seeds(4, 3, "resumption", 70) == expected
    assert environment_seeds(2, 3, "resumption", 70) == expected[:2]  # whatever their number


def test_an_agents_own_streams_are_what_numpy_spawns() -> None:
    """So that first weights, noise and replay are those of agents made before environments had streams of their own."""
    roles = ("noise", "initialisation", "data")
    for child, role in zip(np.random.SeedSequence(7).spawn(3), roles, strict=True):
        assert seed_of(child) == seed_of(seed_sequence(7, role))  # type: ignore[arg-type]
