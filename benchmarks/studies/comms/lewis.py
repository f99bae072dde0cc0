"""Lewis games: how often each estimator's agents find a signalling system, and what it takes them.

n meanings, all equally likely, and K symbols, of which a message is one. With K < n at most K / n of the answers can be
right. Seeds train in lock-step; an evaluation plays every meaning once.

**Samples are calls of the game**: a message that is sent, answered and priced. Each update has a batch of meanings, the
same for all estimators of a game. An estimator that plays a meaning several times, ``rloo`` (m = 4) and ``exact`` (each
of the K symbols), counts all of them. The *accuracy* is that *at equal samples*, as many as estimators with one call
have had at the end: the others have had fewer updates then. They go on to as many updates, unless they make more than
32 calls; that is the accuracy *at equal updates*, and what samples to 95 % are looked for in.

Networks, batch, learning rate and bonuses are one and the same for the estimators of a game. The temperature of
relaxations is the game's; estimators after straight-through have the one that they are derived for, 1.

    python benchmarks/studies/comms/lewis.py [--meanings 5 10 32 100] [--estimators st-gumbel ...] [--seeds 10]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.studies.common import Rows, start, write_page
from benchmarks.studies.comms import evidence
from gsrl import make_estimator
from gsrl._files import save_figure
from gsrl.comms import Channel, LewisGame, SignallingGame
from gsrl.estimators import Estimator


class Case(NamedTuple):
    """A game, and the settings that all estimators share."""

    meanings: int
    symbols: int
    updates: int
    batch: int = 128
    temperature: float = 2.0
    hidden: int = 64
    learning_rate: float = 1e-2

    @property
    def ceiling(self) -> float:
        """The best accuracy there is."""
        return min(1.0, self.symbols / self.meanings)


CASES = (
    Case(5, 5, 300),
    Case(10, 10, 600),
    Case(32, 32, 1000, batch=256, temperature=3.0),
    Case(100, 100, 4000, batch=512, temperature=2.5, hidden=128, learning_rate=2e-3),
    Case(10, 5, 600),
    Case(32, 8, 600),
)

RELAXED = ("gumbel-softmax", "st-gumbel", "gumbel-rao")
"""Estimators that have the game's temperature."""
OTHERS: dict[str, dict[str, Any]] = {
    "exact": {},
    "gapped-st": {"temperature": 1.0},
    "reinmax": {"temperature": 1.0},
    "reinforce": {"baseline": "running-mean"},
    "rloo": {"num_samples": 4},
}
ESTIMATORS = ("exact", *RELAXED, "gapped-st", "reinmax", "reinforce", "rloo")

INTERVAL = 10
"""Updates between two evaluations."""
MOST_CALLS = 32
"""Calls of an update's meaning above which an estimator gets equal samples only."""


def estimator_of(name: str, case: Case) -> Estimator:
    """An estimator as it is used in a game."""
    return make_estimator(name, **({"temperature": case.temperature} if name in RELAXED else OTHERS[name]))


def calls_of(estimator: Estimator, symbols: int) -> int:
    """How many times it plays a meaning."""
    return int(eval(estimator.calls, {"__builtins__": {}}, {"n": 1, "K": symbols, **estimator.settings}))


