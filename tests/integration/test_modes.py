"""What is only evaluated, target critics, next policies and baselines, is evaluated in evaluation mode."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from gsrl import DiscreteSAC, Population, Reinforce
from gsrl.replay import ReplayBatch


class Extractor(BaseFeaturesExtractor):
    """Batch normalisation and dropout of the observation."""

    def __init__(self, observation_space: gym.Space, dropout: float = 0.5) -> None:
        super().__init__(observation_space, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, observations: Tensor) -> Tensor:
        return self.dropout(self.norm(observations))


def make_sac(dropout: float = 0.5, **settings: Any) -> DiscreteSAC:
    arguments = {"features_extractor_class": Extractor, "features_extractor_kwargs": {"dropout": dropout}}
    defaults = {"learning_starts": 8, "batch_size": 8, "seed": 0, "policy_kwargs": {"net_arch": [8], **arguments}}
    return DiscreteSAC("MlpPolicy", "CartPole-v1", **(defaults | settings))


def make_reinforce(**settings: Any) -> Reinforce:
    arguments = {"net_arch": [8], "features_extractor_class": Extractor}
    return Reinforce("MlpPolicy", "CartPole-v1", n_episodes=2, seed=0, policy_kwargs=arguments, **settings)


def a_batch() -> ReplayBatch:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 16, 4, generator=generator) + 1.0
    return ReplayBatch(first, torch.zeros(16, 1, dtype=torch.int64), torch.ones(16), second, torch.full((16,), 0.9))


@pytest.mark.parametrize("q_clip", [None, 0.1])
def test_targets_of_critics_are_of_networks_in_evaluation_mode(q_clip: float | None) -> None:
    model, batch = make_sac(q_clip=q_clip, critics="min", entropy_in_target=False), a_batch()
    with torch.no_grad():
        for norm in (module for module in model.policy.modules() if isinstance(module, nn.BatchNorm1d)):
            norm.running_mean.fill_(0.5)
        reference = copy.deepcopy(model.policy).eval()
        policy = reference.actor(batch.next_observations)
        value = reference.critic_target(batch.next_observations).soft_value(policy, torch.ones(1), "min", entropy=False)
    model.policy.set_training_mode(True)
    model.update(batch)
    torch.testing.assert_close(model._metrics["target"], 1.0 + 0.9 * value)
    norms = [getattr(model.policy, name).features_extractor.norm for name in ("actor", "critic", "critic_target")]
    # One batch each: that of the states, which learn. The target's statistics are the critic's.
    assert [norm.num_batches_tracked.item() for norm in norms] == [1, 1, 1]
    assert torch.equal(norms[1].running_mean, norms[2].running_mean)
    torch.testing.assert_close(norms[0].running_mean, 0.9 * 0.5 + 0.1 * batch.observations.mean(0))
    assert all(module.training for module in model.policy.modules())  # as it was


def test_running_statistics_follow_where_parameters_do_not() -> None:
    model = make_sac(tau=0.0, target_update_interval=3)
    before = copy.deepcopy(model.policy.critic_target)
    model.learn(8 + 5)
    norms = [model.policy.critic.features_extractor.norm, model.policy.critic_target.features_extractor.norm]
    assert [norm.num_batches_tracked.item() for norm in norms] == [5, 3]
    model.learn(1, reset_num_timesteps=False)
    assert torch.equal(norms[0].running_var, norms[1].running_var)
    for old, new in zip(before.parameters(), model.policy.critic_target.parameters(), strict=True):
        assert torch.equal(old, new)


def test_updates_in_lockstep_keep_the_modes() -> None:
    alone = make_sac(dropout=0.0).learn(20)
    settings = {name: getattr(alone, name) for name in ("learning_starts", "batch_size", "policy_kwargs")}
    together = Population(DiscreteSAC, "CartPole-v1", seeds=[0, 1], **settings)
    together.learn(20)
    for name, expected in alone.policy.state_dict().items():
        torch.testing.assert_close(together.member(0).policy.state_dict()[name], expected, msg=name)


def test_what_draws_or_writes_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsrl.learning.learner.EAGER_UPDATES", 3)
    monkeypatch.setattr(Extractor, "__module__", "gsrl.made_up")  # as if it were known
    statistics = make_sac().learn(20).policy.actor.features_extractor.norm
    assert statistics.num_batches_tracked == 20 - 8


@pytest.mark.parametrize("baseline", ["value", "relax"])
def test_baselines_are_of_networks_in_evaluation_mode(baseline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_reinforce(baseline=baseline, critic_updates=1)
    seen = []

    def watch(rollout: Any) -> None:
        with torch.no_grad():
            critic = copy.deepcopy(model.policy.critic).eval()
            before = {name: module.num_batches_tracked.clone() for name, module in norms.items()}
            train(rollout)
            values = critic(rollout.observations)
            returns = model._metrics["return"]
        torch.testing.assert_close(model._metrics["advantage"], returns - values)
        seen.append({name: int(module.num_batches_tracked - before[name]) for name, module in norms.items()})

    train = torch.enable_grad()(model.train)
    norms = {name: getattr(model.policy, name).features_extractor.norm for name in ("actor", "critic")}
    monkeypatch.setattr(model, "train", watch)
    model.learn(1)
    assert seen == [{"actor": 1, "critic": 1}]  # each learns once
