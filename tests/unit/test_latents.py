"""Discrete latents: bounds by enumeration, gradients, the quantiser by hand, and what is refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gsrl import checkpoint, make_estimator
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import ESTIMATORS
from gsrl.learning import Learner
from gsrl.learning.noise import draw, noisy_modules
from gsrl.perception.latents import CategoricalVAE, VectorQuantizer

B, N, K, PIXELS = 5, 2, 3, 7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = B) -> Tensor:
    return (torch.rand(count, PIXELS, generator=generator(1), dtype=torch.float64) < 0.4).double()


def make_vae(estimator: Any = "exact", n: int = N, choices: int = K, **settings: Any) -> CategoricalVAE:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(PIXELS, 8), nn.Tanh(), nn.Linear(8, n * choices))
    decoder = nn.Sequential(nn.Linear(n * choices, 8), nn.Tanh(), nn.Linear(8, PIXELS))
    return CategoricalVAE(encoder, decoder, n, choices, estimator, **settings).double()


def by_hand(vae: CategoricalVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Bound and log-likelihood ``[B]``: torch's own distributions, a code and a factor at a time."""
    probs = vae.encoder(x).reshape(-1, N, K).softmax(-1)
    probs = (1 - vae.unimix) * probs + vae.unimix / K
    bound, joint = torch.zeros(len(x), dtype=x.dtype), []
    for code in itertools.product(range(K), repeat=N):
        rows = torch.nn.functional.one_hot(torch.tensor(code), K).double()
        pixels = torch.distributions.Bernoulli(logits=vae.decoder(rows.flatten()))
        log_prob = pixels.log_prob(x).sum(-1)
        q = probs[:, 0, code[0]] * probs[:, 1, code[1]]
        bound = bound + q * (log_prob - N * math.log(K) - q.log())
        joint.append(log_prob - N * math.log(K))
    return bound, torch.stack(joint).logsumexp(0)


# The autoencoder


@pytest.mark.parametrize("unimix", [0.0, 0.3])
def test_bound_and_likelihood_are_those_of_enumeration(unimix: float) -> None:
    vae, x = make_vae(unimix=unimix), images()
    bound, log_likelihood = by_hand(vae, x)
    torch.testing.assert_close(vae.bound(x), bound.detach())
    torch.testing.assert_close(vae.log_likelihood(x), log_likelihood.detach())
    torch.testing.assert_close(vae.loss(x), -bound.mean())


@pytest.mark.parametrize("unimix", [0.0, 0.3])
def test_gradient_of_exact_is_that_of_the_enumerated_bound(unimix: float) -> None:
    vae, x = make_vae(unimix=unimix), images()
    vae.loss(x).backward()
    found = [p.grad for p in vae.parameters()]
    expected = torch.autograd.grad(-by_hand(vae, x)[0].mean(), list(vae.parameters()))
    torch.testing.assert_close(found, list(expected))


def test_sampled_bound_is_unbiased() -> None:
    vae, x = make_vae(), images()
    sampled = vae.bound(x, 20_000, generator())
    torch.testing.assert_close(sampled, vae.bound(x), rtol=0, atol=0.03)


def test_importance_bound_rises_from_the_bound_to_the_likelihood() -> None:
    vae, x = make_vae(), images()
    with torch.no_grad():
        vae.encoder.get_parameter("2.bias").add_(torch.tensor([2.0, 0, 0, 0, 2.0, 0]))  # a bad posterior: a large gap
    bound, log_likelihood = vae.bound(x), vae.log_likelihood(x)
    assert (log_likelihood - bound > 0.1).all()
    many = x.repeat(4000, 1)
    means = [vae.importance_bound(many, m, generator(m)).reshape(4000, B).mean(0) for m in (1, 2, 8)]
    torch.testing.assert_close(means[0], bound, rtol=0, atol=0.06)
    assert (bound < means[1]).all()
    assert (means[1] < means[2]).all()
    assert (means[2] < log_likelihood).all()
    torch.testing.assert_close(vae.importance_bound(x, 100_000, generator()), log_likelihood, rtol=0, atol=0.02)


