"""Local expectation, ARM, DisARM, ARSM and the unordered set: estimators that couple samples."""

from __future__ import annotations

import itertools

import pytest
import torch

from gsrl.distributions import FactoredCategorical
from gsrl.estimators import ARM, ARSM, DisARM, Exact, LocalExpectation, UnorderedSet


def test_local_expectation_by_hand():
    # f = 5 a_0 + 7 a_0 b_1; the sample is (0, 1), f = 12. Given b: F_1 = (12, 0). Given a: F_2 = (5, 12).
    logits = torch.tensor([[1.0, 3.0], [1.0, 1.0]]).log().requires_grad_()
    f = lambda z: 5 * z[..., 0, 0] + 7 * z[..., 0, 0] * z[..., 1, 1]  # noqa: E731
    noise = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    value = LocalExpectation().expectation(FactoredCategorical(logits), f, noise)
    value.backward()
    assert value.item() == 12
    # p_0 p_1 (F_0 - F_1) in each row.
    torch.testing.assert_close(logits.grad, torch.tensor([[2.25, -2.25], [-1.75, 1.75]]))


def test_local_expectation_is_exact_for_one_factor():
    logits = torch.randn(2, 6, 1, 5, generator=torch.Generator().manual_seed(0))[0].requires_grad_()
    f = lambda z: (z * torch.arange(5.0)).sum((-2, -1)).exp()  # noqa: E731
    gradients = []
    for estimator in (LocalExpectation(), Exact()):
        value = estimator.expectation(FactoredCategorical(logits), f)
        gradients.append(torch.autograd.grad(value.sum(), logits)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("logistic", [0.3, -2.0])
def test_arm_and_disarm_by_hand(logistic):
    # phi = 1: b = 1[1 + L > 0], b~ = 1[1 - L > 0]; f(1) - f(0) = 3.
    f = lambda z: 3 * z[..., 0, 1] + 1  # noqa: E731
    gradients = {}
    for cls in (ARM, DisARM):
        logits = torch.tensor([[0.5, 1.5]], requires_grad=True)
        value = cls().expectation(FactoredCategorical(logits), f, torch.tensor([logistic]))
        value.backward()
        gradients[cls] = logits.grad
        assert value.item() == {0.3: 4.0, -2.0: 2.5}[logistic]
    if logistic == 0.3:
        expected = {ARM: 0.0, DisARM: 0.0}  # both samples are 1
    else:
        u = torch.tensor(logistic).sigmoid()
        expected = {ARM: -3 * (u - 0.5), DisARM: 0.5 * 3 * torch.tensor(1.0).sigmoid()}
    for cls, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[cls] * torch.tensor([[-1.0, 1.0]]))


def test_arsm_by_hand():
    # K = 3, f = (1, 2, 4): every exchange, one at a time, from the definition.
    logits, noise = torch.tensor([[0.4, -0.3, 0.1]], requires_grad=True), torch.tensor([[1.0, -0.5, 0.2]])
    costs = torch.tensor([1.0, 2.0, 4.0])
    value = ARSM().expectation(FactoredCategorical(logits), lambda z: (z * costs).sum((-2, -1)), noise)
    value.backward()
    pi = (-noise[0]).exp() / (-noise[0]).exp().sum()
    table = torch.zeros(3, 3)
    for c in range(3):
        for j in range(3):
            exchanged = pi.clone()
            exchanged[[c, j]] = pi[[j, c]]
            table[c, j] = costs[(exchanged.log() - logits.detach()[0]).argmin()]
    expected = torch.tensor(
        [sum((table[c, j] - table[:, j].mean()) * (1 / 3 - pi[j]) for j in range(3)) for c in range(3)]
    )
    assert value.item() == table[0, 0]
    torch.testing.assert_close(logits.grad[0], expected)


def test_unordered_set_by_hand():
    # m = 2, S = {a, b}, by the closed forms of the weights.
    p = torch.tensor([0.5, 0.3, 0.2])
    logits = p.log().unsqueeze(0).requires_grad_()
    costs = torch.tensor([1.0, 2.0, 4.0])
    noise = torch.zeros(1, 2, 3)
    noise[0, 0] = torch.tensor([9.0, 0.0, 8.0])  # S = {0, 2}
    value = UnorderedSet(2).expectation(FactoredCategorical(logits), lambda z: (z * costs).sum((-2, -1)), noise)
    value.backward()
    a, b = 0, 2
    both = p[a] * p[b] / (1 - p[a]) + p[a] * p[b] / (1 - p[b])
    weight = {a: p[b] / (1 - p[a]) / both, b: p[a] / (1 - p[b]) / both}
    ratio = {(a, b): (1 - p[a]) / p[b], (b, a): (1 - p[b]) / p[a]}
    expected = torch.zeros(3)
    for s, other in ((a, b), (b, a)):
        baseline = p[s] * costs[s] + p[other] * ratio[s, other] * costs[other]
        expected += p[s] * (torch.eye(3)[s] - p) * weight[s] * (costs[s] - baseline)
    torch.testing.assert_close(value.detach(), sum(p[s] * weight[s] * costs[s] for s in (a, b)))
    torch.testing.assert_close(logits.grad[0], expected)


