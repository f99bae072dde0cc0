"""The command line: train and evaluate agents, measure gradient estimators, and compare."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TypeVar

import torch
import tyro
from rich.console import Console
from rich.table import Table

from gsrl.checkpoint import CheckpointError
from gsrl.diagnostics import Comparison
from gsrl.runs import gradients, language, program, rendering, search
from gsrl.runs.cards import Card, cards, get_card, in_lockstep, load_zoo
from gsrl.runs.config import (
    Config,
    default_config,
    is_run,
    new_folder,
    option,
    read_config,
    read_json,
    read_settings,
    with_settings,
)
from gsrl.runs.environments import check_environment, check_origin
from gsrl.runs.errors import UsageError, counted, is_short_of_memory, nearest, similar
from gsrl.runs.files import described
from gsrl.runs.handover import export_run, import_folder
from gsrl.runs.plots import plot_runs
from gsrl.runs.pool import number_of_processes
from gsrl.runs.run import ANSWERED, describe_times, folder_of
from gsrl.runs.scores import interquartile_mean
from gsrl.runs.session import evaluate_run, record_run, resume, start, watch_run

__all__ = ["main"]

RUNS = Path("runs")
DEFAULT_AGENT = "discrete-sac"

LEFT_OUT_FIRST = ("memory", "of mean", "mse", "time", "snr")
"""Columns of the table of gradients that a narrow console does without, in this order."""

Settings = TypeVar("Settings")
Options = TypeVar("Options")


@dataclass(frozen=True)
class TrainOptions(Generic[Settings]):
    """Train an agent, with defaults tuned for the environment where there are any.

    Logs, learning curve, model and checkpoint go to a folder of their own. Ctrl-C saves what resuming needs. With
    --seeds, that many agents are trained in lock-step, which takes far less time than one after the other. A step of
    agents that talk is an episode.
    """

    run: Config[Settings]
    config: Path | None = None
    """Settings file, such as config.toml of a run; what is given beside it goes before."""
    out: Path | None = None
    """Folder of the run; None for one in runs/ named after environment, agent and seeds."""
    resume: Path | None = None
    """Folder of a run to go on with, by its own settings; only --steps, --device and --trust can go with it."""
    trust: bool = False
    """With --resume or --config: import the modules of an environment module:name and of wrappers module:Class, which
    runs code that the folder or the file chose."""


@dataclass(frozen=True)
class SearchOptions(Generic[Settings]):
    """Search settings by successive halving: all train for a while, the best go on, the winner meets fresh seeds.

    Agents of all settings are trained in lock-step. The score of a setting is the mean return of its agents over
    --eval-episodes greedy episodes. Table, picture and the confirming run go to a folder of their own. Ctrl-C saves
    what resuming needs.
    """

    run: Config[Settings]
    config: Path | None = None
    """Settings file, such as config.toml of a run; what is given beside it goes before."""
    ladder: search.Ladder = field(default_factory=search.Ladder)
    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Values of a setting to try, such as learning_rate=3e-4,1e-3; once for each setting. None: 4 learning rates, 4
    n_steps and 2 target_entropy_ratios, or 2 ent_coefs where that is fixed."""
    out: Path | None = None
    """Folder of the search; None for one in runs/ named after environment and agent."""
    resume: Path | None = None
    """Folder of a search to go on with; only --trust can go with it."""
    trust: bool = False
    """With --resume or --config: import the modules of an environment module:name and of wrappers module:Class, which
    runs code that the folder or the file chose."""


