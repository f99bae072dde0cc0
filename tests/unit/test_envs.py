"""The environments of the checkout: best returns, masks and discrete values are what they say they are."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from gymnasium.utils import RecordConstructorArgs
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_by_sb3

from envs import probes
from envs.deep_sea import DeepSea
from envs.discretized import BASES, DiscretizeEnds
from envs.grid import DIRECTIONS, LAYOUT, REACH, MaskedGrid, UnmaskedGrid
from envs.matching import BitMatch, FactoredMatch, LargeDiscrete, Rounds
from envs.minigrid import TASKS
from envs.scaled import SCALED

MATCHING: list[Callable[..., Rounds]] = [FactoredMatch, BitMatch, LargeDiscrete]
IDS = [
    f"gsrl/{name}-v0"
    for name in ("FactoredMatch", "BitMatch", "LargeDiscrete", "MaskedGrid", "UnmaskedGrid", "DeepSea")
]
PROBES = [f"gsrl/Probe{name}-v0" for name in probes.__all__ if name != "Probe"]
DISCRETIZED = [
    f"gsrl/{base.replace('-v', f'-{bins}{values}-v')}"
    for base, bins in [*((base, 11) for base in BASES), ("Hopper-v5", 5)]
    for values in ("bins", "centers")
]
WRAPPED = [
    *(f"gsrl/MiniGrid-{task}-v0" for task in TASKS),
    *(f"gsrl/{base.replace('-v', f'-x{factor:g}-v')}" for base, factor in SCALED),
]

Policy = Callable[[np.ndarray], Any]


class FirstLegal(gym.ActionWrapper, RecordConstructorArgs):
    """Takes the first legal action for an illegal one: the checkers sample without masks."""

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def action(self, action: np.int64) -> np.int64:
        mask = self.get_wrapper_attr("action_masks")()
        return action if mask[action] else np.flatnonzero(mask)[0]


def returns(env: gym.Env, policy: Policy, episodes: int) -> list[float]:
    totals = []
    for _ in range(episodes):
        observation, _ = env.reset()
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            total, over = total + float(reward), terminated or truncated
        totals.append(total)
    return totals


def trajectory(env: gym.Env, seed: int, steps: int = 60) -> list[Any]:
    """Everything that an environment returns, flattened, under random legal actions."""
    rng = np.random.default_rng(0)
    observation, info = env.reset(seed=seed)
    env.action_space.seed(0)
    seen: list[Any] = [observation.tolist()]
    for _ in range(steps):
        mask = info.get("action_mask")
        action = env.action_space.sample() if mask is None else rng.choice(np.flatnonzero(mask))
        observation, reward, terminated, truncated, info = env.step(action)
        seen += [observation.tolist(), reward, terminated, truncated, {k: v.tolist() for k, v in info.items()}]
        if terminated or truncated:
            observation, info = env.reset()
            seen.append(observation.tolist())
    return seen


# All of them


def test_all_that_is_registered_is_checked() -> None:
    ours = {env_id for env_id, spec in gym.registry.items() if str(spec.entry_point).startswith("envs.")}
    assert {*IDS, *PROBES, *DISCRETIZED, *WRAPPED} == ours


@pytest.mark.parametrize("env_id", [*IDS, *PROBES, *DISCRETIZED, *WRAPPED])
def test_the_checkers_of_gymnasium_and_of_sb3_pass(env_id: str) -> None:
    try:
        env = gym.make(env_id)
    except DependencyNotInstalled as error:
        pytest.skip(str(error))
    if env_id in IDS or env_id in PROBES:  # the others are wrappers themselves
        env = env.unwrapped
    env = FirstLegal(env) if isinstance(env, MaskedGrid) else env
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Of wrappers.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        if env_id in DISCRETIZED or env_id in WRAPPED:  # of the bases
            warnings.filterwarnings("ignore", message=".*A Box observation space m.* value is.*infinity.*")
        if env_id == "gsrl/ProbeStart-v0":  # DiscreteSAC does support it
            warnings.filterwarnings("ignore", message="Discrete action space .*non-zero start .*not supported")
        check_env(env, skip_render_check=True)
        check_env_by_sb3(env, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if "DeepSea" not in env_id])  # which draws nothing
def test_the_seed_decides_everything(env_id: str) -> None:
    first, again, other = (trajectory(gym.make(env_id), seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


# Matching


def right_answers(env: FactoredMatch) -> Policy:
    """From the observation alone, by the formula of the docstring."""
    return lambda observation: (np.arange(env.n) + (observation > 0) * (env.K // 2)) % env.K


def right_cell(env: LargeDiscrete) -> Policy:
    def policy(observation: np.ndarray) -> int:
        row, column = np.rint((observation + 1) / 2 * (env.side - 1)).astype(int)
        return int(row * env.side + column)

    return policy


@pytest.mark.parametrize("kind", [FactoredMatch, BitMatch])
def test_right_answers_earn_exactly_the_best_return(kind: type[FactoredMatch]) -> None:
    env = kind()
    env.reset(seed=0)
    assert env.optimal_return == 10.0
    assert returns(env, right_answers(env), 20) == [10.0] * 20


def test_the_right_cell_earns_exactly_the_best_return() -> None:
    env = LargeDiscrete()
    env.reset(seed=0)
    assert env.optimal_return == 10.0
    assert returns(env, right_cell(env), 20) == [10.0] * 20


@pytest.mark.parametrize("kind", MATCHING)
def test_random_actions_earn_what_is_said_and_less_than_35_percent(kind: Callable[..., Rounds]) -> None:
    env = kind()
    env.reset(seed=0)
    env.action_space.seed(0)
    earned = returns(env, lambda _: env.action_space.sample(), 400)
    # Five standard errors: a correct environment fails with one seed in a million.
    assert abs(np.mean(earned) - env.random_return) < 5 * np.std(earned) / math.sqrt(len(earned))
    assert env.random_return < 0.35 * env.optimal_return


@pytest.mark.parametrize(
    ("n", "K", "coupling"), [(2, 2, 0.5), (3, 2, 0.75), (3, 3, 0.0), (3, 3, 0.5), (4, 3, 1.0), (3, 4, 0.25)]
)
def test_best_and_random_returns_are_those_of_all_questions_and_actions(n: int, K: int, coupling: float) -> None:
    env = FactoredMatch(n, K, coupling, length=1)
    env.reset(seed=0)
    actions = [np.array(action) for action in itertools.product(range(K), repeat=n)]
    for _ in range(5):
        rewards = [env.grade(action) for action in actions]
        assert max(rewards) == env.optimal_return == 1.0
        assert rewards.count(1.0) == 1
        assert min(rewards) == 0.0
        assert np.mean(rewards) == pytest.approx(env.random_return, abs=1e-12)
        env.ask()


def test_a_factor_earns_more_beside_a_right_neighbour() -> None:
    env = FactoredMatch(n=4, K=8, coupling=0.5)
    observation, _ = env.reset(seed=0)
    right = right_answers(env)(observation)
    wrong = (right + 1) % env.K

    def reward(*factors: int) -> float:
        return env.grade(np.where(np.isin(np.arange(4), factors), right, wrong))

    # Each right factor is worth 1/8, and 1/8 more where the next of the ring is right.
    assert [reward(), reward(0), reward(0, 1), reward(0, 2), reward(3, 0), reward(0, 1, 2)] == [
        *(0.0, 1 / 8, 3 / 8, 2 / 8, 3 / 8, 5 / 8)
    ]


def test_the_answers_are_shifted_by_half_of_the_choices() -> None:
    np.testing.assert_array_equal(FactoredMatch(n=5, K=4).answers, [[0, 2], [1, 3], [2, 0], [3, 1], [0, 2]])
    np.testing.assert_array_equal(FactoredMatch(n=4, K=3).answers, [[0, 1], [1, 2], [2, 0], [0, 1]])
    np.testing.assert_array_equal(BitMatch(n=3).answers, [[0, 1], [1, 0], [0, 1]])


def test_action_spaces_are_those_asked_for() -> None:
    assert FactoredMatch().action_space == spaces.MultiDiscrete([8] * 16)
    assert FactoredMatch(n=2, K=5).action_space == spaces.MultiDiscrete([5, 5])
    assert BitMatch().action_space == spaces.MultiBinary(16)
    assert LargeDiscrete().action_space == spaces.Discrete(10_000)


@pytest.mark.parametrize(("side", "width"), [(2, 0.2), (7, 0.3)])
def test_rewards_of_a_grid_are_those_of_the_distance(side: int, width: float) -> None:
    env = LargeDiscrete(side, width, length=1)
    seen = []
    for seed in range(8):
        observation, _ = env.reset(seed=seed)
        goal = divmod(right_cell(env)(observation), side)
        for action in range(side**2):
            distance = math.dist(goal, divmod(action, side)) / side
            assert env.grade(action) == pytest.approx(math.exp(-(distance**2) / (2 * width**2)), abs=1e-12)
        seen.append(goal)
    cells = list(itertools.product(range(side), repeat=2))
    rewards = [math.exp(-((math.dist(a, b) / side) ** 2) / (2 * width**2)) for a in cells for b in cells]
    assert env.random_return == pytest.approx(np.mean(rewards), abs=1e-12)
    assert len(set(seen)) > 2


def test_what_is_said_of_the_large_grid_is_true() -> None:
    env = LargeDiscrete()
    env.reset(seed=0)
    env._row, env._column = 50, 50
    assert env.grade(5056) > 0.95 > env.grade(5057)


@pytest.mark.parametrize("kind", MATCHING)
def test_episodes_are_truncated_after_their_length(kind: Callable[..., Rounds]) -> None:
    env = kind(length=3)
    env.reset(seed=0)
    for _ in range(2):
        ends = []
        for _ in range(3):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            ends.append((terminated, truncated))
        assert ends == [(False, False), (False, False), (False, True)]
        env.reset()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FactoredMatch(n=1), "n must be at least 2, but got 1"),
        (lambda: FactoredMatch(K=1), "K must be at least 2, but got 1"),
        (lambda: FactoredMatch(coupling=1.5), r"coupling must lie in \[0, 1\], but got 1.5"),
        (lambda: BitMatch(length=0), "length must be at least 1, but got 0"),
        (lambda: LargeDiscrete(side=1), "side must be at least 2, but got 1"),
        (lambda: LargeDiscrete(width=0.0), "width must be above 0, but got 0.0"),
        (lambda: MaskedGrid(limit=5), "limit must be at least 6, but got 5"),
        (lambda: MaskedGrid(penalty=-1.0), "penalty must be at least 0, but got -1.0"),
    ],
)
def test_arguments_out_of_range_are_named(make: Callable[[], gym.Env], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("action", [3, [3] * 15, [3] * 15 + [8], [3] * 15 + [-1]])
def test_actions_of_another_space_are_refused_by_factors(action: Any) -> None:
    env = FactoredMatch()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be 16 integers from 0 to 7"):
        env.step(action)


@pytest.mark.parametrize("env", [LargeDiscrete(side=4), MaskedGrid()])
@pytest.mark.parametrize("action", [-1, 16])
def test_actions_of_another_space_are_refused_by_grids(env: gym.Env, action: int) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"action must be an integer from 0 to 15, but got {action}"):
        env.step(action)


@pytest.mark.parametrize("env_id", IDS)
def test_best_actions_have_the_best_return(env_id: str) -> None:
    env: Any = gym.make(env_id).unwrapped
    returns = []
    for seed in range(20):
        env.reset(seed=seed)
        best = -env.distance if isinstance(env, UnmaskedGrid) else env.optimal_return
        total, done = 0.0, False
        while not done:
            action = env.optimal_action()
            assert env.action_space.contains(action)
            _, reward, terminated, truncated, _ = env.step(action)
            total, done = total + reward, terminated or truncated
        returns.append((total, best))
    np.testing.assert_allclose(*zip(*returns, strict=True))


# The maze


def place(env: UnmaskedGrid, agent: tuple[int, int], goal: tuple[int, int]) -> None:
    cells = [tuple(cell) for cell in env._cells.tolist()]
    env._agent, env._goal = cells.index(agent), cells.index(goal)


def legal_by_walking(row: int, column: int, action: int) -> tuple[int, int] | None:
    """Where an action leads, cell by cell from the drawing; None where it meets a wall or the edge."""
    down, right = DIRECTIONS[action // REACH]
    for _ in range(action % REACH + 1):
        row, column = row + down, column + right
        if not (0 <= row < 9 and 0 <= column < 9) or LAYOUT[row][column] == "#":
            return None
    return row, column


def fewest_moves(start: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Breadth-first search."""
    found, frontier = {start: 0}, [start]
    while frontier:
        cell = frontier.pop(0)
        for action in range(16):
            end = legal_by_walking(*cell, action)
            if end is not None and end not in found:
                found[end] = found[cell] + 1
                frontier.append(end)
    return found


