"""DiscreteSAC as a Stable-Baselines3 algorithm: determinism, state, saving, callbacks, logging, spaces, errors."""

from __future__ import annotations

import copy
import functools
import io
import json
import operator
import os
import pickle
import random
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import envs
from gsrl import DiscreteSAC, checkpoint, make_estimator
from gsrl.checkpoint import CheckpointError
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, GumbelSoftmax, STGumbel
from gsrl.relaxations import gumbel_noise
from gsrl.replay import ReplayBatch
from gsrl.schedules import ExponentialSchedule
from gsrl.temperature import ExponentialTemperature, LearnedTemperature

CARTPOLE = "CartPole-v1"
OBSERVATIONS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)


def make_model(env: Any = CARTPOLE, policy: str = "MlpPolicy", **settings: Any) -> DiscreteSAC:
    defaults: dict[str, Any] = {
        "policy_kwargs": {"net_arch": [8]},
        "buffer_size": 1000,
        "learning_starts": 20,
        "batch_size": 8,
        "seed": 0,
        "device": "cpu",
    }
    return DiscreteSAC(policy, gym.make(env) if isinstance(env, str) else env, **(defaults | settings))


def flat(tree: Any) -> Iterator[Any]:
    """The leaves of nested dicts."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from flat(value)
    else:
        yield tree


def parameters(model: DiscreteSAC) -> list[Any]:
    """Every tensor and number that is trained or that training keeps."""
    return list(flat(model.get_parameters()))


def same(left: list[Any], right: list[Any]) -> bool:
    assert len(left) == len(right)
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(left, right, strict=True))


def random_batch(size: int = 8, n: int = 1) -> ReplayBatch:
    generator = torch.Generator().manual_seed(0)
    return ReplayBatch(
        torch.randn(size, 4, generator=generator),
        torch.randint(2, (size, n), generator=generator),
        torch.randn(size, generator=generator),
        torch.randn(size, 4, generator=generator),
        torch.full((size,), 0.9),
    )


def in_windows(batch: ReplayBatch, steps: int = 3) -> ReplayBatch:
    """Transitions as windows of the same step again and again."""

    def repeated(tensor: Tensor) -> Tensor:
        return torch.stack([tensor] * steps, 1)

    assert isinstance(batch.next_observations, Tensor)
    return batch._replace(
        rewards=repeated(batch.rewards),
        next_observations=repeated(batch.next_observations),
        discounts=repeated(batch.discounts),
        next_actions=repeated(batch.actions),
        continues=repeated(torch.ones(len(batch.actions), dtype=torch.bool)),
    )


# Determinism


def test_the_same_seed_gives_the_same_parameters_whatever_the_global_generators_do() -> None:
    models = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)
        random.seed(disturbance)
        models.append(make_model().learn(60))
    assert same(*(parameters(model) for model in models))
    assert torch.equal(models[0].generator.get_state(), models[1].generator.get_state())
    assert not same(parameters(models[0]), parameters(make_model(seed=1).learn(60)))


def test_global_generators_are_left_alone() -> None:
    def states() -> tuple[bytes, bytes, Any]:
        return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()

    before = states()
    model = make_model()
    model.learn(60)
    model.predict(OBSERVATIONS, deterministic=False)
    assert states() == before


def test_initial_parameters_depend_on_the_seed_alone() -> None:
    assert same(parameters(make_model(seed=3)), parameters(make_model(seed=3)))
    assert not same(parameters(make_model(seed=3)), parameters(make_model(seed=4)))


def test_reseeding_restarts_actions_and_replay() -> None:
    model = make_model().learn(40)
    draws = []
    for _ in range(2):
        model.set_random_seed(5)
        assert model.replay_buffer is not None
        actions, _ = model.predict(OBSERVATIONS, deterministic=False)
        draws.append((actions.tolist(), model.replay_buffer.sample(8).rewards.tolist(), model.generator.get_state()))
    assert draws[0][:2] == draws[1][:2]
    assert torch.equal(draws[0][2], draws[1][2])
    assert model.policy.generator is model.generator


def test_deterministic_prediction_is_the_mode_and_draws_nothing() -> None:
    model = make_model()
    before = model.generator.get_state()
    actions, _ = model.predict(OBSERVATIONS, deterministic=True)
    again, _ = model.predict(OBSERVATIONS, deterministic=True)
    policy = model.policy.actor(torch.as_tensor(OBSERVATIONS))
    assert torch.equal(model.generator.get_state(), before)
    np.testing.assert_array_equal(actions, again)
    np.testing.assert_array_equal(actions, policy.probs[:, 0].argmax(-1).numpy())


def test_stochastic_prediction_has_the_frequencies_of_the_policy() -> None:
    model = make_model()
    probability = model.policy.actor(torch.as_tensor(OBSERVATIONS[:1])).probs[0, 0, 1].item()
    actions, _ = model.predict(np.repeat(OBSERVATIONS[:1], 4000, axis=0), deterministic=False)
    # Five standard deviations: a failure rate of 6e-7, were the seed not fixed.
    assert abs(actions.mean() - probability) < 5 * (probability * (1 - probability) / 4000) ** 0.5
    assert 0 < actions.mean() < 1


def test_actions_of_one_observation_are_scalars_of_the_space() -> None:
    model = make_model(env="gsrl/ProbeStart-v0")
    observation = np.zeros(1, np.float32)
    for deterministic in (True, False):
        action, state = model.predict(observation, deterministic=deterministic)
        assert action.shape == ()
        assert state is None
        assert action in model.action_space
    assert {int(model.predict(observation)[0]) for _ in range(100)} == {5, 6, 7}


# One update


def test_an_update_reads_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator, each of these calls would wait for it."""
    calls: list[str] = []
    for name in ("item", "__bool__", "__float__", "__int__", "__index__", "numpy", "tolist", "cpu", "nonzero"):
        original = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            calls.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, counted)
    for estimator in ("st-gumbel", "exact", "straight-through", "reinforce", "rloo"):
        model = make_model(estimator=estimator, max_grad_norm=1.0, q_clip=0.5)
        batch = random_batch()
        calls.clear()
        model.update(batch)
        model.update(batch)
        assert calls == [], estimator
    for critic in ("multilinear", "network"):
        policy_kwargs = {"net_arch": [8], "critic": critic}
        model = make_model(Spaces(spaces.MultiDiscrete([2, 3])), policy_kwargs=policy_kwargs, q_clip=0.5)
        batch = random_batch(n=2)
        calls.clear()
        model.update(batch)
        model.update(batch)
        mask = torch.ones(8, 2, 3, dtype=torch.bool)
        model.update(batch._replace(action_mask=mask, next_action_mask=mask))
        model.update(in_windows(batch))
        assert calls == [], critic
    assert torch.ones(1).item() == 1.0
    assert calls == ["item"]


def test_the_entropy_coefficient_follows_its_schedule_also_after_loading(tmp_path: Path) -> None:
    model = make_model(ent_coef=ExponentialSchedule(0.4, 0.01, 0.5))
    assert model.entropy_coefficient().item() == pytest.approx(0.4)
    model.learn(60)
    assert model.entropy_coefficient().item() == pytest.approx(0.01)
    model.save(tmp_path / "model.zip")
    loaded = DiscreteSAC.load(tmp_path / "model.zip")
    assert loaded.ent_coef == ExponentialSchedule(0.4, 0.01, 0.5)
    assert loaded.entropy_coefficient().item() == pytest.approx(0.01)
    never = make_model(ent_coef=lambda remaining: 0.0).learn(30)
    assert never.entropy_coefficient().item() == 0.0


