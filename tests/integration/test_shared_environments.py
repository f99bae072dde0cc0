"""Somebody else resets and steps the environments of a training: nothing is learned that did not happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy as evaluate_without_masks
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from gsrl import DiscreteSAC, Population, Reinforce
from gsrl.callbacks import EvalCallback
from gsrl.evaluation import evaluate_policy
from gsrl.masking import ActionMasker
from gsrl.population import PopulationCallback
from gsrl.replay import Rollout
from gsrl.vec_env import StepWatch

LENGTH = 7


class Diary(gym.Env):
    """Shows the number of the episode and of the step; the reward is ten times the one plus the other.

    One action of three is legal, another one at each step. Episodes terminate after seven steps.
    """

    observation_space = spaces.Box(-1e4, 1e4, (2,))
    action_space = spaces.Discrete(3)

    def __init__(self, strict: bool = False) -> None:
        self.strict, self.episode = strict, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: int) -> Any:
        if self.strict and not self.action_masks()[action]:
            raise ValueError("illegal")
        reward = 10.0 * self.episode + self.time
        self.time += 1
        return self._observation(), reward, self.time == LENGTH, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.episode, self.time], np.float32)


class StrictDiary(Diary):
    """The same, with masks, and an error where an illegal action is taken."""

    def __init__(self) -> None:
        super().__init__(strict=True)

    def action_masks(self) -> np.ndarray:
        return np.arange(3) == (self.episode + self.time) % 3


def make(strict: bool = False) -> gym.Env:
    return Monitor(TimeLimit(ActionMasker(StrictDiary()) if strict else Diary(), 100))


FORMS: dict[str, Callable[[Callable[[], gym.Env]], Any]] = {
    "one": lambda make: make(),
    "two in DummyVecEnv": lambda make: DummyVecEnv([make, make]),
    "two in SubprocVecEnv": lambda make: SubprocVecEnv([make, make], start_method="fork"),
    "two in SyncVectorEnv": lambda make: SyncVectorEnv([make, make]),
    "two in VecNormalize": lambda make: VecNormalize(DummyVecEnv([make, make]), clip_obs=1e6, clip_reward=1e6),
    "two in VecFrameStack": lambda make: VecFrameStack(DummyVecEnv([make, make]), 2),
}
EACH_FORM = pytest.mark.parametrize("form", FORMS)


def make_sac(env: Any, **settings: Any) -> DiscreteSAC:
    defaults: dict[str, Any] = {
        "policy_kwargs": {"net_arch": [8]},
        "learning_starts": 20,
        "batch_size": 8,
        "buffer_size": 10_000,
        "gamma": 1.0,
        "n_steps": 3,
        "n_step_correction": False,
        "reward_scale": 1.0,
        "seed": 0,
        "device": "cpu",
    }
    return DiscreteSAC("MlpPolicy", env, **defaults | settings)


class Recorded(Reinforce):
    """Keeps the rollouts it learns from."""

    def train(self, rollout: Rollout) -> None:
        self.__dict__.setdefault("rollouts", []).append(rollout)
        super().train(rollout)


def make_reinforce(env: Any, **settings: Any) -> Recorded:
    return Recorded("MlpPolicy", env, n_episodes=4, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **settings)


def assert_replay_is_true(model: DiscreteSAC, transitions: int) -> None:
    """All that was stored has happened, and no window reaches into another episode."""
    buffer = model.replay_buffer
    assert buffer is not None
    assert len(buffer) == transitions == model.num_timesteps
    batch = buffer.sample(400, generator=np.random.default_rng(0))
    (episode, time), (next_episode, next_time) = (
        part[:, -2:].T.double().numpy() for part in (batch.observations, batch.next_observations)
    )
    m = next_time - time
    np.testing.assert_allclose(next_episode, episode, atol=1e-3)
    assert ((m > 0.99) & (m < 3.01)).all()
    np.testing.assert_allclose(batch.rewards, m * 10 * episode + m * time + m * (m - 1) / 2, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(batch.discounts == 0, next_time > LENGTH - 0.5)


class Evaluate(BaseCallback):
    """Evaluates in the environments of the training, without a word, every few steps."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every

    def _on_step(self) -> bool:
        if self.n_calls % self.every == 0:
            evaluate_policy(self.model, self.training_env, 3)
        return True


