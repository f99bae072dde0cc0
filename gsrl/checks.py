"""Checks of what environments and policies give, the same in all learners and in the same words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

__all__ = [
    "EnvironmentDataError",
    "Layout",
    "NonFiniteError",
    "check_finite",
    "checked_end",
    "checked_ends",
    "checked_infos",
    "checked_numbers",
    "checked_observation",
    "checked_observations",
    "checked_real",
    "checked_transition",
    "largest",
    "layout_of",
    "named_tensors",
    "raise_non_finite",
    "successor_observations",
    "to_numpy",
]

Observation: TypeAlias = np.ndarray | dict[str, np.ndarray]

REAL = "fiub"
"""Kinds of NumPy's dtypes that are numbers on a line."""


class EnvironmentDataError(ValueError):
    """What an environment returned is not what it may return; nothing was kept or learned of it."""


class NonFiniteError(ValueError, FloatingPointError):
    """A policy cannot choose, since its logits are not numbers: by an observation (a wrong value) or by its parameters.

    It is both kinds of error, because a training that diverged ends in a ``FloatingPointError`` wherever it is noticed.
    """


def to_numpy(scores: Tensor) -> tuple[NDArray[Any], bool]:
    """Reads back what choices are made by, and whether a number among them is NaN, whose arg max would be choice 0.

    Args:
        scores: Any shape; ``-inf`` marks an illegal choice.
    """
    if scores.dtype == torch.bfloat16:  # NumPy has none
        scores = scores.float()
    values: NDArray[Any] = scores.cpu().numpy()
    # NaN if one is; infinite where a choice is illegal.
    return values, math.isnan(np.vdot(values, values))


def largest(scores: Tensor, observations: Any, network: Any) -> NDArray[np.int64]:
    """Reads back which choices have the largest scores.

    Args:
        scores: Normalised logits, or these with noise, ``[*batch, n, K]``. Those of infinite logits are NaN; ``-inf``
            marks an illegal choice.
        observations: What they were computed from, ``[*batch, ...]``; a tensor, or a dict of tensors.
        network: What computed them; of a module, parameters and buffers are looked through where a score is NaN.

    Returns:
        Indices ``[*batch, n]``.

    Raises:
        NonFiniteError: A score is NaN. The message says which observation or which parameter is not finite.
    """
    values, is_nan = to_numpy(scores)
    if is_nan:
        raise_non_finite(values, observations, named_tensors(network))
    indices: NDArray[np.int64] = values.argmax(-1)
    return indices


