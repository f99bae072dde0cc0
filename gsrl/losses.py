r"""Losses of discrete soft actor-critic and of REINFORCE, as pure functions of tensors.

Every loss is a mean over the batch alone. Shapes: ``B`` is the batch, ``C`` the critics, ``n`` factors of ``K``
choices. What critics say of one-hot matrices is the business of :mod:`gsrl.values`. Each factor has an entropy, an
entropy coefficient and a target entropy of its own.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gsrl._shapes import Float
from gsrl.distributions import FactoredCategorical

__all__ = [
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

_MOVED = {
    **dict.fromkeys(("EntropyCoefficient", "SACLoss"), "gsrl.algorithms.sac_loss"),
    **dict.fromkeys(("PolicyBatch", "ReinforceLoss", "ValueLoss"), "gsrl.algorithms.reinforce_loss"),
}
"""Modules, by where they are now; these names go with the next version."""


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"gsrl.losses.{name} is now {_MOVED[name]}.{name}.", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(_MOVED[name]), name)


def soft_target(
    rewards: Float[Tensor, "*batch"], discounts: Float[Tensor, "*batch"], next_value: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    r"""The n-step target of the critics, :math:`y = \sum_{j<m} \gamma^j r_{t+j} + \gamma^m (1 - d)\, V(s_{t+m})`.

    Biased for m > 1: the later actions are those of older policies, and the entropy bonus of the steps in between is
    left out (see :class:`gsrl.replay.ReplayBuffer`, which sums the rewards).

    Args:
        rewards: ``[B]``, discounted and summed.
        discounts: ``[B]``, gamma**m, or 0 after termination.
        next_value: ``[B]``.

    Example:
        >>> soft_target(torch.tensor([1.0]), torch.tensor([0.9]), torch.tensor([10.0]))
        tensor([10.])
    """
    return rewards + discounts * next_value


def lambda_target(
    rewards: Float[Tensor, "B N"],
    discounts: Float[Tensor, "B N"],
    next_values: Float[Tensor, "B N"],
    traces: Float[Tensor, "B N"],
) -> Float[Tensor, "B"]:
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

    Example:
        >>> rewards, discounts, values = torch.ones(1, 2), torch.full((1, 2), 0.5), torch.full((1, 2), 4.0)
        >>> lambda_target(rewards, discounts, values, torch.ones(1, 2))  # of two steps: 1 + .5 (1 + .5 * 4)
        tensor([2.5000])
        >>> lambda_target(rewards, discounts, values, torch.zeros(1, 2))  # of one: 1 + .5 * 4
        tensor([3.])
    """
    target = next_values[:, -1]
    for step in range(rewards.shape[1] - 1, -1, -1):
        value = next_values[:, step]
        target = rewards[:, step] + discounts[:, step] * (value + traces[:, step] * (target - value))
    return target


def policy_traces(policy: FactoredCategorical, taken: Float[Tensor, "*batch n K"]) -> Float[Tensor, "*batch"]:
    r"""How far actions that were taken may stand for the policy, :math:`\prod_i \min(1, k_i\, \pi(D_i | s))`, ``[B]``.

    With k legal choices, 1 for those that the policy takes at least as often as chance does, less for those that it
    has given up. That of a policy that is uniform is 1: its windows are whole.

    Args:
        policy: With batch shape ``[B]``.
        taken: One-hot, ``[B, n, K]``.

    Example:
        >>> policy = gsrl.FactoredCategorical(torch.tensor([[[0.0, 0.0]]]))  # one state, one factor, even odds
        >>> policy_traces(policy, torch.tensor([[[1.0, 0.0]]]))
        tensor([1.])
    """
    return (policy.mask.sum(-1) * (policy.probs * taken).sum(-1)).clamp_max(1.0).prod(-1)


