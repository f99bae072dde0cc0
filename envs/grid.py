"""A maze in which most moves are illegal where the agent stands, with every shortest path known.

``gsrl/MaskedGrid-v0`` says which moves are legal and raises on the others; ``gsrl/UnmaskedGrid-v0`` is the same maze
without masks, to measure what they are worth.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

__all__ = ["MaskedGrid", "UnmaskedGrid"]

LAYOUT = (
    "....#....",
    ".........",
    "....#....",
    "....#....",
    "##.####.#",
    "....#....",
    "....#....",
    ".........",
    "....#....",
)
"""Four rooms of 16 cells, joined by four doors. A ``#`` is a wall, and around it all is nothing."""

SIDE = len(LAYOUT)

DIRECTIONS = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Up, right, down, left: what a step adds to row and column."""

REACH = 4
"""The most cells that one move covers."""

ACTIONS = len(DIRECTIONS) * REACH


class UnmaskedGrid(gym.Env[np.ndarray, np.int64]):
    """Reach the goal in the fewest moves, each a straight slide of 1 to 4 cells that neither hits nor leaps a wall.

    Start and goal are two different free cells, drawn uniformly. A move costs 1; the episode terminates when a move
    ends on the goal (to slide over it does not count), and is truncated after ``limit`` moves. So the best return is
    minus the fewest moves, :attr:`distance`.

    Actions are ``Discrete(16)``: action a slides ``a % 4 + 1`` cells in direction ``a // 4`` of up, right, down and
    left. 46 % are legal, on average over the cells; an illegal one costs ``penalty`` more, and moves nothing.

    The observation is ``MultiDiscrete([9, 9, 17, 17])``: row and column of the agent, then how many rows below it and
    how many columns to its right the goal is, each plus 8. All that decides which actions are legal is seen, with masks
    or without.

    Attributes:
        optimal_return: Expected return of the best policy over starts and goals: minus the mean fewest moves.

    Args:
        limit: Moves until an episode is truncated, at least 6, which the longest way takes.
        penalty: Cost of an illegal action above that of a move; 0 or more.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, limit: int = 50, penalty: float = 1.0) -> None:
        self._cells, self._target, self._distances = _tables()
        if limit < self._distances.max():
            raise ValueError(f"limit must be at least {self._distances.max()}, but got {limit}.")
        if penalty < 0:
            raise ValueError(f"penalty must be at least 0, but got {penalty}.")
        self.limit, self.penalty = limit, penalty
        self.observation_space = spaces.MultiDiscrete([SIDE, SIDE, 2 * SIDE - 1, 2 * SIDE - 1])
        self.action_space = spaces.Discrete(ACTIONS)
        starts = len(self._cells)
        self.optimal_return = -float(self._distances.sum()) / (starts * (starts - 1))
        self._agent = self._goal = self._time = 0

    @property
    def distance(self) -> int:
        """The fewest moves from the agent to the goal."""
        return int(self._distances[self._agent, self._goal])

    def optimal_action(self) -> int:
        """A legal action that leaves the fewest moves."""
        ends = self._target[self._agent]
        return int(np.where(ends >= 0, self._distances[ends, self._goal], np.inf).argmin())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draws start and goal."""
        super().reset(seed=seed)
        self._agent, self._goal = self.np_random.choice(len(self._cells), size=2, replace=False).tolist()
        self._time = 0
        return self._observe(), self._info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Slides the agent.

        Raises:
            ValueError: The action is none of the action space.
        """
        if not 0 <= action < ACTIONS:
            raise ValueError(f"action must be an integer from 0 to {ACTIONS - 1}, but got {action!r}.")
        target = int(self._target[self._agent, action])
        reward = -1.0
        if target >= 0:
            self._agent = target
        else:
            reward -= self.penalty
        self._time += 1
        terminated = self._agent == self._goal
        return self._observe(), reward, terminated, not terminated and self._time >= self.limit, self._info()

    def _legal(self) -> np.ndarray:
        return self._target[self._agent] >= 0

    def _observe(self) -> np.ndarray:
        agent, goal = self._cells[[self._agent, self._goal]]
        return np.concatenate([agent, goal - agent + SIDE - 1])

    def _info(self) -> dict[str, Any]:
        return {}


class MaskedGrid(UnmaskedGrid):
    """:class:`UnmaskedGrid` with masks: an illegal action raises.

    Which actions are legal is in ``info["action_mask"]``, bool ``[16]``, at every reset and step, and in
    :meth:`action_masks`. Arguments are the same; ``penalty`` has no use here.
    """

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Slides the agent.

        Raises:
            ValueError: The action is none of the action space, or is illegal here.
        """
        if 0 <= action < ACTIONS and not self._legal()[action]:
            place, legal = self._cells[self._agent].tolist(), np.flatnonzero(self._legal()).tolist()
            raise ValueError(f"action {action} is illegal at {place}, legal are {legal}.")
        return super().step(action)

    def action_masks(self) -> np.ndarray:
        """Which actions may be taken now, bool ``[16]``, under the name that sb3-contrib asks for."""
        return self._legal()

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self.action_masks()}


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The maze by free cells: their places, where each action leads, and how far they are from each other.

    Returns:
        Rows and columns ``[cells, 2]``; the cell where each action ends ``[cells, actions]``, -1 where it is illegal;
        the fewest moves from cell to cell ``[cells, cells]``. They are shared, and read-only.
    """
    cells = [(row, column) for row, line in enumerate(LAYOUT) for column, tile in enumerate(line) if tile == "."]
    index = {cell: i for i, cell in enumerate(cells)}
    target = np.full((len(cells), ACTIONS), -1)
    for (row, column), start in index.items():
        for direction, (down, right) in enumerate(DIRECTIONS):
            for slide in range(1, REACH + 1):
                end = index.get((row + slide * down, column + slide * right))
                if end is None:
                    break
                target[start, direction * REACH + slide - 1] = end

    # Bellman's equation, iterated. The last row stands for the -1 of illegal actions, and is never nearer.
    distances = np.where(np.eye(len(cells) + 1, len(cells), dtype=bool), 0, np.inf)
    for _ in cells:
        distances[:-1] = np.minimum(distances[:-1], 1 + distances[target].min(axis=1))
    tables = np.array(cells), target, distances[:-1].astype(np.int64)
    for table in tables:
        table.flags.writeable = False
    return tables


gym.register("gsrl/MaskedGrid-v0", f"{__name__}:MaskedGrid")
gym.register("gsrl/UnmaskedGrid-v0", f"{__name__}:UnmaskedGrid")
