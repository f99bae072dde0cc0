"""Runs suites: ``run_agent.py bench``.

A *task* is what one process does: a population of all seeds of an agent that can go in lock-step, or one run of
another. Its folder lies in ``runs/``, inside that of the benchmark, and is that of ``run_agent.py train``, with
``task.json`` and ``task.log`` beside. The folder of the benchmark holds

- ``results.csv``: a row an evaluation, of all finished runs; see :data:`gsrl.bench.tables.RESULTS`;
- ``gradients.csv``: figures of the actors' gradients, where the suite asks for ``gradient_samples``;
- ``suite.json``: what was run, with what, where and when.

What is finished is not repeated, what is not goes on; the tables alone say what is finished, the folders need not be
there. What a task does depends on the suite alone: neither on the number of processes nor on the backend.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tqdm import tqdm

from gsrl._progress import show_progress
from gsrl.bench.origin import processor
from gsrl.bench.suite import Environment, Plan, Suite, slug
from gsrl.bench.tables import RESULTS, TABLES, Key, Rows, finished_runs, merged, read_table, rows_of, write_table
from gsrl.bench.worker import LOG, TASK, Child, last_line
from gsrl.runs import program
from gsrl.runs.cards import loaded_zoo
from gsrl.runs.config import Config, describe_session, is_finished, is_run, read_config, read_json, write_json
from gsrl.runs.environments import check_environment
from gsrl.runs.errors import UsageError, nearest
from gsrl.runs.files import occupied
from gsrl.runs.interruption import Stop

__all__ = ["Backend", "Outcome", "Summary", "Task", "bench", "choose", "make_tasks", "on_ray", "seconds_left"]

POLL = 0.1
"""Seconds between two looks at the processes."""
RETRIES = 2
"""How often Ray tries a task again that failed, from its checkpoint where its folder is still there."""


@dataclass(frozen=True)
class Task:
    """What one process does."""

    suite: str
    label: str
    config: Config[Any]

    @property
    def seeds(self) -> range:
        """Its seeds."""
        return range(self.config.seed, self.config.seed + (self.config.seeds or 1))

    @property
    def keys(self) -> set[Key]:
        """Its runs."""
        return {Key(self.label, self.config.env, seed) for seed in self.seeds}

    @property
    def name(self) -> str:
        """Of its folder."""
        seeds = f"seed{self.config.seed}" if self.config.seeds is None else f"seeds{self.seeds[0]}-{self.seeds[-1]}"
        return f"{slug(self.config.env)}_{slug(self.label)}_{seeds}"

    def __str__(self) -> str:
        """In words."""
        if self.config.seeds is None:
            return f"{self.label} on {self.config.env}, seed {self.config.seed}"
        return f"{self.label} on {self.config.env}, seeds {self.seeds[0]} to {self.seeds[-1]} in lock-step"


class Outcome(NamedTuple):
    """How a task ended."""

    task: Task
    status: str
    """``"finished"``, ``"failed"`` or ``"interrupted"``."""
    rows: tuple[Rows, ...] = ()
    """Of each of the tables, if it finished."""
    message: str = ""
    """Why it failed."""
    log: str = ""
    """Where to read more."""


class Summary(NamedTuple):
    """How a benchmark ended."""

    finished: int
    """Runs that are finished, of all."""
    planned: int
    failed: list[Outcome]
    interrupted: bool


Backend = Callable[[Sequence[Task], Path, Stop], Iterator[Outcome]]
"""Carries out tasks in folders below one, and yields each as it ends; when it is stopped, it ends those under way."""


# What there is to do


def choose(plans: Sequence[Plan], patterns: Sequence[str]) -> list[Plan]:
    """Returns the plans that fit patterns, such as ``ppo*`` and ``CartPole-v1``; all, for none.

    A plan fits if one of the patterns of agents fits its label or agent, and one of those of environments fits its own:
    where only agents are named, in all environments, and the other way round.

    Raises:
        UsageError: A pattern fits nothing.
    """
    agents = {name for plan in plans for name in (plan.label, plan.config.agent)}
    environments = {plan.config.env for plan in plans}
    for pattern in patterns:
        if not _fitting(agents | environments, [pattern]):
            raise UsageError(f"--only {pattern!r} fits nothing of the suite; {nearest(pattern, agents | environments)}")
    agents = _fitting(agents, patterns) or agents
    environments = _fitting(environments, patterns) or environments
    return [plan for plan in plans if {plan.label, plan.config.agent} & agents and plan.config.env in environments]


def _fitting(names: set[str], patterns: Sequence[str]) -> set[str]:
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def make_tasks(suite: str, plans: Iterable[Plan], finished: set[Key]) -> list[Task]:
    """Returns what is left to do.

    Args:
        suite: Name of the suite.
        plans: What is to be run.
        finished: Runs that are done.
    """
    tasks = []
    for plan in plans:
        left = [seed for seed in plan.seed_range if Key(plan.label, plan.config.env, seed) not in finished]
        for block in _blocks(left) if plan.lockstep else [[seed] for seed in left]:
            seeds = len(block) if plan.lockstep else None
            tasks.append(Task(suite, plan.label, dataclasses.replace(plan.config, seed=block[0], seeds=seeds)))
    return tasks


def _blocks(seeds: Sequence[int]) -> list[list[int]]:
    """Seeds in a row, together."""
    blocks: list[list[int]] = []
    for seed in seeds:
        if blocks and blocks[-1][-1] == seed - 1:
            blocks[-1].append(seed)
        else:
            blocks.append([seed])
    return blocks


def seconds_left(
    waiting: Iterable[Task], running: Mapping[Task, float], rows: Iterable[Mapping[str, str]], processes: int
) -> float | None:
    """Guesses the time to the end, by what finished runs of the same agent took for a step.

    Args:
        waiting: Tasks to come.
        running: Tasks under way, and the seconds they have had.
        rows: Of the finished runs.
        processes: Tasks at a time.

    Returns:
        Seconds; None if nothing is known yet.
    """
    paces: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if row["final"] == "1":
            pace = float(row["seconds"]) / (int(row["step"]) * int(row["members"]))
            for kind in ((row["agent"], row["env"]), (row["agent"],), ()):
                paces.setdefault(kind, []).append(pace)
    if not paces:
        return None

    def duration(task: Task) -> float:
        config = task.config
        pace = next(paces[k] for k in ((config.agent, config.env), (config.agent,), ()) if k in paces)
        return median(pace) * config.steps * len(task.seeds)

    left = [max(0.0, duration(task) - seconds) for task, seconds in running.items()]
    total = [*map(duration, waiting), *left]
    return max(sum(total) / processes, *left, 0.0)


# Backends


def prepare(task: Task, folder: Path, command: Sequence[str]) -> None:
    """Makes the folder of a task.

    Raises:
        UsageError: It holds another run.
    """
    wanted = {**dataclasses.asdict(task.config), "suite": task.suite, "label": task.label}
    if is_run(folder) and read_config(folder) != task.config:
        there, ours = dataclasses.asdict(read_config(folder)), dataclasses.asdict(task.config)
        raise UsageError(_begun_with(folder, there, ours))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TASK, {**wanted, "command": list(command), "zoo": loaded_zoo()})


def collect(task: Task, folder: Path, exit_code: int) -> Outcome:
    """Says how a task ended."""
    if is_run(folder) and is_finished(folder):
        rows = tuple(rows_of(folder, task.suite, task.label, table) for table in TABLES)
        return Outcome(task, "finished", rows)
    if exit_code == 130:
        return Outcome(task, "interrupted")
    words = f"ended by signal {-exit_code}" if exit_code < 0 else last_line(folder)
    return Outcome(task, "failed", message=words, log=str(folder / LOG))


def on_this_machine(processes: int, command: Sequence[str], report: Callable[[Mapping[Task, float]], None]) -> Backend:
    """Returns the backend that has so many processes of this machine.

    Args:
        processes: At a time.
        command: The command line, to be recorded.
        report: Is told again and again which tasks run, and for how many seconds.
    """

    def run(tasks: Sequence[Task], runs: Path, stop: Stop) -> Iterator[Outcome]:
        waiting = deque(tasks)
        running: dict[Task, tuple[Child, float]] = {}
        asked = False
        try:
            while running or (waiting and not stop.requested):
                while waiting and len(running) < processes and not stop.requested:
                    task = waiting.popleft()
                    prepare(task, runs / task.name, command)
                    running[task] = Child(runs / task.name), time.monotonic()
                if stop.requested and not asked:
                    asked = True
                    for child, _ in running.values():
                        child.stop()
                for task, (child, _) in list(running.items()):
                    code = child.poll()
                    if code is not None:
                        del running[task]
                        # Before its training listens, a stop ends a process at once.
                        yield collect(task, child.folder, 130 if asked and code < 0 else code)
                report({task: time.monotonic() - begin for task, (_, begin) in running.items()})
                time.sleep(POLL)
        finally:
            for child, _ in running.values():
                child.kill()

    return run


class _TaskFailed(RuntimeError):
    """For Ray to try again."""


def on_ray(address: str | None, processes: int | None, command: Sequence[str]) -> Backend:
    """Returns the backend of a Ray cluster: each task is one of Ray's, which starts the same process.

    Rows come back to the machine that asks, so that machines need not share a file system; where they do, a task that
    is tried again goes on from its checkpoint.

    Args:
        address: Of the cluster, such as ``"auto"``; None for one on this machine, for as long as it takes.
        processes: Tasks at a time on this machine; None: one a core. A cluster decides by itself.
        command: The command line, to be recorded.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError('--backend ray needs ray, which is not installed: pip install -e ".[ray]"') from error

    def run(tasks: Sequence[Task], runs: Path, stop: Stop) -> Iterator[Outcome]:
        # Machines of a cluster get the code; on this one it is where it is.
        code = {"working_dir": str(program.root), "excludes": ["/runs", "/.git", "/.venv", "/benchmarks/results"]}
        own: dict[str, Any] = {"num_cpus": processes, "include_dashboard": False} if address is None else {}
        try:
            ray.init(
                address or "local", runtime_env=code if address and program.root else None, log_to_driver=False, **own
            )
        except ConnectionError as error:
            raise UsageError(f"--address {address} is no Ray cluster: {error}") from error
        except Exception as error:  # Ray has no narrower name for it
            raise UsageError(f"Ray cannot be started: {error}") from error
        # A list of exceptions is allowed, whatever Ray's annotation says.
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": RETRIES, "retry_exceptions": [_TaskFailed]}
        submit = ray.remote(**options)(_run_task).remote
        try:
            left = {submit(task, (runs / task.name).resolve(), list(command)): task for task in tasks}
            asked = False
            while left:
                if stop.requested and not asked:
                    asked = True
                    for reference in left:
                        ray.cancel(reference)
                for reference in ray.wait(list(left), timeout=POLL)[0]:
                    task = left.pop(reference)
                    try:
                        yield ray.get(reference)
                    except ray.exceptions.TaskCancelledError:
                        yield Outcome(task, "interrupted")
                    except ray.exceptions.RayError as error:
                        cause = getattr(error, "cause", None)
                        if stop.requested and not isinstance(cause, _TaskFailed):
                            yield Outcome(task, "interrupted")
                        else:
                            words, log = cause.args if isinstance(cause, _TaskFailed) else (str(error), "Ray's own")
                            yield Outcome(task, "failed", message=words, log=log)
        finally:
            ray.shutdown()

    return run


