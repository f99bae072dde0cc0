"""Small agents, how they are compared, and environments that check what agents do to them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

import envs  # noqa: F401  # registers environments
from gsrl import DiscreteSAC, Reinforce
from gsrl.replay import ReplayBatch, Rollout

CARTPOLE = "CartPole-v1"
BASELINES = ("none", "running-mean", "value", "leave-one-out", "relax")
"""Of Reinforce."""

OBSERVATIONS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)


def make_sac(env: Any = CARTPOLE, policy: str = "MlpPolicy", **settings: Any) -> DiscreteSAC:
    """An agent that is cheap to train, in CartPole unless it says otherwise."""
    defaults: dict[str, Any] = {
        "policy_kwargs": {"net_arch": [8]},
        "buffer_size": 1000,
        "learning_starts": 20,
        "batch_size": 8,
        "seed": 0,
        "device": "cpu",
    }
    return DiscreteSAC(policy, gym.make(env) if isinstance(env, str) else env, **(defaults | settings))


def make_reinforce(env: Any = CARTPOLE, policy: str = "MlpPolicy", **settings: Any) -> Reinforce:
    """The same of the other algorithm."""
    defaults: dict[str, Any] = {
        "policy_kwargs": {"net_arch": [8]},
        "n_episodes": 2,
        "critic_updates": 2,
        "seed": 0,
        "device": "cpu",
    }
    return Reinforce(policy, gym.make(env) if isinstance(env, str) else env, **(defaults | settings))


class _Nothing(BaseCallback):
    def _on_step(self) -> bool:
        return True


def play(model: Reinforce) -> Rollout:
    """A rollout, after which nothing is learned."""
    assert model.env is not None
    _, callback = model._setup_learn(1000, _Nothing())
    rollout = model.collect_rollout(model.env, callback)
    assert rollout is not None
    return rollout


def flat(tree: Any) -> Iterator[Any]:
    """The leaves of nested dicts."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from flat(value)
    else:
        yield tree


def parameters(model: DiscreteSAC | Reinforce) -> list[Any]:
    """Every tensor and number that is trained or that training keeps."""
    kept = [model._mean_return, model._mean_weight] if isinstance(model, Reinforce) else []
    return [*flat(model.get_parameters()), *kept]


def same(left: list[Any], right: list[Any]) -> bool:
    assert len(left) == len(right)
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(left, right, strict=True))


def random_batch(size: int = 8, n: int = 1) -> ReplayBatch:
    generator = torch.Generator().manual_seed(0)
    return ReplayBatch(
        torch.randn(size, 4, generator=generator),
        torch.randint(2, (size, n), generator=generator),
        torch.randn(size, generator=generator),
        torch.randn(size, 4, generator=generator),
        torch.full((size,), 0.9),
    )


def in_windows(batch: ReplayBatch, steps: int = 3) -> ReplayBatch:
    """Transitions as windows of the same step again and again."""

    def repeated(tensor: Tensor) -> Tensor:
        return torch.stack([tensor] * steps, 1)

    assert isinstance(batch.next_observations, Tensor)
    return batch._replace(
        rewards=repeated(batch.rewards),
        next_observations=repeated(batch.next_observations),
        discounts=repeated(batch.discounts),
        next_actions=repeated(batch.actions),
        continues=repeated(torch.ones(len(batch.actions), dtype=torch.bool)),
    )


def assert_same_agent(left: Any, right: Any) -> None:
    """Of the same parameters, and of the same answers."""
    assert same(parameters(left), parameters(right))
    actions, others = (agent.predict(OBSERVATIONS, deterministic=True)[0] for agent in (left, right))
    np.testing.assert_array_equal(actions, others)


class Spaces(gym.Env):
    """Refuses actions that are not of its space, and shows whatever is of the other; episodes of seven steps."""

    observation_space: spaces.Space = spaces.Box(-1.0, 1.0, (4,))

    def __init__(self, action_space: spaces.Space, observation_space: spaces.Space | None = None) -> None:
        self.action_space = action_space
        given = Spaces.observation_space if observation_space is None else observation_space
        self.observation_space = copy.deepcopy(given)
        self.observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observation_space.sample(), float(np.sum(action)), self.steps == 7, False, {}


class OnlyTheMethod(gym.Env):
    """Masks in sb3-contrib's way: a method, and nothing in the info. Legal are the first ``1 + step`` choices."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not self.action_masks()[action]:
            raise ValueError(f"action {action} is illegal at step {self.steps}")
        self.steps += 1
        return np.zeros(2, np.float32), float(action), self.steps == 4, False, {}

    def action_masks(self) -> np.ndarray:
        return np.arange(4) <= self.steps
