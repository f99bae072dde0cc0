from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gsrl import checkpoint
from gsrl.comms import (
    AttributeValueGame,
    Channel,
    DiscriminationGame,
    LewisGame,
    MLPReceiver,
    MLPSender,
    RecurrentReceiver,
    SignallingGame,
)
from gsrl.runs.cards import get_card
from gsrl.temperature import LearnedTemperature, LinearTemperature


def lewis(n: int = 4, **settings: Any) -> SignallingGame:
    channel = settings.pop("channel", None) or Channel(n)
    return SignallingGame(
        LewisGame(n), channel, **{"seed": 0, "batch_size": 16, "hidden": 8, "learning_rate": 1e-3, **settings}
    )


def parameters(games: SignallingGame, index: int = 0) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in games.agents(index).state_dict().items()}


# A game does not depend on its company

CHANNELS = {
    "st-gumbel": lambda: Channel(4, temperature=LearnedTemperature(1.0, 0.1), substitution=0.1, erasure=0.1),
    "exact": lambda: Channel(4, estimator="exact"),
    "relax": lambda: Channel(4, estimator="relax"),
    "sequence": lambda: Channel(2, 3, variable_length=True, length_cost=0.1, permutation=0.2),
    "gumbel-rao": lambda: Channel(3, 2, estimator="gumbel-rao", num_samples=2),
    "rloo": lambda: Channel(2, 2, variable_length=True, estimator="rloo", num_samples=3, entropy_bonus=0.1),
    "reinforce": lambda: Channel(2, 2, estimator="reinforce", baseline="running-mean"),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_a_game_in_lock_step_is_what_it_would_be_alone(name: str) -> None:
    agents = {"sender": "gru", "receiver": "lstm"} if name in ("sequence", "rloo") else {}
    together = lewis(channel=CHANNELS[name](), seed=None, seeds=[5, 6, 7], **agents).learn(12)
    alone = lewis(channel=CHANNELS[name](), seed=6, **agents).learn(12)
    own = parameters(together, 1)
    for key, value in parameters(alone).items():
        torch.testing.assert_close(own[key], value, rtol=1e-4, atol=1e-5)
    # What they have drawn is the same to the bit.
    assert torch.equal(together.lockstep.generators[1].get_state(), alone.lockstep.generators[0].get_state())
    assert not torch.allclose(*(torch.cat([x.flatten() for x in parameters(together, i).values()]) for i in (1, 2)))


def test_global_generators_are_left_alone() -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    lewis(channel=Channel(2, 2, variable_length=True, erasure=0.2, permutation=0.1)).learn(3, log_interval=1)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # type: ignore[index]


def test_evaluation_changes_nothing_that_training_sees() -> None:
    first, second = lewis(channel=Channel(4, erasure=0.2)), lewis(channel=Channel(4, erasure=0.2))
    first.learn(6, log_interval=1)
    second.learn(6, log_interval=100)
    for name, value in parameters(first).items():
        assert torch.equal(value, parameters(second)[name])


# Evaluation


class Speller(nn.Module):
    """Names the meaning by its number, plainly."""

    def start(self, sender_input: Tensor) -> Tensor:
        return 50 * sender_input

    def step(self, state: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        return state, state


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, message: Tensor, receiver_input: Any) -> Tensor:
        # The erased symbol tells nothing; the first meaning is the guess.
        return 50 * self.weight * message[..., 0, :4] + 1e-3 * torch.eye(4)[0]


def plain(**channel: Any) -> SignallingGame:
    return lewis(channel=Channel(4, **channel), sender=Speller(), receiver=Reader())


def test_each_meaning_is_played_once_where_that_is_all() -> None:
    result = plain().evaluate()
    assert result.accuracy.tolist() == [1.0]
    assert result.messages[0].tolist() == result.meanings[0].tolist() == [[0], [1], [2], [3]]
    assert result.mean_length.tolist() == [1.0]
    assert result.cost[0] == pytest.approx(0.0, abs=1e-6)


def test_accuracy_weighs_meanings_by_their_probability() -> None:
    games = SignallingGame(LewisGame(4, prior=[1, 2, 3, 4]), Channel(2), lambda: MLPSender(4, 2), seed=0)
    result = games.evaluate()
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    assert result.accuracy[0] == pytest.approx(float(result.correct[0] @ weights))
    np.testing.assert_allclose(result.probabilities, weights, atol=1e-7)


@pytest.mark.parametrize(("noise", "ceiling"), [({"erasure": 0.3}, 0.7 + 0.3 / 4), ({"substitution": 0.3}, 0.7)])
def test_a_perfect_language_reaches_the_ceiling_of_a_noisy_channel(noise: dict[str, float], ceiling: float) -> None:
    # Three standard errors of 10,000 episodes are .0137: a true ceiling fails with probability .003.
    assert plain(**noise).evaluate().accuracy[0] == pytest.approx(ceiling, abs=0.0137)


def test_scrambled_messages_leave_chance() -> None:
    games = plain()
    assert games.evaluate(scramble=True).accuracy[0] == pytest.approx(0.25, abs=0.013)
    assert games.evaluate(scramble=True, episodes=10).correct.shape == (1, 10)


def test_sampled_messages_are_those_of_the_senders_probabilities() -> None:
    games = lewis(sender=lambda: MLPSender(4, 4, hidden=8))
    sent = games.evaluate(deterministic=False, episodes=20_000)
    agents = games.agents()
    probs = agents.sender.start(torch.eye(4))[0].softmax(-1)
    for meaning in range(4):
        own = sent.messages[0, sent.meanings[0, :, 0] == meaning, 0]
        share = np.bincount(own, minlength=4) / len(own)
        np.testing.assert_allclose(share, probs[meaning].detach().numpy(), atol=0.03)


def test_what_follows_the_end_is_not_reported() -> None:
    games = lewis(channel=Channel(2, 4, variable_length=True))
    result = games.evaluate()
    for message, length in zip(result.messages[0].tolist(), result.lengths[0].tolist(), strict=True):
        assert 0 not in message[:length]
        assert set(message[length:]) <= {0}


def test_the_language_is_a_table() -> None:
    games = plain()
    language = games.protocol()
    assert language.is_one_to_one()
    assert [row["meanings"] for row in language.table()] == ["0", "1", "2", "3"]
    assert sum(row["probability"] for row in plain(erasure=0.2).protocol().table()) == pytest.approx(1.0)


# Saving


@pytest.mark.parametrize("seeds", [None, [3, 4]])
@pytest.mark.parametrize("compiled_after", [4, 120])  # 120: while the gradient is replayed from a record
def test_a_restored_game_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, seeds: list[int] | None, compiled_after: int
) -> None:
    def made() -> SignallingGame:
        channel = Channel(
            3,
            2,
            variable_length=True,
            temperature=LinearTemperature(2.0, 0.5, 10),
            erasure=0.1,
            entropy_bonus=LinearTemperature(0.2, 0.1, 8),
        )
        game = AttributeValueGame(2, 2, held_out=0.25, split_seed=1)
        return SignallingGame(
            game, channel, seed=3 if seeds is None else None, seeds=seeds, batch_size=8, hidden=8, learning_rate=3e-3
        )

    whole = made().learn(compiled_after + 5, log_interval=2)
    part = made().learn(compiled_after, log_interval=2)
    part.save(tmp_path / "games.zip")
    restored = SignallingGame.load(tmp_path / "games.zip")
    assert restored.history == part.history
    assert restored.seeds == part.seeds
    restored.learn(5, log_interval=2)
    assert restored.num_updates == whole.num_updates
    assert restored.history == whole.history
    for index in range(len(whole.seeds)):
        for name, value in parameters(whole, index).items():
            assert torch.equal(value, parameters(restored, index)[name]), name


