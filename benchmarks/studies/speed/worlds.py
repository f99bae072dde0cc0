"""CPU time of a step of the particle worlds in arrays, beside as many of ``mpe2``'s, one after another.

Ours are stepped through :class:`gsrl.multi_agent.ParallelVecEnv`, with the resets of episodes of 25 steps and the check
that actions are legal; of ``mpe2`` one world is stepped, and reset when its episode is over. One thread; rounds are
interleaved, so that the machine's drift meets both; the medians are compared.

    python benchmarks/studies/speed/worlds.py [--worlds 128] [--rounds 30] [--out FILE]
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.studies.common import in_turns, record, repeated, start
from envs.mpe import MPEEnv, ReferenceEnv, SpeakerListenerEnv, SpreadEnv
from gsrl.multi_agent import ParallelVecEnv

ENVS: dict[str, Callable[[], MPEEnv]] = {
    "simple_speaker_listener_v4": SpeakerListenerEnv,
    "simple_reference_v3": ReferenceEnv,
    "simple_spread_v3": SpreadEnv,
}
STEPS = 50
"""Of a round: two episodes."""


def stepper(env: ParallelVecEnv, actions: list[np.ndarray]) -> Callable[[], object]:
    """A step of all of our worlds."""
    env.reset()
    each = itertools.cycle(actions)
    return lambda: env.step(next(each))


def their_stepper(env: Any, actions: list[np.ndarray]) -> Callable[[], object]:
    """A step of one world of ``mpe2``."""
    env.reset(seed=0)
    each = itertools.cycle([{agent: row[0, i, 0] for i, agent in enumerate(env.agents)} for row in actions])

    def step() -> None:
        if not env.agents:
            env.reset()
        env.step(dict(next(each)))

    return step


def main(*, worlds: int = 128, rounds: int = 30, out: Path | None = None) -> None:
    """Measures, prints and, on request, writes the result."""
    rng, subjects = np.random.default_rng(0), {}
    for name, make_env in ENVS.items():
        env = ParallelVecEnv(make_env, worlds)
        choices = env.spaces.legal.sum(-1)
        actions = [rng.integers(choices, size=(worlds, *choices.shape)) for _ in range(STEPS)]
        theirs = importlib.import_module(f"mpe2.{name}").parallel_env()
        subjects[name, "mpe2"] = repeated(their_stepper(theirs, actions))
        subjects[name, "gsrl"] = repeated(stepper(env, actions))
    medians = in_turns(subjects, STEPS, rounds, clock=time.process_time).median()
    rows = [
        {
            "environment": name,
            "mpe2_microseconds_a_world": round(1e6 * medians[name, "mpe2"], 2),
            "gsrl_microseconds_a_world": round(1e6 * medians[name, "gsrl"] / worlds, 3),
            "times_faster": round(worlds * medians[name, "mpe2"] / medians[name, "gsrl"], 1),
        }
        for name in ENVS
    ]
    print(pd.DataFrame(rows).to_string(index=False))
    record(out, {"worlds": worlds, "rounds": rounds, "rows": rows})


if __name__ == "__main__":
    start(main, __doc__)
