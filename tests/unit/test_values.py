"""Values of one-hot matrices in their three forms: by hand, by loops, by enumeration, and from the critics."""

from __future__ import annotations

import math
from itertools import combinations, product
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from gsrl import DiscreteSAC, FactoredCategorical, make_estimator
from gsrl.algorithms.policies import PAIR_RANK, Critics
from gsrl.diagnostics import critic_slope
from gsrl.relaxations import gumbel_noise
from gsrl.spaces import OneHotCodec
from gsrl.values import (
    ActionValues,
    ChoiceValues,
    MultilinearValues,
    NetworkValues,
    combine_critics,
    q_value,
    soft_value,
    spread_of_choices,
)

ALPHA = 0.3
B, C, N, K, R, FEATURES = 4, 2, 3, 3, 4, 5
ONE_FACTOR = spaces.Discrete(K)
FACTORS = spaces.MultiDiscrete([2, 3, 3])
FORMS = [("choices", ONE_FACTOR), ("multilinear", FACTORS), ("network", FACTORS)]


def policy_of(*probabilities: float) -> FactoredCategorical:
    """One state, one factor."""
    return FactoredCategorical(torch.tensor([[probabilities]], dtype=torch.float64).log())


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_policy(n: int = N, seed: int = 10) -> FactoredCategorical:
    return FactoredCategorical(randn(B, n, K, seed=seed))


def make_multilinear() -> MultilinearValues:
    return MultilinearValues(randn(C, B, seed=1), randn(C, B, N, K, seed=2), randn(C, B, N, K, R, seed=3))


def make_network() -> NetworkValues:
    """Not linear in anything, and with states that differ."""
    inner, outer, bias = randn(C, 1, N * K, 6, seed=4), randn(C, 1, 6, 1, seed=5), randn(B, 6, seed=6)

    def evaluate(matrices: Tensor) -> Tensor:
        return ((matrices @ inner + bias).tanh() @ outer).squeeze(-1)

    return NetworkValues(evaluate, evaluate)


VALUES = {
    "choices": lambda: ChoiceValues(randn(C, B, 1, K, seed=1)),
    "multilinear": make_multilinear,
    "network": make_network,
}
FACTORS_OF = {"choices": 1, "multilinear": N, "network": N}


def make_critics(form: str, space: spaces.Space = FACTORS, seed: int = 0, **settings: Any) -> Critics:
    """The networks, with parameters of order 1 so that nothing is almost linear."""
    observation_space = spaces.Box(-1.0, 1.0, (FEATURES,))
    defaults: dict[str, Any] = {"net_arch": [6, 7], "n_critics": C, "activation_fn": nn.Tanh}
    critics = Critics(
        observation_space,
        space,
        features_extractor=FlattenExtractor(observation_space),
        form=form,  # type: ignore[arg-type]
        **(defaults | settings),
    )
    for index, parameter in enumerate(critics.parameters()):
        parameter.data = randn(*parameter.shape, seed=100 * seed + index).float()
    return critics


def observations(count: int = B) -> Tensor:
    return randn(count, FEATURES, seed=20).float()


def make_matrices(*leading: int, n: int = N, seed: int = 30) -> Tensor:
    """Rows inside the simplex, ``[*leading, n, K]``."""
    return randn(*leading, n, K, seed=seed).softmax(-1)


# Sums over matrices