def test_divergence_from_the_uniform_prior() -> None:
    vae, x = make_vae(unimix=0.1), images()
    policy = vae.encode(x)
    prior = FactoredCategorical(torch.zeros_like(policy.logits))
    torch.testing.assert_close(vae.kl(policy), torch.distributions.kl_divergence(policy, prior))
    uniform = FactoredCategorical(torch.zeros(1, N, K))
    assert vae.kl(uniform).item() == pytest.approx(0, abs=1e-6)
    one = FactoredCategorical(torch.tensor([[[0.0, -1e4, -1e4]] * N]))
    assert vae.kl(one).item() == pytest.approx(N * math.log(K))


def test_unimix_is_a_mixture_with_the_uniform_distribution() -> None:
    vae, x = make_vae(unimix=0.25), images()
    softmax = vae.encoder(x).reshape(B, N, K).softmax(-1)
    torch.testing.assert_close(vae.encode(x).probs, 0.75 * softmax + 0.25 / 3)
    with torch.no_grad():
        vae.encoder.get_parameter("2.bias")[0] = 1e3
    assert vae.encode(x).probs[:, 0].min().item() == pytest.approx(0.25 / 3)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_trains_a_step(name: str) -> None:
    choices = 2 if name in ("arm", "disarm") else K
    vae, x = make_vae(name, choices=choices), images()
    learner = Learner(vae)
    noise = draw(noisy_modules(vae), (B,), generator())
    before = [p.detach().clone() for p in vae.parameters()]
    metrics = learner.update(x, learning_rate=1e-2, noise=noise)
    assert metrics["cost"].isfinite()
    moved = [bool((p != q).any()) for p, q in zip(vae.parameters(), before, strict=True)]
    assert all(moved[:8])  # encoder and decoder


def test_loss_is_a_function_of_its_noise() -> None:
    vae, x = make_vae("rloo"), images()
    noise = vae.draw_noise((B,), generator())
    assert vae.loss(x, noise) == vae.loss(x, noise) == vae.loss(x, generator=generator())
    assert vae.loss(x, noise) != vae.loss(x, vae.draw_noise((B,), generator(1)))


def test_exact_decodes_each_code_once() -> None:
    vae, x = make_vae(), images()
    rows: list[int] = []
    vae.decoder.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    vae.loss(x)
    vae.log_likelihood(x)
    vae.bound(x, 4)
    assert rows == [K**N, K**N, 4 * B]


def test_members_in_lockstep_are_each_alone() -> None:
    vae, x = make_vae(), images()
    parameters = {name: torch.stack([p, 2 * p]) for name, p in vae.named_parameters()}

    def loss(own: dict[str, Tensor], x: Tensor) -> Tensor:
        value: Tensor = torch.func.functional_call(vae, own, (x,))[0]
        return value

    found = torch.func.vmap(loss, (0, None))(parameters, x)
    alone = [loss({name: p[i] for name, p in parameters.items()}, x) for i in range(2)]
    torch.testing.assert_close(found, torch.stack(alone))


def test_images_of_any_shape_and_what_is_made_of_codes() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, N * K), nn.Unflatten(1, (N, K)))
    decoder = nn.Sequential(nn.Linear(N * K, 12), nn.Unflatten(1, (1, 3, 4)))
    vae = CategoricalVAE(encoder, decoder, N, K, "rloo")
    x = torch.rand(B, 1, 3, 4, generator=generator())
    mode = vae.encode(x).mode.flatten(1)
    torch.testing.assert_close(vae.reconstruct(x), vae.decoder(mode).sigmoid().detach())
    assert vae.log_likelihood(x).shape == (B,)
    made = vae.sample(1000, generator())
    assert made.shape == (1000, 1, 3, 4)
    every = FactoredCategorical(torch.zeros(N, K)).enumerate_support().flatten(1)
    known = vae.decoder(every).sigmoid().flatten(1)
    distances = torch.cdist(made.flatten(1), known, compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.min(1).values.max() < 1e-5
    assert (distances.argmin(1).bincount(minlength=K**N) > 60).all()  # of 111 each


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"K": 1}, r"K must be an integer of at least 2, but got 1\."),
        ({"n": 0}, r"n must be an integer of at least 1, but got 0\."),
        ({"unimix": 1.0}, r"unimix must be a number from 0 to below 1, but got 1\.0\."),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CategoricalVAE(nn.Identity(), nn.Identity(), **{"n": N, "K": K, **settings})


