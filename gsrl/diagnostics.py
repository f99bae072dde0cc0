"""Instruments: bias, variance and cost of gradient estimators, and the slope of a critic between choices."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gsrl._files import save_figure
from gsrl._progress import show_progress
from gsrl._style import BLUE, ORANGE, styled
from gsrl._validation import first
from gsrl.distributions import MAX_SUPPORT, FactoredCategorical
from gsrl.estimators import Estimator, Exact, Objective, RelaxedControl, make_estimator
from gsrl.estimators.base import evaluate, replace_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.table import Table

__all__ = ["Comparison", "CriticSlope", "EstimatorStatistics", "adapt", "compare", "critic_slope"]

# What one call of f may hold, so that memory is bounded: numbers, and rows for the activations inside f.
MAX_ELEMENTS = 2**22
MAX_ROWS = 2**16

REPEATS = 11
"""How often an estimate is timed; the median counts."""

RESOLVED = 3
"""A bias is seen if it exceeds this many sampling errors: an unbiased one does so with probability .003 at most."""


@dataclass(frozen=True)
class EstimatorStatistics:
    """What was measured of one estimator; the gradient of a batched policy is one vector, all rows together.

    Below, ``g`` is the reference gradient, ``m`` the mean of the N estimates. Relative figures and cosines are NaN if
    ``g`` is 0.

    Example:
        >>> policy = gsrl.FactoredCategorical(torch.zeros(2, 3))
        >>> f = lambda choices: choices[..., 0].sum(-1)
        >>> comparison = compare(policy, f, ["rloo"], num_samples=50, measure_cost=False)
        >>> statistics = comparison.rows[0]
        >>> statistics.biased, statistics.calls, statistics.variance > 0
        (False, 10, True)
    """

    estimator: str
    """The label it was given."""
    biased: bool
    """Whether theory calls it biased, for a general ``f``."""
    calls: int
    """Configurations at which one estimate evaluated ``f``, counted."""
    samples: int
    """N. An estimator that draws no noise is evaluated twice."""
    bias: float
    """``|m - g|``."""
    relative_bias: float
    """``|m - g| / |g|``."""
    relative_bias_error: float
    """``sqrt(variance / N) / |g|``: what an unbiased estimator would show as relative bias, by sampling alone."""
    variance: float
    """Total variance of one estimate: the sum over the entries."""
    snr: float
    """Signal-to-noise ratio, ``|m| / sqrt(variance)``; infinite without variance."""
    cosine: float
    """Mean over the estimates of their cosine with ``g``; that of an estimate of 0 counts as 0."""
    cosine_of_mean: float
    """Cosine of ``m`` with ``g``."""
    mse: float
    """Mean over the estimates of ``|estimate - g|^2``."""
    seconds: float
    """Median time of one estimate for the policy as given, forward and backward; NaN if not measured."""
    peak_bytes: float
    """Peak memory of the tensors that one estimate makes, for the policy as given; NaN if not measured."""


@dataclass(frozen=True)
class Comparison:
    """Estimators of the same gradient, side by side: what :func:`compare` returns.

    Example:
        >>> policy = gsrl.FactoredCategorical(torch.zeros(2, 3))
        >>> f = lambda choices: choices[..., 0].sum(-1)
        >>> comparison = compare(policy, f, ["exact", "reinforce"], num_samples=50, measure_cost=False)
        >>> comparison.reference, round(comparison.gradient_norm, 3)
        ('enumeration', 0.385)
        >>> [(row.estimator, row.calls, row.biased) for row in comparison.rows]
        [('exact', 9, False), ('reinforce', 1, False)]
    """

    rows: tuple[EstimatorStatistics, ...]
    """One for each estimator, in the order given."""
    gradient_norm: float
    """L2 norm of the reference gradient."""
    reference: str
    """Where that gradient is from: ``"given"``, ``"enumeration"`` or ``"local-expectation, N samples"``."""
    reference_error: float
    """L2 norm of its standard errors; 0 for ``"given"`` and ``"enumeration"``."""

    def to_frame(self) -> DataFrame:
        """One row for each estimator; the columns are the fields of :class:`EstimatorStatistics`.

        Raises:
            ModuleNotFoundError: pandas is missing.
        """
        with _diagnostics_extra():
            from pandas import DataFrame
        return DataFrame([dataclasses.asdict(row) for row in self.rows])

    def to_csv(self, path: str | Path) -> None:
        """Writes :meth:`to_frame` to ``path``, every digit.

        Raises:
            ModuleNotFoundError: pandas is missing.
        """
        self.to_frame().to_csv(path, index=False)

    def table(self, title: str | None = None, *, without: Collection[str] = ()) -> Table:
        """The statistics to three significant digits, for ``rich.print``. The cost is left out if not measured.

        Args:
            title: Above the table.
            without: Headers of columns to leave out, where the console is narrow.

        Raises:
            ModuleNotFoundError: rich is missing.
        """
        with _diagnostics_extra():
            from rich import box
            from rich.table import Table
        error = f" ± {_number(self.reference_error)}" if self.reference_error else ""
        caption = f"gradient norm {_number(self.gradient_norm)}{error} ({self.reference})"
        table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        columns: dict[str, Callable[[EstimatorStatistics], str]] = {
            "calls": lambda row: str(row.calls),
            "relative bias": lambda row: (
                f"{_number(row.relative_bias)} ±\N{NO-BREAK SPACE}{_number(row.relative_bias_error)}"
            ),
            "variance": lambda row: _number(row.variance),
            "mse": lambda row: _number(row.mse),
            "snr": lambda row: _number(row.snr),
            "cosine": lambda row: _number(row.cosine),
            "of mean": lambda row: _number(row.cosine_of_mean),
        }
        if any(not math.isnan(row.seconds) for row in self.rows):
            columns["time"] = lambda row: _seconds(row.seconds)
            columns["memory"] = lambda row: _bytes(row.peak_bytes)
        for name in without:
            columns.pop(name, None)
        table.add_column("estimator", no_wrap=True)
        for name in columns:
            table.add_column(name, justify="right", no_wrap=name != "relative bias")
        for row in self.rows:
            table.add_row(row.estimator, *(show(row) for show in columns.values()))
        return table

    def figure(self, path: str | Path | None = None, title: str | None = None) -> Figure:
        """Draws bias against spread at equal calls of ``f``, and cosines.

        Left: relative bias, and the relative standard deviation ``sqrt(variance * calls) / |g|`` of an estimate that
        spends one call. A hollow marker with an arrow is an upper bound: no bias was seen beyond three sampling
        errors. What is 0 but for rounding stands beyond the logarithmic axis, on a tick of its own. Right: the cosine
        of an estimate, and, as a tick, that of their mean. Numbers tell which point is whose.

        Args:
            path: Where to save it; the format follows from the suffix.
            title: Above both panels.

        Raises:
            ModuleNotFoundError: matplotlib is missing.
            ValueError: The gradient is 0, or a statistic is not finite.
        """
        with _diagnostics_extra():
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        unfit = [row.estimator for row in self.rows if not math.isfinite(row.relative_bias + row.mse + row.cosine)]
        if unfit:
            raise ValueError(f"the gradient must not be 0, nor estimates NaN, for a figure, but see {unfit}.")
        with styled(font__size=8, svg__fonttype="none"):  # text stays text
            height = max(3.0, 0.7 + 0.17 * len(self.rows))
            figure = Figure(figsize=(7.0, height))
            FigureCanvasAgg(figure)
            left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
            if title is not None:
                figure.suptitle(title)
            self._draw_cosines(right)
            self._draw_bias_and_spread(left)
            if path is not None:
                save_figure(figure, path)
        return figure

    def _draw_bias_and_spread(self, axes: Axes) -> None:
        reference_error = self.reference_error / self.gradient_norm
        bounds = [RESOLVED * math.hypot(row.relative_bias_error, reference_error) for row in self.rows]
        resolved = [row.relative_bias > bound for row, bound in zip(self.rows, bounds, strict=True)]
        biases = [max(row.relative_bias, bound) for row, bound in zip(self.rows, bounds, strict=True)]
        spreads = [math.sqrt(row.variance * row.calls) / self.gradient_norm for row in self.rows]
        (x_floor, x_values), (y_floor, y_values) = _above_rounding(biases), _above_rounding(spreads)
        points = list(zip(x_values, y_values, strict=True))
        axes.set(xscale="log", yscale="log")
        axes.set(xlabel="relative bias", ylabel="relative standard deviation at one call of f")
        for row, (x, y), seen in zip(self.rows, points, resolved, strict=True):
            marker, color = _MARKERS[row.biased]
            axes.plot(x, y, marker, color=color, markerfacecolor=color if seen else "white", markersize=5, zorder=3)
            if not seen and x != x_floor:  # there is nothing below 0
                arrow = {"arrowstyle": "<-", "color": color, "lw": 0.8, "shrinkA": 0, "shrinkB": 2.5}
                axes.annotate("", (x, y), (-12, 0), textcoords="offset points", arrowprops=arrow)
        axes.margins(0.1)
        _logarithmic_ticks(axes.xaxis, x_floor, axes.axvline)
        _logarithmic_ticks(axes.yaxis, y_floor, axes.axhline)
        for biased, (marker, color) in _MARKERS.items():
            axes.plot([], [], marker, color=color, markersize=5, label="biased" if biased else "unbiased")
        axes.plot([], [], "o", color="0.4", markerfacecolor="white", markersize=5, label="no bias seen")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, handletextpad=0.1)
        _number_points(axes, points, resolved, [_MARKERS[row.biased][1] for row in self.rows])

    def _draw_cosines(self, axes: Axes) -> None:
        places = range(len(self.rows))
        axes.barh(places, [row.cosine for row in self.rows], color=[_MARKERS[row.biased][1] for row in self.rows])
        axes.plot([row.cosine_of_mean for row in self.rows], places, "|", color="black", markersize=8, clip_on=False)
        axes.set_yticks(places, [f"{row.estimator}  {number}" for number, row in enumerate(self.rows, start=1)])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.axvline(0, color="black", lw=0.6)
        axes.set_xlim(min([0.0, *(1.1 * min(row.cosine, row.cosine_of_mean) for row in self.rows)]), 1)
        axes.set_xlabel("cosine (tick: of the mean)")


@dataclass(frozen=True)
class CriticSlope:
    """How far slopes at vertices are from differences between vertices: what :func:`critic_slope` returns.

    Every figure is NaN if there is nothing to compare, and those that divide by a norm of 0 are.

    Example:
        >>> f = lambda choices: choices[..., 0, 0].square()  # its slope at 1 is 2, the difference of 1 and 0 is 1
        >>> slope = critic_slope(f, torch.eye(2)[:1].unsqueeze(0))
        >>> slope.sign_agreement, slope.scale
        (1.0, 2.0)
    """

    relative_error: float
    """``|predicted - difference| / |difference|``, over all of them."""
    cosine: float
    """Cosine between predictions and differences."""
    sign_agreement: float
    """Share of the predictions with the sign of their difference."""
    scale: float
    """The ``c`` that makes ``c * difference`` closest to the predictions: below 1, slopes are too flat."""


def compare(
    policy: FactoredCategorical,
    f: Objective,
    estimators: Mapping[str, Estimator | str] | Sequence[Estimator | str],
    num_samples: int = 10_000,
    *,
    exact: Tensor | None = None,
    seed: int = 0,
    measure_cost: bool = True,
    progress: bool = False,
) -> Comparison:
    r"""Measures bias, variance and cost of estimators of :math:`\nabla_\theta \mathbb{E}_{D \sim P_\theta}[f(D)]`.

    Every estimator gets its own noise from ``seed``: its numbers do not depend on its company. They are the same in
    every call but for ``seconds``. Estimates are made many at a time, by adding a leading dimension to the policy,
    which ``f`` does not see. Only the logits are differentiated: parameters of ``f`` and of the estimators receive
    nothing, and no estimator is stepped.

    Args:
        policy: Distribution with batch shape ``[*batch]`` and event shape ``(n, K)``; its logits are held fixed.
        f: Maps ``[M, *batch, n, K]`` to ``[M, *batch]``; the gradient is that of the sum over the batch.
        estimators: By label; or in a sequence, and then labelled by their names, which must differ. A string stands for
            the estimator of that name with its defaults; ``"relax"`` is made for the policy's shape.
        num_samples: Estimates of each estimator, at least 2.
        exact: The gradient ``[*batch, n, K]``, if it is known. If None, it is enumerated where ``K**n`` is at most
            ``gsrl.distributions.MAX_SUPPORT``, and otherwise estimated by ``num_samples`` samples of
            ``local-expectation`` with noise of its own; ``reference_error`` then says how well.
        seed: Of the noise.
        measure_cost: Whether to measure seconds and bytes. Without, every number can be reproduced.
        progress: Whether to show a progress bar.

    Returns:
        The statistics, in the order of ``estimators``.

    Raises:
        TypeError: ``estimators`` is neither a mapping nor a sequence of estimators and names.
        ValueError: ``num_samples`` is below 2; there is no estimator, or two have one label; ``exact`` has another
            shape than the logits; an estimator refuses the policy, or ``f`` returned another shape.
        ModuleNotFoundError: ``progress`` is set and tqdm is missing.

    Example:
        >>> policy = gsrl.FactoredCategorical(torch.zeros(2, 3))
        >>> comparison = compare(policy, lambda choices: choices[..., 0].sum(-1), ["exact", "rloo"], num_samples=100)
        >>> [row.estimator for row in comparison.rows], comparison.rows[0].variance
        (['exact', 'rloo'], 0.0)
    """
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, to measure a variance, but got {num_samples}.")
    device = policy.logits.device
    named = _named(estimators, policy)
    if exact is not None and exact.shape != policy.logits.shape:
        raise ValueError(
            f"exact must have the shape of the logits, {tuple(policy.logits.shape)}, but got {tuple(exact.shape)}."
        )
    # A first estimate of each, so that one that refuses does so before the work.
    plans = {label: _plan(estimator, policy, f, num_samples) for label, estimator in named.items()}
    with show_progress(sum(plan.samples for plan in plans.values()), shown=progress, unit="estimate") as bar:

        def advance(label: str, count: int) -> None:
            bar.set_description(label, refresh=False)
            bar.update(count)

        gradient, reference, reference_error = _reference(policy, f, exact, num_samples, seed, advance)
        rows = []
        for label, plan in plans.items():
            generator = torch.Generator(device).manual_seed(seed)
            moments = _measure(plan, policy, f, gradient, generator, partial(advance, label))
            seconds, peak = _cost(plan.estimator, policy, f, generator) if measure_cost else (math.nan, math.nan)
            rows.append(_statistics(label, plan, moments, gradient, seconds, peak))
    return Comparison(tuple(rows), gradient.norm().item(), reference, reference_error)


def adapt(
    estimator: Estimator,
    policy: FactoredCategorical,
    f: Objective,
    steps: int,
    *,
    learning_rate: float = 1e-2,
    batch: int = 64,
    seed: int = 0,
) -> None:
    """Lets an estimator that learns its control variate (``rebar``, ``relax``) fit it to a fixed policy and ``f``.

    Each step is one of Adam, on the gradient that ``batch`` independent estimates send to the estimator's parameters:
    that of their second moment, which for an unbiased estimate is that of its variance. Parameters of ``f`` receive
    nothing.

    Args:
        estimator: A :class:`gsrl.estimators.RelaxedControl`. Its parameters are changed; their ``grad`` is None
            afterwards.
        policy: Distribution with batch shape ``[*batch]`` and event shape ``(n, K)``; its logits are held fixed.
        f: Maps ``[M, *batch, n, K]`` to ``[M, *batch]``.
        steps: How many.
        learning_rate: Of Adam.
        batch: Estimates a step.
        seed: Of the noise.

    Raises:
        TypeError: ``estimator`` has no control variate to learn: what a learned temperature would descend is ``f``.
        ValueError: The parameters of ``estimator`` are frozen; ``steps`` or ``batch`` is below 1.

    Example:
        >>> policy = gsrl.FactoredCategorical(torch.zeros(2, 3))
        >>> f = lambda choices: choices[..., 0].sum(-1)
        >>> rebar = gsrl.make_estimator("rebar", eta=0.0)  # without its control variate
        >>> before = compare(policy, f, [rebar], num_samples=200, measure_cost=False).rows[0].variance
        >>> adapt(rebar, policy, f, steps=20, learning_rate=0.1)
        >>> compare(policy, f, [rebar], num_samples=200, measure_cost=False).rows[0].variance < before
        True
    """
    if not isinstance(estimator, RelaxedControl):
        raise TypeError(f"estimator must learn a control variate, as rebar and relax do, but got {estimator}.")
    parameters = [parameter for parameter in estimator.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(f"estimator must have parameters that require a gradient, but {estimator} has none.")
    if steps < 1 or batch < 1:
        raise ValueError(f"steps and batch must be at least 1, but got steps = {steps}, batch = {batch}.")
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    generator = torch.Generator(policy.logits.device).manual_seed(seed)
    for _ in range(steps):
        gradients = _differentiate(estimator, policy, f, generator, batch, parameters)[1:]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def critic_slope(f: Objective, one_hot: Tensor, mask: Tensor | None = None) -> CriticSlope:
    r"""Compares the slope of ``f`` at vertices, all that a straight-through gradient sees, with what a choice changes.

    .. math:: \Delta_{ik} = f(D^{i \to k}) - f(D), \qquad \hat\Delta_{ik} = \langle f'(D)_i, e_k - D_i \rangle,

    for every factor ``i`` and legal choice ``k`` other than the one taken, where :math:`D^{i \to k}` is ``D`` with row
    ``i`` replaced by ``e_k``. They are equal for ``f`` linear in each row given the others, such as a critic of one
    factor that returns all K values.

    Args:
        f: Maps ``[M, *batch, n, K]`` to ``[M, *batch]``, rows of the batch independently. Called once, with
            ``M = 1 + n K``. Its parameters receive nothing.
        one_hot: Configurations ``D``, ``[*batch, n, K]``, floating.
        mask: Boolean, broadcastable to ``one_hot``, True where a choice is legal. None: all are.

    Returns:
        Figures over all differences of the batch.

    Raises:
        ValueError: ``one_hot`` is not one-hot or not floating; ``mask`` is not boolean, does not broadcast to
            ``one_hot`` or forbids what it takes; ``f`` returned another shape.

    Example:
        >>> critic_slope(lambda choices: choices[..., 0].sum(-1), torch.eye(2).reshape(1, 2, 2)).relative_error
        0.0
    """
    other = _other_choices(one_hot, mask)
    n, K = one_hot.shape[-2:]
    vertex = one_hot.detach().clone()
    replaced = replace_rows(vertex)
    with torch.enable_grad():
        vertex.requires_grad_()
        values = evaluate(f, torch.cat([vertex.unsqueeze(0), replaced]))
        (slope,) = _gradients(values[0], [vertex])
    change = (values[1:] - values[0]).detach().unflatten(0, (n, K)).movedim((0, 1), (-2, -1))[other].double()
    predicted = (slope - (slope * vertex.detach()).sum(-1, keepdim=True))[other].double()
    product = predicted @ change
    agree = (predicted.sign() == change.sign()).double()
    return CriticSlope(
        relative_error=((predicted - change).norm() / change.norm()).item(),
        cosine=(product / (predicted.norm() * change.norm())).item(),
        sign_agreement=agree.mean().item(),
        scale=(product / change.square().sum()).item(),
    )


def _other_choices(one_hot: Tensor, mask: Tensor | None) -> Tensor:
    """Where a choice is legal and not taken, boolean ``[*batch, n, K]``."""
    taken = one_hot == 1
    if one_hot.dim() < 2 or not one_hot.is_floating_point():
        raise ValueError(
            f"one_hot must be floating with shape [*batch, n, K], but got {one_hot.dtype} {tuple(one_hot.shape)}."
        )
    wrong = (taken.sum(-1) != 1) | ~(taken | (one_hot == 0)).all(-1)
    if bool(wrong.any()):
        raise ValueError(f"one_hot must be one-hot in its last dimension, but got {first(one_hot, wrong)}.")
    if mask is None:
        return ~taken
    try:
        legal = mask.expand_as(one_hot)
    except RuntimeError:
        raise ValueError(
            f"mask must broadcast to the shape of one_hot, {tuple(one_hot.shape)}, but got {tuple(mask.shape)}."
        ) from None
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, but got {mask.dtype}.")
    if bool((taken & ~legal).any()):
        raise ValueError(f"one_hot takes a choice that mask forbids, at {(taken & ~legal).nonzero()[0].tolist()}.")
    return legal & ~taken


# Many estimates at once.


def _differentiate(
    estimator: Estimator,
    policy: FactoredCategorical,
    f: Objective,
    generator: torch.Generator | None,
    count: int | None = None,
    parameters: Sequence[Tensor] = (),
) -> list[Tensor]:
    """Gradients in the logits, ``[*batch, n, K]``, and in ``parameters``; of ``count`` replicas, ``[count, ...]``."""
    fixed = policy.logits.detach()
    with torch.enable_grad():
        leaf = fixed.clone() if count is None else fixed.expand(count, *fixed.shape).clone()
        leaf.requires_grad_()
        replicas = FactoredCategorical(leaf, validate_args=False)
        cost = estimator.expectation(replicas, f if count is None else _lifted(f), generator=generator)
        return _gradients(cost, [leaf, *parameters])


def _lifted(f: Objective) -> Objective:
    """``f`` for a policy with one more batch dimension in front, which ``f`` sees as part of its leading one."""
    return lambda configurations: evaluate(f, configurations.flatten(0, 1)).unflatten(0, configurations.shape[:2])


def _gradients(values: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the sum of ``values``; 0 where it does not depend on an input."""
    if not values.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    return list(torch.autograd.grad(values.sum(), inputs, materialize_grads=True))