@dataclass(frozen=True)
class EvalOptions:
    """Evaluate the final model of a run; of several agents in lock-step all, or one by its folder, as RUN/seed_3.

    Messages of agents that talk are hard. Where an evaluation of theirs can list all episodes there are, it does.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    episodes: int | None = None
    """How many episodes; None for 20, or, of agents that talk, as many as in the final evaluation."""
    seed: int | None = None
    """Seed in place of the run's; None repeats the final evaluation of the training."""
    device: str | None = None
    """Device of the networks; None for that of the run."""
    max_episode_steps: int | None = None
    """Steps after which an episode is cut off; None for the run's. Not for agents that talk."""
    stochastic: bool = False
    """Sample actions, or messages, instead of taking the most probable ones."""
    scramble: bool = False
    """Shuffle messages across episodes, of agents that talk: what survives was not got by language."""
    split: Literal["train", "held_out", "all"] = "train"
    """Meanings to play, of signalling agents."""
    trust: bool = False
    """Import the module of an environment module:name, which runs code that the folder chose."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class RecordOptions:
    """Record the final models of a run, several seeds side by side, as a GIF or an MP4.

    Beside each picture stand the probabilities of the actions, their entropy, and Q where the agent has critics. Where
    the environment has no pictures, its text is drawn, or the observation.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run, or of an agent in it."""
    out: Path | None = None
    """The recording, .gif or .mp4; None for recording.gif in the folder of the run."""
    seeds: tuple[int, ...] = ()
    """Which of several agents in lock-step; none for the first three."""
    episodes: int = 1
    """How many, one after another."""
    seed: int | None = None
    """Seed of the episodes; None for the run's, with which they are those of the final evaluation."""
    max_episode_steps: int | None = None
    """Steps after which an episode is cut off; None for the run's."""
    stochastic: bool = False
    """Sample actions instead of taking the most probable ones."""
    trust: bool = False
    """Import the module of an environment module:name, which runs code that the folder chose."""


@dataclass(frozen=True)
class WatchOptions:
    """Watch the final model of a run act: in a window where there is a display, else as text if there is some."""

    run: tyro.conf.Positional[Path]
    """Folder of the run; of several agents in lock-step that of one, as RUN/seed_3."""
    episodes: int = 3
    """How many."""
    seed: int | None = None
    """Seed of the episodes; None for the run's, with which they are those of the final evaluation."""
    max_episode_steps: int | None = None
    """Steps after which an episode is cut off; None for the run's."""
    stochastic: bool = False
    """Sample actions instead of taking the most probable ones."""
    trust: bool = False
    """Import the module of an environment module:name, which runs code that the folder chose."""


@dataclass(frozen=True)
class ExportOptions:
    """Make a folder of the final model of a run to hand over, with a model card in the layout of the Hugging Face Hub.

    It holds the model, its settings, ONNX and TorchScript files of the policy, its return over fresh episodes with an
    interval, the learning curve and a recording. eval, watch and record take it as they take a run.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run; of several agents in lock-step that of one, as RUN/seed_3."""
    out: Path
    """The folder."""
    episodes: int = 100
    """Greedy episodes whose returns the card tells."""
    trust: bool = False
    """Import the modules of an environment module:name and of wrappers, which runs code that the folder chose."""


@dataclass(frozen=True)
class ImportOptions:
    """Make a run of a folder that export made, to be evaluated, watched, and trained further.

    Training goes on from the parameters, optimisers and statistics of the model, with an empty replay.
    """

    folder: tyro.conf.Positional[Path]
    """The folder."""
    out: Path | None = None
    """Folder of the run; None for one in runs/ named after environment, agent and seed."""
    trust: bool = False
    """Import the modules of an environment module:name and of wrappers, which runs code that the folder chose."""


@dataclass(frozen=True)
class PlotOptions:
    """Draw the learning curve of a run again, or those of several runs side by side, a panel for each environment.

    What is drawn are the logs of the runs, also of those that are under way.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Path | None = None
    """The picture; None for learning_curve.png in the folder of the run, of several for runs/learning_curves.png."""


@dataclass(frozen=True)
class ProtocolOptions:
    """Print and draw the language of signalling agents, or of a team: which message stands for which meanings.

    Table and pictures go to the folder of the agent, RUN/seed_3: protocol.md, protocol.csv, protocol.png, and
    dependence.png, which shows what each position of a message tells of each attribute of the meaning. Of a team those
    of each that speaks, as protocol_speaker_0.md: meanings are the numbers of what it alone knows.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run, or of an agent in it."""
    seed: int | None = None
    """Which of several agents in lock-step; None for the first."""
    out: Path | None = None
    """Folder of table and pictures; None for that of the agent."""


@dataclass(frozen=True)
class RenderOptions:
    """Draw episodes of a team as a GIF, with what is said written below: the first ones of the final evaluation."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, or of a team in it."""
    seed: int | None = None
    """Which of several teams in lock-step; None for the first."""
    episodes: int = 3
    """How many."""
    out: Path | None = None
    """The GIF; None for episodes.gif in the folder of the team."""


