"""Agents that talk, by the command line: their files, resuming, evaluating, their language, and answers to mistakes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

from gsrl import checkpoint
from gsrl.comms import DIAL, SignallingGame
from gsrl.comms.riddle import SwitchRiddle
from gsrl.estimators import ESTIMATORS
from gsrl.runs import trainees
from gsrl.runs.cards import TaskCard, cards, defaults, get_card
from gsrl.runs.config import Config, read_config
from gsrl.runs.errors import UsageError
from gsrl.runs.session import evaluate_run
from tests.common.command_line import assert_same_run, events, exit_code, read_json, rows, tensors

GAME = ["--agent", "signalling", "--meanings", "4", "--vocabulary", "4", "--batch-size", "16", "--hidden", "16"]
GAME += ["--steps", "2400", "--eval-every", "800"]
"""Settings with which a game is learned in a second or two. More updates than are done before they are recorded."""

SIGNALLING: Any = get_card("signalling")
TALKERS = [card for card in cards() if isinstance(card, TaskCard)]

TEAM = ["--batch-size", "4", "--hidden", "8", "--steps", "64", "--eval-every", "32"]
"""Settings with which prisoners learn nothing, in a second."""


def train(folder: Path, *options: str) -> int | str | None:
    return exit_code(["train", *options, "--out", str(folder)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two games that was not interrupted."""
    folder = tmp_path_factory.mktemp("talking") / "whole"
    assert train(folder, *GAME, "--seeds", "2", "--seed", "3") == 0
    return folder


# What it leaves


def test_a_run_leaves_what_others_in_lockstep_do(whole: Path) -> None:
    config, summary = read_json(whole / "config.json"), read_json(whole / "summary.json")
    assert (config["agent"], config["env"], config["seed"], config["seeds"]) == ("signalling", "lewis", 3, 2)
    assert (config["settings"]["meanings"], config["settings"]["estimator"]) == (4, "st-gumbel")
    assert (summary["status"], summary["seeds"], summary["steps"]) == ("finished", [3, 4], 2400)
    scores = [member["eval_return_mean"] for member in summary["members"]]
    assert summary["eval_return_worst"] == min(scores) >= 0.75
    evaluations = rows(whole / "evaluations.csv")
    assert [(int(row["steps"]), int(row["seed"])) for row in evaluations] == [
        (steps, seed) for steps in (800, 1600, 2400) for seed in (3, 4)
    ]
    assert [float(row["mean_return"]) for row in evaluations[-2:]] == scores
    assert {row["episodes"] for row in evaluations} == {"4"}  # each meaning once
    assert {row["seed"] for row in rows(whole / "progress.csv")} == {"3", "4"}
    assert (whole / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in whole.iterdir() if path.is_dir()}
    assert names == {"seed_3", "seed_4", "median", "lower_quartile", "upper_quartile"}
    for seed, score in zip((3, 4), scores, strict=True):
        scalars = events(whole / f"seed_{seed}")
        assert [step for step, _ in scalars["eval/mean_return"]] == [800, 1600, 2400]
        assert scalars["eval/mean_return"][-1][1] == pytest.approx(score)
        assert {"train/cost", "train/entropy", "train/diversity", "train/gradient_norm_sender"} <= scalars.keys()


def test_a_model_is_the_librarys(whole: Path) -> None:
    game = SignallingGame.load(whole / "seed_4" / "model.zip", device="cpu")
    assert game.seeds == [4]
    assert game.num_samples == 2400
    assert game.evaluate().accuracy[0] == read_json(whole / "summary.json")["members"][1]["eval_return_mean"]
    game.learn(2)


def test_a_game_does_not_depend_on_its_company(whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "alone", *GAME, "--seed", "4") == 0
    first, second = (
        tensors(checkpoint.load(folder / "seed_4" / "model.zip")) for folder in (whole, tmp_path / "alone")
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4)


def test_one_game_is_the_default_and_its_folder_is_named_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(["train", *GAME, "--steps", "64"]) == 0
    assert "signalling on lewis after 64 episodes: accuracy" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["lewis_signalling_seed0"]


