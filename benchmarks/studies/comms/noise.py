r"""Channels that lose symbols, and symbols that cost: how near agents come to what is possible.

**Noise.** Ten meanings, all equally likely, one of ten symbols. With probability p the symbol is erased, and the
receiver sees that it is; or it arrives as another one, drawn uniformly. No agents can be right more often than

.. math:: (1 - p) + p / n \quad\text{(erasure)}, \qquad 1 - p \quad\text{(substitution, } p < 1 - 1/n\text{)}.

Accuracies are of 100,000 drawn episodes for each seed, with a standard error of at most .0015: a seed may come out that
much above its ceiling.

**Length.** Twenty meanings, the one of rank r with a probability in proportion to 1 / r, and messages of up to two of
five symbols, which each cost something. There are :math:`5^0 + 5^1 + 5^2 = 31` messages, the empty one among them. The
optimal code is exact: the shortest messages for the most probable meanings. Beside it stand agents whose symbols cost
nothing.

Seeds train in lock-step with ``st-gumbel``.

    python benchmarks/studies/comms/noise.py [--seeds 10]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.studies.common import Rows, start, write_page
from benchmarks.studies.comms import evidence
from gsrl._files import save_figure
from gsrl.comms import Channel, LewisGame, SignallingGame
from gsrl.temperature import ExponentialTemperature

EPISODES = 100_000
"""Of an evaluation with noise."""
TOLERANCE = 0.02
"""What is near to a ceiling."""


class Noise(NamedTuple):
    """A noisy game."""

    kind: str
    p: float
    meanings: int = 10
    updates: int = 800
    batch: int = 256
    temperature: float = 2.0
    learning_rate: float = 1e-2

    @property
    def ceiling(self) -> float:
        """The best expected accuracy."""
        guessed = self.p / self.meanings if self.kind == "erasure" else 0.0
        return 1 - self.p + guessed


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


NOISES = tuple(Noise(kind, p) for kind in ("erasure", "substitution") for p in (0.1, 0.3))
POWER_LAWS = (PowerLaw(0.0), PowerLaw(0.1), PowerLaw(0.3))


def optimal_mean_length(probabilities: NDArray[np.float64], vocabulary: int, length: int) -> float:
    """Symbols before the end, of the code that gives the shortest messages to the most probable meanings.

    Raises:
        ValueError: There are fewer messages than meanings.
    """
    lengths = np.repeat(np.arange(length + 1), vocabulary ** np.arange(length + 1))
    if len(lengths) < len(probabilities):
        raise ValueError(f"vocabulary and length must make {len(probabilities)} messages, but make {len(lengths)}.")
    return float(np.sort(probabilities)[::-1] @ lengths[: len(probabilities)])


def train_with_noise(case: Noise, seeds: int, episodes: int) -> pd.DataFrame:
    """A row for each seed."""
    settings: dict[str, Any] = {case.kind: case.p, "temperature": case.temperature, **evidence.BONUSES}
    games = SignallingGame(
        LewisGame(case.meanings),
        Channel(case.meanings, **settings),
        seeds=range(seeds),
        batch_size=case.batch,
        learning_rate=case.learning_rate,
        device="cpu",
    )
    seconds = evidence.learn(games, case.updates, case.updates)
    return pd.DataFrame(
        {
            **case._asdict(),
            "samples": games.num_samples,
            "seed": range(seeds),
            "accuracy": games.evaluate(episodes=episodes).accuracy,
            "ceiling": case.ceiling,
            "scrambled": games.evaluate(episodes=episodes, scramble=True).accuracy,
            "seconds": seconds,
        }
    )


def train_with_costs(case: PowerLaw, seeds: int) -> pd.DataFrame:
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
    seconds = evidence.learn(games, case.updates, case.updates)
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


def noise_lines(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each channel."""
    lines = []
    for (kind, p), group in table.groupby(["kind", "p"], sort=False):
        gap = group["accuracy"] - group["ceiling"]
        lines.append(
            {
                "noise": kind,
                "p": p,
                "ceiling": f"{group['ceiling'].iloc[0]:.3f}",
                "accuracy": evidence.mean_interval(group["accuracy"], 4),
                "less the ceiling": f"{gap.mean():+.4f}",
                "worst": f"{gap.min():+.4f}",
                f"seeds within {TOLERANCE}": evidence.share_of(gap > -TOLERANCE),
                "scrambled": f"{group['scrambled'].mean():.3f}",
                "seconds a game": f"{group['seconds'].iloc[0]:.1f}",
            }
        )
    return pd.DataFrame(lines)


