from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gsrl.relaxations import (
    binary_concrete,
    gumbel_max,
    gumbel_noise,
    gumbel_softmax,
    logistic_noise,
    masked_logits,
    replace_value,
    straight_through,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
CATEGORICAL = {
    "gumbel_max": lambda logits, temperature=1.0, **kwargs: gumbel_max(logits, **kwargs),
    "gumbel_softmax": gumbel_softmax,
    "gumbel_softmax, hard": lambda logits, temperature=1.0, **kwargs: gumbel_softmax(
        logits, temperature, True, **kwargs
    ),
    "straight_through": straight_through,
}
BINARY = {
    "binary_concrete": binary_concrete,
    "binary_concrete, hard": lambda logits, temperature=1.0, **kwargs: binary_concrete(
        logits, temperature, True, **kwargs
    ),
}
ALL = CATEGORICAL | BINARY
HARD = ["gumbel_max", "gumbel_softmax, hard", "straight_through"]
RELAXED = [name for name in ALL if name != "gumbel_max"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def noise_for(name: str, shape: torch.Size, seed: int = 1) -> Tensor:
    return (logistic_noise if name in BINARY else gumbel_noise)(shape, generator=generator(seed))


def vjp(soft: Tensor, slope: Tensor, temperature: float | Tensor) -> Tensor:
    """V(y, g, temperature) = y * (g - y . g) / temperature."""
    return soft * (slope - (soft * slope).sum(-1, keepdim=True)) / temperature


# Noise.


def test_noise_is_float32_and_finite():
    for draw in (gumbel_noise, logistic_noise):
        noise = draw((1000, 100), generator=generator())
        assert noise.shape == (1000, 100)
        assert noise.dtype == torch.float32
        assert noise.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_sample_and_default_generator_untouched(name):
    logits = normal(50, 4)
    before = torch.get_rng_state()
    first, second = (ALL[name](logits, generator=generator(3)) for _ in range(2))
    ALL[name](logits, noise=noise_for(name, logits.shape))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, ALL[name](logits, generator=generator(4)))


@pytest.mark.parametrize("name", ALL)
def test_generator_draws_the_noise_that_may_be_given(name):
    logits = normal(50, 4)
    assert torch.equal(
        ALL[name](logits, generator=generator(3)), ALL[name](logits, noise=noise_for(name, logits.shape, 3))
    )


@pytest.mark.parametrize("name", ALL)
def test_default_generator_is_used_without_another(name):
    logits = normal(50, 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = ALL[name](logits)
    assert torch.equal(drawn, ALL[name](logits, generator=generator(3)))


# Values.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", HARD)
def test_hard_samples_are_exactly_one_hot(name, dtype):
    # Logits of this scale give soft values from 1 down to denormal ones.
    logits = (10 * normal(100_000, 4)).to(dtype).requires_grad_()
    noise = gumbel_noise(logits.shape, generator=generator(1))
    sample = CATEGORICAL[name](logits, 0.3, noise=noise)
    index = (logits.detach().to(torch.promote_types(dtype, torch.float32)) + noise).argmax(-1)
    assert sample.dtype == dtype
    assert torch.equal(sample, torch.nn.functional.one_hot(index, 4).to(dtype))


@pytest.mark.parametrize("name", ["gumbel_softmax, hard", "straight_through"])
def test_hard_samples_are_exact_where_all_soft_values_are_small(name):
    # 1 - y is then rounded, which must not show once y is added again.
    for choices in (2, 3, 10, 300):
        logits = normal(5000, choices).requires_grad_()
        sample = CATEGORICAL[name](logits, 5.0, generator=generator(1))
        assert ((sample == 0) | (sample == 1)).all()
        assert (sample.sum(-1) == 1).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hard_binary_samples_are_exactly_zero_or_one(dtype):
    logits = (10 * normal(100_000)).to(dtype)
    noise = logistic_noise(logits.shape, generator=generator(1))
    sample = binary_concrete(logits, 0.3, True, noise=noise)
    assert torch.equal(sample, (logits.to(torch.promote_types(dtype, torch.float32)) + noise > 0).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_perturbed_in_float32(dtype):
    # In bfloat16 the maximum of K = 1000 equal logits would be tied in 1.7 % of the rows.
    logits = torch.zeros(2000, 1000)
    half, single = (gumbel_max(x, generator=generator()) for x in (logits.to(dtype), logits))
    assert torch.equal(half, single.to(dtype))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_relaxed_sample_is_its_closed_form(temperature):
    logits, noise = normal(20, 5), gumbel_noise((20, 5), generator=generator(1))
    expected = ((logits + noise) / temperature).softmax(-1)
    torch.testing.assert_close(gumbel_softmax(logits, temperature, noise=noise), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_noise_of_another_precision_is_used_in_float32(dtype):
    logits, noise = normal(20, 5), (4 * gumbel_noise((20, 5), generator=generator(1))).to(dtype)
    expected = ((logits + noise) / 1e-4).softmax(-1)
    torch.testing.assert_close(gumbel_softmax(logits, 1e-4, noise=noise), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("temperature", [1e-31, 1e31, 1e39, math.inf])
def test_samples_are_exact_at_extreme_temperatures(temperature):
    logits, noise = normal(200, 5), gumbel_noise((200, 5), generator=generator(1))
    sample = gumbel_softmax(logits, temperature, hard=True, noise=noise)
    assert torch.equal(sample, gumbel_max(logits, noise=noise))


def test_relaxed_sample_by_hand():
    # (logits + noise) / temperature = (2 log 1, 2 log 2), so weights 1 and 4.
    sample = gumbel_softmax(torch.tensor([0.0, math.log(2)]), 0.5, noise=torch.zeros(2))
    torch.testing.assert_close(sample, torch.tensor([0.2, 0.8]))


@pytest.mark.parametrize("name", ["gumbel_softmax, hard", "straight_through"])
def test_temperature_does_not_change_the_law_of_hard_samples(name):
    logits, noise = normal(10_000, 4), gumbel_noise((10_000, 4), generator=generator(1))
    expected = gumbel_max(logits, noise=noise)
    for temperature in (0.01, 1.0, 100.0):
        assert torch.equal(CATEGORICAL[name](logits, temperature, noise=noise), expected)


def test_ties_go_to_the_first_maximum():
    assert torch.equal(gumbel_max(torch.zeros(3), noise=torch.zeros(3)), torch.tensor([1.0, 0.0, 0.0]))


def test_binary_concrete_at_logit_zero_is_one_half():
    # The median of logistic noise is 0: one Gumbel variable instead would give P(1) = 1 - exp(-1) = .632.
    uniform = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    quantiles = (uniform.log() - (-uniform).log1p()).float()
    assert binary_concrete(torch.zeros(1000), hard=True, noise=quantiles).mean() == 0.5


@pytest.mark.parametrize("hard", [False, True])
def test_binary_concrete_is_gumbel_softmax_over_two_choices(hard):
    logits, noise = normal(1000, 2), gumbel_noise((1000, 2), generator=generator(1))
    pair = gumbel_softmax(logits, 0.7, hard, noise=noise)[:, 1]
    torch.testing.assert_close(
        binary_concrete(logits[:, 1] - logits[:, 0], 0.7, hard, noise=noise[:, 1] - noise[:, 0]), pair
    )


def test_logistic_noise_is_the_difference_of_two_gumbel_draws():
    first, second = gumbel_noise((2, 5), generator=generator())
    assert torch.equal(logistic_noise((5,), generator=generator()), first - second)


def test_replace_value_is_exact_where_the_other_order_is_not():
    soft = torch.rand(100_000, generator=generator())
    for value in (0.0, 1.0):
        assert torch.equal(replace_value(soft, torch.full_like(soft, value)), torch.full_like(soft, value))
    hard = torch.ones_like(soft)
    assert not torch.equal(hard + soft - soft, hard)


def test_replace_value_has_the_gradient_of_soft_alone():
    soft, hard = torch.tensor([0.3, 0.7], requires_grad=True), torch.tensor([0.0, 1.0], requires_grad=True)
    (replace_value(soft, hard) * torch.tensor([2.0, 5.0])).sum().backward()
    assert torch.equal(soft.grad, torch.tensor([2.0, 5.0]))
    assert hard.grad is None


# Gradients.


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", ["gumbel_softmax", "gumbel_softmax, hard", "straight_through"])
def test_gradient_is_its_closed_form(name, temperature):
    logits, slope = normal(20, 5).requires_grad_(), normal(20, 5, seed=2)
    noise = gumbel_noise((20, 5), generator=generator(1))
    (CATEGORICAL[name](logits, temperature, noise=noise) * slope).sum().backward()
    scores = logits.detach() if name == "straight_through" else logits.detach() + noise
    torch.testing.assert_close(logits.grad, vjp((scores / temperature).softmax(-1), slope, temperature))


def test_gradient_by_hand():
    # y = (.2, .8), g = (1, 0), y . g = .2, temperature .5: 2 * (.2 * .8, -.8 * .2).
    logits = torch.tensor([0.0, math.log(2)], requires_grad=True)
    gumbel_softmax(logits, 0.5, True, noise=torch.zeros(2))[0].backward()
    torch.testing.assert_close(logits.grad, torch.tensor([0.32, -0.32]))


@pytest.mark.parametrize("hard", [False, True])
def test_binary_gradient_by_hand(hard):
    # y = sigmoid((log 2 + log 2) / 2) = 2/3, and y (1 - y) / temperature = 1/9.
    logit = torch.tensor(math.log(2), requires_grad=True)
    binary_concrete(logit, 2.0, hard, noise=torch.tensor(math.log(2))).backward()
    torch.testing.assert_close(logit.grad, torch.tensor(1 / 9))


def test_gumbel_max_carries_no_gradient():
    assert not gumbel_max(normal(3, 4).requires_grad_(), generator=generator()).requires_grad


@pytest.mark.parametrize("relaxation", [gumbel_softmax, binary_concrete])
def test_gradient_by_finite_differences(relaxation):
    logits = normal(3, 4, dtype=torch.float64).requires_grad_()
    temperature = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    noise = normal(3, 4, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, t: relaxation(x, t, noise=noise), (logits, temperature))


@pytest.mark.parametrize("name", RELAXED)
def test_temperature_tensor_broadcasts(name):
    logits, temperature = normal(2, 3, 4), torch.tensor([0.5, 2.0]).reshape(2, 1, 1)
    noise = noise_for(name, logits.shape)
    sample = ALL[name](logits, temperature, noise=noise)
    for row, scale in enumerate([0.5, 2.0]):
        assert torch.equal(sample[row], ALL[name](logits[row], scale, noise=noise[row]))


@pytest.mark.parametrize("name", ["gumbel_softmax", "gumbel_softmax, hard", "straight_through"])
def test_gradient_of_the_temperature(name):
    # d softmax(s / t) . g / dt = -V(y, g, t) . s / t.
    logits, slope = normal(2, 3, 4), normal(2, 3, 4, seed=2)
    temperature = torch.tensor([0.5, 2.0]).reshape(2, 1, 1).requires_grad_()
    noise = gumbel_noise(logits.shape, generator=generator(1))
    (CATEGORICAL[name](logits, temperature, noise=noise) * slope).sum().backward()
    scores, scale = logits if name == "straight_through" else logits + noise, temperature.detach()
    expected = -(vjp((scores / scale).softmax(-1), slope, scale) * scores / scale).sum((-2, -1), keepdim=True)
    torch.testing.assert_close(temperature.grad, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RELAXED)
def test_extreme_logits(name, dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]]).to(dtype).requires_grad_()
    sample = ALL[name](logits, 0.1, generator=generator())
    (sample * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    assert sample.isfinite().all()
    assert logits.grad.isfinite().all()
    if name in CATEGORICAL:
        assert torch.equal(sample[0], torch.tensor([1.0, 0.0, 0.0], dtype=dtype))


@pytest.mark.parametrize("make", [lambda x: x.mT, lambda x: x[..., ::2], lambda x: x[:1].expand(5, -1, -1)])
@pytest.mark.parametrize("name", ALL)
def test_layout_does_not_matter(name, make):
    logits = make(normal(2, 4, 6))
    assert not logits.is_contiguous()
    noise = noise_for(name, logits.shape)
    assert torch.equal(ALL[name](logits, noise=noise), ALL[name](logits.contiguous(), noise=noise))


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_not_written_to(name):
    logits, noise = normal(20, 4), noise_for(name, torch.Size((20, 4)))
    before = logits.clone(), noise.clone()
    ALL[name](logits, noise=noise)
    assert torch.equal(logits, before[0])
    assert torch.equal(noise, before[1])


# Masks.


@pytest.mark.parametrize("form", ["mask", "minus infinity"])
@pytest.mark.parametrize("name", CATEGORICAL)
def test_masked_choices_have_no_value_and_no_gradient(name, form):
    mask = torch.tensor([[True, False, True, True], [False, False, True, False]])
    leaf, slope = normal(50, 2, 4).requires_grad_(), normal(50, 2, 4, seed=2)
    noise = gumbel_noise(leaf.shape, generator=generator(1))
    if form == "mask":
        sample = CATEGORICAL[name](leaf, 0.5, mask=mask, noise=noise)
    else:
        sample = CATEGORICAL[name](leaf.masked_fill(~mask, -torch.inf), 0.5, noise=noise)
    assert not sample[..., ~mask].any()
    torch.testing.assert_close(sample.sum(-1), torch.ones(50, 2))
    assert torch.equal(sample[:, 1, 2], torch.ones(50))
    if name == "gumbel_max":
        return
    (sample * slope).sum().backward()
    assert not leaf.grad[..., ~mask].any()
    assert not leaf.grad[:, 1].any()  # one legal choice: nothing to decide
    legal, scores = mask[0], leaf.detach() if name == "straight_through" else leaf.detach() + noise
    expected = vjp((scores[:, 0, legal] / 0.5).softmax(-1), slope[:, 0, legal], 0.5)
    torch.testing.assert_close(leaf.grad[:, 0, legal], expected)


@pytest.mark.parametrize("name", BINARY)
def test_masked_binary_choice_is_zero(name):
    logits, mask = normal(50, 2).requires_grad_(), torch.tensor([True, False])
    noise = logistic_noise(logits.shape, generator=generator(1))
    sample = BINARY[name](logits, mask=mask, noise=noise)
    sample.sum().backward()
    assert torch.equal(sample[:, 0], BINARY[name](logits, noise=noise)[:, 0])
    assert not sample[:, 1].any()
    assert not logits.grad[:, 1].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, True])], ids=["no mask", "mask"])
