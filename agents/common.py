"""What the agents share: what the user can mend, and how settings become a constructor's arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from gsrl.algorithms.extractors import SmallCNN

__all__ = ["UsageError", "constructor_arguments", "counted", "is_short_of_memory"]

LEAST = {"learning_starts": 0, "gradient_steps": -1}
"""The least value of whole-numbered settings; 1 for all others."""

SMALL_IMAGES = range(3, 36)
"""Sides of an image, in pixels, that ``SmallCNN`` takes and Stable-Baselines3's ``NatureCNN`` does not."""


SHARES = ("gamma", "tau", "gae_lambda", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps")
"""Settings that lie between 0 and 1; Stable-Baselines3 takes any number."""


POSITIVE = ("learning_rate", "max_grad_norm", "clip_range")
"""Settings that are finite and above 0."""


class UsageError(ValueError):
    """A mistake of the user's: the command line answers with the message alone, see ``agents.training.ANSWERED``."""


def is_short_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory was asked for which there is not: of Python, NumPy or torch."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def counted(number: int, noun: str) -> str:
    """Returns the number and the noun, in the plural where it is due."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def constructor_arguments(
    env: VecEnv, settings: Any, *, decaying: Sequence[str] = ("learning_rate",)
) -> dict[str, Any]:
    """Returns the arguments of an algorithm's constructor: policy, environment, and the settings under their own names.

    ``net_arch``, ``layer_norm``, ``normalize_observations`` and ``critic`` go to the policy, ``linear_decay`` and
    ``normalize`` are done here.
    Small images are read by :class:`gsrl.algorithms.extractors.SmallCNN`, with ``net_arch`` on top of it.

    Args:
        env: Where the agent trains.
        settings: Its ``Settings``.
        decaying: Settings that fall linearly to 0 with ``linear_decay``.

    Raises:
        ValueError: A number is out of range; the message names it.
    """
    arguments = {field.name: getattr(settings, field.name) for field in fields(settings)}
    for field in fields(settings):
        least = LEAST.get(field.name, 1)
        if field.type == "int" and arguments[field.name] < least:
            raise ValueError(f"{field.name} must be at least {least}, but got {arguments[field.name]}")
        value = arguments[field.name]
        if field.name in SHARES and not 0 <= value <= 1:
            raise ValueError(f"{field.name} must be in [0, 1], but got {value}")
        if field.name in POSITIVE and value is not None and not 0 < value < math.inf:
            raise ValueError(f"{field.name} must be a positive number, but got {value}")
    if not all(width >= 1 for width in arguments["net_arch"]):
        raise ValueError(
            f"net_arch must hold widths of at least 1, but got {' '.join(map(str, arguments['net_arch']))}"
        )

    policy_kwargs: dict[str, Any] = {"net_arch": list(arguments.pop("net_arch"))}
    of_policy = ("layer_norm", "normalize_observations", "critic")
    policy_kwargs |= {name: arguments.pop(name) for name in of_policy if name in arguments}
    if _is_small_image(env.observation_space):
        policy_kwargs["features_extractor_class"] = SmallCNN
    if arguments.pop("linear_decay", False):
        arguments |= {name: LinearSchedule(arguments[name], 0.0, 1.0) for name in decaying}
    normalize = arguments.pop("normalize", False)
    return {
        "policy": _policy_name(env.observation_space),
        "env": VecNormalize(env, gamma=settings.gamma) if normalize else env,
        "policy_kwargs": policy_kwargs,
        **arguments,
    }


def _policy_name(observation_space: spaces.Space) -> str:
    """Returns Stable-Baselines3's name of the policy that reads these observations."""
    if isinstance(observation_space, spaces.Dict):
        return "MultiInputPolicy"
    is_image = is_image_space(observation_space) or _is_small_image(observation_space)
    return "CnnPolicy" if is_image else "MlpPolicy"


def _is_small_image(space: spaces.Space) -> bool:
    """Whether these are images too small for ``NatureCNN``, of colours or, as MinAtar's, of booleans."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return False
    _, side, _ = sorted(space.shape)  # there are fewer channels than pixels
    return side in SMALL_IMAGES and (space.dtype == np.bool_ or is_image_space(space))
