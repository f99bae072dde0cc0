from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gsrl
from gsrl.comms import Channel
from gsrl.comms.agents import MLPReceiver, MLPSender, RecurrentReceiver, RecurrentSender
from gsrl.comms.channel import ChannelNoise, Message, end_weights
from gsrl.estimators import ESTIMATORS
from gsrl.temperature import ExponentialTemperature, LearnedTemperature

SILENT = ChannelNoise(())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class FixedSender(nn.Module):
    """Logits of each position, whatever it sees; or, with a table, that depend on the symbol before."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)  # [L, symbols] or [L, 1 + symbols, symbols]

    def start(self, sender_input: Tensor) -> tuple[int, torch.Size]:
        return 0, sender_input.shape[:-1]

    def step(self, state: tuple[int, torch.Size], previous: Tensor | None) -> tuple[Tensor, Any]:
        position, batch = state
        logits = self.logits[position]
        if logits.dim() == 2:
            logits = logits[0].expand(*batch, -1) if previous is None else previous @ logits[1:]
        else:
            logits = logits.expand(*batch, -1)
        return logits, (position + 1, batch)


# Where a message ends


def test_the_first_hard_end_has_all_the_weight() -> None:
    end = torch.tensor([[0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert end_weights(end).T.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]


def test_soft_ends_share_the_weight_and_the_last_position_takes_what_is_left() -> None:
    weights = end_weights(torch.tensor([0.5, 0.2, 0.9]))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5 * 0.2, 0.5 * 0.8]))


def test_the_gradient_of_the_weights_is_finite_where_ends_are_hard() -> None:
    end = torch.tensor([[1.0, 0.0, 1.0]], requires_grad=True)
    values = torch.tensor([[2.0], [3.0], [5.0]])
    (values * end_weights(end)).sum().backward()
    # cost = 2 e1 + 3 e2 (1 - e1) + 5 (1 - e1)(1 - e2) at e = (1, 0): 2 - 0 - 5, (3 - 5) (1 - e1), 0
    assert end.grad is not None
    assert end.grad.tolist() == [[-3.0, 0.0, 0.0]]


def test_length_counts_the_symbols_before_the_end() -> None:
    channel = Channel(2, 3, variable_length=True)
    rows = torch.eye(3)[torch.tensor([[1, 2, 0], [0, 1, 2], [2, 1, 1], [1, 0, 0]])]
    message = channel.transmit(rows, SILENT)
    assert message.length.tolist() == [2, 0, 3, 1]
    soft = torch.tensor([[[0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.9, 0.1, 0.0]]])
    assert channel.transmit(soft, SILENT).length.item() == pytest.approx(0.5 + 0.5 * 0.8 + 0.5 * 0.8 * 0.1)
    assert Channel(2, 3).transmit(torch.eye(2)[torch.tensor([[0, 0, 1]])], SILENT).length.tolist() == [3]


def test_a_reader_hears_nothing_after_the_end() -> None:
    channel = Channel(3, 4, variable_length=True)
    torch.manual_seed(0)
    for receiver in (MLPReceiver(4, 5, length=4, hidden=8), RecurrentReceiver(4, 5, hidden=8)):
        first, second = (torch.eye(4)[torch.tensor([[2, 0, *rest]])] for rest in ([1, 3], [3, 2]))
        answers = [channel.transmit(rows, SILENT).read(receiver, None) for rows in (first, second)]
        assert torch.equal(*answers)


def test_the_expected_cost_of_a_soft_message_is_the_sum_over_its_ends() -> None:
    channel = Channel(2, 2, variable_length=True)
    soft = torch.tensor([[[0.25, 0.75, 0.0], [0.5, 0.0, 0.5]]])
    message = channel.transmit(soft, SILENT)
    torch.manual_seed(0)
    receiver = RecurrentReceiver(3, 1, hidden=4)
    after_each = receiver.after_each(soft, None).squeeze(-1)  # [L, 1]
    expected = 0.25 * after_each[0].square() + 0.75 * after_each[1].square()
    torch.testing.assert_close(message.cost(receiver, None, lambda output: output.squeeze(-1).square()), expected)


# Noise


def counted(channel: Channel, symbols: Tensor, seed: int = 0) -> Tensor:
    """How often each column arrives at each position of 20,000 transmissions of the same message, ``[L, width]``."""
    count = 20_000
    shape = (count, channel.length)
    noise = channel.draw_disturbance(shape[:-1], generator(seed))
    return channel.transmit(symbols.expand(count, *symbols.shape), noise).received.mean(0)


# Three standard errors of a share near 1/2 are .0106 here; each check fails with probability .003 at most.
TOLERANCE = {"rtol": 0.0, "atol": 0.011}


def test_substitution_is_the_symmetric_channel() -> None:
    arrived = counted(Channel(3, 1, substitution=0.4), torch.eye(3)[[1]])
    torch.testing.assert_close(arrived, torch.tensor([[0.2, 0.6, 0.2]]), **TOLERANCE)


def test_erasure_gives_receivers_an_extra_symbol() -> None:
    channel = Channel(2, 2, erasure=0.3)
    assert (channel.symbols, channel.width) == (2, 3)
    arrived = counted(channel, torch.eye(2)[[1, 0]])
    torch.testing.assert_close(arrived, torch.tensor([[0.0, 0.7, 0.3], [0.7, 0.0, 0.3]]), **TOLERANCE)


def test_noise_does_not_touch_the_end_symbol() -> None:
    channel = Channel(2, 2, variable_length=True, substitution=0.5, erasure=0.2)
    arrived = counted(channel, torch.eye(3)[[2, 0]])
    expected = torch.tensor([[0.0, 0.4, 0.4, 0.2], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(arrived, expected, **TOLERANCE)


def test_permutation_orders_what_comes_before_the_end() -> None:
    arrived = counted(Channel(3, 3, permutation=1.0), torch.eye(3))
    torch.testing.assert_close(arrived, torch.full((3, 3), 1 / 3), **TOLERANCE)
    ended = counted(Channel(3, 4, variable_length=True, permutation=0.5), torch.eye(4)[[1, 2, 0, 3]])
    expected = torch.zeros(4, 4)
    expected[:2, 1:3] = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    expected[2, 0] = expected[3, 3] = 1.0
    torch.testing.assert_close(ended, expected, **TOLERANCE)


def test_noise_is_linear_in_the_symbols() -> None:
    channel = Channel(3, 2, substitution=0.5, erasure=0.5, permutation=0.5)
    noise = channel.draw_disturbance((50,), generator())
    first, second = (torch.rand(50, 2, 3, generator=generator(seed)) for seed in (1, 2))
    mixed = channel.transmit(0.25 * first + 0.75 * second, noise).received
    apart = (channel.transmit(each, noise).received for each in (first, second))
    torch.testing.assert_close(mixed, 0.25 * next(apart) + 0.75 * next(apart))


# Gradients

LOGITS = torch.tensor([0.3, -0.5, 0.8])
COSTS = torch.tensor([1.0, -2.0, 0.5])


def linear_cost(message: Message) -> Tensor:
    return (message.received[..., 0, :] * COSTS).sum(-1)


def gradient(channel: Channel, sender: FixedSender, cost: Any, batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean value, and gradient of the mean in the sender's logits."""
    noise = channel.draw_noise((batch,), generator(seed))
    estimate = channel.expectation(sender, torch.zeros(batch, 1), cost, noise)
    assert estimate.cost.shape == estimate.entropy.shape == estimate.length.shape == (batch,)
    value = estimate.cost.mean()
    (grad,) = torch.autograd.grad(value, [sender.logits])
    return value.detach(), grad