def test_the_learning_rate_follows_its_schedule() -> None:
    model = make_model(learning_rate=lambda remaining: remaining * 1e-2)
    before = model.policy.actor.head.bias.clone()
    model._current_progress_remaining = 0.5
    model.update(random_batch())
    # The first step of Adam moves each parameter by the learning rate.
    moved = (model.policy.actor.head.bias - before).abs()
    torch.testing.assert_close(moved, torch.full((2,), 5e-3), rtol=1e-3, atol=0.0)
    before = model.policy.actor.head.bias.clone()
    model._current_progress_remaining = 0.0
    model.update(random_batch())
    assert torch.equal(model.policy.actor.head.bias, before)


def test_the_target_networks_follow_at_their_interval() -> None:
    model = make_model(tau=0.25, target_update_interval=3)
    target = model.policy.critic_target.weight
    start = target.clone()
    for _ in range(2):
        model.update(random_batch())
        assert torch.equal(target, start)
    model.update(random_batch())
    torch.testing.assert_close(target, 0.75 * start + 0.25 * model.policy.critic.weight)


def test_the_critics_learn_from_the_target_networks() -> None:
    model = make_model(ent_coef=0.0)
    batch = random_batch()
    model.update(batch)
    base = model._metrics["target"]
    model = make_model(ent_coef=0.0)
    with torch.no_grad():
        model.policy.critic_target.bias += 10.0
    model.update(batch)
    torch.testing.assert_close(model._metrics["target"], base + 9.0)  # 0.9 * 10


def test_rewards_and_discounts_make_the_target() -> None:
    model = make_model(ent_coef=0.0)
    batch = random_batch()._replace(discounts=torch.zeros(8))
    model.update(batch)
    torch.testing.assert_close(model._metrics["target"], batch.rewards)


@pytest.mark.parametrize(
    ("env", "critic"),
    [("gsrl/MaskedGrid-v0", "choices"), ("gsrl/BitMatch-v0", "multilinear"), ("gsrl/FactoredMatch-v0", "network")],
)
def test_the_steps_of_a_window_make_the_target(env: str, critic: str) -> None:
    model = make_model(
        env,
        n_steps=3,
        n_step_correction=True,
        reward_scale=1.0,
        ent_coef=0.1,
        critics="mean",
        entropy_in_target=True,
        exploration_eps=0.5,
        policy_kwargs={"net_arch": [8], "critic": critic},
    ).learn(60)
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(32)
    assert batch.next_actions is not None
    assert batch.continues is not None
    assert batch.continues.any()
    assert not batch.continues.all()
    masks, taken = batch.next_action_mask, batch.next_actions.unsqueeze(-1)
    if model.masked:
        assert masks is not None
        assert not masks.all()
        assert masks.gather(-1, taken)[batch.continues].all()

    noise = None
    if critic == "network":
        generator = torch.Generator()
        generator.set_state(model.generator.get_state())
        model.estimator.draw_noise(model.actor(batch.observations), generator)
        codec = model.actor.head.codec
        noise = gumbel_noise((32, 3, codec.n, codec.K), generator=generator)
    values, traces, bonuses = [], [], [torch.zeros(32)]
    with torch.no_grad():
        for step in range(3):
            observations = batch.next_observations[:, step]  # type: ignore[index]
            policy = model.actor(observations, None if masks is None else masks[:, step])
            critics = model.critic_target(observations)
            alpha = model.entropy_coefficient()
            values.append(critics.soft_value(policy, alpha, "mean", noise=None if noise is None else noise[:, step]))
            one_hot = torch.zeros_like(policy.logits).scatter(-1, taken[:, step], 1.0)
            shares = (policy.probs * one_hot).sum(-1) * policy.mask.sum(-1)
            bonuses.append((alpha * policy.factor_entropy()).sum(-1))
            traces.append(shares.clamp_max(1.0).prod(-1) * batch.continues[:, step])
    target = values[2]
    for step in (2, 1, 0):
        bracket = (1 - traces[step]) * values[step] + traces[step] * target
        target = batch.rewards[:, step] + bonuses[step] + batch.discounts[:, step] * bracket

    model.update(batch)
    torch.testing.assert_close(model._metrics["target"], target, rtol=1e-4, atol=1e-5)


def test_returns_go_over_several_steps_by_themselves_where_actions_have_one_factor() -> None:
    for env, n_steps in ((CARTPOLE, 3), ("gsrl/BitMatch-v0", 1)):
        model = make_model(env, n_steps="auto")
        assert model.n_steps == n_steps
        model.n_steps = 5
        model.n_steps = "auto"
        assert model.replay_buffer is not None
        assert model.n_steps == model.replay_buffer.n_steps == n_steps
    with pytest.raises(ValueError, match="n_steps must be an integer of at least 1, but got 'many'"):
        make_model(n_steps="many")


@pytest.mark.parametrize(
    ("action_space", "critic", "estimator"),
    [
        (spaces.Discrete(3), "auto", "straight-through"),
        (spaces.Discrete(3), "network", "rloo"),
        (spaces.MultiBinary(3), "auto", "rloo"),
        (spaces.MultiDiscrete([2, 3]), "multilinear", "straight-through"),
    ],
)
def test_critics_choose_the_estimator(action_space: spaces.Space, critic: str, estimator: str) -> None:
    model = make_model(Spaces(action_space), estimator="auto", policy_kwargs={"critic": critic, "net_arch": [8]})
    assert model.estimator.name == estimator


def test_n_step_returns_may_be_left_as_they_are_from_now_on() -> None:
    model = make_model(n_steps=3, n_step_correction=True).learn(40)
    assert model.replay_buffer is not None
    model.n_step_correction = False
    assert model.replay_buffer.sample(8).next_actions is None
    model.learn(20, reset_num_timesteps=False)
    model.n_step_correction = True
    assert model.replay_buffer.sample(8).rewards.shape == (8, 3)
    model.learn(20, reset_num_timesteps=False)
    assert model._n_updates == 60


# Saving and loading


def assert_same_agent(left: DiscreteSAC, right: DiscreteSAC) -> None:
    assert same(parameters(left), parameters(right))
    actions, others = (agent.predict(OBSERVATIONS, deterministic=True)[0] for agent in (left, right))
    np.testing.assert_array_equal(actions, others)


@pytest.mark.parametrize("estimator", ["st-gumbel", "exact", "gumbel-softmax", "straight-through", "reinforce", "rloo"])
def test_a_loaded_agent_predicts_and_goes_on_learning(estimator: str, tmp_path: Path) -> None:
    model = make_model(estimator=estimator, learning_rate=1e-3, critics="mean", q_clip=0.5).learn(40)
    model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").exists()
    loaded = DiscreteSAC.load(tmp_path / "model", env=gym.make(CARTPOLE), device="cpu")
    assert_same_agent(model, loaded)
    # The generator is saved too.
    np.testing.assert_array_equal(model.predict(OBSERVATIONS)[0], loaded.predict(OBSERVATIONS)[0])
    assert (loaded.num_timesteps, loaded._n_updates) == (model.num_timesteps, model._n_updates)
    assert (loaded.learning_rate, loaded.critics, loaded.q_clip) == (1e-3, "mean", 0.5)
    assert loaded.estimator.name == estimator
    before = [torch.as_tensor(value).clone() for value in parameters(loaded)]
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.num_timesteps == 80
    assert loaded._n_updates > model._n_updates
    assert not same(before, parameters(loaded))


