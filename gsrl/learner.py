"""The learner: one loss, one backward pass, Adam, Polyak averaging; of one agent, or of many in lock-step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from gsrl._compile import Fingerprint, Traced, is_traceable

__all__ = ["Learner", "LockstepLearner", "adam_", "bias_corrections", "clip_by_norm_"]

EAGER_UPDATES = 100
"""Updates before one is recorded, see :class:`gsrl._compile.Traced`: fewer would not earn the time back."""

DERIVED = (
    "_views",
    "_gradient_views",
    "_parameters",
    "_watched",
    "_pointers",
    "_fingerprint",
    "_traced_gradients",
    "_compiled_update",
)
"""What a learner makes of its tensors and its loss."""


@torch.no_grad()
def adam_(
    parameters: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    corrected: tuple[float, float] | tuple[Tensor, Tensor],
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
    """
    correction = (1 - betas[1] ** count) ** 0.5
    return learning_rate * correction / (1 - betas[0] ** count), eps * correction


def clip_by_norm_(gradient: Tensor, max_norm: float) -> Tensor:
    """Scales gradients ``[..., P]`` in place so that their 2-norms are at most ``max_norm``; returns those they had."""
    norm = gradient.norm(dim=-1, keepdim=True)
    gradient.mul_((max_norm / (norm + 1e-6)).clamp_max(1.0))
    return norm.squeeze(-1)


class _Tensors(NamedTuple):
    """What an update reads and writes beside its arguments: ``P`` numbers, of each of ``S`` members if there are."""

    parameters: Tensor
    """``[P]`` or ``[S, P]``, as the next three."""
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    targets: list[Tensor]
    """Parameters of each target."""
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


