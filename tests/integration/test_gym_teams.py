"""Gymnasium's teams as Parallel environments: how an episode ends, and the interface."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("pettingzoo")

from pettingzoo.test import parallel_api_test, parallel_seed_test

from envs.gym_teams import GymTeamEnv
from gsrl.multi_agent import MultiAgentSAC, ParallelVecEnv


class Foragers(gym.Env[Any, Any]):
    """Both earn what they choose; it ends after four steps, or when both choose 2."""

    def __init__(self) -> None:
        self.observation_space: Any = spaces.Tuple([spaces.Box(0, 9, (2,)) for _ in range(2)])
        self.action_space: Any = spaces.Tuple([spaces.Discrete(3) for _ in range(2)])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.seen(), {}

    def seen(self) -> Any:
        return tuple(np.array([i, self.time], np.float32) for i in range(2))

    def step(self, action: Any) -> Any:
        self.time += 1
        return self.seen(), list(action), self.time == 4 or action == (2, 2), False, {}


@pytest.fixture(autouse=True)
def registered() -> Any:
    make: Any = Foragers
    gym.register("Foragers-v0", make, disable_env_checker=True)
    yield
    del gym.registry["Foragers-v0"]


def test_agents_are_truncated_at_the_limit_and_terminate_before() -> None:
    worlds = ParallelVecEnv(lambda: GymTeamEnv("Foragers-v0", time_limit=4), 1)
    observations, _, active = worlds.reset()
    assert observations.tolist() == [[[0, 0], [1, 0]]]
    assert active.all()
    for time in range(1, 5):
        after, rewards, terminated, truncated = worlds.step(np.array([[[2], [1]]]))
        assert (rewards.tolist(), after.observations[0, :, 1].tolist()) == ([[2, 1]], [time, time])
        assert truncated.all() == truncated.any() == (time == 4)
        assert not terminated.any()
    _, _, terminated, truncated = worlds.step(np.array([[[2], [2]]]))
    assert terminated.all()
    assert not truncated.any()


def test_the_parallel_api(capsys: pytest.CaptureFixture[str]) -> None:
    parallel_api_test(GymTeamEnv("Foragers-v0", time_limit=4), num_cycles=20)
    assert "Passed" in capsys.readouterr().out
    parallel_seed_test(lambda: GymTeamEnv("Foragers-v0", time_limit=4), num_cycles=9)


def test_other_spaces_are_refused() -> None:
    with pytest.raises(TypeError, match="spaces of CartPole-v1 must be Tuple, one part for each agent"):
        GymTeamEnv("CartPole-v1", time_limit=500)


@pytest.mark.parametrize("name", ["lbforaging:Foraging-8x8-2p-2f-coop-v3", "rware:rware-tiny-2ag-v2"])
def test_teams_forage_and_carry(name: str) -> None:
    pytest.importorskip(name.partition(":")[0])
    settings: dict[str, Any] = {"n_envs": 4, "batch_size": 16, "learning_starts": 40, "hidden": [8]}
    team = MultiAgentSAC(lambda: GymTeamEnv(name, time_limit=50), **settings).learn(240)
    assert np.isfinite(team.evaluate(2)).all()
