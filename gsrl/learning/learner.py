"""The learner: one loss, one backward pass, Adam, Polyak averaging."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from gsrl._shapes import Float, Int, Shaped
from gsrl.learning.noise import handed, noisy_modules
from gsrl.learning.trace import Traced

__all__ = ["Learner", "Tensors", "Update", "adam_", "bias_corrections", "clip_by_norm_"]

EAGER_UPDATES = 100
"""Updates before one is recorded, see :class:`gsrl.learning.trace.Traced`: fewer would not earn the time back."""


@torch.no_grad()
def adam_(
    parameters: Float[Tensor, "*members P"],
    gradient: Float[Tensor, "*members P"],
    exp_avg: Float[Tensor, "*members P"],
    exp_avg_sq: Float[Tensor, "*members P"],
    corrected: tuple[float | Float[Tensor, "..."], float | Float[Tensor, "..."]],
    betas: tuple[float, float] = (0.9, 0.999),
) -> None:
    """One step of Adam, in place.

    Source: Kingma & Ba 2015 (1412.6980), Algorithm 1; ``eps`` is added as in ``torch.optim.Adam``.

    Args:
        parameters: ``[..., P]``. Written to, as are both averages.
        gradient: Of the same shape.
        exp_avg: First moment.
        exp_avg_sq: Second moment.
        corrected: Step size and epsilon, what :func:`bias_corrections` returned; tensors ``[..., 1]``, or numbers.
        betas: Decay of the two moments.

    Example:
        >>> parameters, gradient, exp_avg, exp_avg_sq = torch.zeros(1), torch.ones(1), torch.zeros(1), torch.zeros(1)
        >>> adam_(parameters, gradient, exp_avg, exp_avg_sq, bias_corrections(1, 0.1))
        >>> parameters  # the first step is of the learning rate
        tensor([-0.1000])
    """
    (beta1, beta2), (step, epsilon) = betas, corrected
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # The bound is lost beside eps. Without it the square root of zeros and denormals, of units that never fire or of
    # choices that are never drawn, takes up to 25 times as long.
    denominator = exp_avg_sq.clamp_min(1e-36).sqrt_().add_(epsilon)
    if isinstance(step, Tensor):
        parameters.addcdiv_(exp_avg * step, denominator, value=-1)
    else:
        parameters.addcdiv_(exp_avg, denominator, value=-step)


def bias_corrections(
    count: Any, learning_rate: Any, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> tuple[Any, Any]:
    """Step size and epsilon of Adam with both bias corrections in them.

    They are those of m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps), times sqrt(1 - b2^t) above and below.

    Args:
        count: t, steps taken, this one included: a number, or a float64 tensor.
        learning_rate: Likewise.
        betas: Decay of the two moments.
        eps: Epsilon.

    Example:
        >>> bias_corrections(1, 0.1)
        (0.03162277660168381, 3.1622776601683806e-10)
    """
    correction = (1 - betas[1] ** count) ** 0.5
    return learning_rate * correction / (1 - betas[0] ** count), eps * correction


def clip_by_norm_(gradient: Float[Tensor, "*members P"], max_norm: float) -> Float[Tensor, "*members"]:
    """Scales gradients ``[..., P]`` in place so that their 2-norms are at most ``max_norm``; returns those they had.

    Example:
        >>> gradient = torch.tensor([3.0, 4.0])
        >>> clip_by_norm_(gradient, 1.0), gradient
        (tensor(5.), tensor([0.6000, 0.8000]))
    """
    norm = gradient.norm(dim=-1, keepdim=True)
    gradient.mul_((max_norm / (norm + 1e-6)).clamp_max(1.0))
    return norm.squeeze(-1)


@torch.no_grad()
def clip_by_owners_(
    pieces: Sequence[Float[Tensor, "*members _ _"]], owners: Sequence[Int[Tensor, " _"]], count: int, max_norm: float
) -> Float[Tensor, "*members owners"]:
    """Scales the gradients of several owners in place, each so that its 2-norm is at most ``max_norm``.

    Args:
        pieces: Gradients ``[..., rows, P]`` of parameters, whose rows belong to owners.
        owners: The owner of each row, counted from 0, int64 ``[rows]``.
        count: How many owners there are.
        max_norm: The largest norm.

    Returns:
        The norms that they had.
    """
    norms = owner_norms(pieces, owners, count)
    share = (max_norm / (norms + 1e-6)).clamp_max(1.0)
    for piece, owner in zip(pieces, owners, strict=True):
        piece.mul_(share[..., owner].unsqueeze(-1))
    return norms


def owner_norms(
    pieces: Sequence[Float[Tensor, "*members _ _"]], owners: Sequence[Int[Tensor, " _"]], count: int
) -> Float[Tensor, "*members owners"]:
    """The 2-norms of the gradients of several owners, see :func:`clip_by_owners_`."""
    square = pieces[0].new_zeros(*pieces[0].shape[:-2], count)
    for piece, owner in zip(pieces, owners, strict=True):
        square = square.index_add(-1, owner, piece.square().sum(-1))
    return square.sqrt()


Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a loss, and noise by the path of modules."""


