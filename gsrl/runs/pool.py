"""Agents in lock-step, shared out to processes that work side by side.

Each process has a :class:`gsrl.Population` of its own, a *share*. Members do not depend on their company, so that it
does not matter, beyond rounding, how they are shared out. One share alone is worked on in this process.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from gsrl import checkpoint
from gsrl.population import VECTORS, Episode, Population, PopulationCallback
from gsrl.runs.config import Config, refusals, set_threads
from gsrl.runs.environments import make_environment, make_environments
from gsrl.runs.errors import TrainingError
from gsrl.runs.gradients import actor_gradient
from gsrl.runs.interruption import Interrupted
from gsrl.runs.rewind import RewindError, restore, snapshot
from gsrl.runs.trainees import CURVE_EPISODES, EVALUATION_ENVS, evaluation_seed

__all__ = ["Member", "Members", "number_of_processes"]

PATIENCE = 5.0
"""Seconds that a process has to end by itself."""


class Member(NamedTuple):
    """An agent of many."""

    seed: int
    """Its seed."""
    settings: Any
    """Its settings, of the agent's ``Settings``."""


class Progress(NamedTuple):
    """Where a share has come to."""

    steps: int
    """Steps of each member."""
    stopped_at: list[int | None]
    """Steps after which each member was frozen; None: it learns."""
    diverged: list[bool]
    """Whether each member was frozen because its loss was not finite."""
    seconds: dict[str, float]
    """Time spent, by kind."""
    episodes: list[Episode]
    """Training episodes that have ended since the last time."""


