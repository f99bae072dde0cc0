"""Does the code learn the same as it did before? Runs by the command line, whose figures are compared to the digit.

Run it before a change that is to change nothing that is computed, and after it, on one machine: how sums are split
among lanes, and so how they round, differs between processors. A figure is a sum over all parameters, rounded once, so
that their layout does not matter; a return of an evaluation; the sum of the returns of all training episodes; or what
was logged last. Runs are made one after the other, on one thread, and take about five minutes.

    python benchmarks/same_numbers.py before
    python benchmarks/same_numbers.py after --against before
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from agents.runs import load_model
from benchmarks import common
from benchmarks.origin import origin
from envs.switch_riddle import SwitchRiddle
from gsrl.comms import DIAL, SignallingGame

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
            common.train(folder, options.split())
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


def main() -> int:
    """Measures, and compares; returns 1 if a figure is another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the file of results; one that is there is not measured again")
    parser.add_argument("--against", help="that of another one, to compare it with")
    arguments = parser.parse_args()
    path = RESULTS / f"{arguments.name}.json"
    if not path.exists():
        result = {"origin": origin(f"python benchmarks/same_numbers.py {arguments.name}"), "figures": measure()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")  # floats are written to the last bit
    if arguments.against is None:
        return 0
    rows = compared(read(arguments.name), read(arguments.against))
    title = f"{arguments.name} against {arguments.against}, to the digit"
    text = "Runs by the command line: how many of the figures of each are the same."
    common.write_page(RESULTS / f"{arguments.name}.md", title, text, {"": pd.DataFrame(rows)})
    return int(any(row["same"] < row["figures"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
