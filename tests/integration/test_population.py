"""Population: members are what single agents are, whatever their company; they diverge, stop and are saved apart."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

import envs  # noqa: F401  # registers environments
from gsrl import DiscreteSAC, Population, make_estimator
from gsrl._random import environment_seeds
from gsrl.algorithms.extractors import SmallCNN
from gsrl.checkpoint import CheckpointError
from gsrl.estimators import ESTIMATORS
from gsrl.evaluation import evaluate_policy
from gsrl.learning import learner, lockstep, trace
from gsrl.population import VECTORS, Episode, PopulationCallback
from gsrl.schedules import ExponentialSchedule
from gsrl.temperature import ExponentialTemperature
from gsrl.vec_env import SyncVecEnv, seed_environments

CARTPOLE = "CartPole-v1"
SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [16, 16]},
    "buffer_size": 1000,
    "learning_starts": 20,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "device": "cpu",
}


class Picture(gym.Env[Any, np.int64]):
    """A bright row to be named; four steps, the last one truncated in every other episode."""

    observation_space = spaces.Box(0, 255, (1, 12, 12), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.row)
        self.steps += 1
        ended = self.steps == 4
        truncated = ended and bool(self.np_random.integers(2))
        return self._draw(), reward, ended and not truncated, truncated, {}

    def _draw(self) -> np.ndarray:
        self.row = self.np_random.integers(3)
        picture = np.zeros((1, 12, 12), np.uint8)
        picture[0, 4 * self.row : 4 * self.row + 4] = 255
        return picture


def parameters(agent: DiscreteSAC) -> dict[str, Tensor]:
    return {**agent.policy.state_dict(), "alpha": agent.entropy_coefficient.log_value.detach()}


def assert_equal(member: DiscreteSAC, single: DiscreteSAC, tolerance: float = 1e-5) -> None:
    assert member._n_updates == single._n_updates > 0
    theirs = parameters(single)
    for name, value in parameters(member).items():
        torch.testing.assert_close(value, theirs[name], rtol=0.0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def make_single(env: str | Callable[[], gym.Env], seed: int, policy: str = "MlpPolicy", **settings: Any) -> DiscreteSAC:
    return DiscreteSAC(policy, gym.make(env) if isinstance(env, str) else env(), seed=seed, **(SMALL | settings))


@pytest.fixture
def recorded_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations are recorded after 20 updates, or choices of actions, instead of a hundred."""
    monkeypatch.setattr(learner, "EAGER_UPDATES", 20)
    monkeypatch.setattr(lockstep, "EAGER_CALLS", 20)


# Compiling


