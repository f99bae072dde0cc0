"""DiscreteSAC as a Stable-Baselines3 algorithm: determinism, callbacks, logging, spaces, errors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import envs
from gsrl import DiscreteSAC
from gsrl.estimators import STGumbel
from gsrl.temperature import ExponentialTemperature
from tests.common.models import (
    CARTPOLE,
    OBSERVATIONS,
    Spaces,
    assert_same_agent,
    make_sac,
    parameters,
    random_batch,
    same,
)

# Determinism


def test_the_same_seed_gives_the_same_parameters_whatever_the_global_generators_do() -> None:
    models = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)
        random.seed(disturbance)
        models.append(make_sac().learn(60))
    assert same(*(parameters(model) for model in models))
    assert torch.equal(models[0].generator.get_state(), models[1].generator.get_state())
    assert not same(parameters(models[0]), parameters(make_sac(seed=1).learn(60)))


def test_global_generators_are_left_alone() -> None:
    def states() -> tuple[bytes, bytes, Any]:
        return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()

    before = states()
    model = make_sac()
    model.learn(60)
    model.predict(OBSERVATIONS, deterministic=False)
    assert states() == before


def test_initial_parameters_depend_on_the_seed_alone() -> None:
    assert same(parameters(make_sac(seed=3)), parameters(make_sac(seed=3)))
    assert not same(parameters(make_sac(seed=3)), parameters(make_sac(seed=4)))


def test_reseeding_restarts_actions_and_replay() -> None:
    model = make_sac().learn(40)
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
    model = make_sac()
    before = model.generator.get_state()
    actions, _ = model.predict(OBSERVATIONS, deterministic=True)
    again, _ = model.predict(OBSERVATIONS, deterministic=True)
    policy = model.policy.actor(torch.as_tensor(OBSERVATIONS))
    assert torch.equal(model.generator.get_state(), before)
    np.testing.assert_array_equal(actions, again)
    np.testing.assert_array_equal(actions, policy.probs[:, 0].argmax(-1).numpy())


def test_stochastic_prediction_has_the_frequencies_of_the_policy() -> None:
    model = make_sac()
    probability = model.policy.actor(torch.as_tensor(OBSERVATIONS[:1])).probs[0, 0, 1].item()
    actions, _ = model.predict(np.repeat(OBSERVATIONS[:1], 4000, axis=0), deterministic=False)
    # Five standard deviations: a failure rate of 6e-7, were the seed not fixed.
    assert abs(actions.mean() - probability) < 5 * (probability * (1 - probability) / 4000) ** 0.5
    assert 0 < actions.mean() < 1


def test_actions_of_one_observation_are_scalars_of_the_space() -> None:
    model = make_sac(env="gsrl/ProbeStart-v0")
    observation = np.zeros(1, np.float32)
    for deterministic in (True, False):
        action, state = model.predict(observation, deterministic=deterministic)
        assert action.shape == ()
        assert state is None
        assert action in model.action_space
    assert {int(model.predict(observation)[0]) for _ in range(100)} == {5, 6, 7}


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
    model = make_sac().learn(100, callback=[checkpoints, evaluation])
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
    model = make_sac()
    assert model.env is not None
    mean, deviation = evaluate_policy(model, model.env, n_eval_episodes=2, deterministic=True)
    assert mean > 0
    assert deviation >= 0


def test_vec_normalize(tmp_path: Path) -> None:
    env = VecNormalize(make_vec_env(CARTPOLE, 2, seed=0), gamma=0.99)
    model = make_sac(env=env).learn(100)
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
    model = make_sac(env=env, gradient_steps=-1).learn(60)
    assert model.replay_buffer is not None
    assert len(model.replay_buffer) == 60
    # As many updates as steps, from the first round that ends after step 20.
    assert model._n_updates == updates
    env.close()


def test_warm_up_actions_are_uniform() -> None:
    model = make_sac(env="gsrl/ProbeStart-v0", learning_starts=600)
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
    model = make_sac(
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
    model = make_sac().learn(25)
    model.update(random_batch()._replace(rewards=torch.full((8,), torch.nan)))
    with pytest.raises(FloatingPointError, match=r"critic_loss is nan after \d+ updates"):
        model.dump_logs()


# Observations


def test_images() -> None:
    model = make_sac(
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
    model = make_sac(env="gsrl/ProbeDictObservation-v0", policy="MultiInputPolicy").learn(40)
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
    model = make_sac(Spaces(action_space), policy_kwargs=policy_kwargs, n_steps=2, q_clip=0.5).learn(60)
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
    model = make_sac(Spaces(spaces.MultiDiscrete(sizes)), learning_starts=100).learn(200)
    assert model.replay_buffer is not None
    indices = model.replay_buffer.sample(200).actions
    assert (indices.amin(0) == 0).all()
    assert (indices.amax(0) == torch.tensor(sizes) - 1).all()


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
        ({"gamma": 1.5}, r"gamma must lie in \[0, 1\], but got 1.5"),
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
        make_sac(**settings)


def test_arguments_of_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match=r"estimator must be a name or a gsrl\.Estimator, but got float"):
        make_sac(estimator=1.0)
    with pytest.raises(TypeError, match="use_sde"):
        make_sac(use_sde=True)
    with pytest.raises(TypeError, match="n_step_correction must be True or False, but got 1"):
        make_sac(n_step_correction=1)
    with pytest.raises(ValueError, match="env must be an environment, but got None"):
        make_sac(env=None)


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
        make_sac(env=Spaces(action_space))


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
    with pytest.raises((TypeError, ValueError), match=message):
        make_sac(env=Spaces(spaces.Discrete(2), observation_space))


@pytest.mark.parametrize("name", ["use_sde", "replay_buffer_class", "action_noise", "no_such_argument"])
def test_arguments_of_stable_baselines_that_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"DiscreteSAC has no argument '{name}'"):
        make_sac(**{name: True})


@pytest.mark.parametrize("target_entropy", [-1.0, 10.0])
def test_a_target_entropy_that_no_policy_has(target_entropy: float) -> None:
    with pytest.raises(ValueError, match=r"target_entropy must be from 0 to that of the uniform policy, 0\.6931 nats"):
        DiscreteSAC("MlpPolicy", "CartPole-v1", target_entropy=target_entropy)
