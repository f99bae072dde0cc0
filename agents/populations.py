"""A run of several agents in lock-step: one environment, many seeds.

The folder holds what that of one agent does, see :mod:`agents.runs`, with these differences. ``evaluations.csv``,
``episodes.csv`` and ``progress.csv`` have a column ``seed``. TensorBoard's events are in a folder for each agent, such
as ``seed_3``, and in ``median``, ``lower_quartile`` and ``upper_quartile``, with the same names in each, so that it
lays them over one another. ``seed_3`` also holds ``model.zip``, and a ``config.json`` for ``run_agent.py eval``. The
picture shows all agents; ``checkpoint.zip`` holds them all.

A run that is killed and resumed ends as one that was not, bit for bit where it has as many processes.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from agents.common import counted
from agents.config import Config, write_config
from agents.interruption import Stop
from agents.lockstep import Member, Members, number_of_processes
from agents.logs import CsvLog, TensorBoardLog
from agents.rewind import why_not_rewindable
from agents.scores import interquartile_mean
from agents.training import CURVE_EPISODES, DivergenceError, Training, carry_out, describe_steps
from gsrl import checkpoint
from gsrl._progress import show_progress
from gsrl.masking import adapt
from gsrl.timing import Stopwatch

__all__ = ["Pace", "PopulationRun", "folder_of", "train"]

QUARTILES = {"lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75}
"""Folders of TensorBoard's events that are of all agents."""


class Pace:
    """How many steps to ask for at once: half a second's worth, so that one can look and stop in between."""

    SECONDS = 0.5

    def __init__(self, n_envs: int) -> None:
        self.least = n_envs
        self.steps = n_envs

    def took(self, seconds: float) -> None:
        """Learns from the time that so many took."""
        factor = min(2.0, self.SECONDS / max(seconds, 1e-6))  # the first steps, without updates, are no measure
        self.steps = max(self.least, int(self.steps * factor))


def folder_of(folder: Path, seed: int | str) -> Path:
    """Returns the folder of one agent of a run; of all, as a pattern, for ``"*"``."""
    return folder / f"seed_{seed}"


def train(config: Config[Any], folder: Path, command: Sequence[str], state: Mapping[str, Any] | None) -> dict[str, Any]:
    """Trains agents in lock-step.

    Args:
        config: What to run, with ``seeds``; it has been checked.
        folder: Folder of the run.
        command: The command line, to be recorded.
        state: What its checkpoint holds; None: it is new.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        UsageError: The configuration cannot be used; nothing was written.
        TrainingError: Training cannot go on.
        gsrl.checkpoint.CheckpointError: The checkpoint does not fit the configuration.
    """
    assert config.seeds is not None  # otherwise it is no population
    seeds = range(config.seed, config.seed + config.seeds)
    if config.processes is None:  # kept in the configuration: when resumed, members have the same company
        config = dataclasses.replace(config, processes=number_of_processes(len(seeds), config.device))
    env_id = config.env
    obstacle = why_not_rewindable(lambda: adapt(gym.make(env_id)))
    members = Members(config, [Member(seed, config.settings) for seed in seeds])
    try:
        if state is not None:
            _restore(members, state, folder / "checkpoint.zip", config.env)
        run = PopulationRun(config, folder, members, state, command, rewindable=obstacle is None)
    except BaseException:
        members.close()
        raise
    what = f"{len(seeds)} agents in lock-step, {config.agent} on {config.env}"
    return carry_out(run, command, obstacle, what=what, resumed=state is not None)


def _restore(members: Members, state: Mapping[str, Any], path: Path, env_id: str) -> None:
    with checkpoint.fitting(path):
        checkpoint.check_entries(state, dict.fromkeys(("steps", "seconds", "members")))
        obstacle = members.load_state(state["members"])
    if obstacle is not None:
        print(f"new episodes begin, as {env_id} could not be brought to where it was: {obstacle}", file=sys.stderr)


