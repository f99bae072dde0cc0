"""Losses: hand-computed values, both signs, masks, and an independent implementation."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from gsrl import DiscreteSAC, FactoredCategorical, losses, make_estimator
from gsrl.algorithms.sac_loss import EntropyCoefficient, SACLoss
from gsrl.heads import ActionHead
from gsrl.losses import (
    actor_loss,
    critic_loss,
    entropy_coefficient_loss,
    lambda_target,
    policy_traces,
    soft_target,
)
from gsrl.relaxations import gumbel_noise
from gsrl.replay import ReplayBatch
from gsrl.spaces import OneHotCodec
from gsrl.values import ActionValues, ChoiceValues, MultilinearValues, NetworkValues, q_value

B, C, K, FEATURES = 5, 2, 3, 4
ALPHA = 0.3
TARGET_ENTROPY = torch.tensor([0.7], dtype=torch.float64)


class DummyEnv(gym.Env):
    """Only its spaces count."""

    observation_space = spaces.Box(-1.0, 1.0, (FEATURES,))
    action_space: spaces.Space = spaces.Discrete(K)


def policy_of(*probabilities: float) -> FactoredCategorical:
    """One state, one factor."""
    return FactoredCategorical(torch.tensor([[probabilities]], dtype=torch.float64).log())


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# The target


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
    for K in (2, 4, 16):
        log_ent_coef = torch.zeros(n, requires_grad=True)
        entropy = FactoredCategorical(torch.zeros(8, n, K)).factor_entropy()
        entropy_coefficient_loss(log_ent_coef, entropy, torch.full((n,), math.log(K) - 0.5)).backward()
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


# The loss of discrete soft actor-critic


class Choices(nn.Module):
    """Linear critics of one factor."""

    def __init__(self, codec: OneHotCodec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(C, FEATURES, codec.K))

    def forward(self, observations: Tensor) -> ChoiceValues:
        return ChoiceValues((observations @ self.weight).unsqueeze(-2))


class Pairs(nn.Module):
    """Multilinear critics with two ranks, linear in the observation."""

    def __init__(self, codec: OneHotCodec) -> None:
        super().__init__()
        self.state = nn.Parameter(torch.empty(C, FEATURES))
        self.choices = nn.Parameter(torch.empty(C, FEATURES, codec.n, codec.K))
        self.pairs = nn.Parameter(torch.empty(C, FEATURES, codec.n, codec.K, 2))

    def forward(self, observations: Tensor) -> MultilinearValues:
        state, choices, pairs = (
            torch.einsum("bf,cf...->cb...", observations, weight) for weight in (self.state, self.choices, self.pairs)
        )
        return MultilinearValues(state, choices, pairs)


class Hidden(nn.Module):
    """Critics with the matrix as an input."""

    def __init__(self, codec: OneHotCodec) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.empty(C, 1, FEATURES + codec.n * codec.K, 6))
        self.outer = nn.Parameter(torch.empty(C, 1, 6, 1))

    def forward(self, observations: Tensor) -> NetworkValues:
        def evaluate(inner: Tensor, outer: Tensor, matrices: Tensor) -> Tensor:
            inputs = torch.cat([observations.expand(matrices.shape[0], *observations.shape), matrices], -1)
            return ((inputs @ inner).tanh() @ outer).squeeze(-1)

        return NetworkValues(
            lambda matrices: evaluate(self.inner, self.outer, matrices),
            lambda matrices: evaluate(self.inner.detach(), self.outer.detach(), matrices),
        )


CRITICS = {"choices": Choices, "multilinear": Pairs, "network": Hidden}
ONE_FACTOR = spaces.Discrete(K)
FACTORS = spaces.MultiDiscrete([2, 3, 3])
FORMS = [("choices", ONE_FACTOR), ("multilinear", FACTORS), ("network", FACTORS)]


def make_loss(
    seed: int = 0,
    estimator: str = "exact",
    learned: bool = True,
    form: str = "choices",
    space: spaces.Space = ONE_FACTOR,
    **settings: Any,
) -> SACLoss:
    generator = torch.Generator().manual_seed(seed)
    actor = ActionHead(FEATURES, space)
    critic = CRITICS[form](actor.codec)
    target = copy.deepcopy(critic).requires_grad_(False)
    for parameter in (*actor.parameters(), *critic.parameters(), *target.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    coefficient = EntropyCoefficient(ALPHA, learned=learned, n=actor.codec.n)
    coefficient.log_value.data += torch.arange(actor.codec.n)  # no two alike
    return SACLoss(actor, critic, target, coefficient, make_estimator(estimator), **settings).double()


def make_masks(actions: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the choices, and those taken."""
    mask = torch.rand(*actions.shape, K, generator=generator) < 0.5
    return mask.scatter(-1, actions.unsqueeze(-1), True)