CELLS = [(row, column) for row in range(9) for column in range(9) if LAYOUT[row][column] == "."]


def test_masks_agree_with_what_raises_in_every_cell() -> None:
    env = MaskedGrid()
    env.reset(seed=0)
    legal = 0
    for cell in CELLS:
        for action in range(16):
            place(env, cell, (0, 0))
            mask, end = env.action_masks(), legal_by_walking(*cell, action)
            legal += bool(mask[action])
            assert mask[action] == (end is not None)
            if end is None:
                with pytest.raises(ValueError, match=rf"action {action} is illegal at \[{cell[0]}, {cell[1]}\]"):
                    env.step(np.int64(action))
                assert env._cells[env._agent].tolist() == list(cell)
            else:
                _, _, _, _, info = env.step(np.int64(action))
                assert env._cells[env._agent].tolist() == list(end)
                np.testing.assert_array_equal(info["action_mask"], env.action_masks())
    assert round(legal / (16 * len(CELLS)), 2) == 0.46


def test_every_reset_and_step_has_a_mask_of_its_own() -> None:
    env = MaskedGrid()
    _, info = env.reset(seed=0)
    masks = [info["action_mask"]]
    for _ in range(5):
        masks.append(env.step(np.flatnonzero(masks[-1])[0])[4]["action_mask"])
    assert all(mask.dtype == bool and mask.shape == (16,) for mask in masks)
    assert len({id(mask) for mask in masks}) == 6
    masks[-1][:] = False
    assert env.action_masks().any()


