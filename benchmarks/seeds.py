"""Trains agents over many seeds by the command line, and writes a table of their final returns.

A row is written to ``<out>.csv`` as each run ends; rows that are there already are not run again, so that a long
table can be made in several sittings, and a run that was interrupted goes on. ``<out>.md`` holds the table: the
interquartile mean (IQM, the mean of the middle half of the seeds), the worst seed, every seed's return, and the time of
a run. Where the environment knows its best actions, so does the table: what share of the best return in the same
episodes was reached. Rows of gsrl 0.1.0, which say no version, had other episodes than the same seeds have now, and no
share: see "Random streams" in ``docs/benchmarks.md``.

An agent is trained in ``--env``, or in the environment behind an ``@``. Those of ``--beside`` have seeds of their own.

    python benchmarks/seeds.py --agents gumbel-sac exact-sac --env CartPole-v1 --steps 10000 --seeds 10
    python benchmarks/seeds.py --agents gumbel-sac@gsrl/Pendulum-11bins-v1 --beside sac --env Pendulum-v1 --seeds 5
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from stable_baselines3.common.vec_env import VecEnv

import gsrl
from agents.scores import interquartile_mean
from agents.trainees import Evaluator
from benchmarks import common

SUMMARY = (
    "agent",
    "env",
    "seed",
    "steps",
    "eval_return_mean",
    "eval_return_std",
    "eval_episodes",
    "wall_seconds",
    "steps_per_second",
)
"""What a row has from the summary of the run."""


@dataclass(frozen=True)
class Run:
    """One training."""

    agent: str
    env: str
    steps: int
    seed: int
    options: tuple[str, ...] = ()
    """Of the command line, beside these."""

    def folder(self, runs: Path) -> Path:
        """Where it is kept."""
        parts = [self.env, self.agent, *(option.lstrip("-") for option in self.options), self.steps, self.seed]
        return runs / "-".join(str(part).replace("/", "-") for part in parts)

    def train(self, runs: Path) -> dict[str, Any]:
        """Trains, or goes on with it, and returns its row."""
        options = ["--agent", self.agent, "--env", self.env, "--steps", str(self.steps), "--seed", str(self.seed)]
        summary = common.train(self.folder(runs), [*options, *self.options])
        best = best_return(self.env, self.seed, summary["eval_episodes"])
        return {**{name: summary[name] for name in SUMMARY}, "best_return": best, "gsrl": gsrl.__version__}


def train_all(todo: Sequence[Run], runs: Path, jobs: int) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Trains ``jobs`` at a time, and yields each with its row as it ends."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run.train, runs): run for run in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Oracle:
    """Takes the best actions, of which the environments know."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env

    def get_vec_normalize_env(self) -> None:
        """There is no normalisation."""

    def predict(self, observation: object, *_: object, **__: object) -> tuple[np.ndarray, None]:
        """The best action in each environment."""
        return np.array(self.env.env_method("optimal_action")), None


@cache
def best_return(env: str, seed: int, episodes: int) -> float | None:
    """The best return in the very episodes that the final parameters of a run are evaluated on, if it is known."""
    evaluator = Evaluator(env, seed)
    with closing(evaluator):
        if not evaluator.env.has_attr("optimal_action"):
            return None
        return float(np.mean(evaluator(Oracle(evaluator.env), episodes)))


def summary(rows: pd.DataFrame) -> dict[str, Any]:
    """What the seeds of one agent come to."""
    rows = rows.sort_values("seed")
    returns = rows["eval_return_mean"]
    best = rows["best_return"]
    # Of costs the share is the other way round.
    shares = [mean / top if top > 0 else top / mean for mean, top in zip(returns, best, strict=True) if mean]
    share = {"of the best": f"{100 * interquartile_mean(shares):.1f} %"} if best.notna().all() else {}
    digits = 1 if returns.abs().max() >= 100 else 2
    return {
        "seeds": len(returns),
        "IQM": f"{interquartile_mean(returns.to_numpy()):.{digits}f}",
        **share,
        "mean": f"{returns.mean():.{digits}f}",
        "worst": f"{returns.min():.{digits}f}",
        "best": f"{returns.max():.{digits}f}",
        "steps/s (median)": round(rows["steps_per_second"].median()),
        "seconds a run (median)": round(rows["wall_seconds"].median(), 1),
        "returns by seed": " ".join(f"{value:.{digits if digits > 1 else 0}f}" for value in returns),
    }


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each agent and environment."""
    groups = rows.groupby(["agent", "env"], sort=False)
    return pd.DataFrame([{"agent": agent, "environment": env, **summary(group)} for (agent, env), group in groups])


def main() -> None:
    """Runs what is missing, each with its row, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="*", default=["gumbel-sac", "exact-sac"])
    parser.add_argument("--beside", nargs="*", default=[], help="agents to compare with")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0, 1, ... of each of --agents")
    parser.add_argument("--seeds-beside", type=int, default=3, help="seeds 0, 1, ... of each of --beside")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; times are best measured with 1")
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"), help="folder of the runs")
    parser.add_argument("--out", type=Path, help="path of the table without suffix")
    arguments = parser.parse_args()
    name = f"{arguments.env.replace('/', '-')}-{arguments.steps}"
    out = arguments.out or common.RESULTS / name
    file = out.with_name(out.name + ".csv")

    wanted = []
    for agents, seeds in ((arguments.agents, arguments.seeds), (arguments.beside, arguments.seeds_beside)):
        for label in agents:
            agent, _, env = label.partition("@")
            wanted += [Run(agent, env or arguments.env, arguments.steps, seed) for seed in range(seeds)]
    places = {(run.agent, run.env, run.seed): place for place, run in enumerate(wanted)}
    rows = common.Rows(file, order=lambda row: places.get((row["agent"], row["env"], row["seed"]), len(places)))
    todo = [run for run in wanted if not rows.holds(agent=run.agent, env=run.env, seed=run.seed)]
    for run, row in train_all(todo, arguments.runs, arguments.jobs):
        print(f"{run.agent} on {run.env}, seed {run.seed}: {row['eval_return_mean']:.2f}", flush=True)
        rows.add([row])

    frame = rows.table()
    text = (
        f"Greedy return of the final parameters over {frame['eval_episodes'].iloc[0]} episodes; no checkpoint was "
        "chosen by evaluation."
    )
    title = f"{arguments.env} after {arguments.steps} steps"
    common.write_page(out.with_name(out.name + ".md"), title, text, {"": table(frame)})


if __name__ == "__main__":
    main()
