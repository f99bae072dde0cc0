from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, OneHotCategorical

from gsrl.distributions import MAX_SUPPORT, FactoredCategorical, kl_divergence
from gsrl.relaxations import gumbel_noise

INF = math.inf


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference(logits: Tensor) -> Independent:
    return Independent(OneHotCategorical(logits=logits, validate_args=False), 1)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


BATCHES = [(), (5,), (2, 3)]
MASK = torch.tensor([[True, False, True, True], [False, False, True, False], [True] * 4])


# Against torch.distributions.


@pytest.mark.parametrize("batch", BATCHES)
def test_agrees_with_torch(batch):
    logits = normal(*batch, 3, 4).double()
    ours, theirs = FactoredCategorical(logits), reference(logits)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert (ours.n, ours.K) == (3, 4)
    close(ours.probs, theirs.mean)
    close(ours.mean, theirs.mean)
    close(ours.variance, theirs.variance)
    close(ours.mode, theirs.mode)
    close(ours.entropy(), theirs.entropy())
    close(ours.factor_entropy(), theirs.base_dist.entropy())
    value = ours.sample((7,), generator=torch.Generator().manual_seed(0))
    close(ours.log_prob(value), theirs.log_prob(value))
    other = normal(*batch, 3, 4, seed=1).double()
    close(kl_divergence(ours, FactoredCategorical(other)), torch.distributions.kl_divergence(theirs, reference(other)))


def test_support_of_one_factor_agrees_with_torch():
    logits = normal(2, 1, 4)
    for expand in (False, True):
        expected = OneHotCategorical(logits=logits[:, 0]).enumerate_support(expand).unsqueeze(-2)
        assert torch.equal(FactoredCategorical(logits).enumerate_support(expand), expected)


def test_logits_are_normalised():
    policy = FactoredCategorical(normal(5, 3, 4) + 7)
    close(policy.logits, (normal(5, 3, 4)).log_softmax(-1))


def test_is_a_torch_distribution():
    policy = FactoredCategorical(normal(5, 3, 4))
    assert policy.support.check(policy.sample()).all()
    assert policy.has_enumerate_support
    assert "logits: torch.Size([5, 3, 4])" in repr(policy)


# By hand.