def test_compiling_is_chosen_by_the_updates_to_come(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = []

    def compile_(graph: Any, given: Any) -> Any:
        compiled.append(len(given))
        return graph.forward

    monkeypatch.setattr(trace, "_compile", compile_)
    monkeypatch.setattr(trace, "COMPILE_SECONDS", 45e-3)  # 90 updates alone, 15 in lock-step
    kwargs: dict[str, Any] = {**SMALL, "verbose": 1, "learning_starts": 20}
    eager = make_single(CARTPOLE, 3).learn(40).learn(100, reset_num_timesteps=False)
    single = make_single(CARTPOLE, 3, verbose=1, compile="auto").learn(40)
    assert not compiled
    assert not single.learner.is_compiled
    single.learn(100, reset_num_timesteps=False)
    assert len(compiled) == 1
    assert "updates are compiled: 100 of them earn back the time that takes" in capsys.readouterr().out
    assert_equal(single, eager)

    population = Population(DiscreteSAC, CARTPOLE, [3, 5], compile="auto", **kwargs).learn(10)
    assert len(compiled) == 1
    population.learn(30, reset_num_timesteps=False).learn(100, reset_num_timesteps=False)
    assert len(compiled) == 3  # acting, and the update
    assert "acting and updates are compiled: 30 of them" in capsys.readouterr().out
    alone = make_single(CARTPOLE, 3).learn(10).learn(130, reset_num_timesteps=False)
    member: Any = population.member(0)
    assert_equal(member, alone)
    for make in (make_single, Population):
        given: Any = (CARTPOLE, 3) if make is make_single else (DiscreteSAC, CARTPOLE, [3])
        with pytest.raises(ValueError, match="compile must be True, False or 'auto', but got 'yes'"):
            make(*given, compile="yes")


# A member is what a single agent is

CASES: dict[str, tuple[str | Callable[[], gym.Env], dict[str, Any]]] = {
    "layer norm, n-step, clipped": (
        CARTPOLE,
        {
            "n_steps": 5,
            "max_grad_norm": 0.5,
            "critics": "mean",
            "q_clip": 1.0,
            "policy_kwargs": {"net_arch": [16, 16], "layer_norm": True},
        },
    ),
    "delayed targets": (CARTPOLE, {"target_update_interval": 3, "tau": 0.5, "train_freq": 2, "gradient_steps": -1}),
    "fixed alpha": (CARTPOLE, {"ent_coef": 0.1, "entropy_in_target": False}),
    "falling learning rate": (CARTPOLE, {"learning_rate": lambda remaining: 1e-3 * remaining}),
    "falling entropy coefficient": (CARTPOLE, {"ent_coef": ExponentialSchedule(0.4, 0.01)}),
    "exploration": (CARTPOLE, {"exploration_eps": 0.2}),
    "exploration, masks": ("gsrl/MaskedGrid-v0", {"exploration_eps": 0.2}),
    "several factors, networks": ("gsrl/FactoredMatch-v0", {"estimator": "st-gumbel"}),
    "several factors, multilinear": (
        "gsrl/BitMatch-v0",
        {"policy_kwargs": {"net_arch": [16], "critic": "multilinear"}, "estimator": "local-expectation"},
    ),
    "masks": ("gsrl/MaskedGrid-v0", {"estimator": "rloo"}),
    "images": (
        Picture,
        {"policy": "CnnPolicy", "policy_kwargs": {"features_extractor_class": SmallCNN, "net_arch": [16]}},
    ),
    "images, one encoder": (
        Picture,
        {
            "policy": "CnnPolicy",
            "policy_kwargs": {
                "features_extractor_class": SmallCNN,
                "features_extractor_kwargs": {"channels": 4},
                "net_arch": [16],
                "share_features_extractor": True,
            },
        },
    ),
    "vectors, one normaliser": (CARTPOLE, {"policy_kwargs": {"net_arch": [16], "share_features_extractor": True}}),
    "dict": (
        lambda: gym.wrappers.TransformObservation(
            gym.make(CARTPOLE),
            lambda x: {"cart": x[:2], "pole": x[2:]},
            spaces.Dict({"cart": spaces.Box(-9, 9, (2,)), "pole": spaces.Box(-9, 9, (2,))}),
        ),
        {"policy": "MultiInputPolicy"},
    ),
}


@pytest.mark.filterwarnings("ignore:.*Box observation space.*")
@pytest.mark.usefixtures("recorded_soon")
@pytest.mark.parametrize("name", CASES)
def test_100_updates_of_a_member_are_those_of_a_single_agent(name: str) -> None:
    env, settings = CASES[name]
    policy = settings.get("policy", "MlpPolicy")
    rest = {key: value for key, value in settings.items() if key != "policy"}
    population = Population(DiscreteSAC, env, [4, 2, 9], policy=policy, **(SMALL | rest)).learn(120)
    single = make_single(env, 2, policy, **rest).learn(120)
    assert_equal(population.member(1), single, 5e-6)
    ours, theirs = population.replay_buffer.member_state(1), single.replay_buffer.state_dict()  # type: ignore[union-attr]
    for key in ("actions", "rewards", "terminated", "truncated"):  # the streams are the same to the bit
        np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"arm", "disarm", "exact", "decoupled-st"}))
def test_every_estimator_works_in_lock_step(name: str) -> None:
    env = "gsrl/BitMatch-v0" if name != "unordered-set" else CARTPOLE
    extra = {"n": 16, "K": 2} if name == "relax" else {}
    ours, theirs = (
        {"policy_kwargs": {"net_arch": [8]}, "estimator": make_estimator(name, **extra)} for _ in ("ours", "theirs")
    )
    if name == "relax":  # its surrogate network is drawn from torch's generator
        theirs["estimator"].load_state_dict(ours["estimator"].state_dict())  # type: ignore[attr-defined]
    population = Population(DiscreteSAC, env, [0, 1], **(SMALL | ours)).learn(60)
    assert_equal(population.member(1), make_single(env, 1, **theirs).learn(60))


