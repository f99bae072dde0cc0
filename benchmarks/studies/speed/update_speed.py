"""Time of one update of discrete SAC: gsrl against a plain eager implementation, side by side.

The plain one is that of ``benchmarks/studies/peers/plain.py``, with everything separate. Both do the same work: 64x64
networks, batch of 64, four observations, two actions, one thread. Rounds are interleaved, so that the machine's drift
meets both; the medians are compared.

    python benchmarks/studies/speed/update_speed.py [--rounds 40] [--out FILE]
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from benchmarks.studies.common import Subject, in_turns, record, repeated, start
from benchmarks.studies.peers.plain import PlainUpdate
from benchmarks.studies.speed.batches import GAMMA, random_batch
from gsrl import DiscreteSAC
from gsrl.replay import ReplayBatch

OBSERVATIONS, ACTIONS, WIDTH, BATCH = 4, 2, 64, 64
LEARNING_RATE = 1e-3
UPDATES_A_ROUND = 100


def sb3_batch(batch: ReplayBatch) -> ReplayBufferSamples:
    """The same as Stable-Baselines3's replay buffer gives it."""
    assert isinstance(batch.observations, Tensor)
    assert isinstance(batch.next_observations, Tensor)
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


def one_after_the_other(update: Callable[[Any], object], batches: Sequence[Any]) -> Subject:
    """Updates by one batch after the other, again and again."""
    following = itertools.cycle(batches)
    return repeated(lambda: update(next(following)))


def main(*, rounds: int = 40, out: Path | None = None) -> None:
    """Measures, prints and, on request, writes the result."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    batches = [random_batch(BATCH, generator=generator) for _ in range(UPDATES_A_ROUND)]
    plain = PlainUpdate(OBSERVATIONS, ACTIONS, WIDTH, learning_rate=LEARNING_RATE, gamma=GAMMA)
    subjects = {
        "plain": one_after_the_other(plain.update, [sb3_batch(batch) for batch in batches]),
        "gsrl exact": one_after_the_other(gsrl_update("exact"), batches),
        "gsrl st-gumbel": one_after_the_other(gsrl_update("st-gumbel"), batches),
    }
    medians = in_turns(subjects, UPDATES_A_ROUND, rounds).median()
    result = {
        "median_milliseconds": (1e3 * medians).round(3).to_dict(),
        "share_of_plain": (medians / medians["plain"]).round(3).to_dict(),
    }
    print(json.dumps(result, indent=2))
    record(out, result)


if __name__ == "__main__":
    start(main, __doc__)
