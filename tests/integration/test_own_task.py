"""The learner of `docs/tasks.md` on the command line: what a page of code gets."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import run_agent
from gsrl.runs import cards
from gsrl.runs.cards import TaskCard
from tests.common.command_line import ROOT, assert_same_run, events, read_json, rows

OPTIONS = ["--agent", "codes", "--seeds", "2", "--width", "16", "--batch-size", "16"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with what the page shows."""
    classes, card = re.findall(r"```py(?:thon)?\n(.*?)```", (ROOT / "docs" / "tasks.md").read_text(), re.DOTALL)[:2]
    classes, _, _ = classes.partition("\ncodes = ")
    assert len([line for line in classes.splitlines() if line]) <= 80
    (tmp_path / "own_codes.py").write_text(classes + "\n" + card)
    monkeypatch.syspath_prepend(tmp_path)
    for registry in ("_CARDS", "_ZOO"):  # other tests know nothing of it
        monkeypatch.setattr(cards, registry, getattr(cards, registry).copy())
    return "own_codes"


def test_a_page_of_code_is_a_run_like_any_other(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(folder: Path) -> int:
        return run_agent.main(["train", "--zoo", module, *OPTIONS, "--steps", "1600", "--out", str(folder)])

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole) == 0
    summary = read_json(whole / "summary.json")
    assert (summary["status"], summary["steps"], summary["seeds"]) == ("finished", 1600, [0, 1])
    assert [row["seed"] for row in rows(whole / "evaluations.csv")[:2]] == ["0", "1"]
    assert "eval/mean_return" in events(whole / "seed_1")
    assert (whole / "learning_curve.png").exists()
    assert run_agent.main(["eval", "--zoo", module, str(whole)]) == 0

    learn = TaskCard.learn

    def interrupted(card: Any, model: Any, *arguments: Any) -> None:
        learn(card, model, *arguments)
        if model.steps >= 900:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskCard, "learn", interrupted)
        assert train(killed) == 130
    assert run_agent.main(["train", "--zoo", module, "--resume", str(killed)]) == 0
    assert_same_run(whole, killed, ("evaluations.csv", "progress.csv"))
    assert "own_codes" in sys.modules
