"""Folders of runs: from elsewhere, edited, damaged, in use by others, on a disk that is full."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tyro")

import run_agent
from agents.config import read_json, write_json

SHORT = ("--env", "gsrl/ProbeOneStep-v0", "--steps", "40", "--eval-every", "20", "--eval-episodes", "2")


def edited(folder: Path, **changes: Any) -> Path:
    """A folder with another configuration: entries of the run, or of its settings."""
    config = read_json(folder / "config.json")
    for name, value in changes.items():
        (config["settings"] if name in config["settings"] else config)[name] = value
    write_json(folder / "config.json", config)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one agent that came to its end."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    arguments = ["--learning-starts", "10", "--batch-size", "8", "--net-arch", "8"]
    assert run_agent.main(["train", *SHORT, *arguments, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


Answer = Callable[..., str]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    """The one sentence that a command line is answered with, which is no traceback."""

    def ask(*argv: Any, code: int = 2) -> str:
        capsys.readouterr()
        assert run_agent.main(list(map(str, argv))) == code
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("run_agent.py: error: ")
        return last.removeprefix("run_agent.py: error: ")

    return ask


# From elsewhere


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a hostile module makes when it is imported."""
    mark = tmp_path / "executed"
    source = f"import pathlib\nimport envs.probes\npathlib.Path({str(mark)!r}).touch()\n"
    (tmp_path / "hostile_envs.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hostile_envs", raising=False)
    return mark


@pytest.mark.parametrize("command", [["eval"], ["train", "--resume"], ["gradients", "--run"]])
def test_a_folder_from_elsewhere_imports_nothing(command: list[str], run: Path, marked: Path, answer: Answer) -> None:
    edited(run, env="hostile_envs:gsrl/ProbeOneStep-v0")
    assert answer(*command, run) == (
        f"{run / 'config.json'} names the environment 'hostile_envs:gsrl/ProbeOneStep-v0': making it imports "
        "hostile_envs, which runs that module's code; give --trust if you trust where the file came from"
    )
    assert not marked.exists()
    assert "hostile_envs" not in sys.modules


def test_what_is_trusted_is_imported(run: Path, marked: Path) -> None:
    edited(run, env="hostile_envs:gsrl/ProbeOneStep-v0")
    assert run_agent.main(["eval", str(run), "--episodes", "1", "--trust"]) == 0
    assert marked.exists()
    # Now it is there, and nothing is imported any more.
    assert run_agent.main(["eval", str(run), "--episodes", "1"]) == 0


def test_a_search_from_elsewhere_imports_nothing(run: Path, marked: Path, answer: Answer) -> None:
    config = read_json(edited(run, env="hostile_envs:gsrl/ProbeOneStep-v0") / "config.json")
    write_json(run / "search.json", {**config, "grid": {}, "ladder": {}})
    (run / "summary.json").unlink()
    assert "names the environment 'hostile_envs:gsrl/ProbeOneStep-v0'" in answer("search", "--resume", run)
    assert not marked.exists()


def test_a_suite_from_elsewhere_imports_nothing(tmp_path: Path, marked: Path, answer: Answer) -> None:
    suite = tmp_path / "theirs.toml"
    suite.write_text(
        'steps = 10\n[environments."hostile_envs:gsrl/ProbeOneStep-v0"]\n[[runs]]\nagents = ["gumbel-sac"]\n'
    )
    said = answer("bench", suite, "--out", tmp_path / "bench")
    assert said.startswith(f"{suite} names the environment 'hostile_envs:gsrl/ProbeOneStep-v0'")
    assert not marked.exists()
    assert not (tmp_path / "bench").exists()


def test_settings_of_a_folder_allocate_nothing_that_its_model_does_not_have(run: Path, answer: Answer) -> None:
    for arch in ([100_000, 100_000], [2_000, 2_000]):
        edited(run, net_arch=arch)
        assert " numbers are there" in answer("eval", run)
        assert " numbers are there" in answer("train", "--resume", run, "--steps", 60)


def test_a_model_that_diverged_is_not_evaluated(run: Path, answer: Answer) -> None:
    from gsrl import checkpoint

    tree = checkpoint.load(run / "model.zip")
    tree["parameters"]["policy"]["actor.head.weight"].fill_(float("nan"))
    checkpoint.save(run / "model.zip", tree)
    assert "parameters are not finite, such as actor.head.weight: its training diverged" in answer("eval", run)
