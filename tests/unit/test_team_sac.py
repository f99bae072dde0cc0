"""The loss of a team: what each agent's critics and actor learn from, beside the loss of one agent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from gsrl import FactoredCategorical, gumbel_noise, make_estimator
from gsrl.algorithms.policies import CriticForm
from gsrl.algorithms.sac_loss import EntropyCoefficient, SACLoss
from gsrl.learning import Learner
from gsrl.multi_agent import Speech, TeamSpaces
from gsrl.multi_agent.sac import transition_columns
from gsrl.multi_agent.sac_loss import Layer, Sight, TeamActor, TeamBatch, TeamCritic, TeamSACLoss, signalling
from gsrl.replay import ReplayBatch, Ring
from gsrl.values import ActionValues, ChoiceValues, MultilinearValues, NetworkValues

O, N, K, B, HIDDEN = 3, 2, 4, 16, [8, 6]


class Agents:
    """As many agents as wanted, of equal spaces."""

    def __init__(self, count: int, n: int = N, sizes: list[int] | None = None) -> None:
        self.possible_agents = [f"agent_{i}" for i in range(count)]
        self.sizes, self.n = sizes or [O] * count, n

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(-1.0, 1.0, (self.sizes[self.possible_agents.index(agent)],))

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.MultiDiscrete([K] * self.n)


def make_loss(
    count: int,
    n: int = N,
    speech: dict[str, Speech] | None = None,
    form: CriticForm = "network",
    groups: list[int] | None = None,
    has_entropy: bool = True,
    **settings: Any,
) -> TeamSACLoss:
    torch.manual_seed(0)
    env = Agents(count, n)
    sizes = (groups or range(count), O, n, K, HIDDEN)
    loss = TeamSACLoss(
        TeamActor(*sizes),
        TeamCritic(*sizes, sees=settings.pop("sees", "all"), form=form, critics=settings.pop("num_critics", 2)),
        EntropyCoefficient(0.3, n=count * n) if has_entropy else None,
        make_estimator(settings.pop("estimator", "st-gumbel")),
        TeamSpaces(env),
        Speech.of(env, speech or {}),
        **settings,
    )
    with torch.no_grad():
        for parameter in loss.critic_target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return loss


def make_batch(count: int, n: int = N, seed: int = 0) -> TeamBatch:
    g = torch.Generator().manual_seed(seed)
    masks = torch.rand(2, B, count, n, K, generator=g) < 0.7
    actions = torch.randint(K, (B, count, n), generator=g)
    masks[0].scatter_(-1, actions.unsqueeze(-1), True)
    masks[1, ..., 0] = True
    ends = (torch.rand(B, count, generator=g) < 0.8).float()
    observations = torch.randn(2, B, count, O, generator=g)
    rewards = torch.randn(B, count, generator=g)
    active, states = torch.ones(B, count), torch.zeros(2, B, 0)
    return TeamBatch(
        *(observations[0], masks[0], actions, rewards, 0.9 * ends, active, observations[1], masks[1], *states)
    )


def make_noise(count: int, n: int = N) -> list[Tensor]:
    g = torch.Generator().manual_seed(5)
    return [gumbel_noise((B, count, n, K), generator=g) for _ in range(3)]


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(*weight.shape)
    with torch.no_grad():
        layer.weight.copy_(weight.T)
        layer.bias.copy_(bias.flatten())
    return layer


class Joint(nn.Module):
    """Critics that are those of agent 0, and see everything in the order of the agents."""

    def __init__(self, critic: TeamCritic, agents: int) -> None:
        super().__init__()
        nets = []
        for c in range(critic.critics):
            i = c * agents
            first = critic.of_rest.weight[i]
            if critic.of_own is not None:  # the own action before those of the others
                place = agents * O if critic.sees == "all" else O
                first = torch.cat([first[:place], critic.of_own.weight[i], first[place:]])
            assert critic.of_rest.bias is not None
            parts: list[nn.Module] = [linear(first, critic.of_rest.bias[i])]
            for layer in critic.layers:
                assert isinstance(layer, type(critic.of_rest))
                assert layer.bias is not None
                parts += [nn.ReLU(), linear(layer.weight[i], layer.bias[i])]
            nets.append(nn.Sequential(*parts))
        self.nets = nn.ModuleList(nets)
        self.form, self.sizes, self.n = critic.form, critic.sizes, critic.n

    def forward(self, observations: Tensor) -> ActionValues:
        if self.form != "network":
            outputs = torch.stack([net(observations) for net in self.nets])  # [C, B, outputs]
            if self.form == "choices":
                return ChoiceValues(outputs.unsqueeze(-2))
            state, choices, pairs = outputs.split(self.sizes, -1)
            shape = (*outputs.shape[:2], self.n, K)
            return MultilinearValues(
                state.squeeze(-1), choices.view(shape), pairs.view(*shape, -1) if self.sizes[-1] else None
            )
        fixed = [{name: p.detach() for name, p in net.named_parameters()} for net in self.nets]

        def inputs(flat: Tensor) -> Tensor:
            return torch.cat([observations.expand(len(flat), *observations.shape), flat], -1)

        return NetworkValues(
            lambda flat: torch.stack([net(inputs(flat)).squeeze(-1) for net in self.nets]),
            lambda flat: torch.stack(
                [
                    torch.func.functional_call(net, own, inputs(flat)).squeeze(-1)
                    for net, own in zip(self.nets, fixed, strict=True)
                ]
            ),
        )


class Blocks(nn.Module):
    """The actors of all agents as one, each of which sees its own observation."""

    def __init__(self, actor: TeamActor, agents: int) -> None:
        super().__init__()
        nets = []
        for i in range(agents):
            parts: list[nn.Module] = []
            for layer in actor.layers:
                each: Any = layer
                parts += [nn.ReLU()] * bool(parts) + [linear(each.weight[i], each.bias[i])]
            nets.append(nn.Sequential(*parts))
        self.nets, self.shape = nn.ModuleList(nets), (actor.n, actor.K)

    def forward(self, observations: Tensor, masks: Tensor) -> FactoredCategorical:
        own = observations.unflatten(-1, (len(self.nets), O)).unbind(-2)
        logits = [net(x).unflatten(-1, self.shape) for net, x in zip(self.nets, own, strict=True)]
        return FactoredCategorical(torch.cat(logits, -2), mask=masks)


def joint_loss(team: TeamSACLoss, agents: int, **settings: Any) -> SACLoss:
    """SAC's loss of all choices of all agents together, with the networks of a team; critics are those of agent 0."""
    critic, target = (Joint(each, agents) for each in (team.critic, team.critic_target))
    alpha = EntropyCoefficient(0.3, n=agents * team.actor.n)
    estimator = make_estimator(team.estimator.name)
    return SACLoss(Blocks(team.actor, agents), critic, target.requires_grad_(False), alpha, estimator, **settings)