@dataclass(frozen=True)
class _Plan:
    """How an estimator will be measured."""

    estimator: Estimator
    calls: int
    samples: int
    chunk: int


def _plan(estimator: Estimator, policy: FactoredCategorical, f: Objective, num_samples: int) -> _Plan:
    """Makes one estimate, to count calls of ``f`` and to see how many estimates fit into memory at a time."""
    calls = 0

    def counted(configurations: Tensor) -> Tensor:
        nonlocal calls
        calls += configurations.shape[0]
        return f(configurations)

    generator = torch.Generator(policy.logits.device).manual_seed(0)
    _differentiate(estimator, policy, counted, generator)
    noise = estimator.draw_noise(policy, generator)
    numbers = sum(tensor.numel() for tensor in tree_leaves(noise))
    elements = max(numbers, calls * policy.logits.numel(), 1)
    rows = max(calls * policy.batch_shape.numel(), 1)
    samples = num_samples if numbers else 2
    return _Plan(estimator, calls, samples, max(1, min(samples, MAX_ELEMENTS // elements, MAX_ROWS // rows)))


class _Moments:
    """Mean and total variance of deviations from a fixed gradient, and mean cosine with it; in float64, streaming.

    Chunks are joined by the formula of Chan et al. 1979, so that the result depends on them by rounding alone.
    """

    def __init__(self, gradient: Tensor) -> None:
        self.gradient = gradient
        self.count = 0
        self.deviation = torch.zeros_like(gradient)
        self._squares = torch.zeros_like(gradient[0])
        self._cosines = torch.zeros_like(gradient[0])

    def add(self, estimates: Tensor) -> None:
        """Takes in estimates, ``[chunk, D]`` with float64 entries."""
        chunk = len(estimates)
        deviations = estimates - self.gradient
        mean = deviations.mean(0)
        step = mean - self.deviation
        total = self.count + chunk
        self._squares += (deviations - mean).square().sum() + step.square().sum() * (self.count * chunk / total)
        self.deviation += step * (chunk / total)
        self._cosines += _cosine(estimates, self.gradient).sum()
        self.count = total

    @property
    def variance(self) -> float:
        """The unbiased total variance of one estimate."""
        return self._squares.item() / (self.count - 1)

    @property
    def mean_square(self) -> float:
        """Mean squared norm of the deviations."""
        return self.deviation.square().sum().item() + self._squares.item() / self.count

    @property
    def cosine(self) -> float:
        """Mean cosine of the estimates with the gradient."""
        return self._cosines.item() / self.count


def _cosine(vectors: Tensor, gradient: Tensor) -> Tensor:
    """Cosine of ``[..., D]`` with ``[D]``; 0 for a vector of 0, NaN for a gradient of 0."""
    norm = vectors.norm(dim=-1)
    return torch.where(norm == 0, 0.0, vectors @ gradient / norm) / gradient.norm()


def _measure(
    plan: _Plan,
    policy: FactoredCategorical,
    f: Objective,
    gradient: Tensor,
    generator: torch.Generator,
    advance: Callable[[int], None],
) -> _Moments:
    """Draws the planned number of estimates."""
    moments = _Moments(gradient)
    while moments.count < plan.samples:
        count = min(plan.chunk, plan.samples - moments.count)
        estimates = _differentiate(plan.estimator, policy, f, generator, count)[0]
        moments.add(estimates.flatten(1).double())
        advance(count)
    return moments


def _reference(
    policy: FactoredCategorical,
    f: Objective,
    exact: Tensor | None,
    num_samples: int,
    seed: int,
    advance: Callable[[str, int], None],
) -> tuple[Tensor, str, float]:
    """The gradient as a float64 vector, where it is from, and its error."""
    if exact is not None:
        return exact.detach().to(policy.logits.device, torch.float64).flatten(), "given", 0.0
    if policy.K**policy.n <= MAX_SUPPORT:
        return _differentiate(Exact(), policy, f, None)[0].flatten().double(), "enumeration", 0.0
    plan = _plan(make_estimator("local-expectation"), policy, f, num_samples)
    # Another stream than the estimators': shared noise would hide the error of both.
    stream = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    generator = torch.Generator(policy.logits.device).manual_seed(stream)
    origin = torch.zeros(policy.logits.numel(), dtype=torch.float64, device=policy.logits.device)
    moments = _measure(plan, policy, f, origin, generator, lambda _: advance("reference", 0))
    return moments.deviation, f"local-expectation, {num_samples} samples", math.sqrt(moments.variance / num_samples)


def _statistics(
    label: str, plan: _Plan, moments: _Moments, gradient: Tensor, seconds: float, peak_bytes: float
) -> EstimatorStatistics:
    mean = moments.deviation + gradient
    norm = gradient.norm().item()
    bias = moments.deviation.norm().item()
    spread = math.sqrt(moments.variance)
    return EstimatorStatistics(
        estimator=label,
        biased=plan.estimator.biased,
        calls=plan.calls,
        samples=plan.samples,
        bias=bias,
        relative_bias=bias / norm if norm else math.nan,
        relative_bias_error=spread / math.sqrt(plan.samples) / norm if norm else math.nan,
        variance=moments.variance,
        snr=mean.norm().item() / spread if spread else math.inf,
        cosine=moments.cosine,
        cosine_of_mean=_cosine(mean, gradient).item(),
        mse=moments.mean_square,
        seconds=seconds,
        peak_bytes=peak_bytes,
    )


def _named(
    estimators: Mapping[str, Estimator | str] | Sequence[Estimator | str], policy: FactoredCategorical
) -> dict[str, Estimator]:
    """Estimators by label, those that are named built for the policy."""
    if isinstance(estimators, str) or not isinstance(estimators, Mapping | Sequence):
        raise TypeError(f"estimators must be a mapping or a sequence, but got {estimators!r}.")
    given = list(estimators.values()) if isinstance(estimators, Mapping) else list(estimators)
    shape = (policy.n, policy.K)
    built = [
        make_estimator(item, shape=shape).to(policy.logits.device) if isinstance(item, str) else item for item in given
    ]
    for item in built:
        if not isinstance(item, Estimator):
            raise TypeError(f"estimators must hold estimators and their names, but got {item!r}.")
    labels = list(estimators) if isinstance(estimators, Mapping) else [item.name for item in built]
    if not labels:
        raise ValueError("estimators must hold at least one, but it is empty.")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"estimators must have different labels, but got {twice} more than once: give a mapping.")
    return dict(zip(labels, built, strict=True))


# What an estimate costs.


def _cost(
    estimator: Estimator, policy: FactoredCategorical, f: Objective, generator: torch.Generator
) -> tuple[float, float]:
    """Median seconds and peak bytes of one estimate, forward and backward."""
    on_gpu = policy.logits.is_cuda

    def timed() -> float:
        start = time.perf_counter()
        _differentiate(estimator, policy, f, generator)
        if on_gpu:
            torch.cuda.synchronize(policy.logits.device)
        return time.perf_counter() - start

    timed()  # the first one pays for what later ones find ready
    seconds = statistics.median(timed() for _ in range(REPEATS))
    if on_gpu:
        before = torch.cuda.memory_allocated(policy.logits.device)
        torch.cuda.reset_peak_memory_stats(policy.logits.device)
        timed()
        return seconds, float(torch.cuda.max_memory_allocated(policy.logits.device) - before)
    with _TensorMemory() as memory:
        timed()
    return seconds, float(memory.peak)


class _TensorMemory(TorchDispatchMode):
    """Bytes of the tensors that operations made and that still live; views count once. Kernels' workspace does not."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            self._known.setdefault(id(storage), storage)  # was here before; held, lest its id be used again
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            key, size = id(storage), storage.nbytes()
            if key not in self._known:
                self._known[key] = weakref.ref(storage, partial(self._freed, key, size))
                self._live += size
        self.peak = max(self.peak, self._live)
        return result

    def _freed(self, key: int, size: int, reference: Any) -> None:
        del self._known[key]
        self._live -= size


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


# What people see.


@contextmanager
def _diagnostics_extra() -> Iterator[None]:
    """Says what to install where an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f'gsrl.diagnostics needs {error.name} for this: pip install "gsrl[diagnostics]"'
        raise ModuleNotFoundError(message, name=error.name) from error


def _number(value: float) -> str:
    """Three significant digits."""
    if math.isnan(value):
        return "–"
    plain = value == 0 or 1e-3 <= abs(value) < 1e4 or math.isinf(value)
    return f"{value:.3g}" if plain and abs(value) < 1e3 else f"{value:.0f}" if plain else f"{value:.1e}"


def _seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{_number(value / size)} {unit}"
    return f"{_number(value / 1e-6)} µs"


def _bytes(value: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{_number(value / size)} {unit}"
    return f"{_number(value)} B"


# By `biased`.
_MARKERS = {True: ("o", BLUE), False: ("s", ORANGE)}

ROUNDING = 1e-5
"""Relative figures below this are 0 but for rounding, in float32."""


def _above_rounding(values: Sequence[float]) -> tuple[float | None, list[float]]:
    """Places on a logarithmic axis, which has none for 0.

    Returns:
        Where 0 is drawn, a third of the least value above rounding, or None where nothing is 0 but for rounding; and
        the values, with those in its place.
    """
    if all(value > ROUNDING for value in values):
        return None, list(values)
    floor = min((value for value in values if value > ROUNDING), default=3 * ROUNDING) / 3
    return floor, [floor if value <= ROUNDING else value for value in values]


def _logarithmic_ticks(axis: Axis, floor: float | None, draw_line: Callable[..., Any]) -> None:
    """Writes numbers at powers of ten, at 2 and 5 times these on a short axis, and 0 where it is drawn, at ``floor``.

    A dashed line parts that place from the values.
    """
    from matplotlib.ticker import FixedLocator, LogLocator

    low, high = axis.get_view_interval()
    digits = "25" if high < 100 * low else ""
    least, drawn = low, [] if floor is None else [floor]
    if floor is not None and axis.get_data_interval()[1] > floor:
        least = floor * 3**0.5
        draw_line(least, color="0.7", lw=0.6, linestyle=(0, (4, 3)), zorder=0)
    elif floor is not None:
        least = math.inf
    for locate, place, kept in (
        (LogLocator(), axis.set_major_locator, drawn),
        (LogLocator(subs=range(2, 10)), axis.set_minor_locator, []),
    ):
        place(FixedLocator([*kept, *(value for value in locate.tick_values(low, high) if least <= value <= high)]))
    axis.set_major_formatter(lambda value, _: "0" if value == floor else f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in digits else "")


def _number_points(
    axes: Axes, points: Sequence[tuple[float, float]], resolved: Sequence[bool], colors: Sequence[str]
) -> None:
    """Writes 1, 2, ... by the points, each where it covers least; among equals, nearest."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # the axes were made in one
    figure.draw_without_rendering()  # so that places on the page are known
    places = axes.transData.transform(points) / (figure.dpi / 72)  # in points of typography
    # What is on the page is boxes, by lower and upper corner: markers with their arrows, then numbers.
    lower, upper = places - [(3 if seen else 13, 3) for seen in resolved], places + 3
    angles = np.arange(24) * math.pi / 12
    around = np.concatenate([radius * np.stack([np.cos(angles), np.sin(angles)], -1) for radius in range(8, 30, 3)])
    for number, (point, place) in enumerate(zip(points, places, strict=True), start=1):
        half = np.array([2.2 * len(str(number)), 3.2])
        low, high = place + around - half, place + around + half
        covered = (low[:, None] < upper).all(-1) & (high[:, None] > lower).all(-1)
        best = covered.sum(1).argmin()
        lower, upper = np.vstack([lower, low[best]]), np.vstack([upper, high[best]])
        text = axes.annotate(str(number), point, tuple(around[best]), textcoords="offset points")
        text.set(ha="center", va="center", fontsize=7, color=colors[number - 1], in_layout=False)
