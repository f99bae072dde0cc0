"""The switch riddle: prisoners who learn to tell each other, by a light switch, that all have been in the room.

Agents that are differentiated through the switch (``dial``), that learn by REINFORCE how to leave it (``rial``), and
that never see it (``none``). Returns are *normalised* by those of an oracle, which tells as soon as all have been in
the room; without the switch nobody can get more than .7222 of them with three prisoners. Three prisoners are evaluated
in every order of visits there is, 729, so that the figures are exact; four in 20,000 drawn ones.

Seeds train in lock-step, all by the same settings; no checkpoint is chosen by evaluation.

    python benchmarks/comms/riddle.py [--prisoners 3 4] [--communication dial rial none] [--seeds 10]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from stable_baselines3.common.utils import LinearSchedule

from agents.training import set_threads
from benchmarks.common import Rows, write_page
from benchmarks.comms import evidence
from envs.switch_riddle import SwitchRiddle, all_visits, optimal_return
from gsrl._files import save_figure
from gsrl.comms import DIAL, DIALEvaluation

COMMUNICATIONS = ("dial", "rial", "none")
EPISODES = {3: 32_000, 4: 64_000}
"""Of the training, by prisoners."""
SETTINGS: dict[str, Any] = {"hidden": 128, "epsilon": 0.2}
BATCH_SIZE = {3: 8, 4: 32}
"""Episodes of an update, by prisoners."""
LEARNING_RATE = {3: 2e-3, 4: 3e-3}
"""At first, by prisoners; it falls to 0 in a line."""
BEST_WITHOUT = {3: 390 / 540}
"""Normalised return of the best prisoners who do not see the switch, where it is known."""
DRAWN, EVALUATIONS = 20_000, 20
NEAR = 0.99


def evaluation(teams: DIAL, prisoners: int, *, scramble: bool) -> DIALEvaluation:
    """Of every order of visits, or of many."""
    if prisoners > 3:
        return teams.evaluate(DRAWN, scramble=scramble)
    visits = all_visits(prisoners)
    return teams.evaluate(len(visits), env=partial(SwitchRiddle, prisoners, visits), scramble=scramble)


def train(
    prisoners: int, communication: str, episodes: int, seeds: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each seed, and the points of their curves."""
    teams = DIAL(
        partial(SwitchRiddle, prisoners),
        range(seeds),
        communication=communication,
        learning_rate=LinearSchedule(LEARNING_RATE[prisoners], 0.0, 1.0),
        batch_size=BATCH_SIZE[prisoners],
        device="cpu",
        **SETTINGS,
    )
    start = time.process_time()
    teams.learn(episodes, log_interval=max(1, episodes // BATCH_SIZE[prisoners] // EVALUATIONS))
    seconds = time.process_time() - start
    result, scrambled = (evaluation(teams, prisoners, scramble=scramble) for scramble in (False, True))
    run = {"prisoners": prisoners, "communication": communication}
    rows = [
        {
            **run,
            "episodes": teams.num_episodes,
            "seed": seed,
            "return": result.mean_return[seed],
            "normalised": result.normalized_return[seed],
            "scrambled": scrambled.normalized_return[seed],
            "seconds": round(seconds / seeds, 3),
        }
        for seed in range(seeds)
    ]
    points = [
        {**run, "seed": seed, "episodes": point["episodes"], "return": point["return"][seed]}
        for point in teams.history
        for seed in range(seeds)
    ]
    return rows, points


def lines_of(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each kind of prisoners."""
    lines = []
    for (prisoners, communication), group in table.groupby(["prisoners", "communication"], sort=False):
        without = BEST_WITHOUT.get(int(prisoners))
        lines.append(
            {
                "prisoners": prisoners,
                "communication": communication,
                "episodes": f"{group['episodes'].iloc[0]:,}",
                "normalised return": evidence.mean_interval(group["normalised"]),
                "worst": f"{group['normalised'].min():.3f}",
                "best": f"{group['normalised'].max():.3f}",
                f"seeds ≥ {NEAR}": evidence.share_of(group["normalised"] >= NEAR - evidence.EPSILON),
                "above the best without the switch": ""
                if without is None
                else evidence.share_of(group["normalised"] > without + evidence.EPSILON),
                "scrambled": f"{group['scrambled'].mean():.3f}",
                "seconds a team": f"{group['seconds'].iloc[0]:.0f}",
            }
        )
    return pd.DataFrame(lines)


def draw(points: pd.DataFrame) -> Figure:
    """Normalised returns along the training: every seed, and their median."""
    counts = sorted(points["prisoners"].unique())
    figure = Figure(figsize=(4.2 * len(counts), 3.0), layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    colours = dict(zip(COMMUNICATIONS, (evidence.BLUE, evidence.ORANGE, evidence.GREY), strict=True))
    for axes, count in zip(panels, counts, strict=True):
        part = points[points["prisoners"] == count]
        for communication, group in part.groupby("communication", sort=False):
            curves = group.pivot(index="episodes", columns="seed", values="return") / optimal_return(int(count))
            axes.plot(curves.index, curves, lw=0.5, alpha=0.4, color=colours[communication])
            axes.plot(curves.index, curves.median(axis=1), color=colours[communication], label=communication)
        if count in BEST_WITHOUT:
            axes.axhline(BEST_WITHOUT[count], color=evidence.GREY, lw=0.8, ls=":")
        axes.set(xlabel="episodes", title=f"{count} prisoners", ylim=(0, 1.05))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="normalised return")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is missing, keeps each row, and writes page and picture."""
    parser = evidence.parser(__doc__)
    parser.add_argument("--prisoners", type=int, nargs="+", choices=sorted(EPISODES), default=sorted(EPISODES))
    parser.add_argument("--communication", nargs="+", choices=COMMUNICATIONS, default=COMMUNICATIONS)
    parser.add_argument("--episodes", type=int, help="of a training; as many as the prisoners need if left out")
    arguments = parser.parse_args(argv)
    set_threads(1)
    rows = Rows(arguments.out / "riddle.csv")
    curves = Rows(arguments.out / "riddle_curves.csv")
    for prisoners in arguments.prisoners:
        for communication in arguments.communication:
            if not rows.holds(prisoners=prisoners, communication=communication):
                episodes = arguments.episodes or EPISODES[prisoners]
                new, points = train(prisoners, communication, episodes, arguments.seeds)
                # A process that was killed may have left points, but no rows.
                curves.drop(prisoners=prisoners, communication=communication)
                curves.add(points)
                rows.add(new)
                normalised = np.mean([row["normalised"] for row in new])
                print(f"{prisoners} prisoners, {communication}: {normalised:.3f}", flush=True)

    write_page(
        arguments.out / "riddle.md",
        "The switch riddle",
        "Returns in units of the oracle's; means over seeds with 95 % intervals of a bootstrap. Messages are one hard "
        "bit; *scrambled*: what is seen of the switch is shuffled among the episodes. With three prisoners every order "
        f"of visits is played once, with four {DRAWN:,} drawn ones.",
        {"At the end of the training": lines_of(rows.table())},
    )
    save_figure(draw(curves.table()), arguments.out / "riddle.png", dpi=200)


if __name__ == "__main__":
    main()