def critic_loss(
    q: Float[Tensor, "C B"],
    target: Float[Tensor, "B"],
    *,
    q_target: Float[Tensor, "C B"] | None = None,
    q_clip: float | None = None,
) -> Float[Tensor, ""]:
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

    Example:
        >>> q = torch.tensor([[1.0, 3.0], [1.0, 3.0]])  # two critics, two transitions
        >>> critic_loss(q, torch.tensor([1.0, 1.0]))  # the sum of two means of 0 and 4 / 2
        tensor(2.)
    """
    target = target.detach()
    if q_clip is None:
        return 0.5 * q.shape[0] * F.mse_loss(q, target.expand_as(q))  # one node to differentiate instead of three
    if q_target is None:
        raise ValueError("q_clip needs q_target, the target networks' values at the actions taken.")
    old = q_target.detach()
    moved = old + (q - old).clamp(-q_clip, q_clip)
    return 0.5 * q.shape[0] * torch.maximum((q - target).square(), (moved - target).square()).mean()


def actor_loss(
    expected_q: Float[Tensor, "B"], entropy: Float[Tensor, "B n"], ent_coef: Float[Tensor, "*#batch n"]
) -> Float[Tensor, ""]:
    r"""The loss of the policy, :math:`-\mathbb{E}_{D \sim \pi}[Q(s, D)] - \sum_i \alpha_i\, \mathcal{H}(\pi_i(s))`.

    The entropy is exact, whatever estimator gives the gradient of the expectation.

    Source: Christodoulou 2019 (1910.07207), Eq. 12.

    Args:
        expected_q: ``[B]``, what ``Estimator.expectation`` returned.
        entropy: Of each factor, ``[B, n]``, in nats.
        ent_coef: Alpha, ``[n]`` or ``[B, n]``. Receives no gradient.

    Example:
        >>> actor_loss(torch.tensor([1.0]), torch.tensor([[0.5]]), torch.tensor([2.0]))  # -1 - 2 * .5
        tensor(-2.)
    """
    return -(expected_q + (ent_coef.detach() * entropy).sum(-1)).mean()


def entropy_coefficient_loss(
    log_ent_coef: Float[Tensor, "n"], entropy: Float[Tensor, "B n"], target_entropy: Float[Tensor, "*#batch #n"]
) -> Float[Tensor, ""]:
    r"""The loss of the alphas, :math:`\sum_i \log\alpha_i\, (\mathcal{H}(\pi_i(s)) - \bar{\mathcal{H}}_i)`.

    Its gradient raises the alpha of a factor where its entropy is below the target.

    Source: Haarnoja et al. 2018 (1812.05905), Eq. 18, with log alpha in the place of alpha and the exact entropy.

    Args:
        log_ent_coef: ``[n]``.
        entropy: Of each factor, ``[B, n]``, in nats. Receives no gradient.
        target_entropy: In nats; ``[n]`` or ``[B, n]``, or one number for all, ``[1]``. Receives no gradient.

    Example:
        >>> log_ent_coef = torch.zeros(1, requires_grad=True)
        >>> entropy_coefficient_loss(log_ent_coef, torch.tensor([[0.5]]), torch.tensor([0.25])).backward()
        >>> log_ent_coef.grad  # too much entropy: the coefficient falls
        tensor([0.2500])
    """
    return (log_ent_coef * (entropy.detach() - target_entropy).mean(0)).sum()


# REINFORCE. Episodes are rows ``[E, T]``, from their first step on, with zeros after their last.


def discounted_sums(terms: Float[Tensor, "*batch T"], discount: float) -> Float[Tensor, "*batch T"]:
    r"""Sums of what is to come, :math:`y_t = \sum_{k \ge 0} d^k x_{t+k}`: of rewards, the returns-to-go.

    In as many operations as the logarithm of T, each of which doubles how far the sums reach.

    Args:
        terms: x, ``[..., T]``.
        discount: d.

    Example:
        >>> discounted_sums(torch.ones(3), 0.5)
        tensor([1.7500, 1.5000, 1.0000])
    """
    sums, reach = terms, 1
    while reach < terms.shape[-1]:
        sums = sums + discount**reach * F.pad(sums[..., reach:], (0, reach))
        reach *= 2
    return sums


def gae(
    rewards: Float[Tensor, "E T"],
    values: Float[Tensor, "E T"],
    next_values: Float[Tensor, "E T"],
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "E T"]:
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

    Example:
        >>> gae(torch.ones(1, 3), torch.zeros(1, 3), torch.zeros(1, 3), gamma=0.5, gae_lambda=1.0)
        tensor([[1.7500, 1.5000, 1.0000]])
    """
    return discounted_sums(rewards + gamma * next_values - values, gamma * gae_lambda)


def leave_one_out(returns: Float[Tensor, "E T"]) -> Float[Tensor, "E T"]:
    r"""The mean of the other episodes' returns-to-go at the same time, where those that are over count as 0.

    .. math:: b_{e,t} = \frac{1}{E - 1} \sum_{e' \neq e} R_{e',t}

    As a baseline it leaves the gradient unbiased, for episodes are independent. With it the gradient of a decision is
    that of :class:`gsrl.estimators.RLOO`, whose samples are the episodes.

    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".

    Args:
        returns: R, ``[E, T]``, with zeros after the end of an episode; of a single one, 0 is returned.

    Example:
        >>> leave_one_out(torch.tensor([[1.0], [2.0], [6.0]]))
        tensor([[4.0000],
                [3.5000],
                [1.5000]])
    """
    return (returns.sum(0) - returns) / max(returns.shape[0] - 1, 1)
