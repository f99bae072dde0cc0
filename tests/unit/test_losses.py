"""Losses: hand-computed values, both signs, masks, and an independent implementation."""

from __future__ import annotations

import copy
import math
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.func import functional_call, grad, stack_module_state, vmap

from gsrl import DiscreteSAC, FactoredCategorical, make_estimator
from gsrl.buffers import ReplayBatch
from gsrl.heads import ActionHead
from gsrl.losses import (
    EntropyCoefficient,
    SACLoss,
    actor_loss,
    combine_critics,
    critic_loss,
    entropy_coefficient_loss,
    q_value,
    soft_target,
    soft_value,
)

B, C, K, FEATURES = 5, 2, 3, 4
ALPHA = 0.3
TARGET_ENTROPY = 0.7


class DummyEnv(gym.Env):
    """Only its spaces count."""

    observation_space = spaces.Box(-1.0, 1.0, (FEATURES,))
    action_space = spaces.Discrete(K)


def policy_of(*probabilities: float) -> FactoredCategorical:
    """One state, one factor."""
    return FactoredCategorical(torch.tensor([[probabilities]], dtype=torch.float64).log())


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Values


def test_the_value_of_a_matrix_is_the_sum_over_its_rows() -> None:
    values = double([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    one_hot = double([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert q_value(values, one_hot).item() == 13.0
    assert q_value(values, torch.stack([one_hot, 2 * one_hot])).tolist() == [13.0, 26.0]


def test_combining_critics() -> None:
    values = double([[1.0, 5.0], [3.0, 2.0]])
    assert combine_critics(values, "min").tolist() == [1.0, 2.0]
    assert combine_critics(values, "mean").tolist() == [2.0, 3.5]


def test_the_soft_value_is_an_explicit_sum() -> None:
    values = double([[[1.0, 2.0, 4.0]]])
    policy = policy_of(0.5, 0.25, 0.25)
    # E[Q] = 0.5 + 0.5 + 1 = 2; H = 1.5 log 2.
    assert soft_value(policy, values, double(0.2)).item() == pytest.approx(2.0 + 0.2 * 1.5 * math.log(2))
    assert soft_value(policy, values, double(0.2), entropy=False).item() == pytest.approx(2.0)


def test_the_soft_value_of_the_optimal_policy_is_a_log_sum_exp() -> None:
    values = double([[[1.0, -0.5, 2.0]], [[0.0, 0.0, 3.0]]])
    policy = FactoredCategorical(values / ALPHA)
    expected = ALPHA * (values / ALPHA).logsumexp(-1).squeeze(-1)
    torch.testing.assert_close(soft_value(policy, values, double(ALPHA)), expected)


def test_the_soft_value_sums_over_factors() -> None:
    policy = FactoredCategorical(double([[[0.0, 0.0], [0.0, 0.0]]]))
    values = double([[[1.0, 3.0], [10.0, 30.0]]])
    assert soft_value(policy, values, double(1.0)).item() == pytest.approx(22.0 + 2 * math.log(2))


def test_masked_actions_have_no_part_and_no_nan() -> None:
    logits = double([[[0.3, 5.0, -0.2]]]).requires_grad_()
    mask = torch.tensor([[[True, False, True]]])
    values = double([[[1.0, 1e6, 2.0]]])
    masked = soft_value(FactoredCategorical(logits, mask), values, double(0.5))
    (gradient,) = torch.autograd.grad(masked.sum(), logits)

    legal_logits = double([[[0.3, -0.2]]]).requires_grad_()
    legal = soft_value(FactoredCategorical(legal_logits), double([[[1.0, 2.0]]]), double(0.5))
    (legal_gradient,) = torch.autograd.grad(legal.sum(), legal_logits)

    torch.testing.assert_close(masked, legal)
    assert gradient[0, 0, 1] == 0.0
    torch.testing.assert_close(gradient[0, 0, [0, 2]], legal_gradient[0, 0])


def test_the_target() -> None:
    target = soft_target(double([1.0, 2.0, 3.0]), double([0.9, 0.0, 0.81]), double([10.0, 10.0, -1.0]))
    torch.testing.assert_close(target, double([10.0, 2.0, 3.0 - 0.81]))


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
    expected_q, entropy = double([1.0, 3.0]).requires_grad_(), double([0.5, 0.1]).requires_grad_()
    ent_coef = double(0.2).requires_grad_()
    loss = actor_loss(expected_q, entropy, ent_coef)
    assert loss.item() == pytest.approx(-(1.0 + 0.1 + 3.0 + 0.02) / 2)
    loss.backward()
    assert expected_q.grad is not None
    assert entropy.grad is not None
    assert expected_q.grad.tolist() == [-0.5, -0.5]
    torch.testing.assert_close(entropy.grad, double([-0.1, -0.1]))
    assert ent_coef.grad is None


def test_the_actor_loss_does_not_shrink_with_the_number_of_actions() -> None:
    # Each action twice, each with half the probability: the same expectation, the same entropy but for log 2.
    def loss(probabilities: list[float], values: list[float]) -> float:
        policy = policy_of(*probabilities)
        expected_q = make_estimator("exact").expectation(policy, lambda D: q_value(double([[values]]), D))
        return actor_loss(expected_q, policy.entropy(), double(0.4)).item()

    once = loss([0.7, 0.3], [1.0, 2.0])
    assert once == pytest.approx(-(0.7 + 0.6) - 0.4 * -(0.7 * math.log(0.7) + 0.3 * math.log(0.3)))
    assert loss([0.35, 0.35, 0.15, 0.15], [1.0, 1.0, 2.0, 2.0]) == pytest.approx(once - 0.4 * math.log(2))


# The entropy coefficient


@pytest.mark.parametrize(("entropy", "direction"), [(0.2, -1.0), (0.9, 1.0)])
def test_the_coefficient_rises_where_the_entropy_is_below_its_target(entropy: float, direction: float) -> None:
    log_ent_coef = double(math.log(0.5)).requires_grad_()
    entropies = double([entropy, entropy]).requires_grad_()
    loss = entropy_coefficient_loss(log_ent_coef, entropies, TARGET_ENTROPY)
    assert loss.item() == pytest.approx(math.log(0.5) * (entropy - TARGET_ENTROPY))
    loss.backward()
    assert log_ent_coef.grad is not None
    assert log_ent_coef.grad.item() == pytest.approx(entropy - TARGET_ENTROPY)
    assert log_ent_coef.grad.sign().item() == direction  # descent goes the other way
    assert entropies.grad is None


def test_the_gradient_of_the_coefficient_does_not_depend_on_the_number_of_actions() -> None:
    gradients = []
    for K in (2, 4, 16):
        log_ent_coef = torch.zeros((), requires_grad=True)
        entropy = FactoredCategorical(torch.zeros(8, 1, K)).entropy()
        entropy_coefficient_loss(log_ent_coef, entropy, math.log(K) - 0.5).backward()
        assert log_ent_coef.grad is not None
        gradients.append(log_ent_coef.grad.item())
    assert gradients == pytest.approx([0.5, 0.5, 0.5], abs=1e-6)


def test_a_target_for_each_state() -> None:
    log_ent_coef = double(2.0)
    loss = entropy_coefficient_loss(log_ent_coef, double([0.5, 0.5]), double([0.1, 0.6]))
    assert loss.item() == pytest.approx(2.0 * (0.4 - 0.1) / 2)


@pytest.mark.parametrize("actions", [2, 3, 18])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.98])
def test_the_target_entropy_is_a_share_of_the_largest(actions: int, ratio: float) -> None:
    class Env(DummyEnv):
        action_space = spaces.Discrete(actions)

    model = DiscreteSAC("MlpPolicy", Env(), target_entropy_ratio=ratio, policy_kwargs={"net_arch": [4]})
    assert 0.0 < model._target_entropy < math.log(actions)
    assert model._target_entropy == pytest.approx(ratio * math.log(actions))


def test_a_target_entropy_in_nats() -> None:
    model = DiscreteSAC("MlpPolicy", DummyEnv(), target_entropy=0.123, policy_kwargs={"net_arch": [4]})
    assert model._target_entropy == 0.123


def test_a_learned_coefficient_is_one_parameter() -> None:
    coefficient = EntropyCoefficient(0.5)
    assert coefficient.learned
    assert [name for name, _ in coefficient.named_parameters()] == ["log_value"]
    assert coefficient().item() == pytest.approx(0.5)
    assert not coefficient().requires_grad


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_fixed_coefficient_is_a_buffer(value: float) -> None:
    coefficient = EntropyCoefficient(value, learned=False)
    assert not coefficient.learned
    assert list(coefficient.parameters()) == []
    assert list(coefficient.state_dict()) == ["log_value"]
    assert coefficient().item() == pytest.approx(value)


@pytest.mark.parametrize(("value", "learned"), [(0.0, True), (-1.0, True), (-1.0, False), (math.nan, True)])
def test_coefficients_out_of_range(value: float, learned: bool) -> None:
    with pytest.raises(ValueError, match=f"must be positive .* but got {value}"):
        EntropyCoefficient(value, learned=learned)


# The loss of discrete soft actor-critic


class Values(nn.Module):
    """Linear critics."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(C, FEATURES, K, generator=torch.Generator().manual_seed(1)))

    def forward(self, observations: Tensor) -> Tensor:
        return (observations @ self.weight).unsqueeze(-2)


def make_loss(seed: int = 0, estimator: str = "exact", learned: bool = True, **settings: Any) -> SACLoss:
    generator = torch.Generator().manual_seed(seed)
    actor, critic = ActionHead(FEATURES, spaces.Discrete(K)), Values()
    for parameter in (*actor.parameters(), *critic.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    target = copy.deepcopy(critic).requires_grad_(False)
    target.weight.data = torch.randn(target.weight.shape, generator=generator)
    coefficient = EntropyCoefficient(ALPHA, learned=learned)
    return SACLoss(actor, critic, target, coefficient, make_estimator(estimator), **settings).double()


def make_batch(seed: int = 0) -> ReplayBatch:
    generator = torch.Generator().manual_seed(100 + seed)
    observations, next_observations = torch.randn(2, B, FEATURES, generator=generator, dtype=torch.float64)
    actions = torch.randint(K, (B, 1), generator=generator)
    rewards = torch.randn(B, generator=generator, dtype=torch.float64)
    return ReplayBatch(observations, actions, rewards, next_observations, double([0.9, 0.9, 0.0, 0.9, 0.81]))


def textbook(
    loss: SACLoss, batch: ReplayBatch, critics: str, entropy_in_target: bool, q_clip: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of critic, actor and coefficient, one state and one action at a time."""

    def policy(observation: Tensor) -> Categorical:
        return Categorical(logits=observation @ loss.actor.weight.T + loss.actor.bias)

    def combined(pair: list[Tensor]) -> Tensor:
        return torch.minimum(*pair) if critics == "min" else (pair[0] + pair[1]) / 2

    critic_losses, actor_losses, coefficient_losses = [], [], []
    for o, (a,), r, next_o, discount in zip(*batch, strict=True):
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
        coefficient_losses.append(loss.entropy_coefficient.log_value * (here.entropy().detach() - TARGET_ENTROPY))
    return sum(critic_losses) / B, sum(actor_losses) / B, sum(coefficient_losses) / B  # type: ignore[return-value]


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


@pytest.mark.parametrize("estimator", ["exact", "st-gumbel", "straight-through", "reinforce", "rloo"])
def test_no_gradient_crosses(estimator: str) -> None:
    """Freezing all parts but one leaves the gradient of that one as it was."""
    loss, batch = make_loss(estimator=estimator), make_batch()
    noise = loss.estimator.draw_noise(loss.actor(batch.observations), torch.Generator().manual_seed(0))
    parts = {"actor": loss.actor, "critic": loss.critic, "entropy_coefficient": loss.entropy_coefficient}
    total, metrics = loss(batch, noise, TARGET_ENTROPY)
    whole = {
        name: torch.autograd.grad(total, list(part.parameters()), retain_graph=True) for name, part in parts.items()
    }
    assert not any(value.requires_grad for value in metrics.values())

    for name, part in parts.items():
        for other in parts.values():
            other.requires_grad_(other is part)
        alone = torch.autograd.grad(loss(batch, noise, TARGET_ENTROPY)[0], list(part.parameters()))
        for gradient, expected in zip(alone, whole[name], strict=True):
            torch.testing.assert_close(gradient, expected)


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


def test_duplicating_the_batch_changes_nothing() -> None:
    loss, batch = make_loss(), make_batch()
    twice = ReplayBatch(*(torch.cat([entry, entry]) for entry in batch))
    once, _ = loss(batch, (), TARGET_ENTROPY)
    again, _ = loss(twice, (), TARGET_ENTROPY)
    torch.testing.assert_close(once, again)


@pytest.mark.parametrize("estimator", ["exact", "st-gumbel", "rloo"])
@pytest.mark.parametrize("learned", [True, False])
def test_members_in_one_call_equal_a_loop(estimator: str, learned: bool) -> None:
    losses = [make_loss(seed, estimator, learned) for seed in range(2)]
    batches = [make_batch(seed) for seed in range(2)]
    generator = torch.Generator().manual_seed(0)
    noises = [losses[0].estimator.draw_noise(loss.actor(batches[0].observations), generator) for loss in losses]

    def function(parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: ReplayBatch, noise: Any) -> Any:
        return functional_call(losses[0], (parameters, buffers), (batch, noise, TARGET_ENTROPY))

    parameters, buffers = stack_module_state(losses)
    batch = ReplayBatch(*(torch.stack(entries) for entries in zip(*batches, strict=True)))
    noise = torch.stack(noises) if estimator != "exact" else ()  # type: ignore[arg-type]
    noise_dim = 0 if estimator != "exact" else None
    totals, metrics = vmap(function, in_dims=(0, 0, 0, noise_dim))(parameters, buffers, batch, noise)
    gradients, _ = vmap(grad(function, has_aux=True), in_dims=(0, 0, 0, noise_dim))(parameters, buffers, batch, noise)

    for member, loss in enumerate(losses):
        total, alone = loss(batches[member], noises[member], TARGET_ENTROPY)
        torch.testing.assert_close(totals[member], total)
        for name, value in alone.items():
            torch.testing.assert_close(metrics[name][member], value)
        named = {name: p for name, p in loss.named_parameters() if p.requires_grad}
        for name, gradient in zip(named, torch.autograd.grad(total, list(named.values())), strict=True):
            torch.testing.assert_close(gradients[name][member], gradient)