def test_agents_of_ones_own_are_given_again(tmp_path: Path) -> None:
    def make_receiver() -> nn.Module:
        return MLPReceiver(4, 4, hidden=5)

    games = lewis(receiver=make_receiver).learn(3)
    with pytest.warns(UserWarning, match="receiver is saved as a name only"):
        games.save(tmp_path / "games.zip")
    with pytest.raises(checkpoint.CheckpointError, match="receiver"):
        SignallingGame.load(tmp_path / "games.zip")
    restored = SignallingGame.load(tmp_path / "games.zip", custom_objects={"receiver": make_receiver})
    for name, value in parameters(games).items():
        assert torch.equal(value, parameters(restored)[name])


def test_other_files_are_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "other.zip", {"algorithm": "DiscreteSAC"})
    with pytest.raises(checkpoint.CheckpointError, match="not a saved SignallingGame"):
        SignallingGame.load(tmp_path / "other.zip")


def test_states_of_other_games_are_refused() -> None:
    games = lewis()
    with pytest.raises(ValueError, match="must hold 1 members, but got 2"):
        games.load_state_dict(lewis(seed=None, seeds=[0, 1]).state_dict())
    state = copy.deepcopy(games.state_dict())
    del state["members"][0]["loss"]["receiver.network.0.weight"]
    with pytest.raises(checkpoint.CheckpointError, match=r"receiver\.network\.0\.weight is missing"):
        games.load_state_dict(state)