def test_fewest_moves_are_those_of_breadth_first_search() -> None:
    env = MaskedGrid()
    total = 0
    for start in CELLS:
        found = fewest_moves(start)
        for goal in CELLS:
            place(env, start, goal)
            assert env.distance == found[goal]
            total += found[goal]
    assert env.optimal_return == pytest.approx(-total / (68 * 67), abs=1e-12)
    assert env.optimal_return == pytest.approx(-3.004, abs=1e-3)


def test_a_shortest_path_is_walked_at_its_cost() -> None:
    """By hand: down to the door of the left rooms, through, and along the row of the lower door to the right."""
    env = MaskedGrid()
    env.reset(seed=0)
    place(env, (0, 0), (7, 8))
    path = [4 + 1, 8 + 3, 8 + 2, 4 + 3, 4 + 1]  # right 2, down 4, down 3, right 4, right 2
    assert env.distance == 5
    steps = [env.step(np.int64(action)) for action in path]
    assert [reward for _, reward, *_ in steps] == [-1.0] * 5
    assert [terminated for _, _, terminated, _, _ in steps] == [False] * 4 + [True]


def nearest_first(env: MaskedGrid) -> Policy:
    """Any legal action that leaves fewer moves, of the moves found by search."""

    def policy(_: np.ndarray) -> int:
        row, column = env._cells[env._agent].tolist()
        goal = tuple(env._cells[env._goal].tolist())
        ends = {action: legal_by_walking(row, column, action) for action in range(16)}
        return min((a for a, end in ends.items() if end is not None), key=lambda a: SEARCHED[ends[a]][goal])

    return policy


