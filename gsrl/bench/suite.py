"""Suites: what a benchmark runs, read from a TOML file, and every word of it checked before any work.

``docs/benchmarks.md`` describes the format.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import string
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsrl.learning.trace import is_worth_compiling
from gsrl.runs import program
from gsrl.runs.cards import full_name, get_card, in_lockstep, with_estimator
from gsrl.runs.config import NOT_FOR_TASKS, Config, default_config, refusals
from gsrl.runs.environments import check_environment, check_origin, make_environments
from gsrl.runs.errors import UsageError, nearest
from gsrl.runs.settings import from_toml, is_a, read_toml, shown

__all__ = ["Environment", "Plan", "Suite", "read_suite", "shipped", "slug"]

"""Folder of the suites that come with the project."""

DEFAULTS: dict[str, Any] = {
    "seeds": int,
    "first_seed": int,
    "steps": int,
    "times": int,
    "n_envs": int,
    "eval_every": int,
    "eval_episodes": int,
    "gradient_samples": int,
    "max_episode_steps": int,
    "tuned": bool,
    "lockstep": bool,
}
"""Keys of a run that can also stand at the top of the file, for all runs; and what their values are."""

ALIKE = ("n_envs", "eval_every", "eval_episodes", "max_episode_steps")
"""Those of them that are options of ``train`` as they are."""

RUN: dict[str, Any] = {
    **DEFAULTS,
    "agents": list[str],
    "environments": list[str],
    "label": str,
    "settings": dict,
    "each": dict,
}
TOP: dict[str, Any] = {**DEFAULTS, "summary": str, "environments": dict, "runs": list[dict]}
SCALE = ("low", "high", "threshold")
ENVIRONMENT: dict[str, Any] = {"steps": int, **dict.fromkeys(SCALE, float)}

LABEL = re.compile(r"[\w .+×-]+")
"""What a label may consist of: it becomes part of a folder's name."""
MOST_CHARACTERS = 100
"""Of a label."""
LEAST = {"first_seed": 0, "gradient_samples": 0}
"""Of what is counted; 1 unless it stands here."""
TOO_MANY = 10**12
"""Of steps, and of all else that is counted."""
MOST_RUNS = 100_000
"""Of a suite, all seeds counted: more is a slip of the pen."""


@dataclass(frozen=True)
class Environment:
    """An environment of a suite, and what its returns mean."""

    name: str
    """Gymnasium's name, or that of one where agents talk."""
    steps: int | None = None
    """Environment steps of a run; episodes where agents talk."""
    low: float | None = None
    """Return that counts 0 where environments are taken together: that of random actions."""
    high: float | None = None
    """Return that counts 1: the best there is, or a good one."""
    threshold: float | None = None
    """Return at which it counts as solved."""


@dataclass(frozen=True)
class Plan:
    """One agent in one environment, with all its seeds."""

    label: str
    """What tells it from other variants of the agent."""
    seeds: int
    """How many."""
    config: Config[Any]
    """What is run, with the first seed; ``seeds`` is set where agents are trained in lock-step."""

    @property
    def seed_range(self) -> range:
        """The seeds."""
        return range(self.config.seed, self.config.seed + self.seeds)

    @property
    def lockstep(self) -> bool:
        """Whether the seeds are trained in lock-step."""
        return self.config.seeds is not None


@dataclass(frozen=True)
class Suite:
    """What a benchmark runs."""

    name: str
    summary: str
    """What it is about, in a line."""
    environments: tuple[Environment, ...]
    plans: tuple[Plan, ...]


def shipped() -> dict[str, Path]:
    """Returns the suites that come with a checkout, by name."""
    folder = None if program.root is None else program.root / "benchmarks" / "suites"
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.toml"))}


def slug(text: str) -> str:
    """Returns a label as it stands in the name of a folder."""
    return re.sub(r"[^\w.+-]", "-", text)


