"""Worlds of teams that are stepped in arrays, in the place of equal ones that are stepped one by one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gsrl.multi_agent import SplitActions
from gsrl.runs.teams import register_world


def _particles(name: str, **how: Any) -> Any:
    return getattr(import_module("envs.mpe"), name)(**how)  # which needs PettingZoo


register_world("mpe2/simple_speaker_listener_v4", lambda **how: _particles("SpeakerListenerEnv", **how))
register_world("mpe2/simple_reference_v3", lambda **how: SplitActions(_particles("ReferenceEnv", **how)))
register_world("mpe2/simple_spread_v3", lambda **how: _particles("SpreadEnv", **how))
