"""Teams that learn: values in closed form, and a speaker and a listener that find a language."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("pettingzoo")

from envs.mpe import SpeakerListenerEnv
from gsrl.multi_agent import MultiAgentSAC

GAMMA = 0.9


class TwoSteps:
    """First both get 1 if both choose 1; then each gets 2 for choosing 1. Agent b may leave after the first step."""

    possible_agents = ("a", "b")

    def __init__(self, b_leaves: bool, is_cut_off: bool = False) -> None:
        self.b_leaves, self.is_cut_off = b_leaves, is_cut_off
        self.seen, self.choices = spaces.Box(0.0, 1.0, (2,)), spaces.Discrete(2)
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self.seen

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.choices

    def reset(self, seed: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.agents, self.time = ["a", "b"], 0
        return dict.fromkeys(self.agents, np.array([1, 0], np.float32)), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        agents, self.time = self.agents, self.time + 1
        both = float(all(action == 1 for action in actions.values()))
        rewards = {agent: both if self.time == 1 else 2.0 * actions[agent] for agent in agents}
        ended = {agent: self.time == 2 or (agent == "b" and self.b_leaves) for agent in agents}
        self.agents = [agent for agent in agents if not ended[agent]]
        no_end = dict.fromkeys(agents, False)
        terminated, truncated = (no_end, ended) if self.is_cut_off else (ended, no_end)
        seen = dict.fromkeys(agents, np.array([0, 1], np.float32))
        return seen, rewards, terminated, truncated, {agent: {} for agent in agents}

    def close(self) -> None: ...


def values(team: MultiAgentSAC, time: int, a: int, b: int) -> list[float]:
    """Of both agents, the mean of their critics, when they take these actions at this step."""
    loss: Any = team.lockstep.losses[0]
    observations = torch.eye(2)[time].expand(1, 2, 2)
    taken = torch.eye(2)[[a, b]].view(1, 2, 1, 2)
    seen = loss.normalizer(observations)
    found: list[float] = loss.critic(seen, taken, torch.zeros(1, 0))(taken).mean(0)[0].tolist()
    return found


FAST: dict[str, Any] = {
    "n_envs": 8,
    "batch_size": 32,
    "hidden": (16,),
    "polyak": 0.1,
    "target_entropy_ratio": 0.02,
    "learning_starts": 500,
    "learning_rate": 1e-2,
}


@pytest.mark.parametrize(
    ("b_leaves", "critic", "estimator"), [(True, "network", "st-gumbel"), (False, "choices", "exact")]
)
def test_values_of_a_two_step_game(b_leaves: bool, critic: Any, estimator: str) -> None:
    settings = {**FAST, "critic": critic, "estimator": estimator}
    team = MultiAgentSAC(lambda: TwoSteps(b_leaves), (1,), gamma=GAMMA, **settings)
    team.learn(500 + 8 * 600, log_interval=10**6)
    later = GAMMA * 2
    assert values(team, 0, 1, 1) == pytest.approx([1 + later, 1 if b_leaves else 1 + later], abs=0.15)
    assert values(team, 0, 0, 1) == pytest.approx([later, 0 if b_leaves else later], abs=0.15)
    a, b = values(team, 1, 1, 0)
    if b_leaves:  # it is never there at the second step
        b = 0
    assert (a, b) == pytest.approx((2, 0), abs=0.15)
    np.testing.assert_allclose(team.evaluate(5)[0], [[3, 1 if b_leaves else 3]] * 5)


def test_the_return_of_one_that_is_cut_off_goes_on() -> None:
    """Nobody terminates: the last state, in which nothing was ever earned, is worth what its values say."""
    team = MultiAgentSAC(lambda: TwoSteps(False, is_cut_off=True), (1,), gamma=0.5, **FAST)
    team.learn(500 + 8 * 600, log_interval=10**6)
    # The second state leads to itself: 2 / (1 - 1/2).
    assert values(team, 1, 1, 1) == pytest.approx([4, 4], abs=0.3)
    assert values(team, 0, 1, 1) == pytest.approx([1 + 2, 1 + 2], abs=0.3)


def test_a_speaker_and_a_listener_find_a_language() -> None:
    """In 50,000 steps: silent listeners get -15.5, two symbols -11.7, a script -7.6."""
    team = MultiAgentSAC(SpeakerListenerEnv, (0,), signalling_bonus=1.0)
    team.learn(50_000, total=130_000, log_interval=10**6)
    assert team.evaluate(500).mean() > -11
    assert team.play(0, 500, 0, scramble=True).mean() < -14
