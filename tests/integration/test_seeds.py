"""The seeds that environments are given: each its own, whoever makes them and wherever they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from gsrl import DiscreteSAC, Population, Reinforce
from gsrl._random import environment_seeds
from gsrl.runs.config import default_config
from gsrl.runs.environments import make_environments
from gsrl.runs.pool import Member, _Share
from gsrl.runs.trainees import Evaluator, make_agent
from gsrl.vec_env import GymnasiumVecEnv, seed_environments

LOG: list[int] = []


class Seeded(gym.Env):
    """Remembers the seeds it was given, and shows the first of them."""

    observation_space = spaces.Box(0, 2**31, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.given: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.given.append(seed)
            LOG.append(seed)
        self.time = 0
        return np.array(self.given[:1] or [0.0]), {}

    def step(self, action: int) -> Any:
        self.time += 1
        return np.zeros(1), 1.0, self.time == 3, False, {}

    def seeds(self) -> list[int]:
        """As a method, which an AsyncVectorEnv can call."""
        return self.given


FORMS: dict[str, Callable[[int], Any]] = {
    "DummyVecEnv": lambda n: DummyVecEnv([Seeded] * n),
    "VecNormalize": lambda n: VecNormalize(VecFrameStack(DummyVecEnv([Seeded] * n), 2)),
    "SubprocVecEnv": lambda n: SubprocVecEnv([Seeded] * n, start_method="fork"),
    "SyncVectorEnv": lambda n: SyncVectorEnv([Seeded] * n),
    "AsyncVectorEnv": lambda n: AsyncVectorEnv([Seeded] * n, context="fork"),
}


def make(algorithm: type, env: Any, seed: int) -> Any:
    return algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [4]}, seed=seed, device="cpu")


@pytest.fixture(autouse=True)
def _empty_log() -> Iterator[None]:
    LOG.clear()
    yield
    LOG.clear()


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
@pytest.mark.parametrize("form", FORMS)
def test_seeds_of_an_agents_environments_are_no_other_agents(form: str, algorithm: type) -> None:
    given = []
    for seed in range(3):
        model = make(algorithm, FORMS[form](4), seed)
        model.learn(1) if algorithm is DiscreteSAC else model._setup_learn(1)
        env: VecEnv = model.get_env()
        seeds = [each for own in env.env_method("seeds") for each in own]
        assert seeds == environment_seeds(4, seed, "environment")
        given += seeds
        env.close()
    assert len(set(given)) == 12


def test_the_streams_themselves_do_not_overlap() -> None:
    """The first numbers that CartPole draws, of thirty agents with eight environments each."""
    starts = []
    for seed in range(30):
        env = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 8)
        seed_environments(env, environment_seeds(8, seed, "environment"))
        starts += [tuple(row) for row in env.reset().tolist()]  # type: ignore[union-attr]
    assert len(set(starts)) == 240


def test_a_vector_environment_without_parts_takes_the_first() -> None:
    ours, theirs = (gym.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point") for _ in range(2))
    env = GymnasiumVecEnv(ours)
    seed_environments(env, [11, 5, 7])
    env.allow_dummy_steps()
    np.testing.assert_array_equal(env.reset(), theirs.reset(seed=11)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_a_member_has_the_seeds_that_it_would_have_alone(algorithm: type) -> None:
    population = Population(algorithm, Seeded, [5, 9, 0], n_envs=2, policy_kwargs={"net_arch": [4]}, device="cpu")
    population.learn(2)
    given = [env.unwrapped.given for env in population._environments]  # type: ignore[attr-defined]
    expected = [each for seed in (5, 9, 0) for each in environment_seeds(2, seed, "environment")]
    assert [each for own in given for each in own] == expected


def test_an_evaluation_is_not_of_the_episodes_of_the_training() -> None:
    population = Population(DiscreteSAC, Seeded, [0, 1], n_envs=2, policy_kwargs={"net_arch": [4]}, device="cpu")
    population.learn(2)
    trained = LOG.copy()
    LOG.clear()
    population.evaluate(4, n_envs=3)
    evaluated = LOG.copy()
    assert len({*trained, *evaluated}) == 4 + 6
    LOG.clear()
    population.evaluate(4, n_envs=3)
    assert evaluated == LOG  # the same at each call
    LOG.clear()
    population.evaluate(4, n_envs=2, seeds=[0, 2])
    assert [*evaluated[:2], *environment_seeds(2, 2, "evaluation")] == LOG


def test_what_goes_on_with_new_episodes_does_not_begin_with_the_first_ones(tmp_path: Path) -> None:
    population = Population(DiscreteSAC, Seeded, [0, 1], n_envs=2, policy_kwargs={"net_arch": [4]}, device="cpu")
    population.learn(6)
    population.save(tmp_path / "population.zip")
    expected = [environment_seeds(2, seed, "resumption", 6) for seed in (0, 1)]

    LOG.clear()
    member = population.member(1)
    member.save(tmp_path / "member.zip")
    member.learn(2, reset_num_timesteps=False)
    assert expected[1] == LOG
    LOG.clear()
    alone = DiscreteSAC.load(tmp_path / "member.zip", env=DummyVecEnv([Seeded] * 2))
    alone.learn(2, reset_num_timesteps=False)
    assert expected[1] == LOG
    LOG.clear()
    loaded = Population.load(tmp_path / "population.zip", DiscreteSAC, Seeded)
    loaded.learn(2, reset_num_timesteps=False)
    assert [*expected[0], *expected[1]] == LOG


def test_resumed_members_do_not_depend_on_their_company() -> None:
    default = default_config("gumbel-sac", "CartPole-v1", 100, lockstep=True)
    settings = dataclasses.replace(default.settings, net_arch=(4,), buffer_size=100)
    config = dataclasses.replace(default, n_envs=2, seeds=3, settings=settings)

    def resumed(seeds: tuple[int, ...]) -> dict[int, list[int | None]]:
        members = [Member(seed, config.settings) for seed in seeds]
        share, other = (_Share(config, members, lambda: False) for _ in range(2))
        share.learn(6)
        other.load_state(share.state(rewindable=False))
        given = other.population.env.unwrapped._seeds
        return {seed: given[2 * index : 2 * index + 2] for index, seed in enumerate(seeds)}

    together = resumed((0, 1, 2))
    assert together[2] == resumed((2,))[2] == environment_seeds(2, 2, "resumption", 6)
    assert len({each for own in together.values() for each in own}) == 6


@pytest.mark.parametrize("agent", ["a2c", "dqn", "gumbel-sac", "reinforce"])
def test_agents_of_the_zoo_share_no_environment(agent: str) -> None:
    given: list[int | None] = []
    for seed in range(3):
        config = dataclasses.replace(default_config(agent, "CartPole-v1", 100, lockstep=False), n_envs=4, seed=seed)
        model = make_agent(config, make_environments("CartPole-v1", 4, seed), seed)
        env = model.get_env()
        assert env is not None
        assert env.unwrapped._seeds == environment_seeds(4, seed, "environment")
        given += env.unwrapped._seeds
        env.close()
    assert len(set(given)) == 12


def test_each_evaluation_of_a_run_has_other_episodes() -> None:
    class Still:
        def get_vec_normalize_env(self) -> None:
            return None

        def predict(self, observation: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
            starts.append(observation.tobytes())
            return np.zeros(len(observation), np.int64), None

    firsts = []
    for seed in (0, 1):
        evaluator = Evaluator("CartPole-v1", seed, max_episode_steps=3)
        for steps in (100, 200, None, None):
            starts: list[bytes] = []
            assert evaluator(Still(), 5, steps=steps) == [3.0] * 5  # type: ignore[arg-type]
            firsts.append(starts[0])
        evaluator.close()
    assert firsts[2] == firsts[3]  # the final one can be repeated
    assert firsts[6] == firsts[7]
    assert len(set(firsts)) == 6