def test_by_hand():
    # p = (1/4, 3/4) and (1/2, 1/2).
    policy = FactoredCategorical(torch.tensor([[1.0, 3.0], [2.0, 2.0]]).log())
    close(policy.probs, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    close(policy.variance, torch.tensor([[3 / 16, 3 / 16], [1 / 4, 1 / 4]]))
    close(policy.log_prob(torch.tensor([[0.0, 1.0], [1.0, 0.0]])), torch.tensor(math.log(3 / 8)))
    close(policy.factor_entropy(), torch.tensor([2 * math.log(2) - 0.75 * math.log(3), math.log(2)]))
    close(policy.entropy(), torch.tensor(3 * math.log(2) - 0.75 * math.log(3)))
    close(policy.max_entropy(), torch.tensor(2 * math.log(2)))
    assert torch.equal(policy.mode, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def test_kl_by_hand():
    p = FactoredCategorical(torch.tensor([[1.0, 3.0]]).log())
    q = FactoredCategorical(torch.tensor([[1.0, 1.0]]).log())
    close(kl_divergence(p, q), torch.tensor(0.75 * math.log(3) - math.log(2)))
    assert kl_divergence(p, p) == 0


def test_support_order():
    support = FactoredCategorical(normal(2, 3)).enumerate_support()
    assert support.argmax(-1).tolist() == [list(choices) for choices in itertools.product(range(3), repeat=2)]
    assert torch.equal(support.sum(-1), torch.ones(9, 2))


@pytest.mark.parametrize("batch", BATCHES)
def test_support_shapes_and_total_probability(batch):
    policy = FactoredCategorical(normal(*batch, 3, 4), MASK)
    assert policy.enumerate_support().shape == (64, *batch, 3, 4)
    assert policy.enumerate_support(expand=False).shape == (64, *(1 for _ in batch), 3, 4)
    for expand in (False, True):
        close(policy.log_prob(policy.enumerate_support(expand)).exp().sum(0), torch.ones(batch))


@pytest.mark.parametrize("mask", [None, MASK], ids=["all legal", "masked"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_support_log_probs_are_those_of_the_support(n, batch, mask):
    logits = normal(*batch, 3, 4)[..., :n, :].double().requires_grad_()
    policy = FactoredCategorical(logits, None if mask is None else mask[:n])
    found, expected = policy.support_log_probs(), policy.log_prob(policy.enumerate_support())
    assert found.shape == (4**n, *batch)
    close(found, expected)
    weights = torch.linspace(-1, 1, 4**n).double().reshape(-1, *(1 for _ in batch))
    sums = [(each.exp() * weights).sum() for each in (found, expected)]
    slopes = [torch.autograd.grad(each, logits, retain_graph=True)[0] for each in sums]
    close(*slopes)


def test_support_is_refused_above_the_limit():
    assert FactoredCategorical(torch.zeros(16, 2)).enumerate_support().shape[0] == MAX_SUPPORT
    with pytest.raises(ValueError, match="at most 65536, but got n = 17, K = 2"):
        FactoredCategorical(torch.zeros(17, 2)).enumerate_support()


def test_gradient_of_the_entropy():
    # dH / d theta_k = -p_k (log p_k + H), a factor at a time.
    logits = normal(5, 3, 4).requires_grad_()
    policy = FactoredCategorical(logits)
    policy.entropy().sum().backward()
    log_p = logits.detach().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1, keepdim=True)
    close(logits.grad, -log_p.exp() * (log_p + entropy))


def test_gradient_of_the_log_prob():
    # The score is D - p.
    logits = normal(5, 3, 4).requires_grad_()
    policy = FactoredCategorical(logits)
    value = policy.sample(generator=torch.Generator().manual_seed(0))
    policy.log_prob(value).sum().backward()
    close(logits.grad, value - logits.detach().softmax(-1))


# Masks.


@pytest.mark.parametrize("form", ["mask", "minus infinity", "both"])
@pytest.mark.parametrize("batch", BATCHES)
def test_masked_equals_the_legal_choices_alone(batch, form):
    logits = normal(*batch, 3, 4)
    given = logits if form == "mask" else logits.masked_fill(~MASK, -INF)
    policy = FactoredCategorical(given, None if form == "minus infinity" else MASK)
    assert torch.equal(policy.mask, MASK.expand(*batch, 3, 4))
    parts = [OneHotCategorical(logits=logits[..., i, MASK[i]]) for i in range(3)]
    close(policy.factor_entropy(), torch.stack([part.entropy() for part in parts], -1))
    close(policy.entropy(), sum(part.entropy() for part in parts))
    close(policy.max_entropy(), torch.full(batch, math.log(3) + math.log(1) + math.log(4)))
    for i, part in enumerate(parts):
        close(policy.probs[..., i, MASK[i]], part.probs)
        assert not policy.probs[..., i, ~MASK[i]].any()
    assert not policy.variance[..., ~MASK].any()
    assert not policy.mode[..., ~MASK].any()
    assert not policy.sample((100,)).sum(0)[..., ~MASK].any()


def test_log_prob_of_an_illegal_choice():
    policy = FactoredCategorical(torch.zeros(2, 3), torch.tensor([[True, True, False], [True, True, True]]))
    one_hot = torch.eye(3)
    close(policy.log_prob(one_hot[[1, 2]]), torch.tensor(-math.log(6)))
    assert policy.log_prob(one_hot[[2, 0]]) == -INF


FUNCTIONS = {
    "entropy": lambda policy: policy.entropy(),
    "factor_entropy": lambda policy: policy.factor_entropy().sum(-1),
    "log_prob": lambda policy: policy.log_prob(policy.mode),
    "probs": lambda policy: policy.probs.square().sum((-2, -1)),
    "variance": lambda policy: policy.variance.sum((-2, -1)),
    "kl": lambda policy: kl_divergence(policy, uniform_like(policy)),
    "support": lambda policy: (policy.log_prob(policy.enumerate_support()).exp() ** 2).sum(0),
}


def uniform_like(policy: FactoredCategorical) -> FactoredCategorical:
    return FactoredCategorical(torch.zeros_like(policy.logits), policy.mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("form", ["mask", "minus infinity"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_is_nan(function, form, scale, dtype):
    leaf = (scale * normal(5, 3, 4).clamp(-1, 1)).to(dtype).requires_grad_()
    given, mask = (leaf, MASK) if form == "mask" else (leaf.masked_fill(~MASK, -INF), None)
    policy = FactoredCategorical(given, mask)
    value = FUNCTIONS[function](policy)
    value.sum().backward()
    assert value.dtype == dtype
    assert value.isfinite().all()
    assert leaf.grad.isfinite().all()
    assert not leaf.grad[..., ~MASK].any()
    assert not leaf.grad[:, 1].any()  # one legal choice


def test_gradient_at_logits_of_minus_infinity():
    logits = torch.tensor([[0.0, -INF, 1.0]], requires_grad=True)
    policy = FactoredCategorical(logits)
    (policy.entropy() + policy.log_prob(torch.tensor([[0.0, 0.0, 1.0]]))).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1] == 0


def test_kl_of_masks():
    logits = torch.zeros(1, 3)
    two, three = FactoredCategorical(logits, torch.tensor([True, True, False])), FactoredCategorical(logits)
    close(kl_divergence(two, three), torch.tensor(math.log(1.5)))
    assert kl_divergence(three, two) == INF
    assert kl_divergence(two, two) == 0


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 1), (3, 4), (5, 1, 1)])
def test_mask_broadcasts(shape):
    mask = torch.ones(shape, dtype=torch.bool)
    if shape[-1] == 4:
        mask[..., 0] = False
    policy = FactoredCategorical(normal(5, 3, 4), mask)
    assert torch.equal(policy.mask, mask.expand(5, 3, 4))


# Samples, expand, dtypes.


def test_samples():
    policy = FactoredCategorical(normal(5, 3, 4).requires_grad_(), MASK)
    before = torch.get_rng_state()
    first, second = (policy.sample((7, 2), generator=torch.Generator().manual_seed(1)) for _ in range(2))
    noise = gumbel_noise((7, 2, 5, 3, 4), generator=torch.Generator().manual_seed(1))
    assert first.shape == (7, 2, 5, 3, 4)
    assert torch.equal(first, second)
    assert torch.equal(first, policy.sample((7, 2), noise=noise))
    assert torch.equal(first, torch.nn.functional.one_hot((policy.logits + noise).argmax(-1), 4).float())
    assert not first.requires_grad
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(NotImplementedError):
        policy.rsample()


def test_samples_of_the_default_generator():
    policy = FactoredCategorical(normal(5, 3, 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        drawn = policy.sample()
    assert torch.equal(drawn, policy.sample(generator=torch.Generator().manual_seed(1)))


def test_expand():
    policy = FactoredCategorical(normal(1, 3, 4), MASK)
    expanded = policy.expand((6, 5))
    assert isinstance(expanded, FactoredCategorical)
    assert expanded.batch_shape == (6, 5)
    assert expanded.event_shape == (3, 4)
    assert expanded.logits.data_ptr() == policy.logits.data_ptr()
    close(expanded.entropy(), policy.entropy().expand(6, 5))
    assert torch.equal(expanded.mask, MASK.expand(6, 5, 3, 4))
    assert expanded.expand((2, 6, 5)).sample().shape == (2, 6, 5, 3, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_dtype_follows_the_logits(dtype):
    policy = FactoredCategorical(normal(5, 3, 4).to(dtype), MASK)
    sample = policy.sample()
    for tensor in (
        policy.logits,
        policy.probs,
        policy.mode,
        sample,
        policy.log_prob(sample),
        policy.entropy(),
        policy.max_entropy(),
        policy.enumerate_support(),
        kl_divergence(policy, policy),
    ):
        assert tensor.dtype == dtype
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 5e-2, torch.float64: 1e-6}[dtype]
    exact = FactoredCategorical(normal(5, 3, 4), MASK).entropy()
    torch.testing.assert_close(policy.entropy().float(), exact, rtol=tolerance, atol=tolerance)


def test_vmap_and_grad():
    logits = normal(5, 2, 3, 4)
    values = FactoredCategorical(logits, MASK).sample(generator=torch.Generator().manual_seed(0))

    def total(logits: Tensor, value: Tensor) -> Tensor:
        policy = FactoredCategorical(logits, MASK)
        return (policy.entropy() + policy.log_prob(value)).sum()

    gradients, totals = torch.func.vmap(torch.func.grad_and_value(total))(logits, values)
    for row in range(5):
        leaf = logits[row].clone().requires_grad_()
        expected = total(leaf, values[row])
        expected.backward()
        close(totals[row], expected.detach())
        close(gradients[row], leaf.grad)


def test_compile():
    torch.compiler.reset()
    logits = normal(5, 3, 4)

    def function(logits: Tensor) -> Tensor:
        policy = FactoredCategorical(logits, MASK)
        return policy.entropy() + policy.log_prob(policy.mode)

    close(torch.compile(function, fullgraph=True, backend="aot_eager")(logits), function(logits))


# Errors.


@pytest.mark.parametrize(
    ("logits", "mask", "message"),
    [
        (torch.zeros(3), None, r"logits must have shape \[\*batch, n, K\], but got shape \(3,\)"),
        (
            torch.zeros(2, 3, dtype=torch.int32),
            None,
            r"logits must be a floating-point tensor, but got dtype torch.int32",
        ),
        (torch.zeros(2, 0), None, r"at least one choice, but got shape \(2, 0\)"),
        (torch.tensor([[0.0, math.nan]]), None, r"logits must be finite or -inf, but got nan at"),
        (torch.tensor([[0.0, INF]]), None, r"logits must be finite or -inf, but got inf at"),
        (torch.zeros(2, 3), torch.ones(3), r"mask must be a boolean tensor, but got dtype torch.float32"),
        (torch.zeros(2, 3), torch.ones(2, dtype=torch.bool), r"mask must broadcast .* \(2, 3\), .* shape \(2,\)"),
        (torch.zeros(2, 3), torch.tensor([[True], [False]]), r"legal choice in every row .* first rows \[\(1,\)\]"),
        (torch.tensor([[[0.0, -INF], [-INF, -INF]]]), None, r"1 have none; first rows \[\(0, 1\)\]"),
        (torch.tensor([[0.0, -INF]]), torch.tensor([False, True]), r"legal choice in every row"),
    ],
)
def test_bad_arguments(logits, mask, message):
    with pytest.raises(ValueError, match=message):
        FactoredCategorical(logits, mask)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.eye(2), r"value must have shape \[..., n, K\] with \(n, K\) = \(2, 3\), but got shape \(2, 2\)"),
        (torch.eye(3), r"\(2, 3\), but got shape \(3, 3\)"),
        (torch.full((2, 3), 1 / 3), r"value must be one-hot .*0\.3333"),
        (torch.zeros(2, 3), r"value must be one-hot"),
        (torch.tensor([[1.0, 1.0, -1.0], [1.0, 0.0, 0.0]]), r"value must be one-hot"),
    ],
)
def test_bad_value(value, message):
    with pytest.raises(ValueError, match=message):
        FactoredCategorical(torch.zeros(2, 3)).log_prob(value)


def test_validation_of_values_can_be_turned_off():
    policy = FactoredCategorical(torch.zeros(1, 2), validate_args=False)
    close(policy.log_prob(torch.ones(1, 2)), torch.tensor(-2 * math.log(2)))
    with pytest.raises(ValueError, match="value must have shape"):
        policy.log_prob(torch.ones(1, 3))


def test_noise_of_another_shape():
    with pytest.raises(ValueError, match=r"noise must have the shape of logits, \(7, 2, 3\), but got shape \(2, 3\)"):
        FactoredCategorical(torch.zeros(2, 3)).sample((7,), noise=torch.zeros(2, 3))


def test_kl_is_infinite_where_an_underflowing_choice_is_forbidden():
    p = FactoredCategorical(torch.tensor([[0.0, -200.0]]))
    q = FactoredCategorical(torch.zeros(1, 2), torch.tensor([True, False]))
    assert kl_divergence(p, q) == torch.inf
    assert kl_divergence(q, p) == 0


@pytest.mark.parametrize("batch", BATCHES)
def test_indices_are_those_of_a_sample(batch):
    policy = FactoredCategorical(normal(*batch, 3, 4), MASK)
    indices = policy.sample_indices(generator=torch.Generator().manual_seed(1))
    assert (indices.dtype, indices.shape) == (torch.int64, (*batch, 3))
    assert torch.equal(indices, policy.sample(generator=torch.Generator().manual_seed(1)).argmax(-1))


def test_a_scaled_gradient_is_of_the_same_distribution() -> None:
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 3, 4).argsort(-1) > 0
    policy = FactoredCategorical(logits, mask)
    factor = torch.tensor([[1.0, 2.0, -0.5], [0.0, 1.0, 3.0]], dtype=torch.float64)
    scaled = policy.scale_gradient(factor)
    assert torch.equal(scaled.logits, policy.logits)
    assert torch.equal(scaled.mask, policy.mask)
    weights = torch.randn(2, 3, 4, dtype=torch.float64)
    (plain,) = torch.autograd.grad((weights * policy.probs).sum(), logits, retain_graph=True)
    (other,) = torch.autograd.grad((weights * scaled.probs).sum(), logits)
    torch.testing.assert_close(other, factor[..., None] * plain)