def test_relax_is_made_for_the_shape_of_the_actions_in_populations_too(tmp_path: Path) -> None:
    settings = {"policy_kwargs": {"net_arch": [8]}, "estimator": "relax"}
    population = Population(DiscreteSAC, "gsrl/BitMatch-v0", [0, 1], **(SMALL | settings)).learn(60)
    assert_equal(population.member(1), make_single("gsrl/BitMatch-v0", 1, **settings).learn(60))
    population.save(tmp_path / "population.zip")
    loaded = Population.load(tmp_path / "population.zip", DiscreteSAC, "gsrl/BitMatch-v0")
    assert_equal(loaded.member(1), population.member(1))
    cold = Population(DiscreteSAC, CARTPOLE, [0], temperature=0.5, **(SMALL | settings))
    assert cold.member(0).estimator.settings["temperature"] == 0.5


def test_what_an_estimator_keeps_is_each_members_own() -> None:
    temperature = ExponentialTemperature(2.0, 0.1, 100)
    estimator = make_estimator("st-gumbel", temperature=temperature)
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], estimator=estimator, **SMALL).learn(80)
    assert temperature.count == 0  # the one that was given is a pattern
    assert population.member(0).estimator.temperature.count == 60  # type: ignore[union-attr, operator]
    baseline = make_estimator("reinforce", baseline="running-mean")
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], estimator=baseline, **SMALL).learn(80)
    single = make_single(CARTPOLE, 1, estimator=make_estimator("reinforce", baseline="running-mean")).learn(80)
    assert_equal(population.member(1), single)
    torch.testing.assert_close(population.member(1).estimator.total, single.estimator.total)


@pytest.mark.usefixtures("recorded_soon")
def test_settings_may_differ_between_members() -> None:
    vectors: dict[str, Any] = {
        "learning_rate": [1e-3, 3e-3, lambda remaining: 1e-3 * remaining],
        "gamma": np.array([0.99, 0.9, 0.5]),
        "tau": torch.tensor([0.01, 0.1, 1.0]),
        "ent_coef": ["auto", "auto_0.1", "auto_3"],
        "target_entropy_ratio": (0.1, 0.5, 0.9),
        "n_steps": [1, 3, 7],
        "reward_scale": [1.0, 0.1, 5.0],
        "exploration_eps": [0.2, 0.0, 0.6],
    }
    population = Population(
        DiscreteSAC, CARTPOLE, [0, 0, 1], estimator="st-gumbel", temperature=[0.5, 1.0, 2.0], **(SMALL | vectors)
    ).learn(120)
    for index, seed in enumerate((0, 0, 1)):
        own = {name: values[index] for name, values in vectors.items()}
        own = {name: value.item() if isinstance(value, Tensor | np.generic) else value for name, value in own.items()}
        own["estimator"] = make_estimator("st-gumbel", temperature=[0.5, 1.0, 2.0][index])
        assert_equal(population.member(index), make_single(CARTPOLE, seed, **own).learn(120))


@pytest.mark.parametrize("entropy_in_target", [False, True])
@pytest.mark.parametrize("env", ["gsrl/MaskedGrid-v0", "gsrl/FactoredMatch-v0"])  # critics of choices, and networks
def test_corrected_windows_may_differ_between_members(env: str, entropy_in_target: bool) -> None:
    settings = {"policy_kwargs": {"net_arch": [8]}, "n_step_correction": True, "ent_coef": "relative"}
    settings["entropy_in_target"] = entropy_in_target
    population = Population(DiscreteSAC, env, [0, 1, 2], n_steps=[1, 3, 5], **(SMALL | settings)).learn(60)
    for index, n_steps in enumerate((1, 3, 5)):
        single = make_single(env, index, n_steps=n_steps, **settings).learn(60)
        assert_equal(population.member(index), single)
        assert torch.equal(population.member(index).generator.get_state(), single.generator.get_state())


@pytest.mark.usefixtures("recorded_soon")
def test_several_environments_a_member() -> None:
    settings = SMALL | {"exploration_eps": 0.2}
    population = Population(DiscreteSAC, CARTPOLE, [3, 8], n_envs=2, **settings).learn(120)
    env = SyncVecEnv([lambda: Monitor(gym.make(CARTPOLE))] * 2)
    single = DiscreteSAC("MlpPolicy", env, seed=8, **settings).learn(120)
    assert_equal(population.member(1), single)
    assert population.num_timesteps == single.num_timesteps == 120


