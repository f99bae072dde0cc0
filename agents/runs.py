"""A run: one agent trained in one environment, and the folder that holds all about it.

The folder holds ``config.json``, ``progress.csv``, ``episodes.csv``, ``evaluations.csv``, TensorBoard events,
``learning_curve.png``, ``model.zip`` (the final parameters), ``checkpoint.zip`` (what resuming needs) and
``summary.json``.

Checkpoints and evaluations are made between an update and the next collection of steps, where nothing is under way.
The state of the environment is not stored: a resumed run begins new episodes, with seeds derived from the run's seed
and the steps done, so that resuming twice gives the same result, though not that of a run that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization
from tqdm import tqdm

from agents import get_agent
from agents.curve import plot_learning_curve
from agents.environments import make_environments
from agents.logs import CsvLog, ProgressLog, TensorBoardLog
from agents.storage import load_model, load_state_dict, save_model, state_dict
from gsrl import checkpoint
from gsrl._version import __version__

__all__ = ["Config", "Evaluator", "evaluate_run", "is_run", "new_folder", "read_config", "resume", "start"]

CURVE_EPISODES = 5
"""Episodes of each evaluation along the way."""
EVALUATION_ENVS = 5
"""Environments that evaluations step together."""

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

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: One is out of range; the message names it.
        """
        for name in ("steps", "n_envs", "threads", "eval_every", "eval_episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, but got {value}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be at least 0 and below 2**31, but got {self.seed}")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {self.device!r} cannot be used: {error}") from None


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
        ValueError: The agent refuses its settings; nothing was written.
    """
    return _run(config, folder, command, None)


def resume(folder: Path, steps: int | None, command: Sequence[str]) -> dict[str, Any]:
    """Goes on with an interrupted run, or extends a finished one.

    Args:
        folder: Folder of the run.
        steps: Steps of the whole run; those of its configuration if None.
        command: The command line, to be recorded.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        ValueError: There is nothing to resume, or nothing left to do.
        gsrl.checkpoint.CheckpointError: The checkpoint is damaged.
    """
    config = read_config(folder)
    path = folder / "checkpoint.zip"
    if not path.exists():
        raise ValueError(f"{folder} has no checkpoint.zip: it stopped before its first checkpoint; start it again")
    state = checkpoint.load(path, device=config.device)
    if steps is not None:
        if steps < state["steps"]:
            raise ValueError(f"steps must be at least the {state['steps']} that {folder} has done, but got {steps}")
        config = dataclasses.replace(config, steps=steps)
    if state["steps"] >= config.steps and _is_finished(folder):
        raise ValueError(
            f"{folder} is finished, at {state['steps']} steps; --steps with a larger number goes on with it"
        )
    return _run(config, folder, command, state)


def evaluate_run(folder: Path, episodes: int, seed: int | None, deterministic: bool) -> dict[str, Any]:
    """Evaluates the final model of a run.

    Args:
        folder: Folder of the run.
        episodes: How many.
        seed: Seed in place of the run's. With the run's own, and as many episodes, the result is the summary's.
        deterministic: Take the most probable action; else sample.

    Returns:
        ``agent``, ``env``, ``seed``, ``episodes``, ``deterministic``, ``mean_return``, ``std_return`` and ``returns``.

    Raises:
        ValueError: There is no model in the folder.
        gsrl.checkpoint.CheckpointError: The model is damaged.
    """
    config = read_config(folder)
    path = folder / "model.zip"
    if not path.exists():
        raise ValueError(f"{folder} has no model.zip: its training did not finish")
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, but got {episodes}")
    seed = config.seed if seed is None else seed
    torch.set_num_threads(config.threads)
    env = make_environments(config.env, config.n_envs, seed)
    evaluator = Evaluator(config.env, seed)
    model = load_model(path, env, seed=seed, device=config.device)
    returns = evaluator(model, episodes, deterministic=deterministic)
    evaluator.close()
    env.close()
    return {
        "agent": config.agent,
        "env": config.env,
        "seed": seed,
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
    name = f"{env_id.replace('/', '-')}_{agent}_seed{seed}"
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
        ValueError: It holds no run, or one of another version of this project.
    """
    if not is_run(folder):
        raise ValueError(f"{folder} holds no run: it has no config.json")
    try:
        stored = json.loads((folder / "config.json").read_text())
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["settings"].items()}
        values = {field.name: stored[field.name] for field in dataclasses.fields(Config)}
        return Config(**{**values, "settings": get_agent(stored["agent"]).Settings(**settings)})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'} cannot be used: {type(error).__name__}: {error}") from error


def _write_config(folder: Path, config: Config[Any], command: Sequence[str]) -> None:
    stored = dataclasses.asdict(config)
    packages = ("torch", "stable-baselines3", "gymnasium", "numpy")
    _write_json(
        folder / "config.json",
        {
            **{name: value for name, value in stored.items() if name != "settings"},
            "settings": stored["settings"],
            "versions": {
                "python": platform.python_version(),
                "gsrl": __version__,
                **{name: version(name) for name in packages},
            },
            "platform": platform.platform(),
            "command": list(command),
        },
    )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def _is_finished(folder: Path) -> bool:
    path = folder / "summary.json"
    return path.exists() and json.loads(path.read_text())["status"] == "finished"


# Training


