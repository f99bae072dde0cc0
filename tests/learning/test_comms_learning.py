"""Agents learn to talk, within seconds; what they say is what they are understood by."""

from __future__ import annotations

import numpy as np

from gsrl.comms import AttributeValueGame, Channel, LewisGame, SignallingGame

SEEDS = range(5)
BONUSES = {"entropy_bonus": 0.05, "diversity_bonus": 1.0}


def test_a_lewis_game_ends_in_a_signalling_system() -> None:
    channel = Channel(5, estimator="st-gumbel", **BONUSES)
    games = SignallingGame(LewisGame(5), channel, seeds=SEEDS)
    games.learn(600, log_interval=50, stop=1.0)
    perfect = games.evaluate().accuracy == 1.0
    assert perfect.sum() >= 4
    assert (games.samples_to(1.0) <= 600 * 128).sum() >= 4
    for index in np.flatnonzero(perfect):
        assert games.protocol(int(index)).is_one_to_one()
    # Three standard errors of 10,000 episodes at 1/5: .012.
    scrambled = games.evaluate(scramble=True).accuracy[perfect]
    assert (np.abs(scrambled - 0.2) < 0.012).all()


def test_fewer_symbols_than_meanings_reach_their_ceiling() -> None:
    channel = Channel(2, estimator="st-gumbel", **BONUSES)
    games = SignallingGame(LewisGame(4), channel, seeds=SEEDS).learn(400, stop=0.5)
    assert (games.evaluate().accuracy <= 0.5).all()
    assert (games.evaluate().accuracy == 0.5).sum() >= 4


def test_an_erasing_channel_leaves_what_can_be_guessed() -> None:
    channel = Channel(4, estimator="st-gumbel", erasure=0.3, **BONUSES)
    games = SignallingGame(LewisGame(4), channel, seeds=SEEDS).learn(300, log_interval=300)
    ceiling = 0.7 + 0.3 / 4
    accuracy = games.evaluate().accuracy
    assert (accuracy < ceiling + 0.0137).all()  # three standard errors
    assert (accuracy > ceiling - 0.02).sum() >= 4


def test_messages_of_several_symbols_tell_of_several_attributes() -> None:
    game = AttributeValueGame(2, 3, held_out=0.0)
    channel = Channel(3, 2, estimator="st-gumbel", **BONUSES)
    games = SignallingGame(game, channel, seeds=SEEDS).learn(400, stop=1.0)
    accuracy = games.evaluate().accuracy
    assert np.median(accuracy) >= 8 / 9
    assert (games.evaluate(scramble=True).accuracy < 0.2).all()


def test_messages_end_early_where_symbols_cost_something() -> None:
    # Four meanings, four symbols and a silence: the optimal code has a mean length of 3/4.
    channel = Channel(4, 4, variable_length=True, length_cost=0.1, temperature=2.0, **BONUSES)
    game = SignallingGame(LewisGame(4), channel, seed=0, batch_size=64, hidden=32).learn(150, log_interval=150)
    result = game.evaluate()
    assert result.mean_length <= 1.0
    assert result.accuracy >= 0.5