def test_unordered_set_of_everything_is_exact():
    logits = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    f = lambda z: (0.5 + (z * torch.tensor([[1.0, -1.0, 0.5], [2.0, 0.3, -1.0]])).sum((-2, -1))) ** 3  # noqa: E731
    results = []
    for estimator in (UnorderedSet(9), Exact()):
        value = estimator.expectation(FactoredCategorical(logits), f)
        results.append((value, torch.autograd.grad(value.sum(), logits)[0]))
    torch.testing.assert_close(results[0], results[1])


def test_unordered_set_draws_different_legal_configurations():
    mask = torch.tensor([[True, False, False], [True, True, True], [False, True, True]])
    policy = FactoredCategorical(1e3 * torch.randn(500, 3, 3, generator=torch.Generator().manual_seed(0)), mask)
    estimator, seen = UnorderedSet(6), []
    estimator.expectation(policy, lambda z: (seen.append(z), z.sum((-2, -1)))[1])
    assert not seen[0][..., ~mask].any()
    code = (seen[0].argmax(-1) * torch.tensor([9, 3, 1])).sum(-1).sort(0).values
    assert (code.diff(dim=0) > 0).all()


@pytest.mark.parametrize("num_samples", [1, 17])
def test_unordered_set_size(num_samples):
    with pytest.raises(ValueError, match=f"num_samples must be from 2 to 16, but got {num_samples}"):
        UnorderedSet(num_samples)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("n", [1, 2])
def test_unordered_set_is_exact_where_fewer_configurations_are_legal(n, scale):
    # Every mask of one factor of four choices, beside one, two or four legal choices of a second factor.
    rows = torch.tensor(list(itertools.product([True, False], repeat=4))[:-1])
    second = torch.tensor([[True, False, False, False], [False, True, True, False], [True, True, True, True]])
    mask = rows.unsqueeze(1)
    if n == 2:
        mask = torch.stack([rows.repeat(3, 1), second.repeat_interleave(15, 0)], 1)
    legal = mask.sum(-1).prod(-1)
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(mask.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    slope = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    seen = []

    def f(z):
        seen.append(z)
        return (0.5 + (z * slope).sum((-2, -1))) ** 3

    results = []
    for estimator in (UnorderedSet(3), Exact()):
        value = estimator.expectation(FactoredCategorical(logits, mask), f, generator=generator)
        results.append((value, torch.autograd.grad(value.sum(), logits)[0]))
    for estimate, exact in zip(*results, strict=True):
        assert estimate.isfinite().all()
        torch.testing.assert_close(estimate[legal <= 3], exact[legal <= 3])
    assert {1, 2, 3} < set(legal.tolist())
    assert not seen[0][..., ~mask].any()
    if scale == 1.0:
        assert not torch.isclose(results[0][0], results[1][0])[legal > 3].any()


def test_unordered_set_of_a_row_does_not_depend_on_how_few_configurations_others_have():
    logits = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.tensor([[[True, True, True, True]], [[True, False, False, False]]])
    f, noise = lambda z: z.square() @ torch.arange(4.0, dtype=torch.float64), torch.rand(2, 1, 3, 4)
    estimate = lambda logits, mask, noise: UnorderedSet(3).expectation(  # noqa: E731
        FactoredCategorical(logits, mask), lambda z: f(z).sum(-1), noise
    )
    together, alone = estimate(logits, mask, noise), estimate(logits[:1], mask[:1], noise[:1])
    torch.testing.assert_close(together[0], alone[0])
    assert together[1] == 0  # f of choice 0, the only one
    torch.testing.assert_close(torch.func.vmap(estimate)(logits, mask, noise), together)


def test_unordered_set_larger_than_the_domain_is_exact_with_a_call_for_each_configuration():
    logits = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    calls = []
    f = lambda z: (calls.append(len(z)), (z * torch.tensor([[1.0, -1.0], [2.0, 0.3]])).sum((-2, -1)) ** 3)[1]  # noqa: E731
    values = [estimator.expectation(FactoredCategorical(logits), f) for estimator in (UnorderedSet(10), Exact())]
    gradients = [torch.autograd.grad(value.sum(), logits)[0] for value in values]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    assert calls == [4, 4]


@pytest.mark.parametrize("cls", [ARM, DisARM])
def test_binary_estimators_refuse_more_choices(cls):
    with pytest.raises(ValueError, match="is for binary factors, K = 2, but got K = 3"):
        cls().expectation(FactoredCategorical(torch.zeros(1, 3)), lambda z: z.sum((-2, -1)))
