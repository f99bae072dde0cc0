"""Checks of transitions: what a step of all environments must look like to be kept and learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecNormalize

from gsrl.checks import (
    EnvironmentDataError,
    as_finite,
    check_shape,
    checked_ends,
    checked_numbers,
    checked_observation,
)
from gsrl.masking import MASK_KEY, check_masks
from gsrl.replay.ring import Column
from gsrl.spaces import OneHotCodec

__all__ = [
    "Observation",
    "checked_infos",
    "checked_masks",
    "checked_next_masks",
    "checked_observations",
    "checked_transition",
    "layout_of",
    "successor_observations",
]

Observation: TypeAlias = np.ndarray | dict[str, np.ndarray]


def layout_of(space: spaces.Space) -> Column | dict[str, Column]:
    """How observations of a space come, but float32 in the place of float64; of a ``Dict`` space, those of each entry.

    Raises:
        TypeError: A ``Dict`` space is nested.

    Example:
        >>> layout_of(spaces.Box(-1.0, 1.0, (4,), np.float64))
        Column(shape=(4,), dtype=dtype('float32'), on_device=False)
    """
    if isinstance(space, spaces.Dict):
        for entry in space.values():
            if isinstance(entry, spaces.Dict):
                raise TypeError(f"observation_space must not nest a Dict in a Dict, but got {entry}.")
        return {key: _layout_of(entry) for key, entry in space.items()}
    return _layout_of(space)


def _layout_of(space: spaces.Space) -> Column:
    return Column(space.shape or (), np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype))


def checked_transition(
    layout: Column | dict[str, Column], count: int, obs: Any, next_obs: Any, reward: Any, done: Any
) -> tuple[Observation, Observation, NDArray[np.float32], NDArray[np.bool_]]:
    """A step of all environments, as it may be kept and learned from; unnormalised.

    Args:
        layout: Of the observations.
        count: W, the number of environments, which errors count from 0.
        obs: Observations before the step, ``[W, ...]``.
        next_obs: Observations after it, of the same episode: at its end the final one.
        reward: Rewards ``[W]``.
        done: True where the episode ended ``[W]``.

    Returns:
        Observations in the dtypes of the layout, float32 rewards, and ends.

    Raises:
        EnvironmentDataError: A shape or key is wrong; an observation or a reward is no real number, or not finite (in
            float32); an end is not boolean.

    Example:
        >>> layout = Column((1,), np.dtype(np.float32))
        >>> step = checked_transition(
        ...     layout, 2, [[0], [1]], [[1], [2]], [1.0, 0.5], [False, True]
        ... )  # of two environments
        >>> obs, next_obs, rewards, ends = step
        >>> next_obs, rewards, ends
        (array([[1.],
               [2.]], dtype=float32), array([1. , 0.5], dtype=float32), array([False,  True]))
    """
    obs = checked_observations("obs", obs, layout, count)
    next_obs = checked_observations("next_obs", next_obs, layout, count)
    rewards: NDArray[np.float32] = as_finite("reward", checked_numbers("reward", reward, count), np.dtype(np.float32))
    return obs, next_obs, rewards, checked_ends("done", done, count)


def checked_observations(name: str, observations: Any, layout: Column | dict[str, Column], count: int) -> Observation:
    """Observations ``[W, ...]`` in the dtypes of the layout; see :func:`checked_transition`.

    Example:
        >>> layout = Column((2,), np.dtype(np.float32))
        >>> checked_observations("obs", [[1, 2]], layout, 1)
        array([[1., 2.]], dtype=float32)
        >>> checked_observations("obs", [[1, 2, 3]], layout, 1)
        Traceback (most recent call last):
            ...
        gsrl.checks.EnvironmentDataError: obs must have shape (1, 2), but got (1, 3)
    """
    if isinstance(layout, Column):
        return _checked_array(name, observations, layout, count)
    if not isinstance(observations, dict) or observations.keys() != layout.keys():
        came = sorted(observations) if isinstance(observations, dict) else type(observations).__name__
        raise EnvironmentDataError(f"{name} must be a dict with the keys {sorted(layout)}, but got {came}")
    return {key: _checked_array(f"{name}[{key!r}]", observations[key], each, count) for key, each in layout.items()}


def _checked_array(name: str, values: Any, layout: Column, count: int) -> np.ndarray:
    array = np.asarray(values)
    check_shape(name, array, (count, *layout.shape))
    return as_finite(name, array, layout.dtype)


def checked_infos(infos: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Infos of a step, one an environment, of a ``VecEnv`` that may have no list of them where there is nothing to say.

    Args:
        infos: What the step returned.
        count: W, the number of environments.

    Returns:
        The same; W empty ones in the place of an empty list.

    Raises:
        EnvironmentDataError: There is another number of them.

    Example:
        >>> checked_infos([], 2)
        [{}, {}]
    """
    if len(infos) == count:
        return infos
    if infos:
        raise EnvironmentDataError(f"infos must be one for each of {count} environments, but got {len(infos)}")
    return [{} for _ in range(count)]