def test_compiled_updates_are_the_eager_ones(capfd: pytest.CaptureFixture[str]) -> None:
    settings = SMALL | {"estimator": "st-gumbel", "max_grad_norm": 1.0}
    eager = Population(DiscreteSAC, CARTPOLE, [0, 1], **settings).learn(80)
    compiled = Population(DiscreteSAC, CARTPOLE, [0, 1], compile=True, **settings).learn(80)
    said = capfd.readouterr().err
    assert "compiling the update ... " in said
    assert "failed" not in said
    for index in range(2):
        assert_equal(compiled.member(index), eager.member(index))
    for name, norm in eager.lockstep.gradient_norms().items():
        torch.testing.assert_close(compiled.lockstep.gradient_norms()[name], norm, rtol=1e-3, atol=1e-6)


# Independence


def test_company_changes_nothing() -> None:
    alone = Population(DiscreteSAC, CARTPOLE, [5], **SMALL).learn(150)
    crowd = Population(DiscreteSAC, CARTPOLE, [1, 2, 5, 7, 3], **SMALL).learn(150)
    assert_equal(crowd.member(2), alone.member(0))
    assert torch.equal(crowd.member(2).generator.get_state(), alone.member(0).generator.get_state())


def test_the_guide_lists_the_settings_that_may_differ() -> None:
    text = (Path(__file__).parents[2] / "docs" / "populations.md").read_text()
    listed = re.search(r"What may differ between members is (.*?)\. All other", text, re.DOTALL)
    assert listed is not None
    assert tuple(re.findall("`(.*?)`", listed[1])) == VECTORS


def test_a_member_that_diverges_is_frozen_and_touches_no_other() -> None:
    population = Population(DiscreteSAC, CARTPOLE, [0, 1, 2], estimator="st-gumbel", **SMALL).learn(60)
    others = Population(DiscreteSAC, CARTPOLE, [0, 1, 2], estimator="st-gumbel", **SMALL).learn(60)
    population.replay_buffer.rewards[1] = np.nan
    before = {name: value.clone() for name, value in parameters(population._members[1]).items()}
    with pytest.warns(UserWarning, match="member 1, of seed 1, diverged at 62 steps"):
        population.learn(60, reset_num_timesteps=False)
    others.learn(60, reset_num_timesteps=False)
    for index in (0, 2):
        assert_equal(population.member(index), others.member(index), tolerance=0.0)
    assert population.diverged == [False, True, False]
    assert population.stopped_at == [None, 62, None]
    assert all(torch.equal(value, before[name]) for name, value in parameters(population._members[1]).items())
    assert population.lockstep.counts == [100, 40, 100]


def test_clipping_is_per_member() -> None:
    """A member with huge gradients does not shrink another's."""
    settings = SMALL | {"max_grad_norm": 0.1}
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], **settings)
    single = make_single(CARTPOLE, 1, max_grad_norm=0.1)
    population._members[0].policy.critic.weight.data *= 100
    population.learn(100)
    assert_equal(population.member(1), single.learn(100))
    norms = population.lockstep.gradient_norms()["critic"]
    assert norms[0] > 3 * norms[1]


# Members finish apart


def test_a_member_is_an_ordinary_agent(tmp_path: Path) -> None:
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], **SMALL).learn(100)
    member = population.member(1)
    before = {name: value.clone() for name, value in parameters(population._members[1]).items()}
    observations = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    actions = population.predict(observations, deterministic=True)  # the first of member 0, the second of member 1
    assert member.predict(observations, deterministic=True)[0][1] == actions[1]
    member.learn(50, reset_num_timesteps=False)
    assert member.num_timesteps == 150
    assert member._n_updates == 130
    member.save(tmp_path / "member.zip")
    assert_equal(DiscreteSAC.load(tmp_path / "member.zip"), member, tolerance=0.0)
    for name, value in parameters(population._members[1]).items():  # it was a copy
        assert torch.equal(value, before[name])


