"""Estimators: the registry, errors, values by hand, and what an estimator cannot serve."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from gsrl import estimators
from gsrl.algorithms import DiscreteSAC
from gsrl.comms import Channel
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import (
    ARM,
    ARSM,
    ESTIMATORS,
    RLOO,
    DecoupledStraightThrough,
    DisARM,
    Estimator,
    Exact,
    GappedStraightThrough,
    GumbelRao,
    GumbelSoftmax,
    LocalExpectation,
    MuProp,
    Pathwise,
    Rebar,
    ReinforceEstimator,
    ReinMax,
    Relax,
    STGumbel,
    StraightThrough,
    UnorderedSet,
    make_estimator,
    register_estimator,
)
from gsrl.relaxations import conditional_gumbel, gumbel_max, gumbel_noise
from gsrl.temperature import ExponentialTemperature, LearnedTemperature
from tests.common.estimators import TEMPERATURE, registered, vjp

# The registry.


def test_registry():
    assert {
        "exact": Exact,
        "local-expectation": LocalExpectation,
        "gumbel-softmax": GumbelSoftmax,
        "st-gumbel": STGumbel,
        "straight-through": StraightThrough,
        "decoupled-st": DecoupledStraightThrough,
        "gumbel-rao": GumbelRao,
        "gapped-st": GappedStraightThrough,
        "reinmax": ReinMax,
        "reinforce": ReinforceEstimator,
        "rloo": RLOO,
        "muprop": MuProp,
        "rebar": Rebar,
        "relax": Relax,
        "arm": ARM,
        "disarm": DisARM,
        "arsm": ARSM,
        "unordered-set": UnorderedSet,
    } == ESTIMATORS


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"name must be one of \[.*'rloo'.*\], but got 'st-gumble'"):
        make_estimator("st-gumble")


@pytest.fixture
def own():
    """A registered estimator of nobody's."""

    class Own(StraightThrough):
        name = "own-st"

    with registered(Own):
        yield Own


def test_a_registered_name_is_one_of_all(own):
    assert type(make_estimator("own-st", temperature=0.5)) is own
    with pytest.raises(ValueError, match=r"'own-st'.*, but got 'own_st'. Did you mean 'own-st'\?"):
        make_estimator("own_st")
    assert type(DiscreteSAC("MlpPolicy", "CartPole-v1", estimator="own-st").estimator) is own
    assert type(Channel(3, estimator="own-st", temperature=2.0).estimator) is own
    assert register_estimator(own) is own


def test_an_earlier_name_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"gsrl\.estimators\.Reinforce is now gsrl\.estimators\.Reinf"):
        assert estimators.Reinforce is ReinforceEstimator
    with pytest.raises(AttributeError, match="has no attribute 'Reinforced'"):
        _ = estimators.Reinforced


class Incomplete(Estimator):
    name = "incomplete"


class Demanding(STGumbel):
    name = "demanding"

    def __init__(self, strength):
        super().__init__()


class Shaped(StraightThrough):
    name = "shaped"
    shaped = True

    def __init__(self, n, K, **how):
        super().__init__(**how)


@pytest.mark.parametrize(
    ("cls", "error", "message"),
    [
        (dict, TypeError, "cls must be a subclass of gsrl.estimators.Estimator, but got <class 'dict'>"),
        (Exact(), TypeError, r"cls must be a subclass of gsrl.estimators.Estimator, but got Exact\(\)"),
        (Incomplete, TypeError, "cls must have all methods of an estimator, but Incomplete lacks _expectation, calls"),
        (Demanding, TypeError, "strength of Demanding must have a default"),
        (type("Own", (STGumbel,), {}), ValueError, "must be that of no other estimator, but got 'st-gumbel'"),
        (type("Own", (STGumbel,), {"name": "two words"}), ValueError, "name must be a word, .* Own has 'two words'"),
    ],
)
def test_what_is_no_estimator_of_its_own_is_not_registered(cls, error, message):
    known = dict(ESTIMATORS)
    with pytest.raises(error, match=message):
        register_estimator(cls)
    assert known == ESTIMATORS


