"""The games of agents that talk: how they are made, played, and how good one can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsrl.comms import DIAL, AttributeValueGame, Channel, DiscriminationGame, Game, LewisGame, SignallingGame
from gsrl.comms.riddle import SwitchRiddle, all_visits, optimal_return
from gsrl.runs.cards import has_temperature

__all__ = [
    "CHANNEL",
    "OPTIONS",
    "SETTINGS",
    "best_return",
    "best_score",
    "make_channel",
    "make_game",
    "make_riddle",
    "play",
    "play_riddle",
]

OPTIONS = {
    **dict.fromkeys(("lewis", "noisy-lewis"), ("meanings", "prior_exponent")),
    "attribute-value": ("attributes", "values", "held_out"),
    "discrimination": ("attributes", "values", "held_out", "candidates"),
}
"""Settings that say which game it is, by environment."""

CHANNEL = (
    *("vocabulary", "length", "variable_length", "length_cost", "erasure", "substitution", "permutation"),
    *("entropy_bonus", "diversity_bonus"),
)
"""Settings of the channel that are arguments of its constructor."""

SETTINGS = (
    *CHANNEL,
    *("estimator", "temperature", "baseline", "num_samples"),
    *("sender", "receiver", "hidden", "learning_rate", "batch_size", "max_grad_norm"),
)
"""Settings of every signalling game, whatever is played: of the channel, its estimator, and the agents."""

TEMPERATURES = {
    **dict.fromkeys(("st-gumbel", "gumbel-softmax", "gumbel-rao"), 2.0),
    **dict.fromkeys(("gapped-st", "straight-through", "reinmax", "rebar", "relax"), 1.0),
}
"""Estimators with a temperature, and what it is unless given."""


LISTED = 3
"""Prisoners up to whom every order of visits is played in an evaluation, 729 of them; for more, some are drawn."""


def make_game(env: str, settings: Any) -> Game:
    """Builds the game of an environment."""
    known = OPTIONS[env]
    for name in dict.fromkeys(name for names in OPTIONS.values() for name in names):
        value = getattr(settings, name)
        if value is not None and name not in known:
            raise ValueError(f"{name} must be None in {env}, which has {' and '.join(known)}, but got {value}")
    if known == OPTIONS["lewis"]:
        exponent, meanings = settings.prior_exponent, settings.meanings
        has_prior = exponent is not None and isinstance(meanings, int) and meanings >= 2
        return LewisGame(meanings, np.arange(1, meanings + 1) ** -exponent if has_prior else None)
    options: dict[str, Any] = {name: getattr(settings, name) for name in known}
    return AttributeValueGame(**options) if env == "attribute-value" else DiscriminationGame(**options)


def make_channel(env: str, settings: Any) -> Channel:
    """Builds the channel between sender and receiver."""
    name, given = settings.estimator, settings.temperature
    if given is not None and not has_temperature(name):
        raise ValueError(f"temperature must be None with {name}, which has none, but got {given}")
    options: dict[str, Any] = {}
    temperature = TEMPERATURES.get(name) if given is None else given
    if temperature is not None:
        options["temperature"] = temperature
    if name == "reinforce":
        options["baseline"] = settings.baseline
    if name in ("rloo", "unordered-set"):
        options["num_samples"] = settings.num_samples
    return Channel(estimator=name, **options, **{each: getattr(settings, each) for each in CHANNEL})


def play(
    games: SignallingGame,
    settings: Any,
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
    """
    game = games.game
    listed = game.exhaustive and game.prior is None and not games.channel.is_noisy and deterministic and not scramble
    how: dict[str, Any] = {"scramble": scramble, "deterministic": deterministic, "seed": seed}
    return games.evaluate(split, None if listed else episodes, **how).correct.astype(np.float64)


def best_score(env: str, settings: Any) -> float | None:
    r"""The best accuracy there can be, where a formula is known: Lewis's game, one symbol, meanings equally likely.

    With n meanings, K symbols of which a share e is erased:
    :math:`(1 - e) \min(1, K / n) + e / n`; where s of them are substituted, :math:`(1 - s) \min(1, K / n)`, which is
    right for :math:`K \le n` and :math:`s \le 1 - 1 / K`.
    """
    n, K, s = settings.meanings, settings.vocabulary, settings.substitution
    is_plain = settings.length == 1 and not settings.variable_length and settings.prior_exponent is None
    if n is None or not is_plain or (s > 0 and (n < K or s > 1 - 1 / K)):
        return None
    best: float = (1 - settings.erasure) * (1 - s) * min(1.0, K / n) + settings.erasure / n
    return best


# The switch riddle


def play_riddle(
    teams: DIAL, settings: Any, episodes: int, *, seed: int = 0, scramble: bool = False
) -> NDArray[np.float64]:
    """Returns of episodes with the best actions and hard messages, ``[teams, episodes]``.

    With three prisoners every order of visits is played once instead: what they are worth is exact.
    """
    if settings.prisoners > LISTED:
        return teams.evaluate(episodes, scramble=scramble, seed=seed).returns
    visits = all_visits(settings.prisoners)
    return teams.evaluate(len(visits), scramble=scramble, seed=seed, env=make_riddle("", settings, visits)).returns


def make_riddle(env: str, settings: Any, *visits: Any) -> Callable[[], SwitchRiddle]:
    """What makes the environment of prisoners."""
    return lambda: SwitchRiddle(settings.prisoners, *visits)


def best_return(env: str, settings: Any) -> float:
    """The expected return of an oracle."""
    return optimal_return(settings.prisoners)