@dataclass(frozen=True)
class GradientsOptions:
    """Measure gradient estimators against the exact gradient: bias, variance, cosine, calls, time and memory.

    On a test problem; or on the actor of a run, at observations of its replay, with its critics as the objective.
    """

    objective: str | None = None
    """Test problem: quadratic, cubic, bernoulli or polynomial; None: quadratic, unless there is a --run."""
    n: int | None = None
    """Factors, of cubic and polynomial; None for the problem's own."""
    K: int | None = None
    """Choices of each factor, of quadratic and cubic; None for the problem's own."""
    exponent: float | None = None
    """Exponent, of bernoulli and polynomial; None for the problem's own."""
    run: Path | None = None
    """Folder of a run of a soft actor-critic agent, in the place of a test problem."""
    trust: bool = False
    """With --run: import the module of an environment module:name, which runs code that the folder chose."""
    estimators: tuple[str, ...] = ()
    """Estimators by name; none: every one that fits."""
    temperature: float = 1.0
    """Temperature of the relaxations."""
    num_samples: int = 10_000
    """Estimates drawn of each estimator."""
    seed: int = 0
    """Seed of all noise."""
    out: Path | None = None
    """Folder of table and picture; None for runs/gradients_<objective>, or the folder of the run."""


@dataclass(frozen=True)
class BenchOptions:
    """Run a suite of agents, environments and seeds, or go on with one.

    What is finished is not repeated, and a run that was interrupted goes on. The results are rows in results.csv, one
    for each evaluation; `report` reads them. Ctrl-C saves what resuming needs.
    """

    suite: tyro.conf.Positional[str]
    """Path of a TOML file; or the name of a suite that comes with a checkout, such as smoke."""
    out: Path | None = None
    """Folder of the results; None for one in runs/ named after the suite."""
    backend: Literal["local", "ray"] = "local"
    """This machine's cores, or a Ray cluster."""
    address: str | None = None
    """Of the Ray cluster, such as auto; None for one on this machine."""
    processes: int | None = None
    """Runs at a time, on this machine; None for one a core. Results do not depend on it."""
    only: tuple[str, ...] = ()
    """Labels or agents and environments to run, such as 'ppo*' CartPole-v1; all of a kind of which none is named."""
    trust: bool = False
    """Import the modules of environments module:name, which runs code that the suite chose."""


@dataclass(frozen=True)
class ReportOptions:
    """Say what came out of a benchmark, with its uncertainty and its cost."""

    folder: tyro.conf.Positional[Path]
    """Folder of the results, with results.csv."""
    out: Path | None = None
    """Folder of the report; None for the same."""


@dataclass(frozen=True)
class ListOptions:
    """List the agents; or say of one what it is, where it comes from, and which environments it is tuned for."""

    agent: tyro.conf.Positional[str | None] = None
    """Of whom all is said; None for a line on each."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The command line without the program's name; the process's own if None.

    Returns:
        Exit code: 0; 1 when it cannot go on for a reason that is neither the command line's nor this project's; 2 when
        the command line cannot be used; 130 when it was interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        argv = _find_more(argv)
        # Without a command, options are those of train.
        name = argv.pop(0) if argv and not argv[0].startswith("-") else "train"
        if name not in program.COMMANDS:
            raise UsageError(f"unknown command {name!r}; {nearest(name, program.COMMANDS)}")
        command: Callable[[list[str]], int] = globals()[f"_{name}_command"]
        return command(argv)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return 1
    except ANSWERED as error:
        print(f"{program.name}: error: {described(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError | CheckpointError) else 1
    except (MemoryError, RuntimeError) as error:
        if not is_short_of_memory(error):
            raise
        print(f"{program.name}: error: this needs more memory than there is: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program.name}: stopped", file=sys.stderr)
        return 130


def _find_more(argv: list[str]) -> list[str]:
    """Lets agents and environments be found that are not the library's; returns the other arguments."""
    parser = _Parser()
    parser.add_argument("--path", type=Path, action="append", default=[])
    parser.add_argument("--zoo", action="append", default=[])
    known, others = parser.parse_known_args(argv)
    for path in known.path:
        if not path.is_dir():
            raise UsageError(f"--path {path} is no folder")
        sys.path.insert(0, str(path.resolve()))
    for point in entry_points(group="gsrl.agents"):
        load_zoo(point.module)
    for module in known.zoo:
        load_zoo(module)
    paths, zoos = (f"--path {shlex.quote(str(path))}" for path in known.path), (f"--zoo {name}" for name in known.zoo)
    program.found = (*paths, *zoos)
    return others


class _Parser(argparse.ArgumentParser):
    """Of the options that must be known before tyro can show all others."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Answers without the usage, which would show these options alone."""
        raise UsageError(message)