def test_one_that_is_shaped_is_given_its_shape():
    with registered(Shaped):
        assert type(make_estimator("shaped", shape=(2, 3), temperature=0.5)) is Shaped


def test_unknown_setting():
    with pytest.raises(TypeError, match="temperature"):
        make_estimator("rloo", temperature=1.0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("exact", {}),
        ("st-gumbel", {"temperature": LearnedTemperature(1.0, 0.1)}),
        ("reinforce", {"baseline": "running-mean"}),
        ("rloo", {"num_samples": 4}),
    ],
)
def test_settings_are_the_constructors_arguments(name, settings):
    assert make_estimator(name, **settings).settings == settings


def test_a_number_becomes_a_constant_temperature():
    assert make_estimator("gumbel-softmax", temperature=0.5).settings["temperature"]() == 0.5


def test_a_rebuilt_estimator_shares_the_temperature():
    estimator = STGumbel(LearnedTemperature(1.0, 0.1))
    assert make_estimator(estimator.name, **estimator.settings).temperature is estimator.temperature


# Errors.


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "exact"])
def test_noise_of_a_wrong_shape(name):
    # For one matrix in the place of four: it would broadcast, and correlate them.
    settings = {"relax": {"n": 3, "K": 2}, "unordered-set": {"num_samples": 2}}.get(name, {})
    estimator = make_estimator(name, **settings)
    noise = estimator.draw_noise(FactoredCategorical(torch.zeros(3, 2)))
    policy = FactoredCategorical(torch.zeros(4, 3, 2))
    methods = [lambda: estimator.expectation(policy, lambda z: z.sum((-2, -1)), noise)]
    if isinstance(estimator, Pathwise):
        methods.append(lambda: estimator.sample(policy, noise))
    for method in methods:
        with pytest.raises(ValueError, match=rf"noise must have the shape that draw_noise of {name} gives") as error:
            method()
        assert f"{estimator.noise_shape(policy)}, but got {tuple(noise.shape)}." in str(error.value)


def test_noise_of_another_kind():
    with pytest.raises(ValueError, match=r"noise must have the shape .* \(1, 2\), but got tuple \(\)"):
        STGumbel().sample(FactoredCategorical(torch.zeros(1, 2)), ())


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
@pytest.mark.parametrize("name", ["exact", "st-gumbel", "reinforce", "local-expectation", "rebar", "arsm"])
def test_objective_of_a_wrong_dtype(name, dtype):
    policy = FactoredCategorical(torch.zeros(5, 2, 3))
    with pytest.raises(ValueError, match=f"f must return a floating-point tensor, but returned dtype {dtype}"):
        make_estimator(name).expectation(policy, lambda z: z[..., 0, 0].to(dtype))


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: ReinMax(LearnedTemperature(1.0, 0.1)), "temperature"),
        (lambda: ReinMax(torch.ones(2, 1, 1, requires_grad=True)), "temperature"),
        (lambda: DecoupledStraightThrough(LearnedTemperature(1.0, 0.1)), "forward_temperature"),
    ],
)
def test_temperatures_that_would_never_move(make, argument):
    with pytest.raises(ValueError, match=f"^{argument} must not be learned, for no gradient reaches it here"):
        make()


def test_a_frozen_temperature_needs_no_gradient():
    frozen = LearnedTemperature(1.5, 0.1).requires_grad_(False)
    assert ReinMax(frozen).temperature is frozen
    assert DecoupledStraightThrough(frozen, LearnedTemperature(1.0, 0.1)).forward_temperature is frozen


@pytest.mark.parametrize("name", ["exact", "gumbel-softmax", "st-gumbel", "straight-through", "reinforce", "rloo"])
def test_objective_of_a_wrong_shape(name):
    policy = FactoredCategorical(torch.zeros(5, 2, 3))
    with pytest.raises(
        ValueError, match=r"f must map \[M, \*batch, n, K\] to \[M, \*batch\].* returned shape \(\d+, 5, 2\)"
    ):
        make_estimator(name).expectation(policy, lambda z: z.sum(-1))


@pytest.mark.parametrize("num_samples", [1, 0, -3])
def test_rloo_needs_two_samples(num_samples):
    with pytest.raises(ValueError, match=f"num_samples must be at least 2.* got {num_samples}"):
        RLOO(num_samples)


