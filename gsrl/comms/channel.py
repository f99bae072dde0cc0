"""The discrete channel: messages symbol by symbol, what noise makes of them, and the gradient that goes back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gsrl.checkpoint import register
from gsrl.checks import largest
from gsrl.comms.agents import Receiver, Sender
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, Noise, make_estimator
from gsrl.estimators.base import draw_noise_in_lockstep
from gsrl.relaxations import gumbel_noise
from gsrl.temperature import Temperature

__all__ = ["Channel", "ChannelNoise", "Estimate", "Message", "end_weights"]


LOSS_SETTINGS = ("length_cost", "entropy_bonus", "diversity_bonus")
"""What is added to the cost of a game."""


class Message(NamedTuple):
    """A batch of messages, of ``L`` positions; rows are one-hot, or soft while training with plain Gumbel-softmax.

    Example:
        >>> symbols = torch.eye(3)[torch.tensor([[2, 1, 0, 1]])]  # 0 ends the message
        >>> message = Channel(2, length=4, variable_length=True).transmit(symbols, ChannelNoise(()))
        >>> message.length
        tensor([2.])
        >>> message.ends.squeeze(-1)
        tensor([0., 0., 1., 0.])
    """

    symbols: Tensor
    """As they were sent, ``[*batch, L, symbols]``."""
    received: Tensor
    """As they arrive, ``[*batch, L, width]``."""
    ends: Tensor | None
    """Weight of each position as the end of the message, ``[L, *batch]``, see :func:`end_weights`; None: it is the
    last one."""
    length: Tensor
    """Symbols before the end, ``[*batch]``; the expected number, for soft rows."""

    def read(self, receiver: Receiver, receiver_input: Any) -> Tensor:
        """What a receiver answers at the end of each message, ``[*batch, outputs]``: for hard messages."""
        if self.ends is None:
            return receiver(self.received, receiver_input)
        return (self.ends.unsqueeze(-1) * receiver.after_each(self.received, receiver_input)).sum(0)

    def cost(self, receiver: Receiver, receiver_input: Any, cost: Callable[[Tensor], Tensor]) -> Tensor:
        """The expected cost over the end of each message, ``[*batch]``, exact for soft rows too.

        Args:
            receiver: Whose answers count.
            receiver_input: What it sees beside the messages.
            cost: Maps answers ``[*lead, *batch, outputs]`` to ``[*lead, *batch]``.
        """
        if self.ends is None:
            return cost(receiver(self.received, receiver_input))
        return (self.ends * cost(receiver.after_each(self.received, receiver_input))).sum(0)


class ChannelNoise(NamedTuple):
    """All that is random in one transmission.

    Example:
        >>> channel = Channel(4, length=3)
        >>> noise = ChannelNoise((), shifts=torch.tensor([[0, 1, 0]]))  # the second symbol arrives as the next one
        >>> channel.transmit(torch.eye(4)[torch.tensor([[2, 2, 2]])], noise).received.argmax(-1)
        tensor([[2, 3, 2]])
    """

    symbols: tuple[Noise, ...]
    """Of the estimator, or of the sampling, at each position."""
    shifts: Tensor | None = None
    """What a symbol is moved on by, modulo the vocabulary, int64 ``[*batch, L]``; 0 where it arrives."""
    erased: Tensor | None = None
    """Bool ``[*batch, L]``."""
    order: Tensor | None = None
    """By what the symbols are sorted, ``[*batch, L]``, in [0, 1)."""


class Estimate(NamedTuple):
    """What a transmission costs in expectation.

    Example:
        >>> from gsrl import comms
        >>> channel, sender = Channel(3, estimator="exact"), comms.MLPSender(4, 3)
        >>> inputs, cost = torch.eye(4), lambda message: message.received[..., 0, 0]  # to say the first symbol costs 1
        >>> estimate = channel.expectation(sender, inputs, cost, channel.draw_noise((4,)))
        >>> torch.allclose(estimate.cost, sender.step(sender.start(inputs), None)[0].softmax(-1)[:, 0])
        True
        >>> estimate.entropy.shape, estimate.diversity.shape
        (torch.Size([4]), torch.Size([]))
    """

    cost: Tensor
    """``[*batch]``, with the cost of the length; its ``backward`` is the estimate of the gradient."""
    entropy: Tensor
    """Of the sender's choices, summed up to the end of the message, ``[*batch]``, in nats; differentiable."""
    diversity: Tensor
    """Entropy of the symbols whatever the input, summed over the positions, each by the share of the messages that have
    a symbol there: a scalar, in nats; differentiable. It neither speaks for the end symbol nor against it."""
    length: Tensor
    """Symbols before the end, ``[*batch]``, without gradient."""


