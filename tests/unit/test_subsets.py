from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor

import gsrl.subsets
from gsrl.relaxations import gumbel_max, gumbel_noise, gumbel_softmax
from gsrl.subsets import MAX_SUBSET, SubsetOfK, gumbel_top_k, log_continuations, relaxed_subset

INF = math.inf
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
MASK = torch.tensor([True, False, True, True, False, True])
BATCHES = [(), (5,), (2, 3)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def double(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def k_hot(*sets: Sequence[int], N: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.stack([torch.zeros(N, dtype=dtype).index_fill(0, torch.tensor(items), 1.0) for items in sets])


def log(fraction: Fraction) -> float:
    """Logarithm of a fraction that may be far below the smallest float."""
    return math.log(fraction.numerator) - math.log(fraction.denominator)


def completion(probs: Sequence[Fraction], rest: Fraction, drawn: int) -> Fraction:
    """Probability that the items outside the bit mask ``drawn`` come next, in any order: all orders, exactly."""
    left = [item for item in range(len(probs)) if not drawn >> item & 1]
    total = Fraction(0)
    for order in itertools.permutations(left):
        path, remaining = Fraction(1), rest + sum(probs[item] for item in left)
        for item in order:
            path *= probs[item] / remaining
            remaining -= probs[item]
        total += path
    return total


def set_probs(probs: Tensor, items: Sequence[int]) -> Tensor:
    """Probability of a set, differentiable in normalised ``probs[N]``: all orders."""
    total = torch.zeros((), dtype=probs.dtype)
    for order in itertools.permutations(items):
        path, remaining = torch.ones((), dtype=probs.dtype), probs.sum()
        for item in order:
            path = path * probs[item] / remaining
            remaining = remaining - probs[item]
        total = total + path
    return total


# Continuations.

TINY = Fraction(1, 10**40)
SETS = {
    "one of many": [Fraction(1, 3)],
    "with others": [Fraction(1, 2), Fraction(1, 5), Fraction(1, 10)],
    "the whole domain": [Fraction(1, 2), Fraction(3, 10), Fraction(1, 5)],
    "five": [Fraction(1, 4), Fraction(1, 10), Fraction(1, 7), Fraction(1, 50), Fraction(1, 3)],
    "five, the whole domain": [Fraction(x, 15) for x in (1, 2, 3, 4, 5)],
    "tiny": [TINY, Fraction(1, 2), 3 * TINY, Fraction(1, 10**9), TINY**2],
    "near one": [1 - Fraction(1, 10**12), Fraction(1, 10**13), Fraction(1, 10**14)],
    "almost the whole domain": [1 - 10 * TINY, TINY, 2 * TINY, 3 * TINY],
}


@pytest.mark.parametrize("name", SETS)
def test_continuations_are_sums_over_orders(name):
    probs = SETS[name]
    rest = 1 - sum(probs)
    expected = double(log(completion(probs, rest, drawn)) for drawn in range(2 ** len(probs)))
    log_probs = double(log(p) for p in probs)
    log_rest = double([log(rest) if rest else -INF]).squeeze()
    close(log_continuations(log_probs, log_rest), expected)
    close(log_continuations(log_probs + 3, log_rest + 3), expected)  # a common scale
    if name not in ("near one", "almost the whole domain"):
        close(log_continuations(log_probs), expected)


def test_continuations_subtract_once_without_the_rest():
    # 1 - p(S) = 2**-20 to within 2**-53: ten digits.
    probs = [1 - Fraction(1, 2**18), Fraction(1, 2**19), Fraction(1, 2**20)]
    expected = [log(completion(probs, Fraction(1, 2**20), drawn)) for drawn in range(8)]
    close(log_continuations(double(log(p) for p in probs)), double(expected), 1e-9)


def test_continuations_of_two_in_closed_form():
    a, b = 0.3, 0.2
    expected = double([a * b / (1 - a) + a * b / (1 - b), b / (1 - a), a / (1 - b), 1])
    close(log_continuations(double([a, b]).log()).exp(), expected)


def test_continuations_of_improbable_items_by_hand():
    # Item 0 comes first. Then item 1 competes with a rest e times less probable: sigmoid(1).
    log_probs = torch.tensor([0.0, -1000.0], dtype=torch.float64, requires_grad=True)
    log_rest = torch.tensor(-1001.0, dtype=torch.float64, requires_grad=True)
    log_b = log_continuations(log_probs, log_rest)
    sigmoid = 1 / (1 + math.exp(-1))
    close(log_b, double([math.log(sigmoid), math.log(sigmoid), 0, 0]), 1e-10)
    gradients = torch.autograd.grad(log_b[0], (log_probs, log_rest))
    close(gradients[0], double([0, 1 - sigmoid]), 1e-10)
    close(gradients[1], torch.tensor(sigmoid - 1, dtype=torch.float64), 1e-10)


@pytest.mark.parametrize("m", [2, 5, MAX_SUBSET])
@pytest.mark.parametrize("first", [0.0, -1e-9, -1000.0])
def test_continuations_are_finite_at_the_extremes(m, first):
    log_probs = torch.full((m,), -1000.0, dtype=torch.float64)
    log_probs[0] = first
    log_probs.requires_grad_()
    log_b = log_continuations(log_probs)
    (gradient,) = torch.autograd.grad(log_b.sum(), log_probs)
    assert log_b.isfinite().all()
    assert (log_b <= 1e-9).all()
    assert gradient.isfinite().all()


def test_the_whole_domain_is_certain():
    # log-probabilities that sum to 1 give 1 - p(S) = 0 up to rounding, of either sign.
    log_probs = normal(100, 4).log_softmax(-1).requires_grad_()
    log_b = log_continuations(log_probs)
    close(log_b, torch.zeros(100, 16, dtype=torch.float64), 1e-10)
    assert torch.autograd.grad(log_b.sum(), log_probs)[0].isfinite().all()


@pytest.mark.parametrize("batch", BATCHES)
def test_gradient_of_the_continuations(batch):
    log_probs = (normal(*batch, 3).log_softmax(-1) - 0.2).requires_grad_()
    log_rest = normal(*batch, seed=1).requires_grad_()
    assert log_continuations(log_probs).shape == (*batch, 8)
    assert torch.autograd.gradcheck(log_continuations, log_probs)
    assert torch.autograd.gradcheck(log_continuations, (log_probs, log_rest))


def test_continuations_are_float64():
    log_probs = (normal(5, 4).log_softmax(-1) - 0.1).float()
    assert log_continuations(log_probs).dtype == torch.float64
    assert torch.equal(log_continuations(log_probs), log_continuations(log_probs.double()))


@pytest.mark.parametrize("shape", [(), (2, MAX_SUBSET + 1)])
def test_continuations_of_a_bad_shape(shape):
    with pytest.raises(ValueError, match=r"shape \[\*batch, m\] with m at most 16, but got shape \("):
        log_continuations(torch.zeros(shape))


# Gumbel-top-k.


def test_top_k_by_hand():
    logits, noise = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([2.5, 0.0, 2.0, -9.0])
    assert gumbel_top_k(logits, 3, noise=noise).tolist() == [2, 0, 1]
    mask = torch.tensor([True, True, False, True])
    assert gumbel_top_k(logits, 3, mask=mask, noise=noise).tolist() == [0, 1, 3]


def test_top_one_is_gumbel_max():
    logits = normal(1000, 5, dtype=torch.float32)
    one_hot = gumbel_max(logits, generator=generator())
    assert torch.equal(gumbel_top_k(logits, 1, generator=generator()).squeeze(-1), one_hot.argmax(-1))


def test_top_k_carries_no_gradient_and_leaves_the_default_generator():
    before = torch.get_rng_state()
    indices = gumbel_top_k(normal(7, 5).requires_grad_(), 2, generator=generator())
    assert indices.shape == (7, 2)
    assert not indices.requires_grad
    assert torch.equal(before, torch.get_rng_state())


# Relaxed subsets.


def naive(perturbed: Tensor, k: int, temperature: float) -> Tensor:
    """The recursion as it is written."""
    total = torch.zeros_like(perturbed)
    for _ in range(k):
        soft = (perturbed / temperature).softmax(-1)
        total = total + soft
        perturbed = perturbed + (1 - soft).log()
    return total


def test_relaxed_subset_by_hand():
    # a = (25, 9, 4) / 38, and (alpha + log(1 - a)) / temperature = 2 log of (.5 * 13, .3 * 29, .2 * 34) / 38.
    logits = double([0.5, 0.3, 0.2]).log()
    weights = double([6.5, 8.7, 6.8]) ** 2
    expected = double([25.0, 9.0, 4.0]) / 38 + weights / weights.sum()
    close(relaxed_subset(logits, 2, 0.5, noise=torch.zeros(3)), expected)


def test_an_entry_may_exceed_one():
    # a = (1, 2) / 3, and then 1 * 2/3 = 2 * 1/3.
    logits = double([1.0, 2.0]).log()
    close(relaxed_subset(logits, 2, noise=torch.zeros(2)), double([5 / 6, 7 / 6]))


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1.0, [1.5, 0.5, 0.0]), (0.5, [1.0, 1.0, 0.0]), (2.0, [2.0, 0.0, 0.0])]
)
def test_the_push_is_not_cut_off_where_the_softmax_rounds_to_one(temperature, expected):
    # log(1 - a) of the first is -1e4 / temperature, so alpha is 1e4 (1 - 1 / temperature) next to 0.
    logits = torch.tensor([1e4, 0.0, -1e4])
    close(relaxed_subset(logits, 2, temperature, noise=torch.zeros(3)), torch.tensor(expected))


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_relaxed_subset_is_the_recursion(k, temperature):
    logits, noise, slope = normal(50, 6).requires_grad_(), normal(50, 6, seed=1), normal(50, 6, seed=2)
    actual, expected = relaxed_subset(logits, k, temperature, noise=noise), naive(logits + noise, k, temperature)
    close(actual, expected, 1e-9)
    close(actual.sum(-1), torch.full((50,), float(k), dtype=torch.float64))
    gradients = [torch.autograd.grad((value * slope).sum(), logits)[0] for value in (actual, expected)]
    close(*gradients, 1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_by_finite_differences(masked):
    logits = normal(3, 6).requires_grad_()
    temperature = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    noise, mask = normal(3, 6, seed=1), MASK if masked else None
    assert torch.autograd.gradcheck(lambda x, t: relaxed_subset(x, 3, t, mask=mask, noise=noise), (logits, temperature))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_a_subset_of_one_is_gumbel_softmax(temperature, hard):
    logits, noise, slope = normal(50, 6).requires_grad_(), normal(50, 6, seed=1), normal(50, 6, seed=2)
    ours = relaxed_subset(logits, 1, temperature, hard, mask=MASK, noise=noise)
    theirs = gumbel_softmax(logits, temperature, hard, mask=MASK, noise=noise)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad((value * slope).sum(), logits)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_cold_sample_is_k_hot():
    logits, noise = normal(1000, 6), normal(1000, 6, seed=1)
    perturbed = logits + noise
    gap = -perturbed.sort(-1).values.diff(dim=-1).amin(-1)
    soft = relaxed_subset(logits, 3, 1e-4, noise=noise)[gap < -0.01]
    assert len(soft) > 800
    hard = relaxed_subset(logits, 3, 1e-4, True, noise=noise)[gap < -0.01]
    close(soft, hard, 1e-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("k", [1, 3, 4])
def test_straight_through(k, temperature, dtype):
    leaf = (3 * normal(1000, 6)).to(dtype).requires_grad_()
    noise, slope = gumbel_noise((1000, 6), generator=generator(1)), normal(1000, 6, seed=2, dtype=dtype)
    soft, hard = (relaxed_subset(leaf, k, temperature, hard, mask=MASK, noise=noise) for hard in (False, True))
    assert hard.dtype == soft.dtype == dtype
    assert torch.equal(hard, torch.zeros_like(hard).scatter(-1, gumbel_top_k(leaf, k, mask=MASK, noise=noise), 1.0))
    assert torch.equal(hard.sum(-1), torch.full((1000,), k, dtype=dtype))
    assert not hard[:, ~MASK].any()
    gradients = [torch.autograd.grad((value * slope).sum(), leaf)[0] for value in (soft, hard)]
    assert torch.equal(*gradients)
    assert not gradients[0][:, ~MASK].any()


@pytest.mark.parametrize("form", ["mask", "minus infinity"])
def test_masked_subset_equals_the_legal_choices_alone(form):
    leaf, noise, slope = normal(50, 6).requires_grad_(), normal(50, 6, seed=1), normal(50, 6, seed=2)
    given, mask = (leaf, MASK) if form == "mask" else (leaf.masked_fill(~MASK, -INF), None)
    actual = relaxed_subset(given, 3, 0.5, mask=mask, noise=noise)
    alone = relaxed_subset(leaf[:, MASK], 3, 0.5, noise=noise[:, MASK])
    close(actual[:, MASK], alone)
    assert not actual[:, ~MASK].any()
    gradients = [
        torch.autograd.grad((value * weights).sum(), leaf)[0]
        for value, weights in ((actual, slope), (alone, slope[:, MASK]))
    ]
    close(*gradients)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.01, 1.0, torch.tensor(0.5, requires_grad=True)])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_extreme_logits(k, hard, temperature, dtype):
    rows = [[1e4, 0, -1e4, 1e4, 0, 0], [-1e4] * 6, [1e4, 0, 1e4, 1e4, 0, -1e4], [0, 1e4, 0, -1e4, 1e4, 1e4]]
    leaf = torch.tensor(rows).to(dtype).requires_grad_()
    sample = relaxed_subset(leaf, k, temperature, hard, mask=MASK, generator=generator())
    (sample * torch.tensor([1.0, -2.0, 3.0, 0.5, 9.0, -1.0])).sum().backward()
    assert sample.isfinite().all()
    assert leaf.grad.isfinite().all()
    assert not sample[:, ~MASK].any()
    torch.testing.assert_close(sample.sum(-1), torch.full((4,), k, dtype=dtype))
    if isinstance(temperature, Tensor):
        assert temperature.grad.isfinite()
        temperature.grad = None