def test_loading_without_an_environment_is_enough_to_predict(tmp_path: Path) -> None:
    model = make_model()
    model.save(tmp_path / "model.zip")
    loaded = DiscreteSAC.load(str(tmp_path / "model.zip"))
    assert loaded.env is None
    assert loaded.observation_space == model.observation_space
    assert_same_agent(model, loaded)


def test_files_in_memory() -> None:
    model = make_model()
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert_same_agent(model, DiscreteSAC.load(file))


def test_loading_with_another_number_of_environments(tmp_path: Path) -> None:
    model = make_model(train_freq=(1, "step")).learn(40)
    model.save(tmp_path / "model", include=["replay_buffer"])
    with pytest.warns(UserWarning, match="replay buffer of 1 environments was left out: env has 3"):
        loaded = DiscreteSAC.load(tmp_path / "model", env=make_vec_env(CARTPOLE, 3))
    assert loaded.n_envs == 3
    assert loaded.replay_buffer is not None
    assert loaded.replay_buffer.n_envs == 3
    assert len(loaded.replay_buffer) == 0
    assert_same_agent(model, loaded)
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 100


def test_loading_into_other_spaces_is_refused(tmp_path: Path) -> None:
    make_model().save(tmp_path / "model")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        DiscreteSAC.load(tmp_path / "model", env=gym.make("Acrobot-v1"))


def test_settings_can_be_changed_on_loading(tmp_path: Path) -> None:
    make_model().save(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", env=gym.make(CARTPOLE), batch_size=16, gradient_steps=2)
    assert (loaded.batch_size, loaded.gradient_steps) == (16, 2)


def test_settings_that_do_not_fit_the_parameters_are_refused(tmp_path: Path) -> None:
    make_model().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"do not fit the changed settings \['policy_kwargs'\]"):
        DiscreteSAC.load(tmp_path / "model", policy_kwargs={"net_arch": [16]})


@pytest.mark.parametrize(
    ("entry", "change", "message"),
    [
        (("last_masks",), None, "last_masks is missing"),
        (("n_envs",), None, "n_envs is missing"),
        (("counters", "_n_updates"), None, "counters._n_updates is missing"),
        (("parameters", "policy", "actor.head.bias"), None, "parameters.policy.actor.head.bias is missing"),
        (
            ("parameters", "entropy_coefficient", "log_value"),
            lambda value: value[0],
            "parameters.entropy_coefficient.log_value has shape [], but must have [1]",
        ),
        # Adam's averages of a scalar would fit any shape.
        (
            ("parameters", "learner", "exp_avg", "entropy_coefficient.log_value"),
            lambda value: value[0],
            "parameters.learner.exp_avg.entropy_coefficient.log_value has shape [], but must have [1]",
        ),
        (("replay_buffer", "dummy"), None, "state must have the entries"),
        (
            ("parameters", "policy", "actor.old"),
            lambda _: torch.zeros(1),
            'Unexpected key(s) in state_dict: "actor.old',
        ),
    ],
)
def test_files_of_other_versions_are_one_clear_error(
    entry: tuple[str, ...], change: Callable[[Any], Any] | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.zip"
    make_model(ent_coef="auto").learn(30).save(path, include=["replay_buffer"])
    tree = checkpoint.load(path)
    *outer, last = entry
    node = functools.reduce(operator.getitem, outer, tree)
    value = node.pop(last, None)
    if change is not None:
        node[last] = change(value)
    checkpoint.save(path, tree)
    expected = rf"model\.zip does not fit .*{re.escape(message)}.*; train again, or load it with"
    with pytest.raises(CheckpointError, match=expected):
        DiscreteSAC.load(path)
    if entry[0] in ("parameters", "n_envs"):
        with pytest.raises(CheckpointError, match=expected):
            make_model(ent_coef="auto").set_parameters(str(path))
    else:
        make_model(ent_coef="auto").set_parameters(str(path))


def test_a_state_that_lacks_an_entry_changes_nothing() -> None:
    model, state = make_model(), make_model(seed=1).learn(30).state_dict()
    before = [torch.as_tensor(value).clone() for value in parameters(model)]
    del state["last_masks"]
    with pytest.raises(CheckpointError, match=r"^last_masks is missing$"):
        model.load_state_dict(state)
    assert same(before, parameters(model))


def test_a_model_is_no_replay_buffer(tmp_path: Path) -> None:
    make_model().save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"model\.zip does not fit .*: replay_buffer is missing"):
        make_model().load_replay_buffer(tmp_path / "model.zip")


def test_settings_that_are_left_out_take_their_defaults(tmp_path: Path) -> None:
    model = make_model(batch_size=8)
    model.save(tmp_path / "model", exclude=["batch_size"])
    default = DiscreteSAC("MlpPolicy", CARTPOLE).batch_size
    assert DiscreteSAC.load(tmp_path / "model").batch_size == default != 8
    with pytest.raises(ValueError, match="exclude must name settings"):
        model.save(tmp_path / "model", exclude=["policy"])


def test_the_replay_buffer_is_saved_where_it_is_asked_for(tmp_path: Path) -> None:
    model = make_model().learn(40)
    model.save(tmp_path / "without")
    model.save(tmp_path / "with", include=["replay_buffer"])
    for name, size in (("without", 0), ("with", 40)):
        loaded = DiscreteSAC.load(tmp_path / name, env=gym.make(CARTPOLE))
        assert loaded.replay_buffer is not None
        assert len(loaded.replay_buffer) == size


def test_saving_and_loading_the_replay_buffer(tmp_path: Path) -> None:
    model = make_model().learn(40)
    model.save_replay_buffer(tmp_path / "buffer.zip")
    other = make_model(seed=1)
    other.load_replay_buffer(tmp_path / "buffer.zip", truncate_last_traj=False)
    assert model.replay_buffer is not None
    assert other.replay_buffer is not None
    assert len(other.replay_buffer) == 40
    for name in ("observations", "actions", "rewards", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(other.replay_buffer, name)[:40], getattr(model.replay_buffer, name)[:40])
    model.replay_buffer.terminated[39] = model.replay_buffer.truncated[39] = False
    model.save_replay_buffer(tmp_path / "buffer.zip")
    other.load_replay_buffer(tmp_path / "buffer.zip")
    assert other.replay_buffer.truncated[39, 0]
    other.learn(30)
    assert len(other.replay_buffer) == 70


def test_set_and_get_parameters(tmp_path: Path) -> None:
    model = make_model().learn(40)
    assert set(model.get_parameters()) == {"policy", "estimator", "entropy_coefficient", "learner"}
    model.save(tmp_path / "model")
    for source in (model.get_parameters(), str(tmp_path / "model")):
        other = make_model(seed=1)
        assert not same(parameters(model), parameters(other))
        other.set_parameters(source)
        assert_same_agent(model, other)
        other.update(random_batch())  # still views of the learner's


def test_parameters_are_read_from_a_file_whose_settings_cannot_be(tmp_path: Path) -> None:
    model = make_model(learning_rate=lambda remaining: 1e-3 * remaining)
    model.save(tmp_path / "model")
    other = make_model(seed=1)
    other.set_parameters(str(tmp_path / "model"))
    assert_same_agent(model, other)