@pytest.mark.parametrize("cost", [torch.zeros(1, 5), torch.zeros(())])
def test_rloo_surrogate_needs_two_samples(cost):
    with pytest.raises(ValueError, match=r"cost must have shape \[m, \*batch\] with m >= 2"):
        RLOO().surrogate(cost, cost)


def test_unknown_baseline():
    with pytest.raises(ValueError, match="baseline must be 'none', 'running-mean' or a callable, but got 'mean'"):
        ReinforceEstimator("mean")


def test_callable_baseline_has_no_policy_in_a_sequence():
    with pytest.raises(ValueError, match="no policy to call baseline with"):
        ReinforceEstimator(lambda policy: policy.entropy()).surrogate(torch.zeros(3), torch.zeros(3))


def test_exact_refuses_a_large_support():
    with pytest.raises(ValueError, match="at most 65536, but got n = 17, K = 2"):
        Exact().expectation(FactoredCategorical(torch.zeros(17, 2)), lambda z: z.sum((-2, -1)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="above 0"):
        STGumbel(temperature)


# Values by hand.


def test_reinforce_by_hand():
    # p = (1/4, 3/4); the noise picks choice 0, f = 5, b = 2: (5 - 2) (1 - 1/4, -3/4).
    logits = torch.tensor([[1.0, 3.0]]).log().requires_grad_()
    estimator = ReinforceEstimator(lambda policy: torch.tensor(2.0))
    value = estimator.expectation(FactoredCategorical(logits), lambda z: 5 * z[..., 0, 0], torch.tensor([[9.0, 0.0]]))
    value.backward()
    assert value.item() == 5
    torch.testing.assert_close(logits.grad, torch.tensor([[2.25, -2.25]]))


def test_rloo_by_hand():
    # p = (1/4, 3/4); samples 0, 1, 1 with f = 5, 0, 0, so f - mean = 10/3, -5/3, -5/3, over m - 1 = 2.
    # Entry 0: (10/3 * 3/4 + 2 * 5/3 * 1/4) / 2 = 5/3.
    logits = torch.tensor([[1.0, 3.0]]).log().requires_grad_()
    noise = torch.tensor([[[9.0, 0.0]], [[0.0, 9.0]], [[0.0, 9.0]]])
    value = RLOO(3).expectation(FactoredCategorical(logits), lambda z: 5 * z[..., 0, 0], noise)
    value.backward()
    torch.testing.assert_close(value, torch.tensor(5 / 3))
    torch.testing.assert_close(logits.grad, torch.tensor([[5 / 3, -5 / 3]]))


def test_running_mean_advances_by_step_alone():
    estimator = ReinforceEstimator("running-mean")
    policy = FactoredCategorical(torch.zeros(4, 1, 2))
    estimator.expectation(policy, lambda z: 3 * torch.ones(z.shape[:-2]))
    assert estimator._constant_baseline() == 0
    estimator.step(torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(estimator._constant_baseline(), torch.tensor(3.0))
    estimator.step(torch.tensor([5.0]))
    # (.99 * .01 * 3 + .01 * 5) / (.99 * .01 + .01)
    torch.testing.assert_close(estimator._constant_baseline(), torch.tensor((0.99 * 3 + 5) / 1.99))


def test_running_mean_is_the_baseline():
    estimator = ReinforceEstimator("running-mean")
    estimator.step(torch.tensor(2.0))
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    value = estimator.surrogate(torch.tensor([5.0, 1.0]), log_prob)
    value.sum().backward()
    torch.testing.assert_close(value, torch.tensor([5.0, 1.0]))
    torch.testing.assert_close(log_prob.grad, torch.tensor([3.0, -1.0]))


def test_surrogate_adds_the_log_probs_of_a_sequence():
    first, second = torch.tensor([-1.0], requires_grad=True), torch.tensor([-2.0], requires_grad=True)
    ReinforceEstimator().surrogate(torch.tensor([4.0]), [first, second]).sum().backward()
    assert first.grad.item() == second.grad.item() == 4


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("K", [2, 3, 18, 300])
def test_exact_of_one_factor_is_the_sum_over_configurations_bit_for_bit(K, masked):
    generator = torch.Generator().manual_seed(K)
    logits = torch.randn(100, 1, K, generator=generator, requires_grad=True)
    values = torch.randn(100, 1, K, generator=generator)
    mask = torch.rand(100, 1, K, generator=generator) < 0.7
    mask[..., 0] = True
    policy = FactoredCategorical(logits, mask if masked else None)
    support = policy.enumerate_support()
    expected = (policy.log_prob(support).exp() * (values * support).sum((-2, -1))).sum(0)
    expectation = Exact().expectation(policy, lambda one_hot: (values * one_hot).sum((-2, -1)))
    assert torch.equal(expectation, expected)
    gradients = [torch.autograd.grad(value.mean(), logits, retain_graph=True)[0] for value in (expectation, expected)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("masked", [False, True])
def test_exact_of_several_factors_is_the_sum_over_configurations(masked):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True], [False, False, True, False], [True] * 4])

    def f(one_hot):
        return torch.tanh((one_hot.flatten(-2) * slope).sum(-1))

    def exact(logits):
        return Exact().expectation(FactoredCategorical(logits, mask if masked else None), f)

    policy = FactoredCategorical(logits, mask if masked else None)
    expected = torch.zeros(5, dtype=torch.float64)
    for choices in itertools.product(range(4), repeat=3):
        configuration = torch.nn.functional.one_hot(torch.tensor(choices), 4).double()
        probability = (policy.probs * configuration).sum(-1).prod(-1)
        expected = expected + probability * f(configuration.expand(5, 3, 4))
    torch.testing.assert_close(exact(logits), expected)
    gradient, by_hand = (torch.autograd.grad(value.sum(), logits)[0] for value in (exact(logits), expected))
    torch.testing.assert_close(gradient, by_hand)
    if masked:
        assert not gradient[:, ~mask].any()
    mapped = torch.func.vmap(torch.func.grad(lambda each: exact(each).sum()))(logits.expand(2, 5, 3, 4))
    torch.testing.assert_close(mapped, by_hand.expand(2, 5, 3, 4))