# The distribution.


def test_by_hand():
    # p = (3, 2, 1) / 6: the six ordered pairs are 1/3 and 1/4, 1/6 and 1/10, 1/12 and 1/15.
    policy = SubsetOfK(double([3.0, 2.0, 1.0]).log(), 2)
    expected = double([7 / 12, 4 / 15, 3 / 20])
    close(policy.logits.exp(), double([3 / 6, 2 / 6, 1 / 6]))
    assert torch.equal(policy.enumerate_support(), k_hot((0, 1), (0, 2), (1, 2), N=3))
    close(policy.log_prob(policy.enumerate_support()).exp(), expected)
    close(policy.entropy(), -(expected * expected.log()).sum())
    assert torch.equal(policy.mode, k_hot((0, 1), N=3)[0])
    ordered = torch.tensor([[0, 1], [1, 0], [0, 2], [2, 0], [1, 2], [2, 1]])
    fractions = double([1 / 3, 1 / 4, 1 / 6, 1 / 10, 1 / 12, 1 / 15])
    close(policy.log_prob_ordered(ordered).exp(), fractions)


def test_uniform_sets():
    policy = SubsetOfK(torch.zeros(7, dtype=torch.float64), 3)
    close(policy.log_prob(policy.mode), torch.tensor(-math.log(35), dtype=torch.float64))
    close(policy.entropy(), torch.tensor(math.log(35), dtype=torch.float64))
    close(policy.log_prob_ordered(torch.tensor([4, 0, 6])), torch.tensor(-math.log(7 * 6 * 5), dtype=torch.float64))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_log_prob_and_its_gradient_are_sums_over_orders(k, masked):
    leaf = normal(6).requires_grad_()
    probs = (leaf.masked_fill(~MASK, -INF) if masked else leaf).softmax(-1)
    policy = SubsetOfK(leaf, k, MASK if masked else None)
    for items in itertools.combinations(range(6), k):
        if masked and not MASK[list(items)].all():
            continue
        actual, expected = policy.log_prob(k_hot(items, N=6)[0]), set_probs(probs, items).log()
        close(actual, expected)
        gradients = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in (actual, expected)]
        close(*gradients)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("batch", BATCHES)
