"""Environments on the command line: those that do wrong, masks of legal actions, and small images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import tests.common.environments  # noqa: F401  # registers those that are named
from gsrl import checkpoint
from gsrl.algorithms.extractors import SmallCNN
from gsrl.runs import storage
from gsrl.runs.cards import get_card
from gsrl.runs.config import read_config
from gsrl.runs.environments import EnvironmentFailure, check_environment, make_environments
from gsrl.runs.environments import _Watched as Watched
from gsrl.runs.errors import UsageError
from tests.common.agents import AGENTS, MASKABLE_PPO, OURS, SMALL, train
from tests.common.command_line import exit_code, read_json

# Environments that do wrong


class Wrong(gym.Env):
    """Episodes of ten steps that are right, but for what replaces a part of what is returned at the fourth."""

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(2)

    def __init__(self, **replaced: Any) -> None:
        self.replaced = replaced
        self.usual = {"observation": np.zeros(3, np.float32), "reward": 1.0, "terminated": False, "info": {}}
        if "mask" in replaced:
            self.usual["info"] = {"action_mask": np.array([True, True])}
            self.replaced = {"info": {} if replaced["mask"] is None else {"action_mask": replaced["mask"]}}
        self.time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.usual["observation"], self.usual["info"]

    def step(self, action: Any) -> Any:
        self.time += 1
        shown = {**self.usual, **(self.replaced if self.time == 4 else {})}
        if "error" in shown:
            raise shown["error"]
        return shown["observation"], shown["reward"], shown["terminated"], self.time == 10, shown["info"]


class WrongDict(Wrong):
    """Observations are dicts."""

    observation_space = spaces.Dict({"a": Wrong.observation_space, "b": spaces.Discrete(3)})

    def __init__(self, **observation: Any) -> None:
        super().__init__(observation=observation)
        self.usual["observation"] = {"a": np.zeros(3, np.float32), "b": 0}


NAN = np.array([0, np.nan, 0], np.float32)


@pytest.mark.parametrize(
    ("env", "answer"),
    [
        (Wrong(observation=NAN), "observation must be finite, but got array([ 0., nan,  0.], dtype=float32)"),
        (Wrong(observation=0.5), "observation must have shape (3,), but got ()"),
        (Wrong(observation=np.zeros(4, np.float32)), "observation must have shape (3,), but got (4,)"),
        (Wrong(observation=np.zeros(3, complex)), "observation must hold real numbers, but got array("),
        (Wrong(observation=[[1], [1, 2], 3]), "observation must be an array, but got [[1], [1, 2], 3]"),
        (WrongDict(a=NAN, b=0), "observation['a'] must be finite, but got array("),
        (WrongDict(a=np.zeros(3)), "observation must have an entry 'b', but got {'a': array("),
        (WrongDict(a=np.zeros(3), b=3), "observation['b'] must be in Discrete(3), but got 3"),
        (Wrong(reward=np.nan), "reward must be a finite number of single precision, but got nan"),
        (Wrong(reward=-1e300), "reward must be a finite number of single precision, but got -1e+300"),
        (Wrong(reward=None), "reward must be a finite number of single precision, but got None"),
        (Wrong(reward=1j), "reward must be a finite number of single precision, but got 1j"),
        (Wrong(terminated=None), "terminated must be a boolean, but got None"),
        (Wrong(info=None), "info must be a dict, but got None"),
        (Wrong(mask=np.array([False, False])), "info['action_mask'] must leave every factor a legal choice"),
        (Wrong(mask=np.array([1, 2])), "info['action_mask'] must be boolean, or 0 and 1"),
        (Wrong(mask=np.ones(3, bool)), "info['action_mask'] must have shape"),
        (Wrong(mask=None), "info must hold 'action_mask' at every reset and step, or never"),
    ],
)
def test_what_an_environment_returns_is_looked_at_where_it_comes_in(env: gym.Env, answer: str) -> None:
    watched = Watched(env)
    watched.reset()
    for _ in range(3):
        watched.step(0)
    with pytest.raises(EnvironmentFailure) as caught:
        watched.step(1)
    assert " returned what cannot be used from step(1): " in str(caught.value)
    assert answer in str(caught.value)


@pytest.mark.parametrize(
    "env",
    [
        Wrong(observation=[0.0, 0.0, 0.0], reward=np.float16(1), terminated=np.True_),
        Wrong(observation=np.full(3, 1e30, np.float32), reward=1),  # whose squares overflow
        Wrong(observation=np.zeros(3), terminated=np.array(False)),
        Wrong(mask=np.array([0, 1])),
        Wrong(mask=np.array([0, 1], np.int8)),
        Wrong(terminated=True, info={"action_mask": np.zeros(2, bool)}),  # nothing is chosen after the end
        WrongDict(a=np.ones(3, np.float32), b=np.int64(2)),
    ],
)
def test_what_is_unusual_but_of_use_comes_in(env: gym.Env) -> None:
    watched = Watched(env)
    watched.reset()
    for _ in range(4):
        watched.step(1)


gym.register("CliNan-v0", lambda: Wrong(observation=NAN))


gym.register("CliNone-v0", lambda: Wrong(reward=None))


gym.register("CliRaises-v0", lambda: Wrong(error=KeyError("it")))


@pytest.mark.parametrize(
    ("agent", "env_id", "answer"),
    [
        ("a2c", "CliNone-v0", "CliNone-v0 returned what cannot be used from step("),
        ("gumbel-sac", "CliNan-v0", "CliNan-v0 returned what cannot be used from step("),
        ("dqn", "CliNan-v0", "CliNan-v0 returned what cannot be used from step("),
        ("reinforce", "CliNan-v0", "CliNan-v0 returned what cannot be used from step("),
        ("ppo", "CliRaises-v0", "CliRaises-v0 raised KeyError in step("),
    ],
)
def test_what_an_environment_does_wrong_is_a_sentence(
    agent: str, env_id: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = ["--seeds", "2", "--processes", "1"] if agent == "reinforce" else []
    argv = ["train", "--agent", agent, *SMALL[agent], "--env", env_id, *seeds, "--out", str(tmp_path / "run")]
    assert exit_code(argv) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("run_agent.py: error: training failed at ")
    assert answer in error
    assert "the checkpoint of 0 steps" in error
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "failed"


@pytest.mark.parametrize("agent", [name for name in AGENTS if get_card(name).masks == "ignored" and name != "sac"])
@pytest.mark.parametrize(
    ("env_id", "others"),
    [
        ("CliNarrowInSight-v0", OURS),
        ("CliNarrowByMethod-v0", f"{OURS} or maskable-ppo"),
        ("gsrl/MaskedGrid-v0", f"{OURS} or maskable-ppo"),
    ],
)
def test_an_agent_that_ignores_masks_is_refused_where_they_bind(agent: str, env_id: str, others: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_environment(env_id, agent)
    reason = f"{agent} would take illegal actions: it ignores the masks that {env_id} gives"
    assert str(caught.value) == f"{reason}; train with {others}"


@pytest.mark.parametrize(
    ("env_id", "others"),
    [
        ("CliNarrow-v0", f"{OURS} or ppo or a2c or dqn or qrdqn"),
        ("CliNarrowInSight-v0", OURS),
    ],
)
def test_maskable_ppo_is_refused_where_masks_have_no_method(env_id: str, others: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_environment(env_id, "maskable-ppo")
    reason = f"maskable-ppo reads masks of legal actions from a method action_masks() alone, and {env_id} has none"
    assert str(caught.value) == f"{reason}; train with {others}"


def test_masks_in_the_info_are_advice() -> None:
    check_environment("Taxi-v4", "ppo")


@pytest.mark.parametrize(
    ("agent", "env_id"),
    [
        ("gumbel-sac", "CliNarrow-v0"),
        ("reinforce-relax", "CliNarrow-v0"),
        ("gumbel-sac", "CliNarrowInSight-v0"),
        ("gumbel-sac", "CliNarrowByMethod-v0"),
        pytest.param("maskable-ppo", "CliNarrowByMethod-v0", marks=MASKABLE_PPO.marks),
    ],
)
def test_agents_that_keep_masks_take_legal_actions_wherever_they_stand(agent: str, env_id: str, tmp_path: Path) -> None:
    options = ["--env", env_id, "--steps", "100", "--eval-every", "50", "--net-arch", "16"]
    assert train(tmp_path / "run", agent, *options)["eval_return_mean"] == 5


# Small images


class Squares(gym.Env):
    """A square is lit, and the action that is its channel is paid; MinAtar's form of observations."""

    observation_space = spaces.Box(0.0, 1.0, (10, 10, 4), np.bool_)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.lit = tuple(self.np_random.integers((10, 10, 4)))
        observation = np.zeros((10, 10, 4), np.bool_)
        observation[self.lit] = True
        return observation, {}

    def step(self, action: Any) -> Any:
        reward = float(action == self.lit[-1])
        return self.reset()[0], reward, True, False, {}


