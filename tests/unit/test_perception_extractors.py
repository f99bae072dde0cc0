"""Losses that go with features, and extractors that prune or make a code."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from torch import Tensor
from torch.func import grad, vmap

import gsrl
from gsrl.learning.noise import handed, noisy_modules
from gsrl.perception.extractors import DiscreteLatentExtractor, TokenPruningExtractor, attach_loss


def test_a_loss_goes_with_features_once() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    features = attach_loss(3 * x, (x**2).sum())
    assert torch.equal(features, 3 * x)
    # Used twice, with weights 1 and 10: the loss is added once, with weight 1.
    (features.sum() + 10 * features[0]).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3 + 30 + 2, 3 - 4]
    unused = torch.tensor(1.0, requires_grad=True)
    attach_loss(torch.zeros(2), unused).sum().backward()
    assert unused.grad == 1  # features that have no gradient of their own take it along as well


def test_each_member_has_its_own_loss() -> None:
    def value(x: Tensor) -> Tensor:
        return attach_loss(3 * x, (x**2).sum()).prod()

    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([grad(value)(row) for row in x])
    torch.testing.assert_close(vmap(grad(value))(x), expected)
    torch.testing.assert_close(expected, 9 * x.flip(-1) + 2 * x)
    variables = x.clone().requires_grad_()
    vmap(value)(variables).sum().backward()
    torch.testing.assert_close(variables.grad, expected)


def test_a_loss_is_a_scalar() -> None:
    with pytest.raises(ValueError, match=r"loss must be a scalar, but got shape \(2,\)"):
        attach_loss(torch.zeros(2), torch.zeros(2))


# Pruning

IMAGES = spaces.Box(0, 255, (8, 8, 3), np.uint8)
SMALL: dict[str, Any] = {"features_dim": 6, "width": 8, "depth": 2}


class Looks(gym.Env[Any, Any]):
    """Shows noise, and pays for the first action."""

    observation_space, action_space = IMAGES, spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._seen(), float(action == 0), self.steps == 8, False, {}

    def _seen(self) -> Any:
        return self.np_random.integers(256, size=IMAGES.shape, dtype=np.uint8)


def extractor(**settings: Any) -> TokenPruningExtractor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TokenPruningExtractor(IMAGES, **{**SMALL, **settings})


def test_features_are_those_of_the_kept_tokens() -> None:
    own = extractor(shares=(0.25,))
    images = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    pruned = own.pruner(images.movedim(-1, 1), deterministic=True)
    assert torch.equal(own(images), pruned.outputs)
    assert pruned.kept[0].shape == (3, 4)
    with torch.no_grad():
        torch.testing.assert_close(own(images), pruned.outputs, rtol=0, atol=1e-5)


def test_noise_is_handed_or_of_its_own_or_there_is_none() -> None:
    images = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    quiet, own = extractor(choose="subset"), extractor(choose="subset", seed=1)
    assert torch.equal(quiet(images), own.pruner(images.movedim(-1, 1), deterministic=True).outputs)
    noise = own.pruner.draw_noise((3,), torch.Generator().manual_seed(1))
    expected = own.pruner(images.movedim(-1, 1), noise=noise).outputs
    assert torch.equal(own(images), expected)
    assert not torch.equal(own(images), expected)  # the next draw
    with handed(noisy_modules(quiet), {"pruner": noise}):
        assert torch.equal(quiet(images), expected)


def test_the_loss_of_the_shares_goes_with_the_features() -> None:
    own = extractor(choose="independent", seed=1, ratio_weight=3.0)
    images = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    own(images).sum().backward()
    found = [p.grad.clone() for p in own.pruner.predictors.parameters() if p.grad is not None]
    own.zero_grad()
    pruned = own.pruner(images.movedim(-1, 1), generator=torch.Generator().manual_seed(1))
    (pruned.outputs.sum() + 3.0 * pruned.loss).backward()
    for one, p in zip(found, own.pruner.predictors.parameters(), strict=True):
        torch.testing.assert_close(one, p.grad)


def test_ppo_starts_where_it_acted() -> None:
    """With the default choice its first epoch, of one batch, compares a policy with itself."""
    kwargs = {"features_extractor_class": TokenPruningExtractor, "features_extractor_kwargs": SMALL}
    how: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}
    model = PPO("CnnPolicy", Looks(), policy_kwargs=kwargs, **how).learn(32)
    assert abs(model.logger.name_to_value["train/approx_kl"]) < 1e-6
    assert model.logger.name_to_value["train/clip_fraction"] == 0


def test_dqn_learns_with_it_as_it_is() -> None:
    kwargs = {"features_extractor_class": TokenPruningExtractor, "features_extractor_kwargs": {**SMALL, "seed": 0}}
    how: dict[str, Any] = {"learning_starts": 8, "batch_size": 4, "buffer_size": 100, "seed": 0, "device": "cpu"}
    model = DQN("CnnPolicy", Looks(), policy_kwargs=kwargs, **how)
    before: Any = copy.deepcopy(model.policy)
    model.learn(24)
    now: Any = model.policy
    pairs = [(policy.q_net.features_extractor.pruner.predictors[0].outer.weight) for policy in (before, now)]
    assert not torch.equal(*pairs)


@pytest.mark.parametrize("choose", ["top-k", "subset", "independent"])
def test_a_soft_actor_critic_prunes_and_is_saved(tmp_path: Path, choose: str) -> None:
    kwargs: dict[str, Any] = {
        "features_extractor_class": TokenPruningExtractor,
        "features_extractor_kwargs": {**SMALL, "choose": choose},
        "net_arch": [8],
    }
    how: dict[str, Any] = {"learning_starts": 8, "batch_size": 4, "buffer_size": 100, "seed": 0, "device": "cpu"}
    model = gsrl.DiscreteSAC("CnnPolicy", Looks(), policy_kwargs=kwargs, **how).learn(12)
    model.save(tmp_path / "model.zip")
    loaded = gsrl.DiscreteSAC.load(tmp_path / "model.zip")
    observations = np.random.default_rng(0).integers(256, size=(5, *IMAGES.shape), dtype=np.uint8)
    assert np.array_equal(model.predict(observations)[0], loaded.predict(observations)[0])


@pytest.mark.parametrize("choose", ["top-k", "subset", "independent"])
def test_four_members_of_a_population_prune_as_four_alone(choose: str) -> None:
    kwargs: dict[str, Any] = {
        "features_extractor_class": TokenPruningExtractor,
        "features_extractor_kwargs": {**SMALL, "choose": choose, "stem": "linear"},
        "net_arch": [8],
    }
    how: dict[str, Any] = {"learning_starts": 8, "batch_size": 4, "buffer_size": 100, "policy_kwargs": kwargs}
    population = gsrl.Population(gsrl.DiscreteSAC, Looks, range(4), policy="CnnPolicy", device="cpu", **how).learn(12)
    for seed in range(4):
        alone = gsrl.DiscreteSAC("CnnPolicy", Looks(), seed=seed, device="cpu", **how).learn(12)
        # Biases of keys move by rounding alone, for attention does not depend on them: features are compared.
        actors: Any = (population.member(seed).policy.actor, alone.policy.actor)
        images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        ours, theirs = (actor.features_extractor.pruner.encoder(images) for actor in actors)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
        predictors = [
            torch.cat([p.flatten() for p in a.features_extractor.pruner.predictors.parameters()]) for a in actors
        ]
        torch.testing.assert_close(*predictors, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("space", "settings", "message"),
    [
        (spaces.Box(-1, 1, (4,)), {}, "observation_space must be a Box of three dimensions"),
        (IMAGES, {"patch": 3}, "patch must divide"),
        (IMAGES, {"shares": (0.5, 0.25)}, "shares must be as many as stages"),
        (IMAGES, {"stages": (2,)}, "before one of the blocks 0 to 1, but got 2"),
        (IMAGES, {"estimator": "exact"}, "differentiable samples"),
    ],
)
def test_what_does_not_fit_is_refused(space: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenPruningExtractor(space, **{**SMALL, **settings})


# Codes

CODE: dict[str, Any] = {"n": 3, "K": 4, "hidden": 8}
ESTIMATORS = ["st-gumbel", "gumbel-softmax", "gumbel-rao", "gapped-st", "straight-through", "reinmax"]


def coder(**settings: Any) -> DiscreteLatentExtractor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DiscreteLatentExtractor(IMAGES, **{**CODE, **settings})


def some_images(count: int = 5) -> Tensor:
    return torch.rand(count, *IMAGES.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_features_are_the_most_probable_code(estimator: str) -> None:
    own, images = coder(estimator=estimator), some_images()
    assert own.features_dim == 12
    features = own(images)
    assert torch.equal(features, own.vae.encode(images).mode.flatten(1))
    assert torch.equal(own.eval()(images), features)
    with torch.no_grad():
        assert torch.equal(own(images), features)
    weights = torch.linspace(-1, 1, 60).view(5, 12)
    slopes = torch.autograd.grad((weights * own(images)).sum(), list(own.vae.encoder.parameters()))
    assert all(slope.abs().max() > 0 for slope in slopes)


def test_the_slope_of_the_most_probable_code_is_that_of_a_softmax() -> None:
    """With st-gumbel, temperature tau: D' = softmax(logits / tau)'."""
    own, images = coder(temperature=0.5, unimix=0.0, loss_weight=0.0), some_images()
    weights = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    parameters = list(own.vae.encoder.parameters())
    found = torch.autograd.grad((weights.flatten(1) * own(images)).sum(), parameters)
    logits = own.vae.encoder(images).unflatten(1, (3, 4))
    expected = torch.autograd.grad((weights * (logits / 0.5).softmax(-1)).sum(), parameters)
    torch.testing.assert_close(found, expected)


def test_the_loss_of_the_code_goes_with_the_features() -> None:
    own, images = coder(loss_weight=0.5, kl_weight=0.3, unimix=0.0), some_images()
    own(images).sum().mul(0.0).backward()
    logits = own.vae.encoder(images).unflatten(1, (3, 4))
    soft = logits.softmax(-1)
    code = torch.nn.functional.one_hot(logits.argmax(-1), 4) + soft - soft.detach()
    error = 0.5 * (own.vae.decoder(code.flatten(1)) - images).square().flatten(1).sum(1)
    kl = (soft * (4 * soft).log()).sum((1, 2))
    expected = torch.autograd.grad(0.5 * (error + 0.3 * kl).mean(), list(own.vae.parameters()))
    for p, one in zip(own.vae.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, one)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_noise_of_a_code_is_handed_or_of_its_own_or_there_is_none(estimator: str) -> None:
    images = some_images()
    how: dict[str, Any] = {"estimator": estimator, "deterministic": False}
    quiet, own = coder(**how), coder(**how, seed=1)
    assert torch.equal(quiet(images), quiet.vae.encode(images).mode.flatten(1))
    noise = own.vae.draw_noise((5,), torch.Generator().manual_seed(1))
    expected = own.vae.estimator.sample(own.vae.encode(images), noise).flatten(1)
    assert torch.equal(own(images), expected)
    assert not torch.equal(own(images), expected)  # the next draw
    with handed(noisy_modules(quiet), {"vae": noise}):
        assert torch.equal(quiet(images), expected)
    with torch.no_grad():
        assert torch.equal(own(images), quiet(images))
    assert coder(estimator=estimator).vae.draw_noise((5,)) == ()


def test_ppo_with_a_code_starts_where_it_acted_and_its_decoder_learns() -> None:
    kwargs = {"features_extractor_class": DiscreteLatentExtractor, "features_extractor_kwargs": CODE}
    how: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}
    model = PPO("CnnPolicy", Looks(), policy_kwargs=kwargs, learning_rate=1e-2, max_grad_norm=1e9, **how)
    images = some_images().movedim(-1, 1)
    vae: Any = model.policy.features_extractor.vae
    before = (vae.reconstruct(images) - images).square().mean()
    model.learn(32)
    assert abs(model.logger.name_to_value["train/approx_kl"]) < 1e-6
    assert model.logger.name_to_value["train/clip_fraction"] == 0
    model.learn(320)
    assert (vae.reconstruct(images) - images).square().mean() < 0.7 * before


def test_dqn_learns_with_a_code_as_it_is() -> None:
    settings = {**CODE, "deterministic": False, "seed": 0}
    kwargs = {"features_extractor_class": DiscreteLatentExtractor, "features_extractor_kwargs": settings}
    how: dict[str, Any] = {"learning_starts": 8, "batch_size": 4, "buffer_size": 100, "seed": 0, "device": "cpu"}
    model = DQN("CnnPolicy", Looks(), policy_kwargs=kwargs, **how)
    vae: Any = model.policy.q_net.features_extractor.vae
    before = [p.detach().clone() for p in vae.parameters()]
    model.learn(24)
    for p, old in zip(vae.parameters(), before, strict=True):
        assert not torch.equal(p, old)


@pytest.mark.parametrize("kind", ["sac", "reinforce"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_four_members_of_a_population_make_codes_as_four_alone(kind: str, deterministic: bool, tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {
        "features_extractor_class": DiscreteLatentExtractor,
        "features_extractor_kwargs": {**CODE, "deterministic": deterministic},
        "net_arch": [8],
    }
    if kind == "sac":
        agent: Any = gsrl.DiscreteSAC
        how: dict[str, Any] = {"learning_starts": 8, "batch_size": 4, "buffer_size": 100, "policy_kwargs": kwargs}
    else:
        agent, how = gsrl.Reinforce, {"n_episodes": 2, "critic_updates": 2, "policy_kwargs": kwargs}
    population = gsrl.Population(agent, Looks, range(4), policy="CnnPolicy", device="cpu", **how).learn(16)
    images = np.random.default_rng(0).integers(256, size=(5, *IMAGES.shape), dtype=np.uint8)
    for seed in range(4):
        alone = agent("CnnPolicy", Looks(), seed=seed, device="cpu", **how)
        start = copy.deepcopy(alone.policy.state_dict())
        alone.learn(16)
        member = population.member(seed)
        moved = 0
        for name, theirs in alone.policy.state_dict().items():
            torch.testing.assert_close(member.policy.state_dict()[name], theirs, rtol=0, atol=1e-4)
            moved += "vae.decoder" in name and not torch.equal(theirs, start[name])
        assert moved >= 4  # nothing but the loss that is attached reaches decoders
    alone.save(tmp_path / "model.zip")
    loaded = agent.load(tmp_path / "model.zip")
    assert np.array_equal(alone.predict(images, deterministic=True)[0], loaded.predict(images, deterministic=True)[0])


@pytest.mark.parametrize(
    ("space", "settings", "message"),
    [
        (spaces.Box(-1, 1, (4,)), {}, "observation_space must be a Box of three dimensions"),
        (IMAGES, {"K": 1}, "K must be an integer of at least 2, but got 1"),
        (IMAGES, {"n": 0}, "n must be an integer of at least 1, but got 0"),
        (IMAGES, {"hidden": 0}, "hidden must be an integer of at least 1, but got 0"),
        (IMAGES, {"unimix": 1.0}, "unimix must be a number from 0 to below 1"),
        (IMAGES, {"loss_weight": -1.0}, "loss_weight must be a number of at least 0, but got -1.0"),
        (IMAGES, {"kl_weight": float("nan")}, "kl_weight must be a number of at least 0"),
        (IMAGES, {"estimator": "exact"}, "differentiable samples"),
    ],
)
def test_a_code_that_does_not_fit_is_refused(space: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscreteLatentExtractor(space, **{**CODE, **settings})
