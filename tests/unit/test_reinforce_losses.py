"""Losses of REINFORCE: hand-computed returns, advantages and baselines; the surrogates; the noise of a taken action."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from gsrl import FactoredCategorical
from gsrl.algorithms.reinforce import Control
from gsrl.algorithms.reinforce_loss import PolicyBatch, ReinforceLoss, ValueLoss, _noise_of
from gsrl.estimators import RLOO
from gsrl.heads import ActionHead
from gsrl.learning import Learner
from gsrl.losses import discounted_sums, gae, leave_one_out
from gsrl.relaxations import gumbel_noise
from gsrl.replay import Rollout


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Head(nn.Module):
    """An actor that is a head: observations are features."""

    def __init__(self, action_space: spaces.Space, features: int = 2) -> None:
        super().__init__()
        self.head = ActionHead(features, action_space)

    def forward(self, observations: Tensor, mask: Tensor | None = None) -> FactoredCategorical:
        return self.head(observations, mask)


# Returns and advantages


def test_returns_to_go() -> None:
    rewards = double([[1.0, 2.0, 3.0, 4.0], [5.0, 0.0, 0.0, 0.0]])  # the second episode has one step
    expected = double([[1 + 0.5 * (2 + 0.5 * (3 + 0.5 * 4)), 2 + 0.5 * (3 + 0.5 * 4), 5.0, 4.0], [5.0, 0, 0, 0]])
    torch.testing.assert_close(discounted_sums(rewards, 0.5), expected)
    torch.testing.assert_close(discounted_sums(rewards, 1.0)[0], double([10.0, 9.0, 7.0, 4.0]))
    torch.testing.assert_close(discounted_sums(rewards, 0.0), rewards)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 500])
def test_sums_of_any_length_are_those_of_the_recursion(length: int) -> None:
    terms = torch.randn(3, length, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    expected = torch.zeros_like(terms)
    running = torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(length)):
        running = terms[:, t] + 0.97 * running
        expected[:, t] = running
    torch.testing.assert_close(discounted_sums(terms, 0.97), expected)


def test_advantages_of_an_episode_that_terminates() -> None:
    rewards, values = double([[1.0, 2.0]]), double([[10.0, 20.0]])
    next_values = double([[20.0, 0.0]])
    deltas = [1 + 0.5 * 20 - 10, 2 + 0 - 20]  # 1, -18
    for gae_lambda in (0.0, 0.8, 1.0):
        expected = double([[deltas[0] + 0.5 * gae_lambda * deltas[1], deltas[1]]])
        torch.testing.assert_close(gae(rewards, values, next_values, 0.5, gae_lambda), expected)
    # Lambda = 1: the return-to-go minus the value.
    torch.testing.assert_close(gae(rewards, values, next_values, 0.5, 1.0), double([[2.0 - 10.0, 2.0 - 20.0]]))


def test_advantages_of_an_episode_that_is_truncated() -> None:
    rewards, values, next_values = double([[1.0, 2.0]]), double([[10.0, 20.0]]), double([[20.0, 40.0]])
    expected = double([[1 + 0.5 * 2 + 0.25 * 40 - 10, 2 + 0.5 * 40 - 20]])
    torch.testing.assert_close(gae(rewards, values, next_values, 0.5, 1.0), expected)


def test_what_comes_after_an_episode_stays_zero() -> None:
    rewards, values = double([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), double([[3.0, 0.0, 0.0], [3.0, 3.0, 3.0]])
    next_values = double([[7.0, 0.0, 0.0], [3.0, 3.0, 0.0]])
    advantages = gae(rewards, values, next_values, 0.9, 0.9)
    torch.testing.assert_close(advantages[0], double([1 + 0.9 * 7 - 3, 0.0, 0.0]))


# Leave one out


def test_the_mean_of_the_others_where_some_are_over() -> None:
    returns = double([[6.0, 3.0, 0.0], [2.0, 0.0, 0.0], [10.0, 5.0, 4.0]])
    expected = double([[6.0, 2.5, 2.0], [8.0, 4.0, 2.0], [4.0, 1.5, 0.0]])
    torch.testing.assert_close(leave_one_out(returns), expected)


def test_leave_one_out_is_the_estimator_rloo_with_episodes_for_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    returns = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    log_probs = torch.randn(4, 5, dtype=torch.float64, generator=generator).requires_grad_()
    (expected,) = torch.autograd.grad(RLOO(4).surrogate(-returns, log_probs).sum(), log_probs)
    torch.testing.assert_close(-(returns - leave_one_out(returns)) / 4, expected)


# Rollouts


def test_rollouts_are_padded_with_zeros() -> None:
    episode, time = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0, 1, 2, 0, 0, 1])
    observations = torch.zeros(6, 1)
    rollout = Rollout(observations, episode, time, episode, time, observations[:3], torch.zeros(3, dtype=torch.bool))
    values = torch.arange(1.0, 7.0)
    padded = rollout.padded(values)
    assert padded.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert torch.equal(padded[episode, time], values)


# The policy's loss


def test_the_gradient_of_the_policy_by_hand() -> None:
    loss = ReinforceLoss(Head(spaces.Discrete(2)))
    head = loss.actor.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, math.log(3.0)]))  # probabilities 1/4 and 3/4
    batch = PolicyBatch(torch.zeros(3, 2), torch.tensor([[0], [1], [1]]), torch.tensor([4.0, -2.0, 1.0]))
    value, metrics = loss(batch)
    (gradient,) = torch.autograd.grad(value, [head.bias])
    # d log p(0) = (3/4, -3/4), d log p(1) = (-1/4, 1/4); the loss is minus the mean.
    slope = (4.0 * 0.75 - 2.0 * -0.25 + 1.0 * -0.25) / 3
    torch.testing.assert_close(gradient, torch.tensor([-slope, slope]))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(metrics["entropy"], torch.full((3,), entropy))


def test_the_entropy_bonus_has_the_exact_gradient() -> None:
    torch.manual_seed(0)
    actor = Head(spaces.MultiDiscrete([2, 3]))
    observations = torch.randn(5, 2)
    batch = PolicyBatch(observations, torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5))
    gradient = torch.autograd.grad(ReinforceLoss(actor, ent_coef=0.3)(batch)[0], list(actor.parameters()))
    expected = torch.autograd.grad(-0.3 * actor(observations).entropy().mean(), list(actor.parameters()))
    torch.testing.assert_close(gradient, expected)


def test_illegal_choices_receive_nothing() -> None:
    actor = Head(spaces.Discrete(3))
    mask = torch.tensor([[[True, False, True]]]).expand(4, 1, 3)
    batch = PolicyBatch(torch.ones(4, 2), torch.tensor([[0], [2], [0], [2]]), torch.randn(4), mask)
    (gradient,) = torch.autograd.grad(ReinforceLoss(actor, ent_coef=0.1)(batch)[0], [actor.head.bias])
    assert gradient[1] == 0
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient.sum(), torch.zeros(()))


# The control variate


def test_the_noise_of_a_taken_action_makes_it_the_arg_max() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 2, 4, generator=generator)
    mask = torch.rand(20_000, 2, 4, generator=generator) < 0.7
    mask[..., 0] = True
    policy = FactoredCategorical(logits, mask)
    taken = policy.sample(generator=generator)
    noise = _noise_of(taken, policy.logits, gumbel_noise(logits.shape, generator=generator))
    assert noise.isfinite().all()
    assert torch.equal((policy.logits + noise).argmax(-1), taken.argmax(-1))
    # Averaged over the actions, it is Gumbel noise again: of mean .5772 and variance pi^2 / 6. Where a choice is
    # illegal there is none. The bounds are five standard errors, a failure rate of 6e-7 were the seed not fixed.
    legal = noise[mask].double()
    variance = math.pi**2 / 6
    assert abs(legal.mean().item() - 0.5772) < 5 * (variance / legal.numel()) ** 0.5
    assert abs(legal.var().item() - variance) < 5 * (4.4 * variance**2 / legal.numel()) ** 0.5
    assert (noise[~mask] == 0).all()


def test_a_control_starts_as_no_control() -> None:
    torch.manual_seed(0)
    actor, control = Head(spaces.MultiDiscrete([3, 2])), Control(2, 2, 3, [8])
    batch = PolicyBatch(torch.randn(6, 2), torch.tensor([[0, 1]] * 3 + [[2, 0]] * 3), torch.randn(6))
    noise = gumbel_noise((6, 2, 3), generator=torch.Generator().manual_seed(1))
    plain = torch.autograd.grad(ReinforceLoss(actor)(batch)[0], list(actor.parameters()))
    loss = ReinforceLoss(actor, control)
    relaxed = torch.autograd.grad(loss(batch._replace(features=batch.observations), noise)[0], list(actor.parameters()))
    torch.testing.assert_close(relaxed, plain)


def test_a_control_learns_to_make_the_variance_small() -> None:
    """Two actions in one state: there is a control with no variance at all."""
    torch.manual_seed(0)
    actor, control = Head(spaces.Discrete(2)).requires_grad_(False), Control(2, 1, 2, [16])
    learner = Learner(ReinforceLoss(actor, control))
    generator = torch.Generator().manual_seed(0)
    size = 256

    def draw() -> tuple[PolicyBatch, Tensor]:
        observations = torch.ones(size, 2)
        actions = actor(observations).sample(generator=generator).argmax(-1)
        advantages = 3.0 * actions[:, 0] - 1.0
        noise = gumbel_noise((size, 1, 2), generator=generator)
        return PolicyBatch(observations, actions, advantages, None, observations), noise

    def second_moment() -> float:
        """Of the estimate in the logits, row by row."""
        batch, noise = draw()
        logits = actor(batch.observations).logits.requires_grad_()
        loss = ReinforceLoss(lambda *_: FactoredCategorical(logits), control)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(loss(batch, noise)[0], logits)
        return (size * gradient).var(0).sum().item()

    before = second_moment()
    for _ in range(500):
        learner.update(*draw(), learning_rate=1e-2, tau=0.0)
    assert second_moment() < 0.2 * before


def test_a_control_needs_noise_and_features() -> None:
    loss = ReinforceLoss(Head(spaces.Discrete(2)), Control(2, 1, 2, [4]))
    batch = PolicyBatch(torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1))
    with pytest.raises(ValueError, match="needs noise and features"):
        loss(batch)


# The value network's loss


def test_the_loss_of_the_values() -> None:
    class Values(nn.Linear):
        def forward(self, observations: Tensor) -> Tensor:
            return super().forward(observations).squeeze(-1)

    loss = ValueLoss(Values(1, 1))
    with torch.no_grad():
        loss.critic.weight.fill_(2.0)
        loss.critic.bias.fill_(1.0)
    value, metrics = loss(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 9.0]))
    # Values 3 and 5: errors 2 and -4.
    assert value.item() == metrics["value_loss"].item() == pytest.approx(0.5 * (4 + 16) / 2)
    (gradient,) = torch.autograd.grad(value, [loss.critic.bias])
    assert gradient.item() == pytest.approx((2 - 4) / 2)