def test_nothing_is_restored_where_the_replay_buffer_does_not_fit() -> None:
    state = make_model().learn(40).state_dict()
    other = make_model(seed=1, buffer_size=500)
    before = [p.clone() for p in other.policy.parameters()]
    with pytest.raises(ValueError, match="buffer_size"):
        other.load_state_dict(state)
    assert same(before, list(other.policy.parameters()))
    assert other.num_timesteps == 0


def test_the_window_of_the_statistics_can_be_changed(tmp_path: Path) -> None:
    model = make_model().learn(200)
    model.save(tmp_path / "model")
    assert DiscreteSAC.load(tmp_path / "model").ep_info_buffer.maxlen == 100
    changed = DiscreteSAC.load(tmp_path / "model", stats_window_size=5)
    assert changed.stats_window_size == changed.ep_info_buffer.maxlen == 5
    assert list(changed.ep_info_buffer) == list(model.ep_info_buffer)[-5:]


def test_exact_match() -> None:
    model = make_model()
    target = [p.clone() for p in model.policy.parameters()]
    partial = {"policy": make_model(seed=1).get_parameters()["policy"]}
    with pytest.raises(ValueError, match="entropy_coefficient"):
        model.set_parameters(partial)
    model.set_parameters(partial, exact_match=False)
    assert not same(target, list(model.policy.parameters()))
    assert same(list(flat(partial)), list(flat(model.get_parameters()["policy"])))


def test_a_restored_state_goes_on_bit_identically() -> None:
    model = make_model(estimator=STGumbel(ExponentialTemperature(1.0, 0.1, 50)), max_grad_norm=1.0, n_steps=2).learn(50)
    other = make_model(seed=9, estimator=STGumbel(ExponentialTemperature(1.0, 0.1, 50)), max_grad_norm=1.0, n_steps=2)
    other.load_state_dict(model.state_dict())
    for agent in (model, other):
        agent.train(gradient_steps=10, batch_size=8)
    assert same(parameters(model), parameters(other))
    np.testing.assert_array_equal(model.predict(OBSERVATIONS)[0], other.predict(OBSERVATIONS)[0])


def test_exploration_goes_on_in_a_restored_state_and_begins_anew_where_it_cannot(tmp_path: Path) -> None:
    model = make_model(exploration_eps=0.5).learn(50)
    other = make_model(exploration_eps=0.5, seed=9)
    other.load_state_dict(model.state_dict())
    for _ in range(30):
        mine, theirs = (agent._exploration.advance([agent.generator]) for agent in (model, other))
        assert torch.equal(mine, theirs)
    model.save(tmp_path / "model")
    assert DiscreteSAC.load(tmp_path / "model", env=make_vec_env(CARTPOLE, 3)).learn(30).num_timesteps == 30
    make_model().save(tmp_path / "without")
    loaded = DiscreteSAC.load(tmp_path / "without", env=gym.make(CARTPOLE), exploration_eps=0.5)
    assert loaded.learn(30).num_timesteps == 30
    model.set_random_seed(3)
    assert not model._exploration.remaining.any()


class Schedule:
    """A schedule that is no function of a module."""

    def __call__(self, remaining: float) -> float:
        return 1e-3 * remaining


@pytest.mark.parametrize("schedule", [lambda remaining: 1e-3 * remaining, Schedule()], ids=["lambda", "object"])
def test_unknown_schedules_need_custom_objects(schedule: Any, tmp_path: Path) -> None:
    model = make_model(learning_rate=schedule).learn(30)
    with pytest.warns(UserWarning, match="learning_rate"):
        model.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r'learning_rate holds .* pass custom_objects=\{"learning_rate"'):
        DiscreteSAC.load(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", custom_objects={"learning_rate": 5e-4})
    assert loaded.lr_schedule(1.0) == 5e-4
    assert_same_agent(model, loaded)


# Files of strangers


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_files_of_strangers_run_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    bomb = pickle.dumps(Bomb(mark))
    make_model().save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(members["checkpoint.json"])

    def attack(name: str, replaced: dict[str, bytes]) -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in (members | replaced).items():
                archive.writestr(member, content)
        return path

    command = f"touch {mark}"
    attacks = [attack("pickle.zip", {name: bomb for name in members if name.endswith(".npy")})]
    for index, node in enumerate(
        (
            {"type": "class", "name": "os.system"},
            {"type": "class", "name": "posix.system"},
            {"type": "object", "name": "os.system", "settings": {"command": command}},
            {"type": "unresolved", "name": "os:system", "repr": command},
        )
    ):
        for entry in ("policy_class", "estimator", "learning_rate"):
            tree = json.loads(json.dumps(document))
            assert entry in tree["tree"]
            tree["tree"][entry] = node
            attacks.append(attack(f"json{index}{entry}.zip", {"checkpoint.json": json.dumps(tree).encode()}))
    for path in attacks:
        with pytest.raises(CheckpointError):
            DiscreteSAC.load(path)
        with suppress(CheckpointError):  # settings are not even read here
            make_model().set_parameters(str(path))
    # An extra member is not even looked at.
    DiscreteSAC.load(attack("extra.zip", {"data.pkl": bomb}))
    assert not mark.exists()


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    DQN("MlpPolicy", CARTPOLE, buffer_size=10, policy_kwargs={"net_arch": [4]}).save(tmp_path / "dqn")
    with pytest.raises(CheckpointError, match="Stable-Baselines3"):
        DiscreteSAC.load(tmp_path / "dqn")
    make_model().save_replay_buffer(tmp_path / "buffer.zip")
    with pytest.raises(CheckpointError, match="not a saved DiscreteSAC"):
        DiscreteSAC.load(tmp_path / "buffer.zip")
    with pytest.raises(FileNotFoundError):
        DiscreteSAC.load(tmp_path / "missing")

    class Other(DiscreteSAC):
        pass

    make_model().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"holds a DiscreteSAC, but Other\.load was called"):
        Other.load(tmp_path / "model")


# Stable-Baselines3's callbacks and wrappers


def test_callbacks(tmp_path: Path) -> None:
    evaluation = EvalCallback(
        gym.make(CARTPOLE),
        callback_on_new_best=StopTrainingOnRewardThreshold(1.0, verbose=0),
        eval_freq=30,
        n_eval_episodes=1,
        best_model_save_path=str(tmp_path / "best"),
        log_path=str(tmp_path / "log"),
        verbose=0,
        warn=False,
    )
    checkpoints = CheckpointCallback(15, str(tmp_path / "checkpoints"), save_replay_buffer=True)
    model = make_model().learn(100, callback=[checkpoints, evaluation])
    assert model.num_timesteps == 30  # any return of CartPole is above the threshold
    assert_same_agent(model, DiscreteSAC.load(tmp_path / "best" / "best_model"))
    assert (tmp_path / "log" / "evaluations.npz").exists()
    assert {path.suffix for path in (tmp_path / "checkpoints").iterdir()} <= {".zip", ".pkl"}
    loaded = DiscreteSAC.load(tmp_path / "checkpoints" / "rl_model_30_steps", env=gym.make(CARTPOLE))
    assert_same_agent(model, loaded)
    loaded.load_replay_buffer(tmp_path / "checkpoints" / "rl_model_replay_buffer_30_steps.pkl")
    assert len(loaded.replay_buffer or ()) == 29  # Stable-Baselines3 calls back before it stores the step
    loaded.learn(20, reset_num_timesteps=False)