class Interrupted(Exception):
    """Training was asked to stop, at a point where its state is whole."""


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
        self.entropy: float | None = None

    def _on_rollout_start(self) -> None:
        self.stop.check()
        if self.num_timesteps >= self.run.next_evaluation:
            self.run.evaluate(CURVE_EPISODES, self.stop)
            self.run.save_checkpoint()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                episode = info["episode"]
                self.run.episodes.append({"steps": self.num_timesteps, "return": episode["r"], "length": episode["l"]})
                self._show(episode["r"])
        self.bar.update(self.training_env.num_envs)
        return True

    def _show(self, episode_return: float) -> None:
        # The logger forgets a value when it writes it, so the last one is kept here.
        self.entropy = self.logger.name_to_value.get("train/entropy", self.entropy)
        text = f"return {episode_return:.4g}"
        self.bar.set_postfix_str(text if self.entropy is None else f"{text}, entropy {self.entropy:.3f}", refresh=False)


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
    """

    def __init__(
        self,
        config: Config[Any],
        folder: Path,
        model: BaseAlgorithm,
        evaluator: Evaluator,
        seconds: Mapping[str, float],
    ) -> None:
        self.config = config
        self.folder = folder
        self.model = model
        self.evaluator = evaluator
        self.earlier = seconds
        self.begin = time.perf_counter()
        self.saving_seconds = 0.0
        self.progress = CsvLog(folder / "progress.csv")
        self.episodes = CsvLog(folder / "episodes.csv", ["return", "length"])
        self.evaluations = CsvLog(folder / "evaluations.csv", ["mean_return", "std_return", "episodes"])
        for log in (self.progress, self.episodes, self.evaluations):
            log.truncate(model.num_timesteps)
        self.tensorboard = TensorBoardLog(folder, model.num_timesteps)
        self.progress_log = ProgressLog(self.progress)
        model.set_logger(Logger(str(folder), [self.progress_log, self.tensorboard]))

    @property
    def next_evaluation(self) -> int:
        """Steps at which the next evaluation is due."""
        every = self.config.eval_every or -(-self.config.steps // 10)
        return (self.last_evaluation // every + 1) * every

    def learn(self, stop: _Stop) -> None:
        """Trains until the steps are done.

        Raises:
            Interrupted: It was asked to stop.
        """
        rows = self.evaluations.rows()
        self.last_evaluation = int(rows[-1]["steps"]) if rows else 0
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
                reset_num_timesteps=False,
            )
        if self.progress_log.last_step < self.model.num_timesteps:
            self.model.dump_logs()

    def evaluate(self, episodes: int, stop: _Stop) -> list[float]:
        """Evaluates greedily, and records it."""
        steps = self.model.num_timesteps
        returns = self.evaluator(self.model, episodes, each_step=stop.check)
        mean, std = float(np.mean(returns)), float(np.std(returns))
        self.evaluations.append({"steps": steps, "mean_return": mean, "std_return": std, "episodes": episodes})
        self.evaluations.flush()
        self.tensorboard.writer.add_scalar("eval/mean_return", mean, steps)
        self.last_evaluation = steps
        tqdm.write(f"{steps} of {self.config.steps} steps: {mean:.1f} ± {std:.1f} over {episodes} episodes", sys.stderr)
        return returns

    def save_checkpoint(self) -> None:
        """Saves all that resuming needs."""
        begin = time.perf_counter()
        self.episodes.flush()
        tree = {"steps": self.model.num_timesteps, "seconds": self.seconds(), **state_dict(self.model)}
        checkpoint.save(self.folder / "checkpoint.zip", tree)
        self.saving_seconds += time.perf_counter() - begin

    def seconds(self) -> dict[str, float]:
        """Returns the seconds spent by this process and earlier ones, by kind."""
        wall = time.perf_counter() - self.begin
        train = wall - self.evaluator.seconds - self.saving_seconds
        now = {"wall": wall, "train": train, "evaluation": self.evaluator.seconds}
        return {kind: self.earlier.get(kind, 0.0) + value for kind, value in now.items()}

    def finish(self, status: str, returns: Sequence[float] | None) -> dict[str, Any]:
        """Writes model, curve and summary, and returns the summary."""
        config, steps, seconds = self.config, self.model.num_timesteps, self.seconds()
        save_model(self.folder / "model.zip", config.agent, config.settings, self.model)
        plot_learning_curve(
            self.folder / "learning_curve.png",
            f"{config.agent} on {config.env}, seed {config.seed}",
            self.evaluations.rows(),
            self.episodes.rows(),
        )
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
    torch.set_num_threads(config.threads)
    seed = config.seed if state is None else _derived_seed(config.seed, state["steps"])
    env = make_environments(config.env, config.n_envs, seed)
    try:
        model = get_agent(config.agent).make(env, config.settings, seed=seed, device=config.device)
    except (AssertionError, TypeError, ValueError) as error:  # assertions are how Stable-Baselines3 refuses
        raise ValueError(f"{config.agent} cannot be made with these settings: {error}") from error
    if state is not None:
        load_state_dict(model, state)
    evaluator = Evaluator(config.env, config.seed)

    folder.mkdir(parents=True, exist_ok=True)
    _write_config(folder, config, command)
    (folder / "summary.json").unlink(missing_ok=True)  # that of an earlier, shorter run
    run = _Run(config, folder, model, evaluator, state["seconds"] if state is not None else {})
    print(
        f"training {config.agent} on {config.env}, steps {model.num_timesteps} to {config.steps}, in {folder}",
        file=sys.stderr,
    )
    stop = _Stop()
    with stop.listening():
        try:
            if model.num_timesteps < config.steps:
                run.learn(stop)
                run.save_checkpoint()
            run.evaluations.truncate(model.num_timesteps - 1)
            summary = run.finish("finished", run.evaluate(config.eval_episodes, stop))
        except Interrupted:
            run.save_checkpoint()
            summary = run.finish("interrupted", None)
        finally:
            run.close()
    return summary


def _derived_seed(seed: int, steps: int) -> int:
    """Returns a seed of 31 bits apart from the run's: of evaluations with 0 steps, of a run resumed after some."""
    return int(np.random.SeedSequence([seed, steps]).generate_state(1)[0] >> 1)
