"""What the rows of a benchmark say: numbers with their intervals, for :mod:`gsrl.bench.report` to show.

The *score* of a run is the mean return of its final evaluation. Where environments are taken together, scores are put
on the scale that the suite gives each of them: 0 for random actions, 1 for the best, or a good one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gsrl.bench.stats import (
    CONFIDENCE,
    FEW,
    Interval,
    holm,
    iqm_curve,
    iqm_interval,
    mann_whitney,
    performance_profile,
    probability_of_improvement,
    steps_to_threshold,
)
from gsrl.bench.tables import RESULTS
from gsrl.runs.config import read_json
from gsrl.runs.errors import UsageError

__all__ = ["Analysis", "Curve", "Entry", "Gradient", "Pair", "Panel", "Ratios", "analyse", "ratios", "read_benchmark"]

FAST = 2_000
"""Resamples of the bootstraps of which there are many: of pairs, curves and profiles."""
THRESHOLDS = np.linspace(0, 1, 51)
"""Of the performance profiles."""
LEADERS = 3
"""Of so many, the best, a picture has the bands: those of all would cover each other."""
EVERYWHERE = "all environments"

Array = NDArray[np.float64]


class Curve(NamedTuple):
    """The interquartile mean along a training."""

    steps: Array
    returns: Interval


@dataclass(frozen=True)
class Entry:
    """One label in one environment, or in all together."""

    label: str
    agent: str
    scores: tuple[Array, ...]
    """Of the seeds, by environment; of the environment alone, or on the common scale."""
    planned: int
    """Seeds that the suite has in each environment."""
    iqm: Interval
    steps: float
    """Environment steps of a run, a median; in all environments: their sum."""
    seconds: float
    """Seconds of one core for a run, a median; in all environments: their sum."""
    speed: float
    """Environment steps a second of one core, without evaluations and checkpoints, a median."""
    reached: int = 0
    """Seeds whose evaluations reached the threshold at some time."""
    steps_to: float = math.inf
    """Steps until then, a median over all seeds; infinite if half of them did not."""
    seconds_to: float = math.inf
    """Seconds of one core until then, likewise."""
    curve: Curve | None = None
    diverged: int = 0
    """Runs whose loss was not finite at their end: their scores are those of the parameters before."""

    @property
    def seeds(self) -> int:
        """How many, where there are fewest."""
        return min(len(scores) for scores in self.scores)

    @property
    def few(self) -> bool:
        """Whether there are too few for an interval to be trusted."""
        return self.seeds < FEW

    @property
    def worst(self) -> float:
        """The lowest score."""
        return float(min(scores.min() for scores in self.scores))


class Pair(NamedTuple):
    """Probability that a run of one label ends above one of another."""

    first: str
    second: str
    probability: Interval
    p_value: float
    """Of Mann and Whitney's test, within environments."""
    adjusted: float
    """The same by Holm's procedure, for all pairs of the panel."""

    @property
    def told_apart(self) -> bool:
        """Whether they differ more than chance would let any pair of the panel."""
        return self.adjusted < 1 - CONFIDENCE


