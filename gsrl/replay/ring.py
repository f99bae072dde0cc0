"""Where transitions are kept: named columns of rows, the newest over the oldest."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsrl._trees import map_arrays

__all__ = ["Column", "Generators", "Ring", "Stored"]

Stored: TypeAlias = "np.ndarray | _DeviceArray | dict[str, np.ndarray | _DeviceArray]"
Generators: TypeAlias = np.random.Generator | Sequence[np.random.Generator]
Index: TypeAlias = tuple[int | slice | list[int], ...]


class Column(NamedTuple):
    """What each transition has in a column.

    Example:
        >>> Column((4,), np.dtype(np.float32)).shape
        (4,)
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    on_device: bool = False
    """Whether it is kept where samples go; else in the memory of the host."""


class Ring:
    """Rows of transitions in named columns, of which the newest are written over the oldest; drawn uniformly.

    Rows are shared by the environments: every array is ``[rows, n_envs, *shape]`` with
    ``rows = buffer_size // n_envs``. ``size()`` counts rows, as in Stable-Baselines3; ``len()`` counts transitions.

    With ``num_members`` S, this is S rings of one member in lock-step: every array is ``[S, rows, n_envs, *shape]``,
    and ``buffer_size``, ``n_envs``, ``size()`` and ``len()`` are those of a member. What is appended is grouped by
    member, member i's from ``i * n_envs`` on; all members share the place in the ring. What member i draws is, bit for
    bit, what a ring of one with its transitions and its generator would.

    A flat index of a transition is ``(member * rows + row) * n_envs + environment``.

    Of three columns the ring knows what they mean. ``terminated`` and ``truncated`` say where episodes end; those of a
    team may have an entry an agent, whose part in the episode ends. ``dummy``, if there is one, says where an
    environment was only being reset: its place in the row is taken up, but never drawn, and no episode goes over it.

    Args:
        buffer_size: Capacity in transitions, all environments of a member together.
        columns: By name; of a ``Dict`` space of observations a dict of them.
        n_envs: Environments stepped together, of a member.
        num_members: S; None: a single ring, without the dimension of the members.
        generator: The source of all randomness here; of S members a sequence, one a member.
        device: Of the columns that are on one.

    Attributes:
        columns: The arrays.
        closed: Bool, where no later step belongs to the same window: an episode ended, or the row is the newest.
        capacity: Flat indices of a member.
        first: Of these the first, of each member ``[S, 1]``.
        pos: Of the next row.
        full: Whether every row has been written.

    Raises:
        MemoryError: The columns are larger than the memory.
        TypeError: ``generator`` is not a NumPy ``Generator`` (or a sequence of S).
        ValueError: ``n_envs``, ``buffer_size`` or ``num_members`` is out of range, or there is not one generator a
            member.

    Example:
        >>> flag = Column((), np.dtype(np.bool_))
        >>> columns = {"rewards": Column((), np.dtype(np.float32)), "terminated": flag, "truncated": flag}
        >>> ring, no = Ring(2, columns, generator=np.random.default_rng(0)), np.zeros(1, np.bool_)
        >>> for reward in (1.0, 2.0, 3.0):  # the third is written over the first
        ...     ring.append({"rewards": np.array([reward]), "terminated": no, "truncated": no})
        >>> ring.columns["rewards"][:, 0], ring.draw(4).shape
        (array([3., 2.], dtype=float32), (4,))
    """

    def __init__(
        self,
        buffer_size: int,
        columns: Mapping[str, Column | dict[str, Column]],
        n_envs: int = 1,
        *,
        num_members: int | None = None,
        generator: Generators,
        device: torch.device | str = "cpu",
    ) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, but got {n_envs}.")
        if buffer_size < n_envs:
            raise ValueError(f"buffer_size must be at least n_envs ({n_envs}), but got {buffer_size}.")
        if num_members is not None and num_members < 1:
            raise ValueError(f"num_members must be at least 1, or None, but got {num_members}.")
        self.buffer_size, self.n_envs, self.num_members = buffer_size // n_envs, n_envs, num_members
        self.device = torch.device(device)
        self.generator = generator
        self._list_generators(generator)
        # A step of all environments is [*members, n_envs, ...]; what is stored, [*members, rows, n_envs, ...].
        members = () if num_members is None else (num_members,)
        self._every_member: Index = (slice(None),) * len(members)
        self._step_shape = (*members, n_envs)
        self._num_envs = math.prod(self._step_shape)
        self.capacity = self.buffer_size * n_envs
        self.first = 0 if num_members is None else self.capacity * np.arange(num_members)[:, None]
        leading = (*members, self.buffer_size, n_envs)
        self.columns: dict[str, Any] = {
            name: map_arrays(lambda each: _allocate(each, leading, self.device), column)
            for name, column in columns.items()
        }
        # With the shapes of a step, in which they are written.
        self._arrays: list[tuple[str, str | None, Any, tuple[int, ...]]] = [
            (name, key, array, (*self._step_shape, *array.shape[len(leading) :]))
            for name, column in self.columns.items()
            for key, array in (column.items() if isinstance(column, dict) else [(None, column)])
        ]
        self.closed = np.zeros_like(self.columns["terminated"])
        self._num_dummies = [0] * (num_members or 1)  # of each member
        self.pos, self.full = 0, False

    def _list_generators(self, generator: Generators) -> list[np.random.Generator]:
        """One generator a member, or an error."""
        if self.num_members is None:
            if not isinstance(generator, np.random.Generator):
                raise TypeError(f"generator must be a numpy.random.Generator, but got {type(generator).__name__}.")
            return [generator]
        expected = f"generator must be a sequence of {self.num_members} numpy.random.Generator, one a member"
        if not isinstance(generator, Sequence):
            raise TypeError(f"{expected}, but got {type(generator).__name__}.")
        for each in generator:
            if not isinstance(each, np.random.Generator):
                raise TypeError(f"{expected}, but got one with a {type(each).__name__}.")
        if len(generator) != self.num_members:
            raise ValueError(f"{expected}, but got {len(generator)}.")
        return list(generator)

    def size(self) -> int:
        """Rows that are stored."""
        return self.buffer_size if self.full else self.pos

    def __len__(self) -> int:
        """Transitions stored, all environments of a member together."""
        return self.size() * self.n_envs

    def reset(self) -> None:
        """Forgets all transitions."""
        self.pos, self.full = 0, False
        self._num_dummies = [0] * len(self._num_dummies)

    # Rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Stores one step of every environment over the oldest row.

        Args:
            row: Of each column an array ``[W, *shape]``, or one of as many entries, where W is ``n_envs``, of S members
                ``S * n_envs``; of observations also a dict of them.
        """
        now: Index = (*self._every_member, self.pos)
        before: Index = (*self._every_member, self.pos - 1)
        columns = self.columns
        dummy = row.get("dummy")
        if dummy is not None and (dummy.any() or any(self._num_dummies)):
            dummy = dummy.reshape(self._step_shape)
            self._end_episodes(dummy)  # so that no window reaches the dummy
            change = dummy.sum(-1) - columns["dummy"][now].sum(-1) * self.full
            self._num_dummies = [
                number + int(more) for number, more in zip(self._num_dummies, change.flat, strict=True)
            ]
        for name, key, array, shape in self._arrays:
            values = row[name] if key is None else row[name][key]
            array[now] = values.reshape(shape)
        self.closed[before] = columns["terminated"][before] | columns["truncated"][before]
        self.closed[now] = True
        self.pos = (self.pos + 1) % self.buffer_size
        self.full = self.full or self.pos == 0

    def end_episodes(self) -> None:
        """Marks the newest step of every environment as truncated, unless it terminated.

        To be called when the environments were reset without the ring having seen their episodes end, as on a second
        ``learn`` or after loading. Otherwise windows would run from the old episodes into the new ones.
        """
        self._end_episodes(np.ones(self._step_shape, np.bool_))

    def _end_episodes(self, where: np.ndarray) -> None:
        if len(self):
            newest: Index = (*self._every_member, self.pos - 1)
            terminated, truncated = self.columns["terminated"][newest], self.columns["truncated"]
            truncated[newest] |= where.reshape(*where.shape, *[1] * (terminated.ndim - where.ndim)) & ~terminated

    def draw(self, batch_size: int, generator: Generators | None = None) -> NDArray[np.int64]:
        """Flat indices of transitions, uniformly and with replacement: ``[B]``, of S members ``[S, B]``.

        Args:
            batch_size: B, of every member.
            generator: Of this draw, one a member as in the constructor; the ring's own if None.

        Raises:
            TypeError: ``generator`` is of another kind.
            ValueError: ``batch_size`` is below 1, the ring (or that of a member) is empty, or ``generator`` is not one
                a member.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, but got {batch_size}.")
        if len(self) == max(self._num_dummies):
            raise ValueError("cannot sample an empty replay buffer: add a transition first.")
        generators = self._list_generators(self.generator if generator is None else generator)
        if self.num_members is None:
            return self._draw(batch_size, generators[0], 0)
        indices = np.empty((self.num_members, batch_size), np.int64)
        for member, each in enumerate(generators):
            indices[member] = self._draw(batch_size, each, member)
        return indices

    def _draw(self, batch_size: int, generator: np.random.Generator, member: int) -> NDArray[np.int64]:
        first = member * self.capacity
        end = first + len(self)
        indices = generator.integers(first, end, size=batch_size)
        # Every dummy follows a transition, so that this soon finds one.
        while self._num_dummies[member] and (dummy := self.columns["dummy"].take(indices)).any():
            indices[dummy] = generator.integers(first, end, size=dummy.sum())
        return indices

    def gather(self, name: str, indices: NDArray[np.int64]) -> Any:
        """What a column holds at flat indices, ``[*indices.shape, *shape]``, where it is kept; always fresh."""
        column = self.columns[name]
        if isinstance(column, dict):
            return {key: self._gather(array, indices) for key, array in column.items()}
        return self._gather(column, indices)

    def _gather(self, array: np.ndarray | _DeviceArray, indices: NDArray[np.int64]) -> np.ndarray | Tensor:
        dims = len(self._step_shape) + 1
        if isinstance(array, _DeviceArray):
            return array.gather(indices, dims)
        return array.reshape(-1, *array.shape[dims:]).take(indices, axis=0)

    # State

    def state_dict(self) -> dict[str, Any]:
        """A copy of the stored rows, the place in the ring and the generator's state (of members: a list of states).

        NumPy arrays (in a dict, for observations of a ``Dict`` space), ints, and the generator's nested dict.
        """
        states = [generator.bit_generator.state for generator in self._list_generators(self.generator)]
        if self.num_members is None:
            return self._state((), states[0])
        return {"num_members": self.num_members} | self._state(self._every_member, states)

    def member_state(self, member: int) -> dict[str, Any]:
        """A copy of what one member holds, for :meth:`load_state_dict` of a single ring of its settings.

        Args:
            member: Which one, counted from 0.

        Raises:
            ValueError: This is a single ring, or has no such member.
        """
        self._check_member(member)
        return self._state((member,), self._list_generators(self.generator)[member].bit_generator.state)

    def _state(self, members: Index, generator: Any) -> dict[str, Any]:
        rows: Index = (*members, slice(self.size()))
        place = {"buffer_size": self.buffer_size, "n_envs": self.n_envs, "pos": self.pos, "full": int(self.full)}
        columns = map_arrays(lambda array: array[rows].copy(), self.columns)
        return {**place, "generator": generator, **columns}

    def load_members(self, source: Ring, members: Sequence[int]) -> None:
        """Restores what some members of another ring hold, as theirs from now on; as :meth:`load_state_dict`.

        Args:
            source: A ring with members, of the same columns, capacity, environments and kind of generators.
            members: Which of its members, in the order they have here; as many as this ring has.

        Raises:
            ValueError: ``source`` has no such member, or what it holds does not fit; nothing is restored then.
        """
        for member in members:
            source._check_member(member)
        generators = source._list_generators(source.generator)
        states = [generators[member].bit_generator.state for member in members]
        self.load_state_dict({"num_members": len(members)} | source._state((list(members),), states))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`, so that the next draw is the one that would have followed.

        Args:
            state: Of a ring of the same columns, capacity, environments, members and kind of generator.

        Raises:
            ValueError: An entry is missing or does not fit; nothing is restored then.
        """
        self._check_state(state)
        generators = self._list_generators(self.generator)
        generator_states = [state["generator"]] if self.num_members is None else state["generator"]
        # A generator refuses the state of another kind: copies try first.
        for each in (copy.deepcopy(generators), generators):
            for generator, generator_state in zip(each, generator_states, strict=True):
                generator.bit_generator.state = generator_state
        self.pos, self.full = pos, full = int(state["pos"]), bool(state["full"])
        rows: Index = (*self._every_member, slice(self.buffer_size if full else pos))
        map_arrays(lambda array, new: array.__setitem__(rows, new), self.columns, state)
        self.closed[rows] = self.columns["terminated"][rows] | self.columns["truncated"][rows]
        self.closed[(*self._every_member, pos - 1)] = True
        if "dummy" in self.columns:
            self._num_dummies = self.columns["dummy"][rows].reshape(len(generators), -1).sum(axis=1).tolist()

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Refuses a state that does not fit."""
        numbers = {"buffer_size": self.buffer_size, "n_envs": self.n_envs}
        if self.num_members is not None:
            numbers["num_members"] = self.num_members
        expected_keys = {*numbers, "pos", "full", "generator", *self.columns}
        if state.keys() != expected_keys:
            raise ValueError(f"state must have the entries {sorted(expected_keys)}, but got {sorted(state)}.")
        for name, expected in numbers.items():
            if state[name] != expected:
                raise ValueError(f"state[{name!r}] must be {expected}, but got {state[name]}.")
        pos, full = int(state["pos"]), bool(state["full"])
        if not 0 <= pos < self.buffer_size:
            raise ValueError(f"state['pos'] must lie in [0, {self.buffer_size}), but got {pos}.")
        rows: Index = (*self._every_member, slice(self.buffer_size if full else pos))
        for name, stored in self.columns.items():
            _check_stored(f"state[{name!r}]", state[name], stored, rows)
        generators = self._list_generators(self.generator)
        generator_states = [state["generator"]] if self.num_members is None else state["generator"]
        if len(generator_states) != len(generators):
            raise ValueError(f"state['generator'] must hold {len(generators)} states, but got {len(generator_states)}.")

    def _check_member(self, member: int) -> None:
        if self.num_members is None or not 0 <= member < self.num_members:
            raise ValueError(f"member must be one of the {self.num_members or 0} of the buffer, but got {member}.")


def _allocate(column: Column, leading: tuple[int, ...], device: torch.device) -> np.ndarray | _DeviceArray:
    """Zeros ``[*leading, *shape]``."""
    shape = (*leading, *column.shape)
    try:
        if column.on_device and not _is_host(device):
            return _DeviceArray(shape, column.dtype, device)
        return np.zeros(shape, column.dtype)
    except (MemoryError, torch.OutOfMemoryError):
        gibibytes = np.prod(shape, dtype=float) * column.dtype.itemsize / 2**30
        raise MemoryError(
            f"buffer_size is too large: it takes twice {gibibytes:.1f} GiB for observations alone"
        ) from None


class _DeviceArray:
    """An array in a device's memory, read and written as NumPy's are, and gathered where it lies.

    Nothing here waits for the device but reading an item, which only saving and loading do.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, device: torch.device) -> None:
        self.shape = shape
        self.dtype = dtype
        self._tensor = torch.zeros(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=device)

    def __getitem__(self, index: Any) -> np.ndarray:
        array: np.ndarray = self._tensor[index].cpu().numpy()
        return array

    def __setitem__(self, index: Any, values: np.ndarray) -> None:
        self._tensor[index] = self._from_numpy(values)

    def gather(self, flat_indices: NDArray[np.int64], dims: int) -> Tensor:
        """Entries, by their place in the first ``dims`` dimensions made one."""
        return self._tensor.flatten(0, dims - 1)[self._from_numpy(flat_indices)]

    def _from_numpy(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._tensor.device, non_blocking=True)


def _is_host(device: torch.device) -> bool:
    return device.type == "cpu"


def _check_stored(name: str, new: Any, stored: Stored, rows: Index) -> None:
    """Refuses what cannot take the place of these rows of ``stored``."""
    if isinstance(stored, dict):
        if not isinstance(new, dict) or new.keys() != stored.keys():
            came = sorted(new) if isinstance(new, dict) else type(new).__name__
            raise ValueError(f"{name} must be a dict with the keys {sorted(stored)}, but got {came}.")
        for key, array in stored.items():
            _check_stored(f"{name}[{key!r}]", new[key], array, rows)
        return
    shape = stored[rows].shape
    if not isinstance(new, np.ndarray) or new.shape != shape or new.dtype != stored.dtype:
        came = f"{new.dtype} {new.shape}" if isinstance(new, np.ndarray) else type(new).__name__
        raise ValueError(f"{name} must be an array {stored.dtype} {shape}, but got {came}.")
