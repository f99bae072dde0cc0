"""A run: one agent trained in one environment, and the folder that holds all about it.

The folder holds ``config.json``, ``progress.csv``, ``episodes.csv``, ``evaluations.csv``, TensorBoard events,
``learning_curve.png``, ``model.zip`` (the final parameters), ``checkpoint.zip`` (what resuming needs) and
``summary.json``.

A checkpoint is written before the first step, before each evaluation, every minute, and at the end. Checkpoints and
evaluations are made between an update and the next collection of steps, where nothing is under way; neither changes
what is learned. A run that is killed at any moment and resumed ends in the same parameters, bit for bit on the same
machine, as one that was never interrupted, and in the same logs but for the times in them. Its environments are stepped
to where they were (see :mod:`agents.rewind`). Where that cannot be, training says so, and a resumed run begins new
episodes, with seeds derived from the run's seed and the steps done: resuming twice then gives the same result.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization
from tqdm import tqdm

from agents import get_agent
from agents.common import UsageError
from agents.curve import plot_learning_curve
from agents.environments import EnvironmentFailure, check_environment, make_environments
from agents.files import write_text
from agents.logs import CsvLog, ProgressLog, TensorBoardLog
from agents.rewind import RewindError, restore, snapshot, why_not_rewindable
from agents.storage import load_parameters, load_state_dict, save_model, state_dict
from gsrl import checkpoint
from gsrl._version import __version__
from gsrl.evaluation import evaluate_policy
from gsrl.masking import adapt

__all__ = [
    "Config",
    "DivergenceError",
    "Evaluator",
    "TrainingError",
    "evaluate_run",
    "is_run",
    "new_folder",
    "read_config",
    "resume",
    "start",
]

CURVE_EPISODES = 5
"""Episodes of each evaluation along the way."""
EVALUATION_ENVS = 5
"""Environments that evaluations step together."""
LOG_ROWS = 100
"""Rows that a run adds to its progress log, where updates are as frequent."""
SAVING_SHARE = 20
"""How many times longer than saving a checkpoint takes, at least, to wait for the next."""
HALF_WRITTEN = (".gsrl-*.tmp", "*.json.*.tmp", "*.csv.*.tmp")
"""What a killed process may leave of checkpoints and other files, which it writes beside the whole ones."""

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Config(Generic[Settings]):
    """What to run."""

    settings: Settings
    """The agent's own settings."""
    agent: str
    """Agent to train."""
    env: str
    """Gymnasium environment to train in."""
    steps: int
    """Environment steps."""
    seed: int = 0
    """Seed of agent, training environments and evaluations."""
    n_envs: int = 1
    """Environments stepped together."""
    device: str = "cpu"
    """Device of the networks; small ones are fastest on the CPU."""
    threads: int = 1
    """Threads of torch; small networks are fastest with one."""
    eval_every: int | None = None
    """Steps between evaluations; None for a tenth of the run."""
    eval_episodes: int = 20
    """Episodes of the final evaluation."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints; longer where saving one takes more than a twentieth of it."""

    def check(self) -> None:
        """Checks the numbers and the device.

        Raises:
            UsageError: One cannot be used; the message names its option.
        """
        for name in ("steps", "n_envs", "threads", "eval_every", "eval_episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{_option(name)} must be at least 1, but got {value}")
        if not self.checkpoint_seconds >= 0:
            raise UsageError(f"--checkpoint-seconds must be at least 0, but got {self.checkpoint_seconds}")
        _check_seed(self.seed)
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"--device {self.device!r} cannot be used: {reason}; choose another --device") from error


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**31:
        raise UsageError(f"--seed must be at least 0 and below 2**31, but got {seed}")


def _option(name: str) -> str:
    """Returns the command line's name of a setting."""
    return "--" + name.replace("_", "-")


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
    return _run(config, folder, command, None)


