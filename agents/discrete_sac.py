"""Soft actor-critic for discrete actions as it comes, and what the agents that name their estimator share with it.

Source: Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from agents import common
from gsrl.algorithms.discrete_sac import DiscreteSAC
from gsrl.algorithms.policies import DiscreteSACPolicy
from gsrl.estimators import make_estimator
from gsrl.schedules import ExponentialSchedule

__all__ = [
    "ACTION_SPACES",
    "ALGORITHM",
    "EARLIER",
    "MASKS",
    "SUMMARY",
    "TUNED",
    "CommonSettings",
    "EstimatorName",
    "Settings",
    "arguments",
    "build",
    "make",
    "soft_actor_critic_arguments",
]

SUMMARY = "discrete soft actor-critic, with nothing to tune: the library's defaults"
ACTION_SPACES = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
MASKS = "kept"
ALGORITHM = DiscreteSAC
ANNEALED = 0.7
"""Share of the run after which ``final_ent_coef`` is reached."""


DEFAULT_TEMPERATURES = {
    **dict.fromkeys(("st-gumbel", "gumbel-softmax", "gumbel-rao"), 0.5),
    **dict.fromkeys(("gapped-st", "straight-through", "reinmax"), 1.0),
}
"""Estimators with a temperature, and what it is unless given. Straight-through and ReinMax keep their promises at 1
alone; with Gumbel noise in the gradient 1 is too much (``docs/decisions.md``)."""

EstimatorName = Literal[
    "auto",
    "st-gumbel",
    "gumbel-softmax",
    "gumbel-rao",
    "gapped-st",
    "straight-through",
    "reinmax",
    "local-expectation",
    "reinforce",
    "rloo",
]
"""Estimators of an actor's gradient."""


@dataclass(frozen=True)
class CommonSettings:
    """Settings of discrete soft actor-critic, named as ``gsrl.DiscreteSAC`` names them, but for its estimator."""

    learning_rate: float = 1e-3
    """Learning rate of Adam, for actor, critics and entropy coefficient."""
    linear_decay: bool = False
    """Let the learning rate fall linearly to 0 over the run."""
    buffer_size: int = 1_000_000
    """Transitions that replay keeps."""
    learning_starts: int = 100
    """Steps with random actions before the first update."""
    batch_size: int = 128
    """Transitions of a gradient step."""
    tau: float = 0.01
    """Share of the new parameters in an update of the target critics (Polyak)."""
    gamma: float = 0.99
    """Discount factor."""
    train_freq: int = 1
    """Steps of each environment between two updates."""
    gradient_steps: int = 1
    """Gradient steps of an update; -1 for one a step collected."""
    n_steps: int | Literal["auto"] = "auto"
    """Rewards summed before the critic's bootstrap; "auto": 3 for actions of one factor, 1 for those of several."""
    n_step_correction: bool = True
    """Count later rewards only as far as the policy would have taken the actions before them."""
    reward_scale: float | str = "auto"
    """What rewards are multiplied by before they are learned from; "auto" to normalise values by the returns seen."""
    ent_coef: float | str = "relative"
    """Entropy coefficient, a number; "auto" to learn it, "auto_0.1" to learn it from 0.1; or "relative", "relative_0.5"
    for a multiple, .6 or .5, of what the values of the choices differ by."""
    final_ent_coef: float | None = None
    """What a coefficient that is a number falls to, exponentially, over the first 70 % of the run; None: it stays."""
    target_entropy_ratio: float = 0.2
    """Entropy to hold when the coefficient is learned, a share of the largest that the legal choices allow."""
    critics: Literal["min", "mean"] = "mean"
    """How the two critics are combined."""
    entropy_in_target: bool = False
    """Put the entropy bonus of the next state into the critic's target."""
    q_clip: float | None = None
    """How far a critic may move from its target network in the loss; None for any distance."""
    max_grad_norm: float | None = None
    """Largest norm of the gradient; None for any."""
    exploration_eps: float = 0.05
    """Chance that an environment begins, at a step, to repeat a random action for a while."""
    layer_norm: bool = True
    """Normalise the critics' hidden layers."""
    normalize_observations: bool = True
    """Normalise observations that are numbers by those seen so far."""
    critic: Literal["auto", "choices", "multilinear", "network"] = "auto"
    """What critics know of an action: values of all choices of one factor; values of choices and of pairs of them; a
    network that takes the action as an input. "auto": the first for one factor, the last for several."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of the actor as of the critics."""


@dataclass(frozen=True)
class Settings(CommonSettings):
    """Settings of discrete soft actor-critic, and of the actor's gradient."""

    estimator: EstimatorName = "auto"
    """Of the actor's gradient; "auto": straight-through where critics are linear in each factor, else rloo."""
    temperature: float | None = None
    """Temperature of the relaxed samples that carry the gradient, where the estimator has one. None: .5 for st-gumbel,
    gumbel-softmax and gumbel-rao, 1 for the others. Near 1 and above, a learned entropy coefficient does not settle
    with the former three."""


EARLIER: dict[str, Any] = {**DiscreteSAC.EARLIER, **DiscreteSACPolicy.EARLIER}
"""What stored settings that lack these were; the tuned ones were searched for from here."""