def test_stop_freezes_one_member() -> None:
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], **SMALL).learn(100)
    untouched = Population(DiscreteSAC, CARTPOLE, [0, 1], **SMALL).learn(100)
    population.stop(0)
    before = {name: value.clone() for name, value in parameters(population._members[0]).items()}
    for each in (population, untouched):
        each.learn(100, reset_num_timesteps=False)
    assert all(torch.equal(value, before[name]) for name, value in parameters(population._members[0]).items())
    assert_equal(population.member(1), untouched.member(1))
    assert population.stopped_at == [100, None]
    assert population.diverged == [False, False]
    population.stop(1)
    population.learn(100, reset_num_timesteps=False)  # nobody is left to learn
    assert population.num_timesteps == 200


def test_keep_goes_on_with_some_members() -> None:
    settings = SMALL | {"gamma": [0.9, 0.95, 0.99], "n_steps": [1, 2, 3], "exploration_eps": [0.0, 0.1, 0.5]}
    fewer, all_of_them = (Population(DiscreteSAC, CARTPOLE, [0, 1, 2], **settings).learn(100) for _ in range(2))
    fewer.keep([2, 0])
    for population in (fewer, all_of_them):
        population.learn(100, reset_num_timesteps=False)
    assert fewer.seeds == [2, 0]
    for mine, theirs in ((0, 2), (1, 0)):
        assert_equal(fewer.member(mine), all_of_them.member(theirs))
        assert fewer.member(mine).gamma == all_of_them.member(theirs).gamma


@pytest.mark.parametrize("indices", [[], [0, 0], [5]])
def test_keep_refuses(indices: list[int]) -> None:
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], **SMALL)
    with pytest.raises((ValueError, IndexError)):
        population.keep(indices)


def test_evaluation_is_that_of_single_agents() -> None:
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], **SMALL).learn(150)
    returns = population.evaluate(7, seeds=[11, 22], n_envs=3)
    assert returns.shape == (2, 7)
    for index, seed in enumerate((11, 22)):
        env = SyncVecEnv([lambda: Monitor(gym.make(CARTPOLE))] * 3)
        seed_environments(env, environment_seeds(3, seed, "evaluation"))
        expected, _ = evaluate_policy(population.member(index), env, 7, return_episode_rewards=True)
        assert returns[index].tolist() == expected


def test_evaluation_keeps_to_masks() -> None:
    population = Population(DiscreteSAC, "gsrl/MaskedGrid-v0", [0, 1], **SMALL).learn(60)
    assert population.evaluate(2, n_envs=2).shape == (2, 2)  # the maze raises where an illegal move is made


def test_callbacks() -> None:
    class Recorder(PopulationCallback):
        def __init__(self) -> None:
            self.rollouts: list[int] = []
            self.episodes: list[Episode] = []

        def on_rollout_start(self, population: Population) -> bool:
            self.rollouts.append(population.num_timesteps)
            return population.num_timesteps < 90

        def on_episodes(self, population: Population, episodes: Any) -> None:
            self.episodes.extend(episodes)

    recorder = Recorder()
    population = Population(DiscreteSAC, CARTPOLE, [0, 1, 2], **SMALL).learn(100, recorder)
    assert recorder.rollouts == list(range(91))
    assert population.num_timesteps == 90
    assert {episode.member for episode in recorder.episodes} == {0, 1, 2}
    for member in range(3):
        own = [episode for episode in recorder.episodes if episode.member == member]
        assert own[0].steps == own[0].length == own[0].episode_return  # CartPole gives 1 a step
        agent = population.member(member)
        assert agent._episode_num == len(own)
        assert [info["r"] for info in agent.ep_info_buffer] == [episode.episode_return for episode in own]  # type: ignore[union-attr]


# State


