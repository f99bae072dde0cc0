"""One update of DiscreteSAC: what it reads, moves and advances, and estimators inside it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from gsrl import DiscreteSAC, make_estimator
from gsrl.checkpoint import CheckpointError
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, GumbelSoftmax, STGumbel
from gsrl.relaxations import gumbel_noise
from gsrl.schedules import ExponentialSchedule
from gsrl.temperature import ExponentialTemperature, LearnedTemperature
from tests.common.models import (
    CARTPOLE,
    OBSERVATIONS,
    OnlyTheMethod,
    Spaces,
    assert_same_agent,
    in_windows,
    make_sac,
    parameters,
    random_batch,
    same,
)

# One update


def test_an_update_reads_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator, each of these calls would wait for it."""
    calls: list[str] = []
    for name in ("item", "__bool__", "__float__", "__int__", "__index__", "numpy", "tolist", "cpu", "nonzero"):
        original = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            calls.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, counted)
    for estimator in ("st-gumbel", "exact", "straight-through", "reinforce", "rloo"):
        model = make_sac(estimator=estimator, max_grad_norm=1.0, q_clip=0.5)
        batch = random_batch()
        calls.clear()
        model.update(batch)
        model.update(batch)
        assert calls == [], estimator
    for critic in ("multilinear", "network"):
        policy_kwargs = {"net_arch": [8], "critic": critic}
        model = make_sac(Spaces(spaces.MultiDiscrete([2, 3])), policy_kwargs=policy_kwargs, q_clip=0.5)
        batch = random_batch(n=2)
        calls.clear()
        model.update(batch)
        model.update(batch)
        mask = torch.ones(8, 2, 3, dtype=torch.bool)
        model.update(batch._replace(action_mask=mask, next_action_mask=mask))
        model.update(in_windows(batch))
        assert calls == [], critic
    assert torch.ones(1).item() == 1.0
    assert calls == ["item"]


def test_the_entropy_coefficient_follows_its_schedule_also_after_loading(tmp_path: Path) -> None:
    model = make_sac(ent_coef=ExponentialSchedule(0.4, 0.01, 0.5))
    assert model.entropy_coefficient().item() == pytest.approx(0.4)
    model.learn(60)
    assert model.entropy_coefficient().item() == pytest.approx(0.01)
    model.save(tmp_path / "model.zip")
    loaded = DiscreteSAC.load(tmp_path / "model.zip")
    assert loaded.ent_coef == ExponentialSchedule(0.4, 0.01, 0.5)
    assert loaded.entropy_coefficient().item() == pytest.approx(0.01)
    never = make_sac(ent_coef=lambda remaining: 0.0).learn(30)
    assert never.entropy_coefficient().item() == 0.0


def test_the_learning_rate_follows_its_schedule() -> None:
    model = make_sac(learning_rate=lambda remaining: remaining * 1e-2)
    before = model.policy.actor.head.bias.clone()
    model._current_progress_remaining = 0.5
    model.update(random_batch())
    # The first step of Adam moves each parameter by the learning rate.
    moved = (model.policy.actor.head.bias - before).abs()
    torch.testing.assert_close(moved, torch.full((2,), 5e-3), rtol=1e-3, atol=0.0)
    before = model.policy.actor.head.bias.clone()
    model._current_progress_remaining = 0.0
    model.update(random_batch())
    assert torch.equal(model.policy.actor.head.bias, before)


def test_the_target_networks_follow_at_their_interval() -> None:
    model = make_sac(tau=0.25, target_update_interval=3)
    target = model.policy.critic_target.weight
    start = target.clone()
    for _ in range(2):
        model.update(random_batch())
        assert torch.equal(target, start)
    model.update(random_batch())
    torch.testing.assert_close(target, 0.75 * start + 0.25 * model.policy.critic.weight)


def test_the_critics_learn_from_the_target_networks() -> None:
    model = make_sac(ent_coef=0.0)
    batch = random_batch()
    model.update(batch)
    base = model._metrics["target"]
    model = make_sac(ent_coef=0.0)
    with torch.no_grad():
        model.policy.critic_target.bias += 10.0
    model.update(batch)
    torch.testing.assert_close(model._metrics["target"], base + 9.0)  # 0.9 * 10


