"""What a run trains: a :class:`Trainee`. One of Stable-Baselines3's algorithms, its own or ours, or agents that talk.

Many agents in lock-step, :class:`gsrl.runs.pool.Members`, are one as well.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

from gsrl import checkpoint
from gsrl._random import environment_seed, environment_seeds
from gsrl.evaluation import evaluate_policy
from gsrl.population import Episode
from gsrl.runs.config import Config, refusals
from gsrl.runs.environments import make_environments
from gsrl.runs.gradients import actor_gradient
from gsrl.runs.interruption import Interrupted
from gsrl.runs.rewind import RewindError, restore, snapshot
from gsrl.runs.storage import load_state_dict, save_model, state_dict
from gsrl.vec_env import seed_environments

__all__ = [
    "CURVE_EPISODES",
    "EVALUATION_ENVS",
    "AlgorithmTrainee",
    "Evaluator",
    "TaskTrainee",
    "Trainee",
    "evaluation_seed",
    "make_agent",
]

CURVE_EPISODES = 5
"""Episodes of each evaluation along the way, where episodes take time."""
EVALUATION_ENVS = 5
"""Environments that evaluations step together."""


class Trainee(Protocol):
    """One agent or several, as a run sees them: they have done as many steps each, and learn until they are stopped.

    Attributes:
        stopped_at: Steps after which each was frozen; None: it learns.
        curve_episodes: Episodes of each evaluation along the way.
    """

    stopped_at: list[int | None]
    curve_episodes: int

    @property
    def seeds(self) -> Sequence[int]:
        """Of each."""

    @property
    def diverged(self) -> list[bool]:
        """Whether each was frozen because its loss was not finite."""

    @property
    def steps(self) -> int:
        """Steps of each."""

    def learn(self, steps: int) -> list[Episode]:
        """Trains to the end of the update or rollout that reaches so many steps; returns the episodes that ended."""

    def evaluate(self, episodes: int, *, final: bool = False) -> NDArray[np.float64]:
        """Returns the score of each greedy episode, ``[seeds, episodes]``.

        Args:
            episodes: How many of each.
            final: Whether it is the final evaluation; else steps decide on the episodes.

        Raises:
            Interrupted: It was cancelled.
        """

    def gradients(self, num_samples: int) -> list[dict[str, float]]:
        """Returns figures of the actor's gradient of each, see :func:`gsrl.runs.gradients.actor_gradient`."""

    def scalars(self) -> list[dict[str, Any]]:
        """Returns what is to be logged of each."""

    def seconds(self) -> dict[str, float]:
        """Returns the time of this process's life that was spent on each kind of work."""

    def why_lost(self) -> str | None:
        """Says why there is nothing left to train, if so."""

    def state(self, *, rewindable: bool) -> dict[str, Any]:
        """Returns all that changes while they learn.

        Args:
            rewindable: Whether where environments are can be part of it.
        """

    def load_state(self, state: Mapping[str, Any]) -> str | None:
        """Restores :meth:`state`; returns why environments could not be brought to where they were, if so."""

    def save_models(self, paths: Sequence[Path]) -> None:
        """Saves each as an agent of its own."""

    def models(self, count: int) -> dict[int, BaseAlgorithm]:
        """Returns the first agents that have not diverged, by seed, to be watched; none of those that talk."""

    def cancel(self) -> None:
        """Lets an evaluation under way raise ``Interrupted``."""

    def close(self) -> None:
        """Ends the processes, and closes the environments."""


def evaluation_seed(seed: int, steps: int | None) -> int:
    """Returns the seed of an evaluation of an agent after some steps; None: of its final one."""
    return environment_seed(seed, "final evaluation") if steps is None else environment_seed(seed, "evaluation", steps)


# Stable-Baselines3's algorithms, and ours with its interface


