"""Agents in an environment whose messages are taught by who listens to them, and two that they are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gsrl.comms import DIAL
from gsrl.runs.cards import TalkingCard
from gsrl.runs.errors import UsageError
from gsrl.runs.settings import Setting

__all__ = ["CARD", "NO_COMMUNICATION", "RIAL"]

LISTED = 3
"""Prisoners up to whom every order of visits is played in an evaluation, 729 of them; for more, some are drawn."""


def play(
    teams: DIAL,
    settings: Any,
    episodes: int,
    *,
    seed: int = 0,
    scramble: bool = False,
    deterministic: bool = True,
    split: str = "train",
) -> NDArray[np.float64]:
    """Returns of episodes with the best actions and hard messages, ``[teams, episodes]``.

    With three prisoners every order of visits is played once instead: what they are worth is exact.
    """
    if not deterministic:
        raise ValueError("stochastic must be off for agents that act by the largest value")
    if split != "train":
        raise ValueError(f"split must be train, for all episodes are of one kind here, but got {split}")
    if settings.prisoners > LISTED:
        return teams.evaluate(episodes, scramble=scramble, seed=seed).returns
    visits = _riddle().all_visits(settings.prisoners)
    return teams.evaluate(len(visits), scramble=scramble, seed=seed, env=_make_env("", settings, visits)).returns


def _make_env(env: str, settings: Any, *visits: Any) -> Callable[[], Any]:
    riddle = _riddle()
    return lambda: riddle.SwitchRiddle(settings.prisoners, *visits)


def _best_return(env: str, settings: Any) -> float:
    return float(_riddle().optimal_return(settings.prisoners))


def _riddle() -> Any:
    """The module of the environment."""
    try:
        from envs import switch_riddle
    except ModuleNotFoundError as error:
        if error.name != "pettingzoo":
            raise
        remedy = 'pip install -e ".[pettingzoo]"'
        raise UsageError(f"switch-riddle needs pettingzoo, which is not installed: {remedy}") from None
    return switch_riddle


_SHARED = {"prisoners": Setting(3, int, "Of the switch riddle."), "hidden": Setting(64)}

CARD = TalkingCard(
    name="dial",
    algorithm=DIAL,
    summary="agents that act and talk: the listener's error teaches the speaker, through the message",
    source='Foerster et al., "Learning to Communicate with Deep Multi-Agent Reinforcement Learning", 2016',
    own={
        **_SHARED,
        "estimator": Setting(
            "st-gumbel",
            Literal["st-gumbel", "gumbel-softmax", "gumbel-rao", "gapped-st", "straight-through", "reinmax"],
        ),
        "temperature": Setting(1.0, float, "Temperature of the relaxation."),
    },
    fixed={"communication": "dial"},
    made={"env": _make_env},
    tuned={
        "switch-riddle": {"steps": 32_000, "hidden": 128, "batch_size": 8, "learning_rate": 2e-3, "linear_decay": True}
    },
    environments={"switch-riddle": "return"},
    play=play,
    best_score=_best_return,
)

# After reinforced inter-agent learning of the same paper, where messages are learned by their values.
RIAL = dataclasses.replace(
    CARD,
    name="rial",
    summary="agents that act and talk: messages are learned by REINFORCE",
    own=_SHARED,
    fixed={"communication": "rial", "estimator": "reinforce"},
    without=("temperature",),
)

# What they reach anyone reaches without a word.
NO_COMMUNICATION = dataclasses.replace(
    RIAL,
    name="no-communication",
    summary="agents that act where others talk, and hear nothing: the baseline",
    fixed={"communication": "none", "estimator": None},
    without=("temperature", "vocabulary", "length", "entropy_bonus"),
)
