"""Soft actor-critic for discrete actions whose actor learns through samples: straight-through Gumbel-softmax.

Sources: Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019; Jang et al., "Categorical
Reparameterization with Gumbel-Softmax", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from stable_baselines3.common.vec_env import VecEnv

from agents import discrete_sac
from agents.discrete_sac import ACTION_SPACES, ALGORITHM, EARLIER, MASKS
from gsrl.algorithms.discrete_sac import DiscreteSAC

__all__ = ["ACTION_SPACES", "ALGORITHM", "EARLIER", "MASKS", "SUMMARY", "TUNED", "Settings", "arguments", "make"]

SUMMARY = "discrete soft actor-critic, straight-through Gumbel-softmax gradient, or another estimator's"

DEFAULT_TEMPERATURES = {
    **dict.fromkeys(("st-gumbel", "gumbel-softmax", "gumbel-rao"), 0.5),
    **dict.fromkeys(("gapped-st", "straight-through", "reinmax"), 1.0),
}
"""Estimators with a temperature, and what it is unless given. Straight-through and ReinMax keep their promises at 1
alone; with Gumbel noise in the gradient 1 is too much (``docs/decisions.md``)."""


@dataclass(frozen=True)
class Settings(discrete_sac.Settings):
    """Settings of discrete soft actor-critic, and of the actor's gradient."""

    estimator: Literal[
        "st-gumbel",
        "gumbel-softmax",
        "gumbel-rao",
        "gapped-st",
        "straight-through",
        "reinmax",
        "local-expectation",
        "reinforce",
        "rloo",
    ] = "st-gumbel"
    """Estimator of the actor's gradient."""
    temperature: float | None = None
    """Temperature of the relaxed samples that carry the gradient, where the estimator has one. None: .5 for st-gumbel,
    gumbel-softmax and gumbel-rao, 1 for the others. Near 1 and above, a learned entropy coefficient does not settle
    with the former three."""


TUNED = {
    env: {**tuned, "temperature": 1.0} if env in ("CartPole-v1", "LunarLander-v3") else tuned
    for env, tuned in discrete_sac.TUNED.items()
}
"""Those of all soft actor-critic agents, with the temperature. A fixed entropy coefficient does not mind 1."""


def arguments(env: VecEnv, settings: Settings) -> dict[str, Any]:
    """Returns what :func:`agents.discrete_sac.make` and :class:`gsrl.Population` build the agent from.

    Args:
        env: Where it trains.
        settings: Its settings.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """
    arguments = discrete_sac.soft_actor_critic_arguments(env, settings)
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
    return discrete_sac.make(arguments(env, settings), seed=seed, device=device, compile=compile)