class Evaluator:
    """Evaluates models, without touching what trains.

    Args:
        env_id: Gymnasium's name of the environment.
        seed: Seed of the run; those of evaluations are derived from it.
        **how: How environments are made, see :func:`gsrl.runs.environments.make_environments`.
    """

    def __init__(self, env_id: str, seed: int, **how: Any) -> None:
        self.seed = seed
        self.env = make_environments(env_id, EVALUATION_ENVS, seed, **how)

    def __call__(
        self,
        model: BaseAlgorithm,
        episodes: int,
        *,
        steps: int | None = None,
        deterministic: bool = True,
        each_step: Callable[[], None] = lambda: None,
    ) -> list[float]:
        """Returns the undiscounted return of each episode.

        Args:
            model: What acts.
            episodes: How many.
            steps: Those of the training by now, which decide on the episodes; None: it is the final evaluation.
            deterministic: Take the most probable action; else sample.
            each_step: Called at each step.
        """
        env: VecEnv = self.env
        normalization = model.get_vec_normalize_env()
        if normalization is not None:
            env = VecNormalize(env, training=False, norm_reward=False)
            sync_envs_normalization(normalization, env)
        # For the reset that comes next.
        seed_environments(env, environment_seeds(env.num_envs, evaluation_seed(self.seed, steps), "evaluation"))
        returns, _ = evaluate_policy(
            model,
            env,
            episodes,
            deterministic,
            return_episode_rewards=True,
            callback=lambda *_: each_step(),
        )
        return np.asarray(returns, dtype=float).tolist()

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()


def make_agent(config: Config[Any], env: VecEnv, seed: int) -> BaseAlgorithm:
    """Builds the algorithm of a configuration.

    Args:
        config: What to run.
        env: Where it trains.
        seed: Seeds the agent and the environment.

    Raises:
        UsageError: It cannot be made with these settings.
    """
    with refusals(config.agent, config.settings):
        model: BaseAlgorithm = config.card.make(
            env, config.settings, seed=seed, device=config.device, compile=config.compile
        )
    # Stable-Baselines3's algorithms have given seed + j to environment j.
    seed_environments(env, environment_seeds(env.num_envs, seed, "environment"))
    return model


class _Pause(Exception):
    """Leaves an algorithm's ``learn`` between an update and the next steps."""


class _Collector(BaseCallback):
    """Collects episodes, and pauses where a rollout would begin that is not asked for.

    Args:
        until: Steps after which it pauses.
        began: When the training began, and its steps then: its own ``learn`` begins several times.
        others: Called at each step as well; they have been made ready.
    """

    def __init__(self, until: int, began: tuple[int, int], others: Sequence[BaseCallback]) -> None:
        super().__init__()
        self.until = until
        self.others = others
        self.began = began
        self.episodes: list[Episode] = []

    def _on_training_start(self) -> None:
        self.model.start_time, self.model._num_timesteps_at_start = self.began

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.until:
            raise _Pause

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.episodes.append(Episode(0, self.num_timesteps, info["episode"]["r"], info["episode"]["l"]))
        for callback in self.others:
            callback.update_locals(self.locals)
            callback.on_step()
        return True


class _Latest(KVWriter):
    """Keeps what Stable-Baselines3's logger was told since it was last read: numbers and texts."""

    def __init__(self) -> None:
        self.row: dict[str, Any] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.row |= {
            name: value
            for name, value in sorted(key_values.items())
            if isinstance(value, np.ScalarType) and "csv" not in key_excluded[name]
        }

    def close(self) -> None:
        """Nothing: there is nothing to close."""


