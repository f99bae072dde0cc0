"""Trains agents over many seeds by the command line, and writes a table of their final returns.

A row is written to ``<out>.csv`` as each run ends; rows that are there already are not run again, so that a long
table can be made in several sittings. ``<out>.md`` holds the table: the interquartile mean (IQM, the mean of the middle
half of the seeds), the worst seed, every seed's return, and the time of a run.

    python benchmarks/seeds.py --agents gumbel-sac exact-sac --env CartPole-v1 --steps 10000 --seeds 10
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium
import pandas as pd
import stable_baselines3
import torch
from scipy.stats import trim_mean

import gsrl

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = [
    "agent",
    "env",
    "seed",
    "steps",
    "eval_return_mean",
    "eval_return_std",
    "eval_episodes",
    "wall_seconds",
    "steps_per_second",
]


def train(agent: str, env: str, steps: int, seed: int, runs: Path) -> dict[str, object]:
    """Runs one training, or goes on with it, and returns its row."""
    folder = runs / f"{env}-{agent}-{steps}-{seed}"
    if (folder / "checkpoint.zip").exists():
        options = ["--resume", str(folder)]
    else:
        options = ["--agent", agent, "--env", env, "--steps", str(steps), "--seed", str(seed), "--out", str(folder)]
    command = [sys.executable, str(ROOT / "run_agent.py"), "train", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {name: summary[name] for name in COLUMNS}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each agent: what the seeds' final returns were."""
    returns = rows.groupby("agent", sort=False)["eval_return_mean"]
    return pd.DataFrame(
        {
            "seeds": returns.count(),
            "IQM": returns.agg(lambda values: trim_mean(values, 0.25)).round(1),
            "mean": returns.mean().round(1),
            "worst": returns.min().round(1),
            "best": returns.max().round(1),
            "steps/s (median)": rows.groupby("agent", sort=False)["steps_per_second"].median().round(0),
            "seconds a run (median)": rows.groupby("agent", sort=False)["wall_seconds"].median().round(1),
            "returns by seed": returns.agg(lambda values: " ".join(f"{value:.0f}" for value in values)),
        }
    )


def markdown(rows: pd.DataFrame, command: str) -> str:
    """The table with what is needed to make it again."""
    lines = table(rows).reset_index().astype(str)
    cells = [list(lines.columns), ["---"] * len(lines.columns), *lines.values.tolist()]
    versions = (
        f"gsrl {gsrl.__version__}, torch {torch.__version__}, stable-baselines3 {stable_baselines3.__version__}, "
        f"gymnasium {gymnasium.__version__}, Python {platform.python_version()}"
    )
    env, steps, episodes = (rows[name].iloc[0] for name in ("env", "steps", "eval_episodes"))
    return (
        f"# {env} after {steps} steps\n\n"
        f"Greedy return of the final parameters over {episodes} episodes; no checkpoint was chosen by evaluation.\n\n"
        + "\n".join("| " + " | ".join(row) + " |" for row in cells)
        + f"\n\nMade by `{command}` with {versions}, one thread a run.\n"
    )


def main() -> None:
    """Runs what is missing, and writes the table after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=["gumbel-sac", "exact-sac"])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0, 1, ... of each agent")
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"), help="folder of the runs")
    parser.add_argument("--out", type=Path, help="path of the table without suffix")
    arguments = parser.parse_args()
    out = arguments.out or ROOT / "benchmarks" / "results" / f"{arguments.env}-{arguments.steps}"
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_name(out.name + ".csv")
    command = shlex.join(["python", "benchmarks/seeds.py", *sys.argv[1:]])

    rows = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=COLUMNS)
    for agent in arguments.agents:
        for seed in range(arguments.seeds):
            if ((rows["agent"] == agent) & (rows["seed"] == seed)).any():
                continue
            row = train(agent, arguments.env, arguments.steps, seed, arguments.runs.resolve())
            print(f"{agent} seed {seed}: {row['eval_return_mean']:.1f}", flush=True)
            rows = pd.DataFrame([*rows.to_dict("records"), row], columns=COLUMNS)
            rows.to_csv(file, index=False)
    out.with_name(out.name + ".md").write_text(markdown(rows, command), encoding="utf-8")
    print(table(rows).to_string())


if __name__ == "__main__":
    main()
