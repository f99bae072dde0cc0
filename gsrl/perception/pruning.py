r"""Transformers that read what they keep: tokens are dropped on the way, by a choice that is learned.

Before some blocks, *stages*, a small predictor looks at the tokens and says which are kept. In training all are
computed, and a dropped one has the weight 0 in the attention of the others, so that the loss still has a derivative by
that weight: what it would have been worth to keep it. In use the dropped tokens are left out, and cost nothing.

.. math:: A_{ij} = \frac{m_j \exp(q_i \cdot k_j / \sqrt d)}{\sum_l m_l \exp(q_i \cdot k_l / \sqrt d)}

Source: Rao et al. 2021 (2106.02034), Eq. 11, "DynamicViT", where a token moreover always reads itself. Here one that is
dropped does not, which nobody is told of; the product of attention and values then needs no matrix of weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gsrl._files import save_figure
from gsrl._style import styled
from gsrl._validation import is_concrete, is_number, positive
from gsrl.estimators import Estimator, GumbelSoftmax, Pathwise, ScoreFunction, make_estimator
from gsrl.perception.masks import keep_or_drop
from gsrl.relaxations import gumbel_noise, replace_value

__all__ = [
    "CHOICES",
    "RANKINGS",
    "Brightness",
    "Contrast",
    "KeepPredictor",
    "Positions",
    "Pruned",
    "TokenPruner",
    "VisionTransformer",
    "distillation_loss",
    "kept_pixels",
    "save_picture",
]

CHOICES = ("subset", "independent", "top-k")
"""How tokens are chosen, see :class:`TokenPruner`."""

STEM_CHANNELS = 16
"""Of the convolution before the patches."""

SMALLEST_SUM = 1e-30
"""Of the attention that is left for what is kept: below, nothing is read."""


# Transformers


class Block(nn.Module):
    """A transformer's block, normalised first, with the names of ``nn.TransformerEncoderLayer``.

    Args:
        width: Of tokens.
        heads: Of the attention.
        hidden: Of the perceptron.
    """

    norm_first = True
    activation: Callable[[Tensor], Tensor] = staticmethod(F.gelu)

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = self.dropout1 = self.dropout2 = nn.Identity()


def _attention(module: nn.MultiheadAttention, tokens: Tensor, keep: Tensor | None) -> Tensor:
    """Self-attention ``[B, T, d]``, in which token j has the weight ``keep[:, j]``; None: all have 1."""
    heads = F.linear(tokens, module.in_proj_weight, module.in_proj_bias)
    q, k, v = heads.unflatten(-1, (3, module.num_heads, -1)).movedim(-3, 0).transpose(-3, -2)
    if keep is not None:
        # The weights are factors of what is read, and of a column of ones, which then holds their sum.
        weight = keep[:, None, :, None]
        v = torch.cat([weight * v, weight.expand_as(v[..., :1])], -1)
    dropout = module.dropout if module.training else 0.0
    if is_concrete(q) and keep is None:
        read = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    else:  # the fused kernel can be mapped over no members, and wants values as wide as keys
        attention = ((q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)).softmax(-1)
        read = (F.dropout(attention, dropout) if dropout else attention) @ v
    if keep is not None:
        read = read[..., :-1] / read[..., -1:].clamp_min(SMALLEST_SUM)
    return module.out_proj(read.transpose(-3, -2).flatten(-2))


def _block(layer: Any, tokens: Tensor, keep: Tensor | None) -> Tensor:
    """What a :class:`Block`, or an ``nn.TransformerEncoderLayer``, makes of tokens ``[B, T, d]``."""

    def attend(x: Tensor) -> Tensor:
        return layer.dropout1(_attention(layer.self_attn, x, keep))

    def transform(x: Tensor) -> Tensor:
        return layer.dropout2(layer.linear2(layer.dropout(layer.activation(layer.linear1(x)))))

    if layer.norm_first:
        tokens = tokens + attend(layer.norm1(tokens))
        return tokens + transform(layer.norm2(tokens))
    tokens = layer.norm1(tokens + attend(tokens))
    return layer.norm2(tokens + transform(tokens))


class VisionTransformer(nn.Module):
    """A transformer of image patches, with a class token that it answers from.

    Source: Dosovitskiy et al. 2021 (2010.11929); a convolution before the patches: Xiao et al. 2021 (2106.14881).

    Args:
        image_shape: Channels, height and width.
        patch: Side of a patch in pixels; height and width are multiples of it.
        width: Of tokens, a multiple of ``heads``.
        depth: Number of blocks.
        heads: Of the attention.
        mlp_ratio: Width of a block's perceptron, in widths of tokens.
        n_outputs: How many numbers it answers with.
        stem: ``"conv"``: patches are of the features of a 3x3 convolution, so that each knows what is beside it;
            ``"linear"``: of pixels.
        mean: Of pixels; they are normalised by it, and by ``std``. Around 0, they are learned from much sooner.
        std: Their standard deviation, above 0.

    Attributes:
        num_tokens: N, the number of patches, row by row.
        layers: The blocks.

    Raises:
        ValueError: A number is below 1, the patches do not fit, there is no such stem, or ``std`` is not above 0.

    Example:
        >>> VisionTransformer((1, 8, 8), patch=4, width=8, depth=2, heads=2)(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        patch: int,
        width: int = 64,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        n_outputs: int = 10,
        stem: Literal["conv", "linear"] = "conv",
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        counts = {"patch": patch, "width": width, "depth": depth, "heads": heads, "n_outputs": n_outputs}
        for name, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, but got {value!r}.")
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ValueError(f"image_shape must be (channels, height, width), but got {tuple(image_shape)}.")
        channels, height, wide = (int(side) for side in image_shape)
        if height % patch or wide % patch:
            raise ValueError(
                f"patch must divide the height and width of image_shape {tuple(image_shape)}, but got {patch}."
            )
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, {heads}, but got {width}.")
        if stem not in ("conv", "linear"):
            raise ValueError(f"stem must be 'conv' or 'linear', but got {stem!r}.")
        hidden = round(mlp_ratio * width)
        if hidden < 1:
            raise ValueError(f"mlp_ratio must leave a perceptron of at least one unit, but got {mlp_ratio}.")
        self.image_shape, self.patch, self.width, self.n_outputs = (channels, height, wide), patch, width, n_outputs
        self.mean, self.std = mean, positive("std", std)
        self.num_tokens = (height // patch) * (wide // patch)
        self.conv = nn.Conv2d(channels, STEM_CHANNELS, 3, padding=1) if stem == "conv" else None
        self.project = nn.Linear((STEM_CHANNELS if stem == "conv" else channels) * patch**2, width)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(self.num_tokens, width))
        self.layers = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_outputs)

    def embed(self, images: Tensor) -> Tensor:
        """The tokens ``[B, N, width]`` of images ``[B, *image_shape]``, without the class token.

        Raises:
            ValueError: The images have another shape.
        """
        if images.dim() != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"images must have shape [B, {', '.join(map(str, self.image_shape))}], but got {tuple(images.shape)}."
            )
        images = (images - self.mean) / self.std
        features = images if self.conv is None else F.gelu(self.conv(images))
        return self.project(_patches(features, self.patch)) + self.positions

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Maps images ``[B, *image_shape]`` to outputs ``[B, n_outputs]``.

        Args:
            images: What is seen.
            keep: Weight of each patch in the attention of the others, in all blocks, ``[B, N]``; at 0 it is as if the
                patch were not there, and the derivative by the weight is there all the same. None: all are 1.
        """
        tokens = self.embed(images)
        tokens = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], 1)
        weights = None if keep is None else F.pad(keep, (1, 0), value=1.0)
        for layer in self.layers:
            tokens = _block(layer, tokens, weights)
        return self.head(self.norm(tokens[:, 0]))

    def flops(self, batch: int = 1) -> int:
        """Floating-point operations of a pass, two for a multiplication and addition, of products alone."""
        return batch * (_stem_flops(self) + sum(_block_flops(layer, self.num_tokens + 1) for layer in self.layers))


def _patches(images: Tensor, patch: int) -> Tensor:
    """``[B, C, H, W]`` as ``[B, N, C * patch**2]``, row by row."""
    rows = images.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # [B, C, h, p, w, p]
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


# What predicts which tokens are worth keeping


class KeepPredictor(nn.Module):
    """Says of each token whether it is worth keeping: from the token, and from the mean of those that are kept.

    Source: Rao et al. 2021 (2106.02034), Eqs. 1 to 5.

    Args:
        width: Of tokens.
        hidden: Of its layers.

    Example:
        >>> logits = KeepPredictor(width=8)(torch.randn(2, 16, 8), torch.ones(2, 16))
        >>> logits.shape, logits.softmax(-1)[..., 1].shape  # of 16 tokens, how likely each is kept
        (torch.Size([2, 16, 2]), torch.Size([2, 16]))
    """

    def __init__(self, width: int, hidden: int = 16) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU())
        self.own, self.mean = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)
        self.outer = nn.Linear(hidden, 2)

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """Logits ``[B, N, 2]`` of tokens ``[B, N, width]``, of which ``keep [B, N]`` are there; index 1 keeps."""
        own = self.inner(tokens)
        weights = keep.unsqueeze(-1)
        mean = (weights * own).sum(-2, keepdim=True) / weights.sum(-2, keepdim=True).clamp_min(1e-6)
        return self.outer(F.gelu(self.own(own) + self.mean(mean)))


class Positions(nn.Module):
    """A log-odds of each place, whatever is there: what a choice has to beat. Frozen, all places are equal.

    Args:
        num_tokens: N.
        learned: Whether it is trained.

    Example:
        >>> ranking = Positions(4)
        >>> ranking(torch.rand(2, 1, 8, 8)).shape, ranking.logits.requires_grad
        (torch.Size([2, 4]), True)
    """

    def __init__(self, num_tokens: int, learned: bool = True) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_tokens), requires_grad=learned)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[B, N]`` of inputs ``[B, ...]``."""
        return self.logits.expand(len(inputs), -1)


