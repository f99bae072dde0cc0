"""The search over settings by the command line: its rungs, its results, its confirmation, and resuming."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import run_agent
from gsrl.runs import search, trainees
from gsrl.runs.cards import get_card, in_lockstep
from gsrl.runs.errors import UsageError
from gsrl.runs.search import Ladder, Result, parse_grid
from gsrl.runs.session import load_model
from tests.common.command_line import exit_code, read_json

SMALL = ["--steps", "160", "--learning-starts", "30", "--batch-size", "16", "--net-arch", "16", "--eval-episodes", "2"]
SMALL += ["--buffer-size", "1000", "--processes", "1"]
SETTINGS = get_card("gumbel-sac").Settings
GRID = ["--grid", "learning_rate=3e-4,1e-2", "--grid", "n-steps=1,3,5"]


def find(folder: Path, *options: str) -> int:
    return run_agent.main(["search", *SMALL, *GRID, "--confirm", "2", "--out", str(folder), *options])


def results(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was not interrupted."""
    folder = tmp_path_factory.mktemp("search") / "whole"
    assert find(folder) == 0
    return folder


def test_half_of_the_settings_go_on_from_each_rung(whole: Path) -> None:
    rows = results(whole)
    scores = ["score at 40", "score at 80", "score at 160"]
    assert list(rows[0]) == ["rank", "learning_rate", "n_steps", *scores, "diverged at"]
    assert {(row["learning_rate"], row["n_steps"]) for row in rows} == {
        (rate, n) for rate in ("0.0003", "0.01") for n in "135"
    }
    assert [sum(bool(row[name]) for row in rows) for name in (*scores, "diverged at")] == [6, 3, 2, 0]
    first = [float(row["score at 40"]) for row in rows]
    assert min(first[:3]) >= max(first[3:])
    assert float(rows[0]["score at 160"]) >= float(rows[1]["score at 160"])
    summary = read_json(whole / "summary.json")
    assert (summary["status"], summary["rungs"], summary["settings"]) == ("finished", [40, 80, 160], 6)
    assert f"{summary['winner']['scores'][-1]:.1f}" == rows[0]["score at 160"]
    assert (whole / "search.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_winner_is_confirmed_on_fresh_seeds_by_the_command_that_is_shown(whole: Path, tmp_path: Path) -> None:
    summary = read_json(whole / "summary.json")
    assert summary["confirmation"]["seeds"] == [1, 2]
    command = summary["winner"]["train"]
    assert f"python run_agent.py train {shlex.join(command)}" in (whole / "results.md").read_text()
    again = tmp_path / "again"
    more = ["--seed", "1", "--seeds", "2", "--processes", "1", "--eval-episodes", "2", "--out", str(again)]
    assert run_agent.main(["train", *command, *more]) == 0
    iqm = read_json(again / "summary.json")["eval_return_iqm"]
    assert iqm == summary["confirmation"]["eval_return_iqm"]


def test_a_score_is_what_an_agent_alone_would_get(whole: Path, tmp_path: Path) -> None:
    # At the first rung of 40 steps no setting has been left behind yet.
    row = results(whole)[-1]
    options = ["--learning-rate", row["learning_rate"], "--n-steps", row["n_steps"]]
    alone = [option for option in SMALL if option not in ("--processes", "1")]
    assert run_agent.main(["train", *alone, *options, "--steps", "40", "--out", str(tmp_path / "run")]) == 0
    evaluator = trainees.Evaluator("CartPole-v1", 0)
    returns = evaluator(load_model(tmp_path / "run"), 2, steps=40)  # the episodes of an evaluation along the way
    evaluator.close()
    assert f"{np.mean(returns):.1f}" == row["score at 40"]


@pytest.mark.parametrize("steps", [20, 60])
def test_an_interrupted_search_ends_as_one_that_was_not(
    steps: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advance = search.Search._advance

    def interrupted(self: Any, pace: Any) -> None:
        if self.members.steps >= steps:
            raise search.Interrupted
        pace.steps = 7
        advance(self, pace)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(search.Search, "_advance", interrupted)
        assert find(folder) == 130
    assert f"python run_agent.py search --resume {folder}" in capsys.readouterr().out
    assert read_json(folder / "summary.json")["status"] == "interrupted"
    stored = (folder / "search.json").read_text()
    for name, value, said in (("seed", 7, "seed 7 instead of"), ("steps", "80", "steps must be int, but got '80'")):
        (folder / "search.json").write_text(json.dumps({**json.loads(stored), name: value}))
        assert exit_code(["search", "--resume", str(folder)]) == 2
        assert said in capsys.readouterr().err
    (folder / "search.json").write_text(stored)
    assert run_agent.main(["search", "--resume", str(folder)]) == 0
    assert (folder / "results.csv").read_text() == (whole / "results.csv").read_text()
    ours, theirs = (read_json(path / "summary.json")["confirmation"] for path in (folder, whole))
    assert ours["eval_return_iqm"] == theirs["eval_return_iqm"]
    sessions = read_json(folder / "search.json")["sessions"]
    assert sessions[1]["from_steps"] >= steps
    assert exit_code(["search", "--resume", str(folder)]) == 2
    assert "is finished" in capsys.readouterr().err


def test_a_search_interrupted_in_its_confirmation_goes_on_there(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(search.session, "start", killed)
        assert find(folder) == 130
    assert read_json(folder / "summary.json")["status"] == "interrupted"
    assert run_agent.main(["search", "--resume", str(folder)]) == 0
    ours, theirs = (read_json(path / "summary.json") for path in (folder, whole))
    assert ours["steps"] == theirs["steps"]
    assert ours["confirmation"]["eval_return_iqm"] == theirs["confirmation"]["eval_return_iqm"]


def test_processes_and_seeds_of_a_setting(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ["--grid", "gamma=.9,.99", "--seeds-per-setting", "2", "--processes", "2", "--rungs", "2"]
    assert run_agent.main(["search", *SMALL, *options, "--confirm", "0", "--out", str(folder)]) == 0
    summary = read_json(folder / "summary.json")
    assert (summary["status"], summary["rungs"], summary["confirmation"]) == ("finished", [80, 160], None)
    assert [sum(bool(row[name]) for row in results(folder)) for name in ("score at 80", "score at 160")] == [2, 1]


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_setting_that_diverges_is_marked_ranked_last_and_never_chosen(
    interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate, advance = search.Members.evaluate, search.Search._advance

    def flattering(self: Any, episodes: int) -> Any:
        returns = evaluate(self, episodes)
        returns[self.diverged] = 1e6
        return returns

    def stopped(self: Any, pace: Any) -> None:
        if interrupted and self.rung == 1:
            raise search.Interrupted
        advance(self, pace)

    monkeypatch.setattr(search.Members, "evaluate", flattering)
    folder = tmp_path / "run"
    options = ["--grid", "learning_rate=1e30,1e-3,3e-4", "--rungs", "2", "--seeds-per-setting", "2"]
    options += ["--confirm", "0", "--keep", ".9", "--out", str(folder)]
    with monkeypatch.context() as patch:
        patch.setattr(search.Search, "_advance", stopped)
        assert run_agent.main(["search", *SMALL, *options]) == (130 if interrupted else 0)
    if interrupted:
        assert run_agent.main(["search", "--resume", str(folder)]) == 0
    assert "1 of 3 settings diverged, and are ranked last" in capsys.readouterr().out
    first, second, last = results(folder)
    assert {first["learning_rate"], second["learning_rate"]} == {"0.001", "0.0003"}
    assert first["diverged at"] == second["diverged at"] == ""
    assert first["score at 160"]
    assert (last["learning_rate"], last["score at 144"], last["score at 160"]) == ("1e+30", "", "")
    assert 30 <= int(last["diverged at"]) <= 40
    summary = read_json(folder / "summary.json")
    assert (summary["status"], summary["diverged"]) == ("finished", 1)
    assert summary["winner"]["setting"]["learning_rate"] == float(first["learning_rate"])
    assert "1 of 3 settings diverged: " in (folder / "results.md").read_text()


def test_a_search_in_which_all_diverge_says_so_and_chooses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    options = ["--grid", "learning_rate=1e30,1e31", "--confirm", "1", "--out", str(folder)]
    for argv in (["search", *SMALL, *options], ["search", "--resume", str(folder)]):
        assert exit_code(argv) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(
            "run_agent.py: error: the search has no winner: every setting that had come to 40 steps"
        )
        summary = read_json(folder / "summary.json")
        assert (summary["status"], summary["diverged"], summary["winner"]) == ("failed", 2, None)
        assert [int(row["diverged at"]) < 40 for row in results(folder)] == [True, True]
        assert not search.confirmation_folder(folder).exists()


@pytest.mark.parametrize(("options", "processes"), [(["--processes", "1"], 1), ([], None)])
def test_processes_are_those_of_the_confirmation_too(
    options: list[str], processes: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def killed(config: Any, *arguments: Any) -> None:
        started.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(search.session, "start", killed)
    monkeypatch.setattr(search, "number_of_processes", lambda count, device: 1)
    argv = [*SMALL[: SMALL.index("--processes")], *options, "--grid", "gamma=.9,.99", "--rungs", "1"]
    assert run_agent.main(["search", *argv, "--confirm", "3", "--out", str(tmp_path / "run")]) == 130
    assert [config.processes for config in started] == [processes]


def test_the_ladder_ends_at_all_steps() -> None:
    assert Ladder().steps(10_000) == [2500, 5000, 10_000]
    assert Ladder(rungs=2, keep=0.25).steps(1000) == [250, 1000]
    assert Ladder(rungs=1).steps(7) == [7]


def test_results_are_ordered_by_rungs_then_by_the_latest_score() -> None:
    scores = ([2.0, 4.0], [9.0], [1.0, 4.0], [1.0, 3.0])
    lost = [Result({}, [99.0, 99.0], 30), Result({}, [], 20), Result({}, [], 10)]
    in_order = sorted([*(Result({}, each) for each in scores), *lost], key=Result.order)
    assert [result.scores for result in in_order[3:]] == [[9.0], [1.0, 3.0], [1.0, 4.0], [2.0, 4.0]]
    assert [result.diverged_at for result in in_order[:4]] == [10, 20, 30, None]


def test_the_preset_grid_has_32_settings() -> None:
    for ent_coef, entropy in (("auto", "target_entropy_ratio"), (0.1, "ent_coef"), ("relative", "ent_coef")):
        grid = parse_grid((), SETTINGS(ent_coef=ent_coef))
        assert list(grid) == ["learning_rate", "n_steps", entropy]
        assert [len(values) for values in grid.values()] == [4, 4, 2]


def test_agents_that_learn_from_whole_episodes_have_a_grid_of_their_own() -> None:
    grid = parse_grid((), get_card("reinforce-rloo").Settings())
    assert [len(values) for values in grid.values()] == [4, 4, 2]
    assert parse_grid(["n_episodes=2,4"], get_card("reinforce-rloo").Settings()) == {"n_episodes": (2, 4)}
    with pytest.raises(UsageError, match="--grid cannot vary 'n_steps'"):
        parse_grid(["n_steps=1,5"], get_card("reinforce-rloo").Settings())


def test_a_search_among_agents_that_learn_from_whole_episodes(tmp_path: Path) -> None:
    options = ["--agent", "reinforce-baseline", "--steps", "240", "--eval-episodes", "2", "--processes", "1"]
    options += ["--grid", "n_episodes=1,2", "--grid", "gae_lambda=.9,1", "--confirm", "1", "--out", str(tmp_path / "s")]
    assert run_agent.main(["search", *options]) == 0
    assert {(row["n_episodes"], row["gae_lambda"]) for row in results(tmp_path / "s")} == {
        (n, x) for n in "12" for x in ("0.9", "1")
    }


def test_an_entropy_that_nothing_steers_to_is_not_searched() -> None:
    for ent_coef in (0.1, "relative"):
        with pytest.raises(UsageError, match=f"no effect where --ent-coef is {ent_coef}: add --ent-coef auto"):
            parse_grid(["target_entropy_ratio=.1,.2"], SETTINGS(ent_coef=ent_coef))
    parse_grid(["target_entropy_ratio=.1,.2", "ent_coef=auto,auto_0.1"], SETTINGS(ent_coef=0.1))


def test_a_grid_is_read_by_the_kinds_of_the_settings() -> None:
    entries = ["learning-rate=3e-4,.1", "n_steps=1,20,auto", "ent_coef=auto,auto_0.1", "temperature=.5,1"]
    assert parse_grid(entries, SETTINGS()) == {
        "learning_rate": (3e-4, 0.1),
        "n_steps": (1, 20, "auto"),
        "ent_coef": ("auto", "auto_0.1"),
        "temperature": (0.5, 1.0),
    }


@pytest.mark.parametrize(
    ("entries", "answer"),
    [
        (["batch_size=64,128"], "cannot vary 'batch_size': it is the same for all; what may differ is learning_rate, "),
        (["learning_rat=1e-3"], "did you mean learning_rate?"),
        (["gamma"], "takes name=value,value, but got 'gamma'"),
        (["n_steps=1,2.5"], "values of n_steps that are int | Literal['auto'], but got '2.5'"),
        (["gamma=.9,high"], "values of gamma that are float, but got 'high'"),
        (["gamma=.9,", "tau=.1"], "values of gamma that are float, but got ''"),
        (["gamma=.9", "gamma=.8"], "names gamma twice"),
        (["gamma=.9,.90"], "a value of gamma twice"),
    ],
)
def test_a_grid_that_cannot_be_searched_is_answered(entries: list[str], answer: str) -> None:
    with pytest.raises(UsageError, match="--grid") as error:
        parse_grid(entries, SETTINGS())
    assert answer in str(error.value)


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (
            ["--agent", "dqn"],
            f"which {' and '.join(in_lockstep())} can, but not dqn",
        ),
        (["--seeds", "3"], "--seeds is for train; search has --seeds-per-setting and --confirm"),
        (["--stop-at", "300"], "--stop-at is for train"),
        (["--keep", "1"], "--keep must be above 0 and below 1, but got 1.0"),
        (["--rungs", "0"], "--rungs must be at least 1, but got 0"),
        (
            ["--rungs", "9", "--steps", "99"],
            "--rungs must leave each rung more of the 99 steps than the one before, but",
        ),
        (["--grid", "gamma=2,.9", "--processes", "1"], "--gamma must be in [0, 1], but got 2.0"),
        (["--grid", "tau=7,.9", "--processes", "1"], "--tau must be in [0, 1], but got 7.0"),
        (["--resume", "nowhere"], "nowhere holds no search"),
        (["--resume", "nowhere", "--steps", "3"], "--resume takes everything from nowhere/search.json"),
    ],
)
def test_mistakes_are_answered_before_any_work(
    argv: list[str], answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(["search", *argv]) == 2
    assert answer in capsys.readouterr().err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []
