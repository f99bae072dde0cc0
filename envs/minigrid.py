"""MiniGrid's tasks with observations that are symbols, ``gsrl/MiniGrid-Empty-8x8-v0`` and so on for :data:`TASKS`.

MiniGrid shows an image whose pixels are no colours but numbers of kinds of things, and a mission in words. Here the
same view is ``MultiDiscrete``, which networks see one-hot. What it needs is imported when one is made: the extra
``minigrid``.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

__all__ = ["TASKS", "Symbols", "make"]

TASKS = ("Empty-8x8", "DoorKey-5x5")
"""Tasks registered here, as MiniGrid calls them."""


class Symbols(gym.ObservationWrapper[np.ndarray, Any, dict[str, Any]], RecordConstructorArgs):
    """The agent's view as symbols: kind, colour and state of each cell, then where the agent looks.

    Observations are ``MultiDiscrete``, int64 ``[3 * rows * columns + 1]``. The mission is left out: it is the same in
    all episodes of :data:`TASKS`.

    Args:
        env: An environment of MiniGrid.
    """

    def __init__(self, env: gym.Env[dict[str, Any], Any]) -> None:
        from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        rows, columns, _ = env.observation_space["image"].shape  # type: ignore[index]
        cell = [len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)]
        self.observation_space = spaces.MultiDiscrete([*cell * (rows * columns), 4])

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        """The view and the direction, as one vector."""
        return np.append(observation["image"].astype(np.int64).ravel(), observation["direction"])


def make(task: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """A task of MiniGrid with symbols for observations.

    Args:
        task: Its name there, without ``MiniGrid-`` and version.
        **kwargs: Handed to it.

    Raises:
        gymnasium.error.DependencyNotInstalled: MiniGrid is not installed.
    """
    try:
        import minigrid  # noqa: F401  # registers its tasks
    except ImportError as error:
        raise gym.error.DependencyNotInstalled(
            'MiniGrid is not installed; run `pip install "gsrl[minigrid]"` or `pip install minigrid`.'
        ) from error
    return Symbols(gym.make(f"MiniGrid-{task}-v0", **kwargs).unwrapped)


for _task in TASKS:
    gym.register(f"gsrl/MiniGrid-{_task}-v0", f"{__name__}:make", kwargs={"task": _task})
