"""Updates a second of a signalling game: gsrl, one game and sixteen in lock-step, against EGG's loop.

Ten meanings and symbols, one symbol a message, batches of 128, agents with a hidden layer of 64, Adam, straight-through
Gumbel-softmax; one thread. EGG is not on the package index: its loop is that of ``peers/egg_loop.py``, written by us in
its shape. ``--egg FOLDER``, of a checkout whose dependencies are installed, times EGG's own trainer besides.

All take turns in each round, so that the machine's drift meets all; medians are compared. Seconds are those of the
processor: they are those of the clock where nothing else runs. Sixteen games count sixteen updates at a time.

    python benchmarks/studies/speed/games.py [--rounds 25] [--modes eager compiled] [--egg FOLDER]
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from benchmarks.studies.common import RESULTS, Rows, Subject, calls_in, in_turns, start, write_page
from benchmarks.studies.peers.egg_loop import Meanings, Receiver, Sender, make_trainer
from gsrl._files import save_figure
from gsrl._style import BLUE, SOFT
from gsrl.comms import Channel, LewisGame, SignallingGame
from gsrl.learning.learner import EAGER_UPDATES

MEANINGS, BATCH, HIDDEN, GAMES = 10, 128, 64, 16
LOOP, EGG = "EGG's loop, by us", "EGG"
SECONDS_A_ROUND = 0.2
NEVER = 10**9
"""Updates until something is logged."""


def gsrl_games(count: int, mode: str) -> Subject:
    """One game, or several in lock-step."""
    seeds: dict[str, Any] = {"seed": 0} if count == 1 else {"seeds": range(count)}
    games = SignallingGame(
        LewisGame(MEANINGS),
        Channel(MEANINGS),
        batch_size=BATCH,
        hidden=HIDDEN,
        device="cpu",
        compile=mode == "compiled",
        **seeds,
    )
    return lambda updates: games.learn(updates, log_interval=NEVER)


def egg_loop() -> Subject:
    """An epoch of as many updates."""
    trainer = make_trainer(MEANINGS, BATCH, HIDDEN)

    def train(updates: int) -> None:
        trainer.data.batches = updates
        trainer.train_epoch()

    return train


def eggs_own(folder: Path) -> Subject:
    """An epoch of EGG's own trainer, with the same networks and data."""
    sys.path.insert(0, str(folder))
    core: Any = importlib.import_module("egg.core")

    def loss(sender_input: Any, _message: Any, _seen: Any, output: Any, _labels: Any, _aux: Any) -> tuple[Any, Any]:
        target = sender_input.argmax(dim=1)
        accuracy = (output.argmax(dim=1) == target).detach().float()
        return F.cross_entropy(output, target, reduction="none"), {"acc": accuracy}

    core.init(params=["--random_seed=0", f"--batch_size={BATCH}", "--no_cuda"])
    sender = core.GumbelSoftmaxWrapper(Sender(MEANINGS, MEANINGS, HIDDEN), temperature=1.0, straight_through=True)
    game = core.SymbolGameGS(sender, Receiver(MEANINGS, MEANINGS, HIDDEN), loss)
    data = Meanings(MEANINGS, BATCH, 1)
    trainer = core.Trainer(game, torch.optim.Adam(game.parameters(), lr=1e-2), train_data=data, device="cpu")

    def train(updates: int) -> None:
        data.batches = updates
        trainer.train_epoch()

    return train


def subjects(modes: Sequence[str], folder: Path | None) -> dict[str, tuple[int, Callable[[], Subject]]]:
    """What is timed: how many games' updates it makes at a time, and how it is made."""
    found: dict[str, tuple[int, Callable[[], Subject]]] = {LOOP: (1, egg_loop)}
    if folder is not None:
        found[EGG] = 1, partial(eggs_own, folder)
    for count, name in ((1, "one game"), (GAMES, f"{GAMES} games")):
        found |= {f"gsrl, {name}, {mode}": (count, partial(gsrl_games, count, mode)) for mode in modes}
    return found


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Medians over the rounds, and how many times those of the loops they are."""
    rates = table.groupby("subject", sort=False)["updates_per_second"].median()
    lines = pd.DataFrame({"": rates.index, "updates/s (median)": [f"{rate:,.0f}" for rate in rates]})
    for loop in (LOOP, EGG):
        if loop in rates:
            lines[f"times {loop}"] = [f"{rate / rates[loop]:.1f}" for rate in rates]
    return lines


def draw(table: pd.DataFrame) -> Figure:
    """A bar for each, and every round."""
    figure = Figure(figsize=(6.0, 0.4 * table["subject"].nunique() + 0.9))
    axes = figure.subplots()
    groups = list(table.groupby("subject", sort=False)["updates_per_second"])
    for place, (name, rates) in enumerate(groups):
        axes.barh(place, rates.median(), color=SOFT if name in (LOOP, EGG) else BLUE, alpha=0.7)
        axes.plot(rates, [place] * len(rates), "|", color="black", ms=6, lw=0.5)
    axes.set_yticks(range(len(groups)), [str(name) for name, _ in groups])
    axes.invert_yaxis()
    axes.set(xlabel="updates a second, of all games together")
    return figure


def main(
    *,
    rounds: int = 25,
    modes: tuple[Literal["eager", "compiled"], ...] = ("eager", "compiled"),
    egg: Path | None = None,
    out: Path = RESULTS / "speed",
) -> None:
    """Times those that have no rows yet, and writes page and picture.

    Args:
        rounds: How many.
        modes: Of gsrl's games.
        egg: Folder of a checkout of EGG.
        out: Folder of rows, page and picture.
    """
    torch.manual_seed(0)
    rows = Rows(out / "games.csv")
    wanted = {name: each for name, each in subjects(modes, egg).items() if not rows.holds(subject=name)}
    if wanted:
        running = {name: make() for name, (_, make) in wanted.items()}
        calls = {
            name: calls_in(SECONDS_A_ROUND, subject, EAGER_UPDATES + 3, time.process_time)  # which records or compiles
            for name, subject in running.items()
        }
        seconds = in_turns(running, calls, rounds, time.process_time).rename_axis(index="round", columns="subject")
        rates = pd.Series({name: count for name, (count, _) in wanted.items()}) / seconds
        rows.add(rates.round(1).stack().rename("updates_per_second").reset_index())

    table = rows.table()
    write_page(
        out / "games.md",
        "Updates a second",
        f"The Lewis game of {MEANINGS} meanings and symbols: batches of {BATCH}, hidden layers of {HIDDEN}, "
        "straight-through Gumbel-softmax, Adam; updates of all games together in a second of the processor.",
        {f"Medians of {table['round'].nunique()} rounds": summary(table)},
    )
    save_figure(draw(table), out / "games.png")


if __name__ == "__main__":
    start(main, __doc__)