@dataclass(frozen=True)
class Panel:
    """An environment, or all together: the entries, the best first."""

    name: str
    entries: tuple[Entry, ...]
    pairs: tuple[Pair, ...]
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    profiles: Mapping[str, Interval] = field(default_factory=dict)
    """By label as ranked, at :data:`THRESHOLDS`; of all environments together."""

    @property
    def best(self) -> Entry:
        """The entry with the highest interquartile mean."""
        return self.entries[0]

    def pair(self, first: str, second: str) -> Pair:
        """The probability that the first is above the second."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.second, pair.first) == (first, second):
                estimate, low, high = pair.probability
                return pair._replace(first=first, second=second, probability=Interval(1 - estimate, 1 - high, 1 - low))
        raise KeyError((first, second))

    @property
    def parted(self) -> int:
        """Where the profiles are furthest apart, in the upper half of :data:`THRESHOLDS`: all of them end at 0."""
        late = len(THRESHOLDS) // 2
        shares = np.array([profile.estimate[late:] for profile in self.profiles.values()])
        return late + int(shares.std(0).argmax())

    def score_range(self) -> tuple[float, float]:
        """The lowest and highest score to draw, so that what is far from most does not squeeze the rest.

        Runs and the threshold count up to 1.5 times the interquartile range of all scores outside of it, and the
        interquartile means with their intervals up to three times: Tukey's inner and outer fences. Where most runs are
        alike, a tenth of what there is from :attr:`low` to :attr:`high` takes the place of that range.
        """
        scores = np.concatenate([scores for entry in self.entries for scores in entry.scores])
        lower, upper = np.quantile(scores, [0.25, 0.75])
        least = 0.0 if self.low is None or self.high is None else 0.1 * (self.high - self.low)
        width = max(float(upper - lower), least) or math.inf
        statistics = np.array([value for entry in self.entries for value in entry.iqm], dtype=float)
        kept = []
        for values, reach in ((scores, 1.5), (np.array([self.threshold], dtype=float), 1.5), (statistics, 3.0)):
            kept.append(values[(values >= lower - reach * width) & (values <= upper + reach * width)])
        near = np.concatenate(kept)
        return float(near.min()), float(near.max())

    def extent(self, curves: Iterable[Curve]) -> tuple[float, float]:
        """The lowest and highest return to draw: all, but little of what is far below :attr:`low`."""
        values = np.concatenate([np.ravel(part) for curve in curves for part in curve.returns])
        values = values[np.isfinite(values)]
        low, high = float(values.min()), float(values.max())
        if self.low is not None and self.high is not None:
            low, high = max(low, self.low - 0.5 * (self.high - self.low)), max(high, self.high)
        return low, high

    @property
    def resolvable(self) -> bool:
        """Whether there are seeds enough for any two to be told apart, were all of one above all of the other."""
        extremes = [
            mann_whitney([np.zeros(len(x)) for x in first.scores], [np.ones(len(y)) for y in second.scores])
            for first, second in itertools.combinations(self.entries, 2)
        ]
        return not extremes or len(extremes) * min(extremes) < 1 - CONFIDENCE

    @property
    def ties(self) -> list[str]:
        """Labels that are not told apart from the best."""
        return [entry.label for entry in self.entries[1:] if not self.pair(self.best.label, entry.label).told_apart]


class Gradient(NamedTuple):
    """The actor's gradient along a training, medians over seeds."""

    label: str
    env: str
    steps: Array
    snr: Array
    cosine: Array
    relative_bias: Array
    relative_bias_error: Array
    """The bias that an unbiased estimator would seem to have, for want of samples."""

    def median(self, name: str) -> float:
        """Of one of the figures along the training; NaN where none is finite."""
        values = getattr(self, name)
        values = values[np.isfinite(values)]
        return float(np.median(values)) if len(values) else math.nan


class Ratios(NamedTuple):
    """Signal-to-noise ratios for a logarithmic axis, which has no place for 0 and for infinity: see :func:`ratios`."""

    low: float
    """The least ratio between the two."""
    high: float
    """The largest."""
    zero: float
    """Below all others: where 0 is drawn."""
    infinite: float
    """Above all others: where an estimator without noise is drawn."""
    lines: Mapping[str, tuple[Array, Array]]
    """Steps and ratios by label, NaN where there is none."""

    def drawn(self, edge: float) -> bool:
        """Whether anything is drawn at one of the two edges."""
        return any(bool(np.equal(values, edge).any()) for _, values in self.lines.values())


