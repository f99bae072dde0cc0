"""The losses of REINFORCE: of the policy, with and without a control variate, and of its baseline."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Objective, ReinforceEstimator, RelaxedControl
from gsrl.relaxations import conditional_gumbel

__all__ = ["PolicyBatch", "ReinforceLoss", "ValueLoss"]


class PolicyBatch(NamedTuple):
    """What a policy gradient is made of: B decisions.

    Example:
        >>> batch = PolicyBatch(torch.zeros(2, 4), torch.tensor([[0], [1]]), torch.tensor([1.0, -1.0]))
        >>> batch.actions.shape  # two decisions of one factor
        torch.Size([2, 1])
        >>> batch.action_mask is None  # all choices are legal
        True
    """

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

    Example:
        >>> logits = torch.zeros(1, 1, 2, requires_grad=True)  # one factor, even odds
        >>> class Actor(nn.Module):
        ...     def forward(self, observations, mask):
        ...         return FactoredCategorical(logits)
        >>> batch = PolicyBatch(torch.zeros(1, 4), torch.tensor([[0]]), advantages=torch.tensor([3.0]))
        >>> ReinforceLoss(Actor())(batch)[0].backward()
        >>> logits.grad  # -3 times that of log .5: the action taken becomes more probable
        tensor([[[-1.5000,  1.5000]]])
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
            surrogate = ReinforceEstimator().surrogate(cost, policy.log_prob(taken))
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

    Example:
        >>> critic = torch.nn.Flatten(0)  # one that tells its observations
        >>> loss, _ = ValueLoss(critic)(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
        >>> loss  # half the mean of 0 and 4
        tensor(1.)
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
