"""Do agents learn in lock-step as they do one by one? The same seeds both ways, and intervals of the difference.

Single runs are those of ``benchmarks/seeds.py``, whose rows must be there; the lock-step ones are made by
``run_agent.py train --seeds``, once eager and once compiled. Eager members are the single agents, bit for bit. Compiled
ones round otherwise, and a rounding error grows until the two have taken other actions: from there on a seed is another
draw of the same lottery.

The intervals are of the difference of the interquartile means (IQM), by a bootstrap over seeds: of pairs, since a seed
has the same networks and random numbers both ways; and of both sides apart, as if they had nothing in common.

    python benchmarks/seeds.py --agents gumbel-sac exact-sac --env CartPole-v1 --steps 10000 --seeds 10
    python benchmarks/lockstep.py --agents gumbel-sac exact-sac --env CartPole-v1 --steps 10000 --seeds 10
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import common
from benchmarks.stats import Interval, interval, iqm

RESAMPLES = 100_000


def train_in_lockstep(agent: str, env: str, steps: int, seeds: int, mode: str, runs: Path) -> dict[str, Any]:
    """The summary of a run of all seeds."""
    options = ["--agent", agent, "--env", env, "--steps", str(steps), "--seeds", str(seeds)]
    compile = "--compile" if mode == "compiled" else "--no-compile"
    folder = runs / f"{env.replace('/', '-')}-{agent}-{steps}-{seeds}-{mode}"
    return common.train(folder, [*options, compile])


def paired(first: np.ndarray, second: np.ndarray) -> Interval:
    """The difference of interquartile means, and its 95 % interval over pairs."""

    def difference(pairs: np.ndarray, axis: int) -> np.ndarray:
        means = iqm(pairs, axis=axis)
        return means[0] - means[1]

    return interval([np.stack([first, second], axis=1)], difference, resamples=RESAMPLES, expanded=False)


def unpaired(first: np.ndarray, second: np.ndarray) -> Interval:
    """The same over the seeds of each side by itself."""

    def difference(*sides: np.ndarray, axis: int) -> np.ndarray:
        return iqm(sides[0], axis=axis) - iqm(sides[1], axis=axis)

    return interval([first, second], difference, resamples=RESAMPLES, expanded=False)


def main() -> None:
    """Trains what is missing, and writes rows and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=["gumbel-sac", "exact-sac"])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs/lockstep"), help="folder of the runs")
    arguments = parser.parse_args()
    env, steps = arguments.env, arguments.steps
    name = f"{env.replace('/', '-')}-{steps}"
    results = common.RESULTS
    single = pd.read_csv(results / f"{name}.csv")

    rows, lines = [], []
    for agent, mode in itertools.product(arguments.agents, ("eager", "compiled")):
        summary = train_in_lockstep(agent, env, steps, arguments.seeds, mode, arguments.runs)
        together = {member["seed"]: member["eval_return_mean"] for member in summary["members"]}
        alone = single[(single["agent"] == agent) & single["seed"].isin(together)].set_index("seed")["eval_return_mean"]
        seeds = sorted(together)
        x, y = np.array([together[seed] for seed in seeds]), np.array([alone[seed] for seed in seeds])
        rows += [
            {"agent": agent, "mode": mode, "env": env, "steps": steps, "seed": s, "lock-step": a, "one by one": b}
            for s, a, b in zip(seeds, x, y, strict=True)
        ]
        pairs, apart = paired(x, y), unpaired(x, y)
        lines.append(
            {
                "agent": agent,
                "in lock-step": mode,
                "seeds": len(seeds),
                "IQM in lock-step": f"{iqm(x):.1f}",
                "one by one": f"{iqm(y):.1f}",
                "difference": f"{pairs.estimate:+.1f}",
                "95 %, paired": f"{pairs.low:+.1f} to {pairs.high:+.1f}",
                "95 %, apart": f"{apart.low:+.1f} to {apart.high:+.1f}",
                "worst in lock-step": f"{x.min():.1f}",
                "worst one by one": f"{y.min():.1f}",
                "seconds in lock-step": round(summary["wall_seconds"]),
            }
        )
    pd.DataFrame(rows).to_csv(results / f"lockstep-{name}.csv", index=False)
    text = (
        "Greedy return of the final parameters over 20 episodes, the same seeds both ways. Single agents are eager. "
        f"The intervals are of bootstraps over seeds with {RESAMPLES:,} resamples, of pairs and of both sides apart."
    )
    title = f"{env} after {steps} steps, in lock-step and one by one"
    common.write_page(results / f"lockstep-{name}.md", title, text, {"": pd.DataFrame(lines)})


if __name__ == "__main__":
    main()
