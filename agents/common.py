"""What the agents share: the choice of a policy, and of a schedule."""

from __future__ import annotations

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import LinearSchedule

__all__ = ["policy_name", "schedule"]


def policy_name(observation_space: spaces.Space) -> str:
    """Returns Stable-Baselines3's name of the policy that reads these observations."""
    if isinstance(observation_space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(observation_space) else "MlpPolicy"


def schedule(value: float, linear: bool) -> float | LinearSchedule:
    """Returns the value itself, or its linear decay to 0 over the run."""
    return LinearSchedule(value, 0.0, 1.0) if linear else value
