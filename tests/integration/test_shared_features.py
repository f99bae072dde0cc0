"""Actor and critics of one features extractor: who trains it and who follows it, and what images are until then."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN

from gsrl import DiscreteSAC, Population
from gsrl.algorithms.extractors import SmallCNN
from gsrl.algorithms.policies import Network


class Frames(gym.Env[Any, np.int64]):
    """Noise that is paid for where it is bright; episodes end by chance."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.observation_space = spaces.Box(0, 255 if dtype is np.uint8 else 1, shape, dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._draw(), float(action), self.np_random.random() < 0.1, self.np_random.random() < 0.1, {}

    def _draw(self) -> np.ndarray:
        space: Any = self.observation_space
        return self.np_random.integers(0, int(space.high.max()) + 1, space.shape).astype(space.dtype)


def small() -> Frames:
    return Frames((10, 10, 3), np.bool_)


def large() -> Frames:
    return Frames((1, 36, 36), np.uint8)


ENCODERS: dict[str, Any] = {
    "small": (small, SmallCNN, {"channels": 4, "features_dim": 16}),
    "nature": (large, NatureCNN, {"features_dim": 16}),
}


def settings_of(name: str, **more: Any) -> dict[str, Any]:
    _, extractor, kwargs = ENCODERS[name]
    policy = {
        "features_extractor_class": extractor,
        "features_extractor_kwargs": kwargs,
        "net_arch": [8],
        "share_features_extractor": True,
    }
    settings = {"buffer_size": 200, "learning_starts": 20, "batch_size": 8, "device": "cpu"}
    return {**settings, "policy_kwargs": policy, **more}


def inputs_of(model: DiscreteSAC) -> tuple[Any, ...]:
    """Arguments of the loss, with straight-through noise of the agent's own."""
    assert model.replay_buffer is not None
    batch = model._normalization.normalized(model.replay_buffer.sample(8))
    noise = model.estimator.draw_noise(model._template, model.generator)
    return batch, noise, model._target_entropy, None


@pytest.mark.parametrize("name", ENCODERS)
def test_the_gradient_of_a_shared_encoder_is_that_of_the_critics_alone(name: str) -> None:
    model = DiscreteSAC("CnnPolicy", ENCODERS[name][0](), seed=0, **settings_of(name)).learn(28)
    loss, inputs = model.learner.loss, inputs_of(model)
    # Two encoders that happen to be equal, each trained by the loss of its owner.
    apart: Any = copy.deepcopy(loss)
    apart.actor.features_extractor = copy.deepcopy(apart.critic.features_extractor)
    apart.share_features = False
    shared, separate = loss(*inputs)[0], apart(*inputs)[0]
    torch.testing.assert_close(shared, separate)
    shared.backward()
    separate.backward()
    gradients = {each: parameter.grad for each, parameter in apart.named_parameters()}
    names = [each for each, parameter in loss.named_parameters() if parameter.requires_grad]
    assert sum(each.startswith("critic.features_extractor.") for each in names) > 1
    for each in names:
        torch.testing.assert_close(loss.get_parameter(each).grad, gradients[each])
    first = "actor.features_extractor." + next(iter(apart.actor.features_extractor.state_dict()))
    assert gradients[first].abs().max() > 0  # which the shared one does not have


@pytest.mark.parametrize("name", ENCODERS)
def test_members_are_single_agents_and_the_target_follows(name: str) -> None:
    env, settings = ENCODERS[name][0], settings_of(name)
    population = Population(DiscreteSAC, env, [4, 2], policy="CnnPolicy", **settings).learn(40)
    single = DiscreteSAC("CnnPolicy", env(), seed=2, **settings).learn(40)
    member: Any = population.member(1)
    assert member._n_updates == single._n_updates > 0
    for key, value in member.policy.state_dict().items():
        torch.testing.assert_close(value, single.policy.state_dict()[key], rtol=0.0, atol=1e-5)
    before = copy.deepcopy(single.critic_target.features_extractor.state_dict())
    single.train(1)
    for key, value in single.critic_target.features_extractor.state_dict().items():
        followed = single.critic.features_extractor.state_dict()[key]
        torch.testing.assert_close(value, torch.lerp(before[key], followed, single.tau))
        assert not torch.equal(value, before[key])


def test_it_is_saved_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    model = DiscreteSAC("CnnPolicy", small(), seed=1, **settings_of("small")).learn(40)
    model.save(tmp_path / "model", include=["replay_buffer"])
    loaded = DiscreteSAC.load(tmp_path / "model", env=small(), device="cpu")
    copied = copy.deepcopy(model.policy)
    assert copied.actor.features_extractor is copied.critic.features_extractor
    for each in (model, loaded):
        assert each.actor.features_extractor is each.critic.features_extractor
        each.train(3)
    for key, value in model.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[key]), key


def test_without_it_each_network_has_its_own() -> None:
    settings = settings_of("small")
    settings["policy_kwargs"].pop("share_features_extractor")
    model = DiscreteSAC("CnnPolicy", small(), seed=1, **settings)
    assert model.actor.features_extractor is not model.critic.features_extractor
    assert next(iter(model.learner.loss.named_parameters()))[0].startswith("actor.")


@pytest.mark.parametrize(("name", "dtype"), [("small", torch.bool), ("nature", torch.uint8)])
def test_images_are_bytes_until_the_encoder(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    features = Network.features

    def watched(self: Network, observations: Any) -> Any:
        seen.add(observations.dtype)
        return features(self, observations)

    monkeypatch.setattr(Network, "features", watched)
    env, settings = ENCODERS[name][0], settings_of(name)
    DiscreteSAC("CnnPolicy", env(), seed=0, **settings).learn(24)
    Population(DiscreteSAC, env, [0, 1], policy="CnnPolicy", **settings).learn(24)
    assert seen == {dtype}