class AlgorithmTrainee:
    """An algorithm of Stable-Baselines3, or of ours with its interface, by itself.

    Args:
        config: What to run.

    Raises:
        UsageError: The agent cannot be made with these settings.
    """

    curve_episodes = CURVE_EPISODES

    def __init__(self, config: Config[Any]) -> None:
        self.config = config
        self.seeds = [config.seed]
        self.stopped_at: list[int | None] = [None]
        self.diverged = [False]  # who is alone is lost: see why_lost
        self._cancelled = False
        self._evaluator = Evaluator(config.env, config.seed, **config.making)
        env = make_environments(config.env, config.n_envs, config.seed, **config.making)
        self.model = make_agent(config, env, config.seed)
        self._log = _Latest()
        self.model.set_logger(Logger(None, [self._log]))
        self._began: tuple[int, int] | None = None
        self._callbacks = config.callbacks()
        with refusals(config.agent, config.settings):
            for callback in self._callbacks:
                callback.init_callback(self.model)

    @property
    def env(self) -> VecEnv:
        """The environments that the model trains in."""
        env = self.model.get_env()
        assert env is not None  # it was made with them
        return env

    @property
    def steps(self) -> int:
        """Those of all environments together."""
        return self.model.num_timesteps

    def learn(self, steps: int) -> list[Episode]:
        """Trains to the end of the rollout that reaches so many steps."""
        self._began = self._began or (time.time_ns(), self.steps)
        callback = _Collector(steps, self._began, self._callbacks)
        with suppress(_Pause):
            # To the end of the run, for schedules: the callback stops it.
            learn: Any = self.model.learn  # without a log: the run has its own
            learn(self.config.steps - self.steps, callback=callback, log_interval=None, reset_num_timesteps=False)
        return callback.episodes

    def evaluate(self, episodes: int, *, final: bool = False) -> NDArray[np.float64]:
        """Returns the return of each greedy episode, ``[1, episodes]``."""
        steps = None if final else self.steps
        return np.array([self._evaluator(self.model, episodes, steps=steps, each_step=self._check)])

    def _check(self) -> None:
        if self._cancelled:
            raise Interrupted

    def gradients(self, num_samples: int) -> list[dict[str, float]]:
        """Returns figures of the actor's gradient."""
        return [actor_gradient(self.model, num_samples, self.config.seed)]

    def scalars(self) -> list[dict[str, Any]]:
        """Returns what the algorithm logs."""
        self.model.dump_logs()
        row, self._log.row = self._log.row, {}
        return [row]

    def seconds(self) -> dict[str, float]:
        """Returns those of the algorithm's stopwatch; a baseline has none."""
        return dict(self.model.stopwatch.seconds) if hasattr(self.model, "stopwatch") else {}

    def why_lost(self) -> str | None:
        """Says which parameters are not finite, if so."""
        names = [name for name, value in self.model.policy.named_parameters() if not value.isfinite().all()]
        return f"{len(names)} parameters are not finite, such as {names[0]}" if names else None

    def state(self, *, rewindable: bool) -> dict[str, Any]:
        """Returns all that changes while it learns."""
        begun = self.model._last_obs is not None
        return {
            **state_dict(self.model),
            "environments": snapshot(self.env) if begun and rewindable else None,
        }

    def load_state(self, state: Mapping[str, Any]) -> str | None:
        """Restores :meth:`state`, and the global generators."""
        environments = state.get("environments")  # None before the first reset, and where they cannot be rewound
        obstacle = None
        if environments is not None:
            try:
                restore(self.env, environments)
            except RewindError as error:
                obstacle = str(error)
        # The global generators too, after all that may have used them.
        load_state_dict(self.model, state)
        if environments is None or obstacle is not None:
            # From a checkpoint of no steps a run goes as it would have gone.
            role = ("resumption", state["steps"]) if state["steps"] else ("environment",)
            seed_environments(self.env, environment_seeds(self.env.num_envs, self.config.seed, *role))
            self.model.set_env(self.env, force_reset=True)
        return obstacle

    def save_models(self, paths: Sequence[Path]) -> None:
        """Saves it."""
        for path in paths:
            save_model(path, self.model)

    def models(self, count: int) -> dict[int, BaseAlgorithm]:
        """Returns it."""
        return {self.config.seed: self.model}

    def cancel(self) -> None:
        """Lets an evaluation under way raise ``Interrupted``."""
        self._cancelled = True

    def close(self) -> None:
        """Closes the environments."""
        self._evaluator.close()
        self.env.close()


# Tasks, such as agents that talk


