"""Why an agent does not learn: the usual causes, told by what can be seen from outside, and what to do about each."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor

from gsrl.algorithms import DiscreteSAC
from gsrl.algorithms.base import Algorithm
from gsrl.masking import to_matrix

__all__ = ["CAUSES", "Cause", "Signs", "TroubleshootingCallback", "diagnose", "have_improved"]

UNIFORM = 0.97
"""Share of the largest entropy from which on a policy counts as uniform."""

CERTAIN = 0.01
"""Share of the largest entropy below which a policy counts as deterministic."""

FORCED = 0.9
"""Share of states with one legal choice from which on there is next to nothing to decide."""

BEYOND = 1.5
"""How many times as large as any return could be values are before they count as made up."""

BEGINNING = 20
"""Episodes, at most, that later ones are compared with."""

FEWEST = 10
"""Episodes, at least, before returns count as flat."""


class Signs(NamedTuple):
    """What is seen of a training so far.

    Example:
        >>> Signs(1000, [], returns_differ=False, entropy_share=1.0).returns
        []
    """

    steps: int
    """Environment steps."""
    returns: Sequence[float]
    """Undiscounted returns of the episodes so far, in their order."""
    returns_differ: bool
    """Whether they can: a reward differed from the others, or termination decides how many there are."""
    entropy_share: float
    """Mean entropy of the policy as a share of the largest that the legal choices allow; NaN if unknown."""
    forced_share: float = 0.0
    """Share of states in which no factor had more than one legal choice."""
    value: float = math.nan
    """Mean size of the critics' values, in units of reward; NaN without critics."""
    largest_value: float = math.nan
    """Largest size that a value can have by the rewards and episodes that were seen; NaN if unknown."""


class Cause(NamedTuple):
    """A usual cause.

    Example:
        >>> CAUSES["uniform_policy"].seen
        'returns are flat, and the policy is as random as it can be'
    """

    name: str
    """As it stands in the log."""
    seen: str
    """What it is known by."""
    advice: str
    """What to do."""


CAUSES = {
    cause.name: cause
    for cause in (
        Cause(
            "no_episode_ends",
            "no episode has ended",
            "Give the environment a time limit (gymnasium.make(..., max_episode_steps=...)), or train for longer.",
        ),
        Cause(
            "no_rewards",
            "all rewards were equal, and no episode that terminated decided how many there are",
            "Nothing can be learned from them: raise exploration_eps, train for longer, or reward steps on the way.",
        ),
        Cause(
            "one_choice",
            "action masks leave one choice in nearly all states",
            "Look at the masks that the environment gives: True is for what is legal.",
        ),
        Cause(
            "uniform_policy",
            "returns are flat, and the policy is as random as it can be",
            'The entropy coefficient is larger than what choices differ by: use ent_coef="relative" and '
            'reward_scale="auto", or a smaller ent_coef or target_entropy_ratio.',
        ),
        Cause(
            "certain_policy",
            "returns are flat, and the policy does the same at every turn",
            'It does not explore any more: use ent_coef="relative", or raise ent_coef or exploration_eps.',
        ),
        Cause(
            "values_without_returns",
            "values are larger than any return could be by the rewards seen",
            "Critics believe themselves: lower learning_rate or tau, take the minimum of critics or q_clip, and look "
            "whether terminated and truncated are told apart.",
        ),
        Cause(
            "flat_returns",
            "returns are flat, for none of the causes that can be seen from here",
            "Train for longer; try n_steps and gamma for how late rewards come, and net_arch; look whether "
            "observations tell what the reward depends on.",
        ),
    )
}
"""All of them by name, in the order in which they are looked for."""


def have_improved(returns: Sequence[float]) -> bool:
    """Whether the last third of returns is better than the first ones, by two standard errors.

    The first ones are a third too, but at most :data:`BEGINNING`: an agent that learned early has improved for good.

    Example:
        >>> have_improved([1.0] * 10 + [2.0] * 10), have_improved([1.0] * 20)
        (True, False)
    """
    third = len(returns) // 3
    if third < 2:
        return False
    first = np.asarray(returns[: min(third, BEGINNING)], dtype=float)
    last = np.asarray(returns[-third:], dtype=float)
    error = math.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last))
    return bool(last.mean() - first.mean() > 2 * error)


def diagnose(signs: Signs) -> list[Cause]:
    """The causes that explain what is seen; none where returns have improved, or where it is too early to say.

    Args:
        signs: What is seen.

    Example:
        >>> signs = Signs(1000, [1.0] * 20, True, entropy_share=0.99)
        >>> [cause.name for cause in diagnose(signs)]
        ['uniform_policy']
    """
    if not signs.returns:
        return [CAUSES["no_episode_ends"]]
    found = []
    if not signs.returns_differ:
        found.append("no_rewards")
    if signs.forced_share > FORCED:
        found.append("one_choice")
    is_flat = len(signs.returns) >= FEWEST and not have_improved(signs.returns)
    if is_flat and signs.entropy_share > UNIFORM:
        found.append("uniform_policy")
    if is_flat and signs.entropy_share < CERTAIN and signs.forced_share <= FORCED:
        found.append("certain_policy")
    if signs.value > BEYOND * signs.largest_value:
        found.append("values_without_returns")
    if is_flat and not found:
        found.append("flat_returns")
    return [CAUSES[name] for name in found]


