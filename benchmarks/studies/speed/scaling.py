r"""Time of one update of discrete SAC a member, against members, width and batch, beside the arithmetic limit.

CartPole's shapes: four observations, two actions; two hidden layers; one thread. Against the members S from 1 to 256,
at 64x64 and batches of 64; against the width from 32 to 512, at batches of 64, and against the batch from 32 to 512, at
64x64, both for one member and for sixteen. One member is a ``DiscreteSAC``, more are a ``Population``. And one member
at 256x256 with batches of 256, whose share of the limit is printed.

The limit is the time that the matrix products would take alone, at the rate of a product of two 1024x1024 matrices,
measured in turn with the updates. A layer of i inputs and o outputs takes 2 B i o operations forward, as many for the
gradient of its weights, and as many for that of its inputs, which the first layer has no use for. With
:math:`P = \sum i o` over the layers of a network, d observations, a width w and C = 2 critics, there are

- forward, 2 B P each: the actor at the next states and at the states, C target critics at the next states, C critics;
- backward, 4 B P - 2 B d w each: the actor, C critics,

so 24 B P - 6 B d w together. It is checked against ``torch.utils.flop_counter`` in each case.

Rows are kept: a run goes on where another one ended; ``--draw-only`` measures nothing.

    python benchmarks/studies/speed/scaling.py [--rounds 15] [--modes eager compiled] [--draw-only] [--out PATH]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

import gsrl
from benchmarks.studies.common import RESULTS, Rows, calls_in, in_turns, record, repeated, start
from benchmarks.studies.speed.batches import random_batch
from gsrl._files import save_figure
from gsrl._style import BLUE, INK, ORANGE, SOFT
from gsrl.learning.learner import EAGER_UPDATES

Mode = Literal["eager", "compiled"]

OBSERVATIONS, ACTIONS, CRITICS = 4, 2, 2
MODES: tuple[Mode, ...] = ("eager", "compiled")
SECONDS_A_ROUND = 0.1


class Case(NamedTuple):
    """What is measured at once."""

    members: int
    width: int
    batch: int


MEMBERS = [Case(2**i, 64, 64) for i in range(9)]
WIDTHS = {members: [Case(members, width, 64) for width in (32, 64, 128, 256, 512)] for members in (1, 16)}
BATCHES = {members: [Case(members, 64, batch) for batch in (32, 64, 128, 256, 512)] for members in (1, 16)}
LARGE = Case(1, 256, 256)
CASES = list(dict.fromkeys([*MEMBERS, *WIDTHS[1], *WIDTHS[16], *BATCHES[1], *BATCHES[16], LARGE]))


def operations(width: int, batch: int) -> int:
    """Floating-point operations of the matrix products of one member's update."""
    weights = OBSERVATIONS * width + width * width + width * ACTIONS
    forward = 2 * batch * weights
    backward = 2 * forward - 2 * batch * OBSERVATIONS * width
    return (2 + 2 * CRITICS) * forward + (1 + CRITICS) * backward


def counted_operations(update: Callable[[], object]) -> int:
    """The same, as torch counts it."""
    with FlopCounterMode(display=False) as counter:
        update()
    return counter.get_total_flops()


def updater(case: Case, mode: str) -> Callable[[], object]:
    """One update of all members."""
    settings: dict[str, Any] = {
        "batch_size": case.batch,
        "buffer_size": 1,
        "policy_kwargs": {"net_arch": [case.width, case.width]},
        "device": "cpu",
        "compile": mode == "compiled",
    }
    agent: Any
    if case.members == 1:
        agent = gsrl.DiscreteSAC("MlpPolicy", "CartPole-v1", seed=0, **settings)
        batch = random_batch(case.batch)
    else:
        agent = gsrl.Population(gsrl.DiscreteSAC, "CartPole-v1", seeds=range(case.members), **settings)
        batch = random_batch(case.members, case.batch)
    return lambda: agent.update(batch)


