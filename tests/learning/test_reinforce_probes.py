"""Reinforce on the probes: the values and policies it learns are those of closed forms.

Every training is deterministic, so that no test fails by chance; the tolerances hold for other seeds too.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import envs
from gsrl import Reinforce

GAMMA = 0.5
BASELINES = ("none", "running-mean", "value", "leave-one-out", "relax")


def train(probe: str, steps: int = 600, policy: str = "MlpPolicy", **settings: Any) -> Reinforce:
    """An agent after some hundred rollouts, at a learning rate that falls to 0."""
    defaults: dict[str, Any] = {
        "learning_rate": lambda remaining: 5e-2 * remaining,
        "gamma": GAMMA,
        "critic_updates": 3,
        "policy_kwargs": {"net_arch": [16]},
        "seed": 0,
        "device": "cpu",
    }
    return Reinforce(policy, gym.make(f"gsrl/Probe{probe}-v0"), **(defaults | settings)).learn(steps, log_interval=None)


@torch.no_grad()
def value(model: Reinforce, *observation: float) -> float:
    assert model.policy.critic is not None
    return model.policy.critic(torch.tensor([observation])).item()


@torch.no_grad()
def policy(model: Reinforce, observation: Any) -> Tensor:
    """Probabilities ``[K]``."""
    observations, _ = model.policy.obs_to_tensor(observation)
    return model.policy.actor(observations).probs[0, 0]


def vector(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


# Values: those of the policy, which in the end is the best one


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("OneStep", {(0.0,): 1.0}),
        ("Observation", {(-1.0,): -1.0, (1.0,): 1.0}),
        ("Action", {(0.0,): 1.0}),
        ("Discount", {(0.0,): GAMMA, (1.0,): 1.0}),
    ],
)
def test_values(probe: str, expected: dict[tuple[float, ...], float]) -> None:
    model = train(probe)
    for observation, best in expected.items():
        assert value(model, *observation) == pytest.approx(best, abs=0.1)


@pytest.mark.parametrize("gae_lambda", [1.0, 0.7])
@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("Truncation", {(0.0,): 1 / (1 - GAMMA)}),
        ("Delay", {(0.0, 0.0): GAMMA**2, (0.5, 1.0): GAMMA, (1.0, 1.0): 1.0}),
    ],
)
def test_values_with_generalised_advantages(
    probe: str, expected: dict[tuple[float, ...], float], gae_lambda: float
) -> None:
    model = train(probe, 900, gae_lambda=gae_lambda)
    for observation, best in expected.items():
        assert value(model, *observation) == pytest.approx(best, abs=0.1)


# Policies


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(
    ("probe", "best"),
    [
        ("Action", {(0.0,): 1}),
        ("ObservationAction", {(-1.0,): 0, (1.0,): 1}),
        ("Start", {(0.0,): 2}),
        ("Delay", {(0.0, 0.0): 1}),
    ],
)
def test_every_baseline_finds_the_best_actions(probe: str, best: dict[tuple[float, ...], int], baseline: Any) -> None:
    model = train(probe, baseline=baseline)
    for observation, action in best.items():
        assert policy(model, vector(*observation))[action] > 0.9


@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_normalised_advantages_and_clipped_gradients(normalize_advantage: bool) -> None:
    model = train("ObservationAction", normalize_advantage=normalize_advantage, max_grad_norm=0.5)
    assert policy(model, vector(-1.0))[0] > 0.9
    assert policy(model, vector(1.0))[1] > 0.9


def test_the_entropy_bonus_makes_the_policy_a_softmax() -> None:
    model = train("Action", 2000, ent_coef=0.5, n_episodes=20)
    torch.testing.assert_close(policy(model, vector(0.0)), torch.tensor([0.0, 2.0]).softmax(-1), atol=0.05, rtol=0)


def test_without_a_value_network_a_truncated_episode_is_worth_its_steps() -> None:
    model = train("Truncation", 40, baseline="none", gamma=0.9)
    assert model._metrics["return"][:2].tolist() == pytest.approx([1.9, 1.0])


# Other observations


def test_dict_observations() -> None:
    model = train("DictObservation", 2000, policy="MultiInputPolicy", n_episodes=20, ent_coef=0.1)
    for sign in (-1.0, 1.0):
        for switch in (0, 1):
            best = int((sign > 0) != bool(switch))
            assert policy(model, {"sign": vector(sign), "switch": np.int64(switch)})[best] > 0.9


@pytest.mark.parametrize("baseline", ["value", "relax"])
def test_images(baseline: Any) -> None:
    model = train(
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
