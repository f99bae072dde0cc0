"""Environment steps a second, all in: environment, acting, replay and update; no logging, no evaluation.

CartPole-v1, one environment and one update a step for each member, networks of 64x64, batches of 64, replay of 100,000,
one thread. Everything is constructed, compiled and past its ``learning_starts`` before the clock starts. Rounds are
interleaved, so that the machine's drift meets all; medians are compared. A population's steps are those of all members.

| name | what |
|---|---|
| ``plain`` | ``benchmarks/peers/plain.py``: a plain eager loop with separate networks |
| ``sb3-dqn`` | Stable-Baselines3's DQN with ``train_freq=1, gradient_steps=1`` |
| ``tianshou-sac`` | Tianshou 2's DiscreteSAC, see ``benchmarks/peers/tianshou_sac.py`` |
| ``gsrl``, ``gsrl-compiled`` | one ``DiscreteSAC`` |
| ``gsrl-population``, ``gsrl-population-compiled`` | ``Population`` of ``--members`` |

Tianshou may need an environment of its own, so that it always runs in a process of its own, which sleeps while it is
not its turn; its seconds are measured there. Where it cannot be imported, it is left out.

    python benchmarks/speed/throughput.py [--rounds 20] [--out benchmarks/speed/results/throughput.json]
        [--tianshou-python .venv-peers/bin/python] [--only plain gsrl]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stable_baselines3 import DQN

import gsrl
from agents.training import set_threads
from benchmarks.origin import origin
from benchmarks.peers.plain import PlainSAC

ENV = "CartPole-v1"
WIDTH = 64
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "buffer_size": 100_000, "learning_starts": 500, "batch_size": 64}
"""Of everything timed here."""
SB3: dict[str, Any] = {**SETTINGS, "policy_kwargs": {"net_arch": [WIDTH, WIDTH]}, "device": "cpu"}
"""The same as Stable-Baselines3's algorithms take it."""
WARM_UP: int = SETTINGS["learning_starts"] + 200
TIANSHOU = Path(__file__).resolve().parents[1] / "peers" / "tianshou_sac.py"

Round = Callable[[int], float]
"""Trains for so many steps of each member; returns the seconds."""


def timed(learn: Callable[[int], object]) -> Round:
    """Warms up, and times calls from then on."""
    learn(WARM_UP)

    def measure(steps: int) -> float:
        start = time.perf_counter()
        learn(steps)
        return time.perf_counter() - start

    return measure


def sb3_round(algorithm: Any) -> Round:
    """Of an algorithm with the interface of Stable-Baselines3."""
    return timed(lambda steps: algorithm.learn(steps, log_interval=None, reset_num_timesteps=False))


def dqn() -> Round:
    """Stable-Baselines3's DQN."""
    return sb3_round(DQN("MlpPolicy", ENV, train_freq=1, gradient_steps=1, seed=0, **SB3))


def single(compiled: bool) -> Round:
    """One agent of ours."""
    return sb3_round(gsrl.DiscreteSAC("MlpPolicy", ENV, seed=0, compile=compiled, **SB3))


def population(members: int, compiled: bool) -> Round:
    """Ours, many in lock-step."""
    agents = gsrl.Population(gsrl.DiscreteSAC, ENV, seeds=range(members), compile=compiled, **SB3)
    return timed(lambda steps: agents.learn(steps, reset_num_timesteps=False))


def tianshou(python: str, versions: dict[str, str]) -> Round | None:
    """Tianshou's DiscreteSAC, by a process of this interpreter; None where that has no Tianshou."""
    if subprocess.run([python, "-c", "import tianshou"], capture_output=True).returncode:
        print(
            f"tianshou-sac is left out: {python} cannot import tianshou, which the extra 'peers' installs: see "
            "benchmarks/peers/tianshou_sac.py and --tianshou-python."
        )
        return None
    command = [python, str(TIANSHOU), "--serve", "--settings", json.dumps({"width": WIDTH, **SETTINGS})]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout
    versions.update(json.loads(answers.readline()))

    def measure(steps: int) -> float:
        requests.write(f"{steps}\n")
        requests.flush()
        return float(answers.readline())

    measure(WARM_UP - SETTINGS["learning_starts"])
    return measure


def main() -> None:
    """Measures, prints and, on request, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=500, help="of each member in a round")
    parser.add_argument("--members", type=int, default=16, help="of the populations")
    parser.add_argument("--tianshou-python", default=sys.executable, help="an interpreter that can import tianshou")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="time these alone")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    set_threads(1)

    members = arguments.members
    tianshou_versions: dict[str, str] = {}
    makers: dict[str, Callable[[], Round | None]] = {
        "plain": lambda: timed(PlainSAC(ENV, WIDTH, **SETTINGS).learn),
        "sb3-dqn": dqn,
        "tianshou-sac": lambda: tianshou(arguments.tianshou_python, tianshou_versions),
        "gsrl": lambda: single(compiled=False),
        "gsrl-compiled": lambda: single(compiled=True),
        "gsrl-population": lambda: population(members, compiled=False),
        "gsrl-population-compiled": lambda: population(members, compiled=True),
    }
    names = arguments.only or list(makers)
    if unknown := set(names) - makers.keys():
        parser.error(f"--only must name some of {list(makers)}, but got {sorted(unknown)}")
    made = {name: makers[name]() for name in names}
    rounds = {name: measure for name, measure in made.items() if measure is not None}
    rates: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(arguments.rounds):
        for name, measure in rounds.items():
            steps = arguments.steps * (members if "population" in name else 1)
            rates[name].append(steps / measure(arguments.steps))

    medians = {name: statistics.median(values) for name, values in rates.items()}
    references = [name for name in ("plain", "sb3-dqn", "tianshou-sac") if name in medians]
    rows = {
        name: {
            "steps_per_second": round(median, 1),
            "quartiles": [round(value, 1) for value in statistics.quantiles(rates[name], n=4)[::2]],
            **{f"times_{reference}": round(median / medians[reference], 2) for reference in references},
        }
        for name, median in medians.items()
    }
    for name, row in rows.items():
        ratios = ", ".join(f"{row[f'times_{reference}']:.2f} of {reference}" for reference in references)
        print(f"{name:26} {row['steps_per_second']:8.1f} steps/s   {ratios}")
    if arguments.out is not None:
        command = (
            f"python benchmarks/speed/throughput.py --rounds {arguments.rounds} --steps {arguments.steps} "
            f"--members {members}"
        )
        result = {**origin(command), "tianshou_versions": tianshou_versions, "results": rows}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
