from __future__ import annotations

import math

import pytest
import torch

from gsrl.comms import AttributeValueGame, DiscriminationGame, LewisGame


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lewis_batch_shows_the_meaning_as_one_hot() -> None:
    game = LewisGame(4)
    batch = game.sample(64, generator())
    assert batch.sender_input.shape == (64, 4)
    assert batch.receiver_input is None
    torch.testing.assert_close(batch.sender_input.argmax(-1, keepdim=True), batch.target)
    torch.testing.assert_close(batch.sender_input.sum(-1), torch.ones(64))
    torch.testing.assert_close(batch.meaning, batch.target)


def test_lewis_cost_is_the_cross_entropy_and_broadcasts_over_leading_dimensions() -> None:
    game = LewisGame(2)
    output = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]], [[math.log(3.0), 0.0], [0.0, 0.0]]])  # [2, B=2, 2]
    target = torch.tensor([[1], [0]])
    expected = torch.tensor([[math.log(4 / 3), math.log(2.0)], [math.log(4.0), math.log(2.0)]])
    torch.testing.assert_close(game.cost(output, target), expected)
    assert game.correct(output, target).tolist() == [[True, True], [False, True]]


def test_prior_decides_how_often_a_meaning_is_drawn() -> None:
    game = LewisGame(3, prior=[2.0, 1.0, 1.0])
    assert game.probabilities().tolist() == [0.5, 0.25, 0.25]
    drawn = game.sample(20_000, generator()).meaning
    # Three standard errors of a share of 1/2 are .011: a true one is off by more with probability .003.
    assert abs((drawn == 0).double().mean().item() - 0.5) < 0.011


def test_samples_are_those_of_their_generator() -> None:
    for game in (LewisGame(5), AttributeValueGame(2, 4), DiscriminationGame(2, 4)):
        first, again, other = (game.sample(50, generator(seed)) for seed in (1, 1, 2))
        assert torch.equal(first.sender_input, again.sender_input)
        assert torch.equal(first.target, again.target)
        assert not torch.equal(first.sender_input, other.sender_input)


def test_attribute_value_cost_sums_over_attributes_and_all_must_be_right() -> None:
    game = AttributeValueGame(2, 2, held_out=0.0)
    output = torch.tensor([[math.log(3.0), 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
    target = torch.tensor([[0, 1], [0, 0]])
    torch.testing.assert_close(game.cost(output, target)[0], torch.tensor(math.log(4 / 3) + math.log(2.0)))
    assert game.correct(output, target).tolist() == [False, True]


def test_meanings_vary_in_their_last_attribute_first_and_are_seen_as_rows_side_by_side() -> None:
    game = AttributeValueGame(2, 3, held_out=0.0)
    assert game.meanings.tolist() == [[a, b] for a in range(3) for b in range(3)]
    batch = game.inputs("train")
    assert batch.sender_input[5].tolist() == [0, 1, 0, 0, 0, 1]
    assert (game.sender_features, game.outputs) == (6, 6)


def test_held_out_meanings_are_apart_and_every_value_stays_in_training() -> None:
    game = AttributeValueGame(2, 10, held_out=0.2, split_seed=3)
    train, held_out = (set(map(tuple, game.inputs(split).meaning.tolist())) for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == (80, 20)
    assert not train & held_out
    for attribute in range(2):
        assert {meaning[attribute] for meaning in train} == set(range(10))
    drawn = set(map(tuple, game.sample(2_000, generator()).meaning.tolist()))
    assert drawn == train  # one of 80 is missed by 2,000 draws with probability 1e-9
    assert set(map(tuple, game.sample(500, generator(), "held_out").meaning.tolist())) == held_out


def test_the_split_is_that_of_its_seed() -> None:
    held = [AttributeValueGame(2, 5, split_seed=seed).indices("held_out").tolist() for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_too_large_a_share_cannot_be_held_out() -> None:
    # Every value of two attributes needs a meaning: with 9 of 9 less 7 there are 2, and 3 values.
    with pytest.raises(ValueError, match="held_out must leave every value"):
        AttributeValueGame(2, 3, held_out=7 / 9)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_candidates_hold_the_right_one_at_its_place_and_others_of_the_same_split(split: str) -> None:
    game = DiscriminationGame(2, 4, candidates=3, held_out=0.25)
    batch = game.sample(500, generator(), split)
    assert batch.receiver_input.shape == (500, 3, 8)
    shown = batch.receiver_input
    is_right = (shown == batch.sender_input.unsqueeze(1)).all(-1)
    assert torch.equal(is_right.long().argmax(-1), batch.target)
    assert (is_right.sum(-1) == 1).all()
    meanings = game.meanings[game.indices(split)]
    known = {tuple(row) for row in torch.eye(4)[meanings].flatten(-2).tolist()}
    assert {tuple(row) for row in shown.flatten(0, 1).tolist()} == known
    # The place is uniform: three standard errors of 1/3 of 500 are .063.
    assert abs((batch.target == 0).double().mean().item() - 1 / 3) < 0.063


def test_the_cost_of_a_discrimination_is_that_of_its_candidates() -> None:
    game = DiscriminationGame(1, 4, candidates=2, held_out=0.0)
    output, target = torch.tensor([[0.0, math.log(3.0)], [2.0, 1.0]]), torch.tensor([1, 1])
    torch.testing.assert_close(game.cost(output, target)[0], torch.tensor(math.log(4 / 3)))
    assert game.correct(output, target).tolist() == [True, False]
    with pytest.raises(ValueError, match="no episode of DiscriminationGame"):
        game.inputs()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LewisGame(1), "meanings must be an integer of at least 2, but got 1"),
        (lambda: LewisGame(100_000), "meanings must be at most 65536, but got 100000"),
        (lambda: AttributeValueGame(0, 3), "attributes must be an integer of at least 1, but got 0"),
        (lambda: AttributeValueGame(2, 1), "values must be an integer of at least 2, but got 1"),
        (lambda: AttributeValueGame(9, 10), "at most 65536 meanings"),
        (lambda: AttributeValueGame(2, 3, held_out=1.0), "held_out must be a share"),
        (lambda: LewisGame(3, prior=[1.0, 2.0]), "prior must hold 3 finite weights"),
        (lambda: LewisGame(2, prior=[1.0, -1.0]), "prior must hold 2 finite weights"),
        (lambda: LewisGame(2, prior=[0.0, 0.0]), "prior must hold a weight above 0"),
        (lambda: DiscriminationGame(2, 3, candidates=1), "candidates must be an integer of at least 2"),
        (lambda: DiscriminationGame(2, 2, held_out=0.25), "leave each split two meanings"),
        (lambda: LewisGame(3).sample(2, generator(), "test"), "split must be one of"),
        (lambda: LewisGame(3).inputs("held_out"), "holds out nothing"),
    ],
)
def test_bad_arguments_are_refused_by_name(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_split_that_the_prior_rules_out_is_refused() -> None:
    held_out = AttributeValueGame(2, 3, held_out=2 / 9).indices("held_out").tolist()
    prior = [0.0 if index in held_out else 1.0 for index in range(9)]
    game = AttributeValueGame(2, 3, held_out=2 / 9, prior=prior)
    assert game.probabilities("all").sum() == pytest.approx(1.0)
    for call in (lambda: game.probabilities("held_out"), lambda: game.sample(3, generator(), "held_out")):
        with pytest.raises(ValueError, match="prior must leave a meaning of split 'held_out' possible"):
            call()
