"""Features extractors that choose, for Stable-Baselines3's algorithms and ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from gsrl._validation import check_count, is_concrete, is_number
from gsrl.algorithms.extractors import SmallCNN, image_layout
from gsrl.checkpoint import register
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Noise, Pathwise
from gsrl.perception.latents import CategoricalVAE
from gsrl.perception.masks import make_pathwise
from gsrl.perception.pruning import TokenPruner, VisionTransformer
from gsrl.relaxations import replace_value

__all__ = ["DiscreteLatentExtractor", "ObservationVAE", "TokenPruningExtractor", "attach_loss"]


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

    Args:
        features: Of any shape.
        loss: A scalar; under ``torch.func.vmap`` one of each member.

    Raises:
        ValueError: ``loss`` is not a scalar.

    Example:
        >>> features = torch.zeros(2, requires_grad=True)
        >>> attach_loss(features, (features - 1).square().sum()).sum().backward()
        >>> features.grad  # 1 of the sum, -2 of the loss
        tensor([-1., -1.])
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

    Example:
        >>> settings = {"patch": 2, "width": 8, "features_dim": 16}
        >>> policy_kwargs = {"features_extractor_class": TokenPruningExtractor, "features_extractor_kwargs": settings}
        >>> extractor = TokenPruningExtractor(
        ...     gym.spaces.Box(0.0, 1.0, (10, 10, 4)), **settings
        ... )  # as a "CnnPolicy" makes it
        >>> extractor(torch.rand(3, 10, 10, 4)).shape
        torch.Size([3, 16])
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


class ObservationVAE(CategoricalVAE):
    r"""A :class:`gsrl.perception.latents.CategoricalVAE` of real pixels, Gaussian around the decoder's with variance 1.

    .. math:: -\log p(x|D) = \tfrac{1}{2} \lVert x - \hat x(D) \rVert^2

    up to a constant.

    Args:
        observation_space: Of images.
        n: Variables of a code.
        K: Values of each.
        hidden: Width of encoder and decoder.
        estimator: Pathwise, of the gradient of a code.
        unimix: Share of the uniform distribution in the encoder's.
        deterministic: Whether it is used without noise, and so draws none.

    Example:
        >>> space = gym.spaces.Box(0.0, 1.0, (10, 10, 4))
        >>> vae = ObservationVAE(space, 4, 8, 16, make_pathwise("st-gumbel", 1.0), unimix=0.01, deterministic=False)
        >>> vae.encode(torch.rand(3, 10, 10, 4)).event_shape, vae.reconstruct(torch.rand(3, 10, 10, 4)).shape
        (torch.Size([4, 8]), torch.Size([3, 10, 10, 4]))
    """

    estimator: Pathwise

    def __init__(
        self,
        observation_space: gym.Space,
        n: int,
        K: int,
        hidden: int,
        estimator: Pathwise,
        unimix: float,
        deterministic: bool,
    ) -> None:
        channels_last, (channels, *sides) = image_layout(observation_space)
        shape = (*sides, channels) if channels_last else (channels, *sides)
        encoder = nn.Sequential(SmallCNN(observation_space, hidden), nn.Linear(hidden, n * K))
        decoder = nn.Sequential(
            nn.Linear(n * K, hidden), nn.ReLU(), nn.Linear(hidden, math.prod(shape)), nn.Unflatten(1, shape)
        )
        super().__init__(encoder, decoder, n, K, estimator, unimix)
        self.deterministic = deterministic

    def draw_noise(self, batch_shape: Sequence[int], generator: torch.Generator | None = None) -> Noise:
        """Draws the estimator's noise for a batch of images; nothing where there is none."""
        return () if self.deterministic else super().draw_noise(batch_shape, generator)

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """The log-likelihood of observations ``[B, *event]``, without its constant, ``[M, B]``."""
        return -0.5 * (output - x).flatten(2).square().sum(-1)

    def mean(self, output: Tensor) -> Tensor:
        """The decoder's output."""
        return output


