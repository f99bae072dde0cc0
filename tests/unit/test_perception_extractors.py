"""Losses that go with features, and extractors that prune."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from gsrl.perception.extractors import attach_loss


def test_a_loss_goes_with_features_once() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    features = attach_loss(3 * x, (x**2).sum())
    assert torch.equal(features, 3 * x)
    # Used twice, with weights 1 and 10: the loss is added once, with weight 1.
    (features.sum() + 10 * features[0]).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3 + 30 + 2, 3 - 4]
    unused = torch.tensor(1.0, requires_grad=True)
    attach_loss(torch.zeros(2), unused).sum().backward()
    assert unused.grad == 1  # features that have no gradient of their own take it along as well


def test_each_member_has_its_own_loss() -> None:
    def value(x: Tensor) -> Tensor:
        return attach_loss(3 * x, (x**2).sum()).prod()

    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([grad(value)(row) for row in x])
    torch.testing.assert_close(vmap(grad(value))(x), expected)
    torch.testing.assert_close(expected, 9 * x.flip(-1) + 2 * x)
    variables = x.clone().requires_grad_()
    vmap(value)(variables).sum().backward()
    torch.testing.assert_close(variables.grad, expected)


def test_a_loss_is_a_scalar() -> None:
    with pytest.raises(ValueError, match=r"loss must be a scalar, but got shape \(2,\)"):
        attach_loss(torch.zeros(2), torch.zeros(2))
