"""Did a change cost speed? Environment steps of two checkouts, each in a process of its own, in turns.

The loops are those of ``throughput.py``: CartPole-v1, one environment, one update a step for each member, networks of
64x64, batches of 64, one thread. What is counted is time of the processor, which other work on the machine disturbs
least. Settings are those of plain soft actor-critic, so that defaults that changed do not count; what one of them lacks
an argument for, it did not do.

    python benchmarks/studies/speed/checkouts.py --old FOLDER [--new FOLDER] [--rounds 20] [--out FILE]
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {
    **{"learning_rate": 1e-3, "buffer_size": 100_000, "learning_starts": 500, "batch_size": 64, "device": "cpu"},
    **{"tau": 0.005, "n_steps": 1, "reward_scale": 1.0, "estimator": "straight-through", "ent_coef": "auto"},
    **{"critics": "min", "entropy_in_target": True, "exploration_eps": 0.0},
}
NETWORKS: dict[str, Any] = {"net_arch": [64, 64], "layer_norm": False, "normalize_observations": False}
MEMBERS = 16
WARM_UP = 700
SUBJECTS = ("one", "one, compiled", "sixteen", "sixteen, compiled")


def serve(name: str) -> None:
    """Builds what is timed from the gsrl that is imported here, and takes steps as the input says; prints seconds."""
    import gsrl
    from gsrl.algorithms.policies import DiscreteSACPolicy

    known = inspect.signature(DiscreteSACPolicy).parameters
    networks = {key: value for key, value in NETWORKS.items() if key in known}
    settings: dict[str, Any] = {**SETTINGS, "policy_kwargs": networks, "compile": name.endswith("compiled")}
    agent: Any
    if name.startswith("one"):
        agent = gsrl.DiscreteSAC("MlpPolicy", "CartPole-v1", seed=0, **settings)
    else:
        agent = gsrl.Population(gsrl.DiscreteSAC, "CartPole-v1", seeds=range(MEMBERS), **settings)
    agent.learn(WARM_UP)
    print("ready", flush=True)
    for line in sys.stdin:
        begin = time.process_time()
        agent.learn(int(line), reset_num_timesteps=False)
        print(time.process_time() - begin, flush=True)


class Served:
    """A process of one checkout that takes steps when it is called."""

    def __init__(self, checkout: Path, name: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env=environment,
        )
        self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("the process that is timed has ended; see above what it said")
        return line

    def __call__(self, steps: int) -> float:
        """Seconds of so many steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self._answer())


def main(
    *,
    old: Path,
    new: Path | None = None,
    rounds: int = 20,
    steps: int = 300,
    only: tuple[str, ...] = SUBJECTS,
    out: Path | None = None,
) -> None:
    """Measures, prints and, on request, writes the result.

    Args:
        old: The checkout of before.
        new: That of after; this one unless given.
        rounds: How many, after one that warms up; of each, the ratio of the two is taken.
        steps: Of each member in a round.
        only: What is timed.
        out: File of the result.
    """
    import pandas as pd

    from benchmarks.studies.common import ROOT, record

    checkouts = {"old": old.resolve(), "new": (new or ROOT).resolve()}
    revisions = {
        side: subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=path, text=True, capture_output=True).stdout
        for side, path in checkouts.items()
    }
    rows = {}
    for name in only:
        served = {side: Served(path, name) for side, path in checkouts.items()}
        taken = []
        for turn in range(rounds + 1):
            order = ("old", "new") if turn % 2 else ("new", "old")
            taken.append({side: served[side](steps) / steps for side in order})
        seconds = pd.DataFrame(taken[1:])
        ratio = seconds["new"] / seconds["old"]
        low, middle, high = ratio.quantile([0.25, 0.5, 0.75])
        rows[name] = {
            "old_milliseconds": round(1e3 * float(seconds["old"].median()), 3),
            "new_milliseconds": round(1e3 * float(seconds["new"].median()), 3),
            "new_to_old": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }
        print(name, rows[name], flush=True)
        for process in served.values():
            process.process.kill()
    record(out, {"revisions": {side: value.strip() for side, value in revisions.items()}, "results": rows})


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve(sys.argv[-1])
    else:
        from benchmarks.studies.common import start

        start(main, __doc__)