class Tensors(NamedTuple):
    """What an update reads and writes beside its arguments: ``P`` numbers, of each of ``S`` members if there are.

    Example:
        >>> linear = nn.Linear(2, 3)
        >>> tensors = Learner(linear).tensors
        >>> tensors.parameters.shape, tensors.exp_avg.shape  # 2 * 3 weights and 3 biases
        (torch.Size([9]), torch.Size([9]))
        >>> _ = tensors.parameters.fill_(1.0)
        >>> linear.bias.tolist()  # a view of them
        [1.0, 1.0, 1.0]
    """

    parameters: Float[Tensor, "*members P"]
    gradient: Float[Tensor, "*members P"]
    exp_avg: Float[Tensor, "*members P"]
    exp_avg_sq: Float[Tensor, "*members P"]
    targets: list[Float[Tensor, "*members P"]]
    """Parameters of each target, each of a ``P`` of its own."""
    others: dict[str, Tensor]
    """Buffers and frozen parameters of the loss, by name."""


class _Views(NamedTuple):
    """The same tensors, apart for each parameter and of its shape, by name."""

    parameters: dict[str, Tensor]
    """``[*shape]`` or ``[S, *shape]``, as all."""
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]
    targets: list[dict[str, Tensor]]
    others: dict[str, Tensor]


class _Structure(NamedTuple):
    """What an update knows of a loss by name."""

    named: dict[str, nn.Parameter]
    """Parameters that are trained, in the order of the flat tensor."""
    groups: dict[str, slice]
    """Where those of each child lie in it."""
    sources: list[str]
    """Children that a target follows."""
    followers: list[dict[str, nn.Parameter]]
    """Parameters of each of these targets, in the order of their source's."""
    copied: list[tuple[str, str]]
    """Buffers of sources, and of their targets."""
    others: dict[str, Tensor]
    """Buffers, and parameters that are neither trained nor follow."""
    first_names: dict[str, str]
    """Names of parameters and buffers, of what has several all of them, and the first of each."""
    is_tied: bool
    """Whether two modules have one, which costs ``functional_call`` a search at each call."""
    owners: dict[str, list[int]]
    """Of parameters whose rows have several owners, that of each row, see :class:`Learner`."""

    @classmethod
    def of(cls, loss: nn.Module, targets: Sequence[tuple[str, str]]) -> _Structure:
        """That of a loss, with pairs of source and target."""
        parameters = dict(loss.named_parameters())
        named = {name: p for name, p in parameters.items() if p.requires_grad}
        followers = []
        for source, target in targets:
            names = [f"{target}{name[len(source) :]}" for name in named if _child(name) == source]
            followers.append({name: parameters[name] for name in names})
        following = {name for each in followers for name in each}
        others: dict[str, Tensor] = {
            name: p for name, p in parameters.items() if not (p.requires_grad or name in following)
        }
        others.update(loss.named_buffers())
        copied = [
            (f"{source}.{name}", f"{target}.{name}")
            for source, target in targets
            for name, _ in loss.get_submodule(source).named_buffers()
        ]
        first = {id(tensor): name for name, tensor in (*loss.named_parameters(), *loss.named_buffers())}
        every = (*loss.named_parameters(remove_duplicate=False), *loss.named_buffers(remove_duplicate=False))
        first_names = {name: first[id(tensor)] for name, tensor in every}
        sources = [source for source, _ in targets]
        places = [
            each
            for module in loss.modules()
            for each in (*vars(module)["_parameters"].values(), *vars(module)["_buffers"].values())
            if each is not None
        ]
        owners = {name: list(each) for name, each in getattr(loss, "owners", {}).items()}
        is_tied = len(first) < len(places)
        return cls(named, _groups(named), sources, followers, copied, others, first_names, is_tied, owners)

    @property
    def watched(self) -> dict[str, nn.Parameter]:
        """All parameters that updates move."""
        return {name: p for named in (self.named, *self.followers) for name, p in named.items()}


