"""Time of one compiled update by two ways to Inductor: called by itself, and through ``torch.compile`` without guards.

``torch.compile`` asks at each call whether its code fits the inputs. ``torch.compiler.set_stance`` can tell it not to,
and is public. Both compile the same graph with the same options; rounds are interleaved, and CPU times compared.

    python benchmarks/studies/speed/compile_stack.py [--rounds 40] [--out FILE]
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from benchmarks.studies.common import Subject, in_turns, record, repeated, start
from benchmarks.studies.speed.batches import random_batch
from gsrl import DiscreteSAC
from gsrl.learning import trace

BATCH, UPDATES_A_ROUND = 64, 200

Compiler = Callable[[torch.fx.GraphModule, tuple[Tensor, ...]], Callable[..., Any]]


def through_torch_compile(graph: torch.fx.GraphModule, given: tuple[Tensor, ...]) -> Callable[..., Any]:
    """The compiler of :mod:`gsrl.learning.trace` by public calls alone."""
    for node in graph.graph.nodes:
        node.meta.clear()
    compiled: Any = torch.compile(graph, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})
    compiled(*map(trace._apart, given))  # guards are needed while it compiles
    return compiled


WAYS: dict[str, tuple[Compiler, bool]] = {
    "inductor": (trace._compile, False),
    "torch.compile": (through_torch_compile, False),
    "torch.compile without guards": (through_torch_compile, True),
}
"""The compiler, and whether guards are skipped: around a whole round, which is in favour of it."""


def update_of(compiler: Compiler) -> Callable[[], object]:
    """A compiled update of an agent as it comes, on one batch."""
    module: Any = trace
    module._compile = compiler
    model = DiscreteSAC("MlpPolicy", gym.make("CartPole-v1"), batch_size=BATCH, seed=0, device="cpu", compile=True)
    model.n_step_correction, model.replay_buffer = False, None  # the batch is of one step
    batch = random_batch(BATCH)
    model.update(batch)
    return lambda: model.update(batch)


def unguarded(subject: Subject) -> Subject:
    """The same without guards."""

    def without(count: int) -> None:
        with torch.compiler.set_stance(skip_guard_eval_unsafe=True):
            subject(count)

    return without


def main(*, rounds: int = 40, out: Path | None = None) -> None:
    """Measures, prints and, on request, writes the result."""
    subjects = {}
    for name, (compiler, skips_guards) in WAYS.items():
        update = repeated(update_of(compiler))
        subjects[name] = unguarded(update) if skips_guards else update
    medians = in_turns(subjects, UPDATES_A_ROUND, rounds, time.process_time).median()
    result = {
        "median_cpu_microseconds": (1e6 * medians).round(1).to_dict(),
        "share_of_inductor": (medians / medians["inductor"]).round(3).to_dict(),
    }
    print(json.dumps(result, indent=2))
    record(out, result)


if __name__ == "__main__":
    start(main, __doc__)
