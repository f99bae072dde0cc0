"""Reinforce on the probes, in what it promises alone: normalised advantages, the entropy bonus, other observations.

Every training is deterministic, so that no test fails by chance; the tolerances hold for other seeds too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import envs
from tests.common.probes import policy, train_reinforce, vector


@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_normalised_advantages_and_clipped_gradients(normalize_advantage: bool) -> None:
    model = train_reinforce("ObservationAction", normalize_advantage=normalize_advantage, max_grad_norm=0.5)
    assert policy(model, vector(-1.0))[0] > 0.9
    assert policy(model, vector(1.0))[1] > 0.9


def test_the_entropy_bonus_makes_the_policy_a_softmax() -> None:
    model = train_reinforce("Action", 2000, ent_coef=0.5, n_episodes=20)
    torch.testing.assert_close(policy(model, vector(0.0)), torch.tensor([0.0, 2.0]).softmax(-1), atol=0.05, rtol=0)


def test_without_a_value_network_a_truncated_episode_is_worth_its_steps() -> None:
    model = train_reinforce("Truncation", 40, baseline="none", gamma=0.9)
    assert model._metrics["return"][:2].tolist() == pytest.approx([1.9, 1.0])


# Other observations


def test_dict_observations() -> None:
    model = train_reinforce("DictObservation", 2000, policy="MultiInputPolicy", n_episodes=20, ent_coef=0.1)
    for sign in (-1.0, 1.0):
        for switch in (0, 1):
            best = int((sign > 0) != bool(switch))
            assert policy(model, {"sign": vector(sign), "switch": np.int64(switch)})[best] > 0.9


@pytest.mark.parametrize("baseline", ["value", "relax"])
def test_images(baseline: Any) -> None:
    model = train_reinforce(
        "Image",
        400,
        policy="CnnPolicy",
        baseline=baseline,
        learning_rate=3e-3,
        critic_updates=1,
        n_episodes=16,
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 16}},
    )
    for sign in (-1, 1):
        env = envs.probes.Image()
        env.sign = sign
        assert policy(model, env.observe())[int(sign > 0)] > 0.9
