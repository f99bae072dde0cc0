"""Suites by the command line: rows, resuming, crashes, backends, reports."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import run_agent
from gsrl.bench import runner
from gsrl.bench.suite import read_suite
from gsrl.bench.tables import finished_runs, merged
from gsrl.runs.config import is_finished, read_json

ROOT = Path(run_agent.__file__).parent
SUITE = """
seeds = 2
eval_every = 80
eval_episodes = 3

[environments.CartPole-v1]
steps = 240
low = 20.0
high = 500.0
threshold = 475.0

[[runs]]
agents = ["gumbel-sac"]
gradient_samples = 4
settings = { net_arch = [16], batch_size = 16, learning_starts = 40, n_steps = 3 }

[[runs]]
agents = ["a2c"]
seeds = 1
"""
A2C_ALONE = SUITE[: SUITE.index("[[runs]]")] + SUITE[SUITE.rindex("[[runs]]") :]
CRASH = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Crash(CartPoleEnv):
    steps = 0
    def step(self, action):
        Crash.steps += 1
        if Crash.steps > 300:
            raise OSError("the disk is on fire")
        return super().step(action)

gym.register("Crash-v0", Crash, max_episode_steps=500)
"""
TALKING = """
seeds = 2

[environments.lewis]
steps = 9600
low = 0.25
high = 1.0

[environments.switch-riddle]
steps = 64
low = 0.0
high = 0.7407

[[runs]]
label = "{estimator}"
agents = ["signalling"]
environments = ["lewis"]
eval_every = 2400
settings = { meanings = 4, vocabulary = 4, batch_size = 16, hidden = 16 }
each = { estimator = ["st-gumbel", "rloo"] }

[[runs]]
agents = ["dial", "no-communication"]
environments = ["switch-riddle"]
eval_every = 32
settings = { batch_size = 8, hidden = 8 }
"""
TIMES = ("seconds", "train_seconds")