def successor_observations(
    observations: Any, dones: np.ndarray, infos: Sequence[Mapping[str, Any]], normalized: VecNormalize | None
) -> Any:
    """The observations that actions led to: where an episode is done, its final one in the place of the next one's.

    Args:
        observations: After the step, and the reset of episodes that ended, ``[W, ...]``.
        dones: Where an episode ended ``[W]``.
        infos: ``infos[i]["terminal_observation"]`` is the final one; without it, that of ``observations`` is.
        normalized: What final observations were normalised by, to be undone.

    Raises:
        EnvironmentDataError: A final observation has another shape than the others.

    Example:
        >>> after, ends = np.array([[5.0], [0.0]]), np.array([False, True])  # the second one was reset, to 0
        >>> successor_observations(after, ends, [{}, {"terminal_observation": np.array([9.0])}], None)
        array([[5.],
               [9.]])
    """
    ended = dones.nonzero()[0].tolist()
    final = {i: infos[i]["terminal_observation"] for i in ended if "terminal_observation" in infos[i]}
    if not final:
        return observations
    if normalized is not None:
        final = {i: normalized.unnormalize_obs(observation) for i, observation in final.items()}
    if isinstance(observations, dict):
        observations = {key: array.copy() for key, array in observations.items()}
        for i, observation in final.items():
            for key, array in observations.items():
                _put(f"terminal_observation[{key!r}]", array, i, observation[key])
        return observations
    observations = observations.copy()
    for i, observation in final.items():
        _put("terminal_observation", observations, i, observation)
    return observations


def _put(name: str, array: np.ndarray, env: int, value: Any) -> None:
    """Writes a row, which NumPy would broadcast."""
    array[env] = checked_observation(name, value, array.shape[1:], array.dtype, env)


def checked_masks(codec: OneHotCodec, masks: Any, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Masks ``[W, L]`` that allow the actions with these indices ``[W, n]``.

    Raises:
        ValueError: They are missing, wrong, leave a factor without a legal choice, or forbid an action.

    Example:
        >>> codec = gsrl.OneHotCodec(spaces.MultiDiscrete([2, 3]))
        >>> checked_masks(codec, [[1, 0, 1, 1, 0]], np.array([[0, 1]]))  # one environment, which took choices 0 and 1
        array([[ True, False,  True,  True, False]])
    """
    if masks is None:
        raise ValueError("action_masks must be given at every step to a buffer made with masked=True.")
    masks = np.asarray(masks)
    check_shape("action_masks", masks, (len(indices), sum(codec.sizes)))
    masks = check_masks(codec, masks, "action_masks")
    legal = np.take_along_axis(masks, codec.first_choices + indices, axis=1)
    if not legal.all():
        env, factor = np.argwhere(~legal)[0]
        raise ValueError(
            f"action must be legal, but environment {env} took choice {indices[env, factor]} of factor {factor}, "
            "counted from 0, which action_masks forbids."
        )
    return masks


def checked_next_masks(
    codec: OneHotCodec, infos: Sequence[Mapping[str, Any]], unused: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Masks ``[W, L]`` of infos. Where unused, all choices: a policy there must be defined.

    Raises:
        ValueError: One is missing, wrong, or leaves a factor without a legal choice.

    Example:
        >>> codec, ended = gsrl.OneHotCodec(spaces.Discrete(3)), np.array([False, True])
        >>> checked_next_masks(codec, [{"action_mask": np.array([1, 0, 1])}, {}], unused=ended)
        array([[ True, False,  True],
               [ True,  True,  True]])
    """
    everything = np.ones(sum(codec.sizes), np.bool_)
    masks: list[Any] = [everything if unused[i] else info.get(MASK_KEY) for i, info in enumerate(infos)]
    for env, mask in enumerate(masks):
        if np.shape(mask) != everything.shape:
            raise ValueError(
                f"infos[{env}][{MASK_KEY!r}] must have shape {everything.shape}, "
                f"but got {None if mask is None else np.shape(mask)}."
            )
    return check_masks(codec, np.stack(masks), f"{MASK_KEY!r} of the infos")