def _run_task(task: Task, folder: Path, command: Sequence[str]) -> Outcome:
    """What a task of Ray does: it watches over a process."""
    check_environment(task.config.env, task.config.agent)  # which imports what the one who asks has imported
    prepare(task, folder, command)
    child = Child(folder)
    try:
        code = child.wait()
    except BaseException:  # it was cancelled
        child.stop()
        code = child.wait()
        return Outcome(task, "interrupted") if code else collect(task, folder, code)
    outcome = collect(task, folder, code)
    if outcome.status == "failed":
        raise _TaskFailed(outcome.message, f"{outcome.log} on {platform.node()}")
    return outcome


# The benchmark


def bench(
    suite: Suite,
    out: Path,
    backend: Callable[[Callable[[Mapping[Task, float]], None]], Backend],
    command: Sequence[str],
    *,
    only: Sequence[str] = (),
    processes: int = 1,
) -> Summary:
    """Runs what is left of a suite.

    Args:
        suite: What to run.
        out: Folder of the benchmark.
        backend: Makes what carries tasks out, from what it is to report to.
        command: The command line, to be recorded.
        only: Patterns of labels, agents and environments; see :func:`choose`.
        processes: Tasks at a time, for the guess of the time left.

    Returns:
        How it ended; all else is in the folder.

    Raises:
        UsageError: The folder holds other results than the suite's, or cannot be used.
    """
    plans = choose(suite.plans, only)
    with occupied(out):
        return _bench(suite, plans, out, backend, command, processes)


