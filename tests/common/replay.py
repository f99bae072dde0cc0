"""A replay buffer to be filled, and compared, by tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from gsrl.replay import ReplayBuffer

COUNTER = spaces.Box(-np.inf, np.inf, (1,), np.float32)


TWO = spaces.Discrete(2)


def make_buffer(buffer_size: int = 8, space: spaces.Space = COUNTER, **kwargs: Any) -> ReplayBuffer:
    settings: dict[str, Any] = {"action_space": TWO, "gamma": 0.5, "generator": np.random.default_rng(0)}
    return ReplayBuffer(buffer_size, space, **(settings | kwargs))


def add(buffer: ReplayBuffer, time: int, rewards: list[float], ends: str) -> None:
    """Add step `time`, from observation 10 time + e to 10 (time + 1) + e in environment e.

    One character of `ends` an environment: "." goes on, "T" terminated, "t" truncated.
    """
    observations = np.array([[10.0 * time + e] for e in range(buffer.n_envs)], dtype=np.float32)
    buffer.add(
        observations,
        observations + 10.0,
        np.full(buffer.n_envs, time % 2),
        np.array(rewards),
        np.array([end != "." for end in ends]),
        [{"TimeLimit.truncated": end == "t"} for end in ends],
    )


def filled(rewards: list[float], ends: str, **kwargs: Any) -> ReplayBuffer:
    """One environment, one character of `ends` a step."""
    buffer = make_buffer(**kwargs)
    for time, (reward, end) in enumerate(zip(rewards, ends, strict=True)):
        add(buffer, time, [reward], end)
    return buffer


def everything(buffer: ReplayBuffer, env: VecNormalize | None = None) -> Any:
    """Every stored transition once, in the order of the rows."""
    return buffer._get_samples(np.arange(len(buffer)), env)


def assert_same_batch(left: Any, right: Any) -> None:
    for one, other in zip(left, right, strict=True):
        if one is None:
            assert other is None
            continue
        if not isinstance(one, dict):
            one, other = {"": one}, {"": other}
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype == other[key].dtype
            assert torch.equal(one[key], other[key])


def generators(number: int) -> list[np.random.Generator]:
    return [np.random.default_rng([7, member]) for member in range(number)]


def assert_same_state(left: Any, right: Any) -> None:
    """Equal to the last bit, dtypes and the order of the entries included."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same_state(left[key], right[key])
    elif isinstance(left, np.ndarray):
        assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    elif isinstance(left, list):
        for one, other in zip(left, right, strict=True):
            assert_same_state(one, other)
    else:
        assert left == right


class Twins:
    """A buffer of S members, and S buffers of one that are given the same steps."""

    SPACE = spaces.Dict(place=spaces.Discrete(9), speed=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    ACTIONS = spaces.MultiDiscrete([3, 4])

    def __init__(
        self,
        gamma: Sequence[float],
        n_steps: Sequence[int],
        reward_scale: Sequence[float] | None = None,
        *,
        rows: int = 6,
        n_envs: int = 1,
        masked: bool = False,
        seed: int = 0,
    ) -> None:
        self.rng, self.n_envs, self.num_members, self.masked = np.random.default_rng(seed), n_envs, len(gamma), masked
        self.was_done = np.zeros(self.num_members * n_envs, bool)
        scales = reward_scale or [1.0] * self.num_members
        shared: dict[str, Any] = {
            "buffer_size": rows * n_envs + n_envs - 1,
            "space": self.SPACE,
            "action_space": self.ACTIONS,
            "n_envs": n_envs,
            "masked": masked,
        }
        self.together = make_buffer(
            **shared,
            gamma=gamma,
            n_steps=n_steps,
            reward_scale=scales,
            num_members=self.num_members,
            generator=generators(self.num_members),
        )
        self.alone = [
            make_buffer(
                **shared,
                gamma=gamma[member],
                n_steps=n_steps[member],
                reward_scale=scales[member],
                generator=generator,
            )
            for member, generator in enumerate(generators(self.num_members))
        ]

    def add(self, done: float = 0.2, dummy: float = 0.5) -> None:
        """One random step. After a step that is done, `dummy` is the probability of a dummy step."""
        width = self.num_members * self.n_envs
        before, after = (
            {"place": self.rng.integers(0, 9, width), "speed": self.rng.normal(size=(width, 2)).astype(np.float32)}
            for _ in range(2)
        )
        dummies = self.was_done & (self.rng.random(width) < dummy)
        dones = (self.rng.random(width) < done) & ~dummies
        self.was_done = dones
        masks, next_masks = self.rng.random((2, width, 7)) < 0.5
        masks[:, [0, 3]] = next_masks[:, [2, 6]] = True
        infos = [
            {"TimeLimit.truncated": self.rng.random() < 0.5, "dummy_step": dummies[e], "action_mask": next_masks[e]}
            for e in range(width)
        ]
        legal = masks if self.masked else np.ones((width, 7), bool)
        actions = np.stack([(self.rng.random((width, 7)) * legal)[:, part].argmax(1) for part in np.s_[:3, 3:]], axis=1)
        rewards = self.rng.normal(size=width).astype(np.float32)
        self.together.add(before, after, actions, rewards, dones, infos, masks if self.masked else None)
        for member, buffer in enumerate(self.alone):
            own = slice(member * self.n_envs, (member + 1) * self.n_envs)
            buffer.add(
                {key: value[own] for key, value in before.items()},
                {key: value[own] for key, value in after.items()},
                actions[own],
                rewards[own],
                dones[own],
                infos[own],
                masks[own] if self.masked else None,
            )

    def assert_same_sample(self, batch_size: int = 32) -> None:
        batch = self.together.sample(batch_size)
        for member, buffer in enumerate(self.alone):
            own = [
                {key: value[member] for key, value in entry.items()}
                if isinstance(entry, dict)
                else (None if entry is None else entry[member])
                for entry in batch
            ]
            assert_same_batch(own, buffer.sample(batch_size))