def test_the_value_of_a_matrix_is_the_sum_over_its_rows() -> None:
    values = double([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    one_hot = double([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert q_value(values, one_hot).item() == 13.0
    assert q_value(values, torch.stack([one_hot, 2 * one_hot])).tolist() == [13.0, 26.0]


def test_combining_critics() -> None:
    values = double([[1.0, 5.0], [3.0, 2.0]])
    assert combine_critics(values, "min").tolist() == [1.0, 2.0]
    assert combine_critics(values, "mean").tolist() == [2.0, 3.5]


def test_the_soft_value_is_an_explicit_sum() -> None:
    values = double([[[1.0, 2.0, 4.0]]])
    policy = policy_of(0.5, 0.25, 0.25)
    # E[Q] = 0.5 + 0.5 + 1 = 2; H = 1.5 log 2.
    assert soft_value(policy, values, double(0.2)).item() == pytest.approx(2.0 + 0.2 * 1.5 * math.log(2))
    assert soft_value(policy, values, double(0.2), entropy=False).item() == pytest.approx(2.0)


def test_the_soft_value_of_the_optimal_policy_is_a_log_sum_exp() -> None:
    values = double([[[1.0, -0.5, 2.0]], [[0.0, 0.0, 3.0]]])
    policy = FactoredCategorical(values / ALPHA)
    expected = ALPHA * (values / ALPHA).logsumexp(-1).squeeze(-1)
    torch.testing.assert_close(soft_value(policy, values, double(ALPHA)), expected)


def test_the_soft_value_sums_over_factors() -> None:
    policy = FactoredCategorical(double([[[0.0, 0.0], [0.0, 0.0]]]))
    values = double([[[1.0, 3.0], [10.0, 30.0]]])
    assert soft_value(policy, values, double(1.0)).item() == pytest.approx(22.0 + 2 * math.log(2))


def test_masked_actions_have_no_part_and_no_nan() -> None:
    logits = double([[[0.3, 5.0, -0.2]]]).requires_grad_()
    mask = torch.tensor([[[True, False, True]]])
    values = double([[[1.0, 1e6, 2.0]]])
    masked = soft_value(FactoredCategorical(logits, mask), values, double(0.5))
    (gradient,) = torch.autograd.grad(masked.sum(), logits)

    legal_logits = double([[[0.3, -0.2]]]).requires_grad_()
    legal = soft_value(FactoredCategorical(legal_logits), double([[[1.0, 2.0]]]), double(0.5))
    (legal_gradient,) = torch.autograd.grad(legal.sum(), legal_logits)

    torch.testing.assert_close(masked, legal)
    assert gradient[0, 0, 1] == 0.0
    torch.testing.assert_close(gradient[0, 0, [0, 2]], legal_gradient[0, 0])


# All forms


@pytest.mark.parametrize("form", VALUES)
@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3)], ids=str)
def test_leading_dimensions_are_a_loop(form: str, leading: tuple[int, ...]) -> None:
    values, matrices = VALUES[form](), make_matrices(*leading, B, n=FACTORS_OF[form])
    together = values(matrices)
    assert together.shape == (C, *leading, B)
    for index in product(*map(range, leading)):
        torch.testing.assert_close(together[(slice(None), *index)], values(matrices[index]))


@pytest.mark.parametrize("form", VALUES)
def test_each_state_has_its_own_matrix(form: str) -> None:
    values, matrices = VALUES[form](), make_matrices(B, n=FACTORS_OF[form])
    for state in range(B):
        others = matrices.roll(1, -1)
        others[state] = matrices[state]
        changed = values(others) != values(matrices)
        assert changed.sum(0).tolist() == [0 if b == state else C for b in range(B)]


@pytest.mark.parametrize("form", VALUES)
@pytest.mark.parametrize("critics", ["min", "mean"])
def test_the_objective_combines_the_critics_at_vertices(form: str, critics: Any) -> None:
    values, n = VALUES[form](), FACTORS_OF[form]
    vertices = make_policy(n).enumerate_support()
    expected = values(vertices).amin(0) if critics == "min" else values(vertices).sum(0) / C
    torch.testing.assert_close(values.objective(critics)(vertices), expected)


def enumerate_value(policy: FactoredCategorical, of_vertices: Tensor, ent_coef: Tensor, *, entropy: bool) -> Tensor:
    """The expectation of ``[K**n, B]``, plus each factor's entropy times its alpha."""
    value = (policy.log_prob(policy.enumerate_support()).exp() * of_vertices).sum(0)
    if entropy:
        for i in range(policy.n):
            p = policy.probs[:, i]
            value = value - ent_coef[i] * (p * p.log()).sum(-1)
    return value


@pytest.mark.parametrize("critics", ["min", "mean"])
@pytest.mark.parametrize("entropy", [True, False])
def test_the_soft_value_of_choices_is_an_enumeration(critics: Any, entropy: bool) -> None:
    values, policy, ent_coef = VALUES["choices"](), make_policy(1), double([0.4])
    expected = enumerate_value(
        policy, combine_critics(values(policy.enumerate_support()), critics), ent_coef, entropy=entropy
    )
    torch.testing.assert_close(values.soft_value(policy, ent_coef, critics, entropy=entropy), expected)


@pytest.mark.parametrize("critics", ["min", "mean"])
@pytest.mark.parametrize("entropy", [True, False])
def test_the_soft_value_of_multilinear_values_is_an_enumeration(critics: Any, entropy: bool) -> None:
    values, policy, ent_coef = make_multilinear(), make_policy(), double([0.4, 0.1, 2.0])
    vertices = values(policy.enumerate_support())
    # An expectation for each critic; these are combined.
    expected = combine_critics(
        torch.stack([enumerate_value(policy, vertices[c], ent_coef, entropy=entropy) for c in range(C)]), critics
    )
    torch.testing.assert_close(values.soft_value(policy, ent_coef, critics, entropy=entropy), expected)


@pytest.mark.parametrize("critics", ["min", "mean"])
@pytest.mark.parametrize("entropy", [True, False])
def test_the_soft_value_of_a_network_is_right_in_the_mean(critics: Any, entropy: bool) -> None:
    values, policy, ent_coef = make_network(), make_policy(), double([0.4, 0.1, 2.0])
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [
            values.soft_value(policy, ent_coef, critics, entropy=entropy, noise=noise)
            for noise in gumbel_noise((4000, *policy.logits.shape), generator=generator)
        ]
    )
    vertices = combine_critics(values(policy.enumerate_support()), critics)
    expected = enumerate_value(policy, vertices, ent_coef, entropy=entropy)
    z = (draws.mean(0) - expected) / (draws.std(0) / len(draws) ** 0.5)
    # Four states: above 5 with a rate of 2e-6, were the seed not fixed.
    assert z.abs().max() < 5
    assert draws.std(0).min() > 0.1


