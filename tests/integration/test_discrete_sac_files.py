"""DiscreteSAC saved and loaded: what comes back, what is refused, and files of strangers."""

from __future__ import annotations

import functools
import io
import json
import operator
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env

from gsrl import DiscreteSAC, checkpoint
from gsrl.checkpoint import CheckpointError
from gsrl.estimators import STGumbel
from gsrl.temperature import ExponentialTemperature
from tests.common.models import (
    CARTPOLE,
    OBSERVATIONS,
    OnlyTheMethod,
    assert_same_agent,
    flat,
    make_sac,
    parameters,
    random_batch,
    same,
)

# Saving and loading


@pytest.mark.parametrize("estimator", ["st-gumbel", "exact", "gumbel-softmax", "straight-through", "reinforce", "rloo"])
def test_a_loaded_agent_predicts_and_goes_on_learning(estimator: str, tmp_path: Path) -> None:
    model = make_sac(estimator=estimator, learning_rate=1e-3, critics="mean", q_clip=0.5).learn(40)
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
    model = make_sac()
    model.save(tmp_path / "model.zip")
    loaded = DiscreteSAC.load(str(tmp_path / "model.zip"))
    assert loaded.env is None
    assert loaded.observation_space == model.observation_space
    assert_same_agent(model, loaded)


def test_files_in_memory() -> None:
    model = make_sac()
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert_same_agent(model, DiscreteSAC.load(file))


def test_loading_with_another_number_of_environments(tmp_path: Path) -> None:
    model = make_sac(train_freq=(1, "step")).learn(40)
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
    make_sac().save(tmp_path / "model")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        DiscreteSAC.load(tmp_path / "model", env=gym.make("Acrobot-v1"))


def test_settings_can_be_changed_on_loading(tmp_path: Path) -> None:
    make_sac().save(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", env=gym.make(CARTPOLE), batch_size=16, gradient_steps=2)
    assert (loaded.batch_size, loaded.gradient_steps) == (16, 2)


def test_settings_that_do_not_fit_the_parameters_are_refused(tmp_path: Path) -> None:
    make_sac().save(tmp_path / "model")
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
    make_sac(ent_coef="auto").learn(30).save(path, include=["replay_buffer"])
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
            make_sac(ent_coef="auto").set_parameters(str(path))
    else:
        make_sac(ent_coef="auto").set_parameters(str(path))


def test_a_state_that_lacks_an_entry_changes_nothing() -> None:
    model, state = make_sac(), make_sac(seed=1).learn(30).state_dict()
    before = [torch.as_tensor(value).clone() for value in parameters(model)]
    del state["last_masks"]
    with pytest.raises(CheckpointError, match=r"^last_masks is missing$"):
        model.load_state_dict(state)
    assert same(before, parameters(model))


def test_a_model_is_no_replay_buffer(tmp_path: Path) -> None:
    make_sac().save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"model\.zip does not fit .*: replay_buffer is missing"):
        make_sac().load_replay_buffer(tmp_path / "model.zip")


def test_settings_that_are_left_out_take_their_defaults(tmp_path: Path) -> None:
    model = make_sac(batch_size=8)
    model.save(tmp_path / "model", exclude=["batch_size"])
    default = DiscreteSAC("MlpPolicy", CARTPOLE).batch_size
    assert DiscreteSAC.load(tmp_path / "model").batch_size == default != 8
    with pytest.raises(ValueError, match="exclude must name settings"):
        model.save(tmp_path / "model", exclude=["policy"])


def test_the_replay_buffer_is_saved_where_it_is_asked_for(tmp_path: Path) -> None:
    model = make_sac().learn(40)
    model.save(tmp_path / "without")
    model.save(tmp_path / "with", include=["replay_buffer"])
    for name, size in (("without", 0), ("with", 40)):
        loaded = DiscreteSAC.load(tmp_path / name, env=gym.make(CARTPOLE))
        assert loaded.replay_buffer is not None
        assert len(loaded.replay_buffer) == size


def test_saving_and_loading_the_replay_buffer(tmp_path: Path) -> None:
    model = make_sac().learn(40)
    model.save_replay_buffer(tmp_path / "buffer.zip")
    other = make_sac(seed=1)
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
    model = make_sac().learn(40)
    assert set(model.get_parameters()) == {"policy", "estimator", "entropy_coefficient", "learner"}
    model.save(tmp_path / "model")
    for source in (model.get_parameters(), str(tmp_path / "model")):
        other = make_sac(seed=1)
        assert not same(parameters(model), parameters(other))
        other.set_parameters(source)
        assert_same_agent(model, other)
        other.update(random_batch())  # still views of the learner's


def test_parameters_are_read_from_a_file_whose_settings_cannot_be(tmp_path: Path) -> None:
    model = make_sac(learning_rate=lambda remaining: 1e-3 * remaining)
    model.save(tmp_path / "model")
    other = make_sac(seed=1)
    other.set_parameters(str(tmp_path / "model"))
    assert_same_agent(model, other)


