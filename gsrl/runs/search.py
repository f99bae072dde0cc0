"""A search over settings by successive halving, in lock-step.

Every combination of the grid's values trains for a while, the best share of them goes on, and so forth: the last rung
of this ladder has the whole number of steps. The winner is trained anew on fresh seeds, as a run of its own. Sources:
Karnin et al., "Almost Optimal Exploration in Multi-Armed Bandits", 2013; Jamieson & Talwalkar, "Non-stochastic Best Arm
Identification and Hyperparameter Optimization", 2016.

The folder holds ``search.json`` (what was searched), ``results.csv`` and ``results.md`` (every setting, its score at
each rung that it reached, its rank), ``search.png``, ``summary.json``, ``checkpoint.zip`` (what resuming needs), and
``confirmation``, a run in lock-step of the winner, see :mod:`gsrl.population`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gsrl import checkpoint
from gsrl._files import csv_text
from gsrl.algorithms.discrete_sac import kind_of_entropy
from gsrl.masking import adapt
from gsrl.population import VECTORS
from gsrl.runs import program, session
from gsrl.runs.cards import defaults, in_lockstep
from gsrl.runs.config import (
    Config,
    check_files,
    check_unchanged,
    describe_session,
    is_finished,
    is_run,
    option,
    parse_config,
    read_json,
    write_json,
)
from gsrl.runs.curve import plot_search
from gsrl.runs.environments import make_plain
from gsrl.runs.errors import DivergenceError, UsageError, counted, nearest
from gsrl.runs.files import occupied, write_text
from gsrl.runs.interruption import Interrupted, Stop
from gsrl.runs.pool import Member, Members, number_of_processes
from gsrl.runs.rewind import why_not_rewindable
from gsrl.runs.run import Run, time_shares, told
from gsrl.runs.settings import read_value, type_name
from gsrl.runs.storage import check_sizes

__all__ = ["PRESET", "Ladder", "Result", "confirmation_folder", "find", "parse_grid", "resume", "train_command"]

PRESET: dict[str, tuple[Any, ...]] = {
    "learning_rate": (3e-4, 1e-3, 2e-3, 4e-3),
    "n_steps": (1, 5, 10, 20),
}
"""The grid that is searched unless another is given, beside what decides about the entropy."""

ENTROPIES: dict[str, tuple[Any, ...]] = {"target_entropy_ratio": (0.05, 0.2)}
"""What that is where the entropy coefficient is learned."""

ENTROPY_COEFFICIENTS: dict[str, tuple[Any, ...]] = {"ent_coef": (0.1, 0.4)}
"""What that is where it is fixed."""

RELATIVE_COEFFICIENTS: dict[str, tuple[Any, ...]] = {"ent_coef": ("relative_0.4", "relative_0.8")}
"""What that is where it is in units of what choices differ by."""

ON_POLICY_PRESET: dict[str, tuple[Any, ...]] = {
    "learning_rate": (1e-3, 3e-3, 1e-2, 3e-2),
    "n_episodes": (4, 8, 16, 32),
    "ent_coef": (0.0, 0.01),
}
"""The grid of agents that learn from whole episodes."""

Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Ladder:
    """How the search proceeds."""

    seeds_per_setting: int = 1
    """Agents of each setting, with the seeds from --seed on; their mean is its score."""
    rungs: int = 3
    """How often settings are compared, at steps that grow by 1 / keep up to --steps."""
    keep: float = 0.5
    """Share of the settings that goes on after each rung but the last."""
    confirm: int = 10
    """Fresh seeds that the best setting is trained on in the end; 0 for none."""

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            UsageError: One cannot be used; the message names its option.
        """
        for name, least in (("seeds_per_setting", 1), ("rungs", 1), ("confirm", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{option(name)} must be at least {least}, but got {getattr(self, name)}")
        if not 0 < self.keep < 1:
            raise UsageError(f"--keep must be above 0 and below 1, but got {self.keep}")

    def steps(self, steps: int) -> list[int]:
        """Steps of each rung, the last one ``steps``."""
        return [max(1, round(steps * self.keep**left)) for left in reversed(range(self.rungs))]


@dataclass
class Result:
    """A setting, and how good it is."""

    setting: dict[str, Any]
    """Its values, by the names of the grid."""
    scores: list[float]
    """At the rungs that it has reached; of one that diverged, at those before."""
    diverged_at: int | None = None
    """Steps after which the loss of one of its agents was no longer finite; None: it did not diverge."""

    def order(self) -> tuple[Any, ...]:
        """What results are sorted by, the best last: rungs, then the latest score, then those before it.

        Those that diverged come before all others, by how far they got.
        """
        return (self.diverged_at is None, len(self.scores), self.diverged_at or 0, self.scores[::-1])


def parse_grid(entries: Sequence[str], settings: Any) -> dict[str, tuple[Any, ...]]:
    """Reads a grid from the command line.

    Args:
        entries: Such as ``"learning_rate=3e-4,1e-3"``; none: the preset one, see :data:`PRESET`.
        settings: The agent's ``Settings``, for what is not in the grid.

    Raises:
        UsageError: A name is none that may differ between agents in lock-step, or has no effect with these settings; or
            a value is none of its.
    """
    types: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(settings)}
    names = [name for name in (*VECTORS, "final_ent_coef") if name in types]  # the latter is part of ent_coef
    grid: dict[str, tuple[Any, ...]] = {}
    for entry in entries:
        name, equals, values = entry.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--grid takes name=value,value, but got {entry!r}")
        if name not in names:
            known = f"it is the same for all; what may differ is {', '.join(names)}"
            raise UsageError(f"--grid cannot vary {name!r}: {known if name in types else nearest(name, names)}")
        if name in grid:
            raise UsageError(f"--grid names {name} twice")
        grid[name] = tuple(_parse(name, value.strip(), types[name]) for value in values.split(","))
        if len(set(grid[name])) < len(grid[name]):
            raise UsageError(f"--grid has a value of {name} twice: {values}")
    if not grid and "n_episodes" in types:
        return ON_POLICY_PRESET
    entropies = {"auto": ENTROPIES, "relative": RELATIVE_COEFFICIENTS, "fixed": ENTROPY_COEFFICIENTS}
    kind = kind_of_entropy(grid.get("ent_coef", (getattr(settings, "ent_coef", None),))[0])
    if "target_entropy_ratio" in grid and kind != "auto":
        raise UsageError(
            f"--grid target_entropy_ratio has no effect where --ent-coef is {settings.ent_coef}: add --ent-coef auto, "
            "or vary ent_coef"
        )
    return grid or PRESET | entropies.get(kind, ENTROPY_COEFFICIENTS)


def _parse(name: str, text: str, kind: Any) -> Any:
    try:
        return read_value(text, kind)
    except ValueError:
        raise UsageError(f"--grid needs values of {name} that are {type_name(kind)}, but got {text!r}") from None


def confirmation_folder(folder: Path) -> Path:
    """Returns the folder of the run that confirms the winner."""
    return folder / "confirmation"


def train_command(config: Config[Any], setting: Mapping[str, Any]) -> list[str]:
    """Returns the options of ``gsrl train`` that give an agent this setting."""
    default = defaults(config.agent, config.env)
    chosen = dataclasses.replace(config.settings, **setting)
    ours = {name: getattr(chosen, name) for name in (field.name for field in dataclasses.fields(chosen))}
    options = {name: value for name, value in ours.items() if value != getattr(default.settings, name)}
    if config.n_envs != default.n_envs:
        options["n_envs"] = config.n_envs
    command = ["--agent", config.agent, "--env", config.env, "--steps", str(config.steps)]
    options |= {name: value for name, value in config.making.items() if value}
    for name, value in options.items():
        if isinstance(value, bool):
            command.append(option(name if value else f"no_{name}"))
        else:
            command += [option(name), *map(str, value if isinstance(value, tuple) else (value,))]
    return command


def find(config: Config[Any], grid: Grid, ladder: Ladder, folder: Path, command: Sequence[str]) -> dict[str, Any]:
    """Searches, and confirms what it has found.

    Args:
        config: What is the same for all agents.
        grid: The values that are tried, by name.
        ladder: How it proceeds.
        folder: Folder of the results, made when missing.
        command: The command line, to be recorded.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        UsageError: The configuration cannot be used; nothing was written.
        TrainingError: Training cannot go on.
    """
    names = in_lockstep()
    if config.agent not in names:
        raise UsageError(f"search trains agents in lock-step, which {' and '.join(names)} can, but not {config.agent}")
    for name in ("seeds", "stop_at"):
        if getattr(config, name) is not None:
            raise UsageError(f"{option(name)} is for train; search has --seeds-per-setting and --confirm")
    for name in ("gradient_samples", "callback"):
        if getattr(config, name):
            raise UsageError(f"{option(name)} is for train")
    ladder.check()
    if len(set(ladder.steps(config.steps))) < ladder.rungs:
        raise UsageError(
            f"--rungs must leave each rung more of the {config.steps} steps than the one before, but got "
            f"{ladder.rungs} with --keep {ladder.keep:g}"
        )
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    results = [Result(point, []) for point in points]
    count = len(results) * ladder.seeds_per_setting
    dataclasses.replace(config, seeds=count).check()
    with occupied(folder), told(folder):
        if (folder / "search.json").exists():
            raise UsageError(f"{folder} holds a search already")
        check_files(folder)
        return _find(config, grid, ladder, results, folder, command, None)


def resume(folder: Path, command: Sequence[str], *, trusted: bool = False) -> dict[str, Any]:
    """Goes on with an interrupted search.

    Args:
        folder: Its folder.
        command: The command line, to be recorded.
        trusted: Whether the module of an environment ``module:name`` is imported.

    Returns:
        The summary, as ``summary.json`` holds it.

    Raises:
        UsageError: There is nothing to resume, or nothing left to do.
        TrainingError: Training cannot go on.
        gsrl.checkpoint.CheckpointError: The checkpoint is damaged.
    """
    path = folder / "search.json"
    if not path.exists():
        raise UsageError(f"{folder} holds no search: it has no search.json")
    parse_config(path, trusted=trusted)
    with occupied(folder), told(folder):
        check_files(folder)
        if is_finished(folder):
            raise UsageError(f"{folder} is finished")
        config = parse_config(path)
        stored = read_json(path)
        try:
            grid = {name: tuple(values) for name, values in stored["grid"].items()}
            ladder = Ladder(**stored["ladder"])
            ladder.check()
            count = math.prod(map(len, grid.values())) * ladder.seeds_per_setting
            dataclasses.replace(config, seeds=count).check()
        except UsageError as error:
            raise UsageError(f"{path} cannot be used: {error}") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path} cannot be used: {type(error).__name__}: {error}") from error
        count = math.prod(map(len, grid.values())) * ladder.seeds_per_setting
        dataclasses.replace(config, seeds=count).check()
        file = folder / "checkpoint.zip"
        if not file.exists():
            raise UsageError(f"{folder} cannot be resumed: it has no checkpoint.zip")
        state = checkpoint.load(file, device=config.device)
        with checkpoint.fitting(file):
            names = ("results", "alive", "rung", "places", "members", "seconds", "steps")
            checkpoint.check_entries(state, dict.fromkeys(names))
            results = [
                Result(dict(each["setting"]), list(each["scores"]), each.get("diverged_at"))
                for each in state["results"]
            ]
        if "config" in state:  # older checkpoints lack it
            check_unchanged(described_search(config, grid, ladder), state["config"], path)
        check_sizes(state, config.settings, file)
        return _find(config, grid, ladder, results, folder, command, state)