_GRID: dict[str, Any] = {
    "steps": 20_000,
    "gamma": 0.9,
    "learning_rate": 1e-3,
    "batch_size": 128,
    "target_entropy_ratio": 0.05,
    "tau": 0.01,
    "critics": "mean",
    "layer_norm": True,
    "net_arch": (128, 128),
}

# Each question is drawn anew: no action has an effect beyond its reward. With critics that are networks they learn
# faster still.
_MATCH: dict[str, Any] = {
    "steps": 30_000,
    "gamma": 0.0,
    "learning_rate": 1e-3,
    "batch_size": 64,
    "critic": "multilinear",
}

_PENDULUM: dict[str, Any] = {
    "steps": 10_000,
    "gamma": 0.97,
    "learning_rate": 1e-3,
    "batch_size": 128,
    "tau": 0.01,
    "critics": "mean",
}

_SEARCHED: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 10_000,
        "learning_rate": 2e-3,
        "learning_starts": 200,
        "batch_size": 128,
        "n_steps": 5,
        "reward_scale": 0.1,
        "ent_coef": 0.4,
        "entropy_in_target": False,
        "tau": 0.01,
        "critics": "mean",
        "layer_norm": True,
    },
    "LunarLander-v3": {
        "learning_rate": 1e-3,
        "linear_decay": True,
        "learning_starts": 1000,
        "batch_size": 128,
        "n_steps": 5,
        "reward_scale": 0.1,
        "ent_coef": 0.1,
        "entropy_in_target": False,
        "critics": "mean",
        "exploration_eps": 0.04,
        "layer_norm": True,
    },
    "Acrobot-v1": {
        "steps": 30_000,
        "learning_rate": 2e-3,
        "linear_decay": True,
        "learning_starts": 1000,
        "batch_size": 128,
        "n_steps": 3,
        "critics": "mean",
        "layer_norm": True,
    },
    "gsrl/FactoredMatch-v0": _MATCH,
    "gsrl/BitMatch-v0": _MATCH,
    "gsrl/LargeDiscrete-v0": {
        "steps": 30_000,
        "gamma": 0.0,
        "learning_rate": 1e-3,
        "batch_size": 64,
        "train_freq": 4,
        "critics": "mean",
    },
    "gsrl/MaskedGrid-v0": _GRID,
    "gsrl/UnmaskedGrid-v0": _GRID,
    "gsrl/Pendulum-11bins-v1": _PENDULUM,
    "gsrl/Pendulum-11centers-v1": _PENDULUM,
}

_DEFAULTS = dataclasses.asdict(Settings())

TUNED: dict[str, dict[str, Any]] = {
    env: {name: value for name, value in {**EARLIER, **found}.items() if _DEFAULTS.get(name) != value}
    | {"estimator": "st-gumbel"}
    | ({"temperature": 1.0} if env in ("CartPole-v1", "LunarLander-v3") else {})
    for env, found in _SEARCHED.items()
}
"""The tuned settings of all soft actor-critic agents, so that they differ in the estimator alone. A fixed entropy
coefficient does not mind a temperature of 1."""


def soft_actor_critic_arguments(env: VecEnv, settings: CommonSettings) -> dict[str, Any]:
    """Those of :func:`agents.common.constructor_arguments`, where ``final_ent_coef`` is part of ``ent_coef``.

    Args:
        env: Where the agent trains.
        settings: Its settings.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    arguments = common.constructor_arguments(env, settings)
    end = arguments.pop("final_ent_coef")
    if end is not None:
        start = settings.ent_coef
        if isinstance(start, str) or not (start > 0 and end > 0):
            raise ValueError(f"final_ent_coef and ent_coef must be positive numbers, but got {end} and {start}")
        arguments["ent_coef"] = ExponentialSchedule(start, end, ANNEALED)
    return arguments


def arguments(env: VecEnv, settings: Settings) -> dict[str, Any]:
    """Returns what :func:`make` and :class:`gsrl.Population` build the agent from.

    Args:
        env: Where it trains.
        settings: Its settings.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    arguments = soft_actor_critic_arguments(env, settings)
    temperature, name = settings.temperature, settings.estimator
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be positive, but got {temperature}")
    if temperature is None or name not in DEFAULT_TEMPERATURES:
        arguments["temperature"] = DEFAULT_TEMPERATURES.get(name)
    return arguments


def make(env: VecEnv, settings: Settings, *, seed: int, device: str, compile: bool = False) -> DiscreteSAC:
    """Builds the agent.

    Args:
        env: Where it trains.
        settings: Its settings.
        seed: Seeds the agent and the environment.
        device: Where its networks are.
        compile: Whether updates are compiled.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    return build(arguments(env, settings), seed=seed, device=device, compile=compile)


def build(arguments: dict[str, Any], *, seed: int, device: str, compile: bool) -> DiscreteSAC:
    """Builds an agent.

    Args:
        arguments: Of its constructor; and ``temperature``, of the estimator named ``estimator``, None if it has none.
        seed: Seeds the agent and the environment.
        device: Where its networks are.
        compile: Whether updates are compiled.
    """
    name, temperature = arguments["estimator"], arguments["temperature"]
    estimator = name if temperature is None else make_estimator(name, temperature=temperature)
    others = {key: value for key, value in arguments.items() if key not in ("estimator", "temperature")}
    return DiscreteSAC(**others, estimator=estimator, seed=seed, device=device, compile=compile)
