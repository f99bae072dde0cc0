"""Time of the samplers: gsrl against what torch has, side by side.

- *relaxed*: forward and backward pass of a Gumbel-softmax sample, soft and hard (straight-through), against
  ``torch.nn.functional.gumbel_softmax``. The backward pass starts from a given slope, so nothing else is timed.
- *exact*: one-hot samples from given logits, against ``torch.distributions.OneHotCategorical``. The construction of a
  distribution is timed with it, for both sides; *sample alone* has both distributions at hand, and already used.

Every call draws fresh noise, values are checked as by default on both sides, and there is one thread. Rounds are
interleaved, so that the machine's drift meets all; the medians are compared.

    python benchmarks/sampler_speed.py [--rounds 100] [--out benchmarks/results/sampler_speed.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import OneHotCategorical
from torch.nn import functional as F

from gsrl import FactoredCategorical, __version__, gumbel_max, gumbel_softmax

SHAPES = ((64, 8), (4096, 64), (256, 16, 256))
NUMBERS_A_ROUND = 2**16
"""Small shapes are repeated until a round has made about this many numbers."""

Contestants = dict[str, Callable[[], object]]


def relaxed(sampler: Callable[..., Tensor], logits: Tensor, slope: Tensor, **arguments: Any) -> Callable[[], None]:
    """Forward and backward pass of ``sampler``."""
    leaf = logits.clone().requires_grad_()

    def run() -> None:
        leaf.grad = None
        sampler(leaf, **arguments).backward(slope)

    return run


def comparisons(logits: Tensor, slope: Tensor) -> dict[str, Contestants]:
    """What is compared: torch's way first, ours after it."""
    torchs, ours = OneHotCategorical(logits=logits), FactoredCategorical(logits)
    return {
        "relaxed, soft": {
            "F.gumbel_softmax": relaxed(F.gumbel_softmax, logits, slope),
            "gumbel_softmax": relaxed(gumbel_softmax, logits, slope),
        },
        "relaxed, hard": {
            "F.gumbel_softmax": relaxed(F.gumbel_softmax, logits, slope, hard=True),
            "gumbel_softmax": relaxed(gumbel_softmax, logits, slope, hard=True),
        },
        "relaxed, soft, temperature 0.5": {
            "F.gumbel_softmax": relaxed(F.gumbel_softmax, logits, slope, tau=0.5),
            "gumbel_softmax": relaxed(gumbel_softmax, logits, slope, temperature=0.5),
        },
        "relaxed, hard, temperature 0.5": {
            "F.gumbel_softmax": relaxed(F.gumbel_softmax, logits, slope, tau=0.5, hard=True),
            "gumbel_softmax": relaxed(gumbel_softmax, logits, slope, temperature=0.5, hard=True),
        },
        "exact": {
            "OneHotCategorical": lambda: OneHotCategorical(logits=logits).sample(),
            "gumbel_max": lambda: gumbel_max(logits),
            "FactoredCategorical": lambda: FactoredCategorical(logits).sample(),
        },
        "exact, sample alone": {
            "OneHotCategorical": lambda: torchs.sample(),
            "FactoredCategorical": lambda: ours.sample(),
        },
    }


def measure(compared: dict[str, Contestants], repeats: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of a call."""
    seconds: dict[str, dict[str, list[float]]] = {
        title: {name: [] for name in contestants} for title, contestants in compared.items()
    }
    for round_index in range(rounds + 1):
        for title, contestants in compared.items():
            for name, run in contestants.items():
                start = time.perf_counter()
                for _ in range(repeats):
                    run()
                if round_index > 0:  # the first round warms up
                    seconds[title][name].append((time.perf_counter() - start) / repeats)
    return {
        title: {name: statistics.median(times) for name, times in contestants.items()}
        for title, contestants in seconds.items()
    }


def main() -> None:
    """Measures, prints and, on request, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    rows = []
    print(f"{'shape':<15} {'compared':<31} {'sampler':<20} {'microseconds':>12} {'of torch':>8} {'times faster':>12}")
    for shape in SHAPES:
        logits, slope = (torch.randn(shape, generator=generator) for _ in range(2))
        repeats = max(1, NUMBERS_A_ROUND // logits.numel())
        for title, medians in measure(comparisons(logits, slope), repeats, arguments.rounds).items():
            baseline = next(iter(medians.values()))
            for name, median in medians.items():
                rows.append(
                    {
                        "shape": list(shape),
                        "compared": title,
                        "sampler": name,
                        "median_microseconds": round(1e6 * median, 1),
                        "share_of_torch": round(median / baseline, 3),
                    }
                )
                print(
                    f"{list(shape)!s:<15} {title:<31} {name:<20} {1e6 * median:>12.1f} {median / baseline:>8.3f} "
                    f"{baseline / median:>12.2f}"
                )
    result = {
        "command": f"python benchmarks/sampler_speed.py --rounds {arguments.rounds}",
        "versions": {"gsrl": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "rows": rows,
    }
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