def test_logits_with_an_overflowing_sum_are_accepted(mask, dtype):
    logits = torch.full((4, 3), torch.finfo(dtype).max, dtype=dtype)
    for sign in (1, -1):
        assert torch.equal(
            masked_logits(sign * logits, mask).isneginf()[0], torch.tensor([False, mask is not None, False])
        )


@pytest.mark.parametrize("name", CATEGORICAL)
def test_no_rows_are_accepted(name):
    for mask in (None, torch.ones(3, dtype=torch.bool)):
        assert CATEGORICAL[name](torch.zeros(0, 3), mask=mask).shape == (0, 3)


def test_masked_logits():
    logits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float16)
    masked = masked_logits(logits, torch.tensor([True, False, True]))
    assert torch.equal(masked, torch.tensor([[1.0, -torch.inf, 3.0]]))
    assert masked_logits(logits.double()).dtype == torch.float64


def test_a_mask_of_the_shape_of_the_logits_is_not_broadcast(monkeypatch):
    monkeypatch.setattr(torch, "broadcast_shapes", None)
    masked = masked_logits(torch.zeros(1, 2), torch.tensor([[True, False]]))
    assert torch.equal(masked, torch.tensor([[0.0, -torch.inf]]))


# Errors.


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": torch.zeros(2, 3, dtype=torch.long)}, r"logits must be a floating-point .* torch\.int64"),
        ({"logits": torch.tensor([[0.0, math.nan]])}, r"logits must .*but got nan at \(0, 1\)\."),
        ({"mask": torch.ones(2, 3)}, r"mask must be a boolean tensor, but got dtype torch\.float32"),
        ({"mask": torch.ones(2, dtype=torch.bool)}, r"mask must broadcast .*\(2, 3\).* shape \(2,\)"),
        ({"mask": torch.ones(4, 2, 3, dtype=torch.bool)}, r"mask must broadcast .*\(2, 3\).* shape \(4, 2, 3\)"),
        ({"noise": torch.zeros(3)}, r"noise must have the shape of logits, \(2, 3\), but got shape \(3,\)"),
    ],
)
def test_bad_arguments(name, arguments, message):
    arguments = {"logits": torch.zeros(2, 3), **arguments}
    with pytest.raises(ValueError, match=message):
        ALL[name](**arguments)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, torch.tensor(0.0), torch.tensor([[1.0], [-2.0]])])
