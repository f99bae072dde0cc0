"""Teams as tasks: company, files, resumption, scrambled messages, worlds of many kinds, and bad input."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pettingzoo")

from pettingzoo.classic.connect_four.connect_four import raw_env as connect_four

from envs.mpe import ReferenceEnv, SpeakerListenerEnv, SpreadEnv
from envs.switch_riddle import SwitchRiddleEnv
from gsrl.checks import EnvironmentDataError
from gsrl.multi_agent import MADDPG, CommWrapper, MultiAgentSAC, ParallelVecEnv, Speech, SplitActions, TurnBased

SMALL: dict[str, Any] = {"n_envs": 4, "batch_size": 16, "learning_starts": 40, "hidden": [8], "buffer_size": 400}


def parameters(team: MultiAgentSAC, index: int = 0) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in team.lockstep.losses[index].parameters()])


def test_a_team_learns_what_it_would_alone() -> None:
    settings = {**SMALL, "signalling_bonus": 0.5}
    both = MultiAgentSAC(SpeakerListenerEnv, (3, 8), **settings).learn(200)
    alone = MultiAgentSAC(SpeakerListenerEnv, (8,), **settings).learn(200)
    torch.testing.assert_close(parameters(both, 1), parameters(alone), atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(both.replay.columns["actions"][1], alone.replay.columns["actions"][0])
    assert (parameters(both, 0) - parameters(both, 1)).abs().max() > 0.1


def test_a_team_of_a_file_goes_on_as_the_one_that_was_saved() -> None:
    team = MultiAgentSAC(lambda: SplitActions(ReferenceEnv()), (0, 1), signalling_bonus=0.5, **SMALL).learn(230)
    file = io.BytesIO()
    team.save(file)
    file.seek(0)
    other = MultiAgentSAC.load(file, lambda: SplitActions(ReferenceEnv()))
    assert (other.steps, other.speech) == (232, team.speech)
    for each in (team, other):
        each.learn(200)
    for index in range(2):
        assert torch.equal(parameters(team, index), parameters(other, index))
    np.testing.assert_array_equal(team.evaluate(4), other.evaluate(4))
    for name, column in team.replay.columns.items():
        np.testing.assert_array_equal(column, other.replay.columns[name])


def test_targets_follow_by_their_share() -> None:
    def distance(polyak: float) -> float:
        team = MultiAgentSAC(SpreadEnv, polyak=polyak, **SMALL)
        loss: Any = team.lockstep.losses[0]
        first = loss.critic_target.of_rest.weight.clone()
        team.learn(100)
        assert (loss.critic.of_rest.weight - first).abs().max() > 0
        if polyak == 1:
            assert torch.equal(loss.critic.of_rest.weight, loss.critic_target.of_rest.weight)
        return float((loss.critic_target.of_rest.weight - first).abs().max())

    assert distance(0.0) == 0
    assert 0 < distance(0.01) < distance(1.0)


def test_returns_of_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of up to three steps, which an end of an episode, or the newest step, cuts short."""
    team = MultiAgentSAC(lambda: SpreadEnv(2, max_cycles=4), n_steps=3, gamma=0.5, **{**SMALL, "n_envs": 1})
    team.learn(41)
    ring = team.replay
    rewards, last = ring.columns["rewards"][0, :, 0], ring.size() - 1
    for start, length in ((0, 3), (1, 3), (2, 2), (3, 1), (4, 3), (last, 1), (last - 1, min(2, 4 - (last - 1) % 4))):
        monkeypatch.setattr(ring, "draw", lambda size, start=start: np.full((1, size), start))
        batch = team._sample()
        expected = sum(0.5**j * rewards[start + j] for j in range(length))
        np.testing.assert_allclose(batch.rewards[0, 0], expected, rtol=1e-6)
        assert batch.discounts[0, 0].tolist() == [0.5**length] * 2  # cut off, not terminated
        after = ring.columns["next_observations"][0, start + length - 1, 0]
        np.testing.assert_array_equal(batch.next_observations[0, 0], after)
        np.testing.assert_array_equal(batch.observations[0, 0], ring.columns["observations"][0, start, 0])


WORLDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "spread, exact": (SpreadEnv, {"critic": "choices", "estimator": "exact"}),
    "spread, alone": (SpreadEnv, {"critics_see": "own", "estimator": "gumbel-softmax"}),
    "spread, states": (SpreadEnv, {"critics_see": "state", "share": [["agent_0", "agent_1"]]}),
    "reference, multilinear": (lambda: SplitActions(ReferenceEnv()), {"critic": "multilinear"}),
    "spread, shared": (SpreadEnv, {"share": [["agent_0", "agent_1", "agent_2"]], "n_steps": 3}),
    "reference, rloo": (lambda: SplitActions(ReferenceEnv()), {"estimator": "rloo", "others": "replayed"}),
    "reference, private": (lambda: SplitActions(ReferenceEnv()), {"estimator": "reinmax", "signalling_bonus": 1.0}),
    "riddle, masked": (SwitchRiddleEnv, {"estimator": "gumbel-rao"}),
    "spread, talking": (lambda: CommWrapper(SpreadEnv(2), 3, 2, cost=0.1), {"signalling_bonus": 0.3}),
}


@pytest.mark.parametrize("name", WORLDS)
def test_worlds_and_estimators_of_many_kinds(name: str) -> None:
    make_env, settings = WORLDS[name]
    team = MultiAgentSAC(make_env, (0, 1), max_grad_norm=1.0, **SMALL, **settings).learn(120)
    returns = team.evaluate(3)
    assert returns.shape == (2, 3, len(team.team.agents))
    assert np.isfinite(returns).all()
    assert all(torch.isfinite(parameters(team, index)).all() for index in range(2))
    assert ("train/signalling" in team.scalars()[0]) == ("signalling_bonus" in settings)


def test_evaluations_are_the_same_episodes_and_are_scrambled_in_what_is_heard() -> None:
    team = MultiAgentSAC(SpeakerListenerEnv, (0,), **SMALL).learn(60)
    np.testing.assert_array_equal(team.evaluate(200), team.evaluate(200))
    np.testing.assert_array_equal(team.evaluate(200)[:, :128], team.evaluate(128))
    observations = np.arange(4 * 2 * 11, dtype=np.float32).reshape(4, 2, 11)
    going = np.array([True, True, False, True])
    changed = team._scrambled(observations, going, np.random.default_rng(0)) != observations
    assert changed[:, 1, 8:].any()
    assert not changed[2].any()
    changed[:, 1, 8:] = False
    assert not changed.any()


def test_observations_are_normalised_and_messages_are_not() -> None:
    team = MultiAgentSAC(SpeakerListenerEnv, (0,), **SMALL).learn(200)
    normalizer: Any = team.lockstep.losses[0].normalizer
    assert normalizer.mean[1, 8:].tolist() == [0, 0, 0]
    assert normalizer.scale[1, 8:].tolist() == [1, 1, 1]
    assert (normalizer.mean[1, :8] != 0).all()
    seen = team.replay.columns["observations"][0][: team.replay.size()].reshape(-1, 2, 11)
    np.testing.assert_allclose(normalizer.mean[1, :8], seen[:, 1, :8].mean(0), atol=0.15)


