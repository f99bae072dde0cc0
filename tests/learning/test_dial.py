"""Differentiable inter-agent learning, on tasks whose best returns are known with and without communication."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gsrl import make_estimator
from gsrl.checkpoint import CheckpointError
from gsrl.comms.dial import DIAL, SILENCE, Batch, Turn


class Whisper:
    """One agent sees a number at the first step; the other one has to say at the second which it was, for a reward.

    The best return is 1; without communication it is 1 / K.
    """

    n_agents, n_ears, horizon = 2, 1, 2

    def __init__(self, numbers: int = 2) -> None:
        self.n_actions = self.n_features = numbers

    def reset(self, batch_size: int, rng: np.random.Generator) -> Turn:
        self.numbers = rng.integers(self.n_actions, size=batch_size)
        self.time = 0
        return self.turn()

    def step(self, actions: NDArray[np.int64]) -> tuple[Turn, NDArray[np.float32], NDArray[np.bool_]]:
        rewards = np.zeros(actions.shape, np.float32)
        if self.time == 1:
            rewards += (actions[:, 1] == self.numbers)[:, None]
        self.time += 1
        return self.turn(), rewards, np.full(len(actions), self.time >= 2)

    def best_returns(self) -> NDArray[np.float64]:
        return np.ones(len(self.numbers))

    def turn(self) -> Turn:
        B, K = len(self.numbers), self.n_actions
        observations = np.zeros((B, 2, K), np.float32)
        heard = np.full((B, 2, 1), SILENCE)
        masks = np.zeros((B, 2, K), np.bool_)
        masks[:, :, 0] = True
        if self.time == 0:
            observations[np.arange(B), 0, self.numbers] = 1.0
        elif self.time == 1:
            heard[:, 1] = 0
            masks[:, 1] = True
        return Turn(observations, heard, masks)


def whisper(**settings: Any) -> DIAL:
    settings = {"seeds": (0, 1, 2), "hidden": 32, "learning_rate": 3e-3, "epsilon": 0.3, **settings}
    return DIAL(Whisper, device="cpu", **settings)


def parameters(team: DIAL, index: int) -> list[torch.Tensor]:
    return [p.detach().clone() for p in team.lockstep.losses[index].parameters()]


def first_of(batch: Batch) -> Batch:
    """The episodes of the first team."""
    return Batch(*[field[0] for field in batch])


# What is learned


@pytest.mark.parametrize("estimator", ["st-gumbel", "gumbel-softmax", "straight-through", "gumbel-rao"])
def test_a_whisper_is_understood(estimator: str) -> None:
    teams = whisper(estimator=estimator).learn(200 * 32, log_interval=1000)
    assert (teams.evaluate(500).mean_return == 1.0).sum() >= 2
    # What is shuffled is worth 1/2, with a standard error of .022.
    assert (teams.evaluate(500, scramble=True).mean_return < 0.62).all()


def test_a_whisper_is_understood_by_reinforce() -> None:
    teams = whisper(communication="rial").learn(200 * 32, log_interval=1000)
    assert (teams.evaluate(500).mean_return == 1.0).sum() >= 2
    assert (teams.evaluate(500, scramble=True).mean_return < 0.62).all()


def test_without_communication_a_guess_is_all_there_is() -> None:
    teams = whisper(communication="none").learn(50 * 32)
    result = teams.evaluate(500)
    np.testing.assert_allclose(result.mean_return, 1 / 2, atol=0.12)  # five standard errors
    assert teams.evaluate(500, scramble=True).mean_return.tolist() == result.mean_return.tolist()


def test_prisoners_beat_what_is_possible_without_the_switch() -> None:
    pytest.importorskip("pettingzoo")
    from gsrl.comms.riddle import SwitchRiddle, all_visits

    visits = all_visits(3)
    teams = DIAL(SwitchRiddle, (0, 1, 2), hidden=64, device="cpu").learn(300 * 32, log_interval=1000)
    result = teams.evaluate(729, env=lambda: SwitchRiddle(3, visits))
    assert (result.normalized_return > 0.75).sum() >= 2  # .722 without communication
    scrambled = teams.evaluate(729, env=lambda: SwitchRiddle(3, visits), scramble=True)
    assert (scrambled.normalized_return < 0.722).all()


# The loss


def test_the_target_is_the_reward_and_the_best_legal_value_after_it() -> None:
    teams = whisper(seeds=(0,), communication="none", gamma=0.9, layers=2, epsilon=1.0)
    batch, loss = first_of(teams.collect()), teams.lockstep.losses[0]
    values, _, _ = loss._unroll(loss.network, batch)
    masks, actions, rewards = batch.masks, batch.actions, batch.rewards
    taken = (values * actions).sum(-1)
    best = values.masked_fill(~masks, -torch.inf).amax(-1)  # the target network is a copy still
    errors = torch.stack([0.9 * best[1] - taken[0], rewards[1] - taken[1]])
    expected = 0.5 * errors.square().sum(0).mean()
    torch.testing.assert_close(loss(*batch)[0], expected)
    assert ((rewards[1] == 1).sum(0) > 0).all()


def test_the_listeners_error_reaches_the_speaker_through_the_message() -> None:
    teams = whisper(seeds=(0,), communication="dial", epsilon=1.0)
    episodes, loss = first_of(teams.collect()), teams.lockstep.losses[0]
    weight, bias = (p for name, p in loss.network.named_parameters() if name.startswith("head.2"))
    (gradient,) = torch.autograd.grad(loss(*episodes)[0], bias)
    # By hand: the error of agent 1 at the second step, by what it hears, by the first step's soft sample.
    first = loss.network.first((32, 2), weight)
    _, logits, state = loss.network(torch.cat([episodes.context[0], torch.zeros(32, 2, 2)], -1), first)
    soft = (logits[:, 0, 0].detach() + episodes.noise[0, :, 0, 0]).softmax(-1)
    message = torch.nn.functional.one_hot(soft.argmax(-1), 2).float().requires_grad_()
    heard = torch.stack([torch.zeros_like(message), message], 1)
    second, _, _ = loss.network(torch.cat([episodes.context[1], heard], -1), state)
    taken = (second * episodes.actions[1]).sum(-1)
    (slope,) = torch.autograd.grad((0.5 * (episodes.rewards[1] - taken).square()).sum() / 64, message)
    expected = soft * (slope - (soft * slope).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient[2:], expected.sum(0), rtol=1e-4, atol=1e-7)


def test_speakers_learn_by_reinforce_from_what_followed_and_only_if_they_were_heard() -> None:
    teams = whisper(seeds=(0,), communication="rial", epsilon=1.0, gamma=0.9)
    episodes, loss = first_of(teams.collect()), teams.lockstep.losses[0]
    weight, bias = (p for name, p in loss.network.named_parameters() if name.startswith("head.2"))
    (gradient,) = torch.autograd.grad(loss(*episodes)[0], bias)
    with torch.no_grad():
        first = loss.network.first((32, 2), weight)
        values, logits, _ = loss.network(torch.cat([episodes.context[0], torch.zeros(32, 2, 2)], -1), first)
        p = logits[:, 0, 0].softmax(-1)  # agent 0's alone: nobody hears agent 1
        said = torch.nn.functional.one_hot((logits[:, 0, 0] + episodes.noise[0, :, 0, 0]).argmax(-1), 2)
        cost = values[:, 0, 0] - 0.9 * episodes.rewards[1, :, 0]
        expected = (cost.unsqueeze(-1) * (said - p)).sum(0) / 64
    torch.testing.assert_close(gradient[2:], expected, rtol=1e-4, atol=1e-7)


def test_ears_hear_all_symbols_of_whom_they_listen_to() -> None:
    teams = whisper(seeds=(0,), length=2, vocabulary=3)
    messages = torch.eye(3)[torch.tensor([[[0, 1], [2, 2]], [[1, 1], [2, 0]]])]
    routes = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])  # agent 1 hears 0; 0 hears 1
    heard = teams.lockstep.losses[0].hear(messages, routes)
    assert heard.tolist() == [[[0.0] * 6, [1, 0, 0, 0, 1, 0]], [[0, 0, 1, 1, 0, 0], [0.0] * 6]]
    teams.learn(2 * 32)
    assert teams.evaluate(20).returns.shape == (1, 20)


def test_the_loss_repeats_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for communication in ("dial", "rial"):
        teams = whisper(communication=communication)
        said: list[torch.Tensor] = []
        step = teams._step

        def remembered(*inputs: Any, step: Any = step, said: list[torch.Tensor] = said) -> Any:
            result = step(*inputs)
            said.append(result[1])
            return result

        monkeypatch.setattr(teams, "_step", remembered)
        batch = teams.collect()
        for index, loss in enumerate(teams.lockstep.losses):
            episodes = Batch(*[field[index] for field in batch])
            _, policies, _ = loss._unroll(loss.network, episodes)
            for t, policy in enumerate(policies):
                again, _ = loss.say(policy, episodes.noise[t])
                torch.testing.assert_close(again, said[t][index])


# Lock-step, saving


def test_a_team_does_not_depend_on_its_company() -> None:
    together, alone = whisper(seeds=(5, 3)), whisper(seeds=(3,))
    for teams in (together, alone):
        teams.learn(120 * 32, log_interval=1000)
    for a, b in zip(parameters(together, 1), parameters(alone, 0), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("communication", ["dial", "rial", "none"])
def test_saved_teams_go_on_as_if_nothing_had_happened(communication: str, tmp_path: Path) -> None:
    teams = whisper(communication=communication).learn(5 * 32, log_interval=2)
    teams.save(tmp_path / "teams.zip")
    loaded = DIAL.load(tmp_path / "teams.zip", Whisper, device="cpu")
    assert loaded.history == teams.history
    assert loaded.num_episodes == 160
    for each in (teams, loaded):
        each.learn(5 * 32, log_interval=2)
    assert loaded.history == teams.history
    for index in range(3):
        for a, b in zip(parameters(teams, index), parameters(loaded, index), strict=True):
            assert torch.equal(a, b)


def test_a_schedule_advances_and_is_saved(tmp_path: Path) -> None:
    from gsrl.temperature import LinearTemperature

    estimator = make_estimator("st-gumbel", temperature=LinearTemperature(2.0, 1.0, 10))
    teams = whisper(estimator=estimator).learn(5 * 32)
    assert teams.scalars()[2]["train/temperature"] == pytest.approx(1.5)
    teams.save(tmp_path / "teams.zip")
    assert DIAL.load(tmp_path / "teams.zip", Whisper).scalars()[0]["train/temperature"] == pytest.approx(1.5)
    assert estimator.temperature().item() == 2.0  # each team has its own


def test_evaluation_changes_nothing_and_repeats_itself() -> None:
    teams, other = whisper(), whisper()
    first = teams.evaluate(50)
    assert (first.returns == teams.evaluate(50).returns).all()
    assert (first.returns != teams.evaluate(50, seed=1).returns).any()
    assert first.lengths.tolist() == [[2] * 50] * 3
    assert first.normalized_return.tolist() == first.mean_return.tolist()
    for each in (teams, other):
        each.learn(2 * 32)
    assert all(torch.equal(a, b) for a, b in zip(parameters(teams, 0), parameters(other, 0), strict=True))


def test_training_is_logged(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = []
    teams = whisper(seeds=(0, 4), tensorboard_log=str(tmp_path))
    teams.learn(10 * 32, lambda each: seen.append(each.num_updates) or each.num_updates < 4, log_interval=2)
    assert seen == [2, 4]  # the callback ended it
    assert [row["episodes"] for row in teams.history] == [64, 128]
    events = EventAccumulator(str(next(tmp_path.glob("dial_seed_4*")))).Reload()
    for name in ("eval/mean_return", "eval/normalized_return", "train/td_error", "train/message_entropy"):
        assert [event.step for event in events.Scalars(name)] == [64, 128]


def test_other_files_and_environments_are_refused() -> None:
    file = io.BytesIO()
    whisper().save(file)
    with pytest.raises(CheckpointError, match="does not fit"):
        DIAL.load(file, lambda: Whisper(5), device="cpu")


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"seeds": ()}, ValueError, "seeds must hold at least one"),
        ({"communication": "shout"}, ValueError, "communication must be one of"),
        ({"estimator": "reinforce"}, ValueError, "estimator must be a pathwise one for 'dial', but got 'reinforce'"),
        ({"communication": "rial", "estimator": "rloo"}, ValueError, "estimator must be 'reinforce' for 'rial'"),
        ({"communication": "none", "estimator": "st-gumbel"}, ValueError, "estimator must be None"),
        ({"estimator": 3}, TypeError, "estimator must be a name or an estimator"),
        ({"vocabulary": 1}, ValueError, "vocabulary must be an integer of at least 2"),
        ({"length": 0}, ValueError, "length must be an integer of at least 1"),
        ({"epsilon": 1.5}, ValueError, r"epsilon must be in \[0, 1\]"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be positive"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        whisper(**settings)


def test_what_is_no_environment_is_refused() -> None:
    with pytest.raises(TypeError, match=r"env must be a function that makes a gsrl.comms.TalkingEnv.*lacks n_agents"):
        DIAL(Whisper())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="episodes must be an integer of at least 1"):
        whisper().evaluate(0)