@dataclass(frozen=True)
class Analysis:
    """All that a report shows."""

    name: str
    summary: str
    panels: tuple[Panel, ...]
    """All environments together first, if they can be; then each."""
    labels: tuple[str, ...]
    """In the order of the suite, or of the alphabet where it is not known."""
    left_out: tuple[str, ...]
    """Labels that are not in all environments, so not among those taken together."""
    missing: tuple[str, ...]
    """Runs of the suite that have no result, in words."""
    diverged: tuple[str, ...]
    """Runs that diverged, in words."""
    few: bool
    """Whether anything has fewer than :data:`gsrl.bench.stats.FEW` seeds."""
    gradients: tuple[Gradient, ...]
    meta: Mapping[str, Any]
    """``suite.json``."""

    @property
    def headline(self) -> Panel:
        """What matters most."""
        return self.panels[0]

    @property
    def environments(self) -> list[Panel]:
        """The panels of one environment each."""
        return [panel for panel in self.panels if panel.name != EVERYWHERE]

    @property
    def scaled(self) -> list[Panel]:
        """Those of them whose returns have a place on the common scale."""
        return [panel for panel in self.environments if panel.low is not None and panel.high is not None]

    @property
    def logarithmic(self) -> bool:
        """Whether steps are drawn on a logarithmic scale, in all environments: some runs are far longer than others."""
        ends = [
            [float(entry.curve.steps[-1]) for entry in panel.entries if entry.curve is not None]
            for panel in self.environments
        ]
        return any(max(each) > 4 * min(each) for each in ends if each)

    @property
    def command(self) -> str:
        """What makes these results: the last command, of the whole suite though it may have been run in parts."""
        words = list(self.meta["sessions"][-1]["command"])
        if "--only" in words:
            start = words.index("--only")
            end = next((i for i in range(start + 1, len(words)) if words[i].startswith("--")), len(words))
            del words[start:end]
        return " ".join(words)


def ratios(gradients: Sequence[Gradient]) -> Ratios:
    """Puts the signal-to-noise ratios of one environment in places of a logarithmic axis, zeros and infinities too."""
    values = np.concatenate([gradient.snr for gradient in gradients])
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 1.0)
    step = max(1.5, (high / low) ** 0.08)
    zero, infinite = low / step, high * step
    lines = {
        gradient.label: (gradient.steps, np.where(gradient.snr == 0, zero, np.minimum(gradient.snr, infinite)))
        for gradient in gradients
    }
    return Ratios(low, high, zero, infinite, lines)


def read_benchmark(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame | None, dict[str, Any]]:
    """Reads rows of results, of gradients if there are any, and what was run.

    Raises:
        UsageError: There are no results.
    """
    path = folder / RESULTS.name
    if not path.exists():
        raise UsageError(f"{folder} holds no benchmark: it has no {RESULTS.name}")
    text = dict.fromkeys(("suite", "label", "agent", "env"), str)
    try:
        rows = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"mean_return": ["nan", ""]})
    except pd.errors.EmptyDataError:
        rows = pd.DataFrame(columns=list(RESULTS.columns))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or no table
        raise UsageError(f"{path} is no table: {error}; put the file back as it was") from error
    said = rows["diverged"] if "diverged" in rows else pd.Series(index=rows.index)  # rows were once written without
    rows["diverged"] = pd.to_numeric(said, errors="coerce").fillna(0).astype(int)
    absent = [column for column in RESULTS.columns if column not in rows]
    if absent:
        raise UsageError(f"{path} lacks the columns {', '.join(absent)}")
    rows = rows[np.isfinite(rows["mean_return"].astype(float))]
    finished = rows.loc[rows["final"] == 1, ["label", "env", "seed"]]
    rows = rows.merge(finished, on=["label", "env", "seed"])
    if rows.empty:
        raise UsageError(f"{path} has no finished run yet")
    gradients = folder / "gradients.csv"
    meta = read_json(folder / "suite.json") if (folder / "suite.json").exists() else {}
    return rows, pd.read_csv(gradients, dtype=text) if gradients.exists() else None, meta


