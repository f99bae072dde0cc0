"""What a run is to do, and the folder that says so."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from stable_baselines3.common.callbacks import BaseCallback

from gsrl._version import __version__
from gsrl.callbacks import GradientDiagnosticsCallback
from gsrl.learning.trace import is_worth_compiling
from gsrl.runs.cards import Card, TaskCard, defaults, get_card, in_lockstep, with_estimator
from gsrl.runs.environments import check_environment, check_origin
from gsrl.runs.errors import UsageError, is_short_of_memory, nearest
from gsrl.runs.files import write_text
from gsrl.runs.named import Named
from gsrl.runs.settings import from_toml, read_toml, shown, to_toml, type_name

__all__ = [
    "Config",
    "check_files",
    "check_unchanged",
    "default_config",
    "describe_session",
    "is_finished",
    "is_run",
    "new_folder",
    "option",
    "parse_config",
    "read_config",
    "read_json",
    "read_settings",
    "refusals",
    "set_threads",
    "settings_file",
    "with_settings",
    "write_config",
    "write_json",
]

FILES = (
    *("config.json", "config.toml", "search.json", "summary.json", "checkpoint.zip", "model.zip"),
    *("progress.csv", "episodes.csv", "evaluations.csv", "times.csv", "gradients.csv", "results.csv"),
    *("learning_curve.png", "search.png", "results.md"),
)
"""What is written into the folder of a run or a search."""

CHANGEABLE = ("steps", "device", "checkpoint_seconds", "sessions")
"""Options that a run may go on with other values of."""

CALLBACKS: dict[str, type[BaseCallback]] = {"GradientDiagnosticsCallback": GradientDiagnosticsCallback}
"""Callbacks that have a name here; evaluations are a run's own."""

MOST_ENVIRONMENTS = 100_000
"""Environments of a training at most: more is a slip of the pen, and takes all the memory before anything is said."""

MOST_THREADS = 1024
"""Threads that torch is asked for at most: where they cannot be made, the process ends without a word."""