def test_only_networks_sample() -> None:
    assert {form: make().sampled for form, make in VALUES.items()} == {
        "choices": False,
        "multilinear": False,
        "network": True,
    }


@pytest.mark.parametrize("form", ["multilinear", "network"])
def test_soft_values_of_masked_policies_are_those_of_the_legal_choices(form: str) -> None:
    values: ActionValues = VALUES[form]()
    mask = torch.eye(K, dtype=torch.bool)[[2, 0, 1]]
    policy = FactoredCategorical(make_policy().logits, mask)
    only = values(mask.double().expand(B, N, K))
    value = values.soft_value(policy, double([1.0, 1.0, 1.0]), "mean", noise=randn(B, N, K))
    torch.testing.assert_close(value, only.mean(0))


# Values of choices


def test_values_of_choices_by_hand() -> None:
    values = ChoiceValues(double([[[[1.0, 2.0, 4.0]]], [[[3.0, 0.0, 5.0]]]]))  # two critics, one state
    assert values(double([[[0.0, 1.0, 0.0]]])).tolist() == [[2.0], [0.0]]
    half = double([[[0.5, 0.5, 0.0]]])
    assert values(half).tolist() == [[1.5], [1.5]]
    # Critics are combined choice by choice, 1 and 0 here: linear between vertices.
    assert values.objective("min")(half.unsqueeze(0)).tolist() == [[0.5]]
    assert values.objective("mean")(half.unsqueeze(0)).tolist() == [[1.5]]
    expected = 0.5 * 1.0 + 0.5 * 0.0 + 0.2 * math.log(2)
    policy = policy_of(0.5, 0.5, 0.0)
    assert values.soft_value(policy, double([0.2]), "min").item() == pytest.approx(expected)


# Multilinear values


