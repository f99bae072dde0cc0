"""Callbacks for Stable-Baselines3: which gradient estimator's bias bites, and when; evaluation with action masks."""

from __future__ import annotations

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
from stable_baselines3.common.vec_env import VecEnv

from gsrl.algorithms import DiscreteSAC
from gsrl.diagnostics import Comparison, CriticSlope, compare, critic_slope
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator
from gsrl.evaluation import MaskedModel, takes_masks
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
    """
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(batch_size, model.get_vec_normalize_env(), generator)
    was_training = model.policy.training
    model.policy.set_training_mode(False)
    with torch.no_grad():
        policy = model.policy.actor(batch.observations, batch.action_mask)
        f = model.policy.critic(batch.observations).objective(model.critics)
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
        generator = np.random.default_rng([self.seed, self.num_timesteps])
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
    """Stable-Baselines3's `EvalCallback`, which also hands the environment's action masks to the model.

    Arguments, logs and files are the same. A model with a :class:`gsrl.timing.Stopwatch` has the time told apart, as
    ``evaluation``. Without masks, or with a model whose `predict` has no argument
    `action_masks`, so is all else. :func:`gsrl.evaluation.evaluate_policy` does the same outside of a training.

    Args:
        eval_env: The environment, or several; see :func:`gsrl.masking.adapt`.
        *args: As of Stable-Baselines3's.
        **kwargs: As of Stable-Baselines3's.
    """

    def __init__(self, eval_env: gym.Env | VectorEnv | VecEnv, *args: Any, **kwargs: Any) -> None:
        super().__init__(adapt(eval_env), *args, **kwargs)

    def _init_callback(self) -> None:
        super()._init_callback()
        self._takes_masks = takes_masks(self.model)

    def _on_step(self) -> bool:
        # The base class evaluates `self.model`: for that long, it is one that knows the masks.
        model = self.model
        is_due = self.eval_freq > 0 and self.n_calls % self.eval_freq == 0
        stopwatch: Stopwatch | None = getattr(model, "stopwatch", None) if is_due else None
        if stopwatch is not None:
            stopwatch.lap("callbacks")
        if self._takes_masks:
            self.model = MaskedModel(model, self.eval_env)  # type: ignore[assignment]
        try:
            return super()._on_step()
        finally:
            self.model = model
            if stopwatch is not None:
                stopwatch.lap("evaluation")

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        if isinstance(self.model, MaskedModel):
            self.model.after_step(locals_["infos"], locals_["dones"])
        super()._log_success_callback(locals_, globals_)
