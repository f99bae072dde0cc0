"""The command line: training, evaluating, resuming, and what it answers to mistakes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import run_agent
from agents import AGENTS, defaults, get_agent, storage
from agents.environments import make_environments
from agents.logs import CsvLog
from gsrl import checkpoint

ROOT = Path(run_agent.__file__).parent

SMALL = {
    "ppo": ["--steps", "256", "--n-envs", "2", "--n-steps", "16", "--batch-size", "32", "--n-epochs", "2"],
    "a2c": ["--steps", "200", "--n-envs", "2", "--normalize"],
    "dqn": ["--steps", "200", "--learning-starts", "20", "--train-freq", "4", "--gradient-steps", "1"],
    "gumbel-sac": ["--steps", "200", "--learning-starts", "50", "--batch-size", "16", "--n-steps", "3"],
    "exact-sac": ["--steps", "200", "--learning-starts", "50", "--batch-size", "16", "--n-steps", "3"],
}
"""Settings with which each agent trains in a second."""


def train(folder: Path, agent: str, *options: str) -> dict[str, Any]:
    argv = ["train", "--agent", agent, *SMALL[agent], "--eval-episodes", "6", "--out", str(folder), *options]
    assert run_agent.main(argv) == 0
    return read_json(folder / "summary.json")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def read_steps(path: Path) -> list[int]:
    with path.open(newline="") as file:
        return [int(row["steps"]) for row in csv.DictReader(file)]


def exit_code(argv: list[str]) -> int | str | None:
    """Of the command, whether it returns it or tyro exits with it."""
    try:
        return run_agent.main(argv)
    except SystemExit as error:
        return error.code


def parameters(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a saved model's parameters, by its path in the tree."""
    found: dict[str, torch.Tensor] = {}

    def collect(node: Any, name: str) -> None:
        if isinstance(node, torch.Tensor):
            found[name] = node
        elif isinstance(node, dict):
            for key, value in node.items():
                collect(value, f"{name}.{key}")

    collect(checkpoint.load(path)["parameters"], "")
    return found


def assert_same_parameters(first: Path, second: Path) -> None:
    expected, actual = parameters(first), parameters(second)
    assert expected.keys() == actual.keys()
    assert len(expected) > 4
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


