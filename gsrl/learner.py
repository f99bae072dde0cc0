"""The learner: one loss, one backward pass, Adam, Polyak averaging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Learner", "adam_", "clip_by_norm_"]


def adam_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    count: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """One step of Adam, in place, on all tensors at once.

    Source: Kingma & Ba 2015 (1412.6980), Algorithm 1; ``eps`` is added as in ``torch.optim.Adam``.

    Args:
        parameters: Written to, and so are both averages.
        gradients: One of each parameter's shape.
        exp_avg: First moments.
        exp_avg_sq: Second moments.
        count: Steps taken, this one included.
        learning_rate: Step size.
        betas: Decay of the two moments.
        eps: Added to the denominator.
    """
    beta1, beta2 = betas
    torch._foreach_lerp_(exp_avg, gradients, 1 - beta1)
    torch._foreach_mul_(exp_avg_sq, beta2)
    torch._foreach_addcmul_(exp_avg_sq, gradients, gradients, 1 - beta2)
    denominator = torch._foreach_sqrt(exp_avg_sq)
    torch._foreach_div_(denominator, (1 - beta2**count) ** 0.5)
    torch._foreach_add_(denominator, eps)
    torch._foreach_addcdiv_(parameters, exp_avg, denominator, -learning_rate / (1 - beta1**count))


def clip_by_norm_(gradients: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scales gradients in place so that their joint 2-norm is at most ``max_norm``; returns the norm they had."""
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp_max(1.0))
    return norm


class Learner:
    """Minimises a loss: its parameters, their targets and the optimiser's state.

    ``loss(*args)`` is a module that returns a scalar and a dict of metrics, and is a pure function of its parameters and
    arguments. Its direct children (actor, critic, ...) are clipped apart, each by its own norm.

    Args:
        loss: Every parameter that requires a gradient is trained.
        targets: Pairs of modules (source, target) of equal structure; a target follows its source.
        betas: Adam's decay rates.
        eps: Adam's epsilon.
        max_grad_norm: Largest norm of the gradient of each child of ``loss``; None: no clipping.
    """

    def __init__(
        self,
        loss: nn.Module,
        targets: Sequence[tuple[nn.Module, nn.Module]] = (),
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_grad_norm: float | None = None,
    ) -> None:
        self.loss = loss
        self.betas = betas
        self.eps = eps
        self.max_grad_norm = max_grad_norm
        named = {name: p for name, p in loss.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        self.exp_avg = {name: torch.zeros_like(p) for name, p in named.items()}
        self.exp_avg_sq = {name: torch.zeros_like(p) for name, p in named.items()}
        self.count = 0
        self._gradients: list[Tensor] = []
        self._groups: dict[str, list[int]] = {}
        for index, name in enumerate(named):
            self._groups.setdefault(name.split(".")[0], []).append(index)
        self._sources = [p for source, _ in targets for p in source.parameters()]
        self._targets = [p for _, target in targets for p in target.parameters()]
        self._buffers = [
            pair for source, target in targets for pair in zip(target.buffers(), source.buffers(), strict=True)
        ]

    def update(self, *args: Any, learning_rate: float, tau: float) -> dict[str, Tensor]:
        """One update of the parameters and of the targets.

        Args:
            *args: Arguments of the loss.
            learning_rate: Adam's step size.
            tau: Polyak's coefficient: a target moves this share of the way to its source; 0 leaves it.

        Returns:
            The metrics of the loss, from before the update.
        """
        loss, metrics = self.loss(*args)
        gradients = list(torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True))
        self._gradients = gradients
        self.count += 1
        with torch.no_grad():
            if self.max_grad_norm is not None:
                for group in self._groups.values():
                    clip_by_norm_([gradients[i] for i in group], self.max_grad_norm)
            adam_(
                self.parameters,
                gradients,
                list(self.exp_avg.values()),
                list(self.exp_avg_sq.values()),
                self.count,
                learning_rate,
                self.betas,
                self.eps,
            )
            if tau > 0 and self._targets:
                torch._foreach_lerp_(self._targets, self._sources, tau)
                for target, source in self._buffers:
                    target.copy_(source)
        return metrics

    def gradient_norms(self) -> dict[str, Tensor]:
        """Norm of the last gradient of each child of the loss, after clipping; empty before the first update."""
        if not self._gradients:
            return {}
        return {
            name: torch.stack(torch._foreach_norm([self._gradients[i] for i in group])).norm()
            for name, group in self._groups.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state: moments by parameter name, and the number of updates. Parameters are the modules' own."""
        return {"count": self.count, "exp_avg": dict(self.exp_avg), "exp_avg_sq": dict(self.exp_avg_sq)}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Restores :meth:`state_dict`, in place.

        Args:
            state: From a learner of the same parameters.
            strict: Whether every parameter must be there; otherwise those that are missing keep their moments.

        Raises:
            KeyError: A parameter is missing or unknown.
        """
        for name, moments in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            unknown, missing = state[name].keys() - moments.keys(), moments.keys() - state[name].keys()
            if unknown or (strict and missing):
                raise KeyError(f"{name} does not fit the parameters: missing {sorted(missing)}, unknown {sorted(unknown)}.")
            for key, value in state[name].items():
                moments[key].copy_(value)
        self.count = int(state["count"])
