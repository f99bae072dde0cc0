"""Losses that learn in lock-step, each by itself: many seeds, or settings, for the price of few; or one alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gsrl import checkpoint
from gsrl._random import seed_of, seed_sequence
from gsrl._shapes import Float, Float64
from gsrl.learning.learner import Inputs, Learner, Tensors, Update, bias_corrections, call
from gsrl.learning.noise import draw
from gsrl.learning.trace import Traced
from gsrl.temperature import Temperature

__all__ = ["Lockstep", "Mapped"]

EAGER_CALLS = 100
"""Calls of a function of all members before one is recorded, see :class:`gsrl.learning.trace.Traced`."""


class Lockstep:
    """S members that learn in lock-step: their losses, learners, random numbers, and who of them still learns.

    The loss is mapped over the members by ``torch.func.vmap``; one backward pass and one step of Adam serve them all.
    Members share nothing: each is clipped by its own norms, has its own learning rate and Polyak coefficient, and
    counts its own updates. A member whose loss or gradient is not finite has diverged, and is frozen: its parameters
    and targets stay as they are from then on, and those of the others are what they would have been.

    The learners given become rows: their parameters, targets, moments, buffers, frozen parameters and counts are those
    of this object's tensors. So a member's networks are always what the updates have made of them, and what is loaded
    into them is loaded here. A copy or a pickle is whole, and has tensors of its own.

    Args:
        learners: At least one, all on one device, of losses that differ in their tensors alone.
        seeds: Of each; their numbers if None.
        generators: Torch generator of each; what is drawn from it is up to those who learn. None: of the seeds.
        compile: See :class:`Learner`.
        stacked: Whether there is a dimension of members. A single one may do without, in arguments, noise and metrics
            too: its updates are those of its learner, to the bit, and it is not frozen by them.

    Attributes:
        alive: Which members are not frozen, bool ``[S]``.
        diverged: Of which this is known to be so because something of theirs was not finite.
        metrics: What the last update found, ``[S, ...]`` by name.

    Raises:
        ValueError: There is no learner, or their tensors or settings differ.

    Example:
        >>> from gsrl.perception.latents import CategoricalVAE
        >>> parts = [(nn.Linear(8, 6), nn.Linear(6, 8)) for _ in range(2)]
        >>> learners = [Learner(CategoricalVAE(*each, n=2, K=3, estimator="st-gumbel")) for each in parts]
        >>> lockstep = Lockstep(learners)
        >>> images = torch.ones(2, 10, 8)  # ten of each member
        >>> metrics = lockstep.update(images, learning_rate=1e-2, noise=lockstep.draw_noise([10]))
        >>> lockstep.counts, {name: value.shape for name, value in metrics.items()}
        ([1, 1], {'cost': torch.Size([2]), 'kl': torch.Size([2])})
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        seeds: Sequence[int] | None = None,
        generators: Sequence[torch.Generator] | None = None,
        *,
        compile: bool = False,
        stacked: bool = True,
    ) -> None:
        if not learners:
            raise ValueError("learners must hold at least one, but got none.")
        if not stacked and len(learners) > 1:
            raise ValueError(f"stacked must be True for {len(learners)} members, but got False.")
        _check_alike(learners)
        self.learners = list(learners)
        self.seeds = list(range(len(learners)) if seeds is None else seeds)
        if generators is None:
            generators = [torch.Generator().manual_seed(seed_of(seed_sequence(seed, "noise"))) for seed in self.seeds]
        self.generators = list(generators)
        self.compile, self.is_stacked = compile, stacked
        self.alive = torch.ones(len(learners), dtype=torch.bool, device=learners[0].tensors.parameters.device)
        self.frozen = [False] * len(learners)  # of which it is known
        self.diverged = [False] * len(learners)
        self.metrics: dict[str, Tensor] = {}
        self._stack()

    def _stack(self) -> None:
        """Makes the learners' tensors rows of this one's."""
        self._update: Update | None = None
        if not self.is_stacked:
            return
        first, members = self.learners[0], [learner.tensors for learner in self.learners]
        counts = [learner.count for learner in self.learners]
        self._counts = torch.tensor(counts, dtype=torch.float64, device=self.alive.device)
        stacked = Tensors(
            torch.stack([tensors.parameters for tensors in members]),
            torch.stack([tensors.gradient for tensors in members]),
            torch.stack([tensors.exp_avg for tensors in members]),
            torch.stack([tensors.exp_avg_sq for tensors in members]),
            [torch.stack(flats) for flats in zip(*(tensors.targets for tensors in members), strict=True)],
            {name: torch.stack([tensors.others[name].detach() for tensors in members]) for name in members[0].others},
        )
        for index, learner in enumerate(self.learners):
            rows = Tensors(*tree_map(itemgetter(index), tuple(stacked)))
            learner.become_row(rows, self._counts[index])
        settings: dict[str, Any] = {name: getattr(first, name) for name in ("betas", "eps", "max_grad_norm", "rates")}
        self._update = Update(first.loss, first.structure, stacked, alive=self.alive, compile=self.compile, **settings)

    def compile_updates(self) -> None:
        """Lets updates be compiled from the next one on; views of the members' tensors are to be made anew."""
        self.compile = True
        self._stack()

    def __len__(self) -> int:
        """S, the number of members."""
        return len(self.learners)

    @property
    def losses(self) -> list[Any]:
        """The loss of each member."""
        return [learner.loss for learner in self.learners]

    @property
    def counts(self) -> list[int]:
        """Updates of each member."""
        return [learner.count for learner in self.learners]

    def tensors(self, child: str) -> dict[str, Tensor]:
        """The parameters and buffers of a child of the loss, by name, ``[S, ...]``: views, which updates change."""
        assert self._update is not None  # the loss itself has those of one alone
        named = {**self._update.views.parameters, **self._update.views.others}
        first_names = self.learners[0].structure.first_names
        return {
            name[len(child) + 1 :]: named[first]
            for name, first in first_names.items()
            if name.split(".")[0] == child and first in named
        }

    # Learning

    def draw_noise(self, batch_shape: Sequence[int]) -> dict[str, Any]:
        """Noise of the modules that take some, by path, see :mod:`gsrl.learning.noise`; empty where there are none.

        Args:
            batch_shape: Of what modules are called with, without the members.

        Returns:
            Trees of tensors ``[S, *batch_shape, ...]``; each member draws from its generator what it would alone.
        """
        if not self.learners[0].noisy:
            return {}
        drawn = [
            draw(learner.noisy, batch_shape, generator)
            for learner, generator in zip(self.learners, self.generators, strict=True)
        ]
        if not self.is_stacked:
            return drawn[0]
        noise: dict[str, Any] = tree_map(lambda *leaves: torch.stack(leaves).to(self.alive.device), *drawn)
        return noise

    def update(
        self,
        *args: Any,
        learning_rate: float | Tensor,
        tau: float | Tensor | None = None,
        noise: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, Tensor]:
        """One update of all members.

        Args:
            *args: Arguments of the loss; their tensors have a leading dimension of members.
            learning_rate: Adam's step size; of all, or of each, float64 ``[S]``.
            tau: Polyak's coefficient, likewise; None: all targets stay as they are.
            noise: What :meth:`draw_noise` returned; modules without an entry have none.

        Returns:
            The metrics of the loss, from before the update, with a leading dimension of members.
        """
        if self._update is None:
            numbers: dict[str, Any] = {"learning_rate": learning_rate, "tau": tau}
            self.metrics = self.learners[0].update(*args, **numbers, noise=noise)
        else:
            inputs = (args, dict(noise))
            self.metrics = self._updated(self._update, inputs, self._of_each(learning_rate), self._of_each(tau))
        return self.metrics

    def _updated(
        self,
        update: Update,
        inputs: Inputs,
        learning_rate: Float64[Tensor, " S"],
        tau: Float64[Tensor, " S"] | None,
    ) -> dict[str, Tensor]:
        alive, counts = self.alive, self._counts
        result: Any
        metrics: dict[str, Tensor]
        if update.is_compiled:
            is_due = torch.full((), tau is not None, device=alive.device)
            shares = torch.zeros_like(counts) if tau is None else tau
            result = update.traced(inputs, alive, counts, learning_rate, shares, is_due)
            if result is not None:
                metrics, update.norms = result
                return metrics
        else:
            result = update.traced(inputs)
        losses, gradients, metrics = update.gradients(update.views, inputs) if result is None else result
        gradient = update.gather(gradients)
        alive.logical_and_(losses.isfinite() & gradient.sum(-1).isfinite())
        counts.add_(alive)
        step, epsilon = bias_corrections(counts.clamp_min(1), learning_rate * alive, update.betas, update.eps)
        if tau is not None:
            tau = (tau * alive).to(losses.dtype).unsqueeze(-1)
        step, epsilon = (number.to(losses.dtype).unsqueeze(-1) for number in (step, epsilon))
        update.step_(step, epsilon, tau)
        return metrics

    def _of_each(self, value: Any) -> Any:
        """A number as that of each member, float64 ``[S]``."""
        if value is None or isinstance(value, Tensor):
            return value
        return torch.full_like(self._counts, value)

    # Members

    def freeze(self, index: int) -> None:
        """Lets a member stay as it is, for good; the others go on."""
        self.alive[index] = False
        self.frozen[index] = True

    def newly_diverged(self) -> list[int]:
        """Those that have diverged since this was last asked; they are frozen."""
        if self._update is None and not all(bool(value.isfinite().all()) for value in self.metrics.values()):
            self.alive[0] = False
        found = [i for i, alive in enumerate(self.alive.tolist()) if not alive and not self.frozen[i]]
        for index in found:
            self.frozen[index] = self.diverged[index] = True
        return found

    def restore(self, alive: Any, diverged: Sequence[bool], frozen: Sequence[bool]) -> None:
        """Sets who still learns, who has diverged, and of whom it is known that they are frozen."""
        self.alive.copy_(torch.as_tensor(alive))
        self.diverged, self.frozen = ([bool(each) for each in every] for every in (diverged, frozen))

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some of the members alone, in this order; views of their tensors are to be made anew."""
        for name in ("learners", "generators", "seeds", "frozen", "diverged"):
            values = getattr(self, name)
            setattr(self, name, [values[index] for index in indices])
        self.metrics = {}
        self.alive = self.alive[list(indices)]
        self._stack()

    # Figures

    def gradient_norms(self) -> dict[str, Float[Tensor, "..."]]:
        """Norm ``[S]`` of the last gradient of each child of the loss, before clipping; zeros before the first."""
        return self.learners[0].gradient_norms() if self._update is None else self._update.gradient_norms()

    def scalars(self, **figures: Tensor) -> list[dict[str, float]]:
        """What the last update found, of each member, for loggers; and the temperatures and bonuses of now.

        Metrics are means over what they have beside the members.

        Args:
            **figures: ``[S, ...]``, in the place of metrics of these names, or beside them.
        """
        norms = {f"gradient_norm_{name}": norm for name, norm in self.gradient_norms().items() if self.metrics}
        found = {**self.metrics, **figures, **norms}
        columns = {name: value.reshape(len(self), -1).mean(-1).tolist() for name, value in found.items()}
        rows = [{f"train/{name}": column[i] for name, column in columns.items()} for i in range(len(self))]
        for row, loss in zip(rows, self.losses, strict=True):
            for name, module in loss.named_modules():
                if isinstance(module, Temperature):
                    row[f"train/{name.split('.')[-1]}"] = module().item()
        return rows

    # State

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy or a pickle: the learners, which hold all tensors, and what is said of them here."""
        state = {name: value for name, value in self.__dict__.items() if name not in ("_update", "_counts")}
        return {**state, "_norms": {} if self._update is None else self._update.norms}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a copy or a pickle, in which each learner has tensors of its own."""
        norms = state.pop("_norms")
        self.__dict__.update(state)
        self._stack()
        if self._update is not None:
            self._update.norms = norms

    def member_state(self, index: int) -> dict[str, Any]:
        """All of a member, as a tree that :func:`gsrl.checkpoint.save` stores; it changes with its owner."""
        learner = self.learners[index]
        state = {"loss": learner.loss.state_dict(), "learner": learner.state_dict()}
        return {**state, "generator": self.generators[index].get_state()}

    def state_dict(self) -> dict[str, Any]:
        """All of all members, as such a tree; it is a copy."""
        members = [self.member_state(index) for index in range(len(self))]
        return checkpoint.copied({"members": members, "alive": self.alive.tolist(), "diverged": self.diverged})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`, of as many members of the same losses.

        Raises:
            gsrl.checkpoint.CheckpointError: An entry is missing or has another shape; nothing is restored then.
            ValueError: There is another number of members.
        """
        checkpoint.check_entries(state, dict.fromkeys(("members", "alive", "diverged")))
        if not len(state["members"]) == len(state["alive"]) == len(state["diverged"]) == len(self):
            raise ValueError(f"state must hold {len(self)} members, but got {len(state['members'])}.")
        for index, member in enumerate(state["members"]):
            checkpoint.check_entries(member, self.member_state(index))
        for member, learner, generator in zip(state["members"], self.learners, self.generators, strict=True):
            learner.loss.load_state_dict(member["loss"])
            learner.load_state_dict(member["learner"])
            generator.set_state(member["generator"].cpu())
        self.restore(state["alive"], state["diverged"], state["diverged"])


