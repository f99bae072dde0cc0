"""Exploration that lasts: when it begins, how long it lasts, what it chooses, and that members are as if alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from gsrl import FactoredCategorical, gumbel_noise
from gsrl.replay.exploration import DOMINATING, LONGEST, PersistentExploration


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(exploration: PersistentExploration, steps: int, *seeds: int) -> torch.Tensor:
    """``[steps, S, n_envs, n, K]``."""
    own = generators(*seeds)
    return torch.stack([exploration.advance(own) for _ in range(steps)])


def bouts(exploration: PersistentExploration, steps: int, seed: int) -> tuple[int, list[int]]:
    """How often the environments of one agent could have begun to explore, and how long it lasted when they did."""
    own, chances, durations = generators(seed), 0, []
    for _ in range(steps):
        idle = exploration.remaining[0] == 0
        noise = exploration.noise.clone()
        exploration.advance(own)
        chances += int(idle.sum())
        begun = idle & (exploration.noise != noise)[0].any(-1).any(-1)
        durations += (exploration.remaining[0][begun] + 1).tolist()
    return chances, durations


def test_it_begins_with_epsilon_and_lasts_by_the_power_law() -> None:
    chances, durations = bouts(PersistentExploration([0.2], (200, 1, 2)), 1000, 0)
    assert stats.binomtest(len(durations), chances, 0.2).pvalue > 1e-3
    shares = np.arange(1.0, LONGEST + 1) ** -2.0
    shares /= shares.sum()
    edges = [0, 1, 2, 3, 5, 10, 30, LONGEST]
    counts = np.histogram(durations, bins=np.array(edges) + 0.5)[0]
    expected = np.array([shares[a:b].sum() for a, b in itertools.pairwise(edges)])
    assert counts.sum() == len(durations)
    assert stats.chisquare(counts, counts.sum() * expected).pvalue > 1e-3


def test_environments_explore_apart_and_all_factors_together() -> None:
    values = draw(PersistentExploration([0.3], (3, 2, 4)), 300, 1)[:, 0]
    kept = (values[1:] == values[:-1]).flatten(2)  # [steps, n_envs, n * K]
    assert (kept.all(-1) == kept.any(-1)).all()
    kept = kept.all(-1)
    assert 0.1 < kept.float().mean() < 0.8
    assert not (kept[:, 0] == kept[:, 1]).all()


def test_choices_are_uniform_over_the_legal_ones_whatever_the_logits() -> None:
    mask = torch.tensor([True, True, False, True])
    policy = FactoredCategorical(torch.tensor([30.0, -30.0, 5.0, 0.0]).expand(6000, 1, 4), mask.expand(6000, 1, 4))
    noise = PersistentExploration([1.0], (6000, 1, 4)).advance(generators(2))[0]
    counts = policy.sample_indices(noise=noise).flatten().bincount(minlength=4)
    assert counts[2] == 0
    assert stats.chisquare(counts[mask]).pvalue > 1e-3


def test_the_rest_of_the_time_actions_are_draws_of_the_policy() -> None:
    policy = FactoredCategorical(torch.tensor([[1.0, 0.0, -1.0]]).expand(4000, 1, 3))
    exploration = PersistentExploration([0.2], (4000, 1, 3))
    noise = draw(exploration, 5, 3)[-1, 0]
    quiet = noise.abs().amax((-2, -1)) < DOMINATING / 1000
    assert 0.4 < quiet.float().mean() < 0.9
    counts = policy.sample_indices(noise=noise)[quiet].flatten().bincount(minlength=3)
    assert stats.chisquare(counts, counts.sum() * policy.probs[0, 0].double()).pvalue > 1e-3


def test_a_choice_that_the_policy_hardly_makes_lasts_25_steps_now_and_then() -> None:
    policy = FactoredCategorical(torch.tensor([-20.0, 0.0]).expand(50, 1, 2))
    exploration, own = PersistentExploration([0.1], (50, 1, 2)), generators(4)
    chosen = torch.stack([policy.sample_indices(noise=exploration.advance(own)[0])[:, 0] == 0 for _ in range(1000)])
    assert chosen.unfold(0, 25, 1).all(-1).any(0).float().mean() > 0.3


def test_members_draw_what_they_would_draw_alone() -> None:
    epsilons = (0.5, 0.0, 0.1)
    alone, parts = ([PersistentExploration([epsilon], (2, 1, 3)) for epsilon in epsilons] for _ in range(2))
    together = draw(PersistentExploration.stacked(parts), 100, 4, 5, 6)
    for index, exploration in enumerate(alone):
        assert torch.equal(draw(exploration, 100, 4 + index)[:, 0], together[:, index])


def test_without_epsilon_the_noise_is_fresh_and_nothing_else_is_drawn() -> None:
    own = generators(7)[0]
    expected = torch.stack([gumbel_noise((2, 1, 3), generator=own) for _ in range(20)])
    assert torch.equal(draw(PersistentExploration([0.0], (2, 1, 3)), 20, 7)[:, 0], expected)


def test_parts_of_a_stack_are_its_rows_and_states_are_restored() -> None:
    parts = [PersistentExploration([0.5], (1, 1, 2)) for _ in range(2)]
    draw(parts[1], 7, 8)
    before = {name: value.clone() for name, value in parts[1].state_dict().items()}
    whole = PersistentExploration.stacked(parts)
    assert all(torch.equal(before[name], value) for name, value in parts[1].state_dict().items())
    draw(whole, 10, 9, 10)
    assert torch.equal(parts[1].noise[0], whole.noise[1])
    other = PersistentExploration([0.5], (1, 1, 2))
    other.load_state_dict(parts[1].state_dict())
    assert torch.equal(draw(other, 30, 11), draw(parts[1], 30, 11))


def test_epsilons_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"epsilons must be in \[0, 1\], but got \[0.5, -0.1\]"):
        PersistentExploration([0.5, -0.1], (1, 1, 2))
