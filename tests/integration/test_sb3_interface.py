"""What Stable-Baselines3's own tests and guide ask of an algorithm: attributes, policies, files, logs, arguments."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from gsrl import DiscreteSAC, Reinforce
from gsrl.algorithms.policies import Actor, DiscreteSACPolicy
from gsrl.algorithms.reinforce import ReinforcePolicy
from gsrl.checkpoint import CheckpointError
from gsrl.checks import EnvironmentDataError
from gsrl.distributions import FactoredCategorical
from gsrl.evaluation import evaluate_policy

CARTPOLE = "CartPole-v1"
SPACES = [spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 3, 2]), spaces.MultiBinary(3)]


class Dummy(gym.Env):
    """Episodes of ten steps with observations of any space."""

    def __init__(self, action_space: spaces.Space, observation_space: spaces.Space | None = None) -> None:
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,))

    def reset(self, **_: Any) -> Any:
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self.observation_space.sample(), 1.0, self.time == 10, False, {}


def make(algorithm: type[Any], env: Any = CARTPOLE, policy: str = "MlpPolicy", **settings: Any) -> Any:
    own = {"learning_starts": 8, "batch_size": 4, "buffer_size": 100} if algorithm is DiscreteSAC else {"n_episodes": 2}
    return algorithm(policy, env, **({"policy_kwargs": {"net_arch": [4]}, "seed": 0} | own | settings))


# Policies


@pytest.mark.parametrize("action_space", SPACES, ids=str)
def test_distributions_values_and_actions_agree(action_space: Any) -> None:
    model = make(Reinforce, Dummy(action_space))
    observations, _ = model.policy.obs_to_tensor(np.zeros((6, 3), np.float32))
    actions = torch.as_tensor(np.stack([action_space.sample() for _ in range(6)]))
    with torch.no_grad():
        values, log_prob, entropy = model.policy.evaluate_actions(observations, actions.float())
        distribution = model.policy.get_distribution(observations)
        policy: FactoredCategorical = model.policy.actor(observations)
        torch.testing.assert_close(values, model.policy.critic(observations)[:, None])
        torch.testing.assert_close(model.policy.predict_values(observations), values)
    expected = policy.log_prob(model.policy.actor.head.codec.encode(actions))
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(distribution.log_prob(actions), expected)
    torch.testing.assert_close(entropy, policy.entropy())
    assert all(action_space.contains(a) for a in distribution.get_actions().numpy().astype(action_space.dtype))


def test_masks_reach_distributions() -> None:
    policy = make(Reinforce, Dummy(spaces.Discrete(3)), baseline="none").policy
    observations, masks = torch.zeros(2, 3), np.array([[1, 0, 0], [0, 1, 1]], np.bool_)
    assert policy.get_distribution(observations, masks).distribution.probs[0].tolist() == [[1.0, 0.0, 0.0]]
    values, log_prob, entropy = policy.evaluate_actions(observations, torch.tensor([0, 0]), masks)
    assert values is None
    assert log_prob.tolist() == [0.0, -np.inf]
    assert entropy[0] == 0
    with pytest.raises(ValueError, match="baseline must be 'value' or 'relax'"):
        policy.predict_values(observations)


@pytest.mark.parametrize("action_space", SPACES, ids=str)
def test_the_actor_returns_actions_where_it_is_asked_to(action_space: Any) -> None:
    policy = make(DiscreteSAC, Dummy(action_space)).policy
    observations = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    best = policy.actor(observations, deterministic=True)
    assert best.shape == (5, *action_space.shape)
    np.testing.assert_array_equal(best, policy.predict(observations.numpy(), deterministic=True)[0])
    np.testing.assert_array_equal(best, policy.actor.predict(observations.numpy(), deterministic=True)[0])
    policy.generator.manual_seed(3)
    drawn = policy.actor(observations, deterministic=False)
    policy.generator.manual_seed(3)
    np.testing.assert_array_equal(drawn, policy(observations))
    assert isinstance(policy.actor(observations), FactoredCategorical)


def test_networks_have_their_names_in_stable_baselines3() -> None:
    model = make(DiscreteSAC)
    assert model.actor is model.policy.actor
    assert model.critic is model.policy.critic
    assert model.critic_target is model.policy.critic_target
    for each in (model, make(Reinforce)):
        assert each.policy.net_arch == [4]
        assert type(each.policy.features_extractor) is FlattenExtractor
        assert not any(name.startswith("features_extractor") for name in each.policy.state_dict())  # the actor's
    for algorithm in (DiscreteSAC, Reinforce):
        default, none = (make(algorithm, policy_kwargs=each).policy.net_arch for each in ({}, {"net_arch": None}))
        assert none == default != [4]


IMAGES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
KINDS = {
    "MlpPolicy": (None, {"net_arch": [4], "activation_fn": nn.ELU}),
    "CnnPolicy": (IMAGES, {"features_extractor_kwargs": {"features_dim": 5}}),
    "MultiInputPolicy": (spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(2)}), {"net_arch": [4]}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_policies_and_networks_are_saved_by_themselves(algorithm: type[Any], kind: str, tmp_path: Path) -> None:
    space, arguments = KINDS[kind]
    env = Dummy(spaces.MultiDiscrete([2, 3]), space)
    policy = make(algorithm, env, kind, policy_kwargs=arguments).policy
    batch = (
        np.stack([env.observation_space.sample() for _ in range(9)])
        if kind != "MultiInputPolicy"
        else {
            "a": np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32),
            "b": np.arange(9) % 2,
        }
    )
    expected, _ = policy.predict(batch, deterministic=True)
    for index, part in enumerate((policy, policy.actor, policy.critic)):
        path = tmp_path / f"{index}.zip"
        part.save(path)
        state = torch.random.get_rng_state()
        loaded = type(part).load(path)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert not loaded.training
        for (name, saved), (other, tensor) in zip(part.state_dict().items(), loaded.state_dict().items(), strict=True):
            assert name == other
            assert torch.equal(saved, tensor)
        if part is not policy.critic:
            np.testing.assert_array_equal(loaded.predict(batch, deterministic=True)[0], expected)
        loaded.save(tmp_path / "again.zip")
        assert (tmp_path / "again.zip").read_bytes() == path.read_bytes()
    assert b"pickle" not in path.read_bytes()


def test_files_of_something_else_are_refused_by_name(tmp_path: Path) -> None:
    model = make(DiscreteSAC)
    path = tmp_path / "file.zip"
    model.policy.actor.save(path)
    with pytest.raises(
        CheckpointError, match=r"file.zip must be what DiscreteSACPolicy.save wrote, but Actor.save did"
    ):
        DiscreteSACPolicy.load(path)
    model.save(path)
    with pytest.raises(CheckpointError, match=r"file.zip must be what Actor.save wrote, but it is another"):
        Actor.load(path)
    A2C("MlpPolicy", CARTPOLE).policy.save(path)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        ReinforcePolicy.load(path)
    stream = io.BytesIO()
    model.policy.save(stream)
    stream.seek(0)
    assert DiscreteSACPolicy.load(stream, device="cuda").device == get_device("cuda")


class OwnPolicy(DiscreteSACPolicy):
    """Somebody's subclass, with a constructor of its own."""

    def __init__(self, *args: Any, width: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, net_arch=[width], **kwargs)


