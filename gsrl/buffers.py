"""Replay for off-policy algorithms with discrete actions: n-step returns, masks, truncation apart from termination."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from gsrl.masking import MASK_KEY, check_masks, to_matrix
from gsrl.spaces import OneHotCodec

__all__ = ["ReplayBatch", "ReplayBuffer"]

Observation: TypeAlias = np.ndarray | dict[str, np.ndarray]


class ReplayBatch(NamedTuple):
    """A batch of B n-step transitions, from time t to t + m with m <= n_steps.

    The target of a critic is `rewards + discounts * V(next_observations)`.
    """

    observations: Tensor | dict[str, Tensor]
    """At time t, `[B, ...]`, in the dtype they are stored in (float32 where normalised)."""
    actions: Tensor
    """Index of the choice of every factor at time t, int64 `[B, n]`."""
    rewards: Tensor
    """sum_{j<m} gamma^j r_{t+j}, float32 `[B]`."""
    next_observations: Tensor | dict[str, Tensor]
    """At time t + m, `[B, ...]`; never the first observation of the next episode."""
    discounts: Tensor
    """gamma^m, or 0 where the last of the m steps terminated; float32 `[B]`."""
    action_mask: Tensor | None = None
    """True where a choice is legal at time t, bool `[B, n, K]`; None: of a buffer without masks."""
    next_action_mask: Tensor | None = None
    """The same at time t + m; all choices of the space where `discounts` is 0 by termination."""


class ReplayBuffer(BaseBuffer):
    """Ring of transitions that is sampled uniformly, with replacement, as n-step transitions.

        R_t = sum_{j<m} gamma^j r_{t+j},    target = R_t + gamma^m (1 - terminated_{t+m-1}) V(s_{t+m})

    m is `n_steps`, or less: the window closes at the first step that terminated or was truncated, and at the newest
    transition of its environment. A truncated step still bootstraps, a terminated one does not.

    Source: the multi-step target of Rainbow (Hessel et al., 2018, arXiv 1710.02298).

    Biased for `n_steps > 1`: the actions after the first are those of the policy that collected them, and nothing
    corrects for the policy having changed since. This often helps all the same (Fedus et al., 2020, arXiv 2007.06700).
    Under an entropy bonus there is a second bias, because the sum holds none of the bonuses between t and t + m.

    Rows are shared by the environments: every array is `[rows, n_envs, ...]` with `rows = buffer_size // n_envs`.
    `size()` counts rows, as in Stable-Baselines3; `len()` counts transitions. Actions are kept as choice indices
    `[rows, n_envs, n]` in the smallest unsigned dtype that holds them. float64 observations are kept as float32.
    Memory is asked for at once, but most operating systems hand it out only as it is written. Masks of a state and of
    its successor are kept as bits, `[rows, n_envs, ceil(L / 8)]` each, see :mod:`gsrl.masking`.

    Where `infos[i]["dummy_step"]` is true, environment i was only being reset, as in Gymnasium's vector environments of
    the mode `NEXT_STEP`: there was no transition. Its place in the row is taken up, but never sampled, nor part of a
    window. `len()` counts it.

    Args:
        buffer_size: capacity in transitions, all environments together.
        observation_space: a space Stable-Baselines3 supports, or a `Dict` of such.
        action_space: a `Discrete`, `MultiDiscrete` or `MultiBinary` space.
        device: where sampled tensors go.
        n_envs: environments stepped together.
        gamma: discount per step, in [0, 1].
        n_steps: the longest window, at least 1.
        masked: whether action masks are stored and sampled.
        generator: the source of all randomness here.

    Raises:
        TypeError: `generator` is not a NumPy `Generator`, the action space is of another kind, or a `Dict` space of
            observations is nested.
        NotImplementedError: Stable-Baselines3 does not support the observation space.
        ValueError: `n_envs`, `n_steps`, `gamma` or `buffer_size` is out of range.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "cpu",
        n_envs: int = 1,
        *,
        gamma: float = 0.99,
        n_steps: int = 1,
        masked: bool = False,
        generator: np.random.Generator,
    ) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, got {n_envs}")
        if buffer_size < n_envs:
            raise ValueError(f"buffer_size must be at least n_envs ({n_envs}), got {buffer_size}")
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
        if not isinstance(generator, np.random.Generator):
            raise TypeError(f"generator must be a numpy.random.Generator, got {type(generator).__name__}")
        self.codec = OneHotCodec(action_space)
        # BaseBuffer only measures the action space, and knows no multi-dimensional one: show it the flat equal.
        super().__init__(
            buffer_size // n_envs, observation_space, spaces.MultiDiscrete(list(self.codec.sizes)), device, n_envs
        )
        self.action_space = action_space
        self.gamma = gamma
        self.n_steps = n_steps
        self.masked = masked
        self.generator = generator

        leading = (self.buffer_size, n_envs)
        self.observations: Observation = _map_spaces(lambda space: _allocate(leading, space), observation_space)
        self.next_observations: Observation = _map_spaces(lambda space: _allocate(leading, space), observation_space)
        self.actions = np.zeros((*leading, self.codec.n), dtype=np.min_scalar_type(self.codec.K - 1))
        self.rewards = np.zeros(leading, dtype=np.float32)
        self.terminated = np.zeros(leading, dtype=np.bool_)
        self.truncated = np.zeros(leading, dtype=np.bool_)
        self.dummy = np.zeros(leading, dtype=np.bool_)
        self._num_dummies = 0
        self._num_choices = sum(self.codec.sizes)  # L
        self._first_choices = np.cumsum((0, *self.codec.sizes[:-1]))
        mask_bytes = (self._num_choices + 7) // 8 if masked else 0
        self.action_masks = np.zeros((*leading, mask_bytes), dtype=np.uint8)
        self.next_action_masks = np.zeros((*leading, mask_bytes), dtype=np.uint8)

        self._steps = np.arange(n_steps)
        self._reward_weights = (gamma**self._steps).astype(np.float32)
        self._discounts = (gamma ** np.arange(n_steps + 1)).astype(np.float32)

    def __len__(self) -> int:
        """Transitions stored, all environments together."""
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

        Args:
            obs: observations before the step, `[n_envs, ...]`, unnormalised.
            next_obs: observations after it, of the same episode: at its end the final one.
            action: actions of the space, `[n_envs, *action_space.shape]`.
            reward: rewards `[n_envs]`, unnormalised.
            done: True where the episode ended `[n_envs]`.
            infos: `infos[i]["TimeLimit.truncated"]` is True where it ended by truncation, `infos[i]["dummy_step"]`
                where there was no transition. A buffer with masks takes the one at `next_obs` from
                `infos[i]["action_mask"]`, unless the step terminated or was no transition.
            action_masks: the masks at `obs`, flat `[n_envs, L]`; in a buffer with masks only.

        Raises:
            ValueError: a shape or key is wrong, an action is not in its space, or an observation or a reward is
                not finite; a mask is missing, wrong, without a legal choice, or forbids the action.
        """
        obs = self._checked_observation("obs", obs)
        next_obs = self._checked_observation("next_obs", next_obs)
        action, done = np.asarray(action), np.asarray(done, dtype=np.bool_)
        reward = np.asarray(reward, dtype=np.float32)
        self._check_shape("action", action, self.action_space.shape or ())
        self._check_shape("reward", reward, ())
        self._check_shape("done", done, ())
        if len(infos) != self.n_envs:
            raise ValueError(f"infos must hold one dict per environment ({self.n_envs}), got {len(infos)}")
        _check_finite("reward", reward)
        indices = self.codec.to_indices(action)
        time_limit = np.fromiter((info.get("TimeLimit.truncated", False) for info in infos), np.bool_, self.n_envs)
        dummy = np.fromiter((info.get("dummy_step", False) for info in infos), np.bool_, self.n_envs)
        if self.masked:
            masks = self._checked_masks(action_masks, indices)
            next_masks = self._checked_next_masks(infos, unused=dummy | (done & ~time_limit))
        elif action_masks is not None:
            raise ValueError("action_masks were given to a buffer made with masked=False")

        row = self.pos
        _map(lambda stored, new: stored.__setitem__(row, new), self.observations, obs)
        _map(lambda stored, new: stored.__setitem__(row, new), self.next_observations, next_obs)
        self.actions[row] = indices
        self.rewards[row] = reward
        self.terminated[row] = done & ~time_limit
        self.truncated[row] = done & time_limit
        if self.masked:
            self.action_masks[row] = np.packbits(masks, axis=-1)
            self.next_action_masks[row] = np.packbits(next_masks, axis=-1)
        if dummy.any():
            self._end_episodes(dummy)  # so that no window reaches the dummy
        replaced = self.dummy[row].sum() if self.full else 0
        self._num_dummies += int(dummy.sum() - replaced)
        self.dummy[row] = dummy
        self.pos = (row + 1) % self.buffer_size
        self.full = self.full or self.pos == 0

    def end_episodes(self) -> None:
        """Mark the newest step of every environment as truncated, unless it terminated.

        To be called when the environments were reset without the buffer having seen their episodes end, as on a second
        `learn` or after loading. Otherwise windows would run from the old episodes into the new ones.
        """
        self._end_episodes(np.ones(self.n_envs, np.bool_))

    def _end_episodes(self, where: np.ndarray) -> None:
        if len(self):
            newest = self.pos - 1
            self.truncated[newest] |= where & ~self.terminated[newest]

    def reset(self) -> None:
        """Forget all transitions."""
        super().reset()
        self._num_dummies = 0

    def sample(
        self, batch_size: int, env: VecNormalize | None = None, generator: np.random.Generator | None = None
    ) -> ReplayBatch:
        """Draw transitions uniformly, with replacement.

        Args:
            batch_size: B, the number of transitions.
            env: normalises observations, and each reward before they are summed.
            generator: of this draw; the buffer's own if None.

        Raises:
            ValueError: `batch_size` is below 1 or the buffer is empty.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if len(self) == self._num_dummies:
            raise ValueError("cannot sample an empty replay buffer: add a transition first")
        generator = self.generator if generator is None else generator
        indices = generator.integers(len(self), size=batch_size)
        # Every dummy follows a transition, so that this soon finds one.
        while self._num_dummies and (dummy := self.dummy.take(indices)).any():
            indices[dummy] = generator.integers(len(self), size=dummy.sum())
        return self._get_samples(indices, env)

    def _get_samples(  # type: ignore[override]  # the base class names the batches of its own subclasses
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBatch:
        """The n-step transitions that start at flat indices `row * n_envs + environment`, int64 `[B]`."""
        rows, n_envs = self.buffer_size, self.n_envs
        windows = (batch_inds[:, None] + n_envs * self._steps) % (rows * n_envs)  # [B, n_steps]

        # Steps up to the newest row, and up to the first episode end, inclusive (the last column closes all windows).
        available = (self.pos - 1 - batch_inds // n_envs) % rows + 1
        ends = self.terminated.take(windows) | self.truncated.take(windows)
        ends[:, -1] = True
        lengths = np.minimum(ends.argmax(axis=1) + 1, available)  # m
        last = (batch_inds + n_envs * (lengths - 1)) % (rows * n_envs)

        rewards = self._normalize_reward(self.rewards.take(windows), env)
        rewards = (rewards * self._reward_weights * (self._steps < lengths[:, None])).sum(axis=1)
        discounts = self._discounts.take(lengths) * ~self.terminated.take(last)

        observations = _map(lambda stored: _gather(stored, batch_inds), self.observations)
        next_observations = _map(lambda stored: _gather(stored, last), self.next_observations)
        return ReplayBatch(
            observations=_map(self._to_tensor, self._normalize_obs(observations, env)),
            actions=self._to_tensor(_gather(self.actions, batch_inds).astype(np.int64)),
            rewards=self._to_tensor(rewards),
            next_observations=_map(self._to_tensor, self._normalize_obs(next_observations, env)),
            discounts=self._to_tensor(discounts),
            action_mask=self._gather_masks(self.action_masks, batch_inds) if self.masked else None,
            next_action_mask=self._gather_masks(self.next_action_masks, last) if self.masked else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """A copy of the stored rows, the place in the ring and the generator's state.

        NumPy arrays (in a dict, for observations of a `Dict` space), ints, and the generator's nested dict.
        """
        state: dict[str, Any] = {
            "buffer_size": self.buffer_size,
            "n_envs": self.n_envs,
            "pos": self.pos,
            "full": int(self.full),
            "generator": self.generator.bit_generator.state,
        }
        for name, stored in self._arrays().items():
            state[name] = _map(lambda array: array[: self.size()].copy(), stored)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`, so that the next sample is the one that would have followed.

        Args:
            state: from a buffer of the same spaces, capacity, environments and kind of generator.

        Raises:
            ValueError: an entry is missing or does not fit; nothing is restored then.
        """
        expected_keys = {"buffer_size", "n_envs", "pos", "full", "generator", *self._arrays()}
        if state.keys() != expected_keys:
            raise ValueError(f"state must have the entries {sorted(expected_keys)}, got {sorted(state)}")
        for name, expected in (("buffer_size", self.buffer_size), ("n_envs", self.n_envs)):
            if state[name] != expected:
                raise ValueError(f"state[{name!r}] must be {expected}, got {state[name]}")
        pos, full = int(state["pos"]), bool(state["full"])
        if not 0 <= pos < self.buffer_size:
            raise ValueError(f"state['pos'] must lie in [0, {self.buffer_size}), got {pos}")
        size = self.buffer_size if full else pos
        for name, stored in self._arrays().items():
            _check_stored(f"state[{name!r}]", state[name], stored, size)

        # The generator refuses the state of another kind, so it goes first.
        self.generator.bit_generator.state = state["generator"]
        self.pos, self.full = pos, full
        for name, stored in self._arrays().items():
            _map(lambda array, new: array.__setitem__(slice(size), new), stored, state[name])
        self._num_dummies = int(self.dummy[:size].sum())

    def _arrays(self) -> dict[str, Observation]:
        """What is stored for each transition, by name."""
        arrays = {
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

    def _gather_masks(self, stored: np.ndarray, flat_indices: np.ndarray) -> Tensor:
        """Masks `[B, n, K]` of rows of bits."""
        masks = np.unpackbits(_gather(stored, flat_indices), axis=-1, count=self._num_choices).view(np.bool_)
        return self._to_tensor(to_matrix(self.codec, masks, validate_args=False))

    def _to_tensor(self, array: np.ndarray) -> Tensor:
        """The array's own memory on the CPU: only for arrays nobody else holds."""
        return torch.from_numpy(array).to(self.device)

    def _checked_observation(self, name: str, observation: Observation) -> Observation:
        """Observations in the shape and dtype they are stored in, or an error."""
        if not isinstance(self.observation_space, spaces.Dict):
            return self._checked_array(name, np.asarray(observation), self.observation_space)
        keys = self.observation_space.keys()
        if not isinstance(observation, dict) or observation.keys() != keys:
            came = sorted(observation) if isinstance(observation, dict) else type(observation).__name__
            raise ValueError(f"{name} must be a dict with the keys {sorted(keys)}, got {came}")
        return {
            key: self._checked_array(f"{name}[{key!r}]", np.asarray(observation[key]), space)
            for key, space in self.observation_space.items()
        }

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

    def _checked_array(self, name: str, array: np.ndarray, space: spaces.Space) -> np.ndarray:
        self._check_shape(name, array, space.shape or ())
        array = array.astype(_storage_dtype(space), copy=False)
        if array.dtype.kind == "f":
            _check_finite(name, array)
        return array.reshape(self.n_envs, *get_obs_shape(space))  # Discrete: [n_envs] -> [n_envs, 1]

    def _check_shape(self, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        if array.shape != (self.n_envs, *shape):
            raise ValueError(f"{name} must have shape {(self.n_envs, *shape)}, got {array.shape}")


def _map(function: Callable[..., Any], first: Any, *rest: Any) -> Any:
    """Apply `function` to arrays, or entry by entry to dicts of them."""
    if isinstance(first, dict):
        return {key: function(value, *(other[key] for other in rest)) for key, value in first.items()}
    return function(first, *rest)


def _map_spaces(function: Callable[[spaces.Space], np.ndarray], space: spaces.Space) -> Observation:
    """Apply `function` to a space, or to every entry of a `Dict` space."""
    if isinstance(space, spaces.Dict):
        return {key: function(entry) for key, entry in space.items()}
    return function(space)


def _storage_dtype(space: spaces.Space) -> np.dtype:
    return np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype)


def _allocate(leading: tuple[int, int], space: spaces.Space) -> np.ndarray:
    if isinstance(space, spaces.Dict):
        raise TypeError(f"observation_space must not nest a Dict in a Dict, got {space}")
    shape, dtype = (*leading, *get_obs_shape(space)), _storage_dtype(space)
    try:
        return np.zeros(shape, dtype=dtype)
    except MemoryError:
        gibibytes = np.prod(shape, dtype=float) * dtype.itemsize / 2**30
        raise MemoryError(
            f"buffer_size is too large: it takes twice {gibibytes:.1f} GiB for observations alone"
        ) from None


def _gather(array: np.ndarray, flat_indices: np.ndarray) -> np.ndarray:
    """Rows `[B, ...]` of an array `[rows, n_envs, ...]`; always a fresh array."""
    return array.reshape(-1, *array.shape[2:]).take(flat_indices, axis=0)


def _check_finite(name: str, array: np.ndarray) -> None:
    """Refuse NaN and infinity in `[n_envs, ...]`, naming the first environment that has one."""
    finite = np.isfinite(array)
    if not finite.all():
        where = np.argwhere(~finite)[0]
        raise ValueError(f"{name} must be finite, got {array[tuple(where)]} in environment {where[0]}")


def _check_stored(name: str, new: Any, stored: Observation, size: int) -> None:
    """Refuse what cannot take the place of the first `size` rows of `stored`."""
    if isinstance(stored, dict):
        if not isinstance(new, dict) or new.keys() != stored.keys():
            came = sorted(new) if isinstance(new, dict) else type(new).__name__
            raise ValueError(f"{name} must be a dict with the keys {sorted(stored)}, got {came}")
        for key, array in stored.items():
            _check_stored(f"{name}[{key!r}]", new[key], array, size)
        return
    shape = (size, *stored.shape[1:])
    if not isinstance(new, np.ndarray) or new.shape != shape or new.dtype != stored.dtype:
        came = f"{new.dtype} {new.shape}" if isinstance(new, np.ndarray) else type(new).__name__
        raise ValueError(f"{name} must be an array {stored.dtype} {shape}, got {came}")