def test_too_many_codes_to_list() -> None:
    vae, x = make_vae("rloo", n=20, choices=10), images()
    for call in (vae.log_likelihood, vae.bound):
        with pytest.raises(ValueError, match=r"at most 65536 codes to be listed, K\*\*n, but got n = 20, K = 10"):
            call(x)
    assert vae.importance_bound(x, 4, generator()).isfinite().all()
    with pytest.raises(ValueError, match="at most 65536, but got n = 20, K = 10"):
        make_vae("exact", n=20, choices=10).loss(x)


def test_shapes_and_values_that_are_refused() -> None:
    vae, x = make_vae(), images()
    with pytest.raises(ValueError, match=r"x must be floating, \[B, \*event\], but got torch.int64"):
        vae.loss(x.long())
    with pytest.raises(ValueError, match="x must be from 0 to 1, but got values from 0 to 2"):
        vae.loss(2 * x)
    with pytest.raises(ValueError, match="num_samples must be an integer of at least 1, but got 0"):
        vae.importance_bound(x, 0)
    wrong = make_vae()
    wrong.encoder = nn.Linear(PIXELS, 5).double()
    with pytest.raises(
        ValueError, match=r"encoder must return .* \(5, 2, 3\) or \(5, 6\), but returned shape \(5, 5\)"
    ):
        wrong.loss(x)
    wrong = make_vae()
    wrong.decoder = nn.Linear(N * K, 1).double()
    with pytest.raises(ValueError, match=r"decoder must return what x is, \(7,\), for each code, but returned \(1,\)"):
        wrong.loss(x)


# The quantiser

CODES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
LATENTS = torch.tensor([[0.9, 0.2], [0.1, 0.1], [0.8, -0.2]])  # of codes 1, 0, 1


def make_quantizer(method: Any, **settings: Any) -> VectorQuantizer:
    quantizer = VectorQuantizer(4, 2, method, **{"revival": 0.0, **settings})
    with torch.no_grad():
        quantizer.codebook.copy_(CODES)
        if method == "ema":
            quantizer.sums.copy_(CODES)
    return quantizer


@pytest.mark.parametrize("method", ["ema", "straight-through"])
def test_nearest_codes_and_copied_gradients(method: str) -> None:
    quantizer = make_quantizer(method, commitment=0.0)
    latents = LATENTS.clone().requires_grad_()
    quantised, indices, _ = quantizer(latents)
    assert indices.tolist() == [1, 0, 1]
    assert torch.equal(quantised, CODES[[1, 0, 1]])  # exactly
    slope = torch.randn(3, 2, generator=generator())
    (quantised * slope).sum().backward()
    assert latents.grad is not None
    assert torch.equal(latents.grad, slope)
    if method == "straight-through":
        assert quantizer.codebook.grad is None or not quantizer.codebook.grad.any()


def test_losses_by_hand() -> None:
    # Squared distances .05, .02, .08: a mean of .05, of two numbers each .025.
    latents = LATENTS.clone().requires_grad_()
    ema = make_quantizer("ema", commitment=0.25)(latents).loss
    straight = make_quantizer("straight-through", commitment=0.25)
    loss = straight(latents).loss
    assert ema.item() == pytest.approx(0.25 * 0.025)
    assert loss.item() == pytest.approx(1.25 * 0.025)
    loss.backward()
    differences = LATENTS - CODES[[1, 0, 1]]
    torch.testing.assert_close(latents.grad, 0.25 * 2 * differences / 6)
    assert straight.codebook.grad is not None
    torch.testing.assert_close(straight.codebook.grad[0], -2 * differences[1] / 6)
    torch.testing.assert_close(straight.codebook.grad[1], -2 * (differences[0] + differences[2]) / 6)
    assert not straight.codebook.grad[2:].any()


