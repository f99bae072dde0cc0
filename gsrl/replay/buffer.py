"""Replay for off-policy algorithms with discrete actions: n-step returns, masks, truncation apart from termination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from gsrl._settings import Setting
from gsrl._trees import map_arrays
from gsrl.masking import to_matrix
from gsrl.replay import windows
from gsrl.replay.checks import Observation, checked_masks, checked_next_masks, checked_transition, layout_of
from gsrl.replay.frames import Frames, Stack
from gsrl.replay.ring import Column, Generators, Index, Ring, Stored
from gsrl.spaces import OneHotCodec

__all__ = ["ReplayBatch", "ReplayBuffer"]


class ReplayBatch(NamedTuple):
    """A batch of B n-step transitions, from time t to t + m with m <= n_steps; of S members, `[S, B, ...]` throughout.

    The target of a critic is `rewards + discounts * V(next_observations)`.

    A buffer that is `stepwise` gives the steps of a window one by one: `rewards`, `next_observations`, `discounts` and
    `next_action_mask` are then of steps t + j, `[B, N, ...]` with N = n_steps, for m = 1 each; of steps after the
    window's last, they repeat it. Their target is that of :func:`gsrl.losses.lambda_target`.

    Example:
        >>> states, actions = torch.zeros(1, 4), torch.tensor([[1]])
        >>> batch = ReplayBatch(states, actions, torch.ones(1), states, torch.tensor([0.9]))
        >>> next_value = torch.tensor([10.0])
        >>> batch.rewards + batch.discounts * next_value  # the target of a critic
        tensor([10.])
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