def by_loops(values: MultilinearValues, c: int, b: int, matrix: Tensor) -> float:
    """The definition, for one critic at one state."""
    total = values.state[c, b].item()
    for i in range(N):
        total += (matrix[i] @ values.choices[c, b, i]).item()
    assert values.pairs is not None
    for i, j in combinations(range(N), 2):
        for r in range(R):
            sign = -1.0 if r < R // 2 else 1.0
            left, right = (matrix[at] @ values.pairs[c, b, at, :, r] for at in (i, j))
            total += sign * (left * right).item()
    return total


@pytest.mark.parametrize("vertices", [True, False])
def test_pairs_are_those_of_an_explicit_loop(vertices: bool) -> None:
    values = make_multilinear()
    matrices = make_policy().mode if vertices else make_matrices(B)
    expected = [[by_loops(values, c, b, matrices[b]) for b in range(B)] for c in range(C)]
    torch.testing.assert_close(values(matrices), double(expected))


def test_pairs_by_hand() -> None:
    # Two factors of two choices, one rank of each sign.
    pairs = double([[[1.0, 10.0], [2.0, 20.0]], [[3.0, 30.0], [4.0, 40.0]]]).reshape(1, 1, 2, 2, 2)
    choices = double([[0.1, 0.2], [0.3, 0.4]]).reshape(1, 1, 2, 2)
    values = MultilinearValues(double([[5.0]]), choices, pairs)
    # The second choice of the first factor, the first of the second one.
    assert values(double([[[0.0, 1.0], [1.0, 0.0]]])).item() == pytest.approx(5.0 + 0.2 + 0.3 - 2 * 3 + 20 * 30)
    without = MultilinearValues(double([[5.0]]), choices, None)
    assert without(double([[[0.0, 1.0], [1.0, 0.0]]])).item() == pytest.approx(5.5)


def test_the_value_at_the_probabilities_is_the_expectation() -> None:
    values, policy = make_multilinear(), make_policy()
    vertices = policy.enumerate_support()
    expected = (policy.log_prob(vertices).exp() * values(vertices)).sum(1)
    torch.testing.assert_close(values(policy.probs), expected)


@pytest.mark.parametrize("row", range(N))
def test_linear_in_each_row_given_the_others(row: int) -> None:
    values, matrices = make_multilinear(), make_matrices(B)
    corners = []
    for k in range(K):
        corner = matrices.clone()
        corner[:, row] = torch.eye(K, dtype=torch.float64)[k]
        corners.append(values(corner))
    expected = sum(matrices[:, row, k] * corners[k] for k in range(K))
    torch.testing.assert_close(values(matrices), expected)


def test_straight_through_is_unbiased_on_multilinear_values() -> None:
    """The gradient at each configuration, weighted by its probability, adds up to the exact one."""
    f = make_multilinear().objective("mean")
    logits = make_policy().logits.requires_grad_()
    policy = FactoredCategorical(logits)
    expectation = make_estimator("exact").expectation(policy, f).sum()
    (exact,) = torch.autograd.grad(expectation, logits, retain_graph=True)
    straight_through = make_estimator("straight-through", temperature=1.0)
    mean, spread = torch.zeros_like(exact), torch.zeros_like(exact)
    for vertex in policy.enumerate_support():
        weight = policy.log_prob(vertex).exp().detach()
        cost = straight_through.expectation(policy, f, 1e3 * vertex)  # noise that makes it the sample
        (gradient,) = torch.autograd.grad(cost.sum(), logits, retain_graph=True)
        mean += weight[:, None, None] * gradient
        spread += weight[:, None, None] * (gradient - exact).square()
    torch.testing.assert_close(mean, exact)
    assert spread.max() > 0.01


# The critics' networks


