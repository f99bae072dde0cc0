"""A run of a trainee, of one agent or of several: logs, checkpoints, a summary, and an end.

Checkpoints and evaluations are made between an update and the next collection of steps, where nothing is under way;
neither changes what is learned.
"""

from __future__ import annotations

import dataclasses
import errno
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gsrl import checkpoint
from gsrl._progress import show_progress
from gsrl.population import Episode
from gsrl.runs import program
from gsrl.runs.config import Config, write_config, write_json
from gsrl.runs.environments import ENVIRONMENT_FAULTS
from gsrl.runs.errors import DivergenceError, TrainingError, UsageError, counted
from gsrl.runs.files import described
from gsrl.runs.interruption import Interrupted, Stop
from gsrl.runs.logs import NOT_IN_TENSORBOARD, CsvLog, TensorBoardLog, WandbLog
from gsrl.runs.plots import PICTURE, plot_run
from gsrl.runs.pool import Members
from gsrl.runs.scores import interquartile_mean
from gsrl.runs.trainees import Trainee
from gsrl.runs.watching import MOST_AGENTS, Player, record, short_name, shown_as
from gsrl.timing import Stopwatch

__all__ = [
    "ANSWERED",
    "Run",
    "describe_times",
    "folder_of",
    "time_shares",
    "told",
]

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

OF_THE_RUN = ("callbacks", "evaluation", "logging")
"""What the run takes the time of, and a trainee within it, too."""

