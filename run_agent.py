"""Train and evaluate the agents of the zoo.

  python run_agent.py train   train an agent (gumbel-sac on CartPole-v1 unless told otherwise), or resume a run
  python run_agent.py eval    evaluate the model of a run
  python run_agent.py list    list the agents and where they are tuned

Each command has --help; `train --agent X --env Y --help` shows the settings of that agent, tuned for that environment.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

try:
    import tyro
    from rich.console import Console
    from rich.table import Table

    from agents import AGENTS, defaults, get_agent, nearest
    from agents.common import UsageError
    from agents.environments import check_environment
    from agents.runs import Config, DivergenceError, evaluate_run, is_run, new_folder, resume, start
    from gsrl.checkpoint import CheckpointError
except ModuleNotFoundError as error:
    # Only a missing dependency is answered so; a broken module of ours shows its traceback.
    if error.name and error.name.partition(".")[0] in ("agents", "envs", "gsrl"):
        raise
    sys.exit(f'run_agent.py needs {error.name}, which is not installed: pip install -e ".[cli]"')
except KeyboardInterrupt:
    print("run_agent.py: stopped", file=sys.stderr)
    sys.exit(130)

__all__ = ["main"]

PROGRAM = "run_agent.py"
RUNS = Path("runs")

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class TrainOptions(Generic[Settings]):
    """Train an agent, with defaults tuned for the environment where there are any.

    Logs, learning curve, model and checkpoint go to a folder of their own. Ctrl-C saves what resuming needs.
    """

    run: Config[Settings]
    out: Path | None = None
    """Folder of the run; None for one in runs/ named after environment, agent and seed."""
    resume: Path | None = None
    """Folder of a run to go on with, by its own settings; only --steps and --device can go with it."""


@dataclass(frozen=True)
class EvalOptions:
    """Evaluate the final model of a run."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    episodes: int = 20
    """How many episodes."""
    seed: int | None = None
    """Seed in place of the run's; None repeats the final evaluation of the training."""
    device: str | None = None
    """Device of the networks; None for that of the run."""
    stochastic: bool = False
    """Sample actions instead of taking the most probable ones."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class ListOptions:
    """List the agents and the environments they are tuned for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The command line without the program's name; the process's own if None.

    Returns:
        Exit code: 0; 1 when training diverged; 2 when the command line cannot be used; 130 when it was interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    commands = {"train": _train, "eval": _evaluate, "list": _list}
    # Without a command, options are those of train.
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "train"
    try:
        if name not in commands:
            raise UsageError(f"unknown command {name!r}; {nearest(name, commands)}")
        return commands[name](argv)
    except (UsageError, CheckpointError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except DivergenceError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """Of the options that must be known before tyro can show all others."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Answers without the usage, which would show these options alone."""
        raise UsageError(message)


def _train(argv: list[str]) -> int:
    # Agent and environment say which other options there are, and their defaults.
    parser = _Parser()
    parser.add_argument("--agent", default="gumbel-sac")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--resume", type=Path)
    known, _ = parser.parse_known_args(argv)
    if known.resume is not None and not {"-h", "--help"} & set(argv):
        return _resume(known.resume, argv)

    agent = get_agent(known.agent)
    check_environment(known.env, known.agent)
    steps, n_envs, settings = defaults(known.agent, known.env)
    options: TrainOptions[Any] = tyro.cli(
        TrainOptions[agent.Settings],  # type: ignore[name-defined]
        default=TrainOptions(Config(settings, known.agent, known.env, steps, n_envs=n_envs)),
        prog=f"{PROGRAM} train",
        args=argv,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    config = options.run
    folder = options.out or new_folder(RUNS, config.env, config.agent, config.seed)
    if is_run(folder):
        raise UsageError(f"{folder} holds a run already; go on with it by --resume {folder}, or choose another --out")
    if config.env not in agent.TUNED:
        print(f"{config.agent} is not tuned for {config.env}: its general settings are used", file=sys.stderr)
    return _report(start(config, folder, [PROGRAM, "train", *argv]), folder)


def _resume(folder: Path, argv: list[str]) -> int:
    parser = _Parser()
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device")
    known, rest = parser.parse_known_args(argv)
    if rest:
        raise UsageError(
            f"--resume takes everything from {folder / 'config.json'}, so only --steps and --device can go with it; "
            f"got {shlex.join(rest)}"
        )
    return _report(resume(folder, known.steps, known.device, [PROGRAM, "train", *argv]), folder)


def _report(summary: dict[str, Any], folder: Path) -> int:
    """Says how a training ended, and returns the exit code."""
    if summary["status"] == "interrupted":
        print(
            f"interrupted at {summary['steps']} steps; go on with:\n"
            f"  python {PROGRAM} train --resume {shlex.quote(str(folder))}"
        )
        return 130
    print(
        f"{summary['agent']} on {summary['env']} after {summary['steps']} steps: "
        f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f} "
        f"over {summary['eval_episodes']} episodes\n"
        f"  curve       {folder / 'learning_curve.png'}\n"
        f"  logs        tensorboard --logdir {shlex.quote(str(folder))}\n"
        f"  model       {folder / 'model.zip'}\n"
        f"  checkpoint  {folder / 'checkpoint.zip'}"
    )
    return 0


def _evaluate(argv: list[str]) -> int:
    options = tyro.cli(EvalOptions, prog=f"{PROGRAM} eval", args=argv)
    result = evaluate_run(
        options.run, options.episodes, options.seed, deterministic=not options.stochastic, device=options.device
    )
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    returns = result["returns"]
    table = Table(title=f"{result['agent']} on {result['env']}, {'greedy' if result['deterministic'] else 'sampled'}")
    for column in ("episodes", "mean return", "std", "lowest", "highest"):
        table.add_column(column, justify="right")
    numbers = (result["mean_return"], result["std_return"], min(returns), max(returns))
    table.add_row(str(len(returns)), *(f"{number:.1f}" for number in numbers))
    Console().print(table)
    return 0


def _list(argv: list[str]) -> int:
    tyro.cli(ListOptions, prog=f"{PROGRAM} list", args=argv)
    table = Table(title="Agents")
    table.add_column("agent", no_wrap=True)
    table.add_column("what it is")
    table.add_column("tuned for")
    for name, agent in AGENTS.items():
        table.add_row(name, agent.SUMMARY, ", ".join(agent.TUNED))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
