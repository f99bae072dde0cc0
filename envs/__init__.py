"""Environments of the checkout; importing this package registers them with Gymnasium, under ids ``gsrl/...``."""

from envs import probes

__all__ = ["probes"]
