"""Particle worlds: bit by bit those of mpe2, one at a time and many at once."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from pettingzoo import ParallelEnv
from pettingzoo.test import parallel_api_test, parallel_seed_test

from envs.mpe import MPEEnv, ReferenceEnv, SpeakerListenerEnv, SpreadEnv
from gsrl.multi_agent import ParallelVecEnv

ENVS: dict[str, tuple[Callable[[], MPEEnv], str, dict[str, Any]]] = {
    "speaker-listener": (SpeakerListenerEnv, "simple_speaker_listener_v4", {}),
    "reference": (ReferenceEnv, "simple_reference_v3", {}),
    "reference-selfish": (lambda: ReferenceEnv(0.9, 7), "simple_reference_v3", {"local_ratio": 0.9, "max_cycles": 7}),
    "spread": (SpreadEnv, "simple_spread_v3", {}),
    "spread-of-five": (
        lambda: SpreadEnv(5, 0.3, 60),
        "simple_spread_v3",
        {"N": 5, "local_ratio": 0.3, "max_cycles": 60},
    ),
    "spread-alone": (lambda: SpreadEnv(1), "simple_spread_v3", {"N": 1}),
}


def theirs(name: str) -> ParallelEnv:
    pytest.importorskip("mpe2")
    _, module, settings = ENVS[name]
    env: ParallelEnv = importlib.import_module(f"mpe2.{module}").parallel_env(**settings)
    return env


@pytest.mark.parametrize("name", ENVS)
def test_they_equal_mpe2_to_the_bit(name: str) -> None:
    one, other, rng = ENVS[name][0](), theirs(name), np.random.default_rng(0)
    assert one.possible_agents == other.possible_agents
    for agent in one.possible_agents:
        assert one.observation_space(agent) == other.observation_space(agent)
        assert one.action_space(agent) == other.action_space(agent)
    collisions = 0
    for seed in (3, None, None, 2**31 - 1, None):
        np.testing.assert_equal(one.reset(seed=seed), other.reset(seed=seed))
        actions: dict[str, Any] = {}
        while other.agents:
            # A push is held for a while: so agents run into each other and away.
            if not actions or rng.random() < 0.3:
                actions = {agent: rng.integers(other.action_space(agent).n) for agent in other.agents}
            (observations, *ours), (expected, rewards, *rest) = one.step(dict(actions)), other.step(dict(actions))
            np.testing.assert_equal(observations, expected)
            assert all(observations[agent].dtype == expected[agent].dtype for agent in expected)
            assert ours == [dict(rewards), *rest]
            assert one.agents == other.agents
            collisions += len(set(rewards.values())) > 1
    assert collisions > 0 or name not in ("spread", "spread-of-five")


@pytest.mark.parametrize("name", ["speaker-listener", "reference", "spread"])
def test_many_at_once_equal_each_by_itself(name: str) -> None:
    """The worlds in arrays and a loop over ``mpe2``'s, through ends of episodes."""
    batch = ParallelVecEnv(ENVS[name][0], n_envs=3, seeds=(1, 2))
    loop = ParallelVecEnv(lambda: theirs(name), n_envs=3, seeds=(1, 2))
    rng = np.random.default_rng(0)
    batch.reset()
    loop.reset()
    for _ in range(60):
        np.testing.assert_equal(tuple(batch.joint), tuple(loop.joint))
        actions = (batch.joint.masks * rng.random(batch.joint.masks.shape)).argmax(-1)
        np.testing.assert_equal(batch.step(actions), loop.step(actions))


def test_worlds_end_and_begin_one_by_one() -> None:
    """As in an evaluation, worlds need not be in step."""
    env = SpreadEnv()
    worlds, alone = env.batched(3), [env.batched(1) for _ in range(3)]
    worlds.reset(np.arange(3), [5, 6, 7])
    for world, seed in zip(alone, (5, 6, 7), strict=True):
        world.reset(np.zeros(1, np.int64), [seed])
    rng = np.random.default_rng(0)
    for time in range(12):
        actions = rng.integers(5, size=(3, 3, 1))
        joint, rewards, *_ = worlds.step(actions)
        each = [world.step(actions[[i]]) for i, world in enumerate(alone)]
        if time == 4:
            rows = worlds.reset(np.array([2, 0]), None)
            again = [alone[i].reset(np.zeros(1, np.int64), None) for i in (2, 0)]
            np.testing.assert_array_equal(rows.observations, np.concatenate([one.observations for one in again]))
        else:
            np.testing.assert_array_equal(joint.observations, np.concatenate([one[0].observations for one in each]))
            np.testing.assert_array_equal(rewards, np.concatenate([one[1] for one in each]))
    assert worlds.steps.tolist() == [7, 12, 7]


def test_a_step_by_hand() -> None:
    worlds = ReferenceEnv(local_ratio=0.25).batched(1)
    worlds.reset(np.zeros(1, np.int64), [0])
    worlds.positions[0] = [[0.0, 0.0], [1.0, 0.0]]
    worlds.landmarks[0] = [[0.0, 3.0], [1.0, 4.0], [0.0, 0.0]]
    worlds.goals[0] = [1, 0]  # agent 0 knows that agent 1 is to go to landmark 1
    joint, rewards, *_ = worlds.step(np.array([[[2 + 5 * 7], [0]]]))  # to the right, and word 7
    mean = (-4 - 3) / 2
    np.testing.assert_allclose(rewards, [[0.75 * mean - 0.25 * 4, 0.75 * mean - 0.25 * 3]])
    assert joint.observations[0, 0, :2].tolist() == [0.5, 0.0]  # pushed by 5 for a tenth of a second
    assert joint.observations[0, 0, 8:11].tolist() == [0.25, 0.75, 0.25]
    assert joint.observations[0, 1, 11:].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    joint, *_ = worlds.step(np.array([[[0], [0]]]))
    assert joint.observations[0, 0, :2].tolist() == [0.375, 0.0]
    assert worlds.positions[0, 0].tolist() == [0.05, 0.0]


@pytest.mark.parametrize("name", ENVS)
def test_the_parallel_api(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(ENVS[name][0](), num_cycles=60)
    assert "Passed" in capsys.readouterr().out
    parallel_seed_test(ENVS[name][0])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="max_cycles must be an integer of at least 1, but got 0"):
        SpeakerListenerEnv(max_cycles=0)
    with pytest.raises(ValueError, match=r"local_ratio must be in \[0, 1\], but got 1.5"):
        ReferenceEnv(local_ratio=1.5)
    with pytest.raises(ValueError, match="N must be an integer of at least 1, but got 0"):
        SpreadEnv(0)