def resume(folder: Path, steps: int | None, device: str | None, command: Sequence[str]) -> dict[str, Any]:
    """Goes on with an interrupted run, or extends a finished one.

    Args:
        folder: Folder of the run.
        steps: Steps of the whole run; those of its configuration if None.
        device: Device of the networks from here on; that of its configuration if None.
        command: The command line, to be recorded.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        UsageError: There is nothing to resume, or nothing left to do.
        TrainingError: Training cannot go on.
        gsrl.checkpoint.CheckpointError: The checkpoint is damaged, or does not fit the configuration.
    """
    config = read_config(folder)
    config = dataclasses.replace(
        config, steps=config.steps if steps is None else steps, device=config.device if device is None else device
    )
    config.check()
    path = folder / "checkpoint.zip"
    if not path.exists():
        raise UsageError(f"{folder} cannot be resumed: it has no checkpoint.zip")
    state = checkpoint.load(path, device=config.device)
    with checkpoint.fitting(path):
        checkpoint.check_entries(state, dict.fromkeys(("steps", "seconds", "model", "normalization", "generators")))
    if config.steps < state["steps"]:
        raise UsageError(
            f"--steps must be at least the {state['steps']} that {folder} has done, but got {config.steps}"
        )
    if state["steps"] >= config.steps and _is_finished(folder):
        raise UsageError(
            f"{folder} is finished, at {state['steps']} steps; --steps with a larger number goes on with it"
        )
    return _run(config, folder, command, state)


def evaluate_run(
    folder: Path, episodes: int, seed: int | None = None, *, deterministic: bool = True, device: str | None = None
) -> dict[str, Any]:
    """Evaluates the final model of a run.

    Args:
        folder: Folder of the run.
        episodes: How many.
        seed: Seed in place of the run's. With the run's own, and as many episodes, the result is the summary's.
        deterministic: Take the most probable action; else sample.
        device: Device of the networks; that of the run if None.

    Returns:
        ``agent``, ``env``, ``seed``, ``episodes``, ``deterministic``, ``mean_return``, ``std_return`` and ``returns``.

    Raises:
        UsageError: There is no model in the folder, or an argument is out of range.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    config = read_config(folder)
    path = folder / "model.zip"
    if not path.exists():
        raise UsageError(f"{folder} has no model.zip: its training did not finish")
    if episodes < 1:
        raise UsageError(f"--episodes must be at least 1, but got {episodes}")
    config = dataclasses.replace(
        config, seed=config.seed if seed is None else seed, device=config.device if device is None else device
    )
    config.check()
    _set_threads(config.threads)
    evaluator = Evaluator(config.env, config.seed)
    try:
        with warnings.catch_warnings(action="ignore"):  # about training in as many environments, which is not to be
            model = _make_agent(config, evaluator.env, config.seed)
        load_parameters(path, model)
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


# The folder


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / "config.json").exists()


def new_folder(root: Path, env_id: str, agent: str, seed: int) -> Path:
    """Returns the path of a folder for a run, numbered when that of an earlier run exists."""
    name = f"{re.sub('[/:]', '-', env_id)}_{agent}_seed{seed}"
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder


def read_config(folder: Path) -> Config[Any]:
    """Reads the configuration of a run.

    Args:
        folder: Folder of the run.

    Raises:
        UsageError: It holds no run, or one of another version of this project, or of an environment that is missing.
    """
    if not is_run(folder):
        raise UsageError(f"{folder} holds no run: it has no config.json")
    try:
        stored = _read_json(folder / "config.json")
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["settings"].items()}
        names = [field.name for field in dataclasses.fields(Config)]
        values = {name: stored[name] for name in names if name in stored}  # older runs lack newer options
        config = Config(**{**values, "settings": get_agent(stored["agent"]).Settings(**settings)})
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder / 'config.json'} cannot be used: {type(error).__name__}: {error}") from error
    check_environment(config.env, config.agent)
    return config


def _write_config(folder: Path, config: Config[Any], command: Sequence[str], steps: int) -> None:
    """Writes the configuration, and adds this session of the run to those before it."""
    path = folder / "config.json"
    packages = ("torch", "stable-baselines3", "gymnasium", "numpy")
    session = {
        "from_steps": steps,
        "command": list(command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "gsrl": __version__,
            **{name: version(name) for name in packages},
        },
        "platform": platform.platform(),
    }
    earlier = _read_json(path)["sessions"] if path.exists() else []
    _write_json(path, {**dataclasses.asdict(config), "sessions": [*earlier, session]})


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def _is_finished(folder: Path) -> bool:
    path = folder / "summary.json"
    return path.exists() and _read_json(path)["status"] == "finished"


# Training


class Interrupted(Exception):
    """Training was asked to stop, at a point where its state is whole."""


class TrainingError(RuntimeError):
    """Training cannot go on, for a reason that is not this project's; the last checkpoint is good."""


