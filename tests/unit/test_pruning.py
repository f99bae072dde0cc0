"""Masks and pruned transformers against closed forms, finite differences and torch's own counts."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import gsrl
from gsrl.learning.noise import draw, handed, noisy_modules
from gsrl.perception.masks import GumbelSoftMask
from gsrl.perception.pruning import (
    Brightness,
    Contrast,
    KeepPredictor,
    Positions,
    Pruned,
    TokenPruner,
    VisionTransformer,
    distillation_loss,
    kept_pixels,
)
from gsrl.relaxations import gumbel_noise
from gsrl.temperature import ExponentialTemperature

B = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(**settings: Any) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer((1, 8, 8), **{"patch": 2, "width": 8, "depth": 3, "heads": 2, **settings})


def pruner(stages: Any = None, *args: Any, **settings: Any) -> TokenPruner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return TokenPruner(network(), {0: 0.5, 2: 0.25} if stages is None else stages, *args, **settings)


def images(count: int = B) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=generator())


# Masks


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_a_mask_keeps_with_the_probability_of_its_logit(temperature: float) -> None:
    logits, count = torch.tensor([-2.0, -1.0, 0.0, 0.92, 2.0]), 40_000
    noise = GumbelSoftMask().draw_noise((count, 5), generator())
    mask = GumbelSoftMask(temperature)
    for hard in (None, True):
        kept = (mask(logits.expand(count, 5), noise=noise, hard=hard) > 0.5).double().mean(0)
        deviation = (logits.double().sigmoid() * (1 - logits.double().sigmoid()) / count).sqrt()
        assert ((kept - logits.double().sigmoid()) / deviation).abs().max() < 4.2  # 30 comparisons, a chance of 1e-3
    # One Gumbel variable, on l alone, is another distribution.
    one = mask(logits.expand(count, 5), noise=noise * torch.tensor([0.0, 1.0]), hard=True).double().mean(0)
    wrong = 1 - (-logits.double().exp()).exp()
    assert (one - wrong).abs().max() < 0.011
    assert (wrong - logits.double().sigmoid())[2:4].tolist() == pytest.approx([0.132, 0.204], abs=5e-4)


def test_the_slope_of_a_mask_is_that_of_a_sigmoid() -> None:
    logits = torch.tensor([[-1.0, 0.3, 2.0]], requires_grad=True)
    noise = gumbel_noise((1, 3, 2), generator=generator())
    soft = ((logits.detach() + noise[..., 1] - noise[..., 0]) / 0.5).sigmoid()
    for hard in (None, True):
        values = GumbelSoftMask(0.5)(logits, noise=noise, hard=hard)
        torch.testing.assert_close(values, soft if hard is None else (soft > 0.5).float())
        (slope,) = torch.autograd.grad(values.sum(), logits)
        torch.testing.assert_close(slope, soft * (1 - soft) / 0.5)


@pytest.mark.parametrize("estimator", ["gumbel-softmax", "st-gumbel", "gumbel-rao", "gapped-st", "reinmax"])
def test_what_cannot_be_kept_is_0_without_gradient(estimator: str) -> None:
    logits = torch.tensor([[3.0, 3.0, 3.0]], requires_grad=True)
    mask = GumbelSoftMask(1.0, estimator)
    values = mask(logits, torch.tensor([[True, False, True]]), generator=generator(), hard=True)
    assert values[0, 1] == 0
    assert set(values.tolist()[0]) <= {0.0, 1.0}
    (slope,) = torch.autograd.grad((values * torch.tensor([1.0, 5.0, 2.0])).sum(), logits)
    assert slope[0, 1] == 0
    assert slope.isfinite().all()
    assert slope[0, 0] != 0


def test_a_mask_cools_by_steps_alone_and_takes_them_along() -> None:
    mask = GumbelSoftMask()
    for _ in range(3):
        mask(torch.zeros(2, 4), generator=generator())
    assert mask.estimator.temperature().item() == 1.0
    for _ in range(5_000):
        mask.step()
    assert mask.estimator.temperature().item() == pytest.approx(math.sqrt(0.1))
    other = GumbelSoftMask()
    other.load_state_dict(mask.state_dict())
    assert other.estimator.temperature().item() == mask.estimator.temperature().item()
    for _ in range(5_001):
        other.step()
    assert other.estimator.temperature().item() == pytest.approx(0.1)


def test_a_deterministic_mask_keeps_what_is_more_probable() -> None:
    logits = torch.tensor([-0.1, 0.0, 0.1, 5.0], requires_grad=True)
    kept = GumbelSoftMask()(logits, torch.tensor([True, True, True, False]), deterministic=True)
    assert kept.tolist() == [0, 0, 1, 0]
    assert not kept.requires_grad


def test_a_mask_is_mapped_and_compiled_with_noise() -> None:
    mask, logits = GumbelSoftMask(0.7), torch.randn(4, 3, 5, generator=generator())
    noise = mask.draw_noise(logits.shape, generator())
    expected = mask(logits, noise=noise)
    torch.testing.assert_close(vmap(lambda x, g: mask(x, noise=g))(logits, noise), expected)
    compiled = torch.compile(mask, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, noise=noise), expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GumbelSoftMask(estimator="exact"), ValueError, "differentiable samples.*exact"),
        (lambda: GumbelSoftMask(estimator="exactly"), ValueError, "name must be one of"),
        (lambda: GumbelSoftMask(0.0), ValueError, "above 0"),
        (lambda: GumbelSoftMask(1.0, gsrl.make_estimator("st-gumbel")), TypeError, "temperature must be None"),
        (lambda: GumbelSoftMask(estimator=3), TypeError, "estimator must be a name"),  # type: ignore[arg-type]
        (lambda: GumbelSoftMask()(torch.zeros(2, 3, dtype=torch.int64)), ValueError, "logits must be a floating"),
        (lambda: GumbelSoftMask()(torch.tensor([math.nan])), ValueError, "logits must be finite"),
        (lambda: GumbelSoftMask()(torch.zeros(3), torch.ones(3)), ValueError, "mask must be boolean"),
        (lambda: GumbelSoftMask()(torch.zeros(3), torch.ones(2, dtype=torch.bool)), ValueError, "mask must be"),
        (lambda: GumbelSoftMask()(torch.zeros(3), noise=torch.zeros(3)), ValueError, "noise must have the shape"),
        (lambda: GumbelSoftMask(1.0, "reinmax")(torch.zeros(3), hard=False), ValueError, "hard must be True or None"),
    ],
)
def test_masks_refuse(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


# Transformers


def test_a_token_of_weight_0_is_not_there_and_has_a_derivative() -> None:
    transformer, x = network().double(), images().double()
    keep = (torch.rand(B, 16, generator=generator()) < 0.5).double()
    keep.requires_grad_()
    loss = (transformer(x, keep) * torch.arange(10)).sum()
    (slope,) = torch.autograd.grad(loss, keep)
    with torch.no_grad():
        for row in range(B):
            for token in range(16):
                shift = torch.zeros_like(keep)
                shift[row, token] = 1e-5
                up, down = ((transformer(x, keep + s) * torch.arange(10)).sum() for s in (shift, -shift))
                assert slope[row, token].item() == pytest.approx(((up - down) / 2e-5).item(), rel=1e-5, abs=1e-7)
        moved = x.clone()
        dropped = kept_pixels(x, torch.arange(16).masked_fill(keep > 0, -1), 2).unsqueeze(1)
        linear = network(stem="linear").double()
        moved[dropped] += 10.0
        torch.testing.assert_close(linear(moved, keep), linear(x, keep), rtol=0, atol=1e-12)
    assert (slope[keep.detach() == 0] != 0).all()


@pytest.mark.parametrize("norm_first", [True, False])
def test_layers_of_torch_are_read_as_torch_reads_them(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, norm_first=norm_first, batch_first=True, dropout=0.0)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False)
    tokens = torch.randn(B, 6, 8, generator=generator())
    pruned = TokenPruner(encoder, {}, num_tokens=6)(tokens)
    torch.testing.assert_close(pruned.outputs, encoder(tokens).mean(1))
    torch.testing.assert_close(pruned.tokens, encoder(tokens))
    padding = torch.arange(6).expand(B, 6) >= torch.tensor([[6], [4], [2]])
    masked = TokenPruner(encoder, {1: 1.0}, num_tokens=6)(tokens, ~padding)
    expected = encoder(tokens, src_key_padding_mask=padding).masked_fill(padding.unsqueeze(-1), 0.0)
    torch.testing.assert_close(masked.outputs, expected.sum(1) / (~padding).sum(1, keepdim=True))


def test_pixels_are_normalised() -> None:
    given = images()
    torch.testing.assert_close(network(mean=0.2, std=0.5)(given), network()(2 * given - 0.4))


# Pruning


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("choose", ["subset", "independent", "top-k"])
@pytest.mark.parametrize("estimator", ["st-gumbel", "gumbel-rao"])
def test_masked_and_gathered_passes_agree(choose: Any, estimator: str, padded: bool) -> None:
    own, x = pruner(None, choose, estimator), images(8)
    mask = torch.rand(8, 16, generator=generator()) < 0.6 if padded else None
    noise = own.draw_noise((8,), generator())
    for deterministic in (False, True):
        masked = own(x, mask, noise, deterministic=deterministic)
        with torch.no_grad():
            gathered = own(x, mask, noise, deterministic=deterministic)
        torch.testing.assert_close(masked.outputs, gathered.outputs, rtol=0, atol=1e-5)
        torch.testing.assert_close(masked.shares, gathered.shares)
        for first, second in zip(masked.kept, gathered.kept, strict=True):
            width = min(first.shape[1], second.shape[1])
            assert torch.equal(first[:, :width], second[:, :width])
            assert (first[:, width:] == -1).all()
        earlier, later = ([set(row) - {-1} for row in kept.tolist()] for kept in masked.kept)
        assert all(second <= first for first, second in zip(earlier, later, strict=True))  # what is dropped stays so
        if mask is not None:
            assert all(mask[row, list(tokens)].all() for row, tokens in enumerate(earlier) if tokens)
        if choose != "independent":
            total = torch.full((8,), 16) if mask is None else mask.sum(-1)
            expected = [(share * total.double()).round().clamp_min(1).tolist() for share in (0.5, 0.25)]
            assert [[len(tokens) for tokens in kept] for kept in (earlier, later)] == expected


def test_a_subset_is_a_sample_of_the_distribution_of_subsets() -> None:
    own = pruner({0: 0.25}, ranking=Positions(16))
    assert own.ranking is not None
    logits = torch.randn(16, generator=generator(1))
    own.ranking.logits.data = logits
    noise = own.draw_noise((B,), generator())
    expected = gsrl.SubsetOfK(logits.expand(B, 16), 4).sample(noise=noise[0][..., 1])
    (kept,) = own(images(), noise=noise).kept
    assert torch.equal(torch.zeros(B, 16).scatter(-1, kept, 1.0), expected)


@pytest.mark.parametrize("choose", ["subset", "independent", "top-k"])
def test_the_gradient_of_a_choice_is_the_slope_of_the_relaxed_network(choose: Any) -> None:
    ranking = Positions(16)
    ranking.logits.data = torch.randn(16, generator=generator(1))
    own = pruner({0: 0.25}, choose, gsrl.make_estimator("st-gumbel", temperature=0.5), ranking=ranking).double()
    x, noise = images(1).double(), own.draw_noise((1,), generator())
    pruned = own(x, noise=noise)
    (found,) = torch.autograd.grad(pruned.outputs[0, 0], ranking.logits)

    keep = torch.zeros(1, 17, dtype=torch.float64).scatter(-1, pruned.kept[0] % 17, 1.0)[:, :16].requires_grad_()
    outputs = own.encoder(x, keep)  # whose derivative by the weights another test compares with differences
    torch.testing.assert_close(outputs, pruned.outputs)
    (slope,) = torch.autograd.grad(outputs[0, 0], keep)
    logits = ranking.logits.detach()
    if choose == "independent":
        score = logits + noise[0][0, :, 1] - noise[0][0, :, 0]
    else:
        score = logits + (noise[0][0, :, 1] if choose == "subset" else 0.0)
        ordered = score.sort(descending=True).values
        score = score - (ordered[3] + ordered[4]) / 2
    soft = (score / 0.5).sigmoid()
    torch.testing.assert_close(found, slope[0] * soft * (1 - soft) / 0.5, rtol=1e-5, atol=1e-8)
    assert (found[keep[0] == 0] != 0).all()  # dropped tokens say what they would have been worth


def test_dropped_tokens_that_are_left_out_later_have_no_gradient_there() -> None:
    """The cheaper pass, which leaves out at a stage what an earlier one dropped, has the gradient of the whole."""
    own, x = pruner({0: 0.5, 1: 0.25, 2: 0.125}).double(), images().double()
    noise = own.draw_noise((B,), generator())
    pruned = own(x, noise=noise)
    found = torch.autograd.grad(pruned.outputs.square().sum(), list(own.parameters()), allow_unused=True)

    tokens = torch.cat([own.encoder.class_token.expand(B, 1, -1), own.encoder.embed(x)], 1)
    weights = torch.ones(B, 16, dtype=torch.float64)
    for stage, layer in enumerate(own.encoder.layers):
        drop, keep = own.predictors[stage](tokens[:, 1:], weights.detach()).unbind(-1)
        weights = weights * own._largest(stage, keep - drop, weights > 0, noise[stage], 16)
        tokens = torch_block(layer, tokens, nn.functional.pad(weights, (1, 0), value=1.0))
    outputs = own.encoder.head(own.encoder.norm(tokens[:, 0]))
    torch.testing.assert_close(outputs, pruned.outputs)
    expected = torch.autograd.grad(outputs.square().sum(), list(own.parameters()), allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def torch_block(layer: Any, tokens: Tensor, keep: Tensor) -> Tensor:
    """A block as its equation says it, with a matrix of weights."""
    attention = layer.self_attn
    q, k, v = nn.functional.linear(layer.norm1(tokens), attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v))
    terms = (q @ k.mT / 2).exp() * keep[:, None, None, :]
    read = (terms / terms.sum(-1, keepdim=True)) @ v
    tokens = tokens + attention.out_proj(read.transpose(1, 2).flatten(2))
    return tokens + layer.linear2(nn.functional.gelu(layer.linear1(layer.norm2(tokens))))


def test_shares_are_drawn_to_what_they_should_be() -> None:
    for per in ("batch", "image"):
        own = pruner({0: 0.5}, "independent", per=per)
        pruned = own(images(), noise=own.draw_noise((B,), generator()))
        kept = torch.tensor([len(set(row) - {-1}) / 16 for row in pruned.kept[0].tolist()])
        torch.testing.assert_close(pruned.shares[:, 0], kept)
        error = kept.mean() - 0.5 if per == "batch" else kept - 0.5
        torch.testing.assert_close(pruned.loss, error.square().mean())
    assert pruner()(images(), generator=generator()).loss == 0


def test_a_score_function_learns_from_the_log_probability() -> None:
    own = pruner({0: 0.5, 1: 0.25}, "independent", "reinforce", ranking=Positions(16))
    noise = own.draw_noise((B,), generator())
    pruned = own(images(), noise=noise)
    assert pruned.log_prob is not None
    # At log-odds 0 each of the 16 tokens, and then of those that are left, is kept with probability 1/2.
    left = torch.tensor([len(set(row) - {-1}) for row in pruned.kept[0].tolist()])
    torch.testing.assert_close(pruned.log_prob, -(16 + left) * math.log(2))
    own.estimator.surrogate(torch.ones(B), pruned.log_prob).sum().backward()
    assert own.ranking is not None
    first, second = (torch.zeros(17).scatter_add(0, k.flatten() % 17, torch.ones(k.numel()))[:16] for k in pruned.kept)
    torch.testing.assert_close(own.ranking.logits.grad, (first - B / 2) + (second - first / 2))


def test_where_nothing_is_kept_all_is_finite() -> None:
    own = pruner({0: 0.5}, "independent", ranking=Positions(16))
    assert own.ranking is not None
    own.ranking.logits.data.fill_(-40.0)
    for deterministic in (False, True):
        pruned = own(images(), generator=generator(), deterministic=deterministic)
        assert pruned.outputs.isfinite().all()
        assert pruned.shares.abs().max() == 0
        with torch.no_grad():
            gathered = own(images(), generator=generator(), deterministic=deterministic)
        torch.testing.assert_close(gathered.outputs, pruned.outputs, rtol=0, atol=1e-5)


def test_noise_comes_by_the_tree() -> None:
    own, x = pruner(), images()
    outer = nn.Sequential(own)
    modules = noisy_modules(outer)
    assert list(modules) == ["0"]
    noise = draw(modules, (B,), generator())
    with handed(modules, noise):
        found = own(x)
    torch.testing.assert_close(found.outputs, own(x, noise=own.draw_noise((B,), generator())).outputs)
    assert own.noise is None
    assert pruner(None, "top-k").draw_noise((B,), generator()) == ()


def test_a_pruner_is_mapped_and_compiled_with_noise() -> None:
    own, x = pruner(), images(4)
    noise = own.draw_noise((4,), generator())
    expected = own(x, noise=noise).outputs
    halves = tuple(each.unflatten(0, (2, 2)) for each in noise)
    found = vmap(lambda part, g: own(part, noise=g, gather=False).outputs)(x.unflatten(0, (2, 2)), halves)
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=0, atol=1e-5)
    compiled = torch.compile(lambda part, g: own(part, noise=g).outputs, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, noise), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stem", ["conv", "linear"])
@pytest.mark.parametrize("ranked", [False, True])
def test_operations_are_those_that_torch_counts(stem: Any, ranked: bool) -> None:
    transformer = network(stem=stem)
    own = TokenPruner(transformer, {0: 0.5, 2: 0.25}, ranking=Brightness(2) if ranked else None)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        own(images(), generator=generator())
    assert own.flops(B) == counter.get_total_flops()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        transformer(images())
    assert transformer.flops(B) == counter.get_total_flops()


def test_groups_of_parameters_have_rates_of_their_own() -> None:
    own = pruner()
    encoder, predictors = own.parameter_groups(1e-3, 1e-2)
    assert (encoder["lr"], predictors["lr"]) == (1e-3, 1e-2)
    assert {id(p) for p in encoder["params"]} == {id(p) for p in own.encoder.parameters()}
    assert {id(p) for p in predictors["params"]} == {id(p) for p in own.predictors.parameters()}
    assert len(pruner(ranking=Brightness(2)).parameter_groups(1e-3, 1e-2)) == 1


def test_a_predictor_sees_the_mean_of_what_is_kept() -> None:
    predictor, tokens = KeepPredictor(8), torch.randn(1, 5, 8, generator=generator())
    keep = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0]])
    changed = tokens.clone()
    changed[0, 2] += torch.arange(8.0)
    rows = [0, 1, 3, 4]
    torch.testing.assert_close(predictor(changed, keep)[:, rows], predictor(tokens, keep)[:, rows])
    moved = predictor(changed, torch.ones(1, 5))[:, rows] - predictor(tokens, torch.ones(1, 5))[:, rows]
    assert moved.abs().min() > 0


def test_rankings_of_pixels() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, :2, :2] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    image[0, 0, 2:, 2:] = 1.0
    assert Brightness(2)(image).tolist() == [[0.5, 0.0, 0.0, 1.0]]
    assert Contrast(2)(image).tolist() == [[0.5, 0.0, 0.0, 0.0]]
    assert kept_pixels(image, torch.tensor([[3, -1]]), 2)[0].int().tolist() == [[0, 0, 0, 0]] * 2 + [[0, 0, 1, 1]] * 2


def test_distillation_compares_what_is_said_and_what_is_kept() -> None:
    student = Pruned(
        torch.tensor([[0.0, 0.0]]),
        torch.ones(1, 2, 3),
        (torch.tensor([[1, -1]]),),
        torch.ones(1, 1),
        torch.zeros(()),
        None,
    )
    teacher_tokens = torch.zeros(1, 4, 3)
    teacher_tokens[0, 1] = 3.0
    logits = torch.tensor([[math.log(3.0), 0.0]])
    teacher = Pruned(logits, teacher_tokens, (), torch.ones(1, 0), torch.zeros(()), None)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert distillation_loss(student, teacher).item() == pytest.approx(divergence + 4.0)
    with pytest.raises(ValueError, match="teacher must have read all tokens"):
        distillation_loss(student, student)


def test_the_temperature_falls_with_steps() -> None:
    own = pruner(None, "subset", gsrl.make_estimator("st-gumbel", temperature=ExponentialTemperature(1.0, 0.1, 4)))
    own(images(), generator=generator())
    for _ in range(2):
        own.step()
    state = own.state_dict()
    other = pruner(None, "subset", gsrl.make_estimator("st-gumbel", temperature=ExponentialTemperature(1.0, 0.1, 4)))
    other.load_state_dict(state)
    assert other.estimator.temperature().item() == pytest.approx(math.sqrt(0.1))
    torch.testing.assert_close(
        other(images(), generator=generator()).outputs, own(images(), generator=generator()).outputs
    )


ENCODER = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 1, enable_nested_tensor=False)
NONE = torch.zeros(B, 16, dtype=torch.bool)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pruner({0: 0.0}), ValueError, r"shares in \(0, 1\], but got 0.0 before block 0"),
        (lambda: pruner({0: 1.5}), ValueError, r"shares in \(0, 1\], but got 1.5"),
        (lambda: pruner({0: math.nan}), ValueError, r"shares in \(0, 1\], but got nan"),
        (lambda: pruner({0: 0.25, 1: 0.5}), ValueError, "must have shares that do not rise.*0.5 after 0.25 before blo"),
        (lambda: pruner({0: 0.03}), ValueError, "at least one of 16 tokens, but a share of 0.03 before block 0"),
        (lambda: pruner({3: 0.5}), ValueError, "before one of the blocks 0 to 2, but got 3"),
        (lambda: pruner({-1: 0.5}), ValueError, "before one of the blocks 0 to 2, but got -1"),
        (lambda: network(patch=3), ValueError, r"patch must divide the height and width.*\(1, 8, 8\), but got 3"),
        (lambda: network(heads=3), ValueError, "width must be a multiple of heads, 3, but got 8"),
        (lambda: network(std=0.0), ValueError, "std must be finite and above 0, but got 0.0"),
        (lambda: network(depth=0), ValueError, "depth must be an integer of at least 1, but got 0"),
        (lambda: network(stem="none"), ValueError, "stem must be 'conv' or 'linear', but got 'none'"),
        (lambda: pruner(None, "subset", "exact"), ValueError, "pathwise.*but got exact"),
        (lambda: pruner(None, "independent", "exact"), ValueError, "reinforce or rloo.*but got exact"),
        (lambda: pruner(None, "subset", "rloo"), ValueError, "pathwise.*but got rloo"),
        (lambda: pruner(None, "subset", "gumbel-softmax"), ValueError, "hard samples for subset.*gumbel-softmax"),
        (lambda: pruner(None, "some"), ValueError, "choose must be one of"),
        (lambda: pruner()(images(), NONE), ValueError, r"leaves none in rows \[0, 1, 2\]"),
        (lambda: pruner()(images(), NONE[:, :3]), ValueError, r"mask must be boolean of shape \(3, 16\)"),
        (lambda: pruner()(images()[..., :6]), ValueError, r"images must have shape \[B, 1, 8, 8\]"),
        (lambda: pruner()(images(), noise=(torch.zeros(B, 16),)), ValueError, "noise must be what draw_noise returned"),
        (lambda: pruner()(images(), gather=True), ValueError, "gather must be False while what chooses learns"),
        (lambda: TokenPruner(nn.Linear(3, 3), {0: 0.5}), TypeError, "encoder must be"),  # type: ignore[arg-type]
        (lambda: TokenPruner(ENCODER, {0: 0.5}, num_tokens=4), ValueError, "batch_first=True"),
    ],
)
def test_bad_input_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_the_page_is_true() -> None:
    page = (Path(__file__).parents[2] / "docs" / "token-pruning.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert [tuple(kept.shape) for kept in names["pruned"].kept] == [(64, 32), (64, 16), (64, 8)]
    assert names["pruner"].flops() < 0.3 * names["network"].flops()
