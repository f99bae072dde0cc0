"""Time of one update of discrete SAC against the number of factors n and of choices K.

Networks of 64x64, batches of 64, eight observations, one thread, ``st-gumbel``. Against n: ``MultiDiscrete([8] * n)``,
with critics multilinear in the rows and with critics that take the action as an input. Against K: ``Discrete(K)``, with
the values of all choices at once. Rounds are interleaved; medians are reported, and the slope of time in log-log over
the upper half of the sizes: 1 is linear.

    python benchmarks/update_cost.py [--rounds 15] [--out benchmarks/results/update_cost]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import torch
from gymnasium import spaces
from matplotlib.figure import Figure

from agents.training import set_threads
from gsrl import DiscreteSAC, __version__
from gsrl.replay import ReplayBatch

FACTORS = (1, 2, 4, 8, 16, 32, 64)
CHOICES = (2, 10, 100, 1_000, 10_000)
OBSERVATIONS, BATCH, UPDATES_A_ROUND = 8, 64, 10
OUT = Path(__file__).parent / "results" / "update_cost"


class Spaces(gym.Env):
    """Only its spaces count."""

    def __init__(self, action_space: spaces.Space) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (OBSERVATIONS,))
        self.action_space = action_space


def subject(action_space: spaces.Space, critic: str) -> tuple[DiscreteSAC, ReplayBatch]:
    """An agent, and a batch for it."""
    model = DiscreteSAC(
        "MlpPolicy",
        Spaces(action_space),
        buffer_size=1,
        batch_size=BATCH,
        policy_kwargs={"net_arch": [64, 64], "critic": critic},
        seed=0,
        device="cpu",
    )
    generator = torch.Generator().manual_seed(0)
    codec = model.policy.actor.head.codec
    observations, next_observations = torch.rand(2, BATCH, OBSERVATIONS, generator=generator)
    actions = torch.randint(min(codec.sizes), (BATCH, codec.n), generator=generator)
    rewards = torch.rand(BATCH, generator=generator)
    return model, ReplayBatch(observations, actions, rewards, next_observations, torch.full((BATCH,), 0.99))


def slope(sizes: list[int], times: list[float]) -> float:
    """Exponent of the time over the upper half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def main() -> None:
    """Measures, writes a table and draws it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=OUT, help="path of table and picture without suffix")
    arguments = parser.parse_args()
    set_threads(1)
    cases = {
        **{("multilinear", n, 8): spaces.MultiDiscrete([8] * n) for n in FACTORS},
        **{("network", n, 8): spaces.MultiDiscrete([8] * n) for n in FACTORS},
        **{("choices", 1, K): spaces.Discrete(K) for K in CHOICES},
    }
    subjects = {case: subject(space, case[0]) for case, space in cases.items()}
    seconds: dict[tuple[str, int, int], list[float]] = {case: [] for case in cases}
    for _ in range(arguments.rounds + 1):
        for case, (model, batch) in subjects.items():
            start = time.perf_counter()
            for _ in range(UPDATES_A_ROUND):
                model.update(batch)
            seconds[case].append((time.perf_counter() - start) / UPDATES_A_ROUND)
    rows = [
        {"critic": critic, "n": n, "K": K, "milliseconds": round(1e3 * statistics.median(values[1:]), 3)}
        for (critic, n, K), values in seconds.items()  # the first round warms up
    ]
    table = pd.DataFrame(rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out.with_suffix(".csv"), index=False)

    draw(table, arguments.out.with_suffix(".png"))
    print(table.to_string(index=False))
    print(f"gsrl {__version__}, torch {torch.__version__}, Python {platform.python_version()}, one thread")


def draw(table: pd.DataFrame, file: Path) -> None:
    """Draws the milliseconds against both sizes, and prints the slopes."""
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, column, critics in ((left, "n", ("multilinear", "network")), (right, "K", ("choices",))):
        for critic in critics:
            part = table[table["critic"] == critic]
            exponent = slope(part[column].tolist(), part["milliseconds"].tolist())
            axes.plot(part[column], part["milliseconds"], "o-", ms=3, label=f"{critic}: slope {exponent:.2f}")
            print(f"{critic}: slope {exponent:.2f} in {column}")
        axes.set(xscale="log", yscale="log", xlabel=f"{column}")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    left.set(ylabel="milliseconds an update", ylim=(0.5, 2 * table["milliseconds"].max()))
    figure.savefig(file, dpi=200)


if __name__ == "__main__":
    main()
