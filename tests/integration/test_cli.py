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

import gsrl
import run_agent
from gsrl import checkpoint
from gsrl.runs import plots, storage, trainees
from gsrl.runs.cards import defaults, get_card, in_lockstep
from gsrl.runs.config import read_config
from gsrl.runs.curve import plot_learning_curve
from gsrl.runs.environments import check_environment, make_environments
from gsrl.runs.logs import CsvLog
from gsrl.runs.run import Run
from gsrl.runs.session import load_model
from gsrl.schedules import ExponentialSchedule
from tests.common.agents import AGENTS, MASKABLE_PPO, SMALL, WITHOUT_CARTPOLE, train
from tests.common.command_line import ROOT, assert_same_parameters, exit_code, parameters, read_json, read_steps

QRDQN = pytest.param("qrdqn", marks=MASKABLE_PPO.marks)


TRAINABLE = [{"maskable-ppo": MASKABLE_PPO, "qrdqn": QRDQN}.get(name, name) for name in AGENTS]
"""Every agent, to be skipped where what it needs is not installed."""


@pytest.mark.parametrize("agent", TRAINABLE)
def test_a_run_leaves_all_it_promises_and_eval_repeats_its_result(
    agent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    summary = train(folder, agent, "--seed", "3")
    printed = capsys.readouterr().out
    for name in ("learning_curve.png", "model.zip", "checkpoint.zip", "tensorboard --logdir"):
        assert name in printed
    opening = f"gsrl.runs.session.load_model({str(folder)!r})"
    if agent in in_lockstep():
        opening = f"gsrl.{get_card(agent).constructor.__name__}.load({str(folder / 'model.zip')!r})"
    assert f"in Python   {opening}\n" in printed

    env_id = WITHOUT_CARTPOLE.get(agent, "CartPole-v1")
    config = read_json(folder / "config.json")
    assert (config["agent"], config["env"], config["seed"]) == (agent, env_id, 3)
    assert config["settings"].keys() == vars(get_card(agent).Settings()).keys()
    (session,) = config["sessions"]
    assert session["from_steps"] == 0
    assert session["command"][:4] == ["run_agent.py", "train", "--agent", agent]
    assert session["versions"].keys() == {"python", "gsrl", "torch", "stable-baselines3", "gymnasium", "numpy"}

    columns = "steps,mean_return,std_return,episodes"
    assert (folder / "evaluations.csv").read_text().splitlines()[0] == columns
    steps = read_steps(folder / "evaluations.csv")
    assert steps == sorted(set(steps))
    assert len(steps) >= 5
    assert steps[-1] == summary["steps"] >= config["steps"]
    assert read_steps(folder / "progress.csv")[-1] == summary["steps"]
    assert not list(folder.glob("*.tmp"))
    assert sum(path.stat().st_size for path in folder.glob("events.out.tfevents.*")) > 500

    picture = (folder / "learning_curve.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 20_000

    assert (summary["status"], summary["agent"], summary["env"]) == ("finished", agent, env_id)
    assert (summary["seed"], summary["eval_episodes"]) == (3, 6)
    assert summary["wall_seconds"] >= summary["train_seconds"] > 0
    assert summary["steps_per_second"] == pytest.approx(summary["steps"] / summary["train_seconds"])

    assert run_agent.main(["eval", str(folder), "--episodes", "6", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mean_return"] == summary["eval_return_mean"] == np.mean(result["returns"])
    assert result["std_return"] == summary["eval_return_std"]
    evaluator = trainees.Evaluator(env_id, 3)
    assert evaluator(load_model(folder, n_envs=2), 6) == result["returns"]
    evaluator.close()
    if agent not in in_lockstep():
        with pytest.raises(
            checkpoint.CheckpointError, match=r"not a saved DiscreteSAC. It is opened by gsrl.runs.session.load"
        ):
            gsrl.DiscreteSAC.load(folder / "model.zip")


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

    seconds = checkpoint.load(folder / "checkpoint.zip")["seconds"]
    assert before["wall_seconds"] > seconds["wall"] > 0

    # As if the process had gone on after its last checkpoint, and died.
    with (folder / "evaluations.csv").open("a") as file:
        file.write(f"{done + 1},1.0,0.0,1.0,1.0,5\n")
    old = (folder / "evaluations.csv").read_text().splitlines()[:-1]

    assert run_agent.main(["train", "--resume", str(folder), "--steps", str(done + 128)]) == 0
    after = read_json(folder / "summary.json")
    assert after["steps"] >= done + 128
    assert after["wall_seconds"] > seconds["wall"]
    assert (folder / "evaluations.csv").read_text().splitlines()[: len(old)] == old
    for name in ("evaluations.csv", "progress.csv"):
        steps = read_steps(folder / name)
        assert done + 1 not in steps
        assert steps == sorted(set(steps))
        assert steps[-1] == after["steps"]
    episodes = read_steps(folder / "episodes.csv")
    assert episodes == sorted(episodes)
    assert episodes[-1] > done
    config = read_json(folder / "config.json")
    assert config["steps"] == done + 128
    assert [session["from_steps"] for session in config["sessions"]] == [0, done]
    options = ["--resume", str(folder), "--steps", str(done + 128)]
    assert config["sessions"][1]["command"] == ["run_agent.py", "train", *options]

    state = checkpoint.load(folder / "checkpoint.zip")
    assert state["steps"] == after["steps"]
    if agent == "dqn":
        assert state["model"]["replay"]["pos"] == after["steps"]


def test_a_run_from_before_an_option_has_its_default(tmp_path: Path) -> None:
    train(tmp_path / "run", "a2c", "--steps", "20", "--checkpoint-seconds", "7")
    config = read_json(tmp_path / "run" / "config.json")
    assert read_config(tmp_path / "run").checkpoint_seconds == config.pop("checkpoint_seconds") == 7
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path / "run").checkpoint_seconds == 60


def test_resume_takes_no_other_option_than_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train", "--resume", str(tmp_path), "--seed", "3"]) == 2
    assert "only --steps, --device and --trust can go with it; got --seed 3" in capsys.readouterr().err
    assert exit_code(["train", "--resume", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("agent", ["ppo", "dqn", "gumbel-sac"])
def test_a_run_killed_before_its_first_step_goes_as_it_would_have_gone(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "whole", agent)

    def die(self: Any, stop: Any) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "complete", die)
        argv = ["train", "--agent", agent, *SMALL[agent], "--eval-episodes", "6", "--out", str(folder)]
        assert run_agent.main(argv) == 130
    assert checkpoint.load(folder / "checkpoint.zip")["steps"] == 0
    assert not (folder / "summary.json").exists()
    assert run_agent.main(["train", "--resume", str(folder)]) == 0
    assert_same_parameters(tmp_path / "whole" / "model.zip", folder / "model.zip")


def test_rows_that_a_kill_cut_short_do_not_keep_a_run_from_being_finished(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = train(folder, "a2c")["steps"]
    (folder / "summary.json").unlink()
    (folder / "learning_curve.png").unlink()
    whole = (folder / "episodes.csv").read_text()
    for name, rest in (("episodes.csv", "19"), ("evaluations.csv", f"{done},9.1"), ("progress.csv", ",,1.5,\n1")):
        with (folder / name).open("a") as file:
            file.write(rest)
    assert run_agent.main(["train", "--resume", str(folder)]) == 0
    assert read_json(folder / "summary.json")["status"] == "finished"
    assert (folder / "learning_curve.png").exists()
    assert (folder / "episodes.csv").read_text() == whole
    assert read_steps(folder / "evaluations.csv")[-1] == read_steps(folder / "progress.csv")[-1] == done


def test_checkpoints_are_made_by_the_clock_between_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = Run.save_checkpoint

    def spy(self: Run) -> None:
        saved.append(self.steps)
        save(self)
        self.next_save = 0.0  # as if a minute had passed

    monkeypatch.setattr(Run, "save_checkpoint", spy)
    train(tmp_path / "run", "a2c", "--steps", "40", "--eval-every", "1000")
    assert saved == [0, 0, 10, 20, 30, 40]  # 2 environments, 5 steps each; 0 twice, as the first wait was over at once


def test_progress_is_logged_a_hundred_times_a_run_however_long_its_episodes(tmp_path: Path) -> None:
    # Of CartPole's short episodes, 4 of which would make a row of Stable-Baselines3's.
    train(tmp_path / "run", "gumbel-sac", "--steps", "300", "--learning-starts", "200")
    assert read_steps(tmp_path / "run" / "progress.csv") == list(range(3, 301, 3))
    with (tmp_path / "run" / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["train/entropy"]) > 0 for row in rows[-30:])


@pytest.mark.parametrize("agent", ["gumbel-sac", "dqn"])
def test_a_run_that_diverges_fails_and_keeps_its_last_good_checkpoint(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = trainees.Evaluator.__call__

    def poison(self: trainees.Evaluator, model: Any, *args: Any, **kwargs: Any) -> list[float]:
        returns = evaluate(self, model, *args, **kwargs)
        if model.num_timesteps >= 100:
            with torch.no_grad():
                next(model.policy.parameters()).fill_(torch.nan)
        return returns

    monkeypatch.setattr(trainees.Evaluator, "__call__", poison)
    folder = tmp_path / "run"
    argv = ["train", "--agent", agent, *SMALL[agent], "--steps", "240", "--eval-every", "40", "--out", str(folder)]
    assert exit_code([*argv, "--learning-starts", "1000"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "training diverged: at 120 steps" in error
    assert "the checkpoint of 80 steps" in error
    summary = read_json(folder / "summary.json")
    assert (summary["status"], summary["steps"], summary["eval_return_mean"]) == ("failed", 120, None)
    assert not (folder / "model.zip").exists()
    state = checkpoint.load(folder / "checkpoint.zip")
    assert state["steps"] == 80
    monkeypatch.undo()
    assert run_agent.main(["train", "--resume", str(folder), "--steps", "200"]) == 0
    assert read_json(folder / "summary.json")["status"] == "finished"


def test_a_bug_while_training_shows_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, stop: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Run, "learn", broken)
    with pytest.raises(ValueError, match="a bug"):
        run_agent.main(["train", "--agent", "a2c", "--out", str(tmp_path / "run")])
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "failed"


def test_a_picture_that_cannot_be_drawn_does_not_cost_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("no font")

    with monkeypatch.context() as patched:
        patched.setattr(plots, "plot_learning_curve", broken)
        train(tmp_path / "run", "a2c", "--steps", "20")
    assert (
        f"no picture was drawn: no font; `python run_agent.py plot {tmp_path / 'run'}` does it"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run" / "learning_curve.png").exists()
    assert run_agent.main(["plot", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "learning_curve.png").exists()
    summary = read_json(tmp_path / "run" / "summary.json")
    assert (summary["status"], summary["eval_episodes"]) == ("finished", 6)


def test_a_run_of_a_missing_device_is_used_on_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    done = train(folder, "gumbel-sac")["steps"]
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "device": "abacus"}))
    more = ["train", "--resume", str(folder), "--steps", str(done + 20)]
    for argv in (["eval", str(folder)], more):
        assert exit_code(argv) == 2
        assert "--device 'abacus' cannot be used" in capsys.readouterr().err
    assert run_agent.main(["eval", str(folder), "--episodes", "2", "--device", "cpu"]) == 0
    assert run_agent.main([*more, "--device", "cpu"]) == 0
    assert read_json(folder / "config.json")["device"] == "cpu"


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--seed", "-1"], "--seed must be at least 0 and below 2**31, but got -1"),
        (["--episodes", "0"], "--episodes must be at least 1, but got 0"),
    ],
)
def test_eval_checks_its_options(
    options: list[str], answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", "a2c", "--steps", "20")
    assert exit_code(["eval", str(tmp_path / "run"), *options]) == 2
    assert answer in capsys.readouterr().err


def test_an_environment_of_a_module_is_imported_as_gymnasium_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = "gymnasium.envs.classic_control:CartPoleEnv"
    text = f"import gymnasium\ngymnasium.register('Cli-v0', {entry!r}, max_episode_steps=7)\n"
    (tmp_path / "cli_environments.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    argv = ["train", "--agent", "a2c", "--steps", "40", "--eval-episodes", "2", "--env", "cli_environments:Cli-v0"]
    assert run_agent.main(argv) == 0
    assert read_json(tmp_path / "runs" / "cli_environments-Cli-v0_a2c_seed0" / "summary.json")["eval_return_mean"] == 7
    assert exit_code([*argv[:-1], "cli_environments:Clj-v0"]) == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["file", "file/run"])
def test_a_run_is_not_written_into_a_file(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert exit_code(["train", "--agent", "a2c", "--out", str(tmp_path / path)]) == 2
    assert f"{tmp_path / path} cannot be a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("agent", "number"), [("gumbel-sac", signal.SIGINT), ("ppo", signal.SIGTERM)])
def test_a_signal_saves_and_says_how_to_resume(agent: str, number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [*SMALL[agent], "--steps", "1000000", "--eval-every", "100", "--out", str(folder)]
    command = [sys.executable, str(ROOT / "run_agent.py"), "train", "--agent", agent, *options]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "evaluations.csv").exists() or not read_steps(folder / "evaluations.csv"):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert out.splitlines()[-1].strip() == f"python run_agent.py train --resume {folder}"

    summary = read_json(folder / "summary.json")
    assert (summary["status"], summary["eval_return_mean"]) == ("interrupted", None)
    assert checkpoint.load(folder / "checkpoint.zip")["steps"] == summary["steps"] > 0

    resume = [*command[:3], "--resume", str(folder), "--steps", str(summary["steps"] + 150)]
    finished = subprocess.run(resume, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "over 20 episodes" in finished.stdout
    steps = read_steps(folder / "evaluations.csv")
    assert steps == sorted(set(steps))
    assert steps[-1] == read_json(folder / "summary.json")["steps"] >= summary["steps"] + 150


def test_a_name_without_a_version_is_that_of_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--agent", "dqn", "--env", "CartPole", "--steps", "20", "--eval-episodes", "1"]
    assert run_agent.main(argv) == 0
    assert "is not tuned for" not in capsys.readouterr().err
    config = read_config(tmp_path / "runs" / "CartPole-v1_dqn_seed0")
    assert (config.env, config.settings) == ("CartPole-v1", defaults("dqn", "CartPole-v1").settings)
    for short, whole in (("gsrl/MaskedGrid", "gsrl/MaskedGrid-v0"), ("envs:CartPole", "envs:CartPole-v1")):
        assert check_environment(short, "gumbel-sac") == whole
    for name in ("envs:CartPole-v1", "CartPole", "envs:CartPole"):
        assert defaults("dqn", name) == defaults("dqn", "CartPole-v1") != defaults("dqn", "CartPole-v1", tuned=False)
    stored = json.loads((tmp_path / "runs" / "CartPole-v1_dqn_seed0" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, "env": "CartPole"}))  # of an earlier version
    assert read_config(tmp_path).env == "CartPole-v1"


def test_steps_beyond_those_asked_for_are_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", "a2c", "--steps", "33")
    assert "40 steps (33 asked for): " in capsys.readouterr().err.splitlines()[-1]


def test_a_csv_log_grows_by_rows_and_columns_and_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = CsvLog(path, ["a"])
    log.truncate(0)
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
        "dqn": {"learning_starts": 0, "buffer_size": 50},
        "ppo": {"n_steps": 16, "batch_size": 16, "normalize": True},
        "sac": {"learning_starts": 10, "buffer_size": 50, "batch_size": 8},
    }
    for name, setting in settings.items():
        agent, env_id = get_card(name), WITHOUT_CARTPOLE.get(name, "CartPole-v1")
        first, second = (
            agent.make(
                make_environments(env_id, 1, 0), agent.Settings(net_arch=(8,), **setting), seed=seed, device="cpu"
            )
            for seed in (0, 1)
        )
        first.learn(96)
        checkpoint.save(tmp_path / "state", storage.state_dict(first))
        storage.load_state_dict(second, checkpoint.load(tmp_path / "state"))
        checkpoint.save(tmp_path / "again", storage.state_dict(second))
        assert (tmp_path / "state").read_bytes() == (tmp_path / "again").read_bytes()
        assert second.num_timesteps == 96


def test_environments_draw_no_pictures() -> None:
    # LunarLander would simulate sparks for them, and take five times as long.
    (env,) = make_environments("CartPole-v1", 1, 0).envs
    assert env.render_mode is None


def test_what_a_kill_left_of_a_row_is_dropped_when_a_csv_log_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for rest in ("3", "3,3", "3,30", "3,\n3", ",30\n", "x,1\n"):
        path.write_text("steps,a\n1,10\n2,20\n" + rest)
        log = CsvLog(path)
        whole = [{"steps": "1", "a": "10"}, {"steps": "2", "a": "20"}]
        assert log.rows() == whole + ([{"steps": "3", "a": ""}] if rest == "3,\n3" else [])
        log.close()
    path.write_text("")
    log = CsvLog(path, ["a"])
    log.truncate(0)
    log.append({"steps": 1, "a": 10})
    assert path.read_text() == "steps,a\n1,10\n"  # at once, not when it is closed
    log.close()


def test_settings_reach_the_algorithm() -> None:
    def make(name: str, **settings: Any) -> Any:
        agent = get_card(name)
        env = make_environments(WITHOUT_CARTPOLE.get(name, "CartPole-v1"), 1, 0)
        return agent.make(env, agent.Settings(net_arch=(8,), **settings), seed=0, device="cpu")

    networks = {"layer_norm": True, "normalize_observations": False, "share_features_extractor": True}
    sac = make("gumbel-sac", linear_decay=True, learning_rate=0.5, gamma=0.9, temperature=0.25, **networks)
    assert sac.lr_schedule(0.5) == 0.25
    assert (sac.gamma, sac.policy_kwargs) == (0.9, {"net_arch": [8], **networks, "critic": "auto"})
    assert float(sac.estimator.temperature()) == 0.25
    assert make("gumbel-sac", estimator="rloo", critic="multilinear").estimator.name == "rloo"
    assert make("exact-sac", learning_rate=0.5).lr_schedule(0.5) == 0.5
    assert make("exact-sac", ent_coef=0.4, final_ent_coef=0.1).ent_coef == ExponentialSchedule(0.4, 0.1, 0.7)
    with pytest.raises(ValueError, match=r"final_ent_coef and ent_coef must be positive numbers, but got .* auto"):
        make("gumbel-sac", ent_coef="auto", final_ent_coef=0.1)
    ppo = make("ppo", linear_decay=True, clip_range=0.4, n_steps=8, batch_size=8, normalize=True, gamma=0.9)
    assert (ppo.clip_range(0.5), ppo.lr_schedule(0.5)) == (0.2, 1.5e-4)
    assert ppo.get_vec_normalize_env().gamma == 0.9
    assert make("a2c", linear_decay=True, learning_rate=0.5).lr_schedule(0.5) == 0.25
    dqn = make("dqn", exploration_final_eps=0.3, target_update_interval=7)
    assert (dqn.exploration_final_eps, dqn.target_update_interval) == (0.3, 7)
    sac = make("sac", ent_coef=0.25, tau=0.5)
    assert (float(sac.ent_coef_tensor), sac.tau, sac.policy_kwargs["net_arch"]) == (0.25, 0.5, [8])


def test_the_curve_marks_the_final_evaluation_of_a_finished_run_alone(tmp_path: Path) -> None:
    row = {"steps": "10", "mean_return": "5.0", "std_return": "1.0", "episodes": "20"}
    for finished in (True, False):
        plot_learning_curve(tmp_path / f"{finished}.png", "title", [row], [], finished=finished)
    assert (tmp_path / "True.png").read_bytes() != (tmp_path / "False.png").read_bytes()


# Runs of the agents from elsewhere, killed and resumed


@pytest.mark.parametrize("agent", [MASKABLE_PPO, "sac"])
def test_a_baseline_killed_in_the_middle_ends_as_one_that_was_not(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rarely = ["--eval-every", "60", "--eval-episodes", "1"]
    train(tmp_path / "whole", agent, *rarely)
    folder, on_step = tmp_path / "killed", trainees._Collector._on_step

    def die(self: Any) -> bool:
        if self.num_timesteps >= 75:
            raise KeyboardInterrupt
        return on_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainees._Collector, "_on_step", die)
        assert run_agent.main(["train", "--agent", agent, *SMALL[agent], *rarely, "--out", str(folder)]) == 130
    torch.rand(1), np.random.random()  # another process would not have this one's random numbers
    assert run_agent.main(["train", "--resume", str(folder)]) == 0
    assert read_json(folder / "config.json")["sessions"][1]["from_steps"] in (60, 64)
    assert_same_parameters(tmp_path / "whole" / "model.zip", folder / "model.zip")
    first, second = (checkpoint.load(path / "checkpoint.zip")["model"] for path in (tmp_path / "whole", folder))
    assert first["variables"] == second["variables"]
    assert ("log_ent_coef" in first["variables"]) == (agent == "sac")  # which is in no state dict
    assert (folder / "episodes.csv").read_text() == (tmp_path / "whole" / "episodes.csv").read_text()
