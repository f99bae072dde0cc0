"""The mode of modules: networks learn in training mode, and are asked for values in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["evaluation_mode"]


@contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """For as long as it lasts, modules and their children drop nothing out, have no noise, and use running statistics.

    Noise is that of :mod:`gsrl.learning.noise`. Each of them then is in the mode that it was in. Modes are attributes
    of Python objects: what is recorded or compiled has the operations of either mode where the function was in it.
    """
    training: list[dict[str, Any]] = []
    noisy: list[tuple[dict[str, Any], Any]] = []
    for module in modules:
        _find(module, training, noisy)
    for attributes in training:
        attributes["training"] = False
    for attributes, _ in noisy:
        attributes["noise"] = None
    try:
        yield
    finally:
        for attributes in training:
            attributes["training"] = True
        for attributes, noise in noisy:
            attributes["noise"] = noise


def _find(module: nn.Module, training: list[dict[str, Any]], noisy: list[tuple[dict[str, Any], Any]]) -> None:
    """Lists the attributes of what is in training mode, and has noise, in a tenth of the time of ``modules()``."""
    attributes = vars(module)
    if attributes["training"]:
        training.append(attributes)
    if attributes.get("noise") is not None:
        noisy.append((attributes, attributes["noise"]))
    for child in attributes["_modules"].values():
        if child is not None:
            _find(child, training, noisy)