@EACH_FORM
def test_sac_stores_what_happened_alone(form: str) -> None:
    model = make_sac(FORMS[form](make))
    model.learn(60, Evaluate(5))
    assert_replay_is_true(model, 60)
    model.learn(60, EvalCallback(model.get_env(), eval_freq=4, n_eval_episodes=2, verbose=0), reset_num_timesteps=False)
    assert_replay_is_true(model, 120)
    model.get_env().close()  # type: ignore[union-attr]


@EACH_FORM
def test_evaluation_between_two_trainings(form: str) -> None:
    model = make_sac(FORMS[form](lambda: make(strict=True)), learning_starts=0)  # an illegal action raises
    for rounds in range(1, 5):
        model.learn(10, reset_num_timesteps=rounds == 1)
        evaluate_policy(model, model.get_env(), 3)  # type: ignore[arg-type]
        assert_replay_is_true(model, 10 * rounds)
    model.get_env().close()  # type: ignore[union-attr]


@pytest.mark.parametrize("each", ["rollout", "step", "training"])
def test_an_environment_that_is_stepped_below_its_wrappers(each: str) -> None:
    class Step(BaseCallback):
        def _on_training_start(self) -> None:
            if each == "training":
                innermost.reset()

        def _on_rollout_start(self) -> None:
            if each == "rollout" and self.num_timesteps % 5 == 0:
                innermost.reset()
                innermost.step(0)

        def _on_step(self) -> bool:
            if each == "step" and self.n_calls % 5 == 0:
                evaluate_policy(model, env, 1)
            return True

    env = make()
    innermost: Any = env.unwrapped
    model = make_sac(env)
    model.learn(50, Step())
    assert_replay_is_true(model, 50)


def test_a_training_that_was_broken_off_in_a_step_begins_anew() -> None:
    class Fail(BaseCallback):
        def _on_step(self) -> bool:
            raise KeyboardInterrupt

    model = make_sac(make())
    model.learn(10)
    with pytest.raises(KeyboardInterrupt):
        model.learn(10, Fail(), reset_num_timesteps=False)
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == 21
    assert len(model.replay_buffer) == 20  # type: ignore[arg-type]
    model.num_timesteps = 20
    assert_replay_is_true(model, 20)


def test_two_agents_in_one_environment() -> None:
    env = DummyVecEnv([make])
    first, second = make_sac(env), make_sac(env)
    for rounds in range(1, 4):
        for model in (first, second):
            model.learn(10, reset_num_timesteps=rounds == 1)
            assert_replay_is_true(model, 10 * rounds)


def assert_rollouts_are_true(model: Recorded) -> None:
    for rollout in model.rollouts:  # type: ignore[attr-defined]
        assert isinstance(rollout.observations, torch.Tensor)
        episode, time = rollout.observations[:, -2:].T.double()
        assert torch.equal(time, rollout.time.double())
        np.testing.assert_allclose(rollout.rewards, 10 * episode + time)
        lengths = rollout.episode.bincount()
        assert len(lengths) == model.n_episodes
        assert isinstance(rollout.final_observations, torch.Tensor)
        final_episode, final_time = rollout.final_observations[:, -2:].T.double()
        assert torch.equal(final_time, lengths.double())
        last = lengths.cumsum(0) - 1
        assert torch.equal(final_episode, episode[last])
        assert torch.equal(rollout.truncated, lengths < LENGTH)


@pytest.mark.parametrize("strict", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "two in VecNormalize"])
def test_reinforce_ends_and_learns_what_happened_alone(form: str, strict: bool) -> None:
    model = make_reinforce(FORMS[form](lambda: make(strict)))
    env = model.get_env()
    assert env is not None
    model.learn(30, EvalCallback(env, eval_freq=3, n_eval_episodes=2, verbose=0))
    assert any(rollout.truncated.any() for rollout in model.rollouts)  # type: ignore[attr-defined]
    model.learn(30, Evaluate(1), reset_num_timesteps=False)
    evaluate_policy(model, env, 2)
    model.learn(30, reset_num_timesteps=False)
    assert not model.rollouts[-1].truncated.any()  # type: ignore[attr-defined]
    assert_rollouts_are_true(model)
    env.close()


