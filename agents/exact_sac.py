"""Soft actor-critic for discrete actions whose actor follows the exact gradient, a sum over all actions."""

from __future__ import annotations

import dataclasses

from agents import discrete_sac

__all__ = ["CARD"]

CARD = dataclasses.replace(
    discrete_sac.CARD,
    name="exact-sac",
    summary="discrete soft actor-critic, exact gradient",
    own={},
    fixed={"estimator": "exact", "temperature": None},
)
