"""Environments whose episodes need not end: evaluations, rollouts, updates and the command line come to their end."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack

import run_agent
from gsrl import DiscreteSAC, Population, Reinforce
from gsrl.callbacks import EvalCallback
from gsrl.evaluation import evaluate_policy
from gsrl.replay import Rollout
from gsrl.runs.environments import make_environments
from gsrl.vec_env import GymnasiumVecEnv, has_time_limit

LONGEST = 20
NET: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu"}


class Sometimes(gym.Env):
    """Episodes end after five steps, but for every ``period``-th, which never does. Each step of the n-th earns n."""

    observation_space = spaces.Box(0, 1e6, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, period: int = 1) -> None:
        self.period, self.episode = period, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: int) -> Any:
        self.time += 1
        ends = self.time == 5 and self.episode % self.period > 0
        return self._observation(), float(self.episode), ends, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.episode, self.time], np.float32)


class Idle:
    """Takes action 0."""

    def predict(self, observation: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return np.zeros(len(observation), np.int64), None


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("evaluation", "algorithms.reinforce", "algorithms.discrete_sac", "population.base"):
        monkeypatch.setattr(f"gsrl.{module}.LONGEST_EPISODE", LONGEST)
    monkeypatch.setattr("gsrl.runs.environments.LONGEST_EPISODE", LONGEST)


def test_a_time_limit_is_seen_through_wrappers_and_processes() -> None:
    def limited() -> gym.Env:
        return Monitor(TimeLimit(Sometimes(), 30))

    for make, expected in ((limited, True), (Sometimes, False)):
        for env in (
            DummyVecEnv([make, make]),
            VecFrameStack(SubprocVecEnv([make, make], start_method="fork"), 2),
            GymnasiumVecEnv(SyncVectorEnv([make, make])),
        ):
            assert has_time_limit(env) is expected
            env.close()
    assert has_time_limit(GymnasiumVecEnv(gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")))
    assert not has_time_limit(DummyVecEnv([Sometimes, limited]))


@pytest.mark.parametrize("bound", [None, 12])
@pytest.mark.parametrize("monitored", [False, True])
def test_an_evaluation_cuts_episodes_off_and_says_so(bound: int | None, monitored: bool) -> None:
    env = Monitor(Sometimes(2)) if monitored else Sometimes(2)
    with pytest.warns(UserWarning, match=f"2 episodes of the evaluation had not ended after {bound or LONGEST} steps"):
        returns, lengths = evaluate_policy(  # type: ignore[misc]
            Idle(), env, 5, return_episode_rewards=True, warn=False, max_episode_steps=bound
        )
    steps = bound or LONGEST
    assert lengths == [5, steps, 5, steps, 5]
    assert returns == [5.0, 2.0 * steps, 15.0, 4.0 * steps, 25.0]


@pytest.mark.parametrize("make", [DummyVecEnv, lambda fns: SubprocVecEnv(fns, start_method="fork")])
def test_who_is_cut_off_waits_for_the_others(make: Callable[..., Any]) -> None:
    # The first environment is cut off in its second and fourth episode; until then the other one has ended four.
    env = make([lambda: Sometimes(2), lambda: Sometimes(10**6)])
    with pytest.warns(UserWarning, match="had not ended"):
        _, lengths = evaluate_policy(Idle(), env, 9, return_episode_rewards=True, warn=False)  # type: ignore[misc]
    assert sorted(lengths) == [5] * 7 + [LONGEST] * 2
    env.close()


def test_a_time_limit_is_the_environments_own_affair() -> None:
    with warnings.catch_warnings(action="error"):
        env = Monitor(TimeLimit(Sometimes(), 30))
        assert evaluate_policy(Idle(), env, 2, return_episode_rewards=True)[1] == [30, 30]
    with pytest.raises(ValueError, match="max_episode_steps must be at least 1, or None, but got 0"):
        evaluate_policy(Idle(), env, 2, max_episode_steps=0)
    with pytest.raises(ValueError, match="n_eval_episodes must be at least 1, but got 0"):
        evaluate_policy(Idle(), env, 0)


@pytest.mark.filterwarnings("ignore:.*had not ended")
def test_an_evaluation_along_the_way_ends() -> None:
    model = DiscreteSAC("MlpPolicy", Monitor(Sometimes()), buffer_size=100, **NET)
    callback = EvalCallback(Monitor(Sometimes()), eval_freq=10, n_eval_episodes=2, verbose=0, max_episode_steps=7)
    model.learn(10, callback)
    assert callback.last_mean_reward == (7 * 1 + 7 * 2) / 2


@pytest.mark.filterwarnings("ignore:.*had not ended")
def test_an_evaluation_of_a_population_ends() -> None:
    population = Population(DiscreteSAC, lambda: Sometimes(2), [0, 1], buffer_size=100, **NET).learn(4)
    returns = population.evaluate(6, n_envs=2)
    expected = sorted([5.0, 5.0, 2.0 * LONGEST, 2.0 * LONGEST, 15.0, 15.0])
    assert [sorted(row) for row in returns.tolist()] == [expected, expected]
    assert population.evaluate(1, n_envs=1, max_episode_steps=3).tolist() == [[3.0], [3.0]]


class Recorded(Reinforce):
    """Keeps the rollouts it learns from."""

    def train(self, rollout: Rollout) -> None:
        self.__dict__.setdefault("rollouts", []).append(rollout)
        super().train(rollout)


@pytest.mark.parametrize("baseline", ["none", "running-mean", "value", "leave-one-out", "relax"])
def test_reinforce_cuts_a_rollout_and_returns(baseline: Any) -> None:
    model = Recorded("MlpPolicy", Sometimes(2), n_episodes=4, baseline=baseline, gamma=0.5, seed=0, **NET)
    with pytest.warns(UserWarning, match=f"an episode has not ended after {LONGEST} steps"):
        model.learn(2 * (5 + LONGEST))
    assert model.num_timesteps == 2 * (5 + LONGEST)
    assert len(model.rollouts) == 2  # type: ignore[attr-defined]
    for number, rollout in enumerate(model.rollouts):  # type: ignore[attr-defined]
        assert rollout.episode.bincount().tolist() == [5, LONGEST]
        assert rollout.truncated.tolist() == [False, True]
        assert rollout.final_observations.tolist() == [[1 + 2 * number, 5], [2 + 2 * number, LONGEST]]
        assert rollout.observations[0].tolist() == [1 + 2 * number, 0]  # a new episode
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    if model.policy.critic is not None:
        returns, _ = model._returns_and_baselines(rollout)
        with torch.no_grad():
            expected = rollout.rewards[-1] + 0.5 * model.policy.critic(rollout.final_observations)[-1]
        assert torch.isclose(returns[-1], expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:an episode has not ended")
def test_a_rollout_of_several_environments_is_cut_in_all() -> None:
    env = DummyVecEnv([Sometimes, lambda: Sometimes(10**6)])
    model = Recorded("MlpPolicy", env, n_episodes=10, seed=0, **NET).learn(1)
    (rollout,) = model.rollouts  # type: ignore[attr-defined]
    assert rollout.episode.bincount().tolist() == [LONGEST, 5, 5, 5, 5]
    assert rollout.truncated.tolist() == [True, False, False, False, False]


@pytest.mark.filterwarnings("ignore:an episode has not ended")
def test_members_cut_rollouts_as_agents_do() -> None:
    settings: dict[str, Any] = {"n_episodes": 4, "baseline": "none", **NET}
    steps = 3 * (5 + LONGEST)
    population = Population(Recorded, lambda: Sometimes(2), [0, 1], **settings).learn(steps)
    for index in range(2):
        alone = Recorded("MlpPolicy", Sometimes(2), seed=index, **settings).learn(steps)
        assert len(population._members[index].rollouts) == len(alone.rollouts) == 3  # type: ignore[attr-defined]
        for name, value in population.member(index).policy.state_dict().items():
            assert torch.equal(value, alone.policy.state_dict()[name])


def test_updates_do_not_wait_for_ever_for_an_episode() -> None:
    model = DiscreteSAC(
        "MlpPolicy", Sometimes(), train_freq=(1, "episode"), gradient_steps=1, learning_starts=0, batch_size=4, **NET
    )
    with pytest.warns(UserWarning, match=f"train_freq counts episodes, but {LONGEST} steps went by"):
        model.learn(3 * LONGEST)
    assert model.num_timesteps == 3 * LONGEST
    assert model._n_updates == 3


# The command line


@pytest.mark.filterwarnings("ignore:CliffWalking-v1 has no time limit")
def test_the_command_line_bounds_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--agent", "gumbel-sac", "--env", "CliffWalking-v1", "--steps", "60", "--eval-every", "30"]
    options = ["--net-arch", "8", "--buffer-size", "100", "--batch-size", "4", "--eval-episodes", "2"]
    run = tmp_path / "run"
    assert run_agent.main([*command, *options, "--max-episode-steps", "9", "--out", str(run)]) == 0
    assert json.loads((run / "config.json").read_text())["max_episode_steps"] == 9
    assert json.loads((run / "summary.json").read_text())["eval_return_mean"] <= -9
    capsys.readouterr()
    assert run_agent.main(["eval", str(run), "--episodes", "2", "--max-episode-steps", "4", "--json"]) == 0
    for episode_return in json.loads(capsys.readouterr().out)["returns"]:  # four steps cost 1 each, a fall 99 more
        assert -400 <= episode_return <= -4
        assert (episode_return + 4) % 99 == 0
    assert run_agent.main([*command, *options, "--max-episode-steps", "0", "--out", str(tmp_path / "no")]) == 2
    assert "--max-episode-steps must be at least 1, but got 0" in capsys.readouterr().err


def test_environments_of_the_command_line_end_their_episodes() -> None:
    env = make_environments("CliffWalking-v1", 1, 0)
    env.reset()
    with pytest.warns(UserWarning, match=f"CliffWalking-v1 has no time limit: an episode was cut off after {LONGEST}"):
        infos = [env.step(np.array([0]))[3][0] for _ in range(LONGEST)]
    assert [info["episode"]["l"] for info in infos if "episode" in info] == [LONGEST]
    env = make_environments("CartPole-v1", 1, 0, max_episode_steps=3)
    env.reset()
    infos = [env.step(np.array([step % 2]))[3][0] for step in range(3)]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, False, True]


def test_a_second_sigterm_ends_a_process_at_once() -> None:
    code = (
        "import os, signal\n"
        "from gsrl.runs.interruption import Stop\n"
        "stop = Stop()\n"
        "with stop.listening():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(stop.requested, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('never')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(run_agent.__file__).parent, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -15
    assert done.stdout == "True\n"
