"""Noise that is kept: its durations, what it leaves alone, and that members draw what they would draw alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from gsrl import FactoredCategorical, gumbel_noise
from gsrl.exploration import PersistentNoise


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(noise: PersistentNoise, steps: int, *seeds: int) -> torch.Tensor:
    """``[steps, S, n_envs, n, K]``."""
    own = generators(*seeds)
    return torch.stack([noise.advance(own).clone() for _ in range(steps)])


def test_durations_follow_the_truncated_power_law() -> None:
    longest = 6
    values = draw(PersistentNoise([longest], (50, 1, 2)), 2000, 0)[:, 0, :, 0, 0].T.numpy()
    durations = []
    for row in values:
        starts = np.flatnonzero(np.diff(row, prepend=np.nan))
        durations += np.diff(starts).tolist()
    counts = np.bincount(durations, minlength=longest + 1)[1:]
    assert len(counts) == longest
    weights = np.arange(1.0, longest + 1) ** -2.0
    assert stats.chisquare(counts, counts.sum() * weights / weights.sum()).pvalue > 1e-3


def test_environments_keep_their_noise_apart_and_all_factors_together() -> None:
    values = draw(PersistentNoise([20], (3, 2, 4)), 300, 1)[:, 0]
    kept = (values[1:] == values[:-1]).flatten(2)  # [steps, n_envs, n * K]
    assert (kept.all(-1) == kept.any(-1)).all()
    kept = kept.all(-1)
    assert 0.3 < kept.float().mean() < 0.8
    assert not (kept[:, 0] == kept[:, 1]).all()


def test_an_action_that_is_drawn_with_kept_noise_has_the_probabilities_of_the_policy() -> None:
    policy = FactoredCategorical(torch.tensor([[1.0, 0.0, -1.0]]).expand(4000, 1, 3))
    noise = PersistentNoise([8], (4000, 1, 3))
    own = generators(2)
    for _ in range(5):
        kept = noise.advance(own)[0]
    counts = policy.sample_indices(noise=kept).flatten().bincount(minlength=3)
    assert stats.chisquare(counts, 4000 * policy.probs[0, 0].double()).pvalue > 1e-3


def test_a_choice_of_probability_3_in_10_lasts_25_steps_now_and_then() -> None:
    logits = torch.tensor([0.3, 0.7]).log().expand(20, 1, 2)
    policy = FactoredCategorical(logits)
    noise, own = PersistentNoise([64], (20, 1, 2)), generators(3)
    chosen = torch.stack([policy.sample_indices(noise=noise.advance(own)[0])[:, 0] == 0 for _ in range(1000)])
    assert (chosen.unfold(0, 25, 1).all(-1).any(0)).float().mean() > 0.3


def test_members_draw_what_they_would_draw_alone() -> None:
    alone = [PersistentNoise([longest], (2, 1, 3)) for longest in (5, 1, 9)]
    together = draw(
        PersistentNoise.stacked([PersistentNoise([longest], (2, 1, 3)) for longest in (5, 1, 9)]), 100, 4, 5, 6
    )
    for index, noise in enumerate(alone):
        assert torch.equal(draw(noise, 100, 4 + index)[:, 0], together[:, index])


def test_a_largest_duration_of_1_is_fresh_noise_and_draws_nothing_else() -> None:
    own = generators(7)[0]
    expected = torch.stack([gumbel_noise((2, 1, 3), generator=own) for _ in range(20)])
    assert torch.equal(draw(PersistentNoise([1], (2, 1, 3)), 20, 7)[:, 0], expected)


def test_parts_of_a_stack_are_its_rows_and_states_are_restored() -> None:
    parts = [PersistentNoise([9], (1, 1, 2)) for _ in range(2)]
    draw(parts[1], 7, 8)
    before = {name: value.clone() for name, value in parts[1].state_dict().items()}
    whole = PersistentNoise.stacked(parts)
    assert all(torch.equal(before[name], value) for name, value in parts[1].state_dict().items())
    draw(whole, 1, 9, 10)
    assert torch.equal(parts[1].noise[0], whole.noise[1])
    other = PersistentNoise([9], (1, 1, 2))
    other.load_state_dict(parts[1].state_dict())
    assert torch.equal(draw(other, 30, 11), draw(parts[1], 30, 11))


def test_durations_below_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_durations must be at least 1, but got \[3, 0\]"):
        PersistentNoise([3, 0], (1, 1, 2))
