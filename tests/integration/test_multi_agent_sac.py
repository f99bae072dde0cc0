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
from gsrl.multi_agent import CommWrapper, MultiAgentSAC, Speech, SplitActions, TurnBased

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
        (SpreadEnv, {"critic": "vdn"}, ValueError, r"critic must be one of \('network', 'choices'\), but got 'vdn'"),
        (SpreadEnv, {"critics_see": "state"}, ValueError, "critics_see must be one of"),
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
        (SwitchRiddleEnv, {"critic": "choices"}, ValueError, "critic must be 'network' for actions of 2 factors"),
        (connect_four, {}, TypeError, "got the AEC environment"),
    ],
)
def test_bad_settings_are_refused(
    make_env: Callable[[], Any], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MultiAgentSAC(make_env, **{**SMALL, **settings})


def test_games_in_turns_are_refused() -> None:
    team = MultiAgentSAC(lambda: TurnBased(connect_four()), **SMALL)
    with pytest.raises(ValueError, match="env must let all agents act at every step while they are there, but player_"):
        team.learn(50)
