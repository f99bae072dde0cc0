"""Two ways to have fewer tokens that need no predictor: what the class token attends to, and merging what is alike.

Both act between the attention and the perceptron of every block, the first one included, for before it there is no
attention to go by. They are written from the papers, and are what a learned choice is compared with.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gsrl.perception.classifier import PrunedClassifier, PruningLoss
from gsrl.perception.pruning import Pruned, TokenPruner, VisionTransformer

__all__ = ["ReducedClassifier", "TokenReducer", "counts_for", "merge", "most_attended"]

Method = Literal["class attention", "token merging"]

TOLERANCE = 0.01
"""By how much operations may be more than a pruner's, as a share: merging half of the tokens cannot cost less."""


def attention(module: nn.MultiheadAttention, tokens: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Self-attention in which a token counts as often as it stands for others.

    .. math:: A = \mathrm{softmax}(Q K^T / \sqrt d + \log s)

    Source: Bolya et al. 2023 (2210.09461), Eq. 1.

    Args:
        module: Its weights.
        tokens: ``[B, T, d]``.
        size: s, ``[B, T]``.

    Returns:
        What is read ``[B, T, d]``, the weights A ``[B, heads, T, T]``, and the keys ``[B, heads, T, d / heads]``.
    """
    heads = F.linear(tokens, module.in_proj_weight, module.in_proj_bias)
    q, k, v = heads.unflatten(-1, (3, module.num_heads, -1)).movedim(-3, 0).transpose(-3, -2)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + size.log()[:, None, None]).softmax(-1)
    return module.out_proj((weights @ v).transpose(-3, -2).flatten(-2)), weights, k


def most_attended(weights: Tensor, k: int) -> Tensor:
    """The class token and those k others that it attends to most, averaged over heads: their indices ``[B, 1 + k]``.

    Source: Liang et al. 2022 (2202.07800), Section 3, "EViT"; there the others are fused into one more token, which
    is not done here.

    Args:
        weights: Of an attention, ``[B, heads, T, T]``, the class token first.
        k: How many.
    """
    scores = weights.mean(1)[:, 0, 1:]
    found = scores.topk(k).indices.sort(-1).values + 1
    return F.pad(found, (1, 0))


def merge(tokens: Tensor, size: Tensor, metric: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Merges r pairs of tokens that are alike, by bipartite soft matching: to means, weighted by sizes.

    Tokens are dealt out in turns to two sets. Each of the first has an edge to the one of the second whose metric has
    the largest cosine similarity; the tokens of the r largest edges go into those they point to. The class token, the
    first of the first set, has none.

    Source: Bolya et al. 2023 (2210.09461), Section 3, "ToMe".

    Args:
        tokens: ``[B, T, d]``, the class token first.
        size: Of how many tokens each is the mean, ``[B, T]``.
        metric: ``[B, T, c]``: keys, averaged over heads.
        r: At most the number of tokens of the first set but the class token, ``(T - 1) // 2``.

    Returns:
        Tokens ``[B, T - r, d]``, those of the first set that are left before those of the second, and their sizes.
    """
    if r == 0:
        return tokens, size
    metric = F.normalize(metric, dim=-1)
    similarity = metric[:, ::2] @ metric[:, 1::2].transpose(-2, -1)  # [B, a, b]
    value, target = similarity[:, 1:].max(-1)  # but the class token's
    order = value.argsort(-1, descending=True) + 1
    gone, left = order[:, :r], F.pad(order[:, r:].sort(-1).values, (1, 0))
    weighted = torch.cat([tokens, torch.ones_like(tokens[..., :1])], -1) * size.unsqueeze(-1)
    first, second = weighted[:, ::2], weighted[:, 1::2]

    def taken(rows: Tensor) -> Tensor:
        return first.gather(1, rows.unsqueeze(-1).expand(-1, -1, first.shape[-1]))

    to = F.one_hot(target.gather(1, gone - 1), second.shape[1]).to(tokens.dtype)  # [B, r, b]
    sums = torch.cat([taken(left), second + to.transpose(-2, -1) @ taken(gone)], 1)
    return sums[..., :-1] / sums[..., -1:], sums[..., -1]


class TokenReducer(nn.Module):
    """A vision transformer whose tokens become fewer after the attention of each block.

    It is called as a :class:`gsrl.perception.pruning.TokenPruner` is, and needs no noise.

    Args:
        encoder: The transformer.
        method: How.
        counts: Tokens that are left after the attention of each block, but the class token. Of ``"token merging"`` at
            least half of those before.
    """

    def __init__(self, encoder: VisionTransformer, method: Method, counts: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder, self.method, self.counts = encoder, method, counts
        self.stages: dict[int, float] = {}

    def forward(self, images: Tensor, **how: Any) -> Pruned:
        """Maps images ``[B, *image_shape]`` to outputs and the tokens that are left.

        Args:
            images: What is seen.
            **how: Of a pruner; it changes nothing here.
        """
        network = self.encoder
        x = network.embed(images)
        x = torch.cat([network.class_token.expand(len(x), 1, -1), x], 1)
        size = torch.ones_like(x[..., 0])
        for layer, count in zip(network.layers, self.counts, strict=True):
            block: Any = layer
            read, weights, keys = attention(block.self_attn, block.norm1(x), size)
            x = x + read
            if count < x.shape[1] - 1:
                if self.method == "class attention":
                    rows = most_attended(weights, count)
                    x = x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
                    size = size.gather(1, rows)
                else:
                    x, size = merge(x, size, keys.mean(1), x.shape[1] - 1 - count)
            x = x + block.linear2(block.activation(block.linear1(block.norm2(x))))
        outputs = network.head(network.norm(x[:, 0]))
        return Pruned(outputs, x[:, 1:], (), x.new_ones(len(x), 0), x.new_zeros(()), None)

    def step(self) -> None:
        """Nothing changes between updates."""

    def flops(self, batch: int = 1) -> int:
        """Floating-point operations of a pass, two for a multiplication and addition, of products alone."""
        return batch * flops(self.encoder, self.counts, self.method)


def flops(network: VisionTransformer, counts: tuple[int, ...], method: Method) -> int:
    """Floating-point operations of an image, see :meth:`TokenReducer.flops`."""
    depth, before = len(network.layers), network.num_tokens
    layer: Any = network.layers[0]
    width, hidden, head = network.width, layer.linear1.out_features, network.width // layer.self_attn.num_heads
    stem = network.flops() - depth * 2 * _products(before + 1, before + 1, width, hidden)
    total = 0
    for count in counts:
        total += _products(before + 1, count + 1, width, hidden)
        if method == "token merging" and count < before:
            total += ((before + 2) // 2) * ((before + 1) // 2) * head + (before - count) * ((before + 1) // 2) * width
        before = count
    return stem + 2 * total


def _products(read: int, transformed: int, width: int, hidden: int) -> int:
    """Multiplications of a block's attention and perceptron."""
    return read * (4 * width**2 + 2 * read * width) + transformed * 2 * width * hidden


def counts_for(network: VisionTransformer, method: Method, limit: int) -> tuple[int, ...]:
    """Tokens left after each block if always the same share is, the largest that costs at most so many operations.

    Raises:
        ValueError: Not even half of the tokens after each block does.
    """
    depth, N = len(network.layers), network.num_tokens
    for rate in torch.linspace(1, 0.5, 501).tolist():
        counts: list[int] = []
        for _ in range(depth):
            counts.append(max(1, math.ceil(rate * (counts[-1] if counts else N))))
        if flops(network, tuple(counts), method) <= limit:
            return tuple(counts)
    raise ValueError(f"limit must be at least {flops(network, tuple(counts), method)} operations, but got {limit}.")


class ReducedClassifier(PrunedClassifier):
    """A :class:`gsrl.perception.classifier.PrunedClassifier` with another way to have fewer tokens, at its cost.

    Args:
        *args: Of the other one, whose operations with a learned choice are what this one may cost.
        method: How tokens become fewer.
        **how: Of the other one.
    """

    def __init__(self, *args: Any, method: Method, **how: Any) -> None:
        self.method: Method = method
        super().__init__(*args, **{**how, "ranking": "brightness", "choose": "top-k"})

    def make_loss(self, seed: int) -> PruningLoss:
        """The loss of a member."""
        pruner: TokenPruner = super().make_loss(seed).pruner
        limit = TokenPruner(pruner.encoder, pruner.stages).flops()  # with predictors, which the other here has not
        counts = counts_for(pruner.encoder, self.method, round((1 + TOLERANCE) * limit))
        reducer: Any = TokenReducer(pruner.encoder, self.method, counts)  # called as a pruner is
        return PruningLoss(reducer, self.ratio_weight, gather=True)
