"""The contracts of PettingZoo: what its own checkers ask, and the same episodes from the same seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("pettingzoo")

from pettingzoo import ParallelEnv
from pettingzoo.test import parallel_api_test, parallel_seed_test

from envs.signalling import SignallingEnv, SignallingRounds
from envs.switch_riddle import SwitchRiddleEnv
from gsrl.comms import AttributeValueGame, Channel, DiscriminationGame, LewisGame

ENVS: dict[str, Callable[[], ParallelEnv]] = {
    "switch-riddle-3": SwitchRiddleEnv,
    "switch-riddle-4": lambda: SwitchRiddleEnv(4),
    "lewis": lambda: SignallingEnv(LewisGame(5), Channel(5)),
    "lewis-with-a-prior": lambda: SignallingEnv(LewisGame(3, prior=[0.6, 0.3, 0.1]), Channel(2)),
    "attribute-value": lambda: SignallingEnv(AttributeValueGame(2, 4), Channel(4, 3, variable_length=True)),
    "discrimination": lambda: SignallingEnv(DiscriminationGame(2, 4, candidates=3), Channel(4, 2), "held_out"),
    "noisy": lambda: SignallingEnv(LewisGame(5), Channel(5, 2, erasure=0.2, substitution=0.3, permutation=0.5)),
}


@pytest.mark.parametrize("name", ENVS)
def test_the_parallel_api(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(ENVS[name](), num_cycles=50)
    assert "Passed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ENVS)
def test_the_seed_by_pettingzoos_checker(name: str) -> None:
    parallel_seed_test(ENVS[name])


def record(env: ParallelEnv, seed: int | None, rng: np.random.Generator) -> list[Any]:
    """All that an episode returns, under random actions."""
    observations, infos = env.reset(seed=seed)
    seen: list[Any] = [observations, infos]
    while env.agents:
        actions = {}
        for agent in env.agents:
            space = env.action_space(agent)
            space.seed(int(rng.integers(2**31)))
            actions[agent] = space.sample()
        seen.append(env.step(actions))
    return seen


@pytest.mark.parametrize("name", ENVS)
def test_a_seed_decides_the_episodes_that_follow(name: str) -> None:
    one, other = ENVS[name](), ENVS[name]()
    for seed in (3, None, None):  # without a seed, the random numbers go on
        a, b = (record(env, seed, np.random.default_rng(1)) for env in (one, other))
        np.testing.assert_equal(a, b)
    differ = [str(record(one, seed, np.random.default_rng(1))) for seed in range(20)]
    assert len(set(differ)) > 1


@pytest.mark.parametrize("name", ENVS)
def test_observations_and_actions_are_of_their_spaces(name: str) -> None:
    env, rng = ENVS[name](), np.random.default_rng(0)
    for _ in range(10):
        observations, _ = env.reset(seed=int(rng.integers(1000)))
        while True:
            for agent, observation in observations.items():
                assert env.observation_space(agent).contains(observation), (agent, observation)
            if not env.agents:
                break
            observations, *_ = env.step({agent: env.action_space(agent).sample() for agent in env.agents})


def test_a_round_of_lewis_game() -> None:
    env = SignallingEnv(LewisGame(4), Channel(3), render_mode="ansi")
    assert env.observation_space("sender") == spaces.Discrete(4)
    assert env.observation_space("receiver") == spaces.Discrete(4)  # nothing, or one of three symbols
    assert env.action_space("sender") == spaces.Discrete(3)
    for answer, expected in ((0, 1.0), (1, 0.0)):
        observations, infos = env.reset(seed=0)
        meaning = int(observations["sender"])
        assert observations["receiver"] == 0
        assert infos["sender"]["action_mask"].tolist() == [1, 1, 1]
        assert infos["receiver"]["action_mask"].tolist() == [1, 0, 0, 0]
        observations, rewards, terminated, _, infos = env.step({"sender": 2, "receiver": meaning})
        assert observations["receiver"] == 3
        assert rewards == {"sender": 0.0, "receiver": 0.0}
        assert not any(terminated.values())
        assert infos["sender"]["action_mask"].tolist() == [1, 0, 0]
        assert infos["receiver"]["action_mask"].tolist() == [1, 1, 1, 1]
        _, rewards, terminated, _, _ = env.step({"sender": 0, "receiver": (meaning + answer) % 4})
        assert rewards == {"sender": expected, "receiver": expected}
        assert all(terminated.values())
        assert env.agents == []
        assert env.render() == f"meaning [{meaning}], heard [3], answer [{(meaning + answer) % 4}]"


def test_receivers_hear_nothing_from_the_end_on_and_length_costs() -> None:
    rounds = SignallingRounds(
        AttributeValueGame(2, 3, held_out=0.0), Channel(5, 3, variable_length=True, length_cost=0.1)
    )
    meanings, candidates = rounds.reset(3, torch.Generator().manual_seed(0))
    assert candidates.shape == (3, 0)
    assert rounds.say(np.array([[0, 4, 5], [2, 0, 1], [3, 5, 1]])).tolist() == [[0, 0, 0], [2, 0, 0], [3, 5, 1]]
    wrong = meanings.copy()
    wrong[2, 1] = (wrong[2, 1] + 1) % 3
    np.testing.assert_allclose(rounds.answer(wrong), [1.0, 0.9, -0.3])


def test_receivers_see_the_candidates() -> None:
    rounds = SignallingRounds(DiscriminationGame(2, 4, candidates=3), Channel(4))
    meanings, candidates = rounds.reset(50, torch.Generator().manual_seed(0))
    rounds.say(np.zeros((50, 1), np.int64))
    right = (candidates.reshape(50, 3, 2) == meanings[:, None]).all(-1)
    assert (right.sum(1) == 1).all()
    assert (rounds.answer(right.argmax(1)[:, None]) == 1).all()
    assert (rounds.answer((right.argmax(1)[:, None] + 1) % 3) == 0).all()


@pytest.mark.parametrize(
    ("channel", "ceiling"), [(Channel(4, erasure=0.3), 0.7 + 0.3 / 4), (Channel(4, substitution=0.3), 0.7)]
)
def test_the_best_agents_reach_the_ceiling_of_a_noisy_channel(channel: Channel, ceiling: float) -> None:
    rounds = SignallingRounds(LewisGame(4), channel)
    meanings, _ = rounds.reset(40_000, torch.Generator().manual_seed(0))
    answers = (rounds.say(meanings) - 1) % 4  # an erased symbol is 5: a guess as good as any
    # Standard error .0023; a fault of four of them has probability 6e-5.
    assert rounds.answer(answers).mean() == pytest.approx(ceiling, abs=0.0092)


@pytest.mark.parametrize("estimator", ["gumbel-rao", "rloo", "straight-through"])
def test_what_is_heard_does_not_depend_on_the_estimator(estimator: str) -> None:
    heard = []
    for name in ("st-gumbel", estimator):
        channel = Channel(4, 2, estimator=name, erasure=0.3, substitution=0.2, permutation=0.5)
        rounds = SignallingRounds(LewisGame(4), channel)
        rounds.reset(50, torch.Generator().manual_seed(0))
        heard.append(rounds.say(np.tile([0, 3], (50, 1))))
    np.testing.assert_array_equal(*heard)
    assert len(np.unique(heard[0], axis=0)) > 3


def test_games_of_another_kind_are_refused() -> None:
    with pytest.raises(TypeError, match="game must be a reconstruction or discrimination game"):
        SignallingRounds(object(), Channel(4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split 'held_out' is empty"):
        SignallingEnv(LewisGame(4), Channel(4), "held_out")
