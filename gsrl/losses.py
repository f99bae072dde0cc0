r"""Losses of discrete soft actor-critic, as pure functions, and the module that adds them up.

Every loss is a mean over the batch alone; sums over choices are expectations under the policy. Shapes: ``B`` is the
batch, ``C`` the critics, ``n`` factors of ``K`` choices. ``values`` are the critics' outputs at all choices; the value
of a matrix ``D`` of one-hot rows is linear in it, :math:`Q(s, D) = \sum_{ik} D_{ik}\, \mathrm{values}(s)_{ik}`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from gsrl.buffers import ReplayBatch
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, Noise, Objective

__all__ = [
    "CriticCombination",
    "EntropyCoefficient",
    "SACLoss",
    "actor_loss",
    "actor_objective",
    "combine_critics",
    "critic_loss",
    "entropy_coefficient_loss",
    "q_value",
    "soft_target",
    "soft_value",
]

CriticCombination: TypeAlias = Literal["min", "mean"]


def q_value(values: Tensor, one_hot: Tensor) -> Tensor:
    """The value of one-hot matrices, linear in each row.

    Args:
        values: ``[..., n, K]``, the value of every choice.
        one_hot: Broadcastable with ``values``.

    Returns:
        ``[...]``.
    """
    return (values * one_hot).sum((-2, -1))


def combine_critics(values: Tensor, critics: CriticCombination) -> Tensor:
    """Combines the critics into one estimate, choice by choice.

    ``"min"`` is pessimistic, against overestimation (Fujimoto et al. 2018, 1802.09477). With discrete actions it
    tends to underestimate, and ``"mean"`` often does better (Zhou et al. 2022, 2209.10081).

    Args:
        values: ``[C, ...]``.
        critics: ``"min"`` or ``"mean"``.
    """
    return values.amin(0) if critics == "min" else values.mean(0)


def soft_value(policy: FactoredCategorical, values: Tensor, ent_coef: Tensor, *, entropy: bool = True) -> Tensor:
    r"""The value of a state under the policy, an exact expectation.

    .. math:: V(s) = \sum_a \pi(a | s)\, (Q(s, a) - \alpha \log \pi(a | s))

    Source: Christodoulou 2019 (1910.07207), Eq. 10.

    Args:
        policy: At the states ``[B]``.
        values: ``[B, n, K]``.
        ent_coef: Alpha, a scalar.
        entropy: Whether the entropy term is kept. Without it the critic predicts rewards alone, which several studies
            report to be more robust (2509.09838).

    Returns:
        ``[B]``.
    """
    if entropy:
        values = values - ent_coef * policy.finite_logits
    return q_value(values, policy.probs)


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
    error = (q - target).square()
    if q_clip is not None:
        if q_target is None:
            raise ValueError("q_clip needs q_target, the target networks' values at the actions taken.")
        old = q_target.detach()
        error = torch.maximum(error, (old + (q - old).clamp(-q_clip, q_clip) - target).square())
    return 0.5 * q.shape[0] * error.mean()


def actor_objective(values: Tensor, critics: CriticCombination) -> Objective:
    """What the actor maximises beside its entropy: the combined critics' value of one-hot matrices.

    Args:
        values: ``[C, B, n, K]``. Receive no gradient.
        critics: See :func:`combine_critics`.

    Returns:
        A function ``[M, B, n, K] -> [M, B]``.
    """
    combined = combine_critics(values.detach(), critics)
    return lambda one_hot: q_value(combined, one_hot)


def actor_loss(expected_q: Tensor, entropy: Tensor, ent_coef: Tensor) -> Tensor:
    r"""The loss of the policy, :math:`-\mathbb{E}_{D \sim \pi}[Q(s, D)] - \alpha\, \mathcal{H}(\pi(\cdot | s))`.

    The entropy is exact, whatever estimator gives the gradient of the expectation.

    Source: Christodoulou 2019 (1910.07207), Eq. 12.

    Args:
        expected_q: ``[B]``, what ``Estimator.expectation`` returned.
        entropy: ``[B]``, in nats.
        ent_coef: Alpha, a scalar. Receives no gradient.
    """
    return -(expected_q + ent_coef.detach() * entropy).mean()


def entropy_coefficient_loss(log_ent_coef: Tensor, entropy: Tensor, target_entropy: float | Tensor) -> Tensor:
    r"""The loss of the entropy coefficient, :math:`\log\alpha\, (\mathcal{H}(\pi(\cdot | s)) - \bar{\mathcal{H}})`.

    Its gradient raises alpha where the entropy is below the target.

    Source: Haarnoja et al. 2018 (1812.05905), Eq. 18, with log alpha in the place of alpha and the exact entropy.

    Args:
        log_ent_coef: A scalar.
        entropy: ``[B]``, in nats. Receives no gradient.
        target_entropy: In nats; a scalar or ``[B]``.
    """
    return (log_ent_coef * (entropy - target_entropy).detach()).mean()


class EntropyCoefficient(nn.Module):
    """SAC's alpha, learned or fixed; calling it returns a positive scalar tensor.

    Args:
        value: Its value at the start.
        learned: Whether its logarithm is a parameter or a buffer.

    Attributes:
        learned: The same; ``torch.func.functional_call`` puts plain tensors in the place of parameters.

    Raises:
        ValueError: ``value`` is negative, or zero while learned.
    """

    log_value: Tensor

    def __init__(self, value: float = 1.0, *, learned: bool = True) -> None:
        super().__init__()
        if not (value > 0 or (value == 0 and not learned)):
            raise ValueError(f"the entropy coefficient must be positive (or 0 where it is fixed), but got {value}.")
        self.learned = learned
        log_value = torch.tensor(float(value)).log()
        if learned:
            self.log_value = nn.Parameter(log_value)
        else:
            self.register_buffer("log_value", log_value)

    def forward(self) -> Tensor:
        """Alpha, without gradient: :func:`entropy_coefficient_loss` works on its logarithm."""
        return self.log_value.detach().exp()


class SACLoss(nn.Module):
    """The loss of discrete soft actor-critic, as one function of its parameters, a batch and noise.

    Actor, critics and entropy coefficient are learned from one batch at once: no gradient crosses from one to another,
    so that one backward pass serves all three.

    Args:
        actor: Maps observations to a :class:`FactoredCategorical` with batch shape ``[B]``.
        critic: Maps observations to values ``[C, B, n, K]``.
        critic_target: The same, slowly following ``critic``; its parameters must not require gradients.
        entropy_coefficient: Alpha.
        estimator: Gives the actor's gradient.
        critics: How the critics are combined, in the target and for the actor, see :func:`combine_critics`.
        entropy_in_target: Whether the critic's target holds the entropy, see :func:`soft_value`.
        q_clip: See :func:`critic_loss`.
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
    ) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic
        self.critic_target = critic_target
        self.entropy_coefficient = entropy_coefficient
        self.estimator = estimator
        self.critics = critics
        self.entropy_in_target = entropy_in_target
        self.q_clip = q_clip

    def forward(
        self, batch: ReplayBatch, noise: Noise, target_entropy: float | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss, a scalar, and what there is to know about it: unreduced tensors, without gradients.

        Args:
            batch: Of ``B`` transitions.
            noise: What ``estimator.draw_noise`` returned for a policy ``[B, n, K]``.
            target_entropy: In nats, see :func:`entropy_coefficient_loss`.
        """
        ent_coef = self.entropy_coefficient()

        with torch.no_grad():
            next_values = combine_critics(self.critic_target(batch.next_observations), self.critics)
            next_policy = self.actor(batch.next_observations)
            next_value = soft_value(next_policy, next_values, ent_coef, entropy=self.entropy_in_target)
            target = soft_target(batch.rewards, batch.discounts, next_value)

        values = self.critic(batch.observations)
        taken = values.new_zeros(values.shape[1:]).scatter(-1, batch.actions.unsqueeze(-1), 1.0)
        q = q_value(values, taken)
        q_target = None
        if self.q_clip is not None:
            with torch.no_grad():
                q_target = q_value(self.critic_target(batch.observations), taken)
        loss_critic = critic_loss(q, target, q_target=q_target, q_clip=self.q_clip)

        policy = self.actor(batch.observations)
        expected_q = self.estimator.expectation(policy, actor_objective(values, self.critics), noise)
        entropy = policy.entropy()
        loss_actor = actor_loss(expected_q, entropy, ent_coef)

        loss = loss_critic + loss_actor
        metrics = {
            "actor_loss": loss_actor,
            "critic_loss": loss_critic,
            "ent_coef": ent_coef,
            "entropy": entropy,
            "expected_q": expected_q,
            "q": q,
            "target": target,
        }
        if self.entropy_coefficient.learned:
            loss_ent_coef = entropy_coefficient_loss(self.entropy_coefficient.log_value, entropy, target_entropy)
            loss = loss + loss_ent_coef
            metrics["ent_coef_loss"] = loss_ent_coef
        return loss, {name: value.detach() for name, value in metrics.items()}