class ReplayBuffer(Ring):
    """Ring of transitions that is sampled uniformly, with replacement, as n-step transitions.

        R_t = c sum_{j<m} gamma^j r_{t+j},    target = R_t + gamma^m (1 - terminated_{t+m-1}) V(s_{t+m})

    c is `reward_scale`. m is `n_steps`, or less: the window closes at the first step that terminated or was truncated,
    and at the newest transition of its environment. A truncated step still bootstraps, a terminated one does not.

    Source: the multi-step target of Rainbow (Hessel et al., 2018, arXiv 1710.02298).

    Biased for `n_steps > 1`: the actions after the first are those of the policy that collected them, and nothing
    corrects for the policy having changed since. This often helps all the same (Fedus et al., 2020, arXiv 2007.06700).
    Under an entropy bonus there is a second bias, because the sum holds none of the bonuses between t and t + m. Steps
    that are not summed, `stepwise`, can be weighed.

    Rows, environments and members are those of a :class:`gsrl.replay.ring.Ring`; what member i samples is, bit for bit,
    what a buffer of one with its transitions, its settings and its generator would. Each column is also an attribute.
    Actions are kept as choice indices `[rows, n_envs, n]` in the smallest unsigned dtype that holds them. float64
    observations are kept as float32. Masks of a state and of its successor are kept as bits,
    `[rows, n_envs, ceil(L / 8)]` each, see :mod:`gsrl.masking`.

    Memory, in bytes: `buffer_size * (2 * observation + n * action + 8)`, plus `buffer_size * 2 * ceil(L / 8)` with
    masks; times `num_members`. CartPole: 2 * 16 + 1 + 8 = 41 a transition, so that 64 members with 100,000 each take
    0.25 GiB. It is asked for at once, but most operating systems hand it out only as it is written. Observations are
    kept on `device`, all else in the memory of the host.

    With a `stack` each frame is stored once, in the memory of the host, and a transition takes
    `frame + n * action + 10`, where booleans of a frame are bits; an episode (or a row that begins the ring) takes
    `(2 k - 1) * frame + 16` more, see :class:`gsrl.replay.frames.Frames`. What is sampled is the same to the bit. A
    million transitions of MinAtar's Breakout, of 10 x 10 x 4 booleans, take 61 MB and not 809; of four stacked frames
    61 and not 3,209.

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
        stack: how observations, a `Box`, are put together of frames that are stored once; None: observations before and
            after a transition are stored as they are.
        num_members: S; None: a single buffer, without the dimension of the members.
        generator: the source of all randomness here; of S members a sequence, one a member.

    Raises:
        TypeError: `generator` is not a NumPy `Generator` (or a sequence of S), `gamma` or `reward_scale` is not a
            number or `n_steps` no integer, the action space is of another kind, or a `Dict` space of observations is
            nested.
        NotImplementedError: Stable-Baselines3 does not support the observation space.
        ValueError: `n_envs`, `n_steps`, `gamma`, `reward_scale`, `buffer_size` or `num_members` is out of range, or
            there is not one value a member; observations are not of the `stack`.

    Example:
        >>> box, rng = spaces.Box(0.0, 9.0, (1,)), np.random.default_rng(0)
        >>> buffer = ReplayBuffer(100, box, spaces.Discrete(2), gamma=0.5, n_steps=2, generator=rng)
        >>> one = np.ones(1)
        >>> buffer.add(0 * one[None], one[None], np.array([1]), one, one < 0, [{}])
        >>> buffer.add(one[None], 2 * one[None], np.array([0]), one, one > 0, [{}])  # terminates
        >>> batch = buffer.sample(64)
        >>> batch.rewards.unique(), batch.discounts.unique()  # 1 + .5 from the first step on, 1 from the second
        (tensor([1.0000, 1.5000]), tensor([0.]))
    """

    observations: Stored
    next_observations: Stored
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    dummy: np.ndarray
    action_masks: np.ndarray
    next_action_masks: np.ndarray
    gamma: Any = Setting()
    """As the next two: what is assigned holds for what is sampled from then on."""
    n_steps: Any = Setting()
    reward_scale: Any = Setting()

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
        stack: Stack | None = None,
        num_members: int | None = None,
        generator: Generators,
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.codec = OneHotCodec(action_space)
        self.stepwise, self.masked = stepwise, masked
        get_obs_shape(observation_space)  # refuses what Stable-Baselines3 does not support
        self._layout = layout_of(observation_space)
        kept = map_arrays(lambda each: Column(each.shape or (1,), each.dtype, on_device=True), self._layout)
        flag = Column((), np.dtype(np.bool_))
        self._frames, self.stack = None, stack
        if stack is not None:
            if isinstance(self._layout, dict):
                raise ValueError(f"stack must be None for a Dict of observations, but got {stack}.")
            self._frames = Frames(self._layout, stack)
        observations = {"observations": kept, "next_observations": kept}
        columns = {
            **(observations if self._frames is None else self._frames.columns()),
            "actions": Column((self.codec.n,), np.min_scalar_type(self.codec.K - 1)),
            "rewards": Column((), np.dtype(np.float32)),
            "terminated": flag,
            "truncated": flag,
            "dummy": flag,
        }
        if masked:
            bits = Column(((sum(self.codec.sizes) + 7) // 8,), np.dtype(np.uint8))
            columns |= {"action_masks": bits, "next_action_masks": bits}
        super().__init__(
            buffer_size, columns, n_envs, num_members=num_members, generator=generator, device=get_device(device)
        )
        vars(self).update(self.columns)
        self._set_windows(gamma=gamma, n_steps=n_steps, reward_scale=reward_scale)
        self.is_built = True

    def change_setting(self, name: str, value: Any) -> None:
        """Assigns `gamma`, `n_steps` or `reward_scale`; `buffer.name = value` does so."""
        settings = {each: getattr(self, each) for each in ("gamma", "n_steps", "reward_scale")}
        self._set_windows(**{**settings, name: value})

    def _set_windows(self, *, gamma: Any, n_steps: Any, reward_scale: Any) -> None:
        """Checks the settings of windows, and works out what sampling needs of them, with a row a member."""
        lengths = _of_members("n_steps", n_steps, self.num_members, "integer", "iu")
        if (lengths < 1).any():
            raise ValueError(f"n_steps must be at least 1, but got {lengths.min()}.")
        gammas = _of_members("gamma", gamma, self.num_members, "number", "iuf")
        wrong = gammas[~((gammas >= 0.0) & (gammas <= 1.0))]
        if wrong.size:
            raise ValueError(f"gamma must lie in [0, 1], but got {wrong[0]}.")
        scales = _of_members("reward_scale", reward_scale, self.num_members, "number", "iuf")
        wrong = scales[~((scales > 0.0) & (scales < np.inf))]
        if wrong.size:
            raise ValueError(f"reward_scale must be finite and above 0, but got {wrong[0]}.")
        vars(self).update(gamma=gamma, n_steps=n_steps, reward_scale=reward_scale)
        self._longest = longest = int(lengths.max())  # N
        self._groups = windows.groups(lengths)
        self._scales = scales.astype(np.float32)
        self._weights = windows.reward_weights(gammas, self._scales, longest)
        self._discounts = windows.discounts(gammas, longest)

    def add(
        self,
        obs: Observation,
        next_obs: Observation,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: Sequence[Mapping[str, Any]],
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
                where there was no transition: environment i was only being reset, as in Gymnasium's vector
                environments of the mode `NEXT_STEP`. A buffer with masks takes the one at `next_obs` from
                `infos[i]["action_mask"]`, unless the step terminated or was no transition.
            action_masks: the masks at `obs`, flat `[W, L]`; in a buffer with masks only.

        Raises:
            gsrl.checks.EnvironmentDataError: an observation, a reward or an end is wrong, see
                :func:`gsrl.replay.checks.checked_transition`; it is a `ValueError`.
            ValueError: an action is not in its space; a mask is missing, wrong, without a legal choice, or forbids the
                action.
        """
        count = self._num_envs
        obs, next_obs, reward, done = checked_transition(self._layout, count, obs, next_obs, reward, done)
        action = np.asarray(action)
        expected = (count, *(self.action_space.shape or ()))
        if action.shape != expected:
            raise ValueError(f"action must have shape {expected}, but got {action.shape}.")
        if len(infos) != count:
            raise ValueError(f"infos must hold one dict per environment ({count}), but got {len(infos)}.")
        indices = self.codec.to_indices(action)
        terminated = truncated = done
        if done.any():
            truncated = done & np.fromiter((info.get("TimeLimit.truncated", False) for info in infos), np.bool_)
            terminated = done & ~truncated
        dummy = np.array([bool(info.get("dummy_step", False)) for info in infos])
        row = {
            "actions": indices,
            "rewards": reward,
            "terminated": terminated,
            "truncated": truncated,
            "dummy": dummy,
        }
        if self.masked:
            masks = checked_masks(self.codec, action_masks, indices)
            next_masks = checked_next_masks(self.codec, infos, unused=dummy | terminated)
            row["action_masks"] = np.packbits(masks, axis=-1)
            row["next_action_masks"] = np.packbits(next_masks, axis=-1)
        elif action_masks is not None:
            raise ValueError("action_masks were given to a buffer made with masked=False.")
        if self._frames is None:
            row |= {"observations": obs, "next_observations": next_obs}
        else:
            row |= self._frames.next_row(self, np.asarray(obs), np.asarray(next_obs))
        self.append(row)

    def reset(self) -> None:
        """Forgets all transitions."""
        super().reset()
        if self._frames is not None:
            self._frames.clear()

    def gather(self, name: str, indices: NDArray[np.int64]) -> Any:
        """See :meth:`Ring.gather`; of a `stack` too, `observations` and `next_observations` are put together."""
        if self._frames is None or name not in ("observations", "next_observations"):
            return super().gather(name, indices)
        return getattr(self._frames, name)(self, indices)

    def sample(
        self, batch_size: int, env: VecNormalize | None = None, generator: Generators | None = None
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
        return self._get_samples(self.draw(batch_size, generator), env)

    def _get_samples(self, starts: NDArray[np.int64], env: VecNormalize | None = None) -> ReplayBatch:
        """The n-step transitions that start at flat indices `[B]`, of members each its own, `[S, B]`."""
        next_actions = continues = None
        if self._longest == 1 or self.stepwise:  # each step by itself
            last, scales, gammas = starts, self._scales[..., None], self._discounts[..., :1]
            if self._longest > 1:
                steps, closing = self._windows(starts)
                scales, gammas, places = scales[..., None], gammas[..., None], np.arange(self._longest)
                continues = places < closing[..., None]
                last = np.take_along_axis(steps, np.minimum(places, closing[..., None]), axis=-1)  # [*S, B, N]
                following = np.concatenate([last[..., 1:], last[..., -1:]], axis=-1)
                next_actions = self._to_tensor(self.gather("actions", following).astype(np.int64))
            rewards = self._rewards(last, env) * scales + np.float32(0.0)  # as any sum does, it turns -0 to 0
            discounts = gammas * ~self.terminated.take(last)
        else:
            steps, closing = self._windows(starts)
            last = windows.last_indices(steps, closing)
            rewards = windows.returns(self._rewards(steps, env), closing, self._weights, self._groups)
            discounts = windows.bootstrap_discounts(closing, self.terminated.take(last), self._discounts)
        return ReplayBatch(
            observations=self._observations("observations", starts, env),
            actions=self._to_tensor(self.gather("actions", starts).astype(np.int64)),
            rewards=self._to_tensor(rewards),
            next_observations=self._observations("next_observations", last, env),
            discounts=self._to_tensor(discounts),
            action_mask=self._masks("action_masks", starts) if self.masked else None,
            next_action_mask=self._masks("next_action_masks", last) if self.masked else None,
            next_actions=next_actions,
            continues=None if continues is None else self._to_tensor(continues),
        )

    def _windows(self, starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Flat indices of the N steps from each of these on, `[*S, B, N]`, and by which of them its window closes."""
        steps = windows.step_indices(starts, self._longest, self.n_envs, self.capacity, self.first)
        return steps, windows.closing_steps(self.closed.take(steps), self._groups)

    def _rewards(self, indices: NDArray[np.int64], env: VecNormalize | None) -> NDArray[np.float32]:
        rewards = self.rewards.take(indices)
        return rewards if env is None else env.normalize_reward(rewards).astype(np.float32)

    def _observations(self, name: str, indices: NDArray[np.int64], env: VecNormalize | None) -> Any:
        found = self.gather(name, indices)
        if env is not None:
            found = env.normalize_obs(map_arrays(_to_numpy, found))
        return map_arrays(self._to_tensor, found)

    def _masks(self, name: str, indices: NDArray[np.int64]) -> Tensor:
        """Masks `[*indices.shape, n, K]` of rows of bits."""
        flat = np.unpackbits(self.gather(name, indices), axis=-1, count=sum(self.codec.sizes)).view(np.bool_)
        return self._to_tensor(to_matrix(self.codec, flat, validate_args=False))

    def _state(self, members: Index, generator: Any) -> dict[str, Any]:
        state = super()._state(members, generator)
        if self._frames is None:
            return state
        chosen = members[0] if members else 0
        if isinstance(chosen, int):
            return {**state, "kept": self._frames.state(self, chosen)}
        indices = range(self.num_members or 1)[chosen] if isinstance(chosen, slice) else chosen
        return {**state, "kept": [self._frames.state(self, member) for member in indices]}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if self._frames is None:
            super()._check_state(state)
            return
        if "kept" not in state:
            raise ValueError(f"state must have the entry 'kept', but got {sorted(state)}.")
        super()._check_state({name: value for name, value in state.items() if name != "kept"})
        kept = [state["kept"]] if self.num_members is None else state["kept"]
        if not isinstance(kept, list) or len(kept) != (self.num_members or 1):
            raise ValueError(f"state['kept'] must be one for each of {self.num_members} members.")
        for member, each in enumerate(kept):
            columns = {name: state[name] for name in ("ages", "linked")}
            if self.num_members is not None:
                columns = {name: column[member] for name, column in columns.items()}
            self._frames.check(self, each, columns, int(state["pos"]) if state["full"] else 0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`Ring.load_state_dict`."""
        super().load_state_dict(state)
        if self._frames is not None:
            self._frames.load(self, [state["kept"]] if self.num_members is None else state["kept"])

    def _to_tensor(self, values: np.ndarray | Tensor) -> Tensor:
        """An array's own memory on the CPU: only for arrays nobody else holds."""
        if isinstance(values, Tensor):
            return values
        tensor = torch.from_numpy(values)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)


def _to_numpy(values: np.ndarray | Tensor) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def _of_members(name: str, value: Any, num_members: int | None, kind: str, dtype_kinds: str) -> np.ndarray:
    """One value a member `[S]`, of one for all or of S; of a single buffer one `[]`."""
    values = np.asarray(value)
    if values.dtype.kind not in dtype_kinds:
        raise TypeError(f"{name} must be of type {kind}, but got {value!r}.")
    shape = () if num_members is None else (num_members,)
    if values.shape not in ((), shape):
        expected = f"one {kind}" if num_members is None else f"one {kind}, or {num_members}, one a member"
        raise ValueError(f"{name} must be {expected}, but got an array of shape {values.shape}.")
    return np.broadcast_to(values, shape)
