"""Probes: environments so small that the optimal values are known, each isolating one thing that an agent must do.

A probe that fails says where to look. Those with one step test the critic (``OneStep``), the observations it sees
(``Observation``), the actor (``Action``, ``ObservationAction``) and the spaces (``Start``, ``DictObservation``,
``Image``); ``Discount``, ``Truncation`` and ``Delay`` test the target, ``Streak`` exploration. Each docstring states
the optimal value :math:`Q(s, a)` without entropy, in units of return; gamma is the agent's discount factor.

In the spirit of Jones 2021, "Debugging reinforcement learning systems without the agonizing pain".
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

__all__ = [
    "Action",
    "Delay",
    "DictObservation",
    "Discount",
    "Image",
    "Observation",
    "ObservationAction",
    "OneStep",
    "Probe",
    "Start",
    "Streak",
    "Truncation",
]

ResetReturn = tuple[Any, dict[str, Any]]
StepReturn = tuple[Any, float, bool, bool, dict[str, Any]]


def _vector(value: float) -> np.ndarray:
    return np.array([value], dtype=np.float32)


class Probe(gym.Env[Any, np.int64]):
    """Two actions, and one number in [-1, 1] as observation, unless a subclass says otherwise."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)


class Bandit(Probe):
    """Episodes of one step: ``sign`` is drawn from {-1, 1}, the agent observes, acts, is rewarded, and it is over."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetReturn:
        """Draws the context of the episode."""
        super().reset(seed=seed)
        self.draw()
        return self.observe(), {}

    def step(self, action: np.int64) -> StepReturn:
        """Ends the episode."""
        return self.observe(), float(self.reward(int(action))), True, False, {}

    def draw(self) -> None:
        """Draws the sign."""
        self.sign = 1 if self.np_random.random() < 0.5 else -1

    def observe(self) -> Any:
        """The observation: the sign."""
        return _vector(self.sign)

    def reward(self, action: int) -> float:
        """The reward of an action."""
        raise NotImplementedError


class OneStep(Bandit):
    """A constant reward. Q(s, a) = 1."""

    def observe(self) -> np.ndarray:
        """Always 0."""
        return _vector(0.0)

    def reward(self, action: int) -> float:
        """Always 1."""
        return 1.0


class Observation(Bandit):
    """The reward is the observation. Q(s, a) = s, for s in {-1, 1}."""

    def reward(self, action: int) -> float:
        """The sign."""
        return self.sign


class Action(Bandit):
    """The reward is the action. Q(s, a) = a, for a in {0, 1}."""

    def observe(self) -> np.ndarray:
        """Always 0."""
        return _vector(0.0)

    def reward(self, action: int) -> float:
        """The action."""
        return action


class ObservationAction(Bandit):
    """The action must match the observation. Q(s, a) = 1 where a = [s > 0], else 0."""

    def reward(self, action: int) -> float:
        """1 for the matching action."""
        return action == (self.sign > 0)


class Start(Bandit):
    """Three actions that count from 5. Q(s, a) = (a - 5) / 2, for a in {5, 6, 7}."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Discrete(3, start=5)

    def observe(self) -> np.ndarray:
        """Always 0."""
        return _vector(0.0)

    def reward(self, action: int) -> float:
        """0, 1/2 or 1."""
        return (action - 5) / 2


class DictObservation(Bandit):
    """A Dict observation, both entries of which are needed. Q(s, a) = 1 where a = [sign > 0] xor switch, else 0."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict(
            {"sign": spaces.Box(-1.0, 1.0, (1,), np.float32), "switch": spaces.Discrete(2)}
        )

    def draw(self) -> None:
        """Draws the sign and the switch."""
        super().draw()
        self.switch = int(self.np_random.random() < 0.5)

    def observe(self) -> dict[str, Any]:
        """The sign, and whether it is to be read the other way."""
        return {"sign": _vector(self.sign), "switch": np.int64(self.switch)}

    def reward(self, action: int) -> float:
        """1 for the matching action."""
        return action == ((self.sign > 0) != bool(self.switch))


class Image(Bandit):
    """An image whose bright half, left or right, is the action to take. Q(s, a) = 1 where a is that half, else 0.

    36 x 36 pixels are the fewest that Stable-Baselines3's ``NatureCNN`` takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)

    def observe(self) -> np.ndarray:
        """Left half bright for sign -1, right half for 1."""
        image = np.zeros((36, 36, 1), np.uint8)
        image[:, 18:] = 255
        return image if self.sign > 0 else image[:, ::-1].copy()

    def reward(self, action: int) -> float:
        """1 for the bright half."""
        return action == (self.sign > 0)


class Discount(Probe):
    """Two steps, observed as 0 and 1, the second rewarded with 1. Q(0, a) = gamma, Q(1, a) = 1."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetReturn:
        """Back to the first step."""
        super().reset(seed=seed)
        self.time = 0
        return _vector(0.0), {}

    def step(self, action: np.int64) -> StepReturn:
        """Nothing at first, then 1."""
        self.time += 1
        return _vector(1.0), float(self.time == 2), self.time == 2, False, {}


class Truncation(Probe):
    """Reward 1 forever, but each episode is cut off after two steps. Q(s, a) = 1 / (1 - gamma).

    The observation is always 0. An agent that takes truncation for termination learns less.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetReturn:
        """Another two steps."""
        super().reset(seed=seed)
        self.time = 0
        return _vector(0.0), {}

    def step(self, action: np.int64) -> StepReturn:
        """Reward 1; truncated the second time."""
        self.time += 1
        return _vector(0.0), 1.0, False, self.time == 2, {}


class Delay(Probe):
    """Three steps; the last one pays what the first action was, and the other actions do not count.

    The observation is the time, 0, 1/2 or 1, and the first action (0 while there is none).
    Q(0, 0; a) = gamma^2 a, Q(1/2, b; a) = gamma b, Q(1, b; a) = b. n-step returns are unbiased here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetReturn:
        """Back to the first step."""
        super().reset(seed=seed)
        self.time, self.first_action = 0, 0
        return self.observe(), {}

    def step(self, action: np.int64) -> StepReturn:
        """Remembers the first action, and pays it at the end."""
        if self.time == 0:
            self.first_action = int(action)
        self.time += 1
        over = self.time == 3
        return self.observe(), float(self.first_action) if over else 0.0, over, False, {}

    def observe(self) -> np.ndarray:
        """Time and first action."""
        return np.array([min(self.time / 2, 1.0), self.first_action], dtype=np.float32)


class Streak(Probe):
    """Sixteen times action 0 in a row is worth 1, and ends the episode; it is cut off after 200 steps.

    The observation is the share x of the way, and action 1 leads back to 0. Q(x, 0) = gamma^(15 - 16 x),
    Q(x, 1) = gamma^16. A uniform policy whose actions are independent is paid once in some 130,000 steps.
    """

    LENGTH = 16

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetReturn:
        """Back to the start."""
        super().reset(seed=seed)
        self.time, self.streak = 0, 0
        return _vector(0.0), {}

    def step(self, action: np.int64) -> StepReturn:
        """Goes on, or back to the start."""
        self.time += 1
        self.streak = self.streak + 1 if action == 0 else 0
        reached = self.streak == self.LENGTH
        return _vector(self.streak / self.LENGTH), float(reached), reached, self.time == 200 and not reached, {}


for _name in __all__:
    if _name != "Probe":
        gym.register(f"gsrl/Probe{_name}-v0", f"{__name__}:{_name}")
