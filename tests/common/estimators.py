"""What tests of estimators share."""

from __future__ import annotations

from torch import Tensor

TEMPERATURE = 0.7


def vjp(soft: Tensor, slope: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """V(y, g, temperature) = y * (g - y . g) / temperature."""
    return soft * (slope - (soft * slope).sum(-1, keepdim=True)) / temperature