def test_a_subclass_of_a_policy_is_saved_with_its_own_arguments(tmp_path: Path) -> None:
    policy = make(DiscreteSAC, policy=OwnPolicy, policy_kwargs={"width": 7}).policy
    policy.save(tmp_path / "own.zip")
    assert OwnPolicy.load(tmp_path / "own.zip").net_arch == [7]


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_parameters_may_be_written_and_converted_between_trainings(algorithm: type[Any]) -> None:
    plain, converted = (make(algorithm).learn(30) for _ in range(2))
    vector = converted.policy.parameters_to_vector()
    converted.policy.load_from_vector(np.zeros_like(vector))
    assert not any(p.any() for p in converted.policy.parameters())
    converted.policy.load_from_vector(vector)
    with pytest.raises(ValueError, match=rf"vector must have shape \[{len(vector)}\], but got \[2\]"):
        converted.policy.load_from_vector(vector[:2])
    converted.policy.double().float()
    for model in (plain, converted):
        model.learn(30)
    for a, b in zip(plain.policy.state_dict().values(), converted.policy.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# Arguments


@pytest.mark.parametrize(
    ("given", "sizes"),
    [({"pi": [8]}, (8, 3)), ({"vf": [5]}, (3, 5)), ({"pi": [6], "vf": [7]}, (6, 7)), ({}, (3, 3)), ([], (3, 3))],
    ids=str,
)
def test_architectures_of_reinforce(given: Any, sizes: tuple[int, int]) -> None:
    policy = make(Reinforce, Dummy(spaces.Discrete(2)), policy_kwargs={"net_arch": given}).policy
    assert (policy.actor.head.in_features, policy.critic.head.in_features) == sizes
    if isinstance(given, dict):
        with pytest.warns(UserWarning, match="net_arch must be a list of sizes or a dict, but got"):
            old = make(Reinforce, Dummy(spaces.Discrete(2)), policy_kwargs={"net_arch": [given]}).policy
        assert old.net_arch == given
        assert old.critic.head.in_features == sizes[1]


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_what_stable_baselines3_adds_to_policy_kwargs_is_no_obstacle(algorithm: type[Any]) -> None:
    arguments: dict[str, Any] = {"net_arch": [4]}
    A2C("MlpPolicy", CARTPOLE, policy_kwargs=arguments)
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, policy_kwargs=arguments)
    added = dict(arguments)
    assert added.keys() > {"net_arch"}
    assert make(algorithm, policy_kwargs=arguments).policy.net_arch == [4]
    assert arguments == added  # as it was
    refused = {**arguments, "optimizer_class": torch.optim.SGD}
    with pytest.raises(ValueError, match="policy_kwargs must not hold 'optimizer_class'"):
        make(algorithm, policy_kwargs=refused)
    assert not make(DiscreteSAC, policy_kwargs=arguments).policy.share_features_extractor
    with pytest.raises(ValueError, match="policy_kwargs must not hold 'share_features_extractor'"):
        make(Reinforce, policy_kwargs={"share_features_extractor": True})