NOT_FOR_TASKS = (
    *("n_envs", "processes", "gradient_samples", "stop_at", "max_episode_steps", "record_every"),
    *("env_kwargs", "wrapper", "callback"),
)
"""Options that tasks do without."""

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Config(Generic[Settings]):
    """What to run."""

    settings: Settings
    """The agent's own settings."""
    agent: str
    """Agent to train."""
    env: str
    """Environment to train in: Gymnasium's, or, of agents that talk, their own."""
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
    compile: bool = False
    """Compile updates: some seconds before the first one, then about twice as fast. Unless told, those are that are
    enough to earn the time back."""
    seeds: int | None = None
    """Agents to train in lock-step, with the seeds from --seed on; None for one, by itself."""
    processes: int | None = None
    """Processes that share the agents out among them; None for one a core, at most one an agent. The result depends on
    it by rounding alone."""
    gradient_samples: int = 0
    """Estimates of the actor's gradient drawn at each evaluation, to measure their signal-to-noise ratio, bias and
    variance; 0 for none. For soft actor-critic agents."""
    stop_at: float | None = None
    """Mean return of an evaluation at which one of several agents stops to learn; None for never."""
    max_episode_steps: int | None = None
    """Steps after which an episode is cut off; None for the environment's own limit, and 10,000 where it has none."""
    record_every: int | None = None
    """Steps between recordings, each made at the evaluation that comes next, and at the last; None for none."""
    env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment's constructor, as map_name=8x8 is_slippery=false."""
    wrapper: tuple[str, ...] = ()
    """Gymnasium's wrappers around the environment, the innermost first, as FrameStackObservation:stack_size=4; or one
    module:Class."""
    track: Literal["wandb"] | None = None
    """Where the figures go beside files and TensorBoard; WANDB_MODE=offline keeps those of wandb in the folder."""
    callback: tuple[str, ...] = ()
    """Callbacks of gsrl.callbacks, as GradientDiagnosticsCallback:every=1000, of an agent by itself."""

    @property
    def card(self) -> Card:
        """The agent's."""
        return get_card(self.agent)

    @property
    def making(self) -> dict[str, Any]:
        """How its environments are made, beside their name, number and seeds: arguments of ``make_environments``."""
        return {name: getattr(self, name) for name in ("max_episode_steps", "env_kwargs", "wrapper")}

    def callbacks(self) -> list[BaseCallback]:
        """Makes the callbacks.

        Raises:
            UsageError: There is none of the name, or it refuses its arguments.
        """
        made = []
        for text in self.callback:
            named = Named.read(text, list(CALLBACKS), "--callback")
            if named.name not in CALLBACKS:
                raise UsageError(f"--callback must be {' or '.join(CALLBACKS)}, but got {text}")
            try:
                made.append(CALLBACKS[named.name](**named.arguments))
            except (TypeError, ValueError) as error:
                raise UsageError(f"--callback {text} cannot be made: {error}") from error
        return made

    def check(self) -> None:
        """Checks the numbers and the device.

        Raises:
            UsageError: One cannot be used; the message names its option.
        """
        counts = ("steps", "n_envs", "threads", "eval_every", "eval_episodes", "seeds", "processes")
        for name in (*counts, "max_episode_steps", "record_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{option(name)} must be at least 1, but got {value}")
        if not self.checkpoint_seconds >= 0:
            raise UsageError(f"--checkpoint-seconds must be at least 0, but got {self.checkpoint_seconds}")
        if self.gradient_samples < 0 or self.gradient_samples == 1:
            raise UsageError(f"--gradient-samples must be 0 or at least 2, but got {self.gradient_samples}")
        environments = self.n_envs * (self.seeds or 1)
        if environments > MOST_ENVIRONMENTS:
            raise UsageError(
                f"--n-envs and --seeds must make at most {MOST_ENVIRONMENTS} environments, but got {environments}"
            )
        if self.threads > MOST_THREADS:
            raise UsageError(f"--threads must be at most {MOST_THREADS}, but got {self.threads}")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"--seed must be at least 0 and below 2**31, but got {self.seed}")
        self._check_lockstep()
        self.callbacks()
        found = None if self.track is None else find_spec(self.track)
        if self.track is not None and (found is None or found.origin is None):  # a folder of its runs is no package
            raise UsageError(f'--track {self.track} needs what is not installed: pip install "gsrl[track]"')
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"--device {self.device!r} cannot be used: {reason}; choose another --device") from error

    def _check_lockstep(self) -> None:
        if self.seeds is not None and self.seed + self.seeds > 2**31:
            raise UsageError(f"--seeds must leave all seeds below 2**31, but got {self.seeds} from {self.seed} on")
        card = self.card
        if card.environments is not None:
            steps_environments = not isinstance(card, TaskCard) or card.steps_environments
            for name in NOT_FOR_TASKS:
                if getattr(self, name) != getattr(Config, name) and not (name == "n_envs" and steps_environments):
                    raise UsageError(
                        f"{option(name)} is for agents in Gymnasium's environments, and {self.agent} has its own"
                    )
        if isinstance(card, TaskCard):  # which always are, in one process, and can be compiled
            return
        names = in_lockstep()
        if self.callback and self.seeds is not None:
            raise UsageError("--callback is for an agent by itself: leave --seeds out")
        if self.seeds is None:
            for name in ("processes", "stop_at"):
                if getattr(self, name) is not None:
                    raise UsageError(f"{option(name)} is for several agents in lock-step: give --seeds as well")
        elif self.agent not in names:
            raise UsageError(
                f"--seeds trains agents in lock-step, which {' and '.join(names)} can, but not {self.agent}"
            )
        # In lock-step acting is compiled too, whatever the agent.
        compilable = with_estimator() if self.seeds is None else names
        for name, fitting in (("compile", compilable), ("gradient_samples", with_estimator())):
            if getattr(self, name) and self.agent not in fitting:
                raise UsageError(f"{option(name)} is for {' and '.join(fitting)}, but --agent is {self.agent}")