def analyse(rows: pd.DataFrame, gradients: pd.DataFrame | None, meta: Mapping[str, Any]) -> Analysis:
    """Computes all that a report shows.

    Args:
        rows: Of ``results.csv``, of finished runs.
        gradients: Of ``gradients.csv``, if there are any.
        meta: Of ``suite.json``; it may be empty.
    """
    plans = {(plan["label"], plan["env"]): plan for plan in meta.get("plans", [])}
    order = list(dict.fromkeys([label for label, _ in plans] + sorted(rows["label"].unique())))
    labels = tuple(label for label in order if label in set(rows["label"]))
    known = {environment["name"]: environment for environment in meta.get("environments", [])}
    names = [name for name in dict.fromkeys([*known, *sorted(rows["env"].unique())]) if name in set(rows["env"])]

    panels = []
    for name in names:
        scale = known.get(name, {})
        entries = [
            _entry(group, plans.get((label, name), {}).get("seeds", 0), scale.get("threshold"))
            for label in labels
            if len(group := rows[(rows["label"] == label) & (rows["env"] == name)])
        ]
        limits = {limit: scale.get(limit) for limit in ("low", "high", "threshold")}
        panels.append(_panel(name, entries, **limits))
    left_out: list[str] = []
    if len(panels) > 1 and all(panel.low is not None for panel in panels):
        together, left_out = _together(panels, labels)
        panels = [*together, *panels]
    counts = rows[rows["final"] == 1].groupby(["label", "env"]).size().to_dict()
    missing = _missing(plans, counts)
    return Analysis(
        name=meta.get("suite", rows["suite"].iloc[0]),
        summary=meta.get("summary", ""),
        panels=tuple(panels),
        labels=labels,
        left_out=tuple(left_out),
        missing=missing,
        diverged=tuple(
            f"{entry.label} on {panel.name}: {entry.diverged} of {entry.seeds} seeds"
            for panel in panels
            if panel.name != EVERYWHERE
            for entry in panel.entries
            if entry.diverged
        ),
        few=any(entry.few for panel in panels for entry in panel.entries),
        gradients=() if gradients is None else tuple(_gradients(gradients, labels, [panel.name for panel in panels])),
        meta=meta,
    )


def _missing(
    plans: Mapping[tuple[str, str], Mapping[str, Any]], counts: Mapping[tuple[str, str], int]
) -> tuple[str, ...]:
    """Runs that have no result: of each label, in its environment or in several."""
    absent: dict[str, dict[str, tuple[int, int]]] = {}
    for (label, env), plan in plans.items():
        lacking = plan["seeds"] - counts.get((label, env), 0)
        if lacking > 0:
            absent.setdefault(label, {})[env] = lacking, plan["seeds"]
    return tuple(
        f"{label} {f'on {next(iter(of))}' if len(of) == 1 else f'in {len(of)} environments'}: "
        f"{sum(lacking for lacking, _ in of.values())} of {sum(seeds for _, seeds in of.values())} "
        f"{'seeds' if len(of) == 1 else 'runs'}"
        for label, of in absent.items()
    )


def _entry(rows: pd.DataFrame, planned: int, threshold: float | None) -> Entry:
    final = rows[rows["final"] == 1].sort_values("seed")
    runs = [run.sort_values("step") for _, run in rows.groupby("seed")]
    scores = final["mean_return"].to_numpy(float)
    own = final["seconds"] / final["members"]
    first = [math.inf] * len(runs), [math.inf] * len(runs)
    if threshold is not None:
        first = (
            [steps_to_threshold(run["step"], run["mean_return"], threshold) for run in runs],
            [steps_to_threshold(run["seconds"] / run["members"], run["mean_return"], threshold) for run in runs],
        )
    return Entry(
        label=final["label"].iloc[0],
        agent=final["agent"].iloc[0],
        scores=(scores,),
        planned=max(planned, len(final)),
        iqm=iqm_interval([scores]),
        steps=float(final["step"].median()),
        seconds=float(own.median()),
        speed=float((final["step"] * final["members"] / final["train_seconds"].clip(lower=1e-9)).median()),
        reached=sum(map(math.isfinite, first[0])),
        steps_to=float(np.median(first[0])),
        seconds_to=float(np.median(first[1])),
        curve=_curve(runs),
        diverged=int(final["diverged"].sum()),
    )


