"""A sender and a receiver who agree on a language, because both are paid where the receiver understands.

The gradient gets from the receiver to the sender through the message, by any estimator.
"""

from __future__ import annotations

from typing import Any, Literal

from agents.games import CHANNEL, OPTIONS, best_score, make_channel, make_game, play
from gsrl.comms import Channel, DiscriminationGame, LewisGame, SignallingGame
from gsrl.runs.cards import TalkingCard
from gsrl.runs.settings import Setting

__all__ = ["CARD"]

ESTIMATORS: Any = Literal[
    *("st-gumbel", "gumbel-softmax", "gumbel-rao", "gapped-st", "straight-through", "reinmax", "reinforce", "rloo"),
    *("exact", "muprop", "rebar", "relax", "arsm", "unordered-set"),
]
AGENTS = Literal["mlp", "gru", "lstm"]

_ATTRIBUTES = {"attributes": 2, "values": 10, "held_out": 0.2}

CARD = TalkingCard(
    name="signalling",
    algorithm=SignallingGame,
    summary="a sender and a receiver learn a language, the gradient through it an estimator's",
    source='Lewis, "Convention", 1969; Havrylov and Titov, "Emergence of Language with Multi-agent Games", 2017',
    constructors=(SignallingGame, Channel, LewisGame, DiscriminationGame),
    names=(
        *("meanings", "prior_exponent", "attributes", "values", "held_out", "candidates"),
        *CHANNEL,
        *("estimator", "temperature", "baseline", "num_samples"),
        *("sender", "receiver", "hidden", "learning_rate", "batch_size", "max_grad_norm"),
    ),
    own={
        **{name: Setting(None) for name in ("attributes", "values", "candidates")},
        "held_out": Setting(
            None, help="Share of the meanings that are never trained on; eval --split held_out plays them."
        ),
        "meanings": Setting(None, help="How many, in Lewis's game."),
        "prior_exponent": Setting(
            None,
            float | None,
            "Makes the i-th meaning i ** -exponent times as probable as the first, in Lewis's game; None: all are "
            "equally probable. The diversity bonus is at odds with it.",
        ),
        "vocabulary": Setting(10),
        "estimator": Setting(
            "st-gumbel",
            ESTIMATORS,
            "Estimator of the sender's gradient. Those from exact on are for messages of one symbol.",
        ),
        "temperature": Setting(
            help="Temperature of the relaxation, where the estimator has one. None: 2 for st-gumbel, gumbel-softmax "
            "and gumbel-rao, 1 for the others, of which rebar and relax learn theirs from there."
        ),
        "baseline": Setting("running-mean", Literal["running-mean", "none"], "Baseline of reinforce."),
        "num_samples": Setting(4, int, "Messages drawn of each meaning, of rloo and unordered-set."),
        "entropy_bonus": Setting(0.05),
        "diversity_bonus": Setting(1.0),
        **{name: Setting("mlp", AGENTS) for name in ("sender", "receiver")},
    },
    made={"game": make_game, "channel": make_channel},
    tuned={
        "lewis": {"steps": 64_000, "meanings": 10},
        "noisy-lewis": {"steps": 64_000, "meanings": 10, "erasure": 0.1},
        "attribute-value": {"steps": 153_600, **_ATTRIBUTES, "length": 3, "variable_length": True},
        "discrimination": {"steps": 128_000, **_ATTRIBUTES, "candidates": 5, "length": 2},
    },
    environments=dict.fromkeys(OPTIONS, "accuracy"),
    play=play,
    best_score=best_score,
)