def test_probabilities_sum_to_one(batch, k, masked):
    if masked and k > MASK.sum():
        return
    policy = SubsetOfK(2 * normal(*batch, 6), k, MASK if masked else None)
    ones = torch.ones(batch, dtype=torch.float64)
    count = math.comb(6, k)
    for expand in (False, True):
        support = policy.enumerate_support(expand)
        assert support.shape == (count, *(batch if expand else (1 for _ in batch)), 6)
        close(policy.log_prob(support).exp().sum(0), ones)
    assert policy.support.check(policy.enumerate_support()).all()
    legal = policy.log_prob(policy.enumerate_support()).isfinite().sum(0)
    assert (legal == math.comb(int(MASK.sum()) if masked else 6, k)).all()


@pytest.mark.parametrize("k", [1, 3, 6])
def test_ordered_draws_sum_to_the_set(k):
    policy = SubsetOfK(normal(2, 6), k)
    for items in itertools.islice(itertools.combinations(range(6), k), 4):
        orders = torch.tensor(list(itertools.permutations(items))).unsqueeze(1)
        close(policy.log_prob_ordered(orders).logsumexp(0), policy.log_prob(k_hot(items, N=6)))


def test_gradient_of_ordered_draws():
    logits = normal(3, 6).requires_grad_()
    indices = torch.tensor([[0, 2, 5], [3, 5, 0], [5, 3, 2]])
    assert torch.autograd.gradcheck(lambda x: SubsetOfK(x, 3, MASK).log_prob_ordered(indices), logits)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_mode_is_the_most_probable_set(k):
    policy = SubsetOfK(normal(200, 6), k)
    support = policy.enumerate_support()
    best = policy.log_prob(support).argmax(0)
    assert torch.equal(policy.mode, support[best, range(200)])