class Mapped:
    """A function of parts of the loss, for all members at once: recorded where it may be, or compiled.

    A copy or a pickle reads the tensors of the copied members.

    Args:
        lockstep: The members.
        function: Of a loss and inputs; a pure function of them and of the parts' tensors. Returns a tree of tensors.
        children: Of the loss, which the function uses; a name that is none of a module stands for nothing.
        name: What it does, for messages.

    Example:
        >>> from gsrl.perception.latents import CategoricalVAE
        >>> parts = [(nn.Linear(8, 6), nn.Linear(6, 8)) for _ in range(2)]
        >>> learners = [Learner(CategoricalVAE(*each, n=2, K=3, estimator="st-gumbel")) for each in parts]
        >>> encode = Mapped(Lockstep(learners), lambda loss, images: loss.encode(images).probs, ["encoder"], "encoding")
        >>> encode(torch.ones(2, 10, 8)).shape  # ten images of each member
        torch.Size([2, 10, 2, 3])
    """

    def __init__(self, lockstep: Lockstep, function: Callable[..., Any], children: Sequence[str], name: str) -> None:
        self.lockstep, self.function, self.children, self.name = lockstep, function, tuple(children), name
        self._prepare()

    def _prepare(self) -> None:
        """Makes what is of these tensors, and of no copy's."""
        loss = self.lockstep.losses[0]
        self._applied = _Applied(loss, self.function)
        modules = [module for name, module in loss.named_children() if name in self.children]
        self.tensors = {
            f"loss.{child}.{name}": tensor
            for child in self.children
            for name, tensor in self.lockstep.tensors(child).items()
        }
        how: dict[str, Any] = {"compile": self.lockstep.compile, "after": EAGER_CALLS}
        self._traced = Traced(self._of_all, self.name, self.tensors, modules, **how)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("lockstep", "function", "children", "name")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __call__(self, *args: Any, noise: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """What the function returns, of all members.

        Args:
            *args: Trees of tensors with a leading dimension of members, and of constants.
            noise: See :meth:`Lockstep.draw_noise`.
        """
        inputs = (args, dict(noise))
        result = self._traced(inputs)
        return self._of_all(self.tensors, inputs) if result is None else result

    def _of_all(self, tensors: dict[str, Tensor], inputs: Inputs) -> Any:
        first = self.lockstep.learners[0]
        return call(self._applied, tensors, inputs, first.noisy, first.structure, members=True)


class _Applied(nn.Module):
    """A function of a loss, as a module, so that tensors can take the place of the loss's own."""

    def __init__(self, loss: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.loss, self.function = loss, function

    def forward(self, *inputs: Any) -> Any:
        return self.function(self.loss, *inputs)


def _check_alike(learners: Sequence[Learner]) -> None:
    """Raises unless settings and shapes are those of the first learner."""
    first = learners[0]
    for index, other in enumerate(learners):
        for name in ("betas", "eps", "max_grad_norm", "rates"):
            if getattr(other, name) != getattr(first, name):
                raise ValueError(
                    f"{name} must be the same for all members, but member {index} has {getattr(other, name)!r} "
                    f"and member 0 {getattr(first, name)!r}."
                )
        if _shapes(other) != _shapes(first):
            raise ValueError(f"members must have networks of the same shapes, but those of {index} and 0 differ.")


def _shapes(learner: Learner) -> list[tuple[str, tuple[int, ...]]]:
    """What must be equal in all members."""
    tensors = (*learner.loss.named_parameters(), *learner.loss.named_buffers())
    return [(name, tuple(tensor.shape)) for name, tensor in tensors]