def test_rewards_and_discounts_make_the_target() -> None:
    model = make_sac(ent_coef=0.0)
    batch = random_batch()._replace(discounts=torch.zeros(8))
    model.update(batch)
    torch.testing.assert_close(model._metrics["target"], batch.rewards)


@pytest.mark.parametrize(
    ("env", "critic"),
    [("gsrl/MaskedGrid-v0", "choices"), ("gsrl/BitMatch-v0", "multilinear"), ("gsrl/FactoredMatch-v0", "network")],
)
def test_the_steps_of_a_window_make_the_target(env: str, critic: str) -> None:
    model = make_sac(
        env,
        n_steps=3,
        n_step_correction=True,
        reward_scale=1.0,
        ent_coef=0.1,
        critics="mean",
        entropy_in_target=True,
        exploration_eps=0.5,
        policy_kwargs={"net_arch": [8], "critic": critic},
    ).learn(60)
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(32)
    assert batch.next_actions is not None
    assert batch.continues is not None
    assert batch.continues.any()
    assert not batch.continues.all()
    masks, taken = batch.next_action_mask, batch.next_actions.unsqueeze(-1)
    if model.masked:
        assert masks is not None
        assert not masks.all()
        assert masks.gather(-1, taken)[batch.continues].all()

    noise = None
    if critic == "network":
        generator = torch.Generator()
        generator.set_state(model.generator.get_state())
        model.estimator.draw_noise(model.actor(batch.observations), generator)
        codec = model.actor.head.codec
        noise = gumbel_noise((32, 3, codec.n, codec.K), generator=generator)
    values, traces, bonuses = [], [], [torch.zeros(32)]
    with torch.no_grad():
        for step in range(3):
            observations = batch.next_observations[:, step]  # type: ignore[index]
            policy = model.actor(observations, None if masks is None else masks[:, step])
            critics = model.critic_target(observations)
            alpha = model.entropy_coefficient()
            values.append(critics.soft_value(policy, alpha, "mean", noise=None if noise is None else noise[:, step]))
            one_hot = torch.zeros_like(policy.logits).scatter(-1, taken[:, step], 1.0)
            shares = (policy.probs * one_hot).sum(-1) * policy.mask.sum(-1)
            bonuses.append((alpha * policy.factor_entropy()).sum(-1))
            traces.append(shares.clamp_max(1.0).prod(-1) * batch.continues[:, step])
    target = values[2]
    for step in (2, 1, 0):
        bracket = (1 - traces[step]) * values[step] + traces[step] * target
        target = batch.rewards[:, step] + bonuses[step] + batch.discounts[:, step] * bracket

    model.update(batch)
    torch.testing.assert_close(model._metrics["target"], target, rtol=1e-4, atol=1e-5)


def test_returns_go_over_several_steps_by_themselves_where_actions_have_one_factor() -> None:
    for env, n_steps in ((CARTPOLE, 3), ("gsrl/BitMatch-v0", 1)):
        model = make_sac(env, n_steps="auto")
        assert model.n_steps == n_steps
        model.n_steps = 5
        model.n_steps = "auto"
        assert model.replay_buffer is not None
        assert model.n_steps == model.replay_buffer.n_steps == n_steps
    with pytest.raises(ValueError, match="n_steps must be an integer of at least 1, but got 'many'"):
        make_sac(n_steps="many")


@pytest.mark.parametrize(
    ("action_space", "critic", "estimator"),
    [
        (spaces.Discrete(3), "auto", "straight-through"),
        (spaces.Discrete(3), "network", "rloo"),
        (spaces.MultiBinary(3), "auto", "rloo"),
        (spaces.MultiDiscrete([2, 3]), "multilinear", "straight-through"),
    ],
)
def test_critics_choose_the_estimator(action_space: spaces.Space, critic: str, estimator: str) -> None:
    model = make_sac(Spaces(action_space), estimator="auto", policy_kwargs={"critic": critic, "net_arch": [8]})
    assert model.estimator.name == estimator


