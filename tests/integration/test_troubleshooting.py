"""Causes of an agent that does not learn, each on a run that fails for that reason, and none on one that learns."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C

import envs  # noqa: F401
from gsrl import DiscreteSAC, Reinforce
from gsrl.troubleshooting import CAUSES, Signs, TroubleshootingCallback, diagnose, have_improved


class Task(gym.Env[np.ndarray, np.int64]):
    """Ten steps, or none that is the last; a reward that a subclass may change."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space: spaces.Discrete = spaces.Discrete(3)
    length: float = 10

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), self.info()

    def observe(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def info(self) -> dict[str, Any]:
        return {}

    def reward(self, action: int) -> float:
        return float(self.np_random.normal())

    def step(self, action: np.int64) -> Any:
        self.steps += 1
        return self.observe(), self.reward(int(action)), self.steps >= self.length, False, self.info()


class WithoutRewards(Task):
    def reward(self, action: int) -> float:
        return 0.0


class WithoutEnd(Task):
    length = math.inf


class WithoutChoice(Task):
    def info(self) -> dict[str, Any]:
        return {"action_mask": np.arange(3) == 1}


class Bandit(Task):
    length = 1

    def reward(self, action: int) -> float:
        return float(action == 2)


def look(
    env: gym.Env[Any, Any], steps: int = 400, **settings: Any
) -> tuple[DiscreteSAC, TroubleshootingCallback, list[str]]:
    """An agent after a short training, with what a look at its end found, and the warnings."""
    defaults: dict[str, Any] = {
        "learning_rate": 1e-2,
        "learning_starts": 20,
        "batch_size": 32,
        "policy_kwargs": {"net_arch": [8]},
        "estimator": "exact",
        "gamma": 0.9,
        "seed": 0,
        "device": "cpu",
    }
    callback = TroubleshootingCallback(every=steps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = DiscreteSAC("MlpPolicy", env, **(defaults | settings)).learn(steps, callback)
    return model, callback, [str(warning.message) for warning in caught if "steps" in str(warning.message)]


@pytest.mark.parametrize(
    ("env", "settings", "expected"),
    [
        (WithoutEnd(), {}, ["no_episode_ends"]),
        (WithoutRewards(), {"ent_coef": 0.1}, ["no_rewards"]),
        (WithoutChoice(), {}, ["one_choice"]),
        (Bandit(), {"ent_coef": 100.0}, ["uniform_policy"]),
        (Task(), {"ent_coef": 0.0, "learning_rate": 0.1}, ["certain_policy"]),
        (Task(), {"ent_coef": 0.3}, ["flat_returns"]),
        (Bandit(), {"ent_coef": "relative", "reward_scale": "auto"}, []),
    ],
)
def test_each_cause_is_told_from_the_others(
    env: gym.Env[Any, Any], settings: dict[str, Any], expected: list[str]
) -> None:
    _, callback, messages = look(env, **settings)
    found = [cause.name for cause in callback.causes]
    if "no_rewards" in expected or "one_choice" in expected:  # which explain a policy as well
        found = [name for name in found if name in expected]
    assert found == expected
    assert all(any(CAUSES[name].seen in message for message in messages) for name in expected)


def test_values_that_feed_on_themselves() -> None:
    model, callback, _ = look(Bandit(), reward_scale=4.0)
    assert not math.isnan(callback.signs().value)
    with torch.no_grad():
        model.policy.critic.bias.add_(400.0)  # 100 in units of reward, where 10 is the most there is
    assert callback.signs().value == pytest.approx(100, abs=5)
    assert CAUSES["values_without_returns"] in diagnose(callback.signs())


def test_the_log_says_of_every_cause_whether_it_is_there(tmp_path: Any) -> None:
    from stable_baselines3.common.logger import configure

    model = DiscreteSAC("MlpPolicy", WithoutEnd(), learning_starts=20, batch_size=8, seed=0, device="cpu")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    with pytest.warns(UserWarning, match=r"after 40 steps no episode has ended\. Give the environment a time limit"):
        model.learn(40, TroubleshootingCallback(every=40))
    assert {f"troubleshooting/{name}" for name in CAUSES} <= model.logger.name_to_value.keys()
    assert model.logger.name_to_value["troubleshooting/no_episode_ends"] == 1


def test_the_training_is_not_disturbed() -> None:
    alone = DiscreteSAC("MlpPolicy", Task(), learning_starts=20, batch_size=8, seed=0, device="cpu").learn(60)
    looked = DiscreteSAC("MlpPolicy", Task(), learning_starts=20, batch_size=8, seed=0, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        looked.learn(60, TroubleshootingCallback(every=10))
    for one, other in zip(alone.policy.parameters(), looked.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_reinforce_is_looked_at_too() -> None:
    callback = TroubleshootingCallback(every=160)
    with pytest.warns(UserWarning, match="all rewards were equal"):
        Reinforce("MlpPolicy", WithoutRewards(), n_episodes=4, seed=0, device="cpu").learn(160, callback)
    assert CAUSES["no_rewards"] in callback.causes
    assert 0.9 < callback.signs().entropy_share <= 1


def test_agents_of_others_are_refused() -> None:
    with pytest.raises(TypeError, match=r"model must be a gsrl\.DiscreteSAC or a gsrl\.Reinforce, but got A2C"):
        A2C("MlpPolicy", "CartPole-v1").learn(1, TroubleshootingCallback())


@pytest.mark.parametrize("name", ["every", "states"])
def test_arguments_out_of_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, but got 0"):
        TroubleshootingCallback(**{name: 0})


def test_improvement_is_against_the_beginning_and_its_noise() -> None:
    noise = np.random.default_rng(0).normal(size=300)
    assert not have_improved(noise)
    assert have_improved(noise + np.arange(300) / 50)
    assert not have_improved(noise - np.arange(300) / 50)
    assert have_improved(np.concatenate([noise[:20], noise[20:] + 3]))  # early, and for good
    assert not have_improved([1.0, 2.0, 3.0])


def test_nothing_is_said_before_there_are_enough_episodes() -> None:
    signs = Signs(steps=50, returns=[1.0] * 5, returns_differ=True, entropy_share=1.0)
    assert diagnose(signs) == []
    assert diagnose(signs._replace(returns=[1.0] * 50)) == [CAUSES["uniform_policy"]]