def train(case: Case, name: str, seeds: int) -> pd.DataFrame:
    """A row for each seed."""
    estimator = estimator_of(name, case)
    calls = calls_of(estimator, case.symbols)
    games = SignallingGame(
        LewisGame(case.meanings),
        Channel(case.symbols, estimator=estimator, **evidence.BONUSES),
        seeds=range(seeds),
        batch_size=case.batch,
        learning_rate=case.learning_rate,
        hidden=case.hidden,
        device="cpu",
    )
    seconds = evidence.learn(games, case.updates // calls, INTERVAL)
    rows = {
        **case._asdict(),
        "estimator": name,
        "calls": calls,
        "samples": case.updates * case.batch,
        "seed": range(seeds),
        "accuracy": games.evaluate().accuracy,
        "scrambled": games.evaluate(scramble=True).accuracy,
        "accuracy_at_equal_updates": np.nan,
    }
    if calls <= MOST_CALLS:
        seconds += evidence.learn(games, case.updates - games.num_updates, INTERVAL)
        rows["accuracy_at_equal_updates"] = games.evaluate().accuracy
    rows["samples_to_95"] = games.samples_to(0.95 * case.ceiling - evidence.EPSILON) * calls
    return pd.DataFrame({**rows, "seconds": seconds})


def lines_of(rows: pd.DataFrame, case: Case) -> pd.DataFrame:
    """A line for each estimator of a game."""
    lines = []
    for name, group in rows.groupby("estimator", sort=False):
        share = group["accuracy"] / case.ceiling
        later = (group["accuracy_at_equal_updates"] / case.ceiling).dropna()
        # All is possible with enough symbols; with fewer, what counts is how near to the ceiling.
        near = 0.99 if case.ceiling == 1 else 0.98
        lines.append(
            {
                "estimator": name,
                "calls": group["calls"].iloc[0],
                "accuracy" if case.ceiling == 1 else "share of the ceiling": f"{share.mean():.3f}",
                "worst": f"{share.min():.3f}",
                f"seeds ≥ {near}": evidence.share_of(share >= near - evidence.EPSILON),
                "scrambled accuracy": f"{group['scrambled'].mean():.3f}",
                "at equal updates": f"{later.mean():.3f}" if len(later) else "",
                f"seeds ≥ {near} then": evidence.share_of(later >= near - evidence.EPSILON) if len(later) else "",
                "samples to 95 % (median)": evidence.median(group["samples_to_95"]),
                "never": evidence.share_of(np.isinf(group["samples_to_95"])),
                "seconds a game": f"{group['seconds'].iloc[0]:.1f}",
            }
        )
    return pd.DataFrame(lines)


def draw(table: pd.DataFrame, cases: Sequence[Case]) -> Figure:
    """Samples to 95 % of every seed; crosses at the right end are those that never got there."""
    figure = Figure(figsize=(2.6 * len(cases) + 1.2, 3.2))
    panels = figure.subplots(1, len(cases), sharex=True, sharey=True, squeeze=False)[0]
    for axes, case in zip(panels, cases, strict=True):
        part = rows_of(table, case)
        found = part["samples_to_95"][np.isfinite(part["samples_to_95"])]
        never = 2 * max(found.max() if len(found) else 0, case.updates * case.batch)
        for place, name in enumerate(ESTIMATORS):
            samples = part[part["estimator"] == name]["samples_to_95"].to_numpy()
            lost = np.isinf(samples)
            axes.plot(samples[~lost], np.full((~lost).sum(), place), "o", ms=4, alpha=0.6, color=evidence.BLUE)
            heights = place + np.linspace(-0.25, 0.25, lost.sum()) if lost.sum() > 1 else np.full(lost.sum(), place)
            axes.plot(np.full(lost.sum(), never), heights, "x", ms=4, color=evidence.ORANGE)
        axes.set(
            xscale="log", xlabel="samples to 95 % (crosses: never)", title=f"n = {case.meanings}, K = {case.symbols}"
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_yticks(range(len(ESTIMATORS)), ESTIMATORS)
    panels[0].invert_yaxis()
    return figure


def rows_of(table: pd.DataFrame, case: Case) -> pd.DataFrame:
    """Those of a game, estimators in their order."""
    part = table[(table["meanings"] == case.meanings) & (table["symbols"] == case.symbols)]
    return part.sort_values("estimator", key=lambda names: names.map(ESTIMATORS.index), kind="stable")


def main(
    *,
    meanings: tuple[int, ...] = (),
    estimators: tuple[Literal[ESTIMATORS], ...] = ESTIMATORS,
    seeds: int = 10,
    out: Path = evidence.RESULTS,
) -> None:
    """Trains what is missing, keeps each row, and writes page and picture.

    Args:
        meanings: n; all games if none is given.
        estimators: Names of some.
        seeds: Seeds 0, 1, ..., in lock-step.
        out: Folder of rows, page and picture.
    """
    rows = Rows(out / "lewis.csv")
    chosen = {(case.meanings, case.symbols): case for case in CASES if not meanings or case.meanings in meanings}
    for run in rows.missing({"meanings": n, "symbols": K, "estimator": name} for n, K in chosen for name in estimators):
        rows.add(train(chosen[run["meanings"], run["symbols"]], run["estimator"], seeds))

    table = rows.table()
    there = [case for case in CASES if len(rows_of(table, case))]
    write_page(
        out / "lewis.md",
        "Lewis games",
        "One symbol a message; hard messages, each meaning played once. *Calls* are plays of a meaning in an update. "
        "Accuracies are those after the same number of samples (plays) for every estimator, and those *at equal "
        "updates*, where estimators with several calls have had more samples. *Scrambled*: messages shuffled among "
        "episodes. Samples to 95 % of the best accuracy there is: a median over the seeds, and how many never got "
        "there.",
        {
            f"n = {case.meanings}, K = {case.symbols}: {case.updates * case.batch:,} samples, batches of {case.batch}, "
            f"width {case.hidden}, temperature {case.temperature:g}, learning rate {case.learning_rate:g}": lines_of(
                rows_of(table, case), case
            )
            for case in there
        },
    )
    save_figure(draw(table, there), out / "lewis.png")


if __name__ == "__main__":
    start(main, __doc__)