def _bench(
    suite: Suite,
    plans: Sequence[Plan],
    out: Path,
    backend: Callable[[Callable[[Mapping[Task, float]], None]], Backend],
    command: Sequence[str],
    processes: int,
) -> Summary:
    _record(suite, out, command)
    tables = [read_table(out, table) for table in TABLES]
    for folder, label in _finished_folders(suite, out):
        tables = [
            merged(rows, rows_of(folder, suite.name, label, table)) for rows, table in zip(tables, TABLES, strict=True)
        ]
    _write(out, tables)

    tasks = make_tasks(suite.name, plans, finished_runs(tables[0]))
    for task in tasks:  # before any work
        if is_run(out / "runs" / task.name):
            prepare(task, out / "runs" / task.name, command)
    planned = {Key(plan.label, plan.config.env, seed) for plan in plans for seed in plan.seed_range}
    failed: list[Outcome] = []
    waiting = set(tasks)
    stop = Stop()
    form = "{l_bar}{bar}| {n_fmt} of {total_fmt} runs{postfix}"
    done = len(planned) - sum(len(task.keys) for task in tasks)
    with (
        stop.listening(),
        show_progress(len(planned), done, shown=None, bar_format=form) as bar,
    ):

        def report(running: Mapping[Task, float]) -> None:
            if not bar.disable:
                seconds = seconds_left(waiting - running.keys(), running, tables[0], processes)
                left = "" if seconds is None else f", about {tqdm.format_interval(seconds)} left"
                bar.set_postfix_str(f"{len(running)} under way{left}")

        for outcome in backend(report)(tasks, out / "runs", stop):
            waiting.discard(outcome.task)
            if outcome.status == "finished":
                tables = [merged(rows, new) for rows, new in zip(tables, outcome.rows, strict=True)]
                _write(out, tables)
                bar.update(len(outcome.task.keys))
                tqdm.write(_line(outcome))
            elif outcome.status == "failed":
                failed.append(outcome)
                tqdm.write(f"{outcome.task}: FAILED: {outcome.message}")
    return Summary(len(planned & finished_runs(tables[0])), len(planned), failed, stop.requested)