gym.register("CliSquares-v0", Squares)


@pytest.mark.parametrize(
    ("space", "policy", "small"),
    [
        (Squares.observation_space, "CnnPolicy", True),
        (spaces.Box(0, 255, (20, 30, 3), np.uint8), "CnnPolicy", True),
        (spaces.Box(0, 255, (1, 35, 84), np.uint8), "CnnPolicy", True),
        (spaces.Box(0, 255, (36, 36, 3), np.uint8), "CnnPolicy", False),
        (spaces.Box(0.0, 1.0, (10, 10, 4)), "MlpPolicy", False),  # who knows what these numbers are
        (spaces.Box(0, 1, (10,), np.bool_), "MlpPolicy", False),
        (spaces.Box(0, 1, (2, 2, 2), np.bool_), "MlpPolicy", False),
    ],
)
def test_small_images_are_read_by_a_small_network(space: spaces.Space, policy: str, small: bool) -> None:
    env: Any = SimpleNamespace(observation_space=space)
    arguments = get_card("a2c").arguments(env, get_card("a2c").Settings())
    assert arguments["policy"] == policy
    assert (arguments["policy_kwargs"].get("features_extractor_class") is SmallCNN) == small


@pytest.mark.parametrize(
    ("agent", "extractor"),
    [
        ("gumbel-sac", lambda policy: policy.actor.features_extractor),
        ("ppo", lambda policy: policy.features_extractor),
        ("dqn", lambda policy: policy.q_net.features_extractor),
    ],
)
@pytest.mark.parametrize("env_id", ["CliSquares-v0", "MinAtar/Breakout-v1"])
def test_agents_train_on_small_images(agent: str, extractor: Any, env_id: str, tmp_path: Path) -> None:
    if env_id.startswith("MinAtar"):
        pytest.importorskip("minatar")
    train(tmp_path / "run", agent, "--env", env_id, "--steps", "64", "--eval-every", "64")
    settings = read_config(tmp_path / "run").settings
    model = get_card(agent).make(make_environments(env_id, 1, 0), settings, seed=0, device="cpu")
    path = tmp_path / "run" / "model.zip"
    storage.load_parameters(checkpoint.load(path), model, path)
    assert isinstance(extractor(model.policy), SmallCNN)


def test_minatar_is_registered_as_it_registers_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    minatar = pytest.importorskip("minatar.gym")
    registered: dict[str, Any] = {}
    monkeypatch.setattr(minatar, "register", lambda id, **entry: registered.update({id: entry}))
    minatar.register_envs()
    assert registered.keys() == {name for name in gym.registry if name.startswith("MinAtar/")}
    for name, entry in registered.items():
        assert {"entry_point": gym.spec(name).entry_point, "kwargs": gym.spec(name).kwargs} == entry
