"""Time of the samplers: gsrl against what torch has, side by side.

- *relaxed*: forward and backward pass of a Gumbel-softmax sample, soft and hard (straight-through), against
  ``torch.nn.functional.gumbel_softmax``. The backward pass starts from a given slope, so nothing else is timed.
- *exact*: one-hot samples from given logits, against ``torch.distributions.OneHotCategorical``. The construction of a
  distribution is timed with it, for both sides; *sample alone* has both distributions at hand, and already used.

Every call draws fresh noise, values are checked as by default on both sides, and there is one thread. Rounds are
interleaved, so that the machine's drift meets all; the medians are compared.

    python benchmarks/studies/speed/samplers.py [--rounds 100] [--out FILE]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import OneHotCategorical
from torch.nn import functional as F

from benchmarks.studies.common import in_turns, record, repeated, start
from gsrl import FactoredCategorical, gumbel_max, gumbel_softmax

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
        **{
            f"relaxed, {'hard' if hard else 'soft'}{'' if temperature == 1 else f', temperature {temperature}'}": {
                "F.gumbel_softmax": relaxed(F.gumbel_softmax, logits, slope, tau=temperature, hard=hard),
                "gumbel_softmax": relaxed(gumbel_softmax, logits, slope, temperature=temperature, hard=hard),
            }
            for temperature in (1.0, 0.5)
            for hard in (False, True)
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


def main(*, rounds: int = 100, out: Path | None = None) -> None:
    """Measures, prints and, on request, writes the result."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for shape in SHAPES:
        logits, slope = (torch.randn(shape, generator=generator) for _ in range(2))
        compared = comparisons(logits, slope)
        subjects = {(title, name): repeated(run) for title, each in compared.items() for name, run in each.items()}
        medians = in_turns(subjects, max(1, NUMBERS_A_ROUND // logits.numel()), rounds).median()
        rows += [
            {
                "shape": list(shape),
                "compared": title,
                "sampler": name,
                "median_microseconds": round(1e6 * median, 1),
                "share_of_torch": round(median / medians[title].iloc[0], 3),
            }
            for (title, name), median in medians.items()
        ]
    table = pd.DataFrame(rows)
    print(table.assign(times_faster=(1 / table["share_of_torch"]).round(2)).to_string(index=False))
    record(out, {"rows": rows})


if __name__ == "__main__":
    start(main, __doc__)
