"""What tests of the command line ask of it and of the folders that it leaves."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run_agent
from gsrl import checkpoint

ROOT = Path(run_agent.__file__).parent


def exit_code(argv: list[str]) -> int | str | None:
    """Of the command, whether it returns it or tyro exits with it."""
    try:
        return run_agent.main(argv)
    except SystemExit as error:
        return error.code


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def rows(path: Path) -> list[dict[str, str]]:
    """All that a table says, but for the times in it."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def read_steps(path: Path) -> list[int]:
    return [int(row["steps"]) for row in rows(path)]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's scalars, as its pages show them, but for the times."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = [tag for tag in accumulator.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


def tensors(node: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a tree, by its path."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        return {key: value for k, item in node.items() for key, value in tensors(item, f"{name}.{k}").items()}
    return {name: node} if isinstance(node, torch.Tensor) else {}


def parameters(path: Path) -> dict[str, torch.Tensor]:
    """What a saved model has learned."""
    found = tensors(checkpoint.load(path)["parameters"])
    assert len(found) > 4
    return found


def assert_same_tensors(expected: dict[str, torch.Tensor], actual: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


def assert_same_parameters(expected: Path, actual: Path) -> None:
    """Of two saved models."""
    assert_same_tensors(parameters(expected), parameters(actual))


LOGS = ("episodes.csv", "evaluations.csv", "progress.csv")


def assert_same_run(expected: Path, actual: Path, logs: Sequence[str] = LOGS) -> None:
    """Of two folders: every row, every scalar and every tensor of a model, of one agent or of each of several."""
    for name in logs:
        assert rows(actual / name) == rows(expected / name)
        assert len(rows(actual / name)) >= (1 if name == "episodes.csv" else 3)
    folders = [".", *(path.name for path in expected.iterdir() if path.is_dir())]
    for folder in folders:
        assert events(actual / folder) == events(expected / folder)
    models = [path.relative_to(expected) for path in (*expected.glob("model.zip"), *expected.glob("*/model.zip"))]
    assert models
    for model in models:
        theirs, ours = (tensors(checkpoint.load(folder / model)) for folder in (expected, actual))
        assert len(theirs) > 4
        assert_same_tensors(theirs, ours)