SEARCHED: dict[Any, dict[tuple[int, int], int]] = {cell: fewest_moves(cell) for cell in CELLS}


def test_the_best_policy_earns_exactly_minus_the_distance() -> None:
    env = MaskedGrid()
    env.reset(seed=0)
    expected = []

    class Recorded(gym.Wrapper):
        def reset(self, **kwargs: Any) -> Any:
            result = super().reset(**kwargs)
            expected.append(-float(env.distance))
            return result

    earned = returns(Recorded(env), nearest_first(env), 200)
    assert earned == expected
    # Five standard errors: fails with one seed in a million.
    assert abs(np.mean(earned) - env.optimal_return) < 5 * np.std(earned) / math.sqrt(200)


def test_random_moves_cost_ten_times_the_best() -> None:
    env, unmasked = MaskedGrid(), UnmaskedGrid()
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    earned = returns(env, lambda _: rng.choice(np.flatnonzero(env.action_masks())), 100)
    assert np.mean(earned) < 10 * env.optimal_return
    unmasked.reset(seed=0)
    earned = returns(unmasked, lambda _: rng.integers(16), 100)
    assert np.mean(earned) < 10 * env.optimal_return


def test_sliding_over_the_goal_does_not_end_the_episode() -> None:
    env = MaskedGrid()
    env.reset(seed=0)
    place(env, (0, 0), (0, 1))
    assert not env.step(np.int64(4 + 1))[2]
    assert env.step(np.int64(12 + 0))[2]