class _Share(PopulationCallback):
    """Some of the members, in one process.

    Args:
        config: What to run; its ``settings`` and ``seed`` are the members' own.
        members: Who they are.
        cancelled: Whether an evaluation under way is to be given up.
    """

    def __init__(self, config: Config[Any], members: Sequence[Member], cancelled: Callable[[], bool]) -> None:
        set_threads(config.threads)
        self.config = config
        self.cancelled = cancelled
        self.population = _make_population(config, members)
        self._until = 0
        self._episodes: list[Episode] = []

    def on_rollout_start(self, population: Population) -> bool:
        return population.num_timesteps < self._until

    def on_episodes(self, population: Population, episodes: Sequence[Episode]) -> None:
        self._episodes += [episode for episode in episodes if population.stopped_at[episode.member] is None]

    def learn(self, steps: int) -> Progress:
        """Trains until each member has done so many steps, or none learns any more."""
        self._until = steps
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"member \d+, of seed \d+, diverged")  # which is told by seed alone
            # To the end of the run, for the learning rate's schedule: the callback stops it.
            remaining = self.config.steps - self.population.num_timesteps
            self.population.learn(remaining, self, reset_num_timesteps=False)
        return self.progress()

    def progress(self) -> Progress:
        """Where it has come to."""
        population = self.population
        episodes, self._episodes = self._episodes, []
        return Progress(
            population.num_timesteps,
            list(population.stopped_at),
            list(population.diverged),
            dict(population.stopwatch.seconds),
            episodes,
        )

    def evaluate(self, episodes: int, final: bool) -> NDArray[np.float64]:
        """The returns of each member in greedy episodes."""
        steps = None if final else self.population.num_timesteps
        seeds = [evaluation_seed(seed, steps) for seed in self.population.seeds]
        return self.population.evaluate(episodes, seeds=seeds, n_envs=EVALUATION_ENVS, callback=self._check)

    def _check(self) -> None:
        if self.cancelled():
            raise Interrupted

    def gradients(self, num_samples: int) -> list[dict[str, float]]:
        """Figures of the actor's gradient of each member; none of one that has diverged."""
        population = self.population
        figures: list[dict[str, float]] = []
        for index, (seed, diverged) in enumerate(zip(population.seeds, population.diverged, strict=True)):
            self._check()
            if diverged:
                figures.append({})
                continue
            with warnings.catch_warnings(action="ignore"):  # of environments that are made once more
                member = population.member(index)
            figures.append(actor_gradient(member, num_samples, seed))
            if (env := member.get_env()) is not None:
                env.close()
        return figures

    def scalars(self) -> list[dict[str, float]]:
        """What is logged of each member."""
        return self.population.scalars()

    def stop(self, indices: Iterable[int]) -> None:
        """Freezes members."""
        for index in indices:
            self.population.stop(index)

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some members alone."""
        self.population.keep(indices)

    def save_models(self, paths: Mapping[int, Path]) -> None:
        """Saves members, each as an agent of its own."""
        for index, path in paths.items():
            self.population.member(index).save(path)

    def state(self, rewindable: bool) -> NDArray[np.uint8]:
        """All that changes while it learns, as the bytes of a checkpoint."""
        begun = self.population._last_obs is not None
        environments = snapshot(self.population.env) if begun and rewindable else None
        file = io.BytesIO()
        checkpoint.save(file, {"population": self.population.state_dict(), "environments": environments})
        return np.frombuffer(file.getbuffer(), dtype=np.uint8)

    def load_state(self, state: NDArray[np.uint8]) -> str | None:
        """Restores :meth:`state`; returns why environments could not be brought to where they were, if so."""
        tree = checkpoint.load(io.BytesIO(state.tobytes()), device=self.config.device)
        population, obstacle = self.population, None
        if tree["environments"] is not None:
            try:
                restore(population.env, tree["environments"])
            except RewindError as error:
                obstacle = str(error)
        population.load_state_dict(tree["population"])  # which takes the environments to be where they were
        if tree["environments"] is None or obstacle is not None:
            population.begin_anew()
        return obstacle

    def close(self) -> None:
        """Closes the environments."""
        self.population.close()


def _make_population(config: Config[Any], members: Sequence[Member]) -> Population:
    card = config.card
    with closing(make_environments(config.env, 1, 0, **config.making)) as env:
        arguments = [card.arguments(env, member.settings) for member in members]
    merged: dict[str, Any] = {
        name: [each[name] for each in arguments] if name in VECTORS else value
        for name, value in arguments[0].items()
        if name != "env"
    }
    return Population(
        card.constructor,
        partial(make_environment, config.env, **config.making),
        [member.seed for member in members],
        n_envs=config.n_envs,
        device=config.device,
        compile=config.compile,
        **merged,
    )


# Processes


class _InThisProcess:
    """Works on a share: what a method of it returns, or raises, is asked for by ``submit``, and told by ``result``."""

    def __init__(self, config: Config[Any], members: Sequence[Member]) -> None:
        self._cancelled = False
        self._share = _Share(config, members, lambda: self._cancelled)
        self._call: tuple[str, tuple[Any, ...]] = ("", ())

    def submit(self, method: str, *arguments: Any) -> None:
        self._call = (method, arguments)

    def result(self) -> Any:
        method, arguments = self._call
        return getattr(self._share, method)(*arguments)

    def cancel(self) -> None:
        self._cancelled = True

    def close(self) -> None:
        self._share.close()


class _InOwnProcess:
    """The same in a process of its own, which ends with this one however that ends."""

    def __init__(self, config: Config[Any], members: Sequence[Member]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would have this one's threads and pipes
        self._cancelled = context.Event()
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, self._cancelled, config, members)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()  # so that its end is the end of the pipe

    def submit(self, method: str, *arguments: Any) -> None:
        with suppress(OSError):  # then the result says that it is gone
            self._pipe.send((method, arguments))

    def result(self) -> Any:
        try:
            succeeded, result = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(PATIENCE)
            raise TrainingError(
                f"a process of the training has died, with exit code {self._process.exitcode}; memory may be short: "
                "fewer --processes or a smaller --buffer-size need less"
            ) from error
        if not succeeded:
            raise result
        return result

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        self._pipe.close()
        self._process.join(0.1)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, cancelled: Any, config: Config[Any], members: Sequence[Member]) -> None:
    """What a process does: it answers until the other end of the pipe is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes: the first one decides
        signal.signal(number, signal.SIG_IGN)
    share: list[_Share] = []
    call: Callable[..., Any] = lambda: share.append(_Share(config, members, cancelled.is_set))  # noqa: E731
    arguments: tuple[Any, ...] = ()
    with suppress(EOFError, OSError):
        while True:
            try:
                answer = (True, call(*arguments))
            except Exception as error:
                if not isinstance(error, Interrupted):
                    error.add_note(f"In a process of the training:\n{traceback.format_exc()}")
                answer = (False, error)
            pipe.send(answer)
            method, arguments = pipe.recv()
            call = getattr(share[0], method)


