"""A dive that pays at its end alone, and costs a little on the way: exploration that must be meant.

``gsrl/DeepSea-v0`` has N = 10; another size is asked for by ``gym.make("gsrl/DeepSea-v0", size=20)``.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

__all__ = ["DeepSea"]

COST = 0.01
"""Of N steps to the right."""


class DeepSea(gym.Env[np.ndarray, np.int64]):
    r"""N rows, one a step: the right of two actions leads one column to the right, the other to the left.

    Which action leads to the right differs from cell to cell, by a draw that depends on ``mapping_seed`` alone. A step
    to the right costs .01 / N, wherever it ends; who takes all N of them earns 1. The best return is .99. Uniformly
    random actions earn it in one episode of :math:`2^N`, and a policy that heeds what it has seen so far has learned by
    then to go left.

    The observation is the cell, one-hot ``[N * N]``, row by row; all zeros after the last step. Episodes terminate
    after N steps.

    Source: Osband et al. 2020, "Behaviour suite for reinforcement learning" (1908.03568), Appendix A.5, deterministic.

    Attributes:
        optimal_return: .99.

    Args:
        size: N, at least 2.
        mapping_seed: Of which action leads to the right.

    Raises:
        ValueError: ``size`` is below 2.
    """

    def __init__(self, size: int = 10, mapping_seed: int = 0) -> None:
        if size < 2:
            raise ValueError(f"size must be at least 2, but got {size}.")
        self.size = size
        self.optimal_return = 1.0 - COST
        self.observation_space = spaces.Box(0.0, 1.0, (size * size,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._right = np.random.default_rng(mapping_seed).integers(2, size=(size, size))
        self._row = self._column = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins in the upper left corner."""
        super().reset(seed=seed)
        self._row = self._column = 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Goes down one row, and a column to the right or to the left.

        Raises:
            ValueError: The action is neither 0 nor 1.
        """
        if action not in (0, 1):
            raise ValueError(f"action must be 0 or 1, but got {action!r}.")
        reward = 0.0
        if action == self._right[self._row, self._column]:
            reward = -COST / self.size
            if self._row == self._column == self.size - 1:
                reward += 1.0
            self._column = min(self._column + 1, self.size - 1)
        else:
            self._column = max(self._column - 1, 0)
        self._row += 1
        return self._observe(), reward, self._row == self.size, False, {}

    def optimal_action(self) -> int:
        """The one that leads to the right."""
        return int(self._right[self._row, self._column])

    def _observe(self) -> np.ndarray:
        observation = np.zeros(self.size * self.size, np.float32)
        if self._row < self.size:
            observation[self._row * self.size + self._column] = 1.0
        return observation


gym.register("gsrl/DeepSea-v0", f"{__name__}:DeepSea")