@pytest.mark.parametrize("agent", ["dial", "rial", "no-communication"])
def test_prisoners_are_trained_evaluated_and_resumed(
    agent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    options = ["--agent", agent, *TEAM, "--linear-decay", "--seeds", "2"]
    assert train(folder, *options) == 0
    capsys.readouterr()
    assert exit_code(["eval", str(folder), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    members = read_json(folder / "summary.json")["members"]
    assert [each["mean_return"] for each in results["members"]] == [each["eval_return_mean"] for each in members]
    assert [each["episodes"] for each in results["members"]] == [729, 729]  # every order of visits
    assert exit_code(["train", "--resume", str(folder), "--steps", "96"]) == 0
    assert read_json(folder / "summary.json")["steps"] == 96
    capsys.readouterr()
    assert exit_code(["eval", str(folder), "--scramble", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["members"][0]["scramble"]
    assert exit_code(["protocol", str(folder)]) == 2
    assert "no list of meanings" in capsys.readouterr().err
    assert exit_code(["eval", str(folder), "--stochastic"]) == 2
    assert "cannot be evaluated so: it knows no --stochastic" in capsys.readouterr().err
    assert DIAL.load(folder / "seed_1" / "model.zip", SwitchRiddle, device="cpu").num_episodes == 96


def test_a_decaying_learning_rate_heeds_the_whole_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    update = DIAL._update

    def spy(self: DIAL, remaining: float) -> None:
        update(self, remaining)
        seen.append(self.learning_rate(remaining))  # type: ignore[operator]

    monkeypatch.setattr(DIAL, "_update", spy)
    options = ["--agent", "dial", *TEAM, "--linear-decay", "--learning-rate", "0.16", "--eval-every", "20"]
    assert train(tmp_path / "run", *options) == 0
    np.testing.assert_allclose(seen, 0.16 * (1 - np.arange(16) / 16), atol=1e-12)


# Interrupted, and resumed


@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(
    how: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = TaskCard.learn

    def interrupted(card: Any, games: SignallingGame, *arguments: Any) -> None:
        learn(card, games, *arguments)
        if games.num_samples >= 1900:
            if how == "killed":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TaskCard, "learn", interrupted)
        assert train(folder, *GAME, "--seeds", "2", "--seed", "3") == 130
    if how == "Ctrl-C":
        assert f"python run_agent.py train --resume {folder}" in capsys.readouterr().out
        summary = read_json(folder / "summary.json")
        assert (summary["status"], summary["eval_return_mean"]) == ("interrupted", None)
        assert 1900 <= summary["steps"] < 2400
    assert checkpoint.load(folder / "checkpoint.zip")["steps"] >= 1600  # that of the evaluation, if it was killed
    torch.rand(1)  # another process would not have this one's random numbers
    assert exit_code(["train", "--resume", str(folder)]) == 0
    assert_same_run(whole, folder, logs=("evaluations.csv", "progress.csv"))  # of episodes there is no log
    assert exit_code(["train", "--resume", str(folder)]) == 2
    assert "is finished, at 2400 steps" in capsys.readouterr().err


def test_resume_takes_as_little_as_that_of_others(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train", "--resume", str(whole), "--steps", "800"]) == 2
    assert "--steps must be at least the 2400 that" in capsys.readouterr().err
    assert exit_code(["train", "--resume", str(whole / "seed_3")]) == 2
    assert "cannot be resumed: it has no checkpoint.zip" in capsys.readouterr().err


def test_games_that_diverge_are_told_and_end_the_run_when_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = TaskCard.learn

    def poisoned(card: Any, games: SignallingGame, *arguments: Any) -> None:
        if games.num_samples >= 800:
            with torch.no_grad():
                next(games.agents(0).parameters()).fill_(torch.nan)
                if games.num_samples >= 1600:
                    next(games.agents(1).parameters()).fill_(torch.nan)
        learn(card, games, *arguments)

    monkeypatch.setattr(TaskCard, "learn", poisoned)
    assert train(tmp_path / "run", *GAME, "--seeds", "2") == 1
    error = capsys.readouterr().err
    assert "seed 0 diverged at " in error
    assert "the loss of no seed is finite" in error.splitlines()[-1]


@pytest.mark.parametrize(("agent", "env", "batch_size"), [("signalling", "lewis", 16), ("dial", "switch-riddle", 4)])
@pytest.mark.parametrize("chunks", [(160,), (96, 112, 160)])
def test_those_that_diverge_have_stopped_at_their_last_update(
    agent: str, env: str, batch_size: int, chunks: tuple[int, ...]
) -> None:
    settings = dataclasses.replace(defaults(agent, env).settings, batch_size=batch_size, hidden=8)
    talkers = trainees.TaskTrainee(Config(settings, agent, env, 160, seeds=2))
    talkers.learn(64)
    with torch.no_grad():
        talkers.model.lockstep.learners[0].tensors.parameters.fill_(torch.nan)
    for steps in chunks:
        talkers.learn(steps)
    assert talkers.diverged == [True, False]
    assert talkers.steps == 160
    assert talkers.stopped_at == [64, None]


# Evaluating


def test_eval_repeats_the_summary_and_the_scramble_test_destroys_it(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = read_json(whole / "summary.json")["members"]
    scores = [member["eval_return_mean"] for member in members]
    assert exit_code(["eval", str(whole), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["members"]
    assert [each["mean_return"] for each in results] == scores
    assert exit_code(["eval", str(whole / "seed_4"), "--scramble", "--json"]) == 0
    (scrambled,) = [json.loads(capsys.readouterr().out)]
    assert scrambled["episodes"] == 10_000
    # A meaning is guessed right once in four; five standard errors.
    assert scrambled["mean_return"] == pytest.approx(0.25, abs=0.022)
    assert exit_code(["eval", str(whole), "--scramble", "--episodes", "50"]) == 0
    printed = capsys.readouterr().out
    assert "messages shuffled" in printed
    assert "mean accuracy" in printed
    assert exit_code(["eval", str(whole), "--stochastic", "--episodes", "500", "--seed", "7"]) == 0
    assert "sampled" in capsys.readouterr().out


def test_held_out_meanings_are_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--agent", "signalling", "--env", "attribute-value", "--values", "3", "--vocabulary", "3"]
    assert train(tmp_path / "run", *options, "--steps", "256", "--sender", "gru") == 0
    capsys.readouterr()
    counts = []
    for split in ("train", "held_out", "all"):
        assert exit_code(["eval", str(tmp_path / "run" / "seed_0"), "--split", split, "--json"]) == 0
        counts.append(json.loads(capsys.readouterr().out)["episodes"])
    assert counts == [7, 2, 9]
    assert exit_code(["protocol", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "topographic similarity: " in printed
    assert "bag-of-symbols disentanglement: " in printed


def test_eval_answers_to_mistakes(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, answer in (
        (["--split", "held_out"], "signalling cannot be evaluated so: split 'held_out' is empty"),
        (["--episodes", "0"], "--episodes must be at least 1, but got 0"),
        (["--seed", "-1"], "--seed must be at least 0 and below 2**31, but got -1"),
        (["--device", "abacus"], "--device 'abacus' cannot be used"),
    ):
        assert exit_code(["eval", str(whole), *options]) == 2
        assert answer in capsys.readouterr().err
    assert exit_code(["gradients", "--run", str(whole)]) == 2
    assert "gradients needs a run of a soft actor-critic agent" in capsys.readouterr().err
    with pytest.raises(UsageError, match="holds 2 agents: each is in a folder of its own, such as"):
        evaluate_run(whole)


# The language


def test_protocol_prints_and_draws_the_language(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["protocol", str(whole), "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    assert "signalling in lewis, seed 4" in printed
    table = rows(whole / "seed_4" / "protocol.csv")
    assert list(table[0]) == ["message", "meanings", "probability", "accuracy"]
    meanings = sorted(int(meaning) for row in table for meaning in row["meanings"].split("; "))
    assert meanings == [0, 1, 2, 3]
    assert sum(float(row["probability"]) for row in table) == pytest.approx(1)
    understood = sum(float(row["probability"]) * float(row["accuracy"]) for row in table)
    assert understood == pytest.approx(read_json(whole / "summary.json")["members"][1]["eval_return_mean"])
    page = (whole / "seed_4" / "protocol.md").read_text()
    assert page.startswith("# signalling in lewis, seed 4\n\n| message | meanings |")
    assert "- mutual information (bits): " in page
    for name in ("protocol.png", "dependence.png"):
        assert (whole / "seed_4" / name).read_bytes().startswith(b"\x89PNG")
        assert str(whole / "seed_4" / name) in printed
    assert exit_code(["protocol", str(whole / "seed_3"), "--out", str(tmp_path / "new" / "there")]) == 0
    assert len(list((tmp_path / "new" / "there").iterdir())) == 4


def test_protocol_answers_to_mistakes(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for argv, answer in (
        ([str(tmp_path)], "holds no run: it has no config.json"),
        ([str(whole), "--seed", "5"], "from 3 to 4, but got 5"),
        ([str(whole / "seed_3"), "--seed", "4"], "from 3 to 3, but got 4"),
        ([str(whole), "--out", str(tmp_path / "file")], "file cannot be a folder"),
    ):
        assert exit_code(["protocol", *argv]) == 2
        assert answer in capsys.readouterr().err


# Settings


@pytest.mark.parametrize("card", TALKERS, ids=lambda card: card.name)
def test_tuned_settings_are_settings(card: Any) -> None:
    assert card.tuned.keys() <= card.environments.keys()
    standard = {"steps": 100_000, **vars(card.Settings())}
    for env in card.tuned:
        assert {name for name, value in card.tuned_settings(env).items() if standard[name] == value} == set()
        assert defaults(card.name, env).steps > 0


def test_every_environment_and_estimator_makes_a_game() -> None:
    for env in SIGNALLING.environments:
        game = SIGNALLING.make(env, defaults("signalling", env).settings, seeds=(0,), device="cpu")
        assert SIGNALLING.play(game, SIGNALLING.Settings(), 20).shape[0] == 1
    estimators = get_args(get_type_hints(SIGNALLING.Settings)["estimator"])
    assert set(estimators) <= set(ESTIMATORS)
    for name in estimators:
        settings = SIGNALLING.Settings(meanings=3, vocabulary=3, estimator=name, batch_size=8, hidden=8)
        game = SIGNALLING.make("lewis", settings, seeds=(0,), device="cpu")
        SIGNALLING.learn(game, settings, 16, 100)
        assert game.num_updates == 2
        assert game.lockstep.alive.all()


@pytest.mark.parametrize(
    ("settings", "best"),
    [
        ({}, 1.0),
        ({"vocabulary": 5}, 0.5),
        ({"erasure": 0.3}, 0.7 + 0.03),
        ({"substitution": 0.3}, 0.7),
        ({"vocabulary": 5, "erasure": 0.2}, 0.8 * 0.5 + 0.02),
        ({"vocabulary": 20, "substitution": 0.3}, None),
        ({"prior_exponent": 1.0}, None),
        ({"length": 2}, None),
    ],
)
def test_the_best_accuracy_is_drawn_where_it_is_known(settings: dict[str, Any], best: float | None) -> None:
    found = SIGNALLING.best_score("lewis", SIGNALLING.Settings(meanings=10, **settings))
    assert found == (None if best is None else pytest.approx(best))


def test_a_power_law_makes_later_meanings_rare() -> None:
    game = SIGNALLING.made["game"]("lewis", SIGNALLING.Settings(meanings=4, prior_exponent=1.0))
    np.testing.assert_allclose(game.probabilities(), np.array([12, 6, 4, 3]) / 25, rtol=1e-6)
    assert SIGNALLING.made["game"]("lewis", SIGNALLING.Settings(meanings=4)).prior is None


# Mistakes


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--vocabulary", "1"], "--vocabulary must be an integer of at least 2, but got 1"),
        (["--length", "0"], "--length must be an integer of at least 1, but got 0"),
        (["--env", "levis"], "unknown environment 'levis' of signalling; did you mean lewis"),
        (["--env", "CartPole-v1"], "unknown environment 'CartPole-v1' of signalling"),
        (["--meanings", "1"], "--meanings must be an integer of at least 2, but got 1"),
        (["--meanings", "None"], "--meanings must be an integer of at least 2, but got None"),
        (["--candidates", "3"], "--candidates must be None in lewis, which has meanings and prior_exponent, but got 3"),
        (["--env", "attribute-value", "--meanings", "3"], "--meanings must be None in attribute-value"),
        (["--env", "attribute-value", "--estimator", "exact"], "needs the whole message at once, so --length must be"),
        (["--erasure", "1.5"], "--erasure must be a probability, in [0, 1], but got 1.5"),
        (["--temperature", "0"], "--temperature must be a positive number, but got 0.0"),
        (["--estimator", "exact", "--temperature", "1"], "--temperature must be None with exact, which has none"),
        (["--hidden", "0"], "--hidden must be an integer of at least 1, but got 0"),
        (["--batch-size", "0"], "--batch-size must be an integer of at least 1, but got 0"),
        (["--estimator", "gumble"], "gumble"),
        (["--n-envs", "2"], "--n-envs is for agents in Gymnasium's environments"),
        (["--processes", "2"], "--processes is for agents in Gymnasium's environments"),
        (["--stop-at", ".9"], "--stop-at is for agents in Gymnasium's environments"),
        (
            ["--gradient-samples", "8"],
            "--gradient-samples is for agents in Gymnasium's environments, and signalling has its own",
        ),
        (["--seeds", "0"], "--seeds must be at least 1, but got 0"),
        (["--seeds", "2", "--seed", "2147483647"], "--seeds must leave all seeds below 2**31"),
        (["--agent", "dial", "--prisoners", "2"], "--prisoners must be an integer of at least 3, but got 2"),
        (["--agent", "dial", "--vocabulary", "1"], "--vocabulary must be an integer of at least 2, but got 1"),
        (["--agent", "rial", "--env", "lewis"], "unknown environment 'lewis' of rial; there are switch-riddle"),
        (
            ["--agent", "gumbel-sac", "--env", "lewis"],
            "lewis is an environment of signalling, and none of",
        ),
        (["--agent", "signaling"], "did you mean signalling"),
    ],
)
def test_mistakes_are_answered_before_any_work(
    options: list[str],
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "dial" in options:
        monkeypatch.chdir(tmp_path)
    assert exit_code(["train", "--agent", "signalling", *options]) == 2
    captured = capsys.readouterr()
    assert answer in " ".join((captured.err + captured.out).split())
    assert list(tmp_path.iterdir()) == []


def test_search_and_plain_runs_answer_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert exit_code(["search", "--agent", "signalling"]) == 2
    assert "search is for agents in Gymnasium's environments, and signalling has its own" in capsys.readouterr().err
    options = ["--agent", "a2c", "--steps", "20", "--eval-episodes", "1"]
    assert train(tmp_path / "run", *options) == 0
    assert exit_code(["eval", str(tmp_path / "run"), "--scramble"]) == 2
    assert "--scramble and --split are for agents that talk, and a2c does not" in capsys.readouterr().err
    assert exit_code(["protocol", str(tmp_path / "run")]) == 2


def test_a_folder_of_another_version_is_refused(whole: Path, tmp_path: Path) -> None:
    stored = read_json(whole / "config.json")
    stored["settings"]["colour"] = "blue"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match=r"config\.json cannot be used: TypeError.*colour"):
        read_config(tmp_path)
    with pytest.raises(UsageError, match="holds no run"):
        read_config(tmp_path / "nowhere")
    assert isinstance(read_config(whole), Config)


def test_help_and_list_show_agents_that_talk(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train", "--agent", "signalling", "--env", "attribute-value", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--vocabulary INT" in text
    assert "(default: 153600)" in text
    assert exit_code(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(card.name in printed for card in TALKERS)
