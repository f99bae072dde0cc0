"""The page `docs/extending.md`: each of its files, and the commands below it, by themselves in an empty folder."""

from __future__ import annotations

import csv
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium.utils.env_checker import check_env

pytest.importorskip("tyro")

from gsrl import FactoredCategorical, checkpoint
from gsrl.estimators import ESTIMATORS
from gsrl.runs import cards
from tests.common.command_line import ROOT, read_json
from tests.common.forks import Forks, forks

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")

SECTIONS = {
    heading: (file, commands.strip().splitlines())
    for heading, file, commands in re.findall(
        r"^## (An? \w+)$(?:(?!^## ).)*?^```python\n(.*?)^```$(?:(?!^## ).)*?^```sh\n(.*?)^```$",
        PAGE,
        re.DOTALL | re.MULTILINE,
    )
}

RUN = """
import shlex, sys
from gsrl.__main__ import main

if __name__ == "__main__":
    sys.argv[0] = "gsrl"
    for command in {commands!r}:
        program, *arguments = shlex.split(command)
        code = main(arguments)
        assert (program, code) == ("gsrl", 0), (command, code)
"""


@pytest.fixture(scope="module")
def users() -> Iterator[Forks]:
    with forks("gsrl.runs.cli") as users:
        yield users


def run(heading: str, users: Forks, folder: Path) -> str:
    """Does what the page says, in a folder with nothing but the one file, and returns what was printed."""
    file, commands = SECTIONS[heading]
    (folder / "user").mkdir()
    (folder / "user" / "mine.py").write_text(file)
    (folder / "run.py").write_text(RUN.format(commands=commands))
    return users.run(folder / "run.py", folder / "user")


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes the module of a section, whose names are forgotten afterwards."""
    for owner, name in ((cards, "_CARDS"), (checkpoint, "_CLASSES"), (checkpoint, "_CLASS_NAMES")):
        monkeypatch.setattr(owner, name, dict(getattr(owner, name)))
    known = [dict(ESTIMATORS), dict(gym.registry)]

    def make(heading: str) -> dict[str, Any]:
        path = tmp_path / "mine.py"
        path.write_text(SECTIONS[heading][0])
        return runpy.run_path(str(path), run_name="mine")

    yield make
    for registry, before in zip((ESTIMATORS, gym.registry), known, strict=True):
        for name in registry.keys() - before.keys():
            del registry[name]


def test_the_page_has_all_kinds() -> None:
    assert list(SECTIONS) == ["An estimator", "An environment", "An agent", "A game"]
    assert "## A learner" in PAGE  # whose page is docs/tasks.md


def test_an_estimator(users: Forks, tmp_path: Path) -> None:
    printed = run("An estimator", users, tmp_path)
    with (tmp_path / "user" / "runs" / "gradients" / "gradients.csv").open(newline="") as file:
        measured = {row["estimator"]: row for row in csv.DictReader(file)}
    unbiased = measured["self-critical"]
    assert float(unbiased["relative_bias"]) < 4 * float(unbiased["relative_bias_error"])
    assert float(unbiased["variance"]) < float(measured["reinforce"]["variance"])
    assert float(unbiased["calls"]) == 2
    settings = read_json(tmp_path / "user" / "runs" / "sparsemax" / "config.json")["settings"]
    assert (settings["estimator"], settings["temperature"]) == ("sparsemax-st", 2.0)
    assert "gumbel-sac on CartPole-v1, greedy" in printed
    # Elsewhere nobody knows it, and nothing is imported.
    with pytest.raises(checkpoint.CheckpointError, match="the estimator 'sparsemax-st', which is not registered"):
        checkpoint.load(tmp_path / "user" / "runs" / "sparsemax" / "model.zip")


def test_the_estimators_by_hand(mine: Any) -> None:
    module = mine("An estimator")
    # Of scores 1, .5 and -1 the first two are within 1 of each other: they share what is above (1 + .5 - 1) / 2.
    soft = module["sparsemax"](torch.tensor([1.0, 0.5, -1.0]))
    assert soft.tolist() == [0.75, 0.25, 0.0]
    logits = torch.tensor([[1.0, 0.5, -1.0]], requires_grad=True)
    policy, slope = FactoredCategorical(logits), torch.tensor([3.0, 1.0, 7.0])
    value = module["SparsemaxST"]().expectation(policy, lambda rows: (rows * slope).sum((-2, -1)))
    value.backward()
    assert value.item() in (3.0, 1.0, 7.0)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, -1.0, 0.0]]))  # less the mean of the support


def test_an_environment(users: Forks, tmp_path: Path) -> None:
    run("An environment", users, tmp_path)
    runs = tmp_path / "user" / "runs"
    assert read_json(runs / "found" / "config.json")["env"] == "mine:Change-v0"
    tuned = read_json(runs / "tuned" / "config.json")
    assert (tuned["env"], tuned["settings"]["gamma"]) == ("Change-v0", 1.0)


def test_the_environment_by_hand(mine: Any) -> None:
    mine("An environment")
    env: Any = gym.make("Change-v0").unwrapped
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    env.left = 9
    observation, reward, terminated, _, info = env.step(1)
    assert (observation.tolist(), reward, terminated) == ([0.25], -1.0, False)
    assert info["action_mask"].tolist() == [True, True, True]
    *_, info = env.step(1)
    assert info["action_mask"].tolist() == [True, False, False]
    assert env.step(2)[2] is False  # there is no such coin: nothing is paid
    assert env.step(0)[2] is True


def test_an_agent(users: Forks, tmp_path: Path) -> None:
    printed = run("An agent", users, tmp_path)
    runs = tmp_path / "user" / "runs"
    assert read_json(runs / "one" / "config.json")["settings"]["frequencies"] == 8
    assert "in Python   mine.WaveSAC.load('runs/one/model.zip')" in printed
    assert "winner   gsrl --path . --zoo mine train --agent wave-sac --env CartPole-v1" in printed
    assert "CartPole-v1: steps 10000, frequencies 16, learning_rate 0.002" in printed


def test_a_game(users: Forks, tmp_path: Path) -> None:
    printed = run("A game", users, tmp_path)
    runs = tmp_path / "user" / "runs"
    assert read_json(runs / "talk" / "config.json")["settings"]["degrees"] == 5
    assert (runs / "talk" / "seed_0" / "protocol.md").exists()
    assert "thermometer in thermometer, seed 0" in printed


def test_the_game_by_hand(mine: Any) -> None:
    game = mine("A game")["Thermometer"](10)
    answers, target = torch.tensor([[2.5], [3.2], [9.0]]), torch.tensor([[3], [3], [3]])
    torch.testing.assert_close(game.cost(answers, target), torch.tensor([0.25, 0.04, 36.0]))
    assert game.correct(answers, target).tolist() == [False, True, False]
