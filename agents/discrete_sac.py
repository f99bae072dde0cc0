"""What the soft actor-critic agents share: their settings and how they are built. They differ in the estimator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from agents.common import policy_name
from gsrl.algorithms.discrete_sac import DiscreteSAC
from gsrl.estimators import Estimator

__all__ = ["ACTION_SPACES", "Settings", "build"]

ACTION_SPACES = (spaces.Discrete,)


@dataclass(frozen=True)
class Settings:
    """Settings of discrete soft actor-critic, named as ``gsrl.DiscreteSAC`` names them."""

    learning_rate: float = 3e-4
    """Learning rate of Adam, for actor, critics and entropy coefficient."""
    buffer_size: int = 1_000_000
    """Transitions that replay keeps."""
    learning_starts: int = 100
    """Steps with random actions before the first update."""
    batch_size: int = 256
    """Transitions of a gradient step."""
    tau: float = 0.005
    """Share of the new parameters in an update of the target critics (Polyak)."""
    gamma: float = 0.99
    """Discount factor."""
    train_freq: int = 1
    """Steps of each environment between two updates."""
    gradient_steps: int = 1
    """Gradient steps of an update; -1 for one a step collected."""
    n_steps: int = 1
    """Rewards summed before the critic's bootstrap."""
    ent_coef: float | str = "auto"
    """Entropy coefficient, a number; or "auto" to learn it, "auto_0.1" to learn it from 0.1."""
    target_entropy_ratio: float = 0.1
    """Entropy to hold when the coefficient is learned, a share of the largest that the legal choices allow."""
    critics: Literal["min", "mean"] = "min"
    """How the two critics are combined."""
    entropy_in_target: bool = True
    """Put the entropy bonus of the next state into the critic's target."""
    q_clip: float | None = None
    """How far a critic may move from its target network in the loss; None for any distance."""
    max_grad_norm: float | None = None
    """Largest norm of the gradient; None for any."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of the actor as of the critics."""


def build(env: VecEnv, settings: Settings, estimator: Estimator, *, seed: int, device: str) -> DiscreteSAC:
    """Builds the agent with an estimator of its actor's gradient.

    Args:
        env: Where it trains.
        settings: Its settings.
        estimator: What estimates the gradient of the actor.
        seed: Seeds the agent and the environment.
        device: Where its networks are.
    """
    return DiscreteSAC(
        policy_name(env.observation_space),
        env,
        learning_rate=settings.learning_rate,
        buffer_size=settings.buffer_size,
        learning_starts=settings.learning_starts,
        batch_size=settings.batch_size,
        tau=settings.tau,
        gamma=settings.gamma,
        train_freq=settings.train_freq,
        gradient_steps=settings.gradient_steps,
        estimator=estimator,
        n_steps=settings.n_steps,
        ent_coef=settings.ent_coef,
        target_entropy_ratio=settings.target_entropy_ratio,
        critics=settings.critics,
        entropy_in_target=settings.entropy_in_target,
        q_clip=settings.q_clip,
        max_grad_norm=settings.max_grad_norm,
        policy_kwargs={"net_arch": list(settings.net_arch)},
        seed=seed,
        device=device,
    )
