"""Observations whose frames are stored once: stacks of the last frames, of which each step adds one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecTransposeImage

from gsrl.replay.ring import Column, Ring

__all__ = ["Frames", "Stack", "stack_of"]

LONGEST_STACK = 255
"""Frames, whose number in a row of the ring is a byte."""


class Stack(NamedTuple):
    """How observations are put together of frames, the newest last.

    Example:
        >>> Stack(4, -1)  # of images with channels last, such as Atari's
        Stack(size=4, axis=-1)
    """

    size: int = 1
    """k; 1: an observation is a frame."""
    axis: int = 0
    """Along which they stand next to each other, 0 or -1."""


def stack_of(env: VecEnv | None) -> Stack:
    """The stack that an environment's wrappers make: ``VecFrameStack``, or Gymnasium's ``FrameStackObservation``.

    Args:
        env: With observations that are a ``Box``. None, or one without such a wrapper: observations are frames.

    Example:
        >>> import gymnasium as gym
        >>> env = VecFrameStack(gsrl.vec_env.SyncVecEnv([lambda: gym.make("CartPole-v1")]), 4)
        >>> stack_of(env), stack_of(env.venv)
        (Stack(size=4, axis=-1), Stack(size=1, axis=0))
    """
    if env is None or not isinstance(env.observation_space, spaces.Box):
        return Stack()
    wrapper, is_transposed = env, False
    while isinstance(wrapper, VecEnvWrapper):
        is_transposed = is_transposed or (isinstance(wrapper, VecTransposeImage) and not wrapper.skip)
        if isinstance(wrapper, VecFrameStack):
            stacked: Any = wrapper.stacked_obs
            return Stack(stacked.n_stack, 0 if is_transposed or stacked.channels_first else -1)
        wrapper = wrapper.venv
    try:
        sizes = set(env.get_attr("stack_size"))
    except AttributeError:
        return Stack()
    count = sizes.pop()
    return Stack(count) if not sizes and env.observation_space.shape[:1] == (count,) else Stack()


class Frames:
    """The observations before and after each transition of a ring, of which the newest frames alone are stored.

    A row holds the newest frame of its observation. The k - 1 older ones are those of the rows before, unless an
    episode begins in between: then they are kept apart, with the row that it begins with. The observation after a
    transition is that of the next row, unless an episode ends there or nothing has followed yet: then it is kept apart.
    Whether it is so is not believed but compared, byte by byte, so that what is read is what was stored whatever
    environments and wrappers do. When a row is overwritten, the next one, which begins the ring then, keeps its older
    frames apart.

    Booleans are stored as bits.

    Args:
        layout: Of an observation.
        stack: Of its frames.

    Raises:
        ValueError: The observations are no stack of as many frames.

    Example:
        >>> frames, flag = Frames(Column((3, 1), np.dtype(np.uint8)), Stack(3)), Column((), np.dtype(np.bool_))
        >>> columns = {**frames.columns(), "terminated": flag, "truncated": flag}
        >>> ring, no = Ring(8, columns, generator=np.random.default_rng(0)), np.zeros(1, np.bool_)
        >>> for t in range(3):
        ...     now, after = np.arange(t, t + 3)[None, :, None], np.arange(t + 1, t + 4)[None, :, None]
        ...     row = frames.next_row(ring, now.astype(np.uint8), after.astype(np.uint8))
        ...     ring.append({**row, "terminated": no, "truncated": no})
        >>> frames.observations(ring, np.array([2]))[0, :, 0], frames.columns()["frames"].shape
        (array([2, 3, 4], dtype=uint8), (1,))
    """

    def __init__(self, layout: Column, stack: Stack) -> None:
        count, axis = stack
        shape = layout.shape
        if axis not in (0, -1) or not 1 <= count <= LONGEST_STACK or not shape or shape[axis] % count:
            raise ValueError(
                f"stack must be of frames along the first or the last axis of observations of shape {shape}, "
                f"but got {stack}."
            )
        self.stack, self.shape = stack, shape
        self._is_packed = layout.dtype == np.bool_
        self._size = int(np.prod(shape)) // count
        self._width = (self._size + 7) // 8 if self._is_packed else self._size
        self._dtype = np.dtype(np.uint8) if self._is_packed else layout.dtype
        # By flat index: the older frames of the first row of an episode, and all frames of what followed its last.
        self.starts: dict[int, NDArray[Any]] = {}
        self.ends: dict[int, NDArray[Any]] = {}
        self._newest: tuple[NDArray[Any], NDArray[Any]] | None = None

    def columns(self) -> dict[str, Column]:
        """Of the ring: newest frames; rows since an episode began; whether the next row has what followed."""
        return {
            "frames": Column((self._width,), self._dtype),
            "ages": Column((), np.dtype(np.uint8)),
            "linked": Column((), np.dtype(np.bool_)),
        }

    def clear(self) -> None:
        """Forgets everything."""
        self.starts, self.ends, self._newest = {}, {}, None

    # Rows

    def next_row(self, ring: Ring, observations: NDArray[Any], following: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """What the columns of the next row hold, which must be appended right after.

        Args:
            ring: The ring.
            observations: Before the step, ``[W, *shape]``.
            following: After it.
        """
        stacks, ends = self._encoded(observations), self._encoded(following)
        now, rows = self._row(ring, ring.pos), ring.buffer_size
        ages = np.zeros(len(now), np.uint8)
        if ring.size():
            before = self._row(ring, ring.pos - 1)
            if self._newest is None:
                self._newest = self._stacks(ring, before), np.stack([self.ends[i] for i in before.tolist()])
            last, expected = self._newest
            linked = _equal(stacks, expected)
            if rows > 1:
                goes_on = linked & _equal(stacks[:, :-1], last[:, 1:])
                ages[goes_on] = np.minimum(ring.columns["ages"].take(before[goes_on]), LONGEST_STACK - 1) + 1
            ring.columns["linked"].reshape(-1)[before] = linked
            for index in before[linked].tolist():
                del self.ends[index]
        if ring.full:
            self._forget(ring, now)
        for place, index in enumerate(now.tolist()):
            self.ends[index] = ends[place].copy()
            if ages[place] == 0 and self.stack.size > 1:
                self.starts[index] = stacks[place, :-1].copy()
        self._newest = stacks, ends
        return {"frames": stacks[:, -1], "ages": ages, "linked": np.zeros(len(now), np.bool_)}

    def _forget(self, ring: Ring, oldest: NDArray[np.int64]) -> None:
        """Lets the ring begin with the row after the oldest, which is going to be overwritten."""
        if ring.buffer_size > 1 and self.stack.size > 1:
            first = self._row(ring, ring.pos + 1)
            first = first[ring.columns["ages"].take(first) > 0]
            for index, stack in zip(first.tolist(), self._stacks(ring, first), strict=True):
                self.starts[index] = stack[:-1].copy()
        for index in oldest.tolist():
            self.starts.pop(index, None)
            self.ends.pop(index, None)

    def observations(self, ring: Ring, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Those before the transitions at flat indices, ``[*indices.shape, *shape]``."""
        return self._decoded(self._stacks(ring, indices.reshape(-1)), indices.shape)

    def next_observations(self, ring: Ring, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Those after them."""
        flat = indices.reshape(-1)
        linked = ring.columns["linked"].take(flat)
        following = flat + ring.n_envs
        following[flat % ring.capacity >= ring.capacity - ring.n_envs] -= ring.capacity
        stacks = self._stacks(ring, np.where(linked, following, flat))
        for place in np.flatnonzero(~linked).tolist():
            stacks[place] = self.ends[int(flat[place])]
        return self._decoded(stacks, indices.shape)

    def _row(self, ring: Ring, row: int) -> NDArray[np.int64]:
        """Flat indices of a row of all environments, ``[W]``."""
        members = np.arange(ring.num_members or 1)[:, None] * ring.capacity
        return (members + row % ring.buffer_size * ring.n_envs + np.arange(ring.n_envs)).reshape(-1)

    def _stacks(self, ring: Ring, flat: NDArray[np.int64]) -> NDArray[Any]:
        """Frames of the observations at these indices ``[N]``, ``[N, k, width]``."""
        frames = ring.columns["frames"].reshape(-1, self._width)
        older = self.stack.size - 1
        if not older:
            return frames.take(flat, axis=0)[:, None]
        within = flat % ring.capacity
        distance = (within // ring.n_envs - (ring.pos if ring.full else 0)) % ring.buffer_size
        back = np.minimum(ring.columns["ages"].take(flat), distance)  # rows since the one whose older frames are kept
        steps = np.minimum(np.arange(older, -1, -1), back[:, None]) * ring.n_envs
        sources = flat[:, None] - steps
        sources[within[:, None] < steps] += ring.capacity
        stacks = frames.take(sources, axis=0)
        for place in np.flatnonzero(back < older).tolist():
            age = int(back[place])
            stacks[place, : older - age] = self.starts[int(sources[place, 0])][age:]
        return stacks

    def _encoded(self, observations: NDArray[Any]) -> NDArray[Any]:
        """``[W, *shape]`` as frames ``[W, k, width]``."""
        count, axis = self.stack
        if axis == -1:
            parts = observations.reshape(len(observations), *self.shape[:-1], count, -1)
            observations = np.moveaxis(parts, -2, 1)
        frames = observations.reshape(len(observations), count, -1)
        return np.packbits(frames, axis=-1) if self._is_packed else np.array(frames)

    def _decoded(self, frames: NDArray[Any], leading: tuple[int, ...]) -> NDArray[Any]:
        """Frames ``[N, k, width]`` as observations ``[*leading, *shape]``."""
        if self._is_packed:
            frames = np.unpackbits(frames, axis=-1, count=self._size).view(np.bool_)
        count, axis = self.stack
        if axis == -1:
            parts = frames.reshape(len(frames), count, *self.shape[:-1], self.shape[-1] // count)
            frames = np.moveaxis(parts, 1, -2)
        return np.ascontiguousarray(frames.reshape(*leading, *self.shape))

    # State

    def state(self, ring: Ring, member: int) -> dict[str, Any]:
        """What is kept apart of a member, by the indices that a ring of it alone would have."""
        count, axis = self.stack
        state: dict[str, Any] = {"stack": count, "axis": axis}
        for name, kept in (("starts", self.starts), ("ends", self.ends)):
            first = member * ring.capacity
            found = sorted(index for index in kept if first <= index < first + ring.capacity)
            state[name] = np.array(found, np.int64) - first
            shape = (len(found), *self._shapes[name])
            state[f"{name}_frames"] = np.array([kept[index] for index in found], self._dtype).reshape(shape)
        return state

    @property
    def _shapes(self) -> dict[str, tuple[int, int]]:
        """Of what is kept apart at an index."""
        count = self.stack.size
        return {"starts": (count - 1, self._width), "ends": (count, self._width)}

    def check(self, ring: Ring, state: Any, columns: Mapping[str, Any], oldest: int) -> None:
        """Refuses a member's :meth:`state` that does not fit the columns of its rows, or this ring.

        Args:
            ring: The ring.
            state: What :meth:`state` returned.
            columns: Of the rows of the member, ``[R, n_envs, ...]``.
            oldest: Row that the ring begins with.

        Raises:
            ValueError: It is something else.
        """
        own = {"stack": self.stack.size, "axis": self.stack.axis}
        names = (*own, "starts", "starts_frames", "ends", "ends_frames")
        if not isinstance(state, dict) or state.keys() != set(names):
            came = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state['kept'] must have the entries {sorted(names)}, but got {came}.")
        for name, expected in own.items():
            if state[name] != expected:
                raise ValueError(f"state['kept'][{name!r}] must be {expected}, but got {state[name]}.")
        ages, linked = columns["ages"], columns["linked"]
        rows = np.arange(len(ages))
        distance = ((rows - oldest) % ring.buffer_size)[:, None]
        back = np.minimum(ages, distance)
        older = self.stack.size - 1
        sources = (rows[:, None] - np.minimum(back, older)) % ring.buffer_size
        begins = np.flatnonzero((back == 0).reshape(-1)) if older else np.array([], np.int64)
        is_placed = (back >= older) | (np.take_along_axis(back, sources, axis=0) == 0)
        is_open = len(rows) and linked[(oldest - 1) % len(rows)].any()
        if not is_placed.all() or is_open:
            raise ValueError("state['ages'] and state['linked'] must be of episodes that begin and end in the ring.")
        for name, indices in (("starts", begins), ("ends", np.flatnonzero(~linked.reshape(-1)))):
            if not np.array_equal(state[name], indices):
                raise ValueError(f"state['kept'][{name!r}] must be the {len(indices)} indices of what is kept apart.")
            frames, shape = state[f"{name}_frames"], (len(indices), *self._shapes[name])
            if not isinstance(frames, np.ndarray) or frames.shape != shape or frames.dtype != self._dtype:
                came = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
                raise ValueError(
                    f"state['kept']['{name}_frames'] must be an array {self._dtype} {shape}, but got {came}."
                )

    def load(self, ring: Ring, states: list[dict[str, Any]]) -> None:
        """Restores the :meth:`state` of each member, which was checked."""
        self.clear()
        for member, state in enumerate(states):
            for name, kept in (("starts", self.starts), ("ends", self.ends)):
                indices = (state[name] + member * ring.capacity).tolist()
                kept.update(
                    (index, frames.copy()) for index, frames in zip(indices, state[f"{name}_frames"], strict=True)
                )


def _equal(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether arrays ``[W, ...]`` are the same to the bit, ``[W]``; what is equal may not be, as 0 and -0."""
    bits = np.dtype(f"u{left.dtype.itemsize}")
    same: NDArray[np.bool_] = (left.view(bits) == right.view(bits)).reshape(len(left), -1).all(-1)
    return same