QUARTILES = {"lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75}
"""Folders of TensorBoard's events that are of all agents."""


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


class Pace:
    """How many steps to ask for at once: half a second's worth, so that one can look and stop in between.

    Args:
        least: The fewest, with which it begins.
    """

    SECONDS = 0.5

    def __init__(self, least: int) -> None:
        self.least = least
        self.steps = least

    def adapt(self, seconds: float) -> None:
        """Learns from the time that so many took."""
        factor = min(2.0, self.SECONDS / max(seconds, 1e-6))  # the first steps, without updates, are no measure
        self.steps = max(self.least, int(self.steps * factor))


def folder_of(folder: Path, seed: int | str) -> Path:
    """Returns the folder of one agent of a run of several; of all, as a pattern, for ``"*"``."""
    return folder / f"seed_{seed}"


class Run:
    """A trainee in training, with its folder.

    Where ``config.seeds`` is None it is one agent, and all about it is in the folder itself; else each agent has a
    folder inside, and rows of the logs have a column ``seed``.

    Args:
        config: What to run.
        folder: Its folder.
        trainee: What is trained, which knows the steps done; it is closed in the end.
        past: What the checkpoint of the newest of earlier processes holds; None: there were none.
        command: The command line, to be recorded.
        obstacle: Why environments cannot be rewound, see :mod:`gsrl.runs.rewind`; None: they can.

    Attributes:
        saved_steps: Steps of the newest checkpoint.

    Raises:
        UsageError: A log is none, or lacks rows of the past; all files are as they were then.
    """

    verb = "training"
    keeps_logs: ClassVar[bool] = True
    """Whether episodes, evaluations, times and what is learned are logged."""

    def __init__(
        self,
        config: Config[Any],
        folder: Path,
        trainee: Trainee,
        past: Mapping[str, Any] | None,
        command: Sequence[str],
        obstacle: str | None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.trainee = trainee
        self.command = command
        self.obstacle = obstacle
        self.resumed = past is not None
        self.alone = config.seeds is None
        self.earlier: Mapping[str, float] = {} if past is None else past["seconds"]
        self.begin = time.perf_counter()
        self.saved_steps = self.steps
        self.next_save = self.begin + config.checkpoint_seconds
        self.stopwatch = Stopwatch()
        self.latest: dict[int, float] = {}
        """Return of the last training episode of each agent."""
        self.last_row: Mapping[str, Any] = {}
        """What was logged last of the first agent."""
        self.logs: dict[str, CsvLog] = {}
        self.tensorboards: dict[str, TensorBoardLog] = {}
        self.wandb: WandbLog | None = None
        self.last_log = self.last_evaluation = 0
        if self.keeps_logs:
            self._open_logs({} if past is None else past.get("rows", {}))  # checkpoints were once written without

    # Logs

    def _open_logs(self, rows: Mapping[str, int]) -> None:
        """Opens the logs where the checkpoint left them, which had so many rows."""
        first, more = ([], []) if self.alone else (["seed"], ["diverged"])
        columns = {
            "progress": (first, []),
            "episodes": ([*first, "return", "length"], []),
            "evaluations": ([*first, "mean_return", "std_return", "episodes"], more),
            # Of evaluations too, but apart: these logs are the same however often a run was interrupted, times are not.
            "times": (["wall_seconds", "train_seconds"], []),
        }
        if self.config.gradient_samples:
            columns["gradients"] = (first, [])
        self.logs = {name: CsvLog(self.folder / f"{name}.csv", *each) for name, each in columns.items()}
        for log in self.logs.values():
            there, expected = log.count_before(self.steps), rows.get(log.path.name, 0)
            if there < expected:
                raise UsageError(
                    f"{log.path} has {there} rows of the first {self.steps} steps, but had {expected} when the "
                    "checkpoint was written; put the file back as it was"
                )
        for name in ("progress", "episodes", "evaluations"):
            self.logs[name].truncate(self.steps)
        self.last_log = self.logs["progress"].last_step()
        self.last_evaluation = self.logs["evaluations"].last_step()
        for name in self.logs.keys() & {"times", "gradients"}:
            self.logs[name].truncate(self.last_evaluation)
        if not self.alone:
            folders = [folder_of(self.folder, seed) for seed in self.trainee.seeds]
            folders += [self.folder / name for name in QUARTILES]
        self.tensorboards = {
            path.name: TensorBoardLog(path, self.steps) for path in ([self.folder] if self.alone else folders)
        }
        if self.config.track is not None:
            self.wandb = WandbLog(self.folder, self.config)
        for seed in self.trainee.seeds:
            self.tensorboards[self._folder(seed).name].write_hyperparameters(self._config_of(seed))

    def _folder(self, seed: int) -> Path:
        """The folder of an agent."""
        return self.folder if self.alone else folder_of(self.folder, seed)

    def _config_of(self, seed: int) -> Config[Any]:
        """What an agent would be run with by itself."""
        return dataclasses.replace(self.config, seed=seed, seeds=None, processes=None, stop_at=None)

    def _append(self, name: str, rows: Sequence[Mapping[str, Any] | None]) -> None:
        """Adds a row for each agent to a log, but for those of whom there is nothing to tell."""
        for seed, row in zip(self.trainee.seeds, rows, strict=True):
            if row is not None:
                self.logs[name].append({"steps": self.steps, **({} if self.alone else {"seed": seed}), **row})

    def _write_events(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds to TensorBoard what is known of each agent, and the quartiles of what is finite in all."""
        events = {self._folder(seed).name: dict(row) for seed, row in zip(self.trainee.seeds, rows, strict=True)}
        if not self.alone:
            common = [name for name in rows[0] if all(math.isfinite(row.get(name, math.nan)) for row in rows)]
            for name, share in QUARTILES.items():
                events[name] = {tag: float(np.quantile([row[tag] for row in rows], share)) for tag in common}
        events = {
            name: {tag: value for tag, value in row.items() if tag not in NOT_IN_TENSORBOARD}
            for name, row in events.items()
        }
        for name, row in events.items():
            self.tensorboards[name].write(row, dict.fromkeys(row, ()), self.steps)
        if self.wandb is not None:
            self.wandb.write({"": next(iter(events.values()))} if self.alone else events, self.steps)

    def log(self) -> None:
        """Adds a row for each agent that learns to the progress log."""
        with self.timed("logging"):
            rows = self.trainee.scalars()
            stopped_at = self.trainee.stopped_at
            learning = [stop is None or stop == self.steps for stop in stopped_at]
            self._append("progress", [row if learns else None for row, learns in zip(rows, learning, strict=True)])
            self.last_log, self.last_row = self.steps, rows[0]
            self._write_events(rows)

    # Training

    @property
    def steps(self) -> int:
        """Steps done, of an agent."""
        return self.trainee.steps

    @property
    def next_evaluation(self) -> int:
        """Steps at which the next evaluation is due."""
        return _next_multiple(self.last_evaluation, self.config.eval_every or -(-self.config.steps // 10))

    @property
    def next_log(self) -> int:
        """Steps at which the next row of the progress log is due."""
        return _next_multiple(self.last_log, -(-self.config.steps // LOG_ROWS)) if self.logs else sys.maxsize

    def learn(self, stop: Stop) -> None:
        """Trains all to the end; raises ``Interrupted`` when it was asked to stop."""
        pace = Pace(self.config.n_envs)
        done, total = self.work()
        with show_progress(total, done, shown=None) as bar:
            while self.steps < self.config.steps and None in self.trainee.stopped_at:
                if self.steps >= self.next_log:
                    self.log()
                stop.check()  # after the log, whose figures of the last update no checkpoint holds
                evaluate = self.steps >= self.next_evaluation
                if evaluate:
                    self.judge(self.evaluate(stop))
                # After the evaluation: what it has stopped stays so.
                if evaluate or self.checkpoint_is_due():
                    self.save_checkpoint()
                if None in self.trainee.stopped_at:
                    self._advance(pace)
                    bar.update(self.work()[0] - bar.n)
                    self._show(bar)
        if self.logs and self.last_log < self.steps:
            self.log()

    def work(self) -> tuple[int, int]:
        """How far the training is, and how far it is to go, for its progress bar."""
        return min(self.steps, self.config.steps), self.config.steps

    def _advance(self, pace: Pace) -> None:
        """Takes some steps, no further than to what is due next."""
        self.stopwatch.lap("callbacks")
        begin, were = self.steps, list(self.trainee.diverged)
        before = self.stopwatch.seconds.get("learning", 0.0)
        episodes = self.trainee.learn(min(self.config.steps, self.next_log, self.next_evaluation, begin + pace.steps))
        self.stopwatch.lap("learning")
        if self.steps - begin >= pace.steps:
            pace.adapt(self.stopwatch.seconds["learning"] - before)
        if self.logs:
            self._tell(episodes, were)
        self.check_finite()

    def _tell(self, episodes: Sequence[Episode], were_diverged: Sequence[bool]) -> None:
        """Records the training episodes that ended, and says who has diverged."""
        for member, steps, episode_return, length in episodes:
            seed = {} if self.alone else {"seed": self.trainee.seeds[member]}
            self.logs["episodes"].append({"steps": steps, **seed, "return": episode_return, "length": length})
            self.latest[member] = episode_return
        for own_seed, stopped_at, was, is_now in zip(
            self.trainee.seeds, self.trainee.stopped_at, were_diverged, self.trainee.diverged, strict=True
        ):
            if is_now and not was:
                tqdm.write(
                    f"seed {own_seed} diverged at {stopped_at} steps: it is frozen, the others go on; try a lower "
                    "--learning-rate or --max-grad-norm",
                    sys.stderr,
                )

    def _show(self, bar: tqdm) -> None:
        """Says beside the progress bar how well they do."""
        if self.alone and self.latest:
            entropy = self.last_row.get("train/entropy")
            text = f"return {self.latest[0]:.4g}"
            bar.set_postfix_str(text if entropy is None else f"{text}, entropy {entropy:.3f}", refresh=False)
        elif self.latest:
            bar.set_postfix_str(f"return (IQM) {interquartile_mean([*self.latest.values()]):.4g}", refresh=False)

    def check_finite(self) -> None:
        """Raises ``DivergenceError`` if there is nothing left to train."""
        reason = self.trainee.why_lost()
        if reason is not None:
            raise DivergenceError(f"training diverged: at {self.steps} steps {reason}; {self.last_good}")

    # Evaluation

    def evaluate(self, stop: Stop, *, final: bool = False) -> NDArray[np.float64]:
        """Evaluates all greedily, and records it; each time in other episodes, the final ones always the same.

        Returns:
            The score of each episode, ``[agents, episodes]``.
        """
        stop.check()
        with self.timed("evaluation"):
            episodes = self.config.eval_episodes if final else self.trainee.curve_episodes
            scores = self.trainee.evaluate(episodes, final=final)
            self._record(stop, final=final)
        self.record_times()
        if self.config.gradient_samples:
            with self.timed("evaluation"):
                figures = self.trainee.gradients(self.config.gradient_samples)
            self._append("gradients", [row or None for row in figures])
            self._write_events([{f"gradients/{name}": value for name, value in row.items()} for row in figures])
        rows = [{"mean_return": float(each.mean()), "std_return": float(each.std())} for each in scores]
        diverged = [{} if self.alone else {"diverged": int(lost)} for lost in self.trainee.diverged]
        count = {"episodes": scores.shape[1]}
        self._append("evaluations", [{**row, **count, **lost} for row, lost in zip(rows, diverged, strict=True)])
        self._write_events([{f"eval/{name}": value for name, value in row.items()} for row in rows])
        self.last_evaluation = self.steps
        tqdm.write(self._describe(scores), sys.stderr)
        return scores

    def _record(self, stop: Stop, *, final: bool) -> None:
        """Records the first agents side by side, if it is time for that."""
        every = self.config.record_every
        if every is None or not (final or self.steps // every > self.last_evaluation // every):
            return
        models = self.trainee.models(MOST_AGENTS)
        path = self.folder / "recordings" / f"{self.steps}.gif"
        try:
            mode = shown_as(self.config)
            with ExitStack() as stack:
                players = [
                    stack.enter_context(closing(Player(model, self._config_of(seed), self._title(seed), mode)))
                    for seed, model in models.items()
                ]
                path.parent.mkdir(exist_ok=True)
                record(players, path, each_step=stop.check)
        except UsageError as error:  # what was learned is worth more
            tqdm.write(f"nothing was recorded: {error}", sys.stderr)

    def _title(self, seed: int) -> str:
        return short_name(self.config.env) if self.alone else f"seed {seed}"

    def _describe(self, scores: NDArray[np.float64]) -> str:
        """Says in a line what an evaluation has found."""
        config, means = self.config, scores.mean(1).tolist()
        is_task, decimals, what = config.card.is_task, config.card.decimals, f"{config.card.unit}s"
        # The last rollout or update may go beyond the steps asked for.
        done = f"{self.steps} of {config.steps} {what}"
        if self.steps > config.steps:
            done = f"{self.steps} {what} ({config.steps} asked for)"
        lost = sum(self.trainee.diverged)
        if is_task and len(means) == 1:
            result = f"{means[0]:.{decimals}f}"
        elif self.alone:
            result = f"{means[0]:.{decimals}f} ± {scores.std():.{decimals}f}"
        else:
            result = f"IQM {interquartile_mean(means):.{decimals}f}, worst {min(means):.{decimals}f} of "
            result += counted(len(means), "seed") + (f", {lost} diverged" if lost else "")
        if is_task:
            return f"{done}: {config.card.score(config.env)} {result}"
        episodes = counted(scores.shape[1], "episode")
        return f"{done}: {result} over {episodes}" if self.alone else f"{done}: {result}, {episodes} each"

    def judge(self, scores: NDArray[np.float64]) -> None:
        """Stops those that an evaluation found to be good enough."""
        if self.config.stop_at is None:
            return
        good = [
            index
            for index, mean in enumerate(scores.mean(1))
            if mean >= self.config.stop_at and self.trainee.stopped_at[index] is None
        ]
        if good:
            assert isinstance(self.trainee, Members)  # Config.check leaves stop_at to agents in lock-step
            self.trainee.stop(good)
            names = ", ".join(str(self.trainee.seeds[index]) for index in good)
            tqdm.write(f"{self.steps} steps: good enough, and stopped: seed {names}", sys.stderr)

    # Checkpoints

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
            DivergenceError: There is nothing left to train; the checkpoint before stays.
        """
        begin = time.perf_counter()
        with self.timed("checkpoints"):
            self.check_finite()
            if not self.folder.is_dir():  # which saving would make again, with nothing else in it
                raise FileNotFoundError(errno.ENOENT, "the folder was removed", str(self.folder))
            checkpoint.save(
                self.folder / "checkpoint.zip", {"steps": self.steps, "seconds": self.seconds(), **self.state()}
            )
        self.saved_steps = self.steps
        end = time.perf_counter()
        self.next_save = end + max(self.config.checkpoint_seconds, SAVING_SHARE * (end - begin))

    def state(self) -> dict[str, Any]:
        """Returns all that resuming needs, beside steps and seconds."""
        return {
            "rows": {log.path.name: log.count_before(self.steps) for log in self.logs.values()},
            "config": dataclasses.asdict(self.config),
            **self.trainee.state(rewindable=self.obstacle is None),
        }

    # Times

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Takes the time of the block."""
        self.stopwatch.lap("callbacks")
        try:
            yield
        finally:
            self.stopwatch.lap(name)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds spent by this process and earlier ones, by kind; of processes of its own, in the mean."""
        work = {kind: value for kind, value in self.trainee.seconds().items() if kind not in OF_THE_RUN}
        now = {"wall": time.perf_counter() - self.begin, **self.stopwatch.seconds, **work}
        return {kind: self.earlier.get(kind, 0.0) + now.get(kind, 0.0) for kind in {**now, **self.earlier}}

    def record_times(self) -> None:
        """Records what the run has taken up to an evaluation, before that is recorded itself."""
        seconds = self.seconds()
        self.logs["times"].append(
            {"steps": self.steps, "wall_seconds": seconds["wall"], "train_seconds": _train_seconds(seconds)}
        )

    # Beginning and end

    @_system_errors_told_once()
    def run(self) -> dict[str, Any]:
        """Trains to the end, or until it is interrupted or fails, and leaves all that is to know of it.

        Returns:
            The summary.

        Raises:
            TrainingError: Training cannot go on.
        """
        folder = self.folder
        try:
            if not self.resumed:
                self.save_checkpoint()
            self.write_config()  # after the checkpoint: a folder with a configuration can be resumed
            (folder / "summary.json").unlink(missing_ok=True)  # that of an earlier, shorter run
            print(self.announce(), file=sys.stderr)
            if self.obstacle is not None:
                print(
                    f"resuming will begin new episodes, so that an interrupted run ends in another result: a second "
                    f"{self.config.env} cannot be brought to where one is ({self.obstacle})",
                    file=sys.stderr,
                )
            stop = Stop()
            stop.on_request = self.trainee.cancel
            with stop.listening():
                return self.complete(stop)
        except Exception as error:
            if (folder / "summary.json").exists():  # only the picture failed
                raise
            with suppress(OSError):  # the disk may be full
                self.write_summary("failed")
            self.check_finite()  # the reason, where it is one, of whatever was raised
            if isinstance(error, (*ENVIRONMENT_FAULTS, OSError)):
                reason = described(error) if isinstance(error, OSError) else error
                if not folder.is_dir():
                    reason = f"{folder} was removed"
                raise TrainingError(f"{self.verb} failed at {self.steps} steps: {reason}; {self.last_good}") from error
            raise
        finally:
            with suppress(OSError):  # rows are written when they are added, so nothing is lost here
                self.close()

    def write_config(self) -> None:
        """Writes what is run, with this session."""
        write_config(self.folder, self.config, self.command, self.steps)

    def announce(self) -> str:
        """Says what begins."""
        config, count = self.config, len(self.trainee.seeds)
        what = f"{config.agent} on {config.env}"
        if config.card.is_task:
            what = f"{config.agent} in {config.env}" + (f", {count} in lock-step" if count > 1 else "")
        elif not self.alone:
            what = f"{count} agents in lock-step, {what}"
        return f"training {what}, steps {self.steps} to {config.steps}, in {self.folder}"

    def complete(self, stop: Stop) -> dict[str, Any]:
        """Trains and evaluates, and returns the summary, also when it was asked to stop."""
        try:
            if self.steps < self.config.steps:
                self.learn(stop)
                self.save_checkpoint()
            for name in self.logs.keys() & {"evaluations", "times", "gradients"}:
                self.logs[name].truncate(self.steps - 1)
            return self._finish("finished", self.evaluate(stop, final=True))
        except Interrupted:
            self.save_checkpoint()
            return self._finish("interrupted")

    def _finish(self, status: str, scores: NDArray[np.float64] | None = None) -> dict[str, Any]:
        """Writes models, summary and curve, and returns the summary."""
        seeds = self.trainee.seeds
        self.trainee.save_models([self._folder(seed) / "model.zip" for seed in seeds])
        if not self.alone:
            for seed in seeds:
                write_config(self._folder(seed), self._config_of(seed), self.command, self.steps)
        summary = self.write_summary(status, scores)
        try:
            plot_run(self.folder, self.config, self.folder / PICTURE, finished=status == "finished")
        except OSError as error:  # what was learned is there
            print(
                f"no picture was drawn: {described(error)}; `{program.typed()} plot {self.folder}` does it",
                file=sys.stderr,
            )
        return summary

    def write_summary(self, status: str, scores: NDArray[np.float64] | None = None) -> dict[str, Any]:
        """Writes the summary and returns it; ``scores`` are those of the final evaluation."""
        config, seconds = self.config, self.seconds()
        train = _train_seconds(seconds)
        summary = {
            "status": status,
            "agent": config.agent,
            "env": config.env,
            **self._summarize(scores),
            "wall_seconds": seconds["wall"],
            "train_seconds": train,
            "evaluation_seconds": seconds.get("evaluation", 0.0),
            "steps_per_second": self.steps * (config.seeds or 1) / train,
        }
        if "update" in seconds:  # the agent has a stopwatch
            summary["time_shares"] = time_shares(seconds)
        write_json(self.folder / "summary.json", summary)
        return summary

    def _summarize(self, scores: NDArray[np.float64] | None) -> dict[str, Any]:
        """Returns figures of all, and of each."""
        trainee = self.trainee
        episodes = 0 if scores is None else scores.shape[1]
        each = [
            {
                "eval_return_mean": None if scores is None else float(scores[index].mean()),
                "eval_return_std": None if scores is None else float(scores[index].std()),
            }
            for index in range(len(trainee.seeds))
        ]
        if self.alone:
            return {"seed": self.config.seed, "steps": self.steps, **each[0], "eval_episodes": episodes}
        means = None if scores is None else scores.mean(1)
        return {
            "seeds": list(trainee.seeds),
            "diverged": [seed for seed, lost in zip(trainee.seeds, trainee.diverged, strict=True) if lost],
            "steps": self.steps,
            "eval_return_iqm": None if means is None else interquartile_mean(means),
            "eval_return_mean": None if means is None else float(means.mean()),
            "eval_return_worst": None if means is None else float(means.min()),
            "eval_episodes": episodes,
            "members": [
                {"seed": seed, **row, "stopped_at": trainee.stopped_at[i], "diverged": trainee.diverged[i]}
                for i, (seed, row) in enumerate(zip(trainee.seeds, each, strict=True))
            ],
        }

    def close(self) -> None:
        """Closes logs, and what was trained."""
        for log in self.logs.values():
            log.close()
        for tensorboard in self.tensorboards.values():
            tensorboard.close()
        if self.wandb is not None:
            self.wandb.close()
        self.trainee.close()


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