def named_tensors(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module, by name; nothing of anything else."""
    if isinstance(network, nn.Module):
        yield from network.named_parameters()
        yield from network.named_buffers()


def raise_non_finite(scores: NDArray[Any], observations: Any, tensors: Iterable[tuple[str, Tensor]]) -> NoReturn:
    """Says which observation or which parameter is not finite; arguments as of :func:`largest`.

    Raises:
        NonFiniteError: Always.
    """
    batch_shape = scores.shape[:-2]
    check_finite(observations, batch_shape)
    for name, tensor in tensors:
        found = _first_not_finite(tensor)
        if found is not None:
            raise NonFiniteError(
                f"parameter {name} must be finite, but got {found[1]}: the training diverged, or it was set so. Try a "
                "lower learning_rate, smaller rewards, or max_grad_norm."
            )
    row = _row(np.argwhere(np.isnan(scores))[0].tolist(), batch_shape)
    raise NonFiniteError(
        f"logits must be finite, but got nan in row {row}, of a finite observation and finite parameters: these are "
        "too large. Try a lower learning_rate, smaller rewards, or max_grad_norm."
    )


def check_finite(observations: Any, batch_shape: Sequence[int], name: str = "observations") -> None:
    """Refuses observations that are not finite, which a network need not show: a hyperbolic tangent of infinity is 1.

    Args:
        observations: ``[*batch, ...]``; a tensor, or a dict of tensors.
        batch_shape: Of the batch dimensions, which the message counts as one.
        name: What the message calls them.

    Raises:
        NonFiniteError: An entry is NaN or infinite.
    """
    for entry, observation in _leaves(name, observations):
        # A finite sum settles the usual case; one that overflowed calls for a close look.
        if observation.is_floating_point() and not math.isfinite(observation.sum().item()):
            found = _first_not_finite(observation)
            if found is not None:
                where, value = found
                raise NonFiniteError(f"{entry} must be finite, but got {value} in row {_row(where, batch_shape)}.")


def _first_not_finite(tensor: Tensor) -> tuple[tuple[int, ...], float] | None:
    """Where the first such entry is, and its value."""
    places = (~tensor.isfinite()).nonzero()
    if not len(places):
        return None
    where = tuple(places[0].tolist())
    return where, tensor[where].item()


def _row(where: Sequence[int], batch_shape: Sequence[int]) -> int:
    """The place in batch dimensions that are made one, of an entry in a tensor that begins with them."""
    row = 0
    for index, size in zip(where, batch_shape, strict=False):
        row = row * size + index
    return row


def _leaves(name: str, tree: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name, of one or of a dict of them."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(f"{name}[{key!r}]", value)
    else:
        yield name, tree


# Transitions


class Layout(NamedTuple):
    """How the observations of a space, or of one entry of a ``Dict`` space, come and are kept."""

    shape: tuple[int, ...]
    """Of one observation."""
    dtype: np.dtype
    """That of the space, but float32 in the place of float64."""


def layout_of(space: spaces.Space) -> Layout | dict[str, Layout]:
    """The layout of a space; of a ``Dict`` space, that of each entry.

    Raises:
        TypeError: A ``Dict`` space is nested.
    """
    if isinstance(space, spaces.Dict):
        for entry in space.values():
            if isinstance(entry, spaces.Dict):
                raise TypeError(f"observation_space must not nest a Dict in a Dict, got {entry}")
        return {key: _layout_of(entry) for key, entry in space.items()}
    return _layout_of(space)


def _layout_of(space: spaces.Space) -> Layout:
    return Layout(space.shape or (), np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype))


def checked_transition(
    layout: Layout | dict[str, Layout], count: int, obs: Any, next_obs: Any, reward: Any, done: Any
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
    """
    obs = checked_observations("obs", obs, layout, count)
    next_obs = checked_observations("next_obs", next_obs, layout, count)
    rewards: NDArray[np.float32] = _finite("reward", checked_numbers("reward", reward, count), np.dtype(np.float32))
    return obs, next_obs, rewards, checked_ends("done", done, count)


def checked_observations(name: str, observations: Any, layout: Layout | dict[str, Layout], count: int) -> Observation:
    """Observations ``[W, ...]`` in the dtypes of the layout; see :func:`checked_transition`."""
    if isinstance(layout, Layout):
        return _checked_array(name, observations, layout, count)
    if not isinstance(observations, dict) or observations.keys() != layout.keys():
        came = sorted(observations) if isinstance(observations, dict) else type(observations).__name__
        raise EnvironmentDataError(f"{name} must be a dict with the keys {sorted(layout)}, got {came}")
    return {key: _checked_array(f"{name}[{key!r}]", observations[key], each, count) for key, each in layout.items()}


def _checked_array(name: str, values: Any, layout: Layout, count: int) -> np.ndarray:
    array = np.asarray(values)
    _check_shape(name, array, (count, *layout.shape))
    return _finite(name, array, layout.dtype)


def checked_numbers(name: str, values: Any, count: int) -> np.ndarray:
    """Real numbers ``[W]``, one an environment, such as rewards; see :func:`checked_transition`."""
    array = np.asarray(values)
    _check_shape(name, array, (count,))
    _check_real(name, array)
    return array


def checked_ends(name: str, values: Any, count: int) -> NDArray[np.bool_]:
    """Booleans ``[W]``, one an environment; see :func:`checked_transition`."""
    array = np.asarray(values)
    _check_shape(name, array, (count,))
    if array.dtype != np.bool_:
        wrong = next(i for i, end in enumerate(array.tolist()) if not isinstance(end, bool))
        raise EnvironmentDataError(f"{name} must be True or False, got {array[wrong]!r} in environment {wrong}")
    return array


def checked_infos(infos: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Infos of a step, one an environment, of a ``VecEnv`` that may have no list of them where there is nothing to say.

    Args:
        infos: What the step returned.
        count: W, the number of environments.

    Returns:
        The same; W empty ones in the place of an empty list.

    Raises:
        EnvironmentDataError: There is another number of them.
    """
    if len(infos) == count:
        return infos
    if infos:
        raise EnvironmentDataError(f"infos must be one for each of {count} environments, got {len(infos)}")
    return [{} for _ in range(count)]


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise EnvironmentDataError(f"{name} must have shape {shape}, got {array.shape}")


def _check_real(name: str, array: np.ndarray, first: int = 0) -> None:
    """Refuses an array ``[W, ...]`` of other than real numbers; an error counts environments from ``first``."""
    if array.dtype.kind not in REAL:
        wrong = next(i for i in np.ndindex(array.shape) if not isinstance(array[i], Real))
        raise EnvironmentDataError(
            f"{name} must be real numbers, got {array[wrong]!r} in environment {first + wrong[0]}"
        )


def _finite(name: str, array: np.ndarray, dtype: np.dtype, first: int = 0) -> np.ndarray:
    """An array ``[W, ...]`` of finite real numbers in another dtype; an error counts environments from ``first``."""
    kept = array
    if array.dtype != dtype:
        _check_real(name, array, first)
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            kept = array.astype(dtype)
    # One cheap number, which is not finite if an entry is not, and rarely else (when it overflows).
    if dtype.kind == "f" and math.isfinite(np.vdot(kept, kept)):
        return kept
    finite = np.isfinite(kept if dtype.kind == "f" else array)
    if not finite.all():
        where = tuple(np.argwhere(~finite)[0])
        beyond = f", beyond {dtype}," if np.isfinite(array[where]) else ""
        raise EnvironmentDataError(
            f"{name} must be finite, got {array[where]}{beyond} in environment {first + where[0]}"
        )
    return kept


def checked_observation(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype, env: int) -> np.ndarray:
    """An observation of one environment, in the dtype of its space.

    Args:
        name: For the message.
        value: What the environment returned.
        shape: That of the space.
        dtype: That of the space.
        env: Number of the environment.

    Raises:
        EnvironmentDataError: The shape is another one; entries are no real numbers; or they are not finite, where the
            dtype would hide that.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of unequal lengths, and whatever refuses to be an array
        raise EnvironmentDataError(f"{name} must be an array, got {value!r} in environment {env}") from None
    if array.shape != shape:
        raise EnvironmentDataError(f"{name} must have shape {shape}, got {array.shape} in environment {env}")
    _check_real(name, array[None], env)
    return array if dtype.kind == "f" else _finite(name, array[None], dtype, env)[0]


def checked_end(name: str, value: Any, place: str) -> bool:
    """Whether an episode ended, as one environment returned it.

    Args:
        name: For the message.
        value: A boolean, or an array of one.
        place: For the message.

    Raises:
        EnvironmentDataError: It is something else, such as None, a number or a text.
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if not isinstance(value, bool | np.bool_):
        raise EnvironmentDataError(f"{name} must be True or False, got {value!r} in {place}")
    return bool(value)


def checked_real(name: str, value: Any, place: str) -> float:
    """A number that one environment returned, such as a reward.

    Args:
        name: For the message.
        value: A real number, or an array of one.
        place: For the message.

    Raises:
        EnvironmentDataError: It is something else, such as a complex number, None or a text.
    """
    if isinstance(value, Real):
        return float(value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.empty(0, object)
    if array.size != 1 or array.dtype.kind not in REAL:
        raise EnvironmentDataError(f"{name} must be a real number, got {value!r} in {place}")
    return float(array.item())


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