def by_hand(
    critics: Critics, c: int, observation: Tensor, matrix: Tensor, activation: nn.Module, layer_norm: bool
) -> Tensor:
    """A plain network on the concatenated input, of one critic at one state."""
    inputs = torch.cat([observation, matrix.flatten()])
    first = torch.cat([critics.mlp.weight_0[c], critics.action_weight[c]])
    for weight, bias in ((first, critics.mlp.bias_0), (critics.mlp.weight_1[c], critics.mlp.bias_1)):
        inputs = inputs @ weight + bias[c, 0]
        if layer_norm:
            inputs = (inputs - inputs.mean()) / (inputs.var(correction=0) + 1e-5).sqrt()
        inputs = activation(inputs)
    return (inputs @ critics.weight[c] + critics.bias[c, 0])[0]


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation_fn", [nn.ReLU, nn.Tanh])
def test_a_network_takes_observation_and_matrix_as_one_input(layer_norm: bool, activation_fn: type[nn.Module]) -> None:
    critics = make_critics("network", layer_norm=layer_norm, activation_fn=activation_fn)
    matrices, activation = make_matrices(3, B).float(), activation_fn()
    values = critics(observations())
    expected = torch.stack(
        [
            by_hand(critics, c, observations()[b], matrices[m, b], activation, layer_norm)
            for c, m, b in product(range(C), range(3), range(B))
        ]
    ).view(C, 3, B)
    for evaluated in (values, values.detach()):
        torch.testing.assert_close(evaluated(matrices), expected, rtol=1e-4, atol=1e-5)
    parameters = list(critics.parameters())
    gradients, expected_gradients = (
        torch.autograd.grad(result.square().sum(), parameters) for result in (values(matrices), expected)
    )
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-3)


def test_the_output_layer_of_multilinear_critics() -> None:
    critics = make_critics("multilinear")
    values = critics(observations())
    latent = critics.mlp(observations().expand(C, B, FEATURES))
    output = torch.stack([latent[c] @ critics.weight[c] + critics.bias[c] for c in range(C)])
    assert output.shape == (C, B, 1 + N * K + N * K * PAIR_RANK)
    torch.testing.assert_close(values.state, output[..., 0])
    torch.testing.assert_close(values.choices.flatten(2), output[..., 1 : 1 + N * K])
    torch.testing.assert_close(values.pairs.flatten(2), output[..., 1 + N * K :])


def test_a_single_factor_has_no_pairs() -> None:
    values = make_critics("multilinear", ONE_FACTOR)(observations())
    assert values.pairs is None
    torch.testing.assert_close(
        values(torch.eye(K)[1].expand(B, 1, K)), values.state + values.choices[..., 0, 1], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("form", "space"), FORMS)
@pytest.mark.parametrize("net_arch", [[6], [6, 7]], ids=str)
def test_detached_values_pass_gradients_to_the_matrices_alone(
    form: str, space: spaces.Space, net_arch: list[int]
) -> None:
    critics = make_critics(form, space, net_arch=net_arch)
    inputs = observations().requires_grad_()
    matrices = make_matrices(3, B, n=OneHotCodec(space).n).float().requires_grad_()
    values = critics(inputs)
    fixed = values.detach()
    torch.testing.assert_close(fixed(matrices), values(matrices))
    others = [inputs, *critics.parameters()]
    gradient, *none = torch.autograd.grad(fixed(matrices).sum(), [matrices, *others], allow_unused=True)
    assert none == [None] * len(others)
    (expected,) = torch.autograd.grad(values(matrices).sum(), [matrices], retain_graph=True)
    torch.testing.assert_close(gradient, expected)
    assert not fixed(matrices.detach()).requires_grad
    for critics_of in ("min", "mean"):
        objective = values.objective(critics_of)(matrices).sum()
        assert torch.autograd.grad(objective, others, allow_unused=True) == (None,) * len(others)
    # What is not detached has gradients.
    every = torch.autograd.grad(values(matrices).sum(), others, allow_unused=True)
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in every)


@pytest.mark.parametrize(("form", "space"), FORMS)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_members_in_one_call_equal_a_loop(form: str, space: spaces.Space, layer_norm: bool) -> None:
    members = [make_critics(form, space, seed, layer_norm=layer_norm) for seed in range(3)]
    matrices, inputs = make_matrices(3, 2, B, n=OneHotCodec(space).n).float(), observations()

    class Evaluated(nn.Module):
        def __init__(self, critics: Critics) -> None:
            super().__init__()
            self.critics = critics

        def forward(self, matrices: Tensor) -> Tensor:
            return self.critics(inputs)(matrices)

    modules = [Evaluated(critics) for critics in members]
    parameters, buffers = stack_module_state(modules)
    together = vmap(lambda p, b, m: functional_call(modules[0], (p, b), (m,)))(parameters, buffers, matrices)
    expected = torch.stack([module(m) for module, m in zip(modules, matrices, strict=True)])
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)


