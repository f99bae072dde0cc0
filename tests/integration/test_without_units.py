"""Learning without units: rewards times a power of two change nothing, and what is normalised is part of the agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import envs  # noqa: F401
from envs.scaled import ScaleReward
from gsrl import DiscreteSAC, Population

SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "learning_starts": 50,
    "batch_size": 16,
    "n_steps": 3,
    "n_step_correction": True,
    "reward_scale": "auto",
    "ent_coef": "relative",
    "estimator": "st-gumbel",
    "critics": "mean",
    "seed": 3,
}
POLICY = {"net_arch": [16, 16], "layer_norm": True, "normalize_observations": True}


def make(env: Any, **settings: Any) -> DiscreteSAC:
    policy_kwargs = POLICY | settings.pop("policy_kwargs", {})
    policy = "MultiInputPolicy" if isinstance(getattr(env, "observation_space", None), spaces.Dict) else "MlpPolicy"
    return DiscreteSAC(policy, env, policy_kwargs=policy_kwargs, device="cpu", **(SETTINGS | settings))


def parameters(model: DiscreteSAC) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in model.policy.state_dict().values()])


def check_same_statistics(one: Any, other: Any) -> None:
    states = (agent._normalization.state_dict() for agent in (one, other))
    for array, expected in zip(*(state.values() for state in states), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("power", [-20, 20])
@pytest.mark.parametrize(
    ("env_id", "critic"),
    [
        ("CartPole-v1", "auto"),
        ("gsrl/FactoredMatch-v0", "network"),
        ("gsrl/FactoredMatch-v0", "multilinear"),
        ("gsrl/MaskedGrid-v0", "auto"),
    ],
)
def test_rewards_times_a_power_of_two_change_no_bit(env_id: str, critic: str, power: int) -> None:
    agents = []
    for factor in (1.0, 2.0**power):
        agents.append(make(ScaleReward(gym.make(env_id), factor), policy_kwargs={"critic": critic}))
        agents[-1].learn(180)
    plain, scaled = agents
    assert np.array_equal(plain.replay_buffer.actions, scaled.replay_buffer.actions)
    assert not np.array_equal(plain.replay_buffer.rewards, scaled.replay_buffer.rewards)
    assert torch.equal(parameters(plain), parameters(scaled))


def test_a_member_is_what_it_would_be_alone_and_goes_on_so(tmp_path: Path) -> None:
    settings = {name: value for name, value in SETTINGS.items() if name != "seed"}
    population = Population(
        DiscreteSAC, "CartPole-v1", seeds=[3, 4, 5], policy_kwargs=POLICY, device="cpu", **settings
    ).learn(150)
    alone = make("CartPole-v1").learn(150)
    member = population.member(0)
    torch.testing.assert_close(parameters(member), parameters(alone), rtol=0, atol=1e-6)
    check_same_statistics(member, alone)
    population.keep([2, 0])
    population.save(tmp_path / "population.zip")
    loaded = Population.load(tmp_path / "population.zip", DiscreteSAC, "CartPole-v1", device="cpu")
    check_same_statistics(loaded, population)


def test_a_saved_agent_acts_and_goes_on_as_the_one_that_was_not(tmp_path: Path) -> None:
    model = make("CartPole-v1").learn(120)
    model.save(tmp_path / "model", include=["replay_buffer"])
    loaded = DiscreteSAC.load(tmp_path / "model", env=gym.make("CartPole-v1"), device="cpu")
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    actions = [agent.predict(observations, deterministic=True)[0] for agent in (model, loaded)]
    assert np.array_equal(*actions)
    check_same_statistics(model, loaded)
    for agent in (model, loaded):
        agent.set_env(gym.make("CartPole-v1"))
        agent.env.seed(0)
        agent.learn(60, reset_num_timesteps=False)
    assert torch.equal(parameters(model), parameters(loaded))


def test_what_is_normalised_are_numbers_and_the_networks_know_by_what() -> None:
    class Mixed(gym.Env[Any, Any]):
        observation_space = spaces.Dict(
            far=spaces.Box(-1e4, 1e4, (2,), np.float32), colour=spaces.Discrete(3), bits=spaces.MultiBinary(2)
        )
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.observe(), {}

        def observe(self) -> dict[str, Any]:
            far = self.np_random.normal(1000, [1, 50], 2).astype(np.float32)
            return {"far": far, "colour": 1, "bits": np.ones(2, np.int8)}

        def step(self, action: Any) -> Any:
            return self.observe(), 1.0, False, False, {}

    model = make(gym.wrappers.TimeLimit(Mixed(), 20))
    model.learn(100)
    for network in (model.policy.actor, model.policy.critic, model.policy.critic_target):
        assert list(network.normalizers) == ["far"]
        normalizer = network.normalizers["far"]
        assert normalizer.mean.tolist() == pytest.approx([1000, 1000], abs=20)
        assert (1 / normalizer.scale).tolist() == pytest.approx([1, 50], rel=0.3)


def test_normalised_rewards_of_an_environment_are_what_is_counted() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]), norm_reward=True)
    model = make(env)
    model.learn(100)
    assert model._normalization.returns.size().item() < 10  # not the 17 of rewards that are 1


@pytest.mark.parametrize(
    ("name", "values"),
    [("ent_coef", ["relative", 0.1]), ("ent_coef", ["relative", "auto"]), ("reward_scale", ["auto", 1.0])],
)
def test_words_and_numbers_do_not_mix_in_a_population(name: str, values: list[Any]) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number for all members, or the same word"):
        Population(DiscreteSAC, "CartPole-v1", seeds=[0, 1], **{name: values})


@pytest.mark.parametrize("ent_coef", ["relative_0", "relative_-1", "relative_x", "absolute", "relative_nan"])
def test_coefficients_that_are_none_are_refused(ent_coef: str) -> None:
    with pytest.raises(ValueError, match="ent_coef must be 'auto', 'relative'"):
        make("CartPole-v1", ent_coef=ent_coef)


def test_scales_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reward_scale must be 'auto' or a number above 0"):
        make("CartPole-v1", reward_scale="large")
