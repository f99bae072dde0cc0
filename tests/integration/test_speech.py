"""Messages of agents: where they are, actions that are split, and environments with more of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("pettingzoo")

from pettingzoo.classic.connect_four.connect_four import raw_env as connect_four
from pettingzoo.test import parallel_api_test, parallel_seed_test

from envs.mpe import ReferenceEnv, SpeakerListenerEnv, SpreadEnv
from envs.signalling import SignallingEnv
from envs.switch_riddle import SwitchRiddleEnv
from gsrl.checks import EnvironmentDataError
from gsrl.comms import Channel, LewisGame
from gsrl.multi_agent import CommWrapper, ParallelVecEnv, Speech, SplitActions, TurnBased

NOISY: dict[str, Any] = {"length": 2, "delay": 3, "substitution": 0.3, "erasure": 0.2, "cost": 0.1}
ENVS: dict[str, Callable[[], Any]] = {
    "split": lambda: SplitActions(ReferenceEnv()),
    "split-by-half": lambda: SplitActions(SpreadEnv(), {"agent_1": {"move": 5}}),
    "spread": lambda: CommWrapper(SpreadEnv(), 4),
    "spread-noisy": lambda: CommWrapper(SpreadEnv(), 4, **NOISY),
    "riddle": lambda: CommWrapper(SwitchRiddleEnv(), 3, hears={"prisoner_0": ["prisoner_2"]}, **NOISY),
    "lewis": lambda: CommWrapper(SignallingEnv(LewisGame(5), Channel(5)), 2, erasure=0.5),
    "reference": lambda: CommWrapper(SplitActions(ReferenceEnv()), 2, **NOISY),
}


@pytest.mark.parametrize("name", ENVS)
def test_the_parallel_api(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(ENVS[name](), num_cycles=50)
    assert "Passed" in capsys.readouterr().out
    parallel_seed_test(ENVS[name])


@pytest.mark.parametrize("name", ENVS)
def test_observations_are_of_their_spaces_and_legal_actions_are_taken(name: str) -> None:
    env, rng = ENVS[name](), np.random.default_rng(0)
    vec = ParallelVecEnv(ENVS[name], 2)
    vec.reset()
    assert list(Speech.of(env)) == env.possible_agents
    for _ in range(60):
        vec.step((vec.joint.masks * rng.random(vec.joint.masks.shape)).argmax(-1))
    observations, _ = env.reset(seed=0)
    while env.agents:
        for agent, observation in observations.items():
            assert env.observation_space(agent).contains(observation)
        observations, *_ = env.step({agent: env.action_space(agent).sample() for agent in env.agents})


def test_what_particles_say_hear_and_know() -> None:
    speech = Speech.of(SplitActions(ReferenceEnv()))
    assert speech["agent_1"] == Speech(factors=(1,), heard=tuple(range(11, 21)), private=(8, 9, 10))
    assert Speech.of(ReferenceEnv())["agent_1"].factors == ()
    speaker, listener = Speech.of(SpeakerListenerEnv()).values()
    assert (speaker.factors, speaker.private, listener.heard) == ((0,), (0, 1, 2), (8, 9, 10))
    assert Speech.of(SpreadEnv(2)) == {"agent_0": Speech(), "agent_1": Speech()}
    given = {"agent_0": Speech(factors=(0,))}
    assert Speech.of(SpreadEnv(2), given) == {"agent_0": Speech(factors=(0,)), "agent_1": Speech()}


def test_split_actions_are_put_together() -> None:
    env, plain = SplitActions(ReferenceEnv()), ReferenceEnv()
    assert env.action_space("agent_0") == spaces.MultiDiscrete([5, 10])
    env.reset(seed=0)
    plain.reset(seed=0)
    observations, *_ = env.step({"agent_0": np.array([3, 7]), "agent_1": np.array([0, 2])})
    expected, *_ = plain.step({"agent_0": np.int64(3 + 5 * 7), "agent_1": np.int64(5 * 2)})
    np.testing.assert_equal(observations, expected)
    assert observations["agent_1"][11:].argmax() == 7


def test_split_worlds_in_arrays_equal_each_by_itself() -> None:
    class Slow(SplitActions):
        def batched(self, n_envs: int) -> None:
            return None

    def vec(kind: type[SplitActions]) -> ParallelVecEnv:
        return ParallelVecEnv(lambda: kind(SpreadEnv(2), {"agent_1": {"move": 5, "say": 1}}), 3)

    batch, loop, rng = vec(SplitActions), vec(Slow), np.random.default_rng(0)
    assert batch.reset().masks.shape == (3, 2, 2, 5)
    loop.reset()
    for _ in range(30):
        np.testing.assert_equal(tuple(batch.joint), tuple(loop.joint))
        actions = (batch.joint.masks * rng.random(batch.joint.masks.shape)).argmax(-1)
        np.testing.assert_equal(batch.step(actions), loop.step(actions))


class Masked:
    """One agent with six actions, of which some are legal."""

    possible_agents = ("one",)
    metadata: dict[str, Any] = {}  # noqa: RUF012
    seen: spaces.Space[Any] = spaces.Dict(
        {"observation": spaces.Discrete(2), "action_mask": spaces.Box(0, 1, (6,), np.int8)}
    )

    def __init__(self, mask: list[int]) -> None:
        self.mask, self.agents = np.array(mask, np.int8), ["one"]
        self.space = spaces.Discrete(6, start=1)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self.seen

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.space

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"one": {"observation": 1, "action_mask": self.mask}}, {"one": {}}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        self.taken = actions["one"]
        observations, infos = self.reset()
        return observations, {"one": 1.0}, {"one": False}, {"one": False}, infos

    def batched(self, n_envs: int) -> Any:
        return None


def test_masks_are_split() -> None:
    env = SplitActions(Masked([0, 1, 1, 0, 0, 0]), {"one": {"a": 3, "b": 2}})
    observations, infos = env.reset()
    assert observations == {"one": 1}
    assert infos["one"]["action_mask"].tolist() == [0, 1, 1, 1, 0]
    env.step({"one": np.array([1, 1])})
    assert env.env.taken == 1 + (1 + 3 * 1)
    vec = ParallelVecEnv(lambda: SplitActions(Masked([0, 1, 1, 0, 0, 0]), {"one": {"a": 3, "b": 2}}), 1)
    assert vec.reset().masks.astype(int).tolist() == [[[[0, 1, 1], [1, 0, 0]]]]
    with pytest.raises(EnvironmentDataError, match="action_mask of one must allow all combinations"):
        SplitActions(Masked([0, 1, 1, 1, 0, 0]), {"one": {"a": 3, "b": 2}}).reset()


def test_splits_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"factors must be of agents among .*, but names 'agent_7'"):
        SplitActions(ReferenceEnv(), {"agent_7": {"move": 5}})
    with pytest.raises(ValueError, match="factors of agent_0 must be of sizes whose product is 50"):
        SplitActions(ReferenceEnv(), {"agent_0": {"move": 5, "say": 9}})
    with pytest.raises(ValueError, match="the environment has no action_factors of its own"):
        SplitActions(SpreadEnv())
    with pytest.raises(TypeError, match="action_space of prisoner_0 must be Discrete to be split"):
        SplitActions(SwitchRiddleEnv(), {"prisoner_0": {"tell": 2, "switch": 2}})


# Messages where there were none


def said(env: CommWrapper, **symbols: list[int]) -> Any:
    """A step in which agents stand still, and say something."""
    return env.step({f"agent_{i}": np.array([0, *symbols[name]]) for i, name in enumerate("abc"[: len(env.agents)])})


def heard(env: CommWrapper, observations: dict[str, np.ndarray], agent: str) -> list[list[float]]:
    """What an agent hears, a row for each symbol."""
    places = list(env.speech[agent].heard)
    rows: list[list[float]] = observations[agent][places].reshape(-1, env.width).tolist()
    return rows


def test_messages_are_heard_one_step_later() -> None:
    env = CommWrapper(SpreadEnv(), 3)
    observations, _ = env.reset(seed=0)
    assert env.action_space("agent_0") == spaces.MultiDiscrete([5, 3])
    assert env.speech["agent_0"] == Speech(factors=(1,), heard=tuple(range(18, 24)))
    assert heard(env, observations, "agent_0") == [[0, 0, 0], [0, 0, 0]]
    observations, *_ = said(env, a=[0], b=[1], c=[2])
    assert heard(env, observations, "agent_0") == [[0, 1, 0], [0, 0, 1]]
    assert heard(env, observations, "agent_1") == [[1, 0, 0], [0, 0, 1]]
    assert heard(env, observations, "agent_2") == [[1, 0, 0], [0, 1, 0]]
    plain = SpreadEnv()
    plain.reset(seed=0)
    expected, *_ = plain.step(dict.fromkeys(plain.agents, np.int64(0)))
    np.testing.assert_array_equal(observations["agent_0"][:18], expected["agent_0"])


def test_messages_take_their_time_and_a_new_episode_begins_in_silence() -> None:
    env = CommWrapper(SpreadEnv(2, max_cycles=4), 2, delay=3)
    for _ in range(2):
        observations, _ = env.reset(seed=0)
        words = [observations]
        for word in (0, 1, 1, 0):
            words.append(said(env, a=[word], b=[word])[0])
        assert [heard(env, each, "agent_1") for each in words] == [[[0, 0]]] * 3 + [[[1, 0]], [[0, 1]]]


def test_who_hears_whom() -> None:
    env = CommWrapper(SpreadEnv(), 2, hears={"agent_0": ["agent_2", "agent_0"], "agent_2": ["agent_1"]})
    env.reset()
    observations, *_ = said(env, a=[1], b=[0], c=[0])
    assert heard(env, observations, "agent_0") == [[1, 0], [0, 1]]
    assert heard(env, observations, "agent_1") == []
    assert heard(env, observations, "agent_2") == [[1, 0]]


def test_symbols_cost_up_to_the_end_of_a_message() -> None:
    env, plain = CommWrapper(SpreadEnv(2), 3, length=3, cost=0.25), SpreadEnv(2)
    assert env.action_space("agent_0") == spaces.MultiDiscrete([5, 4, 4, 4])
    env.reset(seed=0)
    plain.reset(seed=0)
    observations, rewards, *_ = said(env, a=[2, 0, 3], b=[1, 2, 3])
    _, expected, *_ = plain.step(dict.fromkeys(plain.agents, np.int64(0)))
    assert rewards["agent_0"] == pytest.approx(expected["agent_0"] - 0.25)
    assert rewards["agent_1"] == pytest.approx(expected["agent_1"] - 0.75)
    assert heard(env, observations, "agent_1") == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert heard(env, observations, "agent_0") == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    observations, rewards, *_ = said(env, a=[0, 1, 1], b=[0, 0, 0])
    _, expected, *_ = plain.step(dict.fromkeys(plain.agents, np.int64(0)))
    assert rewards == expected
    assert heard(env, observations, "agent_1") == [[0, 0, 0]] * 3


def test_all_is_substituted_or_erased() -> None:
    env = CommWrapper(SpreadEnv(2, max_cycles=1000), 2, substitution=1.0)
    env.reset(seed=0)
    for _ in range(20):
        observations, *_ = said(env, a=[1], b=[0])  # with two symbols, the other one is left
        assert heard(env, observations, "agent_0") == [[0, 1]]
        assert heard(env, observations, "agent_1") == [[1, 0]]
    env = CommWrapper(SpreadEnv(2), 2, erasure=1.0)
    observations, _ = env.reset(seed=0)
    assert heard(env, observations, "agent_0") == [[0, 0, 0]]  # nothing was said
    observations, *_ = said(env, a=[1], b=[0])
    assert heard(env, observations, "agent_0") == [[0, 0, 1]]


def test_noise_is_as_frequent_as_said() -> None:
    """With V symbols, one arrives as each other one with probability (1 - e) s / (V - 1), and erased with e."""
    env = CommWrapper(SpreadEnv(2, max_cycles=10_000), 4, length=8, substitution=0.3, erasure=0.2)
    env.reset(seed=0)
    counts = np.zeros(5)
    for _ in range(500):
        observations, *_ = said(env, a=[2] * 8, b=[2] * 8)
        counts += np.sum(heard(env, observations, "agent_0") + heard(env, observations, "agent_1"), 0)
    expected = 8000 * np.array([0.08, 0.08, 0.56, 0.08, 0.2])
    # Chi-squared of 4 degrees of freedom: a fault beyond 18.5 has probability 1e-3.
    assert ((counts - expected) ** 2 / expected).sum() < 18.5


def test_who_is_not_on_turn_says_nothing() -> None:
    def make() -> CommWrapper:
        return CommWrapper(TurnBased(connect_four()), 3, length=2, cost=0.5)

    env = make()
    observations, infos = env.reset(seed=0)
    assert [infos[agent]["active"] for agent in env.agents] == [True, False]
    assert infos["player_0"]["action_mask"].tolist() == [1] * 7 + [1, 1, 1, 1] * 2
    assert infos["player_1"]["action_mask"].tolist() == [1, 0, 0, 0, 0, 0, 0] + [1, 0, 0, 0] * 2
    observations, rewards, *_ = env.step({"player_0": np.array([3, 1, 2]), "player_1": np.array([0, 3, 3])})
    assert rewards == {"player_0": -1.0, "player_1": 0.0}
    assert heard(env, observations, "player_0") == [[0, 0, 0], [0, 0, 0]]
    assert heard(env, observations, "player_1") == [[1, 0, 0], [0, 1, 0]]
    vec, rng = ParallelVecEnv(make, 2), np.random.default_rng(0)
    vec.reset()
    for _ in range(100):
        vec.step((vec.joint.masks * rng.random(vec.joint.masks.shape)).argmax(-1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 1}, "vocabulary must be an integer of at least 2, but got 1"),
        ({"length": 0}, "length must be an integer of at least 1, but got 0"),
        ({"delay": 0}, "delay must be an integer of at least 1, but got 0"),
        ({"substitution": 1.5}, r"substitution must be a probability, in \[0, 1\], but got 1.5"),
        ({"erasure": -0.1}, r"erasure must be a probability, in \[0, 1\], but got -0.1"),
        ({"cost": -1.0}, "cost must be finite and at least 0, but got -1.0"),
        ({"hears": {"agent_9": []}}, "hears must be of agents among .*, but names 'agent_9'"),
        ({"hears": {"agent_0": ["bob"]}}, "hears must be of agents among .*, but names 'bob'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CommWrapper(SpreadEnv(), **{"vocabulary": 3, **settings})


def test_games_in_turns_are_refused_raw() -> None:
    with pytest.raises(TypeError, match="got the AEC environment"):
        CommWrapper(connect_four(), 3)


@pytest.mark.parametrize(
    ("speech", "message"),
    [
        (
            {"agent_0": Speech(private=(3, 18))},
            "private of agent_0 must be within an observation of 18 numbers.*got 18",
        ),
        ({"agent_1": Speech(heard=(-1,))}, "heard of agent_1 must be within an observation of 18 numbers.*got -1"),
        ({"agent_0": Speech(factors=(1,))}, "factors of agent_0 must be within an action of 1 factors.*got 1"),
        ({"bob": Speech()}, "speech must be of agents among .*, but names 'bob'"),
    ],
)
def test_speech_that_is_not_there_is_refused(speech: dict[str, Speech], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Speech.of(SpreadEnv(), speech)