def test_without_masks_an_illegal_action_costs_more_and_moves_nothing() -> None:
    env: Any = gym.make("gsrl/UnmaskedGrid-v0", penalty=0.5).unwrapped
    _, info = env.reset(seed=0)
    assert info == {}
    assert not env.has_wrapper_attr("action_masks")
    place(env, (0, 0), (8, 8))
    observation, reward, terminated, truncated, info = env.step(np.int64(0))
    assert (reward, terminated, truncated, info) == (-1.5, False, False, {})
    np.testing.assert_array_equal(observation[:2], [0, 0])
    assert env.step(np.int64(4))[1] == -1.0


def test_the_observation_is_the_place_and_the_way_to_the_goal() -> None:
    env = MaskedGrid()
    env.reset(seed=0)
    place(env, (1, 0), (0, 6))
    observation, *_ = env.step(np.int64(8))  # one down
    np.testing.assert_array_equal(observation, [2, 0, -2 + 8, 6 + 8])


def test_episodes_of_the_maze_are_truncated_at_the_limit() -> None:
    env = MaskedGrid(limit=6)
    env.reset(seed=0)
    place(env, (0, 0), (8, 8))
    ends = [env.step(np.int64(action))[2:4] for action in [4, 12] * 3]
    assert ends == [(False, False)] * 5 + [(False, True)]


def test_start_and_goal_are_different_and_reach_every_cell() -> None:
    env = MaskedGrid()
    env.reset(seed=0)
    drawn = []
    for _ in range(1000):
        env.reset()
        drawn.append((env._agent, env._goal))
    assert all(agent != goal for agent, goal in drawn)
    # Of 68 cells one is missed by 1000 draws with probability below 68 * (67/68)^1000 = 3e-5.
    assert {agent for agent, _ in drawn} == {goal for _, goal in drawn} == set(range(68))


# Discretised control


class Recorder(gym.Env):
    """Keeps the actions it is given."""

    def __init__(self, box: spaces.Space[Any]) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = box
        self.taken: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {"at": "reset"}

    def step(self, action: np.ndarray) -> Any:
        self.taken.append(action)
        return np.ones(1, np.float32), 2.5, True, True, {"at": "step"}


def test_each_choice_stands_for_its_value_and_the_ends_for_the_bounds() -> None:
    box = spaces.Box(np.array([-1.0, 0.0, -0.3]), np.array([1.0, 4.0, 0.7]), dtype=np.float64)
    env = Recorder(box)
    wrapped = DiscretizeEnds(env, bins=5)
    assert wrapped.action_space == spaces.MultiDiscrete([5, 5, 5])
    values = np.array([[-1.0, -0.5, 0.0, 0.5, 1.0], [0.0, 1.0, 2.0, 3.0, 4.0], [-0.3, -0.05, 0.2, 0.45, 0.7]])
    np.testing.assert_allclose(wrapped.values, values, atol=1e-12)
    wrapped.reset(seed=0)
    for action in ([0, 0, 0], [4, 4, 4], [1, 3, 2]):
        wrapped.step(np.array(action))
    np.testing.assert_array_equal(env.taken[0], box.low)
    np.testing.assert_array_equal(env.taken[1], box.high)
    np.testing.assert_allclose(env.taken[2], [-0.5, 3.0, 0.2], atol=1e-12)


