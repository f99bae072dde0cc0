"""Features extractors that choose, for Stable-Baselines3's algorithms and ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["attach_loss"]


class _Attached(torch.autograd.Function):
    """Features, whose backward pass also begins that of a loss."""

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor, loss: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.dtype = inputs[1].dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return gradient, torch.ones((), dtype=ctx.dtype, device=gradient.device)


def attach_loss(features: Tensor, loss: Tensor) -> Tensor:
    """Returns features whose ``backward`` also adds the gradient of a loss, once, whatever becomes of the features.

    Stable-Baselines3's algorithms ask a features extractor for features and for nothing else. So a loss of the
    extractor's own goes with these: a pass back through them has the gradient of what was made of them, and that of
    ``loss`` with weight 1. Where several things are made of the features, and are differentiated together, it is added
    once; where no gradient reaches the features, not at all.

    Example::

        return attach_loss(features, 0.1 * penalty)

    Args:
        features: Of any shape.
        loss: A scalar; under ``torch.func.vmap`` one of each member.

    Raises:
        ValueError: ``loss`` is not a scalar.
    """
    if loss.dim() != 0:
        raise ValueError(f"loss must be a scalar, but got shape {tuple(loss.shape)}.")
    attached: Tensor = _Attached.apply(features, loss)
    return attached