def test_evaluate_policy() -> None:
    model = make_model()
    assert model.env is not None
    mean, deviation = evaluate_policy(model, model.env, n_eval_episodes=2, deterministic=True)
    assert mean > 0
    assert deviation >= 0


def test_vec_normalize(tmp_path: Path) -> None:
    env = VecNormalize(make_vec_env(CARTPOLE, 2, seed=0), gamma=0.99)
    model = make_model(env=env).learn(100)
    assert model._vec_normalize_env is env
    assert model.replay_buffer is not None
    # Raw observations are stored, normalised ones sampled.
    env.obs_rms.mean[:] = 100.0
    env.obs_rms.var[:] = 1.0
    assert np.abs(model.replay_buffer.observations[:50]).max() < 10
    assert (model.replay_buffer.sample(8, env=env).observations == -env.clip_obs).all()  # type: ignore[union-attr]

    model.save(tmp_path / "model")
    env.save(str(tmp_path / "normalisation.pkl"))
    evaluation = VecNormalize.load(str(tmp_path / "normalisation.pkl"), make_vec_env(CARTPOLE, 1, seed=1))
    evaluation.training = evaluation.norm_reward = False
    loaded = DiscreteSAC.load(tmp_path / "model", env=evaluation)
    returns, _ = evaluate_policy(loaded, evaluation, n_eval_episodes=2, return_episode_rewards=True)
    assert len(returns) == 2
    assert all(value >= 1.0 and float(value).is_integer() for value in returns)


def make_cartpole() -> gym.Env:
    return gym.make(CARTPOLE)


@pytest.mark.parametrize(("vectorised", "n_envs", "updates"), [(DummyVecEnv, 3, 42), (SubprocVecEnv, 2, 40)])
def test_vectorised_environments(vectorised: Any, n_envs: int, updates: int) -> None:
    env = vectorised([make_cartpole] * n_envs)
    model = make_model(env=env, gradient_steps=-1).learn(60)
    assert model.replay_buffer is not None
    assert len(model.replay_buffer) == 60
    # As many updates as steps, from the first round that ends after step 20.
    assert model._n_updates == updates
    env.close()


def test_updates_after_each_episode() -> None:
    model = make_model(train_freq=(1, "episode"), gradient_steps=-1, learning_starts=0)
    model.learn(40)
    # As many updates as steps, those of whole episodes.
    assert model._n_updates == model.num_timesteps >= 40


@pytest.mark.parametrize(("gradient_steps", "expected"), [(1, 40), (3, 120), (-1, 80)])
def test_the_number_of_updates(gradient_steps: int, expected: int) -> None:
    model = make_model(train_freq=2, gradient_steps=gradient_steps, learning_starts=0).learn(80)
    assert model._n_updates == expected


def test_warm_up_actions_are_uniform() -> None:
    model = make_model(env="gsrl/ProbeStart-v0", learning_starts=600)
    with torch.no_grad():
        model.policy.actor.head.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))  # the policy itself would take the first one
    model.learn(600)
    assert model._n_updates == 0
    assert model.replay_buffer is not None
    counts = np.bincount(model.replay_buffer.actions[:600, 0, 0], minlength=3)
    # Chi-squared of two degrees of freedom: above 30 with a rate of 3e-7, were the seed not fixed.
    assert ((counts - 200) ** 2 / 200).sum() < 30


# Logging


def test_tensorboard_holds_what_is_promised(tmp_path: Path) -> None:
    model = make_model(
        tensorboard_log=str(tmp_path),
        estimator=STGumbel(ExponentialTemperature(1.0, 0.5, 10)),
        ent_coef="auto",
        target_entropy_ratio=0.1,
    )
    model.learn(150, log_interval=1)
    events = EventAccumulator(str(tmp_path / "DiscreteSAC_1"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {
        "rollout/ep_rew_mean",
        "time/fps",
        "time/updates_per_second",
        "train/actor_loss",
        "train/critic_loss",
        "train/ent_coef",
        "train/ent_coef_loss",
        "train/entropy",
        "train/expected_q",
        "train/gradient_norm_actor",
        "train/gradient_norm_critic",
        "train/gradient_norm_entropy_coefficient",
        "train/learning_rate",
        "train/q",
        "train/q_max",
        "train/target",
        "train/target_entropy",
        "train/temperature",
    }

    def last(tag: str) -> float:
        return events.Scalars(tag)[-1].value

    assert last("train/temperature") == pytest.approx(0.5)
    assert last("train/target_entropy") == pytest.approx(0.1 * np.log(2))
    assert 0 <= last("train/entropy") <= np.log(2) + 1e-6
    assert last("train/q_max") >= last("train/q")
    assert last("train/gradient_norm_critic") > 0
    assert last("time/updates_per_second") > 0


def test_divergence_is_an_error() -> None:
    model = make_model().learn(25)
    model.update(random_batch()._replace(rewards=torch.full((8,), torch.nan)))
    with pytest.raises(FloatingPointError, match=r"critic_loss is nan after \d+ updates"):
        model.dump_logs()


# Observations


def test_images() -> None:
    model = make_model(
        env="gsrl/ProbeImage-v0",
        policy="CnnPolicy",
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}},
        learning_starts=10,
    ).learn(16)
    assert model._n_updates == 6
    assert model.replay_buffer is not None
    assert model.replay_buffer.observations.dtype == np.uint8  # type: ignore[union-attr]
    action, _ = model.predict(envs.probes.Image().observation_space.sample())
    assert action in (0, 1)