def length_lines(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each cost."""
    return pd.DataFrame(
        [
            {
                "cost of a symbol (nats)": cost,
                "mean length": evidence.mean_interval(group["mean_length"]),
                "optimal code": f"{group['optimal_mean_length'].iloc[0]:.3f}",
                "times the optimum": f"{(group['mean_length'] / group['optimal_mean_length']).mean():.3f}",
                "accuracy": evidence.mean_interval(group["accuracy"]),
                "meanings understood": f"{group['understood'].mean():.1f} of {group['meanings'].iloc[0]}",
                "scrambled": f"{group['scrambled'].mean():.3f}",
                "seconds a game": f"{group['seconds'].iloc[0]:.1f}",
            }
            for cost, group in table.groupby("length_cost", sort=False)
        ]
    )


def draw(noise: pd.DataFrame, lengths: pd.DataFrame) -> Figure:
    """Each seed's accuracy below its ceiling, and each seed's mean length against its accuracy."""
    figure = Figure(figsize=(7.6, 3.0))
    left, right = figure.subplots(1, 2)
    groups = list(noise.groupby(["kind", "p"], sort=False))
    for place, (_, group) in enumerate(groups):
        gap = group["accuracy"] - group["ceiling"]
        left.plot(np.full(len(gap), place), gap, "o", ms=4, alpha=0.6, color=evidence.BLUE)
    left.axhline(0, color=evidence.GREY, lw=0.8)
    left.axhline(-TOLERANCE, color=evidence.GREY, lw=0.8, ls=":")
    left.set_xticks(range(len(groups)), [f"{kind}\np = {p:g}" for (kind, p), _ in groups], fontsize=8)
    left.set(ylabel="accuracy less the ceiling", xlim=(-0.5, len(groups) - 0.5))
    for colour, (cost, group) in zip(
        (evidence.ORANGE, evidence.BLUE, evidence.GREY), lengths.groupby("length_cost", sort=False), strict=False
    ):
        right.plot(group["mean_length"], group["accuracy"], "o", ms=4, alpha=0.6, color=colour, label=f"cost {cost:g}")
    for optimum in lengths["optimal_mean_length"].unique():
        right.axvline(optimum, color=evidence.GREY, lw=0.8)
    right.set(xlabel="mean length (line: optimal code)", ylabel="accuracy")
    right.legend()
    return figure


def main(
    *,
    episodes: int = EPISODES,
    seeds: int = 10,
    out: Path = evidence.RESULTS,
) -> None:
    """Trains what is missing, keeps each row, and writes page and picture.

    Args:
        episodes: Of an evaluation with noise.
        seeds: Seeds 0, 1, ..., in lock-step.
        out: Folder of rows, page and picture.
    """
    noise, lengths = Rows(out / "noise.csv"), Rows(out / "lengths.csv")
    for case in NOISES:
        for _ in noise.missing([{"kind": case.kind, "p": case.p}]):
            noise.add(train_with_noise(case, seeds, episodes))
    for law in POWER_LAWS:
        for _ in lengths.missing([{"length_cost": law.length_cost}]):
            lengths.add(train_with_costs(law, seeds))

    first = POWER_LAWS[0]
    of_lengths = f"{first.meanings} meanings with a power law, up to {first.length} of {first.vocabulary} symbols"
    write_page(
        out / "noise.md",
        "Noisy channels, and symbols that cost",
        "Means over seeds with 95 % intervals of a bootstrap; hard messages. Noisy channels are evaluated in "
        f"{episodes:,} episodes for each seed. *Scrambled*: messages shuffled among episodes.",
        {
            "Ten meanings, ten symbols, noise": noise_lines(noise.table()),
            of_lengths: length_lines(lengths.table()),
        },
    )
    save_figure(draw(noise.table(), lengths.table()), out / "noise.png")


if __name__ == "__main__":
    start(main, __doc__)
