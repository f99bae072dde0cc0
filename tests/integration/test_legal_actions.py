"""No illegal action in 1e5 steps of training, of prediction and of evaluation: the maze raises on the first one.

The 1e5 steps of each are done in parts, which may run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from envs.grid import MaskedGrid
from gsrl import DiscreteSAC
from gsrl.callbacks import EvalCallback
from gsrl.evaluation import evaluate_policy
from gsrl.masking import current_masks
from gsrl.vec_env import GymnasiumVecEnv

QUARTER, HALF = 25_000, 50_000
SHARE_OF_ILLEGAL = 0.54  # of the maze's actions, on average over its cells

FORMS: dict[str, Callable[[Callable[[], gym.Env]], Any]] = {
    "one": lambda make: make(),
    "eight in DummyVecEnv": lambda make: DummyVecEnv([make] * 8),
    "eight in SyncVectorEnv": lambda make: SyncVectorEnv([make] * 8),
}


@dataclass
class Tally:
    """What has happened in all mazes that were made with it."""

    steps: int = 0
    terminated: int = 0
    truncated: int = 0

    def make(self) -> gym.Env:
        return Counted(gym.make("gsrl/MaskedGrid-v0"), self)


class Counted(gym.Wrapper):
    """Counts the steps that the maze took, not those that somebody asked for."""

    def __init__(self, env: gym.Env, tally: Tally) -> None:
        super().__init__(env)
        self.tally = tally

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.tally.steps += 1
        self.tally.terminated += result[2]
        self.tally.truncated += result[3]
        return result


def make_model(env: Any, **settings: Any) -> DiscreteSAC:
    """Few updates, of a small network: what counts are the steps."""
    defaults = {"train_freq": 100, "batch_size": 32, "buffer_size": 10_000, "seed": 0}
    return DiscreteSAC("MlpPolicy", env, policy_kwargs={"net_arch": [16]}, device="cpu", **defaults | settings)


def make_opinionated_model() -> DiscreteSAC:
    """One whose logits are so far apart that only the masks keep it from the illegal actions it prefers."""
    model = make_model(Tally().make())
    with torch.no_grad():
        model.policy.actor.head.weight.mul_(30.0)
    return model


def steps_of_one(env: gym.Env, act: Callable[..., Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Observations `[1, 4]` and masks `[1, 16]` of a single maze in which a policy acts for ever."""
    observation, info = env.reset(seed=0)
    while True:
        yield observation[None], info["action_mask"][None]
        observation, _, terminated, truncated, info = env.step(act(observation, action_masks=info["action_mask"])[0])
        if terminated or truncated:
            observation, info = env.reset()


def steps_of_eight(env: VecEnv, act: Callable[..., Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Observations `[8, 4]` and masks `[8, 16]` of eight mazes that start anew by themselves."""
    env.seed(0)
    observations, masks = env.reset(), current_masks(env)
    while True:
        assert masks is not None
        np.testing.assert_array_equal(masks, env.env_method("action_masks"))  # of the states they are in by now
        yield observations, masks
        observations, _, dones, infos = env.step(act(observations, action_masks=masks)[0])
        masks = current_masks(env, infos, dones)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("form", FORMS)
def test_training_takes_no_illegal_action(form: str, seed: int) -> None:
    tally, evaluated = Tally(), Tally()
    model = make_model(FORMS[form](tally.make), learning_starts=QUARTER // 4, seed=seed)
    every = QUARTER // 2 // model.n_envs
    callback = EvalCallback(evaluated.make(), eval_freq=every, n_eval_episodes=20, verbose=0, warn=False)
    model.learn(QUARTER, callback)
    # The last round of 100 steps in each maze is finished.
    assert QUARTER <= tally.steps == model.num_timesteps < QUARTER + 800
    assert model._n_updates >= 20
    assert min(tally.terminated, tally.truncated) > 100
    assert evaluated.terminated + evaluated.truncated == 2 * 20


@pytest.mark.parametrize("deterministic", [False, True], ids=["stochastic", "deterministic"])
@pytest.mark.parametrize("form", FORMS)
def test_prediction_takes_no_illegal_action(form: str, deterministic: bool) -> None:
    model, tally = make_opinionated_model(), Tally()
    env = FORMS[form](tally.make)

    def act(observation: np.ndarray, action_masks: np.ndarray) -> Any:
        return model.predict(observation, deterministic=deterministic, action_masks=action_masks)

    if isinstance(env, gym.Env):
        walk = steps_of_one(env, act)
    else:
        walk = steps_of_eight(env if isinstance(env, VecEnv) else GymnasiumVecEnv(env), act)
    seen = []
    while tally.steps < HALF:
        seen.append(next(walk))
    assert tally.steps == HALF
    assert tally.terminated + tally.truncated > HALF // 50 - 8
    # Without masks, about every second of these actions would have been illegal.
    observations, masks = (np.concatenate(arrays) for arrays in zip(*seen, strict=True))
    freely, _ = model.policy.predict(observations, deterministic=deterministic)
    assert 1 - masks[np.arange(len(masks)), freely].mean() > SHARE_OF_ILLEGAL / 2


@pytest.mark.parametrize("deterministic", [False, True], ids=["stochastic", "deterministic"])
@pytest.mark.parametrize("form", FORMS)
def test_evaluation_takes_no_illegal_action(form: str, deterministic: bool) -> None:
    model, tally = make_opinionated_model(), Tally()
    env = FORMS[form](tally.make)
    steps = 0
    while steps < HALF:
        _, lengths = evaluate_policy(model, env, 100, deterministic, return_episode_rewards=True, warn=False)
        assert isinstance(lengths, list)
        steps += sum(lengths)
    assert tally.steps >= steps  # more where a maze went on while others finished their episodes
    assert tally.terminated + tally.truncated > HALF // 50 - 8


def test_the_tally_counts_the_steps_and_an_illegal_action_raises() -> None:
    """Else nothing above were shown."""
    tally = Tally()
    env = tally.make()
    _, info = env.reset(seed=0)
    assert isinstance(env.unwrapped, MaskedGrid)
    env.step(np.flatnonzero(info["action_mask"])[0])
    with pytest.raises(ValueError, match="is illegal at"):
        env.step(np.flatnonzero(~env.unwrapped.action_masks())[0])
    assert tally == Tally(steps=1)