class TroubleshootingCallback(BaseCallback):
    """Looks now and then for the usual causes of an agent that does not learn, of :data:`CAUSES`.

    What it finds is logged, ``troubleshooting/<cause>`` as 1 and all others as 0, and warned of with what to do, each
    cause once. The training is not disturbed: with the callback it gives the same parameters, bit for bit.

    Args:
        every: Environment steps between looks.
        states: How many of the last states the policy is asked at.

    Attributes:
        causes: What the last look found.

    Raises:
        TypeError: When training starts: the agent is neither :class:`gsrl.DiscreteSAC` nor :class:`gsrl.Reinforce`.
        ValueError: An argument is below 1.

    Example:
        >>> model = gsrl.DiscreteSAC("MlpPolicy", "CartPole-v1", seed=0)
        >>> callback = TroubleshootingCallback(every=50)
        >>> _ = model.learn(100, callback=callback)  # 10_000 are more like it
        >>> [cause.name for cause in callback.causes]
        []
    """

    model: Algorithm

    def __init__(self, every: int = 2_000, states: int = 256) -> None:
        super().__init__()
        for name, value in (("every", every), ("states", states)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, but got {value}.")
        self.every = every
        self.causes: list[Cause] = []
        self._states: deque[tuple[Any, Any]] = deque(maxlen=states)
        self._returns: list[float] = []
        self._longest = 0
        self._has_terminated = False
        self._smallest_reward, self._largest_reward = math.inf, -math.inf
        self._warned: set[str] = set()

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Takes the agent; Stable-Baselines3 calls this when training starts."""
        if not isinstance(model, Algorithm):
            raise TypeError(f"model must be a gsrl.DiscreteSAC or a gsrl.Reinforce, but got {type(model).__name__}.")
        super().init_callback(model)

    def _on_step(self) -> bool:
        self._states.append((self.model._last_obs, self.model._last_masks))
        rewards = self.locals["rewards"]
        self._smallest_reward = min(self._smallest_reward, float(rewards.min()))
        self._largest_reward = max(self._largest_reward, float(rewards.max()))
        for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True):
            self._has_terminated |= bool(done) and not info.get("TimeLimit.truncated", False)
            if "episode" in info:
                self._returns.append(float(info["episode"]["r"]))
                self._longest = max(self._longest, int(info["episode"]["l"]))
        if self.num_timesteps % self.every < self.model.n_envs:
            self._look()
        return True

    def _look(self) -> None:
        self.causes = diagnose(self.signs())
        found = {cause.name for cause in self.causes}
        for name in CAUSES:
            self.logger.record(f"troubleshooting/{name}", float(name in found))
        for cause in self.causes:
            if cause.name not in self._warned:
                self._warned.add(cause.name)
                warnings.warn(f"after {self.num_timesteps} steps {cause.seen}. {cause.advice}", stacklevel=2)

    @torch.no_grad()
    def signs(self) -> Signs:
        """What is seen of the training so far."""
        model = self.model
        observations = [state for state, _ in self._states]
        if isinstance(observations[0], dict):
            stacked: Any = {key: np.concatenate([each[key] for each in observations]) for key in observations[0]}
        else:
            stacked = np.concatenate(observations)
        tensors = obs_as_tensor(stacked, model.device)
        mask = None
        if self._states[0][1] is not None:
            masks = np.concatenate([masks for _, masks in self._states])
            mask = torch.as_tensor(to_matrix(model.policy.actor.head.codec, masks), device=model.device)
        model.policy.set_training_mode(False)
        policy = model.policy.actor(tensors, mask)
        largest = policy.max_entropy()
        decides = largest > 0
        share = (policy.entropy() / largest)[decides].mean().item()  # NaN where no state leaves a choice
        value = largest_value = math.nan
        if isinstance(model, DiscreteSAC) and model._n_updates > 0:
            scale = model._normalization.scale().item() if model.reward_scale == "auto" else float(model.reward_scale)
            value = (model.policy.critic(tensors)(policy.mode).mean(0) / scale).abs().mean().item()
            largest_reward = max(abs(self._smallest_reward), abs(self._largest_reward))
            if model.entropy_in_target:
                largest_reward += model.entropy_coefficient().max().item() * largest.max().item() / scale
            steps = 1 / (1 - model.gamma) if model.gamma < 1 else max(self._longest, 1)
            largest_value = steps * largest_reward
        is_constant = self._smallest_reward == self._largest_reward
        return Signs(
            self.num_timesteps,
            self._returns,
            not is_constant or (self._has_terminated and self._largest_reward != 0),
            share,
            1.0 - decides.float().mean().item(),
            value,
            largest_value,
        )
