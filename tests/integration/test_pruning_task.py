"""Pruned transformers as a task: members, files that go on to the same numbers, and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import run_agent
from gsrl import checkpoint
from gsrl.perception.classifier import PrunedClassifier
from gsrl.runs.cards import TaskCard
from tests.common.command_line import assert_same_run, events, read_json, rows

pytest.importorskip("sklearn")

SMALL: dict[str, Any] = {
    **{"patch": 2, "width": 8, "depth": 3, "stages": (0, 2), "shares": (0.5, 0.25), "batch_size": 8},
    "annealing": 4,
}
OPTIONS = ["--agent", "pruned-vit", "--env", "digits", "--width", "8", "--batch-size", "8", "--eval-episodes", "20"]


def parameters(task: PrunedClassifier, index: int = 0) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in task.lockstep.losses[index].parameters()])


@pytest.mark.parametrize("choose", ["subset", "independent"])
def test_members_learn_as_they_would_alone(choose: Any) -> None:
    both = PrunedClassifier("digits", seeds=(3, 4), choose=choose, **SMALL).learn(8 * 3)
    alone = PrunedClassifier("digits", seeds=(4,), choose=choose, **SMALL).learn(8 * 3)
    torch.testing.assert_close(parameters(both, 1), parameters(alone), rtol=1e-3, atol=1e-3)
    assert (parameters(both, 0) - parameters(alone)).abs().max() > 0.1
    assert both.evaluate(30).shape == (2, 30)
    assert np.array_equal(both.evaluate(30), both.evaluate(30))


def test_files_go_on_to_the_same_numbers(tmp_path: Path) -> None:
    task = PrunedClassifier("digits", seeds=(0, 1), **SMALL).learn(8 * 3)
    task.save(tmp_path / "task.zip")
    loaded = PrunedClassifier.load(tmp_path / "task.zip")
    assert loaded.lockstep.losses[0].pruner.estimator.temperature().item() == pytest.approx(0.1 ** (3 / 4))
    assert np.array_equal(loaded.evaluate(30), task.evaluate(30))
    assert torch.equal(parameters(loaded.learn(8 * 3)), parameters(task.learn(8 * 3)))
    tree = checkpoint.load(tmp_path / "task.zip")
    checkpoint.save(tmp_path / "wide.zip", {**tree, "width": 2**20})
    with pytest.raises(checkpoint.CheckpointError, match="has a size of 2097152"):
        PrunedClassifier.load(tmp_path / "wide.zip")


def test_a_choice_that_does_not_learn_computes_what_it_keeps() -> None:
    task = PrunedClassifier("digits", ranking="random", **SMALL).learn(8 * 2)
    assert task.lockstep.losses[0].gather
    assert task.lockstep.losses[0].pruner.ranking.logits.abs().max() == 0
    places = PrunedClassifier("digits", ranking="positions", **SMALL).learn(8 * 2)
    assert places.lockstep.losses[0].pruner.ranking.logits.abs().max() > 0


def test_transformers_are_taken_over() -> None:
    dense = PrunedClassifier("digits", **{**SMALL, "stages": (), "shares": ()}).learn(8 * 2)
    pruned = PrunedClassifier("digits", **SMALL).start_from(dense)
    own, theirs = (task.lockstep.losses[0].pruner.encoder.state_dict() for task in (pruned, dense))
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    with pytest.raises(ValueError, match="other must have transformers of the same shapes"):
        PrunedClassifier("digits", **{**SMALL, "width": 12}).start_from(dense)
    with pytest.raises(ValueError, match="other must have 2 members, but got 1"):
        PrunedClassifier("digits", seeds=(0, 1), **SMALL).start_from(dense)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": (0.5,)}, r"shares must be as many as stages, \(0, 2\), but got \(0.5,\)"),
        ({"stages": (0, 0)}, "stages must be different"),
        ({"stages": (0, 3)}, "before one of the blocks 0 to 2, but got 3"),
        ({"shares": (0.25, 0.5)}, "must have shares that do not rise"),
        ({"patch": 3}, "patch must divide"),
        ({"ranking": "best"}, "ranking must be one of"),
        ({"estimator": "exact"}, "differentiable samples"),
        ({"ratio_weight": -1.0}, "ratio_weight must be at least 0"),
        ({"predictor_rate": 0.0}, "predictor_rate must be positive"),
        ({"dataset": "letters"}, "dataset must be one of"),
    ],
)
def test_settings_are_checked_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrunedClassifier(**{"dataset": "digits", **SMALL, **settings})


def test_the_command_trains_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(folder: Path) -> int:
        options = [*OPTIONS, "--seeds", "2", "--steps", "80", "--eval-every", "40"]
        return run_agent.main(["train", *options, "--out", str(folder)])

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole) == 0
    summary = read_json(whole / "summary.json")
    assert (summary["status"], summary["steps"], summary["seeds"]) == ("finished", 80, [0, 1])
    assert [row["seed"] for row in rows(whole / "evaluations.csv")[:2]] == ["0", "1"]
    assert {"eval/mean_return", "train/share_4", "train/temperature"} <= set(events(whole / "seed_1"))
    assert run_agent.main(["eval", str(whole), "--episodes", "20"]) == 0

    learn = TaskCard.learn

    def interrupted(card: Any, model: Any, *arguments: Any) -> None:
        learn(card, model, *arguments)
        if model.steps >= 40:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskCard, "learn", interrupted)
        assert train(killed) == 130
    assert run_agent.main(["train", "--resume", str(killed)]) == 0
    assert_same_run(whole, killed, ("evaluations.csv", "progress.csv"))
