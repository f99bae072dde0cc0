"""Evaluation of a policy, with action masks where the environment gives them, which ends whatever the environment."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, is_vecenv_wrapped

from gsrl.masking import adapt, current_masks
from gsrl.vec_env import LONGEST_EPISODE, SyncVecEnv, has_time_limit, naming_dead_workers

__all__ = ["EpisodeLimit", "evaluate_policy", "takes_masks"]

EvaluationCallback: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], None]


def evaluate_policy(
    model: PolicyPredictor,
    env: gym.Env | VectorEnv | VecEnv,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    render: bool = False,
    callback: EvaluationCallback | None = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
    *,
    max_episode_steps: int | None = None,
) -> tuple[float, float] | tuple[list[float], list[int]]:
    """Stable-Baselines3's `evaluate_policy`, which also hands the environment's action masks to `model.predict`.

    Without masks, or with a model whose `predict` has no argument `action_masks`, results are the same. Where episodes
    need not end, they are cut off, and a warning says so. Then an environment waits until all others that have episodes
    left are cut off as well, and all are reset.

    In the environments that the model trains in, `model.get_env()`, it may be called at any time between two calls of
    `learn`, and by callbacks: `DiscreteSAC`, `Reinforce` and populations notice, and begin new episodes.

    Args:
        model: What has a method `predict`.
        env: The environment, or several as a `VecEnv` or `VectorEnv`, which share the episodes. A single one may have
            a method `action_masks` instead of masks in its info.
        n_eval_episodes: Episodes in all.
        deterministic: Whether the model takes its most probable action.
        render: Whether the environment is rendered after each step.
        callback: Called with `locals()` and `globals()` after each step, once for each unfinished environment.
        reward_threshold: An `AssertionError` is raised unless the mean return is above it.
        return_episode_rewards: Whether the return and length of each episode are returned.
        warn: Whether an environment without `Monitor` is warned of.
        max_episode_steps: Steps after which an episode is cut off; its return is that of the steps it had. None: no
            end but those of the environments where these are known to have a time limit, and
            :data:`gsrl.vec_env.LONGEST_EPISODE` else.

    Returns:
        Mean and standard deviation of the return; or the returns and the lengths.

    Raises:
        RuntimeError: The process of an environment has ended.
        ValueError: The environment gives masks at some resets and steps only; `n_eval_episodes` or
            `max_episode_steps` is below 1.

    Example:
        >>> model = gsrl.Reinforce("MlpPolicy", "CartPole-v1", seed=0)
        >>> mean_return, deviation = evaluate_policy(model, model.get_env(), n_eval_episodes=2)
        >>> mean_return > 0
        True
    """
    heeds_masks = takes_masks(model)
    if heeds_masks or isinstance(env, VectorEnv):
        env = adapt(env)
    if not isinstance(env, VecEnv):
        single = env
        env = SyncVecEnv([lambda: single])
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be at least 1, but got {n_eval_episodes}.")
    with naming_dead_workers(env):
        is_monitored = is_vecenv_wrapped(env, VecMonitor) or env.env_is_wrapped(Monitor)[0]
        if warn and not is_monitored:
            warnings.warn(
                "Evaluation environment is not wrapped with a ``Monitor`` wrapper: what is reported is changed by "
                "wrappers that change rewards or the ends of episodes.",
                stacklevel=2,
            )

        # The names are those of Stable-Baselines3: callbacks read them.
        n_envs = env.num_envs
        limit = EpisodeLimit(env, max_episode_steps)
        episode_rewards: list[float] = []
        episode_lengths: list[int] = []
        episode_counts = np.zeros(n_envs, np.int64)
        episode_count_targets = np.array([(n_eval_episodes + i) // n_envs for i in range(n_envs)])
        current_rewards, current_lengths = limit.returns, limit.lengths
        observations: Any = env.reset()
        masks = current_masks(env) if heeds_masks else None
        states = None
        episode_starts = np.ones(n_envs, np.bool_)
        while (unfinished := episode_counts < episode_count_targets).any():
            how: dict[str, Any] = {"action_masks": masks} if heeds_masks else {}
            actions, states = model.predict(
                observations,
                state=states,
                episode_start=episode_starts,
                deterministic=deterministic,
                **how,
            )
            new_observations, rewards, dones, infos = env.step(actions)
            if heeds_masks:
                masks = current_masks(env, infos, dones)
            limit.add(rewards)
            for i in np.flatnonzero(unfinished & ~limit.waiting).tolist():
                reward, done, info = rewards[i], dones[i], infos[i]
                episode_starts[i] = done
                if callback is not None:
                    callback(locals(), globals())
                # A monitor knows: what is done to the agent, such as the loss of a life, need not end the episode.
                if done and (not is_monitored or "episode" in info):
                    episode_rewards.append(info["episode"]["r"] if is_monitored else float(current_rewards[i]))
                    episode_lengths.append(info["episode"]["l"] if is_monitored else int(current_lengths[i]))
                    episode_counts[i] += 1
                    limit.end([i])
            lengths = limit.lengths.copy()
            for i, episode_return in limit.cut(episode_counts < episode_count_targets).items():
                episode_rewards.append(episode_return)
                episode_lengths.append(int(lengths[i]))
                episode_counts[i] += 1
            observations = new_observations
            if limit.is_reached_by_all(episode_counts < episode_count_targets):
                observations = env.reset()
                masks = current_masks(env) if heeds_masks else None
                episode_starts[:] = True
            if render:
                env.render()
    limit.warn()

    mean_reward, std_reward = float(np.mean(episode_rewards)), float(np.std(episode_rewards))
    if reward_threshold is not None and not mean_reward > reward_threshold:
        raise AssertionError(f"Mean reward below threshold: {mean_reward:.2f} < {reward_threshold:.2f}")
    return (episode_rewards, episode_lengths) if return_episode_rewards else (mean_reward, std_reward)


def takes_masks(model: PolicyPredictor) -> bool:
    """Whether `model.predict` has an argument `action_masks`.

    Example:
        >>> from stable_baselines3 import DQN
        >>> takes_masks(gsrl.DiscreteSAC), takes_masks(DQN)
        (True, False)
    """
    return "action_masks" in inspect.signature(model.predict).parameters


class EpisodeLimit:
    """Cuts off the episodes of an evaluation that do not end.

    Args:
        env: Where it is.
        max_episode_steps: See :func:`evaluate_policy`.

    Attributes:
        steps: Those after which an episode is cut off; None: it will end by itself.
        lengths: Of the episodes under way, `[n_envs]`.
        returns: Of the same.
        waiting: Whose episode was cut off: nothing counts there until the next reset.

    Raises:
        ValueError: `max_episode_steps` is below 1.

    Example:
        >>> limit = EpisodeLimit(SyncVecEnv([lambda: gym.make("CartPole-v1")]), max_episode_steps=2)
        >>> for reward in (1.0, 0.5):
        ...     limit.add(np.array([reward]))
        >>> limit.cut(wanted=np.array([True]))  # environment 0 is cut off, with this return
        {0: 1.5}
    """

    def __init__(self, env: VecEnv, max_episode_steps: int | None) -> None:
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, or None, but got {max_episode_steps}.")
        self.steps = max_episode_steps
        if max_episode_steps is None and not has_time_limit(env):
            self.steps = LONGEST_EPISODE
        self.lengths = np.zeros(env.num_envs, np.int64)
        self.returns = np.zeros(env.num_envs)
        self.waiting = np.zeros(env.num_envs, np.bool_)
        self._num_cut = 0

    def add(self, rewards: NDArray[Any]) -> None:
        """Counts a step of all environments."""
        self.lengths += 1
        self.returns += rewards

    def end(self, rows: Sequence[int]) -> None:
        """Counts anew where an episode ended by itself."""
        self.lengths[rows] = 0
        self.returns[rows] = 0.0

    def cut(self, wanted: NDArray[np.bool_]) -> dict[int, float]:
        """Cuts off what has lasted too long, where episodes are wanted; the returns by environment."""
        if self.steps is None:
            return {}
        rows = np.flatnonzero((self.lengths >= self.steps) & wanted & ~self.waiting)
        self.waiting[rows] = True
        self._num_cut += len(rows)
        return dict(zip(rows.tolist(), self.returns[rows].tolist(), strict=True))

    def is_reached_by_all(self, wanted: NDArray[np.bool_]) -> bool:
        """Whether all where episodes are wanted wait for a reset, which must follow."""
        if not self.waiting.any() or not wanted.any() or not self.waiting[wanted].all():
            return False
        for array in (self.lengths, self.returns, self.waiting):
            array[:] = 0
        return True

    def warn(self) -> None:
        """Says how many were cut off, if any."""
        if self._num_cut:
            warnings.warn(
                f"{self._num_cut} episodes of the evaluation had not ended after {self.steps} steps and were cut off: "
                "their returns are those of these steps. max_episode_steps, or a time limit of the environment by "
                "gymnasium.wrappers.TimeLimit, sets another bound.",
                stacklevel=3,
            )
