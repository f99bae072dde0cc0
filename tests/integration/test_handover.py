"""Agents that are handed over: exported folders, their cards, and runs made of them; figures that go elsewhere."""

from __future__ import annotations

import shutil
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import run_agent
from gsrl.runs import handover
from gsrl.runs.config import read_config, read_json, write_json
from gsrl.runs.scores import mean_interval
from gsrl.runs.session import evaluate_run, load_model
from tests.common.agents import train
from tests.common.command_line import assert_same_parameters, exit_code, read_steps, rows

SMALL = ("--net-arch", "8", "--eval-every", "60", "--wrapper", "TimeLimit:max_episode_steps=20")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, and what was exported of them; ONNX files have a test of their own."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handover, "save_onnx", lambda policy, path, **how: path.write_text("an actor"))
        for agent in ("discrete-sac", "ppo"):
            train(folder / agent, agent, *SMALL, "--seed", "3")
            argv = ["export", str(folder / agent), "--out", str(folder / f"{agent}-out"), "--episodes", "7"]
            assert run_agent.main(argv) == 0
    return folder


REPLAY = "replay.gif" if find_spec("imageio_ffmpeg") is None else "replay.mp4"
FILES = {
    *("README.md", "config.json", "config.toml", "evaluations.csv", "learning_curve.png", "model.zip", "results.json"),
    *("summary.json", REPLAY),
}


@pytest.mark.parametrize(("agent", "more"), [("discrete-sac", {"policy.onnx", "policy.pt"}), ("ppo", set())])
def test_a_folder_holds_all_that_is_handed_over(agent: str, more: set[str], runs: Path) -> None:
    out = runs / f"{agent}-out"
    assert {path.name for path in out.iterdir()} == FILES | more
    results, expected = read_json(out / "results.json"), evaluate_run(runs / agent, 7)
    assert results.keys() == {"mean_reward", "std_reward", "is_deterministic", "n_eval_episodes", "eval_datetime"}
    assert (results["mean_reward"], results["std_reward"]) == (expected["mean_return"], expected["std_return"])
    assert evaluate_run(out, 7)["returns"] == expected["returns"]
    assert read_config(out) == read_config(runs / agent)
    stored = read_json(out / "config.json")
    assert "sessions" not in stored  # commands, with the names of somebody's folders
    assert stored["versions"]["torch"] == torch.__version__
    assert (out / "learning_curve.png").stat().st_size < 0.6 * (runs / agent / "learning_curve.png").stat().st_size


def test_the_card_says_what_the_hub_reads_and_what_a_reader_asks(runs: Path) -> None:
    out = runs / "discrete-sac-out"
    text = (out / "README.md").read_text()
    _, header, *body = text.split("---\n")
    results = evaluate_run(out, 7)
    value = f"{results['mean_return']:.2f} +/- {results['std_return']:.2f}"
    assert header.startswith('library_name: gsrl\ntags:\n- "CartPole-v1"\n- deep-reinforcement-learning\n')
    assert f"    - type: mean_reward\n      value: {value}\n" in header
    page = "---\n".join(body)
    low, high = mean_interval(results["returns"])
    assert f"{results['mean_return']:.2f} (95 % interval of the mean: {low:.2f} to {high:.2f})" in page
    assert f"({REPLAY})" in page
    assert (out / "config.toml").read_text() in page
    assert f"200 environment steps, seed {3}" in page
    assert "--trust" not in page