class Learner:
    """Minimises a loss: its parameters, their targets and the optimiser's state.

    ``loss(*args)`` is a module that returns a scalar and a dict of metrics, a pure function of its parameters and
    arguments. Its direct children (actor, critic, ...) are clipped apart, each by its own norm.

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
        compile: Whether updates are compiled; the first one then takes some seconds. Where that fails, a warning says
            why, and updates stay eager.

    Attributes:
        count: Updates done.
    """

    count: int | Tensor
    _traced_gradients: Traced | None
    _compiled_update: Traced | None

    def __init__(
        self,
        loss: nn.Module,
        targets: Sequence[tuple[str, str]] = (),
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_grad_norm: float | None = None,
        compile: bool = False,
    ) -> None:
        self.loss = loss
        self.betas = betas
        self.eps = eps
        self.max_grad_norm = max_grad_norm
        self.count = 0
        parameters = dict(loss.named_parameters())
        self._named = {name: p for name, p in parameters.items() if p.requires_grad}
        self._groups = _groups(self._named)
        self._sources = [source for source, _ in targets]
        self._followers = []
        for source, target in targets:
            names = [f"{target}{name[len(source) :]}" for name in self._named if _child(name) == source]
            self._followers.append({name: parameters[name] for name in names})
        followers = {name for followers in self._followers for name in followers}
        self._others: dict[str, Tensor] = {
            name: p for name, p in parameters.items() if not (p.requires_grad or name in followers)
        }
        self._others.update(loss.named_buffers())
        self._copied = [
            (f"{source}.{name}", f"{target}.{name}")
            for source, target in targets
            for name, _ in loss.get_submodule(source).named_buffers()
        ]
        # Parameters that have two names cost functional_call a search at each call.
        self._is_tied = len(parameters) < sum(1 for _ in loss.named_parameters(remove_duplicate=False))
        flat = _flatten(self._named)
        gradient, exp_avg, exp_avg_sq = (torch.zeros_like(flat) for _ in range(3))
        target_flats = [_flatten(followers) for followers in self._followers]
        self._bind(_Tensors(flat, gradient, exp_avg, exp_avg_sq, target_flats, self._others))
        self._norms: dict[str, Tensor] = {}
        self._trace(compile=compile)

    def _trace(self, *, compile: bool) -> None:
        """Prepares to compile the update, or else to record the gradient."""
        self._compile = compile
        self._fingerprint = Fingerprint(self.loss)
        self._compiled_update = self._traced_gradients = None
        if compile:
            self._compiled_update = Traced(self._update_, "the update", self._views, compile=True)
        elif is_traceable(self.loss.modules()):
            read = self._views._replace(exp_avg={}, exp_avg_sq={})
            self._traced_gradients = Traced(self._gradients, "the gradient", read, after=EAGER_UPDATES)

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy or a pickle: without what :meth:`__setstate__` makes, and tensors without the others' memory."""
        state = {name: value for name, value in self.__dict__.items() if name not in DERIVED}
        return {**state, "_tensors": _Tensors(*tree_map(torch.clone, tuple(self._tensors)))}

    def _trace_again(self) -> None:
        """Drops what was compiled or recorded, if it was, for what will be."""
        if self._compiled_update is not None or self._traced_gradients is not None:
            self._trace(compile=self._compile)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a copy or a pickle, whose tensors are views of one another no more."""
        self.__dict__.update(state)
        self._bind(self._tensors)
        self._trace(compile=self._compile)

    @property
    def max_grad_norm(self) -> float | None:
        """Largest norm of the gradient of each child of the loss; None: no clipping."""
        return self._max_grad_norm

    @max_grad_norm.setter
    def max_grad_norm(self, value: float | None) -> None:
        self._max_grad_norm = value
        if getattr(self, "_compiled_update", None) is not None:  # which has it built in
            self._trace_again()

    def change_loss(self, name: str, value: Any) -> None:
        """Changes an attribute of the loss, which decides what it computes; what was recorded is recorded anew.

        Args:
            name: Of the attribute.
            value: Of another choice, not another module.
        """
        was_same = self._fingerprint.is_same()
        setattr(self.loss, name, value)
        if was_same:  # else somebody has exchanged more, and updates stay eager
            self._trace_again()

    def _compiled(self, args: tuple[Any, ...], *numbers: Tensor) -> dict[str, Tensor] | None:
        """The compiled update, and its metrics; None: there is none that holds."""
        if self._compiled_update is not None and not self._fingerprint.is_same():
            self._compiled_update = None  # somebody has exchanged what was compiled
        result = None if self._compiled_update is None else self._compiled_update(args, *numbers)
        if result is None:
            return None
        metrics: dict[str, Tensor]
        metrics, self._norms = result
        return metrics

    def _traced(self, args: tuple[Any, ...]) -> Any:
        """Loss, gradients and metrics by the record; None: there is none that holds."""
        if self._traced_gradients is not None and not self._fingerprint.is_same():
            self._traced_gradients = None  # somebody has exchanged what was recorded
        return None if self._traced_gradients is None else self._traced_gradients(args)

    def _bind(self, tensors: _Tensors) -> None:
        """Moves the state into these tensors: the loss's own keep their identity, and become views."""
        self._set_tensors(tensors)
        views = self._views
        for named, pieces in zip((self._named, *self._followers), (views.parameters, *views.targets), strict=True):
            for p, piece in zip(named.values(), pieces.values(), strict=True):
                p.data = piece
        for name, tensor in self._others.items():
            tensor.data = tensors.others[name].data
        self._parameters = list(self._named.values())
        self._watched = [*self._parameters, *(p for followers in self._followers for p in followers.values())]
        self._pointers = [p.data_ptr() for p in self._watched]

    def _adopt(self) -> None:
        """Takes over parameters and buffers that have been given other memory, as by ``module.double().float()``.

        Raises:
            RuntimeError: They were replaced, or are on another device or of another dtype now.
        """
        flat, current = self._tensors.parameters, dict(self.loss.named_parameters())
        watched = {name: p for named in (self._named, *self._followers) for name, p in named.items()}
        if any(
            current.get(name) is not p or (p.device, p.dtype) != (flat.device, flat.dtype)
            for name, p in watched.items()
        ):
            raise RuntimeError("the parameters were moved or replaced after the learner was made: make a new learner.")
        self._others.update((name, buffer) for name, buffer in self.loss.named_buffers() if name in self._others)
        targets = [_flatten(followers) for followers in self._followers]
        self._bind(self._tensors._replace(parameters=_flatten(self._named), targets=targets, others=self._others))
        self._trace_again()

    def _set_tensors(self, tensors: _Tensors) -> None:
        self._tensors = tensors
        self._gradient_views = list(_split(self._named, tensors.gradient).values())
        self._views = _Views(
            _split(self._named, tensors.parameters),
            _split(self._named, tensors.exp_avg),
            _split(self._named, tensors.exp_avg_sq),
            [_split(followers, flat) for followers, flat in zip(self._followers, tensors.targets, strict=True)],
            tensors.others,
        )

    def update(self, *args: Any, learning_rate: float, tau: float | None = None) -> dict[str, Tensor]:
        """One update of the parameters and of the targets.

        Args:
            *args: Arguments of the loss.
            learning_rate: Adam's step size.
            tau: Polyak's coefficient: parameters of a target move this share of the way to those of its source, and its
                buffers, such as running statistics, become copies. None: targets stay as they are.

        Returns:
            The metrics of the loss, from before the update.

        Raises:
            RuntimeError: The parameters were replaced since the learner was made, or are elsewhere or of another dtype.
        """
        if [p.data_ptr() for p in self._watched] != self._pointers:
            self._adopt()
        self.count += 1
        numbers = bias_corrections(self.count, learning_rate, self.betas, self.eps)
        if self._compiled_update is not None:
            on_host = torch.tensor((*numbers, tau or 0.0, tau is not None))
            on_device = on_host.to(self._tensors.parameters.device, non_blocking=True)
            metrics = self._compiled(args, on_device)
            if metrics is not None:
                return metrics
        result = self._traced(args)
        if result is None:
            loss, metrics = self.loss(*args)
            gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        else:
            _, gradients, metrics = result
        torch._foreach_copy_(self._gradient_views, gradients)
        self._norms = self._step_(self._tensors, *numbers, tau)
        return metrics

    def gradient_norms(self) -> dict[str, Tensor]:
        """Norm of the last gradient of each child of the loss, before clipping; zeros before the first update."""
        if self._norms:
            return self._norms
        return {name: self._tensors.gradient[..., group].norm(dim=-1) for name, group in self._groups.items()}

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state: moments by parameter name, and the number of updates."""
        moments = {name: _split(self._named, getattr(self._tensors, name)) for name in ("exp_avg", "exp_avg_sq")}
        return {"count": self.count, **moments}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Restores :meth:`state_dict`, in place.

        Args:
            state: From a learner of the same parameters.
            strict: Whether every parameter must be there; otherwise those that are missing keep their moments.

        Raises:
            KeyError: A parameter is missing or unknown.
        """
        for name in ("exp_avg", "exp_avg_sq"):
            moments = _split(self._named, getattr(self._tensors, name))
            unknown, missing = state[name].keys() - moments.keys(), moments.keys() - state[name].keys()
            if unknown or (strict and missing):
                raise KeyError(
                    f"{name} does not fit the parameters: missing {sorted(missing)}, unknown {sorted(unknown)}."
                )
            for key, value in state[name].items():
                moments[key].copy_(value)
        self.count = int(state["count"])

    # The update as functions of tensors alone: of recorded and compiled ones, and of many members.

    def _gradients(self, views: _Views, args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
        """The loss, its gradient by each parameter, and the metrics."""
        variables = {name: piece.detach().requires_grad_() for name, piece in views.parameters.items()}
        fixed = dict(views.others)
        for followers in views.targets:
            fixed.update(followers)
        loss, metrics = self._call({**variables, **fixed}, args)
        gradients = torch.autograd.grad(loss.sum(), list(variables.values()), allow_unused=True, materialize_grads=True)
        # In vmap, the loss could not tell what needs a gradient.
        return loss.detach(), gradients, {name: value.detach() for name, value in metrics.items()}

    def _call(self, tensors: dict[str, Tensor], args: tuple[Any, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with these tensors in the place of its own."""
        result: tuple[Tensor, dict[str, Tensor]]
        result = functional_call(self.loss, tensors, args, tie_weights=self._is_tied)
        return result

    def _step_(self, tensors: _Tensors, step: Any, epsilon: Any, tau: Any) -> dict[str, Tensor]:
        """Clips the gradient, and moves parameters and targets; returns the norms there were, if they were needed."""
        norms = {}
        if self.max_grad_norm is not None:
            for name, group in self._groups.items():
                norms[name] = clip_by_norm_(tensors.gradient[..., group], self.max_grad_norm)
        adam_(*tensors[:4], (step, epsilon), self.betas)
        if tau is not None:
            for source, target in zip(self._sources, tensors.targets, strict=True):
                target.lerp_(tensors.parameters[..., self._groups[source]], tau)
            self._copy_buffers(tensors.others)
        return norms

    def _update_(
        self, views: _Views, args: tuple[Any, ...], *numbers: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A whole update, each parameter by itself, for a compiler: gradients then never have to be gathered.

        Returns the metrics, and the norms of the gradients before clipping.
        """
        loss, gradients, metrics = self._gradients(views, args)
        flat = {name: x.reshape(*loss.shape, -1) for name, x in zip(self._named, gradients, strict=True)}
        norms = {child: _norm([x for name, x in flat.items() if _child(name) == child]) for child in self._groups}
        step, epsilon, tau, alive, is_due = self._numbers(loss, norms, *numbers)
        if self.max_grad_norm is not None:
            shares = {child: (self.max_grad_norm / (norm + 1e-6)).clamp_max(1.0) for child, norm in norms.items()}
            scales = {child: _stored(share) for child, share in shares.items()}
            flat = {name: x * scales[_child(name)] for name, x in flat.items()}
        for name, gradient in flat.items():
            gradient = gradient if alive is None else torch.where(alive, gradient, 0.0)
            parameter, exp_avg, exp_avg_sq = (
                each[name].view(gradient.shape) for each in (views.parameters, views.exp_avg, views.exp_avg_sq)
            )
            adam_(parameter, gradient, exp_avg, exp_avg_sq, (step, epsilon), self.betas)
        for source, targets in zip(self._sources, views.targets, strict=True):
            sources = [x for name, x in views.parameters.items() if _child(name) == source]
            for x, target in zip(sources, targets.values(), strict=True):
                target.view(*loss.shape, -1).lerp_(x.view(*loss.shape, -1), tau)
        self._copy_buffers(views.others, is_due)
        return metrics, norms

    def _numbers(
        self, loss: Tensor, norms: dict[str, Tensor], numbers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """Step size, epsilon, Polyak's coefficient; whether all this is done, None: it is; whether targets follow."""
        step, epsilon, tau, is_due = numbers
        return step, epsilon, tau, None, is_due > 0

    def _copy_buffers(self, others: dict[str, Tensor], is_due: Tensor | None = None) -> None:
        """Copies the buffers of sources to their targets: of all, or of those members for which it is due."""
        for name, copy in self._copied:
            values, copied = others[name], others[copy]
            if is_due is not None:
                members = is_due.shape[:1]
                values = torch.where(is_due.view(members + (1,) * (values.dim() - len(members))), values, copied)
            copied.copy_(values)


class LockstepLearner(Learner):
    """Learners of equal structure and settings, whose updates are one.

    The loss is mapped over the members by ``torch.func.vmap``; one backward pass and one step of Adam serve them all.
    Members share nothing: each is clipped by its own norms, has its own learning rate and Polyak coefficient, and
    counts its own updates. A member whose loss or gradient is not finite is frozen: its parameters and targets stay as
    they are from then on, and those of the others are what they would have been.

    The learners given become views: their parameters, targets, moments, buffers and frozen parameters are rows of this
    one's tensors. So a member's networks are always what the updates have made of them, and what is loaded into them
    is loaded here.

    Args:
        learners: At least one, all on one device, of losses that differ in their tensors alone.
        compile: See :class:`Learner`.

    Attributes:
        alive: Which members are not frozen, bool ``[S]``.
        count: Updates of each member, float64 ``[S]``.

    Raises:
        ValueError: There is no learner, or their tensors or settings differ.
    """

    count: Tensor

    def __init__(self, learners: Sequence[Learner], *, compile: bool = False) -> None:
        if not learners:
            raise ValueError("learners must hold at least one, but got none.")
        first = learners[0]
        for index, other in enumerate(learners):
            for name in ("betas", "eps", "max_grad_norm"):
                if getattr(other, name) != getattr(first, name):
                    raise ValueError(
                        f"{name} must be the same for all members, but member {index} has {getattr(other, name)!r} "
                        f"and member 0 {getattr(first, name)!r}."
                    )
            if _shapes(other) != _shapes(first):
                raise ValueError(f"members must have networks of the same shapes, but those of {index} and 0 differ.")
        self._learners = list(learners)
        self._norms = {}
        self._stack(compile=compile)
        device = self._tensors.parameters.device
        self.alive = torch.ones(len(learners), dtype=torch.bool, device=device)
        self.count = torch.tensor([learner.count for learner in learners], dtype=torch.float64, device=device)

    def _stack(self, *, compile: bool) -> None:
        """Makes the learners' tensors rows of this one's. Names, groups and the loss are those of the first of them."""
        learners, first = self._learners, self._learners[0]
        self.loss, self.betas, self.eps, self.max_grad_norm = first.loss, first.betas, first.eps, first.max_grad_norm
        self._named, self._groups, self._is_tied = first._named, first._groups, first._is_tied
        self._sources, self._followers, self._copied = first._sources, first._followers, first._copied
        members = [learner._tensors for learner in learners]
        stacked = _Tensors(
            torch.stack([tensors.parameters for tensors in members]),
            torch.stack([tensors.gradient for tensors in members]),
            torch.stack([tensors.exp_avg for tensors in members]),
            torch.stack([tensors.exp_avg_sq for tensors in members]),
            [torch.stack(flats) for flats in zip(*(tensors.targets for tensors in members), strict=True)],
            {name: torch.stack([tensors.others[name].detach() for tensors in members]) for name in members[0].others},
        )
        self._set_tensors(stacked)
        for index, learner in enumerate(learners):
            learner._bind(_member(stacked, index))
            learner._traced_gradients = learner._compiled_update = None  # of the tensors that they had
        self._trace(compile=compile)

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy or a pickle: the learners, which hold all tensors, and what is said of them here."""
        return {name: getattr(self, name) for name in ("_learners", "_compile", "_norms", "alive", "count")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a copy or a pickle, in which each learner has tensors of its own."""
        self.__dict__.update(state)
        self._stack(compile=self._compile)

    def state_dict(self) -> dict[str, Any]:
        """Refused: members are saved, each with its own."""
        raise NotImplementedError("members in lock-step are saved one by one.")

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Refused: members are loaded, each with its own."""
        raise NotImplementedError("members in lock-step are loaded one by one.")

    @property
    def is_tied(self) -> bool:
        """Whether a parameter has two names."""
        return self._is_tied

    def tensors(self, child: str) -> dict[str, Tensor]:
        """The parameters and buffers of a child of the loss, by name, ``[S, ...]``: views, which updates change."""
        named = {**self._views.parameters, **self._views.others}
        return {name[len(child) + 1 :]: tensor for name, tensor in named.items() if _child(name) == child}

    def update(  # type: ignore[override]
        self, *args: Any, learning_rate: Tensor, tau: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One update of all members.

        Args:
            *args: Arguments of the loss; their tensors have a leading dimension of members.
            learning_rate: Adam's step sizes, float64 ``[S]``.
            tau: Polyak's coefficients, float64 ``[S]``; None: all targets stay as they are.

        Returns:
            The metrics of the loss, from before the update, with a leading dimension of members.
        """
        if self._compiled_update is not None:
            is_due = torch.full((), tau is not None, device=self.alive.device)
            shares = torch.zeros_like(self.count) if tau is None else tau
            metrics = self._compiled(args, self.alive, self.count, learning_rate, shares, is_due)
            if metrics is not None:
                return metrics
        result = self._traced(args)
        losses, gradients, metrics = self._gradients(self._views, args) if result is None else result
        torch._foreach_copy_(self._gradient_views, gradients)
        self.alive.logical_and_(losses.isfinite() & self._tensors.gradient.sum(-1).isfinite())
        self.count.add_(self.alive)
        step, epsilon = bias_corrections(self.count.clamp_min(1), learning_rate * self.alive, self.betas, self.eps)
        if tau is not None:
            tau = (tau * self.alive).to(losses.dtype).unsqueeze(-1)
        step, epsilon = (number.to(losses.dtype).unsqueeze(-1) for number in (step, epsilon))
        self._norms = self._step_(self._tensors, step, epsilon, tau)
        return metrics

    def _step_(self, tensors: _Tensors, step: Tensor, epsilon: Tensor, tau: Tensor | None) -> dict[str, Tensor]:
        gradient = torch.where(self.alive.unsqueeze(-1), tensors.gradient, 0.0)
        return super()._step_(tensors._replace(gradient=gradient), step, epsilon, tau)

    def _copy_buffers(self, others: dict[str, Tensor], is_due: Tensor | None = None) -> None:
        super()._copy_buffers(others, self.alive if is_due is None else is_due)

    def _numbers(  # type: ignore[override]
        self,
        loss: Tensor,
        norms: dict[str, Tensor],
        alive: Tensor,
        count: Tensor,
        learning_rate: Tensor,
        tau: Tensor,
        is_due: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        for value in (loss, *norms.values()):
            alive.logical_and_(value.isfinite())
        count.add_(alive)
        step, epsilon = bias_corrections(count.clamp_min(1), learning_rate * alive, self.betas, self.eps)
        step, epsilon, tau = (_stored(number.to(loss.dtype)) for number in (step, epsilon, tau * alive))
        return step, epsilon, tau, _stored(alive), alive & is_due

    def _call(self, tensors: dict[str, Tensor], args: tuple[Any, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        in_dims = tree_map(lambda arg: 0 if isinstance(arg, Tensor) else None, args)
        result: tuple[Tensor, dict[str, Tensor]]
        result = vmap(super()._call, in_dims=(0, in_dims))(tensors, args)
        return result


def _norm(pieces: Sequence[Tensor]) -> Tensor:
    """2-norm ``[...]`` of pieces ``[..., P_i]`` together."""
    square = pieces[0].square().sum(-1)
    for piece in pieces[1:]:
        square = square + piece.square().sum(-1)
    return square.sqrt()


def _stored(numbers: Tensor) -> Tensor:
    """``[...]`` as ``[..., 1]``; a compiler stores them for it, and does not work them out anew for each parameter."""
    return numbers.as_strided((*numbers.shape, 1), (*numbers.stride(), 1))


def _shapes(learner: Learner) -> list[tuple[str, tuple[int, ...]]]:
    """What must be equal in all members."""
    tensors = (*learner.loss.named_parameters(), *learner.loss.named_buffers())
    return [(name, tuple(tensor.shape)) for name, tensor in tensors]


def _member(tensors: _Tensors, index: int) -> _Tensors:
    """The rows of one member."""
    return _Tensors(*tree_map(lambda tensor: tensor[index], tuple(tensors)))


def _split(named: Mapping[str, Tensor], flat: Tensor) -> dict[str, Tensor]:
    """A flat tensor ``[..., P]`` as views of the shapes of ``named``."""
    pieces = flat.split([p.numel() for p in named.values()], -1)
    return {name: x.view((*x.shape[:-1], *p.shape)) for (name, p), x in zip(named.items(), pieces, strict=True)}


def _flatten(named: Mapping[str, Tensor]) -> Tensor:
    """One flat tensor ``[P]`` of all that these hold."""
    return torch.cat([p.detach().reshape(-1) for p in named.values()])


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