def test_what_was_cut_goes_on_in_the_value_network() -> None:
    model = make_reinforce(make(), baseline="value", gamma=0.5)
    model.learn(20, Evaluate(4))
    rollout = model.rollouts[0]  # type: ignore[attr-defined]
    assert rollout.truncated.all()
    returns, _ = model._returns_and_baselines(rollout)
    last = rollout.episode.bincount().cumsum(0) - 1
    with torch.no_grad():
        expected = rollout.rewards[last] + 0.5 * model.policy.critic(rollout.final_observations)  # type: ignore[misc]
    assert torch.allclose(returns[last], expected, rtol=1e-5)


class StepAll(PopulationCallback):
    """Steps the environments of a population between its steps."""

    def on_rollout_start(self, population: Population) -> None:
        if population.num_timesteps in (4, 6, 30):
            population.env.reset()
            for _ in range(3):
                population.env.step(np.zeros(population.env.num_envs, np.int64))


@pytest.mark.parametrize("n_envs", [1, 2])
def test_populations_store_what_happened_alone(n_envs: int) -> None:
    settings: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "n_envs": n_envs}
    of_sac: dict[str, Any] = {"learning_starts": 20, "batch_size": 8, "buffer_size": 1000, "gamma": 1.0}
    of_sac |= {"n_steps": 3, "n_step_correction": False}
    population = Population(DiscreteSAC, make, [0, 1], **of_sac, **settings)
    population.learn(40, StepAll())
    population.env.reset()
    population.learn(40, reset_num_timesteps=False)
    for index in range(2):
        assert_replay_is_true(population.member(index), 80)  # type: ignore[arg-type]

    population = Population(Recorded, make, [0, 1], n_episodes=4, **settings)
    population.learn(40, StepAll())
    population.keep([1])
    population.env.reset()
    population.learn(40, reset_num_timesteps=False)
    (member,) = population._members
    assert member.rollouts
    assert member.rollouts[0].truncated.any()
    assert_rollouts_are_true(member)


def test_members_are_what_agents_would_be_that_are_disturbed_as_they_are() -> None:
    class StepOne(BaseCallback):
        def _on_step(self) -> bool:
            assert self.training_env is not None
            if self.num_timesteps in (4, 6, 30):
                self.training_env.reset()
                for _ in range(3):
                    self.training_env.step(np.zeros(1, np.int64))
            return self.num_timesteps < 60

    settings: dict[str, Any] = {"n_episodes": 4, "baseline": "none", "policy_kwargs": {"net_arch": [8]}}
    population = Population(Recorded, make, [0, 1], device="cpu", **settings).learn(60, StepAll())
    for index in range(2):
        alone = Recorded("MlpPolicy", make(), seed=index, device="cpu", **settings)
        alone.learn(60, StepOne())
        together = population._members[index].rollouts
        assert len(together) == len(alone.rollouts)  # type: ignore[attr-defined]
        for ours, theirs in zip(together, alone.rollouts, strict=True):  # type: ignore[attr-defined]
            assert torch.equal(ours.rewards, theirs.rewards)
            assert torch.equal(ours.actions, theirs.actions)
            assert torch.equal(ours.truncated, theirs.truncated)


@pytest.mark.parametrize("form", FORMS)
def test_who_is_alone_is_not_disturbed(form: str) -> None:
    resets = []

    class Count(BaseCallback):
        def _on_step(self) -> bool:
            watch: StepWatch = self.model._watch  # type: ignore[attr-defined]
            resets.append(watch.count())
            return True

    model = make_sac(FORMS[form](make))
    env = model.get_env()
    assert isinstance(env, VecEnv)
    begun = []
    begin = model._begin_episodes
    model._begin_episodes = lambda env: begun.append(1) or begin(env)  # type: ignore[func-returns-value, method-assign]
    model.learn(30, Count())
    model.learn(30, Count(), reset_num_timesteps=False)
    assert not begun
    assert resets == sorted(resets)
    env.close()


def test_the_evaluation_of_stable_baselines3_is_noticed_as_well() -> None:
    env = make()
    model = make_sac(env)
    for rounds in range(1, 4):
        model.learn(11, reset_num_timesteps=rounds == 1)
        evaluate_without_masks(model, env, 2)
        assert_replay_is_true(model, 11 * rounds)
