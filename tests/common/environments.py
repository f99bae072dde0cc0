"""Environments that the command line's tests name: with masks of legal actions, and such as show nothing."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Narrow(gym.Env):
    """Episodes of five steps; one of three actions is legal, the info says which, and the others raise."""

    observation_space: spaces.Space[Any] = spaces.Box(0, 1, (2,))
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.show()

    def step(self, action: Any) -> Any:
        if action != self.legal:
            raise ValueError("illegal")
        self.time += 1
        observation, info = self.show()
        return observation, 1.0, False, self.time == 5, info

    def show(self) -> Any:
        self.legal = self.np_random.integers(3)
        return self.np_random.random(2, np.float32), {"action_mask": np.arange(3) == self.legal}


class NarrowByMethod(Narrow):
    """The same, and a method says which."""

    def show(self) -> Any:
        return super().show()[0], {}

    def action_masks(self) -> np.ndarray:
        return np.arange(3) == self.legal


class NarrowInSight(Narrow):
    """The same, and the observation says which."""

    observation_space = spaces.Dict({"place": Narrow.observation_space, "action_mask": spaces.MultiBinary(3)})

    def show(self) -> Any:
        place, info = super().show()
        return {"place": place, "action_mask": info["action_mask"].astype(np.int8)}, {}


class Nothing(Narrow):
    """Shows a number without a dimension."""

    observation_space = spaces.Box(0, 1, ())


class NoEntry(Narrow):
    """Shows nothing."""

    observation_space = spaces.Dict({})


for _entry in (Narrow, NarrowByMethod, NarrowInSight, Nothing, NoEntry):
    gym.register(f"Cli{_entry.__name__}-v0", _entry)