@pytest.mark.parametrize("agent", AGENTS)
def test_a_run_leaves_all_it_promises_and_eval_repeats_its_result(
    agent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    summary = train(folder, agent, "--seed", "3")
    printed = capsys.readouterr().out
    for name in ("learning_curve.png", "model.zip", "checkpoint.zip", "tensorboard --logdir"):
        assert name in printed

    config = read_json(folder / "config.json")
    assert (config["agent"], config["env"], config["seed"]) == (agent, "CartPole-v1", 3)
    assert config["settings"].keys() == vars(AGENTS[agent].Settings()).keys()
    assert config["versions"].keys() == {"python", "gsrl", "torch", "stable-baselines3", "gymnasium", "numpy"}

    assert (folder / "evaluations.csv").read_text().splitlines()[0] == "steps,mean_return,std_return,episodes"
    steps = read_steps(folder / "evaluations.csv")
    assert steps == sorted(set(steps))
    assert len(steps) >= 5
    assert steps[-1] == summary["steps"] >= config["steps"]
    assert read_steps(folder / "progress.csv")[-1] == summary["steps"]
    assert sum(path.stat().st_size for path in folder.glob("events.out.tfevents.*")) > 500

    picture = (folder / "learning_curve.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 20_000

    assert (summary["status"], summary["agent"], summary["env"]) == ("finished", agent, "CartPole-v1")
    assert (summary["seed"], summary["eval_episodes"]) == (3, 6)
    assert summary["wall_seconds"] >= summary["train_seconds"] > 0
    assert summary["steps_per_second"] == pytest.approx(summary["steps"] / summary["train_seconds"])

    assert run_agent.main(["eval", str(folder), "--episodes", "6", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mean_return"] == summary["eval_return_mean"] == np.mean(result["returns"])
    assert result["std_return"] == summary["eval_return_std"]


@pytest.mark.parametrize("agent", ["ppo", "dqn", "gumbel-sac"])
def test_same_seed_same_parameters_however_often_it_is_evaluated(agent: str, tmp_path: Path) -> None:
    often = train(tmp_path / "often", agent, "--eval-every", "40")
    never = train(tmp_path / "never", agent, "--eval-every", "100000")
    assert len(read_steps(tmp_path / "often" / "evaluations.csv")) >= 5
    assert len(read_steps(tmp_path / "never" / "evaluations.csv")) == 1
    assert often["eval_return_mean"] == never["eval_return_mean"]
    assert_same_parameters(tmp_path / "often" / "model.zip", tmp_path / "never" / "model.zip")


def test_another_seed_gives_other_parameters(tmp_path: Path) -> None:
    train(tmp_path / "0", "ppo", "--seed", "0")
    train(tmp_path / "1", "ppo", "--seed", "1")
    first, second = (parameters(tmp_path / seed / "model.zip") for seed in "01")
    name = ".policy.action_net.weight"
    assert not torch.equal(first[name], second[name])


@pytest.mark.parametrize("agent", ["ppo", "a2c", "dqn", "gumbel-sac"])
def test_resume_extends_a_run_and_appends_to_its_logs(
    agent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    before = train(folder, agent)
    done = before["steps"]
    assert exit_code(["train", "--resume", str(folder)]) == 2
    assert f"is finished, at {done} steps" in capsys.readouterr().err

    # As if the process had gone on after its last checkpoint, and died.
    with (folder / "evaluations.csv").open("a") as file:
        file.write(f"{done + 1},1.0,0.0,5\n")
    old = (folder / "evaluations.csv").read_text().splitlines()[:-1]

    assert run_agent.main(["train", "--resume", str(folder), "--steps", str(done + 128)]) == 0
    after = read_json(folder / "summary.json")
    assert after["steps"] >= done + 128
    assert after["wall_seconds"] > before["wall_seconds"]
    assert (folder / "evaluations.csv").read_text().splitlines()[: len(old)] == old
    for name in ("evaluations.csv", "progress.csv"):
        steps = read_steps(folder / name)
        assert done + 1 not in steps
        assert steps == sorted(set(steps))
        assert steps[-1] == after["steps"]
    episodes = read_steps(folder / "episodes.csv")
    assert episodes == sorted(episodes)
    assert episodes[-1] > done
    assert read_json(folder / "config.json")["steps"] == done + 128

    state = checkpoint.load(folder / "checkpoint.zip")
    assert state["steps"] == after["steps"]
    if agent == "dqn":
        assert state["model"]["replay"]["pos"] == after["steps"]


def test_resume_takes_no_other_option_than_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train", "--resume", str(tmp_path), "--seed", "3"]) == 2
    assert "only --steps can go with it; got --seed 3" in capsys.readouterr().err
    assert exit_code(["train", "--resume", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(("agent", "number"), [("gumbel-sac", signal.SIGINT), ("ppo", signal.SIGTERM)])
def test_a_signal_saves_and_says_how_to_resume(agent: str, number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [*SMALL[agent], "--steps", "1000000", "--eval-every", "100", "--out", str(folder)]
    command = [sys.executable, str(ROOT / "run_agent.py"), "train", "--agent", agent, *options]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "checkpoint.zip").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"train --resume {folder}" in out

    summary = read_json(folder / "summary.json")
    assert (summary["status"], summary["eval_return_mean"]) == ("interrupted", None)
    assert checkpoint.load(folder / "checkpoint.zip")["steps"] == summary["steps"] > 0

    resume = out.splitlines()[-1].split()
    finished = subprocess.run(
        [*resume, "--steps", str(summary["steps"] + 150)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "over 20 episodes" in finished.stdout
    steps = read_steps(folder / "evaluations.csv")
    assert steps == sorted(set(steps))
    assert steps[-1] == read_json(folder / "summary.json")["steps"] >= summary["steps"] + 150


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (["tran"], "did you mean train?"),
        (["train", "--agent", "gumble-sac"], "did you mean gumbel-sac"),
        (["train", "--agent", "zzzzzz"], "there are a2c, dqn, exact-sac, gumbel-sac, ppo"),
        (["train", "--env", "CartPol-v1"], "did you mean CartPole-v1"),
        (["train", "--lerning-rate", "3e-4"], "--learning-rate"),
        (["train", "--learning-rate", "fast"], "fast"),
        (["train", "--steps", "0"], "steps must be at least 1, but got 0"),
        (["train", "--n-envs", "0"], "n_envs must be at least 1, but got 0"),
        (["train", "--seed", "-1"], "seed must be at least 0"),
        (["train", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["train", "--tau", "7"], "tau must be in (0, 1], but got 7.0"),
        (["train", "--env", "Pendulum-v1"], "gumbel-sac needs a Discrete action space"),
        (["train", "--agent", "dqn", "--env", "Pendulum-v1"], "dqn needs a Discrete action space"),
        (["eval", "nowhere"], "nowhere holds no run"),
        (["eval", "nowhere", "--episode", "3"], "--episodes"),
    ],
)
def test_mistakes_are_answered_before_any_work(
    argv: list[str],
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(argv) == 2
    captured = capsys.readouterr()
    assert answer in captured.err + captured.out
    assert list(tmp_path.iterdir()) == []


def test_an_environment_that_is_not_installed_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    assert exit_code(["train", "--env", "LunarLander-v3"]) == 2
    assert 'pip install -e ".[box2d]"' in capsys.readouterr().err


def test_a_missing_command_line_package_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("raise ModuleNotFoundError(\"No module named 'tyro'\", name='tyro')")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import run_agent"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == 'run_agent.py needs tyro, which is not installed: pip install -e ".[cli]"\n'


def test_a_folder_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run_agent.main(["train", "--agent", "ppo", *SMALL["ppo"], "--eval-episodes", "1"]) == 0
    names = ["CartPole-v1_ppo_seed0", "CartPole-v1_ppo_seed0-2"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    assert exit_code(["train", "--out", f"runs/{names[0]}"]) == 2


def test_help_shows_the_settings_tuned_for_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train", "--agent", "ppo", "--env", "Acrobot-v1", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--gae-lambda FLOAT" in text
    assert "(default: 0.94)" in text
    assert "(default: 1000000)" in text
    assert "--tau" not in text


def test_list_names_every_agent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_agent.main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in AGENTS:
        assert name in printed


@pytest.mark.parametrize("agent", AGENTS)
def test_tuned_settings_are_settings(agent: str) -> None:
    assert "CartPole-v1" in get_agent(agent).TUNED
    for env_id in get_agent(agent).TUNED:
        steps, n_envs, _ = defaults(agent, env_id)
        assert steps > 0
        assert n_envs > 0
    assert defaults(agent, "Unheard-of-v0") == (100_000, 1, get_agent(agent).Settings())


def test_a_csv_log_grows_by_rows_and_columns_and_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = CsvLog(path, ["a"])
    log.append({"steps": 1, "a": 10})
    log.append({"steps": 2, "b": 20})
    log.close()
    assert path.read_text().split() == ["steps,a,b", "1,10,", "2,,20"]
    log = CsvLog(path)
    log.truncate(1)
    log.append({"steps": 3, "a": 30, "b": 31})
    log.close()
    assert path.read_text().split() == ["steps,a,b", "1,10,", "3,30,31"]


def test_the_state_of_a_baseline_is_restored_exactly(tmp_path: Path) -> None:
    settings = {
        "dqn": get_agent("dqn").Settings(learning_starts=0, buffer_size=50, net_arch=(8,)),
        "ppo": get_agent("ppo").Settings(n_steps=16, batch_size=16, normalize=True, net_arch=(8,)),
    }
    for name, setting in settings.items():
        first, second = (
            get_agent(name).make(make_environments("CartPole-v1", 1, 0), setting, seed=seed, device="cpu")
            for seed in (0, 1)
        )
        first.learn(96)
        checkpoint.save(tmp_path / "state", storage.state_dict(first))
        storage.load_state_dict(second, checkpoint.load(tmp_path / "state"))
        checkpoint.save(tmp_path / "again", storage.state_dict(second))
        assert (tmp_path / "state").read_bytes() == (tmp_path / "again").read_bytes()
        assert second.num_timesteps == 96