def _read_options(kind: type[Options], command: str, argv: list[str], default: Any = None) -> Options:
    """Reads the options of a command.

    Args:
        kind: Dataclass of the options.
        command: Name of the command.
        argv: What follows it.
        default: What options are unless they are given; None: those of the class.

    Raises:
        UsageError: They cannot be read; the message is tyro's, in one sentence, or offers the nearest name.
        SystemExit: Help was asked for, and has been shown.
    """
    answer = io.StringIO()
    chosen: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with redirect_stderr(answer):
            options, unknown = tyro.cli(
                kind,
                **chosen,
                prog=f"{program.name} {command}",
                args=argv,
                config=(tyro.conf.OmitArgPrefixes,),
                return_unknown_args=True,
            )
    except SystemExit as error:
        if not error.code:
            raise
        raise UsageError(_in_a_sentence(answer.getvalue(), command)) from None
    print(answer.getvalue(), end="", file=sys.stderr)
    if unknown:
        name = unknown[0].partition("=")[0]
        near = similar(name, _option_names(kind if default is None else default)) if name[:1] == "-" else []
        reason = f"unknown option {name}" if name[:1] == "-" else f"unexpected {name!r}"
        hint = f"did you mean {' or '.join(near)}?" if near else f"{program.name} {command} --help lists what there is"
        raise UsageError(f"{reason}; {hint}")
    return options


def _option_names(options: Any) -> list[str]:
    """Names of the options that a dataclass stands for, those of dataclasses inside it among them."""
    names = []
    for each in dataclasses.fields(options):
        value = getattr(options, each.name, None)
        if dataclasses.is_dataclass(value):
            names += _option_names(value)
        elif "Positional" not in str(each.type):
            names.append(option(each.name))
    return names


def _in_a_sentence(answer: str, command: str) -> str:
    """What tyro answers to a mistake in a box of several lines, as one."""
    lines = [line.strip(" │|╭╮╰╯─-") for line in answer.splitlines()]
    text = " ".join(line for line in lines[1:] if line)  # the first is the title of the box
    text = re.split("For full helptext|Argument helptext", text)[0].strip()
    choice = re.fullmatch(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)\.", text)
    if choice:
        choices = re.findall("'([^']*)'", choice[3])
        near = similar(choice[1], choices)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"{choice[2]} must be {' or '.join(choices)}, but got {choice[1]!r}{hint}"
    text = re.sub(r"^Error parsing (\S+):", r"\1:", text)
    text = re.sub(r"^Missing from .*?: (.*)\. \(required\)$", r"missing: \1", text)
    return f"{text}; {program.name} {command} --help explains it"


def _first_look(argv: list[str]) -> argparse.Namespace:
    """What says which other options there are, and their defaults: agent, environment, and the settings file."""
    parser = _Parser()
    for name in ("--agent", "--env"):
        parser.add_argument(name)
    for name in ("--seeds", "--steps"):
        parser.add_argument(name, type=int)
    for name in ("--resume", "--config"):
        parser.add_argument(name, type=Path)
    for name in ("--env-kwargs", "--wrapper"):
        parser.add_argument(name, nargs="*")
    parser.add_argument("--trust", action="store_true")
    known, _ = parser.parse_known_args(argv)
    known.given = {} if known.config is None or known.resume is not None else read_settings(known.config)
    if known.agent is None:
        known.agent = known.given.get("agent", DEFAULT_AGENT)
    return known


def _default(known: argparse.Namespace, *, lockstep: bool) -> Config[Any]:
    """What is run unless options say otherwise: the defaults, and over them what a settings file says."""
    card, given = get_card(known.agent), known.given
    env = "CartPole-v1" if card.environments is None else next(iter(card.environments))
    env = given.get("env", env) if known.env is None else known.env
    # The file is read with defaults of whatever environment: what it names is not made before it is trusted.
    plain = with_settings(default_config(known.agent, env, lockstep=False), given, known.config)
    making = {
        name: tuple(getattr(plain, name) if getattr(known, name) is None else getattr(known, name))
        for name in ("env_kwargs", "wrapper")
    }
    if given and not known.trust:
        theirs = {name: () if getattr(known, name) is not None else making[name] for name in making}
        check_origin(env if known.env is None else "", known.config, **theirs)
    env = check_environment(env, known.agent, *making.values())
    steps = known.steps or (plain.steps if "steps" in given else None)
    lockstep = lockstep or (known.seeds is None and plain.seeds is not None and "seeds" in given)
    return with_settings(default_config(known.agent, env, steps, lockstep=lockstep), given, known.config)


