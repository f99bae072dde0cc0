"""What choices are made of: what is not a number is never one, and actions have the dtype of their space."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO

from gsrl import CategoricalActorCriticPolicy, DiscreteSAC, Population, Reinforce
from gsrl.checks import NonFiniteError
from gsrl.comms import DIAL, Channel, LewisGame, SignallingGame
from gsrl.comms.riddle import SwitchRiddle
from gsrl.replay import PersistentExploration

NAN, INF = float("nan"), float("inf")
ZERO_IS_ILLEGAL = np.array([[False, True, True]] * 3)


class Room(gym.Env):
    """Three choices, of which 0 is illegal where there are masks; keeps what it was given."""

    observation_space = spaces.Box(-INF, INF, (2,))

    def __init__(self, action_space: spaces.Space | None = None, masked: bool = False, length: int = 4) -> None:
        self.action_space = action_space or spaces.Discrete(3)
        self.info = {"action_mask": np.array([False, True, True])} if masked else {}
        self.length = length
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), dict(self.info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, False, self.steps == self.length, dict(self.info)


def make(algorithm: Any, env: Any = None, **settings: Any) -> Any:
    arguments: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu", **settings}
    if algorithm is DiscreteSAC:
        arguments |= {"buffer_size": 1000, "learning_starts": arguments.pop("learning_starts", 10)}
    return algorithm("MlpPolicy", env or Room(), **arguments)


# What is not a number


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("masks", [None, ZERO_IS_ILLEGAL], ids=["all legal", "0 is illegal"])
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_an_observation_that_is_not_finite_is_named(algorithm: Any, masks: Any, value: float) -> None:
    policy = make(algorithm).policy
    observations = np.zeros((3, 2), np.float32)
    observations[1, 0] = value
    for deterministic in (False, True):
        with pytest.raises(NonFiniteError, match=f"^observations must be finite, but got {value} in row 1.$"):
            policy.predict(observations, deterministic=deterministic, action_masks=masks)
    if np.isnan(value):
        loud = PersistentExploration([1.0], (3, 1, 3)).advance([torch.Generator().manual_seed(0)])[0]
        for noise in (None, loud):
            with pytest.raises(NonFiniteError, match=r"^observations must be finite, but got nan in row 1\.$"):
                policy.act(observations, masks, noise)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("masks", [None, ZERO_IS_ILLEGAL], ids=["all legal", "0 is illegal"])
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_a_parameter_that_is_not_finite_is_named(algorithm: Any, masks: Any, value: float) -> None:
    policy = make(algorithm).policy
    with torch.no_grad():
        policy.actor.head.bias[1] = value
    observations = np.zeros((3, 2), np.float32)
    message = f"^parameter head.bias must be finite, but got {value}: the training diverged"
    for deterministic in (False, True):
        with pytest.raises(FloatingPointError, match=message):
            policy.predict(observations, deterministic=deterministic, action_masks=masks)
    with pytest.raises(ValueError, match=message):
        policy.act(observations, masks)


def test_parameters_that_are_too_large_are_named() -> None:
    policy = make(DiscreteSAC).policy
    with torch.no_grad():
        for parameter in policy.actor.parameters():
            parameter.fill_(1e30)
    with pytest.raises(NonFiniteError, match=r"^logits must be finite, but got nan in row 0, of a finite observation"):
        policy.predict(np.ones(2, np.float32))


def test_entries_of_observations_are_named() -> None:
    class Dicts(Room):
        observation_space: Any = spaces.Dict(a=Room.observation_space, b=Room.observation_space)

    policy = DiscreteSAC("MultiInputPolicy", Dicts(), buffer_size=10, device="cpu").policy
    good = np.zeros((2, 2), np.float32)
    with pytest.raises(NonFiniteError, match=r"^observations\['b'\] must be finite, but got nan in row 1\.$"):
        policy.predict({"a": good, "b": np.array([[0, 0], [NAN, 0]], np.float32)})


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_a_training_does_not_go_on_with_parameters_that_are_not_finite(algorithm: Any, masked: bool) -> None:
    env = Room(masked=masked)
    model = make(algorithm, env).learn(20)
    with torch.no_grad():
        model.policy.actor.head.bias[1] = NAN
    env.taken.clear()
    with pytest.raises(NonFiniteError, match=r"^parameter head\.bias must be finite, but got nan"):
        model.learn(20, reset_num_timesteps=False)
    assert env.taken == []


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_populations_name_what_is_not_finite(algorithm: Any, recorded: bool) -> None:
    population = Population(algorithm, Room, [0, 1], policy_kwargs={"net_arch": [8]}, device="cpu")
    observations = np.zeros((6, 2), np.float32)
    masks = np.tile(ZERO_IS_ILLEGAL, (2, 1))
    for _ in range(101 if recorded else 0):
        population.predict(observations, masks)
    assert len(population._choices._traced._records) == recorded
    observations[4, 1] = NAN
    with pytest.raises(NonFiniteError, match=r"^observations must be finite, but got nan in row 4\.$"):
        population.predict(observations, masks)
    observations[:] = 0
    with torch.no_grad():
        population._members[1].policy.actor.head.bias[2] = INF
    for deterministic in (False, True):
        with pytest.raises(NonFiniteError, match=r"^parameter head\.bias of member 1 must be finite, but got inf"):
            population.predict(observations, masks, deterministic=deterministic)


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_a_member_that_cannot_choose_is_frozen_and_takes_legal_actions(algorithm: Any) -> None:
    made: list[Room] = []

    def env() -> Room:
        made.append(Room(masked=True))
        return made[-1]

    settings = {"learning_starts": 8, "buffer_size": 100} if algorithm is DiscreteSAC else {"n_episodes": 1}
    population = Population(algorithm, env, [0, 1, 2], policy_kwargs={"net_arch": [8]}, device="cpu", **settings)
    population.learn(12)
    with torch.no_grad():
        population._members[1].policy.actor.head.bias[1] = NAN
    before = population._members[2].policy.actor.head.bias.clone()
    with pytest.warns(UserWarning, match="member 1, of seed 1, diverged at 12 steps"):
        population.learn(12, reset_num_timesteps=False)
    assert population.diverged == [False, True, False]
    assert not torch.equal(population._members[2].policy.actor.head.bias, before)
    assert all(action in (1, 2) for each in made for action in each.taken)
    assert population.evaluate(2).shape == (3, 2)


def test_the_head_in_an_algorithm_of_stable_baselines3() -> None:
    model = PPO(CategoricalActorCriticPolicy, Room(), device="cpu")
    with pytest.raises(ValueError, match="logits must be finite or -inf"):
        model.predict(np.array([NAN, 0], np.float32))


def test_agents_that_talk_name_what_is_not_finite() -> None:
    game = SignallingGame(LewisGame(3), Channel(3), seed=0, device="cpu")
    with torch.no_grad():
        next(game.agents().sender.parameters())[0, 0] = NAN
    with pytest.raises(NonFiniteError, match=r"^parameter network\.0\.weight must be finite, but got nan"):
        game.evaluate()
    games = SignallingGame(LewisGame(3), Channel(3), seeds=[0, 1], device="cpu")
    with torch.no_grad():
        next(games.agents(1).receiver.parameters())[0, 0] = NAN
    with pytest.warns(UserWarning, match="the game of seed 1 diverged"):
        games.evaluate()
    assert games.lockstep.alive.tolist() == [True, False]


def test_teams_that_cannot_choose_are_frozen() -> None:
    teams = DIAL(lambda: SwitchRiddle(3), seeds=[0, 1], hidden=8, batch_size=4, device="cpu")
    with torch.no_grad():
        next(teams.lockstep.losses[1].network.parameters())[0, 0] = NAN
    with pytest.warns(UserWarning, match="the team of seed 1 diverged"):
        teams.evaluate(4)
    assert teams.lockstep.alive.tolist() == [True, False]
    assert np.isfinite(teams.evaluate(4).returns).all()


# Dtypes

SPACES = [
    spaces.Discrete(3, dtype=np.int32),
    spaces.Discrete(3, start=-1, dtype=np.int8),
    spaces.MultiDiscrete([2, 3], dtype=np.uint8),
    spaces.MultiDiscrete([[2, 4], [3, 2]], dtype=np.int16),
    spaces.MultiBinary(3),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_actions_have_the_dtype_of_their_space(algorithm: Any, space: Any) -> None:
    env = Room(space)
    model = make(algorithm, env).learn(20)  # of the soft actor-critic, 10 before learning starts
    observations = np.zeros((3, 2), np.float32)
    acted = model.policy.act(observations)
    predicted = model.predict(observations)[0]
    tensors = model.policy(torch.zeros(3, 2)).numpy()
    one = model.predict(observations[0])[0]
    assert {each.dtype for each in (acted, predicted, tensors, one)} == {space.dtype}
    assert all(space.contains(each) for each in (*acted, *predicted, *tensors, one, *env.taken))


@pytest.mark.parametrize("algorithm", [DiscreteSAC, Reinforce])
def test_actions_of_populations_have_the_dtype_of_their_space(algorithm: Any) -> None:
    space = SPACES[1]
    made: list[Room] = []

    def env() -> Room:
        made.append(Room(space))
        return made[-1]

    settings = {"learning_starts": 8, "buffer_size": 100} if algorithm is DiscreteSAC else {}
    population = Population(algorithm, env, [0, 1], policy_kwargs={"net_arch": [8]}, device="cpu", **settings)
    population.learn(12)
    population.evaluate(2)
    taken = [action for each in made for action in each.taken]
    assert len(taken) > 24
    assert all(space.contains(action) for action in (*taken, *population.predict(np.zeros((2, 2), np.float32))))


@pytest.mark.parametrize("space", [space for space in SPACES if len(space.shape) < 2], ids=str)
def test_actions_of_the_head_have_the_dtype_of_their_space(space: Any) -> None:
    env = Room(space)
    model = PPO(CategoricalActorCriticPolicy, env, n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(8)
    predicted = [model.predict(np.zeros(2, np.float32), deterministic=each)[0] for each in (False, True)]
    assert {each.dtype for each in predicted} == {space.dtype}
    assert all(space.contains(action) for action in (*predicted, *env.taken))