def bench(suite: Path, out: Path, *options: str) -> int:
    return run_agent.main(["bench", str(suite), "--out", str(out), "--processes", "2", *options])


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def start(suite: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run_agent.py"), "bench", str(suite), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def wait_for(condition: Any, what: str) -> None:
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(what)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def whole(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark that was not interrupted."""
    out = tmp_path_factory.mktemp("bench") / "whole"
    assert bench(suite, out) == 0
    return out


def test_a_row_for_each_evaluation(whole: Path) -> None:
    found = rows(whole)
    assert list(found[0])[:6] == ["suite", "label", "agent", "env", "seed", "step"]
    assert [(row["label"], row["seed"], row["final"]) for row in found] == [
        *[("a2c", "0", final) for final in "001"],
        *[("gumbel-sac", seed, final) for seed in "01" for final in "001"],
    ]
    assert [row["step"] for row in found[3:6]] == ["80", "160", "240"]
    assert [row["episodes"] for row in found[3:6]] == ["5", "5", "3"]
    assert {row["members"] for row in found[3:]} == {"2"}
    with (whole / "results.csv").open() as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)][:3]
    assert 0 < seconds[0] <= seconds[1] <= seconds[2]
    gradients = (whole / "gradients.csv").read_text().splitlines()
    assert len(gradients) == 1 + 2 * 3
    assert gradients[0].split(",")[6:] == ["norm", "relative_bias", "relative_bias_error", "variance", "snr", "cosine"]
    stored = read_json(whole / "suite.json")
    assert stored["sessions"][0]["command"][:2] == ["run_agent.py", "bench"]
    assert stored["sessions"][0]["cores"] == os.cpu_count()
    assert {"versions", "platform", "processor", "git"} <= stored["sessions"][0].keys()


def test_a_run_is_one_of_train(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = whole / "runs" / "CartPole-v1_gumbel-sac_seeds0-1"
    final = [row for row in rows(whole) if row["label"] == "gumbel-sac" and row["final"] == "1"]
    members = read_json(folder / "summary.json")["members"]
    assert [float(row["mean_return"]) for row in final] == [member["eval_return_mean"] for member in members]
    assert run_agent.main(["eval", str(folder / "seed_1"), "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_return"] == float(final[1]["mean_return"])
    assert "training 2 agents in lock-step" in (folder / "task.log").read_text()


def test_what_is_finished_is_not_repeated(
    whole: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "Child", None)  # nothing may be started
    for name in ("results.csv", "gradients.csv"):  # the tables alone will do
        shutil.copy(whole / name, tmp_path / name)
    before = (tmp_path / "results.csv").read_bytes()
    assert bench(suite, tmp_path) == 0
    assert (tmp_path / "results.csv").read_bytes() == before
    assert "3 of 3 runs are finished" in capsys.readouterr().out
    # So will the folders.
    shutil.copytree(whole / "runs", tmp_path / "again" / "runs")
    assert bench(suite, tmp_path / "again") == 0
    assert (tmp_path / "again" / "results.csv").read_bytes() == before
    assert (tmp_path / "again" / "gradients.csv").read_bytes() == (whole / "gradients.csv").read_bytes()


def test_results_of_something_else_are_not_mixed_in(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("results.csv", "suite.json"):
        shutil.copy(whole / name, out / name)
    changed = tmp_path / "tiny.toml"
    changed.write_text(SUITE.replace("batch_size = 16", "batch_size = 32").replace("steps = 240", "steps = 250"))
    assert bench(changed, out) == 2
    error = capsys.readouterr().err
    assert "gumbel-sac on CartPole-v1 with steps 240 instead of 250, batch_size 16 instead of 32: choose" in error
    other = tmp_path / "other.toml"
    other.write_text(SUITE)
    assert bench(other, out) == 2
    assert "holds results of suite tiny, not of other" in capsys.readouterr().err
    (out / "runs").mkdir()
    (out / "results.csv").unlink()
    shutil.copytree(whole / "runs" / "CartPole-v1_a2c_seed0", out / "runs" / "CartPole-v1_a2c_seed0")
    (out / "runs" / "CartPole-v1_a2c_seed0" / "summary.json").unlink()
    assert bench(changed, out, "--only", "a2c") == 2
    assert "was begun with steps 240 instead of 250: remove it" in capsys.readouterr().err


def test_settings_that_are_new_had_their_defaults_before(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "Child", None)  # nothing may be started
    shutil.copy(whole / "results.csv", tmp_path / "results.csv")
    stored = json.loads((whole / "suite.json").read_text())
    for plan in stored["plans"]:
        for name in ("exploration_eps", "n_step_correction"):
            plan["settings"].pop(name, None)
    (tmp_path / "suite.json").write_text(json.dumps(stored))
    path = tmp_path / "tiny.toml"
    path.write_text(SUITE)
    assert bench(path, tmp_path) == 0
    path.write_text(SUITE.replace("batch_size = 16", "batch_size = 16, exploration_eps = 0.5"))
    assert bench(path, tmp_path) == 2
    assert "gumbel-sac on CartPole-v1 with exploration_eps 0.0 instead of 0.5" in capsys.readouterr().err


def test_finished_folders_of_other_settings_are_not_taken(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "Child", None)  # nothing may be started
    out = tmp_path / "out"
    shutil.copytree(whole / "runs", out / "runs")
    path = tmp_path / "tiny.toml"
    path.write_text(SUITE.replace("batch_size = 16", "batch_size = 32"))
    assert bench(path, out) == 2
    error = capsys.readouterr().err
    assert "CartPole-v1_gumbel-sac_seeds0-1 was begun with batch_size 16 instead of 32: remove it" in error
    assert not (out / "results.csv").exists()
    path.write_text(SUITE.replace("seeds = 2", "seeds = 2\nfirst_seed = 100"))
    assert bench(path, out) == 2
    assert "was begun with first_seed 0 instead of 100: remove it" in capsys.readouterr().err
    # What is not of the suite is left alone.
    path.write_text(A2C_ALONE)
    assert bench(path, out) == 0
    assert {row["label"] for row in rows(out)} == {"a2c"}


def test_plans_with_results_are_kept_when_the_suite_has_them_no_more(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "Child", None)  # nothing may be started
    for name in ("results.csv", "suite.json"):
        shutil.copy(whole / name, tmp_path / name)
    path = tmp_path / "tiny.toml"
    path.write_text(A2C_ALONE)
    assert bench(path, tmp_path) == 0
    before, after = (read_json(folder / "suite.json")["plans"] for folder in (whole, tmp_path))
    assert after == before[::-1]
    path.write_text(SUITE.replace("batch_size = 16", "batch_size = 32"))
    assert bench(path, tmp_path) == 2
    assert "gumbel-sac on CartPole-v1 with batch_size 16 instead of 32: choose" in capsys.readouterr().err
    # Without rows they are forgotten.
    lines = (tmp_path / "results.csv").read_text().splitlines(keepends=True)
    (tmp_path / "results.csv").write_text("".join(line for line in lines if ",gumbel-sac," not in line))
    path.write_text(A2C_ALONE)
    assert bench(path, tmp_path) == 0
    assert read_json(tmp_path / "suite.json")["plans"] == before[1:]


def test_options_that_cannot_be_used(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--only", "gumble-sac"], "--only 'gumble-sac' fits nothing of the suite; did you mean gumbel-sac"),
        (["--address", "auto"], "--address is for --backend ray"),
        (["--processes", "0"], "--processes must be at least 1, but got 0"),
        (["--address", "auto", "--backend", "ray"], "--processes is for this machine"),
    ):
        assert bench(suite, tmp_path / "out", *options) == 2
        assert message in capsys.readouterr().err


def test_a_killed_suite_ends_as_one_that_was_not(whole: Path, suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(suite, out, "--processes", "2")
    evaluations = out / "runs" / "CartPole-v1_gumbel-sac_seeds0-1" / "evaluations.csv"
    wait_for(lambda: evaluations.exists() and evaluations.read_text().count("\n") > 2, "no evaluation")
    process.kill()
    process.communicate()
    assert not is_finished(evaluations.parent)
    time.sleep(1)  # for its children to notice
    seen = evaluations.stat().st_mtime_ns
    assert bench(suite, out) == 0
    assert evaluations.stat().st_mtime_ns > seen
    assert len(read_json(evaluations.parent / "config.json")["sessions"]) == 2
    assert rows(out) == rows(whole)
    assert (out / "gradients.csv").read_bytes() == (whole / "gradients.csv").read_bytes()


def test_an_interrupted_suite_says_how_to_go_on(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(suite, out, "--processes", "1", "--only", "gumbel-sac")
    folder = out / "runs" / "CartPole-v1_gumbel-sac_seeds0-1"
    wait_for(lambda: (folder / "config.json").exists(), "no run")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "0 of 2 runs are finished" in output
    assert f"go on with:\n  python run_agent.py bench {suite}" in output
    assert "%|" not in errors  # no bar in a file
    assert read_json(folder / "summary.json")["status"] == "interrupted"
    assert (folder / "checkpoint.zip").exists()


def test_a_crash_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "crashing_env.py").write_text(CRASH)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "crash.toml"
    text = SUITE.replace('[[runs]]\nagents = ["gumbel-sac"]', '[environments."crashing_env:Crash-v0"]\nsteps = 600')
    text = text[: text.index("gradient_samples")] + '[[runs]]\nagents = ["a2c"]\nseeds = 1\n'
    path.write_text(text)
    assert bench(path, tmp_path / "out", "--trust") == 1
    output = capsys.readouterr().out
    log = tmp_path / "out" / "runs" / "crashing_env-Crash-v0_a2c_seed0" / "task.log"
    assert "FAILED  a2c on crashing_env:Crash-v0, seed 0: error: training failed at" in output
    assert "the disk is on fire" in output
    assert f"log: {log}" in output
    assert "training failed" in log.read_text()
    assert "1 of 2 runs are finished" in output
    assert {row["env"] for row in rows(tmp_path / "out")} == {"CartPole-v1"}
    assert run_agent.main(["report", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert r"a2c on crashing\_env:Crash-v0: 1 of 1 seeds" in text


def test_ray_gives_the_same_rows(whole: Path, suite: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    process = start(suite, tmp_path / "ray", "--backend", "ray", "--processes", "2")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert rows(tmp_path / "ray") == rows(whole)


def test_without_ray_the_extra_is_named(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert bench(suite, tmp_path, "--backend", "ray") == 2
    assert 'pip install -e ".[ray]"' in capsys.readouterr().err


def test_a_report_of_a_real_benchmark(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_agent.main(["report", str(whole), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "How noisy is the actor" in page
    ET.fromstring(page.partition("\n")[2])
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".png") == [
        "curves.png",
        "gradients.png",
        "scores.png",
    ]
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    assert run_agent.main(["report", str(tmp_path)]) == 2
    assert "holds no benchmark: it has no results.csv" in capsys.readouterr().err


# Agents that talk


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of agents that talk."""
    pytest.importorskip("pettingzoo")
    path = tmp_path_factory.mktemp("suite") / "talking.toml"
    path.write_text(TALKING)
    return path


@pytest.fixture(scope="module")
def talked(talking: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of them that was not interrupted."""
    out = tmp_path_factory.mktemp("bench") / "talked"
    assert bench(talking, out) == 0
    return out


def test_agents_that_talk_have_the_rows_of_others(whole: Path, talked: Path) -> None:
    found = rows(talked)
    assert list(found[0]) == list(rows(whole)[0])
    assert [(row["env"], row["label"], row["seed"], row["step"], row["final"]) for row in found] == [
        *[
            ("lewis", label, seed, step, str(int(step == "9600")))
            for label in ("rloo", "st-gumbel")
            for seed in "01"
            for step in ("2400", "4800", "7200", "9600")
        ],
        *[
            ("switch-riddle", label, seed, step, str(int(step == "64")))
            for label in ("dial", "no-communication")
            for seed in "01"
            for step in ("32", "64")
        ],
    ]
    assert {row["agent"] for row in found} == {"signalling", "dial", "no-communication"}
    # Along the way too: every meaning, and every order of visits.
    assert {(row["env"], row["episodes"], row["members"]) for row in found} == {
        ("lewis", "4", "2"),
        ("switch-riddle", "729", "2"),
    }
    final = [float(row["mean_return"]) for row in found if row["label"] == "st-gumbel" and row["final"] == "1"]
    folder = talked / "runs" / "lewis_st-gumbel_seeds0-1"
    assert final == [member["eval_return_mean"] for member in read_json(folder / "summary.json")["members"]]
    assert set(final) <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_a_killed_suite_of_agents_that_talk_ends_as_one_that_was_not(
    talked: Path, talking: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(talking, out, "--processes", "1", "--only", "rloo")
    evaluations = out / "runs" / "lewis_rloo_seeds0-1" / "evaluations.csv"
    wait_for(lambda: evaluations.exists() and evaluations.read_text().count("\n") > 2, "no evaluation")
    process.kill()
    process.communicate()
    time.sleep(1)  # for its child to notice
    assert not is_finished(evaluations.parent)
    assert bench(talking, out, "--only", "rloo") == 0
    assert len(read_json(evaluations.parent / "config.json")["sessions"]) == 2
    assert rows(out) == [row for row in rows(talked) if row["label"] == "rloo"]


def test_agents_that_talk_may_fail(talking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hot.toml"
    path.write_text(
        TALKING[: TALKING.index("each")]
        .replace("hidden = 16", "hidden = 16, learning_rate = 1e30")
        .replace("{estimator}", "hot")
    )
    assert bench(path, tmp_path / "out") == 1
    output = capsys.readouterr().out
    assert "FAILED  hot on lewis, seeds 0 to 1 in lock-step: error: training diverged: at" in output
    assert "0 of 2 runs are finished" in output


def test_a_report_of_agents_that_talk(talked: Path, tmp_path: Path) -> None:
    assert run_agent.main(["report", str(talked), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "## lewis" in text
    assert "## switch-riddle" in text
    assert "Not in all environments" not in text  # nobody is in both
    ET.fromstring((tmp_path / "report.html").read_text().partition("\n")[2])


# Planning


def row(label: str, seed: int, **values: Any) -> dict[str, str]:
    known = {"label": label, "agent": label, "env": "CartPole-v1", "seed": seed, "step": 100, "final": 1, "members": 1}
    return {name: str(value) for name, value in {**known, "seconds": 10.0, **values}.items()}


def test_new_rows_take_the_place_of_old_ones() -> None:
    old = [row("a", 0, step=50, final=0), row("a", 0), row("a", 1)]
    new = [row("a", 0, step=99)]
    assert merged(old, new) == [row("a", 1), row("a", 0, step=99)]
    assert finished_runs(old) == {("a", "CartPole-v1", 0), ("a", "CartPole-v1", 1)}


def test_what_is_left_to_do(suite: Path) -> None:
    plans = read_suite(str(suite)).plans
    every = runner.make_tasks("tiny", plans, set())
    assert [task.name for task in every] == ["CartPole-v1_gumbel-sac_seeds0-1", "CartPole-v1_a2c_seed0"]
    done = finished_runs([row("gumbel-sac", 0), row("a2c", 0)])
    left = runner.make_tasks("tiny", plans, done)
    assert [(task.config.seed, task.config.seeds) for task in left] == [(1, 1)]
    later = [dataclasses.replace(plan, config=dataclasses.replace(plan.config, seed=100)) for plan in plans]
    left = runner.make_tasks("tiny", later, finished_runs([row("gumbel-sac", 0), row("gumbel-sac", 100)]))
    assert [task.name for task in left] == ["CartPole-v1_gumbel-sac_seeds101-101", "CartPole-v1_a2c_seed100"]
    assert runner.choose(plans, ["a*"]) == [plans[1]]
    assert runner.choose(plans, ["CartPole-v1"]) == list(plans)
    assert runner.choose(plans, ["CartPole-v1", "a2c"]) == [plans[1]]


def test_the_time_left_is_guessed_by_agent(suite: Path) -> None:
    ours, theirs = runner.make_tasks("tiny", read_suite(str(suite)).plans, set())
    assert runner.seconds_left([ours], {}, [], 1) is None
    known = [row("a2c", 5, seconds=10.0)]  # .1 seconds a step
    assert runner.seconds_left([theirs], {}, known, 1) == pytest.approx(24)
    assert runner.seconds_left([theirs, theirs], {}, known, 2) == pytest.approx(24)
    assert runner.seconds_left([], {theirs: 10.0}, known, 2) == pytest.approx(14)
    # Of another agent nothing is known: two members, at the pace of all.
    assert runner.seconds_left([ours], {}, known, 1) == pytest.approx(48)
    known.append(row("gumbel-sac", 5, seconds=10.0, members=10))
    assert runner.seconds_left([ours], {}, known, 1) == pytest.approx(4.8)