# How far the slope at a vertex is from what a choice changes


@pytest.mark.parametrize(("form", "space"), [*FORMS[:2], ("multilinear", ONE_FACTOR)])
def test_the_slope_of_multilinear_forms_is_what_a_choice_changes(form: str, space: spaces.Space) -> None:
    codec = OneHotCodec(space)
    policy = FactoredCategorical(torch.zeros(B, codec.n, codec.K), codec.mask)
    one_hot = policy.sample(generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        values = make_critics(form, space)(observations())
    slope = critic_slope(values.objective("mean"), one_hot, policy.mask)
    assert slope.relative_error < 1e-5
    assert slope.cosine == pytest.approx(1.0)
    assert slope.scale == pytest.approx(1.0, abs=1e-5)
    assert slope.sign_agreement == 1.0


def test_the_slope_of_a_network_is_not_what_a_choice_changes() -> None:
    codec = OneHotCodec(FACTORS)
    policy = FactoredCategorical(torch.zeros(B, codec.n, codec.K), codec.mask)
    one_hot = policy.sample(generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        values = make_critics("network")(observations())
    assert critic_slope(values.objective("mean"), one_hot, policy.mask).relative_error > 0.1


# The form that is asked for


class DummyEnv(gym.Env):
    """Only its spaces count."""

    observation_space = spaces.Box(-1.0, 1.0, (FEATURES,))

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space


def make_model(action_space: spaces.Space, **policy_kwargs: Any) -> DiscreteSAC:
    policy_kwargs = {"net_arch": [4]} | policy_kwargs
    return DiscreteSAC("MlpPolicy", DummyEnv(action_space), policy_kwargs=policy_kwargs, device="cpu")


@pytest.mark.parametrize(
    ("action_space", "critic", "expected"),
    [
        (ONE_FACTOR, "auto", ChoiceValues),
        (spaces.MultiDiscrete([4]), "auto", ChoiceValues),
        (FACTORS, "auto", NetworkValues),
        (spaces.MultiBinary(2), "auto", NetworkValues),
        (ONE_FACTOR, "choices", ChoiceValues),
        (ONE_FACTOR, "multilinear", MultilinearValues),
        (ONE_FACTOR, "network", NetworkValues),
        (FACTORS, "multilinear", MultilinearValues),
        (FACTORS, "network", NetworkValues),
    ],
    ids=str,
)
def test_the_form_of_the_critics(action_space: spaces.Space, critic: str, expected: type[ActionValues]) -> None:
    policy = make_model(action_space, critic=critic).policy
    for critics in (policy.critic, policy.critic_target):
        assert type(critics(observations())) is expected


def test_without_a_hidden_layer_critics_of_several_factors_are_multilinear() -> None:
    policy = make_model(FACTORS, critic="auto", net_arch=[]).policy
    assert type(policy.critic(observations())) is MultilinearValues


@pytest.mark.parametrize(
    ("action_space", "settings", "message"),
    [
        (
            FACTORS,
            {"critic": "choices"},
            r"critic must not be 'choices' for the 3 factors of MultiDiscrete\(\[2 3 3\]\)",
        ),
        (spaces.MultiBinary(2), {"critic": "choices"}, "critic must not be 'choices' for the 2 factors"),
        (
            FACTORS,
            {"critic": "network", "net_arch": []},
            "critic 'network' needs a hidden layer, but net_arch has none",
        ),
        (
            ONE_FACTOR,
            {"critic": "network", "net_arch": {"pi": [4], "qf": []}},
            "critic 'network' needs a hidden layer, but net_arch has none",
        ),
        (FACTORS, {"critic": "linear"}, "critic must be 'choices', 'multilinear' or 'network', but got 'linear'"),
        (ONE_FACTOR, {"critic": None}, "critic must be 'choices', 'multilinear' or 'network', but got None"),
    ],
    ids=str,
)
def test_forms_that_do_not_fit(action_space: spaces.Space, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(action_space, **settings)


@pytest.mark.parametrize("form", ["choices", "multilinear"])
def test_no_hidden_layer_is_enough_without_a_network(form: str) -> None:
    critics = make_critics(form, ONE_FACTOR, net_arch=[])
    values = critics(observations())
    output = torch.stack([observations() @ critics.weight[c] + critics.bias[c] for c in range(C)])
    choices = values.values if form == "choices" else torch.cat([values.state[..., None, None], values.choices], -1)
    torch.testing.assert_close(choices[:, :, 0], output)


# What choices differ by


def test_the_spread_is_the_deviation_of_the_choices_with_a_floor() -> None:
    values = torch.tensor([[[1.0, 3.0, 5.0]], [[2.0, 2.0, 2.0]]], dtype=torch.float64)
    deviation = math.sqrt(8 / 3)
    floor = 0.1 * deviation / 2  # the mean of the batch is half of it
    spread = spread_of_choices(values, torch.ones(2, 1, 3, dtype=torch.bool))
    torch.testing.assert_close(spread, double([[math.hypot(deviation, floor)], [floor]]))


def test_the_spread_is_over_legal_choices_alone() -> None:
    values = torch.tensor([[[1.0, 3.0, -90.0]], [[7.0, -5.0, 9.0]]])
    mask = torch.tensor([[[True, True, False]], [[True, False, False]]])
    spread = spread_of_choices(values, mask)
    torch.testing.assert_close(spread, torch.tensor([[math.hypot(1.0, 0.05)], [0.05]]))


def test_states_may_be_left_out_of_the_floor_of_the_spread() -> None:
    values, mask = randn(6, 2, 3), torch.ones(6, 2, 3, dtype=torch.bool)
    counted = torch.tensor([True, False, True, True, False, True])
    spread = spread_of_choices(values, mask, counted)
    torch.testing.assert_close(spread[counted], spread_of_choices(values[counted], mask[counted]))


@pytest.mark.parametrize("factor", [2.0**-20, -4.0])
def test_the_spread_scales_with_the_values(factor: float) -> None:
    values, mask = randn(6, 2, 3).float(), torch.ones(6, 2, 3, dtype=torch.bool)
    assert torch.equal(spread_of_choices(factor * values, mask), abs(factor) * spread_of_choices(values, mask))


def test_the_spread_of_multilinear_values_is_that_of_expected_values_of_choices() -> None:
    values, policy = make_multilinear(), make_policy()
    expected = torch.empty(B, N, K, dtype=torch.float64)
    for i, k in product(range(N), range(K)):
        rows = policy.probs.clone()
        rows[:, i] = torch.eye(K, dtype=rows.dtype)[k]
        expected[:, i, k] = values(rows).mean(0)  # what is multilinear is its own expectation
    torch.testing.assert_close(values.spread(policy, "mean"), spread_of_choices(expected, policy.mask))


def test_the_spread_of_a_network_is_that_of_its_slopes() -> None:
    values, policy = make_network(), make_policy()
    rows = policy.probs.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(values(rows).mean(0).sum(), rows)
    torch.testing.assert_close(values.spread(policy, "mean"), spread_of_choices(slopes, policy.mask))


@pytest.mark.parametrize(("form", "space"), [("choices", ONE_FACTOR), ("multilinear", FACTORS), ("network", FACTORS)])
def test_critics_are_rescaled(form: str, space: spaces.Space) -> None:
    critics = make_critics(form, space)
    codec = OneHotCodec(space)
    choices = torch.arange(B)[:, None].expand(B, codec.n) % 2
    matrices = torch.nn.functional.one_hot(choices, codec.K).to(critics.weight.dtype)
    with torch.no_grad():
        before = critics(observations())(matrices)
        critics.rescale_(0.25)
        torch.testing.assert_close(critics(observations())(matrices), 0.25 * before)