def joint_batch(batch: TeamBatch) -> ReplayBatch:
    return ReplayBatch(
        observations=batch.observations.flatten(1),
        actions=batch.actions.flatten(1),
        rewards=batch.rewards[:, 0],
        discounts=batch.discounts[:, 0],
        next_observations=batch.next_observations.flatten(1),
        action_mask=batch.masks.flatten(1, 2),
        next_action_mask=batch.next_masks.flatten(1, 2),
    )


def actor_gradients(team: TeamSACLoss, i: int) -> list[Tensor]:
    found = []
    for layer in team.actor.layers:
        each: Any = layer
        found += [each.weight.grad[i].T, each.bias.grad[i, 0]]
    return found


def critic_gradients(team: TeamSACLoss, i: int) -> list[Tensor]:
    """Of networks i, without those of the own action."""
    of_rest: Any = team.critic.of_rest
    found = [of_rest.bias.grad[i, 0]]
    for layer in team.critic.layers:
        each: Any = layer
        found += [each.weight.grad[i].T, each.bias.grad[i, 0]]
    return found


@pytest.mark.parametrize(
    ("n", "form", "estimator"),
    [
        *((2, "network", "st-gumbel"), (1, "network", "reinmax"), (2, "network", "rloo"), (1, "choices", "exact")),
        *((2, "network", "exact"), (2, "multilinear", "straight-through"), (1, "multilinear", "exact")),
    ],
)
@pytest.mark.parametrize("sees", ["all", "own"])
def test_a_team_of_one_has_the_loss_of_sac(n: int, form: CriticForm, estimator: str, sees: Sight) -> None:
    team = make_loss(1, n, form=form, estimator=estimator, sees=sees)
    alone, batch = joint_loss(team, 1), make_batch(1, n)
    noise, noise_of_team = (
        alone.estimator.draw_noise(FactoredCategorical(torch.zeros(*shape, n, K)), torch.Generator().manual_seed(3))
        for shape in ((B,), (B, 1))
    )
    _, others, after = make_noise(1, n)
    loss, _ = team(batch, noise_of_team, others, after)
    expected, _ = alone(joint_batch(batch), noise, 0.2 * batch.masks[:, 0].sum(-1).log(), after[:, 0])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    loss.backward()
    expected.backward()
    blocks: Any = alone.actor
    for mine, theirs in zip(actor_gradients(team, 0), blocks.nets[0].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.grad, rtol=1e-5, atol=1e-6)
    joint: Any = alone.critic
    for c in range(2):
        for mine, theirs in zip(critic_gradients(team, c), list(joint.nets[c].parameters())[1:], strict=True):
            torch.testing.assert_close(mine, theirs.grad, rtol=1e-5, atol=1e-6)
        first = joint.nets[c][0].weight.grad.T
        torch.testing.assert_close(team.critic.of_rest.weight.grad[c], first[:O], rtol=1e-5, atol=1e-6)  # type: ignore[index]
        if team.critic.of_own is not None:
            torch.testing.assert_close(team.critic.of_own.weight.grad[c], first[O:], rtol=1e-5, atol=1e-6)  # type: ignore[index]
    assert team.entropy_coefficient is not None
    torch.testing.assert_close(
        team.entropy_coefficient.log_value.grad, alone.entropy_coefficient.log_value.grad, rtol=1e-5, atol=1e-6
    )