def test_one_symbol_is_the_estimators_expectation() -> None:
    probs = LOGITS.softmax(-1)
    expected = probs * (COSTS - probs @ COSTS)
    sender = FixedSender(LOGITS[None])
    value, grad = gradient(Channel(3, estimator="exact"), sender, linear_cost, 2)
    torch.testing.assert_close(value, probs @ COSTS)
    torch.testing.assert_close(grad[0], expected)
    # Straight-through at temperature 1 is exact for a linear cost, without variance.
    _, grad = gradient(Channel(3, estimator="straight-through"), sender, linear_cost, 4)
    torch.testing.assert_close(grad[0], expected)


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"arm", "disarm"}))
def test_every_estimator_serves_one_symbol(name: str) -> None:
    channel = Channel(3, estimator=name)
    sender = FixedSender(LOGITS[None])
    value, grad = gradient(channel, sender, linear_cost, 20_000)
    probs = LOGITS.softmax(-1)
    exact = probs * (COSTS - probs @ COSTS)
    if name == "gumbel-softmax":  # the expectation of another objective
        assert torch.cosine_similarity(grad[0], exact, 0) > 0.99
    else:
        # The standard deviation of a cost is 1.2, so that of a mean is .009.
        torch.testing.assert_close(value, probs @ COSTS, rtol=0.0, atol=0.03)
    if not ESTIMATORS[name].biased:
        # No entry of an estimate has a standard deviation above 1.5: of a mean, .011.
        torch.testing.assert_close(grad[0], exact, rtol=0.0, atol=0.04)


