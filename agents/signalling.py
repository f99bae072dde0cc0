"""A sender and a receiver who agree on a language, because both are paid where the receiver understands.

The gradient gets from the receiver to the sender through the message, by any estimator. Sources: Lewis, "Convention",
1969; Havrylov and Titov, "Emergence of Language with Multi-agent Games", 2017; :class:`gsrl.comms.SignallingGame`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gsrl.comms import AttributeValueGame, Channel, DiscriminationGame, Game, LewisGame, SignallingGame

__all__ = [
    "ALGORITHM",
    "ENVIRONMENTS",
    "SUMMARY",
    "TUNED",
    "Settings",
    "best_score",
    "learn",
    "load",
    "make",
    "make_channel",
    "make_game",
    "play",
]

SUMMARY = "a sender and a receiver learn a language, the gradient through it an estimator's"

ALGORITHM = SignallingGame

ENVIRONMENTS = dict.fromkeys(("lewis", "noisy-lewis", "attribute-value", "discrimination"), "accuracy")

OPTIONS = {
    "lewis": ("meanings", "prior_exponent"),
    "noisy-lewis": ("meanings", "prior_exponent"),
    "attribute-value": ("attributes", "values", "held_out"),
    "discrimination": ("attributes", "values", "held_out", "candidates"),
}
"""Settings that say which game it is, by environment."""

TEMPERATURES = {
    **dict.fromkeys(("st-gumbel", "gumbel-softmax", "gumbel-rao"), 2.0),
    **dict.fromkeys(("gapped-st", "straight-through", "reinmax", "rebar", "relax"), 1.0),
}
"""Estimators with a temperature, and what it is unless given."""


@dataclass(frozen=True)
class Settings:
    """Settings of game, channel and agents."""

    meanings: int | None = None
    """How many, in Lewis's game."""
    prior_exponent: float | None = None
    """Makes the i-th meaning i ** -exponent times as probable as the first, in Lewis's game; None: all are equally
    probable. The diversity bonus is at odds with it."""
    attributes: int | None = None
    """Attributes of a meaning, in attribute-value and discrimination games."""
    values: int | None = None
    """Values of each attribute, in these."""
    held_out: float | None = None
    """Share of the meanings that are never trained on, in these; `eval --split held_out` plays them."""
    candidates: int | None = None
    """Among which the receiver chooses, in discrimination games."""
    vocabulary: int = 10
    """Symbols that carry meaning."""
    length: int = 1
    """Most symbols of a message."""
    variable_length: bool = False
    """Whether the sender may end its messages early."""
    length_cost: float = 0.0
    """Cost of each symbol, in nats, where the length is variable."""
    erasure: float = 0.0
    """Probability that a symbol gets lost, and the receiver sees that."""
    substitution: float = 0.0
    """Probability that a symbol arrives as another one, drawn uniformly."""
    permutation: float = 0.0
    """Probability that the symbols of a message arrive in random order."""
    estimator: Literal[
        "st-gumbel",
        "gumbel-softmax",
        "gumbel-rao",
        "gapped-st",
        "straight-through",
        "reinmax",
        "reinforce",
        "rloo",
        "exact",
        "muprop",
        "rebar",
        "relax",
        "arsm",
        "unordered-set",
    ] = "st-gumbel"
    """Estimator of the sender's gradient. Those from exact on are for messages of one symbol."""
    temperature: float | None = None
    """Temperature of the relaxation, where the estimator has one. None: 2 for st-gumbel, gumbel-softmax and gumbel-rao,
    1 for the others, of which rebar and relax learn theirs from there."""
    baseline: Literal["running-mean", "none"] = "running-mean"
    """Baseline of reinforce."""
    num_samples: int = 4
    """Messages drawn of each meaning, of rloo and unordered-set: a step is a meaning, however many they are."""
    entropy_bonus: float = 0.05
    """Worth of a nat of the sender's entropy, in nats of the game's cost."""
    diversity_bonus: float = 1.0
    """Worth of a nat of the entropy of the symbols over a batch: it keeps all in use."""
    sender: Literal["mlp", "gru", "lstm"] = "mlp"
    """Network of the sender; mlp chooses all symbols at once."""
    receiver: Literal["mlp", "gru", "lstm"] = "mlp"
    """Network of the receiver."""
    hidden: int = 64
    """Width of both."""
    learning_rate: float = 1e-2
    """Step size of Adam."""
    batch_size: int = 128
    """Episodes of an update."""
    max_grad_norm: float | None = None
    """Largest norm of the gradient of each agent; None for no clipping."""


TUNED: dict[str, dict[str, Any]] = {
    "lewis": {"steps": 64_000, "meanings": 10},
    "noisy-lewis": {"steps": 64_000, "meanings": 10, "erasure": 0.1},
    "attribute-value": {
        "steps": 153_600,
        "attributes": 2,
        "values": 10,
        "held_out": 0.2,
        "length": 3,
        "variable_length": True,
    },
    "discrimination": {
        "steps": 128_000,
        "attributes": 2,
        "values": 10,
        "held_out": 0.2,
        "candidates": 5,
        "length": 2,
    },
}


