"""What a new learner writes: a loss, how a batch is collected and how a member is played; and the loop that it gets."""

from __future__ import annotations

import copy
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import configure_logger, get_device
from torch import nn

from gsrl import checkpoint
from gsrl._progress import show_progress
from gsrl._random import Role, default_generator_lent, seed_of, seed_sequence
from gsrl.learning.learner import Learner
from gsrl.learning.lockstep import Lockstep

__all__ = ["Task"]


class Task(ABC):
    """Something to be learned by members in lock-step, each by itself, from its own seed.

    A subclass says what a loss is (:meth:`make_loss`), how a batch comes about (:meth:`collect`) and how well a member
    does (:meth:`play`). It gets the training loop with logs and progress, learning-rate schedules, members that diverge
    alone, copies, and files that run no code. Its constructor sets its own settings, and then calls this one.

    A member has the initialisation and random numbers of its seed, whatever its company; parameters differ by rounding
    alone. One whose loss is not finite is reported by a warning and frozen.

    Args:
        seeds: Of each member.
        batch_size: Units that an update takes.
        learning_rate: Adam's step size, or a function of the share of the training that remains, from 1 down to 0.
        max_grad_norm: Largest norm of the gradient of each child of the loss; None: no clipping.
        device: Of the networks.
        compile: Whether updates are compiled, see :class:`gsrl.learning.Learner`.
        tensorboard_log: Folder for TensorBoard; None: there is no log.
        verbose: 1: what is logged is printed, of the first member.
        targets: See :class:`gsrl.learning.Learner`.
        rates: See :class:`gsrl.learning.Learner`.
        make_generator: Makes the torch generator of a seed, on the CPU; None: one of "noise".
        rngs: NumPy generators that each member has, by name, and their roles, see :mod:`gsrl._random`.
        alone: Whether there is a single member, without a dimension of members in what :meth:`collect` returns: its
            updates are those of a :class:`gsrl.learning.Learner` to the bit, and it raises where others are frozen.
        _saved: Members of a file, with which the losses are compared before they take any memory.

    Attributes:
        lockstep: The members: their losses, learners and generators, and who still learns.
        rngs: Those of each member, by name.
        num_updates: Updates so far.
        remaining: Share of the training that remained when the last update began, or begins.
        history: What evaluations along the way have found: ``updates``, units, and the :attr:`score`, one a member.
        loggers: Of each member, while and after it learns.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> class Error(nn.Linear):
        ...     def forward(self, x):
        ...         loss = (super().forward(x) - 2 * x).square().mean()
        ...         return loss, {"error": loss}
        >>> class Doubling(Task):
        ...     def make_loss(self, seed):
        ...         return Error(1, 1)
        ...
        ...     def collect(self):
        ...         return (torch.ones(len(self.seeds), self.batch_size, 1),)
        ...
        ...     def play(self, index, episodes, seed):
        ...         return np.full(episodes, -self.lockstep.losses[index](torch.ones(1))[0].item())
        >>> task = Doubling(seeds=(0, 1), batch_size=8, learning_rate=0.1).learn(8 * 50)
        >>> task.num_updates, task.evaluate(1).shape, bool(task.evaluate(1).min() > -0.1)
        (50, (2, 1), True)
    """

    SETTINGS: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that a file holds; each is an attribute of the same name."""
    unit: ClassVar[str] = "sample"
    """What is counted, in the singular."""
    score: ClassVar[str] = "score"
    """What the history calls the first of :meth:`figures`."""
    member: ClassVar[str] = "member"
    """What messages call a member."""
    advanced: ClassVar[tuple[str, str] | None] = None
    """The child of the loss, such as an estimator, whose ``step`` is told of each update, if it has a state; and the
    metric that it is told."""

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        batch_size: int,
        learning_rate: float | Callable[[float], float],
        max_grad_norm: float | None = None,
        device: torch.device | str = "auto",
        compile: bool = False,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        targets: Sequence[tuple[str, str]] = (),
        rates: Mapping[str, float] = MappingProxyType({}),
        make_generator: Callable[[int], torch.Generator] | None = None,
        rngs: Mapping[str, Role] = MappingProxyType({}),
        alone: bool = False,
        _saved: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.seeds = [int(seed) for seed in seeds]
        self.batch_size, self.learning_rate, self.max_grad_norm = batch_size, learning_rate, max_grad_norm
        self.tensorboard_log, self.verbose = tensorboard_log, verbose
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds must hold at least one, integers of at least 0, but got {self.seeds}.")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, but got {batch_size!r}.")
        if not callable(learning_rate) and not learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, but got {learning_rate}.")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive or None, but got {max_grad_norm}.")
        self.device = get_device(device)
        self.rngs = {
            name: [np.random.default_rng(seed_sequence(seed, role)) for seed in self.seeds]
            for name, role in rngs.items()
        }
        self.num_updates = 0
        self.remaining = 1.0
        self.history: list[dict[str, Any]] = []
        self.loggers: list[Logger] = []
        if _saved is not None:
            self.check_saved(_saved)
        learners = [
            Learner(
                self._initialised(seed), targets, max_grad_norm=max_grad_norm, rates=rates, compile=compile and alone
            )
            for seed in self.seeds
        ]
        generators = None if make_generator is None else [make_generator(seed) for seed in self.seeds]
        self.lockstep = Lockstep(learners, self.seeds, generators, compile=compile, stacked=not alone)
        children = [getattr(loss, self.advanced[0]) for loss in self.lockstep.losses] if self.advanced else []
        self._advanced = [(i, child) for i, child in enumerate(children) if child is not None and child.state_dict()]
        self.is_built = True

    def _initialised(self, seed: int) -> nn.Module:
        with default_generator_lent(seed_of(seed_sequence(seed, "initialisation"))):
            return self.make_loss(seed).to(self.device)

    # What a task says

    @abstractmethod
    def make_loss(self, seed: int) -> nn.Module:
        """The loss of a member: a module of a batch that returns a scalar and metrics, see :class:`Learner`.

        Args:
            seed: Of the member; torch's default generator has been seeded from it.
        """

    @abstractmethod
    def collect(self) -> tuple[Any, ...]:
        """Arguments of the loss for an update, of all members: tensors ``[S, ...]`` on :attr:`device`.

        What is random comes from ``lockstep.generators`` and :attr:`rngs`. Noise of modules that take some is drawn
        afterwards, for a batch ``[batch_size]``, see :mod:`gsrl.learning.noise`.
        """

    @abstractmethod
    def play(self, index: int, episodes: int, seed: int, *args: Any, **how: Any) -> Any:
        """How well a member does, without learning: by default an array of scores ``[episodes]``, larger is better.

        Args:
            index: Of the member.
            episodes: How many, or samples.
            seed: Of what is random, beside the member's own.
            *args: Whatever else there is to say.
            **how: The same, by name.
        """

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """What an evaluation in the middle of the training finds, ``[S]`` by name; the first is the score."""
        return {self.score: self.evaluate().mean(1)}

    def tau(self) -> float | None:
        """Polyak's coefficient of the next update, see :meth:`gsrl.learning.Lockstep.update`."""
        return None

    def advance(self, metrics: Mapping[str, Any]) -> None:
        """Advances what changes between updates and is not learned, such as temperatures; called after each.

        By default that is what :attr:`advanced` names.
        """
        if self.advanced is not None and self._advanced:
            told = metrics[self.advanced[1]].reshape(len(self.seeds), -1)
            for index, child in self._advanced:
                child.step(told[index])

    # Training

    @property
    def steps(self) -> int:
        """Units of each member so far."""
        return self.steps_of(self.num_updates)

    def steps_of(self, updates: int) -> int:
        """Units that so many updates take."""
        return updates * self.batch_size

    def learn(
        self,
        steps: int,
        callback: Callable[[Self], bool | None] | None = None,
        *,
        total: int | None = None,
        log_interval: int = 100,
        progress_bar: bool = False,
        tb_log_name: str | None = None,
    ) -> Self:
        """Trains every member for ``steps`` more units, or as many as fill whole updates.

        Args:
            steps: How many.
            callback: Called with this object after every evaluation; returning False ends the training.
            total: Units of the whole training, over which the learning rate's schedule goes, in however many calls;
                None: what this call reaches.
            log_interval: Updates between two evaluations, which are logged and added to :attr:`history`.
            progress_bar: Whether a progress bar is shown; needs tqdm.
            tb_log_name: Name of the run in TensorBoard; None: that of the class.

        Returns:
            This object.

        Raises:
            FloatingPointError: The loss of a member that is alone is not finite.
        """
        if log_interval < 1:
            raise ValueError(f"log_interval must be at least 1, but got {log_interval}.")
        if not self.loggers:
            self._make_loggers(tb_log_name or type(self).__name__.lower())
        until = self.steps + steps
        total = until if total is None else total
        with show_progress(until, self.steps, shown=progress_bar) as bar:
            while self.steps < until and bool(self.lockstep.alive.any()):
                before = self.steps
                self._update(max(0.0, 1 - before / total))
                bar.update(self.steps - before)
                if self.num_updates % log_interval == 0:
                    self._log()
                    if callback is not None and callback(self) is False:
                        break
        self._report_diverged()
        return self

    def _update(self, remaining: float) -> None:
        self.remaining = remaining
        learning_rate = self.learning_rate(remaining) if callable(self.learning_rate) else self.learning_rate
        batch, noise = self.collect(), self.lockstep.draw_noise((self.batch_size,))
        metrics = self.lockstep.update(*batch, learning_rate=learning_rate, tau=self.tau(), noise=noise)
        self.num_updates += 1
        self.advance(metrics)

    def _make_loggers(self, name: str) -> None:
        names = [f"{name}_seed_{seed}" for seed in self.seeds] if self.lockstep.is_stacked else [name]
        self.loggers = [
            configure_logger(self.verbose if index == 0 else 0, self.tensorboard_log, each, self.num_updates == 0)
            for index, each in enumerate(names)
        ]

    def _log(self) -> None:
        figures = self.figures()
        scores = next(iter(figures.values()))
        self.history.append({"updates": self.num_updates, f"{self.unit}s": self.steps, self.score: scores.tolist()})
        self._report_diverged()
        for index, (logger, row) in enumerate(zip(self.loggers, self.scalars(), strict=True)):
            found = {f"eval/{name}": values[index] for name, values in figures.items()}
            for name, value in {**row, **found}.items():
                logger.record(name, value)
            logger.dump(self._logged_at())

    def _logged_at(self) -> int:
        """Where the log of now stands."""
        return self.steps

    def scalars(self) -> list[dict[str, float]]:
        """What the last update found, of each member: for loggers."""
        progress = {"time/updates": float(self.num_updates), f"time/{self.unit}s": float(self.steps)}
        return [{**row, **progress} for row in self.lockstep.scalars()]

    def _report_diverged(self) -> None:
        """Warns of the members that have been frozen since the last time."""
        advice = "Try a lower learning_rate, or max_grad_norm."
        for index in self.lockstep.newly_diverged():
            if not self.lockstep.is_stacked:
                raise FloatingPointError(
                    f"the loss is not finite after {self.num_updates} updates: the training diverged. {advice}"
                )
            warnings.warn(
                f"the {self.member} of seed {self.seeds[index]} diverged by {self.steps} {self.unit}s: its loss is not "
                f"finite. It is frozen, the others go on. {advice}",
                stacklevel=3,
            )

    # Execution

    def evaluate(self, episodes: int = 1000, *, seed: int = 0, **how: Any) -> Any:
        """What :meth:`play` finds of every member, by default scores ``[S, episodes]``; the same at each call.

        Args:
            episodes: Of each member.
            seed: Of the episodes.
            **how: What else :meth:`play` takes.
        """
        return np.stack([self.play(index, episodes, seed, **how) for index in range(len(self.seeds))])

    # State

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy or a pickle: without the loggers, whose files are open. Training makes new ones."""
        return {**self.__dict__, "loggers": []}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while the members learn, as a tree that :func:`gsrl.checkpoint.save` stores.

        It is a copy, which does not change with its owner.
        """
        state = self.lockstep.state_dict()
        for index, own in enumerate(state["members"]):
            own |= {name: rngs[index].bit_generator.state for name, rngs in self.rngs.items()}
        return {**state, "num_updates": self.num_updates, "history": copy.deepcopy(self.history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`, of as many members of the same settings.

        Raises:
            gsrl.checkpoint.CheckpointError: An entry is missing or has another shape; nothing is restored then.
            ValueError: There is another number of members.
        """
        checkpoint.check_entries(state, dict.fromkeys(("members", "num_updates", "history")))
        checkpoint.check_counts(state, "num_updates")
        for own in state["members"]:
            checkpoint.check_entries(own, dict.fromkeys(self.rngs))
        self.lockstep.load_state_dict(state)
        for index, own in enumerate(state["members"]):
            for name, rngs in self.rngs.items():
                rngs[index].bit_generator.state = own[name]
        self.num_updates, self.history = state["num_updates"], copy.deepcopy(state["history"])

    def state_of_one(self, state: Mapping[str, Any], index: int) -> dict[str, Any]:
        """What of :meth:`state_dict` one by itself loads, who then does what this member does.

        Args:
            state: Of all.
            index: Of the member.
        """
        own = {name: state[name][index : index + 1] for name in ("members", "alive", "diverged")}
        return {**state, **own, "history": []}

    def settings(self) -> dict[str, Any]:
        """What a file holds beside the state."""
        return {name: getattr(self, name) for name in self.SETTINGS}

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Saves the members with all that they have, as tensors and JSON: loading such a file runs no code.

        Args:
            path: Path or binary file object.
        """
        checkpoint.save(path, {"algorithm": type(self).__name__, **self.settings(), **self.state_dict()})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | BinaryIO,
        *given: Any,
        device: torch.device | str = "auto",
        compile: bool = False,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        custom_objects: dict[str, Any] | None = None,
        trusted: bool = False,
    ) -> Self:
        """Loads what :meth:`save` wrote, which goes on where it was.

        Args:
            path: Of the file, or a binary file object.
            *given: First arguments of the constructor that no file holds, such as an environment.
            device: Of the networks.
            compile: Whether updates are compiled.
            tensorboard_log: See the constructor.
            verbose: See the constructor.
            custom_objects: Values that take the place of saved ones, such as modules that are not gsrl's own.
            trusted: Whether classes that gsrl does not know are imported. This runs code of the file's choosing.

        Raises:
            gsrl.checkpoint.CheckpointError: The file is damaged, or holds something else.
        """
        tree = checkpoint.load(path, trusted=trusted, replace=custom_objects or {})
        if not isinstance(tree, dict) or tree.get("algorithm") != cls.__name__:
            raise checkpoint.other_kind(path, cls.__name__, tree)
        how = {"device": device, "compile": compile, "tensorboard_log": tensorboard_log, "verbose": verbose}
        with checkpoint.fitting(path):
            if len(tree["seeds"]) != len(tree["members"]):
                counts = f"{len(tree['seeds'])} and {len(tree['members'])}"
                raise ValueError(f"seeds and members must be as many, but got {counts}")
            task = cls.of_saved(tree, *given, **how, _saved=None if custom_objects else tree["members"])
            task.load_state_dict(tree)
            for index, loss in enumerate(task.lockstep.losses):
                checkpoint.check_finite(loss.state_dict(), f"{cls.member} {index} of {path}")
        return task

    @classmethod
    def of_saved(cls, tree: Mapping[str, Any], *given: Any, **how: Any) -> Self:
        """A new one with the settings of a file."""
        make: Any = cls
        task: Self = make(*given, **{name: tree[name] for name in cls.SETTINGS}, **how)
        return task

    def check_saved(self, members: Sequence[Mapping[str, Any]]) -> None:
        """Compares the losses of these settings with saved ones, before they take any memory.

        Raises:
            gsrl.checkpoint.CheckpointError: They are others.
        """
        for index, member in enumerate(members):
            checkpoint.check_module(member["loss"], lambda: self.make_loss(self.seeds[0]), f"members.{index}.loss")
