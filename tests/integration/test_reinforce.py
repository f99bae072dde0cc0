"""Reinforce as a Stable-Baselines3 algorithm: whole episodes, determinism, state, spaces, masks, callbacks, errors."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy as evaluate_without_masks
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from envs.grid import MaskedGrid
from gsrl import Reinforce
from gsrl.callbacks import EvalCallback
from gsrl.evaluation import evaluate_policy
from gsrl.replay import Rollout
from tests.common.models import (
    BASELINES,
    CARTPOLE,
    OBSERVATIONS,
    Spaces,
    assert_same_agent,
    make_reinforce,
    parameters,
    play,
    same,
)


class Recorded(Reinforce):
    """Keeps the rollouts it learns from."""

    def train(self, rollout: Rollout) -> None:
        self.__dict__.setdefault("rollouts", []).append(rollout)
        super().train(rollout)


class Count(gym.Env):
    """Shows the number of the episode and the step; a step's reward is a hundred episodes plus the step.

    Episodes have 1, 2, 3, 1, 2, 3, ... steps, from ``first`` on. Every other one is truncated.
    """

    observation_space = spaces.Box(-1e6, 1e6, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, first: int = 0) -> None:
        self.episode = first - 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: int) -> Any:
        reward = 100.0 * self.episode + self.steps
        self.steps += 1
        over, even = self.steps == self.episode % 3 + 1, self.episode % 2 == 0
        return self._observation(), reward, over and not even, over and even, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.episode, self.steps], np.float32)


# Whole episodes


def episodes_of(rollout: Rollout) -> list[tuple[int, list[float]]]:
    """The number and the rewards of each episode, whose steps must be whole and in order."""
    assert isinstance(rollout.observations, torch.Tensor)
    assert isinstance(rollout.final_observations, torch.Tensor)
    result = []
    for e in range(len(rollout.truncated)):
        own = rollout.episode == e
        number = int(rollout.observations[own, 0].unique().item())
        length = number % 3 + 1
        assert rollout.time[own].tolist() == list(range(length)) == rollout.observations[own, 1].tolist()
        assert rollout.final_observations[e].tolist() == [number, length]
        assert rollout.truncated[e] == (number % 2 == 0)
        result.append((number, rollout.rewards[own].tolist()))
    assert len(rollout.rewards) == sum(len(rewards) for _, rewards in result)
    return result


def learn_and_record(env: Any, total_timesteps: int, **settings: Any) -> Recorded:
    defaults: dict[str, Any] = {"policy_kwargs": {"net_arch": [4]}, "seed": 0, "device": "cpu"}
    return Recorded("MlpPolicy", env, **(defaults | settings)).learn(total_timesteps, log_interval=None)


def test_episodes_of_one_environment_follow_one_another() -> None:
    model = learn_and_record(Count(), 20, n_episodes=3)
    # Of 1, 2 and 3 steps: nothing is lost, and the last rollout is finished though 20 steps were asked for.
    assert model.num_timesteps == 24
    assert [episodes_of(rollout) for rollout in model.rollouts][:2] == [
        [(0, [0.0]), (1, [100.0, 101.0]), (2, [200.0, 201.0, 202.0])],
        [(3, [300.0]), (4, [400.0, 401.0]), (5, [500.0, 501.0, 502.0])],
    ]
    assert len(model.rollouts) == model._n_updates == 4
    assert model._episode_num == 12


@pytest.mark.parametrize("vectorised", [DummyVecEnv, SyncVectorEnv])
def test_several_environments_play_as_many_episodes_and_the_rest_is_discarded(vectorised: Any) -> None:
    # Lengths 1, 2 and 2, 3: the first environment waits for two steps, in which it plays an episode of 3 half.
    env = vectorised([lambda first=first: Count(first) for first in (0, 1)])
    model = learn_and_record(env, 11, n_episodes=4)
    first, second = map(episodes_of, model.rollouts)
    assert [number for number, _ in first] == [0, 1, 1, 2]
    assert first[1] == (1, [100.0, 101.0])
    # Both have been reset in the middle of an episode, or at its beginning.
    assert [number for number, _ in second] == [3, 4, 4, 5]
    assert model.num_timesteps == 20  # 5 steps of both, twice
    assert model.ep_info_buffer is not None
    if vectorised is SyncVectorEnv:  # which counts them; those that were discarded are in no statistic
        assert [info["l"] for info in model.ep_info_buffer] == [1, 2, 2, 3, 1, 2, 2, 3]


def test_steps_in_which_an_environment_is_reset_are_no_steps() -> None:
    """CartPole in NumPy resets by dummy steps."""
    env = gym.make_vec(CARTPOLE, 2, vectorization_mode="vector_entry_point")
    model = learn_and_record(env, 300, n_episodes=4)
    assert env.metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP
    for rollout in model.rollouts:
        assert isinstance(rollout.observations, torch.Tensor)
        assert len(rollout.truncated) == 4
        first = rollout.observations[rollout.time == 0]
        assert first.abs().max() <= 0.05  # where CartPole begins
        # The dynamics hold from every step to the next: position grows by velocity / 50.
        inside = rollout.time[1:] > 0
        moved = (rollout.observations[1:, 0] - rollout.observations[:-1, 0])[inside]
        torch.testing.assert_close(moved, 0.02 * rollout.observations[:-1, 1][inside], atol=1e-5, rtol=1e-3)


def test_a_frame_stack_over_dummy_steps_is_refused() -> None:
    env = Reinforce._wrap_env(gym.make_vec(CARTPOLE, 2, vectorization_mode="vector_entry_point"))
    with pytest.raises(ValueError, match="env must not be a VecFrameStack of a vector environment with dummy steps"):
        make_reinforce(VecFrameStack(env, 2)).learn(10)


def test_the_value_of_the_final_observation_counts_where_an_episode_is_truncated() -> None:
    model = make_reinforce(Count(), gamma=0.5)
    observations = torch.tensor([[2.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
    final = torch.tensor([[2.0, 2.0], [3.0, 1.0]])
    actions, zero = torch.zeros(3, 1, dtype=torch.int64), torch.tensor([0, 0, 1])
    rewards, truncated = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False])
    rollout = Rollout(observations, actions, rewards, zero, torch.tensor([0, 1, 0]), final, truncated)
    assert model.policy.critic is not None
    with torch.no_grad():
        last = model.policy.critic(final)[0].item()
        values = model.policy.critic(observations)
    returns, baselines = model._returns_and_baselines(rollout)
    torch.testing.assert_close(returns, torch.tensor([1 + 0.5 * (2 + 0.5 * last), 2 + 0.5 * last, 4.0]))
    torch.testing.assert_close(baselines, values)
    without = make_reinforce(Count(), gamma=0.5, baseline="none")
    torch.testing.assert_close(without._returns_and_baselines(rollout)[0], torch.tensor([2.0, 2.0, 4.0]))


def test_the_running_mean_is_that_of_earlier_rollouts() -> None:
    model = make_reinforce(Count(), gamma=1.0, baseline="running-mean", n_episodes=1)
    rollout = Rollout(
        torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.int64), torch.tensor([6.0]), torch.tensor([0]),
        torch.tensor([0]), torch.zeros(1, 2), torch.tensor([False]),
    )  # fmt: skip
    baselines = []
    for reward in (6.0, 3.0, 0.0):
        changed = rollout._replace(rewards=torch.tensor([reward]))
        baselines.append(model._returns_and_baselines(changed)[1].item())
        model.train(changed)
    assert baselines == pytest.approx([0.0, 6.0, (0.1 * 3 + 0.09 * 6) / 0.19])


# One update


def test_one_step_of_the_policy_and_several_of_the_value_network() -> None:
    model = make_reinforce(critic_updates=7).learn(1)
    assert model._n_updates == model.learner.count == 1
    assert model.critic_learner is not None
    assert model.critic_learner.count == 7


def test_the_learning_rate_follows_its_schedule_and_never_falls_below_zero() -> None:
    model = make_reinforce(learning_rate=lambda remaining: remaining * 1e-2)
    start = model.policy.actor.head.bias.clone()
    model.learn(1)  # which ends beyond its end
    assert model._current_progress_remaining == 0.0
    assert torch.equal(model.policy.actor.head.bias, start)


def test_normalised_advantages_do_not_heed_the_scale_of_rewards() -> None:
    models = []
    for scale in (1.0, 1000.0):
        model = make_reinforce(Count(), baseline="none", normalize_advantage=True)
        env = model.get_env()
        assert env is not None
        rollout = play(model)
        model.train(rollout._replace(rewards=scale * rollout.rewards))
        models.append(model)
    for one, other in zip(parameters(models[0])[:4], parameters(models[1])[:4], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


# Determinism


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_same_seed_gives_the_same_parameters_whatever_the_global_generators_do(baseline: Any) -> None:
    models = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)
        random.seed(disturbance)
        models.append(make_reinforce(baseline=baseline).learn(100))
    assert same(*(parameters(model) for model in models))
    assert torch.equal(models[0].generator.get_state(), models[1].generator.get_state())
    assert not same(parameters(models[0]), parameters(make_reinforce(baseline=baseline, seed=1).learn(100)))


def test_global_generators_are_left_alone() -> None:
    def states() -> tuple[bytes, bytes, Any]:
        return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()

    before = states()
    make_reinforce(baseline="relax").learn(60).predict(OBSERVATIONS, deterministic=False)
    assert states() == before


def test_all_baselines_begin_with_the_same_policy() -> None:
    actors = [list(make_reinforce(baseline=baseline).policy.actor.parameters()) for baseline in BASELINES]
    assert all(same(actors[0], actor) for actor in actors[1:])


def test_reseeding_restarts_actions() -> None:
    model = make_reinforce()
    draws = []
    for _ in range(2):
        model.set_random_seed(5)
        draws.append(model.predict(OBSERVATIONS, deterministic=False)[0].tolist())
    assert draws[0] == draws[1]
    assert model.policy.generator is model.generator


# Spaces


@pytest.mark.parametrize("baseline", ["value", "relax"])
@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Discrete(3, start=-1),
        spaces.Discrete(1),
        spaces.MultiDiscrete([2, 4, 1, 3]),
        spaces.MultiDiscrete([2, 3], start=[-1, 5]),
        spaces.MultiDiscrete([[2, 3], [4, 2]]),
        spaces.MultiBinary((2, 3)),
        spaces.MultiBinary(3),
    ],
    ids=str,
)
def test_an_agent_acts_inside_its_space(action_space: spaces.Space, baseline: Any, tmp_path: Path) -> None:
    model = make_reinforce(Spaces(action_space), baseline=baseline).learn(60)
    model.dump_logs()  # everything is finite
    model.save(tmp_path / "model")
    loaded = Reinforce.load(tmp_path / "model", env=Spaces(action_space), device="cpu")
    assert_same_agent(model, loaded)
    actions, _ = model.predict(OBSERVATIONS, deterministic=False)
    assert actions.shape == (64, *(action_space.shape or ()))
    assert all(action_space.contains(action) for action in actions)
    codec = model.policy.actor.head.codec
    assert [len(np.unique(column)) for column in codec.to_indices(actions).T] == list(codec.sizes)
    one, _ = loaded.predict(OBSERVATIONS[0], deterministic=True)
    assert action_space.contains(one)


@pytest.mark.parametrize("baseline", ["none", "relax"])
@pytest.mark.parametrize(
    ("observation_space", "policy"),
    [
        (spaces.Box(-1.0, 1.0, (2, 3)), "MlpPolicy"),
        (spaces.Box(-1.0, 1.0, (2,), np.float64), "MlpPolicy"),
        (spaces.Box(0, 9, (2,), np.int64), "MlpPolicy"),
        (spaces.Discrete(5), "MlpPolicy"),
        (spaces.MultiDiscrete([2, 3]), "MlpPolicy"),
        (spaces.MultiBinary(3), "MlpPolicy"),
        (spaces.Box(0, 255, (36, 36, 1), np.uint8), "CnnPolicy"),
        (spaces.Dict(a=spaces.Box(-1.0, 1.0, (2,)), b=spaces.Discrete(3)), "MultiInputPolicy"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_observations_of_every_kind(observation_space: spaces.Space, policy: str, baseline: Any) -> None:
    kwargs = {"features_extractor_kwargs": {"features_dim": 8}} if policy == "CnnPolicy" else {"net_arch": [8]}
    env = DummyVecEnv([lambda: TimeLimit(Spaces(spaces.Discrete(2), observation_space), 5)] * 2)  # truncated
    model = make_reinforce(env, policy=policy, baseline=baseline, policy_kwargs=kwargs).learn(20)
    assert model._n_updates == 2
    model.dump_logs()
    action, _ = model.predict(env.observation_space.sample())
    assert action in (0, 1)


def test_layers_of_actor_and_value_network() -> None:
    model = make_reinforce(baseline="relax", policy_kwargs={"net_arch": {"pi": [], "vf": [6, 5]}})
    assert model.policy.actor.head.in_features == 4
    assert model.policy.critic is not None
    assert model.policy.control is not None
    assert model.policy.critic.head.in_features == model.policy.control.weight.numel() == 5
    assert make_reinforce(policy_kwargs={}).policy.actor.head.in_features == 64
    with pytest.raises(ValueError, match=r"net_arch must be a list or a dict of 'pi' and 'vf', but got \{'qf'"):
        make_reinforce(policy_kwargs={"net_arch": {"qf": [4], "pi": [4]}})


# Masks


FORMS: dict[str, Callable[[Callable[[], gym.Env]], Any]] = {
    "one": lambda make: make(),
    "four in DummyVecEnv": lambda make: DummyVecEnv([make] * 4),
    "four in SyncVectorEnv": lambda make: SyncVectorEnv([make] * 4),
}


@pytest.mark.parametrize("baseline", ["value", "relax"])
@pytest.mark.parametrize("form", FORMS)
def test_no_illegal_action_is_ever_taken(form: str, baseline: Any) -> None:
    """The maze raises on the first one; half of its actions are illegal."""
    model = Reinforce(
        "MlpPolicy", FORMS[form](lambda: gym.make("gsrl/MaskedGrid-v0")), n_episodes=4, baseline=baseline,
        policy_kwargs={"net_arch": [8]}, seed=0, device="cpu",
    )  # fmt: skip
    callback = EvalCallback(gym.make("gsrl/MaskedGrid-v0"), eval_freq=500, n_eval_episodes=3, verbose=0, warn=False)
    model.learn(1500, callback)
    assert model.masked
    assert all(torch.as_tensor(value).isfinite().all() for value in parameters(model))
    with torch.no_grad():
        model.policy.actor.head.weight.mul_(1e3)  # only the masks keep it from what it prefers
    for deterministic in (False, True):
        evaluate_policy(model, gym.make("gsrl/MaskedGrid-v0"), 5, deterministic, warn=False)
    with pytest.warns(UserWarning, match="predict was called without action_masks"):
        model.predict(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"^action_masks must have shape \[16\] or \[1, 16\]"):
        model.predict(np.zeros(4, np.float32), action_masks=np.ones((2, 16)))


def test_the_masks_of_a_rollout_are_those_of_its_states() -> None:
    model = Recorded("MlpPolicy", gym.make("gsrl/MaskedGrid-v0"), n_episodes=2, seed=0, device="cpu").learn(1)
    (rollout,) = model.rollouts
    assert rollout.action_mask is not None
    assert rollout.action_mask.gather(-1, rollout.actions.unsqueeze(-1)).all()
    maze = gym.make("gsrl/MaskedGrid-v0").unwrapped
    assert isinstance(maze, MaskedGrid)
    assert rollout.action_mask.shape == (len(rollout.rewards), 1, 16)
    assert len({tuple(mask.flatten().tolist()) for mask in rollout.action_mask}) > 3


class Forgetful(Spaces):
    """Gives masks at resets alone."""

    def reset(self, **arguments: Any) -> Any:
        observation, _ = super().reset(**arguments)
        return observation, {"action_mask": np.ones(2, np.bool_)}


def test_masks_at_some_steps_are_an_error() -> None:
    with pytest.raises(ValueError, match="must give info\\['action_mask'\\] at every reset and step"):
        make_reinforce(DummyVecEnv([lambda: Forgetful(spaces.Discrete(2))])).learn(20)


# Stable-Baselines3


def test_callbacks(tmp_path: Path) -> None:
    evaluation = EvalCallback(
        gym.make(CARTPOLE),
        callback_on_new_best=StopTrainingOnRewardThreshold(1.0, verbose=0),
        eval_freq=100,
        n_eval_episodes=1,
        best_model_save_path=str(tmp_path / "best"),
        verbose=0,
        warn=False,
    )
    model = make_reinforce().learn(200, [CheckpointCallback(50, str(tmp_path / "checkpoints")), evaluation])
    assert model.num_timesteps == 100  # at once, in the middle of a rollout
    assert_same_agent(model, Reinforce.load(tmp_path / "best" / "best_model"))
    loaded = Reinforce.load(tmp_path / "checkpoints" / "rl_model_50_steps", env=gym.make(CARTPOLE))
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.num_timesteps >= 80
    assert model.stopwatch.seconds["evaluation"] > 0
    model.learn(20, reset_num_timesteps=False)  # with new episodes
    assert model.num_timesteps >= 120


def test_after_a_callback_has_ended_a_training_episodes_begin_anew() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return False

    model = Recorded("MlpPolicy", Count(2), n_episodes=1, seed=0, device="cpu").learn(1, Stop())
    assert model.num_timesteps == 1  # of the three of episode 2
    model.learn(3, reset_num_timesteps=False, log_interval=None)
    assert [episodes_of(rollout) for rollout in model.rollouts] == [[(3, [300.0])], [(4, [400.0, 401.0])]]


class Order(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def _on_training_start(self) -> None:
        self.calls.append("training start")
        assert self.locals["total_timesteps"] == 6

    def _on_rollout_start(self) -> None:
        self.calls.append("rollout start")

    def _on_step(self) -> bool:
        assert {"actions", "new_obs", "rewards", "dones", "infos"} <= self.locals.keys()
        self.calls.append("step")
        return True

    def _on_rollout_end(self) -> None:
        self.calls.append("rollout end")
        assert isinstance(self.locals["rollout"], Rollout)

    def _on_training_end(self) -> None:
        self.calls.append("training end")


def test_callbacks_are_called_in_their_order() -> None:
    order = Order()
    make_reinforce(Count(), n_episodes=3).learn(6, order)
    steps = ["step"] * 6
    assert order.calls == ["training start", "rollout start", *steps, "rollout end", "training end"]


def test_stable_baselines_own_evaluation() -> None:
    model = make_reinforce()
    assert model.env is not None
    mean, deviation = evaluate_without_masks(model, model.env, n_eval_episodes=2, deterministic=True)
    assert mean > 0
    assert deviation >= 0


def test_vec_normalize() -> None:
    env = VecNormalize(make_vec_env(CARTPOLE, 2, seed=0), gamma=0.99)
    model = Recorded("MlpPolicy", env, n_episodes=4, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu").learn(400)
    assert model._vec_normalize_env is env
    rollout = model.rollouts[-1]
    assert isinstance(rollout.observations, torch.Tensor)
    assert 0.5 < rollout.observations.std() < 2.0
    assert rollout.rewards.max() < 1.0  # CartPole's are 1
    assert model.ep_info_buffer is not None
    assert all(float(info["r"]).is_integer() for info in model.ep_info_buffer)


def make_cartpole() -> gym.Env:
    return gym.make(CARTPOLE)


def test_environments_in_other_processes() -> None:
    env = SubprocVecEnv([make_cartpole] * 2)
    model = make_reinforce(env).learn(60)
    assert model._n_updates >= 1
    env.close()


# Logging


@pytest.mark.parametrize("baseline", ["none", "relax"])
def test_tensorboard_holds_what_is_promised(baseline: str, tmp_path: Path) -> None:
    model = make_reinforce(baseline=baseline, tensorboard_log=str(tmp_path)).learn(200)
    events = EventAccumulator(str(tmp_path / "Reinforce_1"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    learned = {"explained_variance", "gradient_norm_control", "gradient_norm_critic", "value_loss"}
    always = {"advantage", "advantage_std", "entropy", "gradient_norm_actor", "learning_rate", "return"}
    always |= {"entropy_loss", "policy_loss"}  # as Stable-Baselines3 calls them
    assert {tag.partition("/")[2] for tag in tags if tag.startswith("train/")} == always | (
        learned if baseline == "relax" else set()
    )
    assert tags >= {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "time/share_acting", "time/share_update"}

    def last(tag: str) -> float:
        return events.Scalars(tag)[-1].value

    assert 0 <= last("train/entropy") <= np.log(2) + 1e-6
    assert last("train/advantage_std") > 0
    assert last("train/gradient_norm_actor") > 0
    assert events.Scalars("train/return")[-1].step == model.num_timesteps
    if baseline == "relax":
        assert last("train/explained_variance") <= 1
    assert sum(model.stopwatch.shares().values()) == pytest.approx(1.0)


def test_divergence_is_an_error() -> None:
    model = make_reinforce().learn(1)
    rollout = play(make_reinforce())
    model.train(rollout._replace(rewards=torch.full_like(rollout.rewards, torch.nan)))
    with pytest.raises(FloatingPointError, match="return is nan after 2 updates: the training diverged"):
        model.dump_logs()


# Arguments


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": "mean"}, r"baseline must be one of \('none', .*\), but got 'mean'"),
        ({"n_episodes": 0}, "n_episodes must be an integer of at least 1, but got 0"),
        ({"n_episodes": 2.0}, "n_episodes must be an integer of at least 1, but got 2.0"),
        (
            {"n_episodes": 1, "baseline": "leave-one-out"},
            "n_episodes must be an integer of at least 2, but got 1: the baseline 'leave-one-out' needs another",
        ),
        ({"critic_updates": 0}, "critic_updates must be an integer of at least 1, but got 0"),
        ({"gamma": 1.1}, r"gamma must be in \[0, 1\], but got 1.1"),
        ({"gae_lambda": -0.1}, r"gae_lambda must be in \[0, 1\], but got -0.1"),
        (
            {"gae_lambda": 0.9, "baseline": "none"},
            "gae_lambda must be 1 without a value network, but got 0.9 with the baseline 'none'",
        ),
        ({"ent_coef": -1.0}, "ent_coef must be a number of at least 0, but got -1.0"),
        ({"ent_coef": "auto"}, "ent_coef must be a number of at least 0, but got 'auto'"),
        ({"ent_coef": abs}, "ent_coef must be a number of at least 0, but got <built-in function abs>"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive or None, but got 0.0"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number or a function, but got 0.0"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, "policy_kwargs must not hold 'optimizer_class'"),
        ({"policy": "LstmPolicy"}, "LstmPolicy"),
        ({"env": None}, "env must be an environment, but got None; Reinforce.load needs none to predict"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_reinforce(**settings)


def test_n_episodes_must_be_shared_out_among_the_environments() -> None:
    model = make_reinforce(make_vec_env(CARTPOLE, 2), n_episodes=3)
    with pytest.raises(ValueError, match="n_episodes must be a multiple of the 2 environments, but got 3"):
        model.learn(10)


@pytest.mark.parametrize("name", ["n_steps", "batch_size", "vf_coef", "use_sde", "no_such_argument"])
def test_arguments_of_stable_baselines_that_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"Reinforce has no argument '{name}'"):
        make_reinforce(**{name: 1})


@pytest.mark.parametrize("action_space", [spaces.Box(-1.0, 1.0, (1,)), spaces.Tuple([spaces.Discrete(2)])])
def test_other_action_spaces_are_refused(action_space: spaces.Space) -> None:
    message = f"Discrete, MultiDiscrete or MultiBinary action space, but got {re.escape(type(action_space).__name__)}"
    with pytest.raises(TypeError, match=message):
        make_reinforce(env=Spaces(action_space))


def test_an_environment_without_final_observations_is_refused() -> None:
    class Lost(DummyVecEnv):
        def step_wait(self) -> Any:
            observations, rewards, dones, infos = super().step_wait()
            for info in infos:
                info.pop("terminal_observation", None)
            return observations, rewards, dones, infos

    with pytest.raises(ValueError, match=r"env must give infos\[i\]\['terminal_observation'\]"):
        make_reinforce(Lost([Count])).learn(10)


def test_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_reinforce(baseline="relax").learn(40)