def test_the_environment_gets_actions_of_its_own_shape_and_dtype_and_passes_everything_on() -> None:
    env = Recorder(spaces.Box(-0.1, 0.7, (2, 3), np.float32))
    wrapped = DiscretizeEnds(env, bins=11)
    assert wrapped.action_space == spaces.MultiDiscrete([11] * 6)
    assert wrapped.reset(seed=0) == (np.zeros(1, np.float32), {"at": "reset"})
    assert wrapped.step(np.array([0, 10, 0, 10, 0, 10])) == (np.ones(1), 2.5, True, True, {"at": "step"})
    (action,) = env.taken
    assert action in env.action_space
    assert action.dtype == np.float32
    np.testing.assert_array_equal(action, np.array([[-0.1, 0.7, -0.1], [0.7, -0.1, 0.7]], np.float32))


def test_discrete_pendulum_is_the_pendulum() -> None:
    discrete, continuous = gym.make("gsrl/Pendulum-11bins-v1"), gym.make("Pendulum-v1")
    assert discrete.action_space == spaces.MultiDiscrete([11])
    assert discrete.spec is not None
    assert discrete.spec.max_episode_steps == 200
    first, _ = discrete.reset(seed=0)
    np.testing.assert_array_equal(first, continuous.reset(seed=0)[0])
    for step in range(200):
        choice = step % 11
        seen, reward, terminated, truncated, _ = discrete.step(np.array([choice]))
        expected = continuous.step(np.array([-2 + 0.4 * choice], np.float32))
        np.testing.assert_allclose(seen, expected[0], atol=1e-6)
        assert reward == pytest.approx(expected[1])
        assert (terminated, truncated) == (False, step == 199)


def test_centres_of_bins_stop_short_of_full_torque() -> None:
    discrete, continuous = gym.make("gsrl/Pendulum-11centers-v1"), gym.make("Pendulum-v1")
    assert discrete.action_space == spaces.MultiDiscrete([11])
    discrete.reset(seed=0)
    continuous.reset(seed=0)
    for choice in range(11):
        torque = (-10 + 2 * choice) / 11 * 2
        seen, *_ = discrete.step(np.array([choice]))
        np.testing.assert_allclose(seen, continuous.step(np.array([torque], np.float32))[0], atol=1e-6)


def test_other_numbers_of_values_and_keywords_reach_the_environment() -> None:
    env = gym.make("gsrl/Pendulum-11bins-v1", bins=3, g=5.0)
    assert env.action_space == spaces.MultiDiscrete([3])
    assert env.unwrapped.g == 5.0  # type: ignore[attr-defined]
    assert env.spec is not None
    assert gym.make(env.spec).action_space == spaces.MultiDiscrete([3])


@pytest.mark.parametrize(
    ("base", "module", "factors", "limit"),
    [
        ("BipedalWalker-11bins-v3", "Box2D", 4, 1600),
        ("HalfCheetah-11bins-v5", "mujoco", 6, 1000),
        ("Hopper-11bins-v5", "mujoco", 3, 1000),
        ("Walker2d-11bins-v5", "mujoco", 6, 1000),
    ],
)
def test_robots_take_discrete_actions(base: str, module: str, factors: int, limit: int) -> None:
    pytest.importorskip(module)
    env = gym.make(f"gsrl/{base}")
    assert env.action_space == spaces.MultiDiscrete([11] * factors)
    assert env.spec is not None
    assert env.spec.max_episode_steps == limit
    np.testing.assert_array_equal(env.get_wrapper_attr("values")[:, [0, 5, 10]], [[-1, 0, 1]] * factors)
    observation, _ = env.reset(seed=0)
    observation, reward, terminated, truncated, _ = env.step(np.full(factors, 5))
    assert observation in env.observation_space
    assert math.isfinite(float(reward))
    assert not terminated
    assert not truncated
    env.close()


def test_every_base_is_registered_as_it_was() -> None:
    for base in BASES:
        name, _, version = base.rpartition("-v")
        before = gym.spec(base)
        for values in ("bins", "centers"):
            spec = gym.spec(f"gsrl/{name}-11{values}-v{version}")
            assert spec.max_episode_steps == before.max_episode_steps
            assert spec.reward_threshold == before.reward_threshold