def test_dict_observations(tmp_path: Path) -> None:
    model = make_model(env="gsrl/ProbeDictObservation-v0", policy="MultiInputPolicy").learn(40)
    model.save(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", env=gym.make("gsrl/ProbeDictObservation-v0"))
    assert same(parameters(model), parameters(loaded))
    loaded.learn(30)


# Actions


@pytest.mark.parametrize(
    ("action_space", "critic"),
    [
        (spaces.Discrete(3, start=-1), "choices"),
        (spaces.Discrete(3, start=5), "network"),
        (spaces.MultiDiscrete([2, 4, 1, 3]), "multilinear"),
        (spaces.MultiDiscrete([2, 3], start=[-1, 5]), "network"),
        (spaces.MultiDiscrete([[2, 3], [4, 2]]), "multilinear"),
        (spaces.MultiBinary((2, 3)), "multilinear"),
        (spaces.MultiBinary(3), "network"),
    ],
    ids=str,
)
def test_an_agent_acts_inside_its_space(action_space: spaces.Space, critic: str, tmp_path: Path) -> None:
    def predictions(model: DiscreteSAC, *, deterministic: bool) -> np.ndarray:
        """Checked one by one; the generator advances."""
        actions, _ = model.predict(OBSERVATIONS, deterministic=deterministic)
        assert actions.shape == (64, *(action_space.shape or ()))
        assert all(action_space.contains(action) for action in actions)
        return actions

    policy_kwargs = {"net_arch": [8], "critic": critic}
    model = make_model(Spaces(action_space), policy_kwargs=policy_kwargs, n_steps=2, q_clip=0.5).learn(60)
    codec = model.policy.actor.head.codec
    assert model._n_updates == 40
    assert model.policy.critic.form == critic
    assert model.entropy_coefficient().shape == model._target_entropy.shape == (codec.n,)
    model.dump_logs()  # everything is finite

    model.save(tmp_path / "model", include=["replay_buffer"])
    loaded = DiscreteSAC.load(tmp_path / "model", env=Spaces(action_space), device="cpu")
    assert_same_agent(model, loaded)
    for deterministic in (True, False):
        actions = predictions(model, deterministic=deterministic)
        np.testing.assert_array_equal(predictions(loaded, deterministic=deterministic), actions)
    indices = codec.to_indices(actions)  # those that were drawn
    assert [len(np.unique(column)) for column in indices.T] == list(codec.sizes)
    one, _ = loaded.predict(OBSERVATIONS[0], deterministic=True)
    assert action_space.contains(one)

    # Both go on alike, on the same transitions, with the same noise.
    for agent in (model, loaded):
        agent.train(gradient_steps=5, batch_size=8)
    assert_same_agent(model, loaded)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 80


def test_illegal_choices_of_smaller_factors_are_never_stored() -> None:
    sizes = [2, 4, 1, 3]
    model = make_model(Spaces(spaces.MultiDiscrete(sizes)), learning_starts=100).learn(200)
    assert model.replay_buffer is not None
    indices = model.replay_buffer.sample(200).actions
    assert (indices.amin(0) == 0).all()
    assert (indices.amax(0) == torch.tensor(sizes) - 1).all()


# Estimators


class Doubled(Estimator):
    """The exact expectation, twice: a stranger's estimator."""

    name = "doubled"
    biased = True
    calls = "K^n"
    source = "this test"

    def _expectation(self, policy: FactoredCategorical, f: Any, noise: Any) -> Tensor:
        support = policy.enumerate_support()
        return 2 * (policy.log_prob(support).exp() * f(support)).sum(0)


def test_a_custom_estimator(tmp_path: Path) -> None:
    model = make_model(estimator=Doubled())
    exact = make_model(estimator="exact")
    for agent in (model, exact):
        agent.update(random_batch())
    torch.testing.assert_close(model._metrics["expected_q"], 2 * exact._metrics["expected_q"])
    with pytest.warns(UserWarning, match="estimator"):
        model.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r'custom_objects=\{"estimator"'):
        DiscreteSAC.load(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", custom_objects={"estimator": Doubled()})
    assert_same_agent(model, loaded)


def test_a_learned_temperature_is_trained_and_saved(tmp_path: Path) -> None:
    model = make_model(estimator=GumbelSoftmax(LearnedTemperature(1.0, 0.1)), learning_rate=1e-2, ent_coef="auto")
    assert model.estimator.temperature().item() == pytest.approx(1.0)  # type: ignore[operator, union-attr]
    for _ in range(20):
        model.update(random_batch())
    trained = model.estimator.temperature().item()  # type: ignore[operator, union-attr]
    assert abs(trained - 1.0) > 0.01
    assert set(model.learner.gradient_norms()) == {"actor", "critic", "entropy_coefficient", "estimator"}
    model.save(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model")
    assert loaded.estimator.temperature().item() == pytest.approx(trained, abs=1e-6)  # type: ignore[operator, union-attr]
    model.update(random_batch())
    loaded.update(random_batch())
    assert same(parameters(model), parameters(loaded))


def test_a_schedule_advances_once_an_update() -> None:
    model = make_model(estimator=STGumbel(ExponentialTemperature(1.0, 0.25, 10)))
    temperature = model.estimator.temperature
    assert isinstance(temperature, ExponentialTemperature)
    for _ in range(5):
        model.update(random_batch())
    assert temperature().item() == pytest.approx(0.5)  # half of the way down, on a logarithmic scale
    model.predict(OBSERVATIONS)
    model.predict(OBSERVATIONS, deterministic=True)
    assert model.env is not None
    evaluate_policy(model, model.env, n_eval_episodes=1, deterministic=False)
    assert temperature().item() == pytest.approx(0.5)
    model.update(random_batch())
    assert temperature().item() == pytest.approx(0.25**0.6)


def test_the_running_mean_advances_once_an_update() -> None:
    model = make_model(estimator=make_estimator("reinforce", baseline="running-mean"))
    for count in range(1, 4):
        model.update(random_batch())
        assert model.estimator.weight.item() == pytest.approx(1 - 0.99**count)  # type: ignore[operator, union-attr]


# Arguments


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critics": "max"}, "critics must be 'min' or 'mean', but got 'max'"),
        ({"policy_kwargs": {"n_critics": 0}}, "n_critics must be at least 1, but got 0"),
        ({"target_entropy": "none"}, "target_entropy must be 'auto' or a number of nats, but got 'none'"),
        ({"target_entropy_ratio": 1.1}, r"target_entropy_ratio must be in \[0, 1\], but got 1.1"),
        ({"target_entropy_ratio": -0.1}, r"target_entropy_ratio must be in \[0, 1\], but got -0.1"),
        ({"tau": -0.1}, r"tau must be in \[0, 1\], but got -0.1"),
        ({"tau": 1.5}, r"tau must be in \[0, 1\], but got 1.5"),
        ({"q_clip": 0.0}, "q_clip must be positive or None, but got 0.0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be positive or None, but got -1.0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, but got 0"),
        ({"target_update_interval": 0}, "target_update_interval must be an integer of at least 1, but got 0"),
        ({"exploration_eps": 1.5}, r"exploration_eps must be in \[0, 1\], but got 1.5"),
        ({"ent_coef": "automatic"}, "ent_coef must be 'auto', .* but got 'automatic'"),
        ({"ent_coef": "auto_x"}, "ent_coef must be 'auto', .* but got 'auto_x'"),
        ({"ent_coef": "auto_0"}, "ent_coef must be 'auto', .* but got 'auto_0'"),
        ({"ent_coef": -0.5}, "ent_coef must be 'auto', .* but got -0.5"),
        ({"estimator": "gumble"}, "name must be one of .* but got 'gumble'"),
        ({"estimator": "st_gumbel"}, "name must be one of .* but got 'st_gumbel'. Did you mean 'st-gumbel'"),
        ({"policy_kwargs": {"net_arch": [8, 0]}}, r"net_arch must hold whole numbers of at least 1, but got \[8, 0\]"),
        ({"policy_kwargs": {"net_arch": [8.5]}}, r"net_arch must hold whole numbers of at least 1, but got \[8.5\]"),
        ({"buffer_size": 0}, "buffer_size must be an integer of at least 1, but got 0"),
        ({"learning_starts": -1}, "learning_starts must be an integer of at least 0, but got -1"),
        ({"gradient_steps": -2}, "gradient_steps must be an integer of at least -1, but got -2"),
        ({"train_freq": 0}, "train_freq must be at least 1 step or episode, but got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number or a function, but got 0.0"),
        ({"learning_rate": "3e-4"}, "learning_rate must be a positive number or a function, but got '3e-4'"),
        (
            {"target_entropy": float("nan")},
            "target_entropy must be from 0 to that of the uniform policy, 0.6931 nats, but got nan",
        ),
        ({"gamma": 1.5}, r"gamma must lie in \[0, 1\], got 1.5"),
        ({"reward_scale": -1}, "reward_scale must be 'auto' or a number above 0, but got -1"),
        ({"n_steps": 0}, "n_steps must be an integer of at least 1, but got 0"),
        ({"policy_kwargs": {"use_sde": True}}, "policy_kwargs must not hold 'use_sde': .* for continuous actions"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, "policy_kwargs must not hold 'optimizer_class'"),
        ({"policy": "LstmPolicy"}, "LstmPolicy"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(**settings)


def test_arguments_of_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match=r"estimator must be a name or a gsrl\.Estimator, but got float"):
        make_model(estimator=1.0)
    with pytest.raises(TypeError, match="use_sde"):
        make_model(use_sde=True)
    with pytest.raises(TypeError, match="n_step_correction must be True or False, but got 1"):
        make_model(n_step_correction=1)
    with pytest.raises(ValueError, match="env must be an environment, but got None"):
        make_model(env=None)


class Spaces(gym.Env):
    """Refuses actions that are not of its space; episodes of seven steps."""

    observation_space = spaces.Box(-1.0, 1.0, (4,))

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.steps += 1
        return self._observation(), float(np.sum(action)), self.steps == 7, False, {}

    def _observation(self) -> np.ndarray:
        return np.linspace(-1.0, 1.0, 4, dtype=np.float32) * self.steps / 7


@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Box(-1.0, 1.0, (1,)),
        spaces.Box(-np.inf, np.inf, (1,)),
        spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
    ],
    ids=lambda space: type(space).__name__,
)
def test_other_action_spaces_are_refused(action_space: spaces.Space) -> None:
    message = f"Discrete, MultiDiscrete or MultiBinary action space, but got {type(action_space).__name__}"
    with pytest.raises(TypeError, match=message):
        make_model(env=Spaces(action_space))