class Update:
    """The update as functions of tensors: gradient, clipping, Adam and Polyak, of one loss or of S at once.

    It is what a :class:`Learner` has, and a :class:`gsrl.learning.Lockstep`.

    Args:
        loss: The loss; of several members, the first one's, in whose place tensors of all are put.
        structure: Of the loss.
        tensors: What it reads and writes.
        betas: See :class:`Learner`.
        eps: See :class:`Learner`.
        max_grad_norm: See :class:`Learner`.
        rates: See :class:`Learner`.
        alive: Which members are updated, bool ``[S]``; None: tensors have no dimension of members.
        compile: See :class:`Learner`.
        record: Whether gradients are recorded, where they may be and nothing is compiled.

    Attributes:
        norms: Norm of the last gradient of each child of the loss before clipping, if it was needed.

    Example:
        >>> class Sum(nn.Linear):
        ...     def forward(self, x):
        ...         return super().forward(x).sum(), {}
        >>> learner = Learner(Sum(2, 1))
        >>> settings = {"betas": (0.9, 0.999), "eps": 1e-8, "max_grad_norm": None, "rates": {}}
        >>> update = Update(learner.loss, learner.structure, learner.tensors, **settings)
        >>> loss, gradients, metrics = update.gradients(update.views, ((torch.ones(3, 2),), {}))
        >>> gradients  # of the weights, and of the bias
        (tensor([[3., 3.]]), tensor([3.]))
        >>> update.gather(gradients)  # as one
        tensor([3., 3., 3.])
    """

    def __init__(
        self,
        loss: nn.Module,
        structure: _Structure,
        tensors: Tensors,
        *,
        betas: tuple[float, float],
        eps: float,
        max_grad_norm: float | None,
        rates: Mapping[str, float],
        alive: Tensor | None = None,
        compile: bool = False,
        record: bool = True,
    ) -> None:
        self.loss, self.structure, self.tensors, self.alive = loss, structure, tensors, alive
        self.noisy = noisy_modules(loss)
        self.betas, self.eps, self.max_grad_norm = betas, eps, max_grad_norm
        self.norms: dict[str, Tensor] = {}
        named = structure.named
        self.rates = {name: _rate(name, rates) for name in named}
        each = [tensors.parameters.new_full((p.numel(),), self.rates[name]) for name, p in named.items()]
        self._flat_rates = torch.cat(each) if rates else None
        device = tensors.parameters.device
        self._owners = {name: torch.tensor(each, device=device) for name, each in structure.owners.items()}
        self._num_owners = 1 + max((max(each) for each in structure.owners.values()), default=-1)
        self.views = _Views(
            _split(named, tensors.parameters),
            _split(named, tensors.exp_avg),
            _split(named, tensors.exp_avg_sq),
            [_split(names, flat) for names, flat in zip(structure.followers, tensors.targets, strict=True)],
            tensors.others,
        )
        self._gradient_views = list(_split(named, tensors.gradient).values())
        self.is_compiled = compile
        if compile:
            self.traced = Traced(self.update_, "the update", self.views, [loss], compile=True)
        else:
            read = self.views._replace(exp_avg={}, exp_avg_sq={})
            after = EAGER_UPDATES if record else math.inf
            self.traced = Traced(self.gradients, "the gradient", read, [loss], after=after)

    def gradients(
        self, views: _Views, inputs: Inputs
    ) -> tuple[Float[Tensor, "*members"], tuple[Tensor, ...], dict[str, Tensor]]:
        """The loss, its gradient by each parameter, and the metrics."""
        variables = {name: piece.detach().requires_grad_() for name, piece in views.parameters.items()}
        fixed = dict(views.others)
        for followers in views.targets:
            fixed.update(followers)
        loss, metrics = call(
            self.loss, {**variables, **fixed}, inputs, self.noisy, self.structure, members=self.alive is not None
        )
        gradients = torch.autograd.grad(loss.sum(), list(variables.values()), allow_unused=True, materialize_grads=True)
        # In vmap, the loss could not tell what needs a gradient.
        return loss.detach(), gradients, {name: value.detach() for name, value in metrics.items()}

    def gather(self, gradients: tuple[Tensor, ...]) -> Float[Tensor, "*members P"]:
        """Copies the gradients of the parameters to the flat one, which is returned."""
        torch._foreach_copy_(self._gradient_views, gradients)
        return self.tensors.gradient

    def step_(self, step: Any, epsilon: Any, tau: Any) -> None:
        """Clips the gradient that was gathered, and moves parameters and targets.

        Args:
            step: Adam's step size with its bias corrections; a number, or ``[S, 1]``, as all.
            epsilon: Adam's epsilon with them.
            tau: Polyak's coefficient; None: targets stay as they are.
        """
        parameters, gradient, exp_avg, exp_avg_sq, targets, others = self.tensors
        if self.alive is not None:
            gradient = torch.where(self.alive.unsqueeze(-1), gradient, 0.0)
        self.norms = {}
        if self.max_grad_norm is not None:
            owned = self._owned(_split(self.structure.named, gradient)) if self._owners else {}
            for name, group in self.structure.groups.items():
                if name in owned:
                    self.norms[name] = clip_by_owners_(*owned[name], self._num_owners, self.max_grad_norm)
                else:
                    self.norms[name] = clip_by_norm_(gradient[..., group], self.max_grad_norm)
        if self._flat_rates is not None:
            step = step * self._flat_rates
        adam_(parameters, gradient, exp_avg, exp_avg_sq, (step, epsilon), self.betas)
        if tau is not None:
            for source, target in zip(self.structure.sources, targets, strict=True):
                target.lerp_(parameters[..., self.structure.groups[source]], tau)
            self._copy_buffers(others, self.alive)

    def _owned(self, pieces: Mapping[str, Tensor]) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
        """Of each child whose parameters have several owners, gradients ``[*members, rows, P]`` and those of the rows.

        Args:
            pieces: Gradients by the name of the parameter, ``[*members, *shape]`` or flat, ``[*members, P]``.
        """
        found: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
        members = self.tensors.parameters.shape[:-1]
        for name, owner in self._owners.items():
            gradients, owners = found.setdefault(_child(name), ([], []))
            gradients.append(pieces[name].view(*members, len(owner), -1))
            owners.append(owner)
        return found

    def update_(self, views: _Views, inputs: Inputs, *numbers: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A whole update, each parameter by itself, for a compiler: gradients then never have to be gathered.

        Returns the metrics, and the norms of the gradients before clipping.
        """
        loss, gradients, metrics = self.gradients(views, inputs)
        flat = {name: x.reshape(*loss.shape, -1) for name, x in zip(views.parameters, gradients, strict=True)}
        children = self.structure.groups
        owned = self._owned(flat)
        norms = {
            child: owner_norms(*owned[child], self._num_owners)
            if child in owned
            else _norm([x for name, x in flat.items() if _child(name) == child])
            for child in children
        }
        step, epsilon, tau, alive, is_due = self._numbers(loss, norms, *numbers)
        if self.max_grad_norm is not None:
            shares = {child: (self.max_grad_norm / (norm + 1e-6)).clamp_max(1.0) for child, norm in norms.items()}
            scales = {child: _stored(share) for child, share in shares.items() if child not in owned}
            for name, x in flat.items():
                if name in self._owners:
                    owner = self._owners[name]
                    share = shares[_child(name)][..., owner].unsqueeze(-1)
                    flat[name] = (x.view(*loss.shape, len(owner), -1) * share).flatten(-2)
                else:
                    flat[name] = x * scales[_child(name)]
        for name, gradient in flat.items():
            gradient = gradient if alive is None else torch.where(alive, gradient, 0.0)
            parameter, exp_avg, exp_avg_sq = (
                each[name].view(gradient.shape) for each in (views.parameters, views.exp_avg, views.exp_avg_sq)
            )
            adam_(parameter, gradient, exp_avg, exp_avg_sq, (step * self.rates[name], epsilon), self.betas)
        for source, targets in zip(self.structure.sources, views.targets, strict=True):
            sources = [x for name, x in views.parameters.items() if _child(name) == source]
            for x, target in zip(sources, targets.values(), strict=True):
                target.view(*loss.shape, -1).lerp_(x.view(*loss.shape, -1), tau)
        self._copy_buffers(views.others, is_due)
        return metrics, norms

    def _numbers(
        self, loss: Tensor, norms: dict[str, Tensor], *numbers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """Step size, epsilon, Polyak's coefficient; whether all this is done, None: it is; whether targets follow."""
        if self.alive is None:
            step, epsilon, tau, is_due = numbers[0]
            return step, epsilon, tau, None, is_due > 0
        alive, count, learning_rate, tau, is_due = numbers
        for value in (loss, *norms.values()):
            alive.logical_and_(value.reshape(*alive.shape, -1).isfinite().all(-1))
        count.add_(alive)
        step, epsilon = bias_corrections(count.clamp_min(1), learning_rate * alive, self.betas, self.eps)
        step, epsilon, tau = (_stored(number.to(loss.dtype)) for number in (step, epsilon, tau * alive))
        return step, epsilon, tau, _stored(alive), alive & is_due

    def _copy_buffers(self, others: dict[str, Tensor], is_due: Tensor | None) -> None:
        """Copies the buffers of sources to their targets: of all, or of those members for which it is due."""
        for name, copy in self.structure.copied:
            values, copied = others[name], others[copy]
            if is_due is not None:
                members = is_due.shape[:1]
                values = torch.where(is_due.view(members + (1,) * (values.dim() - len(members))), values, copied)
            copied.copy_(values)

    def gradient_norms(self) -> dict[str, Float[Tensor, "..."]]:
        """Norm of the last gradient of each child of the loss, before clipping; zeros before the first update.

        ``[*members]``, or ``[*members, owners]`` where a child has several.
        """
        if self.norms:
            return self.norms
        gradient = self.tensors.gradient
        owned = self._owned(_split(self.structure.named, gradient)) if self._owners else {}
        return {
            name: owner_norms(*owned[name], self._num_owners) if name in owned else gradient[..., group].norm(dim=-1)
            for name, group in self.structure.groups.items()
        }


class Learner:
    """Minimises a loss: its parameters, their targets and the optimiser's state.

    ``loss(*args)`` is a module that returns a scalar and a dict of metrics, a pure function of its parameters and
    arguments. Its direct children (actor, critic, ...) are clipped apart, each by its own norm. Where the rows of
    parameters belong to several owners, such as agents, the loss says so by an attribute ``owners``, a dict from the
    names of all parameters of a child to the owner of each row: each owner then has a norm of its own in that child.

    The parameters become views of one flat tensor, as do the targets and both moments: small networks have many small
    tensors, and a pass over each costs more than its arithmetic. (Hence ``torch.save`` of one module's state dict
    writes the storage of all; ``gsrl.checkpoint`` does not.) Frozen parameters stay as they are.

    Args:
        loss: Every parameter that requires a gradient is trained. Must be on its final device.
        targets: Pairs of names (source, target) of children of ``loss``, of equal structure: a target follows its
            source.
        betas: Adam's decay rates.
        eps: Adam's epsilon.
        max_grad_norm: Largest norm of the gradient of each child of ``loss``; None: no clipping.
        rates: What Adam's step size is multiplied by, by the path of a module or parameter below ``loss``; 1 elsewhere.
        compile: Whether updates are compiled; the first one then takes some seconds. Where that fails, a warning says
            why, and updates stay eager.
        record: Whether updates that are not compiled are recorded, for arguments whose shapes come again. Results are
            the same to the bit.

    Example:
        >>> class Error(nn.Linear):
        ...     def forward(self, x, y):
        ...         loss = (super().forward(x) - y).square().mean()
        ...         return loss, {"error": loss}
        >>> learner, x = Learner(Error(1, 1)), torch.linspace(-1, 1, 10).unsqueeze(-1)
        >>> errors = [learner.update(x, 2 * x + 1, learning_rate=0.1)["error"].item() for _ in range(50)]
        >>> errors[-1] < 0.1 * errors[0], learner.count
        (True, 50)
    """

    def __init__(
        self,
        loss: nn.Module,
        targets: Sequence[tuple[str, str]] = (),
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_grad_norm: float | None = None,
        rates: Mapping[str, float] = MappingProxyType({}),
        compile: bool = False,
        record: bool = True,
    ) -> None:
        self.loss, self.betas, self.eps, self.rates = loss, betas, eps, dict(rates)
        self._max_grad_norm, self._compile, self._record = max_grad_norm, compile, record
        self._count: int | Tensor = 0
        self.structure = _Structure.of(loss, targets)
        for path in self.rates:
            if not any(_is_below(name, path) for name in self.structure.named):
                raise ValueError(f"rates must be of paths of trained parameters of the loss, but got {path!r}.")
        flat = _flatten(self.structure.named)
        gradient, exp_avg, exp_avg_sq = (torch.zeros_like(flat) for _ in range(3))
        following = [_flatten(followers) for followers in self.structure.followers]
        self._bind(Tensors(flat, gradient, exp_avg, exp_avg_sq, following, self.structure.others))

    def compile_updates(self) -> None:
        """Lets updates be compiled from the next one on."""
        self._compile = True
        self._bind(self.tensors, self._update.norms)

    def _bind(self, tensors: Tensors, norms: dict[str, Tensor] | None = None) -> None:
        """Moves the state into these tensors: the loss's own keep their identity, and become views."""
        self._update = Update(
            self.loss,
            self.structure,
            tensors,
            betas=self.betas,
            eps=self.eps,
            max_grad_norm=self.max_grad_norm,
            rates=self.rates,
            compile=self._compile,
            record=self._record,
        )
        self._update.norms = norms or {}
        views, watched = self._update.views, self.structure.watched
        for pieces in (views.parameters, *views.targets):
            for name, piece in pieces.items():
                watched[name].data = piece
        for name, tensor in self.structure.others.items():
            tensor.data = tensors.others[name].data
        self._parameters = list(self.structure.named.values())
        self._watched = list(watched.values())
        self._pointers = [p.data_ptr() for p in self._watched]

    def become_row(self, tensors: Tensors, count: Tensor) -> None:
        """Moves the state into rows of others' tensors, whose owner makes the updates, or lets this learner make its.

        Args:
            tensors: Of these shapes.
            count: Updates done, a float64 scalar.
        """
        self._compile = self._record = False
        self._bind(tensors)
        self._count = count

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy or a pickle: without the views, and tensors without the others' memory."""
        derived = ("_update", "_parameters", "_watched", "_pointers")
        state = {name: value for name, value in self.__dict__.items() if name not in derived}
        tensors = Tensors(*tree_map(torch.clone, tuple(self._update.tensors)))
        return {**state, "_count": self.count, "_tensors": tensors, "_norms": self._update.norms}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a copy or a pickle, whose tensors are views of one another no more."""
        tensors, norms = state.pop("_tensors"), state.pop("_norms")
        self.__dict__.update(state)
        self._bind(tensors, norms)

    @property
    def tensors(self) -> Tensors:
        """What updates read and write."""
        return self._update.tensors

    @property
    def count(self) -> int:
        """Updates done."""
        return int(self._count)

    @count.setter
    def count(self, value: int) -> None:
        if isinstance(self._count, Tensor):
            self._count.fill_(value)
        else:
            self._count = value

    @property
    def max_grad_norm(self) -> float | None:
        """Largest norm of the gradient of each child of the loss; None: no clipping."""
        return self._max_grad_norm

    @max_grad_norm.setter
    def max_grad_norm(self, value: float | None) -> None:
        self._max_grad_norm = value
        self._bind(self.tensors, self._update.norms)  # it may be compiled

    def change_loss(self, name: str, value: Any) -> None:
        """Changes an attribute of the loss, which decides what it computes; what was recorded is recorded anew.

        Args:
            name: Of the attribute.
            value: Of another choice, not another module.
        """
        was_same = self._update.traced.is_same()
        setattr(self.loss, name, value)
        if was_same:  # else somebody has exchanged more, and updates stay eager
            self._bind(self.tensors, self._update.norms)

    def _adopt(self) -> None:
        """Takes over parameters and buffers that have been given other memory, as by ``module.double().float()``.

        Raises:
            RuntimeError: They were replaced, or are on another device or of another dtype now.
        """
        flat, current = self.tensors.parameters, dict(self.loss.named_parameters())
        if any(
            current.get(name) is not p or (p.device, p.dtype) != (flat.device, flat.dtype)
            for name, p in self.structure.watched.items()
        ):
            raise RuntimeError("the parameters were moved or replaced after the learner was made: make a new learner.")
        others = self.structure.others
        others.update((name, buffer) for name, buffer in self.loss.named_buffers() if name in others)
        targets = [_flatten(followers) for followers in self.structure.followers]
        self._bind(self.tensors._replace(parameters=_flatten(self.structure.named), targets=targets, others=others))

    @property
    def is_compiled(self) -> bool:
        """Whether updates are compiled, or will be by the next one."""
        return self._compile

    @property
    def noisy(self) -> dict[str, Any]:
        """The modules that take noise, by path, see :mod:`gsrl.learning.noise`."""
        return self._update.noisy

    def update(
        self,
        *args: Any,
        learning_rate: float,
        tau: float | None = None,
        noise: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, Tensor]:
        """One update of the parameters and of the targets.

        Args:
            *args: Arguments of the loss.
            learning_rate: Adam's step size.
            tau: Polyak's coefficient: parameters of a target move this share of the way to those of its source, and its
                buffers, such as running statistics, become copies. None: targets stay as they are.
            noise: What :func:`gsrl.learning.noise.draw` returned for :attr:`noisy`; modules without an entry have none.

        Returns:
            The metrics of the loss, from before the update.

        Raises:
            RuntimeError: The parameters were replaced since the learner was made, or are elsewhere or of another dtype.
        """
        if [p.data_ptr() for p in self._watched] != self._pointers:
            self._adopt()
        self._count += 1
        update, inputs = self._update, (args, dict(noise))
        numbers = bias_corrections(self.count, learning_rate, self.betas, self.eps)
        result: Any
        if update.is_compiled:
            on_host = torch.tensor((*numbers, tau or 0.0, tau is not None))
            result = update.traced(inputs, on_host.to(self.tensors.parameters.device, non_blocking=True))
            if result is not None:
                metrics, update.norms = result
                return metrics
        else:
            result = update.traced(inputs)
        if result is None:
            with handed(update.noisy, noise) if noise else nullcontext():
                loss, metrics = self.loss(*args)
            gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        else:
            _, gradients, metrics = result
        update.gather(gradients)
        update.step_(*numbers, tau)
        return metrics

    def gradient_norms(self) -> dict[str, Float[Tensor, "..."]]:
        """Norm of the last gradient of each child of the loss, before clipping; zeros before the first update."""
        return self._update.gradient_norms()

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state: moments by parameter name, and the number of updates."""
        views = self._update.views
        return {"count": self.count, "exp_avg": views.exp_avg, "exp_avg_sq": views.exp_avg_sq}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Restores :meth:`state_dict`, in place.

        Args:
            state: From a learner of the same parameters.
            strict: Whether every parameter must be there; otherwise those that are missing keep their moments.

        Raises:
            KeyError: A parameter is missing or unknown.
        """
        for name in ("exp_avg", "exp_avg_sq"):
            moments = getattr(self._update.views, name)
            unknown, missing = state[name].keys() - moments.keys(), moments.keys() - state[name].keys()
            if unknown or (strict and missing):
                raise KeyError(
                    f"{name} does not fit the parameters: missing {sorted(missing)}, unknown {sorted(unknown)}."
                )
            for key, value in state[name].items():
                moments[key].copy_(value)
        self.count = int(state["count"])


def call(
    module: nn.Module,
    tensors: dict[str, Tensor],
    inputs: Inputs,
    noisy: Mapping[str, Any],
    structure: _Structure,
    *,
    members: bool,
) -> Any:
    """What a module returns with tensors in the place of its own, by name; ``[S, ...]`` of everything with members."""

    def alone(tensors: dict[str, Tensor], inputs: Inputs) -> Any:
        args, noise = inputs
        with handed(noisy, noise):
            return functional_call(module, tensors, args, tie_weights=structure.is_tied)

    if not members:
        return alone(tensors, inputs)
    in_dims = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, inputs)
    return vmap(alone, in_dims=(0, in_dims))(tensors, inputs)


def _norm(pieces: Sequence[Float[Tensor, "*members _"]]) -> Float[Tensor, "*members"]:
    """2-norm of pieces together."""
    square = pieces[0].square().sum(-1)
    for piece in pieces[1:]:
        square = square + piece.square().sum(-1)
    return square.sqrt()


def _stored(numbers: Shaped[Tensor, "*members"]) -> Shaped[Tensor, "*members 1"]:
    """With a dimension more; a compiler stores them for it, and does not work them out anew for each parameter."""
    return numbers.as_strided((*numbers.shape, 1), (*numbers.stride(), 1))


def _split(named: Mapping[str, Tensor], flat: Float[Tensor, "*members P"]) -> dict[str, Tensor]:
    """A flat tensor as views of the shapes of ``named``."""
    pieces = flat.split([p.numel() for p in named.values()], -1)
    return {name: x.view((*x.shape[:-1], *p.shape)) for (name, p), x in zip(named.items(), pieces, strict=True)}


def _flatten(named: Mapping[str, Tensor]) -> Float[Tensor, " P"]:
    """One flat tensor of all that these hold."""
    return torch.cat([p.detach().reshape(-1) for p in named.values()])


def _is_below(name: str, path: str) -> bool:
    return f"{name}.".startswith(f"{path}.")


def _rate(name: str, rates: Mapping[str, float]) -> float:
    """That of the longest path that a parameter is below."""
    paths = [path for path in rates if _is_below(name, path)]
    return rates[max(paths, key=len)] if paths else 1.0


def _child(name: str) -> str:
    """The child of the loss that a parameter belongs to."""
    return name.split(".")[0]


def _groups(named: Mapping[str, Tensor]) -> dict[str, slice]:
    """Where the parameters of each child lie in the flat tensor."""
    groups: dict[str, slice] = {}
    stop = 0
    for name, p in named.items():
        child = _child(name)
        start = groups[child].start if child in groups else stop
        stop += p.numel()
        groups[child] = slice(start, stop)
    return groups