def _finished_folders(suite: Suite, out: Path) -> list[tuple[Path, str]]:
    """The folders of finished tasks of the suite, and their labels.

    Raises:
        UsageError: A plan has changed since.
    """
    plans = {(plan.label, plan.config.env): plan for plan in suite.plans}
    found = []
    for folder in sorted(path.parent for path in (out / "runs").glob(f"*/{TASK}")):
        if not (is_run(folder) and is_finished(folder)):
            continue
        label, config = read_json(folder / TASK)["label"], read_config(folder)
        plan = plans.get((label, config.env))
        if plan is None:  # of an earlier form of the suite: no plan would say what its rows are
            continue
        if config.seed >= plan.config.seed:  # a task has some of the seeds
            config = dataclasses.replace(config, seed=plan.config.seed)
        there, ours = _described(dataclasses.replace(plan, config=config)), _described(plan)
        if there != ours:
            raise UsageError(_begun_with(folder, there, ours))
        found.append((folder, label))
    return found


def _begun_with(folder: Path, there: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    return f"{folder} was begun with {_difference(there, ours)}: remove it, or choose another --out"


def _write(out: Path, tables: Sequence[Rows]) -> None:
    for table, rows in zip(TABLES, tables, strict=True):
        write_table(out, table, rows)


def _line(outcome: Outcome) -> str:
    final = [row for row in outcome.rows[0] if row["final"] == "1"]
    returns = ", ".join(
        f"{float(row['mean_return']):.4g}{' (diverged)' if row['diverged'] == '1' else ''}" for row in final
    )
    return f"{outcome.task}: {returns} in {float(final[0]['seconds']):.0f} s"


def _record(suite: Suite, out: Path, command: Sequence[str]) -> None:
    """Writes ``suite.json``, and adds this session to those before it.

    Plans that the suite has no more are kept as long as they have results.

    Raises:
        UsageError: There are results of a plan that has changed since.
    """
    path = out / "suite.json"
    new: dict[str, Any] = {"suite": suite.name, "plans": [], "sessions": []}
    stored = read_json(path) if path.exists() else new
    if stored["suite"] != suite.name:
        raise UsageError(f"{out} holds results of suite {stored['suite']}, not of {suite.name}: choose another --out")
    plans = json.loads(json.dumps([_described(plan) for plan in suite.plans]))
    present = {(row["label"], row["env"]) for row in read_table(out, RESULTS)}
    before = {(plan["label"], plan["env"]): plan for plan in stored["plans"]}
    for plan, config in zip(plans, (plan.config for plan in suite.plans), strict=True):
        place = (plan["label"], plan["env"])
        if place in present and place in before:
            # Results that were made before there was a first seed begin with 0.
            there, ours = ({"first_seed": 0, **each, "seeds": None} for each in (before[place], plan))
            # Settings that the agent has been given since were at their defaults, which are what it did before.
            since = {**dataclasses.asdict(type(config.settings)()), **config.card.earlier}
            there["settings"] = since | there["settings"]
            there = json.loads(json.dumps(there))
            if there != ours:
                raise UsageError(
                    f"{out} holds results of {plan['label']} on {plan['env']} with {_difference(there, ours)}: choose "
                    "another --out, or another label"
                )
    planned = {(plan["label"], plan["env"]) for plan in plans}
    kept = [plan for place, plan in before.items() if place in present - planned]
    write_json(
        path,
        {
            "suite": suite.name,
            "summary": suite.summary,
            "environments": [_known(environment) for environment in suite.environments],
            "plans": [*plans, *kept],
            "sessions": [*stored["sessions"], _describe(command)],
        },
    )


def _known(environment: Environment) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(environment).items() if value is not None}