class DivergenceError(TrainingError):
    """Parameters are no longer finite numbers: what the run learned is lost, but for its last checkpoint."""


class Evaluator:
    """Evaluates models on the same episodes each time, without touching what trains.

    Args:
        env_id: Gymnasium's name of the environment.
        seed: Seed of the run; the evaluation's is derived from it.
    """

    def __init__(self, env_id: str, seed: int) -> None:
        self.seed = _derived_seed(seed, 0)
        self.env = make_environments(env_id, EVALUATION_ENVS, self.seed)
        self.seconds = 0.0

    def __call__(
        self,
        model: BaseAlgorithm,
        episodes: int,
        *,
        deterministic: bool = True,
        each_step: Callable[[], None] = lambda: None,
    ) -> list[float]:
        """Returns the undiscounted return of each episode.

        Args:
            model: What acts.
            episodes: How many.
            deterministic: Take the most probable action; else sample.
            each_step: Called at each step.
        """
        begin = time.perf_counter()
        env: VecEnv = self.env
        normalization = model.get_vec_normalize_env()
        if normalization is not None:
            env = VecNormalize(env, training=False, norm_reward=False)
            sync_envs_normalization(normalization, env)
        env.seed(self.seed)  # for the reset that comes next
        returns, _ = evaluate_policy(
            model,
            env,
            episodes,
            deterministic,
            return_episode_rewards=True,
            callback=lambda *_: each_step(),
        )
        self.seconds += time.perf_counter() - begin
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

    def __init__(self, run: _Run, bar: tqdm, stop: _Stop) -> None:
        super().__init__()
        self.run = run
        self.bar = bar
        self.stop = stop

    def _on_rollout_start(self) -> None:
        # Here, not every so many episodes: those of a good agent are long, those of a bad one many.
        if self.num_timesteps >= self.run.next_log:
            self.model.dump_logs()
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
        self.bar.update(self.training_env.num_envs)
        return True

    def _show(self, episode_return: float) -> None:
        entropy = self.run.progress_log.latest.get("train/entropy")
        text = f"return {episode_return:.4g}"
        self.bar.set_postfix_str(text if entropy is None else f"{text}, entropy {entropy:.3f}", refresh=False)


