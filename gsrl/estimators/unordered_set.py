"""The unordered-set estimator: samples without replacement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gsrl.distributions import FactoredCategorical
from gsrl.estimators.base import Estimator, Objective, evaluate, gradient_only
from gsrl.relaxations import NEVER
from gsrl.subsets import MAX_SUBSET, log_continuations

__all__ = ["UnorderedSet"]


class UnorderedSet(Estimator):
    r"""The unordered-set estimator, with its built-in baseline: ``m`` different configurations, drawn at once.

    .. math:: \hat g = \sum_{s \in S} \nabla_\theta p_s\, R_s
              \Big(f_s - \sum_{s' \in S} p_{s'} R_{s,s'} f_{s'}\Big), \qquad
              R_s = \frac{P_{\{s\}}(S \setminus s)}{P(S)}, \quad
              R_{s,s'} = \frac{P_{\{s,s'\}}(S \setminus \{s, s'\})}{P_{\{s\}}(S \setminus s)}, \quad R_{s,s} = 1

    S is drawn without replacement, and :math:`P_C(T)` is the probability that drawing ``|T|`` configurations from those
    outside C gives T. Unbiased; exact when S is everything. The value is :math:`\sum_s p_s R_s f_s`, unbiased too.
    ``m`` calls of ``f`` in one batch, which need no gradient. Use it in the place of ``rloo`` where a few
    configurations hold most of the probability: none is evaluated twice. :math:`1 - p(S)`, on which the weights depend,
    is summed over what was left out, and so keeps its precision however concentrated the policy is.

    A batch row with no more than ``m`` legal configurations is exact: S is all of them. Calls of ``f`` that are left
    over repeat the first draw, with weight 0.

    Configurations are joint ones, of all factors, found by stochastic beam search, factor by factor. The weights are
    sums over the :math:`2^m` subsets of S: ``m * 2**(m - 1)`` float64 numbers a batch row, 4 MiB at ``m = 16``.

    Source: Kool et al. 2020 (2002.06043), Eq. 17; stochastic beam search: Kool et al. 2019 (1903.06059).

    Args:
        num_samples: ``m``, from 2 to 16.

    Raises:
        ValueError: ``num_samples`` is out of range.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> UnorderedSet(num_samples=3).expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "unordered-set"
    biased = False
    source = "2002.06043"

    def __init__(self, num_samples: int = 10) -> None:
        super().__init__()
        if not 2 <= num_samples <= MAX_SUBSET:
            raise ValueError(f"num_samples must be from 2 to {MAX_SUBSET}, but got {num_samples}.")
        self.num_samples = num_samples

    def calls(self, n: int, K: int) -> int:
        """``m``, or ``K**n`` if that is less."""
        return min(self.num_samples, K**n)

    def noise_shape(self, policy: FactoredCategorical) -> tuple[int, ...]:
        """``[*batch, n, m, K]``: noise of every beam's children."""
        *batch, n, K = policy.logits.shape
        return (*batch, n, self.num_samples, K)

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Tensor) -> Tensor:
        one_hot, joint, rest = self._search(policy, noise)
        values = evaluate(f, one_hot)
        # Finite, where a configuration that is all but impossible fills up S: its weight is 0.
        log_prob = (one_hot * policy.finite_logits).sum((-2, -1))  # [m, *batch]

        continuations = log_continuations(joint, rest)  # from the subsets of S, as bit masks
        single = 1 << torch.arange(joint.shape[-1], device=noise.device)
        pair = single.unsqueeze(-1) | single
        alone = continuations[..., single]
        weights = (joint + alone - continuations[..., :1]).exp()  # p_s R_s, [*batch, m]
        pair_weights = (joint.unsqueeze(-2) + continuations[..., pair] - alone.unsqueeze(-1)).exp()  # p_s' R_{s,s'}
        fixed = values.detach().double().movedim(0, -1)
        baseline = (pair_weights * fixed.unsqueeze(-2)).sum(-1)
        advantage = (weights * (fixed - baseline)).movedim(-1, 0).to(log_prob.dtype)
        cost = (weights.movedim(-1, 0).to(values.dtype) * values).sum(0)
        return cost + gradient_only(advantage, log_prob).sum(0)

    @property
    def settings(self) -> dict[str, Any]:
        """The number of samples."""
        return {"num_samples": self.num_samples}

    def _search(self, policy: FactoredCategorical, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws ``m`` joint configurations without replacement, or all ``K**n`` if there are no more.

        Where fewer are legal, the first draw stands in the place of each that is missing, with log-probability
        ``NEVER``: :func:`log_continuations` then finds them to be drawn last, and weights to be those of everything.

        Returns:
            One-hot ``[m, *batch, n, K]``; their log-probabilities, finite float64 ``[*batch, m]``; and the
            log-probability of all other configurations together, float64 ``[*batch]``, ``-inf`` if there are none.
        """
        log_probs = policy.logits.detach().double().log_softmax(-1)
        n, K = policy.event_shape
        batch = policy.batch_shape
        total = log_probs.new_zeros(*batch, 1)  # log-probability of each beam
        perturbed = total  # and the same with the noise of the best configuration that begins so
        rest = torch.full_like(total[..., 0], -torch.inf)  # log-probability of what begins like none of them
        chosen = torch.zeros(*batch, 1, 0, dtype=torch.long, device=noise.device)  # [*batch, beams, factors so far]
        for i in range(n):
            beams = total.shape[-1]
            children = total.unsqueeze(-1) + log_probs[..., i, :].unsqueeze(-2)  # [*batch, beams, K]
            scores = _given_maximum(children + noise[..., i, :beams, :], perturbed.unsqueeze(-1)).flatten(-2)
            perturbed, best = scores.topk(min(self.num_samples, beams * K))
            children = children.flatten(-2)
            total = children.gather(-1, best)
            rest = torch.logaddexp(rest, children.scatter(-1, best, -torch.inf).logsumexp(-1))
            parents = (best // K).unsqueeze(-1)
            kept = chosen.gather(-2, parents.expand(*parents.shape[:-1], i))
            chosen = torch.cat([kept, best.unsqueeze(-1) % K], -1)
        missing = total.isneginf()
        chosen = torch.where(missing.unsqueeze(-1), chosen[..., :1, :], chosen)
        one_hot = torch.zeros(*chosen.shape, K, dtype=policy.logits.dtype, device=noise.device)
        return one_hot.scatter(-1, chosen.unsqueeze(-1), 1.0).movedim(-3, 0), total.clamp_min(NEVER), rest


def _given_maximum(scores: Tensor, maximum: Tensor) -> Tensor:
    """Gumbel variables ``[..., K]`` shifted so that their largest is ``maximum`` ``[..., 1]``, in a stable form.

    Source: Kool et al. 2019 (1903.06059), Appendix B.3.
    """
    largest = scores.amax(-1, keepdim=True)
    difference = maximum - scores + torch.log(-torch.expm1(scores - largest))
    shifted = maximum - difference.clamp_min(0) - torch.log1p((-difference.abs()).exp())
    # A beam that is itself impossible has no maximum to shift to.
    return torch.where(maximum.isneginf() | scores.isneginf(), -torch.inf, shifted)
