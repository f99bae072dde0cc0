"""Reinforce saved, loaded and restored: what comes back, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env

from gsrl import DiscreteSAC, Reinforce
from gsrl.checkpoint import CheckpointError
from gsrl.evaluation import evaluate_policy

# Saving and loading
from tests.common.models import (
    BASELINES,
    CARTPOLE,
    OBSERVATIONS,
    assert_same_agent,
    make_reinforce,
    parameters,
    play,
    same,
)


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_loaded_agent_predicts_and_goes_on_learning(baseline: Any, tmp_path: Path) -> None:
    model = make_reinforce(baseline=baseline, learning_rate=1e-3, ent_coef=0.01, max_grad_norm=1.0).learn(60)
    model.save(tmp_path / "model")
    loaded = Reinforce.load(tmp_path / "model", env=gym.make(CARTPOLE), device="cpu")
    assert_same_agent(model, loaded)
    np.testing.assert_array_equal(model.predict(OBSERVATIONS)[0], loaded.predict(OBSERVATIONS)[0])
    assert (loaded.num_timesteps, loaded._n_updates) == (model.num_timesteps, model._n_updates)
    assert (loaded.baseline, loaded.learning_rate, loaded.ent_coef) == (baseline, 1e-3, 0.01)
    before = [torch.as_tensor(value).clone() for value in parameters(loaded)]
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.num_timesteps >= model.num_timesteps + 30
    assert not same(before, parameters(loaded))


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_restored_state_goes_on_bit_identically(baseline: Any) -> None:
    model, other = (make_reinforce(baseline=baseline, seed=seed) for seed in (0, 9))
    model.learn(60)
    other.load_state_dict(model.state_dict())
    rollout = play(make_reinforce(seed=3))
    for agent in (model, other):
        agent.train(rollout)
        agent.train(rollout)
    assert same(parameters(model), parameters(other))
    np.testing.assert_array_equal(model.predict(OBSERVATIONS)[0], other.predict(OBSERVATIONS)[0])


def test_learning_in_two_parts_is_learning_at_once() -> None:
    """Where both end with a rollout."""
    whole = make_reinforce(learning_rate=1e-3).learn(150)
    parts = make_reinforce(learning_rate=1e-3).learn(50)
    parts.learn(150 - parts.num_timesteps, reset_num_timesteps=False)
    assert parts.num_timesteps == whole.num_timesteps
    assert same(parameters(parts), parameters(whole))


def test_set_and_get_parameters(tmp_path: Path) -> None:
    model = make_reinforce(baseline="relax").learn(40)
    assert set(model.get_parameters()) == {"policy", "learner", "critic_learner"}
    assert set(make_reinforce(baseline="none").get_parameters()) == {"policy", "learner"}
    model.save(tmp_path / "model")
    rollout = play(make_reinforce(seed=3))
    for source in (model.get_parameters(), str(tmp_path / "model")):
        other = make_reinforce(baseline="relax", seed=1)
        assert not same(parameters(model), parameters(other))
        other.set_parameters(source)
        assert_same_agent(model, other)
        other.train(rollout)  # still views of the learners'
    with pytest.raises(ValueError, match="learner"):
        other.set_parameters({"policy": model.get_parameters()["policy"]})
    other.set_parameters({"policy": model.get_parameters()["policy"]}, exact_match=False)
    assert same(list(model.policy.parameters()), list(other.policy.parameters()))


def test_files(tmp_path: Path) -> None:
    model = make_reinforce().learn(20)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = Reinforce.load(file)
    assert loaded.env is None
    assert_same_agent(model, loaded)
    model.save(tmp_path / "model", exclude=["n_episodes"])
    assert Reinforce.load(tmp_path / "model.zip").n_episodes == 8
    with pytest.raises(ValueError, match=r"include those, but got .*include=\['replay_buffer'\]"):
        model.save(tmp_path / "model", include=["replay_buffer"])
    with pytest.raises(ValueError, match=r"do not fit the changed settings \['policy_kwargs'\]"):
        Reinforce.load(tmp_path / "model", policy_kwargs={"net_arch": [16]})
    with pytest.raises(ValueError, match=r"holds a Reinforce, but DiscreteSAC\.load was called"):
        DiscreteSAC.load(tmp_path / "model")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        Reinforce.load(tmp_path / "model", env=gym.make("Acrobot-v1"))
    with pytest.raises(CheckpointError, match=r"parameters\.policy\.critic\.mlp\.weight_0 is missing"):
        make_reinforce().set_parameters(str(_saved(make_reinforce(baseline="none"), tmp_path / "none")))


def _saved(model: Reinforce, path: Path) -> Path:
    model.save(path)
    return path


def test_to_predict_any_number_of_environments_will_do(tmp_path: Path) -> None:
    make_reinforce().save(tmp_path / "model")
    loaded = Reinforce.load(tmp_path / "model", env=make_vec_env(CARTPOLE, 3))
    assert len(evaluate_policy(loaded, loaded.env, 3, return_episode_rewards=True)[0]) == 3  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_episodes must be a multiple of the 3 environments, but got 2"):
        loaded.learn(10)
