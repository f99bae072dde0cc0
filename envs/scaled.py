"""Environments with rewards in another unit, to see whether an agent minds: ``gsrl/CartPole-x100-v1`` and so on."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

__all__ = ["SCALED", "ScaleReward", "make"]

SCALED = (("CartPole-v1", 100.0), ("CartPole-v1", 0.01), ("LunarLander-v3", 1000.0))
"""Environments registered, each with the factor of its rewards."""


class ScaleReward(gym.RewardWrapper[Any, Any], RecordConstructorArgs):
    """Rewards times a factor.

    Args:
        env: Any environment.
        factor: Of the rewards.
    """

    def __init__(self, env: gym.Env[Any, Any], factor: float) -> None:
        RecordConstructorArgs.__init__(self, factor=factor)
        super().__init__(env)
        self.factor = factor

    def reward(self, reward: Any) -> float:
        """The reward times the factor."""
        return float(reward) * self.factor


def make(base: str, factor: float, **kwargs: Any) -> gym.Env[Any, Any]:
    """The environment ``base`` with rewards times ``factor``, without the wrappers that ``gym.make`` adds in its turn.

    Args:
        base: Gymnasium's name of an environment.
        factor: Of the rewards.
        **kwargs: Handed to ``base``.
    """
    return ScaleReward(gym.make(base, **kwargs).unwrapped, factor)


for _base, _factor in SCALED:
    _name, _, _version = _base.rpartition("-v")
    gym.register(
        f"gsrl/{_name}-x{_factor:g}-v{_version}",
        f"{__name__}:make",
        max_episode_steps=gym.spec(_base).max_episode_steps,
        kwargs={"base": _base, "factor": _factor},
    )