def sequence_oracle(logits: Tensor, cost: Any) -> tuple[Tensor, Tensor]:
    """Expected cost and its gradient, by enumeration of all messages of two symbols."""
    logits = logits.clone().requires_grad_()
    symbols = logits.shape[-1]
    total = torch.zeros(())
    for first, second in itertools.product(range(symbols), repeat=2):
        log_prob = logits[0, 0].log_softmax(-1)[first] + logits[1, 1 + first].log_softmax(-1)[second]
        total = total + log_prob.exp() * cost(first, second)
    (grad,) = torch.autograd.grad(total, [logits])
    return total.detach(), grad


class TableReceiver(nn.Module):
    """Answers with a number for each message of two symbols; what follows the end symbol does not exist."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, message: Tensor, receiver_input: Any) -> Tensor:
        return torch.einsum("...i,...j,ij->...", message[..., 0, :], message[..., 1, :], self.table).unsqueeze(-1)

    def after_each(self, message: Tensor, receiver_input: Any) -> Tensor:
        nothing = torch.zeros_like(message[..., :1, :])
        nothing[..., 0] = 1.0
        first = torch.cat([message[..., :1, :], nothing], -2)
        return torch.stack([self(first, None), self(message, None)])


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("name", ["reinforce", "rloo"])
def test_score_functions_are_unbiased_for_sequences(name: str, variable: bool) -> None:
    """Later symbols depend on earlier ones, and those after the end count for nothing."""
    logits = torch.randn(2, 4, 3, generator=generator(5))
    table = torch.randn(3, 3, generator=generator(6))
    cost_of_length = 0.3 if variable else 0.0
    receiver = TableReceiver(table)

    def cost(first: int, second: int) -> Tensor:
        if variable and first == 0:
            return table[0, 0]
        length = 2 - (variable and second == 0)
        return table[first, second] + cost_of_length * length

    value, expected = sequence_oracle(logits, cost)
    channel = Channel(3 - variable, 2, variable_length=variable, estimator=name, length_cost=cost_of_length)
    sender = FixedSender(logits)
    batch = 40_000
    noise = channel.draw_noise((batch,), generator())
    estimate = channel.expectation(
        sender, torch.zeros(batch, 1), lambda m: m.cost(receiver, None, lambda output: output.squeeze(-1)), noise
    )
    (grad,) = torch.autograd.grad(estimate.cost.mean(), [sender.logits])
    # Entries of an estimate have a standard deviation of 2 at most: of a mean, .01. Four of them: probability 6e-5.
    torch.testing.assert_close(estimate.cost.mean(), value, rtol=0.0, atol=0.04)
    torch.testing.assert_close(grad, expected, rtol=0.0, atol=0.04)


def test_straight_through_serves_sequences_exactly_where_the_cost_is_linear_in_each_symbol() -> None:
    """Without noise in the backward pass, and with choices independent of one another."""
    logits = torch.randn(2, 3, generator=generator(1))
    table = torch.randn(3, 3, generator=generator(2))
    p, q = (logits.softmax(-1)).unbind()
    expected = torch.stack([p * (table @ q - p @ table @ q), q * (table.T @ p - p @ table @ q)])
    sender = FixedSender(logits)
    channel = Channel(3, 2, estimator="straight-through")
    receiver = TableReceiver(table)
    value, grad = gradient(
        channel, sender, lambda m: m.cost(receiver, None, lambda output: output.squeeze(-1)), batch=40_000
    )
    torch.testing.assert_close(value, p @ table @ q, rtol=0.0, atol=0.03)
    torch.testing.assert_close(grad, expected, rtol=0.0, atol=0.02)  # standard deviation below 1: of a mean, .005


def test_pathwise_lengths_have_a_gradient() -> None:
    channel = Channel(2, 3, variable_length=True, estimator="gumbel-softmax", length_cost=1.0)
    sender = FixedSender(torch.zeros(3, 3))
    _, grad = gradient(channel, sender, lambda message: message.length * 0, 1_000)
    assert grad[0, 0] < grad[1, 0] < grad[2, 0] < 0  # an earlier end saves more
    assert (grad[:, 1:] > 0).all()


def test_entropy_is_summed_up_to_the_end() -> None:
    # The first symbol is the end with probability 1/2; the second one is uniform over three.
    logits = torch.tensor([[math.log(2.0), 0.0, 0.0], [0.0, 0.0, 0.0]])
    for name in ("rloo", "st-gumbel"):
        channel = Channel(2, 2, variable_length=True, estimator=name)
        noise = channel.draw_noise((20_000,), generator())
        sender = FixedSender(logits)
        estimate = channel.expectation(sender, torch.zeros(20_000, 1), lambda m: m.length * 0.0, noise)
        expected = 1.5 * math.log(2.0) + 0.5 * math.log(3.0)  # H(1/2, 1/4, 1/4), and half of log 3
        assert estimate.entropy.mean().item() == pytest.approx(expected, abs=0.02)
        assert estimate.length.mean().item() == pytest.approx(0.5 + 0.5 * 2 / 3, abs=0.02)


def test_diversity_is_the_entropy_of_a_symbol_whatever_the_input() -> None:
    # Half of the inputs say 0, half of them 1, for certain; or all of them say either.
    class Echo(FixedSender):
        def start(self, sender_input: Tensor) -> Any:
            return sender_input

        def step(self, state: Any, previous: Tensor | None) -> tuple[Tensor, Any]:
            return state * self.logits, state

    certain, uncertain = torch.eye(2).repeat(4, 1), torch.full((8, 2), 0.5)
    channel = Channel(2, 2, diversity_bonus=0.5, entropy_bonus=0.25)
    for inputs, entropy in ((certain, 0.0), (uncertain, 2 * math.log(2.0))):
        noise = channel.draw_noise((8,), generator())
        estimate = channel.expectation(Echo(torch.tensor(50.0)), inputs, lambda message: message.length, noise)
        assert estimate.diversity.item() == pytest.approx(2 * math.log(2.0))
        assert estimate.entropy.mean().item() == pytest.approx(entropy, abs=1e-6)
        expected = 2.0 - 0.5 * 2 * math.log(2.0) - 0.25 * entropy
        assert channel.loss(estimate).item() == pytest.approx(expected)


def diversity_of(channel: Channel, inputs: Tensor, logits: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Diversity of a sender whose logits at each position are a row of its input plus a parameter ``[L, symbols]``."""

    class Looked(FixedSender):
        def start(self, sender_input: Tensor) -> Any:
            return 0, sender_input

        def step(self, state: Any, previous: Tensor | None) -> tuple[Tensor, Any]:
            position, seen = state
            return seen[..., position, :] + self.logits[position], (position + 1, seen)

    sender = Looked(logits)
    noise = channel.draw_noise(inputs.shape[:-2], generator(seed))
    estimate = channel.expectation(sender, inputs, lambda message: message.length * 0.0, noise)
    (grad,) = torch.autograd.grad(estimate.diversity, [sender.logits])
    return estimate.diversity.detach(), grad


