"""Features extractors that choose, for Stable-Baselines3's algorithms and ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from gsrl._validation import is_concrete
from gsrl.algorithms.extractors import image_layout
from gsrl.checkpoint import register
from gsrl.perception.masks import make_pathwise
from gsrl.perception.pruning import TokenPruner, VisionTransformer

__all__ = ["TokenPruningExtractor", "attach_loss"]


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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
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


@register("gsrl.perception.TokenPruningExtractor")
class TokenPruningExtractor(BaseFeaturesExtractor):
    """A vision transformer that drops tokens, as a features extractor of images.

    By default the choice has no noise, ``"top-k"``: PPO compares what a policy says when it acts with what it says when
    it learns, and with noise in the features its ratio would not start at 1. With noise, ``"subset"`` and
    ``"independent"``: this library's trainers draw it, see :mod:`gsrl.learning.noise`; under Stable-Baselines3's own
    algorithms it comes from the extractor's generator, where there is a ``seed`` and gradients are on. Wherever there
    is none, features are deterministic.

    Example::

        kwargs = {"features_extractor_class": TokenPruningExtractor, "features_extractor_kwargs": {"patch": 2}}
        model = PPO("CnnPolicy", env, policy_kwargs=kwargs)

    Args:
        observation_space: A ``Box`` of three dimensions, channels first or last.
        features_dim: Size of the features.
        patch: Side of a patch in pixels, which divides height and width.
        width: Of a token; this and what follows, see :class:`gsrl.perception.pruning.VisionTransformer`.
        depth: Blocks.
        heads: Of the attention, a divisor of the width.
        mlp_ratio: Hidden width of a block's perceptron, in units of ``width``.
        stem: How patches become tokens, ``"conv"`` or ``"linear"``.
        stages: Numbers of the blocks before which tokens are dropped.
        shares: Of all tokens, what remains after each.
        choose: See :class:`gsrl.perception.pruning.TokenPruner`.
        estimator: Name of the pathwise estimator of the choice.
        temperature: Of the relaxation.
        ratio_weight: Weight of the loss of the shares, of ``"independent"``.
        seed: Of the extractor's own noise; None: it draws none.
        normalized_image: Unused; Stable-Baselines3 gives it to extractors of images.

    Raises:
        ValueError: The space holds no images, or a setting does not fit.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        features_dim: int = 128,
        patch: int = 2,
        width: int = 32,
        depth: int = 2,
        heads: int = 2,
        mlp_ratio: float = 2.0,
        stem: Literal["conv", "linear"] = "conv",
        stages: Sequence[int] = (0,),
        shares: Sequence[float] = (0.25,),
        choose: Literal["subset", "independent", "top-k"] = "top-k",
        estimator: str = "st-gumbel",
        temperature: float = 1.0,
        ratio_weight: float = 2.0,
        seed: int | None = None,
        normalized_image: bool = False,
    ) -> None:
        if len(stages) != len(shares):
            raise ValueError(f"shares must be as many as stages, {tuple(stages)}, but got {tuple(shares)}.")
        channels_last, shape = image_layout(observation_space)
        super().__init__(observation_space, features_dim)
        self.channels_last, self.ratio_weight = channels_last, ratio_weight
        network = VisionTransformer(shape, patch, width, depth, heads, mlp_ratio, features_dim, stem)
        kept = dict(zip(stages, shares, strict=True))
        self.pruner = TokenPruner(network, kept, choose, make_pathwise(estimator, temperature))
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def forward(self, observations: Tensor) -> Tensor:
        """Maps images ``[B, *shape]`` to features ``[B, features_dim]``, with the loss of the shares attached."""
        images = observations.movedim(-1, 1) if self.channels_last else observations
        is_noisy = self.pruner.noise is not None
        if not is_noisy and self._generator is not None and torch.is_grad_enabled() and is_concrete(images):
            pruned = self.pruner(images, generator=self._generator)
        else:
            pruned = self.pruner(images, deterministic=not is_noisy)
        if self.pruner.choose != "independent" or not torch.is_grad_enabled():
            return pruned.outputs
        return attach_loss(pruned.outputs, self.ratio_weight * pruned.loss)