def _train_command(argv: list[str]) -> int:
    known = _first_look(argv)
    if known.resume is not None and not {"-h", "--help"} & set(argv):
        return _resume(known.resume, argv)
    default = TrainOptions(_default(known, lockstep=known.seeds is not None))
    kind: Any = TrainOptions
    card, env = default.run.card, default.run.env
    options: TrainOptions[Any] = _read_options(kind[card.Settings], "train", argv, default)
    config = dataclasses.replace(options.run, env=env)
    seeds = f"seed{config.seed}"
    if config.seeds is not None and not (card.is_task and config.seeds == 1):
        seeds = f"seeds{config.seed}-{config.seed + config.seeds - 1}"
    folder = options.out or new_folder(RUNS, f"{config.env}_{config.agent}_{seeds}")
    if is_run(folder):
        raise UsageError(f"{folder} holds a run already; go on with it by --resume {folder}, or choose another --out")
    return _report(start(config, folder, [program.name, "train", *argv]), folder)


def _search_command(argv: list[str]) -> int:
    known = _first_look(argv)
    if known.resume is not None and not {"-h", "--help"} & set(argv):
        alone = _Parser()
        alone.add_argument("--resume", type=Path)
        alone.add_argument("--trust", action="store_true")
        known, rest = alone.parse_known_args(argv)
        if rest:
            raise UsageError(
                f"--resume takes everything from {known.resume / 'search.json'}, so only --trust can go with it; got "
                f"{shlex.join(rest)}"
            )
        command = [program.name, "search", *argv]
        return _report_search(search.resume(known.resume, command, trusted=known.trust), known.resume)

    card = get_card(known.agent)
    if card.is_task:
        raise UsageError(f"search is for agents in Gymnasium's environments, and {known.agent} has its own")
    default = SearchOptions(_default(known, lockstep=True))
    env = default.run.env
    kind: Any = SearchOptions
    options: SearchOptions[Any] = _read_options(kind[card.Settings], "search", argv, default)
    config = dataclasses.replace(options.run, env=env)
    folder = options.out or new_folder(RUNS, f"search_{config.env}_{config.agent}")
    if (folder / "search.json").exists():
        raise UsageError(
            f"{folder} holds a search already; go on with it by --resume {folder}, or choose another --out"
        )
    grid = search.parse_grid(options.grid, config.settings)
    return _report_search(search.find(config, grid, options.ladder, folder, [program.name, "search", *argv]), folder)


