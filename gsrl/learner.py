"""The learner: one loss, one backward pass, Adam, Polyak averaging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Learner", "adam_", "clip_by_norm_"]


@torch.no_grad()
def adam_(
    parameters: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    count: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """One step of Adam, in place.

    Source: Kingma & Ba 2015 (1412.6980), Algorithm 1; ``eps`` is added as in ``torch.optim.Adam``.

    Args:
        parameters: Written to, as are both averages.
        gradient: Of the same shape.
        exp_avg: First moment.
        exp_avg_sq: Second moment.
        count: Steps taken, this one included.
        learning_rate: Step size.
        betas: Decay of the two moments.
        eps: Added to the denominator.
    """
    beta1, beta2 = betas
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # Both bias corrections in the step size: m / (1 - b1) / (sqrt(v / (1 - b2)) + eps), times sqrt(1 - b2) twice.
    correction = (1 - beta2**count) ** 0.5
    # The bound is lost beside eps. Without it the square root of zeros and denormals, of units that never fire or of
    # choices that are never drawn, takes up to 25 times as long.
    denominator = exp_avg_sq.clamp_min(1e-36).sqrt_().add_(eps * correction)
    parameters.addcdiv_(exp_avg, denominator, value=-learning_rate * correction / (1 - beta1**count))


def clip_by_norm_(gradient: Tensor, max_norm: float) -> Tensor:
    """Scales a gradient in place so that its 2-norm is at most ``max_norm``; returns the norm it had."""
    norm = gradient.norm()
    gradient.mul_((max_norm / (norm + 1e-6)).clamp_max(1.0))
    return norm


class Learner:
    """Minimises a loss: its parameters, their targets and the optimiser's state.

    ``loss(*args)`` is a module that returns a scalar and a dict of metrics, a pure function of its parameters and
    arguments. Its direct children (actor, critic, ...) are clipped apart, each by its own norm.

    The parameters become views of one flat tensor, as do the targets and both moments: small networks have many small
    tensors, and a pass over each costs more than its arithmetic. (Hence ``torch.save`` of one module's state dict
    writes the storage of all; ``gsrl.checkpoint`` does not.) Frozen parameters stay as they are.

    Args:
        loss: Every parameter that requires a gradient is trained. Must be on its final device.
        targets: Pairs of names (source, target) of children of ``loss``, of equal structure: a target follows its
            source.
        betas: Adam's decay rates.
        eps: Adam's epsilon.
        max_grad_norm: Largest norm of the gradient of each child of ``loss``; None: no clipping.
    """

    def __init__(
        self,
        loss: nn.Module,
        targets: Sequence[tuple[str, str]] = (),
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_grad_norm: float | None = None,
    ) -> None:
        self.loss = loss
        self.betas = betas
        self.eps = eps
        self.max_grad_norm = max_grad_norm
        self.count = 0
        self._named = {name: p for name, p in loss.named_parameters() if p.requires_grad}
        self._flat = _flatten_(self._named.values())
        self._exp_avg, self._exp_avg_sq = torch.zeros_like(self._flat), torch.zeros_like(self._flat)
        self._gradient = torch.zeros_like(self._flat)
        self._groups = _groups(self._named)
        self._targets: list[tuple[Tensor, Tensor]] = []
        self._target_buffers: list[tuple[Tensor, Tensor]] = []
        self._gradient_views = list(self._tree(self._gradient).values())
        self._parameters = list(self._named.values())
        self._pointers = [p.data_ptr() for p in self._parameters]
        self._norms: dict[str, Tensor] = {}
        for source, target in targets:
            slow = loss.get_submodule(target)
            followers = [slow.get_parameter(name[len(source) + 1 :]) for name in self._named if _child(name) == source]
            self._targets.append((self._flat[self._groups[source]], _flatten_(followers)))
            self._target_buffers.extend(zip(loss.get_submodule(source).buffers(), slow.buffers(), strict=True))

    def update(self, *args: Any, learning_rate: float, tau: float) -> dict[str, Tensor]:
        """One update of the parameters and of the targets.

        Args:
            *args: Arguments of the loss.
            learning_rate: Adam's step size.
            tau: Polyak's coefficient: a target moves this share of the way to its source; 0 leaves it.

        Returns:
            The metrics of the loss, from before the update.

        Raises:
            RuntimeError: The parameters were moved elsewhere since the learner was made.
        """
        if [p.data_ptr() for p in self._parameters] != self._pointers:
            raise RuntimeError("the parameters were moved or replaced after the learner was made: make a new learner.")
        loss, metrics = self.loss(*args)
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        torch._foreach_copy_(self._gradient_views, gradients)
        self.count += 1
        if self.max_grad_norm is not None:
            for name, group in self._groups.items():
                self._norms[name] = clip_by_norm_(self._gradient[group], self.max_grad_norm)
        adam_(
            self._flat,
            self._gradient,
            self._exp_avg,
            self._exp_avg_sq,
            self.count,
            learning_rate,
            self.betas,
            self.eps,
        )
        if tau > 0:
            for source, target in self._targets:
                target.lerp_(source, tau)
            for source, target in self._target_buffers:
                target.copy_(source)
        return metrics

    def gradient_norms(self) -> dict[str, Tensor]:
        """Norm of the last gradient of each child of the loss, before clipping; zeros before the first update."""
        return self._norms or {name: self._gradient[group].norm() for name, group in self._groups.items()}

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state: moments by parameter name, and the number of updates."""
        return {"count": self.count, "exp_avg": self._tree(self._exp_avg), "exp_avg_sq": self._tree(self._exp_avg_sq)}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Restores :meth:`state_dict`, in place.

        Args:
            state: From a learner of the same parameters.
            strict: Whether every parameter must be there; otherwise those that are missing keep their moments.

        Raises:
            KeyError: A parameter is missing or unknown.
        """
        for name, flat in (("exp_avg", self._exp_avg), ("exp_avg_sq", self._exp_avg_sq)):
            moments = self._tree(flat)
            unknown, missing = state[name].keys() - moments.keys(), moments.keys() - state[name].keys()
            if unknown or (strict and missing):
                raise KeyError(
                    f"{name} does not fit the parameters: missing {sorted(missing)}, unknown {sorted(unknown)}."
                )
            for key, value in state[name].items():
                moments[key].copy_(value)
        self.count = int(state["count"])

    def _tree(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat tensor as views of the parameters' shapes, by name."""
        pieces = flat.split([p.numel() for p in self._named.values()])
        return {name: piece.view(p.shape) for (name, p), piece in zip(self._named.items(), pieces, strict=True)}


def _flatten_(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Moves parameters into one flat tensor, of which they become views."""
    parameters = list(parameters)
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    for p, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.data = piece.view(p.shape)
    return flat


def _child(name: str) -> str:
    """The child of the loss that a parameter belongs to."""
    return name.split(".")[0]


def _groups(named: Mapping[str, Tensor]) -> dict[str, slice]:
    """Where the parameters of each child lie in the flat tensor."""
    groups: dict[str, slice] = {}
    stop = 0
    for name, p in named.items():
        child = _child(name)
        start = groups[child].start if child in groups else stop
        stop += p.numel()
        groups[child] = slice(start, stop)
    return groups
