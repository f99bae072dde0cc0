"""REINFORCE with control variates that depend on the sample: REBAR, RELAX and MuProp."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gsrl._validation import is_concrete, positive
from gsrl.distributions import FactoredCategorical
from gsrl.estimators.base import Estimator, Objective, attach_gradient, evaluate, value_and_slope
from gsrl.relaxations import NEVER

__all__ = ["MuProp", "Rebar", "Relax", "RelaxedControl", "RelaxedObjective", "RelaxedSurrogate"]


class _Minimised(torch.autograd.Function):
    """Zero, with the gradient of a term to be minimised, whatever the sign with which the zero enters a loss."""

    generate_vmap_rule = True

    @staticmethod
    def forward(term: Tensor) -> Tensor:
        return torch.zeros_like(term)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is saved."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.abs()


class RelaxedControl(Estimator):
    r"""REINFORCE with a learned control variate c at the perturbed logits, from which the sample itself was made.

    With :math:`z = \log p + G`, :math:`D = \mathrm{onehot}(\arg\max z)` and :math:`\tilde z` drawn given D, the
    estimate is :math:`(f(D) - c(\tilde z))(D - p) + \nabla_\theta [c(z) - c(\tilde z)]`. Both draws share their
    randomness, so that :math:`\tilde z = z` in value (memorylessness: :math:`E'_D = E_D / p_D`,
    :math:`E'_j = E_j - p_j E_D / p_D`), while :math:`\partial \tilde z_j / \partial \log p_j = 1 - e^{z_j - z_D}`. Then

    .. math:: \hat g = (f(D) - c(z))(D - p) + P[\, c'(z) \odot e^{z - z_D} ], \qquad P[v] = v - p \textstyle\sum_k v_k

    This is the estimate of the papers with both of its draws coupled. The variance is about that of independent draws,
    for one call of c in the place of two. Unbiased for every c that is smooth: continuous, with a gradient almost
    everywhere.

    In the same ``backward``, the parameters of c receive a gradient that descends the second moment of the estimate:
    that of the batch mean of the squared estimate, times the sum of the absolute weights with which the values enter
    the loss. For the mean over the batch that is 1, whatever its sign. Hand ``parameters()`` to an optimiser to learn
    them. Parameters inside ``f`` receive the gradient at the hard sample alone.

    c runs under ``torch.func``, and learning takes its second derivatives. Where c holds ``f``, ``f`` must bear both:
    checkpointing, BatchNorm in training mode and an ``autograd.Function`` without ``setup_context`` fail. With the
    parameters frozen by ``requires_grad_(False)``, the estimate is the same, first derivatives are enough, and an
    estimate is cheaper.

    Args:
        control: c, a module that maps the perturbed logits ``[*batch, n, K]`` and the objective, as a function of
            ``[*batch, n, K]``, to ``[*batch]``.

    Example:
        >>> class Half(nn.Module):
        ...     def forward(self, perturbed, objective):
        ...         return 0.5 * objective(perturbed.softmax(-1))
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy, f = gsrl.FactoredCategorical(logits), lambda rows: rows[..., 0].sum(-1)
        >>> RelaxedControl(Half()).expectation(policy, f).backward()
        >>> logits.grad.shape, bool(logits.grad.sum(-1).abs().max() < 1e-6)
        (torch.Size([2, 3]), True)
    """

    name = "relaxed-control"
    biased = False

    def __init__(self, control: nn.Module) -> None:
        super().__init__()
        self.control = control

    def calls(self, n: int, K: int) -> int:
        """1: the sample. What c evaluates comes to that, and is counted by a subclass."""
        return 1

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Tensor) -> Tensor:
        dtype = policy.logits.dtype
        # Finite, and still exactly 0 in every softmax where a choice is illegal.
        perturbed = (policy.logits.detach() + noise).clamp_min(NEVER)
        largest = perturbed.amax(-1, keepdim=True)
        one_hot = torch.zeros_like(perturbed).scatter(-1, perturbed.argmax(-1, keepdim=True), 1.0)
        probs = policy.probs.detach()

        def objective(rows: Tensor) -> Tensor:
            values = evaluate(f, rows.to(dtype).unsqueeze(0)).squeeze(0)
            if rows.requires_grad and not values.requires_grad:
                raise ValueError(
                    f"f must be differentiable in soft rows for {self.name}, but what it returned has no gradient: it "
                    "takes an arg max, compares, detaches, or is constant. Use an estimator that needs values alone, "
                    "such as rloo."
                )
            return values

        cost = objective(one_hot)

        def second_moment(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            """Mean over the batch of the squared estimate; and the gradient in the normalised logits."""
            value, slope = value_and_slope(
                lambda z: torch.func.functional_call(self.control, parameters, (z, objective)), perturbed
            )
            gradient = (cost.detach() - value)[..., None, None] * one_hot + slope * (perturbed - largest).exp()
            estimate = gradient - probs * gradient.sum(-1, keepdim=True)
            return estimate.square().sum((-2, -1)).mean(), gradient

        # Inside torch.func.vmap, what is to be differentiated outside does not say so.
        learned = {
            name: value
            for name, value in self.control.named_parameters()
            if value.requires_grad or not is_concrete(value)
        }
        if not (learned and torch.is_grad_enabled()):
            return attach_gradient(cost, policy, second_moment({})[1])
        fixed = {name: value.detach() for name, value in learned.items()}
        descent, gradient = torch.func.grad(second_moment, has_aux=True)(fixed)
        term = torch.stack([(descent[name].detach() * value).sum() for name, value in learned.items()]).sum()
        return attach_gradient(cost, policy, gradient) + _Minimised.apply(term.expand(cost.shape)).to(cost.dtype)


class RelaxedObjective(nn.Module):
    r"""REBAR's control variate, :math:`c(z) = \eta\, f(\mathrm{softmax}(z / \tau))`.

    Args:
        eta: Its weight.
        temperature: Of the relaxation, positive.

    Raises:
        ValueError: ``temperature`` is not finite and positive.

    Example:
        >>> control = RelaxedObjective(eta=0.5, temperature=1.0)
        >>> control(torch.zeros(1, 2), lambda rows: rows[..., 0].sum(-1)).item()  # .5 * f(.5, .5)
        0.25
    """

    def __init__(self, eta: float, temperature: float) -> None:
        super().__init__()
        temperature = positive("temperature", temperature)
        self.eta = nn.Parameter(torch.tensor(float(eta)))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(self, perturbed: Tensor, objective: Objective) -> Tensor:
        """Maps perturbed logits ``[*batch, n, K]`` to ``[*batch]``."""
        return self.eta * objective((perturbed / self.log_temperature.exp()).softmax(-1))


class Rebar(RelaxedControl):
    r"""REBAR: REINFORCE whose control variate is ``f`` at the relaxed sample.

    .. math:: c(z) = \eta f(\mathrm{softmax}(z / \tau)), \qquad z = \log p + G

    The estimate made of c, how c learns, and what that asks of ``f``: see :class:`RelaxedControl`. ``eta`` and the
    logarithm of the temperature are the parameters. Unbiased for every value of theirs, if ``f`` is smooth between the
    vertices. For an ``f`` that jumps at the arg max, :math:`c(z) = \eta f(D)`, and at ``eta = 1`` every estimate is
    exactly 0: one that has no gradient at all is refused. Two calls of ``f`` (three in the paper), one of them at soft
    rows; while c learns, ``f`` is differentiated twice there, which costs more than the calls do. Use it where ``f`` is
    smooth and bias is not an option.

    Source: Tucker et al. 2017 (1703.07370), Section 3; the categorical form: Grathwohl et al. 2018 (1711.00123),
    Section 4 and Appendix B.

    Args:
        eta: Weight of the control variate at the start; 0 is REINFORCE.
        temperature: At the start; positive.

    Raises:
        ValueError: ``temperature`` is not finite and positive.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> Rebar().expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "rebar"
    source = "1703.07370"

    def __init__(self, eta: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__(RelaxedObjective(eta, temperature))
        self._settings: dict[str, Any] = {"eta": eta, "temperature": temperature}

    def calls(self, n: int, K: int) -> int:
        """2: the sample, and soft rows."""
        return 2

    @property
    def settings(self) -> dict[str, Any]:
        """What ``eta`` and the temperature started from."""
        return dict(self._settings)


class RelaxedSurrogate(nn.Module):
    r"""RELAX's control variate, :math:`c(z) = r(\mathrm{softmax}(z / \tau))`, or that plus ``f`` at the same rows.

    ``r`` is a multilayer perceptron over the whole matrix. It starts as the constant 0.

    Args:
        n: Factors.
        K: Choices of each.
        width: Of the two hidden layers.
        temperature: Of the relaxation, positive.
        add_objective: Whether ``f`` is added.
        seed: Of the weights.

    Raises:
        ValueError: ``temperature`` is not finite and positive.

    Example:
        >>> control = RelaxedSurrogate(1, 2, width=8, temperature=1.0, add_objective=True, seed=0)
        >>> control(torch.zeros(1, 2), lambda rows: rows[..., 0].sum(-1)).item()  # 0 + f(.5, .5)
        0.5
    """

    def __init__(
        self,
        n: int,
        K: int,
        width: int,
        temperature: float,
        add_objective: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(positive("temperature", temperature))))
        self.add_objective = add_objective
        generator = torch.Generator(self.log_temperature.device).manual_seed(seed)
        first, second, last = (
            nn.utils.skip_init(nn.Linear, *sizes) for sizes in ((n * K, width), (width, width), (width, 1))
        )
        with torch.no_grad():
            for layer in (first, second):
                bound = layer.in_features**-0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
            last.weight.zero_()
            last.bias.zero_()
        self.network = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last)

    def forward(self, perturbed: Tensor, objective: Objective) -> Tensor:
        """Maps perturbed logits ``[*batch, n, K]`` to ``[*batch]``."""
        rows = (perturbed / self.log_temperature.exp()).softmax(-1)
        value = self.network(rows.flatten(-2).to(self.log_temperature.dtype)).squeeze(-1).to(rows.dtype)
        return value + objective(rows) if self.add_objective else value


