"""Time of one compiled update by two ways to Inductor: called by itself, and through ``torch.compile`` without guards.

``torch.compile`` asks at each call whether its code fits the inputs. ``torch.compiler.set_stance`` can tell it not to,
and is public. Both compile the same graph with the same options; rounds are interleaved, and CPU times compared.

    python benchmarks/speed/compile_stack.py [--rounds 40] [--out benchmarks/speed/results/compile_stack.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from agents.training import set_threads
from benchmarks.origin import origin
from benchmarks.speed.update_speed import BATCH, random_batch
from gsrl import DiscreteSAC
from gsrl.learning import trace

UPDATES_A_ROUND = 200

Compiler = Callable[[torch.fx.GraphModule, tuple[Tensor, ...]], Callable[..., Any]]


def through_torch_compile(graph: torch.fx.GraphModule, given: tuple[Tensor, ...]) -> Callable[..., Any]:
    """The compiler of :mod:`gsrl.learning.trace` by public calls alone."""
    for node in graph.graph.nodes:
        node.meta.clear()
    compiled: Any = torch.compile(graph, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})
    compiled(*map(trace._apart, given))  # guards are needed while it compiles
    return compiled  # type: ignore[no-any-return]


WAYS: dict[str, tuple[Compiler, bool]] = {
    "inductor": (trace._compile, False),
    "torch.compile": (through_torch_compile, False),
    "torch.compile without guards": (through_torch_compile, True),
}
"""The compiler, and whether guards are skipped: around a whole round, which is in favour of it."""


def update_of(compiler: Compiler, generator: torch.Generator) -> Callable[[], object]:
    """A compiled update of an agent as it comes, on one batch."""
    trace._compile = compiler
    model = DiscreteSAC("MlpPolicy", gym.make("CartPole-v1"), batch_size=BATCH, seed=0, device="cpu", compile=True)
    model.n_step_correction, model.replay_buffer = False, None  # the batch is of one step
    batch = random_batch(generator)
    model.update(batch)
    return lambda: model.update(batch)


def main() -> None:
    """Measures, prints and, on request, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    set_threads(1)
    updates = {name: update_of(compiler, torch.Generator().manual_seed(0)) for name, (compiler, _) in WAYS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for round_index in range(arguments.rounds + 1):
        for name, update in updates.items():
            unguarded = WAYS[name][1]
            with torch.compiler.set_stance(skip_guard_eval_unsafe=True) if unguarded else nullcontext():
                start = time.process_time()
                for _ in range(UPDATES_A_ROUND):
                    update()
                end = time.process_time()
            if round_index > 0:  # the first round warms up
                seconds[name].append((end - start) / UPDATES_A_ROUND)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        **origin(f"python benchmarks/speed/compile_stack.py --rounds {arguments.rounds}"),
        "median_cpu_microseconds": {name: round(1e6 * value, 1) for name, value in medians.items()},
        "share_of_inductor": {name: round(value / medians["inductor"], 3) for name, value in medians.items()},
    }
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