@pytest.mark.parametrize(
    ("observation_space", "message"),
    [
        (spaces.Sequence(spaces.Discrete(2)), "must have observations that are a Box, .* but got Sequence"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}), "or a Dict of these, but got Dict"),
        (spaces.Box(-1.0, 1.0, (0,)), r"observations that are not empty, but got Box\(\[\]"),
        (spaces.Box(-1.0, 1.0, ()), r"observations with a dimension, but got Box\(-1.0, 1.0, \(\)"),
        (spaces.Dict({"a": spaces.Box(-1.0, 1.0, ())}), r"observations with a dimension, but got Box\(-1.0, 1.0, \(\)"),
        (spaces.Dict({}), r"observations with an entry, but got Dict\(\)"),
        (spaces.MultiDiscrete([[2, 3]]), "MultiDiscrete observations of one dimension"),
        (spaces.Discrete(3, start=1), r"observations that start at 0, but got Discrete\(3, start=1\)"),
        (spaces.MultiDiscrete([2, 3], start=[0, 1]), "observations that start at 0"),
    ],
)
def test_other_observation_spaces_are_refused(observation_space: spaces.Space, message: str) -> None:
    env = Spaces(spaces.Discrete(2))
    env.observation_space = observation_space
    with pytest.raises((TypeError, ValueError), match=message):
        make_model(env=env)


@pytest.mark.parametrize(
    ("ent_coef", "value", "learned"), [("auto", 1.0, True), ("auto_0.1", 0.1, True), (0.2, 0.2, False), (0, 0.0, False)]
)
def test_the_notation_of_the_entropy_coefficient(ent_coef: Any, value: float, learned: bool) -> None:
    model = make_model(ent_coef=ent_coef)
    assert model.entropy_coefficient().item() == pytest.approx(value)
    assert model.entropy_coefficient.learned is learned
    for _ in range(3):
        model.update(random_batch())
    assert (model.entropy_coefficient().item() != pytest.approx(value, rel=1e-6)) is learned


class PartlyFrozen(BaseFeaturesExtractor):
    """Features of a frozen layer, a pretrained one in earnest, and a trained one."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)
        self.frozen = nn.Linear(4, 5).requires_grad_(False)
        self.trained = nn.Linear(5, 3)

    def forward(self, observations: Tensor) -> Tensor:
        return self.trained(torch.tanh(self.frozen(observations)))


def test_frozen_features_stay_and_the_rest_is_trained() -> None:
    model = make_model(policy_kwargs={"net_arch": [8], "features_extractor_class": PartlyFrozen})
    before = copy.deepcopy(model.policy.critic.features_extractor)
    model.learn(30)
    after, target = model.policy.critic.features_extractor, model.policy.critic_target.features_extractor
    assert torch.equal(after.frozen.weight, before.frozen.weight)
    assert torch.equal(target.frozen.weight, before.frozen.weight)
    assert not torch.equal(after.trained.weight, before.trained.weight)
    assert not torch.equal(target.trained.weight, before.trained.weight)


def test_parameters_that_moved_are_noticed() -> None:
    model, same = make_model(), make_model()
    model.policy.critic.weight.data = model.policy.critic.weight.data.clone()
    model.policy.critic_target.bias.data = model.policy.critic_target.bias.data.clone()
    for each in (model, same):
        each.update(random_batch())
        each.update(random_batch())
    for moved, expected in zip(model.policy.parameters(), same.policy.parameters(), strict=True):
        assert torch.equal(moved, expected)
    model.policy.critic.weight.data = model.policy.critic.weight.data.double()
    with pytest.raises(RuntimeError, match="moved or replaced"):
        model.update(random_batch())


def test_a_seed_given_on_loading_counts(tmp_path: Path) -> None:
    make_model().save(tmp_path / "model")
    observations = np.zeros((64, 4), np.float32)

    def actions(seed: int) -> list[int]:
        return DiscreteSAC.load(tmp_path / "model", seed=seed).predict(observations)[0].tolist()

    assert actions(7) == actions(7)
    assert actions(7) != actions(8)


def test_a_state_of_another_kind_of_device_keeps_the_own_generator() -> None:
    model = make_model()
    state = model.state_dict()
    state["generator"] = {"device": "cuda", "state": torch.zeros(16, dtype=torch.uint8)}
    model.load_state_dict(state)


def test_batches_of_any_size() -> None:
    model = make_model()
    for size in (8, 3, 1):
        model.update(random_batch(size))


@pytest.mark.parametrize("name", ["use_sde", "optimize_memory_usage", "action_noise", "no_such_argument"])
def test_arguments_of_stable_baselines_that_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"DiscreteSAC has no argument '{name}'"):
        make_model(**{name: True})


def test_a_training_that_diverged_stops() -> None:
    model = make_model().learn(5)
    model.update(random_batch()._replace(rewards=torch.full((8,), torch.nan)))
    with pytest.raises(FloatingPointError, match="critic_loss is nan after"):
        model.dump_logs()


class OnlyTheMethod(gym.Env):
    """Masks in sb3-contrib's way: a method, and nothing in the info. Legal are the first ``1 + step`` choices."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not self.action_masks()[action]:
            raise ValueError(f"action {action} is illegal at step {self.steps}")
        self.steps += 1
        return np.zeros(2, np.float32), float(action), self.steps == 4, False, {}

    def action_masks(self) -> np.ndarray:
        return np.arange(4) <= self.steps


def test_masks_that_nobody_hands_on_are_warned_of() -> None:
    env = gym.vector.SyncVectorEnv([OnlyTheMethod])
    model = DiscreteSAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0)
    with pytest.warns(UserWarning, match=r"put gsrl\.masking\.ActionMasker around each"), suppress(ValueError):
        model.learn(1)  # which takes an illegal action, or a legal one