# Training


def test_learning_stops_where_all_games_have_reached_the_accuracy() -> None:
    channel = Channel(3, entropy_bonus=0.2)
    games = lewis(2, seed=None, seeds=[0, 1], batch_size=32, hidden=32, learning_rate=1e-2, channel=channel)
    games.learn(1_000, log_interval=10, stop=1.0)
    assert games.num_updates < 1_000
    reached = games.samples_to(1.0)
    assert reached.max() == games.num_samples == 32 * games.num_updates
    assert (reached % 320 == 0).all()
    assert np.isinf(games.samples_to(1.1)).all()
    first = next(row["samples"] for row in games.history if row["accuracy"][0] >= 1.0)
    assert reached[0] == first


def test_a_callback_may_end_the_training() -> None:
    seen = []
    games = lewis().learn(100, lambda g: seen.append(g.num_updates) or len(seen) < 3, log_interval=5)  # type: ignore[func-returns-value]
    assert seen == [5, 10, 15]
    assert games.num_updates == 15


def test_tensorboard_has_a_run_for_each_game(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    channel = Channel(4, temperature=LinearTemperature(1.0, 0.5, 10), entropy_bonus=LinearTemperature(0.5, 0.1, 4))
    games = lewis(seed=None, seeds=[3, 9], channel=channel, tensorboard_log=str(tmp_path)).learn(4, log_interval=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["signalling_seed_3_1", "signalling_seed_9_1"]
    events = EventAccumulator(str(tmp_path / "signalling_seed_9_1"))
    events.Reload()
    accuracies = [(event.step, event.value) for event in events.Scalars("eval/accuracy")]
    assert accuracies == [(row["updates"], pytest.approx(row["accuracy"][1])) for row in games.history]
    names = {"cost", "entropy", "length", "temperature", "entropy_bonus", "gradient_norm_sender"}
    assert {f"train/{name}" for name in names} <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("train/temperature")] == pytest.approx([0.9, 0.8])


def test_a_game_that_diverges_is_frozen_and_named() -> None:
    games = lewis(seed=None, seeds=[0, 1])
    with torch.no_grad():
        next(games.agents(1).receiver.parameters()).fill_(math.nan)
    before = parameters(games, 0)
    with pytest.warns(UserWarning, match="the game of seed 1 diverged"):
        games.learn(5, log_interval=5)
    assert not torch.equal(before["receiver.network.0.weight"], parameters(games)["receiver.network.0.weight"])
    alone = lewis()
    with torch.no_grad():
        next(alone.agents().receiver.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match="the training diverged"):
        alone.learn(5)


@pytest.mark.parametrize("sender", ["mlp", "gru", "lstm"])
def test_games_with_candidates_are_played_by_all_agents(sender: str) -> None:
    game = DiscriminationGame(2, 3, candidates=3)
    games = SignallingGame(game, Channel(3, 2), sender, sender, seeds=[0, 1], batch_size=8, hidden=8).learn(2)
    result = games.evaluate("held_out", episodes=50)
    assert result.correct.shape == (2, 50)
    assert len(games.history) == 0


# Errors


def test_agents_that_do_not_fit_are_refused_before_training() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"receiver": lambda: MLPReceiver(3, 4)}, "receiver must take the channel's messages.*width of 4"),
        ({"receiver": lambda: MLPReceiver(4, 3)}, "receiver must answer with the game's 4 outputs"),
        ({"receiver": lambda: RecurrentReceiver(5, 4)}, "receiver must take the channel's messages"),
        ({"sender": lambda: MLPSender(3, 4)}, "sender must take inputs of the game"),
        ({"sender": lambda: MLPSender(4, 5)}, "sender must choose among the channel's 4 symbols"),
        ({"sender": lambda: nn.Linear(4, 4)}, "sender must take inputs of the game"),
    ]
    for agents, message in cases:
        with pytest.raises(ValueError, match=message):
            lewis(**agents)


