"""The slope of a critic between choices, against the values at them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from gsrl.diagnostics import critic_slope
from gsrl.estimators.base import replace_rows


def test_rows_are_replaced_one_at_a_time():
    one_hot = torch.eye(3)[torch.tensor([[2, 0], [1, 1]])]  # a batch of two matrices, n = 2, K = 3
    choices = replace_rows(one_hot).argmax(-1)
    assert choices[:, 0].tolist() == [[0, 0], [1, 0], [2, 0], [2, 0], [2, 1], [2, 2]]
    assert choices[:, 1].tolist() == [[0, 1], [1, 1], [2, 1], [1, 0], [1, 1], [1, 2]]


def test_slope_of_all_values_at_once_is_right():
    values = torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(0))
    one_hot = torch.eye(4)[[0, 1, 2, 3, 0]].unsqueeze(1)
    slope = critic_slope(lambda z: (z * values).sum((-2, -1)), one_hot)
    assert slope.relative_error == pytest.approx(0, abs=1e-6)
    assert slope.cosine == pytest.approx(1)
    assert slope.scale == pytest.approx(1)
    assert slope.sign_agreement == 1


def test_slope_of_a_cubic_by_hand():
    # f = z_1^3 + 2 z_1: from 0 to 1 it rises by 3 where its slope is 2, and back it falls by 3 where its slope is 5.
    def f(one_hot: Tensor) -> Tensor:
        z = one_hot[..., 0, 1]
        return z**3 + 2 * z

    slope = critic_slope(f, torch.eye(2).unsqueeze(1))
    assert slope.relative_error == pytest.approx(math.sqrt(1 + 4) / math.sqrt(18))
    assert slope.cosine == pytest.approx(21 / (math.sqrt(29) * math.sqrt(18)))
    assert slope.scale == pytest.approx(21 / 18)
    assert slope.sign_agreement == 1


def test_slope_of_a_saturated_critic_by_hand():
    # f = tanh(a z_1) at z_1 = 1: it falls by tanh a where its slope is a (1 - tanh(a)^2).
    a = 3.0
    slope = critic_slope(lambda z: (a * z[..., 0, 1]).tanh(), torch.tensor([[0.0, 1.0]]))
    ratio = a * (1 - math.tanh(a) ** 2) / math.tanh(a)
    assert slope.scale == pytest.approx(ratio, rel=1e-4)
    assert slope.relative_error == pytest.approx(1 - ratio, rel=1e-4)


def test_slope_with_the_wrong_sign():
    # f = (z_1 - .6)^2 at z_1 = 1: f falls from .36 to .16, on the way back it rises by .2; its slope says -.8.
    slope = critic_slope(lambda z: (z[..., 0, 1] - 0.6) ** 2, torch.tensor([[0.0, 1.0]]))
    assert slope.sign_agreement == 0
    assert slope.cosine == pytest.approx(-1)
    assert slope.scale == pytest.approx(-4, rel=1e-5)


def test_slope_masks_and_factors():
    # Two factors, f = z_11 z_21 + big at the illegal choice; at D = (1, 1) each factor alone changes f by -1.
    def f(one_hot: Tensor) -> Tensor:
        assert one_hot.shape[:-2] == (7, 1)
        return one_hot[..., 0, 1] * one_hot[..., 1, 1] + 100 * one_hot[..., 0, 2] ** 2

    one_hot = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    slope = critic_slope(f, one_hot, mask)
    assert slope.relative_error == pytest.approx(0, abs=1e-6)
    assert critic_slope(f, one_hot).relative_error > 0.5


def test_slope_without_another_choice_is_nan():
    mask = torch.tensor([[False, True]])
    slope = critic_slope(lambda z: z[..., 0, 0], torch.tensor([[0.0, 1.0]]), mask)
    assert all(math.isnan(value) for value in dataclasses.astuple(slope))


@pytest.mark.parametrize(
    ("one_hot", "mask", "message"),
    [
        (torch.tensor([[0.5, 0.5]]), None, "one_hot must be one-hot"),
        (torch.tensor([[1.0, 1.0]]), None, "one_hot must be one-hot"),
        (torch.tensor([[0, 1]]), None, "one_hot must be floating"),
        (torch.tensor([0.0, 1.0]), None, "one_hot must be floating with shape"),
        (torch.tensor([[0.0, 1.0]]), torch.ones(1, 2), "mask must be boolean"),
        (torch.tensor([[0.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool), "mask must broadcast"),
        (torch.tensor([[0.0, 1.0]]), torch.tensor([[True, False]]), "one_hot takes a choice that mask forbids"),
    ],
)
def test_slope_refuses(one_hot, mask, message):
    with pytest.raises(ValueError, match=message):
        critic_slope(lambda z: z[..., 0, 0], one_hot, mask)
