"""Checks of what environments and policies give, the same in all learners and in the same words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "EnvironmentDataError",
    "NonFiniteError",
    "as_finite",
    "check_finite",
    "check_shape",
    "checked_end",
    "checked_ends",
    "checked_numbers",
    "checked_observation",
    "checked_real",
    "largest",
    "named_tensors",
    "raise_non_finite",
    "to_numpy",
]

REAL = "fiub"
"""Kinds of NumPy's dtypes that are numbers on a line."""


class EnvironmentDataError(ValueError):
    """What an environment returned is not what it may return; nothing was kept or learned of it.

    Example:
        >>> checked_real("reward", None, "environment 0")
        Traceback (most recent call last):
            ...
        gsrl.checks.EnvironmentDataError: reward must be a real number, but got None in environment 0
    """


class NonFiniteError(ValueError, FloatingPointError):
    """A policy cannot choose, since its logits are not numbers: by an observation (a wrong value) or by its parameters.

    It is both kinds of error, because a training that diverged ends in a ``FloatingPointError`` wherever it is noticed.

    Example:
        >>> check_finite(torch.tensor([[0.0], [torch.nan]]), (2,))
        Traceback (most recent call last):
            ...
        gsrl.checks.NonFiniteError: observations must be finite, but got nan in row 1.
        >>> issubclass(NonFiniteError, FloatingPointError)
        True
    """


def to_numpy(scores: Tensor) -> tuple[NDArray[Any], bool]:
    """Reads back what choices are made by, and whether a number among them is NaN, whose arg max would be choice 0.

    Args:
        scores: Any shape; ``-inf`` marks an illegal choice.

    Example:
        >>> to_numpy(torch.tensor([0.5, -torch.inf]))  # an illegal choice
        (array([ 0.5, -inf], dtype=float32), False)
        >>> to_numpy(torch.tensor([0.5, torch.nan]))[1]
        True
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

    Example:
        >>> largest(torch.tensor([[[0.1, 2.0, -torch.inf]]]), torch.zeros(1, 4), None)  # one state, one factor
        array([[1]])
        >>> largest(torch.tensor([[[torch.nan, 2.0]]]), torch.tensor([[torch.inf]]), None)
        Traceback (most recent call last):
            ...
        gsrl.checks.NonFiniteError: observations must be finite, but got inf in row 0.
    """
    values, is_nan = to_numpy(scores)
    if is_nan:
        raise_non_finite(values, observations, named_tensors(network))
    indices: NDArray[np.int64] = values.argmax(-1)
    return indices


