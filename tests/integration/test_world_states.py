"""Worlds that are brought to where others were, and go on as these do: in arrays, as objects, and not at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from pettingzoo.classic.connect_four.connect_four import raw_env as connect_four

from envs.mpe import ReferenceEnv, SpeakerListenerEnv, SpreadEnv
from envs.switch_riddle import SwitchRiddleEnv
from gsrl import checkpoint
from gsrl.multi_agent import CommWrapper, MultiAgentSAC, ParallelVecEnv, SplitActions, TurnBased
from gsrl.multi_agent.vec_env import WorldStateError
from tests.integration.test_multi_agent_sac import SMALL, parameters


def particles() -> Any:
    return pytest.importorskip("mpe2.simple_reference_v3").parallel_env()


WORLDS: dict[str, Callable[[], Any]] = {
    "arrays": SpeakerListenerEnv,
    "arrays, split": lambda: SplitActions(ReferenceEnv()),
    "arrays, silent": SpreadEnv,
    "particles": particles,
    "riddle": SwitchRiddleEnv,
    "noisy": lambda: CommWrapper(SwitchRiddleEnv(), 3, delay=2, substitution=0.3, erasure=0.2),
    "noisy particles": lambda: CommWrapper(particles(), 3, substitution=0.5),
    "turns": lambda: TurnBased(connect_four()),
}


def play(worlds: ParallelVecEnv, steps: int, rng: np.random.Generator) -> list[Any]:
    seen = []
    for _ in range(steps):
        masks = worlds.joint.masks
        seen.append((tuple(worlds.joint), worlds.step((masks * rng.random(masks.shape)).argmax(-1))))
    return seen


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("steps", [3, 60])  # within the first episode, which began from a seed, and in a later one
def test_worlds_go_on_as_those_whose_state_was_taken(name: str, steps: int, tmp_path: Any) -> None:
    first, second = (ParallelVecEnv(WORLDS[name], 3, (seed,)) for seed in (0, 5))
    first.reset()
    play(first, steps, np.random.default_rng(0))
    checkpoint.save(tmp_path / "worlds.zip", first.state_dict())
    second.load_state_dict(checkpoint.load(tmp_path / "worlds.zip"))
    one, other = (play(each, 60, np.random.default_rng(1)) for each in (first, second))
    np.testing.assert_equal(one, other)


class Moody(SpreadEnv):
    """Its observations depend on how many episodes there were."""

    made = 0

    def batched(self, n_envs: int) -> Any:
        return super().batched(n_envs) if n_envs == 1 else None

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        type(self).made += 1
        self.mood = self.made
        return super().reset(seed, options)

    def _named(self, joint: Any) -> Any:
        return {agent: observation + self.mood for agent, observation in super()._named(joint).items()}


def test_worlds_that_come_to_another_point_are_found_out() -> None:
    worlds = ParallelVecEnv(Moody, 2)
    with pytest.raises(RuntimeError, match="reset must be called before state_dict"):
        worlds.state_dict()
    worlds.reset()
    with pytest.raises(WorldStateError, match="they show other observations after the same steps"):
        worlds.load_state_dict(worlds.state_dict())
    episodes = worlds.state_dict()["worlds"]["episodes"]
    episodes[1]["actions"] = [np.zeros((3, 1), np.int64)] * 30
    with pytest.raises(WorldStateError, match="ValueError: the episode of world 1 ended after 25"):
        worlds.load_state_dict({**worlds.state_dict(), "worlds": {"episodes": episodes}})


def test_a_team_whose_worlds_are_lost_begins_new_episodes() -> None:
    team = MultiAgentSAC(Moody, (0,), **SMALL).learn(60)
    state = team.state_dict()
    with pytest.warns(UserWarning, match="new episodes begin, as worlds could not be brought to where they were"):
        team.load_state_dict(state)
    team.learn(20)
    assert team.steps == 80


@pytest.mark.parametrize("name", ["arrays, split", "noisy"])
def test_taking_the_state_changes_nothing(name: str) -> None:
    alone, saved = (MultiAgentSAC(WORLDS[name], (0, 1), **SMALL).learn(100) for _ in range(2))
    state = saved.state_dict()
    for each in (alone, saved):
        each.learn(60)
    with warnings.catch_warnings(action="error"):
        loaded = MultiAgentSAC(WORLDS[name], (0, 1), **SMALL)
        loaded.load_state_dict(state)
    loaded.learn(60)
    for other in (saved, loaded):
        np.testing.assert_array_equal(other.replay.columns["observations"], alone.replay.columns["observations"])
        assert all(np.array_equal(parameters(other, i), parameters(alone, i)) for i in range(2))


def test_a_team_by_itself_does_what_it_does_among_others() -> None:
    teams = MultiAgentSAC(SpeakerListenerEnv, (3, 4), **SMALL).learn(80)
    alone = MultiAgentSAC(SpeakerListenerEnv, (4,), **SMALL)
    alone.load_state_dict(teams.state_of_one(teams.state_dict(), 1))
    np.testing.assert_array_equal(alone.play(0, 10, 0), teams.play(1, 10, 0))
    assert (alone.steps, len(alone.replay)) == (teams.steps, 0)
    assert alone.learn(40).steps == teams.steps + 40