def test_n_step_returns_may_be_left_as_they_are_from_now_on() -> None:
    model = make_sac(n_steps=3, n_step_correction=True).learn(40)
    assert model.replay_buffer is not None
    model.n_step_correction = False
    assert model.replay_buffer.sample(8).next_actions is None
    model.learn(20, reset_num_timesteps=False)
    model.n_step_correction = True
    assert model.replay_buffer.sample(8).rewards.shape == (8, 3)
    model.learn(20, reset_num_timesteps=False)
    assert model._n_updates == 60


# How many updates


def test_updates_after_each_episode() -> None:
    model = make_sac(train_freq=(1, "episode"), gradient_steps=-1, learning_starts=0)
    model.learn(40)
    # As many updates as steps, those of whole episodes.
    assert model._n_updates == model.num_timesteps >= 40


@pytest.mark.parametrize(("gradient_steps", "expected"), [(1, 40), (3, 120), (-1, 80)])
def test_the_number_of_updates(gradient_steps: int, expected: int) -> None:
    model = make_sac(train_freq=2, gradient_steps=gradient_steps, learning_starts=0).learn(80)
    assert model._n_updates == expected


# Estimators


class Doubled(Estimator):
    """The exact expectation, twice: a stranger's estimator."""

    name = "doubled"
    biased = True
    source = "this test"

    def calls(self, n: int, K: int) -> int:
        return K**n

    def _expectation(self, policy: FactoredCategorical, f: Any, noise: Any) -> Tensor:
        support = policy.enumerate_support()
        return 2 * (policy.log_prob(support).exp() * f(support)).sum(0)


