"""Environment steps a second, all in: environment, acting, replay and update; no logging, no evaluation.

CartPole-v1, one environment and one update a step for each member, networks of 64x64, batches of 64, replay of 100,000,
one thread. Everything is constructed, compiled and past its ``learning_starts`` before the clock starts. Rounds are
interleaved, so that the machine's drift meets all; medians are compared. A population's steps are those of all members.

| name | what |
|---|---|
| ``plain`` | ``benchmarks/studies/peers/plain.py``: a plain eager loop with separate networks |
| ``sb3-dqn`` | Stable-Baselines3's DQN with ``train_freq=1, gradient_steps=1`` |
| ``tianshou-sac`` | Tianshou 2's DiscreteSAC, see ``benchmarks/studies/peers/tianshou_sac.py`` |
| ``sbx-dqn`` | the DQN of Stable-Baselines3's JAX port, see ``benchmarks/studies/peers/jax_agents.py`` |
| ``rejax``, ``rejax-population`` | rejax's SAC with the environment compiled in, one or ``--members`` under ``vmap`` |
| ``gsrl``, ``gsrl-compiled`` | one ``DiscreteSAC`` |
| ``gsrl-population``, ``gsrl-population-compiled`` | ``Population`` of ``--members`` |

Tianshou, and what is in JAX, may need environments of their own, so that they always run in processes of their own,
which sleep while it is not their turn. What cannot be imported is left out. With ``--cpu-time`` seconds of the
processor are counted, on a machine that has other work to do.

    python benchmarks/studies/speed/throughput.py [--rounds 20] [--tianshou-python .venv-peers/bin/python]
        [--jax-python .venv-jax/bin/python] [--cpu-time] [--only plain gsrl] [--out FILE]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
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
PEERS = Path(__file__).resolve().parents[1] / "peers"


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


class Peers:
    """Agents in processes of other interpreters, which sleep while it is not their turn.

    Attributes:
        versions: Of their packages, by the module that is imported.
        seconds: Of their processors, all together.
    """

    def __init__(self) -> None:
        self.versions: dict[str, dict[str, str]] = {}
        self.seconds = 0.0

    def served(self, python: str, script: str, module: str, *options: str, warm_up: int = 200) -> Subject | None:
        """The other end of a script in ``benchmarks/studies/peers``; None where the interpreter lacks the module."""
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
            print(f"{module} is left out: {python} cannot import it; see benchmarks/studies/peers/{script}")
            return None
        process = subprocess.Popen(
            [python, str(PEERS / script), *options, "--serve", "--settings", json.dumps({"width": WIDTH, **SETTINGS})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout
        self.versions[module] = json.loads(answers.readline())

        def learn(steps: int) -> None:
            requests.write(f"{steps}\n")
            requests.flush()
            self.seconds += float(answers.readline())

        learn(warm_up)
        return learn

    def clock(self) -> float:
        """Seconds of the processor, of this process and theirs."""
        return time.process_time() + self.seconds


def main(
    *,
    rounds: int = 20,
    steps: int = 500,
    members: int = 16,
    tianshou_python: str = sys.executable,
    jax_python: str = sys.executable,
    cpu_time: bool = False,
    only: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:
    """Measures, prints and, on request, writes the result.

    Args:
        rounds: How many.
        steps: Of each member in a round.
        members: Of the populations.
        tianshou_python: An interpreter that can import tianshou.
        jax_python: One that can import rejax and sbx.
        cpu_time: Whether the processor's time is counted, and not the wall's.
        only: Names of those to time; all if none is given.
        out: File of the result.
    """
    peers = Peers()
    makers: dict[str, Callable[[], Subject | None]] = {
        "plain": lambda: warm(PlainSAC(ENV, WIDTH, **SETTINGS).learn),
        "sb3-dqn": dqn,
        "tianshou-sac": lambda: peers.served(tianshou_python, "tianshou_sac.py", "tianshou"),
        "sbx-dqn": lambda: peers.served(jax_python, "jax_agents.py", "sbx", "sbx"),
        "rejax": lambda: peers.served(jax_python, "jax_agents.py", "rejax", "rejax"),
        "rejax-population": lambda: peers.served(
            jax_python, "jax_agents.py", "rejax", "rejax", "--members", str(members)
        ),
        "gsrl": lambda: single(compiled=False),
        "gsrl-compiled": lambda: single(compiled=True),
        "gsrl-population": lambda: population(members, compiled=False),
        "gsrl-population-compiled": lambda: population(members, compiled=True),
    }
    if unknown := set(only) - makers.keys():
        raise SystemExit(f"--only must name some of {list(makers)}, but got {sorted(unknown)}")
    made = {name: makers[name]() for name in only or makers}
    subjects = {name: learn for name, learn in made.items() if learn is not None}
    clock = peers.clock if cpu_time else time.perf_counter
    seconds = in_turns(subjects, steps, rounds, clock)
    rates = pd.DataFrame({name: (members if "population" in name else 1) / seconds[name] for name in subjects})
    table = pd.DataFrame({"steps_per_second": rates.median()})
    table["quartiles"] = rates.quantile([0.25, 0.75]).round(1).T.to_numpy().tolist()
    for reference in ("plain", "sb3-dqn", "tianshou-sac", "rejax", "rejax-population"):
        if reference in rates:
            table[f"times_{reference}"] = (table["steps_per_second"] / rates[reference].median()).round(2)
    table["steps_per_second"] = table["steps_per_second"].round(1)
    print(table.to_string())
    record(out, {"cpu_time": cpu_time, "peers": peers.versions, "results": table.to_dict("index")})


if __name__ == "__main__":
    start(main, __doc__)
