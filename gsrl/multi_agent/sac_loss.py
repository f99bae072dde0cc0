"""The loss of soft actor-critics of a team, whose agents are a dimension of all tensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gsrl.algorithms.sac_loss import EntropyCoefficient
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, Noise
from gsrl.multi_agent.speech import Speech
from gsrl.multi_agent.vec_env import TeamSpaces
from gsrl.normalization import ObservationNormalizer
from gsrl.values import CriticCombination, combine_critics

__all__ = ["EXCHANGES", "TeamActor", "TeamBatch", "TeamCritic", "TeamSACLoss", "TeamValues", "signalling"]

EXCHANGES = 8
"""What an agent alone knows is exchanged with that of so many other states of the batch."""


class TeamBatch(NamedTuple):
    """``B`` joint transitions of ``A`` agents."""

    observations: Tensor
    """``[B, A, O]``."""
    masks: Tensor
    """Bool ``[B, A, n, K]``."""
    actions: Tensor
    """Choices, int64 ``[B, A, n]``."""
    rewards: Tensor
    """``[B, A]``."""
    discounts: Tensor
    """Gamma, or 0 where an agent terminated, ``[B, A]``."""
    active: Tensor
    """1 where an agent chose, 0 where it had nothing to choose or was not there, ``[B, A]``."""
    next_observations: Tensor
    """``[B, A, O]``."""
    next_masks: Tensor
    """Bool ``[B, A, n, K]``."""


class Layer(nn.Module):
    """A linear layer of each of several networks, initialised as ``torch.nn.Linear`` is.

    Args:
        rows: Of each network, the number of its parameters, from 0 on; networks may share some.
        inputs: Of each.
        outputs: Of each.
        fan_in: Inputs of the whole layer, where this is a part of one; None: these.
        bias: Whether there is one.
    """

    rows: Tensor

    def __init__(
        self, rows: Sequence[int], inputs: int, outputs: int, fan_in: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        count, bound = max(rows) + 1, 1 / math.sqrt(fan_in or inputs)
        self.is_shared = count < len(rows)
        self.register_buffer("rows", torch.tensor(rows), False)
        self.weight = nn.Parameter(torch.empty(count, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, 1, outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor, is_fixed: bool = False) -> Tensor:
        """Maps ``[networks, M, inputs]`` to ``[networks, M, outputs]``.

        Args:
            x: The inputs.
            is_fixed: Whether gradients reach these alone.
        """
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if is_fixed:
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        if self.is_shared:
            weight, bias = weight[self.rows], None if bias is None else bias[self.rows]
        return x @ weight if bias is None else torch.baddbmm(bias, x, weight)


class TeamActor(nn.Module):
    """A network for each agent, from its own observation to its policy.

    Args:
        groups: Of each of ``A`` agents, the number of its parameters; agents may share some.
        inputs: ``O``.
        n: Factors.
        K: Choices.
        hidden: Widths.
    """

    def __init__(self, groups: Sequence[int], inputs: int, n: int, K: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.n, self.K = n, K
        self.layers = nn.ModuleList(Layer(groups, *pair) for pair in pairwise([inputs, *hidden, n * K]))

    def forward(self, observations: Tensor, masks: Tensor) -> FactoredCategorical:
        """The policies ``[B, A]`` at observations ``[B, A, O]`` with masks ``[B, A, n, K]``."""
        x = observations.transpose(0, 1)
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).relu()
        logits = last(x).transpose(0, 1).unflatten(-1, (self.n, self.K))
        return FactoredCategorical(logits, mask=masks, validate_args=False)


class TeamValues:
    """What the critics of each agent say of its own action, at states ``[B]`` and given the actions of the others.

    Args:
        critic: Their networks.
        first: What the first layer makes of all but the own action, ``[C A, B, H]``.
        is_fixed: Whether gradients reach the own actions alone.
    """

    def __init__(self, critic: TeamCritic, first: Tensor, is_fixed: bool = False) -> None:
        self.critic, self.first, self.is_fixed = critic, first, is_fixed

    def __call__(self, one_hot: Tensor) -> Tensor:
        """Maps own actions ``[*M, B, A, n, K]`` to ``[C, *M, B, A]``: entry (b, i) is of agent i's action there."""
        critic, (count, B, H) = self.critic, self.first.shape
        A = one_hot.shape[-3]
        own = one_hot.flatten(-2).reshape(-1, B, A, critic.own)  # [M, B, A, n K]
        M = own.shape[0]
        if critic.of_own is None:  # linear in the own action
            values = self._rest(self.first).reshape(-1, A, B, critic.outputs).permute(0, 2, 1, 3)  # [C, B, A, K]
            q = torch.einsum("mbak,cbak->cmba", own, values)
        else:
            columns = own.permute(2, 0, 1, 3).reshape(A, M * B, critic.own).repeat(count // A, 1, 1)
            first = critic.of_own(columns, self.is_fixed).reshape(count, M, B, H) + self.first.unsqueeze(1)
            q = self._rest(first.reshape(count, M * B, H)).reshape(-1, A, M, B).permute(0, 2, 3, 1)
        return q.reshape(-1, *one_hot.shape[:-2])

    def _rest(self, x: Tensor) -> Tensor:
        """All layers but the first."""
        for layer in self.critic.layers:
            x = layer(x.relu(), self.is_fixed)
        return x

    def detach(self) -> TeamValues:
        """The same values; gradients reach the own actions alone."""
        return TeamValues(self.critic, self.first.detach(), True)


class TeamCritic(nn.Module):
    """C networks for each agent, from what critics see, and the actions of the others and its own, to its value.

    What they see begins with the agent's own part, and goes on with those of the agents behind it, round the team: so
    agents that are alike can share parameters.

    Args:
        groups: Of each of ``A`` agents, the number of its parameters.
        inputs: ``O``.
        n: Factors.
        K: Choices.
        hidden: Widths.
        sees_all: Whether the observations and actions of all agents are seen; else those of one's own alone.
        per_choice: Whether the network has the value of each own choice as outputs, instead of the action as an input;
            for a single factor.
        critics: ``C``.
    """

    order: Tensor

    def __init__(
        self,
        groups: Sequence[int],
        inputs: int,
        n: int,
        K: int,
        hidden: Sequence[int],
        *,
        sees_all: bool,
        per_choice: bool,
        critics: int = 2,
    ) -> None:
        super().__init__()
        agents = len(groups)
        self.sees_all, self.critics, self.own, self.outputs = sees_all, critics, n * K, K if per_choice else 1
        seen = agents * inputs + (agents - 1) * n * K if sees_all else inputs
        fan_in = seen + (0 if per_choice else n * K)
        rows = [c * (max(groups) + 1) + group for c in range(critics) for group in groups]
        self.of_rest = Layer(rows, seen, hidden[0], fan_in)
        self.of_own = None if per_choice else Layer(rows, n * K, hidden[0], fan_in, bias=False)
        self.layers = nn.ModuleList(Layer(rows, *pair) for pair in pairwise([*hidden, self.outputs]))
        round_the_team = [[(i + j) % agents for j in range(agents)] for i in range(agents)]
        self.register_buffer("order", torch.tensor(round_the_team), False)

    def forward(self, observations: Tensor, actions: Tensor) -> TeamValues:
        """Values at observations ``[B, A, O]``, given one-hot actions ``[B, A, n, K]``; one's own is not looked at."""
        seen = observations
        if self.sees_all:
            rest = actions.flatten(-2)[:, self.order[:, 1:]].flatten(2)  # [B, A, (A - 1) n K]
            seen = torch.cat([observations[:, self.order].flatten(2), rest], -1)
        return TeamValues(self, self.of_rest(seen.transpose(0, 1).repeat(self.critics, 1, 1)))


class TeamSACLoss(nn.Module):
    r"""The loss of discrete soft actor-critic of every agent of a team, added up.

    Agent i maximises :math:`\mathbb{E}[Q_i(s, a_i, a_{-i})] + \sum_f \alpha_{if} \mathcal{H}_{if}` over its own policy.
    The actions of the others are fixed there: drawn from their policies as they are now, or those that replay holds.
    So no gradient of :math:`Q_j` reaches the actor of another agent. The target of its critics is

    .. math:: y_i = r_i + \gamma (1 - d_i) \Big(\min_c \bar Q_{ic}(s', a'_i, a'_{-i})
              + \sum_f \alpha_{if} \mathcal{H}_{if}(s')\Big), \qquad a' \sim \pi(s').

    Losses are means over the transitions in which an agent was active; means of agents are summed, so that each learns
    as it would alone. An agent that is by itself has the loss of :class:`gsrl.algorithms.sac_loss.SACLoss`.

    Source: Haarnoja et al. 2018 (1812.05905) and Christodoulou 2019 (1910.07207) for each agent, critics of all
    observations and actions by Lowe et al. 2017 (1706.02275), Eq. 6.

    Args:
        actor: The policies of all agents.
        critic: Their critics.
        entropy_coefficient: Alpha of each agent and factor, ``[A n]``.
        estimator: Of the actors' gradients, a policy ``[B, A, n, K]`` at a time.
        team: The agents and their spaces.
        speech: Of each agent, by name.
        others_are_current: Whether actors see the others as they are now, or as they were.
        target_entropy_ratio: Share of the largest entropy of the legal choices that alphas steer to.
        signalling_bonus: What a nat of :func:`signalling` is worth, in units of return.
        critics: How critics are combined, in the target and for the actor.
        entropy_in_target: Whether the target holds the entropy.
    """

    messages: Tensor
    private: Tensor

    def __init__(
        self,
        actor: TeamActor,
        critic: TeamCritic,
        entropy_coefficient: EntropyCoefficient,
        estimator: Estimator,
        team: TeamSpaces,
        speech: Mapping[str, Speech],
        *,
        others_are_current: bool = True,
        target_entropy_ratio: float = 0.2,
        signalling_bonus: float = 0.0,
        critics: CriticCombination = "min",
        entropy_in_target: bool = True,
    ) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic
        self.critic_target = copy.deepcopy(critic).requires_grad_(False)
        self.entropy_coefficient, self.estimator = entropy_coefficient, estimator
        self.others_are_current, self.target_entropy_ratio = others_are_current, target_entropy_ratio
        self.signalling_bonus, self.critics, self.entropy_in_target = signalling_bonus, critics, entropy_in_target
        agents = len(team.agents)
        self.normalizer = ObservationNormalizer((agents, team.O))
        said = [set(speech[agent].factors) for agent in team.agents]
        known = [set(speech[agent].private) for agent in team.agents]
        # Without a part that it alone knows, all that an agent observes counts.
        is_part = [0 < len(places) < size for places, size in zip(known, team.sizes, strict=True)]
        private = [
            [not part or o in places for o in range(team.O)] for part, places in zip(is_part, known, strict=True)
        ]
        messages = [[float(factor in factors) for factor in range(team.n)] for factors in said]
        self.register_buffer("messages", torch.tensor(messages), False)
        self.register_buffer("private", torch.tensor(private), False)
        self.knows_parts = any(part and factors for part, factors in zip(is_part, said, strict=True))

    def forward(
        self, batch: TeamBatch, noise: Noise, others_noise: Tensor, next_noise: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Returns the loss, a scalar, and metrics, one an agent ``[A]``.

        Args:
            batch: Of ``B`` transitions.
            noise: What ``estimator.draw_noise`` returned for a policy ``[B, A, n, K]``.
            others_noise: Gumbel noise ``[B, A, n, K]`` of the actions that the others take now.
            next_noise: The same of the next actions.
        """
        active = batch.active
        count = active.sum(0).clamp_min(1.0)

        def mean(x: Tensor) -> Tensor:
            """Over active rows, of ``[..., B, A]``."""
            return (x * active).sum(-2) / count

        alpha = self.entropy_coefficient().reshape(self.messages.shape)
        observations, next_observations = (
            self.normalizer(each) for each in (batch.observations, batch.next_observations)
        )
        with torch.no_grad():
            next_policy = self.actor(next_observations, batch.next_masks)
            sample = next_policy.sample(noise=next_noise)
            values = self.critic_target(next_observations, sample)
            own = next_policy.probs if self.critic.outputs > 1 else sample
            next_value = self._expected(values, own)
            if self.entropy_in_target:
                next_value = next_value + (alpha * next_policy.factor_entropy()).sum(-1)
            target = batch.rewards + batch.discounts * next_value

        policy = self.actor(observations, batch.masks)
        taken = torch.zeros_like(policy.logits).scatter(-1, batch.actions.unsqueeze(-1), 1.0)
        values = self.critic(observations, taken)
        q = values(taken)
        loss_critic = 0.5 * mean((q - target).square()).sum()

        if self.others_are_current and self.critic.sees_all:
            with torch.no_grad():
                values = self.critic(observations, policy.sample(noise=others_noise))
        fixed = values.detach()
        expected_q = self.estimator.expectation(policy, lambda own: self._expected(fixed, own), noise)
        entropy = policy.factor_entropy()
        loss_actor = -mean(expected_q + (alpha * entropy).sum(-1)).sum()
        loss = loss_critic + loss_actor
        metrics = {
            "critic_loss": 0.5 * mean((q - target).square()).sum(0),
            "entropy": mean(entropy.sum(-1)),
            "expected_q": mean(expected_q),
            "q": mean(q).mean(0),
            "ent_coef": alpha,
        }
        if self.signalling_bonus:
            weights = active / count
            exchanged = self._exchanged(observations, batch.masks) if self.knows_parts else policy
            shared = signalling(policy, exchanged, weights, self.private.all(-1), self.messages)
            loss = loss - self.signalling_bonus * shared.sum()
            metrics["signalling"] = shared
        if self.entropy_coefficient.learned:
            largest = batch.masks.sum(-1).log()
            short = mean((entropy.detach() - self.target_entropy_ratio * largest).movedim(-1, 0)).T  # [A, n]
            loss = loss + (self.entropy_coefficient.log_value.reshape(short.shape) * short).sum()
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _exchanged(self, observations: Tensor, masks: Tensor) -> FactoredCategorical:
        """The policies ``[P, B, A]`` where what an agent alone knows is that of other states of the batch."""
        B, device = len(observations), observations.device
        shifts = torch.arange(EXCHANGES, device=device) * B // EXCHANGES
        rows = (torch.arange(B, device=device) + shifts[:, None]) % B  # [P, B]
        exchanged = torch.where(self.private, observations[rows], observations)
        policy = self.actor(exchanged.flatten(0, 1), masks.expand(EXCHANGES, *masks.shape).flatten(0, 1))
        shape = (EXCHANGES, B)
        return FactoredCategorical(
            policy.logits.unflatten(0, shape), mask=policy.mask.unflatten(0, shape), validate_args=False
        )

    def _expected(self, values: TeamValues, own: Tensor) -> Tensor:
        """The combined value of own actions ``[*M, B, A, n, K]``, ``[*M, B, A]``."""
        if values.critic.outputs == 1:
            return combine_critics(values(own), self.critics)
        A = own.shape[-3]
        each = values._rest(values.first).reshape(-1, A, values.first.shape[1], values.critic.outputs)
        combined = combine_critics(each.transpose(1, 2), self.critics)  # [B, A, K]: choice by choice
        return (own.squeeze(-2) * combined).sum(-1)


def signalling(
    policy: FactoredCategorical, exchanged: FactoredCategorical, weights: Tensor, knows_all: Tensor, messages: Tensor
) -> Tensor:
    r"""How much the messages of each agent tell of what it alone knows, in nats, ``[A]``; differentiable.

    .. math:: I = \mathbb{E}_r \Big[\mathcal{H}\big(\mathbb{E}_p\, \pi(m | r, p)\big)
              - \mathbb{E}_p\, \mathcal{H}(\pi(m | r, p))\Big]

    over what it alone knows, p, and the rest of its observation, r, summed over its message factors. Where p is all
    that it observes, the mean over p is that of the batch. Biased: the entropy of a mean of few is too small.

    Source: Eccles et al. 2019 (1912.05676), Section 3.1, where p is the whole observation.

    Args:
        policy: At the observations of a batch, ``[B, A]``.
        exchanged: At these with what the agent alone knows from other ones of the batch, ``[P, B, A]``; the policy
            itself, where all that speak know all.
        weights: Of the states, which sum to 1, ``[B, A]``.
        knows_all: Which agents' p is all that they observe, bool ``[A]``.
        messages: 1 for the factors that are messages, ``[A, n]``.
    """
    each = weights[..., None]
    told = _entropy((policy.probs * each[..., None]).sum(0)) - (policy.factor_entropy() * each).sum(0)  # [A, n]
    if exchanged is not policy:
        given = _entropy(exchanged.probs.mean(0)) - exchanged.factor_entropy().mean(0)
        told = torch.where(knows_all.unsqueeze(-1), told, (given * each).sum(0))
    return (told * messages).sum(-1)


def _entropy(probs: Tensor) -> Tensor:
    """Of ``[..., K]``."""
    return -torch.xlogy(probs, probs.clamp_min(1e-20)).sum(-1)