def multiplication() -> Callable[[], object]:
    """A product of two 1024x1024 matrices."""
    left, right, out = torch.randn(3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    return lambda: torch.mm(left, right, out=out)


def measure(case: Case, modes: Sequence[str], rounds: int) -> list[dict[str, float | str]]:
    """A row for each mode.

    Raises:
        RuntimeError: The formula of the operations does not hold.
    """
    flops = operations(case.width, case.batch)
    counted = counted_operations(updater(case, "eager"))
    if counted != case.members * flops:
        raise RuntimeError(f"{case}: torch counts {counted} operations, the formula says {case.members * flops}.")
    subjects = {"limit": repeated(multiplication()), **{mode: repeated(updater(case, mode)) for mode in modes}}
    calls = {name: calls_in(SECONDS_A_ROUND, subject, EAGER_UPDATES + 3) for name, subject in subjects.items()}
    medians = in_turns(subjects, calls, rounds).median()
    rate = 2 * 1024**3 / medians.pop("limit")
    return [
        {
            **case._asdict(),
            "mode": mode,
            "milliseconds": round(1e3 * seconds / case.members, 5),
            "limit_milliseconds": round(1e3 * flops / rate, 5),
            "share": round(case.members * flops / rate / seconds, 4),
            "gigaflops_a_second": round(rate / 1e9, 1),
        }
        for mode, seconds in medians.items()
    ]


def select(table: pd.DataFrame, cases: Sequence[Case]) -> pd.DataFrame:
    """The rows of these cases."""
    return table[table[list(Case._fields)].apply(tuple, axis=1).isin(cases)]


def draw(table: pd.DataFrame) -> Figure:
    """Draws the milliseconds against members, width and batch."""
    figure = Figure(figsize=(9.6, 3.2))
    panels = figure.subplots(1, 3, sharey=True)
    one, sixteen = (BLUE, ", S = 1"), (ORANGE, ", S = 16")
    contents = (
        ("members", ((MEMBERS, (INK, "")),)),
        ("width", ((WIDTHS[1], one), (WIDTHS[16], sixteen))),
        ("batch", ((BATCHES[1], one), (BATCHES[16], sixteen))),
    )
    for axes, (field, lines) in zip(panels, contents, strict=True):
        for cases, (colour, suffix) in lines:
            for mode, style in zip(MODES, ("o:", "o-"), strict=True):
                part = select(table, cases).query("mode == @mode").sort_values(field)
                axes.plot(part[field], part["milliseconds"], style, ms=3, color=colour, label=f"{mode}{suffix}")
        limit = select(table, lines[0][0]).groupby(field)["limit_milliseconds"].median()
        axes.plot(limit.index, limit, "--", color=SOFT, label="limit")
        axes.set(xscale="log", yscale="log", xlabel=field)
        axes.set_xticks(limit.index, [str(size) for size in limit.index])
        axes.minorticks_off()
        axes.legend(fontsize=7)
    panels[0].set(ylabel="milliseconds an update of a member")
    return figure


def main(
    *,
    rounds: int = 15,
    modes: tuple[Mode, ...] = MODES,
    draw_only: bool = False,
    out: Path = RESULTS / "speed" / "scaling",
) -> None:
    """Measures what is missing, keeps each row, and draws.

    Args:
        rounds: How many.
        modes: Of the updates.
        draw_only: Only draw the rows that there are.
        out: Path of table and picture, without suffix.
    """
    rows = Rows(out.with_suffix(".csv"))
    for case in () if draw_only else CASES:
        if missing := [mode for mode in modes if not rows.holds(**case._asdict(), mode=mode)]:
            rows.add(measure(case, missing, rounds))
            record(out.with_suffix(".json"), {})
            print(f"{case}, {' and '.join(missing)}: done", flush=True)

    table = rows.table()
    if table.empty:
        raise SystemExit(f"there are no rows in {rows.file} to draw")
    save_figure(draw(table), out.with_suffix(".png"))
    print(table.to_string(index=False))
    for row in select(table, [LARGE]).to_dict("records"):
        print(f"one member, 256x256, batch 256, {row['mode']}: {row['share']:.0%} of the limit")


if __name__ == "__main__":
    start(main, __doc__)
