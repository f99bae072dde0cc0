"""Policy heads: from the features of any network to a distribution over a discrete action space."""

from __future__ import annotations

from gymnasium import spaces
from torch import Tensor, nn

from gsrl.distributions import FactoredCategorical
from gsrl.spaces import OneHotCodec

__all__ = ["ActionHead"]


class ActionHead(nn.Linear):
    """The linear layer that returns a :class:`FactoredCategorical` over the actions of a Gymnasium space.

    Choices that the space does not have (factors of unequal size) are masked. ``head.codec`` turns samples into actions
    of the space and back.

    Args:
        in_features: Size of the last dimension of the features.
        action_space: ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``.

    Attributes:
        codec: The :class:`gsrl.spaces.OneHotCodec` of the space.

    Raises:
        TypeError: ``action_space`` is another space.

    Example:
        >>> from gymnasium import spaces
        >>> head = ActionHead(64, spaces.MultiDiscrete([2, 3]))
        >>> policy = head(torch.zeros(8, 64))
        >>> policy.batch_shape, policy.event_shape
        (torch.Size([8]), torch.Size([2, 3]))
        >>> head.codec.decode(policy.sample().numpy()).shape
        (8, 2)
    """

    mask: Tensor | None

    def __init__(self, in_features: int, action_space: spaces.Space) -> None:
        codec = OneHotCodec(action_space)
        super().__init__(in_features, codec.n * codec.K)
        self.codec = codec
        self.register_buffer("mask", codec.mask, persistent=False)

    def forward(  # type: ignore[override]  # a distribution, not a tensor
        self, features: Tensor, mask: Tensor | None = None, *, validate_args: bool = True
    ) -> FactoredCategorical:
        """Returns the policy at these features.

        Args:
            features: ``[*batch, in_features]``.
            mask: Boolean, broadcastable to ``[*batch, n, K]``, True where the state allows a choice.
            validate_args: Whether values are checked, see :class:`FactoredCategorical`.
        """
        logits = super().forward(features)
        logits = logits.view(*logits.shape[:-1], self.codec.n, self.codec.K)
        return FactoredCategorical(logits, self.legal(mask), validate_args=validate_args)

    def legal(self, mask: Tensor | None) -> Tensor | None:
        """The choices of a mask that the space has; None: all."""
        if mask is None or self.mask is None:
            return self.mask if mask is None else mask
        return mask & self.mask

    def extra_repr(self) -> str:
        """The features and the action space."""
        return f"in_features={self.in_features}, action_space={self.codec.space}"