class Relax(RelaxedControl):
    r"""RELAX: REINFORCE whose control variate is a network.

    .. math:: c(z) = r_\phi(\mathrm{softmax}(z / \tau)), \qquad z = \log p + G

    The estimate made of c, and how c learns: see :class:`RelaxedControl`. The network starts as 0, where the estimate
    is REINFORCE; the logarithm of the temperature is learned too. Unbiased whatever they are. One call of ``f``, which
    needs no gradient, and one of the network, which learning differentiates twice. With ``add_objective``, ``f`` at the
    same soft rows is added to c: a second call, which asks of ``f`` what :class:`Rebar` does. Use it where ``f`` is the
    same, or changes slowly, over many updates: the network must have time to learn.

    Source: Grathwohl et al. 2018 (1711.00123), Eq. 8 and Algorithm 2; there the network sees z itself.

    Args:
        n: Factors of the policies it will see.
        K: Choices of each factor.
        width: Width of the network's two hidden layers.
        temperature: Of the rows that the network sees, at the start; positive. It is learned.
        add_objective: Whether ``f`` at the same soft rows is part of the control variate.
        seed: Of the network's first weights. They are drawn apart: no other generator is read.

    Raises:
        ValueError: ``temperature`` is not finite and positive; a size is below 1; from :meth:`expectation`: the policy
            has another shape.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> Relax(2, 3).expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "relax"
    source = "1711.00123 Eq. 8"
    shaped = True

    def __init__(
        self,
        n: int,
        K: int,
        width: int = 32,
        temperature: float = 1.0,
        add_objective: bool = False,
        seed: int = 0,
    ) -> None:
        for argument, size in (("n", n), ("K", K), ("width", width)):
            if size < 1:
                raise ValueError(f"{argument} must be at least 1, but got {size}.")
        super().__init__(RelaxedSurrogate(n, K, width, temperature, add_objective, seed))
        self._settings: dict[str, Any] = {
            "n": n,
            "K": K,
            "width": width,
            "temperature": temperature,
            "add_objective": add_objective,
            "seed": seed,
        }

    def calls(self, n: int, K: int) -> int:
        """1: the sample; and soft rows, with ``add_objective``."""
        return 1 + int(self._settings["add_objective"])

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Tensor) -> Tensor:
        expected, given = (self._settings["n"], self._settings["K"]), tuple(policy.event_shape)
        if given != expected:
            raise ValueError(f"relax was made for (n, K) = {expected}, but got a policy of {given}.")
        return super()._expectation(policy, f, noise)

    @property
    def settings(self) -> dict[str, Any]:
        """The sizes, what the temperature started from, whether ``f`` is added, and the seed of the weights."""
        return dict(self._settings)


class MuProp(Estimator):
    r"""MuProp: REINFORCE whose control variate is ``f`` linearised at the mean of the policy.

    .. math:: c(D) = f(p) + f'(p) \cdot (D - p), \qquad \hat g = (f(D) - c(D))(D - p) + J(p) f'(p),
              \quad J(q) = \mathrm{diag}(q) - q q^\top \text{ row by row}

    Unbiased, whether ``f`` is smooth or not; without variance for a linear ``f``. Two calls of ``f``, one of them at
    soft rows, where its gradient is taken, under ``torch.func``: checkpointing, BatchNorm in training mode and an
    ``autograd.Function`` without ``setup_context`` inside ``f`` fail. Use it where ``f`` is nearly linear between the
    mean and the vertices.

    Source: Gu et al. 2016 (1511.05176), Eq. 3.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 factors of 3 choices
        >>> policy = gsrl.FactoredCategorical(logits)
        >>> MuProp().expectation(policy, lambda choices: choices[..., 0].sum(-1)).backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    name = "muprop"
    biased = False
    source = "1511.05176"

    def calls(self, n: int, K: int) -> int:
        """2: the sample, and the mean."""
        return 2

    def _expectation(self, policy: FactoredCategorical, f: Objective, noise: Tensor) -> Tensor:
        one_hot, probs = policy.sample(noise=noise), policy.probs.detach()
        cost = evaluate(f, one_hot.unsqueeze(0)).squeeze(0)
        center, slope = value_and_slope(lambda rows: evaluate(f, rows.unsqueeze(0)).squeeze(0), probs)
        advantage = cost.detach() - center - (slope * (one_hot - probs)).sum((-2, -1))
        return attach_gradient(cost, policy, advantage[..., None, None] * one_hot + slope * probs)
