"""Temperatures of relaxations: constant, scheduled, learned, and one a state.

Each is a module, so that what changes (steps taken, learned weights) is in its `state_dict`; what does not is in its
`settings`. `make_temperature(name, **settings)` builds it again from its `name` and its `settings`.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gsrl._validation import is_number, positive

__all__ = [
    "TEMPERATURES",
    "ConstantTemperature",
    "CosineTemperature",
    "ExponentialTemperature",
    "LearnedTemperature",
    "LinearTemperature",
    "ScheduledTemperature",
    "StateTemperature",
    "Temperature",
    "as_temperature",
    "make_temperature",
]


class Temperature(nn.Module):
    """Base of the temperatures that are one number for all states.

    Calling it returns the current temperature and never changes it; `step` advances a schedule.

    Example:
        >>> class Halving(Temperature):
        ...     settings = {}
        ...
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("value", torch.tensor(1.0))
        ...
        ...     def forward(self):
        ...         return self.value
        ...
        ...     def step(self):
        ...         self.value *= 0.5
        >>> temperature = Halving()
        >>> temperature.step()
        >>> temperature().item()
        0.5
    """

    name: ClassVar[str]

    @property
    def settings(self) -> dict[str, float]:
        """The constructor's arguments, fit for JSON."""
        raise NotImplementedError

    def forward(self) -> Tensor:
        """Return the current temperature.

        Returns:
            A float32 scalar tensor above 0, differentiable where it is learned.
        """
        raise NotImplementedError

    def step(self) -> None:
        """Advance a schedule by one step; nothing to do where there is none."""

    def extra_repr(self) -> str:
        """The settings, and the current temperature where it is none of them."""
        shown = dict(self.settings)
        if "value" not in shown:
            shown["value"] = float(f"{self().item():.4g}")
        return _listed(shown)


class ConstantTemperature(Temperature):
    """A temperature that stays the same.

    Args:
        value: The temperature, above 0.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is not finite and above 0.

    Example:
        >>> ConstantTemperature(0.5)().item()
        0.5
    """

    name = "constant"
    _tensor: Tensor

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = positive("value", value)
        # A buffer follows the module to its device; `settings` already stores the value.
        self.register_buffer("_tensor", torch.tensor(self.value, dtype=torch.float32), persistent=False)

    @property
    def settings(self) -> dict[str, float]:
        """The constructor's arguments, fit for JSON."""
        return {"value": self.value}

    def forward(self) -> Tensor:
        """Return the temperature, a float32 scalar tensor."""
        return self._tensor


class ScheduledTemperature(Temperature):
    """Base of the schedules that fall from `initial` to `minimum` in `steps` steps and stay there.

    The buffer `count`, the number of steps taken so far, is the whole state.

    Args:
        initial: Temperature before the first step, at least `minimum`.
        minimum: Temperature after `steps` steps, above 0.
        steps: Number of calls of `step` it takes to get there, at least 1.

    Raises:
        TypeError: An argument is not a number, or `steps` not an integer.
        ValueError: A temperature is not finite and above 0, `minimum` is above `initial`, or `steps` is below 1.

    Example:
        >>> temperature = LinearTemperature(1.0, 0.5, steps=1)
        >>> temperature.step()
        >>> isinstance(temperature, ScheduledTemperature), temperature().item()
        (True, 0.5)
    """

    count: Tensor

    def __init__(self, initial: float, minimum: float, steps: int) -> None:
        super().__init__()
        self.initial = positive("initial", initial)
        self.minimum = positive("minimum", minimum)
        self.steps = _count("steps", steps)
        if self.minimum > self.initial:
            raise ValueError(f"minimum must be at most initial = {self.initial}, but got {self.minimum}.")
        self.register_buffer("count", torch.tensor(0, dtype=torch.int64))

    @property
    def settings(self) -> dict[str, float]:
        """The constructor's arguments, fit for JSON."""
        return {"initial": self.initial, "minimum": self.minimum, "steps": self.steps}

    def step(self) -> None:
        """Advance the schedule by one step."""
        self.count += 1

    def remaining(self) -> Tensor:
        """Return the share of the way still to go, max(0, 1 - t/T): 1 before the first step, 0 at the end."""
        return (1 - self.count.to(torch.float32) / self.steps).clamp(min=0)


