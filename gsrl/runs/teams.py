"""The worlds of teams, by name: how they are made, and how teams play in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsrl.multi_agent import MultiAgentSAC, Speech, SplitActions

__all__ = ["ENVIRONMENTS", "make_world", "play", "register_world", "world_maker"]

_MAKERS: dict[str, Callable[..., Any]] = {}

ENVIRONMENTS: dict[str, str] = {}
"""What a score is in each, by name."""


def register_world(name: str, make: Callable[..., Any]) -> None:
    """Gives a name to worlds that teams can be trained in; one that has it already is made otherwise from now on.

    Args:
        name: Such as ``"mpe2/simple_spread_v3"``.
        make: Makes a world of PettingZoo's Parallel interface, with ``render_mode="rgb_array"`` one that draws itself.
    """
    _MAKERS[name], ENVIRONMENTS[name] = make, "return"


def make_world(name: str, **how: Any) -> Any:
    """Makes a world.

    Args:
        name: Of :data:`ENVIRONMENTS`.
        **how: ``render_mode``.
    """
    return _MAKERS[name](**how)


def world_maker(name: str, settings: Any) -> Callable[[], Any]:
    """What makes the worlds of a name; settings are the team's own."""
    return lambda: make_world(name)


def play(
    team: MultiAgentSAC, settings: Any, episodes: int, *, seed: int = 0, scramble: bool = False
) -> NDArray[np.float64]:
    """The mean return of the agents in each episode, with the most probable choices, ``[teams, episodes]``."""
    returns: NDArray[np.float64] = team.evaluate(episodes, seed=seed, scramble=scramble).mean(-1)
    return returns


# mpe2's worlds. A zoo may know faster ones of the same names.

_GOAL, _WORDS = (8, 9, 10), tuple(range(11, 21))

_SPEECH: dict[str, Mapping[str, Speech]] = {
    "simple_speaker_listener_v4": {
        "speaker_0": Speech(factors=(0,), private=(0, 1, 2)),
        "listener_0": Speech(heard=(8, 9, 10)),
    },
    "simple_reference_v3": dict.fromkeys(("agent_0", "agent_1"), Speech(heard=_WORDS, private=_GOAL)),
    "simple_spread_v3": {},
}

_FACTORS = {"simple_reference_v3": {agent: {"move": 5, "say": 10} for agent in ("agent_0", "agent_1")}}


def _particles(module: str) -> Callable[..., Any]:
    def make(**how: Any) -> Any:
        env = import_module(f"mpe2.{module}").parallel_env(**how)
        env.speech = _SPEECH[module]
        return SplitActions(env, _FACTORS[module]) if module in _FACTORS else env

    return make


for _module in _SPEECH:
    register_world(f"mpe2/{_module}", _particles(_module))
