"""Losses: hand-computed values, both signs, masks, and an independent implementation."""

from __future__ import annotations

import math
import sys
from itertools import product
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional as F

from gsrl import DiscreteSAC, FactoredCategorical, losses, make_estimator
from gsrl.algorithms.sac_loss import EntropyCoefficient
from gsrl.losses import (
    actor_loss,
    critic_loss,
    entropy_coefficient_loss,
    lambda_target,
    policy_traces,
    soft_target,
)
from gsrl.values import q_value
from tests.common.losses import FEATURES, K, double


class DummyEnv(gym.Env):
    """Only its spaces count."""

    observation_space = spaces.Box(-1.0, 1.0, (FEATURES,))
    action_space: spaces.Space = spaces.Discrete(K)


def policy_of(*probabilities: float) -> FactoredCategorical:
    """One state, one factor."""
    return FactoredCategorical(torch.tensor([[probabilities]], dtype=torch.float64).log())


# The target


def test_shapes_that_would_be_broadcast_are_found() -> None:
    if "tests.common.shapes" not in sys.modules:
        pytest.skip("make shapes holds functions to their annotations")
    column, row = torch.zeros(4, 1), torch.zeros(4)
    assert (column + row).shape == (4, 4)
    with pytest.raises(TypeError, match=r"checking the parameters of gsrl\.losses\.soft_target"):
        soft_target(column, row, row)
    with pytest.raises(TypeError, match=r"checking the parameters of gsrl\.losses\.actor_loss"):
        actor_loss(row, torch.zeros(4, 2), torch.zeros(1))
    with pytest.raises(ValueError, match="q_clip"):  # what a function refuses by itself
        critic_loss(torch.zeros(2, 4), row, q_clip=1.0)


def test_the_target() -> None:
    target = soft_target(double([1.0, 2.0, 3.0]), double([0.9, 0.0, 0.81]), double([10.0, 10.0, -1.0]))
    torch.testing.assert_close(target, double([10.0, 2.0, 3.0 - 0.81]))