@pytest.mark.parametrize("name", RELAXED)
def test_temperature_must_be_positive(name, temperature):
    with pytest.raises(ValueError, match=r"temperature must be positive, but got .*(0|1|nan)"):
        ALL[name](torch.zeros(2, 3), temperature)


@pytest.mark.parametrize("name", RELAXED)
def test_swapped_arguments_are_told_the_rule_they_break(name):
    logits = normal(5, 3)
    with pytest.raises(TypeError, match=r"logits must be a floating-point tensor, but got float 1\.0"):
        ALL[name](1.0, logits)
    with pytest.raises(TypeError, match="temperature must be a number or a tensor, but got str"):
        ALL[name](logits, "1.0")
    with pytest.raises(ValueError, match=r"temperature must be a number, or broadcast to shape .* of shape \(5, 4\)"):
        ALL[name](logits, torch.ones(5, 4))
    if name.startswith("binary_concrete"):  # whose temperature may be each entry's own
        return
    # The argument order of a straight-through step that is written by hand: a hard row and a soft one.
    soft = logits.softmax(-1)
    hard = torch.eye(3)[soft.argmax(-1)]
    for pair in ((hard, soft), (soft, hard)):
        with pytest.raises(ValueError, match=r"temperature must be .* shape \(5, 1\), but got .* shape \(5, 3\)"):
            ALL[name](*pair)


