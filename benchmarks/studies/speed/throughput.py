"""Environment steps a second, all in: environment, acting, replay and update; no logging, no evaluation.

CartPole-v1, one environment and one update a step for each member, networks of 64x64, batches of 64, replay of 100,000,
one thread. Everything is constructed, compiled and past its ``learning_starts`` before the clock starts. Rounds are
interleaved, so that the machine's drift meets all; medians are compared. A population's steps are those of all members.

| name | what |
|---|---|
| ``plain`` | ``benchmarks/studies/peers/plain.py``: a plain eager loop with separate networks |
| ``sb3-dqn`` | Stable-Baselines3's DQN with ``train_freq=1, gradient_steps=1`` |
| ``tianshou-sac`` | Tianshou 2's DiscreteSAC, see ``benchmarks/studies/peers/tianshou_sac.py`` |
| ``gsrl``, ``gsrl-compiled`` | one ``DiscreteSAC`` |
| ``gsrl-population``, ``gsrl-population-compiled`` | ``Population`` of ``--members`` |

Tianshou may need an environment of its own, so that it always runs in a process of its own, which sleeps while it is
not its turn. Where it cannot be imported, it is left out.

    python benchmarks/studies/speed/throughput.py [--rounds 20] [--tianshou-python .venv-peers/bin/python]
        [--only plain gsrl] [--out FILE]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from stable_baselines3 import DQN

import gsrl
from benchmarks.studies.common import Subject, in_turns, record, start
from benchmarks.studies.peers.plain import PlainSAC

ENV = "CartPole-v1"
WIDTH = 64
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "buffer_size": 100_000, "learning_starts": 500, "batch_size": 64}
"""Of everything timed here."""
SB3: dict[str, Any] = {**SETTINGS, "policy_kwargs": {"net_arch": [WIDTH, WIDTH]}, "device": "cpu"}
"""The same as Stable-Baselines3's algorithms take it."""
WARM_UP: int = SETTINGS["learning_starts"] + 200
TIANSHOU = Path(__file__).resolve().parents[1] / "peers" / "tianshou_sac.py"


def warm(learn: Subject) -> Subject:
    """The same, past its first updates."""
    learn(WARM_UP)
    return learn


def sb3(algorithm: Any) -> Subject:
    """Of an algorithm with the interface of Stable-Baselines3."""
    return warm(lambda steps: algorithm.learn(steps, log_interval=None, reset_num_timesteps=False))


def dqn() -> Subject:
    """Stable-Baselines3's DQN."""
    return sb3(DQN("MlpPolicy", ENV, train_freq=1, gradient_steps=1, seed=0, **SB3))


def single(compiled: bool) -> Subject:
    """One agent of ours."""
    return sb3(gsrl.DiscreteSAC("MlpPolicy", ENV, seed=0, compile=compiled, **SB3))


def population(members: int, compiled: bool) -> Subject:
    """Ours, many in lock-step."""
    agents = gsrl.Population(gsrl.DiscreteSAC, ENV, seeds=range(members), compile=compiled, **SB3)
    return warm(lambda steps: agents.learn(steps, reset_num_timesteps=False))


def tianshou(python: str, versions: dict[str, str]) -> Subject | None:
    """Tianshou's DiscreteSAC, by a process of this interpreter; None where that has no Tianshou."""
    if subprocess.run([python, "-c", "import tianshou"], capture_output=True).returncode:
        print(
            f"tianshou-sac is left out: {python} cannot import tianshou, which the extra 'peers' installs: see "
            "benchmarks/studies/peers/tianshou_sac.py and --tianshou-python."
        )
        return None
    command = [python, str(TIANSHOU), "--serve", "--settings", json.dumps({"width": WIDTH, **SETTINGS})]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout
    versions.update(json.loads(answers.readline()))

    def learn(steps: int) -> None:
        requests.write(f"{steps}\n")
        requests.flush()
        answers.readline()

    learn(WARM_UP - SETTINGS["learning_starts"])
    return learn


def main(
    *,
    rounds: int = 20,
    steps: int = 500,
    members: int = 16,
    tianshou_python: str = sys.executable,
    only: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:
    """Measures, prints and, on request, writes the result.

    Args:
        rounds: How many.
        steps: Of each member in a round.
        members: Of the populations.
        tianshou_python: An interpreter that can import tianshou.
        only: Names of those to time; all if none is given.
        out: File of the result.
    """
    tianshou_versions: dict[str, str] = {}
    makers: dict[str, Callable[[], Subject | None]] = {
        "plain": lambda: warm(PlainSAC(ENV, WIDTH, **SETTINGS).learn),
        "sb3-dqn": dqn,
        "tianshou-sac": lambda: tianshou(tianshou_python, tianshou_versions),
        "gsrl": lambda: single(compiled=False),
        "gsrl-compiled": lambda: single(compiled=True),
        "gsrl-population": lambda: population(members, compiled=False),
        "gsrl-population-compiled": lambda: population(members, compiled=True),
    }
    if unknown := set(only) - makers.keys():
        raise SystemExit(f"--only must name some of {list(makers)}, but got {sorted(unknown)}")
    made = {name: makers[name]() for name in only or makers}
    subjects = {name: learn for name, learn in made.items() if learn is not None}
    seconds = in_turns(subjects, steps, rounds)
    rates = pd.DataFrame({name: (members if "population" in name else 1) / seconds[name] for name in subjects})
    table = pd.DataFrame({"steps_per_second": rates.median()})
    table["quartiles"] = rates.quantile([0.25, 0.75]).round(1).T.to_numpy().tolist()
    for reference in ("plain", "sb3-dqn", "tianshou-sac"):
        if reference in rates:
            table[f"times_{reference}"] = (table["steps_per_second"] / rates[reference].median()).round(2)
    table["steps_per_second"] = table["steps_per_second"].round(1)
    print(table.to_string())
    record(out, {"tianshou_versions": tianshou_versions, "results": table.to_dict("index")})


if __name__ == "__main__":
    start(main, __doc__)
