"""The conformance suite: whether an estimator, a third party's too, keeps the promises of the protocol."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from gsrl.distributions import FactoredCategorical
from gsrl.estimators import ESTIMATORS, Estimator, Noise, Objective, Pathwise, ScoreFunction, make_estimator

__all__ = ["ConformanceError", "check_estimator"]

_BATCHES = ((), (3,), (2, 3))
_SHAPES = ((1, 2), (1, 4), (3, 2), (3, 4))
_STATISTICAL_SHAPES = ((1, 2), (1, 4), (3, 2), (3, 3))
_DRAWS = 20_000
_DEVIATIONS = 4.5
"""P(|z| > 4.5) = 6.8e-6, and a run makes fewer than 100 comparisons: an honest estimator fails with P < 1e-3."""


class ConformanceError(AssertionError):
    """An estimator breaks a promise of the protocol.

    Example:
        >>> class Nameless(gsrl.estimators.Exact):
        ...     name = ""
        >>> check_estimator(Nameless)
        Traceback (most recent call last):
            ...
        gsrl.testing.ConformanceError: Nameless: class attribute name must be a string that says something
    """


@dataclass(frozen=True)
class _Subject:
    make: Callable[[], Estimator]
    supports: Callable[[int, int], bool]
    soft_rows: bool
    soft_value: bool
    reference_gradient: Callable[[Tensor, Tensor, Noise], Tensor] | None
    sampled_logits: Callable[[Tensor], Tensor]

    def shapes(self, shapes: tuple[tuple[int, int], ...] = _SHAPES) -> list[tuple[int, int]]:
        return [(n, K) for n, K in shapes if self.supports(n, K)]


@dataclass
class _Recorded:
    """An objective that keeps what it was called with."""

    f: Objective
    calls: list[Tensor] = field(default_factory=list)

    def __call__(self, configurations: Tensor) -> Tensor:
        self.calls.append(configurations.detach())
        return self.f(configurations)


def check_estimator(
    make: Callable[[], Estimator],
    *,
    supports: Callable[[int, int], bool] = lambda n, K: True,
    soft_rows: bool = False,
    soft_value: bool = False,
    reference_gradient: Callable[[Tensor, Tensor, Noise], Tensor] | None = None,
    sampled_logits: Callable[[Tensor], Tensor] = lambda logits: logits,
    device: torch.device | str = "cpu",
) -> None:
    """Checks every promise of :class:`gsrl.estimators.Estimator`, and stops at the first broken one.

    Shapes, one-hot rows, the number of calls, noise, purity, generators, masks, extreme logits, dtypes, ``torch.func``
    (over the estimator's parameters too), ``torch.compile`` and the state are checked for all. By enumeration and
    z-tests with fixed seeds (failure rate 1e-3): that the value has the mean E[f], that a parameter inside ``f`` gets
    the gradient of E[f] and, unless ``biased``, that the logits do.

    What a biased estimate *should* be, the suite cannot know: only ``reference_gradient`` tells it. Without one, the
    gradient of a biased estimator may be wrong by a factor. Errors that the estimator raises pass through, but
    for those of torch under its transforms. The caches of ``torch.compile`` are reset.

    Args:
        make: Builds the estimator, in the same state at every call.
        supports: Whether the estimator takes ``n`` factors of ``K`` choices.
        soft_rows: Whether ``f`` is also evaluated inside the simplex (a control variate).
        soft_value: Whether the value, too, is ``f`` inside the simplex (plain Gumbel-softmax). Its mean and the
            gradient of parameters inside ``f`` are then not checked.
        reference_gradient: The closed form of a pathwise estimate: maps ``logits``, the slope of ``f`` (both
            ``[*batch, n, K]``) and the noise to the gradient ``[*batch, n, K]``.
        sampled_logits: Maps the policy's logits to those that samples are drawn from, where they differ: divided by a
            forward temperature. The expectation meant above is the one under these.
        device: Where everything is; ``make`` is called with it as torch's default.

    Raises:
        ConformanceError: A promise is broken; the message says which.
        ValueError: ``supports`` refuses every shape that the suite knows.

    Example:
        >>> check_estimator(lambda: gsrl.make_estimator("exact"))
    """
    if not any(supports(n, K) for n, K in _SHAPES):
        raise ValueError(f"supports must accept one of the shapes (n, K) in {_SHAPES}, but accepts none.")
    subject = _Subject(make, supports, soft_rows or soft_value, soft_value, reference_gradient, sampled_logits)
    with nullcontext() if torch.device(device).type == "cpu" else torch.device(device):
        for check in _CHECKS:
            for broken in check(subject):
                raise ConformanceError(f"{type(make()).__name__}: {broken}")


def _attributes(subject: _Subject) -> Iterator[str]:
    estimator = subject.make()
    for name in ("name", "source"):
        if not (isinstance(getattr(estimator, name, None), str) and getattr(estimator, name)):
            yield f"class attribute {name} must be a string that says something"
    if not callable(getattr(estimator, "calls", None)):  # it was a string once
        yield f"calls must be a method of n and K, but got {estimator.calls!r}"
    if not isinstance(getattr(estimator, "biased", None), bool):
        yield "class attribute biased must be a bool"
    if ESTIMATORS.get(estimator.name) is type(estimator):
        rebuilt = make_estimator(estimator.name, **estimator.settings)
        states = [list(each.state_dict().values()) for each in (estimator, rebuilt)]
        if not _equal(*states) or not _same_estimates(estimator, rebuilt, subject):
            yield "make_estimator(name, **settings) must build an equal estimator"


def _shapes_and_rows(subject: _Subject) -> Iterator[str]:
    for batch, (n, K) in itertools.product(_BATCHES, subject.shapes()):
        estimator, logits, f = subject.make(), _logits(*batch, n, K), _Recorded(_objective(n, K))
        value, _ = _estimate(estimator, logits, f, _noise(estimator, logits))
        where = f"at logits of shape {tuple(logits.shape)}"
        if value.shape != batch:
            yield f"value must have shape {batch} {where}, but got {tuple(value.shape)}"
        for rows in f.calls:
            if rows.dtype != logits.dtype:
                yield f"f must be called with rows of the policy's dtype, {logits.dtype} {where}, but got {rows.dtype}"
            if rows.shape[1:] != logits.shape:
                yield f"f must be called with [M, *batch, n, K] {where}, but got {tuple(rows.shape)}"
            if subject.soft_rows:
                if (rows < 0).any() or not torch.allclose(rows.sum(-1), torch.ones(())):
                    yield f"f must be called with rows on the simplex {where}, but got {rows}"
            elif not _is_one_hot(rows):
                yield f"f must be called with rows that are exactly one-hot {where}, but got {rows}"
        evaluated = sum(rows.shape[0] for rows in f.calls)
        counted = estimator.calls(n, K)
        if not isinstance(counted, int) or counted != evaluated:
            yield f"calls({n}, {K}) is {counted!r}, but f was evaluated at {evaluated} configurations {where}"


def _noise_shapes(subject: _Subject) -> Iterator[str]:
    for n, K in subject.shapes():
        estimator, logits, f = subject.make(), _logits(3, n, K), _objective(n, K)
        policy, noise = FactoredCategorical(logits), _noise(estimator, logits)
        shape = estimator.noise_shape(policy)
        if shape is None:
            continue
        if not isinstance(noise, Tensor) or noise.shape != shape:
            yield f"draw_noise must return a tensor of noise_shape, {shape}, but returned {noise}"
        else:
            for wrong in (noise[:1], noise[..., :1], noise.unsqueeze(0)):
                if wrong.shape != shape and not _refused(partial(estimator.expectation, policy, f, wrong), "noise"):
                    yield f"noise of shape {tuple(wrong.shape)} in the place of {shape} must be a ValueError"


def _purity(subject: _Subject) -> Iterator[str]:
    for n, K in subject.shapes():
        estimator, logits, f = subject.make(), _logits(50, n, K), _objective(n, K)
        noise = _noise(estimator, logits)
        for tensor in _tensors(noise):
            if tensor.dtype != torch.float32 or not tensor.isfinite().all():
                yield "noise must be finite float32 tensors"
        policy = FactoredCategorical(logits.clone().requires_grad_())
        before = [t.detach().clone() for t in (policy.logits, *_tensors(noise), *estimator.state_dict().values())]
        default_state = torch.get_rng_state()
        estimator.expectation(policy, f, noise).sum().backward()
        first = _estimate(estimator, logits, f, noise)
        if not _equal(before, [policy.logits, *_tensors(noise), *estimator.state_dict().values()]):
            yield "expectation must not write to the policy's logits, to the noise, or to the estimator's own state"
        if not _equal(first, _estimate(estimator, logits, f, noise)):
            yield "the same noise must give the same value and gradient, bit for bit"
        with torch.no_grad():
            if not torch.equal(estimator.expectation(policy, f, noise), first[0]):
                yield "the value must be the same under torch.no_grad"

        drawn = [estimator.expectation(policy, f, generator=_generator()) for _ in range(2)]
        given = estimator.expectation(policy, f, estimator.draw_noise(policy, _generator()))
        if not torch.equal(drawn[0], drawn[1]) or not torch.equal(drawn[0], given):
            yield "a generator of the same seed must give the same value, that of the noise drawn with it"
        if not torch.equal(default_state, torch.get_rng_state()):
            yield "torch's default generator must stay untouched when a generator or noise is given"


def _rows_independent(subject: _Subject) -> Iterator[str]:
    for n, K in subject.shapes():
        estimator, logits, f = subject.make(), _logits(3, n, K), _objective(n, K)
        noise = _noise(estimator, logits)
        changed = logits.clone()
        changed[1:] += _logits(n, K).flip(-1)
        value, gradient = _estimate(estimator, logits, f, noise)
        other_value, other_gradient = _estimate(estimator, changed, f, noise)
        if not _equal((value[0], gradient[0]), (other_value[0], other_gradient[0])):
            yield "the estimate of a batch row must not depend on the logits of another"


def _extremes_and_masks(subject: _Subject) -> Iterator[str]:
    for n, K in subject.shapes():
        estimator, f, mask = subject.make(), _objective(n, K), _mask(n, K)
        for logits in (_logits(3, n, K), 1e4 * _logits(3, n, K).sign(), _logits(3, n, K) * 1e4):
            noise = _noise(estimator, logits)
            for legal in (None, mask):
                value, gradient = _estimate(estimator, logits, f, noise, legal)
                if not (value.isfinite().all() and gradient.isfinite().all()):
                    yield f"value and gradient must be finite at logits up to {logits.abs().max()}, mask {legal}"
                if not torch.allclose(gradient.sum(-1), torch.zeros(()), atol=1e-4):
                    yield f"the rows of the gradient must sum to 0, but it is {gradient}"
            # The last pass was the masked one.
            if gradient[..., ~mask].any():
                yield f"the gradient must be exactly 0 at illegal choices, mask {mask}, but got {gradient}"
            if not _close((value, gradient), _estimate(estimator, logits, _raise_illegal(f, mask), noise, mask)):
                yield f"what f says of illegal choices must not matter, mask {mask}"


def _statistics(subject: _Subject) -> Iterator[str]:
    for n, K in subject.shapes(_STATISTICAL_SHAPES):
        for mask in (None, _mask(n, K)):
            estimator = subject.make()
            logits = _logits(n, K).double()
            offset = torch.full((), 0.5, dtype=torch.float64)
            exact = _exact(logits, offset, mask, subject.sampled_logits)

            rows = logits.expand(_DRAWS, n, K).clone().requires_grad_()
            offsets = offset.expand(_DRAWS).clone().requires_grad_()
            policy = FactoredCategorical(rows, mask)
            value = estimator.expectation(policy, _objective(n, K, offsets), generator=_generator())
            gradient, inner = torch.autograd.grad(value.sum(), (rows, offsets), materialize_grads=True)
            where = f"with n = {n}, K = {K}, mask {None if mask is None else mask.tolist()}"
            if not subject.soft_value:
                if not _mean_is(value.detach(), exact[0]):
                    yield f"the value must have the mean {exact[0]:.4f} {where}, but got {value.mean():.4f}"
                if not _mean_is(inner, exact[2]):
                    yield f"a parameter in f must get the gradient {exact[2]:.4f} {where}, but got {inner.mean():.4f}"
            if not estimator.biased and not _mean_is(gradient, exact[1]):
                yield (
                    f"an unbiased gradient must have the mean {exact[1].tolist()} {where}, "
                    f"but over {_DRAWS} draws has {gradient.mean(0).tolist()}"
                )


def _samples(subject: _Subject) -> Iterator[str]:
    """Pathwise and score-function estimators hand out the samples that their expectation takes."""
    for n, K in subject.shapes():
        estimator, logits, mask, f = subject.make(), _logits(50, n, K), _mask(n, K), _objective(n, K)
        noise = _noise(estimator, logits)
        if isinstance(estimator, Pathwise):
            leaf = logits.clone().requires_grad_()
            sample = estimator.sample(FactoredCategorical(leaf, mask), noise)
            value = f(sample.unsqueeze(0)).squeeze(0)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            if not _close((value, gradient), _estimate(estimator, logits, f, noise, mask)):
                yield "expectation must be f at what sample returns for the same noise, in value and gradient"
        elif isinstance(estimator, ScoreFunction):
            policy = FactoredCategorical(logits, mask)
            sample, log_prob = estimator.draw(policy, generator=_generator())
            if not torch.equal(log_prob, policy.log_prob(sample)):
                yield "draw must return the sample's log-probability"
        else:
            return
        if not subject.soft_rows and not _is_one_hot(sample):
            yield "a sample must be exactly one-hot"
        if sample[..., ~mask].any():
            yield "a sample must hold no illegal choice"


def _closed_form(subject: _Subject) -> Iterator[str]:
    if subject.reference_gradient is None:
        return
    for n, K in subject.shapes():
        estimator, logits = subject.make(), _logits(5, n, K)
        noise = _noise(estimator, logits)
        slope = _logits(5, n, K).flip(0)
        _, gradient = _estimate(estimator, logits, _linear(slope), noise)
        expected = subject.reference_gradient(logits, slope, noise)
        if not torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5):
            yield f"the gradient must be that of its closed form, {expected}, but got {gradient}"


def _transforms(subject: _Subject) -> Iterator[str]:
    """Under torch.func and torch.compile, with noise given, the estimate is the same."""
    try:
        yield from _transformed_estimates(subject)
    except RuntimeError as error:  # torch's own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield (
            "the estimate must be made without reading values, for torch.func and torch.compile: .item(), a branch on "
            f"values, or F.one_hot (scatter does the same) raise an error there, which is: {reason}"
        )


def _transformed_estimates(subject: _Subject) -> Iterator[str]:
    for n, K in subject.shapes():
        estimator, members, f = subject.make(), _logits(4, 3, n, K), _objective(n, K)
        noises = [_noise(estimator, member, seed) for seed, member in enumerate(members)]
        for mask in (_mask(n, K), None):
            total = partial(_total, estimator, f, mask)
            loop = [_estimate(estimator, member, f, noise, mask) for member, noise in zip(members, noises, strict=True)]
            expected = torch.stack([value.sum() for value, _ in loop]), torch.stack([gradient for _, gradient in loop])
            gradient, value = torch.func.vmap(torch.func.grad_and_value(total))(members, _stack(noises))
            if not _close((value, gradient), expected):
                yield f"torch.func.vmap over members must equal a loop over them, mask {mask}"
        # The last pass was the one without a mask.
        if not _close((torch.func.grad(total)(members[0], noises[0]),), (expected[1][0],)):
            yield "torch.func.grad must give the gradient that backward gives"

        if (n, K) != max(shape for shape in subject.shapes() if shape[0] == n):
            continue  # tracing takes long, and it tells one factor from several but not how many choices there are
        torch.compiler.reset()  # all estimators share the traced function, and its cache is limited
        leaf = members[0].clone().requires_grad_()
        value = torch.compile(total, fullgraph=True, backend="aot_eager")(leaf, noises[0])
        (gradient,) = torch.autograd.grad(value, leaf)
        if not _close((value, gradient), (expected[0][0], expected[1][0])):
            yield "the estimate must be the same under torch.compile"


def _transformed_parameters(subject: _Subject) -> Iterator[str]:
    """Estimators whose parameters are stacked, under torch.func.vmap, learn as each does alone."""
    for n, K in subject.shapes():
        estimator, members, f = subject.make(), _logits(4, 3, n, K), _objective(n, K)
        noises = [_noise(estimator, member, seed) for seed, member in enumerate(members)]
        shifts = torch.linspace(-0.1, 0.1, len(members))
        parameters = {
            name: torch.stack([value.detach() + shift for shift in shifts]).requires_grad_()
            for name, value in estimator.named_parameters()
        }
        if not parameters:
            return

        def total(member_parameters: dict[str, Tensor], logits: Tensor, noise: Noise) -> Tensor:
            arguments = (FactoredCategorical(logits), f, noise)  # noqa: B023 (called in this pass alone)
            return torch.func.functional_call(estimator, member_parameters, arguments).sum()  # noqa: B023

        together = torch.func.vmap(total)(parameters, members, _stack(noises))
        each = [
            total({name: value[index] for name, value in parameters.items()}, member, noise)
            for index, (member, noise) in enumerate(zip(members, noises, strict=True))
        ]
        expected = torch.autograd.grad(torch.stack(each).sum(), list(parameters.values()), materialize_grads=True)
        if not together.requires_grad or not _close(
            torch.autograd.grad(together.sum(), list(parameters.values()), materialize_grads=True), expected
        ):
            yield "the estimator's parameters must get the same gradient under torch.func.vmap as in a loop"


def _state(subject: _Subject) -> Iterator[str]:
    estimator = subject.make()
    for _ in range(3):
        estimator.step(torch.tensor([1.0, 2.0]))
    restored = subject.make()
    restored.load_state_dict(estimator.state_dict())
    if not _same_estimates(estimator, restored, subject):
        yield "what step changed must be in the state_dict: a restored estimator must give the same estimates"


def _dtypes(subject: _Subject) -> Iterator[str]:
    for dtype, (n, K) in itertools.product((torch.float16, torch.bfloat16, torch.float64), subject.shapes()):
        estimator, logits, f = subject.make(), _logits(3, n, K).to(dtype), _Recorded(_objective(n, K))
        value, gradient = _estimate(estimator, logits, f, _noise(estimator, logits))
        dtypes = {value.dtype, *(rows.dtype for rows in f.calls)}
        if dtypes != {dtype}:
            yield f"the value, and what f is called with, must have the dtype of the logits, {dtype}, not {dtypes}"
        if not (value.isfinite().all() and gradient.isfinite().all()):
            yield f"value and gradient must be finite in {dtype}"


_CHECKS = (
    _attributes,
    _noise_shapes,
    _shapes_and_rows,
    _purity,
    _rows_independent,
    _extremes_and_masks,
    _samples,
    _closed_form,
    _statistics,
    _transforms,
    _transformed_parameters,
    _state,
    _dtypes,
)


def _estimate(
    estimator: Estimator, logits: Tensor, f: Objective, noise: Noise, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The value, and the gradient of its sum in the logits."""
    logits = logits.clone().requires_grad_()
    value = estimator.expectation(FactoredCategorical(logits, mask), f, noise)
    if not value.requires_grad:
        raise ConformanceError(f"{type(estimator).__name__}: the value must carry a gradient")
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient


def _same_estimates(first: Estimator, second: Estimator, subject: _Subject) -> bool:
    n, K = subject.shapes()[0]
    logits, f = _logits(3, n, K), _objective(n, K)
    noise = _noise(first, logits)
    return _equal(_estimate(first, logits, f, noise), _estimate(second, logits, f, noise))


def _objective(n: int, K: int, offset: Tensor | float = 0.5) -> Objective:
    """A cubic that couples the factors: straight-through is biased for it, and so is ReinMax."""
    weights = torch.sin(1 + 2.3 * torch.arange(n * K)).reshape(n, K)
    return lambda configurations: (offset + (configurations * weights.to(configurations)).sum((-2, -1))) ** 3


def _linear(slope: Tensor) -> Objective:
    return lambda configurations: (configurations * slope).sum((-2, -1))


def _raise_illegal(f: Objective, mask: Tensor) -> Objective:
    return lambda configurations: f(configurations) + 100 * (configurations * ~mask).sum((-2, -1))


def _total(estimator: Estimator, f: Objective, mask: Tensor | None, logits: Tensor, noise: Noise) -> Tensor:
    return estimator.expectation(FactoredCategorical(logits, mask), f, noise).sum()


def _refused(call: Callable[[], object], word: str) -> bool:
    """Whether the call raises a ValueError that holds the word."""
    try:
        call()
    except ValueError as error:
        return word in str(error)
    return False


def _exact(
    logits: Tensor, offset: Tensor, mask: Tensor | None, sampled_logits: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """E[f], its gradient in the logits and its derivative in the offset, by enumeration, in no one else's code."""
    n, K = logits.shape
    logits, offset = logits.clone().requires_grad_(), offset.clone().requires_grad_()
    sampled = sampled_logits(logits)
    probs = (sampled if mask is None else sampled.masked_fill(~mask, -torch.inf)).softmax(-1)
    choices = torch.tensor(list(itertools.product(range(K), repeat=n)))
    configurations = torch.nn.functional.one_hot(choices, K).to(logits)
    value = ((probs * configurations).sum(-1).prod(-1) * _objective(n, K, offset)(configurations)).sum()
    gradient, inner = torch.autograd.grad(value, (logits, offset))
    return value.detach(), gradient, inner


def _mean_is(draws: Tensor, expected: Tensor) -> bool:
    """z-test of every entry of the mean over the first dimension; the last term is for rounding."""
    standard_error = draws.std(0) / draws.shape[0] ** 0.5
    return bool(((draws.mean(0) - expected).abs() <= _DEVIATIONS * standard_error + 1e-5 * (1 + expected.abs())).all())


def _logits(*shape: int) -> Tensor:
    return torch.cos(0.9 * torch.arange(torch.Size(shape).numel())).reshape(shape)


def _mask(n: int, K: int) -> Tensor:
    """The last choice of the first factor is illegal; the last factor has one legal choice if there are several."""
    mask = torch.ones(n, K, dtype=torch.bool)
    mask[0, -1] = False
    if n > 1:
        mask[-1, 1:] = False
    return mask


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator(torch.empty(0).device).manual_seed(seed)


def _noise(estimator: Estimator, logits: Tensor, seed: int = 0) -> Noise:
    return estimator.draw_noise(FactoredCategorical(logits), _generator(seed))


def _tensors(noise: Noise) -> tuple[Tensor, ...]:
    return (noise,) if isinstance(noise, Tensor) else noise


def _stack(noises: list[Noise]) -> Noise:
    stacked = tuple(torch.stack(parts) for parts in zip(*map(_tensors, noises), strict=True))
    return stacked[0] if isinstance(noises[0], Tensor) else stacked


def _is_one_hot(rows: Tensor) -> bool:
    return bool(((rows == 0) | (rows == 1)).all() and (rows.sum(-1) == 1).all())


def _equal(first: tuple[Tensor, ...] | list[Tensor], second: tuple[Tensor, ...] | list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _close(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(first, second, strict=True))
