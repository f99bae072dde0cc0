"""Estimators by the score function: REINFORCE and its leave-one-out form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gsrl._shapes import Float
from gsrl.distributions import FactoredCategorical
from gsrl.estimators.base import Estimator, Objective, evaluate, gradient_only

__all__ = ["RLOO", "ReinforceEstimator", "ScoreFunction"]

BASELINE_DECAY = 0.99
"""Decay of the running mean of REINFORCE, an update."""


class ScoreFunction(Estimator):
    """An unbiased estimator that needs only values of ``f`` and log-probabilities, also of decisions in sequence.

    Example:
        >>> policy = gsrl.FactoredCategorical(torch.zeros(5, 1, 3, requires_grad=True))
        >>> estimator = ReinforceEstimator()
        >>> one_hot, log_prob = estimator.draw(policy)
        >>> one_hot.shape, log_prob.shape
        (torch.Size([5, 1, 3]), torch.Size([5]))
    """

    biased = False

    def draw(
        self,
        policy: FactoredCategorical,
        noise: Float[Tensor, "*batch n K"] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "*batch n K"], Float[Tensor, "*batch"]]:
        """Draws a decision, for :meth:`surrogate` once its cost is known.

        Args:
            policy: Distribution with batch shape ``[*batch]`` and event shape ``(n, K)``.
            noise: Gumbel noise ``[*batch, n, K]``; drawn if None.
            generator: Source of the noise if none is given; torch's default one if None.

        Returns:
            The one-hot sample ``[*batch, n, K]`` and its log-probability ``[*batch]``.
        """
        one_hot = policy.sample(noise=noise, generator=generator)
        return one_hot, policy.log_prob(one_hot)

    @abstractmethod
    def surrogate(
        self, cost: Float[Tensor, "*batch"], log_probs: Float[Tensor, "*batch"] | Sequence[Float[Tensor, "*batch"]]
    ) -> Float[Tensor, "*batch"]:
        """Turns costs and log-probabilities into a value whose ``backward`` is the estimate.

        Args:
            cost: ``[*batch]``, the cost of all that was decided. Its own gradient, if any, is kept.
            log_probs: Log-probability of the decision, ``[*batch]``, or one for each decision in the sequence; later
                ones may depend on earlier choices.

        Returns:
            The cost itself, with the gradient added.
        """


def _joint(log_probs: Tensor | Sequence[Tensor]) -> Tensor:
    return log_probs if isinstance(log_probs, Tensor) else torch.stack(list(log_probs)).sum(0)


class ReinforceEstimator(ScoreFunction):
    r"""REINFORCE with a baseline that does not depend on the sample.

    .. math:: \hat g = (f(D) - b)\, \nabla_\theta \log P_\theta(D)

    Unbiased. One call of ``f``, which need not be differentiable. High variance: the baseline is what makes it usable.

    Source: Williams 1992, "Simple statistical gradient-following algorithms", Theorem 1.

    Args:
        baseline: ``"none"``; ``"running-mean"``, an exponential mean of past costs that :meth:`step` advances; or a
            callable that maps the policy to ``[*batch]`` (what it captured, observations for one, is its own affair).
            It may leave out leading dimensions, along which it is then the same: :func:`gsrl.diagnostics.compare` adds
            one to the policy, which a network of captured observations cannot know.

    Raises:
        ValueError: Another baseline.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> ReinforceEstimator("running-mean").expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "reinforce"
    source = "Williams 1992 Theorem 1"

    total: Tensor
    weight: Tensor

    def __init__(
        self, baseline: Literal["none", "running-mean"] | Callable[[FactoredCategorical], Tensor] = "none"
    ) -> None:
        super().__init__()
        if not callable(baseline) and baseline not in ("none", "running-mean"):
            raise ValueError(f"baseline must be 'none', 'running-mean' or a callable, but got {baseline!r}.")
        self.baseline = baseline
        if baseline == "running-mean":
            self.register_buffer("total", torch.zeros(()))
            self.register_buffer("weight", torch.zeros(()))

    def calls(self, n: int, K: int) -> int:
        """1: the sample."""
        return 1

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Tensor) -> Tensor:
        one_hot, log_prob = self.draw(policy, noise)
        cost = evaluate(f, one_hot.unsqueeze(0)).squeeze(0)
        if not callable(self.baseline):
            return cost + gradient_only(cost - self._constant_baseline(), log_prob)
        baseline = self.baseline(policy)
        if baseline.shape != cost.shape[max(0, cost.dim() - baseline.dim()) :]:
            raise ValueError(
                f"baseline must return shape [*batch], {tuple(cost.shape)}, or its last dimensions, "
                f"but returned shape {tuple(baseline.shape)}."
            )
        return cost + gradient_only(cost - baseline, log_prob)

    def surrogate(
        self, cost: Float[Tensor, "*batch"], log_probs: Float[Tensor, "*batch"] | Sequence[Float[Tensor, "*batch"]]
    ) -> Float[Tensor, "*batch"]:
        """See :meth:`ScoreFunction.surrogate`.

        Raises:
            ValueError: The baseline is a callable, which needs a policy; a sequence of decisions has several.
        """
        if callable(self.baseline):
            raise ValueError("surrogate has no policy to call baseline with: use 'none' or 'running-mean' here.")
        return cost + gradient_only(cost - self._constant_baseline(), _joint(log_probs))

    def step(self, cost: Float[Tensor, "..."]) -> None:
        """Takes the mean of ``cost`` into the running mean, if that is the baseline."""
        if self.baseline == "running-mean":
            self.total.mul_(BASELINE_DECAY).add_((1 - BASELINE_DECAY) * cost.detach().mean())
            self.weight.mul_(BASELINE_DECAY).add_(1 - BASELINE_DECAY)

    @property
    def settings(self) -> dict[str, Any]:
        """The baseline."""
        return {"baseline": self.baseline}

    def _constant_baseline(self) -> Tensor | float:
        if self.baseline == "none":
            return 0.0
        # The weight corrects the start from 0, as in Adam; before the first step both are 0.
        return self.total / self.weight.clamp_min(1 - BASELINE_DECAY)


