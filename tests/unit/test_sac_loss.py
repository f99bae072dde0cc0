"""The loss of discrete soft actor-critic: values and gradients against a textbook's, by factors, masks and members."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.func import functional_call, grad, stack_module_state, vmap

from gsrl import make_estimator
from gsrl.algorithms.sac_loss import EntropyCoefficient, SACLoss
from gsrl.heads import ActionHead
from gsrl.losses import (
    critic_loss,
)
from gsrl.relaxations import gumbel_noise
from gsrl.replay import ReplayBatch
from gsrl.spaces import OneHotCodec
from gsrl.values import ActionValues, ChoiceValues, MultilinearValues, NetworkValues
from tests.common.losses import FEATURES, B, C, K, double

ALPHA = 0.3


TARGET_ENTROPY = torch.tensor([0.7], dtype=torch.float64)


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