def test_exact_gives_one_support_to_all_batch_rows():
    shapes = []

    def f(one_hot):
        shapes.append((tuple(one_hot.shape), one_hot.stride()[:-2]))
        return one_hot[..., 0, 0]

    Exact().expectation(FactoredCategorical(torch.zeros(2, 3, 4, 2)), f)
    assert shapes == [((16, 2, 3, 4, 2), (8, 0, 0))]


def test_exact_by_hand():
    # E f = 1/4 * 5, and d p_0 / d theta = p_0 p_1 (1, -1) = 3/16 (1, -1).
    logits = torch.tensor([[1.0, 3.0]]).log().requires_grad_()
    value = Exact().expectation(FactoredCategorical(logits), lambda z: 5 * z[..., 0, 0])
    value.backward()
    torch.testing.assert_close(value, torch.tensor(1.25))
    torch.testing.assert_close(logits.grad, torch.tensor([[15 / 16, -15 / 16]]))


@pytest.mark.parametrize("name", ["gumbel-softmax", "st-gumbel", "straight-through"])
def test_step_advances_the_schedule(name):
    schedule = ExponentialTemperature(2.0, 0.5, 4)
    make_estimator(name, temperature=schedule).step(torch.zeros(3))
    assert schedule.count == 1


def test_learned_temperature_gets_the_gradient_of_the_soft_sample():
    temperature = LearnedTemperature(0.7, 0.1)
    logits, noise, slope = torch.randn(3, 4, 2, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    policy = FactoredCategorical(logits)
    STGumbel(temperature).expectation(policy, lambda z: (z * slope).sum((-2, -1)), noise).sum().backward()

    scale = torch.tensor(0.7, requires_grad=True)
    (((logits + noise) / scale).softmax(-1) * slope).sum().backward()
    torch.testing.assert_close(temperature.w.grad, scale.grad * temperature.w.detach().sigmoid())


def test_temperature_by_state_broadcasts():
    temperature = torch.tensor([0.5, 2.0]).reshape(2, 1, 1)
    logits, noise = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    sample = GumbelSoftmax(temperature).sample(FactoredCategorical(logits), noise)
    for row, scale in enumerate([0.5, 2.0]):
        torch.testing.assert_close(sample[row], ((logits[row] + noise[row]) / scale).softmax(-1))


def test_sample_inside_a_larger_graph():
    # Chain rule by hand: the gradient at the sample comes from a downstream network.
    generator = torch.Generator().manual_seed(0)
    logits, noise = torch.randn(2, 5, 2, 3, generator=generator).unbind(0)
    logits.requires_grad_()
    weights = torch.randn(6, generator=generator)
    sample = StraightThrough().sample(FactoredCategorical(logits), noise)
    torch.tanh(sample.flatten(1) @ weights).sum().backward()
    slope = (1 - torch.tanh(sample.detach().flatten(1) @ weights) ** 2)[:, None, None] * weights.reshape(2, 3)
    torch.testing.assert_close(logits.grad, vjp(logits.detach().softmax(-1), slope, 1.0))


def test_estimators_are_modules():
    estimator = STGumbel(LearnedTemperature(0.7, 0.1))
    logits, noise, slope = torch.randn(3, 5, 2, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    leaf, f = logits.clone().requires_grad_(), lambda z: (z * slope).sum((-2, -1))
    # softplus(0) + .1 for the temperature, in the place of .7.
    arguments = (FactoredCategorical(leaf), f, noise)
    torch.func.functional_call(estimator, {"temperature.w": torch.zeros(())}, arguments).sum().backward()
    temperature = math.log(2) + 0.1
    torch.testing.assert_close(leaf.grad, vjp(((logits + noise) / temperature).softmax(-1), slope, temperature))
    torch.testing.assert_close(estimator.temperature(), torch.tensor(0.7))


def test_repr_shows_the_settings():
    assert repr(RLOO(4)) == "RLOO(num_samples=4)"


def test_reinmax_by_hand():
    logits = torch.tensor([[0.4, -0.3, 0.1]], requires_grad=True)
    slope = torch.tensor([[1.0, -2.0, 0.5]])
    policy = FactoredCategorical(logits)
    one_hot = ReinMax(1.3).sample(policy, noise=torch.tensor([[0.0, 3.0, 0.0]]))
    assert torch.equal(one_hot.detach(), torch.tensor([[0.0, 1.0, 0.0]]))
    (one_hot * slope).sum().backward()
    probs, middle = logits.detach().softmax(-1), 0.5 * ((logits.detach() / 1.3).softmax(-1) + one_hot.detach())
    torch.testing.assert_close(logits.grad, 2 * vjp(middle, slope, 1.0) - 0.5 * vjp(probs, slope, 1.0))


def test_gumbel_rao_by_hand():
    logits = torch.tensor([[0.4, -0.3, 0.1]], requires_grad=True)
    slope = torch.tensor([[1.0, -2.0, 0.5]])
    policy = FactoredCategorical(logits)
    noise = gumbel_noise((4, 1, 3), generator=torch.Generator().manual_seed(0))
    one_hot = GumbelRao(TEMPERATURE, num_samples=3).sample(policy, noise)
    assert torch.equal(one_hot.detach(), policy.sample(noise=noise[0]))
    (one_hot * slope).sum().backward()
    perturbed = conditional_gumbel(policy.logits.detach(), one_hot.detach(), noise[1:])
    expected = vjp((perturbed / TEMPERATURE).softmax(-1), slope).mean(0)
    torch.testing.assert_close(logits.grad, expected)


def test_gumbel_rao_needs_a_sample():
    with pytest.raises(ValueError, match="num_samples must be at least 1, but got 0"):
        GumbelRao(num_samples=0)


@pytest.mark.parametrize("cls", [GumbelSoftmax, STGumbel, StraightThrough])
def test_learned_temperature_gets_the_same_gradient_with_a_mask_as_without_the_choice(cls):
    weights = torch.tensor([1.0, 2.0, 3.0])
    noise = torch.tensor([[[0.3, -0.2, 5.0]]])
    gradients = []
    for kept in (2, 3):
        estimator = cls(temperature=LearnedTemperature(0.8, 0.1))
        mask = torch.tensor([True, True, False])[:kept]
        policy = FactoredCategorical(torch.tensor([[[0.5, -0.4, 9.0]]])[..., :kept], mask)
        f = lambda choices, kept=kept: (choices * weights[:kept]).sum((-2, -1)) ** 2  # noqa: E731
        estimator.expectation(policy, f, noise[..., :kept]).sum().backward()
        gradients.append(estimator.temperature.w.grad)
    assert gradients[0].abs() > 1e-4
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("shape", [(4, 1), (1,), (3,)])
def test_a_baseline_of_another_shape_is_refused(shape):
    estimator = ReinforceEstimator(baseline=lambda policy: torch.zeros(shape))
    policy = FactoredCategorical(torch.zeros(4, 1, 2))
    with pytest.raises(ValueError, match=r"baseline must return shape \[\*batch\], \(4,\), or its last dimensions"):
        estimator.expectation(policy, lambda choices: choices.sum((-2, -1)))


def test_a_baseline_is_the_same_along_the_dimensions_it_leaves_out():
    baseline = torch.tensor([1.0, -2.0, 0.5, 3.0])
    logits = torch.zeros(7, 4, 1, 2, requires_grad=True)
    noise = gumbel_noise(logits.shape, generator=torch.Generator().manual_seed(0))
    f = lambda z: 5 * z[..., 0, 0]  # noqa: E731
    ReinforceEstimator(lambda policy: baseline).expectation(FactoredCategorical(logits), f, noise).sum().backward()
    one_hot = gumbel_max(logits, noise=noise)
    expected = (f(one_hot) - baseline)[..., None, None] * (one_hot - 0.5)
    torch.testing.assert_close(logits.grad, expected)


def test_a_temperature_tensor_follows_the_module_and_must_be_positive():
    estimator = STGumbel(temperature=torch.full((2, 1, 1), 0.5)).to(torch.float64)
    assert estimator.temperature.dtype == torch.float64
    with pytest.raises(ValueError, match="temperature must be positive"):
        STGumbel(temperature=torch.tensor([[[1.0]], [[-1.0]]]))


def test_calling_an_estimator_is_its_expectation_also_where_that_is_overridden():
    class Constant(Exact):
        def expectation(self, policy, f, noise=None, generator=None):
            return torch.full(policy.batch_shape, 7.0)

    assert Constant()(FactoredCategorical(torch.zeros(1, 2)), lambda choices: choices.sum((-2, -1))) == 7


# Two temperatures, and a gap.


def test_decoupled_samples_follow_the_forward_temperature_and_gradients_the_backward_one():
    logits = torch.tensor([[0.8, 0.0, -0.4]], requires_grad=True)
    slope, noise = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.0, 0.5, 0.0]])
    # .8 / 2 < .5, so that choice 1 wins; at a forward temperature of 1, choice 0 does.
    sample = DecoupledStraightThrough(2.0, 0.5).sample(FactoredCategorical(logits), noise)
    assert torch.equal(sample.detach(), torch.tensor([[0.0, 1.0, 0.0]]))
    other = DecoupledStraightThrough(1.0, 0.5).sample(FactoredCategorical(logits), noise)
    assert torch.equal(other.detach(), torch.tensor([[1.0, 0.0, 0.0]]))
    (sample * slope).sum().backward()
    torch.testing.assert_close(logits.grad, vjp((logits.detach() / 0.5).softmax(-1), slope, 0.5))


