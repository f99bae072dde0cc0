"""What the study of token pruning compares with: tokens by class attention, and tokens that are merged."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.studies.perception.reduction import (
    ReducedClassifier,
    TokenReducer,
    counts_for,
    merge,
    most_attended,
)
from gsrl.perception.pruning import VisionTransformer


def network() -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer((1, 8, 8), patch=2, width=8, depth=3, heads=2)


def images() -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_those_are_kept_that_the_class_token_attends_to_most() -> None:
    weights = torch.zeros(1, 2, 5, 5)
    weights[0, 0, 0] = torch.tensor([0.5, 0.0, 0.3, 0.1, 0.1])
    weights[0, 1, 0] = torch.tensor([0.1, 0.1, 0.0, 0.3, 0.5])  # means .05, .15, .2, .3
    weights[0, :, 1] = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])  # what others attend to is nothing to it
    assert most_attended(weights, 2).tolist() == [[0, 3, 4]]
    assert most_attended(weights, 3).tolist() == [[0, 2, 3, 4]]


def test_tokens_that_are_alike_are_merged() -> None:
    """Sets: 0 (class), 2, 4 and 1, 3, 5. Cosines: 2 to 1 is .6, to 3 is 1; 4 to 1 is .8, to 5 is .6."""
    metric = torch.tensor([[[1.0, 0], [0.6, 0.8], [2.0, 0], [3.0, 0], [0, 1.0], [-0.8, 0.6]]])
    tokens = torch.tensor([[[0.0], [1.0], [2.0], [5.0], [7.0], [9.0]]])
    size = torch.tensor([[1.0, 1.0, 2.0, 1.0, 1.0, 3.0]])
    merged, sizes = merge(tokens, size, metric, 1)
    assert merged[0, :, 0].tolist() == [0, 7, 1, 3, 9]  # (2 * 2 + 1 * 5) / 3
    assert sizes.tolist() == [[1, 1, 1, 3, 3]]
    merged, sizes = merge(tokens, size, metric, 2)
    assert merged[0, :, 0].tolist() == [0, 4, 3, 9]
    assert sizes.tolist() == [[1, 2, 3, 3]]
    assert torch.equal(merge(tokens, size, metric, 0)[0], tokens)


def test_many_may_go_into_one() -> None:
    metric = torch.tensor([[[0.0, 1], [1.0, 0], [1.0, 0], [0.0, 1], [1.0, 0.1]]])
    tokens = torch.tensor([[[0.0], [3.0], [6.0], [1.0], [9.0]]])
    merged, sizes = merge(tokens, torch.ones(1, 5), metric, 2)
    assert merged[0, :, 0].tolist() == [0, 6, 1]
    assert sizes.tolist() == [[1, 3, 1]]


@pytest.mark.parametrize("method", ["class attention", "token merging"])
def test_with_all_tokens_it_is_the_transformer(method: Any) -> None:
    own = network()
    reduced = TokenReducer(own, method, (16, 16, 16))
    torch.testing.assert_close(reduced(images()).outputs, own(images()))
    assert reduced.flops(2) == own.flops(2)


def test_tokens_that_are_one_and_the_same_may_be_merged() -> None:
    """Proportional attention: of two equal tokens, in neighbouring places, nothing is lost when they are one."""
    own = network()
    with torch.no_grad():
        own.positions[1] = own.positions[0]
    given = torch.zeros(1, 1, 8, 8)
    assert own.conv is not None
    with torch.no_grad():
        own.conv.weight.zero_()  # all patches are alike, and tokens differ by their places
    merged = TokenReducer(own, "token merging", (15, 15, 15))
    torch.testing.assert_close(merged(given).outputs, own(given))
    assert merged(given).tokens.shape == (1, 15, 8)


@pytest.mark.parametrize("method", ["class attention", "token merging"])
def test_operations_of_reduced_transformers_are_those_that_torch_counts(method: Any) -> None:
    reduced = TokenReducer(network(), method, (9, 5, 3))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert reduced(images()).tokens.shape == (3, 3, 8)
    assert cast(int, counter.get_total_flops()) == pytest.approx(reduced.flops(3), rel=0.01)


def test_counts_cost_what_they_may() -> None:
    own = network()
    dense = own.flops()
    assert counts_for(own, "class attention", dense) == (16, 16, 16)
    counts = counts_for(own, "class attention", round(0.8 * dense))
    assert counts == tuple(sorted(counts, reverse=True))
    assert 0.5 * dense < TokenReducer(own, "class attention", counts).flops() <= 0.8 * dense
    with pytest.raises(ValueError, match="limit must be at least"):
        counts_for(own, "token merging", dense // 10)


@pytest.mark.parametrize("method", ["class attention", "token merging"])
def test_members_learn_as_alone(method: Any) -> None:
    pytest.importorskip("sklearn")
    small: dict[str, Any] = {"width": 8, "depth": 3, "stages": (1,), "shares": (0.5,), "stem": "linear"}
    both = ReducedClassifier("digits", (0, 1), method=method, batch_size=4, **small).learn(8)
    for index, seed in enumerate((0, 1)):
        alone = ReducedClassifier("digits", (seed,), method=method, batch_size=4, **small).learn(8)
        given = images()
        ours, theirs = (task.lockstep.losses[i].pruner(given).outputs for task, i in ((both, index), (alone, 0)))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert both.evaluate(20).shape == (2, 20)
