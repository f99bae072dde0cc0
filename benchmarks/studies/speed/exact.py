"""Time of the exact expectation: outer sums of log-probabilities against those of each configuration by itself.

Forward and backward pass of the expectation over all K**n configurations, its policy's construction included.
*By outer sums* is ``gsrl.estimators.Exact``; *one by one* asks ``log_prob`` of the support that is expanded over the
batch. Both are given the same f:

- *decoder*: a network of the configuration alone, which is evaluated once for all batch rows, times a vector of each
  row: what a discrete latent code needs.
- *given*: values that are there already, so that nothing else is timed.
- *every row*: a product of each row's configurations and weights, which costs the same in both.
- *autoencoder*: all of the loss of a ``CategoricalVAE`` of 64 pixels, 128 wide, with the gradient of its networks.

Rounds are interleaved, on one thread; the medians of the processor's time are compared.

    python benchmarks/studies/speed/exact.py [--rounds 30] [--out FILE]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.studies.common import in_turns, record, repeated, start
from gsrl import FactoredCategorical
from gsrl.estimators import Exact, Noise
from gsrl.estimators.base import Objective
from gsrl.perception.latents import CategoricalVAE

SHAPES = ((100, 2, 8), (100, 4, 8), (64, 10, 2), (256, 3, 16))
"""Batch, n and K."""
FEATURES = 64


def one_by_one(policy: FactoredCategorical, f: Objective) -> Tensor:
    """The expectation, each configuration's log-probability from its own matrix."""
    support = policy.enumerate_support()
    return (policy.log_prob(support).exp() * f(support)).sum(0)


def by_outer_sums(policy: FactoredCategorical, f: Objective) -> Tensor:
    """The expectation of the library."""
    return Exact().expectation(policy, f)


def objectives(batch: int, n: int, K: int, generator: torch.Generator) -> dict[str, Objective]:
    """What is averaged, by name."""
    decoder = nn.Sequential(nn.Linear(n * K, FEATURES), nn.Tanh(), nn.Linear(FEATURES, FEATURES))
    features, weights = torch.randn(batch, FEATURES, generator=generator), torch.randn(batch, n, K, generator=generator)
    values = torch.randn(K**n, batch, generator=generator)
    return {
        "decoder": lambda one_hot: decoder(one_hot[:, 0].flatten(1)) @ features.T,
        "given": lambda one_hot: values,
        "every row": lambda one_hot: torch.einsum("mbnk,bnk->mb", one_hot, weights),
    }


class OneByOne(Exact):
    """The estimator, with each configuration's log-probability from its own matrix."""

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Noise) -> Tensor:
        return one_by_one(policy, f)


def updates(batch: int, n: int, K: int, generator: torch.Generator) -> dict[str, Callable[[int], object]]:
    """Losses of an autoencoder and their gradients, so many."""
    encoder = nn.Sequential(nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, n * K))
    decoder = nn.Sequential(nn.Linear(n * K, 128), nn.ReLU(), nn.Linear(128, FEATURES))
    x = torch.rand(batch, FEATURES, generator=generator).round()

    def learner(estimator: Exact) -> Callable[[], object]:
        vae = CategoricalVAE(encoder, decoder, n, K, estimator)
        return lambda: torch.autograd.grad(vae.loss(x), list(vae.parameters()))

    return {"one_by_one": repeated(learner(OneByOne())), "by_outer_sums": repeated(learner(Exact()))}


def timed(
    expectation: Callable[[FactoredCategorical, Objective], Tensor], logits: Tensor, f: Objective
) -> Callable[[int], None]:
    """Forward and backward passes, so many."""

    def run(count: int) -> None:
        for _ in range(count):
            torch.autograd.grad(expectation(FactoredCategorical(logits), f).mean(), logits)

    return run


def main(*, rounds: int = 30, out: Path | None = None) -> None:
    """Measures, prints and, on request, writes the result."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for batch, n, K in SHAPES:
        logits = torch.randn(batch, n, K, generator=generator).requires_grad_()
        compared: dict[str, dict[str, Callable[[int], object]]] = {
            name: {each.__name__: timed(each, logits, f) for each in (one_by_one, by_outer_sums)}
            for name, f in objectives(batch, n, K, generator).items()
        }
        compared["autoencoder"] = updates(batch, n, K, generator)
        for name, subjects in compared.items():
            medians = in_turns(subjects, max(1, 2**15 // (batch * K**n)), rounds, time.process_time).median()
            slow, fast = medians["one_by_one"], medians["by_outer_sums"]
            rows.append(
                {
                    **{"batch": batch, "n": n, "K": K, "f": name},
                    **{"one_by_one_ms": round(1e3 * slow, 3), "by_outer_sums_ms": round(1e3 * fast, 3)},
                    "times_faster": round(slow / fast, 1),
                }
            )
    print(pd.DataFrame(rows).to_string(index=False))
    record(out, {"rows": rows})


if __name__ == "__main__":
    start(main, __doc__)
