"""Populations of Reinforce: a member is, bit for bit, the single agent that a callback stops after as many steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from torch import Tensor

import envs  # noqa: F401  # registers environments
from gsrl import DiscreteSAC, Population, Reinforce
from gsrl._random import environment_seeds
from gsrl.evaluation import evaluate_policy
from gsrl.masking import adapt
from gsrl.population import Episode, OffPolicyPopulation, OnPolicyPopulation, PopulationCallback
from gsrl.vec_env import SyncVecEnv, seed_environments

CARTPOLE = "CartPole-v1"
SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [8]},
    "n_episodes": 2,
    "critic_updates": 2,
    "learning_rate": 1e-3,
    "device": "cpu",
}


class StopAt(BaseCallback):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def _on_step(self) -> bool:
        return self.num_timesteps < self.steps


def single(env: str | Callable[[], gym.Env], seed: int, steps: int, n_envs: int = 1, **settings: Any) -> Reinforce:
    """A single agent that has learned from so many steps. (It is stopped by the next, from which it does not learn.)"""

    def make() -> gym.Env:
        return Monitor(adapt(gym.make(env) if isinstance(env, str) else env()))

    arguments = {"policy": "MlpPolicy"} | SMALL | settings
    agent = Reinforce(env=SyncVecEnv([make] * n_envs), seed=seed, **arguments)
    return agent.learn(steps, StopAt(steps + 1), log_interval=None)


def parameters(agent: Reinforce) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in agent.policy.state_dict().items()}


def assert_equal(member: Any, other: Any) -> None:
    assert isinstance(member, Reinforce)
    assert isinstance(other, Reinforce)
    assert member._n_updates == other._n_updates > 0
    theirs = parameters(other)
    for name, value in parameters(member).items():
        assert torch.equal(value, theirs[name]), name
    assert member._mean_return == other._mean_return


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "none": (CARTPOLE, {"baseline": "none", "ent_coef": 0.01}),
    "running mean": (CARTPOLE, {"baseline": "running-mean", "normalize_advantage": True}),
    "value": (CARTPOLE, {"gae_lambda": 0.9, "max_grad_norm": 0.5}),
    "leave one out": (CARTPOLE, {"baseline": "leave-one-out"}),
    "relax": (CARTPOLE, {"baseline": "relax"}),
    "falling learning rate": (CARTPOLE, {"learning_rate": lambda remaining: 1e-3 * remaining}),
    "several factors": ("gsrl/FactoredMatch-v0", {}),
    "masks": ("gsrl/MaskedGrid-v0", {"baseline": "relax"}),
}


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_member_is_a_single_agent(name: str, n_envs: int) -> None:
    env, settings = CASES[name]
    steps = 600 if name == "masks" else 300
    population = Population(Reinforce, env, [4, 2, 9], n_envs=n_envs, **(SMALL | settings))
    population.learn(steps)
    assert isinstance(population, OnPolicyPopulation)
    assert population.num_timesteps == steps
    assert_equal(population.member(1), single(env, 2, steps, n_envs, **settings))
    assert population._members[1]._n_updates > 1


class Picture(gym.Env[Any, np.int64]):
    """A bright row to be named; four steps, the last one truncated in every other episode. Channels last."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.length = 0, int(self.np_random.integers(2, 6))
        return self._draw(), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.row)
        self.steps += 1
        ended = self.steps == self.length
        truncated = ended and bool(self.np_random.integers(2))
        return self._draw(), reward, ended and not truncated, truncated, {}

    def _draw(self) -> np.ndarray:
        self.row = self.np_random.integers(3)
        picture = np.zeros((36, 36, 1), np.uint8)
        picture[12 * self.row : 12 * self.row + 12] = 255
        return picture


def dict_cartpole() -> gym.Env:
    return gym.wrappers.TransformObservation(
        gym.make(CARTPOLE),
        lambda x: {"cart": x[:2], "pole": x[2:]},
        spaces.Dict({"cart": spaces.Box(-9, 9, (2,)), "pole": spaces.Box(-9, 9, (2,))}),
    )