def _curve(runs: Sequence[pd.DataFrame]) -> Curve:
    """Of the steps of the evaluations; where these differ between seeds, of steps between, interpolated."""
    steps = [run["step"].to_numpy(float) for run in runs]
    returns = [run["mean_return"].to_numpy(float) for run in runs]
    if all(np.array_equal(each, steps[0]) for each in steps):
        at, values = steps[0], np.array(returns)
    else:
        begin, end = max(each[0] for each in steps), min(each[-1] for each in steps)
        at = np.linspace(min(begin, end), end, max(map(len, steps)))
        values = np.array([np.interp(at, x, y) for x, y in zip(steps, returns, strict=True)])
    return Curve(at, iqm_curve([values], resamples=FAST))


def _panel(name: str, entries: Sequence[Entry], **limits: Any) -> Panel:
    entries = sorted(entries, key=lambda entry: -float(entry.iqm.estimate))
    both = list(itertools.combinations(entries, 2))
    p_values = [mann_whitney(first.scores, second.scores) for first, second in both]
    pairs = [
        Pair(
            first.label,
            second.label,
            probability_of_improvement(first.scores, second.scores, resamples=FAST),
            p_value,
            adjusted,
        )
        for (first, second), p_value, adjusted in zip(both, p_values, holm(p_values).tolist(), strict=True)
    ]
    return Panel(name, tuple(entries), tuple(pairs), **limits)


def _together(panels: Sequence[Panel], labels: Sequence[str]) -> tuple[list[Panel], list[str]]:
    """The panel of all environments, and the labels that are not in all; neither if no label is."""
    found = [{entry.label: entry for entry in panel.entries} for panel in panels]
    limits = np.array([(panel.low, panel.high) for panel in panels], dtype=float)
    entries, left_out = [], []
    for label in labels:
        if not all(label in each for each in found):
            left_out.append(label)
            continue
        own = [each[label] for each in found]
        scores = tuple(
            (entry.scores[0] - low) / (high - low) for entry, (low, high) in zip(own, limits.tolist(), strict=True)
        )
        entries.append(
            Entry(
                label=label,
                agent=own[0].agent,
                scores=scores,
                planned=min(entry.planned for entry in own),
                iqm=iqm_interval(scores),
                steps=sum(entry.steps for entry in own),
                seconds=sum(entry.seconds for entry in own),
                speed=sum(entry.steps for entry in own) / sum(entry.steps / entry.speed for entry in own),
                diverged=sum(entry.diverged for entry in own),
            )
        )
    if not entries:
        return [], []
    panel = _panel(EVERYWHERE, entries, low=0.0, high=1.0)
    profiles = {entry.label: performance_profile(entry.scores, THRESHOLDS, resamples=FAST) for entry in panel.entries}
    return [replace(panel, profiles=profiles)], left_out


def _gradients(rows: pd.DataFrame, labels: Sequence[str], names: Sequence[str]) -> list[Gradient]:
    """Of the labels, in the order of the panels' names."""
    found = []
    for (env, label), group in rows.groupby(["env", "label"]):
        if label in labels and env in names:
            medians = group.groupby("step")[["snr", "cosine", "relative_bias", "relative_bias_error"]].median()
            columns = medians.to_numpy(float).T
            found.append(Gradient(label, env, medians.index.to_numpy(float), *columns))
    return sorted(found, key=lambda each: (names.index(each.env), labels.index(each.label)))