@pytest.mark.parametrize(
    ("name", "length"), [("exact", 1), ("st-gumbel", 1), ("st-gumbel", 3), ("gumbel-softmax", 3), ("rloo", 3)]
)
def test_diversity_neither_speaks_for_the_end_nor_against_it(name: str, length: int) -> None:
    channel = Channel(3, length, variable_length=True, estimator=name)
    uniform = torch.zeros(50, length, 4)
    uniform[..., 0] = torch.linspace(-1.0, 1.0, 50).unsqueeze(-1)  # some inputs are likelier to end than others
    _, grad = diversity_of(channel, uniform, torch.zeros(length, 4))
    torch.testing.assert_close(grad, torch.zeros(length, 4), rtol=0.0, atol=1e-7)
    # Nor where the symbols are not uniform: those that are rare are wanted, and the end is no matter.
    skewed = uniform + torch.tensor([0.0, 1.0, 0.0, -1.0])
    _, grad = diversity_of(channel, skewed, torch.zeros(length, 4))
    torch.testing.assert_close(grad[:, 0], torch.zeros(length), rtol=0.0, atol=1e-7)
    assert (grad[:, 1] < 0).all()
    assert (grad[:, 3] > 0).all()


def test_diversity_is_that_of_the_symbols_that_are_said() -> None:
    # One input ends with probability 1/2 and else says 0; one never ends and says 1.
    inputs = torch.log(torch.tensor([[[0.5, 0.5, 0.0]], [[0.0, 0.0, 1.0]]])).clamp_min(-100.0)
    value, _ = diversity_of(Channel(2, 1, variable_length=True), inputs, torch.zeros(1, 3))
    # A symbol is there in 3 of 4 messages: 0 in a third of them.
    expected = 0.75 * (math.log(3.0) - 2 / 3 * math.log(2.0))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    # The second position counts by the share of the messages that come to it and go on.
    ends = torch.log(torch.tensor([[0.75, 0.125, 0.125], [0.5, 0.25, 0.25]])).expand(40_000, 2, 3)
    for name in ("st-gumbel", "rloo"):
        value, _ = diversity_of(Channel(2, 2, variable_length=True, estimator=name), ends, torch.zeros(2, 3))
        assert value.item() == pytest.approx((0.25 + 0.25 * 0.5) * math.log(2.0), abs=0.005)


