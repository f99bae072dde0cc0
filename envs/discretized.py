"""Continuous control with discrete actions: each dimension takes one of a few values.

``gsrl/Pendulum-11bins-v1`` is ``Pendulum-v1`` with 11 values of the torque, the extremes among them, and so on for
:data:`BASES`; ``gsrl/Hopper-5bins-v5`` has 5. Another number is asked for by
``gym.make("gsrl/Pendulum-11bins-v1", bins=3)``. Any environment can be wrapped in :class:`DiscretizeEnds`.

``gsrl/Pendulum-11centers-v1`` and so on are the same through Gymnasium's own ``DiscretizeAction``, which takes the
centres of the bins: 11 of them in [-1, 1] reach ±10/11 only, so that full torque is never given.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import DiscretizeAction, TransformReward

__all__ = ["BASES", "DiscretizeEnds", "make"]

BASES = ("Pendulum-v1", "BipedalWalker-v3", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
"""Environments registered with discrete actions. What they need is imported when one is made: the extras ``box2d``
(BipedalWalker) and ``mujoco`` (the last three)."""


class DiscretizeEnds(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    r"""Actions are ``MultiDiscrete([bins] * d)``: for each of the d dimensions, one of evenly spaced values.

    Choice k stands for :math:`low + k \, (high - low) / (bins - 1)`: 0 is ``low`` and ``bins - 1`` is ``high``,
    exactly. There is one factor a dimension even where d is 1; dimensions of a Box of several are in C order.

    Attributes:
        values: What each choice stands for, ``[d, bins]``, of the dtype of the Box.

    Args:
        env: An environment whose actions are a bounded Box of floats.
        bins: Values of each dimension, at least 2.

    Raises:
        TypeError: The actions are not a Box of floats.
        ValueError: The Box is not bounded, or ``bins`` is below 2.
    """

    def __init__(self, env: gym.Env[Any, Any], bins: int) -> None:
        RecordConstructorArgs.__init__(self, bins=bins)
        super().__init__(env)
        box = env.action_space
        if not isinstance(box, spaces.Box) or box.dtype is None or box.dtype.kind != "f":
            raise TypeError(f"the action space of env must be a Box of floats, but got {box}.")
        if not box.is_bounded("both"):
            raise ValueError(f"the action space of env must be bounded, but got {box}.")
        if bins < 2:
            raise ValueError(f"bins must be at least 2, but got {bins}.")
        low, high = box.low.ravel().astype(np.float64), box.high.ravel().astype(np.float64)
        self.values = np.linspace(low, high, bins, axis=-1).astype(box.dtype)
        self.action_space = spaces.MultiDiscrete([bins] * len(self.values))
        self._dimensions = np.arange(len(self.values))
        self._shape = box.shape

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the environment. The reward is a float, which BipedalWalker's is not."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, float(reward), terminated, truncated, info

    def action(self, action: np.ndarray) -> np.ndarray:
        """The continuous action that a choice of each dimension stands for.

        Raises:
            ValueError: The action is none of the action space.
        """
        # Else -1 would be taken for the last choice.
        if action not in self.action_space:
            raise ValueError(f"action must be one of {self.action_space}, but got {action!r}.")
        return self.values[self._dimensions, action].reshape(self._shape)


def make(base: str, bins: int, *, ends: bool = True, **kwargs: Any) -> gym.Env[Any, Any]:
    """The environment ``base`` with discrete actions, without the wrappers that ``gym.make`` adds in its turn.

    Args:
        base: Gymnasium's name of an environment with continuous actions.
        bins: Values of each dimension.
        ends: Whether the extremes are among them; else they are the centres of equal bins.
        **kwargs: Handed to ``base``.
    """
    env = gym.make(base, **kwargs).unwrapped
    if ends:
        return DiscretizeEnds(env, bins)
    return DiscretizeAction(TransformReward(env, float), bins, multidiscrete=True)


for _base, _bins in [*((base, 11) for base in BASES), ("Hopper-v5", 5)]:
    _name, _, _version = _base.rpartition("-v")
    _spec = gym.spec(_base)
    for _values, _ends in (("bins", True), ("centers", False)):
        gym.register(
            f"gsrl/{_name}-{_bins}{_values}-v{_version}",
            f"{__name__}:make",
            reward_threshold=_spec.reward_threshold,
            max_episode_steps=_spec.max_episode_steps,
            kwargs={"base": _base, "bins": _bins, "ends": _ends},
        )
