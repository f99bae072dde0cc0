"""The loss of soft actor-critics of a team, whose agents are a dimension of all tensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from gsrl.algorithms.policies import PAIR_RANK, CriticForm
from gsrl.algorithms.sac_loss import EntropyCoefficient
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, Noise, Objective
from gsrl.multi_agent.speech import Speech
from gsrl.multi_agent.vec_env import TeamSpaces
from gsrl.normalization import ObservationNormalizer
from gsrl.values import ActionValues, ChoiceValues, CriticCombination, MultilinearValues, NetworkValues

__all__ = ["EXCHANGES", "TeamActor", "TeamBatch", "TeamCritic", "TeamSACLoss", "TeamValues", "signalling"]

Sight: TypeAlias = Literal["all", "state", "own"]
"""What critics see."""

EXCHANGES = 8
"""What an agent alone knows is exchanged with that of so many other states of the batch."""


class TeamBatch(NamedTuple):
    """``B`` joint transitions of ``A`` agents.

    Example:
        >>> seen, masks = torch.randn(4, 2, 3), torch.ones(4, 2, 1, 5, dtype=torch.bool)  # 4 transitions of 2 agents
        >>> ones, none = torch.ones(4, 2), torch.empty(4, 0)
        >>> batch = TeamBatch(seen, masks, torch.zeros(4, 2, 1).long(), ones, 0.9 * ones, ones, seen, masks, none, none)
        >>> (batch.rewards + batch.discounts * 10.0)[0]  # the targets of both agents' critics, where these say 10
        tensor([10., 10.])
    """

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
    states: Tensor
    """``[B, D]``, where D is 0 unless critics see states."""
    next_states: Tensor
    """Likewise."""


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

    Example:
        >>> actor = TeamActor(groups=[0, 0, 1], inputs=4, n=1, K=5, hidden=[8])  # two of three agents share parameters
        >>> policy = actor(torch.randn(6, 3, 4), torch.ones(6, 3, 1, 5, dtype=torch.bool))
        >>> policy.batch_shape, policy.event_shape
        (torch.Size([6, 3]), torch.Size([1, 5]))
    """

    def __init__(self, groups: Sequence[int], inputs: int, n: int, K: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.groups, self.n, self.K = list(groups), n, K
        self.layers = nn.ModuleList(Layer(groups, *pair) for pair in pairwise([inputs, *hidden, n * K]))

    def logits(self, observations: Tensor) -> Tensor:
        """What the networks say of observations ``[B, A, O]``, ``[B, A, n, K]``."""
        x = observations.transpose(0, 1)
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).relu()
        return last(x).transpose(0, 1).unflatten(-1, (self.n, self.K))

    def forward(self, observations: Tensor, masks: Tensor) -> FactoredCategorical:
        """The policies ``[B, A]`` at observations ``[B, A, O]`` with masks ``[B, A, n, K]``."""
        return FactoredCategorical(self.logits(observations), mask=masks, validate_args=False)


class TeamValues:
    """What the critics of each agent say of its own action, at states ``[B]`` and given the actions of the others.

    Args:
        values: Those of all agents, at ``[B A]``.
        agents: ``A``.

    Example:
        >>> values = TeamValues(ChoiceValues(torch.tensor([[[[1.0, 5.0]], [[2.0, 4.0]]]])), agents=2)  # at one state
        >>> values(torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]]))
        tensor([[[5., 2.]]])
    """

    def __init__(self, values: ActionValues, agents: int) -> None:
        self.values, self.agents = values, agents

    def __call__(self, one_hot: Tensor) -> Tensor:
        """Maps own actions ``[*M, B, A, n, K]`` to ``[C, *M, B, A]``: entry (b, i) is of agent i's action there."""
        return self.values(one_hot.flatten(-4, -3)).unflatten(-1, (-1, self.agents))

    def objective(self, critics: CriticCombination) -> Objective:
        """The combined value of own actions, ``[*M, B, A, n, K] -> [*M, B, A]``; gradients reach them alone."""
        combined = self.values.objective(critics)
        return lambda own: combined(own.flatten(-4, -3)).unflatten(-1, (-1, self.agents))

    def expected(self, policy: FactoredCategorical, sample: Tensor, critics: CriticCombination) -> Tensor:
        """The combined value under policies ``[B, A]``: exact where its form allows, else that of a sample."""
        return self.objective(critics)(sample if self.values.sampled else policy.probs)


