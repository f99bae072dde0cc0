"""Statistics of returns and observations against their definitions, and what is normalised by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from gsrl.normalization import Normalization, ObservationNormalizer, ReturnStatistics, RunningMoments, numeric_shapes

GAMMA = 0.9


def step(statistics: ReturnStatistics, rewards: Any, terminated: Any = False, truncated: Any = False, kept: Any = True):
    shape = statistics.open[:, 0].shape
    flags = (np.broadcast_to(np.asarray(each, np.bool_), shape) for each in (terminated, truncated, kept))
    statistics.add(np.broadcast_to(np.asarray(rewards, np.float64), shape), *flags)


def by_definition(episodes: Sequence[tuple[NDArray[Any], bool]]) -> float:
    """Root mean square of the returns of episodes, each with its rewards and whether it terminated."""
    steps = [(reward, t == len(rewards) - 1 and ends) for rewards, ends in episodes for t, reward in enumerate(rewards)]
    mean = sum(reward for reward, _ in steps) / sum(1 - GAMMA * (not end) for _, end in steps)
    squares = []
    for rewards, ends in episodes:
        to_go = 0.0 if ends else mean
        for reward in rewards[::-1]:
            to_go = reward + GAMMA * to_go
            squares.append(to_go**2)
    return float(np.sqrt(np.mean(squares)))


def random_episodes(seed: int) -> list[tuple[NDArray[Any], bool]]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(1, 2, rng.integers(1, 30)), bool(rng.integers(2))) for _ in range(9)]


def play(statistics: ReturnStatistics, episodes: Sequence[tuple[NDArray[Any], bool]], factor: float = 1.0) -> None:
    """Plays episodes one after the other; the last one, if it does not terminate, still lasts."""
    for index, (rewards, ends) in enumerate(episodes):
        for t, reward in enumerate(rewards):
            last = t == len(rewards) - 1
            is_cut = last and not ends and index < len(episodes) - 1
            step(statistics, reward * factor, terminated=last and ends, truncated=is_cut)


@pytest.mark.parametrize("seed", range(4))
def test_the_size_is_that_of_the_definition(seed):
    episodes = random_episodes(seed)
    statistics = ReturnStatistics([GAMMA], 1)
    play(statistics, episodes)
    assert statistics.size().item() == pytest.approx(by_definition(episodes), rel=1e-12)


def test_environments_and_members_are_told_apart():
    episodes = [random_episodes(seed)[:2] for seed in range(4)]
    lengths = [sum(len(rewards) for rewards, _ in each) for each in episodes]
    statistics = ReturnStatistics([GAMMA, GAMMA], 2)
    rows = [
        [(r, t == len(rewards) - 1, ends) for rewards, ends in each for t, r in enumerate(rewards)] for each in episodes
    ]
    for t in range(max(lengths)):
        here = [row[t] if t < len(row) else (0.0, False, False) for row in rows]
        values = np.array([each[0] for each in here]).reshape(2, 2)
        last, ends = (np.array([each[i] for each in here]).reshape(2, 2) for i in (1, 2))
        kept = np.array([t < length for length in lengths]).reshape(2, 2)
        step(statistics, values, last & ends, last & ~ends, kept)
    expected = [by_definition(episodes[2 * member] + episodes[2 * member + 1]) for member in range(2)]
    assert statistics.size() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("power", [-20, -3, 1, 20])
def test_powers_of_two_come_out_exactly(power):
    plain, scaled = ReturnStatistics([GAMMA], 1), ReturnStatistics([GAMMA], 1)
    play(plain, random_episodes(0))
    play(scaled, random_episodes(0), 2.0**power)
    assert plain.size().item() * 2.0**power == scaled.size().item()


def test_a_constant_reward_without_an_end_is_worth_its_sum_for_ever_from_the_first_step_on():
    statistics = ReturnStatistics([GAMMA], 1)
    for _ in range(50):
        step(statistics, -1.0)
        assert statistics.size().item() == pytest.approx(10.0)


def test_without_rewards_it_is_zero():
    statistics = ReturnStatistics([1.0], 1)
    step(statistics, 0.0)
    assert statistics.size().item() == 0.0


def test_cut_truncates():
    one, other = ReturnStatistics([GAMMA], 1), ReturnStatistics([GAMMA], 1)
    step(one, 2.0)
    step(one, 1.0, truncated=True)
    step(other, 2.0)
    step(other, 1.0)
    other.cut()
    assert np.array_equal(one.closed, other.closed)
    assert not other.open.any()


def test_moments_are_those_of_all_vectors():
    values = np.random.default_rng(0).normal(3, [1.0, 5.0], (40, 2, 3, 2))  # of 2 members in 3 environments
    moments = RunningMoments(2, (2,))
    for each in values:
        moments.add(each)
    expected = values.swapaxes(0, 1).reshape(2, -1, 2)
    assert moments.mean == pytest.approx(expected.mean(1))
    assert moments.deviation() == pytest.approx(expected.std(1))


def test_observations_are_normalised_and_clipped_and_constants_are_zero():
    normalizer = ObservationNormalizer((3,))
    normalizer.set_(np.array([1.0, 7.0, 0.0]), np.array([2.0, 0.0, 0.1]))
    out = normalizer(torch.tensor([[5.0, 7.0, 9.0], [-1.0, 8.0, 0.0]]))
    assert out.tolist() == [[2.0, 0.0, 10.0], [-1.0, 0.0, 0.0]]


def test_what_is_numeric():
    image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    vector = spaces.Box(-1, 1, (4,))
    assert numeric_shapes(vector) == {"all": (4,)}
    assert numeric_shapes(spaces.Box(-1, 1, (2, 3))) == {"all": (2, 3)}
    assert numeric_shapes(image) == numeric_shapes(spaces.Discrete(3)) == numeric_shapes(spaces.MultiBinary(3)) == {}
    assert numeric_shapes(spaces.Dict(a=vector, b=image, c=spaces.Discrete(2))) == {"a": (4,)}


class Recorder:
    """In the place of a policy: a value, and what it was told of observations."""

    def __init__(self) -> None:
        self.value, self.observations = 1.0, []

    def rescale_values_(self, factor: float) -> None:
        self.value *= factor

    def normalize_observations_(self, name: str, mean: NDArray[Any], deviation: NDArray[Any]) -> None:
        self.observations.append((name, mean.copy(), deviation.copy()))


def test_values_in_units_of_reward_stay_what_they_were():
    normalization = Normalization([GAMMA], 1, {}, values=True)
    recorder = Recorder()
    rng = np.random.default_rng(0)
    in_units = None
    for t in range(300):
        reward = rng.normal(1 + t / 50, 1 + t / 100, 1)
        normalization.add(None, reward, np.array([t % 10 == 9]), [{}])
        normalization.renew([recorder])
        value = recorder.value / normalization.scale().item()
        if in_units is not None:
            assert value == pytest.approx(in_units)
        in_units = value if t else None  # the first step sets what values are normalised by


def test_observations_are_normalised_anew_when_there_are_a_sixteenth_more():
    normalization = Normalization([GAMMA], 1, {"all": (2,)}, values=False)
    recorder = Recorder()
    for t in range(1, 65):
        normalization.add(np.full((1, 2), float(t)), np.zeros(1), np.zeros(1, np.bool_), [{}])
        normalization.renew([recorder])
    assert len(recorder.observations) < 50
    name, mean, _ = recorder.observations[-1]
    assert (name, mean.tolist()) == ("all", [32.0, 32.0]) or mean[0] > 30
    frozen = len(recorder.observations)
    for t in range(65, 200):
        normalization.add(np.full((1, 2), float(t)), np.zeros(1), np.zeros(1, np.bool_), [{}])
        normalization.renew([recorder], [False])
    assert len(recorder.observations) == frozen


def test_members_are_rows_of_what_is_stacked_and_state_goes_round():
    parts = [Normalization([gamma], 1, {"all": (2,)}, values=True) for gamma in (0.9, 0.5)]
    alone = [Normalization([gamma], 1, {"all": (2,)}, values=True) for gamma in (0.9, 0.5)]
    whole = Normalization.stacked(parts)
    rng = np.random.default_rng(1)
    for _ in range(20):
        observations, rewards, dones = rng.normal(size=(2, 2)), rng.normal(size=2), rng.random(2) < 0.2
        whole.add(observations, rewards, dones, [{}, {}])
        for index, each in enumerate(alone):
            row = slice(index, index + 1)
            each.add(observations[row], rewards[row], dones[row], [{}])
    for part, each in zip(parts, alone, strict=True):
        for (name, one), other in zip(part.state_dict().items(), each.state_dict().values(), strict=True):
            assert np.array_equal(one, other), name
    copy = Normalization([0.9, 0.5], 1, {"all": (2,)}, values=True)
    copy.load_state_dict(whole.state_dict())
    for one, other in zip(copy.state_dict().values(), whole.state_dict().values(), strict=True):
        assert np.array_equal(one, other)