def make_batch(seed: int = 0, space: spaces.Space = ONE_FACTOR, masked: bool = False) -> ReplayBatch:
    generator = torch.Generator().manual_seed(100 + seed)
    observations, next_observations = torch.randn(2, B, FEATURES, generator=generator, dtype=torch.float64)
    sizes = torch.tensor(OneHotCodec(space).sizes)
    actions, next_actions = torch.randint(100, (2, B, len(sizes)), generator=generator) % sizes
    rewards = torch.randn(B, generator=generator, dtype=torch.float64)
    masks = (make_masks(actions, generator), make_masks(next_actions, generator)) if masked else ()
    discounts = double([0.9, 0.9, 0.0, 0.9, 0.81])
    return ReplayBatch(observations, actions, rewards, next_observations, discounts, *masks)


def make_noise(loss: SACLoss, batch: ReplayBatch) -> tuple[Any, Tensor]:
    """Noise of the estimator, and of the critics' target."""
    generator = torch.Generator().manual_seed(0)
    policy = loss.actor(batch.observations, batch.action_mask)
    return loss.estimator.draw_noise(policy, generator), gumbel_noise(policy.logits.shape, generator=generator)


def textbook(
    loss: SACLoss, batch: ReplayBatch, critics: str, entropy_in_target: bool, q_clip: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of critic, actor and coefficient, one state and one action at a time."""

    def policy(observation: Tensor) -> Categorical:
        return Categorical(logits=observation @ loss.actor.weight.T + loss.actor.bias)

    def combined(pair: list[Tensor]) -> Tensor:
        return torch.minimum(*pair) if critics == "min" else (pair[0] + pair[1]) / 2

    critic_losses, actor_losses, coefficient_losses = [], [], []
    for o, (a,), r, next_o, discount in zip(*batch[:5], strict=True):
        with torch.no_grad():
            next_policy = policy(next_o)
            target = r
            for next_a in range(K):
                value = combined([next_o @ weight[:, next_a] for weight in loss.critic_target.weight])
                log_prob = next_policy.log_prob(torch.tensor(next_a))
                target = target + discount * log_prob.exp() * (value - entropy_in_target * ALPHA * log_prob)
        for weight, old_weight in zip(loss.critic.weight, loss.critic_target.weight, strict=True):
            q, old = (o @ weight)[a], (o @ old_weight)[a]
            error = (q - target) ** 2
            if q_clip is not None:
                error = max(error, (old + (q - old).clamp(-q_clip, q_clip) - target) ** 2)
            critic_losses.append(error / 2)
        here = policy(o)
        actor_losses.append(-ALPHA * here.entropy())
        for action in range(K):
            value = combined([o @ weight[:, action] for weight in loss.critic.weight]).detach()
            actor_losses.append(-here.probs[action] * value)
        (log_alpha,) = loss.entropy_coefficient.log_value
        coefficient_losses.append(log_alpha * (here.entropy().detach() - TARGET_ENTROPY.item()))
    return sum(critic_losses) / B, sum(actor_losses) / B, sum(coefficient_losses) / B


@pytest.mark.parametrize("critics", ["min", "mean"])
@pytest.mark.parametrize(("entropy_in_target", "q_clip"), [(True, None), (False, None), (True, 0.5)])
def test_values_and_gradients_are_those_of_the_textbook(
    critics: str, entropy_in_target: bool, q_clip: float | None
) -> None:
    loss = make_loss(critics=critics, entropy_in_target=entropy_in_target, q_clip=q_clip)
    batch = make_batch()
    total, metrics = loss(batch, (), TARGET_ENTROPY)
    expected = textbook(loss, batch, critics, entropy_in_target, q_clip)

    tolerance = {"atol": 1e-6, "rtol": 1e-6}
    for name, value in zip(("critic_loss", "actor_loss", "ent_coef_loss"), expected, strict=True):
        torch.testing.assert_close(metrics[name], value.detach(), **tolerance)
    trained = [p for p in loss.parameters() if p.requires_grad]
    assert len(trained) == 4
    gradients, expected_gradients = (torch.autograd.grad(value, trained) for value in (total, sum(expected)))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, **tolerance)


def test_a_fixed_coefficient_leaves_its_loss_out() -> None:
    loss = make_loss(learned=False)
    total, metrics = loss(make_batch(), (), TARGET_ENTROPY)
    assert "ent_coef_loss" not in metrics
    torch.testing.assert_close(total.detach(), metrics["critic_loss"] + metrics["actor_loss"])


def test_no_gradient_reaches_another_part() -> None:
    """Each part's gradient is that of its own term, written out; the target network has none."""
    batch, loss = make_batch(), make_loss(learned=False)
    loss.critic_target.weight.requires_grad_()
    total, metrics = loss(batch, (), TARGET_ENTROPY)

    values = (batch.observations @ loss.critic.weight).unsqueeze(-2)
    policy = loss.actor(batch.observations)
    expected_q = (policy.probs * values.detach().amin(0)).sum((-2, -1))
    actor_term = -(expected_q + ALPHA * policy.entropy()).mean()
    q = values.gather(-1, batch.actions.expand(C, B, 1).unsqueeze(-1)).flatten(1)
    critic_term = critic_loss(q, metrics["target"])
    for part, term in ((loss.actor, actor_term), (loss.critic, critic_term)):
        parameters = list(part.parameters())
        gradients = torch.autograd.grad(total, parameters, retain_graph=True)
        for gradient, expected in zip(gradients, torch.autograd.grad(term, parameters), strict=True):
            torch.testing.assert_close(gradient, expected)
    assert torch.autograd.grad(total, [loss.critic_target.weight], allow_unused=True) == (None,)


def check_that_no_gradient_crosses(loss: SACLoss, batch: ReplayBatch) -> None:
    """Freezing all parts but one leaves the gradient of that one as it was."""
    noise, next_noise = make_noise(loss, batch)
    parts = {"actor": loss.actor, "critic": loss.critic, "entropy_coefficient": loss.entropy_coefficient}
    total, metrics = loss(batch, noise, TARGET_ENTROPY, next_noise)
    whole = {
        name: torch.autograd.grad(total, list(part.parameters()), retain_graph=True) for name, part in parts.items()
    }
    assert not any(value.requires_grad for value in metrics.values())

    for name, part in parts.items():
        for other in parts.values():
            other.requires_grad_(other is part)
        alone = torch.autograd.grad(loss(batch, noise, TARGET_ENTROPY, next_noise)[0], list(part.parameters()))
        for gradient, expected in zip(alone, whole[name], strict=True):
            torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("estimator", ["exact", "st-gumbel", "straight-through", "reinforce", "rloo"])
def test_no_gradient_crosses(estimator: str) -> None:
    check_that_no_gradient_crosses(make_loss(estimator=estimator), make_batch())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("form", "space"), FORMS[1:])
