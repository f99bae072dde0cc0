"""What every training has, of one agent or of many in lock-step: logs, checkpoints, a summary, and an end.

Checkpoints and evaluations are made between an update and the next collection of steps, where nothing is under way;
neither changes what is learned.
"""

from __future__ import annotations

import dataclasses
import errno
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from agents.common import UsageError
from agents.config import Config, write_config, write_json
from agents.environments import ENVIRONMENT_FAULTS
from agents.files import described
from agents.interruption import Interrupted, Stop
from agents.logs import CsvLog
from agents.plots import PICTURE, plot_run
from gsrl import checkpoint
from gsrl._random import environment_seed
from gsrl.timing import Stopwatch

__all__ = [
    "ANSWERED",
    "CURVE_EPISODES",
    "EVALUATION_ENVS",
    "DivergenceError",
    "Training",
    "TrainingError",
    "carry_out",
    "describe_steps",
    "describe_times",
    "evaluation_seed",
    "set_threads",
    "time_shares",
    "told",
]

CURVE_EPISODES = 5
"""Episodes of each evaluation along the way."""
EVALUATION_ENVS = 5
"""Environments that evaluations step together."""
LOG_ROWS = 100
"""Rows that a run adds to its progress log, where updates are as frequent."""
SAVING_SHARE = 20
"""How many times longer than saving a checkpoint takes, at least, to wait for the next."""

TIMES = {
    "environment": ("environment",),
    "acting": ("acting",),
    "replay": ("replay",),
    "update": ("update",),
    "evaluation": ("evaluation",),
    "logging": ("logging", "callbacks"),
    "checkpoints": ("checkpoints",),
}
"""What the time goes to, and what a stopwatch calls it. The callbacks of a run do nothing but log."""

Returns = TypeVar("Returns")


class TrainingError(RuntimeError):
    """Training cannot go on, for a reason that is not this project's; the last checkpoint is good."""


class DivergenceError(TrainingError):
    """Parameters are no longer finite numbers: what the run learned is lost, but for its last checkpoint."""


