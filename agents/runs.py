"""A run: one agent trained in one environment, and the folder that holds all about it.

The folder holds ``config.json``, ``progress.csv``, ``episodes.csv``, ``evaluations.csv``, TensorBoard events,
``learning_curve.png``, ``model.zip`` (the final parameters), ``checkpoint.zip`` (what resuming needs) and
``summary.json``.

A checkpoint is written before the first step, before each evaluation, every minute, and at the end. A run that is
killed at any moment and resumed ends in the same parameters, bit for bit on the same machine, as one that was never
interrupted, and in the same logs but for the times in them. Its environments are stepped to where they were (see
:mod:`agents.rewind`). Where that cannot be, training says so, and a resumed run begins new episodes, with seeds derived
from the run's seed and the steps done: resuming twice then gives the same result.

A run of several agents in lock-step has more in its folder, see :mod:`agents.populations`; for agents that talk, see
:mod:`agents.talking`.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization
from tqdm import tqdm

from agents import TALKERS, get_agent, populations, talking
from agents.common import UsageError, counted
from agents.config import Config, check_files, check_unchanged, is_finished, is_run, read_config, refusals
from agents.environments import make_environments
from agents.files import occupied
from agents.gradients import actor_gradient
from agents.interruption import Stop
from agents.logs import ProgressLog, TensorBoardLog
from agents.rewind import RewindError, restore, snapshot, why_not_rewindable
from agents.storage import check_sizes, load_parameters, load_state_dict, save_model, state_dict
from agents.training import (
    CURVE_EPISODES,
    EVALUATION_ENVS,
    DivergenceError,
    Training,
    carry_out,
    describe_steps,
    evaluation_seed,
    set_threads,
    told,
)
from gsrl import checkpoint
from gsrl._progress import show_progress
from gsrl._random import environment_seeds
from gsrl.evaluation import evaluate_policy
from gsrl.masking import adapt
from gsrl.timing import Stopwatch
from gsrl.vec_env import seed_environments

__all__ = ["Evaluator", "evaluate_run", "load_model", "resume", "start"]


# Entry points


def start(config: Config[Any], folder: Path, command: Sequence[str]) -> dict[str, Any]:
    """Trains an agent in a new folder.

    Args:
        config: What to run.
        folder: The folder, made when missing.
        command: The command line, to be recorded.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        UsageError: The configuration cannot be used; nothing was written.
        TrainingError: Training cannot go on.
    """
    config.check()
    with occupied(folder), told(folder):
        if is_run(folder):
            raise UsageError(f"{folder} holds a run already")
        check_files(folder)
        return _run(config, folder, command, None)


def resume(
    folder: Path, steps: int | None, device: str | None, command: Sequence[str], *, trusted: bool = False
) -> dict[str, Any]:
    """Goes on with an interrupted run, or extends a finished one.

    Args:
        folder: Folder of the run.
        steps: Steps of the whole run; those of its configuration if None.
        device: Device of the networks from here on; that of its configuration if None.
        command: The command line, to be recorded.
        trusted: Whether the module of an environment ``module:name`` is imported.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        UsageError: There is nothing to resume, or nothing left to do.
        TrainingError: Training cannot go on.
        gsrl.checkpoint.CheckpointError: The checkpoint is damaged, or does not fit the configuration.
    """
    read_config(folder, trusted=trusted)
    with occupied(folder), told(folder):
        check_files(folder)
        stored = read_config(folder)
        config = dataclasses.replace(
            stored, steps=stored.steps if steps is None else steps, device=stored.device if device is None else device
        )
        config.check()
        return _run(config, folder, command, _checkpoint(folder, config, steps))


def _checkpoint(folder: Path, config: Config[Any], steps: int | None) -> dict[str, Any]:
    """What the checkpoint of a run holds that is to go on with a configuration.

    Args:
        folder: Folder of the run.
        config: The configuration.
        steps: The steps that were asked for, if any were.

    Raises:
        UsageError: There is nothing to resume, or nothing left to do.
        gsrl.checkpoint.CheckpointError: The checkpoint is damaged, or does not fit the configuration.
    """
    path = folder / "checkpoint.zip"
    if not path.exists():
        raise UsageError(f"{folder} cannot be resumed: it has no checkpoint.zip")
    state: dict[str, Any] = checkpoint.load(path, device=config.device)
    with checkpoint.fitting(path):
        checkpoint.check_entries(state, dict.fromkeys(("steps", "seconds")))
        checkpoint.check_counts(state, "steps")
    if "config" in state:  # older checkpoints lack it
        check_unchanged(dataclasses.asdict(config), state["config"], folder / "config.json")
    check_sizes(state, config.settings, path)
    if steps is not None and steps < state["steps"]:  # a last rollout may exceed those of the configuration
        raise UsageError(
            f"--steps must be at least the {state['steps']} that {folder} has done, but got {config.steps}"
        )
    if state["steps"] >= config.steps and is_finished(folder):
        raise UsageError(
            f"{folder} is finished, at {state['steps']} steps; --steps with a larger number goes on with it"
        )
    return state


def evaluate_run(
    folder: Path,
    episodes: int,
    seed: int | None = None,
    *,
    deterministic: bool = True,
    device: str | None = None,
    trusted: bool = False,
    max_episode_steps: int | None = None,
) -> dict[str, Any]:
    """Evaluates the final model of a run.

    Args:
        folder: Folder of the run, of one agent; or of an agent of a run in lock-step, such as ``seed_3`` inside it.
        episodes: How many.
        seed: Seed in place of the run's. With the run's own, and as many episodes, the result is the summary's.
        deterministic: Take the most probable action; else sample.
        device: Device of the networks; that of the run if None.
        trusted: Whether the module of an environment ``module:name`` is imported.
        max_episode_steps: Steps after which an episode is cut off; those of the run if None.

    Returns:
        ``agent``, ``env``, ``seed``, ``episodes``, ``deterministic``, ``mean_return``, ``std_return`` and ``returns``.

    Raises:
        UsageError: There is no model in the folder, or an argument is out of range.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    if episodes < 1:
        raise UsageError(f"--episodes must be at least 1, but got {episodes}")
    config = _config_of_model(folder, trusted=trusted)
    config = dataclasses.replace(
        config,
        seed=config.seed if seed is None else seed,
        device=config.device if device is None else device,
        max_episode_steps=config.max_episode_steps if max_episode_steps is None else max_episode_steps,
        compile=False,
    )
    config.check()
    set_threads(config.threads)
    evaluator = Evaluator(config.env, config.seed, config.max_episode_steps)
    try:
        model = _load_model(folder, config, evaluator.env)
        returns = evaluator(model, episodes, deterministic=deterministic)
    finally:
        evaluator.close()
    return {
        "agent": config.agent,
        "env": config.env,
        "seed": config.seed,
        "episodes": episodes,
        "deterministic": deterministic,
        "mean_return": float(np.mean(returns)),
        "std_return": float(np.std(returns)),
        "returns": returns,
    }


