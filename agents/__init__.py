"""The zoo: a file an agent, with its settings, tuned by environment, and what runs it.

An agent is a module with these names, of those that act in Gymnasium's environments, :data:`AGENTS`:

- ``SUMMARY``: one line that says what it is;
- ``ACTION_SPACES``: the Gymnasium action spaces it handles;
- ``MASKS``: what it does where an environment gives masks of legal actions: ``"kept"``; ``"required"``: kept, but they
  must be there, and in a method ``action_masks()``; or ``"ignored"``: it is not let into an environment that gives them
  by that method or in its observations;
- ``Settings``: a frozen dataclass, each field with its own docstring (the command line shows them);
- ``TUNED``: by environment, the settings that differ from the defaults, beside ``steps`` and ``n_envs``;
- ``EARLIER``, if any: what settings that stored ones lack were;
- ``make(env, settings, *, seed, device)``: the agent, a Stable-Baselines3 ``BaseAlgorithm``.

Those whose algorithm is gsrl's own can be trained in lock-step. They have

- ``ALGORITHM``: :class:`gsrl.DiscreteSAC`, whose updates can be compiled, so that ``make`` takes ``compile``; or
  :class:`gsrl.Reinforce`;
- ``arguments(env, settings)``: the algorithm's arguments; of the former, with the ``estimator``'s name and its
  ``temperature``.

Those that talk, :data:`TALKERS`, are a sender and a receiver, or a team, in environments of their own, which are none
of Gymnasium's. A step of theirs is an episode. Beside ``SUMMARY``, ``Settings`` and ``TUNED`` they have

- ``ENVIRONMENTS``: their environments, each with what a score is there: ``"accuracy"`` or ``"return"``;
- ``ALGORITHM``: :class:`gsrl.comms.SignallingGame` or :class:`gsrl.comms.DIAL`;
- ``make(env, settings, *, seeds, device, compile)``: that, of several seeds in lock-step;
- ``learn(model, settings, updates, steps)``, ``play(model, settings, episodes, ...)``, ``load(path, settings, device)``
  and ``best_score(env, settings)``: what :mod:`agents.talking` asks of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import ModuleType
from typing import Any, NamedTuple

from agents import (
    a2c,
    dial,
    discrete_sac,
    dqn,
    exact_sac,
    gumbel_sac,
    maskable_ppo,
    no_communication,
    ppo,
    qrdqn,
    reinforce,
    reinforce_baseline,
    reinforce_relax,
    reinforce_rloo,
    rial,
    sac,
    signalling,
)
from agents.common import UsageError
from gsrl.algorithms.discrete_sac import DiscreteSAC

__all__ = [
    "AGENTS",
    "TALKERS",
    "Defaults",
    "defaults",
    "earlier_settings",
    "get_agent",
    "in_lockstep",
    "nearest",
    "similar",
    "tuned_settings",
    "with_estimator",
]

AGENTS: dict[str, ModuleType] = {
    "discrete-sac": discrete_sac,
    "gumbel-sac": gumbel_sac,
    "exact-sac": exact_sac,
    "reinforce": reinforce,
    "reinforce-baseline": reinforce_baseline,
    "reinforce-rloo": reinforce_rloo,
    "reinforce-relax": reinforce_relax,
    "ppo": ppo,
    "maskable-ppo": maskable_ppo,
    "a2c": a2c,
    "dqn": dqn,
    "qrdqn": qrdqn,
    "sac": sac,
}
"""Every agent that acts in Gymnasium's environments, by its name."""

TALKERS: dict[str, ModuleType] = {
    "signalling": signalling,
    "dial": dial,
    "rial": rial,
    "no-communication": no_communication,
}
"""Every agent that talks, or is compared with those that do, by its name."""


class Defaults(NamedTuple):
    """What an agent uses on an environment unless told otherwise."""

    steps: int
    """Environment steps of a run."""
    n_envs: int
    """Environments stepped together."""
    settings: Any
    """The agent's ``Settings``."""


def get_agent(name: str) -> ModuleType:
    """Returns the module of an agent.

    Args:
        name: A key of :data:`AGENTS` or :data:`TALKERS`.

    Raises:
        UsageError: There is no such agent; the message offers the nearest names.
    """
    agents = AGENTS | TALKERS
    if name not in agents:
        raise UsageError(f"unknown agent {name!r}; {nearest(name, agents)}")
    return agents[name]


def defaults(name: str, env_id: str, *, tuned: bool = True) -> Defaults:
    """Returns the tuned settings of an agent on an environment, or the agent's own where it has not been tuned.

    Args:
        name: A key of :data:`AGENTS` or :data:`TALKERS`.
        env_id: Gymnasium's name of the environment; of the latter, their own.
        tuned: Whether tuned settings are asked for; else the agent's own.

    Raises:
        UsageError: There is no such agent.
    """
    agent = get_agent(name)
    settings = dict((tuned_settings(name, env_id) if tuned else None) or {})
    steps = settings.pop("steps", 100_000)
    n_envs = settings.pop("n_envs", 1)
    return Defaults(steps, n_envs, agent.Settings(**settings))


def tuned_settings(name: str, env_id: str) -> dict[str, Any] | None:
    """Returns what differs from an agent's defaults on an environment; None where it has not been tuned.

    Args:
        name: A key of :data:`AGENTS` or :data:`TALKERS`.
        env_id: Name of the environment, with the module that registers it or without.
    """
    tuned: dict[str, Any] | None = get_agent(name).TUNED.get(env_id.rpartition(":")[2])
    return tuned


def earlier_settings(name: str) -> dict[str, Any]:
    """Returns what settings were before they had a name, or when their default was another: stored ones may lack them.

    Args:
        name: A key of :data:`AGENTS` or :data:`TALKERS`.
    """
    return dict(getattr(get_agent(name), "EARLIER", {}))


def in_lockstep() -> list[str]:
    """Returns the names of the agents of Gymnasium's environments that can be trained in lock-step."""
    return [name for name, agent in AGENTS.items() if hasattr(agent, "ALGORITHM")]


def with_estimator() -> list[str]:
    """Returns the names of the agents whose actor's gradient is an estimator's: it can be measured, and compiled."""
    return [name for name in in_lockstep() if AGENTS[name].ALGORITHM is DiscreteSAC]


def nearest(name: str, names: Iterable[str]) -> str:
    """Says which of ``names`` are nearest to a misspelt one, or lists them when none is near."""
    names = sorted(names)
    near = similar(name, names)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"


def similar(name: str, names: Iterable[str]) -> list[str]:
    """Returns those of ``names`` that may have been meant by a misspelt one.

    Capitals do not count, nor how words are joined: ``st_gumbel`` is ``st-gumbel``. ``lr`` is short for
    ``learning-rate``, and ``MaskedGrid-v0`` for ``gsrl/MaskedGrid-v0``.
    """
    names = sorted(names)
    meant, plain = _plain(name), {each: _plain(each) for each in names}
    return (
        [each for each in names if plain[each] == meant]
        or [each for each in names if plain[each].endswith(f"/{meant}") or _initials(plain[each]) == meant]
        or [
            each
            for close in difflib.get_close_matches(meant, dict.fromkeys(plain.values()), n=3, cutoff=0.5)
            for each in names
            if plain[each] == close
        ]
    )


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").strip("- ")


def _initials(plain: str) -> str:
    words = plain.split("-")
    return "".join(word[:1] for word in words) if len(words) > 1 else ""
