"""Checks of what environments and policies give, the same in all learners and in the same words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["NonFiniteError", "check_observations", "largest", "named_tensors", "raise_non_finite", "to_numpy"]


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
    check_observations(observations, batch_shape)
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


def check_observations(observations: Any, batch_shape: Sequence[int], name: str = "observations") -> None:
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
