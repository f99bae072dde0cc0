"""Agents in lock-step by the command line: their files, what they have in common with single runs, and resuming."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import run_agent
from gsrl import DiscreteSAC
from gsrl.bench.tables import RESULTS, rows_of
from gsrl.runs import interruption, pool
from gsrl.runs.cards import in_lockstep
from gsrl.runs.config import default_config, read_config
from gsrl.runs.curve import plot_population
from gsrl.runs.errors import TrainingError, UsageError
from gsrl.runs.pool import Member, Members
from gsrl.runs.run import Run
from gsrl.runs.scores import interquartile_mean
from tests.common.command_line import ROOT, assert_same_run, events, exit_code, parameters, read_json, rows

SMALL = ["--steps", "240", "--learning-starts", "40", "--batch-size", "16", "--n-steps", "3", "--net-arch", "16"]
SMALL += ["--buffer-size", "1000", "--eval-every", "80", "--eval-episodes", "6"]
"""Settings with which three agents train in a second or two."""


def train(folder: Path, *options: str, seeds: int | None = 3) -> int:
    several = [] if seeds is None else ["--seeds", str(seeds), "--processes", "1"]
    return run_agent.main(["train", *SMALL, *several, "--out", str(folder), *options])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three seeds that was not interrupted."""
    folder = tmp_path_factory.mktemp("populations") / "whole"
    assert train(folder) == 0
    return folder


# What it leaves


def test_the_summary_says_how_good_they_are_and_what_the_time_went_to(whole: Path) -> None:
    summary = read_json(whole / "summary.json")
    assert (summary["status"], summary["seeds"], summary["steps"]) == ("finished", [0, 1, 2], 240)
    means = [member["eval_return_mean"] for member in summary["members"]]
    assert [member["seed"] for member in summary["members"]] == [0, 1, 2]
    assert summary["eval_return_iqm"] == pytest.approx(np.mean(means))  # no quarter of three is a whole seed
    assert summary["eval_return_mean"] == pytest.approx(np.mean(means))
    assert summary["eval_return_worst"] == min(means)
    assert summary["eval_episodes"] == 6
    assert not any(member["diverged"] or member["stopped_at"] for member in summary["members"])
    assert summary["steps_per_second"] == pytest.approx(3 * 240 / summary["train_seconds"])
    shares = summary["time_shares"]
    names = ["environment", "acting", "replay", "update", "evaluation", "logging", "checkpoints", "other"]
    assert list(shares) == names
    assert sum(shares.values()) == pytest.approx(1, abs=0.02)
    assert all(0 <= share < 1 for share in shares.values())