def test_a_custom_estimator(tmp_path: Path) -> None:
    model = make_sac(estimator=Doubled())
    exact = make_sac(estimator="exact")
    for agent in (model, exact):
        agent.update(random_batch())
    torch.testing.assert_close(model._metrics["expected_q"], 2 * exact._metrics["expected_q"])
    with pytest.warns(UserWarning, match="estimator"):
        model.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r'custom_objects=\{"estimator"'):
        DiscreteSAC.load(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", custom_objects={"estimator": Doubled()})
    assert_same_agent(model, loaded)


def test_a_learned_temperature_is_trained_and_saved(tmp_path: Path) -> None:
    model = make_sac(estimator=GumbelSoftmax(LearnedTemperature(1.0, 0.1)), learning_rate=1e-2, ent_coef="auto")
    assert model.estimator.temperature().item() == pytest.approx(1.0)  # type: ignore[operator, union-attr]
    for _ in range(20):
        model.update(random_batch())
    trained = model.estimator.temperature().item()  # type: ignore[operator, union-attr]
    assert abs(trained - 1.0) > 0.01
    assert set(model.learner.gradient_norms()) == {"actor", "critic", "entropy_coefficient", "estimator"}
    model.save(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model")
    assert loaded.estimator.temperature().item() == pytest.approx(trained, abs=1e-6)  # type: ignore[operator, union-attr]
    model.update(random_batch())
    loaded.update(random_batch())
    assert same(parameters(model), parameters(loaded))


def test_a_schedule_advances_once_an_update() -> None:
    model = make_sac(estimator=STGumbel(ExponentialTemperature(1.0, 0.25, 10)))
    temperature = model.estimator.temperature
    assert isinstance(temperature, ExponentialTemperature)
    for _ in range(5):
        model.update(random_batch())
    assert temperature().item() == pytest.approx(0.5)  # half of the way down, on a logarithmic scale
    model.predict(OBSERVATIONS)
    model.predict(OBSERVATIONS, deterministic=True)
    assert model.env is not None
    evaluate_policy(model, model.env, n_eval_episodes=1, deterministic=False)
    assert temperature().item() == pytest.approx(0.5)
    model.update(random_batch())
    assert temperature().item() == pytest.approx(0.25**0.6)


def test_the_running_mean_advances_once_an_update() -> None:
    model = make_sac(estimator=make_estimator("reinforce", baseline="running-mean"))
    for count in range(1, 4):
        model.update(random_batch())
        assert model.estimator.weight.item() == pytest.approx(1 - 0.99**count)  # type: ignore[operator, union-attr]


# Arguments


@pytest.mark.parametrize(
    ("ent_coef", "value", "learned"), [("auto", 1.0, True), ("auto_0.1", 0.1, True), (0.2, 0.2, False), (0, 0.0, False)]
)
def test_the_notation_of_the_entropy_coefficient(ent_coef: Any, value: float, learned: bool) -> None:
    model = make_sac(ent_coef=ent_coef)
    assert model.entropy_coefficient().item() == pytest.approx(value)
    assert model.entropy_coefficient.learned is learned
    for _ in range(3):
        model.update(random_batch())
    assert (model.entropy_coefficient().item() != pytest.approx(value, rel=1e-6)) is learned


class PartlyFrozen(BaseFeaturesExtractor):
    """Features of a frozen layer, a pretrained one in earnest, and a trained one."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)
        self.frozen = nn.Linear(4, 5).requires_grad_(False)
        self.trained = nn.Linear(5, 3)

    def forward(self, observations: Tensor) -> Tensor:
        return self.trained(torch.tanh(self.frozen(observations)))


def test_frozen_features_stay_and_the_rest_is_trained() -> None:
    model = make_sac(policy_kwargs={"net_arch": [8], "features_extractor_class": PartlyFrozen})
    before = copy.deepcopy(model.policy.critic.features_extractor)
    model.learn(30)
    after, target = model.policy.critic.features_extractor, model.policy.critic_target.features_extractor
    assert torch.equal(after.frozen.weight, before.frozen.weight)
    assert torch.equal(target.frozen.weight, before.frozen.weight)
    assert not torch.equal(after.trained.weight, before.trained.weight)
    assert not torch.equal(target.trained.weight, before.trained.weight)


def test_parameters_that_moved_are_noticed() -> None:
    model, same = make_sac(), make_sac()
    model.policy.critic.weight.data = model.policy.critic.weight.data.clone()
    model.policy.critic_target.bias.data = model.policy.critic_target.bias.data.clone()
    for each in (model, same):
        each.update(random_batch())
        each.update(random_batch())
    for moved, expected in zip(model.policy.parameters(), same.policy.parameters(), strict=True):
        assert torch.equal(moved, expected)
    model.policy.critic.weight.data = model.policy.critic.weight.data.double()
    with pytest.raises(RuntimeError, match="moved or replaced"):
        model.update(random_batch())


def test_batches_of_any_size() -> None:
    model = make_sac()
    for size in (8, 3, 1):
        model.update(random_batch(size))


def test_an_unordered_set_where_a_state_allows_fewer_actions_than_it_draws() -> None:
    # In the first state of an episode one action is legal, in the second two, in the third three.
    model = make_sac(OnlyTheMethod(), estimator=make_estimator("unordered-set", num_samples=3))
    model.learn(120)
    assert model.masked
    assert all(torch.as_tensor(value).isfinite().all() for value in parameters(model))
    exact = make_sac(CARTPOLE, estimator="exact")
    whole = make_sac(CARTPOLE, estimator="unordered-set")  # 10 of 2
    for agent in (exact, whole):
        agent.update(random_batch())
    assert whole.learner.gradient_norms()["actor"].item() == pytest.approx(
        exact.learner.gradient_norms()["actor"].item(), rel=1e-4
    )


def test_an_estimator_that_does_not_fit_says_so_at_once() -> None:
    with pytest.raises(ValueError, match="is for binary factors, K = 2, but got K = 3"):
        DiscreteSAC("MlpPolicy", "Acrobot-v1", estimator="disarm")


@pytest.mark.parametrize("env", ["CartPole-v1", "gsrl/BitMatch-v0"])
def test_relax_is_made_for_the_shape_of_the_actions(env: str, tmp_path: Path) -> None:
    model = make_sac(env, estimator="relax").learn(60)
    codec = model.policy.actor.head.codec
    settings = model.estimator.settings
    assert (settings["n"], settings["K"]) == (codec.n, codec.K)
    assert model.estimator.control.network[-1].weight.abs().sum() > 0  # type: ignore[union-attr, index]  # it learns
    model.save(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", env=gym.make(env))
    assert loaded.estimator.settings == settings
    for name, tensor in model.estimator.state_dict().items():
        assert torch.equal(loaded.estimator.state_dict()[name], tensor)
