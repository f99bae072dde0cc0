"""A Gymnasium space <-> matrices of one-hot rows.

Every discrete action is a matrix of `n` factors x `K` choices: one row a factor, one column a choice.
"""

from __future__ import annotations

import math
from typing import Any, overload

import numpy as np
import torch
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete, Space
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gsrl._validation import is_concrete

__all__ = ["OneHotCodec"]


class OneHotCodec:
    """Translate actions of a discrete Gymnasium space to one-hot matrices, and back.

    `one_hot[..., i, k] = 1` where factor `i` takes its `k`-th choice, that is the action `start[i] + k`.

    | space | n | K |
    |---|---|---|
    | `Discrete(A)` | 1 | A |
    | `MultiDiscrete(nvec)`, any shape | product of the shape | max of nvec; shorter factors are padded |
    | `MultiBinary(shape)` | product of the shape | 2 |

    Factors of a space with several dimensions are numbered in C order. All methods take any batch shape in front,
    return NumPy for NumPy and torch (same device) for torch, and check shapes always, values where they can be read:
    not under `torch.compile` and `torch.func`.

    Attributes:
        space: The space.
        n: Number of factors.
        K: Largest number of choices of a factor.
        sizes: Number of choices of each factor, `n` integers.
        mask: bool `[n, K]`, True where the space has the choice; None when every factor has `K` choices.
        first_choices: int64 `[n]`, where the choices of each factor begin in a flat list of all.

    Args:
        space: A `Discrete`, `MultiDiscrete` or `MultiBinary` space.

    Raises:
        TypeError: The space is of another kind.
        ValueError: The space has no factor, or a factor without a choice.

    Example:
        >>> from gymnasium import spaces
        >>> codec = OneHotCodec(spaces.MultiDiscrete([2, 3]))
        >>> codec.n, codec.K
        (2, 3)
        >>> codec.encode(np.array([1, 2]))
        array([[0., 1., 0.],
               [0., 0., 1.]], dtype=float32)
        >>> codec.decode(np.array([[0, 1, 0], [0, 0, 1]]))
        array([1, 2])
    """

    def __init__(self, space: Space[Any]) -> None:
        if isinstance(space, Discrete):
            sizes, start = [int(space.n)], [int(space.start)]
        elif isinstance(space, MultiDiscrete):
            sizes, start = space.nvec.ravel().tolist(), space.start.ravel().tolist()
        elif isinstance(space, MultiBinary):
            sizes, start = [2] * math.prod(space.shape), [0] * math.prod(space.shape)
        else:
            raise TypeError(f"space must be Discrete, MultiDiscrete or MultiBinary, but got {space!r}.")
        if min(sizes, default=0) < 1:
            raise ValueError(f"space must have at least one factor, each with at least one choice, but got {space!r}.")

        self.space = space
        self.n = len(sizes)
        self.K: int = max(sizes)
        self.sizes: tuple[int, ...] = tuple(sizes)
        self._shape: tuple[int, ...] = tuple(space.shape or ())
        self._start = torch.tensor(start, dtype=torch.int64, device="cpu")
        self._size = torch.tensor(sizes, dtype=torch.int64, device="cpu")
        self._start_array, self._size_array = np.array(start), np.array(sizes, np.uint64)
        self.first_choices = np.cumsum((0, *sizes[:-1]))
        padded = min(sizes) < self.K
        self.mask: Tensor | None = torch.arange(self.K, device="cpu") < self._size[:, None] if padded else None

    @overload
    def encode(self, actions: Tensor) -> Tensor: ...
    @overload
    def encode(self, actions: ArrayLike) -> NDArray[np.float32]: ...
    def encode(self, actions: ArrayLike | Tensor) -> NDArray[np.float32] | Tensor:
        """Turn actions into one-hot matrices.

        Args:
            actions: Actions of the space `[*batch, *space.shape]`.

        Returns:
            float32 `[*batch, n, K]`.

        Raises:
            TypeError: The actions are not numbers.
            ValueError: The shape does not fit, or a value is not an integer of the space.
        """
        if not isinstance(actions, Tensor):
            return self.encode(_to_tensor("actions", actions)).numpy()
        # Not `torch.nn.functional.one_hot`: it looks at the values, which `vmap` forbids.
        choices = torch.arange(self.K, device=actions.device)
        return (self.to_indices(actions).unsqueeze(-1) == choices).to(torch.float32)

    @overload
    def decode(self, one_hot: Tensor) -> Tensor: ...
    @overload
    def decode(self, one_hot: ArrayLike) -> NDArray[Any]: ...
    def decode(self, one_hot: ArrayLike | Tensor) -> NDArray[Any] | Tensor:
        """Turn one-hot matrices into actions: the choice with the largest entry of each row (the first of equals).

        Rows need not be exactly one-hot, since straight-through samples can miss 1 by a rounding error.

        Args:
            one_hot: `[*batch, n, K]`, of any real dtype.

        Returns:
            Actions `[*batch, *space.shape]`, of the dtype of the space (NumPy) or int64 (torch).

        Raises:
            TypeError: The entries are not numbers.
            ValueError: The shape does not fit, or a row has no positive entry, has a NaN, or takes a choice that
                the space does not have.
        """
        if not isinstance(one_hot, Tensor):
            return self.decode(_to_tensor("one_hot", one_hot)).numpy().astype(self.space.dtype)
        _check_trailing_shape("one_hot", one_hot, (self.n, self.K))
        largest, indices = one_hot.detach().max(dim=-1)
        # A NaN is the largest of its row, and not above 0.
        if is_concrete(largest) and not (largest > 0).all():
            raise ValueError("one_hot must have a positive entry and no NaN in every row.")
        return self._add_start("one_hot", indices)

    @overload
    def to_indices(self, actions: Tensor) -> Tensor: ...
    @overload
    def to_indices(self, actions: ArrayLike) -> NDArray[np.int64]: ...
    def to_indices(self, actions: ArrayLike | Tensor) -> NDArray[np.int64] | Tensor:
        """Turn actions into the index of each factor's choice, counted from 0.

        Args:
            actions: Actions of the space `[*batch, *space.shape]`.

        Returns:
            int64 `[*batch, n]`.

        Raises:
            TypeError: The actions are not numbers.
            ValueError: The shape does not fit, or a value is not an integer of the space.
        """
        if isinstance(actions, np.ndarray) and actions.dtype in _INTEGERS:  # as replay is given at every step
            batch_shape = actions.shape[: actions.ndim - len(self._shape)]
            if batch_shape + self._shape == actions.shape:
                whole: NDArray[np.int64] = actions.reshape(*batch_shape, self.n) - self._start_array
                # A negative one, read as unsigned, is larger than any size.
                if (whole.view(np.uint64) < self._size_array).all():
                    return whole
        if not isinstance(actions, Tensor):  # other kinds, and the error
            return self.to_indices(_to_tensor("actions", actions)).numpy()
        _check_trailing_shape("actions", actions, self._shape)
        batch = actions.shape[: actions.ndim - len(self._shape)]
        start = self._start.to(actions.device)
        indices = _to_int64("actions", actions).reshape((*batch, self.n)) - start
        self._check_range("actions", indices, start)
        return indices

    @overload
    def from_indices(self, indices: Tensor) -> Tensor: ...
    @overload
    def from_indices(self, indices: ArrayLike) -> NDArray[Any]: ...
    def from_indices(self, indices: ArrayLike | Tensor) -> NDArray[Any] | Tensor:
        """Turn the index of each factor's choice, counted from 0, into actions.

        Args:
            indices: Integers `[*batch, n]`.

        Returns:
            Actions `[*batch, *space.shape]`, of the dtype of the space (NumPy) or int64 (torch).

        Raises:
            TypeError: The indices are not numbers.
            ValueError: The shape does not fit, or a factor does not have the choice.
        """
        if not isinstance(indices, Tensor):
            return self.from_indices(_to_tensor("indices", indices)).numpy().astype(self.space.dtype)
        _check_trailing_shape("indices", indices, (self.n,))
        return self._add_start("indices", _to_int64("indices", indices))

    def _add_start(self, name: str, indices: Tensor) -> Tensor:
        self._check_range(name, indices, torch.zeros_like(indices))
        return (indices + self._start.to(indices.device)).reshape((*indices.shape[:-1], *self._shape))

    def _check_range(self, name: str, indices: Tensor, start: Tensor) -> None:
        """Raise if a factor does not have its choice, speaking in the caller's numbers: `indices + start`."""
        if not is_concrete(indices):
            return
        bad = (indices < 0) | (indices >= self._size.to(indices.device))
        if bad.any():
            where = tuple(bad.nonzero()[0].tolist())
            factor = where[-1]
            first = int(start.expand_as(indices)[where])
            raise ValueError(
                f"{name} takes {int(indices[where]) + first} for factor {factor}, "
                f"expected an integer from {first} to {first + self.sizes[factor] - 1}."
            )


_INTEGERS = frozenset(map(np.dtype, ("i1", "i2", "i4", "i8", "u1", "u2", "u4")))
"""Dtypes whose numbers int64 can hold."""


def _to_tensor(name: str, values: ArrayLike) -> Tensor:
    # A copy in C order: torch refuses negative strides, and warns of read-only memory.
    array = np.array(values, order="C")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, but got an array of dtype {array.dtype}.")
    return torch.from_numpy(array)


def _to_int64(name: str, values: Tensor) -> Tensor:
    if values.is_complex():
        raise TypeError(f"{name} must be integers, but got a tensor of dtype {values.dtype}.")
    whole = values.to(torch.int64)
    if values.is_floating_point() and is_concrete(values):
        fractional = whole != values
        if fractional.any():
            raise ValueError(f"{name} must be integers, but got {values[fractional][0].item()}.")
    return whole


def _check_trailing_shape(name: str, values: Tensor, trailing: tuple[int, ...]) -> None:
    if values.ndim < len(trailing) or values.shape[values.ndim - len(trailing) :] != trailing:
        expected = ", ".join(["*batch", *map(str, trailing)])
        raise ValueError(f"{name} must have shape [{expected}], but got {list(values.shape)}.")