class _Stop:
    """Whether SIGINT or SIGTERM has arrived. The second SIGINT is Python's ``KeyboardInterrupt``."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raises ``Interrupted`` if so."""
        if self.requested:
            raise Interrupted

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listens while the block runs."""
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tqdm.write("Stopping after the steps and the update under way; Ctrl-C again stops at once.", file=sys.stderr)


class _Run:
    """A model in training with its logs.

    Args:
        config: What to run.
        folder: Its folder.
        model: The agent, which knows the steps done.
        evaluator: What evaluates it.
        seconds: Seconds spent by earlier processes, by kind.
        rewindable: Whether checkpoints can hold where the environments are.
    """

    def __init__(
        self,
        config: Config[Any],
        folder: Path,
        model: BaseAlgorithm,
        evaluator: Evaluator,
        seconds: Mapping[str, float],
        *,
        rewindable: bool,
    ) -> None:
        self.config = config
        self.folder = folder
        self.model = model
        self.evaluator = evaluator
        self.earlier = seconds
        self.rewindable = rewindable
        self.begin = time.perf_counter()
        self.saving_seconds = 0.0
        self.saved_steps = model.num_timesteps
        self.next_save = time.perf_counter() + config.checkpoint_seconds
        progress = CsvLog(folder / "progress.csv")
        self.episodes = CsvLog(folder / "episodes.csv", ["return", "length"])
        self.evaluations = CsvLog(folder / "evaluations.csv", ["mean_return", "std_return", "episodes"])
        for log in (progress, self.episodes, self.evaluations):
            log.truncate(model.num_timesteps)
        self.tensorboard = TensorBoardLog(folder, model.num_timesteps)
        self.progress_log = ProgressLog(progress)
        model.set_logger(Logger(str(folder), [self.progress_log, self.tensorboard]))
        evaluations = self.evaluations.rows()
        self.last_evaluation = int(evaluations[-1]["steps"]) if evaluations else 0

    @property
    def next_evaluation(self) -> int:
        """Steps at which the next evaluation is due."""
        return _next_multiple(self.last_evaluation, self.config.eval_every or -(-self.config.steps // 10))

    @property
    def next_log(self) -> int:
        """Steps at which the next row of the progress log is due."""
        return _next_multiple(self.progress_log.last_step, -(-self.config.steps // LOG_ROWS))

    def checkpoint_is_due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return time.perf_counter() >= self.next_save

    def complete(self, stop: _Stop) -> dict[str, Any]:
        """Trains and evaluates, and returns the summary, also when it was asked to stop."""
        try:
            if self.model.num_timesteps < self.config.steps:
                self._learn(stop)
                self.save_checkpoint()
            self.evaluations.truncate(self.model.num_timesteps - 1)
            return self._finish("finished", self.evaluate(self.config.eval_episodes, stop))
        except Interrupted:
            self.save_checkpoint()
            return self._finish("interrupted")

    def _learn(self, stop: _Stop) -> None:
        # The bar is for people: it is off where stderr is a file.
        bar = tqdm(
            total=self.config.steps,
            initial=self.model.num_timesteps,
            unit="step",
            mininterval=0.5,
            dynamic_ncols=True,
            disable=None,
        )
        with bar:
            self.model.learn(
                self.config.steps - self.model.num_timesteps,
                callback=_Recorder(self, bar, stop),
                log_interval=None,  # type: ignore[arg-type]  # the recorder logs
                reset_num_timesteps=False,
            )
        if self.progress_log.last_step < self.model.num_timesteps:
            self.model.dump_logs()

    def evaluate(self, episodes: int, stop: _Stop) -> list[float]:
        """Evaluates greedily, and records it."""
        steps = self.model.num_timesteps
        returns = self.evaluator(self.model, episodes, each_step=stop.check)
        statistics = {"mean_return": float(np.mean(returns)), "std_return": float(np.std(returns))}
        self.evaluations.append({"steps": steps, **statistics, "episodes": episodes})
        scalars = {f"eval/{name}": value for name, value in statistics.items()}
        self.tensorboard.write(scalars, dict.fromkeys(scalars, ()), steps)
        self.last_evaluation = steps
        result = f"{statistics['mean_return']:.1f} ± {statistics['std_return']:.1f} over {episodes} episodes"
        tqdm.write(f"{steps} of {self.config.steps} steps: {result}", sys.stderr)
        return returns

    def save_checkpoint(self) -> None:
        """Saves all that resuming needs.

        Raises:
            DivergenceError: Parameters are not finite; the checkpoint before stays.
        """
        begin = time.perf_counter()
        self.check_finite()
        env = self.model.get_env()
        begun = self.model._last_obs is not None
        tree = {
            "steps": self.model.num_timesteps,
            "seconds": self.seconds(),
            **state_dict(self.model),
            "environments": snapshot(env) if env is not None and begun and self.rewindable else None,
        }
        checkpoint.save(self.folder / "checkpoint.zip", tree)
        self.saved_steps = self.model.num_timesteps
        end = time.perf_counter()
        self.saving_seconds += end - begin
        self.next_save = end + max(self.config.checkpoint_seconds, SAVING_SHARE * (end - begin))

    def check_finite(self) -> None:
        """Raises ``DivergenceError`` if parameters are not finite."""
        names = [name for name, value in self.model.policy.named_parameters() if not value.isfinite().all()]
        if names:
            raise DivergenceError(
                f"training diverged: at {self.model.num_timesteps} steps {len(names)} parameters are not finite, "
                f"such as {names[0]}; the checkpoint of {self.saved_steps} steps in {self.folder} is the last good one"
            )

    def seconds(self) -> dict[str, float]:
        """Returns the seconds spent by this process and earlier ones, by kind."""
        wall = time.perf_counter() - self.begin
        train = wall - self.evaluator.seconds - self.saving_seconds
        now = {"wall": wall, "train": train, "evaluation": self.evaluator.seconds}
        return {kind: self.earlier.get(kind, 0.0) + value for kind, value in now.items()}

    def _finish(self, status: str, returns: Sequence[float] | None = None) -> dict[str, Any]:
        """Writes model, summary and curve, and returns the summary."""
        save_model(self.folder / "model.zip", self.model)
        summary = self.write_summary(status, returns)
        plot_learning_curve(
            self.folder / "learning_curve.png",
            f"{self.config.agent} on {self.config.env}, seed {self.config.seed}",
            self.evaluations.rows(),
            self.episodes.rows(),
            finished=status == "finished",
        )
        return summary

    def write_summary(self, status: str, returns: Sequence[float] | None = None) -> dict[str, Any]:
        """Writes the summary and returns it."""
        config, steps, seconds = self.config, self.model.num_timesteps, self.seconds()
        summary = {
            "status": status,
            "agent": config.agent,
            "env": config.env,
            "seed": config.seed,
            "steps": steps,
            "eval_return_mean": None if returns is None else float(np.mean(returns)),
            "eval_return_std": None if returns is None else float(np.std(returns)),
            "eval_episodes": 0 if returns is None else len(returns),
            "wall_seconds": seconds["wall"],
            "train_seconds": seconds["train"],
            "evaluation_seconds": seconds["evaluation"],
            "steps_per_second": steps / seconds["train"],
        }
        _write_json(self.folder / "summary.json", summary)
        return summary

    def close(self) -> None:
        """Closes logs and environments."""
        self.model.logger.close()
        self.episodes.close()
        self.evaluations.close()
        self.evaluator.close()
        env = self.model.get_env()
        if env is not None:
            env.close()


def _run(config: Config[Any], folder: Path, command: Sequence[str], state: Mapping[str, Any] | None) -> dict[str, Any]:
    config.check()
    _set_threads(config.threads)
    # First: what uses global random numbers in spite of all must not meet those of the training.
    obstacle = why_not_rewindable(lambda: adapt(gym.make(config.env)))
    evaluator = Evaluator(config.env, config.seed)
    model = _make_agent(config, make_environments(config.env, config.n_envs, config.seed), config.seed)
    if state is not None:
        _restore(model, state, config, folder)
        for path in (path for pattern in HALF_WRITTEN for path in folder.glob(pattern)):
            path.unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be the folder of a run: {error.strerror}") from error

    seconds = state["seconds"] if state is not None else {}
    run = _Run(config, folder, model, evaluator, seconds, rewindable=obstacle is None)
    try:
        if state is None:
            run.save_checkpoint()
        # After the checkpoint: a folder with a configuration is a run, and can be resumed.
        _write_config(folder, config, command, model.num_timesteps)
        (folder / "summary.json").unlink(missing_ok=True)  # that of an earlier, shorter run
        print(
            f"training {config.agent} on {config.env}, steps {model.num_timesteps} to {config.steps}, in {folder}",
            file=sys.stderr,
        )
        if obstacle is not None:
            print(
                f"resuming will begin new episodes, so that an interrupted run ends in another result: a second "
                f"{config.env} cannot be brought to where one is ({obstacle})",
                file=sys.stderr,
            )
        stop = _Stop()
        with stop.listening():
            return run.complete(stop)
    except Exception as error:
        if (folder / "summary.json").exists():  # only the picture failed
            raise
        with suppress(OSError):  # the disk may be full
            run.write_summary("failed")
        run.check_finite()  # the reason, where it is one, of whatever was raised
        if isinstance(error, EnvironmentFailure | OSError):
            raise TrainingError(
                f"training failed at {model.num_timesteps} steps: {error}; "
                f"the checkpoint of {run.saved_steps} steps in {folder} is the last good one"
            ) from error
        raise
    finally:
        with suppress(OSError):  # rows are written when they are added, so nothing is lost here
            run.close()


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
    env.seed(_derived_seed(config.seed, state["steps"]) if state["steps"] else config.seed)
    model.set_env(env, force_reset=True)


def _make_agent(config: Config[Any], env: VecEnv, seed: int) -> BaseAlgorithm:
    try:
        model: BaseAlgorithm = get_agent(config.agent).make(env, config.settings, seed=seed, device=config.device)
    except UsageError:
        raise
    except (AssertionError, TypeError, ValueError) as error:  # assertions are how Stable-Baselines3 refuses
        names = "|".join(field.name for field in dataclasses.fields(config.settings))
        reason = re.sub(rf"\b({names})(?= must )", lambda match: _option(match[1]), str(error))
        raise UsageError(f"{config.agent} cannot be made with these settings: {reason}") from error
    return model


def _set_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    # Adam's moments of units that stopped learning shrink to denormal numbers, which are several times slower.
    torch.set_flush_denormal(True)


def _next_multiple(steps: int, every: int) -> int:
    return (steps // every + 1) * every


def _derived_seed(seed: int, steps: int) -> int:
    """Returns a seed of 31 bits apart from the run's: of evaluations with 0 steps, of a run resumed after some."""
    return int(np.random.SeedSequence([seed, steps]).generate_state(1)[0] >> 1)