def test_nothing_is_restored_where_the_replay_buffer_does_not_fit() -> None:
    state = make_sac().learn(40).state_dict()
    other = make_sac(seed=1, buffer_size=500)
    before = [p.clone() for p in other.policy.parameters()]
    with pytest.raises(ValueError, match="buffer_size"):
        other.load_state_dict(state)
    assert same(before, list(other.policy.parameters()))
    assert other.num_timesteps == 0


def test_the_window_of_the_statistics_can_be_changed(tmp_path: Path) -> None:
    model = make_sac().learn(200)
    model.save(tmp_path / "model")
    assert DiscreteSAC.load(tmp_path / "model").ep_info_buffer.maxlen == 100
    changed = DiscreteSAC.load(tmp_path / "model", stats_window_size=5)
    assert changed.stats_window_size == changed.ep_info_buffer.maxlen == 5
    assert list(changed.ep_info_buffer) == list(model.ep_info_buffer)[-5:]


def test_exact_match() -> None:
    model = make_sac()
    target = [p.clone() for p in model.policy.parameters()]
    partial = {"policy": make_sac(seed=1).get_parameters()["policy"]}
    with pytest.raises(ValueError, match="entropy_coefficient"):
        model.set_parameters(partial)
    model.set_parameters(partial, exact_match=False)
    assert not same(target, list(model.policy.parameters()))
    assert same(list(flat(partial)), list(flat(model.get_parameters()["policy"])))


def test_a_restored_state_goes_on_bit_identically() -> None:
    model = make_sac(estimator=STGumbel(ExponentialTemperature(1.0, 0.1, 50)), max_grad_norm=1.0, n_steps=2).learn(50)
    other = make_sac(seed=9, estimator=STGumbel(ExponentialTemperature(1.0, 0.1, 50)), max_grad_norm=1.0, n_steps=2)
    other.load_state_dict(model.state_dict())
    for agent in (model, other):
        agent.train(gradient_steps=10, batch_size=8)
    assert same(parameters(model), parameters(other))
    np.testing.assert_array_equal(model.predict(OBSERVATIONS)[0], other.predict(OBSERVATIONS)[0])


def test_exploration_goes_on_in_a_restored_state_and_begins_anew_where_it_cannot(tmp_path: Path) -> None:
    model = make_sac(exploration_eps=0.5).learn(50)
    other = make_sac(exploration_eps=0.5, seed=9)
    other.load_state_dict(model.state_dict())
    for _ in range(30):
        mine, theirs = (agent._exploration.advance([agent.generator]) for agent in (model, other))
        assert torch.equal(mine, theirs)
    model.save(tmp_path / "model")
    assert DiscreteSAC.load(tmp_path / "model", env=make_vec_env(CARTPOLE, 3)).learn(30).num_timesteps == 30
    make_sac().save(tmp_path / "without")
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
    model = make_sac(learning_rate=schedule).learn(30)
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
    make_sac().save(tmp_path / "model")
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
            make_sac().set_parameters(str(path))
    # An extra member is not even looked at.
    DiscreteSAC.load(attack("extra.zip", {"data.pkl": bomb}))
    assert not mark.exists()


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    DQN("MlpPolicy", CARTPOLE, buffer_size=10, policy_kwargs={"net_arch": [4]}).save(tmp_path / "dqn")
    with pytest.raises(CheckpointError, match="Stable-Baselines3"):
        DiscreteSAC.load(tmp_path / "dqn")
    make_sac().save_replay_buffer(tmp_path / "buffer.zip")
    with pytest.raises(CheckpointError, match="not a saved DiscreteSAC"):
        DiscreteSAC.load(tmp_path / "buffer.zip")
    with pytest.raises(FileNotFoundError):
        DiscreteSAC.load(tmp_path / "missing")

    class Other(DiscreteSAC):
        pass

    make_sac().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"holds a DiscreteSAC, but Other\.load was called"):
        Other.load(tmp_path / "model")


# Arguments


def test_a_seed_given_on_loading_counts(tmp_path: Path) -> None:
    make_sac().save(tmp_path / "model")
    observations = np.zeros((64, 4), np.float32)

    def actions(seed: int) -> list[int]:
        return DiscreteSAC.load(tmp_path / "model", seed=seed).predict(observations)[0].tolist()

    assert actions(7) == actions(7)
    assert actions(7) != actions(8)


def test_a_state_of_another_kind_of_device_keeps_the_own_generator() -> None:
    model = make_sac()
    state = model.state_dict()
    state["generator"] = {"device": "cuda", "state": torch.zeros(16, dtype=torch.uint8)}
    model.load_state_dict(state)


def test_a_refused_replay_buffer_leaves_the_one_in_use(tmp_path: Path) -> None:
    small = DiscreteSAC("MlpPolicy", OnlyTheMethod(), buffer_size=50, policy_kwargs={"net_arch": [8]}, seed=0)
    small.learn(20)
    small.save_replay_buffer(tmp_path / "small.zip")
    model = DiscreteSAC("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, seed=0).learn(30)
    with pytest.raises(ValueError, match=r"buffer|state"):
        model.load_replay_buffer(tmp_path / "small.zip")
    assert len(model.replay_buffer) == 30
    assert not model.masked