@pytest.mark.parametrize("estimator", ["exact", "st-gumbel", "rloo"])
def test_no_gradient_crosses_between_factors_and_their_critics(
    estimator: str, form: str, space: spaces.Space, masked: bool
) -> None:
    loss = make_loss(estimator=estimator, form=form, space=space, q_clip=0.5)
    check_that_no_gradient_crosses(loss, make_batch(space=space, masked=masked))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("form", "space"), FORMS)
def test_duplicating_the_batch_changes_nothing(form: str, space: spaces.Space, masked: bool) -> None:
    loss, batch = make_loss(form=form, space=space), make_batch(space=space, masked=masked)
    twice = ReplayBatch(*(None if entry is None else torch.cat([entry, entry]) for entry in batch))
    _, next_noise = make_noise(loss, batch)
    once, _ = loss(batch, (), TARGET_ENTROPY, next_noise)
    again, _ = loss(twice, (), TARGET_ENTROPY, torch.cat([next_noise, next_noise]))
    torch.testing.assert_close(once, again)


def check_members(losses: list[SACLoss], batches: list[ReplayBatch], noises: list[Any], next_noises: Tensor) -> None:
    """Losses, metrics and gradients of all members in one call are those of a loop."""

    def function(
        parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: ReplayBatch, noise: Any, next_noise: Tensor
    ) -> Any:
        return functional_call(losses[0], (parameters, buffers), (batch, noise, TARGET_ENTROPY, next_noise))

    parameters, buffers = stack_module_state(losses)
    batch = ReplayBatch(
        *(None if entries[0] is None else torch.stack(entries) for entries in zip(*batches, strict=True))
    )
    noise = () if noises[0] == () else torch.stack(noises)
    batch_dims = ReplayBatch(*(None if entry is None else 0 for entry in batch))
    in_dims = (0, 0, batch_dims, None if noise == () else 0, 0)
    arguments = (parameters, buffers, batch, noise, next_noises)
    totals, metrics = vmap(function, in_dims=in_dims)(*arguments)
    gradients, _ = vmap(grad(function, has_aux=True), in_dims=in_dims)(*arguments)

    for member, loss in enumerate(losses):
        total, alone = loss(batches[member], noises[member], TARGET_ENTROPY, next_noises[member])
        torch.testing.assert_close(totals[member], total)
        for name, value in alone.items():
            torch.testing.assert_close(metrics[name][member], value)
        named = {name: p for name, p in loss.named_parameters() if p.requires_grad}
        for name, gradient in zip(named, torch.autograd.grad(total, list(named.values())), strict=True):
            torch.testing.assert_close(gradients[name][member], gradient)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("form", "space"), FORMS)