def number_of_processes(members: int, device: str) -> int:
    """How many processes are best: one a core, but no more than members; a GPU's members are best in one."""
    if not device.startswith("cpu"):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, members)


class Members:
    """Members of a population, shared out to processes.

    Args:
        config: What to run, by ``config.processes`` processes; its ``settings`` and ``seed`` are the members' own.
        members: Who they are.
        places: Which of them each process has; None: they are dealt out in turn.

    Attributes:
        members: Who they are, those that were left behind not among them.
        places: Which of them each process has.
        steps: Steps of each.
        stopped_at: Steps after which each was frozen; None: it learns.
        diverged: Whether each was frozen because its loss was not finite.

    Raises:
        UsageError: The agent cannot be made with these settings.
    """

    def __init__(
        self, config: Config[Any], members: Sequence[Member], places: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.members = list(members)
        self.curve_episodes = CURVE_EPISODES
        self.steps = 0
        self.stopped_at: list[int | None] = [None] * len(members)
        self.diverged = [False] * len(members)
        self._seconds: list[dict[str, float]] = []
        if places is None:
            count = min(config.processes or 1, len(members))
            places = [range(first, len(members), count) for first in range(count)]
        self._config = config
        self.places = [list(each) for each in places]
        self._workers: list[_InThisProcess | _InOwnProcess] = []
        try:
            with refusals(config.agent, members[0].settings):
                shares = [[members[place] for place in each] for each in self.places]
                if len(shares) == 1:
                    self._workers.append(_InThisProcess(config, shares[0]))
                else:
                    for share in shares:  # one by one: those that have begun can be closed
                        self._workers.append(_InOwnProcess(config, share))
                    self._results()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """How many there are."""
        return len(self.members)

    @property
    def seeds(self) -> list[int]:
        """Of each."""
        return [member.seed for member in self.members]

    def why_lost(self) -> str | None:
        """Says that all have diverged, if so."""
        return "the loss of no seed is finite" if all(self.diverged) else None

    def cancel(self) -> None:
        """Lets an evaluation under way raise ``Interrupted``."""
        for worker in self._workers:
            worker.cancel()

    def learn(self, steps: int) -> list[Episode]:
        """Trains until each has done so many steps, or none learns any more; returns the episodes that ended."""
        return self._advanced(self._call("learn", steps))

    def _advanced(self, shares: Sequence[Progress]) -> list[Episode]:
        self.steps = max(share.steps for share in shares)
        self.stopped_at = self._joined([share.stopped_at for share in shares])
        self.diverged = self._joined([share.diverged for share in shares])
        self._seconds = [share.seconds for share in shares]
        episodes = [
            episode._replace(member=places[episode.member])
            for places, share in zip(self.places, shares, strict=True)
            for episode in share.episodes
        ]
        return sorted(episodes, key=lambda episode: (episode.steps, episode.member))

    def evaluate(self, episodes: int, *, final: bool = False) -> NDArray[np.float64]:
        """Returns those of greedy episodes, ``[members, episodes]``, as :class:`gsrl.runs.trainees.Evaluator` does.

        Args:
            episodes: How many of each.
            final: Whether it is the final evaluation; else steps decide on the episodes.

        Raises:
            Interrupted: It was cancelled.
        """
        return np.array(self._joined(self._call("evaluate", episodes, final)))

    def gradients(self, num_samples: int) -> list[dict[str, float]]:
        """Returns figures of the actor's gradient of each, see :func:`gsrl.runs.gradients.actor_gradient`.

        Raises:
            Interrupted: It was cancelled.
        """
        return self._joined(self._call("gradients", num_samples))

    def scalars(self) -> list[dict[str, float]]:
        """Returns what is logged of each."""
        return self._joined(self._call("scalars"))

    def stop(self, indices: Iterable[int]) -> None:
        """Freezes some."""
        indices = set(indices)
        self._each("stop", [[i for i, place in enumerate(places) if place in indices] for places in self.places])
        self._advanced(self._call("progress"))

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some alone, in the order they are in.

        Args:
            indices: Of the members to keep.
        """
        kept = sorted(indices)
        chosen = [[i for i, place in enumerate(places) if place in kept] for places in self.places]
        for worker, own in zip(self._workers, chosen, strict=True):
            if not own:
                worker.close()
        self._workers = [worker for worker, own in zip(self._workers, chosen, strict=True) if own]
        self.places = [
            [kept.index(places[i]) for i in own] for places, own in zip(self.places, chosen, strict=True) if own
        ]
        self.members = [self.members[index] for index in kept]
        self._each("keep", [own for own in chosen if own])
        self._advanced(self._call("progress"))

    def save_models(self, paths: Sequence[Path]) -> None:
        """Saves each as an agent of its own."""
        self._save_models(dict(enumerate(paths)))

    def _save_models(self, paths: Mapping[int, Path]) -> None:
        each = [{i: paths[place] for i, place in enumerate(places) if place in paths} for places in self.places]
        self._each("save_models", each)

    def models(self, count: int) -> dict[int, BaseAlgorithm]:
        """Returns the first agents that have not diverged, by seed: copies, whichever process they are in."""
        chosen = [index for index, diverged in enumerate(self.diverged) if not diverged][:count]
        with tempfile.TemporaryDirectory() as folder:
            paths = {index: Path(folder) / f"{index}.zip" for index in chosen}
            self._save_models(paths)
            load = self._config.card.constructor.load
            return {self.members[i].seed: load(path, device=self._config.device) for i, path in paths.items()}

    def state(self, *, rewindable: bool) -> dict[str, list[NDArray[np.uint8]]]:
        """Returns all that changes while they learn, in one array of bytes for each process."""
        return {"members": self._call("state", rewindable)}

    def load_state(self, state: Mapping[str, Any]) -> str | None:
        """Restores :meth:`state`, of as many processes with the same members.

        Returns:
            None; or why environments could not be brought to where they were, so that new episodes begin.

        Raises:
            gsrl.checkpoint.CheckpointError: The state does not fit.
        """
        checkpoint.check_entries(state, {"members": None})
        shares = state["members"]
        if len(shares) != len(self._workers):
            raise checkpoint.CheckpointError(
                f"it is of {len(shares)} processes, but there are {len(self._workers)} here"
            )
        obstacles = self._each("load_state", shares)
        self._advanced(self._call("progress"))
        return next((obstacle for obstacle in obstacles if obstacle is not None), None)

    def seconds(self) -> dict[str, float]:
        """Returns the time of this process's life that was spent on each kind of work, a mean over processes."""
        kinds = dict.fromkeys(kind for seconds in self._seconds for kind in seconds)
        return {kind: float(np.mean([seconds.get(kind, 0.0) for seconds in self._seconds])) for kind in kinds}

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            worker.close()

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        """Results of all workers, which work at the same time."""
        for worker in self._workers:
            worker.submit(method, *arguments)
        return self._results()

    def _each(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        """The same, with an argument for each."""
        for worker, argument in zip(self._workers, arguments, strict=True):
            worker.submit(method, argument)
        return self._results()

    def _results(self) -> list[Any]:
        results, errors = [], []
        for worker in self._workers:
            try:
                results.append(worker.result())
            except Exception as error:  # not before the others have answered: what comes next is for the next question
                errors.append(error)
        if errors:
            raise errors[0]
        return results

    def _joined(self, shares: Sequence[Sequence[Any]]) -> list[Any]:
        """What belongs to the members, in their order."""
        by_place = {
            place: value
            for places, values in zip(self.places, shares, strict=True)
            for place, value in zip(places, values, strict=True)
        }
        return [by_place[place] for place in range(len(self.members))]