def load_model(
    folder: Path | str, *, n_envs: int = 1, device: str | None = None, trusted: bool = False
) -> BaseAlgorithm:
    """Opens the final model of a run, of whichever agent of Gymnasium's environments, in environments like its own.

    Those of gsrl's own algorithms are read by their ``load`` too; Stable-Baselines3's are not, as it stores a pickle.
    What observations were normalised by is in ``model.get_env()``, where they were.

    Args:
        folder: Folder of the run, of one agent; or of an agent of a run in lock-step, such as ``seed_3`` inside it.
        n_envs: Environments of ``model.get_env()``.
        device: Device of the networks; that of the run if None.
        trusted: Whether the module of an environment ``module:name`` is imported.

    Returns:
        The model, which predicts and is evaluated; its replay is not kept.

    Raises:
        UsageError: There is no model in the folder, or it is one of agents that talk.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    folder = Path(folder)
    config = _config_of_model(folder, trusted=trusted)
    if config.agent in TALKERS:
        name = get_agent(config.agent).ALGORITHM.__name__
        raise UsageError(f"{folder} holds agents that talk: gsrl.comms.{name}.load opens its model.zip")
    config = dataclasses.replace(config, device=config.device if device is None else device, compile=False)
    config.check()
    return _load_model(folder, config, make_environments(config.env, n_envs, config.seed, config.max_episode_steps))


def _config_of_model(folder: Path, *, trusted: bool) -> Config[Any]:
    """The configuration of a run of one agent that has left a model, or ``UsageError``."""
    config = read_config(folder, trusted=trusted)
    if config.seeds is not None:
        one = populations.folder_of(folder, config.seed)
        raise UsageError(f"{folder} holds {config.seeds} agents: each is in a folder of its own, such as {one}")
    if not (folder / "model.zip").exists():
        raise UsageError(f"{folder} has no model.zip: its training did not finish")
    return config


def _load_model(folder: Path, config: Config[Any], env: VecEnv) -> BaseAlgorithm:
    """The model of a run, in some environments."""
    path = folder / "model.zip"
    tree = checkpoint.load(path, device=config.device)
    check_sizes(tree, config.settings, path)
    if hasattr(config.settings, "buffer_size"):  # there is nothing to put into it
        config = dataclasses.replace(config, settings=dataclasses.replace(config.settings, buffer_size=env.num_envs))
    with warnings.catch_warnings(action="ignore"):  # about training in as many environments, which is not to be
        model = _make_agent(config, env, config.seed)
    load_parameters(tree, model, path)
    return model


# Training


class Evaluator:
    """Evaluates models, without touching what trains.

    Args:
        env_id: Gymnasium's name of the environment.
        seed: Seed of the run; those of evaluations are derived from it.
        max_episode_steps: Steps after which an episode is truncated, see :func:`agents.environments.make_environments`.
    """

    def __init__(self, env_id: str, seed: int, max_episode_steps: int | None = None) -> None:
        self.seed = seed
        self.env = make_environments(env_id, EVALUATION_ENVS, seed, max_episode_steps)

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


class _Recorder(BaseCallback):
    """Evaluates, saves checkpoints, records episodes and shows progress while a model learns.

    Args:
        run: The run.
        bar: Its progress bar.
        stop: What interrupts it.
    """

    def __init__(self, run: _Run, bar: tqdm, stop: Stop) -> None:
        super().__init__()
        self.run = run
        self.bar = bar
        self.stop = stop

    def _on_rollout_start(self) -> None:
        # Here, not every so many episodes: those of a good agent are long, those of a bad one many.
        if self.num_timesteps >= self.run.next_log:
            self.run.log()
        self.stop.check()  # after the log, whose figures of the last update no checkpoint holds
        evaluate = self.num_timesteps >= self.run.next_evaluation
        if evaluate or self.run.checkpoint_is_due():
            self.run.save_checkpoint()
        if evaluate:
            self.run.evaluate(CURVE_EPISODES, self.stop)

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                episode = info["episode"]
                self.run.episodes.append({"steps": self.num_timesteps, "return": episode["r"], "length": episode["l"]})
                self._show(episode["r"])
        self.bar.update(min(self.num_timesteps, self.run.config.steps) - self.bar.n)
        return True

    def _show(self, episode_return: float) -> None:
        entropy = self.run.progress_log.latest.get("train/entropy")
        text = f"return {episode_return:.4g}"
        self.bar.set_postfix_str(text if entropy is None else f"{text}, entropy {entropy:.3f}", refresh=False)


class _Run(Training[list[float]]):
    """A model in training with its logs.

    Args:
        config: What to run.
        folder: Its folder.
        model: The agent, which knows the steps done.
        evaluator: What evaluates it.
        past: What the checkpoint of earlier processes holds; None: there were none.
        rewindable: Whether checkpoints can hold where the environments are.
    """

    def __init__(
        self,
        config: Config[Any],
        folder: Path,
        model: BaseAlgorithm,
        evaluator: Evaluator,
        past: Mapping[str, Any] | None,
        *,
        rewindable: bool,
    ) -> None:
        self.model = model
        self.evaluator = evaluator
        self.rewindable = rewindable
        self._stopwatch = Stopwatch()  # of a baseline, which has none
        super().__init__(config, folder, model.num_timesteps, past)
        self.tensorboard = TensorBoardLog(folder, model.num_timesteps)
        self.tensorboard.write_hyperparameters(config)
        self.progress_log = ProgressLog(self.progress)
        model.set_logger(Logger(str(folder), [self.progress_log, self.tensorboard]))

    @property
    def steps(self) -> int:
        return self.model.num_timesteps

    @property
    def last_log(self) -> int:
        return self.progress_log.last_step

    @property
    def stopwatch(self) -> Stopwatch:
        return getattr(self.model, "stopwatch", self._stopwatch)

    def learn(self, stop: Stop) -> None:
        with show_progress(self.config.steps, self.model.num_timesteps, shown=None) as bar:
            self.model.learn(
                self.config.steps - self.model.num_timesteps,
                callback=_Recorder(self, bar, stop),
                log_interval=None,  # type: ignore[arg-type]  # the recorder logs
                reset_num_timesteps=False,
            )
        if self.progress_log.last_step < self.model.num_timesteps:
            self.log()

    def log(self) -> None:
        """Adds a row to the progress log."""
        with self.timed("logging"):
            self.model.dump_logs()

    def evaluate(self, episodes: int, stop: Stop, *, final: bool = False) -> list[float]:
        steps = self.model.num_timesteps
        with self.timed("evaluation"):
            returns = self.evaluator(self.model, episodes, steps=None if final else steps, each_step=stop.check)
        statistics = {"mean_return": float(np.mean(returns)), "std_return": float(np.std(returns))}
        self.record_times()
        scalars = {f"eval/{name}": value for name, value in statistics.items()}
        if self.gradients is not None:
            figures = actor_gradient(self.model, self.config.gradient_samples, self.config.seed)
            if figures:
                self.gradients.append({"steps": steps, **figures})
            scalars |= {f"gradients/{name}": value for name, value in figures.items()}
        self.evaluations.append({"steps": steps, **statistics, "episodes": episodes})
        self.tensorboard.write(scalars, dict.fromkeys(scalars, ()), steps)
        self.last_evaluation = steps
        result = f"{statistics['mean_return']:.1f} ± {statistics['std_return']:.1f} over {counted(episodes, 'episode')}"
        tqdm.write(f"{describe_steps(steps, self.config.steps)}: {result}", sys.stderr)
        return returns

    def state(self) -> dict[str, Any]:
        env = self.model.get_env()
        begun = self.model._last_obs is not None
        return {
            **state_dict(self.model),
            "environments": snapshot(env) if env is not None and begun and self.rewindable else None,
        }

    def check_finite(self) -> None:
        names = [name for name, value in self.model.policy.named_parameters() if not value.isfinite().all()]
        if names:
            raise DivergenceError(
                f"training diverged: at {self.model.num_timesteps} steps {len(names)} parameters are not finite, "
                f"such as {names[0]}; {self.last_good}"
            )

    def summarize(self, returns: list[float] | None) -> dict[str, Any]:
        return {
            "seed": self.config.seed,
            "steps": self.model.num_timesteps,
            "eval_return_mean": None if returns is None else float(np.mean(returns)),
            "eval_return_std": None if returns is None else float(np.std(returns)),
            "eval_episodes": 0 if returns is None else len(returns),
        }

    def save_models(self) -> None:
        save_model(self.folder / "model.zip", self.model)

    def close(self) -> None:
        """Closes logs and environments."""
        super().close()
        self.model.logger.close()
        self.evaluator.close()
        env = self.model.get_env()
        if env is not None:
            env.close()


def _run(config: Config[Any], folder: Path, command: Sequence[str], state: Mapping[str, Any] | None) -> dict[str, Any]:
    if config.agent in TALKERS:
        return talking.train(config, folder, command, state)
    if config.seeds is not None:
        return populations.train(config, folder, command, state)
    set_threads(config.threads)
    # First: what uses global random numbers in spite of all must not meet those of the training.
    obstacle = why_not_rewindable(lambda: adapt(gym.make(config.env)))
    evaluator = Evaluator(config.env, config.seed, config.max_episode_steps)
    env = make_environments(config.env, config.n_envs, config.seed, config.max_episode_steps)
    model = _make_agent(config, env, config.seed)
    if state is not None:
        _restore(model, state, config, folder)
    run = _Run(config, folder, model, evaluator, state, rewindable=obstacle is None)
    what = f"{config.agent} on {config.env}"
    return carry_out(run, command, obstacle, what=what, resumed=state is not None)


def _restore(model: BaseAlgorithm, state: Mapping[str, Any], config: Config[Any], folder: Path) -> None:
    """Brings a new model and its environments to where those of a checkpoint were."""
    env = model.get_env()
    assert env is not None  # it was made with one
    environments = state.get("environments")  # None before the first reset, and where they cannot be rewound
    obstacle = None
    if environments is not None:
        try:
            restore(env, environments)
        except RewindError as error:
            obstacle = error
    # The global generators too, after all that may have used them.
    load_state_dict(model, state, folder / "checkpoint.zip")
    if environments is not None and obstacle is None:
        return
    if obstacle is not None:
        print(f"new episodes begin, as {config.env} could not be brought to where it was: {obstacle}", file=sys.stderr)
    # From a checkpoint of no steps a run goes as it would have gone.
    if state["steps"]:
        seed_environments(env, environment_seeds(env.num_envs, config.seed, "resumption", state["steps"]))
    else:
        seed_environments(env, environment_seeds(env.num_envs, config.seed, "environment"))
    model.set_env(env, force_reset=True)


def _make_agent(config: Config[Any], env: VecEnv, seed: int) -> BaseAlgorithm:
    compiled = {"compile": True} if config.compile else {}  # which only some agents take
    with refusals(config.agent, config.settings):
        model: BaseAlgorithm = get_agent(config.agent).make(
            env, config.settings, seed=seed, device=config.device, **compiled
        )
    # Stable-Baselines3's algorithms have given seed + j to environment j.
    seed_environments(env, environment_seeds(env.num_envs, seed, "environment"))
    return model
