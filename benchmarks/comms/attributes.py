"""Two attributes of ten values: how soon agents name both, what they do with pairs never seen, and how they speak.

Messages have up to three of ten symbols, and an end symbol. A fifth of the hundred pairs is held out; which ones, is
the same for all seeds. Agents are multilayer perceptrons, seeds train in lock-step.

As in lewis.py, **samples are calls of the game**: ``rloo`` (m = 4) plays a meaning four times and counts four. All
estimators train to the same number of samples, so that ``rloo`` has a quarter of the updates. The ratio says how many
times more samples than ``st-gumbel`` an estimator takes to a training accuracy, in medians of the seeds.

Similarity and disentanglement are those of the messages for all hundred pairs, at the end; intervals are of a bootstrap
over seeds.

    python benchmarks/comms/attributes.py [--estimators st-gumbel reinforce rloo] [--updates 10000] [--seeds 10]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from agents.training import set_threads
from benchmarks.common import Rows, write_page
from benchmarks.comms import evidence
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
ENTROPY_BONUS = {"st-gumbel": 0.0, "reinforce": 0.1, "rloo": 0.1}
"""Best of 0, .01, .05 and .1 for each."""
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Training accuracies."""
MEASURES = {
    "topographic similarity": metrics.topographic_similarity,
    "positional disentanglement": metrics.positional_disentanglement,
    "bag-of-symbols disentanglement": metrics.bag_of_symbols_disentanglement,
}


def train(name: str, updates: int, seeds: int) -> list[dict[str, Any]]:
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
    start = time.process_time()
    games.learn(updates // calls, log_interval=INTERVAL)
    seconds = time.process_time() - start
    trained, held_out, everything = (games.evaluate(split) for split in ("train", "held_out", "all"))
    scrambled = games.evaluate(scramble=True).accuracy
    languages = zip(everything.messages, everything.meanings, everything.lengths, strict=True)
    measures = [{key: measure(*language) for key, measure in MEASURES.items()} for language in languages]
    reached = {level: games.samples_to(level - evidence.EPSILON) * calls for level in LEVELS}
    return [
        {
            "estimator": name,
            "calls": calls,
            "samples": updates * BATCH,
            "seed": seed,
            "accuracy": trained.accuracy[seed],
            "scrambled": scrambled[seed],
            "held-out accuracy": held_out.accuracy[seed],
            **measures[seed],
            "mean length": everything.mean_length[seed],
            **{f"samples_to_{level}": reached[level][seed] for level in LEVELS},
            "seconds": round(seconds / seeds, 3),
        }
        for seed in range(seeds)
    ]


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
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    colours = dict(zip(SETTINGS, (evidence.BLUE, evidence.ORANGE, evidence.GREY), strict=True))
    for name, group in table.groupby("estimator", sort=False):
        columns = group[[f"samples_to_{level}" for level in LEVELS]].to_numpy(dtype=float)
        for curve in columns:
            axes.plot(curve, LEVELS, lw=0.6, alpha=0.4, color=colours[name])
        axes.plot(np.median(columns, axis=0), LEVELS, "o-", ms=4, color=colours[name], label=name)
    axes.set(xscale="log", xlabel="samples", ylabel="training accuracy reached")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is missing, keeps each row, and writes page and picture."""
    parser = evidence.parser(__doc__)
    parser.add_argument("--estimators", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--updates", type=int, default=10_000, help="of an estimator that plays a meaning once")
    arguments = parser.parse_args(argv)
    set_threads(1)
    rows = Rows(arguments.out / "attributes.csv")
    for name in arguments.estimators:
        if not rows.holds(estimator=name):
            new = train(name, arguments.updates, arguments.seeds)
            rows.add(new)
            print(f"{name}: {np.mean([row['accuracy'] for row in new]):.3f}", flush=True)

    table = rows.table()
    write_page(
        arguments.out / "attributes.md",
        "Two attributes of ten values",
        f"Up to {LENGTH} of {VALUES} symbols and an end; a fifth of the pairs held out; "
        f"{table['samples'].iloc[0]:,} samples (plays) for every estimator, batches of {BATCH}, learning rate "
        f"{LEARNING_RATE:g}, agents of width 64. Means over seeds with 95 % intervals of a bootstrap. *Scrambled*: "
        "messages shuffled among episodes. Similarity and disentanglement are those of the messages of all pairs.",
        {"At the end": outcomes(table), "Samples to a training accuracy": samples(table)},
    )
    save_figure(draw(table), arguments.out / "attributes.png", dpi=200)


if __name__ == "__main__":
    main()