def make(env: str, settings: Settings, *, seeds: Sequence[int], device: str, compile: bool = False) -> SignallingGame:
    """Builds the games.

    Args:
        env: A key of :data:`ENVIRONMENTS`.
        settings: Their settings.
        seeds: Of each; they are played in lock-step.
        device: Where their networks are.
        compile: Whether updates are compiled.

    Raises:
        ValueError: A setting is out of range, or not one of this game; the message names it.
    """
    if not settings.hidden >= 1:
        raise ValueError(f"hidden must be at least 1, but got {settings.hidden}")
    return SignallingGame(
        make_game(env, settings),
        make_channel(settings),
        settings.sender,
        settings.receiver,
        seeds=seeds,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        hidden=settings.hidden,
        max_grad_norm=settings.max_grad_norm,
        device=device,
        compile=compile,
    )


def make_game(env: str, settings: Settings) -> Game:
    """Builds the game alone; arguments and errors are those of :func:`make`."""
    known = OPTIONS[env]
    for name in dict.fromkeys(name for names in OPTIONS.values() for name in names):
        value = getattr(settings, name)
        if value is not None and name not in known:
            raise ValueError(f"{name} must be None in {env}, which has {' and '.join(known)}, but got {value}")
    if known == OPTIONS["lewis"]:
        exponent, meanings = settings.prior_exponent, settings.meanings
        has_prior = exponent is not None and isinstance(meanings, int) and meanings >= 2
        prior = np.arange(1, meanings + 1) ** -exponent if has_prior else None  # type: ignore[operator]
        return LewisGame(meanings, prior)  # type: ignore[arg-type]  # which answers for None
    options: dict[str, Any] = {name: getattr(settings, name) for name in known}
    return AttributeValueGame(**options) if env == "attribute-value" else DiscriminationGame(**options)


def make_channel(settings: Settings) -> Channel:
    """Builds the channel alone; arguments and errors are those of :func:`make`."""
    name, given = settings.estimator, settings.temperature
    options: dict[str, Any] = {}
    if name in TEMPERATURES:
        if given is not None and not given > 0:
            raise ValueError(f"temperature must be positive, but got {given}")
        options["temperature"] = TEMPERATURES[name] if given is None else given
    elif given is not None:
        raise ValueError(f"temperature must be None with {name}, which has none, but got {given}")
    if name == "reinforce":
        options["baseline"] = settings.baseline
    if name in ("rloo", "unordered-set"):
        options["num_samples"] = settings.num_samples
    names = ("vocabulary", "length", "variable_length", "length_cost", "erasure", "substitution", "permutation")
    options |= {name: getattr(settings, name) for name in (*names, "entropy_bonus", "diversity_bonus")}
    return Channel(estimator=name, **options)


def learn(games: SignallingGame, settings: Settings, updates: int, steps: int) -> None:
    """Trains for some updates.

    Args:
        games: What learns.
        settings: Its settings.
        updates: How many.
        steps: Episodes of the whole training.
    """
    games.learn(
        updates, total=steps, log_interval=steps
    )  # further apart than updates: evaluations are the run's affair


def play(
    games: SignallingGame,
    settings: Settings,
    episodes: int,
    *,
    seed: int = 0,
    scramble: bool = False,
    deterministic: bool = True,
    split: str = "train",
) -> NDArray[np.float64]:
    """Whether each answer was right, with hard messages, 1 or 0: ``[games, episodes]``.

    Where meanings are equally likely, and an episode has nothing else that is random, each meaning is played once
    instead.

    Args:
        games: Who plays.
        settings: Their settings.
        episodes: How many are drawn.
        seed: Of the draws.
        scramble: Whether messages are shuffled across episodes.
        deterministic: Whether the most probable symbols are sent; otherwise they are sampled.
        split: Of the meanings.

    Raises:
        ValueError: The game has no such meanings.
    """
    game = games.game
    listed = game.exhaustive and game.prior is None and not games.channel.is_noisy and deterministic and not scramble
    result = games.evaluate(
        split, None if listed else episodes, scramble=scramble, deterministic=deterministic, seed=seed
    )
    return result.correct.astype(np.float64)


def best_score(env: str, settings: Settings) -> float | None:
    r"""The best accuracy there can be, where a formula is known: Lewis's game, one symbol, meanings equally likely.

    With n meanings, K symbols of which a share e is erased:
    :math:`(1 - e) \min(1, K / n) + e / n`; where s of them are substituted, :math:`(1 - s) \min(1, K / n)`, which is
    right for :math:`K \le n` and :math:`s \le 1 - 1 / K`.
    """
    n, K, s = settings.meanings, settings.vocabulary, settings.substitution
    is_plain = settings.length == 1 and not settings.variable_length and settings.prior_exponent is None
    if n is None or not is_plain or (s > 0 and (n < K or s > 1 - 1 / K)):
        return None
    return (1 - settings.erasure) * (1 - s) * min(1.0, K / n) + settings.erasure / n


def load(path: Path, settings: Settings, device: str) -> SignallingGame:
    """Loads a saved game.

    Args:
        path: Of its file.
        settings: Its settings.
        device: Where its networks are to be.

    Raises:
        gsrl.checkpoint.CheckpointError: The file is damaged.
    """
    return SignallingGame.load(path, device=device)
