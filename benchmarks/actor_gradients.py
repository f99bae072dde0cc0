"""Which gradient of the actor, and which critic? Every pair is trained over several seeds, and its critic looked into.

All is as in ``gumbel-sac`` with its settings for the environment but for estimator, critic and number of steps. Runs
are short, so that what learns faster ends higher. Beside the final greedy return stands how far the critic's slope at a
vertex, all that most estimators see, is from the differences between vertices (:func:`gsrl.diagnostics.critic_slope`):
at the end of training, at 64 states of the replay, and at actions of the policy.

A row is written to ``results/actor-gradients-<env>-<steps>.csv`` as each run ends; rows that are there already are not
made again. ``.md`` beside it holds the table: interquartile mean and worst of the seeds, and the median slope.

    python benchmarks/actor_gradients.py --env gsrl/FactoredMatch-v0 --steps 5000
    python benchmarks/actor_gradients.py --env gsrl/Pendulum-11bins-v1 --steps 6000
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

import gymnasium
import pandas as pd
import torch

from agents.gradients import load_problem, slope_at_actions
from agents.scores import interquartile_mean
from benchmarks.common import RESULTS, Rows, write_page
from benchmarks.seeds import Run, train_all
from gsrl.spaces import OneHotCodec

ESTIMATORS = ("st-gumbel", "gumbel-rao", "reinmax", "straight-through", "local-expectation", "reinforce", "rloo")
KEPT = ("seed", "steps", "eval_return_mean", "eval_return_std", "wall_seconds")


def critics(env: str) -> tuple[str, str]:
    """The two forms that fit the environment's actions."""
    made = gymnasium.make(env)
    n = OneHotCodec(made.action_space).n
    made.close()
    return ("choices" if n == 1 else "multilinear", "network")


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each pair."""
    lines = []
    for (estimator, critic), group in rows.groupby(["estimator", "critic"], sort=False):
        medians = group.drop(columns=["estimator", "critic"]).median()
        lines.append(
            {
                "estimator": estimator,
                "critic": critic,
                "IQM": round(interquartile_mean(group["eval_return_mean"].to_numpy()), 2),
                "worst": round(group["eval_return_mean"].min(), 2),
                "slope: cosine": round(medians["slope_cosine"], 3),
                "slope: scale": round(medians["slope_scale"], 3),
                "slope: relative error": round(medians["slope_relative_error"], 3),
                "seconds a run": round(medians["wall_seconds"]),
            }
        )
    return pd.DataFrame(lines)


def main() -> None:
    """Runs what is missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="gsrl/FactoredMatch-v0")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--estimators", nargs="+", default=list(ESTIMATORS), choices=ESTIMATORS)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ...")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs/actor-gradients"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = arguments.out / f"actor-gradients-{arguments.env.replace('/', '-')}-{arguments.steps}.csv"
    runs = arguments.runs

    wanted = {
        Run(
            "gumbel-sac",
            arguments.env,
            arguments.steps,
            seed,
            ("--estimator", estimator, "--critic", critic, "--eval-every", str(arguments.steps)),
        ): (estimator, critic, seed)
        for seed, critic, estimator in itertools.product(
            range(arguments.seeds), critics(arguments.env), arguments.estimators
        )
    }
    rows = Rows(file, order=lambda row: (ESTIMATORS.index(row["estimator"]), row["critic"], row["seed"]))
    todo = [
        run
        for run, (estimator, critic, seed) in wanted.items()
        if not rows.holds(estimator=estimator, critic=critic, seed=seed)
    ]
    for run, row in train_all(todo, runs, arguments.jobs):
        estimator, critic, seed = wanted[run]
        slope = dataclasses.asdict(slope_at_actions(load_problem(run.folder(runs), seed), seed))
        kept = {name: row[name] for name in KEPT} | {f"slope_{name}": value for name, value in slope.items()}
        rows.add([{"estimator": estimator, "critic": critic, **kept}])
        print(f"{estimator}, {critic}, seed {seed}: {row['eval_return_mean']:.2f}", flush=True)

    text = (
        "Greedy return of the final parameters over 20 episodes: IQM and worst over the seeds. Slope: the critic's "
        "slopes at vertices against its differences between vertices, their cosine, the factor from the differences to "
        "the slopes, and the relative error; medians over the seeds."
    )
    title = f"Actor gradients and critics on {arguments.env} after {arguments.steps} steps"
    write_page(file.with_suffix(".md"), title, text, {"": table(rows.table())})


if __name__ == "__main__":
    main()
