"""Callbacks for Stable-Baselines3: which gradient estimator's bias bites, and when; evaluation with action masks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.callbacks import EvalCallback as EvalWithoutMasks
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from gsrl._random import seed_sequence
from gsrl.algorithms import DiscreteSAC
from gsrl.diagnostics import Comparison, CriticSlope, compare, critic_slope
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator
from gsrl.evaluation import evaluate_policy
from gsrl.masking import adapt
from gsrl.objectives import Problem
from gsrl.timing import Stopwatch

__all__ = ["EvalCallback", "GradientDiagnosticsCallback", "actor_problem"]

DEFAULT_ESTIMATORS = ("st-gumbel", "gumbel-softmax", "straight-through", "reinmax", "reinforce", "rloo")
"""What is compared unless the user says otherwise, beside the agent's own estimator."""

STATISTICS = ("relative_bias", "relative_bias_error", "variance", "snr", "cosine")
"""What is logged of each estimator: fields of :class:`gsrl.diagnostics.EstimatorStatistics`."""


def actor_problem(model: DiscreteSAC, batch_size: int, generator: np.random.Generator, name: str = "actor") -> Problem:
    r"""Builds the problem that an agent's actor faces: :math:`\mathbb{E}_{D \sim \pi(\cdot | s)}[Q(s, D)]` at states.

    The states are drawn from the replay, with their action masks: the policy has the choices that were legal there.
    Networks are in evaluation mode for as long as it takes, and nothing of the agent changes.

    Args:
        model: The agent, with a replay buffer that holds transitions.
        batch_size: B, states drawn, with replacement.
        generator: Draws them.
        name: Of the problem.

    Returns:
        Logits ``[B, n, K]``, ``-inf`` where a choice is illegal; and Q as the actor sees it, the critics combined.

    Example:
        >>> model = gsrl.DiscreteSAC("MlpPolicy", "CartPole-v1", learning_starts=10, buffer_size=100, seed=0).learn(10)
        >>> problem = actor_problem(model, 4, np.random.default_rng(0))
        >>> problem.logits.shape, problem.f(problem.policy().sample().unsqueeze(0)).shape
        (torch.Size([4, 1, 2]), torch.Size([1, 4]))
    """
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(batch_size, model.get_vec_normalize_env(), generator)
    was_training = model.policy.training
    model.policy.set_training_mode(False)
    try:
        with torch.no_grad():
            policy = model.policy.actor(batch.observations, batch.action_mask)
            f = model.policy.critic(batch.observations).objective(model.critics)
    finally:
        model.policy.set_training_mode(was_training)
    return Problem(name, policy.logits, f)