class TaskTrainee:
    """Tasks on one trainer, such as :class:`gsrl.comms.SignallingGame`: agents in lock-step, a step an episode.

    Args:
        config: What to run, with ``seeds``.

    Raises:
        UsageError: The agents cannot be made with these settings.
    """

    def __init__(self, config: Config[Any]) -> None:
        assert config.seeds is not None  # of one agent too
        self.config = config
        self.agent: Any = config.card
        self.seeds = range(config.seed, config.seed + config.seeds)
        self.curve_episodes = config.eval_episodes  # as many: they take no time
        self.model = self._make(self.seeds, compile=config.compile)
        self.stopped_at: list[int | None] = [None] * len(self.seeds)
        self._update_seconds = 0.0

    def _make(self, seeds: Sequence[int], *, compile: bool = False) -> Any:
        config = self.config
        how: dict[str, Any] = {"n_envs": config.n_envs} if self.agent.steps_environments else {}
        with refusals(config.agent, config.settings):
            return self.agent.make(
                config.env, config.settings, seeds=seeds, device=config.device, compile=compile, **how
            )

    @property
    def steps(self) -> int:
        """Units of each."""
        return int(self.model.steps)

    @property
    def diverged(self) -> list[bool]:
        """Whether each was frozen because its loss was not finite."""
        return list(self.model.lockstep.diverged)

    def learn(self, steps: int) -> list[Episode]:
        """Trains to the end of the update that reaches so many steps; no episode is told of, there are thousands."""
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"the \w+ of seed \d+ diverged")  # which the run tells
            self.agent.learn(self.model, self.config.settings, steps - self.steps, self.config.steps)
        self._update_seconds += time.perf_counter() - begin
        # Not the steps of now, which depend on how many are taken at a time.
        own = [self.model.steps_of(count) for count in self.model.lockstep.counts]
        self.stopped_at = [
            steps if diverged else stopped
            for steps, diverged, stopped in zip(own, self.diverged, self.stopped_at, strict=True)
        ]
        return []

    def evaluate(self, episodes: int, *, final: bool = False) -> NDArray[np.float64]:
        """Returns the score of each episode with hard messages, ``[seeds, episodes]``."""
        seed = 0 if final else self.steps
        scores: NDArray[np.float64] = self.agent.play(self.model, self.config.settings, episodes, seed=seed)
        return scores

    def gradients(self, num_samples: int) -> list[dict[str, float]]:
        """Returns nothing: there is no actor."""
        return [{} for _ in self.seeds]

    def scalars(self) -> list[dict[str, Any]]:
        """Returns what is logged of each."""
        rows: list[dict[str, Any]] = self.model.scalars()
        return rows

    def seconds(self) -> dict[str, float]:
        """Returns what the time of this process went to."""
        return {"update": self._update_seconds}

    def why_lost(self) -> str | None:
        """Says that all have diverged, if so."""
        return "the loss of no seed is finite" if all(self.diverged) else None

    def state(self, *, rewindable: bool) -> dict[str, Any]:
        """Returns all that changes while they learn."""
        return {"members": {"model": self.model.state_dict(), "stopped_at": self.stopped_at}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state`."""
        checkpoint.check_entries(state, {"members": dict.fromkeys(("model", "stopped_at"))})
        self.model.load_state_dict(state["members"]["model"])
        self.stopped_at = list(state["members"]["stopped_at"])

    def save_models(self, paths: Sequence[Path]) -> None:
        """Saves each as one by itself."""
        state = self.model.state_dict()
        for index, (seed, path) in enumerate(zip(self.seeds, paths, strict=True)):
            alone = self._make([seed])
            alone.load_state_dict(self.model.state_of_one(state, index))
            alone.save(path)

    def models(self, count: int) -> dict[int, BaseAlgorithm]:
        """Returns none: they do not act in Gymnasium's environments."""
        return {}

    def cancel(self) -> None:
        """Nothing: an evaluation is over soon."""

    def close(self) -> None:
        """Nothing: there is nothing to close."""