def test_a_team_with_one_reward_learns_as_one_agent_with_an_actor_in_blocks() -> None:
    agents = 3
    team = make_loss(agents, entropy_in_target=False)
    with torch.no_grad():  # all agents have the critics of agent 0, but that their own part comes first
        for critic in (team.critic, team.critic_target):
            nets: Any = Joint(critic, agents).nets
            for c, net in enumerate(nets):
                for i in range(agents):
                    row, order = c * agents + i, critic.order[i].tolist()
                    seen, actions = net[0].weight.T.split([agents * O, agents * N * K])
                    rest = [*(seen.view(agents, O, -1)[order]), *actions.view(agents, N * K, -1)[order[1:]]]
                    critic.of_rest.weight[row] = torch.cat(rest)
                    assert critic.of_own is not None
                    critic.of_own.weight[row] = actions.view(agents, N * K, -1)[i]
                    assert critic.of_rest.bias is not None
                    critic.of_rest.bias[row] = net[0].bias
                    for layer, linear_layer in zip(critic.layers, [net[2], net[4]], strict=True):
                        each: Any = layer
                        each.weight[row], each.bias[row] = linear_layer.weight.T, linear_layer.bias
    batch = make_batch(agents)
    batch = batch._replace(
        rewards=batch.rewards[:, :1].expand(-1, agents), discounts=batch.discounts[:, :1].expand(-1, agents)
    )
    noise, _, after = make_noise(agents)
    loss, metrics = team(batch, noise, noise, after)  # what the others do is drawn with what one does oneself
    loss.backward()
    alone = joint_loss(team, agents, entropy_in_target=False)
    target_entropy = 0.2 * batch.masks.sum(-1).log().flatten(1)
    expected, known = alone(joint_batch(batch), noise.flatten(1, 2), target_entropy, after.flatten(1, 2))
    expected.backward()
    torch.testing.assert_close(metrics["critic_loss"], known["critic_loss"].expand(agents), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(metrics["expected_q"], known["expected_q"].mean().expand(agents), rtol=1e-6, atol=1e-6)
    blocks: Any = alone.actor
    joint: Any = alone.critic
    for i in range(agents):
        for mine, theirs in zip(actor_gradients(team, i), blocks.nets[i].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.grad, rtol=1e-5, atol=1e-6)
        for c in range(2):
            for mine, theirs in zip(
                critic_gradients(team, c * agents + i), list(joint.nets[c].parameters())[1:], strict=True
            ):
                torch.testing.assert_close(mine, theirs.grad, rtol=1e-5, atol=1e-6)
    assert team.entropy_coefficient is not None
    torch.testing.assert_close(
        team.entropy_coefficient.log_value.grad, alone.entropy_coefficient.log_value.grad, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("settings", [{}, {"others_are_current": False}, {"sees": "own"}, {"form": "multilinear"}])
def test_the_values_of_an_agent_reach_no_other_actor(settings: dict[str, Any]) -> None:
    found = []
    for factor in (1.0, 50.0):
        team = make_loss(3, **settings)
        with torch.no_grad():
            for parameter in team.critic.parameters():
                parameter[[1, 4]] *= factor  # both critics of agent 1
        team(make_batch(3), *make_noise(3))[0].backward()
        found.append([actor_gradients(team, i) for i in range(3)])
    for i in range(3):
        same = all(torch.equal(a, b) for a, b in zip(found[0][i], found[1][i], strict=True))
        assert same == (i != 1)


def test_what_an_inactive_agent_saw_is_not_learned_from() -> None:
    batch = make_batch(2)
    batch.active[::2, 1] = 0.0
    rows = slice(1, None, 2)
    noise = make_noise(2)
    team, half = make_loss(2), make_loss(2)
    _, metrics = team(batch, *noise)
    loss, expected = half(TeamBatch(*(each[rows] for each in batch)), *(each[rows] for each in noise))
    for name in ("critic_loss", "entropy", "q", "expected_q"):
        torch.testing.assert_close(metrics[name][1], expected[name][1])
    team(batch._replace(rewards=batch.rewards + 1e6 * (1 - batch.active)), *noise)[0].backward()
    loss.backward()
    for mine, theirs in zip(actor_gradients(team, 1), actor_gradients(half, 1), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_an_agent_by_itself_is_told_nothing_of_the_others() -> None:
    team, batch, noise = make_loss(2, sees="own"), make_batch(2), make_noise(2)
    _, metrics = team(batch, *noise)
    g = torch.Generator().manual_seed(9)
    other = batch.observations.clone()
    other[:, 1] = torch.randn(B, O, generator=g)
    _, changed = team(batch._replace(observations=other, actions=batch.actions.flip(-1)), *noise)
    assert metrics["expected_q"][0] == changed["expected_q"][0]
    assert metrics["expected_q"][1] != changed["expected_q"][1]
    together = make_loss(2)
    assert together(batch, *noise)[1]["q"][0] != together(batch._replace(observations=other), *noise)[1]["q"][0]


def test_agents_of_a_group_share_their_parameters() -> None:
    """Their gradients are the sums of those that each would have by itself; one by itself keeps its own."""
    shared, apart = make_loss(3, groups=[0, 1, 0]), make_loss(3)
    with torch.no_grad():
        for mine, theirs in zip(shared.modules(), apart.modules(), strict=True):
            if isinstance(mine, Layer) and isinstance(theirs, Layer):
                for name, parameter in theirs.named_parameters():
                    parameter.copy_(mine.get_parameter(name)[mine.rows])
    batch, noise = make_batch(3), make_noise(3)
    losses = [team(batch, *noise)[0] for team in (shared, apart)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    pairs: list[tuple[Any, Any, int]] = [
        (shared.actor.layers[0], apart.actor.layers[0], 2),
        (shared.critic.of_own, apart.critic.of_own, 4),
    ]
    for few, many, count in pairs:
        assert len(few.weight) == count
        expected = torch.zeros_like(few.weight).index_add(0, few.rows, many.weight.grad)
        torch.testing.assert_close(few.weight.grad, expected)


def test_agents_that_are_alike_and_share_have_the_same_values() -> None:
    """What one sees and does, and what is around it, decides, and not its place in the team."""
    team, batch = make_loss(3, groups=[0, 0, 0]), make_batch(3)
    actions = torch.nn.functional.one_hot(batch.actions, K).float()
    values = team.critic(batch.observations, actions, batch.states)(actions)
    turned = [torch.roll(each, 1, 1) for each in (batch.observations, actions)]
    torch.testing.assert_close(team.critic(*turned, batch.states)(turned[1]), torch.roll(values, 1, -1))


def test_others_are_seen_as_they_were_or_as_they_are() -> None:
    batch, noise = make_batch(2), make_noise(2)
    again = batch._replace(actions=batch.masks.float().argmax(-1))
    for current in (True, False):
        team = make_loss(2, others_are_current=current)
        one, other = (team(each, *noise)[1]["expected_q"] for each in (batch, again))
        assert torch.equal(one, other) == current


def test_critics_that_see_the_state_are_told_nothing_of_other_observations() -> None:
    torch.manual_seed(0)
    critic = TeamCritic(range(2), O, N, K, HIDDEN, sees="state", states=5)
    batch = make_batch(2)
    actions, states = torch.nn.functional.one_hot(batch.actions, K).float(), torch.randn(B, 5)
    values = critic(batch.observations, actions, states)(actions)
    other = batch.observations.clone()
    other[:, 1] += 1.0
    changed = critic(other, actions, states)(actions)
    assert torch.equal(changed[..., 0], values[..., 0])
    assert not torch.equal(changed[..., 1], values[..., 1])
    assert not torch.equal(critic(batch.observations, actions, 2 * states)(actions)[..., 0], values[..., 0])


def test_the_loss_of_maddpg_by_its_formula() -> None:
    """Target actors choose the next actions; there is one critic, no entropy, and a penalty of logits."""
    how: dict[str, Any] = {"num_critics": 1, "has_actor_target": True, "estimator": "exact", "has_entropy": False}
    team = make_loss(2, logit_penalty=0.1, **how)
    assert team.actor_target is not None
    with torch.no_grad():
        for parameter in team.actor_target.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    batch = make_batch(2)
    noise, others, after = make_noise(2)
    loss, metrics = team(batch, noise, others, after)
    next_logits = team.actor_target.logits(batch.next_observations).masked_fill(~batch.next_masks, -torch.inf)
    next_actions = torch.nn.functional.one_hot((next_logits.log_softmax(-1) + after).argmax(-1), K).float()
    next_q = team.critic_target(batch.next_observations, next_actions, batch.states)(next_actions)[0]
    target = batch.rewards + batch.discounts * next_q
    taken = torch.nn.functional.one_hot(batch.actions, K).float()
    q = team.critic(batch.observations, taken, batch.states)(taken)[0]
    logits = team.actor.logits(batch.observations)
    policy = FactoredCategorical(logits, mask=batch.masks)
    drawn = policy.sample(noise=others)
    expected = torch.zeros(B, 2)
    for i in range(2):  # over all own actions, given those of the other
        for choice in range(K**N):
            rows = torch.eye(K)[[choice // K, choice % K]].expand(B, 2, N, K)
            values = team.critic(batch.observations, drawn, batch.states)(rows)[0, :, i]
            legal = (rows[:, i] * batch.masks[:, i]).sum((-1, -2)) == N
            expected[:, i] += torch.where(legal, policy.probs[:, i][rows[:, i] == 1].view(B, N).prod(-1) * values, 0.0)
    penalty = torch.where(batch.masks, logits.square(), 0.0).sum((-1, -2)) / batch.masks.sum((-1, -2))
    formula = (0.5 * (q - target).square() - expected + 0.1 * penalty).mean(0).sum()
    torch.testing.assert_close(loss, formula, rtol=1e-5, atol=1e-5)
    assert "ent_coef" not in metrics


def test_each_agent_is_clipped_by_a_norm_of_its_own() -> None:
    """With rewards of agent 1 that are huge, gradients of agent 0 are what they were."""
    norms = []
    for size in (1.0, 1e4):
        team = make_loss(2, groups=[0, 1])
        batch = make_batch(2)
        learner = Learner(team, [("critic", "critic_target")], max_grad_norm=0.01)
        rewards = batch.rewards * torch.tensor([1.0, size])
        learner.update(batch._replace(rewards=rewards), *make_noise(2), learning_rate=0.1)
        norms.append(learner.gradient_norms())
        kept = learner.state_dict()["exp_avg"]["critic.of_rest.weight"] / 0.1  # Adam's first moment
        parts = [value / 0.1 for name, value in learner.state_dict()["exp_avg"].items() if name.startswith("critic.")]
        for agent in range(2):
            clipped = torch.cat([part[[agent, agent + 2]].flatten() for part in parts]).norm()
            assert clipped.item() == pytest.approx(0.01, rel=1e-3)
        assert kept.shape[0] == 4
    small, large = norms
    assert {name: tuple(norm.shape) for name, norm in small.items()} == dict.fromkeys(
        ("actor", "critic", "entropy_coefficient"), (2,)
    )
    torch.testing.assert_close(small["critic"][0], large["critic"][0])
    assert large["critic"][1] > 100 * small["critic"][1]


# What messages tell


def policy_of(probs: Tensor) -> FactoredCategorical:
    return FactoredCategorical(probs.log())


def told(probs: Tensor) -> Tensor:
    """By policies ``[B, K]`` of a single agent with one message."""
    policy = policy_of(probs[:, None, None])
    weights = torch.full((len(probs), 1), 1 / len(probs))
    return signalling(policy, policy, weights, torch.tensor([True]), torch.ones(1, 1))


def test_what_messages_tell_by_hand() -> None:
    certain = torch.eye(3)[torch.arange(30) % 3]
    torch.testing.assert_close(told(certain), torch.tensor([math.log(3)]))
    torch.testing.assert_close(told(torch.eye(3)[:1].expand(6, 3)), torch.zeros(1))
    torch.testing.assert_close(told(torch.full((6, 4), 0.25)), torch.zeros(1), atol=1e-6, rtol=0)
    # Two states and two symbols, right with probability .9: ln 2 - H(.9).
    noisy = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    torch.testing.assert_close(told(noisy), torch.tensor([math.log(2) - entropy]))


def test_a_message_about_what_all_can_see_tells_nothing_of_what_is_private() -> None:
    """Places 0 and 1 are seen by all, place 2 by the agent alone. One speaks of place 0, the other of place 2."""
    speech = {f"agent_{i}": Speech(factors=(0,), private=(2,)) for i in range(2)}
    team = make_loss(2, 1, speech, signalling_bonus=1.0)
    with torch.no_grad():
        for parameter in team.actor.parameters():
            parameter.zero_()
        layers: Any = team.actor.layers
        for i, place in enumerate((0, 2)):  # symbol 0 where it is positive, else symbol 1
            layers[0].weight[i, place, 0], layers[0].weight[i, place, 1] = 1.0, -1.0
            for unit in range(2):
                layers[1].weight[i, unit, unit], layers[2].weight[i, unit, unit] = 1.0, 200.0
            layers[2].bias[i, 0, 2:] = -200.0
    batch = make_batch(2, 1)
    signs = torch.ones(B, 2, O)
    signs[B // 2 :] = -1.0
    batch = batch._replace(observations=signs, masks=torch.ones_like(batch.masks))
    shared = team(batch, *make_noise(2, 1))[1]["signalling"]
    torch.testing.assert_close(shared, torch.tensor([0.0, math.log(2)]), atol=1e-5, rtol=0)


def test_the_bonus_moves_messages_alone() -> None:
    speech = {"agent_0": Speech(factors=(1,))}
    found = []
    for bonus in (0.0, 5.0):
        team = make_loss(2, speech=speech, signalling_bonus=bonus)
        team(make_batch(2), *make_noise(2))[0].backward()
        found.append([actor_gradients(team, 0)[-1], actor_gradients(team, 1)[-1]])
    change = (found[1][0] - found[0][0]).view(N, K)
    assert change[0].abs().max() == 0
    assert change[1].abs().max() > 1e-4
    assert torch.equal(found[0][1], found[1][1])


def test_what_an_agent_alone_knows_may_be_all_that_it_sees() -> None:
    """A short observation is padded, and what is padding is not what others can see."""
    env = Agents(2, sizes=[2, 3])
    speech = Speech.of(env, {"agent_0": Speech((0,), private=(0, 1)), "agent_1": Speech((0,), private=(0, 1))})
    sizes = ([0, 1], O, N, K, HIDDEN)
    actor, critic = TeamActor(*sizes), TeamCritic(*sizes)
    team = TeamSACLoss(
        actor,
        critic,
        EntropyCoefficient(n=4),
        make_estimator("st-gumbel"),
        TeamSpaces(env),
        speech,
        signalling_bonus=1.0,
    )
    assert team.private.tolist() == [[True, True, True], [True, True, False]]


@pytest.mark.parametrize(("agents", "n", "K", "inputs", "states"), [(2, 1, 5, 11, 0), (3, 2, 300, 7, 4)])
def test_the_bytes_of_a_transition(agents: int, n: int, K: int, inputs: int, states: int) -> None:
    columns = transition_columns(n, K, agents, inputs, states)
    ring = Ring(40, columns, n_envs=4, generator=np.random.default_rng(0))
    stored = sum(array.nbytes for array in ring.columns.values()) + ring.closed.nbytes
    assert stored == 40 * (agents * (8 * inputs + 2 * n * K + n * (1 if K <= 256 else 2) + 9) + 8 * states)