ANSWERED = (UsageError, checkpoint.CheckpointError, TrainingError, *ENVIRONMENT_FAULTS, OSError)
"""What a command answers by its message alone: what the user, a file, the environment or the machine is to blame for.
All other exceptions are faults of this project's, and show where they arose."""


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turns what the system says of a folder, before its training has begun, into one sentence.

    Raises:
        TrainingError: The folder cannot be written to.
    """
    try:
        yield
    except OSError as error:
        left = "its checkpoint is as it was" if (folder / "checkpoint.zip").is_file() else "it holds no checkpoint"
        raise TrainingError(f"{folder} cannot be written to: {described(error)}; {left}") from error


class Training(ABC, Generic[Returns]):
    """A training under way, in its folder.

    Args:
        config: What to run.
        folder: Its folder.
        steps: Steps done by earlier processes.
        past: What the checkpoint of the newest of them holds; None: there were none.
        seeded: Whether rows of the logs have a column ``seed``, and those of evaluations say whether it had diverged.

    Attributes:
        saved_steps: Steps of the newest checkpoint.

    Raises:
        UsageError: A log is none, or lacks rows of the past; all files are as they were then.
    """

    def __init__(
        self, config: Config[Any], folder: Path, steps: int, past: Mapping[str, Any] | None, *, seeded: bool = False
    ) -> None:
        self.config = config
        self.folder = folder
        self.earlier: Mapping[str, float] = {} if past is None else past["seconds"]
        self.begin = time.perf_counter()
        self.saved_steps = steps
        self.next_save = time.perf_counter() + config.checkpoint_seconds
        first = ["seed"] if seeded else []
        self.progress = CsvLog(folder / "progress.csv", first)
        self.episodes = CsvLog(folder / "episodes.csv", [*first, "return", "length"])
        more = ["diverged"] if seeded else []
        self.evaluations = CsvLog(folder / "evaluations.csv", [*first, "mean_return", "std_return", "episodes"], more)
        # Of evaluations too, but apart: these logs are the same however often a run was interrupted, times are not.
        self.times = CsvLog(folder / "times.csv", ["wall_seconds", "train_seconds"])
        self.gradients = CsvLog(folder / "gradients.csv", first) if config.gradient_samples else None
        self._check_past({} if past is None else past.get("rows", {}))  # checkpoints were once written without
        for log in (self.progress, self.episodes, self.evaluations):
            log.truncate(steps)
        self.last_evaluation = self.evaluations.last_step()
        for log in (log for log in (self.times, self.gradients) if log is not None):
            log.truncate(self.last_evaluation)
        self.stopwatch.start()

    def _logs(self) -> dict[str, CsvLog]:
        """The logs, by the names of their files."""
        logs = (self.progress, self.episodes, self.evaluations, self.times, self.gradients)
        return {log.path.name: log for log in logs if log is not None}

    def _check_past(self, rows: Mapping[str, int]) -> None:
        """Raises ``UsageError`` if a log has fewer rows than when the checkpoint was written."""
        for name, log in self._logs().items():
            there, expected = log.count_before(self.saved_steps), rows.get(name, 0)
            if there < expected:
                raise UsageError(
                    f"{log.path} has {there} rows of the first {self.saved_steps} steps, but had {expected} when the "
                    "checkpoint was written; put the file back as it was"
                )

    # What there is to train

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps done, of an agent."""

    @property
    @abstractmethod
    def last_log(self) -> int:
        """Steps of the newest row of the progress log."""

    @property
    @abstractmethod
    def stopwatch(self) -> Stopwatch:
        """What the time of this process goes to."""

    @abstractmethod
    def learn(self, stop: Stop) -> None:
        """Trains to the end; raises ``Interrupted`` when it was asked to stop."""

    @abstractmethod
    def evaluate(self, episodes: int, stop: Stop, *, final: bool = False) -> Returns:
        """Evaluates greedily, and records it; each time in other episodes, the final ones always the same."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Returns all that resuming needs, beside steps and seconds."""

    @abstractmethod
    def check_finite(self) -> None:
        """Raises ``DivergenceError`` if there is nothing left to train."""

    @abstractmethod
    def summarize(self, returns: Returns | None) -> dict[str, Any]:
        """Returns what is particular in the summary; ``returns`` are those of the final evaluation."""

    @abstractmethod
    def save_models(self) -> None:
        """Saves the agents as they are."""

    # What is done about it

    @property
    def next_evaluation(self) -> int:
        """Steps at which the next evaluation is due."""
        return _next_multiple(self.last_evaluation, self.config.eval_every or -(-self.config.steps // 10))

    @property
    def next_log(self) -> int:
        """Steps at which the next row of the progress log is due."""
        return _next_multiple(self.last_log, -(-self.config.steps // LOG_ROWS))

    def complete(self, stop: Stop) -> dict[str, Any]:
        """Trains and evaluates, and returns the summary, also when it was asked to stop."""
        try:
            if self.steps < self.config.steps:
                self.learn(stop)
                self.save_checkpoint()
            for log in (log for log in (self.evaluations, self.times, self.gradients) if log is not None):
                log.truncate(self.steps - 1)
            return self._finish("finished", self.evaluate(self.config.eval_episodes, stop, final=True))
        except Interrupted:
            self.save_checkpoint()
            return self._finish("interrupted")

    @property
    def last_good(self) -> str:
        """What is left if the training ends here, in words."""
        if not (self.folder / "checkpoint.zip").exists():
            return f"there is no checkpoint in {self.folder}"
        return f"the checkpoint of {self.saved_steps} steps in {self.folder} is the last good one"

    def checkpoint_is_due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return time.perf_counter() >= self.next_save

    def save_checkpoint(self) -> None:
        """Saves all that resuming needs.

        Raises:
            DivergenceError: Parameters are not finite; the checkpoint before stays.
        """
        begin = time.perf_counter()
        with self.timed("checkpoints"):
            self.check_finite()
            if not self.folder.is_dir():  # which saving would make again, with nothing else in it
                raise FileNotFoundError(errno.ENOENT, "the folder was removed", str(self.folder))
            tree = {
                "steps": self.steps,
                "seconds": self.seconds(),
                "rows": {name: log.count_before(self.steps) for name, log in self._logs().items()},
                "config": dataclasses.asdict(self.config),
                **self.state(),
            }
            checkpoint.save(self.folder / "checkpoint.zip", tree)
        self.saved_steps = self.steps
        end = time.perf_counter()
        self.next_save = end + max(self.config.checkpoint_seconds, SAVING_SHARE * (end - begin))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Takes the time of the block."""
        self.stopwatch.lap("callbacks")
        try:
            yield
        finally:
            self.stopwatch.lap(name)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds spent by this process and earlier ones, by kind."""
        now = {"wall": time.perf_counter() - self.begin, **self.stopwatch.seconds}
        return {kind: self.earlier.get(kind, 0.0) + now.get(kind, 0.0) for kind in [*now, *self.earlier]}

    def record_times(self) -> None:
        """Records what the run has taken up to an evaluation, before that is recorded itself."""
        seconds = self.seconds()
        self.times.append(
            {"steps": self.steps, "wall_seconds": seconds["wall"], "train_seconds": _train_seconds(seconds)}
        )

    def _finish(self, status: str, returns: Returns | None = None) -> dict[str, Any]:
        """Writes models, summary and curve, and returns the summary."""
        self.save_models()
        summary = self.write_summary(status, returns)
        try:
            plot_run(self.folder, self.config, self.folder / PICTURE, finished=status == "finished")
        except OSError as error:  # what was learned is there
            print(
                f"no picture was drawn: {described(error)}; `run_agent.py plot {self.folder}` does it", file=sys.stderr
            )
        return summary

    def write_summary(self, status: str, returns: Returns | None = None) -> dict[str, Any]:
        """Writes the summary and returns it."""
        config, seconds = self.config, self.seconds()
        train = _train_seconds(seconds)
        summary = {
            "status": status,
            "agent": config.agent,
            "env": config.env,
            **self.summarize(returns),
            "wall_seconds": seconds["wall"],
            "train_seconds": train,
            "evaluation_seconds": seconds.get("evaluation", 0.0),
            "steps_per_second": self.steps * (config.seeds or 1) / train,
        }
        if "update" in seconds:  # the agent has a stopwatch
            summary["time_shares"] = time_shares(seconds)
        write_json(self.folder / "summary.json", summary)
        return summary

    def close(self) -> None:
        """Closes the logs."""
        for log in self._logs().values():
            log.close()


@contextmanager
def _system_errors_told_once() -> Iterator[None]:
    """Keeps the thread that writes TensorBoard's events from showing what it raises in the main one as well."""
    previous = threading.excepthook

    def show(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, OSError):
            previous(arguments)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = previous


@_system_errors_told_once()
def carry_out(
    training: Training[Any], command: Sequence[str], obstacle: str | None, *, what: str, resumed: bool
) -> dict[str, Any]:
    """Trains to the end, or until it is interrupted or fails, and leaves all that is to know of it.

    Args:
        training: What is to be trained; it is closed.
        command: The command line, to be recorded.
        obstacle: Why its environments cannot be rewound, see :mod:`agents.rewind`; None: they can.
        what: What it trains, in words.
        resumed: Whether its folder holds the run already.

    Returns:
        The summary.

    Raises:
        TrainingError: Training cannot go on.
    """
    config, folder = training.config, training.folder
    try:
        if not resumed:
            training.save_checkpoint()
        # After the checkpoint: a folder with a configuration is a run, and can be resumed.
        write_config(folder, config, command, training.steps)
        (folder / "summary.json").unlink(missing_ok=True)  # that of an earlier, shorter run
        print(f"training {what}, steps {training.steps} to {config.steps}, in {folder}", file=sys.stderr)
        if obstacle is not None:
            print(
                f"resuming will begin new episodes, so that an interrupted run ends in another result: a second "
                f"{config.env} cannot be brought to where one is ({obstacle})",
                file=sys.stderr,
            )
        stop = Stop()
        with stop.listening():
            return training.complete(stop)
    except Exception as error:
        if (folder / "summary.json").exists():  # only the picture failed
            raise
        with suppress(OSError):  # the disk may be full
            training.write_summary("failed")
        training.check_finite()  # the reason, where it is one, of whatever was raised
        if isinstance(error, (*ENVIRONMENT_FAULTS, OSError)):
            reason = described(error) if isinstance(error, OSError) else error
            if not folder.is_dir():
                reason = f"{folder} was removed"
            raise TrainingError(f"training failed at {training.steps} steps: {reason}; {training.last_good}") from error
        raise
    finally:
        with suppress(OSError):  # rows are written when they are added, so nothing is lost here
            training.close()


def describe_steps(steps: int, total: int, unit: str = "steps") -> str:
    """Says how many steps of a run are done; the last rollout or update may go beyond those asked for."""
    return f"{steps} of {total} {unit}" if steps <= total else f"{steps} {unit} ({total} asked for)"


def set_threads(threads: int) -> None:
    """Sets torch up for small networks."""
    torch.set_num_threads(threads)
    # Adam's moments of units that stopped learning shrink to denormal numbers, which are several times slower.
    torch.set_flush_denormal(True)


def evaluation_seed(seed: int, steps: int | None) -> int:
    """Returns the seed of an evaluation of an agent after some steps; None: of its final one."""
    return environment_seed(seed, "final evaluation") if steps is None else environment_seed(seed, "evaluation", steps)


def describe_times(shares: Mapping[str, float]) -> str:
    """Says in a line what the time of a run went to."""
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def time_shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the share of each kind of work in the time of all, ``wall``; what is left is ``other``."""
    shares = {name: sum(seconds.get(kind, 0.0) for kind in kinds) / seconds["wall"] for name, kinds in TIMES.items()}
    return {**shares, "other": max(0.0, 1.0 - sum(shares.values()))}


def _train_seconds(seconds: Mapping[str, float]) -> float:
    """The time of all but evaluations and checkpoints."""
    return seconds["wall"] - seconds.get("evaluation", 0.0) - seconds.get("checkpoints", 0.0)


def _next_multiple(steps: int, every: int) -> int:
    return (steps // every + 1) * every