@pytest.mark.parametrize("k", [2, 3])
def test_improbable_sets_are_exact(k):
    # 1 - p(0) is 1e-22: what follows the first draw is decided by what log_softmax alone would round away.
    policy = SubsetOfK(torch.tensor([0.0, -50.0, -51.0, -52.0]), k)
    items = (0, 1) if k == 2 else (0, 1, 2)
    weights = [1.0, math.exp(-1), math.exp(-2)]
    expected = weights[0] / sum(weights)
    if k == 3:
        pairs = double(weights).log()
        expected = SubsetOfK(pairs, 2).log_prob(k_hot((0, 1), N=3)[0]).exp().item()
    close(policy.log_prob(k_hot(items, N=4)[0]), torch.tensor(math.log(expected)), 1e-6)


def test_log_prob_of_an_illegal_choice():
    leaf = normal(6).requires_grad_()
    policy = SubsetOfK(leaf, 2, MASK)
    illegal, legal = policy.log_prob(k_hot((0, 1), (0, 2), N=6))
    assert illegal == -INF
    assert legal.isfinite()
    assert policy.log_prob_ordered(torch.tensor([1, 0])) == -INF
    assert policy.log_prob_ordered(torch.tensor([0, 1])) == -INF
    for value in (illegal, policy.log_prob_ordered(torch.tensor([1, 0]))):
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        assert torch.equal(gradient, torch.zeros(6, dtype=torch.float64))


