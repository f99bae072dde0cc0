"""Features extractors that Stable-Baselines3 has not."""

from __future__ import annotations

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from gsrl.checkpoint import register

__all__ = ["SmallCNN", "image_layout"]


def image_layout(space: gym.Space) -> tuple[bool, tuple[int, int, int]]:
    """Whether images have their channels last, and how many channels, how high and how wide they are.

    The channels are the dimension beside two equal ones, the smallest where none are equal, and the last where all are.

    Raises:
        ValueError: The space is no ``Box`` of three dimensions.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        raise ValueError(f"observation_space must be a Box of three dimensions, but got {space}.")
    shape = space.shape
    is_last = shape[0] == shape[1] or (shape[1] != shape[2] and min(shape) == shape[2])
    return is_last, ((shape[2], shape[0], shape[1]) if is_last else (shape[0], shape[1], shape[2]))


@register("gsrl.SmallCNN")
class SmallCNN(BaseFeaturesExtractor):
    """A convolutional network for small images, such as MinAtar's 10 x 10, which ``NatureCNN`` refuses.

    One layer of 3 x 3 kernels with stride 1, then a linear layer, as in MinAtar's own agents. Images may have any
    number of channels, first or last: the dimension beside two equal ones, the smallest where none are equal, and the
    last where all are.

    Source: Young and Tian 2019 (1903.03176), Section 4.

    Args:
        observation_space: A ``Box`` of three dimensions, at least 3 pixels high and wide.
        features_dim: Size of the features.
        channels: Channels of the convolution.
        normalized_image: Unused; Stable-Baselines3 gives it to extractors of images.

    Raises:
        ValueError: The space is another one.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        features_dim: int = 128,
        channels: int = 16,
        normalized_image: bool = False,
    ) -> None:
        self.channels_last, (in_channels, height, width) = image_layout(observation_space)
        super().__init__(observation_space, features_dim)
        if min(height, width) < 3:
            raise ValueError(
                f"observation_space must be at least 3 pixels high and wide, but got shape {observation_space.shape}."
            )
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, kernel_size=3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(channels * (height - 2) * (width - 2), features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Maps images ``[B, *shape]`` to features ``[B, features_dim]``."""
        return self.layers(observations.movedim(-1, 1) if self.channels_last else observations)