@pytest.mark.parametrize("action", [[-1, 0], [0, 3], [0], [0.5, 1.0]])
def test_choices_out_of_range_are_refused(action: list[Any]) -> None:
    env = DiscretizeEnds(Recorder(spaces.Box(-1.0, 1.0, (2,))), bins=3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be one of MultiDiscrete"):
        env.step(np.array(action))


@pytest.mark.parametrize(
    ("space", "bins", "error", "message"),
    [
        (spaces.Discrete(2), 3, TypeError, "must be a Box of floats, but got Discrete"),
        (spaces.Box(0, 255, (2,), np.uint8), 3, TypeError, "must be a Box of floats, but got Box"),
        (spaces.Box(-np.inf, 1.0, (2,)), 3, ValueError, "must be bounded, but got Box"),
        (spaces.Box(-1.0, 1.0, (2,)), 1, ValueError, "bins must be at least 2, but got 1"),
    ],
)
def test_spaces_and_bins_that_do_not_fit_are_refused(
    space: spaces.Space[Any], bins: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        DiscretizeEnds(Recorder(space), bins)


# Deep sea


def test_a_dive_pays_at_its_end_alone_and_costs_a_little_on_the_way() -> None:
    env = DeepSea(size=4)
    observation, _ = env.reset(seed=0)
    rewards = []
    for row in range(4):
        assert np.argwhere(observation.reshape(4, 4)).tolist() == [[row, row]]
        observation, reward, terminated, truncated, _ = env.step(np.int64(env.optimal_action()))
        rewards.append(reward)
        assert (terminated, truncated) == (row == 3, False)
    assert rewards == pytest.approx([-0.0025, -0.0025, -0.0025, 0.9975])
    assert sum(rewards) == pytest.approx(env.optimal_return) == 0.99
    assert not observation.any()


def test_one_step_to_the_left_and_the_treasure_is_out_of_reach() -> None:
    env = DeepSea(size=4)
    for mistake in range(4):
        env.reset(seed=0)
        rewards = []
        for row in range(4):
            right = env.optimal_action()
            rewards.append(env.step(np.int64(1 - right if row == mistake else right))[1])
        assert sum(rewards) == pytest.approx(-0.0025 * 3)


def test_which_action_leads_to_the_right_is_drawn_once() -> None:
    assert np.array_equal(DeepSea()._right, DeepSea()._right)
    assert 0.3 < DeepSea()._right.mean() < 0.7
    assert not np.array_equal(DeepSea()._right, DeepSea(mapping_seed=1)._right)


@pytest.mark.parametrize("action", [2, -1])
def test_other_actions_than_left_and_right_are_refused(action: int) -> None:
    env = DeepSea()
    env.reset()
    with pytest.raises(ValueError, match=r"action must be 0 or 1"):
        env.step(np.int64(action))


def test_a_sea_of_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 2, but got 1"):
        DeepSea(size=1)


# Other units


@pytest.mark.parametrize(("base", "factor"), SCALED)
def test_rewards_in_another_unit_are_the_same_but_for_the_factor(base: str, factor: float) -> None:
    try:
        envs = [gym.make(name) for name in (base, f"gsrl/{base.replace('-v', f'-x{factor:g}-v')}")]
    except DependencyNotInstalled as error:
        pytest.skip(str(error))
    for env in envs:
        env.reset(seed=0)
        env.action_space.seed(0)
    for _ in range(10):
        plain, scaled = (env.step(env.action_space.sample()) for env in envs)
        assert scaled[1] == pytest.approx(factor * plain[1])
        assert np.array_equal(scaled[0], plain[0])


# MiniGrid


def test_the_view_is_shown_as_symbols() -> None:
    try:
        env = gym.make("gsrl/MiniGrid-Empty-8x8-v0")
    except DependencyNotInstalled as error:
        pytest.skip(str(error))
    observation, _ = env.reset(seed=0)
    shown = env.unwrapped.gen_obs()
    assert observation[:-1].reshape(7, 7, 3).tolist() == shown["image"].tolist()
    assert observation[-1] == shown["direction"] == 0  # to the right
    assert env.observation_space.nvec.tolist() == [11, 6, 3] * 49 + [4]
