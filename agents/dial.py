"""Differentiable inter-agent learning: agents in an environment, whose messages are taught by who listens to them.

Source: Foerster et al., "Learning to Communicate with Deep Multi-Agent Reinforcement Learning", 2016;
:class:`gsrl.comms.DIAL`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents.common import UsageError
from gsrl import make_estimator
from gsrl.comms import DIAL

__all__ = ["ALGORITHM", "ENVIRONMENTS", "SUMMARY", "TUNED", "Settings", "Shared", "best_score", "learn", "load", "make"]
__all__ += ["make_team", "play"]

SUMMARY = "agents that act and talk: the listener's error teaches the speaker, through the message"

ALGORITHM = DIAL

ENVIRONMENTS = {"switch-riddle": "return"}

LISTED = 3
"""Prisoners up to whom every order of visits is played in an evaluation, 729 of them; for more, some are drawn."""


@dataclass(frozen=True)
class Shared:
    """Settings of all agents that talk in an environment, those that say nothing too."""

    prisoners: int = 3
    """Of the switch riddle."""
    hidden: int = 64
    """Width of the network."""
    layers: int = 1
    """Recurrent layers."""
    learning_rate: float = 3e-3
    """Step size of Adam."""
    linear_decay: bool = False
    """Whether it falls linearly to 0 over the training."""
    batch_size: int = 32
    """Episodes of an update."""
    gamma: float = 1.0
    """Discount."""
    epsilon: float = 0.2
    """Probability of a random action while training."""
    target_interval: int = 20
    """Updates after which the target network becomes a copy of the network."""
    max_grad_norm: float | None = 10.0
    """Largest norm of the gradient; None for no clipping."""


@dataclass(frozen=True)
class Settings(Shared):
    """Settings of agents that talk."""

    vocabulary: int = 2
    """Kinds of symbols: the switch has 2."""
    length: int = 1
    """Symbols of a message."""
    estimator: Literal["st-gumbel", "gumbel-softmax", "gumbel-rao", "gapped-st", "straight-through", "reinmax"] = (
        "st-gumbel"
    )
    """Estimator of the gradient through a message."""
    temperature: float = 1.0
    """Temperature of the relaxation."""
    entropy_bonus: float = 0.0
    """Weight of the entropy of messages, in nats."""


TUNED: dict[str, dict[str, Any]] = {
    "switch-riddle": {"steps": 32_000, "hidden": 128, "batch_size": 8, "learning_rate": 2e-3, "linear_decay": True}
}


def make(env: str, settings: Settings, *, seeds: Sequence[int], device: str, compile: bool = False) -> DIAL:
    """Builds the teams.

    Args:
        env: A key of :data:`ENVIRONMENTS`.
        settings: Their settings.
        seeds: Of each; they learn in lock-step.
        device: Where their networks are.
        compile: Whether updates are compiled.

    Raises:
        UsageError: The environment is not installed.
        ValueError: A setting is out of range; the message names it.
    """
    return make_team(
        settings,
        communication="dial",
        estimator=make_estimator(settings.estimator, temperature=settings.temperature),
        vocabulary=settings.vocabulary,
        length=settings.length,
        entropy_bonus=settings.entropy_bonus,
        seeds=seeds,
        device=device,
        compile=compile,
    )


def make_team(settings: Shared, **arguments: Any) -> DIAL:
    """Builds teams from the settings that all share, and what else :class:`gsrl.comms.DIAL` takes."""
    names = ("hidden", "layers", "learning_rate", "batch_size", "gamma", "epsilon", "target_interval", "max_grad_norm")
    riddle = _riddle()
    return DIAL(
        lambda: riddle.SwitchRiddle(settings.prisoners),
        **{name: getattr(settings, name) for name in names},
        **arguments,
    )


def learn(teams: DIAL, settings: Shared, updates: int, steps: int) -> None:
    """Trains for some updates.

    Args:
        teams: Who learns.
        settings: Their settings.
        updates: How many.
        steps: Episodes of the whole training.
    """
    if settings.linear_decay:
        teams.learning_rate = lambda remaining: settings.learning_rate * remaining
    teams.learn(updates * teams.batch_size, total=steps, log_interval=steps)  # evaluations are the run's affair


def play(
    teams: DIAL,
    settings: Shared,
    episodes: int,
    *,
    seed: int = 0,
    scramble: bool = False,
    deterministic: bool = True,
    split: str = "train",
) -> NDArray[np.float64]:
    """Returns of episodes with the best actions and hard messages, ``[teams, episodes]``.

    With three prisoners every order of visits is played once instead: what they are worth is exact.

    Args:
        teams: Who plays.
        settings: Their settings.
        episodes: How many are drawn.
        seed: Of the draws.
        scramble: Whether what is heard is shuffled across episodes.
        deterministic: Whether the best actions are taken; there is nothing else.
        split: Of the episodes; there is none but ``"train"``.

    Raises:
        ValueError: There is no such evaluation.
    """
    if not deterministic:
        raise ValueError("stochastic must be off for agents that act by the largest value")
    if split != "train":
        raise ValueError(f"split must be train, for all episodes are of one kind here, but got {split}")
    if settings.prisoners > LISTED:
        return teams.evaluate(episodes, scramble=scramble, seed=seed).returns
    riddle = _riddle()
    visits = riddle.all_visits(settings.prisoners)
    listed = lambda: riddle.SwitchRiddle(settings.prisoners, visits)  # noqa: E731
    return teams.evaluate(len(visits), scramble=scramble, seed=seed, env=listed).returns


def best_score(env: str, settings: Shared) -> float:
    """The expected return of an oracle."""
    optimum: float = _riddle().optimal_return(settings.prisoners)
    return optimum


def load(path: Path, settings: Shared, device: str) -> DIAL:
    """Loads a saved team.

    Args:
        path: Of its file.
        settings: Its settings.
        device: Where its networks are to be.

    Raises:
        gsrl.checkpoint.CheckpointError: The file is damaged.
    """
    riddle = _riddle()
    return DIAL.load(path, lambda: riddle.SwitchRiddle(settings.prisoners), device=device)


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