class GradientDiagnosticsCallback(BaseCallback):
    r"""Measures gradient estimators on the live actor and critics of a :class:`gsrl.DiscreteSAC`, and logs the figures.

    Every ``every`` environment steps, once updates have begun, states are drawn from the replay buffer. At these,
    :func:`gsrl.diagnostics.compare` measures estimates of
    :math:`\nabla_\theta \sum_s \mathbb{E}_{D \sim \pi_\theta(\cdot | s)}[Q(s, D)]` in the actor's logits, with Q as the
    actor sees it, against the exact gradient; :func:`gsrl.diagnostics.critic_slope` measures Q's slope at actions of
    the policy. The figures go to the agent's logger, at the step they belong to:

    - ``gradients/<estimator>/...``: relative_bias, and relative_bias_error, which an unbiased estimator would show for
      want of samples; variance, snr and cosine. Not on the console, where so many lines drown the others.
    - ``gradients/norm``: norm of the exact gradient, of all states together.
    - ``gradients/critic_slope/...``: the fields of :class:`gsrl.diagnostics.CriticSlope`.

    The training is not disturbed: with the callback it gives the same parameters, bit for bit. The callback's random
    numbers depend on ``seed`` and the step alone, so that a resumed training measures the same.

    Args:
        every: Environment steps between measurements.
        estimators: As in :func:`gsrl.diagnostics.compare`. None: the agent's own as it stands, its temperature or
            baseline included, and :data:`DEFAULT_ESTIMATORS` with their default settings; the agent's own takes the
            place of the one with its name.
        num_samples: Estimates drawn of each estimator, at least 2.
        batch_size: States drawn, with replacement.
        seed: Of the states, actions and noise; not negative.

    Attributes:
        comparison: The last :class:`gsrl.diagnostics.Comparison`, for its table or figure; None before the first.

    Raises:
        TypeError: When training starts: the agent is not a :class:`gsrl.DiscreteSAC`, or ``estimators`` is of another
            kind.
        ValueError: An argument is out of range; when training starts: an estimator is unknown or refuses the agent's
            action space.

    Example:
        >>> model = gsrl.DiscreteSAC("MlpPolicy", "CartPole-v1", learning_starts=10, batch_size=16, seed=0)
        >>> _ = model.learn(40, callback=GradientDiagnosticsCallback(every=20, num_samples=10, batch_size=4))
    """

    model: DiscreteSAC

    def __init__(
        self,
        every: int = 1000,
        estimators: Mapping[str, Estimator | str] | Sequence[Estimator | str] | None = None,
        *,
        num_samples: int = 200,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, lowest in (
            ("every", every, 1),
            ("num_samples", num_samples, 2),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
        ):
            if not isinstance(value, int | np.integer) or value < lowest:
                raise ValueError(f"{name} must be an integer of at least {lowest}, but got {value!r}.")
        self.every = every
        self.estimators = estimators
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.comparison: Comparison | None = None

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Takes the agent; Stable-Baselines3 calls this when training starts."""
        if not isinstance(model, DiscreteSAC):
            raise TypeError(f"model must be a gsrl.DiscreteSAC, but got {type(model).__name__}.")
        super().init_callback(model)

    def _init_callback(self) -> None:
        # What does not fit is refused now, not by the first measurement, which may be hours away.
        head = self.model.policy.actor.head
        uniform = FactoredCategorical(torch.zeros(1, head.codec.n, head.codec.K, device=self.model.device), head.mask)
        compare(uniform, lambda one_hot: one_hot[..., 0].sum(-1), self._estimators(), num_samples=2, measure_cost=False)

    def _on_step(self) -> bool:
        # Steps are counted over all environments: the first at or past each multiple of `every` is due.
        due = self.num_timesteps % self.every < self.model.n_envs
        if due and self.model._n_updates > 0 and self.model.replay_buffer:
            self._log(*self._measure())
        return True

    def _estimators(self) -> Mapping[str, Estimator | str] | Sequence[Estimator | str]:
        if self.estimators is not None:
            return self.estimators
        own = self.model.estimator
        return {name: name for name in DEFAULT_ESTIMATORS} | {own.name: own}

    def _measure(self) -> tuple[Comparison, CriticSlope]:
        generator = np.random.default_rng(seed_sequence(self.seed, "measurement", self.num_timesteps))
        noise_seed = int(generator.integers(2**63))
        problem = actor_problem(self.model, self.batch_size, generator)
        policy = problem.policy()
        estimators = self._estimators()
        comparison = compare(policy, problem.f, estimators, self.num_samples, seed=noise_seed, measure_cost=False)
        one_hot = policy.sample(generator=torch.Generator(self.model.device).manual_seed(noise_seed))
        return comparison, critic_slope(problem.f, one_hot, policy.mask)

    def _log(self, comparison: Comparison, slope: CriticSlope) -> None:
        self.comparison = comparison
        self.logger.record("gradients/norm", comparison.gradient_norm)
        for name, value in asdict(slope).items():
            self.logger.record(f"gradients/critic_slope/{name}", value)
        for row in comparison.rows:
            for name in STATISTICS:
                self.logger.record(f"gradients/{row.estimator}/{name}", getattr(row, name), exclude="stdout")
        # As in Stable-Baselines3's EvalCallback: written now, at the step that was measured.
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)


class EvalCallback(EvalWithoutMasks):
    """Stable-Baselines3's `EvalCallback`, which evaluates by :func:`gsrl.evaluation.evaluate_policy`.

    So it hands the environment's action masks to the model, and ends where episodes do not. Arguments, logs and files
    are the same. A model with a :class:`gsrl.timing.Stopwatch` has the time told apart, as ``evaluation``. The
    environment may be the one that the model trains in.

    Args:
        eval_env: The environment, or several; see :func:`gsrl.masking.adapt`.
        *args: As of Stable-Baselines3's.
        max_episode_steps: Steps after which an episode is cut off, see :func:`gsrl.evaluation.evaluate_policy`.
        **kwargs: As of Stable-Baselines3's.

    Example:
        >>> from stable_baselines3.common.monitor import Monitor
        >>> callback = EvalCallback(Monitor(gym.make("CartPole-v1")), eval_freq=10, n_eval_episodes=1, verbose=0)
        >>> model = gsrl.DiscreteSAC("MlpPolicy", "CartPole-v1", learning_starts=20, buffer_size=100, seed=0)
        >>> _ = model.learn(10, callback=callback)
        >>> callback.best_mean_reward > 0
        True
    """

    def __init__(
        self,
        eval_env: gym.Env | VectorEnv | VecEnv,
        *args: Any,
        max_episode_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(adapt(eval_env), *args, **kwargs)
        self.max_episode_steps = max_episode_steps

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return True
        stopwatch: Stopwatch | None = getattr(self.model, "stopwatch", None)
        if stopwatch is not None:
            stopwatch.lap("callbacks")
        try:
            returns, lengths = self._evaluate()
            self._log(returns, lengths)
            return self._tell(float(np.mean(returns)))
        finally:
            if stopwatch is not None:
                stopwatch.lap("evaluation")

    def _evaluate(self) -> tuple[list[float], list[int]]:
        """Returns and lengths of the episodes."""
        if self.model.get_vec_normalize_env() is not None:
            try:
                sync_envs_normalization(self.training_env, self.eval_env)
            except AttributeError as error:
                raise AssertionError(
                    "eval_env must be wrapped as the environment of the training is, whose VecNormalize it takes the "
                    f"statistics of, but got {self.eval_env}."
                ) from error
        self._is_success_buffer = []
        results: Any = evaluate_policy(
            self.model,
            self.eval_env,
            self.n_eval_episodes,
            self.deterministic,
            self.render,
            self._log_success_callback,
            return_episode_rewards=True,
            warn=self.warn,
            max_episode_steps=self.max_episode_steps,
        )
        return results

    def _log(self, returns: list[float], lengths: list[int]) -> None:
        """Writes what came of it to the file, the console and the logger."""
        figures = {"mean_reward": float(np.mean(returns)), "mean_ep_length": float(np.mean(lengths))}
        if self._is_success_buffer:
            figures["success_rate"] = float(np.mean(self._is_success_buffer))
        if self.log_path is not None:
            self.evaluations_timesteps.append(self.num_timesteps)
            self.evaluations_results.append(returns)
            self.evaluations_length.append(lengths)
            arrays: dict[str, Any] = {
                "timesteps": self.evaluations_timesteps,
                "results": self.evaluations_results,
                "ep_lengths": self.evaluations_length,
            }
            if self._is_success_buffer:
                self.evaluations_successes.append(self._is_success_buffer)
                arrays["successes"] = self.evaluations_successes
            np.savez(self.log_path, **arrays)
        if self.verbose >= 1:
            print(
                f"Eval num_timesteps={self.num_timesteps}, "
                f"episode_reward={figures['mean_reward']:.2f} +/- {np.std(returns):.2f}\n"
                f"Episode length: {figures['mean_ep_length']:.2f} +/- {np.std(lengths):.2f}"
            )
            if "success_rate" in figures:
                print(f"Success rate: {figures['success_rate']:.2%}")
        for name, value in figures.items():
            self.logger.record(f"eval/{name}", value)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)  # now, at the step that was evaluated

    def _tell(self, mean_return: float) -> bool:
        """Saves a model that is better than those before, and calls the callbacks; whether the training goes on."""
        self.last_mean_reward = mean_return
        goes_on = True
        if mean_return > self.best_mean_reward:
            self.best_mean_reward = mean_return
            if self.verbose >= 1:
                print("New best mean reward!")
            if self.best_model_save_path is not None:
                self.model.save(os.path.join(self.best_model_save_path, "best_model"))
            if self.callback_on_new_best is not None:
                goes_on = self.callback_on_new_best.on_step()
        if self.callback is not None:
            goes_on = goes_on and self._on_event()
        return goes_on