class RLOO(ScoreFunction):
    r"""REINFORCE, leave one out: the baseline of a sample is the mean of the others (VarGrad for the ELBO).

    .. math:: \hat g = \frac{1}{m - 1} \sum_{i=1}^{m} (f(D_i) - \bar f)\, \nabla_\theta \log P_\theta(D_i)

    Unbiased. ``m`` calls of ``f`` in one batch. The choice when ``f`` is not differentiable and may be called again.

    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Richter et al. 2020 (2010.10436);
    written out in Ahmadian et al. 2024 (2402.14740), Section 2.3.

    Args:
        num_samples: ``m``, at least 2.

    Raises:
        ValueError: ``num_samples`` is below 2.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> RLOO(num_samples=4).expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "rloo"
    source = "Kool et al. 2019; 2010.10436"

    def __init__(self, num_samples: int = 10) -> None:
        super().__init__()
        if num_samples < 2:
            raise ValueError(f"num_samples must be at least 2, for a sample needs another one, but got {num_samples}.")
        self.num_samples = num_samples

    def calls(self, n: int, K: int) -> int:
        """``m``: the samples."""
        return self.num_samples

    def noise_shape(self, policy: FactoredCategorical) -> tuple[int, ...]:
        """``[m, *batch, n, K]``: noise of every sample."""
        return (self.num_samples, *policy.logits.shape)

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Tensor) -> Tensor:
        one_hot, log_prob = self.draw(policy.expand((self.num_samples, *policy.batch_shape)), noise)
        return self.surrogate(evaluate(f, one_hot), log_prob)

    def surrogate(
        self,
        cost: Float[Tensor, "m *batch"],
        log_probs: Float[Tensor, "m *batch"] | Sequence[Float[Tensor, "m *batch"]],
    ) -> Float[Tensor, "*batch"]:
        """See :meth:`ScoreFunction.surrogate`: here the leading dimension holds samples of the same decisions.

        Args:
            cost: ``[m, *batch]``, any ``m`` of at least 2.
            log_probs: ``[m, *batch]``, or one for each decision in the sequence.

        Returns:
            The mean cost ``[*batch]``, with the gradient added.

        Raises:
            ValueError: The leading dimension is below 2.
        """
        num_samples = cost.shape[0] if cost.dim() else 0
        if num_samples < 2:
            raise ValueError(f"cost must have shape [m, *batch] with m >= 2, but got shape {tuple(cost.shape)}.")
        advantage = (cost - cost.mean(0)) * (num_samples / (num_samples - 1))
        return (cost + gradient_only(advantage, _joint(log_probs))).mean(0)

    @property
    def settings(self) -> dict[str, Any]:
        """The number of samples."""
        return {"num_samples": self.num_samples}
