"""Instruments: statistics by hand and against the oracles, what they must leave alone, and what they show.

Sampled figures are compared with five standard errors of their own; the seeds are fixed. A figure misses that with
probability below 1e-5, and there are fewer than 50.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import sys

import pytest
import torch
from torch import Tensor, nn

from gsrl import diagnostics
from gsrl.diagnostics import Comparison, EstimatorStatistics, adapt, compare, critic_slope
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import (
    RLOO,
    Estimator,
    GumbelSoftmax,
    Rebar,
    ReinforceEstimator,
    ReinMax,
    Relax,
    STGumbel,
    StraightThrough,
    UnorderedSet,
)
from gsrl.estimators.base import attach_gradient, evaluate
from gsrl.temperature import LearnedTemperature

N = 60_000
# Four choices, f(z) = z' W z; the printed digits come from enumeration and quadrature.
W = torch.tensor([[1.0, 0.5, -1.0, 0.0], [0.5, -1.0, 1.0, 0.5], [-1.0, 1.0, 2.0, -0.5], [0.0, 0.5, -0.5, 3.0]])
POLICY = FactoredCategorical(torch.tensor([[1.2, 0.3, -0.5, -1.5]]))
GRADIENT = torch.tensor([[0.18078, -0.41739, 0.14331, 0.09329]])
NORM = 0.48594
BINARY = FactoredCategorical(torch.zeros(1, 2))


def quadratic(one_hot: Tensor) -> Tensor:
    return ((one_hot @ W) * one_hot).sum((-2, -1))


def zero(one_hot: Tensor) -> Tensor:
    return torch.zeros(one_hot.shape[:-2])


class Alternating(Estimator):
    """Its estimates for a binary policy are (v, -v), with v = mean + spread and mean - spread in turn."""

    name = "alternating"
    biased = True
    source = "this test"

    def __init__(self, mean: float = 2.0, spread: float = 1.0, random: bool = True) -> None:
        super().__init__()
        self.mean, self.spread, self.random = mean, spread, random

    def calls(self, n, K):
        return 2

    def draw_noise(self, policy, generator=None):
        signs = 1.0 - 2.0 * (torch.arange(policy.batch_shape.numel()) % 2)
        return signs.reshape(policy.batch_shape) if self.random else ()

    def _expectation(self, policy, f, noise):
        cost = evaluate(f, policy.mode.expand(2, *policy.logits.shape)).mean(0)
        value = self.mean + self.spread * (noise if self.random else 0.0) + torch.zeros(policy.batch_shape)
        return attach_gradient(cost, policy, torch.stack([value, -value], -1).unsqueeze(-2))


def row(comparison: Comparison, label: str) -> EstimatorStatistics:
    return next(row for row in comparison.rows if row.estimator == label)


def measured(*args, **kwargs) -> EstimatorStatistics:
    (only,) = compare(*args, measure_cost=False, **kwargs).rows
    return only


# The statistics.


def test_statistics_by_hand():
    # Estimates (3, -3), (1, -1), (3, -3), (1, -1); the gradient is (1, -1).
    exact = torch.tensor([[1.0, -1.0]])
    comparison = compare(BINARY, zero, {"known": Alternating()}, 4, exact=exact, measure_cost=False)
    assert (comparison.reference, comparison.reference_error) == ("given", 0.0)
    assert comparison.gradient_norm == pytest.approx(math.sqrt(2))
    expected = {
        "estimator": "known",
        "biased": True,
        "calls": 2,
        "samples": 4,
        "bias": math.sqrt(2),
        "relative_bias": 1.0,
        "relative_bias_error": math.sqrt(8 / 3 / 4 / 2),
        "variance": 8 / 3,
        "snr": math.sqrt(8) / math.sqrt(8 / 3),
        "cosine": 1.0,
        "cosine_of_mean": 1.0,
        "mse": 4.0,
        "seconds": math.nan,
        "peak_bytes": math.nan,
    }
    got = dataclasses.asdict(comparison.rows[0])
    assert list(got) == list(expected)
    assert got == pytest.approx(expected, nan_ok=True)


def test_cosine_of_zero_and_of_opposite_estimates():
    exact = torch.tensor([[1.0, -1.0]])
    half_zero = measured(BINARY, zero, {"a": Alternating(2.0, 2.0)}, num_samples=4, exact=exact)  # 4 and 0
    assert half_zero.cosine == pytest.approx(0.5)
    opposite = measured(BINARY, zero, {"a": Alternating(0.5, 1.0)}, num_samples=4, exact=exact)  # 1.5 and -.5
    assert opposite.cosine == pytest.approx(0.0)
    assert opposite.cosine_of_mean == pytest.approx(1.0)
    against = measured(BINARY, zero, {"a": Alternating(-1.0, 0.0)}, num_samples=4, exact=exact)
    assert against.cosine_of_mean == pytest.approx(-1.0)
    assert against.relative_bias == pytest.approx(2.0)


def test_without_noise_two_estimates_are_enough():
    statistics = measured(BINARY, zero, [Alternating(random=False)], exact=torch.tensor([[1.0, -1.0]]))
    assert statistics.samples == 2
    assert (statistics.variance, statistics.relative_bias_error, statistics.snr) == (0.0, 0.0, math.inf)


def test_gradient_of_zero_has_no_relative_figures():
    comparison = compare(BINARY, zero, [Alternating()], 4, measure_cost=False)
    statistics = comparison.rows[0]
    assert comparison.gradient_norm == 0
    assert statistics.bias == pytest.approx(math.sqrt(8))
    relative = (statistics.relative_bias, statistics.relative_bias_error, statistics.cosine, statistics.cosine_of_mean)
    assert all(math.isnan(value) for value in relative)
    assert "–" in rendered(comparison)
    with pytest.raises(ValueError, match=r"must not be 0.*alternating"):
        comparison.figure()


@pytest.mark.parametrize("chunk", [1, 3, 7, 11])
def test_moments_do_not_depend_on_chunks(chunk):
    estimates = 1e3 + torch.randn(11, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = torch.arange(6, dtype=torch.float64)
    moments = diagnostics._Moments(gradient)
    for part in estimates.split(chunk):
        moments.add(part)
    torch.testing.assert_close(moments.deviation, estimates.mean(0) - gradient, rtol=1e-12, atol=0)
    assert moments.variance == pytest.approx(estimates.var(0).sum().item(), rel=1e-9)
    assert moments.mean_square == pytest.approx((estimates - gradient).square().sum(-1).mean().item(), rel=1e-12)
    cosines = torch.cosine_similarity(estimates, gradient.expand(11, 6), dim=-1)
    assert moments.cosine == pytest.approx(cosines.mean().item(), rel=1e-12)


def test_comparison_does_not_depend_on_chunks(monkeypatch):
    # One noise matrix an estimate: in sequence, they are the same whatever the chunks.
    whole = measured(POLICY, quadratic, ["st-gumbel"], num_samples=100)
    monkeypatch.setattr(diagnostics, "MAX_ROWS", 7)
    parts = measured(POLICY, quadratic, ["st-gumbel"], num_samples=100)
    assert dataclasses.astuple(parts)[1:] == pytest.approx(dataclasses.astuple(whole)[1:], rel=1e-6, nan_ok=True)


def test_chunks_are_bounded():
    seen = []

    def f(one_hot: Tensor) -> Tensor:
        seen.append(one_hot.shape)
        return one_hot[..., 0].sum(-1)

    policy = FactoredCategorical(torch.zeros(500, 2, 2))
    assert measured(policy, f, [RLOO(5)], num_samples=60).samples == 60
    assert seen[0] == (5, 500, 2, 2)  # the first look
    assert max(shape.numel() for shape in seen) <= diagnostics.MAX_ELEMENTS
    assert max(shape[:2].numel() for shape in seen) <= diagnostics.MAX_ROWS
    assert sum(shape[0] for shape in seen if shape[0] > 5) == 5 * 60  # and all of 26 + 26 + 8 estimates


def test_chunks_of_large_matrices_are_bounded(monkeypatch):
    seen = []

    def f(one_hot: Tensor) -> Tensor:
        seen.append(one_hot.numel())
        return one_hot[..., 0].sum(-1)

    monkeypatch.setattr(diagnostics, "MAX_ELEMENTS", 200)
    measured(FactoredCategorical(torch.zeros(4, 4)), f, ["straight-through"], num_samples=25, exact=torch.zeros(4, 4))
    assert seen == [16, 192, 192, 16]  # the first look, then 12 + 12 + 1 estimates


# Against the oracles.


@pytest.mark.parametrize(
    ("estimator", "calls", "bias", "variance"),
    [
        ("exact", 4, 0, 0),
        (StraightThrough(), 1, 0.8841, 0.4263),
        (STGumbel(0.5), 1, 0.3812, 1.6698),
        (GumbelSoftmax(), 1, 0.6505, 0.1335),
        (ReinMax(), 1, 0, 1.8102),
        ("reinforce", 1, 0, 1.1689),
        (RLOO(4), 4, 0, 0.3159),
        (UnorderedSet(2), 2, 0, 0.5010),
    ],
)
def test_four_choices(estimator, calls, bias, variance):
    comparison = compare(POLICY, quadratic, [estimator], N, measure_cost=False)
    assert comparison.reference == "enumeration"
    assert comparison.gradient_norm == pytest.approx(NORM, abs=1e-5)
    statistics = comparison.rows[0]
    assert statistics.calls == calls
    assert statistics.relative_bias_error == pytest.approx(
        math.sqrt(statistics.variance / statistics.samples) / NORM, rel=1e-4
    )
    assert abs(statistics.relative_bias - bias) <= 5 * statistics.relative_bias_error + 1e-4
    # A standard error of the variance is at most one percent here.
    assert statistics.variance == pytest.approx(variance, rel=0.05, abs=1e-12)
    assert statistics.mse == pytest.approx(statistics.variance + statistics.bias**2, rel=1e-3, abs=1e-12)


def test_batch_is_one_vector():
    # The second row of the batch counts twice: its gradient is twice the first, and independent of it.
    policy = FactoredCategorical(POLICY.logits.expand(2, 1, 4))
    weight = torch.tensor([1.0, 2.0])
    comparison = compare(policy, lambda z: weight * quadratic(z), [StraightThrough()], N, measure_cost=False)
    statistics = comparison.rows[0]
    assert comparison.gradient_norm == pytest.approx(math.sqrt(5) * NORM, abs=1e-4)
    assert abs(statistics.relative_bias - 0.8841) <= 5 * statistics.relative_bias_error + 1e-4
    assert statistics.variance == pytest.approx(5 * 0.4263, rel=0.05)


def test_masked_policy():
    A = torch.tensor([[0.8, -0.4, 0.1], [-0.6, 0.5, 0.9], [0.3, -0.7, 0.4]])
    logits = torch.tensor([[0.5, -0.3, 0.0], [-1.0, 0.4, 0.8], [0.2, 1.0, -0.6]])
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[0, 2] = False
    gradient = torch.tensor([[1.23853, -1.23853, 0.0], [-0.41062, -0.45363, 0.86425], [1.13945, -1.80142, 0.66197]])
    policy = FactoredCategorical(logits, mask)
    names = ["reinforce", "st-gumbel", "rebar", "arsm", "local-expectation"]
    comparison = compare(policy, lambda z: (0.5 + (A * z).sum((-2, -1))) ** 3, names, 2000, measure_cost=False)
    assert comparison.gradient_norm == pytest.approx(gradient.norm().item(), abs=1e-4)
    for statistics in comparison.rows:
        assert math.isfinite(statistics.mse)
        if not statistics.biased:
            assert statistics.relative_bias <= 5 * statistics.relative_bias_error


class Given(Estimator):
    """An estimate known beforehand."""

    name = "given"
    biased = False
    source = "this test"

    def __init__(self, gradient: Tensor) -> None:
        super().__init__()
        self.gradient = gradient

    def calls(self, n, K):
        return 0

    def draw_noise(self, policy, generator=None):
        return ()

    def _expectation(self, policy, f, noise):
        gradient = self.gradient.expand(policy.logits.shape)
        return attach_gradient(torch.zeros(policy.batch_shape), policy, gradient)


def test_reference_of_a_large_policy_states_its_error():
    n = 17  # 2**17 configurations
    logits = torch.linspace(-1, 1, 2 * n).reshape(n, 2).requires_grad_()
    weight = torch.linspace(0.2, 1, n)
    policy = FactoredCategorical(logits)
    # f = <w, z>^2 in the second column: its mean is <w, p>^2 + sum of w^2 p (1 - p).
    p = policy.probs[:, 1]
    mean = (weight @ p) ** 2 + (weight**2 * p * (1 - p)).sum()
    (gradient,) = torch.autograd.grad(mean, logits)

    def f(one_hot: Tensor) -> Tensor:
        return (one_hot[..., 1] @ weight) ** 2

    given = Given(gradient)
    comparison = compare(policy, f, [given, "local-expectation"], 400, measure_cost=False)
    assert comparison.reference == "local-expectation, 400 samples"
    # The squared error over its mean is about chi-square with 17 degrees, over 17: outside with P < 1e-3.
    assert 0.55 < row(comparison, "given").bias / comparison.reference_error < 1.65
    # Noise of its own: the same estimator does not agree with itself.
    assert row(comparison, "local-expectation").bias > 0.5 * comparison.reference_error
    assert compare(policy, f, [given], 2, exact=gradient, measure_cost=False).rows[0].bias < 1e-5


# What a comparison leaves alone.


def test_same_seed_same_rows_whatever_the_company():
    names = ["st-gumbel", "rloo", "reinforce"]
    first = compare(POLICY, quadratic, names, 200, seed=3, measure_cost=False)
    assert repr(compare(POLICY, quadratic, names, 200, seed=3, measure_cost=False)) == repr(first)
    alone = compare(POLICY, quadratic, ["rloo"], 200, seed=3)
    assert dataclasses.replace(alone.rows[0], seconds=0.0, peak_bytes=0.0) == dataclasses.replace(
        row(first, "rloo"), seconds=0.0, peak_bytes=0.0
    )
    assert row(compare(POLICY, quadratic, names, 200, seed=4, measure_cost=False), "rloo") != row(first, "rloo")


def test_nothing_is_changed():
    critic = nn.Linear(4, 1)
    logits = POLICY.logits.clone().requires_grad_()
    estimators = [
        Rebar(),
        Relax(1, 4),
        ReinforceEstimator("running-mean"),
        STGumbel(),
    ]
    before = [{name: value.clone() for name, value in estimator.state_dict().items()} for estimator in estimators]
    state = torch.get_rng_state()
    with torch.no_grad():  # as a callback may be called
        compare(FactoredCategorical(logits), lambda z: critic(z).sum((-2, -1)), estimators, 10)
        critic_slope(lambda z: critic(z).sum((-2, -1)), torch.eye(4).unsqueeze(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert logits.grad is None
    assert all(parameter.grad is None for parameter in critic.parameters())
    for estimator, kept in zip(estimators, before, strict=True):
        assert all(parameter.grad is None for parameter in estimator.parameters())
        assert {name: value.tolist() for name, value in estimator.state_dict().items()} == {
            name: value.tolist() for name, value in kept.items()
        }


def test_objective_without_gradient():
    # f does not depend on its argument differentiably: a pathwise estimate is 0, whatever parameters f holds.
    parameter = nn.Parameter(torch.ones(()))
    for f in (lambda z: z.detach()[..., 0, 0], lambda z: z.detach()[..., 0, 0] * parameter):
        statistics = measured(POLICY, f, ["st-gumbel"], num_samples=10)
        assert (statistics.relative_bias, statistics.variance, statistics.cosine) == (1.0, 0.0, 0.0)


def test_a_name_stands_for_an_estimator_made_for_the_policy():
    named = compare(POLICY, quadratic, ["relax"], 50, measure_cost=False)
    assert repr(named) == repr(compare(POLICY, quadratic, [Relax(1, 4)], 50, measure_cost=False))


def test_a_baseline_of_captured_observations():
    # A policy of five rows; estimates are made many at a time, of which the baseline knows nothing.
    policy = FactoredCategorical(POLICY.logits.expand(5, 1, 4))
    baseline = torch.linspace(0, 2, 5)
    statistics = measured(policy, quadratic, [ReinforceEstimator(lambda policy: baseline)], num_samples=4000)
    assert statistics.relative_bias <= 5 * statistics.relative_bias_error
    # With b = E f, about the least; without a baseline, 1.1689 a row.
    best = measured(policy, quadratic, [ReinforceEstimator(lambda policy: torch.full((5,), 0.70054))], num_samples=4000)
    assert best.variance < statistics.variance
    assert best.variance < 0.95 * 5 * 1.1689


# Cost.


def test_peak_memory_by_hand():
    with diagnostics._TensorMemory() as memory:
        a = torch.zeros(1000)  # 4000 bytes
        b = a.exp()  # 8000
        del a
        c = b.view(10, 100).sin()  # 8000
        del b, c
        torch.zeros(10)
    assert (memory.peak, memory._live) == (8000, 0)


def test_peak_memory_of_a_backward_pass():
    x = torch.zeros(1000, requires_grad=True)
    x.mul(2)  # what was live before does not count
    with diagnostics._TensorMemory() as memory:
        y = x.exp().sin().sum()
        assert memory._live == 4004  # the exponential, which both derivatives need, and the sum
        torch.autograd.grad(y, x)
    # In the backward pass: the exponential, its cosine and their product, each 4000; two numbers.
    assert memory.peak == 12008


def test_cost_is_measured():
    comparison = compare(POLICY, quadratic, {"few": RLOO(2), "many": RLOO(2000)}, 10)
    few, many = comparison.rows
    assert 0 < few.seconds < 10
    assert (few.calls, many.calls) == (2, 2000)
    # Noise and samples: at least two matrices of four float32 numbers for each of 2000.
    assert many.peak_bytes >= 2000 * 2 * 16
    assert many.peak_bytes > 100 * few.peak_bytes


# Adapting a control variate.


def test_adapt_lowers_the_variance_and_leaves_no_trace():
    estimator, critic = Rebar(eta=0.0, temperature=0.5), nn.Parameter(torch.ones(()))
    before = measured(POLICY, quadratic, [estimator], num_samples=4000)
    adapt(estimator, POLICY, lambda z: critic * quadratic(z), 200)
    after = measured(POLICY, quadratic, [estimator], num_samples=4000)
    assert before.variance == pytest.approx(1.1689, rel=0.1)  # without a control variate it is REINFORCE
    assert after.variance < 0.95 * before.variance
    assert critic.grad is None
    assert all(parameter.grad is None for parameter in estimator.parameters())


def test_adapt_is_deterministic():
    def adapted(seed: int) -> list[Tensor]:
        estimator = Relax(1, 4)
        adapt(estimator, POLICY, quadratic, 3, seed=seed)
        return [parameter.detach() for parameter in estimator.parameters()]

    first, again, other = adapted(0), adapted(0), adapted(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("estimator", "settings", "error", "message"),
    [
        (STGumbel(), {}, TypeError, "must learn a control variate"),
        # Its temperature would descend f.
        (STGumbel(LearnedTemperature(1.0, 0.1)), {}, TypeError, "must learn a control variate, as rebar and relax do"),
        (Rebar().requires_grad_(False), {}, ValueError, "must have parameters that require a gradient"),
        (Rebar(), {"steps": 0}, ValueError, "steps = 0"),
        (Rebar(), {"batch": 0}, ValueError, "batch = 0"),
    ],
)
def test_adapt_refuses(estimator, settings, error, message):
    with pytest.raises(error, match=message):
        adapt(estimator, POLICY, quadratic, **{"steps": 1, **settings})


# What people see.


def rendered(comparison: Comparison, title: str | None = None) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(comparison.table(title))
    return capture.get()


def test_frame_and_csv(tmp_path):
    comparison = compare(POLICY, quadratic, ["exact", "st-gumbel", "rloo"], 50)
    frame = comparison.to_frame()
    assert list(frame.columns) == [field.name for field in dataclasses.fields(EstimatorStatistics)]
    assert frame["estimator"].tolist() == ["exact", "st-gumbel", "rloo"]
    assert frame["biased"].tolist() == [False, True, False]
    comparison.to_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    for line, statistics in zip(cells, comparison.rows, strict=True):
        for name, value in dataclasses.asdict(statistics).items():
            assert line[name] == str(value) if isinstance(value, str | bool) else float(line[name]) == value


def test_table():
    comparison = compare(POLICY, quadratic, {"mine": STGumbel(0.5), "exact": "exact"}, 50)
    text = rendered(comparison, "Four choices")
    assert "Four choices" in text
    assert "gradient norm 0.486 (enumeration)" in text
    mine = next(line for line in text.splitlines() if "mine" in line)
    statistics = comparison.rows[0]
    bias, error = f"{statistics.relative_bias:.3g}", f"{statistics.relative_bias_error:.3g}"
    assert f"{bias} ±\N{NO-BREAK SPACE}{error}" in mine
    assert mine.split()[-3] in ("s", "ms", "µs")
    assert mine.split()[-1] in ("B", "KiB")
    assert "memory" not in rendered(compare(POLICY, quadratic, ["exact"], 50, measure_cost=False))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (0.48594, "0.486"),
        (0.00123456, "0.00123"),
        (0.00012345, "1.2e-04"),
        (999.9, "1e+03"),
        (1234.5, "1234"),
        (54321.0, "5.4e+04"),
        (-2.0, "-2"),
        (math.inf, "inf"),
        (math.nan, "–"),
    ],
)
def test_numbers(value, expected):
    assert diagnostics._number(value) == expected


def test_units():
    assert [diagnostics._seconds(value) for value in (2.0, 0.0123, 4.5e-5)] == ["2 s", "12.3 ms", "45 µs"]
    assert [diagnostics._bytes(value) for value in (80, 1536, 3 * 2**20, 2**31)] == [
        "80 B",
        "1.5 KiB",
        "3 MiB",
        "2 GiB",
    ]


def test_figure(tmp_path):
    names = ["exact", "st-gumbel", "gumbel-softmax", "straight-through", "reinmax", "reinforce", "rloo"]
    comparison = compare(POLICY, quadratic, names, 2000, measure_cost=False)
    figure = comparison.figure(tmp_path / "figure.pdf", title="Four choices")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    left, right = figure.axes
    assert left.get_xlabel() == "relative bias"
    assert left.get_ylabel() == "relative standard deviation at one call of f"
    assert right.get_xlabel().startswith("cosine")
    assert [label.get_text() for label in right.get_yticklabels()] == [
        f"{name}  {number}" for number, name in enumerate(names, start=1)
    ]
    assert [bar.get_width() for bar in right.patches] == [row.cosine for row in comparison.rows]
    # A seen bias is drawn where it is; one that is not, at three sampling errors; nothing at the edge but `exact`.
    points = {name: line.get_xydata()[0] for name, line in zip(names, left.lines, strict=False)}
    hollow = {name: line.get_markerfacecolor() == "white" for name, line in zip(names, left.lines, strict=False)}
    assert [name for name in names if hollow[name]] == ["exact", "reinmax", "reinforce", "rloo"]
    for name in names[1:]:
        statistics = row(comparison, name)
        expected = 3 * statistics.relative_bias_error if hollow[name] else statistics.relative_bias
        assert points[name][0] == pytest.approx(expected)
        assert points[name][1] == pytest.approx(math.sqrt(statistics.variance * statistics.calls) / NORM, rel=1e-4)
    assert (points["exact"] < [points[name] for name in names[1:]]).all()
    # Bias and variance of `exact` are 0, and shown as 0: a tick of its own, no arrow below it, and no other number.
    for axis, place in zip((left.xaxis, left.yaxis), points["exact"], strict=True):
        shown = {tick.get_loc(): tick.label1.get_text() for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())}
        assert shown.pop(place) == "0"
        assert min(shown) > place
        assert float(next(filter(None, shown.values()))) == pytest.approx(next(k for k, v in shown.items() if v))
    assert sum(text.arrow_patch is not None for text in left.texts if not text.get_text()) == 3  # of the other hollow
    assert sorted(text.get_text() for text in left.texts if text.get_text()) == [str(k) for k in range(1, 8)]


def test_figure_takes_the_error_of_the_reference_for_no_bias():
    comparison = compare(POLICY, quadratic, ["straight-through"], 2000, measure_cost=False)
    unsure = dataclasses.replace(comparison, reference_error=NORM)
    seen, bound = (shown.figure().axes[0].lines[0] for shown in (comparison, unsure))
    assert (seen.get_markerfacecolor() == "white", bound.get_markerfacecolor() == "white") == (False, True)
    assert bound.get_xdata()[0] == pytest.approx(3 * math.hypot(1, comparison.rows[0].relative_bias_error), rel=1e-4)


def test_numbers_in_a_figure_do_not_cover_each_other():
    same = {f"estimator {k}": StraightThrough() for k in range(12)}  # twelve points in one place
    figure = compare(POLICY, quadratic, same, 100, measure_cost=False).figure()
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert len(boxes) == 12
    shrunk = [box.padded(-0.5) for box in boxes]
    assert not any(a.overlaps(b) for k, a in enumerate(shrunk) for b in shrunk[:k])


def test_progress_goes_to_stderr(capsys):
    compare(POLICY, quadratic, ["st-gumbel"], 10, measure_cost=False, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "st-gumbel" in err
    assert "100%" in err


@pytest.mark.parametrize(
    ("package", "show"),
    [
        ("pandas", lambda comparison: comparison.to_frame()),
        ("rich", lambda comparison: comparison.table()),
        ("matplotlib", lambda comparison: comparison.figure()),
        ("tqdm", lambda comparison: compare(POLICY, quadratic, ["exact"], 2, progress=True)),
    ],
)
def test_missing_package_says_what_to_install(monkeypatch, package, show):
    comparison = compare(POLICY, quadratic, ["exact"], 2, measure_cost=False)
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf'{package}.*pip install "gsrl\[diagnostics\]"'):
        show(comparison)


# What is refused, and before any work.


@pytest.mark.parametrize(
    ("estimators", "settings", "error", "message"),
    [
        ([], {}, ValueError, "at least one"),
        ({}, {}, ValueError, "at least one"),
        (["rloo", "rloo"], {}, ValueError, "'rloo'.*more than once"),
        (["rlooo"], {}, ValueError, "name must be one of"),
        ("rloo", {}, TypeError, "mapping or a sequence"),
        (RLOO(), {}, TypeError, "mapping or a sequence"),
        ([RLOO], {}, TypeError, "estimators and their names"),
        (["rloo"], {"num_samples": 1}, ValueError, "num_samples must be at least 2"),
        (["rloo"], {"exact": torch.zeros(4)}, ValueError, r"\(1, 4\), but got \(4,\)"),
    ],
)
def test_compare_refuses(estimators, settings, error, message):
    def untouched(one_hot: Tensor) -> Tensor:
        raise RuntimeError("f was called")

    with pytest.raises(error, match=message):
        compare(POLICY, untouched, estimators, **settings)


def test_an_estimator_that_refuses_the_policy_does_so_first():
    evaluated = 0

    def f(one_hot: Tensor) -> Tensor:
        nonlocal evaluated
        evaluated += one_hot.shape[0]
        return quadratic(one_hot)

    with pytest.raises(ValueError, match="K"):
        compare(POLICY, f, ["reinforce", "arm"], 10_000)
    assert evaluated <= 3


def test_objective_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"f must map \[M, \*batch, n, K\] to \[M, \*batch\]"):
        compare(POLICY, lambda z: z.sum(-1), ["reinforce"], 10)
