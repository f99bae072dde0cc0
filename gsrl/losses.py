r"""Losses of discrete soft actor-critic and of REINFORCE, as pure functions, and the modules that add them up.

Every loss is a mean over the batch alone. Shapes: ``B`` is the batch, ``C`` the critics, ``n`` factors of ``K``
choices. What critics say of one-hot matrices is the business of :mod:`gsrl.values`. Each factor has an entropy, an
entropy coefficient and a target entropy of its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from gsrl._modes import evaluation_mode
from gsrl.buffers import ReplayBatch
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, Noise, Objective, Reinforce, RelaxedControl
from gsrl.relaxations import conditional_gumbel
from gsrl.values import ActionValues, CriticCombination

__all__ = [
    "EntropyCoefficient",
    "PolicyBatch",
    "ReinforceLoss",
    "SACLoss",
    "ValueLoss",
    "actor_loss",
    "critic_loss",
    "discounted_sums",
    "entropy_coefficient_loss",
    "gae",
    "lambda_target",
    "leave_one_out",
    "policy_traces",
    "soft_target",
]


def soft_target(rewards: Tensor, discounts: Tensor, next_value: Tensor) -> Tensor:
    r"""The n-step target of the critics, :math:`y = \sum_{j<m} \gamma^j r_{t+j} + \gamma^m (1 - d)\, V(s_{t+m})`.

    Biased for m > 1: the later actions are those of older policies, and the entropy bonus of the steps in between is
    left out (see :class:`gsrl.buffers.ReplayBuffer`, which sums the rewards).

    Args:
        rewards: ``[B]``, discounted and summed.
        discounts: ``[B]``, gamma**m, or 0 after termination.
        next_value: ``[B]``.
    """
    return rewards + discounts * next_value


def lambda_target(rewards: Tensor, discounts: Tensor, next_values: Tensor, traces: Tensor) -> Tensor:
    r"""The target of the critics from the steps of a window, of which the later ones count by their traces.

    .. math:: y_t = r_t + \gamma (1 - d_t) \big((1 - \lambda_{t+1})\, V(s_{t+1}) + \lambda_{t+1}\, y_{t+1}\big)

    up to the last step of the window, whose bracket is V alone. With traces of 1 it is the n-step return, with traces
    of 0 that of one step. Biased, as the n-step return is, for what is summed up is what happened.

    Source: Peng and Williams 1996, as in Kozuno et al. 2021 (2103.00107); there lambda is a constant.

    Args:
        rewards: Of the steps of a window, ``[B, N]``.
        discounts: ``[B, N]``, gamma, or 0 after termination.
        next_values: V of the policy after each step, ``[B, N]``.
        traces: Lambda of the action that followed it, in [0, 1], ``[B, N]``; 0 where the window ends.
    """
    target = next_values[:, -1]
    for step in range(rewards.shape[1] - 1, -1, -1):
        value = next_values[:, step]
        target = rewards[:, step] + discounts[:, step] * (value + traces[:, step] * (target - value))
    return target


def policy_traces(policy: FactoredCategorical, taken: Tensor) -> Tensor:
    r"""How far actions that were taken may stand for the policy, :math:`\prod_i \min(1, k_i\, \pi(D_i | s))`, ``[B]``.

    With k legal choices, 1 for those that the policy takes at least as often as chance does, less for those that it
    has given up. That of a policy that is uniform is 1: its windows are whole.

    Args:
        policy: With batch shape ``[B]``.
        taken: One-hot, ``[B, n, K]``.
    """
    return (policy.mask.sum(-1) * (policy.probs * taken).sum(-1)).clamp_max(1.0).prod(-1)


def critic_loss(q: Tensor, target: Tensor, *, q_target: Tensor | None = None, q_clip: float | None = None) -> Tensor:
    r"""Half the squared error, summed over the critics, averaged over the batch.

    With ``q_clip`` c, the larger of it and the error of a value that moved at most c away from the target network's:
    :math:`\max\{(Q - y)^2, (\bar Q + \mathrm{clip}(Q - \bar Q, -c, c) - y)^2\}`.

    Source: Haarnoja et al. 2018 (1812.05905), Eq. 5; the clip: Zhou et al. 2022 (2209.10081).

    Args:
        q: ``[C, B]``, at the actions taken.
        target: ``[B]``. Receives no gradient.
        q_target: ``[C, B]``, the target networks' values at the same actions; needed with ``q_clip``.
        q_clip: c, in units of return.

    Raises:
        ValueError: ``q_clip`` without ``q_target``.
    """
    target = target.detach()
    if q_clip is None:
        return 0.5 * q.shape[0] * F.mse_loss(q, target.expand_as(q))  # one node to differentiate instead of three
    if q_target is None:
        raise ValueError("q_clip needs q_target, the target networks' values at the actions taken.")
    old = q_target.detach()
    moved = old + (q - old).clamp(-q_clip, q_clip)
    return 0.5 * q.shape[0] * torch.maximum((q - target).square(), (moved - target).square()).mean()


def actor_loss(expected_q: Tensor, entropy: Tensor, ent_coef: Tensor) -> Tensor:
    r"""The loss of the policy, :math:`-\mathbb{E}_{D \sim \pi}[Q(s, D)] - \sum_i \alpha_i\, \mathcal{H}(\pi_i(s))`.

    The entropy is exact, whatever estimator gives the gradient of the expectation.

    Source: Christodoulou 2019 (1910.07207), Eq. 12.

    Args:
        expected_q: ``[B]``, what ``Estimator.expectation`` returned.
        entropy: Of each factor, ``[B, n]``, in nats.
        ent_coef: Alpha, ``[n]``. Receives no gradient.
    """
    return -(expected_q + (ent_coef.detach() * entropy).sum(-1)).mean()


def entropy_coefficient_loss(log_ent_coef: Tensor, entropy: Tensor, target_entropy: Tensor) -> Tensor:
    r"""The loss of the alphas, :math:`\sum_i \log\alpha_i\, (\mathcal{H}(\pi_i(s)) - \bar{\mathcal{H}}_i)`.

    Its gradient raises the alpha of a factor where its entropy is below the target.

    Source: Haarnoja et al. 2018 (1812.05905), Eq. 18, with log alpha in the place of alpha and the exact entropy.

    Args:
        log_ent_coef: ``[n]``.
        entropy: Of each factor, ``[B, n]``, in nats. Receives no gradient.
        target_entropy: In nats; ``[n]`` or ``[B, n]``. Receives no gradient.
    """
    return (log_ent_coef * (entropy.detach() - target_entropy).mean(0)).sum()


class EntropyCoefficient(nn.Module):
    """SAC's alpha, learned or fixed, one for each factor; calling it returns them, ``[n]``.

    Args:
        value: Their value at the start.
        learned: Whether their logarithm is a parameter or a buffer.
        n: Factors.

    Attributes:
        learned: The same; ``torch.func.functional_call`` puts plain tensors in the place of parameters.

    Raises:
        ValueError: ``value`` is negative, or zero while learned.
    """

    log_value: Tensor

    def __init__(self, value: float = 1.0, *, learned: bool = True, n: int = 1) -> None:
        super().__init__()
        if not (value > 0 or (value == 0 and not learned)):
            raise ValueError(f"the entropy coefficient must be positive (or 0 where it is fixed), but got {value}.")
        self.learned = learned
        log_value = torch.full((n,), float(value)).log()
        if learned:
            self.log_value = nn.Parameter(log_value)
        else:
            self.register_buffer("log_value", log_value)

    def forward(self) -> Tensor:
        """Alpha, without gradient: :func:`entropy_coefficient_loss` works on its logarithm."""
        return self.log_value.detach().exp()

    def fill_(self, value: float) -> None:
        """Sets it for all factors, in place: a schedule does.

        Args:
            value: At least 0.

        Raises:
            ValueError: It is not.
        """
        if not value >= 0:
            raise ValueError(f"the entropy coefficient must be at least 0, but got {value}.")
        self.log_value.fill_(math.log(value) if value > 0 else -math.inf)


class SACLoss(nn.Module):
    r"""The loss of discrete soft actor-critic, as one function of its parameters, a batch and noise.

    Actor, critics and entropy coefficient are learned from one batch at once: no gradient crosses from one to another,
    so that one backward pass serves all three. What the target is made of, the policy at the next states and the target
    critics, is evaluated in evaluation mode; what is learned, in the mode that it is in.

    Args:
        actor: Maps observations, and masks or None, to a :class:`gsrl.FactoredCategorical` with batch shape ``[B]``.
        critic: Maps observations to :class:`gsrl.values.ActionValues`.
        critic_target: The same, slowly following ``critic``; its parameters must not require gradients.
        entropy_coefficient: Alpha.
        estimator: Gives the actor's gradient.
        critics: How the critics are combined, in the target and for the actor, see
            :func:`gsrl.values.combine_critics`.
        entropy_in_target: Whether the critic's target holds the entropy, see :func:`gsrl.values.soft_value`.
        q_clip: See :func:`critic_loss`.
        relative_entropy: Whether alpha is in units of what choices differ by: that of factor i at state s is then
            :math:`c\, \sigma_i(s) / \log k_i(s)`, with c what ``entropy_coefficient`` says, :math:`\sigma_i(s)` of
            :meth:`gsrl.values.ActionValues.spread`, and :math:`k_i(s)` legal choices; and the loss of the actor is
            divided by :math:`\sigma_i(s)`,

            .. math:: L_\pi = -\sum_i \frac{\mathbb{E}_{D \sim \pi}[Q(s, D)]_i}{\sigma_i(s)}
                      - c \sum_i \frac{\mathcal{H}(\pi_i(s))}{\log k_i(s)},

            where the index says that the gradient in the logits of factor i is meant: values count in what choices
            differ by, entropies as shares of the largest. For one factor its optimum is
            :math:`\pi(a | s) \propto \exp(Q(s, a) \log k(s) / (c\, \sigma(s)))`, whatever the unit of Q.
    """

    def __init__(
        self,
        actor: nn.Module,
        critic: nn.Module,
        critic_target: nn.Module,
        entropy_coefficient: EntropyCoefficient,
        estimator: Estimator,
        *,
        critics: CriticCombination = "min",
        entropy_in_target: bool = True,
        q_clip: float | None = None,
        relative_entropy: bool = False,
    ) -> None:
        super().__init__()
        self.relative_entropy = relative_entropy
        self.actor = actor
        self.critic = critic
        self.critic_target = critic_target
        self.entropy_coefficient = entropy_coefficient
        self.estimator = estimator
        self.critics = critics
        self.entropy_in_target = entropy_in_target
        self.q_clip = q_clip

    def forward(
        self, batch: ReplayBatch, noise: Noise, target_entropy: Tensor, next_noise: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss, a scalar, and what there is to know about it: unreduced tensors, without gradients.

        Args:
            batch: Of ``B`` transitions.
            noise: What ``estimator.draw_noise`` returned for a policy ``[B, n, K]``.
            target_entropy: In nats, see :func:`entropy_coefficient_loss`.
            next_noise: Gumbel noise ``[B, n, K]``, needed where the critics' expectations must be sampled.
        """
        coefficient = ent_coef = self.entropy_coefficient()

        with torch.no_grad(), evaluation_mode(self.actor, self.critic_target):
            target = self._target(batch, coefficient, next_noise)

        policy = self.actor(batch.observations, batch.action_mask)
        values: ActionValues = self.critic(batch.observations)
        taken = torch.zeros_like(policy.logits).scatter(-1, batch.actions.unsqueeze(-1), 1.0)
        q = values(taken)
        q_target = None
        if self.q_clip is not None:
            with torch.no_grad(), evaluation_mode(self.critic_target):
                q_target = self.critic_target(batch.observations)(taken)
        loss_critic = critic_loss(q, target, q_target=q_target, q_clip=self.q_clip)

        entropy = policy.factor_entropy()
        seen = policy
        if self.relative_entropy:
            spread = values.spread(policy, self.critics)
            coefficient = coefficient / _largest_entropies(policy)
            seen, ent_coef = policy.scale_gradient(1 / spread), coefficient * spread
        expected_q = self.estimator.expectation(seen, values.objective(self.critics), noise)
        loss_actor = actor_loss(expected_q, entropy, coefficient)

        loss = loss_critic + loss_actor
        metrics = {
            "actor_loss": loss_actor,
            "critic_loss": loss_critic,
            "ent_coef": ent_coef,
            "entropy": entropy.detach().sum(-1),
            "expected_q": expected_q,
            "q": q,
            "target": target,
            "target_entropy": target_entropy,
        }
        if self.entropy_coefficient.learned:
            loss_ent_coef = entropy_coefficient_loss(self.entropy_coefficient.log_value, entropy, target_entropy)
            loss = loss + loss_ent_coef
            metrics["ent_coef_loss"] = loss_ent_coef
        return loss, {name: value.detach() if value.requires_grad else value for name, value in metrics.items()}

    def _target(self, batch: ReplayBatch, coefficient: Tensor, next_noise: Tensor | None) -> Tensor:
        """What the critics should say of the actions taken, ``[B]``."""
        observations, mask = batch.next_observations, batch.next_action_mask
        if batch.continues is not None:  # a window's steps are a batch like any other
            observations, mask = tree_map_only(Tensor, lambda each: each.flatten(0, 1), (observations, mask))
        values: ActionValues = self.critic_target(observations)
        policy = self.actor(observations, mask)
        if self.relative_entropy and self.entropy_in_target:
            inside = None
            if batch.continues is not None:  # what repeats the last step, up to the longest window, does not count
                inside = F.pad(batch.continues[:, :-1], (1, 0), value=True).flatten()
            coefficient = coefficient * values.spread(policy, self.critics, inside) / _largest_entropies(policy)
        value = values.soft_value(
            policy, coefficient, self.critics, entropy=self.entropy_in_target, noise=next_noise
        ).view_as(batch.rewards)
        if batch.next_actions is None or batch.continues is None:
            return soft_target(batch.rewards, batch.discounts, value)
        taken = torch.zeros_like(policy.logits).scatter(-1, batch.next_actions.flatten(0, 1).unsqueeze(-1), 1.0)
        traces = batch.continues * policy_traces(policy, taken).view_as(value)
        rewards = batch.rewards
        if self.entropy_in_target:  # what V holds, what happened has to have
            bonus = (coefficient * policy.factor_entropy()).sum(-1).view_as(value)
            rewards = torch.cat([rewards[:, :1], rewards[:, 1:] + bonus[:, :-1]], -1)
        return lambda_target(rewards, batch.discounts, value, traces)