def test_the_lambda_target_lies_between_the_value_and_what_happened() -> None:
    rewards, values = double([[1.0, 2.0, 4.0]]), double([[3.0, 5.0, 7.0]])
    discounts, traces = double([[0.9, 0.9, 0.9]]), double([[0.5, 0.25, 0.0]])
    last = 4.0 + 0.9 * 7.0
    second = 2.0 + 0.9 * (0.75 * 5.0 + 0.25 * last)
    expected = 1.0 + 0.9 * (0.5 * 3.0 + 0.5 * second)
    torch.testing.assert_close(lambda_target(rewards, discounts, values, traces), double([expected]))
    alone = lambda_target(rewards, discounts, values, torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(alone, double([1.0 + 0.9 * 3.0]))
    whole = lambda_target(rewards, discounts, values, double([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(whole, double([1.0 + 0.9 * 2.0 + 0.81 * 4.0 + 0.729 * 7.0]))
    ended = lambda_target(rewards, double([[0.9, 0.0, 0.9]]), values, double([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(ended, double([1.0 + 0.9 * 2.0]))


def test_the_lambda_target_is_right_where_the_policy_acted() -> None:
    # Whole windows of the policy's own actions have its values as their mean.
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(2, 2, generator=generator, dtype=torch.float64)  # of state and action
    succession = torch.rand(2, 2, 2, generator=generator, dtype=torch.float64)
    succession /= succession.sum(-1, keepdim=True)
    policy = double([[0.9, 0.1], [0.3, 0.7]])
    q = torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(400):
        q = rewards + 0.9 * succession @ (policy * q).sum(-1)
    values = (policy * q).sum(-1)
    for start, action in product(range(2), repeat=2):
        expected = double(0.0)
        for s1, a1, s2, a2, s3 in product(range(2), repeat=5):
            chance = succession[start, action, s1] * policy[s1, a1] * succession[s1, a1, s2]
            chance = chance * policy[s2, a2] * succession[s2, a2, s3]
            target = lambda_target(
                torch.stack([rewards[start, action], rewards[s1, a1], rewards[s2, a2]])[None],
                double([[0.9, 0.9, 0.9]]),
                torch.stack([values[s1], values[s2], values[s3]])[None],
                double([[1.0, 1.0, 0.0]]),
            )
            expected = expected + chance * target.squeeze()
        torch.testing.assert_close(expected, q[start, action])


def test_traces_are_whole_for_what_the_policy_takes_as_often_as_chance() -> None:
    probs = double([[[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]]])
    mask = torch.tensor([[[True, True, True], [True, True, False]]])
    policy = FactoredCategorical(probs.log().masked_fill(~mask, 0.0), mask)
    for choices, expected in (((0, 0), 1.0), ((1, 1), 0.6), ((2, 0), 0.3)):
        taken = F.one_hot(torch.tensor([choices]), 3).double()
        torch.testing.assert_close(policy_traces(policy, taken), double([expected]))


# The critic's loss


def test_the_critic_loss_is_half_the_squared_error_summed_over_critics() -> None:
    q = double([[1.0, 2.0], [0.0, 5.0]])
    target = double([2.0, 4.0])
    # Critic 1: (1 + 4) / 2; critic 2: (4 + 1) / 2; half of both.
    assert critic_loss(q, target).item() == pytest.approx(2.5)


def test_the_target_of_the_critics_receives_no_gradient() -> None:
    q, target = double([[1.0, 2.0]]).requires_grad_(), double([3.0, 5.0]).requires_grad_()
    critic_loss(q, target).backward()
    assert target.grad is None
    assert q.grad is not None
    torch.testing.assert_close(q.grad, double([[-1.0, -1.5]]))  # (q - y) / B


def test_clipping_by_the_target_network() -> None:
    # By columns: moved towards the target beyond the clip; within the clip; away from the target beyond the clip.
    q = double([[3.0, 1.5, -3.0]]).requires_grad_()
    old, target = double([[1.0, 1.0, 1.0]]), double([3.0, 3.0, 3.0])
    # max(0, (2 - 3)^2) = 1; (1.5 - 3)^2 = 2.25 both; max(36, (0 - 3)^2) = 36.
    loss = critic_loss(q, target, q_target=old, q_clip=1.0)
    assert loss.item() == pytest.approx(0.5 * (1.0 + 2.25 + 36.0) / 3)
    loss.backward()
    # Where the clipped error is the larger one, the loss is flat.
    torch.testing.assert_close(q.grad, double([[0.0, -0.5, -2.0]]))


def test_clipping_needs_the_target_network() -> None:
    with pytest.raises(ValueError, match="q_clip needs q_target"):
        critic_loss(torch.zeros(1, 1), torch.zeros(1), q_clip=1.0)


# The actor's loss


def test_the_actor_loss_is_a_mean_over_the_batch() -> None:
    expected_q, entropy = double([1.0, 3.0]).requires_grad_(), double([[0.5], [0.1]]).requires_grad_()
    ent_coef = double([0.2]).requires_grad_()
    loss = actor_loss(expected_q, entropy, ent_coef)
    assert loss.item() == pytest.approx(-(1.0 + 0.1 + 3.0 + 0.02) / 2)
    loss.backward()
    assert expected_q.grad is not None
    assert entropy.grad is not None
    assert expected_q.grad.tolist() == [-0.5, -0.5]
    torch.testing.assert_close(entropy.grad, double([[-0.1], [-0.1]]))
    assert ent_coef.grad is None


def test_the_actor_loss_weighs_each_factor_by_its_own_coefficient() -> None:
    entropy = double([[0.5, 0.2, 0.0], [0.1, 0.4, 1.0]]).requires_grad_()
    ent_coef = double([0.2, 1.0, 0.5]).requires_grad_()
    loss = actor_loss(double([1.0, 3.0]), entropy, ent_coef)
    # 1 + 0.1 + 0.2 + 0, and 3 + 0.02 + 0.4 + 0.5.
    assert loss.item() == pytest.approx(-(1.3 + 3.92) / 2)
    loss.backward()
    torch.testing.assert_close(entropy.grad, double([[-0.1, -0.5, -0.25]] * 2))
    assert ent_coef.grad is None


def test_the_actor_loss_does_not_shrink_with_the_number_of_actions() -> None:
    # Each action twice, each with half the probability: the same expectation, the same entropy but for log 2.
    def loss(probabilities: list[float], values: list[float]) -> float:
        policy = policy_of(*probabilities)
        expected_q = make_estimator("exact").expectation(policy, lambda D: q_value(double([[values]]), D))
        return actor_loss(expected_q, policy.factor_entropy(), double([0.4])).item()

    once = loss([0.7, 0.3], [1.0, 2.0])
    assert once == pytest.approx(-(0.7 + 0.6) - 0.4 * -(0.7 * math.log(0.7) + 0.3 * math.log(0.3)))
    assert loss([0.35, 0.35, 0.15, 0.15], [1.0, 1.0, 2.0, 2.0]) == pytest.approx(once - 0.4 * math.log(2))


# The entropy coefficient


@pytest.mark.parametrize(("entropy", "direction"), [(0.2, -1.0), (0.9, 1.0)])
def test_the_coefficient_rises_where_the_entropy_is_below_its_target(entropy: float, direction: float) -> None:
    log_ent_coef = double([math.log(0.5)]).requires_grad_()
    entropies = double([[entropy], [entropy]]).requires_grad_()
    loss = entropy_coefficient_loss(log_ent_coef, entropies, double([0.7]))
    assert loss.item() == pytest.approx(math.log(0.5) * (entropy - 0.7))
    loss.backward()
    assert log_ent_coef.grad is not None
    assert log_ent_coef.grad.item() == pytest.approx(entropy - 0.7)
    assert log_ent_coef.grad.sign().item() == direction  # descent goes the other way
    assert entropies.grad is None


@pytest.mark.parametrize("n", [1, 3])
def test_the_gradient_of_the_coefficient_does_not_depend_on_the_number_of_actions(n: int) -> None:
    for choices in (2, 4, 16):
        log_ent_coef = torch.zeros(n, requires_grad=True)
        entropy = FactoredCategorical(torch.zeros(8, n, choices)).factor_entropy()
        entropy_coefficient_loss(log_ent_coef, entropy, torch.full((n,), math.log(choices) - 0.5)).backward()
        assert log_ent_coef.grad is not None
        assert log_ent_coef.grad.tolist() == pytest.approx([0.5] * n, abs=1e-6)


def test_each_factor_has_a_coefficient_and_a_target() -> None:
    log_ent_coef = double([0.5, 1.0, 2.0]).log().requires_grad_()
    entropies = double([[0.2, 0.9, 0.5], [0.4, 0.7, 0.5]])
    # Means over the batch: 0.3 - 0.7, 0.8 - 0.3, 0.5 - 0.5.
    loss = entropy_coefficient_loss(log_ent_coef, entropies, double([0.7, 0.3, 0.5]))
    assert loss.item() == pytest.approx(-0.4 * math.log(0.5) + 0.5 * math.log(1.0))
    loss.backward()
    torch.testing.assert_close(log_ent_coef.grad, double([-0.4, 0.5, 0.0]))


def test_a_target_for_each_state() -> None:
    log_ent_coef = double([2.0, 1.0]).requires_grad_()
    entropies, targets = double([[0.5, 0.3], [0.5, 0.3]]), double([[0.1, 0.3], [0.6, 0.5]])
    loss = entropy_coefficient_loss(log_ent_coef, entropies, targets)
    assert loss.item() == pytest.approx((2.0 * (0.4 - 0.1) + 1.0 * (0.0 - 0.2)) / 2)
    loss.backward()
    torch.testing.assert_close(log_ent_coef.grad, double([0.15, -0.1]))


def make_model(action_space: spaces.Space, **settings: Any) -> DiscreteSAC:
    env = DummyEnv()
    env.action_space = action_space
    return DiscreteSAC("MlpPolicy", env, policy_kwargs={"net_arch": [4]}, device="cpu", **settings)


SIZES = [
    (spaces.Discrete(2), [2]),
    (spaces.Discrete(3), [3]),
    (spaces.Discrete(18), [18]),
    (spaces.MultiDiscrete([2, 3, 5]), [2, 3, 5]),
    (spaces.MultiDiscrete([4, 1]), [4, 1]),
    (spaces.MultiBinary(3), [2, 2, 2]),
]


@pytest.mark.parametrize(("action_space", "sizes"), SIZES, ids=str)
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.98])
def test_the_target_entropy_is_a_share_of_the_largest(
    action_space: spaces.Space, sizes: list[int], ratio: float
) -> None:
    target = make_model(action_space, target_entropy_ratio=ratio)._target_entropy
    assert target.dtype == torch.float32
    assert target.tolist() == pytest.approx([ratio * math.log(size) for size in sizes])
    assert 0.0 < target.sum().item() < math.log(math.prod(sizes))


def test_a_target_entropy_in_nats_is_shared_out_by_largest_entropies() -> None:
    assert make_model(spaces.Discrete(3), target_entropy=0.123)._target_entropy.tolist() == pytest.approx([0.123])
    target = make_model(spaces.MultiDiscrete([2, 8, 4, 1]), target_entropy=0.6)._target_entropy
    assert target.tolist() == pytest.approx([0.1, 0.3, 0.2, 0.0])  # 1, 3, 2 and 0 bits at most
    # Nothing to share out, and no NaN.
    assert make_model(spaces.MultiDiscrete([1, 1]), target_entropy=0.0)._target_entropy.tolist() == [0.0, 0.0]


def test_a_learned_coefficient_is_one_parameter() -> None:
    coefficient = EntropyCoefficient(0.5)
    assert coefficient.learned
    assert [name for name, _ in coefficient.named_parameters()] == ["log_value"]
    assert coefficient().tolist() == pytest.approx([0.5])
    assert not coefficient().requires_grad


@pytest.mark.parametrize("learned", [True, False])
def test_a_coefficient_for_each_factor(learned: bool) -> None:
    coefficient = EntropyCoefficient(0.5, learned=learned, n=3)
    assert coefficient().tolist() == pytest.approx([0.5, 0.5, 0.5])
    with torch.no_grad():
        coefficient.log_value[1] = math.log(0.25)
    assert coefficient().tolist() == pytest.approx([0.5, 0.25, 0.5])


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_fixed_coefficient_is_a_buffer(value: float) -> None:
    coefficient = EntropyCoefficient(value, learned=False)
    assert not coefficient.learned
    assert list(coefficient.parameters()) == []
    assert list(coefficient.state_dict()) == ["log_value"]
    assert coefficient().tolist() == pytest.approx([value])


@pytest.mark.parametrize(("value", "learned"), [(0.0, True), (-1.0, True), (-1.0, False), (math.nan, True)])
def test_coefficients_out_of_range(value: float, learned: bool) -> None:
    with pytest.raises(ValueError, match=f"must be positive .* but got {value}"):
        EntropyCoefficient(value, learned=learned)


@pytest.mark.parametrize("name", ["EntropyCoefficient", "PolicyBatch", "ReinforceLoss", "SACLoss", "ValueLoss"])
def test_modules_that_have_moved_warn(name: str) -> None:
    module = "sac_loss" if name in ("EntropyCoefficient", "SACLoss") else "reinforce_loss"
    with pytest.warns(DeprecationWarning, match=rf"gsrl\.losses\.{name} is now gsrl\.algorithms\.{module}\.{name}"):
        moved = getattr(losses, name)
    assert moved.__module__ == f"gsrl.algorithms.{module}"
    with pytest.raises(AttributeError, match="has no attribute 'Loss'"):
        _ = losses.Loss