class PopulationRun(Training[NDArray[np.float64]]):
    """Agents in training with their logs.

    Args:
        config: What to run.
        folder: Its folder.
        members: The agents, which know the steps done.
        past: What the checkpoint of earlier processes holds; None: there were none.
        command: The command line, to be recorded beside each model.
        rewindable: Whether checkpoints can hold where the environments are.
    """

    def __init__(
        self,
        config: Config[Any],
        folder: Path,
        members: Members,
        past: Mapping[str, Any] | None,
        command: Sequence[str],
        *,
        rewindable: bool,
    ) -> None:
        self.members = members
        self.seeds = [member.seed for member in members.members]
        self.command = command
        self.rewindable = rewindable
        self._stopwatch = Stopwatch()
        super().__init__(config, folder, members.steps, past, seeded=True)
        self._last_log = self.progress.last_step()
        self.latest: dict[int, float] = {}
        """Return of the last training episode of each agent."""
        names = [folder_of(folder, seed) for seed in self.seeds] + [folder / name for name in QUARTILES]
        self.tensorboards = {path.name: TensorBoardLog(path, members.steps) for path in names}
        for seed in self.seeds:
            self.tensorboards[folder_of(folder, seed).name].write_hyperparameters(self._alone(seed))

    @property
    def steps(self) -> int:
        """Steps done, of each."""
        return self.members.steps

    @property
    def last_log(self) -> int:
        """Steps of the newest row of the progress log."""
        return self._last_log

    @property
    def stopwatch(self) -> Stopwatch:
        """What the time of this process goes to; its processes have their own."""
        return self._stopwatch

    def seconds(self) -> dict[str, float]:
        """Returns the seconds spent by this process and earlier ones, by kind; those of the work of its processes."""
        seconds = super().seconds()
        for kind, value in self.members.seconds().items():
            if kind not in ("callbacks", "evaluation"):  # which are timed here
                seconds[kind] = seconds.get(kind, 0.0) + value
        return seconds

    def learn(self, stop: Stop) -> None:
        """Trains all to the end; raises ``Interrupted`` when it was asked to stop."""
        stop.on_request = self.members.cancel
        pace = Pace(self.config.n_envs)
        with show_progress(self.config.steps, self.steps, shown=None) as bar:
            while self.steps < self.config.steps and self.members.learning:
                if self.steps >= self.next_log:
                    self.log()
                stop.check()  # after the log, whose figures of the last update no checkpoint holds
                evaluate = self.steps >= self.next_evaluation
                if evaluate:
                    self._stop_those_that_are_good_enough(self.evaluate(CURVE_EPISODES, stop))
                # After the evaluation: what it has stopped stays so.
                if evaluate or self.checkpoint_is_due():
                    self.save_checkpoint()
                if self.members.learning:
                    self._advance(pace)
                    bar.update(min(self.steps, self.config.steps) - bar.n)
                    self._show(bar)
        if self.last_log < self.steps:
            self.log()

    def _advance(self, pace: Pace) -> None:
        """Takes some steps, no further than to what is due next."""
        self.stopwatch.lap("callbacks")
        begin = self.steps, [*self.members.diverged]
        before = self.stopwatch.seconds.get("learning", 0.0)
        upto = min(self.config.steps, self.next_log, self.next_evaluation, self.steps + pace.steps)
        episodes = self.members.learn(upto)
        self.stopwatch.lap("learning")
        if self.steps - begin[0] >= pace.steps:
            pace.took(self.stopwatch.seconds["learning"] - before)
        for member, steps, episode_return, length in episodes:
            row = {"steps": steps, "seed": self.seeds[member], "return": episode_return, "length": length}
            self.episodes.append(row)
            self.latest[member] = episode_return
        for member, (was, is_now) in enumerate(zip(begin[1], self.members.diverged, strict=True)):
            if is_now and not was:
                tqdm.write(
                    f"seed {self.seeds[member]} diverged at {self.members.stopped_at[member]} steps: it is frozen, the "
                    "others go on; try a lower --learning-rate or --max-grad-norm",
                    sys.stderr,
                )
        self.check_finite()

    def _show(self, bar: tqdm) -> None:
        if self.latest:
            bar.set_postfix_str(f"return (IQM) {interquartile_mean([*self.latest.values()]):.4g}", refresh=False)

    def _stop_those_that_are_good_enough(self, returns: NDArray[np.float64]) -> None:
        if self.config.stop_at is None:
            return
        good = [
            index
            for index, mean in enumerate(returns.mean(1))
            if mean >= self.config.stop_at and self.members.stopped_at[index] is None
        ]
        if good:
            self.members.stop(good)
            names = ", ".join(str(self.seeds[index]) for index in good)
            tqdm.write(f"{self.steps} steps: good enough, and stopped: seed {names}", sys.stderr)

    def log(self) -> None:
        """Adds a row for each agent that learns to the progress log."""
        with self.timed("logging"):
            scalars = self.members.scalars()
            for seed, row, stopped_at in zip(self.seeds, scalars, self.members.stopped_at, strict=True):
                if stopped_at is None or stopped_at == self.steps:
                    self.progress.append({"steps": self.steps, "seed": seed, **row})
            self._last_log = self.steps
            self._write_events(scalars)

    def _write_events(self, scalars: Sequence[Mapping[str, float]]) -> None:
        """Adds to TensorBoard what is known of each agent, and the quartiles of what is finite in all."""
        common = [name for name in scalars[0] if all(math.isfinite(row.get(name, math.nan)) for row in scalars)]
        for seed, row in zip(self.seeds, scalars, strict=True):
            self._write(f"seed_{seed}", row)
        for name, share in QUARTILES.items():
            self._write(name, {tag: float(np.quantile([row[tag] for row in scalars], share)) for tag in common})

    def _write(self, name: str, row: Mapping[str, float]) -> None:
        row = {tag: value for tag, value in row.items() if tag != "train/n_updates"}
        self.tensorboards[name].write(row, dict.fromkeys(row, ()), self.steps)

    def evaluate(self, episodes: int, stop: Stop, *, final: bool = False) -> NDArray[np.float64]:
        """Evaluates all greedily, and records it: returns ``[agents, episodes]``."""
        stop.on_request = self.members.cancel
        stop.check()
        with self.timed("evaluation"):
            returns = self.members.evaluate(episodes, final=final)
        means, deviations = returns.mean(1).tolist(), returns.std(1).tolist()
        rows = [{"mean_return": mean, "std_return": std} for mean, std in zip(means, deviations, strict=True)]
        self.record_times()
        if self.gradients is not None:
            self._measure_gradients(self.gradients)
        self._record(rows, episodes)
        seeds = counted(len(means), "seed") + self._lost()
        result = f"IQM {interquartile_mean(means):.1f}, worst {min(means):.1f} of {seeds}"
        steps = describe_steps(self.steps, self.config.steps)
        tqdm.write(f"{steps}: {result}, {counted(episodes, 'episode')} each", sys.stderr)
        return returns

    def _record(self, rows: Sequence[Mapping[str, float]], episodes: int) -> None:
        """Adds an evaluation to the logs, with a row for each agent that says whether it had diverged."""
        for seed, row, diverged in zip(self.seeds, rows, self.members.diverged, strict=True):
            marked = {**row, "episodes": episodes, "diverged": int(diverged)}
            self.evaluations.append({"steps": self.steps, "seed": seed, **marked})
        self._write_events([{f"eval/{name}": value for name, value in row.items()} for row in rows])
        self.last_evaluation = self.steps

    def _lost(self) -> str:
        """Says how many have diverged, if any."""
        return f", {sum(self.members.diverged)} diverged" if any(self.members.diverged) else ""

    def _measure_gradients(self, log: CsvLog) -> None:
        with self.timed("evaluation"):
            figures = self.members.gradients(self.config.gradient_samples)
        for seed, row in zip(self.seeds, figures, strict=True):
            if row:
                log.append({"steps": self.steps, "seed": seed, **row})
        self._write_events([{f"gradients/{name}": value for name, value in row.items()} for row in figures])

    def state(self) -> dict[str, Any]:
        """Returns all that resuming needs, beside steps and seconds."""
        return {"members": self.members.state(rewindable=self.rewindable)}

    def check_finite(self) -> None:
        """Raises ``DivergenceError`` if none is left that learns."""
        if all(self.members.diverged):
            raise DivergenceError(
                f"training diverged: at {self.steps} steps the loss of no seed is finite; {self.last_good}"
            )

    def summarize(self, returns: NDArray[np.float64] | None) -> dict[str, Any]:
        """Returns what is particular in the summary: figures of all, and of each."""
        means = None if returns is None else returns.mean(1)
        return {
            "seeds": self.seeds,
            "diverged": [seed for seed, lost in zip(self.seeds, self.members.diverged, strict=True) if lost],
            "steps": self.steps,
            "eval_return_iqm": None if means is None else interquartile_mean(means),
            "eval_return_mean": None if means is None else float(means.mean()),
            "eval_return_worst": None if means is None else float(means.min()),
            "eval_episodes": 0 if returns is None else returns.shape[1],
            "members": [
                {
                    "seed": seed,
                    "eval_return_mean": None if returns is None else float(returns[index].mean()),
                    "eval_return_std": None if returns is None else float(returns[index].std()),
                    "stopped_at": self.members.stopped_at[index],
                    "diverged": self.members.diverged[index],
                }
                for index, seed in enumerate(self.seeds)
            ],
        }

    def save_models(self) -> None:
        """Saves each agent with what it would be run with by itself."""
        folders = [folder_of(self.folder, seed) for seed in self.seeds]
        self.members.save_models([folder / "model.zip" for folder in folders])
        for seed, folder in zip(self.seeds, folders, strict=True):
            write_config(folder, self._alone(seed), self.command, self.steps)

    def _alone(self, seed: int) -> Config[Any]:
        """What an agent would be run with by itself."""
        return dataclasses.replace(self.config, seed=seed, seeds=None, processes=None, stop_at=None)

    def close(self) -> None:
        """Closes logs and agents."""
        super().close()
        for tensorboard in self.tensorboards.values():
            tensorboard.close()
        self.members.close()