def _largest_entropies(policy: FactoredCategorical) -> Tensor:
    """Of each factor, ``[B, n]``: the logarithm of how many choices are legal, of a single one that of two."""
    return policy.mask.sum(-1).clamp_min(2).log()


# REINFORCE. Episodes are rows ``[E, T]``, from their first step on, with zeros after their last.


def discounted_sums(terms: Tensor, discount: float) -> Tensor:
    r"""Sums of what is to come, :math:`y_t = \sum_{k \ge 0} d^k x_{t+k}`: of rewards, the returns-to-go.

    In as many operations as the logarithm of T, each of which doubles how far the sums reach.

    Args:
        terms: x, ``[..., T]``.
        discount: d.
    """
    sums, reach = terms, 1
    while reach < terms.shape[-1]:
        sums = sums + discount**reach * F.pad(sums[..., reach:], (0, reach))
        reach *= 2
    return sums


def gae(rewards: Tensor, values: Tensor, next_values: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    r"""Generalised advantage estimates, :math:`A_t = \sum_{k \ge 0} (\gamma \lambda)^k \delta_{t+k}`.

    .. math:: \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t)

    Lambda = 1 gives the return-to-go minus the value: unbiased where episodes terminate. Below 1 there is less
    variance, and the bias of the values.

    Source: Schulman et al. 2016 (1506.02438), Eq. 16.

    Args:
        rewards: ``[E, T]``.
        values: Of the states, ``[E, T]``.
        next_values: Of the states that the steps led to, ``[E, T]``: 0 after termination.
        gamma: Discount factor.
        gae_lambda: Lambda.
    """
    return discounted_sums(rewards + gamma * next_values - values, gamma * gae_lambda)


def leave_one_out(returns: Tensor) -> Tensor:
    r"""The mean of the other episodes' returns-to-go at the same time, where those that are over count as 0.

    .. math:: b_{e,t} = \frac{1}{E - 1} \sum_{e' \neq e} R_{e',t}

    As a baseline it leaves the gradient unbiased, for episodes are independent. With it the gradient of a decision is
    that of :class:`gsrl.estimators.RLOO`, whose samples are the episodes.

    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".

    Args:
        returns: R, ``[E, T]``, with zeros after the end of an episode; of a single one, 0 is returned.
    """
    return (returns.sum(0) - returns) / max(returns.shape[0] - 1, 1)


class PolicyBatch(NamedTuple):
    """What a policy gradient is made of: B decisions."""

    observations: Tensor | dict[str, Tensor]
    """``[B, ...]``."""
    actions: Tensor
    """Index of the choice of every factor, int64 ``[B, n]``."""
    advantages: Tensor
    """How much better than the baseline each turned out, ``[B]``."""
    action_mask: Tensor | None = None
    """True where a choice is legal, bool ``[B, n, K]``; None: all are."""
    features: Tensor | None = None
    """What a control variate sees of the states, ``[B, F]``."""


class ReinforceLoss(nn.Module):
    r"""The loss of REINFORCE, as a pure function of the policy's parameters and a batch of decisions.

    .. math:: L = -\frac1B \sum_t A_t \log \pi(a_t | s_t) - \frac{c}{B} \sum_t \mathcal{H}(\pi(\cdot | s_t))

    With a control variate c(z, s) the first term is the estimate of :class:`gsrl.estimators.RelaxedControl`, for z
    drawn given that the action taken is its arg max; what c learns by is in the same ``backward``.

    Source: Williams 1992; the control variate: Grathwohl et al. 2018 (1711.00123), Section 4.

    Args:
        actor: Maps observations, and masks or None, to a :class:`gsrl.FactoredCategorical` with batch shape ``[B]``.
        control: Maps perturbed logits ``[B, n, K]`` and features ``[B, F]`` to ``[B]``; None: no control variate.
        ent_coef: Entropy coefficient c.
    """

    def __init__(self, actor: nn.Module, control: nn.Module | None = None, *, ent_coef: float = 0.0) -> None:
        super().__init__()
        self.actor = actor
        self.control = control
        self.ent_coef = ent_coef

    def forward(self, batch: PolicyBatch, noise: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss, a scalar, and what there is to know about it: unreduced tensors, without gradients.

        Args:
            batch: Of B decisions.
            noise: Gumbel noise ``[B, n, K]``, needed with a control variate.

        Raises:
            ValueError: There is a control variate, but no noise, or no features.
        """
        policy: FactoredCategorical = self.actor(batch.observations, batch.action_mask)
        taken = torch.zeros_like(policy.logits).scatter(-1, batch.actions.unsqueeze(-1), 1.0)
        cost = -batch.advantages
        if self.control is None:
            surrogate = Reinforce().surrogate(cost, policy.log_prob(taken))
        elif noise is None or batch.features is None:
            raise ValueError("a control variate needs noise and features.")
        else:
            estimator = RelaxedControl(_AtStates(self.control, batch.features))
            noise = _noise_of(taken, policy.logits.detach(), noise)
            surrogate = estimator.expectation(policy, lambda rows: cost.expand(rows.shape[:-2]), noise)
        entropy = policy.entropy()
        loss = (surrogate - self.ent_coef * entropy).mean()
        return loss, {"entropy": entropy.detach(), "policy_loss": surrogate.detach()}


class _AtStates(nn.Module):
    """A control variate at given states, in the form that :class:`gsrl.estimators.RelaxedControl` calls."""

    def __init__(self, control: nn.Module, features: Tensor) -> None:
        super().__init__()
        self.control = control
        self.features = features

    def forward(self, perturbed: Tensor, objective: Objective) -> Tensor:
        values: Tensor = self.control(perturbed, self.features)
        return values


def _noise_of(taken: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
    """Gumbel noise given that choices were taken: with it, they are the arg max of the perturbed logits.

    (But for a tie in float32, of one in ten million.)
    """
    given = conditional_gumbel(logits, taken, noise) - logits
    return torch.where(logits.isneginf(), 0.0, given)


class ValueLoss(nn.Module):
    """Half the mean squared error of a network of state values.

    Args:
        critic: Maps observations to values ``[B]``.
    """

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, observations: Tensor | dict[str, Tensor], targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss, a scalar, and the same as a metric.

        Args:
            observations: ``[B, ...]``.
            targets: ``[B]``. Receive no gradient.
        """
        loss = 0.5 * F.mse_loss(self.critic(observations), targets.detach())
        return loss, {"value_loss": loss.detach()}
