"""Time of one update of discrete SAC: gsrl against a plain eager implementation, side by side; or compiled in two ways.

The plain one is that of ``benchmarks/studies/peers/plain.py``, with everything separate. Both do the same work: 64x64
networks, batch of 64, four observations, two actions, one thread.

With ``--compiled`` it is the agent as it comes, by two ways to Inductor: called by itself, and through
``torch.compile``, which asks at each call whether its code fits the inputs. ``torch.compiler.set_stance`` can tell it
not to, and is public. Both compile the same graph with the same options.

Rounds are interleaved, so that the machine's drift meets all; the medians are compared, with the first one's. Seconds
are those of the processor.

    python benchmarks/studies/speed/update_speed.py [--rounds 40] [--compiled] [--out FILE]
"""

from __future__ import annotations

import itertools
import json
import time
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
from gsrl.learning import trace
from gsrl.replay import ReplayBatch

OBSERVATIONS, ACTIONS, WIDTH, BATCH = 4, 2, 64, 64
LEARNING_RATE = 1e-3
UPDATES_A_ROUND = 100

Compiler = Callable[[torch.fx.GraphModule, tuple[Tensor, ...]], Callable[..., Any]]


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


def implementations() -> dict[str, Subject]:
    """The plain one, and ours with two gradients of the actor."""
    generator = torch.Generator().manual_seed(0)
    batches = [random_batch(BATCH, generator=generator) for _ in range(UPDATES_A_ROUND)]
    plain = PlainUpdate(OBSERVATIONS, ACTIONS, WIDTH, learning_rate=LEARNING_RATE, gamma=GAMMA)
    return {
        "plain": one_after_the_other(plain.update, [sb3_batch(batch) for batch in batches]),
        "gsrl exact": one_after_the_other(gsrl_update("exact"), batches),
        "gsrl st-gumbel": one_after_the_other(gsrl_update("st-gumbel"), batches),
    }


def through_torch_compile(graph: torch.fx.GraphModule, given: tuple[Tensor, ...]) -> Callable[..., Any]:
    """The compiler of :mod:`gsrl.learning.trace` by public calls alone."""
    for node in graph.graph.nodes:
        node.meta.clear()
    compiled: Any = torch.compile(graph, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})
    compiled(*map(trace._apart, given))  # guards are needed while it compiles
    return compiled


def compiled_updates() -> dict[str, Subject]:
    """By two ways; guards are skipped around a whole round, which is in favour of it."""

    def update_by(compiler: Compiler) -> Subject:
        module: Any = trace
        module._compile = compiler
        model = DiscreteSAC("MlpPolicy", gym.make("CartPole-v1"), batch_size=BATCH, seed=0, device="cpu", compile=True)
        model.n_step_correction, model.replay_buffer = False, None  # the batch is of one step
        batch = random_batch(BATCH)
        model.update(batch)
        return repeated(lambda: model.update(batch))

    def without_guards(count: int) -> None:
        with torch.compiler.set_stance(skip_guard_eval_unsafe=True):
            unguarded(count)

    inductor = update_by(trace._compile)
    guarded, unguarded = update_by(through_torch_compile), update_by(through_torch_compile)
    return {"inductor": inductor, "torch.compile": guarded, "torch.compile without guards": without_guards}


def main(*, rounds: int = 40, compiled: bool = False, out: Path | None = None) -> None:
    """Measures, prints and, on request, writes the result."""
    torch.manual_seed(0)
    subjects = compiled_updates() if compiled else implementations()
    medians = in_turns(subjects, UPDATES_A_ROUND, rounds, time.process_time).median()
    first = medians.index[0]
    result = {
        "median_milliseconds": (1e3 * medians).round(3).to_dict(),
        f"share_of_{first}": (medians / medians[first]).round(3).to_dict(),
    }
    print(json.dumps(result, indent=2))
    record(out, result)


if __name__ == "__main__":
    start(main, __doc__)