def described_search(config: Config[Any], grid: Grid, ladder: Ladder) -> dict[str, Any]:
    """What a search is, as ``search.json`` holds it."""
    return {**dataclasses.asdict(config), "grid": grid, "ladder": dataclasses.asdict(ladder)}


def _find(
    config: Config[Any],
    grid: Grid,
    ladder: Ladder,
    results: list[Result],
    folder: Path,
    command: Sequence[str],
    state: Mapping[str, Any] | None,
) -> dict[str, Any]:
    obstacle = why_not_rewindable(lambda: adapt(make_plain(config.env, **config.making)))
    search = Search(config, grid, ladder, results, folder, state, command, obstacle)
    summary = search.run()
    if search.rung < len(search.rung_steps) or not ladder.confirm:
        return summary
    path = confirmation_folder(folder)
    if is_run(path) and is_finished(path):
        confirmed = read_json(path / "summary.json")
    elif is_run(path):
        confirmed = session.resume(path, None, None, command)
    else:
        chosen = dataclasses.replace(
            config,
            settings=dataclasses.replace(config.settings, **search.ranked()[0].setting),
            seed=config.seed + ladder.seeds_per_setting,
            seeds=ladder.confirm,
        )
        confirmed = session.start(chosen, path, command)
    if confirmed["status"] == "interrupted":
        return summary
    scores = ("eval_return_iqm", "eval_return_mean", "eval_return_worst", "eval_episodes")
    names = ("seeds", "diverged", *scores, "wall_seconds")
    search.confirmation = {name: confirmed.get(name) for name in names}
    return search.write_summary("finished")