def test_arguments_that_ask_for_nothing_are_taken() -> None:
    make(DiscreteSAC, action_noise=None, optimize_memory_usage=False, use_sde=False)
    make(Reinforce, use_sde=False, sde_sample_freq=-1, rollout_buffer_class=None)
    with pytest.raises(TypeError, match="DiscreteSAC has no argument 'use_sde': "):
        make(DiscreteSAC, use_sde=True)


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_policies_of_others_are_refused_by_name(algorithm: type[Any]) -> None:
    with pytest.raises(TypeError, match=r"policy must be 'MlpPolicy', .* a subclass of \w+Policy, but got ActorCritic"):
        make(algorithm, policy=ActorCriticPolicy)


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_no_log_interval(algorithm: type[Any]) -> None:
    lines: list[Any] = []
    model = make(algorithm)
    model.dump_logs = lambda *_: lines.append(_)
    model.learn(60, log_interval=0)
    assert not lines


# Files


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_loading_as_in_stable_baselines3(algorithm: type[Any], tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    make(algorithm).save(path)
    loaded = algorithm.load(path, env=CARTPOLE, device="cuda")
    assert loaded.device == get_device("cuda")  # the CPU where there is no GPU
    loaded.learn(10)
    loaded.set_env(CARTPOLE)
    loaded.learn(10)
    with pytest.raises(ValueError, match=rf"env must be set before {algorithm.__name__} learns"):
        algorithm.load(path).learn(10)
    other = Reinforce if algorithm is DiscreteSAC else DiscreteSAC
    with pytest.raises(ValueError, match=rf"agent.zip holds a {algorithm.__name__}, but {other.__name__}.load was"):
        other.load(path)


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_a_compiled_policy_is_saved_like_any_other(algorithm: type[Any], tmp_path: Path) -> None:
    model = make(algorithm)
    names = model.policy.state_dict().keys()
    model.policy = torch.compile(model.policy)  # compiles nothing before it is called
    model.save(tmp_path / "agent.zip")
    assert algorithm.load(tmp_path / "agent.zip").policy.state_dict().keys() == names


# Environments


class Legal(Dummy):
    """Takes the actions that its method allows, which change at each step, and no other."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(3), spaces.Box(-1, 1, (3,)))

    def action_masks(self) -> np.ndarray:
        return np.arange(3) != self.time % 3

    def step(self, action: Any) -> Any:
        assert self.action_masks()[action], f"illegal action {action}"
        return super().step(action)


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_make_vec_env_around_environments_with_masks(algorithm: type[Any]) -> None:
    env = make_vec_env(Legal, n_envs=2)
    with warnings.catch_warnings(action="error", category=UserWarning):
        model = make(algorithm, env).learn(60)
    assert model.masked
    # An illegal action would raise.
    evaluate_policy(model, model.get_env(), n_eval_episodes=2)
    evaluate_policy(model, make_vec_env(Legal, n_envs=2), n_eval_episodes=2)
    if algorithm is DiscreteSAC:
        legal = np.unpackbits(model.replay_buffer.action_masks[:10, 0], axis=-1)[:, :3]
        assert legal[:4].tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_an_environment_whose_reset_takes_no_options(algorithm: type[Any], masked: bool) -> None:
    class Plain(Legal if masked else Dummy):  # type: ignore[misc]
        def reset(self, seed: int | None = None) -> Any:
            return super().reset()

    env = Plain() if masked else Plain(spaces.Discrete(3))
    assert make(algorithm, env).learn(30).num_timesteps >= 30


class Bare(VecEnv):
    """A vectorised environment that never calls the constructor of its base class."""

    def __init__(self) -> None:
        self.num_envs, self.observation_space, self.action_space = 2, spaces.Box(-1, 1, (3,)), spaces.Discrete(3)
        self.render_mode, self.time = None, 0

    def reset(self) -> Any:
        self.time = 0
        return np.zeros((2, 3), np.float32)

    def step_async(self, actions: Any) -> None:
        self.time += 1

    def step_wait(self) -> Any:
        done, observations = self.time % 10 == 0, np.zeros((2, 3), np.float32)
        return observations, np.ones(2), np.full(2, done), [{"terminal_observation": observations[0]} for _ in range(2)]

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    close = get_attr = set_attr = env_method = env_is_wrapped = _refuse


@pytest.mark.filterwarnings("ignore:.*Monitor.*:UserWarning")
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_a_vec_env_that_leaves_its_base_class_out(algorithm: type[Any]) -> None:
    model = make(algorithm, Bare()).learn(60)
    assert model._n_updates > 0
    assert not model.masked


class Terse(Bare):
    """One that has no infos but where episodes end, or those of its first environments."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = super().step_wait()
        return observations, rewards, dones, infos if dones.any() else infos[: self.count]


@pytest.mark.filterwarnings("ignore:.*Monitor.*:UserWarning")
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_infos_may_be_left_out_by_all_environments_at_once(algorithm: type[Any]) -> None:
    told, terse = (make(algorithm, env).learn(60) for env in (Bare(), Terse(0)))
    for a, b in zip(told.policy.parameters(), terse.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(EnvironmentDataError, match="infos must be one for each of 2 environments, but got 1"):
        make(algorithm, Terse(1)).learn(60)


# Logs

NAMES = {
    DiscreteSAC: ("actor_loss", "critic_loss", "ent_coef", "ent_coef_loss", "learning_rate", "n_updates"),
    Reinforce: ("policy_loss", "value_loss", "entropy_loss", "explained_variance", "learning_rate", "n_updates"),
}
LOCALS = {
    DiscreteSAC: {"num_collected_steps", "num_collected_episodes", "buffer_actions", "replay_buffer", "train_freq"},
    Reinforce: {"n_steps", "clipped_actions"},
}


class Watch(BaseCallback):
    """Reads at every step what the last update found."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        algorithm = type(self.model)
        assert {"self", "env", "actions", "new_obs", "rewards", "dones", "infos"} <= self.locals.keys()
        assert LOCALS[algorithm] <= self.locals.keys()
        self.seen.append({name: self.logger.name_to_value[f"train/{name}"] for name in NAMES[algorithm]})
        return True


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_figures_of_the_last_update_are_in_the_logger_at_each_step(algorithm: type[Any]) -> None:
    model, watch = make(algorithm), Watch()
    model.learn(80, callback=watch, log_interval=None)
    assert not any(watch.seen[0].values())
    assert watch.seen[-1]["n_updates"] == model._n_updates - (algorithm is DiscreteSAC) or algorithm is Reinforce
    counts = [figures["n_updates"] for figures in watch.seen]
    assert counts == sorted(counts)
    learned = [figures for figures in watch.seen if figures["n_updates"]]
    assert all(np.isfinite(list(figures.values())).all() for figures in learned)
    scalars = model.training_scalars()
    values = model.logger.name_to_value
    assert {f"train/{name}" for name in scalars} <= values.keys()
    assert all(values[f"train/{name}"] == value for name, value in scalars.items())
    assert values["train/learning_rate"] == model.learning_rate


def test_tensors_are_read_back_only_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(DiscreteSAC)
    calls = []
    monkeypatch.setattr(model, "training_scalars", lambda: calls.append(1) or {"actor_loss": 1.0})
    model.learn(40, log_interval=None)
    assert not calls
    assert [model.logger.name_to_value["train/actor_loss"] for _ in range(2)] == [1.0, 1.0]
    assert len(calls) == 1
    model.logger.dump()
    assert model.logger.name_to_value["train/actor_loss"] == 0.0  # dumped, and nothing since


def test_the_loss_of_the_policy_is_logged() -> None:
    scalars = make(Reinforce, ent_coef=0.5).learn(1).training_scalars()
    assert scalars["entropy_loss"] == -scalars["entropy"]