def _report_search(summary: dict[str, Any], folder: Path) -> int:
    """Says how a search ended, and returns the exit code."""
    if (folder / "results.csv").exists():
        with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        table = Table(title=f"{summary['agent']} on {summary['env']}, {summary['settings']} settings")
        for column in header:
            table.add_column(column.removeprefix("score "), justify="right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    if summary["status"] == "interrupted":
        resume = shlex.quote(str(folder))
        print(f"interrupted at {summary['steps']} steps; go on with:\n  {program.typed()} search --resume {resume}")
        return 130
    confirmed = summary["confirmation"]
    if confirmed is not None:
        print(
            f"the winner on {counted(len(confirmed['seeds']), 'fresh seed')}: IQM {confirmed['eval_return_iqm']:.1f}, "
            f"worst {confirmed['eval_return_worst']:.1f}, {counted(confirmed['eval_episodes'], 'episode')} each"
            f"{_lost(confirmed)}"
        )
    if summary["diverged"]:
        print(f"{summary['diverged']} of {summary['settings']} settings diverged, and are ranked last")
    print(
        f"  time     {summary['wall_seconds']:.0f} s: {describe_times(summary['time_shares'])}\n"
        f"  table    {folder / 'results.md'}\n"
        f"  picture  {folder / 'search.png'}\n"
        f"  winner   {program.typed()} train {shlex.join(summary['winner']['train'])}"
    )
    return 0


def _resume(folder: Path, argv: list[str]) -> int:
    parser = _Parser()
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device")
    parser.add_argument("--trust", action="store_true")
    known, rest = parser.parse_known_args(argv)
    if rest:
        raise UsageError(
            f"--resume takes everything from {folder / 'config.json'}, so only --steps, --device and --trust can go "
            f"with it; got {shlex.join(rest)}"
        )
    command = [program.name, "train", *argv]
    return _report(resume(folder, known.steps, known.device, command, trusted=known.trust), folder)


def _report(summary: dict[str, Any], folder: Path) -> int:
    """Says how a training ended, and returns the exit code."""
    card = get_card(summary["agent"])
    steps = counted(summary["steps"], card.unit)
    episodes = counted(summary["eval_episodes"], "episode")
    if summary["status"] == "interrupted":
        print(f"interrupted at {steps}; go on with:\n  {program.typed()} train --resume {shlex.quote(str(folder))}")
        return 130
    if "seeds" in summary:
        decimals = card.decimals
        result = f"IQM {summary['eval_return_iqm']:.{decimals}f}, worst {summary['eval_return_worst']:.{decimals}f}"
        over = f"over {counted(len(summary['seeds']), 'seed')}, {episodes} each"
        if len(summary["seeds"]) == 1:
            result, over = f"{summary['eval_return_mean']:.{decimals}f}", f"over {episodes}"
        result = f"{card.score(summary['env'])} {result}"
        over += _lost(summary)
        model = folder_of(folder, "*") / "model.zip"
        own = folder_of(folder, summary["seeds"][0])
    else:
        result = f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}"
        over = f"over {episodes}"
        model, own = folder / "model.zip", folder
    times = f"  time        {describe_times(summary['time_shares'])}\n" if "time_shares" in summary else ""
    print(
        f"{summary['agent']} on {summary['env']} after {steps}: {result} {over}\n"
        f"{times}"
        f"  curve       {folder / 'learning_curve.png'}\n"
        f"  logs        tensorboard --logdir {shlex.quote(str(folder))}\n"
        f"  model       {model}\n"
        f"  in Python   {_opening(card, own)}\n"
        f"  checkpoint  {folder / 'checkpoint.zip'}"
    )
    return 0


def _opening(card: Card, folder: Path) -> str:
    """What opens the model of an agent in Python."""
    if not card.is_task and card.name not in in_lockstep():  # Stable-Baselines3's
        return f"gsrl.runs.session.load_model({str(folder)!r})"
    module = card.constructor.__module__
    if module.startswith("gsrl."):
        module = "gsrl" if card.name in in_lockstep() else module.rpartition(".")[0]
    more = ", env" if "env" in card.made else ""
    return f"{module}.{card.constructor.__name__}.load({str(folder / 'model.zip')!r}{more})"


def _lost(summary: Mapping[str, Any]) -> str:
    """Says which seeds of a run in lock-step diverged, if any; older summaries do not say it."""
    lost = [str(seed) for seed in summary.get("diverged") or ()]
    return f"; diverged, and counted as they were before: seed {', '.join(lost)}" if lost else ""


def _eval_command(argv: list[str]) -> int:
    options = _read_options(EvalOptions, "eval", argv)
    config = read_config(options.run, trusted=options.trust)
    card = config.card
    folders = [options.run]
    if config.seeds is not None:
        folders = [folder_of(options.run, seed) for seed in range(config.seed, config.seed + config.seeds)]
    how: dict[str, Any] = {
        "deterministic": not options.stochastic,
        "trusted": options.trust,
        **{name: getattr(options, name) for name in ("device", "max_episode_steps", "scramble", "split")},
    }
    results = [evaluate_run(folder, options.episodes, options.seed, **how) for folder in folders]
    path = options.run / "summary.json"
    summary = read_json(path) if config.seeds is not None and path.exists() else {}
    seeds = range(config.seed, config.seed + len(folders))  # a --seed is of the episodes
    lost = [seed in (summary.get("diverged") or ()) for seed in seeds]
    iqm = interquartile_mean([result["mean_return"] for result in results])
    if options.json:
        members = [{**result, "diverged": diverged} for result, diverged in zip(results, lost, strict=True)]
        print(json.dumps(results[0] if config.seeds is None else {"iqm": iqm, "members": members}, indent=2))
        return 0
    kind = "sampled" if options.stochastic else "greedy"
    kind += ", messages shuffled" if options.scramble else ""
    decimals = card.decimals
    caption = None if config.seeds is None else f"interquartile mean {iqm:.{decimals}f}{_lost(summary)}"
    table = Table(title=f"{config.agent} on {config.env}, {kind}", caption=caption)
    columns = ("episodes", f"mean {card.score(config.env)}", "std", "lowest", "highest")
    for column in columns if config.seeds is None else ("agent", *columns):
        table.add_column(column, justify="right")
    for folder, result, diverged in zip(folders, results, lost, strict=True):
        returns = result["returns"]
        numbers = (result["mean_return"], result["std_return"], min(returns), max(returns))
        row = [str(len(returns)), *(f"{number:.{decimals}f}" for number in numbers)]
        name = f"{folder.name}, diverged" if diverged else folder.name
        table.add_row(*(row if config.seeds is None else [name, *row]))
    Console().print(table)
    return 0


