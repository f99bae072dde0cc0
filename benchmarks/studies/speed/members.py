"""Environment steps a second against members, all in, for each library, beside the arithmetic limit.

What is timed, and how, is that of ``throughput.py``: CartPole-v1, 64x64, batches of 64, one update a step of each
member, one thread. ``gsrl`` is a ``DiscreteSAC`` for one member and a ``Population`` for more; rejax's SAC is under
``vmap``. Libraries that train one agent at a time are lines: on one core, S of them take turns. The limit is the rate
at which the matrix products of updates could go, as in ``scaling.py``, without environments, acting and all else; of
Tianshou's, rejax's and a plain SAC it is about the same, of DQN, which has fewer networks, a higher one.

Rows are kept: a run goes on where another one ended; ``--draw-only`` measures nothing. Each number of members is timed
by itself, its subjects in turns.

    python benchmarks/studies/speed/members.py [--rounds 11] [--jax-python .venv-jax/bin/python]
        [--tianshou-python .venv-peers/bin/python] [--cpu-time] [--draw-only] [--out PATH]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.studies.common import RESULTS, Rows, Subject, in_turns, repeated, start, write_page
from benchmarks.studies.peers.plain import PlainSAC
from benchmarks.studies.speed.scaling import multiplication, operations
from benchmarks.studies.speed.throughput import (
    ENV,
    SETTINGS,
    WIDTH,
    Peers,
    dqn,
    population,
    single,
    warm,
)
from gsrl._files import save_figure
from gsrl._style import BLUE, INK, ORANGE, SOFT

MEMBERS = (1, 2, 4, 8, 16, 32, 64)
PRODUCTS = 50
"""Products of matrices in a round, by which the limit is known."""

STYLES: dict[str, dict[str, Any]] = {
    "gsrl, compiled": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "gsrl, eager": {"color": BLUE, "linestyle": ":", "marker": "o"},
    "rejax SAC": {"color": ORANGE, "linestyle": "-", "marker": "s"},
    "Stable-Baselines3 DQN": {"color": INK, "linestyle": "-"},
    "sbx DQN": {"color": INK, "linestyle": "--"},
    "Tianshou SAC": {"color": INK, "linestyle": "-."},
    "plain loop": {"color": INK, "linestyle": ":"},
}
"""Of each library's line; those without a marker train one agent at a time."""


def makers(
    members: int, peers: Peers, jax_python: str, tianshou_python: str
) -> dict[str, Callable[[], Subject | None]]:
    """What is timed for so many members."""
    options = () if members == 1 else ("--members", str(members))

    def ours(*, compiled: bool) -> Subject:
        return single(compiled) if members == 1 else population(members, compiled)

    many: dict[str, Callable[[], Subject | None]] = {
        "gsrl, compiled": lambda: ours(compiled=True),
        "gsrl, eager": lambda: ours(compiled=False),
        "rejax SAC": lambda: peers.served(jax_python, "jax_agents.py", "rejax", "rejax", *options),
    }
    if members > 1:
        return many
    return {
        **many,
        "Stable-Baselines3 DQN": dqn,
        "sbx DQN": lambda: peers.served(jax_python, "jax_agents.py", "sbx", "sbx"),
        "Tianshou SAC": lambda: peers.served(tianshou_python, "tianshou_sac.py", "tianshou"),
        "plain loop": lambda: warm(PlainSAC(ENV, WIDTH, **SETTINGS).learn),
    }


def draw(table: pd.DataFrame) -> Figure:
    """Steps a second of all members, and the limit."""
    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    sizes = sorted(table["members"].unique())
    for name, style in STYLES.items():
        part = table[table["library"] == name].sort_values("members")
        if part.empty:
            continue
        if "marker" in style:
            axes.plot(part["members"], part["steps_per_second"], label=name, ms=4, **style)
        else:
            axes.axhline(part["steps_per_second"].iloc[0], label=name, lw=1, **style)
    axes.axhline(table["limit"].median(), color=SOFT, lw=2, label="arithmetic limit")
    axes.set(xscale="log", yscale="log", xlabel="members", ylabel="environment steps a second, all members")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend(fontsize=7, ncols=2)
    return figure


def main(
    *,
    rounds: int = 11,
    steps: int = 200,
    members: tuple[int, ...] = MEMBERS,
    jax_python: str = sys.executable,
    tianshou_python: str = sys.executable,
    cpu_time: bool = False,
    draw_only: bool = False,
    out: Path = RESULTS / "speed" / "members",
) -> None:
    """Measures what is missing, keeps each row, draws, and writes a page.

    Args:
        rounds: How many.
        steps: Of each member in a round.
        members: How many, in turn.
        jax_python: An interpreter that can import rejax and sbx.
        tianshou_python: One that can import tianshou.
        cpu_time: Whether the processor's time is counted, and not the wall's.
        draw_only: Only draw the rows that there are.
        out: Path of table, picture and page, without suffix.
    """
    rows = Rows(out.with_suffix(".csv"), order=["members", "library"])
    for size in () if draw_only else members:
        peers = Peers()
        made: dict[str, Subject | None] = {
            name: make()
            for name, make in makers(size, peers, jax_python, tianshou_python).items()
            if not rows.holds(members=size, library=name)
        }
        subjects = {name: learn for name, learn in made.items() if learn is not None}
        if not subjects:
            continue
        calls = {**dict.fromkeys(subjects, steps), "limit": PRODUCTS}
        clock = peers.clock if cpu_time else time.perf_counter
        seconds = in_turns({**subjects, "limit": repeated(multiplication())}, calls, rounds, clock)
        limit = 2 * 1024**3 / seconds["limit"].median() / operations(WIDTH, SETTINGS["batch_size"])
        rates = size / seconds[list(subjects)]
        rows.add(
            {
                "members": size,
                "library": name,
                "steps_per_second": round(rates[name].median(), 1),
                "lower_quartile": round(rates[name].quantile(0.25), 1),
                "upper_quartile": round(rates[name].quantile(0.75), 1),
                "limit": round(limit, 1),
                "share_of_limit": round(rates[name].median() / limit, 4),
            }
            for name in subjects
        )
        print(f"{size} members: done", flush=True)

    table = rows.table()
    if table.empty:
        raise SystemExit(f"there are no rows in {rows.file} to draw")
    save_figure(draw(table), out.with_suffix(".png"))
    wide = table.pivot(index="library", columns="members", values="steps_per_second").reset_index()
    wide.columns = [str(column) for column in wide.columns]
    text = (
        "Environment steps a second of all members, medians of rounds in turns; CartPole-v1, 64x64, batches of 64, one "
        f"update a step. The arithmetic limit is {table['limit'].median():,.0f}.\n\n"
        f"![Steps a second against members]({out.name}.png)"
    )
    write_page(out.with_suffix(".md"), "Steps a second against members", text, {"": wide})


if __name__ == "__main__":
    start(main, __doc__)