FUNCTIONS = {
    "entropy": lambda policy: policy.entropy(),
    "log_prob": lambda policy: policy.log_prob(policy.mode),
    "log_prob_ordered": lambda policy: policy.log_prob_ordered(policy.sample_ordered(generator=generator())),
    "support": lambda policy: (policy.log_prob(policy.enumerate_support()).exp() ** 2).sum(0),
    "relaxed_sample": lambda policy: policy.relaxed_sample(0.5, generator=generator()).square().sum(-1),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_is_nan(function, k, scale, dtype):
    leaf = (scale * normal(5, 6).clamp(-1, 1)).to(dtype).requires_grad_()
    value = FUNCTIONS[function](SubsetOfK(leaf, k, MASK))
    value.sum().backward()
    assert value.dtype == dtype
    assert value.isfinite().all()
    assert leaf.grad.isfinite().all()
    assert not leaf.grad[:, ~MASK].any()
    if k == 4 and function in ("entropy", "log_prob"):  # one legal set
        close(value, torch.zeros_like(value))
        close(leaf.grad, torch.zeros_like(leaf), 1e-9)


def test_extreme_log_probs_are_exact():
    # Without the first, either order of the other two has -3e4.
    policy = SubsetOfK(double([1e4, 0.0, -1e4]), 2)
    close(policy.log_prob(policy.enumerate_support()), double([0.0, -1e4, math.log(2) - 3e4]))


def test_gradient_of_the_entropy():
    assert torch.autograd.gradcheck(lambda x: SubsetOfK(x, 2, MASK).entropy(), normal(3, 6).requires_grad_())


def test_dtype_follows_the_logits():
    for dtype in DTYPES:
        policy = SubsetOfK(normal(5, 6, dtype=dtype), 2, MASK)
        for tensor in (policy.logits, policy.sample(), policy.mode, policy.enumerate_support()):
            assert tensor.dtype == dtype


def test_samples():
    policy = SubsetOfK(normal(5, 6, dtype=torch.float32).requires_grad_(), 3, MASK)
    before = torch.get_rng_state()
    first, second = (policy.sample((7, 2), generator=generator(1)) for _ in range(2))
    noise = gumbel_noise((7, 2, 5, 6), generator=generator(1))
    assert first.shape == (7, 2, 5, 6)
    assert torch.equal(first, second)
    assert torch.equal(first, policy.sample((7, 2), noise=noise))
    assert policy.support.check(first).all()
    assert not first[..., ~MASK].any()
    assert not first.requires_grad
    ordered = policy.sample_ordered((7, 2), noise=noise)
    assert ordered.shape == (7, 2, 5, 3)
    assert torch.equal(first, torch.zeros_like(first).scatter(-1, ordered, 1.0))
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(NotImplementedError):
        policy.rsample()


@pytest.mark.parametrize("hard", [False, True])
def test_relaxed_sample_is_the_function(hard):
    logits, noise = normal(5, 6), normal(5, 6, seed=1)
    sample = SubsetOfK(logits, 3, MASK).relaxed_sample(0.7, hard, noise=noise)
    close(sample, relaxed_subset(logits, 3, 0.7, hard, mask=MASK, noise=noise))


def test_is_a_torch_distribution():
    policy = SubsetOfK(normal(5, 6), 2)
    assert (policy.batch_shape, policy.event_shape, policy.k) == ((5,), (6,), 2)
    assert policy.has_enumerate_support
    assert not policy.has_rsample
    assert torch.equal(
        policy.support.check(torch.tensor([[1.0, 1, 0], [1, 0, 0], [2, 0, 0]])), torch.tensor([1, 0, 0]) > 0
    )


def test_expand():
    policy = SubsetOfK(normal(1, 6), 2, MASK)
    expanded = policy.expand((4, 5))
    assert isinstance(expanded, SubsetOfK)
    assert (expanded.batch_shape, expanded.event_shape, expanded.k) == ((4, 5), (6,), 2)
    assert expanded.logits.data_ptr() == policy.logits.data_ptr()
    assert torch.equal(expanded.mask, MASK.expand(4, 5, 6))
    close(expanded.entropy(), policy.entropy().expand(4, 5))
    assert expanded.expand((2, 4, 5)).sample().shape == (2, 4, 5, 6)


def test_log_prob_broadcasts():
    policy = SubsetOfK(normal(2, 1, 6), 2)
    value = k_hot((0, 1), (2, 3), (4, 5), N=6)
    expected = torch.stack([SubsetOfK(normal(2, 1, 6)[i, 0], 2).log_prob(value) for i in range(2)])
    close(policy.log_prob(value), expected)
    close(policy.log_prob(value.float()), expected)
    assert policy.log_prob_ordered(torch.tensor([[0, 1], [2, 3], [4, 5]])).shape == (2, 3)


def test_many_of_many():
    # Sets above MAX_SUBSET can still be drawn, relaxed and scored in order.
    logits = normal(3, 200)
    policy = SubsetOfK(logits, 50)
    indices = policy.sample_ordered(generator=generator())
    remaining, expected = logits.exp().sum(-1), torch.zeros(3, dtype=torch.float64)
    for step in range(50):
        weight = logits.gather(-1, indices[:, step : step + 1]).squeeze(-1).exp()
        expected += (weight / remaining).log()
        remaining -= weight
    close(policy.log_prob_ordered(indices), expected, 1e-9)
    close(policy.relaxed_sample(0.1, generator=generator()).sum(-1), torch.full((3,), 50.0, dtype=torch.float64), 1e-9)
    for call in (lambda: policy.log_prob(policy.mode), SubsetOfK(torch.zeros(18), 17).entropy):
        with pytest.raises(ValueError, match=r"k at most 16, but got k = (50|17)\. Use sample_ordered"):
            call()


# torch.func and torch.compile.


def total(logits: Tensor, noise: Tensor) -> Tensor:
    policy = SubsetOfK(logits, 3, MASK)
    indices = policy.sample_ordered(noise=noise)
    weights = torch.arange(6.0, dtype=torch.float64)
    relaxed = sum((policy.relaxed_sample(0.7, hard, noise=noise) * weights).sum(-1) for hard in (False, True))
    return policy.log_prob(policy.sample(noise=noise)) + 2 * policy.log_prob_ordered(indices) + relaxed


def test_vmap_and_grad():
    logits, noise = normal(5, 6), normal(5, 6, seed=1)
    gradients, values = torch.func.vmap(torch.func.grad_and_value(total))(logits, noise)
    for row in range(5):
        leaf = logits[row].clone().requires_grad_()
        value = total(leaf, noise[row])
        value.backward()
        close(values[row], value.detach())
        close(gradients[row], leaf.grad)


def test_vmap_of_continuations_and_entropy():
    log_probs = normal(5, 2, 4).log_softmax(-1) - 0.1
    close(torch.func.vmap(log_continuations)(log_probs), log_continuations(log_probs))
    entropy = lambda logits: SubsetOfK(logits, 2).entropy()  # noqa: E731
    close(torch.func.vmap(entropy)(log_probs), entropy(log_probs))


def continuations_total(logits: Tensor, noise: Tensor) -> Tensor:
    return log_continuations(logits.log_softmax(-1)[:, :2]) @ torch.arange(4.0, dtype=torch.float64)


@pytest.mark.parametrize(("function", "backend"), [(total, "aot_eager"), (continuations_total, "inductor")])
def test_compile(function, backend):
    torch.compiler.reset()
    logits, noise = normal(5, 6).requires_grad_(), normal(5, 6, seed=1)
    compiled, eager = torch.compile(function, fullgraph=True, backend=backend)(logits, noise), function(logits, noise)
    close(compiled, eager, 1e-9)
    gradients = [torch.autograd.grad(value.sum(), logits)[0] for value in (compiled, eager)]
    close(*gradients, 1e-9)


# Errors.

CALLS = {
    "gumbel_top_k": gumbel_top_k,
    "relaxed_subset": relaxed_subset,
    "SubsetOfK": lambda logits, k, noise=None, **kwargs: SubsetOfK(logits, k, **kwargs).sample(noise=noise),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, r"k must be an integer from 1 to the number of choices, 3, but got 0"),
        ({"k": 4}, r"from 1 to the number of choices, 3, but got 4"),
        ({"k": 2.0}, r"k must be an integer .* but got 2\.0"),
        ({"logits": torch.zeros(2, 3, dtype=torch.long)}, r"logits must be a floating-point .* torch\.int64"),
        ({"logits": torch.tensor(0.0)}, r"last dimension of at least one choice, but got shape \(\)"),
        ({"logits": torch.tensor([[0.0, 1.0, math.nan]])}, r"logits must be finite or -inf, but got nan at"),
        ({"mask": torch.ones(2, 3)}, r"mask must be a boolean tensor"),
        ({"mask": torch.ones(2, dtype=torch.bool)}, r"mask must broadcast .*\(2, 3\).* shape \(2,\)"),
        (
            {"mask": torch.tensor([[True] * 3, [True, False, False]])},
            r"k must be at most .* shape \(2, 3\), but k = 2 and 1 have fewer; first rows \[\(1,\)\]",
        ),
        ({"logits": torch.tensor([[0.0, -INF, -INF]])}, r"k = 2 and 1 have fewer; first rows \[\(0,\)\]"),
        ({"noise": torch.zeros(3)}, r"noise must have the shape of logits, \(2, 3\), but got shape \(3,\)"),
    ],
)
def test_bad_arguments(name, arguments, message):
    arguments = {"logits": torch.zeros(2, 3), "k": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        CALLS[name](**arguments)


@pytest.mark.parametrize("temperature", [0.0, -1.0, torch.tensor([[1.0], [-2.0]])])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive, but got"):
        relaxed_subset(torch.zeros(2, 3), 2, temperature)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.eye(2), r"value must have shape \[\.\.\., N\] with N = 3, but got shape \(2, 2\)"),
        (torch.tensor(1.0), r"N = 3, but got shape \(\)"),
        (torch.eye(3), r"value must be k-hot with k = 2 .* at \("),
        (torch.tensor([2.0, 0.0, 0.0]), r"value must be k-hot with k = 2"),
        (torch.tensor([1.0, 0.5, 0.5]), r"value must be k-hot with k = 2"),
    ],
)
def test_bad_value(value, message):
    with pytest.raises(ValueError, match=message):
        SubsetOfK(torch.zeros(2, 3), 2).log_prob(value)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.tensor([0, 1, 2]), r"indices must be integers of shape \[\.\.\., k\] with k = 2, .* shape \(3,\)"),
        (torch.tensor([0.0, 1.0]), r"indices must be integers .* dtype torch\.float32"),
        (torch.tensor([1, 1]), r"indices must be different and in 0\.\.2 in every draw, but got .* at \("),
        (torch.tensor([0, 3]), r"indices must be different and in 0\.\.2"),
        (torch.tensor([-1, 0]), r"indices must be different and in 0\.\.2"),
    ],
)
def test_bad_indices(indices, message):
    with pytest.raises(ValueError, match=message):
        SubsetOfK(torch.zeros(2, 3), 2).log_prob_ordered(indices)


@pytest.mark.parametrize("call", ["enumerate_support", "entropy"])
def test_support_is_refused_above_the_limit(call):
    assert SubsetOfK(torch.zeros(362), 2).enumerate_support().shape == (65341, 362)
    with pytest.raises(ValueError, match=r"at most 65536, but there are 65703 sets of k = 2 of N = 363 choices"):
        getattr(SubsetOfK(torch.zeros(363), 2), call)()


def test_validation_of_values_can_be_turned_off():
    logits = torch.tensor([0.0, -INF, -INF])
    assert gumbel_top_k(logits, 2, noise=torch.zeros(3), validate_args=False)[0] == 0
    assert relaxed_subset(logits, 2, noise=torch.zeros(3), validate_args=False).tolist() == [2.0, 0.0, 0.0]
    policy = SubsetOfK(torch.zeros(3), 2, validate_args=False)
    policy.log_prob(torch.ones(3))
    with pytest.raises(ValueError, match="value must have shape"):
        policy.log_prob(torch.ones(2))


def test_public_names():
    assert all(hasattr(gsrl.subsets, name) for name in gsrl.subsets.__all__)