# The schedules are written in r = max(0, 1 - t/T), not t/T, so that their end is exactly `minimum`.
class ExponentialTemperature(ScheduledTemperature):
    """A temperature that falls by the same factor each step.

    temperature(t) = max(minimum, initial (minimum / initial)^(t / steps)).

    Example:
        >>> temperature = ExponentialTemperature(1.0, 0.25, steps=2)
        >>> temperature.step()
        >>> round(temperature().item(), 3)
        0.5
    """

    name = "exponential"

    def forward(self) -> Tensor:
        """Return the current temperature, a float32 scalar tensor."""
        return self.minimum * (self.initial / self.minimum) ** self.remaining()


class LinearTemperature(ScheduledTemperature):
    """A temperature that falls by the same amount each step.

    temperature(t) = max(minimum, initial + (minimum - initial) t / steps).

    Example:
        >>> temperature = LinearTemperature(1.0, 0.5, steps=2)
        >>> temperature.step()
        >>> temperature().item()
        0.75
    """

    name = "linear"

    def forward(self) -> Tensor:
        """Return the current temperature, a float32 scalar tensor."""
        return self.minimum + (self.initial - self.minimum) * self.remaining()


class CosineTemperature(ScheduledTemperature):
    """A temperature that falls along half a cosine: slowly at both ends, fastest in the middle.

    temperature(t) = minimum + (initial - minimum) (1 + cos(pi t / steps)) / 2, and `minimum` after `steps`.

    Example:
        >>> temperature = CosineTemperature(1.0, 0.5, steps=2)
        >>> temperature.step()
        >>> temperature().item()
        0.75
    """

    name = "cosine"

    def forward(self) -> Tensor:
        """Return the current temperature, a float32 scalar tensor."""
        # (1 + cos(pi (1 - r))) / 2 = (1 - cos(pi r)) / 2
        return self.minimum + (self.initial - self.minimum) * (1 - torch.cos(math.pi * self.remaining())) / 2


class LearnedTemperature(Temperature):
    """A temperature that is a parameter.

    temperature = softplus(w) + minimum; its derivative with respect to w is sigmoid(w).

    Args:
        initial: Temperature before learning, above `minimum`.
        minimum: Lower bound, above 0: softplus underflows to 0, and a temperature of 0 divides by 0.

    Raises:
        TypeError: An argument is not a number.
        ValueError: A temperature is not finite and above 0, or `initial` is not above `minimum`.

    Example:
        >>> temperature = LearnedTemperature(1.0, minimum=0.1)
        >>> round(temperature().item(), 3), temperature().requires_grad
        (1.0, True)
    """

    name = "learned"

    def __init__(self, initial: float, minimum: float) -> None:
        super().__init__()
        self.initial = positive("initial", initial)
        self.minimum = positive("minimum", minimum)
        excess = self.initial - self.minimum
        if excess <= 0:
            raise ValueError(f"initial must be above minimum = {self.minimum}, but got {self.initial}.")
        # The inverse of softplus, log(exp(x) - 1), in a form that does not overflow.
        self.w = nn.Parameter(torch.tensor(excess + math.log(-math.expm1(-excess)), dtype=torch.float32))

    @property
    def settings(self) -> dict[str, float]:
        """The constructor's arguments, fit for JSON."""
        return {"initial": self.initial, "minimum": self.minimum}

    def forward(self) -> Tensor:
        """Return the current temperature, a float32 scalar tensor, differentiable in w."""
        return F.softplus(self.w) + self.minimum


