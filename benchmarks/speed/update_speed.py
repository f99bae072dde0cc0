"""Time of one update of discrete SAC: gsrl against a plain eager implementation, side by side.

The plain one is that of ``benchmarks/peers/plain.py``, with everything separate. Both do the same work: 64x64 networks,
batch of 64, four observations, two actions, one thread. Rounds are interleaved, so that the machine's drift meets both;
the medians are compared.

    python benchmarks/speed/update_speed.py [--rounds 40] [--out benchmarks/speed/results/update_speed.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from agents.training import set_threads
from benchmarks.origin import origin
from benchmarks.peers.plain import PlainUpdate
from gsrl import DiscreteSAC
from gsrl.replay import ReplayBatch

OBSERVATIONS, ACTIONS, WIDTH, BATCH = 4, 2, 64, 64
GAMMA, LEARNING_RATE = 0.99, 1e-3
UPDATES_A_ROUND = 100


def random_batch(generator: torch.Generator) -> ReplayBatch:
    """Transitions of noise: the time does not depend on them."""
    return ReplayBatch(
        observations=torch.randn(BATCH, OBSERVATIONS, generator=generator),
        actions=torch.randint(ACTIONS, (BATCH, 1), generator=generator),
        rewards=torch.randn(BATCH, generator=generator),
        next_observations=torch.randn(BATCH, OBSERVATIONS, generator=generator),
        discounts=torch.full((BATCH,), GAMMA),
    )


def sb3_batch(batch: ReplayBatch) -> ReplayBufferSamples:
    """The same as Stable-Baselines3's replay buffer gives it."""
    return ReplayBufferSamples(
        batch.observations, batch.actions, batch.next_observations, torch.zeros(BATCH, 1), batch.rewards.unsqueeze(1)
    )


def gsrl_update(estimator: str) -> Callable[[ReplayBatch], object]:
    """The update of a :class:`DiscreteSAC`, noise included."""
    model = DiscreteSAC(
        "MlpPolicy",
        gym.make("CartPole-v1"),
        estimator=estimator,
        learning_rate=LEARNING_RATE,
        buffer_size=1000,
        policy_kwargs={"net_arch": [WIDTH, WIDTH]},
        seed=0,
        device="cpu",
    )
    return model.update


def main() -> None:
    """Measures, prints and, on request, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    set_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    batches = [random_batch(generator) for _ in range(UPDATES_A_ROUND)]
    plain = PlainUpdate(OBSERVATIONS, ACTIONS, WIDTH, learning_rate=LEARNING_RATE, gamma=GAMMA)
    subjects: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "plain": (plain.update, [sb3_batch(batch) for batch in batches]),
        "gsrl exact": (gsrl_update("exact"), batches),
        "gsrl st-gumbel": (gsrl_update("st-gumbel"), batches),
    }
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for round_index in range(arguments.rounds + 1):
        for name, (update, inputs) in subjects.items():
            start = time.perf_counter()
            for batch in inputs:
                update(batch)
            if round_index > 0:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / UPDATES_A_ROUND)

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        **origin(f"python benchmarks/speed/update_speed.py --rounds {arguments.rounds}"),
        "median_milliseconds": {name: round(1e3 * value, 3) for name, value in medians.items()},
        "share_of_plain": {name: round(value / medians["plain"], 3) for name, value in medians.items()},
    }
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
