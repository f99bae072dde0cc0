r"""Symbols that cost: how near do agents come to the shortest code?

Twenty meanings, the one of rank r with a probability in proportion to 1 / r, and messages of up to two of five symbols,
which each cost something. There are :math:`5^0 + 5^1 + 5^2 = 31` messages, the empty one among them. The optimal code
is exact: the shortest messages for the most probable meanings. Beside it stand agents whose symbols cost nothing.

Seeds train in lock-step with ``st-gumbel``. All figures are of hard messages; seconds are those of the processor.

    python benchmarks/studies/comms/lengths.py [--seeds 10]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.studies.common import RESULTS, Rows, start, write_page
from gsrl._files import save_figure
from gsrl._style import BLUE, ORANGE, SOFT
from gsrl.bench.stats import interval
from gsrl.comms import Channel, LewisGame, SignallingGame
from gsrl.temperature import ExponentialTemperature


class PowerLaw(NamedTuple):
    """A game whose symbols cost, in nats.

    The bonus for entropy falls exponentially over three quarters of the training: rare meanings get a message while it
    is large, and the messages get short when it is small.
    """

    length_cost: float
    meanings: int = 20
    vocabulary: int = 5
    length: int = 2
    updates: int = 4000
    batch: int = 256
    temperature: float = 2.0
    entropy_bonus: float = 1.0
    final_entropy_bonus: float = 0.02
    hidden: int = 128
    learning_rate: float = 3e-3

    @property
    def prior(self) -> NDArray[np.float64]:
        """Of the meanings, from the most probable one on."""
        weights = 1 / np.arange(1, self.meanings + 1)
        return weights / weights.sum()


POWER_LAWS = (PowerLaw(0.0), PowerLaw(0.1), PowerLaw(0.3))


def optimal_mean_length(probabilities: NDArray[np.float64], vocabulary: int, length: int) -> float:
    """Symbols before the end, of the code that gives the shortest messages to the most probable meanings.

    Raises:
        ValueError: There are fewer messages than meanings.
    """
    lengths = np.repeat(np.arange(length + 1), vocabulary ** np.arange(length + 1))
    if len(lengths) < len(probabilities):
        raise ValueError(f"vocabulary and length must make {len(probabilities)} messages, but got {len(lengths)}.")
    return float(np.sort(probabilities)[::-1] @ lengths[: len(probabilities)])


def train(case: PowerLaw, seeds: int) -> pd.DataFrame:
    """A row for each seed."""
    games = SignallingGame(
        LewisGame(case.meanings, case.prior.tolist()),
        Channel(
            case.vocabulary,
            case.length,
            variable_length=True,
            temperature=case.temperature,
            length_cost=case.length_cost,
            entropy_bonus=ExponentialTemperature(case.entropy_bonus, case.final_entropy_bonus, 3 * case.updates // 4),
        ),
        seeds=range(seeds),
        batch_size=case.batch,
        hidden=case.hidden,
        learning_rate=case.learning_rate,
        device="cpu",
    )
    begin = time.process_time()
    games.learn(case.updates, log_interval=case.updates)
    seconds = round((time.process_time() - begin) / seeds, 3)
    result = games.evaluate()
    return pd.DataFrame(
        {
            **case._asdict(),
            "samples": games.num_samples,
            "seed": range(seeds),
            "accuracy": result.accuracy,
            "understood": result.correct.sum(-1),
            "scrambled": games.evaluate(scramble=True).accuracy,
            "mean_length": result.mean_length,
            "optimal_mean_length": optimal_mean_length(case.prior, case.vocabulary, case.length),
            "seconds": seconds,
        }
    )


def mean_interval(values: pd.Series) -> str:
    """The mean over seeds with its 95 % bootstrap interval."""

    def mean(*strata: NDArray[Any], axis: int) -> NDArray[Any]:
        return np.asarray(strata[0].mean(axis=axis))

    estimate, low, high = interval([values.to_numpy(float)], mean)
    return f"{estimate:z.3f} [{low:z.3f}, {high:z.3f}]"


def lines_of(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each cost."""
    return pd.DataFrame(
        [
            {
                "cost of a symbol (nats)": cost,
                "mean length": mean_interval(group["mean_length"]),
                "optimal code": f"{group['optimal_mean_length'].iloc[0]:.3f}",
                "times the optimum": f"{(group['mean_length'] / group['optimal_mean_length']).mean():.3f}",
                "accuracy": mean_interval(group["accuracy"]),
                "meanings understood": f"{group['understood'].mean():.1f} of {group['meanings'].iloc[0]}",
                "scrambled": f"{group['scrambled'].mean():.3f}",
                "seconds a game": f"{group['seconds'].iloc[0]:.1f}",
            }
            for cost, group in table.groupby("length_cost", sort=False)
        ]
    )


def draw(lengths: pd.DataFrame) -> Figure:
    """Each seed's mean length against its accuracy."""
    figure = Figure(figsize=(4.0, 3.0))
    axes = figure.subplots()
    colours = (ORANGE, BLUE, SOFT)
    for colour, (cost, group) in zip(colours, lengths.groupby("length_cost", sort=False), strict=False):
        axes.plot(group["mean_length"], group["accuracy"], "o", ms=4, alpha=0.6, color=colour, label=f"cost {cost:g}")
    for optimum in lengths["optimal_mean_length"].unique():
        axes.axvline(optimum, color=SOFT, lw=0.8)
    axes.set(xlabel="mean length (line: optimal code)", ylabel="accuracy")
    axes.legend()
    return figure


def main(*, seeds: int = 10, out: Path = RESULTS / "comms") -> None:
    """Trains what is missing, keeps each row, and writes page and picture.

    Args:
        seeds: Seeds 0, 1, ..., in lock-step.
        out: Folder of rows, page and picture.
    """
    rows = Rows(out / "lengths.csv")
    for law in POWER_LAWS:
        for _ in rows.missing([{"length_cost": law.length_cost}]):
            rows.add(train(law, seeds))

    first = POWER_LAWS[0]
    write_page(
        out / "lengths.md",
        "Symbols that cost",
        f"{first.meanings} meanings with a power law, up to {first.length} of {first.vocabulary} symbols. Means over "
        "seeds with 95 % intervals of a bootstrap; hard messages. *Scrambled*: messages shuffled among episodes.",
        {"": lines_of(rows.table())},
    )
    save_figure(draw(rows.table()), out / "lengths.png")


if __name__ == "__main__":
    start(main, __doc__)