def _record_command(argv: list[str]) -> int:
    options = _read_options(RecordOptions, "record", argv)
    how: dict[str, Any] = {name: getattr(options, name) for name in ("seeds", "episodes", "seed", "max_episode_steps")}
    path = record_run(options.run, options.out, deterministic=not options.stochastic, trusted=options.trust, **how)
    print(f"  recording  {path}")
    return 0


def _watch_command(argv: list[str]) -> int:
    options = _read_options(WatchOptions, "watch", argv)
    how: dict[str, Any] = {name: getattr(options, name) for name in ("seed", "max_episode_steps")}
    shown = watch_run(options.run, options.episodes, deterministic=not options.stochastic, trusted=options.trust, **how)
    for steps, total in shown:
        print(f"return {total:.1f} after {counted(steps, 'step')}")
    return 0


def _export_command(argv: list[str]) -> int:
    options = _read_options(ExportOptions, "export", argv)
    written = export_run(options.run, options.out, episodes=options.episodes, trusted=options.trust)
    print("\n".join(f"  {path}" for path in written))
    return 0


def _import_command(argv: list[str]) -> int:
    options = _read_options(ImportOptions, "import", argv)
    config = read_config(options.folder, trusted=options.trust)
    out = options.out or new_folder(RUNS, f"{config.env}_{config.agent}_seed{config.seed}")
    import_folder(options.folder, out, trusted=options.trust)
    resume = f"{program.typed()} train --resume {shlex.quote(str(out))} --steps {2 * config.steps}"
    print(f"  run       {out}\n  go on by  {resume}")
    return 0


def _plot_command(argv: list[str]) -> int:
    options = tyro.cli(PlotOptions, prog=f"{program.name} plot", args=argv)
    if not options.runs:
        raise UsageError("plot needs the folder of a run, or of several")
    out = options.out
    if out is None and len(options.runs) > 1:
        out = RUNS / "learning_curves.png"
    print(f"  picture  {plot_runs(options.runs, out)}")
    return 0


def _protocol_command(argv: list[str]) -> int:
    options = _read_options(ProtocolOptions, "protocol", argv)
    for found in language.languages_of(options.run, options.seed):
        written = found.write(options.out or found.folder)
        Console().print(found.protocol.rich(found.title))
        print("\n".join(f"{name}: {value:.3f}" for name, value in found.metrics.items()))
        print("\n".join(f"  {path}" for path in written))
    return 0


def _render_command(argv: list[str]) -> int:
    options = _read_options(RenderOptions, "render", argv)
    if options.episodes < 1:
        raise UsageError(f"--episodes must be at least 1, but got {options.episodes}")
    path, returns = rendering.render_run(options.run, options.seed, options.episodes, options.out)
    for number, each in enumerate(returns, 1):
        print(f"episode {number}: return {each.mean():.2f}")
    print(f"  {path}")
    return 0


