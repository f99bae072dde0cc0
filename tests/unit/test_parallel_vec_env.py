"""Worlds with several agents as padded arrays: spaces that differ, masks, who is there, and how episodes end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from gsrl._random import environment_seed
from gsrl.checks import EnvironmentDataError
from gsrl.multi_agent import ParallelVecEnv

A_BIT = spaces.Box(-10.0, 10.0, (2,))


class Trio:
    """Three agents of unequal spaces; what happens at each step is said beforehand.

    Agent "a" leaves when it terminates by step ``a_leaves``; all are truncated by step ``length``.
    """

    possible_agents = ("a", "b", "c")

    def __init__(self, a_leaves: int = 2, length: int = 3) -> None:
        self.a_leaves, self.length = a_leaves, length
        self.agents: list[str] = []
        self.seeds: list[int | None] = []
        self.actions: list[dict[str, Any]] = []
        self.infos: dict[str, dict[str, Any]] = {}

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        masked: dict[str, spaces.Space[Any]] = {"observation": A_BIT, "action_mask": spaces.Box(0, 1, (5,), np.int8)}
        return {"a": spaces.Discrete(3, start=1), "b": spaces.Dict(masked), "c": A_BIT}[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return {"a": spaces.Discrete(2, start=5), "b": spaces.MultiDiscrete([2, 3]), "c": spaces.MultiBinary(2)}[agent]

    def look(self) -> dict[str, Any]:
        box = np.array([self.time, 0.5], np.float32)
        b = {"observation": box, "action_mask": np.array([1, 1, 0, 1, 1], np.int8)}
        return {"a": np.int64(1 + self.time % 3), "b": b, "c": box + 1}

    def reset(self, seed: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.seeds.append(seed)
        self.time, self.agents = 0, list(self.possible_agents)
        return self.look(), {agent: dict(self.infos.get(agent, {})) for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        self.actions.append(actions)
        self.time += 1
        there, seen = list(self.agents), self.look()
        terminated = {agent: agent == "a" and self.time == self.a_leaves for agent in there}
        truncated = dict.fromkeys(there, self.time == self.length)
        self.agents = [agent for agent in there if not (terminated[agent] or truncated[agent])]
        rewards = {agent: float(self.time * 10 ** "abc".index(agent)) for agent in there}
        infos = {agent: dict(self.infos.get(agent, {})) for agent in there}
        return {agent: seen[agent] for agent in there}, rewards, terminated, truncated, infos

    def close(self) -> None:
        self.agents = ["closed"]


def worlds_of(env: ParallelVecEnv) -> list[Any]:
    worlds: Any = env.worlds
    envs: list[Any] = worlds.envs
    return envs


def first_choices(env: ParallelVecEnv) -> np.ndarray:
    return env.joint.masks.argmax(-1)


def test_unequal_spaces_are_padded() -> None:
    env = ParallelVecEnv(Trio, n_envs=2)
    observations, masks, active = env.reset()
    assert observations.dtype == np.float32
    assert observations.tolist() == [[[1, 0, 0], [0, 0.5, 0], [1, 1.5, 0]]] * 2  # one-hot, and Boxes
    expected = [
        [[1, 1, 0], [1, 0, 0]],  # Discrete(2) has one factor
        [[1, 1, 0], [0, 1, 1]],  # by the mask in the observation, the second factor lacks its first choice
        [[1, 1, 0], [1, 1, 0]],
    ]
    assert masks.astype(int).tolist() == [expected] * 2
    assert active.all()
    assert (env.spaces.n, env.spaces.K, env.spaces.O) == (2, 3, 3)


def test_actions_are_those_of_each_space() -> None:
    env = ParallelVecEnv(Trio, n_envs=1)
    env.reset()
    env.step(np.array([[[1, 0], [1, 2], [0, 1]]]))
    (world,) = worlds_of(env)
    taken = world.actions[0]
    assert taken["a"] == 6
    assert taken["b"].tolist() == [1, 2]
    assert taken["c"].tolist() == [0, 1]
    assert all(world.action_space(agent).contains(action) for agent, action in taken.items())


def test_an_agent_leaves_and_the_others_are_cut_off() -> None:
    env = ParallelVecEnv(Trio, n_envs=1)
    env.reset()
    steps = []
    for _ in range(4):
        acted_on = env.joint
        steps.append((acted_on, *env.step(first_choices(env))))
    rewards = [step[2][0].tolist() for step in steps]
    assert rewards == [[1, 10, 100], [2, 20, 200], [0, 30, 300], [1, 10, 100]]
    assert [step[3][0].tolist() for step in steps] == [[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]  # terminated
    assert [step[4][0].tolist() for step in steps] == [[0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0]]  # truncated
    assert [step[0].active[0].tolist() for step in steps] == [[1, 1, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]]
    # What the last action led to has the final observations, and who was cut off keeps its turn there.
    final = steps[2][1]
    assert final.observations[0, :, 0].tolist() == [0, 3, 4]
    assert final.active[0].tolist() == [0, 1, 1]
    assert final.masks[0].astype(int).tolist() == [[[1, 0, 0]] * 2, [[1, 1, 0], [0, 1, 1]], [[1, 1, 0]] * 2]
    # What comes next begins anew, with everybody.
    assert steps[3][0].observations[0, :, 0].tolist() == [1, 0, 1]
    # One that left has nothing before it, and one choice.
    assert steps[2][0].observations[0, 0].tolist() == [0, 0, 0]
    assert steps[2][0].masks[0, 0].astype(int).tolist() == [[1, 0, 0]] * 2
    assert [sorted(actions) for actions in worlds_of(env)[0].actions] == [
        ["a", "b", "c"],
        ["a", "b", "c"],
        ["b", "c"],
        ["a", "b", "c"],
    ]


class OneIsCutOff(Trio):
    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        observations, rewards, terminated, truncated, infos = super().step(actions)
        if self.time == 1:
            truncated["c"], self.agents = True, ["a", "b"]
        return observations, rewards, terminated, truncated, infos


def test_one_that_is_cut_off_while_others_go_on_keeps_its_turn_in_what_it_led_to_alone() -> None:
    env = ParallelVecEnv(OneIsCutOff, n_envs=1)
    env.reset()
    after, _, _, truncated = env.step(first_choices(env))
    assert truncated.tolist() == [[False, False, True]]
    assert after.active.tolist() == [[True, True, True]]
    assert after.observations[0, 2].tolist() == [2, 1.5, 0]
    assert env.joint.active.tolist() == [[True, True, False]]
    assert env.joint.observations[0, 2].tolist() == [0, 0, 0]
    assert env.joint.masks[0, 2].astype(int).tolist() == [[1, 0, 0]] * 2


class CutOffWithoutChoices(Trio):
    def look(self) -> dict[str, Any]:
        seen = super().look()
        seen["b"]["action_mask"] *= self.time < self.length
        return seen


def test_where_it_was_cut_off_nobody_need_say_what_is_legal() -> None:
    env = ParallelVecEnv(lambda: CutOffWithoutChoices(length=1), n_envs=1)
    env.reset()
    after, *_ = env.step(first_choices(env))
    assert after.masks[0, 1].astype(int).tolist() == [[1, 1, 0], [1, 1, 1]]


def test_masks_and_turns_of_infos() -> None:
    class Told(Trio):
        def __init__(self) -> None:
            super().__init__()
            self.infos = {
                "a": {"action_mask": np.array([0, 1])},
                "b": {"action_mask": (np.array([0, 1]), np.array([1, 0, 0]))},  # before that of the observation
                "c": {"active": False, "action_mask": np.zeros(4)},
            }

    env = ParallelVecEnv(Told, n_envs=1)
    _, masks, active = env.reset()
    assert masks[0].astype(int).tolist() == [[[0, 1, 0], [1, 0, 0]], [[0, 1, 0], [1, 0, 0]], [[1, 0, 0]] * 2]
    assert active.tolist() == [[True, True, False]]
    assert env.joint.observations[0, 2].tolist() == [1, 1.5, 0]  # it sees, though it does not act


def test_seeds_are_those_of_members_and_are_used_once() -> None:
    env = ParallelVecEnv(Trio, n_envs=2, seeds=(3, 4))
    env.reset()
    env.reset()
    env.seed("evaluation", 7)
    env.reset()
    for world in worlds_of(env):
        assert world.seeds[1] is None
    first, third = ([world.seeds[i] for world in worlds_of(env)] for i in (0, 2))
    assert first == [environment_seed(seed, "environment", j) for seed in (3, 4) for j in (0, 1)]
    assert third == [environment_seed(seed, "evaluation", 7, j) for seed in (3, 4) for j in (0, 1)]


def test_worlds_are_over_one_by_one() -> None:
    lengths = iter([1, 2, 3])
    env = ParallelVecEnv(lambda: Trio(length=next(lengths)), n_envs=3)
    env.reset()
    times = []
    for _ in range(4):
        env.step(first_choices(env))
        times.append(env.joint.observations[:, 1, 0].tolist())
        assert env.over.tolist() == [time == 0 for time in times[-1]]
    assert times == [[0, 1, 1], [0, 0, 2], [0, 1, 0], [0, 0, 1]]


def test_steps_return_arrays_that_stay_as_they_are() -> None:
    env = ParallelVecEnv(Trio, n_envs=2)
    kept = [env.reset()]
    copies = [[array.copy() for array in kept[0]]]
    for _ in range(5):
        after, *_ = env.step(first_choices(env))
        kept.append(after)
        copies.append([array.copy() for array in after])
    for joint, copy in zip(kept, copies, strict=True):
        for array, expected in zip(joint, copy, strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([[[0, 0], [0, 0], [0, 0]]], r"b of world 0 took choice 0 of factor 1, of which \[1, 2\] are legal"),
        ([[[0, 1], [0, 1], [0, 0]]], r"a of world 0 took choice 1 of factor 1, of which \[0\] are legal"),
        ([[[-1, 0], [0, 1], [0, 0]]], r"a of world 0 took choice -1 of factor 0"),
        ([[[0, 0], [0, 3], [0, 0]]], r"b of world 0 took choice 3 of factor 1"),
        ([[0, 0, 0]], r"actions must have shape \(1, 3, 2\), \[B, A, n\], but got shape \(1, 3\)"),
    ],
)
def test_illegal_actions_are_refused_by_name(actions: Any, message: str) -> None:
    env = ParallelVecEnv(Trio, n_envs=1)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(np.array(actions))
    assert worlds_of(env)[0].actions == []


class Aec(Trio):
    def agent_iter(self) -> None: ...


class Continuous(Trio):
    def action_space(self, agent: str) -> spaces.Space[Any]:
        return A_BIT


class Unnamed:
    pass


class Vanishing(Trio):
    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        step = super().step(actions)
        self.agents = ["b", "c"]
        return step


class Faulty(Trio):
    """Returns something else in the place of one entry."""

    def __init__(self, place: int, value: Any) -> None:
        super().__init__()
        self.place, self.value = place, value

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        step = super().step(actions)
        if self.value is None:
            del step[self.place]["a"]
        else:
            step[self.place]["a"] = self.value
        return step


def test_what_is_no_parallel_environment_of_discrete_actions_is_refused() -> None:
    with pytest.raises(TypeError, match=r"got the AEC environment .*: wrap it in gsrl.multi_agent.TurnBased"):
        ParallelVecEnv(Aec, 1)
    with pytest.raises(
        TypeError, match="action_space of a must be Discrete, MultiDiscrete or MultiBinary, but got Box"
    ):
        ParallelVecEnv(Continuous, 1)
    with pytest.raises(TypeError, match="env must be a Parallel environment of PettingZoo, but got"):
        ParallelVecEnv(Unnamed, 1)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="n_envs must be an integer of at least 1, but got 0"):
        ParallelVecEnv(Trio, 0)
    with pytest.raises(ValueError, match="seeds must hold at least one"):
        ParallelVecEnv(Trio, 1, [])
    one = Trio()
    with pytest.raises(ValueError, match="make_env must return another environment at each call"):
        ParallelVecEnv(lambda: one, 2)
    kinds = iter([Trio(), OtherSpaces()])
    with pytest.raises(ValueError, match="that of world 1 has others than that of world 0"):
        ParallelVecEnv(lambda: next(kinds), 2)
    with pytest.raises(RuntimeError, match="reset must be called before step"):
        ParallelVecEnv(Trio, 1).step(np.zeros((1, 3, 2), np.int64))
    env = ParallelVecEnv(Trio, 1)
    env.reset()
    with pytest.raises(TypeError, match="actions must be integers, but got an array of dtype float64"):
        env.step(np.zeros((1, 3, 2)))  # type: ignore[arg-type]


class OtherSpaces(Trio):
    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(2)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, None, "observations must have an entry for every agent that is there, but a has none in world 0"),
        (0, 7, "observation of a must be of Discrete"),
        (1, None, "rewards must have an entry"),
        (1, "1", "reward of a must be a real number, but got '1' in world 0"),
        (2, 1, "terminated of a must be True or False, but got 1 in world 0"),
        (3, "no", "truncated of a must be True or False, but got 'no' in world 0"),
        (4, {"action_mask": np.zeros(2)}, "must leave every factor a legal choice.*of a in world 0"),
        (4, {"action_mask": np.ones(3)}, r"masks must have shape .* of a in world 0"),
    ],
)
def test_what_worlds_may_not_return(place: int, value: Any, message: str) -> None:
    env = ParallelVecEnv(lambda: Faulty(place, value), 1)
    env.reset()
    with pytest.raises(EnvironmentDataError, match=message):
        env.step(first_choices(env))


def test_agents_may_not_vanish() -> None:
    env = ParallelVecEnv(Vanishing, 1)
    env.reset()
    with pytest.raises(EnvironmentDataError, match="but a is gone in world 0"):
        env.step(first_choices(env))


def test_worlds_are_closed() -> None:
    env = ParallelVecEnv(Trio, 2)
    env.close()
    assert [world.agents for world in worlds_of(env)] == [["closed"]] * 2