class Search(Run):
    """A run of many settings, of which each evaluation leaves the best.

    Args:
        config: What is the same for all agents.
        grid: The values that are tried, by name.
        ladder: How it proceeds.
        results: The settings.
        folder: Folder of the results.
        state: What its checkpoint holds; None: it is new.
        command: The command line, to be recorded.
        obstacle: Why environments cannot be rewound; None: they can.
    """

    keeps_logs = False  # results are all that it leaves

    def __init__(
        self,
        config: Config[Any],
        grid: Grid,
        ladder: Ladder,
        results: list[Result],
        folder: Path,
        state: Mapping[str, Any] | None,
        command: Sequence[str],
        obstacle: str | None,
    ) -> None:
        self.grid = grid
        self.ladder = ladder
        self.results = results
        self.confirmation: dict[str, Any] | None = None
        """Figures of the winner's agents on fresh seeds."""
        self.verb = f"the search in {folder}"
        self.rung_steps = ladder.steps(config.steps)
        self.rung = 0 if state is None else int(state["rung"])
        self.alive = list(range(len(results))) if state is None else list(state["alive"])
        """Settings that are still in the search."""
        self._steps_before = 0 if state is None else int(state["steps"])
        self._final_seconds: dict[str, float] | None = None
        members = [
            Member(config.seed + seed, self._settings(config, results[index].setting))
            for index in self.alive
            for seed in range(ladder.seeds_per_setting)
        ]
        places = self._deal(config, len(members)) if state is None else state["places"]
        self.members = Members(config, members, places)
        try:
            if state is not None and state["members"] is not None:
                with checkpoint.fitting(folder / "checkpoint.zip"):
                    self.members.load_state(state)
            super().__init__(config, folder, self.members, state, command, obstacle)
        except BaseException:
            self.members.close()
            raise

    @staticmethod
    def _settings(config: Config[Any], setting: Mapping[str, Any]) -> Any:
        chosen = dataclasses.replace(config.settings, **setting)
        if not hasattr(chosen, "buffer_size"):
            return chosen
        # More is never filled, and would be copied each time that some are left behind.
        return dataclasses.replace(chosen, buffer_size=min(chosen.buffer_size, config.steps + config.n_envs))

    @staticmethod
    def _deal(config: Config[Any], count: int) -> list[list[int]]:
        """Shares members out to processes, at random, so that each has good ones and bad ones."""
        order = np.random.default_rng(0).permutation(count).tolist()
        processes = min(config.processes or number_of_processes(count, config.device), count)
        return [sorted(order[first::processes]) for first in range(processes)]

    @property
    def steps(self) -> int:
        """Steps that the agents which are left have done; of a search that is over, none of them are kept."""
        return max(self._steps_before, self.members.steps)

    def ranked(self) -> list[Result]:
        """The results, the best first."""
        return sorted(self.results, key=Result.order, reverse=True)

    def check_finite(self) -> None:
        """Nothing: it is seen by whoever compares them."""

    def _show(self, bar: tqdm) -> None:
        bar.set_description(self._describe_rung(), refresh=False)

    def _describe_rung(self) -> str:
        return f"rung {self.rung + 1} of {len(self.rung_steps)}, {counted(len(self.alive), 'setting')}"

    def work(self) -> tuple[int, int]:
        """Steps of all settings together, done and to be done."""
        counts = [len(self.results)]
        for _ in range(self.ladder.rungs - 1):
            counts.append(self._number_kept(counts[-1]))
        spans = list(zip([0, *self.rung_steps], self.rung_steps, counts, strict=False))
        done = sum(max(0, min(self.members.steps, after) - before) * count for before, after, count in spans)
        return done, sum((after - before) * count for before, after, count in spans)

    def _number_kept(self, count: int) -> int:
        return max(1, math.ceil(count * self.ladder.keep))

    # How it proceeds

    @property
    def next_evaluation(self) -> int:
        """Steps of the next rung."""
        return self.rung_steps[min(self.rung, len(self.rung_steps) - 1)]

    def evaluate(self, stop: Stop, *, final: bool = False) -> NDArray[np.float64]:
        """Evaluates all that are left."""
        stop.check()
        with self.timed("evaluation"):
            return self.members.evaluate(self.config.eval_episodes)

    def judge(self, scores: NDArray[np.float64]) -> None:
        """Scores the settings that are left, and goes on with the best of them, but with none that diverged.

        Raises:
            DivergenceError: All of them diverged.
        """
        seeds = self.ladder.seeds_per_setting
        means = scores.mean(1).reshape(-1, seeds).mean(1).tolist()
        for place, (index, score) in enumerate(zip(self.alive, means, strict=True)):
            own = range(place * seeds, (place + 1) * seeds)
            self.results[index].diverged_at = min(
                (self.members.stopped_at[member] or 0 for member in own if self.members.diverged[member]), default=None
            )
            if self.results[index].diverged_at is None:
                self.results[index].scores.append(score)
        order = sorted(self.alive, key=lambda index: self.results[index].order(), reverse=True)
        sound = [index for index in order if self.results[index].diverged_at is None]
        lost = len(order) - len(sound)
        if not sound:
            raise DivergenceError(
                f"the search has no winner: every setting that had come to {self.rung_steps[self.rung]} steps "
                "diverged, its loss no longer finite; try lower values of learning_rate, or --max-grad-norm; the "
                f"table is in {self.folder}"
            )
        latest = [self.results[index].scores[-1] for index in sound]
        tqdm.write(
            f"{self.rung_steps[self.rung]} steps: {counted(len(order), 'setting')}, "
            f"{f'{lost} diverged, ' if lost else ''}"
            f"best {latest[0]:.1f}, median {np.median(latest):.1f}; {describe(self.results[sound[0]].setting)}",
            sys.stderr,
        )
        self.rung += 1
        if self.rung == len(self.rung_steps):
            return
        kept = sorted(sound[: self._number_kept(len(order))])
        places = [self.alive.index(index) for index in kept]
        self.members.keep([place * seeds + seed for place in places for seed in range(seeds)])
        self.alive = kept

    def complete(self, stop: Stop) -> dict[str, Any]:
        """Goes from rung to rung, until it is stopped."""
        try:
            if self.rung < len(self.rung_steps):
                self.learn(stop)
                self.judge(self.evaluate(stop))
                self.save_checkpoint()
            return self.write_summary("interrupted" if self.ladder.confirm else "finished")
        except Interrupted:
            self.save_checkpoint()
            return self.write_summary("interrupted")

    def state(self) -> dict[str, Any]:
        """Returns all that resuming needs, beside steps and seconds."""
        finished = self.rung == len(self.rung_steps)
        return {
            "rung": self.rung,
            "alive": self.alive,
            "results": [dataclasses.asdict(result) for result in self.results],
            "places": self.members.places,
            "config": described_search(self.config, self.grid, self.ladder),
            **({"members": None} if finished else self.members.state(rewindable=self.obstacle is None)),
        }

    # What it leaves

    def write_config(self) -> None:
        """Writes what is searched, with this session."""
        path = self.folder / "search.json"
        session = {"from_steps": self.steps, **describe_session(self.command)}
        earlier = read_json(path).get("sessions", []) if path.exists() else []
        write_json(path, {**described_search(self.config, self.grid, self.ladder), "sessions": [*earlier, session]})

    def announce(self) -> str:
        """Says what begins."""
        return (
            f"searching {len(self.results)} settings of {self.config.agent} on {self.config.env}, with rungs at "
            f"{', '.join(map(str, self.rung_steps))} steps, in {self.folder}"
        )

    def write_summary(self, status: str, scores: NDArray[np.float64] | None = None) -> dict[str, Any]:
        """Writes tables, picture and summary, and returns the summary."""
        ranked = [result for result in self.ranked() if result.scores or result.diverged_at is not None]
        config, seconds = self.config, self.seconds()
        summary: dict[str, Any] = {
            "status": status,
            "agent": config.agent,
            "env": config.env,
            "steps": self.steps,
            "rungs": self.rung_steps,
            "settings": len(self.results),
            "diverged": sum(result.diverged_at is not None for result in self.results),
            "winner": None,
            "confirmation": self.confirmation,
            "wall_seconds": seconds["wall"],
            "time_shares": time_shares(seconds),
        }
        if ranked and ranked[0].diverged_at is None and status != "failed":
            best = ranked[0]
            summary["winner"] = {
                "setting": best.setting,
                "scores": best.scores,
                "train": train_command(config, best.setting),
            }
        if ranked:
            title = f"{config.agent} on {config.env}, {len(self.results)} settings"
            header, rows = table(ranked, self.rung_steps)
            by_column = [dict(zip(header, row, strict=True)) for row in rows]
            write_text(self.folder / "results.csv", csv_text(header, by_column))
            write_text(self.folder / "results.md", _markdown(title, header, rows, summary))
            plot_search(
                self.folder / "search.png",
                title,
                self.grid,
                [result.setting for result in ranked],
                self.rung_steps,
                [result.scores for result in ranked],
                [result.diverged_at for result in ranked],
            )
        write_json(self.folder / "summary.json", summary)
        return summary

    def seconds(self) -> dict[str, float]:
        """Returns the seconds spent by this process and earlier ones, by kind; without those of the confirmation."""
        return self._final_seconds or super().seconds()

    def close(self) -> None:
        """Ends the processes."""
        self._final_seconds = self.seconds()
        super().close()