@register("gsrl.perception.DiscreteLatentExtractor")
class DiscreteLatentExtractor(BaseFeaturesExtractor):
    r"""A code of images, ``n`` one-hot rows of ``K``, as their features: an autoencoder's, that learns with the agent.

    The features are D ``[B, n * K]``, through which the agent's gradient reaches the encoder by a pathwise estimator,
    and with them goes a loss of the autoencoder, a mean over the batch:

    .. math:: \lambda \big(\tfrac{1}{2} \lVert x - \hat x(D) \rVert^2 + \beta\, \mathrm{KL}(q(D|x) \| p)\big),
              \qquad \mathrm{KL} = n \log K - \mathcal{H}(q)

    By default D is the most probable code, with the estimator's slope at no noise: PPO compares what a policy says when
    it acts with what it says when it learns, and with noise in the features its ratio would not start at 1. With
    ``deterministic=False`` it is drawn: this library's trainers draw the noise, see :mod:`gsrl.learning.noise`; under
    Stable-Baselines3's own algorithms it comes from the extractor's generator, where there is a ``seed`` and gradients
    are on. Wherever there is none, D is the most probable code. Biased, as pathwise estimators are.

    Source: Hafner et al. 2021 (2010.02193), "DreamerV2", for agents that see discrete codes, with straight-through
    gradients and KL balancing, which is not done here; :class:`gsrl.perception.latents.CategoricalVAE`.

    Args:
        observation_space: A ``Box`` of three dimensions, channels first or last, at least 3 pixels high and wide.
        n: Variables of a code.
        K: Values of each, at least 2.
        hidden: Width of encoder and decoder.
        estimator: Name of the pathwise estimator of a code's gradient.
        temperature: Of the relaxation.
        unimix: Share of the uniform distribution in the encoder's, from 0 to below 1.
        loss_weight: λ, at least 0.
        kl_weight: β, at least 0.
        deterministic: Whether the most probable code is taken in training too.
        seed: Of the extractor's own noise; None: it draws none.
        normalized_image: Unused; Stable-Baselines3 gives it to extractors of images.

    Attributes:
        vae: The autoencoder, with ``reconstruct`` and all else.

    Raises:
        ValueError: The space holds no images, or a setting is out of its range.

    Example:
        >>> settings = {"n": 4, "K": 8, "hidden": 16}
        >>> policy_kwargs = {"features_extractor_class": DiscreteLatentExtractor, "features_extractor_kwargs": settings}
        >>> extractor = DiscreteLatentExtractor(
        ...     gym.spaces.Box(0.0, 1.0, (10, 10, 4)), **settings
        ... )  # as a "CnnPolicy" makes it
        >>> codes = extractor(torch.rand(3, 10, 10, 4)).unflatten(1, (4, 8))
        >>> codes.shape, codes.sum(-1).unique().tolist()  # one-hot rows
        (torch.Size([3, 4, 8]), [1.0])
    """

    def __init__(
        self,
        observation_space: gym.Space,
        n: int = 16,
        K: int = 8,
        hidden: int = 128,
        estimator: str = "st-gumbel",
        temperature: float = 1.0,
        unimix: float = 0.01,
        loss_weight: float = 1.0,
        kl_weight: float = 0.1,
        deterministic: bool = True,
        seed: int | None = None,
        normalized_image: bool = False,
    ) -> None:
        for name, value in {"loss_weight": loss_weight, "kl_weight": kl_weight}.items():
            if not (is_number(value) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a number of at least 0, but got {value!r}.")
        for name, count, least in (("n", n, 1), ("K", K, 2), ("hidden", hidden, 1)):
            check_count(name, count, least)
        pathwise = make_pathwise(estimator, temperature)
        vae = ObservationVAE(observation_space, n, K, hidden, pathwise, unimix, deterministic)
        super().__init__(observation_space, n * K)
        self.vae, self.loss_weight, self.kl_weight = vae, loss_weight, kl_weight
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def forward(self, observations: Tensor) -> Tensor:
        """Maps images ``[B, *shape]`` to their codes ``[B, n * K]``, with the autoencoder's loss attached."""
        policy = self.vae.encode(observations)
        codes = self._codes(policy)
        features = codes.flatten(1)
        if not torch.is_grad_enabled():
            return features
        error = -self.vae.log_prob(self.vae.decode(codes.unsqueeze(0)), observations).squeeze(0)
        loss = (error + self.kl_weight * self.vae.kl(policy)).mean()
        return attach_loss(features, self.loss_weight * loss)

    def _codes(self, policy: FactoredCategorical) -> Tensor:
        """One-hot codes ``[B, n, K]`` with the slope of the estimator."""
        estimator, noise = self.vae.estimator, None if self.vae.deterministic else self.vae.noise
        if noise is not None:
            return estimator.sample(policy, noise)
        is_own = self._generator is not None and torch.is_grad_enabled() and is_concrete(policy.logits)
        if is_own and not self.vae.deterministic:
            return estimator.sample(policy, generator=self._generator)
        shape = estimator.noise_shape(policy)
        assert shape is not None  # those of pathwise estimators are known
        return replace_value(estimator.sample(policy, policy.logits.new_zeros(shape)), policy.mode)
