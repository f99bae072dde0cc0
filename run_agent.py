"""Train and evaluate the agents of the zoo, and measure gradient estimators.

  python run_agent.py train      train an agent (gumbel-sac on CartPole-v1 unless told otherwise), or resume a run
  python run_agent.py eval       evaluate the model of a run
  python run_agent.py gradients  measure gradient estimators, on a test problem or on the agent of a run
  python run_agent.py list       list the agents and where they are tuned

Each command has --help; `train --agent X --env Y --help` shows the settings of that agent, tuned for that environment.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

try:
    import torch
    import tyro
    from rich.console import Console
    from rich.table import Table

    from agents import AGENTS, defaults, get_agent, gradients, nearest
    from agents.common import UsageError
    from agents.environments import check_environment
    from agents.runs import Config, TrainingError, evaluate_run, is_run, new_folder, resume, start
    from gsrl.checkpoint import CheckpointError
    from gsrl.diagnostics import Comparison
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

LEFT_OUT_FIRST = ("memory", "of mean", "mse", "time", "snr")
"""Columns of the table of gradients that a narrow console does without, in this order."""

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
class ListOptions:
    """List the agents and the environments they are tuned for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The command line without the program's name; the process's own if None.

    Returns:
        Exit code: 0; 1 when training cannot go on; 2 when the command line cannot be used; 130 when it was interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    commands = {"train": _train, "eval": _evaluate, "gradients": _gradients, "list": _list}
    # Without a command, options are those of train.
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "train"
    try:
        if name not in commands:
            raise UsageError(f"unknown command {name!r}; {nearest(name, commands)}")
        return commands[name](argv)
    except (UsageError, CheckpointError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
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


def _gradients(argv: list[str]) -> int:
    options = tyro.cli(GradientsOptions, prog=f"{PROGRAM} gradients", args=argv)
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
        problem = gradients.load_problem(options.run, options.seed)
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
