"""What state_dict() returns is a copy: it does not change with its owner, nor does the owner change with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_flatten_with_path

from gsrl import DiscreteSAC, Population, Reinforce
from gsrl.comms import DIAL, Channel, LewisGame, SignallingGame
from gsrl.comms.riddle import SwitchRiddle

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu"}
SAC: dict[str, Any] = {"buffer_size": 200, "learning_starts": 8, "batch_size": 4, "exploration_eps": 0.3, **SMALL}


def go_on(learner: Any) -> None:
    learner.learn(30, reset_num_timesteps=False)


LEARNERS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "DiscreteSAC": (lambda: DiscreteSAC("MlpPolicy", "CartPole-v1", seed=0, **SAC).learn(30), go_on),
    "Reinforce": (lambda: Reinforce("MlpPolicy", "CartPole-v1", n_episodes=1, seed=0, **SMALL).learn(30), go_on),
    "population of DiscreteSAC": (lambda: Population(DiscreteSAC, "CartPole-v1", [0, 1], **SAC).learn(30), go_on),
    "population of Reinforce": (
        lambda: Population(Reinforce, "CartPole-v1", [0, 1], n_episodes=2, n_envs=2, **SMALL).learn(30),
        go_on,
    ),
    "SignallingGame": (
        lambda: SignallingGame(LewisGame(3), Channel(3), seeds=[0, 1], device="cpu").learn(2, log_interval=1),
        lambda games: games.learn(2, log_interval=1),
    ),
    "DIAL": (
        lambda: DIAL(lambda: SwitchRiddle(3), hidden=8, batch_size=4, device="cpu").learn(8, log_interval=1),
        lambda teams: teams.learn(8, log_interval=1),
    ),
}


def leaves(tree: Any) -> dict[str, Any]:
    return {str(path): leaf for path, leaf in tree_flatten_with_path(tree)[0]}


def assert_same(first: Any, second: Any) -> None:
    first, second = leaves(first), leaves(second)
    assert first.keys() == second.keys()
    for path, leaf in first.items():
        same = torch.equal(leaf, second[path]) if isinstance(leaf, torch.Tensor) else None
        assert np.array_equal(leaf, second[path]) if same is None else same, path


@pytest.mark.parametrize("name", LEARNERS)
def test_a_state_does_not_change_with_its_owner(name: str) -> None:
    make, advance = LEARNERS[name]
    learner = make()
    state = learner.state_dict()
    before = copy.deepcopy(state)
    advance(learner)
    assert_same(state, before)
    learner.load_state_dict(state)
    advance(learner)
    assert_same(state, before)


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_that_of_a_frozen_member_does_not_either(algorithm: Any) -> None:
    settings = {**SAC, "exploration_eps": 0.0} if algorithm is DiscreteSAC else {**SMALL, "n_episodes": 1}
    population = Population(algorithm, "CartPole-v1", [0, 1], **settings).learn(20)
    population.stop(0)
    state = population.state_dict()
    before = copy.deepcopy(state)
    for leaf in leaves(population.state_dict()["members"][0]).values():
        if isinstance(leaf, torch.Tensor):
            leaf.zero_()
    go_on(population)
    assert_same(state, before)
    assert_same(population.state_dict()["members"][0], before["members"][0])
