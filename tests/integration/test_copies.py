"""Whatever owns generators, records or environments is copied whole, and goes on alone; or says that it cannot be."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from torch import Tensor

import gsrl.learning.learner
from gsrl import DiscreteSAC, Population, Reinforce
from gsrl.comms import DIAL, Channel, LewisGame, SignallingGame
from gsrl.comms.riddle import SwitchRiddle
from gsrl.learning import Lockstep

CARTPOLE = "CartPole-v1"
AGENT: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu"}
SAC: dict[str, Any] = {**AGENT, "learning_starts": 10, "batch_size": 8, "buffer_size": 200}
GAME: dict[str, Any] = {"batch_size": 16, "hidden": 8, "device": "cpu"}


class Alternating(gym.Env):
    """Legal actions change from step to step, as a method says: whoever asks another environment takes illegal ones."""

    observation_space = spaces.Box(0.0, 1.0, (1,))
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_masks()[action]
        self.steps += 1
        return np.full(1, self.steps % 7 / 7, np.float32), float(action), False, self.steps % 9 == 0, {}

    def action_masks(self) -> np.ndarray:
        return (np.arange(4) + self.steps) % 3 > 0


def riddle() -> SwitchRiddle:
    return SwitchRiddle(3)


def made(name: str) -> Any:
    """Of each owner one, with training behind it."""
    if name == "game":
        return SignallingGame(LewisGame(4), Channel(4), seed=0, **GAME).learn(6)
    if name == "games":
        channel = Channel(3, 2, variable_length=True, estimator="reinforce", baseline="running-mean")
        return SignallingGame(LewisGame(4), channel, seeds=[0, 1], verbose=1, **GAME).learn(6, log_interval=3)
    if name == "teams":
        return DIAL(riddle, seeds=[0, 1], batch_size=4, hidden=8, device="cpu").learn(24)
    if name == "DiscreteSAC":
        return DiscreteSAC("MlpPolicy", Alternating(), seed=0, exploration_eps=0.2, **SAC).learn(40)
    if name == "Reinforce":
        return Reinforce("MlpPolicy", CARTPOLE, seed=0, baseline="relax", n_episodes=2, **AGENT).learn(40)
    population = Population(DiscreteSAC, CARTPOLE, [0, 1], **SAC).learn(30)
    return population.member(1)


OWNERS = ("game", "games", "teams", "DiscreteSAC", "Reinforce", "member")


def go_on(owner: Any) -> None:
    if isinstance(owner, SignallingGame):
        owner.learn(6, log_interval=100)
    elif isinstance(owner, DIAL):
        owner.learn(24)
    else:
        owner.learn(30, reset_num_timesteps=False)


def leaves(tree: Any) -> Iterator[Any]:
    """All that a state holds, but for what time tells."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in ("ep_info_buffer", "stopwatch"):
                yield from leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree.detach().numpy() if isinstance(tree, Tensor) else tree


def state(owner: Any) -> list[Any]:
    found = [copy.deepcopy(leaf) for leaf in leaves(owner.state_dict())]
    assert len(found) > 20
    return found


def same(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


HOW: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda owner: pickle.loads(pickle.dumps(owner)),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", OWNERS)
def test_a_copy_goes_on_alone_and_as_the_original(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (name, how) == ("games", "deepcopy"):
        monkeypatch.setattr(gsrl.learning.learner, "EAGER_UPDATES", 2)  # what is copied has been recorded
    owner = made(name)
    before = state(owner)
    other = HOW[how](owner)
    assert same(state(other), before)
    go_on(other)
    assert same(state(owner), before)  # nothing is shared
    go_on(owner)
    assert not same(state(owner), before)
    assert same(state(other), state(owner))


def test_the_members_of_copied_games_are_rows_of_the_copied_learner() -> None:
    games = made("games")
    other = copy.deepcopy(games)
    assert isinstance(other.lockstep, Lockstep)
    for index in (0, 1):
        with torch.no_grad():
            for parameter in other.agents(index).parameters():
                parameter.fill_(float(index))
        assert all(bool((rows[index] == index).all()) for rows in other.lockstep.tensors("sender").values())
        assert not any(bool((rows[index] == index).all()) for rows in games.lockstep.tensors("sender").values())
    other.load_state_dict(games.state_dict())
    assert same(state(other), state(games))


def test_open_files_are_not_copied(tmp_path: Path) -> None:
    model = DiscreteSAC("MlpPolicy", CARTPOLE, seed=0, tensorboard_log=str(tmp_path), verbose=1, **SAC).learn(20)
    other = copy.deepcopy(model)
    go_on(other)
    go_on(model)
    assert same(state(other), state(model))


@pytest.mark.parametrize(
    "wrap",
    [lambda makers: SubprocVecEnv(makers, "fork"), lambda makers: VecNormalize(DummyVecEnv(makers))],
    ids=["SubprocVecEnv", "VecNormalize"],
)
def test_what_cannot_be_copied_whole_says_so(wrap: Any) -> None:
    env = wrap([lambda: gym.make(CARTPOLE)])
    model = DiscreteSAC("MlpPolicy", env, **SAC)
    for how in HOW.values():
        with pytest.raises(TypeError, match=f"whose environment is a {type(env).__name__} cannot be copied"):
            how(model)
    env.close()


def test_populations_say_that_they_are_not_copied() -> None:
    population = Population(Reinforce, CARTPOLE, [0, 1], **AGENT)
    for how in HOW.values():
        with pytest.raises(TypeError, match="a population cannot be copied"):
            how(population)


def test_records_are_not_copied() -> None:
    learner = made("game").lockstep.learners[0]._update
    for record, name in ((learner.traced._fingerprints[0], "Fingerprint"), (learner.traced, "Traced")):
        for how in HOW.values():
            with pytest.raises(TypeError, match=f"a {name} cannot be copied"):
                how(record)
