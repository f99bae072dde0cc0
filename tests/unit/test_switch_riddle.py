"""The switch riddle in NumPy: its dynamics, and what strategies are worth, by enumeration of all orders of visits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from envs.switch_riddle import SwitchRiddleEnv
from gsrl.comms.riddle import NOTHING, TELL, SwitchRiddle, all_visits, optimal_return

THREE = all_visits(3)

Strategy = Callable[[int, int, np.ndarray], bool]
"""Whether a visitor tells, by its index, the day (from 1) and the days of its own visits so far (True or False)."""


def play(env: SwitchRiddle, strategy: Strategy, episodes: int) -> np.ndarray:
    """Returns of all agents, ``[episodes, n]``."""
    env.reset(episodes, np.random.default_rng(0))
    total = np.zeros((episodes, env.n_agents), np.float32)
    for day in range(env.horizon):
        actions = np.full((episodes, env.n_agents), NOTHING)
        for row, visits in enumerate(env.visits[:, : day + 1]):
            if strategy(visits[-1], day + 1, visits == visits[-1]):
                actions[row, visits[-1]] = TELL
        _, rewards, ended = env.step(actions)
        total += rewards
    assert ended.all()
    return total


def test_the_oracle_of_three_is_worth_540_of_729() -> None:
    riddle = SwitchRiddle(3, THREE)
    riddle.reset(729, np.random.default_rng(0))
    assert riddle.best_returns().sum() == 540
    assert optimal_return(3) == pytest.approx(540 / 729)
    assert optimal_return(3) == pytest.approx(0.7407, abs=5e-5)


def test_the_oracle_of_four_by_drawing() -> None:
    riddle = SwitchRiddle(4)
    riddle.reset(40_000, np.random.default_rng(0))
    # Standard error .002; a fault of five of them has probability 6e-7.
    assert riddle.best_returns().mean() == pytest.approx(optimal_return(4), abs=0.01)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (lambda agent, day, own: False, 0),
        (lambda agent, day, own: day == 1, -729),
        (lambda agent, day, own: day == 6, 540 - 189),
        # The best without the switch: one who was there too often doubts that all others were.
        (lambda agent, day, own: own.sum() <= {5: 1, 6: 3}.get(day, 0), 390),
    ],
)
def test_strategies_without_the_switch(strategy: Strategy, expected: int) -> None:
    returns = play(SwitchRiddle(3, THREE), strategy, 729)
    assert returns.sum(0).tolist() == [expected] * 3  # all share the reward


def test_no_single_decision_improves_the_best_strategy_without_the_switch() -> None:
    # An information state: who, when, and on which days before. Its decision is all that a strategy can change.
    visited = np.array([[len(set(row[: day + 1])) == 3 for day in range(6)] for row in THREE])
    own = np.array([[(row[: day + 1] == row[day]).sum() for day in range(6)] for row in THREE])
    states = np.zeros(THREE.shape, np.int64)
    for day in range(6):
        history = (THREE[:, : day + 1] == THREE[:, day : day + 1]) @ 2 ** np.arange(day + 1)
        states[:, day] = (day * 3 + THREE[:, day]) * 64 + history
    tells = (own <= np.array([0, 0, 0, 0, 1, 3])).astype(bool)

    def value(tells: np.ndarray) -> int:
        first = tells.argmax(1)
        return int(np.where(tells.any(1), np.where(visited[np.arange(729), first], 1, -1), 0).sum())

    assert value(tells) == 390
    assert max(value(tells ^ (states == state)) for state in np.unique(states)) == 390


def test_visitors_see_the_switch_of_the_day_before_and_others_nothing() -> None:
    riddle = SwitchRiddle(3, [[0, 2, 2, 1, 0, 0]])
    turn = riddle.reset(1, np.random.default_rng(0))
    seen, heard, masks = [], [], []
    for _ in range(6):
        seen.append(turn.observations[0, :, 0].tolist())
        heard.append(turn.heard[0, :, 0].tolist())
        masks.append(turn.masks[0, :, TELL].tolist())
        assert turn.masks[0, :, NOTHING].all()
        turn, rewards, ended = riddle.step(np.zeros((1, 3), np.int64))
        assert not rewards.any()
    assert seen == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert masks == [[bool(x) for x in row] for row in seen]
    assert heard == [[-1, -1, -1], [-1, -1, 0], [-1, -1, 2], [-1, 2, -1], [1, -1, -1], [0, -1, -1]]
    assert ended.tolist() == [True]
    assert not turn.observations.any()  # nothing is left to be seen


def test_only_visitors_can_tell_and_only_once() -> None:
    riddle = SwitchRiddle(3, [[0, 1, 2, 0, 0, 0], [0, 0, 0, 0, 1, 2]])
    riddle.reset(2, np.random.default_rng(0))
    riddle.step(np.array([[NOTHING, TELL, TELL]] * 2))
    riddle.step(np.zeros((2, 3), np.int64))
    _, rewards, ended = riddle.step(np.full((2, 3), TELL))
    assert rewards.tolist() == [[1, 1, 1], [-1, -1, -1]]
    assert ended.all()
    _, rewards, ended = riddle.step(np.full((2, 3), TELL))
    assert not rewards.any()
    assert ended.all()


def test_the_same_generator_draws_the_same_visits() -> None:
    riddle, other = SwitchRiddle(4), SwitchRiddle(4)
    riddle.reset(5, np.random.default_rng(3))
    other.reset(5, np.random.default_rng(3))
    assert (riddle.visits == other.visits).all()
    assert riddle.visits.shape == (5, 10)


def test_the_switch_stays_as_the_last_visitor_has_left_it() -> None:
    env = SwitchRiddleEnv(3, render_mode="ansi")
    env.reset(seed=0)
    env.riddle.reset(1, np.random.default_rng(0))
    env.riddle.visits[0] = [0, 1, 1, 2, 0, 1]
    wrong = {agent: np.array([TELL, 1]) for agent in env.agents}  # of those who are not there
    assert env.render() is not None
    observations, rewards, terminated, truncated, infos = env.step(wrong | {"prisoner_0": np.array([NOTHING, 1])})
    assert {agent: seen.tolist() for agent, seen in observations.items()} == {
        "prisoner_0": [0, 0],
        "prisoner_1": [1, 2],
        "prisoner_2": [0, 0],
    }
    assert {agent: info["action_mask"].tolist() for agent, info in infos.items()} == {
        "prisoner_0": [1, 0, 1, 0],
        "prisoner_1": [1, 1, 1, 1],
        "prisoner_2": [1, 0, 1, 0],
    }
    assert set(rewards.values()) == {0.0}
    assert not any(terminated.values())
    assert not any(truncated.values())
    assert env.render() == "day 2 of 6: prisoner_1, switch on"
    observations, *_ = env.step(wrong | {"prisoner_1": np.array([NOTHING, 0])})
    assert observations["prisoner_1"].tolist() == [1, 1]
    _, rewards, terminated, _, _ = env.step(wrong | {"prisoner_1": np.array([TELL, 0])})
    assert set(rewards.values()) == {-1.0}
    assert all(terminated.values())
    assert env.agents == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"prisoners": 2}, "prisoners must be an integer of at least 3"),
        ({"visits": [[0, 1, 2]]}, r"visits must have shape \[N, 6\]"),
        ({"visits": [[0, 1, 2, 3, 0, 1]]}, "visits must name prisoners"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SwitchRiddle(**arguments)
