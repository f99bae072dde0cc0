"""The loss of discrete soft actor-critic, put together of the functions of :mod:`gsrl.losses`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from gsrl._modes import evaluation_mode
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, Noise
from gsrl.losses import (
    actor_loss,
    critic_loss,
    entropy_coefficient_loss,
    lambda_target,
    policy_traces,
    soft_target,
)
from gsrl.replay import ReplayBatch
from gsrl.values import ActionValues, CriticCombination

__all__ = ["EntropyCoefficient", "SACLoss"]


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

    Example:
        >>> round(EntropyCoefficient(0.2, learned=False)().item(), 3)
        0.2
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
        """Alpha, without gradient: :func:`gsrl.losses.entropy_coefficient_loss` works on its logarithm."""
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
        q_clip: See :func:`gsrl.losses.critic_loss`.
        relative_entropy: Whether alpha is in units of what choices differ by: that of factor i at state s is then
            :math:`c\, \sigma_i(s) / \log k_i(s)`, with c what ``entropy_coefficient`` says, :math:`\sigma_i(s)` of
            :meth:`gsrl.values.ActionValues.spread`, and :math:`k_i(s)` legal choices; and the loss of the actor is
            divided by :math:`\sigma_i(s)`,

            .. math:: L_\pi = -\sum_i \frac{\mathbb{E}_{D \sim \pi}[Q(s, D)]_i}{\sigma_i(s)}
                      - c \sum_i \frac{\mathcal{H}(\pi_i(s))}{\log k_i(s)},

            where the index says that the gradient in the logits of factor i is meant: values count in what choices
            differ by, entropies as shares of the largest. For one factor its optimum is
            :math:`\pi(a | s) \propto \exp(Q(s, a) \log k(s) / (c\, \sigma(s)))`, whatever the unit of Q.
        share_features: Whether the features of ``actor`` are those of ``critic``, see
            :class:`gsrl.algorithms.policies.DiscreteSACPolicy`. They are worked out once, and the gradient of the actor
            stops there.

    Example:
        >>> model = gsrl.DiscreteSAC("MlpPolicy", "CartPole-v1", learning_starts=10, seed=0, device="cpu").learn(10)
        >>> value, metrics = model.learner.loss(model.replay_buffer.sample(8), None, torch.zeros(1))
        >>> value.shape, metrics["q"].shape  # of two critics and eight transitions
        (torch.Size([]), torch.Size([2, 8]))
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
        share_features: bool = False,
    ) -> None:
        super().__init__()
        self.relative_entropy = relative_entropy
        self.share_features = share_features
        if share_features:
            self.critic = critic  # first: what both have is the critic's, which its target follows
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
            target_entropy: In nats, see :func:`gsrl.losses.entropy_coefficient_loss`.
            next_noise: Gumbel noise ``[B, n, K]``, needed where the critics' expectations must be sampled.
        """
        coefficient = ent_coef = self.entropy_coefficient()

        with torch.no_grad(), evaluation_mode(self.actor, self.critic_target):
            target = self._target(batch, coefficient, next_noise)

        if self.share_features:
            critic: Any = self.critic
            features = critic.features(batch.observations)
            policy = self.actor(batch.observations, batch.action_mask, features=features.detach())
            values: ActionValues = self.critic(batch.observations, features)
        else:
            policy = self.actor(batch.observations, batch.action_mask)
            values = self.critic(batch.observations)
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
