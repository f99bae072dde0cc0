"""Evaluation of a policy, with action masks where the environment gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.evaluation import evaluate_policy as evaluate_without_masks
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from gsrl.masking import adapt, current_masks

__all__ = ["MaskedModel", "evaluate_policy", "takes_masks"]

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
) -> tuple[float, float] | tuple[list[float], list[int]]:
    """Stable-Baselines3's `evaluate_policy`, which also hands the environment's action masks to `model.predict`.

    Without masks, or with a model whose `predict` has no argument `action_masks`, it is that function and no more.

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

    Returns:
        Mean and standard deviation of the return; or the returns and the lengths.

    Raises:
        ValueError: The environment gives masks at some resets and steps only.
    """
    if takes_masks(model) or isinstance(env, VectorEnv):
        env = adapt(env)
    if not isinstance(env, VecEnv):
        single = env
        env = DummyVecEnv([lambda: single])
    if takes_masks(model):
        model, callback = _with_masks(model, env, callback)
    return evaluate_without_masks(
        model,
        env,
        n_eval_episodes,
        deterministic,
        render,
        callback,
        reward_threshold,
        return_episode_rewards,
        warn,
    )


def takes_masks(model: PolicyPredictor) -> bool:
    """Whether `model.predict` has an argument `action_masks`."""
    return "action_masks" in inspect.signature(model.predict).parameters


class MaskedModel:
    """A model whose `predict` finds the masks by itself, for a loop that does not know of them.

    It serves one evaluation: made before the environment is reset, told of each step. All else is the model's own.

    Args:
        model: Its `predict` takes `action_masks`.
        env: Where it is evaluated.
    """

    def __init__(self, model: PolicyPredictor, env: VecEnv) -> None:
        self._model = model
        self._env = env
        self._last_step: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        """What only the model has."""
        return getattr(self._model, name)

    def after_step(self, infos: list[dict[str, Any]], dones: np.ndarray) -> None:
        """Remembers what says which masks are next."""
        self._last_step = (infos, dones)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Predicts actions, legal ones where the environment gives masks."""
        masks = current_masks(self._env, *self._last_step)
        return self._model.predict(  # type: ignore[call-arg]  # the protocol is of models without masks
            observation, state=state, episode_start=episode_start, deterministic=deterministic, action_masks=masks
        )


def _with_masks(
    model: PolicyPredictor, env: VecEnv, callback: EvaluationCallback | None
) -> tuple[PolicyPredictor, EvaluationCallback]:
    """The model that knows the masks, and the callback that tells it of each step before it calls `callback`."""
    masked = MaskedModel(model, env)

    def told(locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        masked.after_step(locals_["infos"], locals_["dones"])
        if callback is not None:
            callback(locals_, globals_)

    return masked, told