def test_diversity_is_finite_where_all_messages_are_empty() -> None:
    certain = torch.tensor([[0.0, -1e4, -2e38], [0.0, -torch.inf, -torch.inf]]).expand(4, 2, 3)
    value, grad = diversity_of(Channel(2, 2, variable_length=True), certain, torch.zeros(2, 3))
    assert value.item() == 0.0
    assert (grad == 0).all()


def test_bonuses_are_finite_where_a_symbol_has_gone_for_good() -> None:
    channel = Channel(2, diversity_bonus=1.0, entropy_bonus=1.0)
    sender = FixedSender(torch.tensor([[0.0, -1e4]]))
    noise = channel.draw_noise((4,), generator())
    estimate = channel.expectation(sender, torch.zeros(4, 1), lambda message: message.length * 0.0, noise)
    assert estimate.diversity.item() == pytest.approx(0.0, abs=1e-6)
    (grad,) = torch.autograd.grad(channel.loss(estimate), [sender.logits])
    assert grad.tolist() == [[0.0, 0.0]]


def test_messages_in_execution_are_hard_and_the_most_probable_unless_sampled() -> None:
    channel = Channel(3, 2, estimator="gumbel-softmax")
    sender = FixedSender(torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]))
    message = channel.send(sender, torch.zeros(5_000, 1))
    assert message.symbols.unique().tolist() == [0, 1]
    assert (message.symbols.argmax(-1) == torch.tensor([1, 0])).all()
    sampled = channel.send(sender, torch.zeros(5_000, 1), generator(), deterministic=False)
    assert sampled.symbols.unique().tolist() == [0, 1]
    expected = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]).softmax(-1)
    torch.testing.assert_close(sampled.symbols.mean(0), expected, rtol=0.0, atol=0.025)