def _gradients_command(argv: list[str]) -> int:
    options = _read_options(GradientsOptions, "gradients", argv)
    if not 0 < options.temperature < math.inf:
        raise UsageError(f"--temperature must be positive and finite, but got {options.temperature}")
    if options.num_samples < 2:
        raise UsageError(f"--num-samples must be at least 2, but got {options.num_samples}")
    if not 0 <= options.seed < 2**31:
        raise UsageError(f"--seed must be at least 0 and below 2**31, but got {options.seed}")
    torch.set_num_threads(1)  # small tensors are fastest so, and sums have one order

    values = {"n": options.n, "K": options.K, "exponent": options.exponent}
    given = {name: value for name, value in values.items() if value is not None}
    if options.run is None:
        problem = gradients.make_problem(options.objective or "quadratic", given)
        folder = options.out or RUNS / f"gradients_{problem.name}"
    else:
        if options.objective is not None or given:
            raise UsageError("--run takes the place of a test problem: leave --objective, --n, --K and --exponent out")
        problem = gradients.load_problem(options.run, options.seed, trusted=options.trust)
        folder = options.out or options.run
    estimators = gradients.choose_estimators(options.estimators, problem, options.temperature)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be a folder: {error.strerror}") from error

    *_, n, K = problem.logits.shape
    title = f"{problem.name}, n = {n}, K = {K}"
    print(f"measuring {len(estimators)} estimators on {title}", file=sys.stderr)
    comparison = gradients.measure(problem, estimators, options.num_samples, options.seed, progress=sys.stderr.isatty())
    comparison.to_csv(folder / "gradients.csv")
    picture = str(folder / "gradients.png")
    if comparison.gradient_norm == 0:
        picture = "none: the gradient is 0, and every relative figure undefined"
    else:
        comparison.figure(picture, title)
    console = Console()
    console.print(_fitted(comparison, title, console))
    print(gradients.describe(estimators, options.temperature))
    if options.run is not None:
        slope = gradients.slope_at_actions(problem, options.seed)
        print(
            "slope of the critics against their differences between actions: "
            f"relative error {slope.relative_error:.3g}, cosine {slope.cosine:.3g}, "
            f"same sign {slope.sign_agreement:.0%}, scale {slope.scale:.3g}"
        )
    print(f"  all columns  {folder / 'gradients.csv'}\n  picture      {picture}")
    return 0


def _fitted(comparison: Comparison, title: str, console: Console) -> Table:
    """The table, without the columns that the console has no room for."""
    wide = console.options.update(max_width=1000)
    for left_out in range(len(LEFT_OUT_FIRST) + 1):
        table = comparison.table(title, without=LEFT_OUT_FIRST[:left_out])
        if console.measure(table, options=wide).maximum <= console.width:
            break
    return table


def _bench_command(argv: list[str]) -> int:
    options = _read_options(BenchOptions, "bench", argv)
    from gsrl.bench import runner
    from gsrl.bench.suite import read_suite

    if options.processes is not None and options.processes < 1:
        raise UsageError(f"--processes must be at least 1, but got {options.processes}")
    if options.address is not None and options.backend != "ray":
        raise UsageError("--address is for --backend ray")
    if options.address is not None and options.processes is not None:
        raise UsageError("--processes is for this machine: a cluster at an --address decides by itself")
    command = [program.name, "bench", *argv]
    processes = options.processes or number_of_processes(sys.maxsize, "cpu")

    def backend(report: Callable[[Mapping[runner.Task, float]], None]) -> runner.Backend:
        if options.backend == "ray":
            return runner.on_ray(options.address, processes, command)
        return runner.on_this_machine(processes, command, report)

    out = options.out or RUNS / f"bench_{Path(options.suite).stem}"
    summary = runner.bench(
        read_suite(options.suite, trusted=options.trust), out, backend, command, only=options.only, processes=processes
    )
    for outcome in summary.failed:
        print(f"FAILED  {outcome.task}: {outcome.message}\n        log: {outcome.log}")
    print(f"{summary.finished} of {summary.planned} runs are finished\n  results  {out / 'results.csv'}")
    if summary.finished < summary.planned:
        print(f"go on with:\n  {program.typed()} {shlex.join(command[1:])}")
    if summary.finished:
        print(f"see what came out with:\n  {program.typed()} report {shlex.quote(str(out))}")
    return 130 if summary.interrupted else int(bool(summary.failed))


def _report_command(argv: list[str]) -> int:
    options = _read_options(ReportOptions, "report", argv)
    from gsrl.bench.report import write

    written = write(options.folder, options.out or options.folder)
    print("\n".join(f"  {path}" for path in written))
    return 0


def _list_command(argv: list[str]) -> int:
    options = _read_options(ListOptions, "list", argv)
    if options.agent is not None:
        card = get_card(options.agent)
        print(f"{card.name}: {card.summary}\n")
        if card.source:
            print(f"Source: {card.source}.\n")
        for env in card.tuned:
            settings = card.tuned_settings(env) or {}
            print(f"  {env}: {', '.join(f'{name} {value}' for name, value in settings.items())}")
        if not card.tuned:
            print("It is tuned for no environment: its general settings are used.")
        return 0
    table = Table(box=None, pad_edge=False)
    table.add_column("agent", no_wrap=True)
    table.add_column("what it is")
    for card in cards():
        table.add_row(card.name, card.summary)
    Console().print(table)
    print(f"\n{program.typed()} list AGENT says all of one.")
    return 0