@pytest.mark.parametrize("estimator", ["exact", "st-gumbel", "rloo"])
@pytest.mark.parametrize("learned", [True, False])
def test_members_in_one_call_equal_a_loop(
    estimator: str, learned: bool, form: str, space: spaces.Space, masked: bool
) -> None:
    losses = [make_loss(seed, estimator, learned, form, space) for seed in range(2)]
    batches = [make_batch(seed, space, masked) for seed in range(2)]
    generator = torch.Generator().manual_seed(0)
    policy = losses[0].actor(batches[0].observations)
    noises = [losses[0].estimator.draw_noise(policy, generator) for _ in losses]
    check_members(losses, batches, noises, gumbel_noise((2, *policy.logits.shape), generator=generator))


# Several factors, and masks


def factored_textbook(
    loss: SACLoss, batch: ReplayBatch, critics: str, entropy_in_target: bool, target_entropy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of critic, actor and coefficients, one state, one action and one pair of choices at a time."""

    def policy(observation: Tensor, mask: Tensor) -> list[dict[int, Tensor]]:
        """Log-probability of each legal choice, of each factor."""
        logits = (observation @ loss.actor.weight.T + loss.actor.bias).view(3, K)
        rows = []
        for row, legal_row in zip(logits, mask, strict=True):
            legal = [k for k in range(K) if legal_row[k]]
            rows.append(dict(zip(legal, Categorical(logits=row[legal]).logits, strict=True)))
        return rows

    def entropies(rows: list[dict[int, Tensor]]) -> list[Tensor]:
        return [-sum(log_prob.exp() * log_prob for log_prob in row.values()) for row in rows]  # type: ignore[misc]

    def configurations(rows: list[dict[int, Tensor]]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Every legal action with its probability."""
        for action in product(*rows):
            yield action, sum(row[a] for row, a in zip(rows, action, strict=True)).exp()  # type: ignore[union-attr]

    def q(critic: nn.Module, c: int, observation: Tensor, action: tuple[int, ...]) -> Tensor:
        value = observation @ critic.state[c]
        for i, a in enumerate(action):
            value = value + observation @ critic.choices[c, :, i, a]
        for i, j in combinations(range(3), 2):
            left, right = (observation @ critic.pairs[c, :, at, action[at]] for at in (i, j))
            value = value - left[0] * right[0] + left[1] * right[1]
        return value

    def combined(pair: list[Tensor]) -> Tensor:
        return torch.minimum(*pair) if critics == "min" else (pair[0] + pair[1]) / 2

    has_choice = loss.actor.codec.mask
    alphas = loss.entropy_coefficient.log_value.detach().exp()
    critic_losses, actor_losses, coefficient_losses = [], [], []
    for b, (o, action, r, next_o, discount) in enumerate(zip(*batch[:5], strict=True)):
        mask, next_mask = (
            has_choice if masks is None else masks[b] & has_choice
            for masks in (batch.action_mask, batch.next_action_mask)
        )
        with torch.no_grad():
            rows = policy(next_o, next_mask)
            value = combined(
                [sum(p * q(loss.critic_target, c, next_o, a) for a, p in configurations(rows)) for c in range(C)]  # type: ignore[misc]
            )
            if entropy_in_target:
                value = value + sum(alpha * h for alpha, h in zip(alphas, entropies(rows), strict=True))
            target = r + discount * value
        for c in range(C):
            critic_losses.append((q(loss.critic, c, o, tuple(action.tolist())) - target) ** 2 / 2)
        rows = policy(o, mask)
        for a, p in configurations(rows):
            actor_losses.append(-p * combined([q(loss.critic, c, o, a) for c in range(C)]).detach())
        for i, h in enumerate(entropies(rows)):
            actor_losses.append(-alphas[i] * h)
            goal = target_entropy[i] if target_entropy.dim() == 1 else target_entropy[b, i]
            coefficient_losses.append(loss.entropy_coefficient.log_value[i] * (h.detach() - goal))
    return sum(critic_losses) / B, sum(actor_losses) / B, sum(coefficient_losses) / B  # type: ignore[return-value]


@pytest.mark.parametrize("critics", ["min", "mean"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("entropy_in_target", "target_of_each_state"), [(True, False), (False, True)])
def test_several_factors_are_those_of_the_textbook(
    critics: str, masked: bool, entropy_in_target: bool, target_of_each_state: bool
) -> None:
    loss = make_loss(form="multilinear", space=FACTORS, critics=critics, entropy_in_target=entropy_in_target)
    batch = make_batch(space=FACTORS, masked=masked)
    generator = torch.Generator().manual_seed(7)
    target_entropy = torch.rand((B, 3) if target_of_each_state else (3,), generator=generator, dtype=torch.float64)
    total, metrics = loss(batch, (), target_entropy)
    expected = factored_textbook(loss, batch, critics, entropy_in_target, target_entropy)

    for name, value in zip(("critic_loss", "actor_loss", "ent_coef_loss"), expected, strict=True):
        torch.testing.assert_close(metrics[name], value.detach())
    trained = [p for p in loss.parameters() if p.requires_grad]
    assert len(trained) == 6
    gradients, expected_gradients = (torch.autograd.grad(value, trained) for value in (total, sum(expected)))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("estimator", ["exact", "st-gumbel", "straight-through", "gumbel-softmax", "reinforce", "rloo"])
@pytest.mark.parametrize(("form", "space"), FORMS)
def test_illegal_choices_have_no_gradient(estimator: str, form: str, space: spaces.Space) -> None:
    loss, batch = make_loss(estimator=estimator, form=form, space=space), make_batch(space=space)
    mask = torch.ones(*batch.actions.shape, K, dtype=torch.bool)
    mask[:, -1, 1] = False  # of the last factor, in every state
    batch = batch._replace(actions=batch.actions.clamp_max(0), action_mask=mask, next_action_mask=mask)
    noise, next_noise = make_noise(loss, batch)

    total, metrics = loss(batch, noise, TARGET_ENTROPY, next_noise)
    gradients = torch.autograd.grad(total, [loss.actor.weight, loss.actor.bias])
    for gradient in gradients:
        rows = gradient.view(-1, K, *gradient.shape[1:])
        assert (rows[-1, 1] == 0).all()
        assert (rows[-1, [0, 2]] != 0).all()
    assert all(metric.isfinite().all() for metric in metrics.values())

    # The logits of the illegal choice have no part in anything.
    with torch.no_grad():
        loss.actor.bias[-2] += 100.0
    again, other_metrics = loss(batch, noise, TARGET_ENTROPY, next_noise)
    torch.testing.assert_close(again, total)
    for name, metric in metrics.items():
        torch.testing.assert_close(other_metrics[name], metric)


@pytest.mark.parametrize("estimator", ["exact", "st-gumbel", "rloo"])
def test_what_critics_say_of_illegal_choices_does_not_count(estimator: str) -> None:
    loss, batch = make_loss(estimator=estimator), make_batch()
    mask = torch.tensor([True, False, True]).expand(B, 1, K)
    batch = batch._replace(actions=batch.actions.clamp_max(0), action_mask=mask, next_action_mask=mask)
    noise, _ = make_noise(loss, batch)
    results = []
    for offset in (0.0, 1e6):
        with torch.no_grad():
            loss.critic.weight[..., 1] += offset
            loss.critic_target.weight[..., 1] += offset
        total, _ = loss(batch, noise, TARGET_ENTROPY)
        results.append((total, *torch.autograd.grad(total, [p for p in loss.parameters() if p.requires_grad])))
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("form", ["multilinear", "network"])
def test_the_target_is_that_of_the_masked_next_policy(form: str) -> None:
    loss, batch = make_loss(form=form, space=FACTORS), make_batch(space=FACTORS)
    _, next_noise = make_noise(loss, batch)
    # One choice is left of each factor: no entropy, nothing random.
    forced = torch.eye(K, dtype=torch.float64)[torch.tensor([1, 0, 2])].expand(B, 3, K)
    here = torch.eye(K, dtype=torch.bool)[batch.actions]
    batch = batch._replace(action_mask=here, next_action_mask=forced.bool())
    _, metrics = loss(batch, (), TARGET_ENTROPY, next_noise)
    with torch.no_grad():
        next_value = loss.critic_target(batch.next_observations)(forced).amin(0)
        taken = loss.critic(batch.observations)(here.double())
    torch.testing.assert_close(metrics["target"], batch.rewards + batch.discounts * next_value)
    torch.testing.assert_close(metrics["expected_q"], taken.amin(0))
    assert metrics["entropy"].abs().max() < 1e-12


@pytest.mark.parametrize("critics", ["min", "mean"])
@pytest.mark.parametrize("entropy_in_target", [True, False])
def test_sampled_critics_take_the_next_action_from_the_noise(critics: str, entropy_in_target: bool) -> None:
    loss = make_loss(form="network", space=FACTORS, critics=critics, entropy_in_target=entropy_in_target)
    batch = make_batch(space=FACTORS)
    indices = torch.tensor([[0, 1, 2], [1, 2, 0], [0, 0, 0], [1, 1, 1], [0, 2, 1]])
    chosen = torch.eye(K, dtype=torch.float64)[indices]
    _, metrics = loss(batch, (), TARGET_ENTROPY, 1e3 * chosen)

    with torch.no_grad():
        values: ActionValues = loss.critic_target(batch.next_observations)
        pair = values(chosen)
        rows = loss.actor(batch.next_observations).logits.split(1, -2)
    value = pair.amin(0) if critics == "min" else pair.mean(0)
    if entropy_in_target:
        for alpha, row, size in zip(loss.entropy_coefficient(), rows, (2, 3, 3), strict=True):
            value = value + alpha * Categorical(logits=row[:, 0, :size]).entropy()
    torch.testing.assert_close(metrics["target"], batch.rewards + batch.discounts * value)

    # Nothing else depends on that noise.
    _, others = loss(batch, (), TARGET_ENTROPY, 1e3 * chosen.roll(1, 0))
    assert not torch.equal(others["target"], metrics["target"])
    for name in metrics.keys() - {"target", "critic_loss"}:
        assert torch.equal(others[name], metrics[name]), name


@pytest.mark.parametrize(("form", "space"), FORMS[:2])
def test_expectations_in_closed_form_need_no_noise(form: str, space: spaces.Space) -> None:
    loss, batch = make_loss(form=form, space=space), make_batch(space=space)
    _, next_noise = make_noise(loss, batch)
    without, _ = loss(batch, (), TARGET_ENTROPY)
    with_noise, _ = loss(batch, (), TARGET_ENTROPY, next_noise)
    assert torch.equal(without, with_noise)


@pytest.mark.parametrize("name", ["EntropyCoefficient", "PolicyBatch", "ReinforceLoss", "SACLoss", "ValueLoss"])
def test_modules_that_have_moved_warn(name: str) -> None:
    module = "sac_loss" if name in ("EntropyCoefficient", "SACLoss") else "reinforce_loss"
    with pytest.warns(DeprecationWarning, match=rf"gsrl\.losses\.{name} is now gsrl\.algorithms\.{module}\.{name}"):
        moved = getattr(losses, name)
    assert moved.__module__ == f"gsrl.algorithms.{module}"
    with pytest.raises(AttributeError, match="has no attribute 'Loss'"):
        _ = losses.Loss