def named_tensors(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module, by name; nothing of anything else.

    Example:
        >>> [(name, tuple(tensor.shape)) for name, tensor in named_tensors(nn.Linear(2, 3))]
        [('weight', (3, 2)), ('bias', (3,))]
        >>> list(named_tensors(torch.sin))
        []
    """
    if isinstance(network, nn.Module):
        yield from network.named_parameters()
        yield from network.named_buffers()


def raise_non_finite(scores: NDArray[Any], observations: Any, tensors: Iterable[tuple[str, Tensor]]) -> NoReturn:
    """Says which observation or which parameter is not finite; arguments as of :func:`largest`.

    Raises:
        NonFiniteError: Always.

    Example:
        >>> network = nn.Linear(2, 1, bias=False)
        >>> _ = network.weight.data.fill_(torch.nan)
        >>> try:
        ...     raise_non_finite(np.full((1, 1, 2), np.nan), torch.zeros(1, 2), named_tensors(network))
        ... except NonFiniteError as error:
        ...     print(str(error).partition(":")[0])
        parameter weight must be finite, but got nan
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

    Example:
        >>> check_finite(torch.zeros(2, 3), (2,))  # nothing wrong
        >>> check_finite({"position": torch.tensor([[0.0], [torch.inf]])}, (2,))
        Traceback (most recent call last):
            ...
        gsrl.checks.NonFiniteError: observations['position'] must be finite, but got inf in row 1.
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


# What environments return


def checked_numbers(name: str, values: Any, count: int) -> np.ndarray:
    """Real numbers ``[W]``, one an environment, such as rewards; see :func:`gsrl.replay.checks.checked_transition`.

    Example:
        >>> checked_numbers("rewards", [1, 0.5], count=2)
        array([1. , 0.5])
        >>> checked_numbers("rewards", [1.0, None], count=2)
        Traceback (most recent call last):
            ...
        gsrl.checks.EnvironmentDataError: rewards must be real numbers, but got None in environment 1
    """
    array = np.asarray(values)
    check_shape(name, array, (count,))
    _check_real(name, array)
    return array


def checked_ends(name: str, values: Any, count: int) -> NDArray[np.bool_]:
    """Booleans ``[W]``, one an environment; see :func:`gsrl.replay.checks.checked_transition`.

    Example:
        >>> checked_ends("terminated", [True, False], count=2)
        array([ True, False])
        >>> checked_ends("terminated", [True, None], count=2)
        Traceback (most recent call last):
            ...
        gsrl.checks.EnvironmentDataError: terminated must be True or False, but got None in environment 1
    """
    array = np.asarray(values)
    check_shape(name, array, (count,))
    if array.dtype != np.bool_:
        wrong = next(i for i, end in enumerate(array.tolist()) if not isinstance(end, bool))
        raise EnvironmentDataError(f"{name} must be True or False, but got {array[wrong]!r} in environment {wrong}")
    return array


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuses an array of another shape.

    Example:
        >>> check_shape("rewards", np.zeros(2), (2,))  # nothing wrong
        >>> check_shape("rewards", np.zeros((2, 1)), (2,))
        Traceback (most recent call last):
            ...
        gsrl.checks.EnvironmentDataError: rewards must have shape (2,), but got (2, 1)
    """
    if array.shape != shape:
        raise EnvironmentDataError(f"{name} must have shape {shape}, but got {array.shape}")


def _check_real(name: str, array: np.ndarray, first: int = 0) -> None:
    """Refuses an array ``[W, ...]`` of other than real numbers; an error counts environments from ``first``."""
    if array.dtype.kind not in REAL:
        wrong = next(i for i in np.ndindex(array.shape) if not isinstance(array[i], Real))
        raise EnvironmentDataError(
            f"{name} must be real numbers, but got {array[wrong]!r} in environment {first + wrong[0]}"
        )


def as_finite(name: str, array: np.ndarray, dtype: np.dtype, first: int = 0) -> np.ndarray:
    """An array ``[W, ...]`` of finite real numbers in another dtype; an error counts environments from ``first``.

    Example:
        >>> as_finite("observations", np.array([1, 2]), np.dtype(np.float32))
        array([1., 2.], dtype=float32)
        >>> as_finite("observations", np.array([1.0, np.nan]), np.dtype(np.float32))
        Traceback (most recent call last):
            ...
        gsrl.checks.EnvironmentDataError: observations must be finite, but got nan in environment 1
    """
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
            f"{name} must be finite, but got {array[where]}{beyond} in environment {first + where[0]}"
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

    Example:
        >>> checked_observation("observation", [1, 2], (2,), np.dtype(np.int64), env=0)
        array([1, 2])
        >>> checked_observation("observation", [1, 2, 3], (2,), np.dtype(np.int64), env=0)
        Traceback (most recent call last):
            ...
        gsrl.checks.EnvironmentDataError: observation must have shape (2,), but got (3,) in environment 0
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of unequal lengths, and whatever refuses to be an array
        raise EnvironmentDataError(f"{name} must be an array, but got {value!r} in environment {env}") from None
    if array.shape != shape:
        raise EnvironmentDataError(f"{name} must have shape {shape}, but got {array.shape} in environment {env}")
    _check_real(name, array[None], env)
    return array if dtype.kind == "f" else as_finite(name, array[None], dtype, env)[0]


def checked_end(name: str, value: Any, place: str) -> bool:
    """Whether an episode ended, as one environment returned it.

    Args:
        name: For the message.
        value: A boolean, or an array of one.
        place: For the message.

    Raises:
        EnvironmentDataError: It is something else, such as None, a number or a text.

    Example:
        >>> checked_end("terminated", np.array([True]), "environment 0")
        True
        >>> checked_end("terminated", 1, "environment 0")
        Traceback (most recent call last):
            ...
        gsrl.checks.EnvironmentDataError: terminated must be True or False, but got 1 in environment 0
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if not isinstance(value, bool | np.bool_):
        raise EnvironmentDataError(f"{name} must be True or False, but got {value!r} in {place}")
    return bool(value)


def checked_real(name: str, value: Any, place: str) -> float:
    """A number that one environment returned, such as a reward.

    Args:
        name: For the message.
        value: A real number, or an array of one.
        place: For the message.

    Raises:
        EnvironmentDataError: It is something else, such as a complex number, None or a text.

    Example:
        >>> checked_real("reward", np.array([2]), "environment 0")
        2.0
        >>> checked_real("reward", "much", "environment 0")
        Traceback (most recent call last):
            ...
        gsrl.checks.EnvironmentDataError: reward must be a real number, but got 'much' in environment 0
    """
    if isinstance(value, Real):
        return float(value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.empty(0, object)
    if array.size != 1 or array.dtype.kind not in REAL:
        raise EnvironmentDataError(f"{name} must be a real number, but got {value!r} in {place}")
    return float(array.item())