class Brightness(nn.Module):
    """The mean of the pixels of each patch.

    Args:
        patch: Its side.

    Example:
        >>> image = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]]).view(1, 1, 2, 4)  # two patches
        >>> Brightness(patch=2)(image)
        tensor([[0.0000, 0.7500]])
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, inputs: Tensor) -> Tensor:
        """``[B, N]`` of images ``[B, C, H, W]``."""
        return _patches(inputs, self.patch).mean(-1)


class Contrast(Brightness):
    """The standard deviation of the pixels of each patch.

    Example:
        >>> image = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]]).view(1, 1, 2, 4)  # two patches
        >>> Contrast(patch=2)(image)  # however bright a patch is
        tensor([[0.0000, 0.5000]])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """``[B, N]`` of images ``[B, C, H, W]``."""
        return _patches(inputs, self.patch).std(-1, unbiased=False)


RANKINGS: dict[str, Callable[[VisionTransformer], nn.Module]] = {
    "random": lambda network: Positions(network.num_tokens, learned=False),
    "positions": lambda network: Positions(network.num_tokens),
    "brightness": lambda network: Brightness(network.patch),
    "contrast": lambda network: Contrast(network.patch),
}
"""By name, what makes a ranking of a network's images that no predictor learns, see :class:`TokenPruner`."""