class StateTemperature(nn.Module):
    """A learned temperature that depends on the state.

    temperature(h) = 1 / (softplus(w . h) + 1 / maximum), so 0 < temperature < maximum.
    Havrylov & Titov 2017 (arXiv 1705.11192), where h is the sender's hidden state and tau_0 = 1 / maximum.

    `w` starts at 0: every state has the temperature 1 / (log 2 + 1 / maximum), and no random numbers are drawn.
    It takes an argument, so it is no `Temperature`.

    Args:
        in_features: Number of features of a state, at least 1.
        maximum: Upper bound of the temperature, above 0.

    Raises:
        TypeError: An argument is not a number, or `in_features` not an integer.
        ValueError: `in_features` is below 1, or `maximum` is not finite and above 0.

    Example:
        >>> StateTemperature(8, maximum=2.0)(torch.zeros(4, 8)).shape
        torch.Size([4, 1, 1])
    """

    name: ClassVar[str] = "state"

    def __init__(self, in_features: int, maximum: float) -> None:
        super().__init__()
        self.in_features = _count("in_features", in_features)
        self.maximum = positive("maximum", maximum)
        self.w = nn.Parameter(torch.zeros(self.in_features, dtype=torch.float32))

    @property
    def settings(self) -> dict[str, float]:
        """The constructor's arguments, fit for JSON."""
        return {"in_features": self.in_features, "maximum": self.maximum}

    def forward(self, features: Tensor) -> Tensor:
        """Return the temperature of each state.

        Args:
            features: States `[*batch, in_features]`.

        Returns:
            `[*batch, 1, 1]`, which broadcasts over logits `[*batch, n, K]`.

        Raises:
            ValueError: The last dimension of `features` is not `in_features`.
        """
        if features.ndim < 1 or features.shape[-1] != self.in_features:
            raise ValueError(f"features must have shape [*batch, {self.in_features}], but got {list(features.shape)}.")
        return (1 / (F.softplus(features @ self.w) + 1 / self.maximum))[..., None, None]

    def extra_repr(self) -> str:
        """The settings: the temperature is each state's own."""
        return _listed(self.settings)


TEMPERATURES: dict[str, type[Temperature] | type[StateTemperature]] = {
    cls.name: cls
    for cls in (
        ConstantTemperature,
        ExponentialTemperature,
        LinearTemperature,
        CosineTemperature,
        LearnedTemperature,
        StateTemperature,
    )
}
"""The temperatures by name."""


def make_temperature(name: str, **settings: Any) -> Temperature | StateTemperature:
    """Build a temperature from its name and its constructor's arguments.

    Args:
        name: A key of `TEMPERATURES`.
        **settings: The constructor's arguments.

    Returns:
        The temperature, at the start of its schedule.

    Raises:
        TypeError: A setting is missing, unknown or not a number.
        ValueError: There is no such name, or a setting is out of its range.

    Example:
        >>> make_temperature("linear", initial=1.0, minimum=0.1, steps=10)().item()
        1.0
    """
    if name not in TEMPERATURES:
        raise ValueError(f"name must be one of {', '.join(TEMPERATURES)}, but got {name!r}.")
    return TEMPERATURES[name](**settings)


def as_temperature(value: float | Temperature) -> Temperature:
    """Turn a number into a constant temperature; leave a temperature as it is.

    Args:
        value: A number above 0, or a `Temperature`.

    Returns:
        A `ConstantTemperature`, or `value` itself.

    Raises:
        TypeError: `value` is neither.
        ValueError: The number is not finite and above 0.

    Example:
        >>> as_temperature(0.5)
        ConstantTemperature(value=0.5)
    """
    if isinstance(value, Temperature):
        return value
    if not is_number(value):
        raise TypeError(f"value must be a number or a Temperature, but got {type(value).__name__}.")
    return ConstantTemperature(value)


def _listed(settings: dict[str, float]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, but got {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but got {value}.")
    return int(value)