def test_a_method_action_masks_is_enough() -> None:
    model = DiscreteSAC("MlpPolicy", OnlyTheMethod(), learning_starts=40, policy_kwargs={"net_arch": [8]}, seed=0)
    model.learn(120)
    assert model.masked
    mask = np.array([True, False, False, False])
    for deterministic in (False, True):
        actions, _ = model.predict(np.zeros((50, 2), np.float32), None, None, deterministic, np.tile(mask, (50, 1)))
        assert (actions == 0).all()
    with pytest.warns(UserWarning, match="predict was called without action_masks"):
        model.predict(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("action_space", "action_masks", "message"),
    [
        (spaces.Discrete(4), np.ones((2, 4), bool), "[4] or [1, 4] for Discrete(4) and this observation, got [2, 4]"),
        (spaces.Discrete(4), np.ones((0, 4), bool), "[1, 4] for Discrete(4) and this observation, got [0, 4]"),
        (spaces.Discrete(4), np.ones(3, bool), "shape [*batch, 4] for Discrete(4), got [3]"),
        (spaces.Discrete(4), np.ones((1, 5)), "shape [*batch, 4] for Discrete(4), got [1, 5]"),
        (spaces.Discrete(4), np.full(4, 2), "be boolean, or 0 and 1, got np.int64(2)"),
        (spaces.Discrete(4), np.full(4, 0.5), "be boolean, or 0 and 1, got np.float64(0.5)"),
        (spaces.Discrete(4), ["yes"] * 4, "be boolean, or 0 and 1, got np.str_('yes')"),
        (spaces.Discrete(4), np.zeros(4, bool), "leave every factor a legal choice, got none for factor 0"),
        (spaces.MultiDiscrete([2, 3]), np.ones((2, 3), bool), "[*batch, 5] for MultiDiscrete([2 3]), got [2, 3]"),
        (spaces.MultiDiscrete([2, 3]), np.ones((2, 5)), "[5] or [1, 5] for MultiDiscrete([2 3]) and this observation"),
        (spaces.MultiDiscrete([2, 3]), ([1, 1], [1, 1, 1]), "[*batch, 5] for MultiDiscrete([2 3]), got unequal"),
        (spaces.MultiDiscrete([2, 3]), [1, 1, 0, 0, 0], "leave every factor a legal choice, got none for factor 1"),
    ],
)
def test_masks_that_do_not_fit_the_observation(action_space: spaces.Space, action_masks: Any, message: str) -> None:
    model = make_model(Spaces(action_space))
    with pytest.raises(ValueError, match=f"^action_masks must .*{re.escape(message)}"):
        model.predict(OBSERVATIONS[0], action_masks=action_masks)


@pytest.mark.parametrize("masks", [np.ones((2, 4)), np.ones((4, 4)), np.ones((3, 2, 4))])
def test_masks_that_do_not_fit_several_observations(masks: np.ndarray) -> None:
    message = re.escape(
        f"action_masks must have shape [4] or [3, 4] for Discrete(4) and this observation, got {list(masks.shape)}"
    )
    model = make_model(Spaces(spaces.Discrete(4)))
    with pytest.raises(ValueError, match=message):
        model.predict(OBSERVATIONS[:3], action_masks=masks)
    env = TransformObservation(
        Spaces(spaces.Discrete(4)), lambda it: {"it": it}, spaces.Dict(it=Spaces.observation_space)
    )
    in_dict = make_model(env, policy="MultiInputPolicy")
    with pytest.raises(ValueError, match=message):
        in_dict.predict({"it": OBSERVATIONS[:3]}, action_masks=masks)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.float32])
def test_masks_for_one_observation_or_for_several(dtype: type) -> None:
    one, each = np.array([0, 0, 1, 0], dtype), np.eye(4, dtype=dtype)[[2, 0, 3]]
    model = make_model(Spaces(spaces.Discrete(4)))
    for deterministic in (False, True):
        predict = functools.partial(model.predict, deterministic=deterministic)
        assert predict(OBSERVATIONS[0], action_masks=one)[0] == 2
        assert predict(OBSERVATIONS[0], action_masks=one[None])[0] == 2
        assert predict(OBSERVATIONS[:3], action_masks=one)[0].tolist() == [2, 2, 2]
        assert predict(OBSERVATIONS[:3], action_masks=each)[0].tolist() == [2, 0, 3]


def test_an_unordered_set_where_a_state_allows_fewer_actions_than_it_draws() -> None:
    # In the first state of an episode one action is legal, in the second two, in the third three.
    model = make_model(OnlyTheMethod(), estimator=make_estimator("unordered-set", num_samples=3))
    model.learn(120)
    assert model.masked
    assert all(torch.as_tensor(value).isfinite().all() for value in parameters(model))
    exact = make_model(CARTPOLE, estimator="exact")
    whole = make_model(CARTPOLE, estimator="unordered-set")  # 10 of 2
    for agent in (exact, whole):
        agent.update(random_batch())
    assert whole.learner.gradient_norms()["actor"].item() == pytest.approx(
        exact.learner.gradient_norms()["actor"].item(), rel=1e-4
    )


def test_an_estimator_that_does_not_fit_says_so_at_once() -> None:
    with pytest.raises(ValueError, match="is for binary factors, K = 2, but got K = 3"):
        DiscreteSAC("MlpPolicy", "Acrobot-v1", estimator="disarm")


@pytest.mark.parametrize("env", ["CartPole-v1", "gsrl/BitMatch-v0"])
def test_relax_is_made_for_the_shape_of_the_actions(env: str, tmp_path: Path) -> None:
    model = make_model(env, estimator="relax").learn(60)
    codec = model.policy.actor.head.codec
    settings = model.estimator.settings
    assert (settings["n"], settings["K"]) == (codec.n, codec.K)
    assert model.estimator.control.network[-1].weight.abs().sum() > 0  # type: ignore[union-attr, index]  # it learns
    model.save(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", env=gym.make(env))
    assert loaded.estimator.settings == settings
    for name, tensor in model.estimator.state_dict().items():
        assert torch.equal(loaded.estimator.state_dict()[name], tensor)


class MaskedAtSteps(gym.Env):
    """Forgets the mask at the reset."""

    observation_space, action_space = OnlyTheMethod.observation_space, OnlyTheMethod.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, np.float32), 0.0, False, False, {"action_mask": np.ones(4, bool)}


def test_masks_that_a_reset_leaves_out_are_an_error() -> None:
    env = DummyVecEnv([MaskedAtSteps])
    with pytest.raises(ValueError, match="must give info\\['action_mask'\\] at every reset and step"):
        DiscreteSAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0).learn(20)


def test_a_refused_replay_buffer_leaves_the_one_in_use(tmp_path: Path) -> None:
    small = DiscreteSAC("MlpPolicy", OnlyTheMethod(), buffer_size=50, policy_kwargs={"net_arch": [8]}, seed=0)
    small.learn(20)
    small.save_replay_buffer(tmp_path / "small.zip")
    model = DiscreteSAC("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, seed=0).learn(30)
    with pytest.raises(ValueError, match=r"buffer|state"):
        model.load_replay_buffer(tmp_path / "small.zip")
    assert len(model.replay_buffer) == 30
    assert not model.masked


@pytest.mark.parametrize("target_entropy", [-1.0, 10.0])
def test_a_target_entropy_that_no_policy_has(target_entropy: float) -> None:
    with pytest.raises(ValueError, match=r"target_entropy must be from 0 to that of the uniform policy, 0\.6931 nats"):
        DiscreteSAC("MlpPolicy", "CartPole-v1", target_entropy=target_entropy)