# Pruning


class Pruned(NamedTuple):
    """What a pruned transformer made of ``B`` inputs.

    Example:
        >>> network = VisionTransformer((1, 8, 8), patch=2, width=8, depth=2, heads=2)  # 16 tokens
        >>> pruned = TokenPruner(network, stages={1: 0.25})(torch.rand(3, 1, 8, 8), deterministic=True)
        >>> pruned.tokens.shape, pruned.kept[0].shape, pruned.shares[0].tolist()
        (torch.Size([3, 4, 8]), torch.Size([3, 4]), [0.25])
    """

    outputs: Tensor
    """``[B, n_outputs]``; of an ``nn.TransformerEncoder``, which has none, the mean of the tokens kept, ``[B, d]``."""
    tokens: Tensor
    """After the last block: those kept, in the order of ``kept[-1]``, ``[B, k, d]``; without stages, all."""
    kept: tuple[Tensor, ...]
    """Indices of those kept after each stage in ascending order, int64 ``[B, k]``; -1 where there are fewer."""
    shares: Tensor
    """How much is left after each stage, of the tokens that are no padding, ``[B, stages]``."""
    loss: Tensor
    """How far the shares are from what they should be, a mean of squares; 0 where exactly k are kept."""
    log_prob: Tensor | None
    """Log-probability of all choices, ``[B]``, for a score-function estimator's ``surrogate``; None for others."""


class _Remaining(NamedTuple):
    """The tokens that a pass still computes."""

    x: Tensor
    """``[B, prefix + n, d]``."""
    prefix: int
    """How many come before those that may be dropped: a class token, or none."""
    weights: Tensor | None
    """Of the others, in the attention of all, ``[B, n]``; None: all are 1."""
    places: Tensor | None
    """Where each of them was at first, ``[B, n]``; None: in its place."""

    @property
    def tokens(self) -> Tensor:
        """Those that may be dropped, ``[B, n, d]``."""
        return self.x[:, self.prefix :]

    def weights_or_ones(self) -> Tensor:
        return torch.ones_like(self.tokens[..., 0]) if self.weights is None else self.weights

    def places_of(self, rows: Tensor) -> Tensor:
        """Where some of them were at first; -1 for rows n, which are none."""
        is_none = rows == self.tokens.shape[1]
        rows = rows.masked_fill(is_none, 0)
        return (rows if self.places is None else self.places.gather(-1, rows)).masked_fill(is_none, -1)

    def take(self, rows: Tensor) -> _Remaining:
        """Some of them, all different."""
        B, T = self.x.shape[:2]
        before = torch.arange(self.prefix, device=rows.device).expand(B, -1)
        lines = torch.cat([before, rows + self.prefix], 1) + T * torch.arange(B, device=rows.device).unsqueeze(-1)
        x = self.x.flatten(0, 1).index_select(0, lines.flatten()).unflatten(0, (B, -1))
        weights = None if self.weights is None else self.weights.gather(-1, rows)
        return _Remaining(x, self.prefix, weights, rows if self.places is None else self.places.gather(-1, rows))

    def take_some(self, rows: Tensor) -> _Remaining:
        """Some of them; rows n are none, and have no weight."""
        is_one = rows < self.tokens.shape[1]
        taken = self._replace(weights=self.weights_or_ones()).take(rows.masked_fill(~is_one, 0))
        return taken._replace(weights=taken.weights_or_ones() * is_one)

    def mean(self) -> Tensor:
        """``[B, d]``; zeros where nothing is left."""
        weights = self.weights_or_ones().unsqueeze(-1)
        return (weights * self.tokens).sum(1) / weights.sum(1).clamp_min(SMALLEST_SUM)


