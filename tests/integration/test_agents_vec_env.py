"""Agents of worlds as environments of Stable-Baselines3, and PPO in them by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from pettingzoo.classic.connect_four.connect_four import raw_env as connect_four

from envs.mpe import ReferenceEnv, SpeakerListenerEnv, SpreadEnv
from gsrl.multi_agent import AgentsVecEnv, ParallelVecEnv, SplitActions, TurnBased
from gsrl.runs.trainees import AlgorithmTrainee
from tests.common.command_line import assert_same_parameters, exit_code, read_json, rows


def test_agents_see_and_do_what_they_do_in_their_worlds() -> None:
    """Beside the same worlds: padded observations with the number of the agent, rewards, and ends of episodes."""
    env, worlds = AgentsVecEnv(SpeakerListenerEnv, 3, seed=5), ParallelVecEnv(SpeakerListenerEnv, 3, (5,))
    joint = worlds.reset()
    observations: Any = env.reset()
    assert (env.num_envs, env.observation_space.shape, env.action_space.n) == (6, (11 + 2,), 5)  # type: ignore[attr-defined]
    rng, returns = np.random.default_rng(0), np.zeros(6)
    for step in range(1, 27):
        np.testing.assert_array_equal(observations[:, :11], joint.observations.reshape(6, 11))
        np.testing.assert_array_equal(observations[:, 11:], np.tile(np.eye(2), (3, 1)))
        actions = rng.integers(5, size=6)
        observations, rewards, dones, infos = env.step(actions)
        meant = actions.reshape(3, 2, 1).copy()
        meant[:, 0] %= 3  # the speaker has three words
        after, expected, *_ = worlds.step(meant)
        joint = worlds.joint
        np.testing.assert_array_equal(rewards, expected.astype(np.float32).ravel())
        returns += expected.ravel()
        assert dones.all() == dones.any() == (step == 25)
        if step == 25:
            assert [info["episode"]["r"] for info in infos] == pytest.approx(returns.tolist())
            assert all(info["TimeLimit.truncated"] and info["episode"]["l"] == 25 for info in infos)
            np.testing.assert_array_equal(infos[1]["terminal_observation"][:11], after.observations[0, 1])


def test_several_factors_and_masks() -> None:
    env = AgentsVecEnv(lambda: SplitActions(ReferenceEnv()), 2)
    env.reset()
    env.step_async(np.array([[4, 9], [7, 3], [0, 0], [9, 9]]))  # there are five moves and ten words
    assert env._choices.tolist() == [[[4, 9], [2, 3]], [[0, 0], [4, 9]]]


def test_agents_that_wait_are_refused() -> None:
    env = AgentsVecEnv(lambda: TurnBased(connect_four()), 1)
    env.reset()
    with pytest.raises(ValueError, match="env must let all agents act at every step, but player_1 of world 0 does not"):
        env.step(np.zeros(2, np.int64))


OPTIONS = ["--agent", "ippo", "--env", "mpe2/simple_spread_v3", "--steps", "600", "--eval-every", "200", "--n-steps"]
OPTIONS += ["20", "--n-envs", "2", "--batch-size", "40", "--net-arch", "8", "--eval-episodes", "6"]


def test_a_run_of_ppo_goes_on_as_one_that_was_not_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert exit_code(["train", *OPTIONS, "--out", str(whole)]) == 0
    assert read_json(whole / "summary.json")["steps"] == 600
    learn = AlgorithmTrainee.learn

    def interrupted(trainee: Any, steps: int) -> Any:
        episodes = learn(trainee, steps)
        if trainee.steps >= 360:  # in the middle of an episode
            raise KeyboardInterrupt
        return episodes

    with monkeypatch.context() as patch:
        patch.setattr(AlgorithmTrainee, "learn", interrupted)
        assert exit_code(["train", *OPTIONS, "--out", str(killed), "--checkpoint-seconds", "0"]) == 130
    assert exit_code(["train", "--resume", str(killed)]) == 0
    assert_same_parameters(whole / "model.zip", killed / "model.zip")
    assert rows(whole / "evaluations.csv") == rows(killed / "evaluations.csv")
    assert exit_code(["eval", str(whole), "--episodes", "6"]) == 0
    assert exit_code(["record", str(whole)]) == 2
    assert exit_code(["train", *OPTIONS, "--max-episode-steps", "9", "--out", str(tmp_path / "short")]) == 2


def test_spread_has_one_number_for_each_agent() -> None:
    env = AgentsVecEnv(lambda: SpreadEnv(2), 1)
    assert env.reset()[:, -2:].tolist() == [[1, 0], [0, 1]]