@pytest.mark.parametrize(
    ("make_env", "settings", "error", "message"),
    [
        (SpreadEnv, {"critic": "vdn"}, ValueError, r"critic must be one of \('network', 'choices', 'multilinear'\)"),
        (SpreadEnv, {"critics_see": "none"}, ValueError, "critics_see must be one of"),
        (SpreadEnv, {"others": "target"}, ValueError, "others must be one of"),
        (SpreadEnv, {"gamma": 1.5}, ValueError, r"gamma must be in \[0, 1\], but got 1.5"),
        (SpreadEnv, {"hidden": []}, ValueError, "hidden must hold widths of at least 1"),
        (SpreadEnv, {"learning_starts": 0}, ValueError, "learning_starts must be an integer of at least 1, but got 0"),
        (SpreadEnv, {"signalling_bonus": -1.0}, ValueError, "signalling_bonus must be finite and at least 0"),
        (SpreadEnv, {"signalling_bonus": 1.0}, ValueError, "signalling_bonus must be 0 where no agent says anything"),
        (SpreadEnv, {"speech": {"agent_0": Speech(private=(18,))}}, ValueError, "private of agent_0 must be within"),
        (SpreadEnv, {"n_steps": 0}, ValueError, "n_steps must be an integer of at least 1, but got 0"),
        (SpreadEnv, {"share": [["bob"]]}, ValueError, "share must be of agents among .*, but names 'bob'"),
        (SpreadEnv, {"share": [["agent_0"], ["agent_1", "agent_0"]]}, ValueError, "agent_0 twice"),
        (
            SpeakerListenerEnv,
            {"share": [["speaker_0", "listener_0"]]},
            ValueError,
            "share must be of agents with the same spaces, but listener_0 and speaker_0 differ",
        ),
        (SpreadEnv, {"estimator": 3}, TypeError, "estimator must be a name or an estimator, but got int"),
        (SpreadEnv, {"n_envs": 0}, ValueError, "n_envs must be an integer of at least 1, but got 0"),
        (SwitchRiddleEnv, {"critic": "choices"}, ValueError, "critic must be 'network' or 'multilinear' for actions"),
        (connect_four, {}, TypeError, "got the AEC environment"),
    ],
)
def test_bad_settings_are_refused(
    make_env: Callable[[], Any], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MultiAgentSAC(make_env, **{**SMALL, **settings})


def test_games_in_turns_are_learned_from_turn_to_turn() -> None:
    """What is sampled, beside a search of replay, step by step, for the next turn of who was on turn."""
    team = MultiAgentSAC(lambda: TurnBased(connect_four()), (0, 1), **SMALL)
    team.learn(120)  # in which an illegal action is an error
    assert team._longest_wait == 1
    ring, seen, ends = team.replay, 0, 0
    column = {name: array.reshape(2, -1, *array.shape[3:]) for name, array in ring.columns.items()}
    starts = np.stack([np.arange(member * ring.capacity, member * ring.capacity + len(ring)) for member in range(2)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "draw", lambda size: starts)
        batch = team._sample()
    for member in range(2):
        for row in range(len(ring)):
            player = int(column["active"][member, row].argmax())
            reward, at = 0.0, row
            while at < len(ring):
                reward += column["rewards"][member, at, player]
                ended = column["terminated"][member, at, player]
                if ended or column["next_active"][member, at, player]:
                    break
                at += ring.n_envs
            active = batch.active[member, row].tolist()
            assert active == [at < len(ring) and player == i for i in range(2)]
            if at < len(ring):
                seen, ends = seen + 1, ends + int(ended)
                assert batch.rewards[member, row, player] == reward
                assert batch.discounts[member, row, player] == pytest.approx(0 if ended else 0.95)
                after = column["next_observations"][member, at]
                np.testing.assert_array_equal(batch.next_observations[member, row], after)
    assert seen > len(ring)
    assert ends > 2


def test_several_steps_are_refused_where_agents_wait() -> None:
    team = MultiAgentSAC(lambda: TurnBased(connect_four()), n_steps=3, **SMALL)
    with pytest.raises(ValueError, match="n_steps must be 1 where agents wait for their turns, but got 3"):
        team.learn(50)


def test_the_targets_of_maddpg_follow_their_networks_alone() -> None:
    def moved(polyak: float) -> dict[str, float]:
        team = MADDPG(SpreadEnv, polyak=polyak, **SMALL)
        loss: Any = team.lockstep.losses[0]
        first = {name: getattr(loss, name).state_dict() for name in ("actor_target", "critic_target")}
        first = {name: {key: value.clone() for key, value in each.items()} for name, each in first.items()}
        team.learn(100)
        for name in ("actor", "critic"):
            pairs = zip(getattr(loss, name).parameters(), getattr(loss, f"{name}_target").parameters(), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs) == (polyak == 1)
        return {
            name: max(float((getattr(loss, name).get_parameter(key) - first[name][key]).abs().max()) for key in names)
            for name, names in ((n, dict(getattr(loss, n).named_parameters())) for n in first)
        }

    still, slow, fast = moved(0.0), moved(0.01), moved(1.0)
    for name in still:
        assert 0 == still[name] < slow[name] < fast[name]


def test_maddpg_is_saved_and_goes_on() -> None:
    file, settings = io.BytesIO(), {**SMALL, "logit_penalty": 0.1, "signalling_bonus": 1.0, "critics_see": "state"}
    team = MADDPG(SpeakerListenerEnv, (0, 1), **settings).learn(100)
    team.save(file)
    file.seek(0)
    other = MADDPG.load(file, SpeakerListenerEnv)
    assert other.logit_penalty == 0.1
    for each in (team, other):
        each.learn(60)
    assert torch.equal(parameters(team, 1), parameters(other, 1))
    with pytest.raises(ValueError, match="logit_penalty must be finite and at least 0, but got -1"):
        MADDPG(SpreadEnv, logit_penalty=-1)


def test_the_target_entropy_follows_its_schedule() -> None:
    team = MultiAgentSAC(SpreadEnv, (0, 1), target_entropy_ratio=lambda remaining: 0.8 * remaining, **SMALL)
    losses: list[Any] = team.lockstep.losses
    assert [loss.target_entropy_ratio.item() for loss in losses] == pytest.approx([0.8] * 2)
    team.learn(60, total=80)
    # The last update began at 56 of 80 steps.
    assert [loss.target_entropy_ratio.item() for loss in losses] == pytest.approx([0.8 * (1 - 56 / 80)] * 2)
    with pytest.raises(ValueError, match=r"target_entropy_ratio must be in \[0, 1\], but got 2"):
        MultiAgentSAC(SpreadEnv, target_entropy_ratio=lambda remaining: 2 * remaining, **SMALL)


def test_states_are_those_of_the_worlds() -> None:
    worlds = ParallelVecEnv(lambda: SplitActions(ReferenceEnv(max_cycles=3)), 2, with_states=True)
    worlds.reset()
    for time in range(4):
        after, *_ = worlds.step(np.zeros((2, 2, 2), np.int64))
        np.testing.assert_array_equal(worlds.states, worlds.joint.observations.reshape(2, -1))
        np.testing.assert_array_equal(worlds.states_after, after.observations.reshape(2, -1))
        assert (worlds.states == worlds.states_after).all() == (time != 2)  # a new episode began
    with pytest.raises(ValueError, match=r"state_space of .* must be a Box where states are asked for"):
        MultiAgentSAC(lambda: SwitchRiddleEnv(), critics_see="state", **SMALL)


@pytest.mark.parametrize(
    ("reward", "told"),
    [(float("nan"), "got nan in environment"), (1e300, r"got 1e\+300, beyond float32,")],
)
def test_a_reward_that_cannot_be_learned_from_is_refused(
    reward: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = MultiAgentSAC(SpeakerListenerEnv, **SMALL).learn(100)
    before = parameters(team).clone()
    step = team.vec_env.step

    def spoiled(actions: Any) -> Any:
        after, rewards, *ends = step(actions)
        rewards = rewards.astype(np.float64)
        rewards[1, 0] = reward
        return after, rewards, *ends

    monkeypatch.setattr(team.vec_env, "step", spoiled)
    with pytest.raises(EnvironmentDataError, match=f"rewards must be finite, but {told}"):
        team.learn(200)
    torch.testing.assert_close(parameters(team), before, atol=0, rtol=0)