def test_the_hubs_client_reads_the_header(runs: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(runs / "ppo-out" / "README.md").data
    (result,) = data.eval_results
    assert (data.library_name, data.model_name) == ("gsrl", "ppo")
    assert (result.dataset_name, result.metric_type, result.task_type) == (
        *("CartPole-v1", "mean_reward"),
        "reinforcement-learning",
    )


def test_the_policy_elsewhere_acts_as_the_model_does(runs: Path) -> None:
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    actions, _ = load_model(runs / "discrete-sac").predict(observations, deterministic=True)
    policy = torch.jit.load(runs / "discrete-sac-out" / "policy.pt")
    assert policy(torch.as_tensor(observations)).tolist() == actions.tolist()


@pytest.mark.parametrize(("agent", "steps"), [("discrete-sac", 260), ("ppo", 320)])
def test_a_run_is_made_of_a_folder_and_goes_on(agent: str, steps: int, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_agent.main(["import", str(runs / f"{agent}-out"), "--out", str(run)]) == 0
    assert_same_parameters(runs / agent / "model.zip", run / "model.zip")
    assert run_agent.main(["plot", str(run)]) == 0
    done = read_steps(runs / agent / "evaluations.csv")
    assert exit_code(["train", "--resume", str(run)]) == 2  # it is finished
    assert run_agent.main(["train", "--resume", str(run), "--steps", str(steps)]) == 0
    after = read_steps(run / "evaluations.csv")
    assert after[: len(done) - 1] == done[:-1]
    assert after[-1] >= steps > done[-1]
    before, now = (load_model(folder).policy.state_dict() for folder in (runs / agent, run))
    moved = max(float((now[name] - before[name]).abs().max()) for name in now if now[name].is_floating_point())
    assert 0 < moved < 0.5  # it went on from there
    assert exit_code(["import", str(runs / f"{agent}-out"), "--out", str(run)]) == 2


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (["export", "nowhere", "--out", "x"], "nowhere holds no run"),
        (["export", "ppo"], "missing"),
        (["export", "ppo", "--out", "discrete-sac-out"], "--out must be a new folder, but discrete-sac-out holds"),
        (["export", "ppo", "--out", "x", "--episodes", "0"], "--episodes must be at least 1, but got 0"),
        (["import", "nowhere"], "nowhere holds no run"),
        (["import", "empty", "--out", "x"], "empty must hold a model.zip, but has none"),
    ],
)
def test_mistakes_are_answered(
    argv: list[str], answer: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs)
    Path("empty").mkdir(exist_ok=True)
    shutil.copyfile("ppo/config.json", "empty/config.json")
    assert exit_code(argv) == 2
    assert answer in capsys.readouterr().err
    assert not Path("x").exists()


def test_a_folder_from_elsewhere_imports_nothing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(runs / "ppo-out", tmp_path / "theirs"))
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "wrapper": ["hostile_wraps:Wrapper"]})
    for argv in (["import", str(folder), "--out", str(tmp_path / "x")], ["eval", str(folder)], ["watch", str(folder)]):
        assert exit_code(argv) == 2
        assert "making it imports hostile_wraps, which runs that module's code" in capsys.readouterr().err


def test_intervals_of_means() -> None:
    assert mean_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = mean_interval(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    with pytest.raises(ValueError, match="values must hold at least one"):
        mean_interval([])


# Figures that go elsewhere


class Wandb(ModuleType):
    """As much of wandb as is used, which keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None, origin="here")
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **how: Any) -> Any:
        self.begun.append(how)
        return self

    def log(self, row: dict[str, Any], step: int) -> None:
        self.logged.append((step, row))

    def finish(self) -> None:
        self.finished += 1


def test_figures_are_those_of_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    train(tmp_path / "run", "a2c", "--eval-every", "100", "--net-arch", "8", "--track", "wandb")
    assert run_agent.main(["train", "--resume", str(tmp_path / "run"), "--steps", "250"]) == 0
    assert len(wandb.begun) == wandb.finished == 2
    first, second = wandb.begun
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["resume"]) == ("gsrl", "run", "allow")
    assert (first["config"]["agent"], first["config"]["net_arch"]) == ("a2c", (8,))
    told = [(step, row["eval/mean_return"]) for step, row in wandb.logged if "eval/mean_return" in row]
    expected = [(int(row["steps"]), float(row["mean_return"])) for row in rows(tmp_path / "run" / "evaluations.csv")]
    assert [each for each in told if each in expected] == expected
    assert any("train/entropy_loss" in row for _, row in wandb.logged)
    assert [step for step, _ in wandb.logged] == sorted(step for step, _ in wandb.logged)


def test_wandb_is_asked_for_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wandb").mkdir()  # of runs
    monkeypatch.setattr("gsrl.runs.config.find_spec", lambda name: ModuleSpec(name, None))
    assert exit_code(["train", "--track", "wandb"]) == 2
    assert '--track wandb needs what is not installed: pip install "gsrl[track]"' in capsys.readouterr().err


@pytest.mark.skipif(getattr(find_spec("wandb"), "origin", None) is None, reason="needs wandb")
def test_wandb_itself_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    how = ["--eval-every", "100", "--net-arch", "8"]
    train(tmp_path / "run", "a2c", *how, "--track", "wandb")
    train(tmp_path / "without", "a2c", *how)
    name = (tmp_path / "run" / "wandb.txt").read_text()
    (file,) = (tmp_path / "run" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb")
    assert b"eval/mean_return" in file.read_bytes()
    assert_same_parameters(tmp_path / "without" / "model.zip", tmp_path / "run" / "model.zip")
