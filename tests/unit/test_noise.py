"""Noise by module path: an extractor that samples below a loss like that of an actor and a critic."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gsrl import FactoredCategorical, gumbel_noise, make_estimator
from gsrl.learning import Learner, Lockstep, Mapped, noise
from gsrl.learning import learner as learner_module

B, N, K = 6, 2, 3
"""Observations, factors and choices of the extractor."""


class Extractor(nn.Module):
    """Features that are a sample, with noise; without, its mode."""

    __module__ = "gsrl.extractors"  # as if it were one of the library's: what is not, is not recorded
    noise: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, N * K)
        self.estimator = make_estimator("st-gumbel", temperature=1.0)

    def draw_noise(self, batch_shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return gumbel_noise((*batch_shape, N, K), generator=generator)

    def forward(self, observations: Tensor) -> Tensor:
        policy = FactoredCategorical(self.linear(observations).unflatten(-1, (N, K)), validate_args=False)
        sample = policy.mode if self.noise is None else self.estimator.sample(policy, self.noise)
        return sample.flatten(-2)


class Actor(nn.Module):
    __module__ = "gsrl.extractors"

    def __init__(self) -> None:
        super().__init__()
        self.extractor, self.head = Extractor(), nn.Linear(N * K, 2)

    def forward(self, observations: Tensor) -> Tensor:
        return self.head(self.extractor(observations))


class Loss(nn.Module):
    """Values, and logits of what is worth most, each of its own features; a target follows the values."""

    __module__ = "gsrl.losses"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor, self.critic = Actor(), Actor()
        self.target = copy.deepcopy(self.critic).requires_grad_(False)

    def forward(self, observations: Tensor, rewards: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        values, logits = self.critic(observations), self.actor(observations)
        with torch.no_grad():
            goal = rewards.unsqueeze(-1) + 0.9 * self.target(observations)
        loss = (values - goal).square().mean() - (logits.log_softmax(-1) * values.detach()).sum(-1).mean()
        return loss, {"loss": loss.detach(), "value": values.detach().mean()}


PATHS = ["actor.extractor", "critic.extractor", "target.extractor"]


def batch(step: int, member: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * member + step)
    return torch.randn(B, 4, generator=generator), torch.randn(B, generator=generator)


def learner(seed: int, **how: Any) -> Learner:
    return Learner(Loss(seed), [("critic", "target")], max_grad_norm=1.0, **how)


def learned_alone(seed: int, steps: int, **how: Any) -> list[Tensor]:
    """Parameters of a loss whose learner is handed noise by itself."""
    own, generator = learner(seed, **how), torch.Generator().manual_seed(seed)
    for step in range(steps):
        drawn = noise.draw(own.noisy, (B,), generator)
        own.update(*batch(step, seed), learning_rate=0.05, tau=0.1, noise=drawn)
    return [p.detach() for p in own.loss.parameters()]


def learned_by_hand(seed: int, steps: int) -> list[Tensor]:
    """The same where noise is an attribute from before the call."""
    own, generator = learner(seed, record=False), torch.Generator().manual_seed(seed)
    for step in range(steps):
        for path in PATHS:
            module: Any = own.loss.get_submodule(path)
            module.noise = module.draw_noise((B,), generator)
        own.update(*batch(step, seed), learning_rate=0.05, tau=0.1)
    return [p.detach() for p in own.loss.parameters()]


def test_modules_are_found_by_path_and_estimators_are_none() -> None:
    found = noise.noisy_modules(Loss())
    assert list(found) == PATHS
    assert list(noise.noisy_modules(found["actor.extractor"])) == [""]
    assert noise.noisy_modules(nn.Sequential(make_estimator("st-gumbel"))) == {}
    drawn = noise.draw(found, (5,), torch.Generator().manual_seed(0))
    assert {path: tuple(each.shape) for path, each in drawn.items()} == dict.fromkeys(PATHS, (5, N, K))
    assert not torch.equal(drawn[PATHS[0]], drawn[PATHS[1]])


@pytest.mark.parametrize("how", ["eager", "recorded", "compiled"])
def test_an_update_hands_each_module_its_own(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "EAGER_UPDATES", 2)
    expected, found = learned_by_hand(0, 8), learned_alone(0, 8, compile=how == "compiled", record=how == "recorded")
    for p, q in zip(found, expected, strict=True):
        if how == "compiled":
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(p, q)


@pytest.mark.parametrize("how", ["eager", "recorded", "compiled"])
def test_members_have_the_noise_that_they_would_have_alone(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "EAGER_UPDATES", 2 if how == "recorded" else 1000)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    learners = [learner(seed) for seed in range(3)]
    together = Lockstep(learners, range(3), generators, compile=how == "compiled")
    for step in range(8):
        observations, rewards = (torch.stack(each) for each in zip(*(batch(step, i) for i in range(3)), strict=True))
        metrics = together.update(observations, rewards, learning_rate=0.05, tau=0.1, noise=together.draw_noise((B,)))
    assert metrics["loss"].shape == (3,)
    if how == "recorded":
        assert together._update is not None
        assert len(together._update.traced._records) == 1
    for seed in range(3):
        for p, q in zip(learners[seed].loss.parameters(), learned_by_hand(seed, 8), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_after_an_update_and_after_an_error_nobody_has_noise() -> None:
    own = learner(0)
    drawn = noise.draw(own.noisy, (B,), torch.Generator().manual_seed(0))
    own.update(*batch(0, 0), learning_rate=0.05, noise=drawn)
    assert all(module.noise is None for module in own.noisy.values())
    with pytest.raises(RuntimeError):
        own.update(torch.zeros(B, 9), torch.zeros(B), learning_rate=0.05, noise=drawn)
    assert all(module.noise is None for module in own.noisy.values())
    other = copy.deepcopy(own)
    assert list(other.noisy) == PATHS
    assert all(other.noisy[path] is not own.noisy[path] for path in PATHS)


def test_acting_has_noise_where_it_is_given_some() -> None:
    together = Lockstep([learner(0), learner(1)])
    act = Mapped(together, lambda loss, observations: loss.actor(observations), ["actor"], "acting")
    observations, drawn = torch.randn(2, B, 4), together.draw_noise((B,))
    own = {"actor.extractor": drawn["actor.extractor"]}
    for given in ({}, own):
        found = act(observations, noise=given)
        for index, loss in enumerate(together.losses):
            loss.actor.extractor.noise = given["actor.extractor"][index] if given else None
            torch.testing.assert_close(found[index], loss.actor(observations[index]))
            loss.actor.extractor.noise = None


def test_where_nobody_takes_noise_none_is_drawn() -> None:
    plain = Lockstep([Learner(nn.ModuleDict({"linear": nn.Linear(2, 1)}))])
    before = plain.generators[0].get_state()
    assert plain.draw_noise((4,)) == {}
    assert torch.equal(plain.generators[0].get_state(), before)