def default_config(
    agent: str, env: str, steps: int | None = None, *, lockstep: bool, tuned: bool = True
) -> Config[Any]:
    """What is run unless told otherwise: the tuned settings; compiled where there are enough updates to gain by it.

    Args:
        agent: Name of its card.
        env: Name of the environment.
        steps: Environment steps, of agents that talk episodes; None for the tuned number.
        lockstep: Whether several agents are trained in lock-step. Those that talk always are, one of them too.
        tuned: Whether settings tuned for the environment are taken, where there are any.
    """
    default = defaults(agent, env, tuned=tuned)
    steps, card = steps or default.steps, get_card(agent)
    if isinstance(card, TaskCard):
        how: dict[str, Any] = {"n_envs": default.n_envs, "eval_episodes": card.episodes}
        return Config(default.settings, agent, env, steps, seeds=1, **how)
    if lockstep:
        compile = agent in in_lockstep() and is_worth_compiling(steps, in_lockstep=True)
    else:
        settings: Any = default.settings
        compile = agent in with_estimator() and is_worth_compiling(
            steps / (settings.train_freq * default.n_envs) * settings.gradient_steps
            if settings.gradient_steps >= 0
            else steps,
            in_lockstep=False,
        )
    return Config(default.settings, agent, env, steps, n_envs=default.n_envs, compile=compile)


def option(name: str) -> str:
    """Returns the command line's name of a setting."""
    return "--" + name.replace("_", "-")


def set_threads(threads: int) -> None:
    """Sets torch up for small networks."""
    torch.set_num_threads(threads)
    # Adam's moments of units that stopped learning shrink to denormal numbers, which are several times slower.
    torch.set_flush_denormal(True)


@contextmanager
def refusals(agent: str, settings: Any) -> Iterator[None]:
    """Turns what an algorithm says of settings that it refuses into an answer of the command line.

    Args:
        agent: Agent that is made while the block runs.
        settings: Its settings.

    Raises:
        UsageError: It refused them.
    """
    try:
        yield
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        raise UsageError(f"{agent} cannot be made: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_short_of_memory(error):
            raise
        reason = f"{agent} needs more memory than there is: {error}"
        raise UsageError(f"{reason}; try a smaller --buffer-size or --net-arch") from error
    except (AssertionError, TypeError, ValueError) as error:  # assertions are how Stable-Baselines3 refuses
        names = "|".join(field.name for field in dataclasses.fields(settings))
        reason = re.sub(rf"\b({names})(?= must )", lambda match: option(match[1]), str(error))
        raise UsageError(f"{agent} cannot be made with these settings: {reason}") from error


# The folder


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / "config.json").exists()


def new_folder(root: Path, name: str) -> Path:
    """Returns the path of a folder; when there is one of that name, that of its second run, its third, and so on."""
    name = re.sub("[/:]", "-", name)
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}_run{number}"  # a mere number would be read as a seed
    return folder


def check_files(folder: Path) -> None:
    """Sees that no folder stands where a file is to be.

    Raises:
        UsageError: One does.
    """
    for path in (folder / name for name in FILES):
        if path.is_dir():
            raise UsageError(f"{path} must be a file, but is a folder")


def check_unchanged(now: Mapping[str, Any], then: Mapping[str, Any], path: Path) -> None:
    """Sees that a run goes on with what it was begun with.

    Args:
        now: What its configuration says, a dict as of a :class:`Config`.
        then: What its checkpoint was written with.
        path: Path of the configuration.

    Raises:
        UsageError: Something else than :data:`CHANGEABLE` differs; the message names it.
    """
    now, then = ({**each, **each["settings"]} for each in (now, then))
    changed = [
        f"{name} {now[name]} instead of {then[name]}"
        for name in now
        if name in then and name not in ("settings", *CHANGEABLE) and _plain(now[name]) != _plain(then[name])
    ]
    if changed:
        raise UsageError(
            f"{path} was changed since the checkpoint was written: {', '.join(changed)}; change it back, or begin "
            "another run: only --steps and --device can be others"
        )


def _plain(value: Any) -> Any:
    """A value as JSON would hold it."""
    return json.loads(json.dumps(value))


def read_config(folder: Path, *, trusted: bool = False) -> Config[Any]:
    """Reads the configuration of a run.

    Args:
        folder: Folder of the run.
        trusted: See :func:`parse_config`.

    Raises:
        UsageError: It holds no run, or one of another version of this project, or of an environment that is missing or
            would be imported.
    """
    if not is_run(folder):
        raise UsageError(f"{folder} holds no run: it has no config.json")
    return parse_config(folder / "config.json", trusted=trusted)