def test_decoupled_schedules_both_advance():
    forward, backward = ExponentialTemperature(2.0, 0.5, 4), ExponentialTemperature(1.0, 0.5, 4)
    make_estimator("decoupled-st", forward_temperature=forward, backward_temperature=backward).step(torch.zeros(3))
    assert forward.count == backward.count == 1


@pytest.mark.parametrize(
    ("chosen", "gap", "moved"),
    [
        # The second is raised to .8, the others are lowered to -.2, but for the one that is there already.
        (1, 1.0, [-0.2, 0.8, -0.4]),
        # The first is the largest; the second is 0.8 below it, which is not enough.
        (0, 1.0, [0.8, -0.2, -0.4]),
        (0, 0.5, [0.8, 0.0, -0.4]),
    ],
)
def test_gapped_by_hand(chosen, gap, moved):
    logits = torch.tensor([[0.8, 0.0, -0.4]], requires_grad=True)
    slope, noise = torch.tensor([[1.0, -2.0, 0.5]]), 9 * torch.eye(3)[chosen : chosen + 1]
    sample = GappedStraightThrough(TEMPERATURE, gap).sample(FactoredCategorical(logits), noise)
    assert sample.argmax() == chosen
    (sample * slope).sum().backward()
    torch.testing.assert_close(logits.grad, vjp((torch.tensor([moved]) / TEMPERATURE).softmax(-1), slope))