def describe(setting: Mapping[str, Any]) -> str:
    """Says in a line what a setting is."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in setting.items()
    )


def table(ranked: Sequence[Result], rung_steps: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of the table of results, the best first."""
    header = ["rank", *ranked[0].setting, *(f"score at {steps}" for steps in rung_steps), "diverged at"]
    rows = []
    for rank, result in enumerate(ranked, start=1):
        values = [f"{value:g}" if isinstance(value, float) else str(value) for value in result.setting.values()]
        scores = [f"{score:.1f}" for score in result.scores]
        diverged_at = "" if result.diverged_at is None else str(result.diverged_at)
        rows.append([str(rank), *values, *scores, *[""] * (len(rung_steps) - len(scores)), diverged_at])
    return header, rows


def _markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], summary: Mapping[str, Any]) -> str:
    lines = [f"# {title}", ""]
    if summary["winner"] is not None:
        lines += ["The winner:", "", "```sh", f"{program.typed()} train {' '.join(summary['winner']['train'])}"]
        lines += ["```", ""]
    if summary["diverged"]:
        lines += [
            f"{summary['diverged']} of {summary['settings']} settings diverged: the loss of an agent was no longer "
            "finite. They are ranked last.",
            "",
        ]
    confirmed = summary["confirmation"]
    if confirmed is not None:
        lines += [
            f"On {counted(len(confirmed['seeds']), 'fresh seed')}, {counted(confirmed['eval_episodes'], 'episode')} "
            f"each: interquartile mean {confirmed['eval_return_iqm']:.1f}, worst {confirmed['eval_return_worst']:.1f}.",
            "",
        ]
    lines += ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
