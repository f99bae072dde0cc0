"""Noise of modules below a loss: drawn outside the mathematics, and handed in by the path of the module.

A module that samples, such as an extractor that prunes or a discrete latent, has an attribute ``noise``, None unless it
is handed some, and a method ``draw_noise(batch_shape, generator)`` that returns a tensor ``[*batch_shape, ...]``, or a
tree of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["draw", "handed", "noisy_modules"]


def noisy_modules(loss: nn.Module) -> dict[str, Any]:
    """The modules that take noise, by path; ``""`` is the loss itself.

    Example:
        >>> from gsrl.perception.latents import CategoricalVAE
        >>> vae = CategoricalVAE(nn.Linear(8, 6), nn.Linear(6, 8), n=2, K=3, estimator="st-gumbel")
        >>> list(noisy_modules(nn.ModuleDict({"encoder": nn.Linear(8, 8), "vae": vae})))
        ['vae']
    """
    return {
        path: module
        for path, module in loss.named_modules()
        if hasattr(module, "noise") and hasattr(module, "draw_noise")
    }


def draw(modules: Mapping[str, Any], batch_shape: Sequence[int], generator: torch.Generator) -> dict[str, Any]:
    """Noise of each module, by path, in their order.

    Args:
        modules: See :func:`noisy_modules`.
        batch_shape: Of what each is called with.
        generator: Source of randomness.

    Example:
        >>> from gsrl.perception.latents import CategoricalVAE
        >>> vae = CategoricalVAE(nn.Linear(8, 6), nn.Linear(6, 8), n=2, K=3, estimator="st-gumbel")
        >>> noise = draw({"vae": vae}, [10], torch.Generator().manual_seed(0))
        >>> noise["vae"].shape  # of ten images
        torch.Size([10, 2, 3])
    """
    return {path: module.draw_noise(batch_shape, generator) for path, module in modules.items()}


@contextmanager
def handed(modules: Mapping[str, Any], noise: Mapping[str, Any]) -> Iterator[None]:
    """For as long as it lasts, modules have their noise.

    Args:
        modules: See :func:`noisy_modules`.
        noise: By path; modules without an entry have none.

    Example:
        >>> from gsrl.perception.latents import CategoricalVAE
        >>> vae = CategoricalVAE(nn.Linear(8, 6), nn.Linear(6, 8), n=2, K=3, estimator="st-gumbel")
        >>> with handed({"vae": vae}, {"vae": torch.zeros(10, 2, 3)}):
        ...     vae.noise.shape
        torch.Size([10, 2, 3])
        >>> vae.noise is None
        True
    """
    found = [(vars(modules[path]), value) for path, value in noise.items()]
    before = [attributes.get("noise") for attributes, _ in found]
    for attributes, value in found:
        attributes["noise"] = value
    try:
        yield
    finally:
        for (attributes, _), value in zip(found, before, strict=True):
            attributes["noise"] = value
