"""Time of one update of discrete SAC against the number of factors n and of choices K.

Networks of 64x64, batches of 64, eight observations, one thread, ``st-gumbel``. Against n: ``MultiDiscrete([8] * n)``,
with critics multilinear in the rows and with critics that take the action as an input. Against K: ``Discrete(K)``, with
the values of all choices at once. Rounds are interleaved; medians are reported, and the slope of time in log-log over
the upper half of the sizes: 1 is linear.

    python benchmarks/studies/speed/update_cost.py [--rounds 15] [--out PATH]
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
from gymnasium import spaces
from matplotlib.figure import Figure

from benchmarks.studies.common import RESULTS, Subject, command, in_turns, repeated, start
from benchmarks.studies.speed.batches import random_batch
from gsrl import DiscreteSAC
from gsrl._files import save_figure
from gsrl.bench.origin import made_by

FACTORS = (1, 2, 4, 8, 16, 32, 64)
CHOICES = (2, 10, 100, 1_000, 10_000)
OBSERVATIONS, BATCH, UPDATES_A_ROUND = 8, 64, 10


class Spaces(gym.Env):
    """Only its spaces count."""

    def __init__(self, action_space: spaces.Space) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (OBSERVATIONS,))
        self.action_space = action_space


def subject(critic: str, n: int, K: int) -> Subject:
    """Updates of an agent with so many factors and choices."""
    model = DiscreteSAC(
        "MlpPolicy",
        Spaces(spaces.Discrete(K) if n == 1 and critic == "choices" else spaces.MultiDiscrete([K] * n)),
        buffer_size=1,
        batch_size=BATCH,
        policy_kwargs={"net_arch": [64, 64], "critic": critic},
        seed=0,
        device="cpu",
    )
    batch = random_batch(BATCH, observations=OBSERVATIONS, factors=n, choices=K)
    return repeated(lambda: model.update(batch))


def slope(sizes: list[int], times: list[float]) -> float:
    """Exponent of the time over the upper half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def draw(table: pd.DataFrame) -> Figure:
    """Draws the milliseconds against both sizes, and prints the slopes."""
    figure = Figure(figsize=(7.2, 2.8))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, column, critics in ((left, "n", ("multilinear", "network")), (right, "K", ("choices",))):
        for critic in critics:
            part = table[table["critic"] == critic]
            exponent = slope(part[column].tolist(), part["milliseconds"].tolist())
            axes.plot(part[column], part["milliseconds"], "o-", ms=3, label=f"{critic}: slope {exponent:.2f}")
            print(f"{critic}: slope {exponent:.2f} in {column}")
        axes.set(xscale="log", yscale="log", xlabel=f"{column}")
        axes.legend()
    left.set(ylabel="milliseconds an update", ylim=(0.5, 2 * table["milliseconds"].max()))
    return figure


def main(*, rounds: int = 15, out: Path = RESULTS / "speed" / "update_cost") -> None:
    """Measures, writes a table and draws it; ``out`` is the path of both, without suffix."""
    cases = [(critic, n, 8) for critic in ("multilinear", "network") for n in FACTORS]
    cases += [("choices", 1, K) for K in CHOICES]
    medians = in_turns({case: subject(*case) for case in cases}, UPDATES_A_ROUND, rounds).median()
    table = (1e3 * medians).round(3).rename_axis(["critic", "n", "K"]).rename("milliseconds").reset_index()
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out.with_suffix(".csv"), index=False)
    save_figure(draw(table), out.with_suffix(".png"))
    print(table.to_string(index=False))
    print(made_by(command()))


if __name__ == "__main__":
    start(main, __doc__)
