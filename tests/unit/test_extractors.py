from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from gsrl import DiscreteSAC
from gsrl.algorithms.extractors import SmallCNN


class Grid(gym.Env):
    """A 10 x 10 image of 4 boolean channels, as MinAtar's."""

    observation_space = spaces.Box(0, 1, (10, 10, 4), np.bool_)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.np_random.random((10, 10, 4)) < 0.5, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.np_random.random((10, 10, 4)) < 0.5, float(action), self.np_random.random() < 0.2, False, {}


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [
        ((10, 10, 4), True),
        ((4, 10, 10), False),
        ((3, 3, 3), True),
        ((10, 10, 12), True),  # more channels than pixels, as of stacked frames
        ((12, 10, 10), False),
        ((3, 10, 20), False),
        ((10, 20, 3), True),
    ],
)
def test_channels_may_be_first_or_last(shape: tuple[int, ...], channels_last: bool) -> None:
    extractor = SmallCNN(spaces.Box(0.0, 1.0, shape), features_dim=7)
    assert extractor.channels_last == channels_last
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    features = extractor(images)
    assert features.shape == (5, 7)
    first = images.movedim(-1, 1) if channels_last else images
    torch.testing.assert_close(features, extractor.layers(first))


def test_members_convolve_as_each_alone() -> None:
    extractors: list[Any] = [SmallCNN(Grid.observation_space, features_dim=3, channels=2) for _ in range(3)]
    images = torch.rand(3, 5, 10, 10, 4, generator=torch.Generator().manual_seed(0))
    stacked, _ = stack_module_state(extractors)

    def squares(tensors: dict[str, Tensor], given: Tensor) -> Tensor:
        features: Tensor = functional_call(extractors[0], tensors, given)
        return features.square().sum()

    gradients = grad(lambda tensors, given: vmap(squares)(tensors, given).sum(), (0, 1))(stacked, images)
    inside = vmap(grad(squares, (0, 1)))(stacked, images)
    same = vmap(grad(squares, (0, 1)), in_dims=(0, None))(stacked, images[1])
    for index, extractor in enumerate(extractors):
        for found, given in ((gradients, images[index]), (inside, images[index]), (same, images[1])):
            given = given.clone().requires_grad_()
            parameters = dict(extractor.named_parameters())
            expected = torch.autograd.grad(extractor(given).square().sum(), [*parameters.values(), given])
            for name, value in zip(parameters, expected, strict=False):
                torch.testing.assert_close(found[0][name][index], value)
            torch.testing.assert_close(found[1][index], expected[-1])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0.0, 1.0, (10,)), "must be a Box of three dimensions"),
        (spaces.Discrete(3), "must be a Box of three dimensions"),
        (spaces.Box(0.0, 1.0, (2, 10, 1)), "at least 3 pixels high and wide"),
    ],
)
def test_other_spaces_are_refused(space: spaces.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmallCNN(space)


def test_an_agent_learns_from_small_images_and_is_saved(tmp_path: Path) -> None:
    kwargs = {"features_extractor_class": SmallCNN, "features_extractor_kwargs": {"features_dim": 8}, "net_arch": []}
    model = DiscreteSAC("CnnPolicy", Grid(), learning_starts=10, batch_size=8, policy_kwargs=kwargs, seed=0)
    before = model.policy.actor.features_extractor.layers[0].weight.clone()
    model.learn(30)
    assert not torch.equal(before, model.policy.actor.features_extractor.layers[0].weight)
    model.save(tmp_path / "model.zip")
    loaded = DiscreteSAC.load(tmp_path / "model.zip")
    observations = np.stack([Grid().reset(seed=seed)[0] for seed in range(6)])
    actions, _ = model.predict(observations, deterministic=True)
    assert np.array_equal(actions, loaded.predict(observations, deterministic=True)[0])
