"""Replay for off-policy algorithms with discrete actions: n-step returns, masks, truncation apart from termination."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from gsrl.checks import Layout, checked_transition, layout_of
from gsrl.masking import MASK_KEY, check_masks, to_matrix
from gsrl.spaces import OneHotCodec

__all__ = ["ReplayBatch", "ReplayBuffer"]

Observation: TypeAlias = np.ndarray | dict[str, np.ndarray]
Stored: TypeAlias = "np.ndarray | _DeviceArray | dict[str, np.ndarray | _DeviceArray]"
Index: TypeAlias = tuple[int | slice | list[int], ...]


class ReplayBatch(NamedTuple):
    """A batch of B n-step transitions, from time t to t + m with m <= n_steps; of S members, `[S, B, ...]` throughout.

    The target of a critic is `rewards + discounts * V(next_observations)`.

    A buffer that is `stepwise` gives the steps of a window one by one: `rewards`, `next_observations`, `discounts` and
    `next_action_mask` are then of steps t + j, `[B, N, ...]` with N = n_steps, for m = 1 each; of steps after the
    window's last, they repeat it. Their target is that of :func:`gsrl.losses.lambda_target`.
    """

    observations: Tensor | dict[str, Tensor]
    """At time t, `[B, ...]`, in the dtype they are stored in (float32 where normalised)."""
    actions: Tensor
    """Index of the choice of every factor at time t, int64 `[B, n]`."""
    rewards: Tensor
    """c sum_{j<m} gamma^j r_{t+j}, where c is `reward_scale`, float32 `[B]`."""
    next_observations: Tensor | dict[str, Tensor]
    """At time t + m, `[B, ...]`; never the first observation of the next episode."""
    discounts: Tensor
    """gamma^m, or 0 where the last of the m steps terminated; float32 `[B]`."""
    action_mask: Tensor | None = None
    """True where a choice is legal at time t, bool `[B, n, K]`; None: of a buffer without masks."""
    next_action_mask: Tensor | None = None
    """The same at time t + m; all choices of the space where `discounts` is 0 by termination."""
    next_actions: Tensor | None = None
    """Index of the choice of every factor at `next_observations`, int64 `[B, N, n]`; None: windows are summed."""
    continues: Tensor | None = None
    """Whether the window goes on there, bool `[B, N]`; where it does not, `next_actions` means nothing."""


class ReplayBuffer(BaseBuffer):
    """Ring of transitions that is sampled uniformly, with replacement, as n-step transitions.

        R_t = c sum_{j<m} gamma^j r_{t+j},    target = R_t + gamma^m (1 - terminated_{t+m-1}) V(s_{t+m})

    c is `reward_scale`. m is `n_steps`, or less: the window closes at the first step that terminated or was truncated,
    and at the newest transition of its environment. A truncated step still bootstraps, a terminated one does not.

    Source: the multi-step target of Rainbow (Hessel et al., 2018, arXiv 1710.02298).

    Biased for `n_steps > 1`: the actions after the first are those of the policy that collected them, and nothing
    corrects for the policy having changed since. This often helps all the same (Fedus et al., 2020, arXiv 2007.06700).
    Under an entropy bonus there is a second bias, because the sum holds none of the bonuses between t and t + m. Steps
    that are not summed, `stepwise`, can be weighed.

    Rows are shared by the environments: every array is `[rows, n_envs, ...]` with `rows = buffer_size // n_envs`.
    `size()` counts rows, as in Stable-Baselines3; `len()` counts transitions. Actions are kept as choice indices
    `[rows, n_envs, n]` in the smallest unsigned dtype that holds them. float64 observations are kept as float32.
    Masks of a state and of its successor are kept as bits, `[rows, n_envs, ceil(L / 8)]` each, see
    :mod:`gsrl.masking`.

    Memory, in bytes: `buffer_size * (2 * observation + n * action + 8)`, plus `buffer_size * 2 * ceil(L / 8)` with
    masks; times `num_members`. CartPole: 2 * 16 + 1 + 8 = 41 a transition, so that 64 members with 100,000 each take
    0.25 GiB. It is asked for at once, but most operating systems hand it out only as it is written. Observations are
    kept on `device`, all else in the memory of the host.

    With `num_members` S, this is S buffers of one member in lock-step: every array is `[S, rows, n_envs, ...]`, and
    `buffer_size`, `n_envs`, `size()` and `len()` are those of a member. `add` takes the sub-environments grouped by
    member, member i's from `i * n_envs` on; all members share the place in the ring. What member i samples is, bit for
    bit, what a buffer of one with its transitions, its settings and its generator would.

    Where `infos[i]["dummy_step"]` is true, environment i was only being reset, as in Gymnasium's vector environments of
    the mode `NEXT_STEP`: there was no transition. Its place in the row is taken up, but never sampled, nor part of a
    window. `len()` counts it.

    Args:
        buffer_size: capacity in transitions, all environments of a member together.
        observation_space: a space Stable-Baselines3 supports, or a `Dict` of such.
        action_space: a `Discrete`, `MultiDiscrete` or `MultiBinary` space.
        device: where sampled tensors go.
        n_envs: environments stepped together, of a member.
        gamma: discount per step, in [0, 1]; or one a member.
        n_steps: the longest window, at least 1; or one a member.
        reward_scale: what sampled rewards are multiplied by, above 0; or one a member. Rewards are stored as they come.
        stepwise: whether windows are sampled step by step, not summed; see :class:`ReplayBatch`.
        masked: whether action masks are stored and sampled.
        num_members: S; None: a single buffer, without the dimension of the members.
        generator: the source of all randomness here; of S members a sequence, one a member.

    Raises:
        TypeError: `generator` is not a NumPy `Generator` (or a sequence of S), `gamma` or `reward_scale` is not a
            number or `n_steps` no integer, the action space is of another kind, or a `Dict` space of observations is
            nested.
        NotImplementedError: Stable-Baselines3 does not support the observation space.
        ValueError: `n_envs`, `n_steps`, `gamma`, `reward_scale`, `buffer_size` or `num_members` is out of range, or
            there is not one value a member.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "cpu",
        n_envs: int = 1,
        *,
        gamma: float | Sequence[float] | NDArray[np.floating] = 0.99,
        n_steps: int | Sequence[int] | NDArray[np.integer] = 1,
        reward_scale: float | Sequence[float] | NDArray[np.floating] = 1.0,
        stepwise: bool = False,
        masked: bool = False,
        num_members: int | None = None,
        generator: np.random.Generator | Sequence[np.random.Generator],
    ) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, got {n_envs}")
        if buffer_size < n_envs:
            raise ValueError(f"buffer_size must be at least n_envs ({n_envs}), got {buffer_size}")
        if num_members is not None and num_members < 1:
            raise ValueError(f"num_members must be at least 1, or None, got {num_members}")
        self.num_members = num_members
        self.generator = generator
        self._list_generators(generator)
        self.codec = OneHotCodec(action_space)
        # BaseBuffer only measures the action space, and knows no multi-dimensional one: show it the flat equal.
        super().__init__(
            buffer_size // n_envs, observation_space, spaces.MultiDiscrete(list(self.codec.sizes)), device, n_envs
        )
        self.action_space = action_space
        self._capacity = self.buffer_size * n_envs  # of a member
        self._set_windows(gamma, n_steps, reward_scale)
        self.stepwise = stepwise
        self.masked = masked

        # A step of all environments is [*members, n_envs, ...]; what is stored, [*members, rows, n_envs, ...].
        members = () if num_members is None else (num_members,)
        self._every_member: Index = (slice(None),) * len(members)
        self._step_shape = (*members, n_envs)
        self._num_envs = math.prod(self._step_shape)
        leading = (*members, self.buffer_size, n_envs)
        self._layout = layout_of(observation_space)
        self.observations: Stored = _map(lambda layout: _allocate(layout, leading, self.device), self._layout)
        self.next_observations: Stored = _map(lambda layout: _allocate(layout, leading, self.device), self._layout)
        self.actions = np.zeros((*leading, self.codec.n), dtype=np.min_scalar_type(self.codec.K - 1))
        self.rewards = np.zeros(leading, dtype=np.float32)
        self.terminated = np.zeros(leading, dtype=np.bool_)
        self.truncated = np.zeros(leading, dtype=np.bool_)
        self.dummy = np.zeros(leading, dtype=np.bool_)
        # True where a window must close: an episode ended, or this is the newest row.
        self._closed = np.zeros(leading, dtype=np.bool_)
        self._num_dummies = [0] * (num_members or 1)  # of each member
        self._num_choices = sum(self.codec.sizes)  # L
        self._first_choices = np.cumsum((0, *self.codec.sizes[:-1]))
        self._sizes = np.array(self.codec.sizes, dtype=np.uint64)
        self._first_actions = self.codec.from_indices(np.zeros(self.codec.n, np.int64)).reshape(-1).astype(np.int64)
        mask_bytes = (self._num_choices + 7) // 8 if masked else 0
        self.action_masks = np.zeros((*leading, mask_bytes), dtype=np.uint8)
        self.next_action_masks = np.zeros((*leading, mask_bytes), dtype=np.uint8)

    @property
    def gamma(self) -> float | Sequence[float] | NDArray[np.floating]:
        """Discount per step; what is assigned holds for what is sampled from then on, as with the next two."""
        return self._gamma

    @gamma.setter
    def gamma(self, gamma: float | Sequence[float] | NDArray[np.floating]) -> None:
        self._set_windows(gamma, self.n_steps, self.reward_scale)

    @property
    def n_steps(self) -> int | Sequence[int] | NDArray[np.integer]:
        """The longest window."""
        return self._n_steps

    @n_steps.setter
    def n_steps(self, n_steps: int | Sequence[int] | NDArray[np.integer]) -> None:
        self._set_windows(self.gamma, n_steps, self.reward_scale)

    @property
    def reward_scale(self) -> float | Sequence[float] | NDArray[np.floating]:
        """What sampled rewards are multiplied by."""
        return self._reward_scale

    @reward_scale.setter
    def reward_scale(self, reward_scale: float | Sequence[float] | NDArray[np.floating]) -> None:
        self._set_windows(self.gamma, self.n_steps, reward_scale)

    def _set_windows(self, gamma: Any, n_steps: Any, reward_scale: Any) -> None:
        """Checks the settings of windows, and works out what sampling needs of them."""
        lengths = _of_members("n_steps", n_steps, self.num_members, "integer", "iu")
        if (lengths < 1).any():
            raise ValueError(f"n_steps must be at least 1, got {lengths.min()}")
        gammas = _of_members("gamma", gamma, self.num_members, "number", "iuf")
        wrong = gammas[~((gammas >= 0.0) & (gammas <= 1.0))]
        if wrong.size:
            raise ValueError(f"gamma must lie in [0, 1], got {wrong[0]}")
        scales = _of_members("reward_scale", reward_scale, self.num_members, "number", "iuf")
        wrong = scales[~((scales > 0.0) & (scales < np.inf))]
        if wrong.size:
            raise ValueError(f"reward_scale must be finite and above 0, got {wrong[0]}")
        self._gamma, self._n_steps, self._reward_scale = gamma, n_steps, reward_scale
        members = () if self.num_members is None else (self.num_members,)
        self._longest = longest = int(lengths.max())  # N
        self._strides = self.n_envs * np.arange(longest)
        member = np.arange(len(gammas)).reshape((*members, 1))  # beside a batch, [*members, B]
        self._last_unbroken = (member + 1) * self._capacity - 1 - self._strides[-1]
        # Members whose windows are equally long: all, or some.
        self._groups: list[tuple[int, slice | NDArray[np.int64]]] = [(longest, slice(None))]
        if (lengths != longest).any():
            self._groups = [(int(n), np.flatnonzero(lengths == n)) for n in np.unique(lengths)]
        # By m - 1, for each member: the weights of the N rewards of a window (0 from m on), and gamma^m.
        self._scales = scales.astype(np.float32).reshape((*members, 1))
        powers = np.stack([float(each) ** np.arange(longest + 1) for each in gammas]).astype(np.float32)
        weights = self._scales.reshape(-1, 1, 1) * powers[:, None, :-1]
        self._reward_weights = np.tril(np.broadcast_to(weights, (len(gammas), longest, longest)))
        self._discounts = powers[:, 1:].reshape((*members, longest))
        self._first_weights = member * longest

    def _list_generators(
        self, generator: np.random.Generator | Sequence[np.random.Generator]
    ) -> list[np.random.Generator]:
        """One generator a member, or an error."""
        if self.num_members is None:
            if not isinstance(generator, np.random.Generator):
                raise TypeError(f"generator must be a numpy.random.Generator, got {type(generator).__name__}")
            return [generator]
        expected = f"generator must be a sequence of {self.num_members} numpy.random.Generator, one a member"
        if not isinstance(generator, Sequence):
            raise TypeError(f"{expected}, got {type(generator).__name__}")
        for each in generator:
            if not isinstance(each, np.random.Generator):
                raise TypeError(f"{expected}, got one with a {type(each).__name__}")
        if len(generator) != self.num_members:
            raise ValueError(f"{expected}, got {len(generator)}")
        return list(generator)

    def __len__(self) -> int:
        """Transitions stored, all environments of a member together."""
        return self.size() * self.n_envs

    def add(
        self,
        obs: Observation,
        next_obs: Observation,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: Sequence[dict[str, Any]],
        action_masks: np.ndarray | None = None,
    ) -> None:
        """Store one step of every environment over the oldest row. Nothing is stored when an argument is refused.

        W is `n_envs`, of S members `S * n_envs`. Errors count environments from 0 to W - 1.

        Args:
            obs: observations before the step, `[W, ...]`, unnormalised.
            next_obs: observations after it, of the same episode: at its end the final one.
            action: actions of the space, `[W, *action_space.shape]`.
            reward: rewards `[W]`, unnormalised.
            done: True where the episode ended `[W]`.
            infos: `infos[i]["TimeLimit.truncated"]` is True where it ended by truncation, `infos[i]["dummy_step"]`
                where there was no transition. A buffer with masks takes the one at `next_obs` from
                `infos[i]["action_mask"]`, unless the step terminated or was no transition.
            action_masks: the masks at `obs`, flat `[W, L]`; in a buffer with masks only.

        Raises:
            gsrl.checks.EnvironmentDataError: an observation, a reward or an end is wrong, see
                :func:`gsrl.checks.checked_transition`; it is a `ValueError`.
            ValueError: an action is not in its space; a mask is missing, wrong, without a legal choice, or forbids the
                action.
        """
        obs, next_obs, reward, done = checked_transition(self._layout, self._num_envs, obs, next_obs, reward, done)
        action = np.asarray(action)
        self._check_shape("action", action, self.action_space.shape or ())
        if len(infos) != self._num_envs:
            raise ValueError(f"infos must hold one dict per environment ({self._num_envs}), got {len(infos)}")
        indices = self._checked_indices(action)
        terminated = truncated = done
        if done.any():
            truncated = done & np.fromiter((info.get("TimeLimit.truncated", False) for info in infos), np.bool_)
            terminated = done & ~truncated
        is_dummy = [bool(info.get("dummy_step", False)) for info in infos]
        dummy = np.array(is_dummy).reshape(self._step_shape)
        if self.masked:
            masks = self._checked_masks(action_masks, indices)
            next_masks = self._checked_next_masks(infos, unused=dummy.reshape(-1) | terminated)
        elif action_masks is not None:
            raise ValueError("action_masks were given to a buffer made with masked=False")

        shape = self._step_shape
        row: Index = (*self._every_member, self.pos)
        before: Index = (*self._every_member, self.pos - 1)
        if any(is_dummy) or any(self._num_dummies):
            self._end_episodes(dummy)  # so that no window reaches the dummy
            change = dummy.sum(-1) - self.dummy[row].sum(-1) * self.full
            self._num_dummies = [
                number + int(more) for number, more in zip(self._num_dummies, change.flat, strict=True)
            ]
        for stored, new in ((self.observations, obs), (self.next_observations, next_obs)):
            _map(lambda each, values: each.__setitem__(row, self._in_rows(values)), stored, new)
        self.actions[row] = indices.reshape(*shape, -1)
        self.rewards[row] = reward.reshape(shape)
        self.terminated[row] = terminated.reshape(shape)
        self.truncated[row] = truncated.reshape(shape)
        self.dummy[row] = dummy
        self._closed[before] = self.terminated[before] | self.truncated[before]
        self._closed[row] = True
        if self.masked:
            self.action_masks[row] = np.packbits(masks, axis=-1).reshape(*shape, -1)
            self.next_action_masks[row] = np.packbits(next_masks, axis=-1).reshape(*shape, -1)
        self.pos = (self.pos + 1) % self.buffer_size
        self.full = self.full or self.pos == 0

    def end_episodes(self) -> None:
        """Mark the newest step of every environment as truncated, unless it terminated.

        To be called when the environments were reset without the buffer having seen their episodes end, as on a second
        `learn` or after loading. Otherwise windows would run from the old episodes into the new ones.
        """
        self._end_episodes(np.ones(self._step_shape, np.bool_))

    def _end_episodes(self, where: np.ndarray) -> None:
        if len(self):
            newest: Index = (*self._every_member, self.pos - 1)
            self.truncated[newest] |= where & ~self.terminated[newest]

    def reset(self) -> None:
        """Forget all transitions."""
        super().reset()
        self._num_dummies = [0] * len(self._num_dummies)

    def sample(
        self,
        batch_size: int,
        env: VecNormalize | None = None,
        generator: np.random.Generator | Sequence[np.random.Generator] | None = None,
    ) -> ReplayBatch:
        """Draw transitions uniformly, with replacement.

        Args:
            batch_size: B, the number of transitions, of every member.
            env: normalises observations, and each reward before they are summed.
            generator: of this draw, one a member as in the constructor; the buffer's own if None.

        Raises:
            TypeError: `generator` is of another kind.
            ValueError: `batch_size` is below 1, the buffer (or that of a member) is empty, or `generator` is not one
                a member.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if len(self) == max(self._num_dummies):
            raise ValueError("cannot sample an empty replay buffer: add a transition first")
        generators = self._list_generators(self.generator if generator is None else generator)
        if self.num_members is None:
            return self._get_samples(self._draw(batch_size, generators[0], 0), env)
        indices = np.empty((self.num_members, batch_size), np.int64)
        for member, each in enumerate(generators):
            indices[member] = self._draw(batch_size, each, member)
        return self._get_samples(indices, env)

    def _draw(self, batch_size: int, generator: np.random.Generator, member: int) -> NDArray[np.int64]:
        """Flat indices `[B]` of one member."""
        first = member * self._capacity
        end = first + len(self)
        indices = generator.integers(first, end, size=batch_size)
        # Every dummy follows a transition, so that this soon finds one.
        while self._num_dummies[member] and (dummy := self.dummy.take(indices)).any():
            indices[dummy] = generator.integers(first, end, size=dummy.sum())
        return indices

    def _get_samples(  # type: ignore[override]  # the base class names the batches of its own subclasses
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBatch:
        """The n-step transitions that start at flat indices `(member * rows + row) * n_envs + environment`.

        Indices are int64 `[B]`, of members `[S, B]`, each member's own in its row.
        """
        next_actions = continues = None
        if self.stepwise and self._longest > 1:
            last, steps = self._windows(batch_inds)
            places = np.arange(self._longest)
            continues = places < steps[..., None]
            last = np.take_along_axis(last, np.minimum(places, steps[..., None]), axis=-1)  # [*S, B, N]
            following = np.concatenate([last[..., 1:], last[..., -1:]], axis=-1)
            next_actions = self._to_tensor(self._gather(self.actions, following).astype(np.int64))
            rewards = self._normalize_reward(self.rewards.take(last), env) * self._scales[..., None] + np.float32(0.0)
            discounts = self._discounts[..., :1, None] * ~self.terminated.take(last)
        else:
            last, rewards, discounts = self._close_windows(batch_inds, env)
        observations = _map(lambda stored: self._gather(stored, batch_inds), self.observations)
        next_observations = _map(lambda stored: self._gather(stored, last), self.next_observations)
        return ReplayBatch(
            observations=_map(self._to_tensor, self._normalized(observations, env)),
            actions=self._to_tensor(self._gather(self.actions, batch_inds).astype(np.int64)),
            rewards=self._to_tensor(rewards),
            next_observations=_map(self._to_tensor, self._normalized(next_observations, env)),
            discounts=self._to_tensor(discounts),
            action_mask=self._gather_masks(self.action_masks, batch_inds) if self.masked else None,
            next_action_mask=self._gather_masks(self.next_action_masks, last) if self.masked else None,
            next_actions=next_actions,
            continues=None if continues is None else self._to_tensor(continues),
        )

    def _windows(self, starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Flat indices of the N steps from each of these on, ``[*S, B, N]``, and by which of them its window closes."""
        windows = starts[..., None] + self._strides
        broken = starts > self._last_unbroken  # the few that run over the end of their ring
        if broken.any():
            first = starts[broken] // self._capacity * self._capacity
            windows[broken] = first[:, None] + windows[broken] % self._capacity

        closed = self._closed.take(windows)
        for n_steps, members in self._groups:
            closed[members, ..., n_steps - 1] = True
        return windows, closed.argmax(axis=-1)

    def _close_windows(
        self, starts: NDArray[np.int64], env: VecNormalize | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Of windows that start at these flat indices: the last index, the sum of rewards and the discount."""
        if self._longest == 1:  # no window to search; a sum of one, which turns -0 to 0 as any sum does
            rewards = self._normalize_reward(self.rewards.take(starts), env) * self._scales + np.float32(0.0)
            return starts, rewards, self._discounts * ~self.terminated.take(starts)

        windows, steps = self._windows(starts)  # steps: m - 1
        last = windows.take(np.arange(0, windows.size, self._longest).reshape(steps.shape) + steps)

        row = steps + self._first_weights
        weights = self._reward_weights.reshape(-1, self._longest).take(row, axis=0)
        weighted = self._normalize_reward(self.rewards.take(windows), env) * weights
        rewards = np.empty(starts.shape, np.float32)
        for n_steps, members in self._groups:  # apart: NumPy's order of summation depends on the number of terms
            rewards[members] = weighted[members][..., :n_steps].sum(axis=-1)
        return last, rewards, self._discounts.take(row) * ~self.terminated.take(last)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the stored rows, the place in the ring and the generator's state (of members: a list of states).

        NumPy arrays (in a dict, for observations of a `Dict` space), ints, and the generator's nested dict.
        """
        states = [generator.bit_generator.state for generator in self._list_generators(self.generator)]
        if self.num_members is None:
            return self._state((), states[0])
        return {"num_members": self.num_members} | self._state(self._every_member, states)

    def member_state(self, member: int) -> dict[str, Any]:
        """A copy of what one member holds, for `load_state_dict` of a single buffer of its settings.

        Args:
            member: which one, counted from 0.

        Raises:
            ValueError: this is a single buffer, or has no such member.
        """
        self._check_member(member)
        return self._state((member,), self._list_generators(self.generator)[member].bit_generator.state)

    def _state(self, members: Index, generator: Any) -> dict[str, Any]:
        rows: Index = (*members, slice(self.size()))
        state = {
            "buffer_size": self.buffer_size,
            "n_envs": self.n_envs,
            "pos": self.pos,
            "full": int(self.full),
            "generator": generator,
        }
        return state | {name: _map(lambda array: array[rows].copy(), stored) for name, stored in self._arrays().items()}

    def load_members(self, source: ReplayBuffer, members: Sequence[int]) -> None:
        """Restore what some members of another buffer hold, as theirs from now on; as :meth:`load_state_dict`.

        Args:
            source: a buffer with members, of the same spaces, capacity, environments and kind of generators.
            members: which of its members, in the order they have here; as many as this buffer has.

        Raises:
            ValueError: `source` has no such member, or what it holds does not fit; nothing is restored then.
        """
        for member in members:
            source._check_member(member)
        generators = source._list_generators(source.generator)
        states = [generators[member].bit_generator.state for member in members]
        self.load_state_dict({"num_members": len(members)} | source._state((list(members),), states))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`, so that the next sample is the one that would have followed.

        Args:
            state: from a buffer of the same spaces, capacity, environments, members and kind of generator.

        Raises:
            ValueError: an entry is missing or does not fit; nothing is restored then.
        """
        numbers = {"buffer_size": self.buffer_size, "n_envs": self.n_envs}
        if self.num_members is not None:
            numbers["num_members"] = self.num_members
        expected_keys = {*numbers, "pos", "full", "generator", *self._arrays()}
        if state.keys() != expected_keys:
            raise ValueError(f"state must have the entries {sorted(expected_keys)}, got {sorted(state)}")
        for name, expected in numbers.items():
            if state[name] != expected:
                raise ValueError(f"state[{name!r}] must be {expected}, got {state[name]}")
        pos, full = int(state["pos"]), bool(state["full"])
        if not 0 <= pos < self.buffer_size:
            raise ValueError(f"state['pos'] must lie in [0, {self.buffer_size}), got {pos}")
        size = self.buffer_size if full else pos
        rows: Index = (*self._every_member, slice(size))
        for name, stored in self._arrays().items():
            _check_stored(f"state[{name!r}]", state[name], stored, rows)
        generators = self._list_generators(self.generator)
        generator_states = [state["generator"]] if self.num_members is None else state["generator"]
        if len(generator_states) != len(generators):
            raise ValueError(f"state['generator'] must hold {len(generators)} states, got {len(generator_states)}")

        # A generator refuses the state of another kind: copies try first.
        for each in (copy.deepcopy(generators), generators):
            for generator, generator_state in zip(each, generator_states, strict=True):
                generator.bit_generator.state = generator_state
        self.pos, self.full = pos, full
        for name, stored in self._arrays().items():
            _map(lambda array, new: array.__setitem__(rows, new), stored, state[name])
        self._closed[rows] = self.terminated[rows] | self.truncated[rows]
        self._closed[(*self._every_member, pos - 1)] = True
        self._num_dummies = self.dummy[rows].reshape(len(generators), -1).sum(axis=1).tolist()

    def _check_member(self, member: int) -> None:
        if self.num_members is None or not 0 <= member < self.num_members:
            raise ValueError(f"member must be one of the {self.num_members or 0} of the buffer, got {member}")

    def _arrays(self) -> dict[str, Stored]:
        """What is stored of each transition, by name."""
        arrays: dict[str, Stored] = {
            "observations": self.observations,
            "next_observations": self.next_observations,
            "actions": self.actions,
            "rewards": self.rewards,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "dummy": self.dummy,
        }
        if self.masked:
            arrays |= {"action_masks": self.action_masks, "next_action_masks": self.next_action_masks}
        return arrays

    def _gather(self, stored: np.ndarray | _DeviceArray, flat_indices: np.ndarray) -> Any:
        """What is stored at these indices, `[*flat_indices.shape, ...]`, where it is stored; always fresh."""
        dims = len(self._step_shape) + 1
        if isinstance(stored, _DeviceArray):
            return stored.gather(flat_indices, dims)
        return stored.reshape(-1, *stored.shape[dims:]).take(flat_indices, axis=0)

    def _gather_masks(self, stored: np.ndarray, flat_indices: np.ndarray) -> Tensor:
        """Masks `[*flat_indices.shape, n, K]` of rows of bits."""
        masks = np.unpackbits(self._gather(stored, flat_indices), axis=-1, count=self._num_choices).view(np.bool_)
        return self._to_tensor(to_matrix(self.codec, masks, validate_args=False))

    def _normalized(self, observations: Any, env: VecNormalize | None) -> Any:
        if env is None:
            return observations
        return self._normalize_obs(_map(_to_numpy, observations), env)

    def _to_tensor(self, values: np.ndarray | Tensor) -> Tensor:
        """An array's own memory on the CPU: only for arrays nobody else holds."""
        if isinstance(values, Tensor):
            return values
        tensor = torch.from_numpy(values)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)

    def _in_rows(self, values: np.ndarray) -> np.ndarray:
        """Observations `[W, ...]` as `[*members, n_envs, ...]`; those of `Discrete`, numbers, as arrays of one."""
        return values.reshape(*self._step_shape, *(values.shape[1:] or (1,)))

    def _checked_indices(self, action: np.ndarray) -> NDArray[np.int64]:
        """Choice indices `[W, n]` of actions, or an error."""
        if (action.dtype.kind in "iu" and action.dtype.itemsize < 8) or action.dtype == np.int64:
            indices = action.reshape(self._num_envs, -1) - self._first_actions  # int64
            # A negative one, read as unsigned, is larger than any size.
            if (indices.view(np.uint64) < self._sizes).all():
                return indices
        return self.codec.to_indices(action)  # other dtypes, and the error

    def _checked_masks(self, masks: np.ndarray | None, indices: np.ndarray) -> np.ndarray:
        """Masks `[n_envs, L]` that allow the actions with these indices `[n_envs, n]`, or an error."""
        if masks is None:
            raise ValueError("action_masks must be given at every step to a buffer made with masked=True")
        masks = np.asarray(masks)
        self._check_shape("action_masks", masks, (self._num_choices,))
        masks = check_masks(self.codec, masks, "action_masks")
        legal = np.take_along_axis(masks, self._first_choices + indices, axis=1)
        if not legal.all():
            env, factor = np.argwhere(~legal)[0]
            raise ValueError(
                f"action must be legal, but environment {env} took choice {indices[env, factor]} of factor {factor}, "
                "counted from 0, which action_masks forbids"
            )
        return masks

    def _checked_next_masks(self, infos: Sequence[dict[str, Any]], unused: np.ndarray) -> np.ndarray:
        """Masks `[n_envs, L]` from `infos`, or an error. Where unused, all choices: a policy there must be defined."""
        everything = np.ones(self._num_choices, np.bool_)
        masks: list[Any] = [everything if unused[i] else info.get(MASK_KEY) for i, info in enumerate(infos)]
        for env, mask in enumerate(masks):
            if np.shape(mask) != everything.shape:
                raise ValueError(
                    f"infos[{env}][{MASK_KEY!r}] must have shape {everything.shape}, "
                    f"got {None if mask is None else np.shape(mask)}"
                )
        return check_masks(self.codec, np.stack(masks), f"{MASK_KEY!r} of the infos")

    def _check_shape(self, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        if array.shape != (self._num_envs, *shape):
            raise ValueError(f"{name} must have shape {(self._num_envs, *shape)}, got {array.shape}")


def _allocate(layout: Layout, leading: tuple[int, ...], device: torch.device) -> np.ndarray | _DeviceArray:
    """Zeros `[*leading, ...]` for observations; those of `Discrete`, which are numbers, are kept as arrays of one."""
    shape = (*leading, *(layout.shape or (1,)))
    try:
        return np.zeros(shape, layout.dtype) if _is_host(device) else _DeviceArray(shape, layout.dtype, device)
    except (MemoryError, torch.OutOfMemoryError):
        gibibytes = np.prod(shape, dtype=float) * layout.dtype.itemsize / 2**30
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
        """Entries, by their place in the first `dims` dimensions made one."""
        return self._tensor.flatten(0, dims - 1)[self._from_numpy(flat_indices)]

    def _from_numpy(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._tensor.device, non_blocking=True)


def _to_numpy(values: np.ndarray | Tensor) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def _is_host(device: torch.device) -> bool:
    return device.type == "cpu"


def _map(function: Callable[..., Any], first: Any, *rest: Any) -> Any:
    """Apply `function` to arrays, or entry by entry to dicts of them."""
    if isinstance(first, dict):
        return {key: function(value, *(other[key] for other in rest)) for key, value in first.items()}
    return function(first, *rest)


def _of_members(name: str, value: Any, num_members: int | None, kind: str, dtype_kinds: str) -> np.ndarray:
    """One value a member `[S]`, of one for all or of S; of a single buffer `[1]`."""
    values = np.asarray(value)
    if values.dtype.kind not in dtype_kinds:
        raise TypeError(f"{name} must be of type {kind}, got {value!r}")
    if values.shape not in ((), () if num_members is None else (num_members,)):
        expected = f"one {kind}" if num_members is None else f"one {kind}, or {num_members}, one a member"
        raise ValueError(f"{name} must be {expected}, got an array of shape {values.shape}")
    return np.broadcast_to(values, 1 if num_members is None else num_members)


def _check_stored(name: str, new: Any, stored: Stored, rows: Index) -> None:
    """Refuse what cannot take the place of these rows of `stored`."""
    if isinstance(stored, dict):
        if not isinstance(new, dict) or new.keys() != stored.keys():
            came = sorted(new) if isinstance(new, dict) else type(new).__name__
            raise ValueError(f"{name} must be a dict with the keys {sorted(stored)}, got {came}")
        for key, array in stored.items():
            _check_stored(f"{name}[{key!r}]", new[key], array, rows)
        return
    shape = stored[rows].shape
    if not isinstance(new, np.ndarray) or new.shape != shape or new.dtype != stored.dtype:
        came = f"{new.dtype} {new.shape}" if isinstance(new, np.ndarray) else type(new).__name__
        raise ValueError(f"{name} must be an array {stored.dtype} {shape}, got {came}")