def _described(plan: Plan) -> dict[str, Any]:
    """What a plan is, as ``suite.json`` holds it."""
    config = dataclasses.asdict(plan.config)
    names = ("agent", "env", "steps", "n_envs", "eval_every", "eval_episodes", "gradient_samples", "settings")
    how: dict[str, Any] = {"lockstep": plan.lockstep, "compile": plan.config.compile}
    if plan.config.max_episode_steps is not None:  # results that were made before there was this option have none
        how["max_episode_steps"] = plan.config.max_episode_steps
    seeds = {"seeds": plan.seeds, "first_seed": plan.config.seed}
    return {"label": plan.label, **seeds, **how, **{name: config[name] for name in names}}


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Names what differs, inside settings too."""
    old, new = ({**each, **each["settings"]} for each in (old, new))
    names = [name for name in {**old, **new} if name != "settings" and old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} instead of {new.get(name)}" for name in names)


def _describe(command: Sequence[str]) -> dict[str, Any]:
    """What there is to know of this process, the machine and the code."""
    return {**describe_session(command), "processor": processor(), "cores": os.cpu_count(), "git": _revision()}


def _revision() -> str | None:
    """The revision of the code, with a + where files differ from it; None where there is no git, or no checkout."""
    if program.root is None:
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=program.root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