class Coin(gym.Env[Any, np.int64]):
    """Episodes of one step, whose start depends on nothing: a population can be resumed exactly here."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.ones(2, np.float32), float(action), True, False, {}


def test_a_saved_population_goes_on_to_the_same_result(tmp_path: Path) -> None:
    estimator = make_estimator("st-gumbel", temperature=ExponentialTemperature(2.0, 0.1, 100))
    settings = SMALL | {"gamma": [0.9, 0.99], "ent_coef": ["auto_0.5", "auto_2"], "estimator": estimator}
    settings |= {"exploration_eps": 0.5}
    population = Population(DiscreteSAC, Coin, [3, 4], **settings).learn(100)
    population.stop(0)
    population.save(tmp_path / "population.zip")
    loaded = Population.load(tmp_path / "population.zip", DiscreteSAC, Coin)
    for each in (population, loaded):
        each.learn(80, reset_num_timesteps=False)
    assert loaded.num_timesteps == population.num_timesteps == 180
    assert loaded.stopped_at == population.stopped_at == [100, None]
    for index in range(2):
        assert_equal(loaded.member(index), population.member(index), tolerance=0.0)
        state, other = loaded.member(index).learner.state_dict(), population.member(index).learner.state_dict()
        assert state["count"] == other["count"]
        for name, moment in state["exp_avg"].items():
            assert torch.equal(moment, other["exp_avg"][name])


def test_load_refuses_other_files(tmp_path: Path) -> None:
    make_single(CARTPOLE, 0).save(tmp_path / "agent.zip")
    with pytest.raises(CheckpointError, match="population is missing"):
        Population.load(tmp_path / "agent.zip", DiscreteSAC, CARTPOLE)


def test_same_seeds_same_result() -> None:
    first, second = (Population(DiscreteSAC, CARTPOLE, [0, 1], estimator="st-gumbel", **SMALL).learn(80) for _ in "ab")
    for index in range(2):
        assert_equal(first.member(index), second.member(index), tolerance=0.0)


def test_no_global_random_numbers_are_used() -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()
    Population(DiscreteSAC, CARTPOLE, [0, 1], estimator="st-gumbel", **SMALL).learn(60)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])  # type: ignore[arg-type]


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "seeds must hold at least one seed"),
        ({"n_envs": 0}, "n_envs must be an integer of at least 1, but got 0"),
        ({"gamma": [0.9, 0.9, 0.9]}, "gamma must be one value, or one for each of 2 members, but got 3"),
        ({"batch_size": [8, 16]}, r"batch_size must be the same for all members, but got \[8, 16\]"),
        ({"ent_coef": [0.1, "auto"]}, "ent_coef must be a number for all members, or the same word"),
        ({"estimator": "rloo", "temperature": 0.5}, "temperature must be None for rloo, but got 0.5"),
        ({"estimator": make_estimator("st-gumbel"), "temperature": 0.5}, "temperature must be None where estimator is"),
        ({"temperature": ExponentialTemperature(1.0, 0.5, 10)}, "temperature must be a number, but got Exponential"),
        ({"seeds": 5}, "seeds must be several seeds, one a member, but got 5"),
        ({"seeds": [0, -1]}, "seeds must be integers of at least 0, but got -1"),
        ({"n_envs": 1.5}, "n_envs must be an integer of at least 1, but got 1.5"),
        ({"seed": 3}, "Population has no argument 'seed': each member has one of seeds"),
        ({"train_freq": (1, "episode")}, "train_freq must count steps in a population"),
        ({"gamma": [0.9, 1.5]}, "gamma must lie in"),
        ({"reward_scale": [1, 0]}, "reward_scale must be 'auto' or a number above 0, but got 0"),
        ({"tau": [0.1, -0.1]}, "tau must be in"),
        ({"env": gym.make(CARTPOLE)}, "env must be the name of an environment or a function that makes one"),
        ({"horizon": 3}, "DiscreteSAC has no argument 'horizon'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Population(DiscreteSAC, **({"env": CARTPOLE, "seeds": [0, 1]} | SMALL | arguments))


def test_bad_evaluations_and_observations() -> None:
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], **SMALL)
    with pytest.raises(ValueError, match="seeds must be one for each of 2 members, but got 3"):
        population.evaluate(2, seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="n_eval_episodes must be at least 1, but got 0"):
        population.evaluate(0)
    with pytest.raises(ValueError, match="observations must be equally many of each of 2 members, but got 3"):
        population.predict(np.zeros((3, 4), np.float32))
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(population)


@pytest.mark.usefixtures("recorded_soon")
def test_evaluations_between_leave_training_alone() -> None:
    """Recorded operations are those of a kind of input: other numbers of observations, Dicts in another order."""

    class Evaluating(PopulationCallback):
        def on_rollout_start(self, population: Population) -> None:
            if population.num_timesteps in (15, 50, 80):
                population.evaluate(3, n_envs=3)

    plain, evaluated = (Population(DiscreteSAC, CARTPOLE, [0, 1], estimator="st-gumbel", **SMALL) for _ in range(2))
    assert_equal(evaluated.learn(110, Evaluating()).member(1), plain.learn(110).member(1), tolerance=0.0)


@pytest.mark.usefixtures("recorded_soon")
def test_dict_observations_in_any_order() -> None:
    env, settings = CASES["dict"]
    population = Population(DiscreteSAC, env, [0, 1], **(SMALL | settings)).learn(80)  # acting is recorded by now
    rng = np.random.default_rng(0)
    for _ in range(20):
        cart, pole = rng.normal(size=(2, 2, 2)).astype(np.float32)
        actions = [
            population.predict(observations, deterministic=True)
            for observations in ({"cart": cart, "pole": pole}, {"pole": pole, "cart": cart})
        ]
        np.testing.assert_array_equal(*actions)


def test_extractors_with_a_state_act_as_those_of_single_agents() -> None:
    """Batch normalisation: batches in training, running means in acting."""

    class Normalising(BaseFeaturesExtractor):
        def __init__(self, observation_space: spaces.Space) -> None:
            super().__init__(observation_space, 4)
            self.norm = nn.BatchNorm1d(4)

        def forward(self, observations: Tensor) -> Tensor:
            return self.norm(observations)

    settings = {"policy_kwargs": {"net_arch": [8], "features_extractor_class": Normalising}}
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], **(SMALL | settings)).learn(100)
    assert_equal(population.member(1), make_single(CARTPOLE, 1, **settings).learn(100))


class Sampling(BaseFeaturesExtractor):
    """Features with noise where there is some: while they are learned from, and never else."""

    noise: Tensor | None = None
    seen: ClassVar[list[tuple[int, ...] | None]] = []

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, 4)
        self.linear = nn.Linear(4, 4)

    def draw_noise(self, batch_shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return torch.randn((*batch_shape, 4), generator=generator)

    def forward(self, observations: Tensor) -> Tensor:
        self.seen.append(None if self.noise is None else tuple(self.noise.shape))
        features = self.linear(observations)
        return features if self.noise is None else features + 0.1 * self.noise


@pytest.mark.usefixtures("recorded_soon")
@pytest.mark.parametrize("n_steps", [1, 3])
def test_extractors_that_sample_have_the_noise_of_their_member(n_steps: int) -> None:
    settings = {"n_steps": n_steps, "n_step_correction": True}
    settings["policy_kwargs"] = {"net_arch": [8], "features_extractor_class": Sampling}
    single = make_single(CARTPOLE, 1, **settings).learn(60)
    size = single.batch_size
    Sampling.seen.clear()
    single.learn(1, reset_num_timesteps=False)
    learned = [
        shape for shape in Sampling.seen if shape is not None
    ]  # of actor and critics; not of what targets are of
    assert learned == [(size, 4)] * 2
    assert Sampling.seen[0] is None
    assert len(Sampling.seen) > len(learned) + 2
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], **(SMALL | settings)).learn(60)
    assert_equal(population.member(1), make_single(CARTPOLE, 1, **settings).learn(60))


def test_a_stopped_member_is_what_it_was() -> None:
    """Also what no network holds: counters, schedules and moments."""
    estimator = make_estimator("st-gumbel", temperature=ExponentialTemperature(2.0, 0.1, 100))
    population = Population(DiscreteSAC, CARTPOLE, [0, 1, 2], estimator=estimator, **SMALL).learn(60)
    then = population.member(1)
    population.stop(1)
    population.learn(40, reset_num_timesteps=False)
    population.keep([1, 2])
    population.learn(20, reset_num_timesteps=False)
    now = population.member(0)
    assert_equal(now, then, tolerance=0.0)
    assert now.num_timesteps == then.num_timesteps == 60
    assert torch.equal(now.generator.get_state(), then.generator.get_state())
    assert now.estimator.temperature.count == then.estimator.temperature.count  # type: ignore[union-attr]
    for name, moment in then.learner.state_dict()["exp_avg"].items():
        assert torch.equal(now.learner.state_dict()["exp_avg"][name], moment)


def test_one_warning_a_population() -> None:
    """What every member would say of itself is not said by each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Population(DiscreteSAC, CARTPOLE, [0, 1], **SMALL).learn(40)
    assert not caught