@pytest.mark.filterwarnings("ignore:.*Box observation space.*")
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(
    ("env", "settings"),
    [
        (Picture, {"policy": "CnnPolicy", "policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}}),
        (dict_cartpole, {"policy": "MultiInputPolicy"}),
    ],
    ids=["images", "dict"],
)
def test_other_observations(env: Callable[[], gym.Env], settings: dict[str, Any], n_envs: int) -> None:
    population = Population(Reinforce, env, [0, 1], n_envs=n_envs, **(SMALL | settings)).learn(100)
    assert_equal(population.member(1), single(env, 1, 100, n_envs, **settings))


def test_settings_may_differ_between_members() -> None:
    vectors: dict[str, Any] = {
        "learning_rate": [1e-3, 3e-3, lambda remaining: 1e-3 * remaining],
        "gamma": np.array([0.99, 0.9, 0.5]),
        "gae_lambda": torch.tensor([1.0, 0.5, 0.0]),
        "ent_coef": [0.0, 0.1, 0.01],
        "n_episodes": [1, 2, 3],
        "critic_updates": [1, 3, 2],
        "normalize_advantage": [True, False, True],
    }
    population = Population(Reinforce, CARTPOLE, [0, 0, 1], **(SMALL | vectors)).learn(250)
    for index, seed in enumerate((0, 0, 1)):
        own = {name: values[index] for name, values in vectors.items()}
        own = {name: value.item() if isinstance(value, Tensor | np.generic) else value for name, value in own.items()}
        assert_equal(population.member(index), single(CARTPOLE, seed, 250, **own))


def test_company_and_pauses_change_nothing() -> None:
    alone = Population(Reinforce, CARTPOLE, [5], **SMALL).learn(300)
    crowd = Population(Reinforce, CARTPOLE, [1, 2, 5], **SMALL)
    for steps in (77, 100, 123):  # in the middle of rollouts
        crowd.learn(steps, reset_num_timesteps=False)
    assert_equal(crowd.member(2), alone.member(0))
    assert torch.equal(crowd.member(2).generator.get_state(), alone.member(0).generator.get_state())


# Members finish apart


def test_a_member_that_diverges_is_frozen_and_touches_no_other() -> None:
    population, others = (Population(Reinforce, CARTPOLE, [0, 1, 2], **SMALL).learn(100) for _ in range(2))
    before = parameters(population._members[1])
    updates = population._members[1]._n_updates
    population._rollouts[1]._steps[0]["rewards"][:] = np.nan  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="member 1, of seed 1, diverged at"):
        population.learn(150, reset_num_timesteps=False)
    others.learn(150, reset_num_timesteps=False)
    for index in (0, 2):
        assert_equal(population.member(index), others.member(index))
    assert population.diverged == [False, True, False]
    assert population._members[1]._n_updates == updates
    assert all(torch.equal(value, before[name]) for name, value in parameters(population._members[1]).items())


def test_stop_and_keep() -> None:
    settings = SMALL | {"gamma": [0.9, 0.95, 0.99]}
    fewer, untouched = (Population(Reinforce, CARTPOLE, [0, 1, 2], n_envs=2, **settings).learn(100) for _ in range(2))
    fewer.stop(0)
    before = parameters(fewer._members[0])
    fewer.learn(50, reset_num_timesteps=False)
    assert all(torch.equal(value, before[name]) for name, value in parameters(fewer._members[0]).items())
    fewer.keep([2, 0])
    assert (fewer.seeds, fewer.stopped_at) == ([2, 0], [None, 100])
    fewer.learn(150, reset_num_timesteps=False)
    untouched.learn(200, reset_num_timesteps=False)
    assert_equal(fewer.member(0), untouched.member(2))
    assert fewer.member(0).gamma == 0.99  # type: ignore[attr-defined]
    assert all(torch.equal(value, before[name]) for name, value in parameters(fewer.member(1)).items())  # type: ignore[arg-type]


def test_a_member_is_an_ordinary_agent(tmp_path: Path) -> None:
    population = Population(Reinforce, CARTPOLE, [0, 1], **SMALL).learn(100)
    member = population.member(1)
    before = parameters(population._members[1])
    member.learn(50, reset_num_timesteps=False)
    assert member.num_timesteps >= 150
    member.save(tmp_path / "member.zip")
    assert_equal(Reinforce.load(tmp_path / "member.zip"), member)
    for name, value in parameters(population._members[1]).items():  # it was a copy
        assert torch.equal(value, before[name])
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(population)


def test_evaluation_is_that_of_single_agents() -> None:
    population = Population(Reinforce, "gsrl/MaskedGrid-v0", [0, 1], **SMALL).learn(300)
    returns = population.evaluate(4, seeds=[11, 22], n_envs=3)
    for index, seed in enumerate((11, 22)):
        env = SyncVecEnv([lambda: Monitor(adapt(gym.make("gsrl/MaskedGrid-v0")))] * 3)
        seed_environments(env, environment_seeds(3, seed, "evaluation"))
        expected, _ = evaluate_policy(population.member(index), env, 4, return_episode_rewards=True)
        assert returns[index].tolist() == expected


def test_callbacks_and_scalars() -> None:
    class Recorder(PopulationCallback):
        def __init__(self) -> None:
            self.rollouts: list[int] = []
            self.episodes: list[Episode] = []

        def on_rollout_start(self, population: Population) -> bool:
            self.rollouts.append(population.num_timesteps)
            return population.num_timesteps < 190

        def on_episodes(self, population: Population, episodes: Sequence[Episode]) -> None:
            self.episodes.extend(episodes)

    recorder = Recorder()
    population = Population(Reinforce, CARTPOLE, [0, 1], **(SMALL | {"baseline": "relax"})).learn(200, recorder)
    assert recorder.rollouts == list(range(191))
    for index, row in enumerate(population.scalars()):
        own = [episode for episode in recorder.episodes if episode.member == index]
        assert own[0].steps == own[0].length == own[0].episode_return  # CartPole gives 1 a step
        member = population._members[index]
        assert member._episode_num == len(own)
        assert row["rollout/ep_rew_mean"] == pytest.approx(np.mean([episode.episode_return for episode in own]))
        assert row["train/n_updates"] == member._n_updates == len(own) // 2
        assert row["train/gradient_norm_control"] >= 0
        assert row["train/entropy"] == pytest.approx(np.log(2), abs=0.05)
        assert row["train/learning_rate"] == 1e-3
        assert "rollout/success_rate" not in row  # CartPole says nothing of it
        member.ep_success_buffer.extend([1, 0, 0, 0])
        assert population.scalars()[index]["rollout/success_rate"] == 0.25
    assert set(population.stopwatch.seconds) == {"environment", "acting", "update", "callbacks"}
    assert Population(Reinforce, CARTPOLE, [0], **SMALL).scalars() == [{}]


# State


class Coin(gym.Env[Any, np.int64]):
    """Episodes of one, two or three steps, by the actions: a population can be resumed exactly here."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.full(2, self.steps / 3, np.float32), float(action), action == 1, self.steps == 3, {}


@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_state_holds_what_there_is_of_rollouts(n_envs: int) -> None:
    settings = SMALL | {"n_episodes": 20, "baseline": "running-mean"}
    population, other = (Population(Reinforce, Coin, seeds, n_envs=n_envs, **settings) for seeds in ([3, 4], [5, 6]))
    population.learn(50 * n_envs)
    assert all(len(rollout) > 3 for rollout in population._rollouts)  # type: ignore[attr-defined]
    for mine, theirs in zip(population._environments, other._environments, strict=True):
        theirs.reset()
        theirs.unwrapped.steps = mine.unwrapped.steps  # type: ignore[attr-defined]
        theirs.rewards, theirs.needs_reset = [0.0], False  # type: ignore[attr-defined]
    other.load_state_dict(copy.deepcopy(population.state_dict()))
    for each in (population, other):
        each.learn(100 * n_envs, reset_num_timesteps=False)
    for index in range(2):
        assert_equal(other.member(index), population.member(index))


def test_a_saved_population_goes_on_with_new_episodes(tmp_path: Path) -> None:
    population = Population(Reinforce, Coin, [3, 4], **(SMALL | {"gamma": [0.9, 0.99]})).learn(100)
    population.stop(0)
    population.save(tmp_path / "population.zip")
    loaded = Population.load(tmp_path / "population.zip", Reinforce, Coin)
    assert [member.gamma for member in loaded._members] == [0.9, 0.99]
    assert_equal(loaded.member(1), population.member(1))
    loaded.learn(80, reset_num_timesteps=False)
    assert loaded.num_timesteps == 180
    assert loaded.stopped_at == [100, None]
    with pytest.raises(ValueError, match=r"population\.zip holds members that are Reinforce, but algorithm is"):
        Population.load(tmp_path / "population.zip", DiscreteSAC, Coin)


def test_no_global_random_numbers_are_used() -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()
    Population(Reinforce, CARTPOLE, [0, 1], **(SMALL | {"baseline": "relax"})).learn(60)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])  # type: ignore[arg-type]


def test_compiled_acting_is_the_eager_one(capfd: pytest.CaptureFixture[str]) -> None:
    eager, compiled = (Population(Reinforce, CARTPOLE, [0, 1], compile=c, **SMALL).learn(150) for c in (False, True))
    said = capfd.readouterr().err
    assert "compiling the choice of actions ... " in said
    assert "failed" not in said
    for index in range(2):
        assert_equal(compiled.member(index), eager.member(index))


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.5}, "temperature must be None, but got 0.5: Reinforce has no estimator"),
        ({"n_envs": 4}, "n_episodes must be a multiple of the 4 environments, but got 2"),
        ({"n_episodes": [2, 1], "n_envs": 2}, "n_episodes must be a multiple of the 2 environments, but got 1"),
        ({"baseline": ["none", "value"]}, "baseline must be the same for all members"),
        ({"gae_lambda": [1.0, 0.5], "baseline": "none"}, "gae_lambda must be 1 without a value network"),
        ({"n_steps": 3}, "Reinforce has no argument 'n_steps'"),
        ({"compiled": True}, "Reinforce has no argument 'compiled'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Population(Reinforce, **({"env": CARTPOLE, "seeds": [0, 1]} | SMALL | arguments))


def test_the_algorithm_chooses_the_kind_of_population() -> None:
    class Mine(Reinforce):
        """Changes nothing."""

    assert type(Population(Mine, CARTPOLE, [0], **SMALL)) is OnPolicyPopulation
    assert type(Population(algorithm=DiscreteSAC, env=CARTPOLE, seeds=[0])) is OffPolicyPopulation
    with pytest.raises(TypeError, match="algorithm must be DiscreteSAC or Reinforce, or a subclass, but got"):
        Population(dict, CARTPOLE, [0])  # type: ignore[arg-type]
