"""Masks of legal actions that DiscreteSAC is given, by an environment or in a call, and those it must refuse."""

from __future__ import annotations

import functools
import re
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.vec_env import DummyVecEnv

from gsrl import DiscreteSAC
from tests.common.models import OBSERVATIONS, OnlyTheMethod, Spaces, make_sac

# Arguments


def test_masks_that_nobody_hands_on_are_warned_of() -> None:
    env = gym.vector.SyncVectorEnv([OnlyTheMethod])
    model = DiscreteSAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0)
    with pytest.warns(UserWarning, match=r"put gsrl\.masking\.ActionMasker around each"), suppress(ValueError):
        model.learn(1)  # which takes an illegal action, or a legal one


def test_a_method_action_masks_is_enough() -> None:
    model = DiscreteSAC("MlpPolicy", OnlyTheMethod(), learning_starts=40, policy_kwargs={"net_arch": [8]}, seed=0)
    model.learn(120)
    assert model.masked
    mask = np.array([True, False, False, False])
    for deterministic in (False, True):
        actions, _ = model.predict(np.zeros((50, 2), np.float32), None, None, deterministic, np.tile(mask, (50, 1)))
        assert (actions == 0).all()
    with pytest.warns(UserWarning, match="predict was called without action_masks"):
        model.predict(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("action_space", "action_masks", "message"),
    [
        (
            spaces.Discrete(4),
            np.ones((2, 4), bool),
            "[4] or [1, 4] for Discrete(4) and this observation, but got [2, 4]",
        ),
        (spaces.Discrete(4), np.ones((0, 4), bool), "[1, 4] for Discrete(4) and this observation, but got [0, 4]"),
        (spaces.Discrete(4), np.ones(3, bool), "shape [*batch, 4] for Discrete(4), but got [3]"),
        (spaces.Discrete(4), np.ones((1, 5)), "shape [*batch, 4] for Discrete(4), but got [1, 5]"),
        (spaces.Discrete(4), np.full(4, 2), "be boolean, or 0 and 1, but got np.int64(2)"),
        (spaces.Discrete(4), np.full(4, 0.5), "be boolean, or 0 and 1, but got np.float64(0.5)"),
        (spaces.Discrete(4), ["yes"] * 4, "be boolean, or 0 and 1, but got np.str_('yes')"),
        (spaces.Discrete(4), np.zeros(4, bool), "leave every factor a legal choice, but got none for factor 0"),
        (spaces.MultiDiscrete([2, 3]), np.ones((2, 3), bool), "[*batch, 5] for MultiDiscrete([2 3]), but got [2, 3]"),
        (spaces.MultiDiscrete([2, 3]), np.ones((2, 5)), "[5] or [1, 5] for MultiDiscrete([2 3]) and this observation"),
        (spaces.MultiDiscrete([2, 3]), ([1, 1], [1, 1, 1]), "[*batch, 5] for MultiDiscrete([2 3]), but got unequal"),
        (spaces.MultiDiscrete([2, 3]), [1, 1, 0, 0, 0], "leave every factor a legal choice, but got none for factor 1"),
    ],
)
def test_masks_that_do_not_fit_the_observation(action_space: spaces.Space, action_masks: Any, message: str) -> None:
    model = make_sac(Spaces(action_space))
    with pytest.raises(ValueError, match=f"^action_masks must .*{re.escape(message)}"):
        model.predict(OBSERVATIONS[0], action_masks=action_masks)


@pytest.mark.parametrize("masks", [np.ones((2, 4)), np.ones((4, 4)), np.ones((3, 2, 4))])
def test_masks_that_do_not_fit_several_observations(masks: np.ndarray) -> None:
    message = re.escape(
        f"action_masks must have shape [4] or [3, 4] for Discrete(4) and this observation, but got {list(masks.shape)}"
    )
    model = make_sac(Spaces(spaces.Discrete(4)))
    with pytest.raises(ValueError, match=message):
        model.predict(OBSERVATIONS[:3], action_masks=masks)
    env = TransformObservation(
        Spaces(spaces.Discrete(4)), lambda it: {"it": it}, spaces.Dict(it=Spaces.observation_space)
    )
    in_dict = make_sac(env, policy="MultiInputPolicy")
    with pytest.raises(ValueError, match=message):
        in_dict.predict({"it": OBSERVATIONS[:3]}, action_masks=masks)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.float32])
def test_masks_for_one_observation_or_for_several(dtype: type) -> None:
    one, each = np.array([0, 0, 1, 0], dtype), np.eye(4, dtype=dtype)[[2, 0, 3]]
    model = make_sac(Spaces(spaces.Discrete(4)))
    for deterministic in (False, True):
        predict = functools.partial(model.predict, deterministic=deterministic)
        assert predict(OBSERVATIONS[0], action_masks=one)[0] == 2
        assert predict(OBSERVATIONS[0], action_masks=one[None])[0] == 2
        assert predict(OBSERVATIONS[:3], action_masks=one)[0].tolist() == [2, 2, 2]
        assert predict(OBSERVATIONS[:3], action_masks=each)[0].tolist() == [2, 0, 3]


class MaskedAtSteps(gym.Env):
    """Forgets the mask at the reset."""

    observation_space, action_space = OnlyTheMethod.observation_space, OnlyTheMethod.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, np.float32), 0.0, False, False, {"action_mask": np.ones(4, bool)}


def test_masks_that_a_reset_leaves_out_are_an_error() -> None:
    env = DummyVecEnv([MaskedAtSteps])
    with pytest.raises(ValueError, match="must give info\\['action_mask'\\] at every reset and step"):
        DiscreteSAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0).learn(20)