def test_moving_averages_by_hand() -> None:
    quantizer = make_quantizer("ema", decay=0.5)
    _, indices, _ = quantizer(LATENTS)
    quantizer.step(LATENTS, indices)
    torch.testing.assert_close(quantizer.use, torch.tensor([1.0, 1.5, 0.5, 0.5]))
    torch.testing.assert_close(quantizer.sums[1], torch.tensor([(1 + 1.7) / 2, 0.0]))
    expected = torch.tensor([[0.05, 0.05], [0.9, 0.0], [0.0, 1.0], [9.0, 9.0]])
    torch.testing.assert_close(quantizer.codebook, expected)
    assert {"codebook", "sums", "use", "seen"} <= quantizer.state_dict().keys()


@pytest.mark.parametrize("method", ["ema", "straight-through", "gumbel"])
def test_dead_codes_become_vectors_of_the_batch(method: str) -> None:
    def revived(seed: int) -> VectorQuantizer:
        quantizer = make_quantizer(method, decay=0.5, revival=0.5)
        for _ in range(4):  # codes 2 and 3 are used 1/16 of once a step
            quantizer.step(LATENTS, torch.tensor([1, 0, 1]), generator(seed))
        return quantizer

    first, again, other = revived(0), revived(0), revived(3)
    assert torch.equal(first.codebook, again.codebook)
    assert not torch.equal(first.codebook, other.codebook)
    for index in (2, 3):
        assert (first.codebook[index] == LATENTS).all(-1).any()
        assert first.use[index] > 0.5 * first.use.mean()
    if method != "ema":
        assert torch.equal(first.codebook[:2], CODES[:2])
    else:
        torch.testing.assert_close(first.sums / first.use.unsqueeze(-1), first.codebook)


def test_gumbel_samples_by_distance_and_sends_the_estimators_gradient() -> None:
    quantizer = make_quantizer(
        "gumbel", diversity=0.0, sharpness=2.0, estimator=make_estimator("st-gumbel", temperature=0.7)
    )
    latents, codes = LATENTS.clone().requires_grad_(), quantizer.codebook
    noise = quantizer.draw_noise((3,), generator())
    assert isinstance(noise, Tensor)
    quantised, indices, loss = quantizer(latents, noise=noise)
    scores = -2 * torch.cdist(latents, codes).square() + noise.squeeze(-2)
    assert torch.equal(indices, scores.argmax(-1))
    torch.testing.assert_close(quantised, codes[indices])
    assert loss.item() == 0
    slope = torch.randn(3, 2, generator=generator(1))
    found = torch.autograd.grad((quantised * slope).sum(), [latents, codes])
    soft = (scores / 0.7).softmax(-1)
    one_hot = torch.nn.functional.one_hot(indices, 4) + soft - soft.detach()
    expected = torch.autograd.grad((one_hot @ codes * slope).sum(), [latents, codes])
    torch.testing.assert_close(found, expected)
    assert quantizer(latents, deterministic=True).indices.tolist() == [1, 0, 1]


def test_diversity_is_what_entropy_lacks() -> None:
    quantizer, latents = make_quantizer("gumbel", diversity=2.0, sharpness=3.0), LATENTS.clone().requires_grad_()
    loss = quantizer(latents, deterministic=True).loss
    average = (-3 * torch.cdist(latents.double(), CODES.double()).square()).softmax(-1).mean(0)
    expected = (2 * (math.log(4) + (average * average.log()).sum())).float()
    torch.testing.assert_close(loss, expected)
    found, by_hand = (torch.autograd.grad(each, latents)[0] for each in (loss, expected))
    torch.testing.assert_close(found, by_hand)
    (slope,) = torch.autograd.grad(quantizer(1e4 * latents, deterministic=True).loss, latents)
    assert slope.isfinite().all()  # of probabilities that are 0


