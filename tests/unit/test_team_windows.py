"""Rows of a team in a ring, and windows of their steps: each agent has rewards, ends and activity of its own."""

from __future__ import annotations

import numpy as np

from gsrl.replay import Column, Ring, windows

AGENTS = 2
FLAG, NUMBER = np.dtype(np.bool_), np.dtype(np.float32)
COLUMNS = {
    "observations": Column((AGENTS, 1), NUMBER),
    "rewards": Column((AGENTS,), NUMBER),
    "terminated": Column((AGENTS,), FLAG),
    "truncated": Column((AGENTS,), FLAG),
    "active": Column((AGENTS,), FLAG),
}

# One environment, steps 0 to 4. Agent 1 leaves by its step 1, agent 0 goes on alone; the episode is cut off by step 3.
REWARDS = [[1, 10], [2, 20], [4, 0], [8, 0], [16, 160]]
TERMINATED = [[False, False], [False, True], [False, False], [False, False], [False, False]]
TRUNCATED = [[False, False], [False, False], [False, False], [True, True], [False, False]]
ACTIVE = [[True, True], [True, True], [True, False], [True, False], [True, True]]


def ring_of_a_team(rows: int, steps: int = 5) -> Ring:
    ring = Ring(rows, COLUMNS, generator=np.random.default_rng(0))
    for time in range(steps):
        ring.append(
            {
                "observations": np.array([[[10 * time], [10 * time + 1]]], NUMBER),
                "rewards": np.array([REWARDS[time]], NUMBER),
                "terminated": np.array([TERMINATED[time]]),
                "truncated": np.array([TRUNCATED[time]]),
                "active": np.array([ACTIVE[time]]),
            }
        )
    return ring


def test_an_agent_has_windows_of_its_own() -> None:
    ring, gammas = ring_of_a_team(5), np.array(0.5)
    starts = np.arange(5)[:, None] * AGENTS + np.arange(AGENTS)  # [B, A]
    groups = windows.groups(np.array(3))
    steps = windows.step_indices(starts, 3, ring.n_envs * AGENTS, ring.capacity * AGENTS)
    assert steps[1].tolist() == [[2, 4, 6], [3, 5, 7]]
    closing = windows.closing_steps(ring.closed.take(steps), groups)
    last = windows.last_indices(steps, closing)
    active = ring.columns["active"].take(starts)
    assert active.tolist() == ACTIVE
    # Of agent 1: the first step and the one by which it left; this one alone; then it is away, and none counts.
    assert closing[active].tolist() == [2, 1, 2, 0, 1, 0, 0, 0]
    assert (last[:, 0] // AGENTS).tolist() == [2, 3, 3, 3, 4]
    assert (last[:2, 1] // AGENTS).tolist() == [1, 1]
    weights = windows.reward_weights(gammas, np.float32(1.0).reshape(()), 3)
    sums = windows.returns(ring.columns["rewards"].take(steps), closing, weights, groups)
    assert sums[:, 0].tolist() == [1 + 1 + 1, 2 + 2 + 2, 4 + 4, 8, 16]
    assert sums[active[:, 1], 1].tolist() == [10 + 10, 20, 160]
    discounts = windows.bootstrap_discounts(
        closing, ring.columns["terminated"].take(last), windows.discounts(gammas, 3)
    )
    assert discounts[:, 0].tolist() == [0.125, 0.125, 0.25, 0.5, 0.5]  # of what was cut off, the return goes on
    assert discounts[active[:, 1], 1].tolist() == [0, 0, 0.5]


def test_what_is_of_the_team_is_drawn_as_one() -> None:
    ring = ring_of_a_team(5)
    drawn = ring.draw(6)
    assert drawn.shape == (6,)
    assert ring.gather("observations", drawn).shape == (6, AGENTS, 1)
    np.testing.assert_array_equal(ring.gather("rewards", drawn), np.array(REWARDS)[drawn])


def test_windows_of_agents_go_over_the_end_of_the_ring() -> None:
    ring = ring_of_a_team(4)  # rows hold steps 4, 1, 2, 3
    starts = np.array([[2, 3], [6, 7]])
    steps = windows.step_indices(starts, 3, AGENTS, ring.capacity * AGENTS)
    assert steps.tolist() == [[[2, 4, 6], [3, 5, 7]], [[6, 0, 2], [7, 1, 3]]]
    assert windows.closing_steps(ring.closed.take(steps), windows.groups(np.array(3))).tolist() == [[2, 0], [0, 0]]


def test_members_of_a_population_of_teams() -> None:
    ring = Ring(3, COLUMNS, num_members=2, generator=[np.random.default_rng(i) for i in range(2)])
    for time in range(3):
        row = {"observations": np.zeros((2, AGENTS, 1), NUMBER), "rewards": np.array([REWARDS[time]] * 2, NUMBER)}
        ends = {"terminated": np.array([TERMINATED[time]] * 2), "truncated": np.array([TRUNCATED[time]] * 2)}
        ring.append({**row, **ends, "active": np.array([ACTIVE[time]] * 2)})
    starts = (ring.first + np.array([[0, 1], [0, 2]]))[..., None] * AGENTS + np.arange(AGENTS)  # [S, B, A]
    groups, gammas = windows.groups(np.array([2, 3])), np.array([1.0, 0.5])
    steps = windows.step_indices(starts, 3, AGENTS, ring.capacity * AGENTS, ring.first[..., None] * AGENTS)
    closing = windows.closing_steps(ring.closed.take(steps), groups)
    assert closing.tolist() == [[[1, 1], [1, 0]], [[2, 1], [0, 0]]]
    weights = windows.reward_weights(gammas, np.ones(2, NUMBER), 3)
    sums = windows.returns(ring.columns["rewards"].take(steps), closing, weights, groups)
    assert sums.tolist() == [[[3, 30], [6, 20]], [[3, 20], [4, 0]]]
    terminated = ring.columns["terminated"].take(windows.last_indices(steps, closing))
    discounts = windows.bootstrap_discounts(closing, terminated, windows.discounts(gammas, 3))
    assert discounts.tolist() == [[[1, 0], [1, 0]], [[0.125, 0], [0.5, 0.5]]]


def test_an_end_of_all_episodes_truncates_those_who_have_not_terminated() -> None:
    ring = ring_of_a_team(5, steps=2)
    ring.end_episodes()
    assert ring.columns["truncated"][1, 0].tolist() == [True, False]
    state = ring.state_dict()
    other = ring_of_a_team(5, steps=4)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.closed[:2, 0], [[False, False], [True, True]])
    np.testing.assert_array_equal(other.draw(8), ring.draw(8))
