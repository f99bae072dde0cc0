"""Do agents learn in lock-step as they do one by one? The same seeds both ways, and an interval of the difference.

Single runs are those of ``benchmarks/seeds.py``, whose rows must be there; the lock-step ones are made by
``run_agent.py train --seeds``. The interval is of the difference of the interquartile means (IQM), by a bootstrap over
the seeds of both sides, as if they were different ones.

    python benchmarks/seeds.py --agents gumbel-sac exact-sac --env CartPole-v1 --steps 10000 --seeds 10
    python benchmarks/lockstep.py --agents gumbel-sac exact-sac --env CartPole-v1 --steps 10000 --seeds 10
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from seeds import ROOT, markdown, origin

from benchmarks.stats import Interval, interval, iqm

RESAMPLES = 100_000


def train_in_lockstep(agent: str, env: str, steps: int, seeds: int, runs: Path) -> dict[str, Any]:
    """The summary of a run of all seeds; one that is there is not repeated."""
    folder = runs / f"{env.replace('/', '-')}-{agent}-{steps}-{seeds}"
    summary = folder / "summary.json"
    if not (summary.exists() and json.loads(summary.read_text(encoding="utf-8"))["status"] == "finished"):
        options = ["--agent", agent, "--env", env, "--steps", str(steps), "--seeds", str(seeds), "--out", str(folder)]
        subprocess.run([sys.executable, str(ROOT / "run_agent.py"), "train", *options], cwd=ROOT, check=True)
    return dict(json.loads(summary.read_text(encoding="utf-8")))


def difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """The difference of interquartile means, and its 95 % interval."""
    return interval(
        [first, second],
        lambda *strata, axis: iqm(strata[0], axis=axis) - iqm(strata[1], axis=axis),
        resamples=RESAMPLES,
        expanded=False,
    )


def main() -> None:
    """Trains what is missing, and writes rows and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=["gumbel-sac", "exact-sac"])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs/lockstep"), help="folder of the runs")
    arguments = parser.parse_args()
    name = f"{arguments.env.replace('/', '-')}-{arguments.steps}"
    results = ROOT / "benchmarks" / "results"
    single = pd.read_csv(results / f"{name}.csv")

    rows, lines = [], []
    for agent in arguments.agents:
        summary = train_in_lockstep(agent, arguments.env, arguments.steps, arguments.seeds, arguments.runs.resolve())
        together = {member["seed"]: member["eval_return_mean"] for member in summary["members"]}
        alone = single[(single["agent"] == agent) & single["seed"].isin(together)].set_index("seed")["eval_return_mean"]
        seeds = sorted(together)
        x, y = np.array([together[seed] for seed in seeds]), np.array([alone[seed] for seed in seeds])
        rows += [
            {"agent": agent, "env": arguments.env, "steps": arguments.steps, "seed": s, "lock-step": a, "one by one": b}
            for s, a, b in zip(seeds, x, y, strict=True)
        ]
        distance, low, high = difference(x, y)
        lines.append(
            {
                "agent": agent,
                "seeds": len(seeds),
                "IQM in lock-step": f"{iqm(x):.1f}",
                "one by one": f"{iqm(y):.1f}",
                "difference": f"{distance:+.1f}",
                "95 % interval": f"{low:+.1f} to {high:+.1f}",
                "worst in lock-step": f"{x.min():.1f}",
                "worst one by one": f"{y.min():.1f}",
                "seconds in lock-step": round(summary["wall_seconds"]),
            }
        )
    pd.DataFrame(rows).to_csv(results / f"lockstep-{name}.csv", index=False)
    table = pd.DataFrame(lines)
    text = (
        f"# {arguments.env} after {arguments.steps} steps, in lock-step and one by one\n\n"
        f"Greedy return of the final parameters over 20 episodes, the same seeds both ways; the interval is of a "
        f"bootstrap with {RESAMPLES:,} resamples.\n\n{markdown(table)}\n\n"
        + origin([shlex.join(["python", "benchmarks/lockstep.py", *sys.argv[1:]])])
    )
    (results / f"lockstep-{name}.md").write_text(text, encoding="utf-8")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