def parse_config(path: Path, *, trusted: bool = False, environment: bool = True) -> Config[Any]:
    """Reads the configuration in a JSON file, which may hold other things beside it.

    Args:
        path: Path of the file.
        trusted: Whether the module is imported that the name of the environment may begin with. This runs its code.
        environment: Whether to see that the environment is there and suits the agent.

    Raises:
        UsageError: It was written by another version of this project, or its environment is missing or would be
            imported.
    """
    stored = read_json(path)
    try:
        settings = _with_tuples(stored["settings"])
        card = get_card(stored["agent"])
        names = [field.name for field in dataclasses.fields(Config)]
        values = _with_tuples({name: stored[name] for name in names if name in stored})  # older runs lack newer options
        config = Config(**{**values, "settings": card.Settings(**card.earlier | settings)})
        _check_types(config)
        _check_types(config.settings)
    except UsageError as error:
        raise UsageError(f"{path} cannot be used: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} cannot be used: {type(error).__name__}: {error}") from error
    if environment and not trusted:
        check_origin(config.env, path, config.env_kwargs, config.wrapper)
    if environment:
        env = check_environment(config.env, config.agent, config.env_kwargs, config.wrapper)
        config = dataclasses.replace(config, env=env)
    return config


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with tuples for lists, as JSON has them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a settings file: names of options and of the agent's settings, and their values, not yet looked at.

    Raises:
        UsageError: It cannot be read, or agent or environment are no names.
    """
    given = read_toml(path)
    for name in ("agent", "env"):
        if not isinstance(given.get(name, ""), str):
            raise UsageError(f"{path}: {name} must be a name, but got {shown(given[name])}")
    return given


def with_settings(config: Config[Any], given: Mapping[str, Any], path: Path) -> Config[Any]:
    """Returns a configuration with what a settings file says.

    Args:
        config: What is so unless the file says otherwise.
        given: What the file says; its agent and environment are the configuration's affair.
        path: Path of the file, for the errors.

    Raises:
        UsageError: There is no such setting, or a value is none of its.
    """
    hints = typing.get_type_hints(Config)
    options = {name: hints[name] for name in hints if name != "settings"}
    settings: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(config.settings)}
    chosen: dict[str, dict[str, Any]] = {"options": {}, "settings": {}}
    for name, value in given.items():
        if name not in options and name not in settings:
            raise UsageError(
                f"{path}: unknown setting {name!r} of {config.agent}; {nearest(name, [*options, *settings])}"
            )
        try:
            part, kind = ("options", options[name]) if name in options else ("settings", settings[name])
            chosen[part][name] = from_toml(value, kind)
        except ValueError as error:
            raise UsageError(f"{path}: {name} {error}") from None
    chosen["options"] |= {"agent": config.agent, "env": config.env}
    return dataclasses.replace(
        config, settings=dataclasses.replace(config.settings, **chosen["settings"]), **chosen["options"]
    )


def settings_file(config: Config[Any]) -> str:
    """Returns a configuration as a settings file."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    own = values.pop("settings")
    parts = [to_toml(values), to_toml({field.name: getattr(own, field.name) for field in dataclasses.fields(own)})]
    return "# What a run used; `train --config` with this file repeats it.\n\n" + "\n".join(parts)


def write_config(folder: Path, config: Config[Any], command: Sequence[str], steps: int) -> None:
    """Writes the configuration of a run, and adds this session to those before it; and its settings file."""
    path = folder / "config.json"
    earlier = read_json(path).get("sessions", []) if path.exists() else []
    session = {"from_steps": steps, **describe_session(command)}
    write_json(path, {**dataclasses.asdict(config), "sessions": [*earlier, session]})
    write_text(folder / "config.toml", settings_file(config))


def describe_session(command: Sequence[str]) -> dict[str, Any]:
    """Returns what there is to know of this process: what it was asked, when, and what it runs on."""
    packages = ("torch", "stable-baselines3", "gymnasium", "numpy")
    return {
        "command": list(command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "gsrl": __version__,
            **{name: version(name) for name in packages},
        },
        "platform": platform.platform(),
    }


def _check_types(settings: Any) -> None:
    """Raises ``UsageError`` unless each value of a dataclass is of its field's type."""
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not _fits(value, hints[field.name]):
            raise UsageError(f"{field.name} must be {type_name(hints[field.name])}, but got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, as far as settings have them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def read_json(path: Path) -> dict[str, Any]:
    """Reads an object.

    Raises:
        UsageError: The file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} must hold a JSON object, but got {type(value).__name__}")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes an object, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a run that came to its end."""
    path = folder / "summary.json"
    return path.exists() and read_json(path).get("status") == "finished"
