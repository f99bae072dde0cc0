"""Two attributes of ten values: how soon agents name both, what they do with pairs never seen, and how they speak.

Messages have up to three of ten symbols, and an end symbol. A fifth of the hundred pairs is held out; which ones, is
the same for all seeds. Agents are multilayer perceptrons, seeds train in lock-step.

As in lewis.py, **samples are calls of the game**: ``rloo`` (m = 4) plays a meaning four times and counts four. All
estimators train to the same number of samples, so that ``rloo`` has a quarter of the updates. The ratio says how many
times more samples than ``st-gumbel`` an estimator takes to a training accuracy, in medians of the seeds.

Similarity and disentanglement are those of the messages for all hundred pairs, at the end; intervals are of a bootstrap
over seeds.

    python benchmarks/studies/comms/attributes.py [--estimators st-gumbel reinforce rloo] [--updates 10000] [--seeds 10]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.studies.common import Rows, start, write_page
from benchmarks.studies.comms import evidence
from gsrl import make_estimator
from gsrl._files import save_figure
from gsrl.comms import AttributeValueGame, Channel, SignallingGame, metrics

ATTRIBUTES, VALUES, LENGTH, HELD_OUT = 2, 10, 3, 0.2
BATCH, LEARNING_RATE, INTERVAL = 128, 1e-2, 25
REFERENCE = "st-gumbel"

SETTINGS: dict[str, dict[str, Any]] = {
    "st-gumbel": {"temperature": 1.0},
    "reinforce": {"baseline": "running-mean"},
    "rloo": {"num_samples": 4},
}
"""Of the estimators."""
ESTIMATORS = tuple(SETTINGS)
ENTROPY_BONUS = {"st-gumbel": 0.0, "reinforce": 0.1, "rloo": 0.1}
"""Best of 0, .01, .05 and .1 for each."""
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Training accuracies."""
MEASURES = {
    "topographic similarity": metrics.topographic_similarity,
    "positional disentanglement": metrics.positional_disentanglement,
    "bag-of-symbols disentanglement": metrics.bag_of_symbols_disentanglement,
}


def train(name: str, updates: int, seeds: int) -> pd.DataFrame:
    """A row for each seed."""
    estimator = make_estimator(name, **SETTINGS[name])
    calls = estimator.settings.get("num_samples", 1)
    games = SignallingGame(
        AttributeValueGame(ATTRIBUTES, VALUES, held_out=HELD_OUT),
        Channel(VALUES, LENGTH, estimator=estimator, variable_length=True, entropy_bonus=ENTROPY_BONUS[name]),
        seeds=range(seeds),
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        device="cpu",
    )
    seconds = evidence.learn(games, updates // calls, INTERVAL)
    trained, held_out, everything = (games.evaluate(split) for split in ("train", "held_out", "all"))
    languages = list(zip(everything.messages, everything.meanings, everything.lengths, strict=True))
    return pd.DataFrame(
        {
            "calls": calls,
            "samples": updates * BATCH,
            "seed": range(seeds),
            "accuracy": trained.accuracy,
            "scrambled": games.evaluate(scramble=True).accuracy,
            "held-out accuracy": held_out.accuracy,
            **{key: [measure(*language) for language in languages] for key, measure in MEASURES.items()},
            "mean length": everything.mean_length,
            **{f"samples_to_{level}": games.samples_to(level - evidence.EPSILON) * calls for level in LEVELS},
            "seconds": seconds,
        }
    )


def outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each estimator: what it comes to, with intervals."""
    return pd.DataFrame(
        [
            {
                "estimator": name,
                "training accuracy": evidence.mean_interval(group["accuracy"]),
                "seeds ≥ 0.99": evidence.share_of(group["accuracy"] >= 0.99 - evidence.EPSILON),
                "scrambled": f"{group['scrambled'].mean():.3f}",
                **{
                    measure: evidence.mean_interval(group[measure])
                    for measure in ("held-out accuracy", *MEASURES, "mean length")
                },
                "seconds a game": f"{group['seconds'].iloc[0]:.0f}",
            }
            for name, group in table.groupby("estimator", sort=False)
        ]
    )


def samples(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each level: median samples, how many seeds got there, and how many times more than the reference."""
    groups = dict(iter(table.groupby("estimator", sort=False)))
    lines = []
    for level in LEVELS:
        column = f"samples_to_{level}"
        line: dict[str, Any] = {"training accuracy": level}
        for name, group in groups.items():
            there = evidence.share_of(np.isfinite(group[column]))
            line[f"{name} (median samples, seeds)"] = f"{evidence.median(group[column])} ({there})"
        for name, group in groups.items():
            if name != REFERENCE and REFERENCE in groups:
                line[f"{name}, times {REFERENCE}"] = ratio(group[column], groups[REFERENCE][column], group["samples"])
        lines.append(line)
    return pd.DataFrame(lines)


def ratio(others: pd.Series, reference: pd.Series, budget: pd.Series) -> str:
    """How many times more samples in medians; where the median seed never got there, at least the budget's."""
    if not np.isfinite(reference.median()):
        return ""
    middle = others.median()
    return f"{middle / reference.median():.1f}" if np.isfinite(middle) else f"> {budget.max() / reference.median():.1f}"


def draw(table: pd.DataFrame) -> Figure:
    """Samples of each seed to each level."""
    figure = Figure(figsize=(5.2, 3.2))
    axes = figure.subplots()
    colours = dict(zip(SETTINGS, (evidence.BLUE, evidence.ORANGE, evidence.GREY), strict=True))
    for name, group in table.groupby("estimator", sort=False):
        columns = group[[f"samples_to_{level}" for level in LEVELS]].to_numpy(dtype=float)
        for curve in columns:
            axes.plot(curve, LEVELS, lw=0.6, alpha=0.4, color=colours[name])
        axes.plot(np.median(columns, axis=0), LEVELS, "o-", ms=4, color=colours[name], label=name)
    axes.set(xscale="log", xlabel="samples", ylabel="training accuracy reached")
    axes.legend()
    return figure


def main(
    *,
    estimators: tuple[Literal[ESTIMATORS], ...] = ESTIMATORS,
    updates: int = 10_000,
    seeds: int = 10,
    out: Path = evidence.RESULTS,
) -> None:
    """Trains what is missing, keeps each row, and writes page and picture.

    Args:
        estimators: Names of some.
        updates: Of an estimator that plays a meaning once.
        seeds: Seeds 0, 1, ..., in lock-step.
        out: Folder of rows, page and picture.
    """
    rows = Rows(out / "attributes.csv")
    for run in rows.missing({"estimator": name} for name in estimators):
        rows.add(train(run["estimator"], updates, seeds), **run)

    table = rows.table()
    write_page(
        out / "attributes.md",
        "Two attributes of ten values",
        f"Up to {LENGTH} of {VALUES} symbols and an end; a fifth of the pairs held out; "
        f"{table['samples'].iloc[0]:,} samples (plays) for every estimator, batches of {BATCH}, learning rate "
        f"{LEARNING_RATE:g}, agents of width 64. Means over seeds with 95 % intervals of a bootstrap. *Scrambled*: "
        "messages shuffled among episodes. Similarity and disentanglement are those of the messages of all pairs.",
        {"At the end": outcomes(table), "Samples to a training accuracy": samples(table)},
    )
    save_figure(draw(table), out / "attributes.png")


if __name__ == "__main__":
    start(main, __doc__)
