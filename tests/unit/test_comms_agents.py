from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from gsrl.comms.agents import (
    DiscriminationReceiver,
    GRUCell,
    MLPReceiver,
    MLPSender,
    RecurrentReceiver,
    RecurrentSender,
    _LSTMCell,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_cells_are_those_of_torch() -> None:
    x, hidden, memory = torch.randn(7, 3), torch.randn(7, 5), torch.randn(7, 5)
    gru, lstm = GRUCell(3, 5), _LSTMCell(3, 5)
    torch.testing.assert_close(gru(x, (hidden,))[0], nn.GRUCell.forward(gru, x, hidden))
    for ours, theirs in zip(lstm(x, (hidden, memory)), nn.LSTMCell.forward(lstm, x, (hidden, memory)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_senders_hear_their_own_symbols(cell: str) -> None:
    sender = RecurrentSender(4, 3, hidden=8, cell=cell)  # type: ignore[arg-type]
    logits, state = sender.step(sender.start(torch.randn(2, 4)), None)
    assert logits.shape == (2, 3)
    first, second = (sender.step(state, torch.eye(3)[[symbol] * 2])[0] for symbol in (0, 1))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_what_a_receiver_would_answer_at_each_position_is_what_it_answers_to_the_beginning(cell: str) -> None:
    receiver = RecurrentReceiver(3, 4, features=2, hidden=8, cell=cell)  # type: ignore[arg-type]
    message, seen = torch.randn(6, 5, 3), torch.randn(6, 2)
    after_each = receiver.after_each(message, seen)
    assert after_each.shape == (5, 6, 4)
    for position in range(5):
        torch.testing.assert_close(after_each[position], receiver(message[:, : position + 1], seen))


def test_a_perceptron_hears_zeros_after_the_beginning() -> None:
    receiver = MLPReceiver(3, 4, length=2, features=2)
    message, seen = torch.randn(6, 2, 3), torch.randn(6, 2)
    first = message * torch.tensor([1.0, 0.0]).view(2, 1)
    expected = torch.stack([receiver(first, seen), receiver(message, seen)])
    torch.testing.assert_close(receiver.after_each(message, seen), expected)


def test_receivers_take_leading_dimensions_of_messages_alone() -> None:
    message, seen, candidates = torch.randn(5, 6, 2, 3), torch.randn(6, 2), torch.randn(6, 4, 7)
    receivers = [
        (MLPReceiver(3, 4, length=2, features=2), seen),
        (RecurrentReceiver(3, 4, features=2), seen),
        (DiscriminationReceiver(RecurrentReceiver(3, 8), 7, 8), candidates),
        (DiscriminationReceiver(MLPReceiver(3, 8, length=2), 7, 8), candidates),
    ]
    for receiver, receiver_input in receivers:
        together = receiver(message, receiver_input)
        assert together.shape == (5, 6, 4)
        torch.testing.assert_close(together[3], receiver(message[3], receiver_input))
        after_each = receiver.after_each(message, receiver_input)
        assert after_each.shape == (2, 5, 6, 4)
        torch.testing.assert_close(after_each[-1], together)


def test_a_discriminating_receiver_scores_candidates_by_their_embeddings() -> None:
    receiver = DiscriminationReceiver(MLPReceiver(3, 2), 4, 2)
    message, candidates = torch.randn(5, 1, 3), torch.randn(5, 3, 4)
    heard, embedded = receiver.reader(message, None), receiver.embed(candidates)
    expected = torch.stack([(heard * embedded[:, c]).sum(-1) for c in range(3)], -1)
    torch.testing.assert_close(receiver(message, candidates), expected)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_agents_go_in_lock_step(cell: str) -> None:
    receivers = [RecurrentReceiver(3, 4, hidden=8, cell=cell) for _ in range(3)]  # type: ignore[arg-type]
    message = torch.randn(3, 6, 5, 3)
    together = vmap(lambda tensors, m: functional_call(receivers[0], tensors, (m, None)))(
        {**stack_module_state(receivers)[0]}, message
    )
    for receiver, own, expected in zip(receivers, message, together, strict=True):
        torch.testing.assert_close(receiver(own, None), expected)


def test_perceptrons_choose_all_symbols_from_what_they_see() -> None:
    sender = MLPSender(4, 3, length=2)
    seen = torch.randn(5, 4)
    state = sender.start(seen)
    first, state = sender.step(state, None)
    second, _ = sender.step(state, torch.eye(3)[[0] * 5])
    torch.testing.assert_close(torch.cat([first, second], -1), sender.network(seen))


def test_other_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="cell must be 'gru' or 'lstm', but got 'rnn'"):
        RecurrentSender(3, 3, cell="rnn")  # type: ignore[arg-type]
