"""Games in turns as Parallel environments: who is on turn, what is legal, and rewards that add up in between."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("pettingzoo")

from pettingzoo import AECEnv
from pettingzoo.test import parallel_api_test, parallel_seed_test
from pettingzoo.utils import AgentSelector

from envs.switch_riddle import SwitchRiddleEnv
from gsrl.multi_agent import ParallelVecEnv, TurnBased


class Count(AECEnv):
    """Three count in turn; a step by agent i earns agent j ``(i + 1) * 10 ** j``. Agent 0 leaves after its second turn.

    After ``steps`` steps the others are cut off.
    """

    metadata = {"name": "count_v0"}  # noqa: RUF012 (PettingZoo's own form)
    render_mode = None

    def __init__(self, steps: int = 9) -> None:
        self.steps = steps
        self.possible_agents = ["zero", "one", "two"]
        self.spaces = {agent: spaces.Discrete(2 + i, start=i) for i, agent in enumerate(self.possible_agents)}
        self.seen = spaces.Box(0, 100, (1,))

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self.seen

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.spaces[agent]

    def observe(self, agent: str) -> np.ndarray:
        return np.array([self.time], np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.agents = list(self.possible_agents)
        self.rewards, self._cumulative_rewards = dict.fromkeys(self.agents, 0.0), dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.time, self.turns = 0, dict.fromkeys(self.agents, 0)
        self.taken: list[tuple[str, int]] = []
        self.selector = AgentSelector(self.agents)
        self.agent_selection = self.selector.reset()

    def step(self, action: Any) -> None:
        mover = self.agent_selection
        if self.terminations[mover] or self.truncations[mover]:
            self._was_dead_step(action)
            return
        self.taken.append((mover, int(action)))
        self.time += 1
        self.turns[mover] += 1
        self._cumulative_rewards[mover] = 0.0
        size = self.possible_agents.index(mover) + 1
        self.rewards = {agent: size * 10.0 ** self.possible_agents.index(agent) for agent in self.agents}
        self._accumulate_rewards()
        if self.turns["zero"] == 2 and mover == "zero":
            self.terminations["zero"] = True
            self.selector = AgentSelector(["one", "two"])
            self.agent_selection = self.selector.reset()
        else:
            self.agent_selection = self.selector.next()
        if self.time == self.steps:
            self.truncations = dict.fromkeys(self.agents, True)
        self._deads_step_first()


def test_rewards_add_up_until_the_next_turn() -> None:
    env = TurnBased(Count())
    _, infos = env.reset()
    on_turn, rewards, ends = [], [], []
    while env.agents:
        on_turn.append("".join(agent[0] for agent in env.agents if infos[agent]["active"]))
        actions = {agent: env.action_space(agent).sample(infos[agent]["action_mask"]) for agent in env.agents}
        _, reward, terminated, truncated, infos = env.step(actions)
        rewards.append([reward.get(agent) for agent in env.possible_agents])
        ends.append("".join(agent[0] for agent in terminated if terminated[agent] or truncated[agent]))
    # Steps by 0 1 2 0 1 2 1 2 1 earn 1 2 3 1 2 3 2 3 2, times 1, 10 and 100.
    assert on_turn == ["z", "o", "t", "z", "o", "t", "o", "t", "o"]
    assert rewards == [
        [0, 10, 0],
        [0, 0, 300],
        [6, 0, 0],
        [1, 60, 0],
        [None, 0, 600],
        [None, 50, 0],
        [None, 0, 500],
        [None, 50, 0],
        [None, 20, 500],
    ]
    assert ends == ["", "", "", "z", "", "", "", "", "ot"]
    assert [sum(row[i] or 0 for row in rewards) for i in range(3)] == [7, 190, 1900]  # the undiscounted returns


def test_who_is_off_turn_has_one_choice_and_no_effect() -> None:
    env = TurnBased(Count())
    _, infos = env.reset()
    assert [infos[agent]["action_mask"].tolist() for agent in env.agents] == [[1, 1], [1, 0, 0], [1, 0, 0, 0]]
    env.step({"zero": 1, "one": 3, "two": 5})
    assert env.env.taken == [("zero", 1)]


def test_turns_in_arrays() -> None:
    env = ParallelVecEnv(lambda: TurnBased(Count()), n_envs=2)
    env.reset()
    active, steps = [], []
    for _ in range(9):
        active.append(env.joint.active[1].astype(int).tolist())
        after, *step = env.step(env.joint.masks.argmax(-1))
        steps.append([values[1].tolist() for values in step])
    rewards, terminated, truncated = zip(*steps, strict=True)
    assert active == [[int(i == j) for j in range(3)] for i in (0, 1, 2, 0, 1, 2, 1, 2, 1)]
    assert rewards[3] == [1, 60, 0]
    assert rewards[8] == [0, 20, 500]
    assert terminated[3] == [True, False, False]
    assert truncated[8] == [False, True, True]
    assert after.active[1].tolist() == [False, True, True]  # where they were cut off, returns go on
    assert env.joint.active[1].tolist() == [True, False, False]  # a new game
    worlds: Any = env.worlds
    assert worlds.envs[0].env.taken == []


GAMES = {
    "connect-four": "connect_four.connect_four",
    "tic-tac-toe": "tictactoe.tictactoe",
    "leduc-holdem": "rlcard_envs.leduc_holdem",
    "hanabi": "hanabi.hanabi",
}


@pytest.mark.parametrize("name", GAMES)
def test_games_of_pettingzoo(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        games = importlib.import_module(f"pettingzoo.classic.{GAMES[name]}")
        games.env()
    except ImportError as error:
        pytest.skip(str(error))

    def make() -> TurnBased:
        return TurnBased(games.raw_env())  # without the wrapper that forgives illegal moves

    vec, rng = ParallelVecEnv(make, n_envs=2), np.random.default_rng(0)
    joint = vec.reset()
    returns, ended = np.zeros(vec.joint.active.shape), 0
    for _ in range(500):  # 1,000 moves
        assert (joint.active.sum(1) == 1).all()
        assert (joint.masks.any(-1).sum(-1) == vec.spaces.n).all()
        assert (joint.masks.sum(-1)[~joint.active] == 1).all()
        _, rewards, terminated, truncated = vec.step((joint.masks * rng.random(joint.masks.shape)).argmax(-1))
        over = (terminated | truncated).all(1)
        assert (over == (terminated | truncated).any(1)).all()
        returns += rewards
        if name != "hanabi":
            np.testing.assert_array_equal(returns[over].sum(1), 0)  # what one wins, the other loses
        returns[over] = 0
        ended += over.sum()
        joint = vec.joint
    assert ended > 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(make(), num_cycles=50)
    assert "Passed" in capsys.readouterr().out
    parallel_seed_test(lambda: TurnBased(games.env()))


def test_other_environments_are_refused() -> None:
    with pytest.raises(TypeError, match="aec_env must be an AEC environment of PettingZoo, but got"):
        TurnBased(SwitchRiddleEnv())


def test_the_parallel_api(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(TurnBased(Count()), num_cycles=50)
    assert "Passed" in capsys.readouterr().out
    parallel_seed_test(lambda: TurnBased(Count()))