def test_several_messages_of_an_input_share_its_receiver_input() -> None:
    channel = Channel(3, 2, estimator="rloo", num_samples=4)
    torch.manual_seed(0)
    sender, receiver = RecurrentSender(5, 3, hidden=8), RecurrentReceiver(3, 2, features=5, hidden=8)
    seen = torch.randn(6, 5)
    shapes = []

    def cost(message: Message) -> Tensor:
        shapes.append(message.symbols.shape)
        return message.cost(receiver, seen, lambda output: output.sum(-1))

    estimate = channel.expectation(sender, seen, cost, channel.draw_noise((6,), generator()))
    assert shapes == [(4, 6, 2, 3)]
    assert estimate.cost.shape == (6,)


# Settings


def test_the_estimators_temperature_belongs_to_the_channel() -> None:
    channel = Channel(3, estimator="st-gumbel", temperature=LearnedTemperature(1.0, 0.1))
    assert [name for name, _ in channel.named_parameters()] == ["estimator.temperature.w"]
    annealed = Channel(3, estimator="st-gumbel", temperature=ExponentialTemperature(2.0, 0.5, 10))
    assert list(annealed.state_dict()) == ["estimator.temperature.count"]


def test_settings_make_the_same_channel() -> None:
    estimator = gsrl.make_estimator("rloo", num_samples=3)
    channel = Channel(4, 3, estimator=estimator, variable_length=True, erasure=0.1, length_cost=0.2, bandwidth=4.0)
    again = Channel(**channel.settings)
    assert again.settings == channel.settings
    assert (again.length, again.symbols, again.width) == (2, 5, 6)


@pytest.mark.parametrize(("bandwidth", "length"), [(3.0, 1), (4.0, 2), (5.9, 2), (6.0, 3), (100.0, 5)])
def test_bandwidth_is_in_bits_a_message(bandwidth: float, length: int) -> None:
    assert Channel(4, 5, bandwidth=bandwidth).length == length


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Channel(1), "vocabulary must be an integer of at least 2, but got 1"),
        (lambda: Channel(5, 0), "length must be an integer of at least 1, but got 0"),
        (lambda: Channel(5, erasure=1.5), "erasure must be a probability"),
        (lambda: Channel(5, substitution=-0.1), "substitution must be a probability"),
        (lambda: Channel(5, length_cost=0.1), "length_cost must be 0 where all messages have the same length"),
        (lambda: Channel(5, entropy_bonus=math.inf), "entropy_bonus must be a schedule, or finite"),
        (lambda: Channel(4, bandwidth=math.inf), "bandwidth must be finite, or None for no limit, but got inf"),
        (lambda: Channel(4, bandwidth=math.nan), "bandwidth must be finite, or None for no limit, but got nan"),
        (lambda: Channel(4, bandwidth=1.9), "bandwidth must be enough for a symbol, of 2.00 bits"),
        (lambda: Channel(5, 2, estimator="exact"), "exact needs the whole message at once, so length must be 1"),
        (lambda: Channel(5, 3, estimator="relax"), "relax needs the whole message at once.* but got 3"),
        (lambda: Channel(5, 3, estimator="arsm"), "arsm needs the whole message"),
        (lambda: Channel(5, estimator="gumbel"), "name must be one of"),
    ],
)
def test_bad_arguments_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_other_kinds_of_estimators_are_refused() -> None:
    with pytest.raises(TypeError, match=r"estimator must be a name or a gsrl\.Estimator, but got int"):
        Channel(5, estimator=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"takes no more settings, but got \['temperature'\]"):
        Channel(5, estimator=gsrl.make_estimator("st-gumbel"), temperature=2.0)


def test_senders_of_several_symbols_may_choose_them_independently() -> None:
    torch.manual_seed(0)
    sender = MLPSender(4, 3, length=2)
    message = Channel(3, 2).send(sender, torch.eye(4))
    expected = sender.network(torch.eye(4)).view(4, 2, 3).argmax(-1)
    assert torch.equal(message.symbols.argmax(-1), expected)
