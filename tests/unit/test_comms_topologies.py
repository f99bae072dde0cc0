from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gsrl.comms import Channel, DiscriminationGame, LewisGame, MLPReceiver, MLPSender, RecurrentReceiver, SignallingGame
from gsrl.comms.games import Game
from gsrl.comms.topologies import (
    Audience,
    BroadcastGame,
    Community,
    Dialogue,
    PopulationGame,
    QuestionGame,
    TargetedGame,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_broadcast_costs_the_mean_and_is_right_where_all_are() -> None:
    game = BroadcastGame(LewisGame(2), 3)
    first, second, third = (torch.randn(5, 2) for _ in range(3))
    output, target = torch.cat([first, second, third], -1), torch.zeros(5, 1, dtype=torch.int64)
    inner = LewisGame(2)
    expected = sum(inner.cost(each, target) for each in (first, second, third)) / 3
    torch.testing.assert_close(game.cost(output, target), expected)
    right = torch.stack([inner.correct(each, target) for each in (first, second, third)])
    assert torch.equal(game.correct(output, target), right.all(0))
    assert game.outputs == 6
    assert game.inputs().target.tolist() == [[0], [1]]


def test_targeted_messages_count_for_the_one_addressed() -> None:
    game = TargetedGame(LewisGame(2), 3)
    batch = game.sample(600, generator())
    assert batch.sender_input.shape == (600, 5)
    target, address = batch.target
    assert torch.equal(batch.sender_input[:, 2:], address)
    assert abs(address.mean(0) - 1 / 3).max() < 0.058  # three standard errors
    outputs = [torch.randn(600, 2) for _ in range(3)]
    costs = torch.stack([game.game.cost(output, target) for output in outputs], -1)
    expected = costs.gather(-1, address.argmax(-1, keepdim=True)).squeeze(-1)
    torch.testing.assert_close(game.cost(torch.cat(outputs, -1), batch.target), expected)
    right = torch.stack([game.game.correct(output, target) for output in outputs], -1)
    expected = right.gather(-1, address.argmax(-1, keepdim=True)).squeeze(-1)
    assert torch.equal(game.correct(torch.cat(outputs, -1), batch.target), expected)


def test_an_audience_answers_in_a_row() -> None:
    receivers = [RecurrentReceiver(3, 2, hidden=4) for _ in range(2)]
    audience, message = Audience(receivers), torch.randn(5, 4, 3)
    torch.testing.assert_close(audience(message, None), torch.cat([r(message, None) for r in receivers], -1))
    assert audience.after_each(message, None).shape == (4, 5, 4)


def test_receivers_of_a_community_hear_the_sender_that_they_are_paired_with() -> None:
    members = [MLPReceiver(3, 2, features=4, hidden=4) for _ in range(3)]
    message, seen, order = torch.randn(6, 3, 5, 1, 3), torch.randn(3, 5, 4), torch.tensor([2, 0, 1])
    answers = Community(members)(message, (order, seen))
    assert answers.shape == (6, 3, 5, 2)
    for receiver, sender in enumerate(order.tolist()):
        torch.testing.assert_close(answers[:, sender], members[receiver](message[:, sender], seen[sender]))


def test_senders_of_a_community_speak_of_their_own_rows() -> None:
    members = [MLPSender(4, 3, hidden=4) for _ in range(2)]
    seen = torch.randn(2, 5, 4)
    logits, _ = Community(members).step(Community(members).start(seen), None)
    for index, member in enumerate(members):
        torch.testing.assert_close(logits[index], member.start(seen[index])[0])


def test_pairs_are_new_in_each_batch_and_seeded() -> None:
    game = PopulationGame(DiscriminationGame(1, 4, candidates=2, held_out=0.0), 3)
    orders = [tuple(game.sample(13, generator(seed)).receiver_input[0].tolist()) for seed in range(60)]
    assert len(set(orders)) == 6  # one of the six orders is missing in 60 draws with probability 1e-4
    again = [tuple(game.sample(13, generator(seed)).receiver_input[0].tolist()) for seed in range(60)]
    assert orders == again
    batch = game.sample(13, generator())
    assert batch.sender_input.shape == (3, 4, 4)
    assert batch.receiver_input[1].shape == (3, 4, 2, 4)
    assert batch.target.shape == (3, 4)


class Counter(nn.Module):
    """Says its name, and remembers what it has heard."""

    def __init__(self, name: int) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(torch.zeros(()))

    def start(self, sender_input: Tensor) -> list[Any]:
        return [sender_input]

    def step(self, state: list[Any], previous: Tensor | None) -> tuple[Tensor, list[Any]]:
        heard = state if previous is None else [*state, previous.argmax(-1)]
        return 9 * torch.eye(3)[self.name].expand(heard[0].shape[0], 3), heard


def test_speakers_of_a_dialogue_take_turns_and_hear_everything() -> None:
    dialogue = Dialogue(Counter(1), Counter(2), (2, 3), length=2)
    seen = torch.randn(4, 5)
    message = Channel(3, 5).send(dialogue, seen)
    assert message.symbols.argmax(-1).tolist() == [[1, 1, 2, 2, 1]] * 4
    first, second, _ = dialogue.start(seen)
    assert torch.equal(first[0], seen[:, :2])
    assert torch.equal(second[0], seen[:, 2:])
    _, state = dialogue.step((first, second, 0), None)
    _, state = dialogue.step(state, torch.eye(3)[[1] * 4])
    assert state[0][1].tolist() == state[1][1].tolist() == [1, 1, 1, 1]


def test_questions_are_about_one_attribute() -> None:
    game = QuestionGame(2, 3)
    batch = game.sample(100, generator())
    asked = batch.receiver_input.argmax(-1)
    assert torch.equal(batch.target, batch.meaning[torch.arange(100), asked])
    assert torch.equal(batch.sender_input[:, :2], batch.receiver_input)
    assert torch.equal(batch.sender_input[:, 2:].unflatten(-1, (2, 3)).argmax(-1), batch.meaning)


GAMES: dict[str, tuple[Any, Any]] = {
    "broadcast": (lambda: BroadcastGame(LewisGame(3), 2), {}),
    "targeted": (lambda: TargetedGame(LewisGame(3), 2), {}),
    "population": (lambda: PopulationGame(LewisGame(3), 2), {}),
    "population of broadcasters": (lambda: PopulationGame(BroadcastGame(LewisGame(3), 2), 2), {}),
    "population with addresses": (lambda: PopulationGame(TargetedGame(LewisGame(3), 2), 2), {}),
    "population with candidates": (lambda: PopulationGame(DiscriminationGame(1, 4, candidates=2, held_out=0.0), 2), {}),
    "dialogue": (lambda: QuestionGame(2, 3), {"length": 2}),
    "population of dialogues": (lambda: PopulationGame(QuestionGame(2, 3), 2), {"length": 2}),
}


@pytest.mark.parametrize("estimator", ["st-gumbel", "rloo"])
@pytest.mark.parametrize("name", GAMES)
def test_every_topology_is_trained_evaluated_and_saved(name: str, estimator: str, tmp_path: Any) -> None:
    make, settings = GAMES[name]
    channel = Channel(3, estimator=estimator, **{"length": 1, **settings})
    small: dict[str, Any] = {"batch_size": 8, "hidden": 8, "learning_rate": 1e-3}
    small["sender"] = "gru" if "dialogue" in name else "mlp"
    games = SignallingGame(make(), channel, seeds=[0, 1], **small).learn(2)
    alone = SignallingGame(make(), channel, seed=1, **small).learn(2)
    for key, value in alone.agents().state_dict().items():
        torch.testing.assert_close(games.agents(1).state_dict()[key], value, rtol=1e-4, atol=1e-5)
    result = games.evaluate(episodes=40, scramble=True)
    assert result.messages.shape == (2, 40, channel.length)
    games.save(tmp_path / "games.zip")
    restored = SignallingGame.load(tmp_path / "games.zip")
    assert (restored.evaluate(episodes=40).correct == games.evaluate(episodes=40).correct).all()


def test_a_population_keeps_all_parts_of_a_target_in_rows() -> None:
    game = PopulationGame(TargetedGame(LewisGame(4), 2), 2)
    batch = game.sample(6, generator())
    target, address = batch.target
    assert (target.shape, address.shape) == ((2, 3, 1), (2, 3, 2))
    assert torch.equal(batch.sender_input[..., 4:], address)
    assert game.cost(torch.zeros(2, 3, 8), batch.target).shape == (2, 3)


@pytest.mark.parametrize(("size", "batch_size", "drawn"), [(3, 16, 15), (4, 2, 4)])
def test_a_batch_that_a_population_cannot_draw_is_refused(size: int, batch_size: int, drawn: int) -> None:
    game = PopulationGame(LewisGame(3), size)
    with pytest.raises(ValueError, match=f"batch_size must be .* such as {drawn}, but got {batch_size}.* of its size"):
        SignallingGame(game, Channel(3), seed=0, batch_size=batch_size)
    games = SignallingGame(game, Channel(3), seed=0, batch_size=drawn, hidden=4).learn(1)
    assert games.num_samples == drawn


class Alternating(LewisGame):
    """Draws as it likes, though a meaning makes an episode."""

    def sample(self, batch_size: int, generator: torch.Generator, split: str = "train") -> Any:
        first = self.draw(1, generator, split)
        return self.batch((first + torch.arange(batch_size)) % len(self.meanings), None)


@pytest.mark.parametrize("make", [lambda: Alternating(3), lambda: BroadcastGame(Alternating(3), 2)])
def test_games_that_draw_otherwise_do_so_in_lock_step(make: Any) -> None:
    game = make()
    together = SignallingGame(game, Channel(3), seeds=[0, 1], batch_size=6, hidden=4)
    alone = SignallingGame(game, Channel(3), seed=1, batch_size=6, hidden=4)
    drawn, expected = together.collect(), alone.collect()
    assert torch.equal(drawn[0][1], expected[0])
    assert torch.equal(drawn[2][1], expected[2])


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_speakers_of_a_dialogue_have_the_cell_that_is_named(name: str) -> None:
    sender = SignallingGame(QuestionGame(2, 3), Channel(3, 2), name, seed=0, hidden=4).agents().sender
    rows = {"gru": 12, "lstm": 16}[name]
    assert [speaker.cell.weight_ih.shape[0] for speaker in (sender.first, sender.second)] == [rows, rows]


def test_dialogues_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sender must be 'gru' or 'lstm' in a QuestionGame.* but got 'mlp'"):
        SignallingGame(QuestionGame(2, 3), Channel(3, 2), seed=0)
    with pytest.raises(ValueError, match=r"length must be at least 2 in a QuestionGame.* is 1"):
        SignallingGame(QuestionGame(2, 3), Channel(3), "gru", seed=0)


@pytest.mark.parametrize("topology", [BroadcastGame, TargetedGame, PopulationGame])
def test_bad_arguments_are_refused_by_name(topology: Any) -> None:
    with pytest.raises(ValueError, match="must be an integer of at least 2, but got 1"):
        topology(LewisGame(2), 1)
    with pytest.raises(TypeError, match=r"game must be a gsrl\.comms\.Game, but got int"):
        topology(3, 2)
    assert isinstance(topology(LewisGame(2), 2), Game)
