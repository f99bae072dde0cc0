"""Many decisions at once: tasks in which every answer is known, one for each kind of discrete action space.

An episode is ``length`` rounds. Each round shows a fresh question, drawn independently, and rewards the answer with a
number in [0, 1], 1 for the right one alone. So the best return is ``length``, and a return divided by it is a score.
Episodes are truncated, never terminated: how many rounds are left is not observed, and need not be.

| id | actions | return of random actions, of 10 |
|---|---|---|
| ``gsrl/FactoredMatch-v0`` | ``MultiDiscrete([8] * 16)`` | 0.70 |
| ``gsrl/BitMatch-v0`` | ``MultiBinary(16)`` | 3.13 |
| ``gsrl/LargeDiscrete-v0`` | ``Discrete(10_000)`` | 1.78 |
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

__all__ = ["BitMatch", "FactoredMatch", "LargeDiscrete", "Rounds"]


class Rounds(gym.Env[np.ndarray, Any]):
    """Questions that are drawn anew each round, and answers that are rewarded.

    Attributes:
        length: Rounds in an episode.
        optimal_return: Return of right answers, in every episode.
        random_return: Expected return of uniformly random actions.

    Args:
        length: Rounds in an episode, at least 1.
        random_reward: Expected reward of a uniformly random action.

    Raises:
        ValueError: ``length`` is below 1.
    """

    def __init__(self, length: int, random_reward: float) -> None:
        _check_at_least("length", length, 1)
        self.length = length
        self.optimal_return = float(length)
        self.random_return = length * random_reward
        self._round = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Asks the first question."""
        super().reset(seed=seed)
        self._round = 0
        return self.ask(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Rewards the answer and asks the next question.

        Raises:
            ValueError: The action is not one of the action space.
        """
        reward = self.grade(action)
        self._round += 1
        return self.ask(), reward, False, self._round >= self.length, {}

    def ask(self) -> np.ndarray:
        """Draws a question, and returns how it is observed."""
        raise NotImplementedError

    def grade(self, action: Any) -> float:
        """The reward in [0, 1] of an answer to the last question."""
        raise NotImplementedError

    def optimal_action(self) -> Any:
        """The right answer to the last question."""
        raise NotImplementedError


class FactoredMatch(Rounds):
    r"""Every factor answers its own part of the question, and earns the full reward beside a right neighbour only.

    The question is a bit :math:`b_i` for each factor, observed as -1 or 1; the right answer to it is
    :math:`(i + b_i \lfloor K / 2 \rfloor) \bmod K`. With :math:`m_i = 1` where factor i is right, else 0, the factors
    in a ring and coupling w, the reward is

    .. math:: r = \frac{1}{n} \sum_i m_i \, (1 - w + w \, m_{i + 1}).

    It is 1 when all are right, and not additive over factors: what one earns depends on the next. A uniformly random
    action earns :math:`(1 - w) / K + w / K^2` on average.

    Attributes:
        answers: The right answer of each factor to either bit, integers ``[n, 2]``.

    Args:
        n: Factors, at least 2.
        K: Choices of each factor, at least 2.
        coupling: Share w in [0, 1] of the reward that needs a right neighbour.
        length: Rounds in an episode, at least 1.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, n: int = 16, K: int = 8, coupling: float = 0.5, length: int = 10) -> None:
        _check_at_least("n", n, 2)
        _check_at_least("K", K, 2)
        if not 0 <= coupling <= 1:
            raise ValueError(f"coupling must lie in [0, 1], but got {coupling}.")
        super().__init__(length, random_reward=(1 - coupling) / K + coupling / K**2)
        self.n, self.K, self.coupling = n, K, coupling
        self.observation_space = spaces.Box(-1.0, 1.0, (n,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.MultiDiscrete([K] * n)
        self._factors = np.arange(n)
        self.answers = (self._factors[:, None] + np.array([0, K // 2])) % K

    def ask(self) -> np.ndarray:
        """Draws a bit for each factor."""
        bits = self.np_random.integers(2, size=self.n)
        self._right = self.answers[self._factors, bits]
        return (2 * bits - 1).astype(np.float32)

    def grade(self, action: Any) -> float:
        """What right factors earn alone, and beside a right neighbour."""
        choices = np.asarray(action)
        # Also for speed: `action_space.contains` takes as long as the rest of a step.
        if choices.shape != (self.n,) or choices.min() < 0 or choices.max() >= self.K:
            raise ValueError(f"action must be {self.n} integers from 0 to {self.K - 1}, but got {action!r}.")
        right = choices == self._right
        alone = np.count_nonzero(right)
        beside = np.count_nonzero(right[1:] & right[:-1]) + int(right[-1] and right[0])
        return float((1 - self.coupling) * alone + self.coupling * beside) / self.n

    def optimal_action(self) -> np.ndarray:
        """What is right for each factor."""
        return self._right.astype(self.action_space.dtype)


class BitMatch(FactoredMatch):
    """:class:`FactoredMatch` on bits: K = 2, and the actions are ``MultiBinary(n)``.

    Half of random bits are right, so that the coupling is stronger: a random policy stays below a third of the best.

    Args:
        n: Bits, at least 2.
        coupling: Share in [0, 1] of the reward that needs a right neighbour.
        length: Rounds in an episode, at least 1.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, n: int = 16, coupling: float = 0.75, length: int = 10) -> None:
        super().__init__(n, 2, coupling, length)
        self.action_space = spaces.MultiBinary(n)


class LargeDiscrete(Rounds):
    r"""One choice of very many: the cell of a square grid that the observation points at, or one near it.

    Action a is the cell in row ``a // side`` and column ``a % side``; of this order the agent is not told. The question
    is a cell, drawn uniformly and observed as its row and column, each scaled to [-1, 1]. With d the distance between
    the two cells, in sides of the square,

    .. math:: r = \exp(-d^2 / (2 \, \mathrm{width}^2)).

    It is 1 for the cell itself; with the defaults .95 is kept up to 6 cells away, so that a hundred well-spread actions
    do nearly as well as all of them.

    Args:
        side: Cells on a side, at least 2; there are ``side ** 2`` actions.
        width: Of the bell, in sides of the square; above 0.
        length: Rounds in an episode, at least 1.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, side: int = 100, width: float = 0.2, length: int = 10) -> None:
        _check_at_least("side", side, 2)
        if not width > 0:
            raise ValueError(f"width must be above 0, but got {width}.")
        cells = np.arange(side)
        # The bell is a product of one for the rows and one for the columns, each by the distance in cells.
        self._bell = np.exp(-((cells / side) ** 2) / (2 * width**2))
        mean = self._bell[abs(cells[:, None] - cells)].mean()
        super().__init__(length, random_reward=float(mean**2))
        self.side = side
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.Discrete(side**2)

    def ask(self) -> np.ndarray:
        """Draws a cell."""
        cell = self.np_random.integers(self.side, size=2)
        self._row, self._column = cell.tolist()
        return (2 * cell / (self.side - 1) - 1).astype(np.float32)

    def grade(self, action: Any) -> float:
        """By the distance to the cell."""
        row, column = divmod(int(action), self.side)
        if not 0 <= row < self.side:
            raise ValueError(f"action must be an integer from 0 to {self.side**2 - 1}, but got {action!r}.")
        return float(self._bell[abs(row - self._row)] * self._bell[abs(column - self._column)])

    def optimal_action(self) -> int:
        """The cell itself."""
        return self._row * self.side + self._column


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but got {value}.")


for _class in (FactoredMatch, BitMatch, LargeDiscrete):
    gym.register(f"gsrl/{_class.__name__}-v0", f"{__name__}:{_class.__name__}")