def read_suite(name: str, *, trusted: bool = False) -> Suite:
    """Reads a suite, and checks all that can be known before it is run.

    Args:
        name: Of a suite that comes with the checkout, or the path of a TOML file.
        trusted: Whether the modules of environments ``module:name`` are imported. This runs their code.

    Raises:
        UsageError: It cannot be used; the message names the file, the key, and what may have been meant.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if name not in shipped():
            raise UsageError(f"unknown suite {name!r}, and no path of a .toml file; {nearest(name, shipped())}")
        path = shipped()[name]
    return _Reader(path, trusted=trusted).suite(read_toml(path))


class _Reader:
    """Reads the tree of one file, whose name stands in every error.

    Args:
        path: Path of the file.
        trusted: Whether modules of environments are imported.
    """

    def __init__(self, path: Path, *, trusted: bool) -> None:
        self.path = path
        self.trusted = trusted

    def error(self, key: str, reason: str) -> UsageError:
        """What is wrong with a key."""
        return UsageError(f"{self.path}: {key}: {reason}")

    @contextmanager
    def naming(self, key: str) -> typing.Iterator[None]:
        """Names file and key in front of what others have to say."""
        try:
            yield
        except UsageError as error:
            raise self.error(key, str(error)) from error

    def suite(self, tree: Mapping[str, Any]) -> Suite:
        self.check("", tree, TOP)
        if not tree.get("runs"):
            raise self.error("runs", "there are none; each is a table [[runs]] with agents")
        if not tree.get("environments"):
            raise self.error("environments", "there are none; each is a table such as [environments.CartPole-v1]")
        environments = {}
        for name, table in tree["environments"].items():
            key = f"environments.{name}"
            if not isinstance(table, dict):
                raise self.error(key, f"must be a table, but got {shown(table)}")
            self.check(key, table, ENVIRONMENT)
            scale = {limit: self.number(f"{key}.{limit}", table[limit]) for limit in SCALE if limit in table}
            environments[name] = Environment(name, table.get("steps"), **scale)
            self.check_scale(key, environments[name])
        defaults = {name: tree[name] for name in DEFAULTS if name in tree}
        plans: list[Plan] = []
        for index, table in enumerate(tree["runs"], 1):
            key = f"runs[{index}]"
            self.check_count(key, table, defaults, environments, sum(plan.seeds for plan in plans))
            plans += self.plans(key, table, defaults, environments)
        self.check_unique(plans)
        named = tuple(dataclasses.replace(each, name=full_name(each.name)) for each in environments.values())
        return Suite(self.path.stem, tree.get("summary", ""), named, tuple(plans))

    def plans(
        self,
        key: str,
        table: Mapping[str, Any],
        defaults: Mapping[str, Any],
        environments: Mapping[str, Environment],
    ) -> Iterable[Plan]:
        """All that one table stands for."""
        names = table.get("environments", list(environments))
        for name in names:
            if name not in environments:
                reason = f"{name!r} has no table [environments.{name}] in this file; {nearest(name, environments)}"
                raise self.error(f"{key}.environments", reason)
        for name in table["agents"]:
            with self.naming(f"{key}.agents"):
                get_card(name)
        each = table.get("each", {})
        for agent, *values in itertools.product(table["agents"], *each.values()):
            settings = {**table.get("settings", {}), **dict(zip(each, values, strict=True))}
            label = self.label(f"{key}.label", table.get("label", "{agent}"), {"agent": agent, **settings})
            # One that talks does without some of what all have; in its own table it is a mistake.
            common = {k: v for k, v in defaults.items() if not get_card(agent).is_task or k not in NOT_FOR_TASKS}
            for name in names:
                options = {**common, **table}
                yield self.plan(key, agent, label, environments[name], options, settings, "steps" in table)

    def label(self, key: str, template: str, values: Mapping[str, Any]) -> str:
        """Fills in a label: values as they are, and no other text in braces, which could make it of any length."""
        try:
            fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
        except ValueError as error:
            raise self.error(key, f"{shown(template)} cannot be filled in: {error}") from error
        for _, name, form, conversion in fields:
            if name not in values or form or conversion:
                names = ", ".join(f"{{{known}}}" for known in values)
                raise self.error(key, f"{shown(template)} may hold {names} as they are, and no other braces")
        label = template.format(**values)
        if len(label) > MOST_CHARACTERS:
            reason = f"{shown(label)} must have at most {MOST_CHARACTERS} characters, but got {len(label)}"
            raise self.error(key, reason)
        if not LABEL.fullmatch(label):
            raise self.error(key, f"{shown(label)} must consist of letters, digits, spaces and .+-_×")
        return label

    def plan(
        self,
        key: str,
        agent: str,
        label: str,
        environment: Environment,
        options: Mapping[str, Any],
        settings: Mapping[str, Any],
        has_steps: bool,
    ) -> Plan:
        """One agent in one environment."""
        if not self.trusted:
            check_origin(environment.name, self.path)
        with self.naming(f"{key}, {agent} on {environment.name}"):
            env_id = check_environment(environment.name, agent)
        is_task = get_card(agent).is_task
        lockstep = is_task or (agent in in_lockstep() and options.get("lockstep", True))
        seeds = options.get("seeds", 1)
        default = default_config(agent, env_id, lockstep=lockstep, tuned=options.get("tuned", True))
        steps = (options["steps"] if has_steps else environment.steps) or options.get("steps") or default.steps
        steps *= options.get("times", 1)
        known: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(default.settings)}
        chosen = {}
        for name, value in settings.items():
            if name not in known:
                raise self.error(f"{key}.settings.{name}", f"{agent} has no such setting; {nearest(name, known)}")
            try:
                chosen[name] = from_toml(value, known[name])
            except ValueError as error:
                raise self.error(f"{key}.settings.{name}", str(error)) from None
        config = dataclasses.replace(
            default,
            settings=dataclasses.replace(default.settings, **chosen),
            steps=steps,
            **{name: options[name] for name in ALIKE if name in options},
            # An agent without such a gradient is beside the point, not a mistake, where all have this default.
            gradient_samples=options.get("gradient_samples", 0) if agent in with_estimator() else 0,
            # In one process, as those that talk always are: how members are shared out must not depend on the machine.
            seed=options.get("first_seed", 0),
            seeds=seeds if lockstep else None,
            processes=1 if lockstep and not is_task else None,
            compile=lockstep and not is_task and is_worth_compiling(steps, in_lockstep=True),
        )
        with self.naming(f"{key}, {agent} on {environment.name}"):
            config.check()
            _try_out(config)
        return Plan(label, seeds, config)

    # Checks

    def check(self, key: str, table: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        """Checks names and types of a table's values."""
        for name, value in table.items():
            where = f"{key}.{name}" if key else name
            if name not in known:
                raise self.error(where, f"unknown key; {nearest(name, known)}")
            if not is_a(value, known[name]):
                raise self.error(where, f"must be {_described(known[name])}, but got {shown(value)}")
            if known[name] is int and value < (least := LEAST.get(name, 1)):
                raise self.error(where, f"must be at least {least}, but got {value}")
            if known[name] is int and value >= TOO_MANY:
                raise self.error(where, f"must be below {TOO_MANY}, but got {shown(value)}")

    def check_count(
        self,
        key: str,
        table: Mapping[str, Any],
        defaults: Mapping[str, Any],
        environments: Mapping[str, Environment],
        others: int,
    ) -> None:
        """Checks the lists that a table multiplies, and how many runs come of them, before any is made."""
        self.check(key, table, RUN)
        if not table.get("agents"):
            raise self.error(f"{key}.agents", "there are none")
        each = table.get("each", {})
        for name, values in each.items():
            if not isinstance(values, list) or not values:
                raise self.error(f"{key}.each.{name}", f"must be a list of values, but got {shown(values)}")
        factors = [len(table["agents"]), len(table.get("environments", environments)), *map(len, each.values())]
        runs = math.prod(factors) * {**defaults, **table}.get("seeds", 1)
        last = {**defaults, **table}.get("first_seed", 0) + {**defaults, **table}.get("seeds", 1) - 1
        if last >= 2**31:
            raise self.error(key, f"seeds must be below 2**31, but the last is {last}")
        if others + runs > MOST_RUNS:
            raise self.error(key, f"a suite must have at most {MOST_RUNS} runs, but this makes {others + runs}")

    def number(self, key: str, value: float) -> float:
        """Returns a number that can be reckoned with."""
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(key, f"must be finite, but got {shown(value)}")
        return number

    def check_scale(self, key: str, environment: Environment) -> None:
        """Checks that returns can be put on a scale, if at all."""
        low, high = environment.low, environment.high
        if (low is None) != (high is None):
            raise self.error(key, "low and high belong together")
        if low is not None and high is not None and not low < high:
            raise self.error(key, f"low must be below high, but they are {low:g} and {high:g}")
        if low is not None and high is not None and not math.isfinite(high - low):
            raise self.error(key, f"high must be less above low, but they are {low:g} and {high:g}")

    def check_unique(self, plans: Sequence[Plan]) -> None:
        """Checks that results can be told apart."""
        seen: dict[tuple[str, str], Plan] = {}
        for plan in plans:
            place = (slug(plan.label), plan.config.env)
            if place in seen:
                reason = f"{plan.label!r} on {plan.config.env} stands there twice; give one of them another label"
                raise self.error("runs", reason)
            seen[place] = plan


def _try_out(config: Config[Any]) -> None:
    """Makes the agent once, to see that it takes its settings."""
    card = config.card
    if card.is_task:
        with refusals(config.agent, config.settings):
            card.make(config.env, config.settings, seeds=(0,), device=config.device)
        return
    with closing(make_environments(config.env, config.n_envs, 0)) as env, refusals(config.agent, config.settings):
        card.make(env, config.settings, seed=0, device=config.device)


def _described(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", dict: "a table"}
    if typing.get_origin(kind) is list:
        return {str: "a list of texts", dict: "a list of tables"}[typing.get_args(kind)[0]]
    return names[kind]