class TokenPruner(nn.Module):
    r"""A transformer that drops tokens before some of its blocks.

    A token has a log-odds l of being kept, a predictor's. What is dropped stays dropped.

    - ``"subset"``: exactly k are kept, the largest k of l + G: a sample of :class:`gsrl.SubsetOfK`. Its slope is that
      of the estimator for keeping or dropping at :math:`l - c`, c halfway between the last kept and the first dropped.
    - ``"top-k"``: the same without noise; inputs that are the same keep the same.
    - ``"independent"``: each by itself, with P(keep) = σ(l), by the estimator. How many remain is drawn to the shares
      by a loss, :attr:`Pruned.loss`, which wants a weight (2 in the paper).

    With ``deterministic=True`` the largest k of l are kept, or those with l > 0.

    Biased, as pathwise estimators are; not so ``"independent"`` with a score-function estimator:
    ``estimator.surrogate(cost, pruned.log_prob)``. Of rloo the leading dimension is the caller's: repeat the inputs.

    Source: Rao et al. 2021 (2106.02034), Sections 3.2 and 3.3.

    Args:
        encoder: A :class:`VisionTransformer`; or an ``nn.TransformerEncoder`` with ``batch_first=True``, whose inputs
            are tokens ``[B, N, d]``.
        stages: By the number of the block before which tokens go, from 0: the share of all tokens that then remains.
        choose: ``"subset"``, ``"independent"`` or ``"top-k"``: what is kept, and by which gradient.
        estimator: Name, or an estimator: a pathwise one, or for ``"independent"`` one with ``draw``.
        ranking: A module of the inputs that gives l ``[B, N]`` at all stages, in the place of predictors.
        num_tokens: N, of an ``nn.TransformerEncoder``.
        hidden: Of the predictors.
        per: Whether shares are to be met by each ``"image"`` or on the average of a ``"batch"``.

    Attributes:
        predictors: A :class:`KeepPredictor` for each stage; none where there is a ranking.
        counts: k of each stage.
        noise: See :mod:`gsrl.learning.noise`.

    Raises:
        TypeError: ``encoder`` or ``estimator`` is of another kind.
        ValueError: A stage is past the depth; a share is not in (0, 1], rises, or is of no token; there is no such
            choice; the estimator has no samples to prune by, or soft ones where exactly k are to be kept.

    Example:
        >>> network = VisionTransformer((1, 16, 16), patch=4, width=32, depth=4, heads=2)  # 16 tokens
        >>> pruned = TokenPruner(network, stages={0: 0.5, 2: 0.25})(torch.rand(8, 1, 16, 16))
        >>> [kept.shape[1] for kept in pruned.kept]
        [8, 4]
    """

    noise: Any = None
    encoder: Any
    estimator: Any
    ranking: Any

    def __init__(
        self,
        encoder: VisionTransformer | nn.TransformerEncoder,
        stages: Mapping[int, float],
        choose: Literal["subset", "independent", "top-k"] = "subset",
        estimator: str | Estimator = "st-gumbel",
        *,
        ranking: nn.Module | None = None,
        num_tokens: int | None = None,
        hidden: int = 16,
        per: Literal["image", "batch"] = "batch",
    ) -> None:
        super().__init__()
        width, N = _dimensions(encoder, num_tokens)
        if choose not in CHOICES:
            raise ValueError(f"choose must be one of {CHOICES}, but got {choose!r}.")
        if per not in ("image", "batch"):
            raise ValueError(f"per must be 'image' or 'batch', but got {per!r}.")
        self.stages = _checked_stages(stages, len(encoder.layers), N)
        self.encoder, self.choose, self.per = encoder, choose, per
        self.num_tokens, self.width, self.hidden = N, width, hidden
        self.counts = [_count(share, N) for share in self.stages.values()]
        self.estimator = _checked_estimator(estimator, choose)
        self.ranking = ranking
        self.predictors = nn.ModuleList(KeepPredictor(width, hidden) for _ in (self.stages if ranking is None else ()))

    # Noise and temperature

    def draw_noise(self, batch_shape: Sequence[int], generator: torch.Generator | None = None) -> tuple[Any, ...]:
        """Draws the noise of one call: of each stage, that of the estimator for ``[*batch_shape, N, 2]``.

        Args:
            batch_shape: That of the inputs.
            generator: Source of randomness; torch's default one if None.

        Returns:
            Nothing, for choices without noise.
        """
        if self.choose == "top-k":
            return ()
        policy = keep_or_drop(torch.zeros(*batch_shape, self.num_tokens))
        if isinstance(self.estimator, ScoreFunction):
            return tuple(gumbel_noise(policy.logits.shape, generator=generator) for _ in self.stages)
        return tuple(self.estimator.draw_noise(policy, generator) for _ in self.stages)

    def step(self) -> None:
        """Advances the temperature's schedule, once an update; no call does."""
        if isinstance(self.estimator, Pathwise):
            self.estimator.step(torch.zeros(()))

    # Passes

    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        noise: tuple[Any, ...] | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        gather: bool | None = None,
    ) -> Pruned:
        """Reads inputs, and drops tokens on the way; a pure function of its arguments if noise is given.

        Args:
            inputs: Images ``[B, *image_shape]``, or tokens ``[B, N, d]`` of an ``nn.TransformerEncoder``.
            mask: Boolean ``[B, N]``, False where a token is padding, which is never kept. Shares are of the others.
            noise: What :meth:`draw_noise` returned for ``[B]``; None: :attr:`noise`, and if that is None it is drawn.
            generator: Source of the noise if none is given; torch's default one if None.
            deterministic: Whether nothing is random.
            gather: Whether blocks compute the tokens that are kept, and no others. A choice then has no gradient. None:
                wherever gradients are off, and shapes do not depend on what is recorded or mapped.

        Raises:
            ValueError: A shape is another one; a row of ``mask`` leaves no token; ``gather`` is True while what chooses
                learns.
        """
        tokens = self._embedded(inputs)
        B, N = tokens.shape[0], self.num_tokens
        _check_mask(mask, B, N)
        noise = self._noise(noise, B, generator, deterministic, tokens.device)
        if gather is None:  # how many are kept by themselves is known of values alone
            gather = not torch.is_grad_enabled() and (self.choose != "independent" or is_concrete(tokens))
        elif gather and self._learns():
            raise ValueError(
                "gather must be False while what chooses learns, for the gradient of the dropped tokens is what it "
                "learns from, but got True. Turn gradients off, or freeze the predictors."
            )
        prefix = self._prefix(B)
        present = None if mask is None else mask.to(tokens.dtype)
        left = _Remaining(torch.cat([prefix, tokens], 1), prefix.shape[1], present, None)
        total: Tensor | int = N if mask is None else mask.sum(-1)
        scores = None if self.ranking is None else self.ranking(inputs)
        kept: list[Tensor] = []
        shares: list[Tensor] = []
        log_probs: list[Tensor] = []
        found: Tensor | None = None  # which of those that are here were kept last, while the others are here too
        for index, layer in enumerate(self.encoder.layers):
            if index in self.stages:
                if found is not None and self.choose != "independent":
                    # What was dropped at the last stage is lost by now, and has no gradient from here on.
                    left = left.take_some(found)
                stage = len(kept)
                weights = left.weights_or_ones()
                seen = weights if self.choose == "independent" else weights.detach()  # else that too would be lost
                logits = self._logits(stage, left.tokens, seen, scores, left.places)
                own_noise = _at(noise[stage], left.places) if noise else None
                if gather and mask is None and self.choose != "independent":  # indices are all that is asked for
                    found = self._perturbed(logits, own_noise).topk(self.counts[stage]).indices.sort(-1).values
                    kept.append(left.places_of(found))
                    shares.append(weights.new_full((B,), self.counts[stage] / N))
                    left, found = left.take(found), None
                else:
                    chosen, log_prob = self._choose(stage, logits, weights, own_noise, total)
                    if log_prob is not None:
                        log_probs.append(log_prob)
                    left = left._replace(weights=weights * chosen)
                    shares.append((weights * chosen).sum(-1) / total)
                    found = self._indices(stage, weights * chosen, gather)
                    kept.append(left.places_of(found))
                    if gather:
                        left, found = left.take_some(found), None
            every = None if left.weights is None else F.pad(left.weights, (left.prefix, 0), value=1.0)
            left = left._replace(x=_block(layer, left.x, every))
        if found is not None:
            left = left.take_some(found)
        if self.encoder.norm is not None:
            left = left._replace(x=self.encoder.norm(left.x))
        outputs = self.encoder.head(left.x[:, 0]) if isinstance(self.encoder, VisionTransformer) else left.mean()
        of_stages = torch.stack(shares, -1) if shares else tokens.new_ones(B, 0)
        log_prob = torch.stack(log_probs).sum(0) if log_probs else None
        return Pruned(outputs, left.tokens, tuple(kept), of_stages, self._ratio_loss(of_stages), log_prob)

    def _prefix(self, batch: int) -> Tensor:
        """The class token ``[B, 1, d]``; of an ``nn.TransformerEncoder`` nothing, ``[B, 0, d]``."""
        if isinstance(self.encoder, VisionTransformer):
            return self.encoder.class_token.expand(batch, 1, -1)
        return next(self.encoder.parameters()).new_zeros(batch, 0, self.width)

    def _embedded(self, inputs: Tensor) -> Tensor:
        if isinstance(self.encoder, VisionTransformer):
            return self.encoder.embed(inputs)
        if inputs.dim() != 3 or tuple(inputs.shape[1:]) != (self.num_tokens, self.width):
            raise ValueError(
                f"inputs must have shape [B, {self.num_tokens}, {self.width}], but got {tuple(inputs.shape)}."
            )
        return inputs

    def _noise(
        self,
        noise: tuple[Any, ...] | None,
        batch: int,
        generator: torch.Generator | None,
        deterministic: bool,
        device: torch.device,
    ) -> tuple[Any, ...]:
        """Noise of each stage; none where nothing is random."""
        if deterministic or self.choose == "top-k":
            return ()
        noise = self.noise if noise is None else noise
        if noise is None:
            return tuple(each.to(device) for each in self.draw_noise((batch,), generator))
        expected = [None if isinstance(each, tuple) else tuple(each.shape) for each in self._template(batch)]
        given = [tuple(each.shape) for each in noise if isinstance(each, Tensor)]
        if given != expected:
            raise ValueError(f"noise must be what draw_noise returned, of shapes {expected}, but got {given}.")
        return noise

    def _logits(
        self, stage: int, tokens: Tensor, weights: Tensor, scores: Tensor | None, places: Tensor | None
    ) -> Tensor:
        """The log-odds of the tokens that are here, ``[B, n]``."""
        if scores is None:
            drop, keep = self.predictors[stage](tokens, weights).unbind(-1)
            return keep - drop
        return scores if places is None else scores.gather(-1, places)

    def _choose(
        self, stage: int, logits: Tensor, weights: Tensor, noise: Tensor | None, total: Tensor | int
    ) -> tuple[Tensor, Tensor | None]:
        """1 for what is kept, 0 for what is dropped, ``[B, n]``, with the estimator's slope; and its log-probability.

        Args:
            stage: Its number.
            logits: l ``[B, n]``.
            weights: What is left by now, ``[B, n]``.
            noise: Of the estimator; None: there is none.
            total: Tokens that are no padding, ``[B]``, or a number.
        """
        candidates = weights.detach() > 0
        if self.choose != "independent":
            return self._largest(stage, logits, candidates, noise, total), None
        policy = keep_or_drop(logits, candidates)
        if noise is None:
            return policy.mode[..., 1], None
        if isinstance(self.estimator, ScoreFunction):
            one_hot, log_prob = self.estimator.draw(policy, noise)
            return one_hot[..., 1], log_prob
        return self.estimator.sample(policy, noise)[..., 1], None

    def _largest(
        self, stage: int, logits: Tensor, candidates: Tensor, noise: Tensor | None, total: Tensor | int
    ) -> Tensor:
        k = self.counts[stage]
        perturbed = self._perturbed(logits.detach(), noise).masked_fill(~candidates, -torch.inf)
        found = perturbed.topk(k)
        limit = k if isinstance(total, int) else (self._share(stage) * total).round().clamp_min(1).unsqueeze(-1)
        counts = (torch.arange(k, device=logits.device) < limit) & ~found.values.isneginf()
        hard = torch.zeros_like(logits).scatter(-1, found.indices, counts.to(logits.dtype))
        if not torch.is_grad_enabled():
            return hard
        lowest = perturbed.masked_fill(hard == 0, torch.inf).amin(-1, keepdim=True)
        next_one = perturbed.masked_fill(hard > 0, -torch.inf).amax(-1, keepdim=True)
        between = torch.where(next_one.isneginf(), lowest - 1, (lowest + next_one) / 2)
        policy = keep_or_drop(logits - between, candidates)
        # As a choice between keeping and dropping, with noise on keeping alone: so the largest k of l + G are kept.
        noise = self._zeros(logits) if noise is None else noise
        is_plain = noise.dim() == logits.dim() + 1
        own = noise if is_plain else noise[0]
        own = torch.stack([torch.zeros_like(own[..., 1]), own[..., 1]], -1)
        noise = own if is_plain else torch.cat([own.unsqueeze(0), noise[1:]])
        return replace_value(self.estimator.sample(policy, noise)[..., 1], hard)

    def _perturbed(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """The log-odds plus Gumbel noise, ``[B, n]``: the first, where an estimator draws more than one."""
        if noise is None:
            return logits
        return logits + (noise if noise.dim() == logits.dim() + 1 else noise[0])[..., 1]

    def _indices(self, stage: int, present: Tensor, gather: bool) -> Tensor:
        """Of what is kept, ascending, ``[B, k]``; n where there are fewer."""
        n = present.shape[-1]
        is_kept = present.detach() > (0.5 if isinstance(self.estimator, GumbelSoftmax) else 0.0)
        order = torch.arange(n, device=present.device).expand_as(present).masked_fill(~is_kept, n).sort(-1).values
        if self.choose != "independent":
            return order[..., : self.counts[stage]]
        return order[..., : max(1, int(is_kept.sum(-1).max()))] if gather else order

    def _ratio_loss(self, shares: Tensor) -> Tensor:
        if self.choose != "independent" or not self.stages:
            return shares.new_zeros(())
        wanted = shares.new_tensor(list(self.stages.values()))
        found = shares.mean(0) if self.per == "batch" else shares
        return (found - wanted).square().mean()

    def _share(self, stage: int) -> float:
        return list(self.stages.values())[stage]

    def _template(self, batch: int) -> tuple[Any, ...]:
        """What noise looks like, without drawing it."""
        shape = self.estimator.noise_shape(keep_or_drop(torch.zeros(batch, self.num_tokens, device="meta")))
        like = (batch, self.num_tokens, 2) if shape is None or isinstance(self.estimator, ScoreFunction) else shape
        return tuple(torch.empty(like, device="meta") for _ in self.stages)

    def _zeros(self, logits: Tensor) -> Tensor:
        shape = self.estimator.noise_shape(keep_or_drop(logits.detach()))
        assert shape is not None  # those of pathwise estimators are known
        return logits.new_zeros(shape)

    def _learns(self) -> bool:
        """Whether what chooses would get a gradient."""
        choosers = [self.predictors] if self.ranking is None else [self.ranking]
        return torch.is_grad_enabled() and any(p.requires_grad for each in choosers for p in each.parameters())

    # Training

    def parameter_groups(self, lr: float, predictor_lr: float) -> list[dict[str, Any]]:
        """Groups for an optimiser of ``torch.optim``: at one rate predictors hardly learn.

        Args:
            lr: Learning rate of the encoder.
            predictor_lr: Of what chooses.
        """
        encoder = list(self.encoder.parameters())
        own = {id(p) for p in encoder}
        others = [p for p in self.parameters() if id(p) not in own]
        groups: list[dict[str, Any]] = [{"params": encoder, "lr": lr}, {"params": others, "lr": predictor_lr}]
        return [group for group in groups if group["params"]]

    def flops(self, batch: int = 1) -> int:
        """Floating-point operations of a gathered pass with the shares as asked, two for a multiplication and addition.

        Of products alone, as ``torch.utils.flop_counter`` counts; that sees no fused attention on a CPU.
        """
        prefix = int(isinstance(self.encoder, VisionTransformer))
        tokens, stage = self.num_tokens, 0
        total = _stem_flops(self.encoder) if isinstance(self.encoder, VisionTransformer) else 0
        for index, layer in enumerate(self.encoder.layers):
            if index in self.stages:
                if self.ranking is None:
                    total += 2 * self.hidden * (tokens * (self.width + self.hidden + 2) + self.hidden)
                tokens = self.counts[stage]
                stage += 1
            total += _block_flops(layer, tokens + prefix)
        return batch * total

    def extra_repr(self) -> str:
        """The settings that are not modules."""
        return f"stages={dict(self.stages)}, choose={self.choose!r}"


def distillation_loss(student: Pruned, teacher: Pruned) -> Tensor:
    r"""How far a pruned transformer is from one that reads all: in what it says, and in the tokens that it kept.

    .. math:: \mathrm{KL}(p_T \| p_S) + \frac{1}{B k d} \sum_{i \in \mathrm{kept}} \lVert t_i^S - t_i^T \rVert^2

    Source: Rao et al. 2021 (2106.02034), Eqs. 15 to 17, which gives both the same weight, 1/2.

    Args:
        student: What it made of a batch, in any way.
        teacher: What the other one, of the same width, made of it, with all tokens; it receives no gradient.

    Raises:
        ValueError: The teacher has other tokens.

    Example:
        >>> network = VisionTransformer((1, 8, 8), patch=2, width=8, depth=2, heads=2)
        >>> images = torch.rand(3, 1, 8, 8)
        >>> teacher, student = (TokenPruner(network, stages)(images) for stages in ({}, {0: 0.5}))
        >>> distillation_loss(teacher, teacher).item(), distillation_loss(student, teacher).item() > 0
        (0.0, True)
    """
    told, wanted = student.outputs.log_softmax(-1), teacher.outputs.detach().log_softmax(-1)
    divergence = (wanted.exp() * (wanted - told)).sum(-1).mean()
    theirs = teacher.tokens.detach()
    if not student.kept:
        return divergence + (student.tokens - theirs).square().mean()
    kept = student.kept[-1].unsqueeze(-1)
    if teacher.kept or theirs.shape[-1] != student.tokens.shape[-1]:
        raise ValueError(
            f"teacher must have read all tokens, at the width of {student.tokens.shape[-1]}, but its tokens are "
            f"{tuple(theirs.shape)}, after {len(teacher.kept)} stages."
        )
    is_one = (kept >= 0).to(theirs.dtype)
    error = student.tokens - theirs.gather(1, kept.clamp_min(0).expand_as(student.tokens))
    return divergence + (is_one * error.square()).sum() / (is_one.sum().clamp_min(1) * theirs.shape[-1])


# Pictures


def kept_pixels(images: Tensor, kept: Tensor, patch: int) -> Tensor:
    """Which pixels belong to tokens that were kept, bool ``[B, H, W]``.

    Args:
        images: ``[B, C, H, W]``.
        kept: Indices ``[B, k]``, one of :attr:`Pruned.kept`.
        patch: Side of a patch.

    Example:
        >>> kept_pixels(torch.rand(1, 1, 2, 4), torch.tensor([[1]]), patch=2).int()  # the right one of two patches
        tensor([[[0, 0, 1, 1],
                 [0, 0, 1, 1]]], dtype=torch.int32)
    """
    height, width = (side // patch for side in images.shape[-2:])
    flags = torch.zeros(len(images), height * width + 1, dtype=torch.bool, device=images.device)
    flags = flags.scatter(-1, kept.masked_fill(kept < 0, height * width), True)[:, :-1]
    grid = flags.unflatten(-1, (height, width))
    return grid.repeat_interleave(patch, -1).repeat_interleave(patch, -2)


def save_picture(
    file: str | os.PathLike[str], images: Tensor, pruned: Pruned, patch: int, titles: Sequence[str] = ()
) -> None:
    """Draws images, and below each what was kept of it after each stage; needs Matplotlib.

    Args:
        file: Where to.
        images: ``[B, C, H, W]``, of one channel or three.
        pruned: What a :class:`TokenPruner` made of them.
        patch: Side of a patch.
        titles: One for each image.

    Example:
        >>> network = VisionTransformer((1, 8, 8), patch=2, width=8, depth=2, heads=2)
        >>> images = torch.rand(3, 1, 8, 8)
        >>> pruned = TokenPruner(network, stages={0: 0.5})(images)
        >>> save_picture("kept.png", images, pruned, patch=2)
        >>> os.path.getsize("kept.png") > 0
        True
    """
    from matplotlib.figure import Figure

    pixels = images.detach().cpu().movedim(1, -1)
    low, high = pixels.amin(), pixels.amax()
    pixels = ((pixels - low) / (high - low).clamp_min(1e-6)).expand(*pixels.shape[:-1], 3)
    rows = 1 + len(pruned.kept)
    with styled(figure__constrained_layout__use=False):
        figure = Figure(figsize=(1.2 * len(images), 1.25 * rows))
        axes = figure.subplots(rows, len(images), squeeze=False)
    gone = torch.tensor([0.75, 0.3, 0.25])
    for column, image in enumerate(pixels):
        shown = [image]
        for kept in pruned.kept:
            here = kept_pixels(images[column : column + 1], kept[column : column + 1], patch)[0].cpu().unsqueeze(-1)
            shown.append(torch.where(here, image, 0.25 * image + 0.75 * gone))
        for row, picture in enumerate(shown):
            axes[row, column].imshow(picture.numpy(), interpolation="nearest")
            axes[row, column].set_axis_off()
        if titles:
            axes[0, column].set_title(titles[column], fontsize=8)
    with styled():
        save_figure(figure, file, bbox_inches="tight")


# Checks, and what small things there are


def _dimensions(encoder: Any, num_tokens: int | None) -> tuple[int, int]:
    """Width and number of tokens."""
    if isinstance(encoder, VisionTransformer):
        if num_tokens not in (None, encoder.num_tokens):
            raise ValueError(f"num_tokens must be None for a VisionTransformer, but got {num_tokens}.")
        return encoder.width, encoder.num_tokens
    if not isinstance(encoder, nn.TransformerEncoder):
        raise TypeError(
            f"encoder must be a VisionTransformer or an nn.TransformerEncoder, but got {type(encoder).__name__}."
        )
    attention: Any = encoder.layers[0].self_attn
    if not attention.batch_first:
        raise ValueError("encoder must have layers with batch_first=True, but they have False.")
    if not isinstance(num_tokens, int) or num_tokens < 1:
        raise ValueError(f"num_tokens must be given for an nn.TransformerEncoder, at least 1, but got {num_tokens}.")
    return attention.embed_dim, num_tokens


def _checked_stages(stages: Mapping[int, float], depth: int, N: int) -> dict[int, float]:
    """The stages in their order."""
    for block, share in stages.items():
        if not isinstance(block, int) or isinstance(block, bool) or not 0 <= block < depth:
            raise ValueError(f"stages must be before one of the blocks 0 to {depth - 1}, but got {block!r}.")
        if not is_number(share) or not 0 < share <= 1:
            raise ValueError(f"stages must have shares in (0, 1], but got {share} before block {block}.")
        if _count(share, N) < 1:
            raise ValueError(
                f"stages must leave at least one of {N} tokens, but a share of {share} before block {block} leaves "
                "none."
            )
    ordered = dict(sorted(stages.items()))
    for (_, before), (block, share) in pairwise(ordered.items()):
        if share > before:
            raise ValueError(
                f"stages must have shares that do not rise, of all tokens, but got {share} after {before} before "
                f"block {block}: what is dropped stays dropped."
            )
    return ordered


def _count(share: float, N: int) -> int:
    """Tokens that a share leaves."""
    return math.floor(share * N + 0.5)


def _checked_estimator(estimator: str | Estimator, choose: str) -> Estimator:
    made = make_estimator(estimator, shape=(1, 2)) if isinstance(estimator, str) else estimator
    if not isinstance(made, Estimator):
        raise TypeError(f"estimator must be a name or a gsrl.Estimator, but got {type(made).__name__}.")
    if not isinstance(made, Pathwise) and not (choose == "independent" and isinstance(made, ScoreFunction)):
        those = "a pathwise one, such as st-gumbel"
        if choose == "independent":
            those += ", or reinforce or rloo"
        raise ValueError(
            f"estimator must be {those}, for masks are drawn one after the other inside a network, but got {made.name}."
        )
    if choose != "independent" and isinstance(made, GumbelSoftmax):
        raise ValueError(f"estimator must have hard samples for {choose}, which keeps exactly k, but got {made.name}.")
    return made


def _check_mask(mask: Tensor | None, B: int, N: int) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool or tuple(mask.shape) != (B, N):
        raise ValueError(
            f"mask must be boolean of shape {(B, N)}, but got dtype {mask.dtype}, shape {tuple(mask.shape)}."
        )
    if is_concrete(mask) and not bool(mask.any(-1).all()):
        rows = (~mask.any(-1)).nonzero()[:5, 0].tolist()
        raise ValueError(f"mask must leave at least one token in every row, but leaves none in rows {rows}.")


def _at(noise: Any, places: Tensor | None) -> Any:
    """The noise ``[..., B, n, 2]`` of the tokens that are here."""
    if places is None:
        return noise
    return noise.gather(-2, places.unsqueeze(-1).expand(*noise.shape[:-2], -1, 2))


def _stem_flops(network: VisionTransformer) -> int:
    """Of all that is not a block."""
    _, height, width = network.image_shape
    pixels = 0 if network.conv is None else height * width
    products = pixels * STEM_CHANNELS * network.image_shape[0] * 9 + network.num_tokens * network.project.weight.numel()
    return 2 * (products + network.head.weight.numel())


def _block_flops(layer: Any, tokens: int) -> int:
    width, hidden = layer.self_attn.embed_dim, layer.linear1.out_features
    return 2 * tokens * (4 * width**2 + 2 * width * hidden + 2 * tokens * width)