def test_codes_that_are_only_drawn_are_dead() -> None:
    quantizer = make_quantizer("gumbel", decay=0.5, revival=0.5)
    for _ in range(4):
        quantizer.step(LATENTS, torch.tensor([2, 3, 2]), generator())
    assert torch.equal(quantizer.codebook[:2], CODES[:2])  # the nearest ones live
    for index in (2, 3):
        assert (quantizer.codebook[index] == LATENTS).all(-1).any()


@pytest.mark.parametrize("method", ["ema", "straight-through", "gumbel"])
def test_masked_positions_have_no_part(method: str) -> None:
    quantizer = make_quantizer(method, decay=0.5)
    latents = torch.cat([LATENTS, torch.tensor([[math.nan, 7.0]])]).reshape(2, 2, 2).requires_grad_()
    mask = torch.tensor([[True, True], [True, False]])
    quantised, indices, loss = quantizer(latents, mask, deterministic=True)
    alone = quantizer(LATENTS, deterministic=True)
    torch.testing.assert_close(loss, alone.loss)
    assert indices.tolist() == [[1, 0], [1, -1]]
    assert torch.equal(quantised[mask], alone.quantised)
    assert not quantised[1, 1].any()
    (quantised.sum() + loss).backward()
    assert latents.grad is not None
    assert latents.grad.isfinite().all()
    assert not latents.grad[1, 1].any()
    quantizer.step(latents, indices)
    assert quantizer.codebook.isfinite().all()
    torch.testing.assert_close(quantizer.use, torch.tensor([1.0, 1.5, 0.5, 0.5]))
    assert quantizer.seen.tolist() == [1, 2, 0, 0]
    nobody = quantizer(latents, torch.zeros(2, 2, dtype=torch.bool), deterministic=True)
    assert nobody.loss.isfinite()


def test_perplexity_is_of_all_since_reset() -> None:
    quantizer = make_quantizer("ema")
    assert quantizer.perplexity().isnan()
    quantizer.observe(torch.tensor([[0, 0], [1, -1]]))
    quantizer.observe(torch.tensor([1, 2, 2, 3, 3]))
    assert quantizer.perplexity().item() == pytest.approx(4)
    quantizer.reset()
    quantizer.observe(torch.tensor([0, 0, 0, 2]))
    assert quantizer.perplexity().item() == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, 2), ValueError, r"num_codes must be an integer of at least 2, but got 1\."),
        ((4, 0), ValueError, r"width must be an integer of at least 1, but got 0\."),
        ((4, 2, "nearest"), ValueError, r"method must be one of .*, but got 'nearest'\."),
        ((4, 2, "ema", {"decay": 1.0}), ValueError, r"decay must be a number from 0 to below 1, but got 1\.0\."),
        ((4, 2, "ema", {"diversity": -1}), ValueError, r"diversity must be a number of at least 0, but got -1\."),
        ((4, 2, "gumbel", {"sharpness": 0}), ValueError, r"sharpness must be a number above 0, but got 0\."),
        ((4, 2, "gumbel", {"estimator": "rloo"}), TypeError, "estimator must be pathwise, .* but got RLOO"),
    ],
)
def test_quantisers_that_are_refused(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    *positional, settings = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(error, match=message):
        VectorQuantizer(*positional, **settings)


def test_vectors_that_are_refused() -> None:
    quantizer = make_quantizer("ema")
    with pytest.raises(ValueError, match=r"latents must be floating, \[\*batch, 2\], but got .* shape \(3, 4\)"):
        quantizer(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"mask must be bool, of shape \(3,\), but got torch.bool of shape \(4,\)"):
        quantizer(LATENTS, torch.ones(4, dtype=torch.bool))


def test_files_know_the_classes_by_stable_names(tmp_path: Any) -> None:
    checkpoint.save(tmp_path / "classes.zip", {"classes": [CategoricalVAE, VectorQuantizer]})
    assert checkpoint.load(tmp_path / "classes.zip") == {"classes": [CategoricalVAE, VectorQuantizer]}
    assert b"gsrl.CategoricalVAE" in (tmp_path / "classes.zip").read_bytes()
