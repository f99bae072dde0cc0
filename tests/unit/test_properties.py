"""What holds for every shape, dtype, mask and logit: nothing is NaN, rows are one-hot or soft, gradients stay legal."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from gymnasium.spaces import MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gsrl.distributions import FactoredCategorical
from gsrl.estimators import ESTIMATORS, Pathwise, make_estimator
from gsrl.heads import ActionHead
from gsrl.relaxations import binary_concrete, gumbel_max, gumbel_softmax, straight_through

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LARGEST = 1e4
SAMPLERS = {
    "gumbel_max": lambda logits, temperature, **kwargs: gumbel_max(logits, **kwargs),
    "gumbel_softmax": gumbel_softmax,
    "gumbel_softmax, hard": lambda logits, temperature, **kwargs: gumbel_softmax(logits, temperature, True, **kwargs),
    "straight_through": straight_through,
    "FactoredCategorical": lambda logits, temperature, mask, generator: FactoredCategorical(logits, mask).sample(
        generator=generator
    ),
}
WITHOUT_GRADIENT = ["gumbel_max", "FactoredCategorical"]
HARD = [name for name in SAMPLERS if name != "gumbel_softmax"]
SETTINGS = {
    "relax": lambda n, K: {"n": n, "K": K},
    "unordered-set": lambda n, K: {"num_samples": 2},
}
"""Constructor arguments of the estimators that need some; the others are built without."""


@dataclass
class Problem:
    """Logits, and what is legal, said by the mask or by ``-inf``."""

    logits: Tensor
    mask: Tensor | None
    legal: Tensor
    seed: int

    @property
    def shape(self) -> torch.Size:
        return self.logits.shape

    @property
    def precision(self) -> float:
        """A small multiple of the rounding error of the dtype."""
        return 32 * torch.finfo(self.logits.dtype).eps

    def slope(self) -> Tensor:
        """In [-1, 1]."""
        return (2 * torch.rand(self.shape, generator=generator(self.seed + 1)) - 1).to(self.logits.dtype)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    batch = draw(st.lists(st.integers(1, 3), max_size=3))
    shape = (*batch, draw(st.integers(1, 4)), draw(st.integers(1, 6)))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**16))
    source = generator(seed)
    kind = draw(st.sampled_from(["normal", "uniform", "extremes", "ties"]))
    if kind == "normal":
        logits = torch.randn(shape, generator=source)
    elif kind == "uniform":
        logits = LARGEST * (2 * torch.rand(shape, generator=source) - 1)
    elif kind == "extremes":
        values = torch.tensor([-LARGEST, -1.0, 0.0, 1.0, LARGEST])
        logits = values[torch.randint(len(values), shape, generator=source)]
    else:
        logits = torch.full(shape, draw(st.sampled_from([-LARGEST, 0.0, LARGEST])))

    form = draw(st.sampled_from(["none", "mask", "minus infinity"]))
    if form == "none":
        return Problem(logits.to(dtype), None, torch.ones(shape, dtype=torch.bool), seed)
    legal = torch.rand(shape, generator=source) < draw(st.sampled_from([0.0, 0.5, 0.9]))
    legal.scatter_(-1, torch.randint(shape[-1], (*shape[:-1], 1), generator=source), True)
    if form == "mask":
        return Problem(logits.masked_fill(~legal, LARGEST).to(dtype), legal, legal, seed)
    return Problem(logits.masked_fill(~legal, -torch.inf).to(dtype), None, legal, seed)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_rows(rows: Tensor, problem: Problem, one_hot: bool) -> None:
    """Rows are on the simplex, or exactly one-hot, and nothing illegal has any weight."""
    assert rows.shape == problem.shape
    assert rows.dtype == problem.logits.dtype
    assert (rows >= 0).all()
    assert not rows[~problem.legal].any()
    if one_hot:
        assert ((rows == 0) | (rows == 1)).all()
        assert (rows.sum(-1) == 1).all()
    else:
        assert ((rows.double().sum(-1) - 1).abs() <= problem.precision).all()


def check_gradient(gradient: Tensor, problem: Problem, size: float) -> None:
    """The gradient is finite, exactly 0 where illegal, and adds up to 0 in every row, for terms up to ``size``."""
    assert gradient.dtype == problem.logits.dtype
    assert gradient.isfinite().all()
    assert not gradient[~problem.legal].any()
    assert (gradient.double().sum(-1).abs() <= size * problem.precision).all()


@pytest.mark.parametrize("name", SAMPLERS)
@given(problem=problems(), temperature=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
def test_samples(name, problem, temperature):
    leaf = problem.logits.clone().requires_grad_()
    sample = SAMPLERS[name](leaf, temperature, mask=problem.mask, generator=generator(problem.seed))
    check_rows(sample.detach(), problem, one_hot=name in HARD)
    assert sample.requires_grad == (name not in WITHOUT_GRADIENT)
    if sample.requires_grad:
        (gradient,) = torch.autograd.grad(sample, leaf, problem.slope())
        check_gradient(gradient, problem, size=1 / temperature)


@pytest.mark.parametrize("hard", [False, True])
@given(problem=problems(), temperature=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
def test_binary_samples(hard, problem, temperature):
    leaf = problem.logits.clone().requires_grad_()
    sample = binary_concrete(leaf, temperature, hard, mask=problem.mask, generator=generator(problem.seed))
    (gradient,) = torch.autograd.grad(sample, leaf, problem.slope())
    assert sample.shape == problem.shape
    assert sample.dtype == gradient.dtype == problem.logits.dtype
    assert ((sample == 0) | (sample == 1)).all() if hard else ((sample >= 0) & (sample <= 1)).all()
    assert not sample[~problem.legal].any()
    assert not gradient[~problem.legal].any()
    assert (gradient.abs() <= 0.25 / temperature * (1 + problem.precision)).all()  # NaN is not


@given(problem=problems())
def test_distribution(problem):
    leaf = problem.logits.clone().requires_grad_()
    policy = FactoredCategorical(leaf, problem.mask)
    n, _ = policy.event_shape
    assert torch.equal(policy.mask, problem.legal)
    check_rows(policy.probs.detach(), problem, one_hot=False)
    check_rows(policy.mode, problem, one_hot=True)
    largest = problem.logits.masked_fill(~problem.legal, -torch.inf).amax(-1)
    assert torch.equal(problem.logits[policy.mode > 0].view_as(largest), largest)

    sample = policy.sample((3,), generator=generator(problem.seed))
    for rows in sample:
        check_rows(rows, problem, one_hot=True)
    log_prob, entropy = policy.log_prob(sample), policy.entropy()
    assert log_prob.shape == (3, *policy.batch_shape)
    assert log_prob.isfinite().all()
    assert (log_prob <= 0).all()
    assert entropy.shape == policy.batch_shape
    assert (entropy >= 0).all()
    assert (entropy <= policy.max_entropy() + n * problem.precision).all()
    for value in (log_prob, entropy):
        assert value.dtype == problem.logits.dtype
        (gradient,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
        check_gradient(gradient, problem, size=3)

    first_illegal = torch.zeros_like(policy.mode).scatter_(-1, (~problem.legal).int().argmax(-1, keepdim=True), 1.0)
    assert (policy.log_prob(first_illegal)[~problem.legal.all(-1).all(-1)] == -torch.inf).all()


@pytest.mark.parametrize("name", ESTIMATORS)
@settings(max_examples=60)
@given(data=st.data())
def test_estimates(name, data):
    problem = data.draw(problems().filter(lambda problem: fits(name, problem)))
    n, K = problem.shape[-2:]
    estimator = make_estimator(name, **SETTINGS.get(name, lambda n, K: {})(n, K))
    leaf = problem.logits.clone().requires_grad_()
    policy, slope = FactoredCategorical(leaf, problem.mask), problem.slope() / (n * K)

    def f(configurations: Tensor) -> Tensor:
        return (1 + (configurations * slope).sum((-2, -1))) ** 2  # at most 4, with a slope of at most 4 / (n K)

    value = estimator.expectation(policy, f, generator=generator(problem.seed))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    assert value.shape == policy.batch_shape
    assert value.dtype == problem.logits.dtype
    assert ((value >= 0) & (value <= 4 + problem.precision)).all()
    check_gradient(gradient, problem, size=8)
    if isinstance(estimator, Pathwise):
        sample = estimator.sample(policy, generator=generator(problem.seed))
        check_rows(sample.detach(), problem, one_hot=name != "gumbel-softmax")


def fits(name: str, problem: Problem) -> bool:
    return problem.shape[-1] == 2 or name not in ("arm", "disarm")


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    scale=st.sampled_from([1.0, LARGEST]),
    seed=st.integers(0, 2**16),
)
def test_head_takes_actions_of_its_space(sizes, scale, seed):
    space = MultiDiscrete(sizes)
    head = ActionHead(3, space)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed)))
    policy = head(scale * torch.randn(7, 3, generator=generator(seed + 1)))
    for one_hot in (policy.sample(generator=generator(seed)), policy.mode):
        actions = head.codec.decode(one_hot)
        assert all(space.contains(action.numpy()) for action in actions)
        assert torch.equal(head.codec.encode(actions), one_hot)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", HARD)
def test_no_illegal_choice_in_a_million_draws(name, dtype):
    # The illegal choice has by far the largest logit, so that whatever escapes the mask shows at once.
    logits = torch.tensor([-LARGEST, LARGEST, -LARGEST], dtype=dtype).expand(1_000_000, 1, 3)
    mask = torch.tensor([True, False, True])
    counts = SAMPLERS[name](logits, 0.1, mask=mask, generator=generator()).sum((0, 1), dtype=torch.float64)
    assert counts[1] == 0
    assert counts.sum() == 1_000_000
    # Each legal one has probability 1/2: five standard deviations, failure rate 6e-7 a case.
    assert (counts[0] - 500_000).abs() < 2_500