def test_a_game_whose_agents_spaces_disagree_is_refused() -> None:
    for name, message in (
        ("sender_features", "game must give senders its sender_features, 5 numbers, but gives 4"),
        ("outputs", "game must take answers of its own 5 outputs, but cannot"),
    ):
        game = AttributeValueGame(2, 2, held_out=0.0)
        setattr(game, name, 5)
        with pytest.raises(ValueError, match=message):
            SignallingGame(game, Channel(4), seed=0)


def test_an_estimator_that_does_not_fit_the_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="arm is for binary factors"):
        lewis(channel=Channel(4, estimator="arm"))


def test_other_arguments_are_refused_by_name() -> None:
    channel = Channel(4)
    for arguments, error, message in [
        (("lewis", channel), TypeError, "game must be a gsrl.comms.Game"),
        ((LewisGame(4), 4), TypeError, "channel must be a gsrl.comms.Channel"),
        ((LewisGame(4), channel, "rnn"), TypeError, "sender must be one of"),
    ]:
        with pytest.raises(error, match=message):
            SignallingGame(*arguments, seed=0)  # type: ignore[arg-type]
    for settings, message in [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"seeds": []}, "give seed, or seeds"),
        ({"seed": 1, "seeds": [1]}, "give seed, or seeds"),
        ({"seed": -1}, "seed must be at least 0, but got -1"),
        ({"seeds": [0, -1]}, "seeds must hold at least one, integers of at least 0"),
        ({"seeds": [0, 1], "sender": MLPSender(4, 4)}, "sender must be a function that makes one"),
    ]:
        with pytest.raises(ValueError, match=message):
            SignallingGame(LewisGame(4), channel, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="log_interval must be at least 1"):
        lewis().learn(1, log_interval=0)
    for episodes in (0, -1):
        with pytest.raises(ValueError, match=f"episodes must be None, or an integer of at least 1, but got {episodes}"):
            lewis().evaluate(episodes=episodes)
    with pytest.raises(ValueError, match="seed must be at least 0, but got -1"):
        lewis().evaluate(seed=-1)


@pytest.mark.parametrize("estimator", ["rebar", "relax"])
def test_learned_temperatures_start_where_the_setting_says(estimator: Any) -> None:
    card = get_card("signalling")
    for given, expected in ((None, 1.0), (0.5, 0.5)):
        channel = card.made["channel"]("lewis", card.Settings(estimator=estimator, temperature=given))
        assert channel.estimator.settings["temperature"] == expected
    with pytest.raises(ValueError, match="temperature must be None with exact, which has none"):
        card.made["channel"]("lewis", card.Settings(estimator="exact", temperature=0.5))