@pytest.mark.parametrize("name", CATEGORICAL)
def test_infinite_logits_are_refused(name):
    with pytest.raises(ValueError, match=r"logits must be finite or -inf, but got inf at"):
        CATEGORICAL[name](torch.tensor([[0.0, math.inf]]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", CATEGORICAL)
def test_invalid_logits_are_refused_where_the_mask_hides_them(name, value):
    for row in ([0.0, value], [-math.inf, value]):
        with pytest.raises(ValueError, match=r"logits must be finite or -inf, but got (nan|inf) at"):
            CATEGORICAL[name](torch.tensor([[0.0, 0.0], row]), mask=torch.tensor([True, False]))


@pytest.mark.parametrize("name", CATEGORICAL)
@pytest.mark.parametrize("shape", [(), (2, 0)])
def test_logits_need_choices(name, shape):
    with pytest.raises(ValueError, match="last dimension of at least one choice, but got shape"):
        CATEGORICAL[name](torch.zeros(shape))


@pytest.mark.parametrize("name", CATEGORICAL)
def test_a_row_without_a_legal_choice_is_named(name):
    mask = torch.ones(4, 2, 3, dtype=torch.bool)
    mask[1, 0] = mask[3, 1] = False
    with pytest.raises(ValueError, match=r"shape \(4, 2, 3\), but 2 have none; first rows \[\(1, 0\), \(3, 1\)\]"):
        CATEGORICAL[name](torch.zeros(4, 2, 3), mask=mask)


@pytest.mark.parametrize("name", CATEGORICAL)
def test_validation_of_values_can_be_turned_off(name):
    ALL[name](torch.full((2, 3), -math.inf), noise=torch.zeros(2, 3), validate_args=False)


# torch.func and torch.compile.


@pytest.mark.parametrize("name", RELAXED)
def test_vmap_and_grad(name):
    logits, noise = normal(5, 2, 4), noise_for(name, torch.Size((5, 2, 4)))
    mask, slope = torch.tensor([True, True, False, True]), normal(4, seed=2)

    def loss(logits: Tensor, noise: Tensor) -> Tensor:
        return (ALL[name](logits, 0.7, mask=mask, noise=noise) * slope).sum()

    gradients, values = torch.func.vmap(torch.func.grad_and_value(loss))(logits, noise)
    for row in range(5):
        leaf = logits[row].clone().requires_grad_()
        value = loss(leaf, noise[row])
        value.backward()
        torch.testing.assert_close(values[row], value.detach())
        torch.testing.assert_close(gradients[row], leaf.grad)


def test_vmap_of_masks():
    logits, masks = normal(4), torch.tensor([[True, True, False, True], [False, True, False, True]])
    rows = torch.func.vmap(lambda mask: masked_logits(logits, mask))(masks)
    assert torch.equal(rows, logits.masked_fill(~masks, -torch.inf))


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("name", ALL)
def test_vmap_of_samples(name):
    logits, noise = normal(5, 2, 4), noise_for(name, torch.Size((5, 2, 4)))
    samples = torch.func.vmap(lambda x, g: ALL[name](x, noise=g))(logits, noise)
    assert torch.equal(samples, ALL[name](logits, noise=noise))


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "aot_eager") for name in ALL), ("gumbel_softmax, hard", "inductor")]
)
def test_compile(name, backend):
    torch.compiler.reset()
    logits, slope, mask = normal(5, 4).requires_grad_(), normal(5, 4, seed=2), torch.tensor([True, True, False, True])
    noise = noise_for(name, logits.shape)

    def sample(logits: Tensor) -> Tensor:
        return ALL[name](logits, 0.7, mask=mask, noise=noise)

    compiled, eager = torch.compile(sample, fullgraph=True, backend=backend)(logits), sample(logits)
    torch.testing.assert_close(compiled, eager)
    if name in HARD:
        assert torch.equal(compiled, eager)
    if eager.requires_grad:
        gradients = [torch.autograd.grad((value * slope).sum(), logits)[0] for value in (compiled, eager)]
        torch.testing.assert_close(gradients[0], gradients[1])