def end_weights(end: Tensor) -> Tensor:
    r"""The weight of each position as the one where the message ends.

    .. math:: w_t = e_t \prod_{s<t} (1 - e_s), \qquad w_L = \prod_{s<L} (1 - e_s)

    The last position takes what is left, whether its symbol is the end or not: the weights sum to 1. Where ends are
    hard, the first one has all the weight.

    Args:
        end: How much each symbol is the end symbol, ``[*batch, L]``, in [0, 1].

    Returns:
        ``[L, *batch]``.

    Example:
        >>> end_weights(torch.tensor([[0.0, 1.0, 0.0]]))
        tensor([[0.],
                [1.],
                [0.]])
    """
    *ends, _ = end.unbind(-1)
    reached, weights = torch.ones_like(end[..., 0]), []
    for e in ends:
        weights.append(e * reached)
        reached = (1 - e) * reached  # not by cumprod, whose gradient divides by what may be 0
    return torch.stack([*weights, reached])


@register("gsrl.comms.Channel")
class Channel(nn.Module):
    r"""A discrete channel: a sender's choices become a message, noise befalls it, and gradients find their way back.

    A message has up to ``length`` symbols out of ``vocabulary``. With ``variable_length`` there is an end symbol
    besides, column 0 of the sender's choices, and all that follows the first one is never read: symbols that carry
    meaning are then numbered from 1.

    **Gradients.** One symbol: any estimator of gsrl. More, each depending on those before: pathwise estimators, whose
    samples are differentiable, and score-function estimators, with the log-probabilities up to and including the end
    symbol.
    With soft messages (plain Gumbel-softmax) the cost is the expectation over where the message ends, see
    :func:`end_weights`.

    **Noise**, which needs no gradient of its own, and lets that of the symbols pass, for all of it is linear in them:

    - ``substitution``: the probability that a symbol arrives as another one, drawn uniformly (symmetric channel).
    - ``erasure``: the probability that a symbol arrives as the "erased" symbol, an extra and last column for receivers.
    - ``permutation``: the probability that the symbols of a message arrive in random order.

    The end symbol is framing, not content: no noise touches it, nor the symbols' number.

    By default nothing is added to the game's cost. Where all meanings are equally likely, and there are hardly more
    messages than meanings, ``temperature=2.0, entropy_bonus=0.05, diversity_bonus=1.0`` is a good start for
    ``st-gumbel``: without them, some meanings end up with the same message.

    Args:
        vocabulary: Symbols that carry meaning, at least 2; the end symbol is not counted.
        length: Most symbols of a message, at least 1.
        estimator: Of the gradient: a name that :func:`gsrl.make_estimator` knows, or an estimator, which then belongs
            to the channel. Its temperature may be scheduled or learned, see :mod:`gsrl.temperature`.
        variable_length: Whether the sender may end its messages early.
        substitution: Probability that a symbol arrives as another one, drawn uniformly.
        erasure: Probability that a symbol arrives as the erased one: it gets lost, and the receiver sees that.
        permutation: Probability that the symbols of a message arrive in random order.
        length_cost: What each symbol before the end costs, in units of the game's cost.
        entropy_bonus: What a nat of the sender's entropy is worth, in units of the game's cost; a number of at least 0,
            or a schedule of :mod:`gsrl.temperature`. Without one, senders soon choose with certainty, and meanings that
            have come to share a message by then will share it for good.
        diversity_bonus: What a nat of the entropy of the mean distribution of a batch is worth, at each position; a
            number of at least 0, or a schedule. It keeps all symbols in use (Eccles et al. 2019, 1912.05676, the first
            term of their positive signalling). With an end symbol, the distribution is that of the symbols which carry
            meaning, given that there is one. It is at odds with a prior under which some symbols should be rare.
        bandwidth: Most bits of a message, of ``log2(vocabulary)`` a symbol; ``length`` is lowered to what fits. None:
            there is no limit.
        **estimator_settings: Of the estimator named, such as ``temperature``.

    Attributes:
        symbols: Choices of the sender at each position: ``vocabulary``, and the end symbol if there is one.
        width: Columns of what a receiver sees of each symbol: ``symbols``, and the erased one if there is one.
        length: Most symbols of a message, within the bandwidth.

    Raises:
        TypeError: ``estimator`` is neither, or has no such setting.
        ValueError: An argument is out of its range; the bandwidth is too small for one symbol; the estimator needs the
            whole message at once, and ``length`` is above 1.

    Example:
        >>> from gsrl import comms
        >>> channel = Channel(4, length=2, erasure=1.0)
        >>> channel.symbols, channel.width  # receivers see the erased symbol besides
        (4, 5)
        >>> channel.send(comms.MLPSender(3, 4, length=2), torch.eye(3)[:1]).received
        tensor([[[0., 0., 0., 0., 1.],
                 [0., 0., 0., 0., 1.]]])
        >>> Channel(4, length=10, bandwidth=6.0).length  # of two bits each
        3
    """

    def __init__(
        self,
        vocabulary: int,
        length: int = 1,
        *,
        estimator: str | Estimator = "st-gumbel",
        variable_length: bool = False,
        substitution: float = 0.0,
        erasure: float = 0.0,
        permutation: float = 0.0,
        length_cost: float = 0.0,
        entropy_bonus: float | Temperature = 0.0,
        diversity_bonus: float | Temperature = 0.0,
        bandwidth: float | None = None,
        **estimator_settings: Any,
    ) -> None:
        super().__init__()
        for name, value, least in (("vocabulary", vocabulary, 2), ("length", length, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, but got {value!r}.")
        for name, chance in (("substitution", substitution), ("erasure", erasure), ("permutation", permutation)):
            if not 0 <= chance <= 1:
                raise ValueError(f"{name} must be a probability, in [0, 1], but got {chance!r}.")
        if not math.isfinite(length_cost):
            raise ValueError(f"length_cost must be finite, but got {length_cost!r}.")
        for name, bonus in (("entropy_bonus", entropy_bonus), ("diversity_bonus", diversity_bonus)):
            if not isinstance(bonus, Temperature) and not 0 <= bonus < math.inf:
                raise ValueError(f"{name} must be a schedule, or finite and at least 0, but got {bonus!r}.")
        if length_cost and not variable_length:
            raise ValueError(f"length_cost must be 0 where all messages have the same length, but got {length_cost}.")
        self.vocabulary, self.variable_length, self.bandwidth = vocabulary, variable_length, bandwidth
        self.length = length if bandwidth is None else _within(bandwidth, vocabulary, length)
        self.substitution, self.erasure, self.permutation = substitution, erasure, permutation
        self.length_cost = length_cost
        self.entropy_bonus, self.diversity_bonus = entropy_bonus, diversity_bonus
        self.symbols = vocabulary + variable_length
        self.width = self.symbols + (erasure > 0)
        self.estimator = _estimator(estimator, self.symbols, estimator_settings)
        if self.length > 1 and not (self._is_pathwise or hasattr(self.estimator, "surrogate")):
            raise ValueError(
                f"estimator {self.estimator.name} needs the whole message at once, so length must be 1, but got "
                f"{self.length}: for sequences of symbols use a pathwise one, such as st-gumbel, or reinforce or rloo."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments; the estimator is the channel's own."""
        names = ("vocabulary", "length", "estimator", "variable_length", "substitution", "erasure", "permutation")
        return {name: getattr(self, name) for name in (*names, *LOSS_SETTINGS, "bandwidth")}

    @property
    def is_noisy(self) -> bool:
        """Whether messages may arrive otherwise than they were sent."""
        return self.substitution > 0 or self.erasure > 0 or (self.permutation > 0 and self.length > 1)

    def step(self, cost: Tensor) -> None:
        """Advances what changes between updates, once after each: the estimator's state, and schedules of bonuses.

        Args:
            cost: The costs of this update.
        """
        self.estimator.step(cost)
        for bonus in (self.entropy_bonus, self.diversity_bonus):
            if isinstance(bonus, Temperature):
                bonus.step()

    @property
    def _is_pathwise(self) -> bool:
        return hasattr(self.estimator, "sample")

    # Randomness, outside the mathematics

    def draw_noise(self, batch_shape: Sequence[int], generator: torch.Generator | None = None) -> ChannelNoise:
        """Draws all that is random in one transmission, for :meth:`expectation`.

        Args:
            batch_shape: Of the messages.
            generator: Source of randomness; torch's default one if None. The noise is on its device.
        """
        device = generator.device if generator else torch.device("cpu")
        policy = _template(tuple(batch_shape), self.symbols, device)
        symbols = tuple(self.estimator.draw_noise(policy, generator) for _ in range(self.length))
        return self.draw_disturbance(batch_shape, generator)._replace(symbols=symbols)

    def draw_noise_in_lockstep(self, batch_shape: Sequence[int], generators: Sequence[torch.Generator]) -> ChannelNoise:
        """Draws what :meth:`draw_noise` draws of each generator, with a leading dimension of them."""
        policy = _template(tuple(batch_shape), self.symbols, generators[0].device)
        symbols = tuple(draw_noise_in_lockstep(self.estimator, policy, generators) for _ in range(self.length))
        _, *disturbances = zip(*(self.draw_disturbance(batch_shape, each) for each in generators), strict=True)
        return ChannelNoise(symbols, *(None if drawn[0] is None else torch.stack(drawn) for drawn in disturbances))

    def draw_disturbance(self, batch_shape: Sequence[int], generator: torch.Generator | None = None) -> ChannelNoise:
        """Draws what befalls messages on their way, and nothing else, for :meth:`transmit`.

        Args:
            batch_shape: Of the messages.
            generator: See :meth:`draw_noise`.
        """
        if not self.is_noisy:
            return ChannelNoise(())
        shape, device = (*batch_shape, self.length), generator.device if generator else None
        shifts = erased = order = None
        if self.substitution > 0:
            shifts = torch.randint(1, self.vocabulary, shape, generator=generator, device=device)
            shifts *= torch.rand(shape, generator=generator, device=device) < self.substitution
        if self.erasure > 0:
            erased = torch.rand(shape, generator=generator, device=device) < self.erasure
        if self.permutation > 0:
            order = torch.rand(shape, generator=generator, device=device)
            is_kept = torch.rand((*shape[:-1], 1), generator=generator, device=device) >= self.permutation
            order = torch.where(is_kept, torch.arange(self.length, device=device) / self.length, order)
        return ChannelNoise((), shifts, erased, order)

    # Training

    def expectation(
        self,
        sender: Sender,
        sender_input: Tensor,
        cost: Callable[[Message], Tensor],
        noise: ChannelNoise,
    ) -> Estimate:
        """Estimates the expected cost of what a sender says; a pure function of its arguments.

        Args:
            sender: Who speaks.
            sender_input: What it sees, ``[*batch, ...]``.
            cost: Maps messages of batch shape ``[*lead, *batch]`` to their costs, of the same shape. It is called once
                or a few times, at samples or at soft messages, as the estimator wants it.
            noise: What :meth:`draw_noise` returned for ``[*batch]``.
        """

        def total(symbols: Tensor) -> tuple[Tensor, Tensor]:
            message = self.transmit(symbols, noise)
            return cost(message) + self.length_cost * message.length, message.length

        if self.length == 1:
            logits, _ = sender.step(sender.start(sender_input), None)
            policy = FactoredCategorical(logits.unsqueeze(-2), validate_args=False)
            value = self.estimator.expectation(policy, lambda symbols: total(symbols)[0], noise.symbols[0])
            length = 1 - policy.probs.detach()[..., 0, 0] if self.variable_length else torch.ones_like(value)
            diversity = self._diversity([torch.ones_like(length)], [policy])
            return Estimate(value, policy.entropy(), diversity, length.detach())
        if self._is_pathwise:
            symbols, policies = self._speak(
                sender, sender_input, lambda policy, t: self.estimator.sample(policy, noise.symbols[t])
            )
            value, length = total(symbols)
            reached = self._reached(symbols)
            entropy, diversity = self._entropy(reached, policies), self._diversity(reached, policies)
            return Estimate(value, entropy, diversity, length.detach())
        return self._by_score(sender, sender_input, total, noise.symbols)

    def _by_score(
        self,
        sender: Sender,
        sender_input: Tensor,
        total: Callable[[Tensor], tuple[Tensor, Tensor]],
        noise: tuple[Any, ...],
    ) -> Estimate:
        """By log-probabilities of the choices up to the end symbol; several messages of the same input, for RLOO."""
        log_probs: list[Tensor] = []

        def choose(policy: FactoredCategorical, t: int) -> Tensor:
            # The first symbol's distribution is that of all samples.
            shape = noise[t].shape[: noise[t].dim() - 2]
            policy = policy if policy.batch_shape == shape else policy.expand(shape)
            symbol, log_prob = self.estimator.draw(policy, noise[t])
            log_probs.append(log_prob)
            return symbol

        symbols, policies = self._speak(sender, sender_input, choose)
        value, length = total(symbols)
        reached = self._reached(symbols)
        value = self.estimator.surrogate(value, [log_prob * r for log_prob, r in zip(log_probs, reached, strict=True)])
        entropy, length = self._entropy(reached, policies), length.detach()
        if length.dim() > value.dim():  # of several messages, their mean
            entropy, length = entropy.mean(0), length.mean(0)
        return Estimate(value, entropy, self._diversity(reached, policies), length)

    def loss(self, estimate: Estimate) -> Tensor:
        """What is minimised: the mean cost, less what entropy and diversity are worth."""
        loss = estimate.cost.mean()
        for bonus, worth in ((self.entropy_bonus, estimate.entropy), (self.diversity_bonus, estimate.diversity)):
            if isinstance(bonus, Temperature):
                loss = loss - bonus() * worth.mean()
            elif bonus:
                loss = loss - bonus * worth.mean()
        return loss

    # Execution

    @torch.no_grad()
    def send(
        self,
        sender: Sender,
        sender_input: Tensor,
        generator: torch.Generator | None = None,
        *,
        deterministic: bool = True,
        validate_args: bool = True,
    ) -> Message:
        """Sends messages in execution: they are always hard.

        Args:
            sender: Who speaks.
            sender_input: What it sees, ``[*batch, ...]``.
            generator: Source of the channel's noise, and of samples; torch's default one if None.
            deterministic: Whether the most probable symbols are sent; otherwise they are sampled.
            validate_args: Whether the sender's logits are checked.

        Raises:
            gsrl.checks.NonFiniteError: A logit is NaN; the message says which input or parameter of the sender is not
                finite.
        """

        def choose(policy: FactoredCategorical, t: int) -> Tensor:
            if deterministic:
                return policy.mode
            return policy.sample(noise=gumbel_noise(policy.logits.shape, generator=generator).to(policy.logits.device))

        symbols, policies = self._speak(sender, sender_input, choose)
        if validate_args:
            largest(torch.cat([policy.logits for policy in policies], -2), sender_input, sender)
        _, *disturbance = self.draw_disturbance(symbols.shape[:-2], generator)
        on_device = (None if each is None else each.to(symbols.device) for each in disturbance)
        return self.transmit(symbols, ChannelNoise((), *on_device))

    def transmit(self, symbols: Tensor, noise: ChannelNoise) -> Message:
        """What becomes of symbols ``[*lead, *batch, L, symbols]`` on their way; linear in them, given their end."""
        if not self.variable_length:
            length, ends = symbols.new_full(symbols.shape[:-2], float(self.length)), None
        else:
            end = symbols[..., 0]
            ends = end_weights(end) if self.length > 1 else None
            # The number of symbols before the end: one for each position that did not end the message.
            reached, going = torch.ones_like(end[..., 0]), []
            for e in end.unbind(-1):
                reached = (1 - e) * reached
                going.append(reached)
            length = torch.stack(going).sum(0)
        return Message(symbols, self._disturbed(symbols, noise), ends, length)

    def _disturbed(self, symbols: Tensor, noise: ChannelNoise) -> Tensor:
        framing, content = symbols.split((self.symbols - self.vocabulary, self.vocabulary), -1)
        if noise.shifts is not None:
            columns = torch.arange(self.vocabulary, device=symbols.device)
            source = (columns - noise.shifts.unsqueeze(-1)) % self.vocabulary
            content = content.gather(-1, source.expand(content.shape))
        received = torch.cat([framing, content], -1) if self.variable_length else content
        if noise.erased is not None:
            erased = noise.erased.unsqueeze(-1).to(symbols.dtype)
            lost = erased * content.sum(-1, keepdim=True)
            received = torch.cat([framing, content * (1 - erased), lost], -1)
        if noise.order is not None and self.length > 1:
            order = noise.order.expand(received.shape[:-1])
            if self.variable_length:  # what ends the message, and what follows, stays where it is
                is_over = (symbols.detach().argmax(-1) == 0).cumsum(-1) > 0
                order = torch.where(is_over, 1 + torch.arange(self.length, device=symbols.device), order)
            received = received.gather(-2, order.argsort(-1).unsqueeze(-1).expand(received.shape))
        return received

    # Both

    def _speak(
        self, sender: Sender, sender_input: Tensor, choose: Callable[[FactoredCategorical, int], Tensor]
    ) -> tuple[Tensor, list[FactoredCategorical]]:
        """Drives a sender through a message: the symbols ``[*batch, L, symbols]``, and what they were chosen from."""
        state, previous = sender.start(sender_input), None
        symbols, policies = [], []
        for position in range(self.length):
            logits, state = sender.step(state, previous)
            policies.append(FactoredCategorical(logits.unsqueeze(-2), validate_args=False))
            previous = choose(policies[-1], position).squeeze(-2)
            symbols.append(previous)
        return torch.stack(symbols, -2), policies

    def _reached(self, symbols: Tensor) -> list[Tensor]:
        """How much each position is part of the message, its end symbol included; without gradient."""
        if not self.variable_length:
            return [torch.ones_like(symbols[..., 0, 0])] * self.length
        end = symbols[..., 0].detach()
        reached = [torch.ones_like(end[..., 0])]
        for e in end[..., :-1].unbind(-1):
            reached.append((1 - e) * reached[-1])
        return reached

    def _entropy(self, reached: Sequence[Tensor], policies: Sequence[FactoredCategorical]) -> Tensor:
        return torch.stack([share * policy.entropy() for share, policy in zip(reached, policies, strict=True)]).sum(0)

    def _diversity(self, reached: Sequence[Tensor], policies: Sequence[FactoredCategorical]) -> Tensor:
        r"""The entropy of the symbols of a batch ``[*lead, B]``, summed over positions, averaged over ``lead``.

        .. math:: \sum_t \bar w_t \mathcal{H}(m_t), \qquad m_t = \frac{\sum_b w_{t,b}\, \pi_{t,b}}{\sum_b w_{t,b}}

        :math:`\pi_{t,b}` is over the symbols that carry meaning, given that message b does not end at t, and
        :math:`w_{t,b}` how probable it is that it has a symbol there. The weights have no gradient: without that, or
        without the condition, each nat would be a reason not to end.
        """
        terms = []
        for share, policy in zip(reached, policies, strict=True):
            if not self.variable_length:
                terms.append(_entropy_of(policy.probs.mean(-3)).mean())
                continue
            weight = share * (1 - policy.probs.detach()[..., 0, 0])
            own = weight / weight.sum(-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
            # Finite logits: where the end is certain the weight is 0, and 0 times NaN would be NaN.
            mean = (own[..., None, None] * policy.finite_logits[..., 1:].softmax(-1)).sum(-3)
            terms.append((weight.mean(-1) * _entropy_of(mean)).mean())
        return torch.stack(terms).sum()

    def extra_repr(self) -> str:
        """The settings that are not modules."""
        return ", ".join(f"{k}={v!r}" for k, v in self.settings.items() if not isinstance(v, nn.Module))


def _entropy_of(probs: Tensor) -> Tensor:
    """``[*lead]``, of rows ``[*lead, 1, K]``; its gradient is finite where a symbol has gone for good."""
    return -(probs * probs.clamp_min(1e-30).log()).sum((-2, -1))


def _estimator(estimator: str | Estimator, symbols: int, settings: dict[str, Any]) -> Estimator:
    if isinstance(estimator, Estimator):
        if settings:
            raise TypeError(f"estimator is an object and takes no more settings, but got {sorted(settings)}.")
        return estimator
    if not isinstance(estimator, str):
        raise TypeError(f"estimator must be a name or a gsrl.Estimator, but got {type(estimator).__name__}.")
    return make_estimator(estimator, shape=(1, symbols), **settings)


def _within(bandwidth: float, vocabulary: int, length: int) -> int:
    """The most symbols, up to ``length``, that a message of so many bits may have."""
    if not math.isfinite(bandwidth):
        raise ValueError(f"bandwidth must be finite, or None for no limit, but got {bandwidth}.")
    fitting = math.floor(bandwidth / math.log2(vocabulary) + 1e-9)
    if not fitting >= 1:
        raise ValueError(
            f"bandwidth must be enough for a symbol, of {math.log2(vocabulary):.2f} bits, but got {bandwidth}."
        )
    return min(length, fitting)


@functools.lru_cache(maxsize=32)
def _template(batch_shape: tuple[int, ...], symbols: int, device: torch.device) -> FactoredCategorical:
    """A policy of which only the shape counts: what an estimator draws noise for."""
    return FactoredCategorical(torch.zeros(*batch_shape, 1, symbols, device=device), validate_args=False)
