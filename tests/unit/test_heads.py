"""ActionHead: shapes, masks, gradients, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from gsrl import ActionHead

FEATURES = 4

SPACES = [
    (spaces.Discrete(5), 1, 5),
    (spaces.Discrete(3, start=7), 1, 3),
    (spaces.MultiDiscrete([2, 4, 3]), 3, 4),
    (spaces.MultiDiscrete([[2, 2], [3, 3]]), 4, 3),
    (spaces.MultiBinary(6), 6, 2),
]


def features(*batch: int) -> torch.Tensor:
    return torch.randn(*batch, FEATURES, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("space", "n", "K"), SPACES, ids=str)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_shapes_and_round_trip(space: spaces.Space, n: int, K: int, batch: tuple[int, ...]) -> None:
    head = ActionHead(FEATURES, space)
    policy = head(features(*batch))
    assert policy.batch_shape == batch
    assert policy.event_shape == (n, K)
    one_hot = policy.sample(generator=torch.Generator().manual_seed(1))
    actions = head.codec.decode(one_hot)
    assert torch.equal(head.codec.encode(actions), one_hot)
    for action in actions.reshape(-1, *space.shape):  # type: ignore[misc]
        assert np.asarray(action, dtype=space.dtype) in space


def test_the_logits_are_a_linear_layer() -> None:
    head = ActionHead(FEATURES, spaces.MultiBinary(3))
    x = features(2)
    expected = (x @ head.weight.T + head.bias).view(2, 3, 2).log_softmax(-1)
    torch.testing.assert_close(head(x).logits, expected)


def test_actions_start_where_the_space_does() -> None:
    head = ActionHead(FEATURES, spaces.Discrete(3, start=7))
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, 0.0, 9.0])
    assert head.codec.decode(head(features(2)).mode).tolist() == [9, 9]


def test_padding_is_never_taken() -> None:
    head = ActionHead(FEATURES, spaces.MultiDiscrete([2, 4, 3]))
    policy = head(features(5))
    assert torch.equal(policy.mask[0], torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool))
    assert (policy.probs[..., 0, 2:] == 0.0).all()
    assert (policy.probs[..., 2, 3] == 0.0).all()
    torch.testing.assert_close(policy.probs.sum(-1), torch.ones(5, 3))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    torch.testing.assert_close(head(features(5)).entropy(), torch.full((5,), 24.0).log())


def test_masks_of_space_and_state_are_combined() -> None:
    head = ActionHead(FEATURES, spaces.MultiDiscrete([2, 3]))
    state = torch.tensor([[[True, True, True], [False, True, True]], [[False, True, True], [True, True, True]]])
    policy = head(features(2), state)
    expected = torch.tensor([[[1, 1, 0], [0, 1, 1]], [[0, 1, 0], [1, 1, 1]]], dtype=torch.bool)
    assert torch.equal(policy.mask, expected)
    assert (policy.probs[~expected] == 0.0).all()
    # A mask of the state alone.
    policy = ActionHead(FEATURES, spaces.Discrete(3))(features(2), torch.tensor([[True, False, True]]))
    assert (policy.probs[:, 0, 1] == 0.0).all()
    torch.testing.assert_close(policy.probs.sum(-1), torch.ones(2, 1))


def test_gradients_are_those_of_the_log_probability() -> None:
    head = ActionHead(FEATURES, spaces.MultiDiscrete([2, 3]))
    x = features(1).requires_grad_()
    policy = head(x)
    one_hot = policy.mode
    policy.log_prob(one_hot).sum().backward()
    # d log p / d logits = D - p, and 0 at the padding.
    slope = (one_hot - policy.probs).detach()
    assert slope[0, 0, 2] == 0.0
    assert head.bias.grad is not None
    assert head.weight.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(head.bias.grad, slope.flatten())
    torch.testing.assert_close(head.weight.grad, slope.flatten()[:, None] * x.detach())
    torch.testing.assert_close(x.grad, slope.flatten()[None] @ head.weight.detach())


def test_state_dict_holds_only_the_layer() -> None:
    head = ActionHead(FEATURES, spaces.MultiDiscrete([2, 3]))
    assert list(head.state_dict()) == ["weight", "bias"]
    other = ActionHead(FEATURES, spaces.MultiDiscrete([2, 3]))
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other(features(2)).logits, head(features(2)).logits)


@pytest.mark.parametrize("space", [spaces.Box(-1.0, 1.0, (2,)), spaces.Dict({"a": spaces.Discrete(2)})], ids=str)
def test_other_spaces_are_refused(space: spaces.Space) -> None:
    with pytest.raises(TypeError, match="must be Discrete, MultiDiscrete or MultiBinary, but got"):
        ActionHead(FEATURES, space)


def test_a_state_without_a_choice_is_refused() -> None:
    head = ActionHead(FEATURES, spaces.Discrete(2))
    with pytest.raises(ValueError, match="legal"):
        head(features(2), torch.tensor([[[True, True]], [[False, False]]]))


def test_nan_is_refused_unless_validation_is_off() -> None:
    head = ActionHead(FEATURES, spaces.Discrete(2))
    x = torch.full((1, FEATURES), torch.nan)
    with pytest.raises(ValueError, match="logits"):
        head(x)
    assert head(x, validate_args=False).logits.isnan().all()


def test_its_repr_names_the_space() -> None:
    assert repr(ActionHead(FEATURES, spaces.MultiBinary(2))) == (
        "ActionHead(in_features=4, action_space=MultiBinary(2))"
    )