def test_every_log_has_a_row_for_each_seed(whole: Path) -> None:
    evaluations = rows(whole / "evaluations.csv")
    assert list(evaluations[0])[:2] == ["steps", "seed"]
    assert [(int(row["steps"]), int(row["seed"])) for row in evaluations] == [
        (steps, seed) for steps in (80, 160, 240) for seed in range(3)
    ]
    assert {row["episodes"] for row in evaluations[:6]} == {"5"}
    progress = rows(whole / "progress.csv")
    assert [int(row["seed"]) for row in progress] == [0, 1, 2] * (len(progress) // 3)
    assert all(float(row["train/entropy"]) > 0 for row in progress[-30:])
    assert {row["seed"] for row in rows(whole / "episodes.csv")} == {"0", "1", "2"}


def test_tensorboard_has_each_agent_and_the_quartiles_of_all(whole: Path) -> None:
    agents = [events(whole / f"seed_{seed}")["eval/mean_return"] for seed in range(3)]
    assert [[step for step, _ in agent] for agent in agents] == [[80, 160, 240]] * 3
    for name, share in (("lower_quartile", 0.25), ("median", 0.5), ("upper_quartile", 0.75)):
        of_all = events(whole / name)
        assert {"eval/mean_return", "train/entropy", "rollout/ep_rew_mean"} <= of_all.keys()
        for index, (step, value) in enumerate(of_all["eval/mean_return"]):
            assert step == agents[0][index][0]
            assert value == pytest.approx(np.quantile([agent[index][1] for agent in agents], share), rel=1e-6)


def test_each_agent_is_what_it_is_alone(whole: Path, tmp_path: Path) -> None:
    for seed in (0, 2):
        alone = tmp_path / str(seed)
        assert train(alone, "--seed", str(seed), seeds=None) == 0
        expected = [[row[name] for name in ("steps", "mean_return")] for row in rows(alone / "evaluations.csv")]
        among = [row for row in rows(whole / "evaluations.csv") if row["seed"] == str(seed)]
        assert [[row[name] for name in ("steps", "mean_return")] for row in among] == expected
        own = {row["steps"]: row for row in rows(alone / "progress.csv")}
        for row in (row for row in rows(whole / "progress.csv") if row["seed"] == str(seed)):
            assert row["rollout/ep_rew_mean"] == own[row["steps"]]["rollout/ep_rew_mean"]
            for name in (name for name in row if name.startswith("train/") and row[name]):
                assert float(row[name]) == pytest.approx(float(own[row["steps"]][name]), rel=2e-3, abs=2e-5), name
        theirs = parameters(whole / f"seed_{seed}" / "model.zip")
        for key, value in parameters(alone / "model.zip").items():
            torch.testing.assert_close(theirs[key], value, rtol=1e-3, atol=1e-4)


def test_an_agent_is_an_agent_of_its_own(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = DiscreteSAC.load(whole / "seed_1" / "model.zip")
    assert model.predict(np.zeros(4, dtype=np.float32), deterministic=True)[0] in (0, 1)
    assert model.num_timesteps == 240
    assert read_config(whole / "seed_1").seed == 1
    summary = read_json(whole / "summary.json")
    assert run_agent.main(["eval", str(whole / "seed_1"), "--episodes", "6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_return"] == summary["members"][1]["eval_return_mean"]
    assert run_agent.main(["eval", str(whole), "--episodes", "6", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["iqm"] == pytest.approx(summary["eval_return_iqm"])
    means = [member["eval_return_mean"] for member in summary["members"]]
    assert [member["mean_return"] for member in result["members"]] == means
    assert run_agent.main(["eval", str(whole), "--episodes", "6"]) == 0
    assert "seed_2" in capsys.readouterr().out
    assert exit_code(["gradients", "--run", str(whole)]) == 2
    assert "gradients needs a run of one agent" in capsys.readouterr().err


def test_the_picture_marks_the_final_mean_of_a_finished_run_alone(whole: Path, tmp_path: Path) -> None:
    assert (whole / "learning_curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    returns = np.array([[1.0, 2.0], [3.0, 9.0]])
    pictures = []
    for finished in (True, False):
        path = tmp_path / f"{finished}.png"
        plot_population(path, "title", [10, 20], returns, finished=finished)
        pictures.append(path.read_bytes())
    assert pictures[0] != pictures[1]
    plot_population(tmp_path / "none.png", "title", [], np.zeros((2, 0)), finished=False)
    lost = tmp_path / "lost.png"
    plot_population(lost, "title", [10, 20], returns, finished=True, diverged_at=[None, 14])
    assert lost.read_bytes() not in pictures


def test_how_they_are_shared_out_does_not_matter(whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--processes", "2") == 0
    for expected, row in zip(rows(whole / "evaluations.csv"), rows(tmp_path / "run" / "evaluations.csv"), strict=True):
        assert row == expected
    assert rows(tmp_path / "run" / "episodes.csv") == rows(whole / "episodes.csv")
    for seed in range(3):
        theirs = parameters(tmp_path / "run" / f"seed_{seed}" / "model.zip")
        for key, value in parameters(whole / f"seed_{seed}" / "model.zip").items():
            torch.testing.assert_close(theirs[key], value, rtol=1e-3, atol=1e-4)


# Interrupted


@pytest.mark.parametrize("killed", [True, False])
def test_an_interrupted_run_ends_as_one_that_was_not(
    killed: bool, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Run._advance
    stops: list[Any] = []

    def interrupted(self: Any, pace: Any) -> None:
        advance(self, pace)
        if self.steps >= 110:
            if killed:
                raise KeyboardInterrupt
            stops[-1].requested = True

    learn = Run.learn
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_advance", interrupted)
        patch.setattr(Run, "learn", lambda self, stop: (stops.append(stop), learn(self, stop))[1])
        assert train(folder) == 130
    if not killed:
        summary = read_json(folder / "summary.json")
        assert (summary["status"], summary["eval_return_iqm"]) == ("interrupted", None)
        assert 110 <= summary["steps"] < 240
    assert run_agent.main(["train", "--resume", str(folder)]) == 0
    assert_same_run(whole, folder)
    assert read_json(folder / "config.json")["sessions"][1]["from_steps"] >= 80


@pytest.mark.parametrize("n_envs", ["1", "2"])
def test_agents_that_learn_from_whole_episodes_go_on_in_the_middle_of_them(
    n_envs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(folder: Path) -> int:
        options = ["--agent", "reinforce-relax", "--steps", "240", "--n-episodes", "4", "--n-envs", n_envs]
        options += ["--net-arch", "16", "--eval-every", "80", "--eval-episodes", "6", "--seeds", "3"]
        return run_agent.main(["train", *options, "--processes", "1", "--out", str(folder)])

    advance = Run._advance

    def interrupted(self: Any, pace: Any) -> None:
        if self.steps >= 130:
            raise interruption.Interrupted
        pace.steps = 14
        advance(self, pace)

    assert start(tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_advance", interrupted)
        assert start(tmp_path / "run") == 130
    assert run_agent.main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert 130 <= read_json(tmp_path / "run" / "config.json")["sessions"][1]["from_steps"] < 160


def test_a_run_killed_with_its_processes_ends_as_one_that_was_not(tmp_path: Path) -> None:
    options = ["--steps", "1500", "--eval-every", "300", "--processes", "2"]
    assert train(tmp_path / "whole", *options) == 0
    folder = tmp_path / "killed"
    argv = ["train", *SMALL, "--seeds", "3", *options, "--checkpoint-seconds", "0", "--out", str(folder)]
    process = subprocess.Popen([sys.executable, str(ROOT / "run_agent.py"), *argv], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "evaluations.csv").exists() or len(rows(folder / "evaluations.csv")) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 30
    while any(_is_alive(pid) for pid in workers):  # they end when they see that nobody asks them any more
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert run_agent.main(["train", "--resume", str(folder)]) == 0
    assert read_json(folder / "config.json")["sessions"][1]["from_steps"] > 0
    assert_same_run(tmp_path / "whole", folder)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_signal_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    argv = [
        "train",
        *SMALL,
        "--seeds",
        "2",
        "--processes",
        "2",
        "--steps",
        "1000000",
        "--eval-every",
        "100",
        "--no-compile",
    ]
    command = [sys.executable, str(ROOT / "run_agent.py"), *argv, "--out", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "evaluations.csv").exists() or len(rows(folder / "evaluations.csv")) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert out.splitlines()[-1].strip() == f"python run_agent.py train --resume {folder}"
    steps = read_json(folder / "summary.json")["steps"]
    assert steps >= 100
    assert (folder / "seed_1" / "model.zip").exists()
    assert run_agent.main(["train", "--resume", str(folder), "--steps", str(steps + 50)]) == 0
    assert read_json(folder / "summary.json")["steps"] == steps + 50


def test_a_finished_run_is_extended(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert train(folder, "--steps", "160") == 0
    assert exit_code(["train", "--resume", str(folder)]) == 2
    assert "is finished, at 160 steps" in capsys.readouterr().err
    assert run_agent.main(["train", "--resume", str(folder), "--steps", "240"]) == 0
    theirs = parameters(folder / "seed_1" / "model.zip")
    for key, value in parameters(whole / "seed_1" / "model.zip").items():
        assert torch.equal(value, theirs[key]), key


def test_a_checkpoint_of_other_processes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert train(folder, "--steps", "60") == 0
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "processes": 2}))
    assert exit_code(["train", "--resume", str(folder), "--steps", "80"]) == 2
    assert "processes 2 instead of 1; change it back" in capsys.readouterr().err
    (folder / "config.json").write_text(json.dumps({**config, "seeds": 2}))
    assert exit_code(["train", "--resume", str(folder), "--steps", "80"]) == 2
    assert "error" in capsys.readouterr().err


# Stopped


def test_those_that_are_good_enough_stop_and_the_others_go_on(whole: Path, tmp_path: Path) -> None:
    at_80 = {row["seed"]: float(row["mean_return"]) for row in rows(whole / "evaluations.csv") if row["steps"] == "80"}
    best = max(at_80, key=at_80.__getitem__)
    threshold = sorted(at_80.values())[-1]
    assert threshold > sorted(at_80.values())[-2]
    folder = tmp_path / "run"
    assert train(folder, "--stop-at", str(threshold)) == 0
    members = {str(member["seed"]): member for member in read_json(folder / "summary.json")["members"]}
    assert members[best]["stopped_at"] == 80
    evaluations = [row for row in rows(folder / "evaluations.csv") if row["seed"] == best]
    assert evaluations[0]["mean_return"] == str(threshold)
    assert DiscreteSAC.load(folder / f"seed_{best}" / "model.zip").learner.count < 60
    assert max(int(row["steps"]) for row in rows(folder / "progress.csv") if row["seed"] == best) <= 80
    other = next(seed for seed, member in members.items() if member["stopped_at"] is None)
    theirs = parameters(folder / f"seed_{other}" / "model.zip")
    for key, value in parameters(whole / f"seed_{other}" / "model.zip").items():
        assert torch.equal(value, theirs[key]), key


def test_a_run_whose_agents_have_all_stopped_is_over(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--stop-at", "0") == 0
    summary = read_json(tmp_path / "run" / "summary.json")
    assert (summary["status"], summary["steps"]) == ("finished", 80)
    assert [row["steps"] for row in rows(tmp_path / "run" / "evaluations.csv")] == ["80"] * 3


def test_seeds_that_diverge_are_told_of_and_all_of_them_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = pool._Share.learn
    poisoned = [1]

    def poison(self: Any, steps: int) -> Any:
        if self.population.num_timesteps >= 80:
            with torch.no_grad():
                for index in poisoned:
                    next(self.population._members[index].policy.critic.parameters()).fill_(1e30)
        return learn(self, steps)

    monkeypatch.setattr(pool._Share, "learn", poison)
    assert train(tmp_path / "one") == 0
    captured = capsys.readouterr()
    assert "seed 1 diverged at" in captured.err
    assert "of 3 seeds, 1 diverged, 6 episodes each" in captured.err
    assert "6 episodes each; diverged, and counted as they were before: seed 1" in captured.out
    summary = read_json(tmp_path / "one" / "summary.json")
    assert [member["diverged"] for member in summary["members"]] == [False, True, False]
    assert summary["diverged"] == [1]
    assert [row["diverged"] for row in rows(tmp_path / "one" / "evaluations.csv")] == [*"000", *"010", *"010"]
    results = rows_of(tmp_path / "one", "suite", "label", RESULTS)
    assert [row["diverged"] for row in results if row["final"] == "1"] == [*"010"]
    assert run_agent.main(["eval", str(tmp_path / "one"), "--json"]) == 0
    assert [member["diverged"] for member in json.loads(capsys.readouterr().out)["members"]] == [False, True, False]
    assert run_agent.main(["eval", str(tmp_path / "one"), "--episodes", "2"]) == 0
    assert capsys.readouterr().out.count("diverged") == 2  # beside its agent, and what that means

    poisoned[:] = range(3)
    assert exit_code(["train", *SMALL, "--seeds", "3", "--processes", "1", "--out", str(tmp_path / "all")]) == 1
    assert "the loss of no seed is finite; the checkpoint of 80 steps" in capsys.readouterr().err
    assert read_json(tmp_path / "all" / "summary.json")["status"] == "failed"


# Mistakes


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (["--seeds", "3", "--agent", "dqn"], f"which {' and '.join(in_lockstep())} can, but not dqn"),
        (["--seeds", "0"], "--seeds must be at least 1, but got 0"),
        (["--seeds", "2", "--seed", "2147483647"], "--seeds must leave all seeds below 2**31"),
        (["--processes", "2"], "--processes is for several agents in lock-step: give --seeds as well"),
        (["--stop-at", "200"], "--stop-at is for several agents in lock-step: give --seeds as well"),
        (
            ["--compile", "--agent", "ppo"],
            "--compile is for discrete-sac and gumbel-sac and exact-sac, but",
        ),
        (
            ["--compile", "--agent", "reinforce"],
            "--compile is for discrete-sac and gumbel-sac and exact-sac, but",
        ),
        (
            ["--seeds", "2", "--gradient-samples", "9", "--agent", "reinforce"],
            "--gradient-samples is for discrete-sac and gumbel-sac and exact-sac, but",
        ),
        (["--seeds", "2", "--processes", "1", "--tau", "7"], "--tau must be in [0, 1], but got 7.0"),
        (["--seeds", "2", "--processes", "2", "--tau", "7"], "--tau must be in [0, 1], but got 7.0"),
    ],
)
def test_mistakes_are_answered_before_any_work(
    argv: list[str], answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(["train", *argv]) == 2
    assert answer in capsys.readouterr().err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_dies_is_one_clear_error(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--steps", "40") == 0  # for its configuration
    config = read_config(tmp_path / "run")
    members = Members(replace(config, processes=2), [Member(seed, config.settings) for seed in (0, 1)])
    try:
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(TrainingError, match="a process of the training has died"):
            members.learn(10)
    finally:
        members.close()


def test_members_are_kept_by_their_place(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--steps", "40") == 0
    config = read_config(tmp_path / "run")
    members = Members(replace(config, processes=2), [Member(seed, config.settings) for seed in range(5)])
    try:
        members.learn(30)
        before = members.evaluate(2)
        members.stop([3])
        members.keep([4, 3, 1])
        assert [member.seed for member in members.members] == [1, 3, 4]
        assert members.stopped_at == [None, 30, None]
        np.testing.assert_array_equal(members.evaluate(2), before[[1, 3, 4]])
        episodes = members.learn(40)
        assert members.steps == 40
        assert {episode.member for episode in episodes} <= {0, 2}
        members.keep([0])  # one process has nobody left
        np.testing.assert_array_equal(members.evaluate(2).shape, (1, 2))
        assert [member.seed for member in members.members] == [1]
    finally:
        members.close()


def test_errors_of_a_process_are_those_of_this_one(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--steps", "40") == 0
    config = replace(read_config(tmp_path / "run"), processes=2)
    wrong = replace(config.settings, critics="max")
    with pytest.raises(UsageError, match="critics must be 'min' or 'mean', but got 'max'"):
        Members(config, [Member(seed, wrong) for seed in (0, 1)])


def test_the_interquartile_mean_leaves_out_a_quarter_on_each_side() -> None:
    assert interquartile_mean([9.0, 0.0, 4.0, 2.0]) == 3.0
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0
    assert interquartile_mean([100.0, *range(8), -100.0]) == 3.5  # two of ten on each side
    with pytest.raises(ValueError, match="at least one"):
        interquartile_mean([])


def test_updates_are_compiled_where_there_are_enough_of_them() -> None:
    def compiled(env: str, steps: int | None, agent: str = "gumbel-sac", *, lockstep: bool = True) -> bool:
        return default_config(agent, env, steps, lockstep=lockstep).compile

    assert compiled("CartPole-v1", None)  # tuned for 10,000 steps
    assert not compiled("CartPole-v1", 4999)
    assert not compiled("CartPole-v1", None, lockstep=False)
    assert compiled("CartPole-v1", 40_000, lockstep=False)
    assert not compiled("CartPole-v1", 40_000, "reinforce", lockstep=False)
    assert not compiled("CartPole-v1", None, "dqn")  # whose answer is another
