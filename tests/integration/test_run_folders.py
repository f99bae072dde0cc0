"""Folders of runs: from elsewhere, edited, damaged, in use by others, on a disk that is full."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tyro")

import run_agent
from gsrl import checkpoint
from gsrl.runs import curve, trainees
from gsrl.runs.cards import get_card
from gsrl.runs.config import read_config, read_json, write_json
from gsrl.runs.errors import UsageError
from gsrl.runs.files import occupied

ROOT = Path(__file__).resolve().parents[2]

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
    arguments = ["--learning-starts", "10", "--batch-size", "8", "--learning-rate", "3e-4", "--net-arch", "8"]
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


# From before


def test_settings_that_a_folder_lacks_are_what_they_were(run: Path) -> None:
    settings, config = read_config(run).settings, read_json(run / "config.json")
    earlier = get_card("discrete-sac").earlier
    assert {"n_steps", "layer_norm"} < earlier.keys()
    for name in earlier:
        del config["settings"][name]
    write_json(run / "config.json", config)
    assert read_config(run).settings == dataclasses.replace(settings, **earlier) != settings


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
    assert run_agent.main(["plot", str(run)]) == 0  # which needs no environment
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
        tree = checkpoint.load(run / "checkpoint.zip")
        tree.pop("config", None)  # as older checkpoints, or one that was changed with it
        checkpoint.save(run / "checkpoint.zip", tree)
        assert " numbers are there" in answer("train", "--resume", run, "--steps", 60)


def test_a_model_that_diverged_is_not_evaluated(run: Path, answer: Answer) -> None:
    tree = checkpoint.load(run / "model.zip")
    tree["parameters"]["policy"]["actor.head.weight"].fill_(float("nan"))
    checkpoint.save(run / "model.zip", tree)
    assert "parameters are not finite, such as actor.head.weight: its training diverged" in answer("eval", run)


# Edited


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": "1500"}, "steps must be int, but got '1500'"),
        ({"device": 3}, "device must be str, but got 3"),
        ({"device": "toaster"}, "--device 'toaster' cannot be used"),
        ({"seed": "../../x"}, "seed must be int, but got '../../x'"),
        ({"seed": 5}, "seed 5 instead of 0"),
        ({"n_envs": 2}, "n_envs 2 instead of 1"),
        ({"compile": "yes"}, "compile must be bool, but got 'yes'"),
        ({"learning_rate": "fast"}, "learning_rate must be float, but got 'fast'"),
        ({"learning_rate": 0.25}, "learning_rate 0.25 instead of 0.0003"),
        ({"net_arch": [8.5]}, "net_arch must be tuple[int, ...], but got (8.5,)"),
        ({"critics": "most"}, "critics must be"),
        ({"agent": "dqn"}, "cannot be used"),
        ({"sessions": None, "settings": 7}, "cannot be used"),
    ],
)
def test_an_edited_configuration_is_one_sentence(
    changes: dict[str, Any], reason: str, run: Path, answer: Answer
) -> None:
    edited(run, **changes)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert reason in answer("train", "--resume", run, *(() if "steps" in changes else ("--steps", 60)))
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\xff\xfe", '{"agent": 1}'])
@pytest.mark.parametrize("command", [["eval"], ["train", "--resume"]])
def test_a_configuration_that_is_none(text: str, command: list[str], run: Path, answer: Answer) -> None:
    (run / "config.json").write_bytes(text.encode("latin-1"))
    assert answer(*command, run).startswith(str(run / "config.json"))


# Damaged


def spoil_header(path: Path) -> None:
    path.write_text("a,b,c\n1,2,3\n")


def lose_a_row(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[2:]]))


def damage_a_row(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "x" + lines[1], *lines[2:]]))


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def not_utf8(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("episodes.csv", lose_a_row, "had {} when the checkpoint was written; put the file back as it was"),
        ("episodes.csv", damage_a_row, "when the checkpoint was written; put the file back as it was"),
        ("evaluations.csv", Path.unlink, "has 0 rows of the first 40 steps, but had 1 when the checkpoint was written"),
        ("times.csv", Path.unlink, "has 0 rows of the first 40 steps"),
        ("evaluations.csv", not_utf8, "is not UTF-8"),
        (
            "evaluations.csv",
            spoil_header,
            "must have the columns steps, mean_return, std_return, episodes, but got a, b",
        ),
        ("progress.csv", become_a_folder, "must be a file, but is a folder"),
        ("checkpoint.zip", become_a_folder, "must be a file, but is a folder"),
        ("summary.json", become_a_folder, "must be a file, but is a folder"),
        ("learning_curve.png", become_a_folder, "must be a file, but is a folder"),
        ("checkpoint.zip", Path.unlink, "cannot be resumed: it has no checkpoint.zip"),
    ],
)
def test_a_damaged_folder_is_one_sentence_and_stays_as_it_is(
    name: str, spoil: Callable[[Path], None], reason: str, run: Path, answer: Answer
) -> None:
    spoil(run / name)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    said = answer("train", "--resume", run, "--steps", 60)
    for part in reason.split("{}"):
        assert part in said
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(not_utf8, "is no table"), (spoil_header, "lacks the columns"), (become_a_folder, "cannot be read")],
)
def test_damaged_results_of_a_benchmark_are_one_sentence(
    spoil: Callable[[Path], None], reason: str, tmp_path: Path, answer: Answer
) -> None:
    results = ROOT / "benchmarks" / "results" / "classic"
    for name in ("results.csv", "suite.json"):
        shutil.copy(results / name, tmp_path)
    spoil(tmp_path / "results.csv")
    said = answer("report", tmp_path)
    assert said.startswith(f"{tmp_path / 'results.csv'} {reason}")


# In use by others


def test_two_processes_cannot_have_one_folder(run: Path, answer: Answer) -> None:
    before = (run / "episodes.csv").read_bytes()
    sentence = f"{run} is in use by another process: wait until that has ended, or choose another folder"
    with occupied(run):
        assert answer("train", "--resume", run, "--steps", 60) == sentence
    assert (run / "episodes.csv").read_bytes() == before
    new = run.parent / "new"
    with occupied(new):
        assert answer("train", *SHORT, "--out", new) == f"{new}" + sentence.removeprefix(str(run))
        assert answer("search", *SHORT[:4], "--out", new) == f"{new}" + sentence.removeprefix(str(run))
        assert answer("bench", "smoke", "--out", new) == f"{new}" + sentence.removeprefix(str(run))
    assert not new.exists()  # nothing was written
    assert run_agent.main(["train", "--resume", str(run), "--steps", "60"]) == 0


def test_the_end_of_a_process_is_the_end_of_its_lock(tmp_path: Path) -> None:
    source = (
        "import sys, pathlib; from gsrl.runs.files import occupied\n"
        "with occupied(pathlib.Path(sys.argv[1])): print('mine', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(UsageError, match="in use by another process"), occupied(tmp_path):
            pass
        other.kill()
    with occupied(tmp_path):
        pass


# A disk that is full, or not to be written to


def full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_at_the_first_write_promises_no_checkpoint(
    tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", full)
    said = answer("train", *SHORT, "--out", tmp_path / "run", code=1)
    assert said == f"{tmp_path / 'run'} cannot be written to: No space left on device; it holds no checkpoint"
    assert not (tmp_path / "run").exists()


def test_a_full_disk_at_the_first_checkpoint_promises_none(
    tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "save", full)
    said = answer("train", *SHORT, "--out", tmp_path / "run", code=1)
    assert said == f"training failed at 0 steps: No space left on device; there is no checkpoint in {tmp_path / 'run'}"


def test_a_full_disk_of_a_resumed_run_loses_nothing(run: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        said = answer("train", "--resume", run, "--steps", 60, code=1)
    assert said == f"{run} cannot be written to: No space left on device; its checkpoint is as it was"
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert run_agent.main(["train", "--resume", str(run), "--steps", "60"]) == 0


def test_a_folder_that_cannot_be_written_to(run: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)  # who runs this may be allowed everything
    sentence = f"{run} cannot be written to: Read-only file system"
    assert answer("train", "--resume", run, "--steps", 60) == sentence
    assert answer("train", *SHORT, "--out", run.parent / "new") == sentence.replace(str(run), str(run.parent / "new"))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread is silent
def test_a_folder_that_is_removed_meanwhile_is_not_made_again(
    tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    evaluate = trainees.Evaluator.__call__

    def remove(*arguments: Any, **how: Any) -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        return evaluate(*arguments, **how)

    monkeypatch.setattr(trainees.Evaluator, "__call__", remove)
    said = answer("train", *SHORT, "--out", folder, code=1)
    assert said == f"training failed at 20 steps: {folder} was removed; there is no checkpoint in {folder}"
    assert not folder.exists()


def test_what_a_killed_start_leaves_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".gsrl-0123456789abcdef.tmp", "config.json.01234567.tmp", "mine.tmp"):
        (folder / name).write_text("half")
    assert run_agent.main(["train", *SHORT, "--out", str(folder)]) == 0
    assert [path.name for path in [*folder.glob("*.tmp"), *folder.glob(".*.tmp")]] == ["mine.tmp"]


# Pictures


def test_a_picture_is_drawn_again_as_it_was(run: Path) -> None:
    before = (run / "learning_curve.png").read_bytes()
    (run / "learning_curve.png").unlink()
    assert run_agent.main(["plot", str(run)]) == 0
    assert (run / "learning_curve.png").read_bytes() == before


def test_a_picture_is_whole_or_the_one_before(run: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    before = (run / "learning_curve.png").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    assert answer("plot", run, code=1) == "No space left on device"
    assert (run / "learning_curve.png").read_bytes() == before
    assert not list(run.glob(".gsrl-*"))


def test_runs_are_drawn_side_by_side(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """A panel for each environment, a line for each run, which says what it ended with."""
    drawn: list[Any] = []
    save = curve.save_figure
    monkeypatch.setattr(curve, "save_figure", lambda figure, path: (drawn.append(figure), save(figure, path)))
    several = shutil.copytree(run, tmp_path / "several")
    rows = ["steps,seed,mean_return,std_return,episodes", *(f"{s},{i},{s + i},0,2" for s in (20, 40) for i in range(4))]
    (edited(several, seeds=4) / "evaluations.csv").write_text("\n".join(rows) + "\n")
    other = edited(Path(shutil.copytree(run, tmp_path / "other")), env="gsrl/ProbeTwoStep-v0")
    picture = tmp_path / "pictures" / "all.png"
    assert run_agent.main(["plot", *map(str, (run, several, other)), "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    left, right = drawn[0].axes
    assert [axes.get_title("left") for axes in (left, right)] == ["gsrl/ProbeOneStep-v0", "gsrl/ProbeTwoStep-v0"]
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels[1] == "several, 4 seeds: 41.5"
    assert labels[0].startswith("run: ")
    assert left.lines[1].get_ydata().tolist() == [21.5, 41.5]
    (other / "evaluations.csv").unlink()
    assert answer("plot", run, other) == (
        f"{other} holds no evaluation: plot takes the folder of a run, which has evaluations.csv"
    )
    assert answer("plot") == "plot needs the folder of a run, or of several"