@pytest.mark.parametrize("p", [1e-6, 0.2, 0.5, 0.9, 1 - 1e-6])
def test_gap_p_is_the_mean_gap_of_the_noise(p):
    # Two choices at a gap large enough to bind: y_D = sigmoid(gap / temperature).
    logits = torch.tensor([[p, 1 - p]], dtype=torch.float64).log().requires_grad_()
    sample = GappedStraightThrough(gap="p").sample(FactoredCategorical(logits), torch.tensor([[99.0, 0.0]]))
    sample[0, 0].backward()
    gap = max(-math.log1p(-p) / p, math.log(p / (1 - p)))
    soft = torch.tensor(gap, dtype=torch.float64).sigmoid()
    torch.testing.assert_close(logits.grad[0, 0], soft * (1 - soft), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gap", [-1.0, math.inf, math.nan, "q"])
def test_unknown_gap(gap):
    with pytest.raises(ValueError, match="gap must be 'p' or a finite number of at least 0"):
        GappedStraightThrough(gap=gap)


# Extremes.


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"relax"}))
def test_no_factors_leave_the_objective_of_nothing(name, batch):
    logits, inner = torch.zeros(*batch, 0, 2, requires_grad=True), torch.tensor(2.5, requires_grad=True)
    value = make_estimator(name).expectation(FactoredCategorical(logits), lambda z: z.sum((-2, -1)) + inner)
    torch.testing.assert_close(value.detach(), torch.full(batch, 2.5))
    gradients = torch.autograd.grad(value.sum(), (logits, inner), materialize_grads=True)
    assert gradients[0].shape == logits.shape
    assert gradients[1].item() == pytest.approx(value.numel())


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_logits_as_large_as_floats_give_finite_estimates(name):
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    costs = torch.tensor([1.0, 3.0])
    for n in (1, 2, 4):
        logits = (1e38 * signs[:n]).requires_grad_()
        estimator = make_estimator(name, shape=(n, 2))
        value = estimator.expectation(FactoredCategorical(logits), lambda z: (z * costs).sum((-2, -1)))
        assert value.item() == pytest.approx({1: 1.0, 2: 4.0, 4: 8.0}[n])
        (gradient,) = torch.autograd.grad(value, logits)
        assert (gradient == 0).all()


# What an estimator cannot serve, it says.


@pytest.mark.parametrize("name", ["arsm", "unordered-set", "local-expectation", "exact", "muprop", "rebar", "disarm"])
@pytest.mark.parametrize("method", ["draw", "surrogate"])
def test_estimators_of_the_whole_matrix_have_no_sequences(name, method):
    estimator = make_estimator(name)
    assert not hasattr(estimator, method)
    with pytest.raises(AttributeError, match=f"{name} has no {method}: it needs the whole matrix of choices at once"):
        getattr(estimator, method)


@pytest.mark.parametrize("name", ["gumbel-softmax", "st-gumbel", "reinmax", "gumbel-rao"])
@pytest.mark.parametrize("method", ["draw", "surrogate"])
def test_pathwise_estimators_take_sequences_by_sample(name, method):
    estimator = make_estimator(name)
    assert not hasattr(estimator, method)
    with pytest.raises(AttributeError, match=f"{name} has no {method}: .* use sample at every decision"):
        getattr(estimator, method)


def test_score_function_estimators_have_no_differentiable_samples():
    with pytest.raises(AttributeError, match="rloo has no differentiable samples"):
        RLOO().sample(FactoredCategorical(torch.zeros(1, 2)))