class TeamCritic(nn.Module):
    """C networks for each agent, from what critics see, and the actions of the others and its own, to its value.

    What they see begins with the agent's own part, and goes on with those of the agents behind it, round the team, or
    with the state: so agents that are alike can share parameters.

    Args:
        groups: Of each of ``A`` agents, the number of its parameters.
        inputs: ``O``.
        n: Factors.
        K: Choices.
        hidden: Widths.
        sees: ``"all"``: the observations and actions of all agents; ``"state"``: the agent's own observation, the state
            and all actions; ``"own"``: observation and action of the agent alone.
        form: ``"network"``: the own action is an input; ``"choices"``: the values of all own choices are outputs, for a
            single factor; ``"multilinear"``: those of :class:`gsrl.values.MultilinearValues` are, for any number.
        states: Numbers of the state.
        critics: ``C``.

    Example:
        >>> critic = TeamCritic(groups=[0, 1], inputs=4, n=1, K=3, hidden=[8])
        >>> actions = torch.eye(3)[torch.tensor([[0, 2], [1, 1]])].unsqueeze(-2)  # of two agents at two states
        >>> values = critic(torch.randn(2, 2, 4), actions, torch.empty(2, 0))
        >>> values(actions).shape  # of two critics, at each state, of each agent
        torch.Size([2, 2, 2])
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
        sees: Sight = "all",
        form: CriticForm = "network",
        states: int = 0,
        critics: int = 2,
    ) -> None:
        super().__init__()
        agents, own = len(groups), n * K
        self.sees, self.form, self.critics, self.n, self.K = sees, form, critics, n, K
        self.sizes = {"network": [1], "choices": [K], "multilinear": [1, own, PAIR_RANK * own if n > 1 else 0]}[form]
        seen = {"all": agents * inputs, "state": inputs + states, "own": inputs}[sees]
        seen += 0 if sees == "own" else (agents - 1) * own
        is_input = form == "network"
        fan_in = seen + own * is_input
        rows = [c * (max(groups) + 1) + group for c in range(critics) for group in groups]
        self.of_rest = Layer(rows, seen, hidden[0], fan_in)
        self.of_own = Layer(rows, own, hidden[0], fan_in, bias=False) if is_input else None
        self.layers = nn.ModuleList(Layer(rows, *pair) for pair in pairwise([*hidden, sum(self.sizes)]))
        round_the_team = [[(i + j) % agents for j in range(agents)] for i in range(agents)]
        self.register_buffer("order", torch.tensor(round_the_team), False)

    def forward(self, observations: Tensor, actions: Tensor, states: Tensor) -> TeamValues:
        """The values, given what the others do.

        Args:
            observations: ``[B, A, O]``.
            actions: One-hot, ``[B, A, n, K]``; one's own is not looked at.
            states: ``[B, D]``.
        """
        B, A = observations.shape[:2]
        seen = observations
        if self.sees != "own":
            rest = actions.flatten(-2)[:, self.order[:, 1:]].flatten(2)  # [B, A, (A - 1) n K]
            around = [observations[:, self.order].flatten(2)]
            if self.sees == "state":
                around = [observations, states.unsqueeze(1).expand(B, A, states.shape[-1])]
            seen = torch.cat([*around, rest], -1)
        first = self.of_rest(seen.transpose(0, 1).repeat(self.critics, 1, 1))  # [C A, B, H]
        values: ActionValues
        if self.form == "network":
            values = NetworkValues(self._network(first), self._network(first.detach(), is_fixed=True))
            return TeamValues(values, A)
        outputs = self._rest(first).view(self.critics, A, B, -1).transpose(1, 2).flatten(1, 2)  # [C, B A, outputs]
        if self.form == "choices":
            return TeamValues(ChoiceValues(outputs.unsqueeze(-2)), A)
        state, choices, pairs = outputs.split(self.sizes, -1)
        shape = (*outputs.shape[:2], self.n, self.K)
        of_pairs = pairs.view(*shape, PAIR_RANK) if self.sizes[-1] else None
        return TeamValues(MultilinearValues(state.squeeze(-1), choices.view(shape), of_pairs), A)

    def _network(self, first: Tensor, is_fixed: bool = False) -> Callable[[Tensor], Tensor]:
        """Maps own actions ``[M, B A, n K]`` to ``[C, M, B A]``.

        Args:
            first: What the first layer makes of all else, ``[C A, B, H]``.
            is_fixed: Whether gradients reach the own actions alone.
        """
        C, (count, B, _) = self.critics, first.shape
        A = count // C

        def evaluate(flat: Tensor) -> Tensor:
            assert self.of_own is not None
            M = flat.shape[0]
            columns = flat.view(M, B, A, -1).permute(2, 0, 1, 3).reshape(A, M * B, -1).repeat(C, 1, 1)
            x = self.of_own(columns, is_fixed).view(count, M, B, -1) + first.unsqueeze(1)
            q = self._rest(x.flatten(1, 2), is_fixed)  # [C A, M B, 1]
            return q.view(C, A, M, B).permute(0, 2, 3, 1).flatten(2)

        return evaluate

    def _rest(self, x: Tensor, is_fixed: bool = False) -> Tensor:
        """All layers but the first."""
        for layer in self.layers:
            x = layer(x.relu(), is_fixed)
        return x


class TeamSACLoss(nn.Module):
    r"""The loss of discrete soft actor-critic of every agent of a team, added up.

    Agent i maximises :math:`\mathbb{E}[Q_i(s, a_i, a_{-i})] + \sum_f \alpha_{if} \mathcal{H}_{if}` over its own policy.
    The actions of the others are fixed there: drawn from their policies as they are now, or those that replay holds.
    So no gradient of :math:`Q_j` reaches the actor of another agent. The target of its critics is

    .. math:: y_i = r_i + \gamma (1 - d_i) \Big(\min_c \bar Q_{ic}(s', a'_i, a'_{-i})
              + \sum_f \alpha_{if} \mathcal{H}_{if}(s')\Big), \qquad a' \sim \pi(s').

    Losses are means over the transitions in which an agent was active; means of agents are summed, so that each learns
    as it would alone. An agent that is by itself has the loss of :class:`gsrl.algorithms.sac_loss.SACLoss`.

    With target actors, the next actions are theirs. Without entropy that is the loss of MADDPG, see
    :class:`gsrl.multi_agent.MADDPG`.

    Source: Haarnoja et al. 2018 (1812.05905) and Christodoulou 2019 (1910.07207) for each agent, critics of all
    observations and actions by Lowe et al. 2017 (1706.02275), Eq. 6.

    Args:
        actor: The policies of all agents.
        critic: Their critics.
        entropy_coefficient: Alpha of each agent and factor, ``[A n]``; None: entropy is worth nothing.
        estimator: Of the actors' gradients, a policy ``[B, A, n, K]`` at a time.
        team: The agents and their spaces.
        speech: Of each agent, by name.
        others_are_current: Whether actors see the others as they are now, or as they were.
        target_entropy_ratio: Share of the largest entropy of the legal choices that alphas steer to.
        signalling_bonus: What a nat of :func:`signalling` is worth, in units of return.
        critics: How critics are combined, in the target and for the actor.
        entropy_in_target: Whether the target holds the entropy.
        states: Numbers of the state that critics see.
        has_actor_target: Whether there are target actors, ``actor_target``.
        logit_penalty: Weight of the mean square of the logits of legal choices.

    Attributes:
        target_entropy_ratio: The same as a buffer, which a schedule writes.

    Example:
        >>> from envs.mpe import SpreadEnv
        >>> loss = gsrl.multi_agent.MultiAgentSAC(SpreadEnv, hidden=(8,), buffer_size=100).lockstep.losses[0]
        >>> seen, masks = torch.randn(4, 3, 18), torch.ones(4, 3, 1, 5, dtype=torch.bool)  # 4 transitions of 3 agents
        >>> ones, none = torch.ones(4, 3), torch.empty(4, 0)
        >>> batch = TeamBatch(seen, masks, torch.zeros(4, 3, 1).long(), ones, 0.9 * ones, ones, seen, masks, none, none)
        >>> total, metrics = loss(batch, *[torch.zeros(4, 3, 1, 5)] * 3)
        >>> total.shape, metrics["entropy"].shape
        (torch.Size([]), torch.Size([3]))
    """

    messages: Tensor
    private: Tensor
    target_entropy_ratio: Tensor

    def __init__(
        self,
        actor: TeamActor,
        critic: TeamCritic,
        entropy_coefficient: EntropyCoefficient | None,
        estimator: Estimator,
        team: TeamSpaces,
        speech: Mapping[str, Speech],
        *,
        others_are_current: bool = True,
        target_entropy_ratio: float = 0.2,
        signalling_bonus: float = 0.0,
        critics: CriticCombination = "min",
        entropy_in_target: bool = True,
        states: int = 0,
        has_actor_target: bool = False,
        logit_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic
        self.critic_target = copy.deepcopy(critic).requires_grad_(False)
        self.actor_target = copy.deepcopy(actor).requires_grad_(False) if has_actor_target else None
        self.entropy_coefficient, self.estimator = entropy_coefficient, estimator
        self.others_are_current, self.logit_penalty = others_are_current, logit_penalty
        self.signalling_bonus, self.critics, self.entropy_in_target = signalling_bonus, critics, entropy_in_target
        self.register_buffer("target_entropy_ratio", torch.tensor(float(target_entropy_ratio)), False)
        self.state_normalizer = ObservationNormalizer((states,))
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
        count = max(actor.groups) + 1
        self.owners = {
            name: [row % count for row in range(len(parameter))]  # those of one critic after those of another
            for name, parameter in self.named_parameters()
            if name.split(".")[0] in ("actor", "critic")
        }
        if entropy_coefficient is not None and entropy_coefficient.learned:
            self.owners["entropy_coefficient.log_value"] = [group for group in actor.groups for _ in range(team.n)]
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

        alpha = None if self.entropy_coefficient is None else self.entropy_coefficient().reshape(self.messages.shape)
        observations, next_observations = (
            self.normalizer(each) for each in (batch.observations, batch.next_observations)
        )
        states, next_states = (self.state_normalizer(each) for each in (batch.states, batch.next_states))
        with torch.no_grad():
            next_actor = self.actor if self.actor_target is None else self.actor_target
            next_policy = next_actor(next_observations, batch.next_masks)
            sample = next_policy.sample(noise=next_noise)
            values = self.critic_target(next_observations, sample, next_states)
            next_value = values.expected(next_policy, sample, self.critics)
            if self.entropy_in_target and alpha is not None:
                next_value = next_value + (alpha * next_policy.factor_entropy()).sum(-1)
            target = batch.rewards + batch.discounts * next_value

        logits = self.actor.logits(observations)
        policy = FactoredCategorical(logits, mask=batch.masks, validate_args=False)
        taken = torch.zeros_like(policy.logits).scatter(-1, batch.actions.unsqueeze(-1), 1.0)
        values = self.critic(observations, taken, states)
        q = values(taken)
        loss_critic = 0.5 * mean((q - target).square()).sum()

        if self.others_are_current and self.critic.sees != "own":
            with torch.no_grad():
                values = self.critic(observations, policy.sample(noise=others_noise), states)
        expected_q = self.estimator.expectation(policy, values.objective(self.critics), noise)
        entropy = policy.factor_entropy()
        worth = expected_q if alpha is None else expected_q + (alpha * entropy).sum(-1)
        loss = loss_critic - mean(worth).sum()
        if self.logit_penalty:
            square = (logits.square() * batch.masks).sum((-2, -1)) / batch.masks.sum((-2, -1))
            loss = loss + self.logit_penalty * mean(square).sum()
        metrics = {
            "critic_loss": 0.5 * mean((q - target).square()).sum(0),
            "entropy": mean(entropy.sum(-1)),
            "expected_q": mean(expected_q),
            "q": mean(q).mean(0),
        }
        if alpha is not None:
            metrics["ent_coef"] = alpha
        if self.signalling_bonus:
            weights = active / count
            exchanged = self._exchanged(observations, batch.masks) if self.knows_parts else policy
            shared = signalling(policy, exchanged, weights, self.private.all(-1), self.messages)
            loss = loss - self.signalling_bonus * shared.sum()
            metrics["signalling"] = shared
        if self.entropy_coefficient is not None and self.entropy_coefficient.learned:
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

    Example:
        >>> said = torch.tensor([[[[9.0, -9.0]]], [[[-9.0, 9.0]]]])  # of two states, one agent
        >>> policy, half = FactoredCategorical(said), torch.full((2, 1), 0.5)
        >>> signalling(policy, policy, half, torch.tensor([True]), torch.ones(1, 1))  # all of log(2)
        tensor([0.6931])
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
