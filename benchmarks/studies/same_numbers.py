"""Does the code learn the same as it did before? Runs by the command line, whose figures are compared to the digit.

Run it before a change that is to change nothing that is computed, and after it, on one machine: how sums are split
among lanes, and so how they round, differs between processors. A figure is a sum over all parameters, rounded once, so
that their layout does not matter; a return of an evaluation; the sum of the returns of all training episodes; or what
was logged last. Runs are made one after the other, on one thread, and take about five minutes.

    python benchmarks/studies/same_numbers.py before
    python benchmarks/studies/same_numbers.py after --against before
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import tyro

from benchmarks.studies import common
from benchmarks.studies.common import record, start
from gsrl.comms import DIAL, SignallingGame
from gsrl.comms.riddle import SwitchRiddle
from gsrl.runs.session import load_model

RESULTS = common.RESULTS / "same-numbers"

STEPS = {"gumbel-sac": 2000, "exact-sac": 2000, "reinforce-rloo": 10_000, "ppo": 10_000}
FOUR = "--env CartPole-v1 --seeds 4 --processes 1"
RUNS: dict[str, str] = {
    "make train": "",
    **{
        f"{agent}, seed {seed}": f"--agent {agent} --env CartPole-v1 --steps {steps} --seed {seed}"
        for agent, steps in STEPS.items()
        for seed in range(3)
    },
    "four gumbel-sac": f"--agent gumbel-sac {FOUR} --steps 2000",
    "four gumbel-sac, compiled": f"--agent gumbel-sac {FOUR} --steps 1000 --compile",
    "four reinforce-rloo": f"--agent reinforce-rloo {FOUR} --steps 10000 --no-compile",
    "Lewis game, n = 10": (
        f"--agent signalling --meanings 10 --vocabulary 10 --batch-size 128 --steps {600 * 128} --seeds 3"
    ),
    "switch riddle, 200 updates": f"--agent dial --batch-size 8 --steps {200 * 8} --seeds 3",
}
"""Options of ``run_agent.py train``, by what they are called here."""

Figures = dict[str, float]


def train(folder: Path, options: Sequence[str]) -> None:
    """Trains by the command line, in a process of its own and on one thread.

    Raises:
        RuntimeError: It ended with an error; the message has the end of what it said.
    """
    command = [sys.executable, str(common.ROOT / "run_agent.py"), "train", *options, "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(command, text=True, cwd=common.ROOT, env=environment, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"run_agent.py train {' '.join(options)} failed:\n{done.stderr[-2000:]}")


def figures_of(folder: Path, options: str) -> Figures:
    """What there is to compare in the folder of a run."""
    figures: Figures = {}
    for path in [*sorted(folder.glob("seed_*"))] or [folder]:
        figures |= _of_model(path / "model.zip", path.name if path != folder else "", options)
    for row in _rows(folder / "evaluations.csv"):
        figures[f"return at {row['steps']} {row.get('seed', '')}".strip()] = float(row["mean_return"])
    returns = [float(row["return"]) for row in _rows(folder / "episodes.csv")]
    figures |= {"episodes": float(len(returns)), "sum of their returns": math.fsum(returns)}
    logged = {row.get("seed", ""): row for row in _rows(folder / "progress.csv")}  # the last of each
    for seed, row in logged.items():
        for name, value in row.items():
            if name.startswith("train/") and value:
                figures[f"{name} {seed}".strip()] = float(value)
    return figures


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _of_model(path: Path, name: str, options: str) -> Figures:
    """The sums over parameters of a model; of a team, whose are its own affair, what it gets."""
    if "--agent dial" in options:
        teams = DIAL.load(path, SwitchRiddle, device="cpu")
        return {f"return of 100 episodes {name}".strip(): float(teams.evaluate(100).mean_return[0])}
    if "--agent signalling" in options:
        state = SignallingGame.load(path, device="cpu").agents().state_dict()
    else:
        state = load_model(path.parent).policy.state_dict()
    values = [value for tensor in state.values() for value in tensor.double().flatten().tolist()]
    sums = {"sum of parameters": math.fsum(values), "sum of their sizes": math.fsum(map(abs, values))}
    return {f"{key} {name}".strip(): value for key, value in sums.items()}


def measure() -> dict[str, Figures]:
    """Makes all runs."""
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        for index, (name, options) in enumerate(RUNS.items()):
            folder = Path(scratch) / str(index)
            train(folder, options.split())
            figures[name] = figures_of(folder, options)
    return figures


def compared(found: Mapping[str, Figures], expected: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """A row for each run: how many of the figures that there were are the same, to the last bit."""
    rows = []
    for name, before in expected.items():
        after = found.get(name, {})
        same = [key for key, value in before.items() if key in after and repr(after[key]) == repr(value)]
        final = [value for key, value in before.items() if key.startswith("return at ")][-1]
        verdict = "equal" if len(same) == len(before) else "different"
        first = next((key for key in before if key not in same), "")
        row = {"run": name, "figures": len(before), "same": len(same), "verdict": verdict, "last return": final}
        rows.append({**row, "first that differs": first})
    return rows


def read(name: str) -> dict[str, Figures]:
    """The figures of a file of results."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["figures"])


def main(name: tyro.conf.Positional[str], *, against: str | None = None) -> None:
    """Measures, and compares; ends with 1 if a figure is another.

    Args:
        name: Of the file of results; one that is there is not measured again.
        against: That of another one, to compare it with.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        record(path, {"figures": measure()}, indent=1)  # floats are written to the last bit
    if against is not None:
        rows = compared(read(name), read(against))
        text = "Runs by the command line: how many of the figures of each are the same."
        title = f"{name} against {against}, to the digit"
        common.write_page(path.with_suffix(".md"), title, text, {"": pd.DataFrame(rows)})
        sys.exit(any(row["same"] < row["figures"] for row in rows))


if __name__ == "__main__":
    start(main, __doc__)
