"""The trained agents of the checkout do what their cards say."""

from __future__ import annotations

import json
import re

import pytest

import run_agent
from gsrl import DiscreteSAC
from gsrl.runs.config import read_config, read_json
from tests.common.command_line import ROOT

FOLDER = ROOT / "agents" / "trained"
LEAST = {"CartPole-v1": 450.0, "Acrobot-v1": -150.0, "FrozenLake-v1": 0.5}
"""Return over a few episodes: well below that of the card, for another machine rounds in other ways."""
LARGEST = 300 * 1024


@pytest.mark.parametrize("env", LEAST)
def test_trained_agents_are_as_good_as_they_are_said_to_be(env: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = FOLDER / f"discrete-sac-{env}"
    assert run_agent.main(["eval", str(folder), "--episodes", "5" if env == "CartPole-v1" else "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_return"] >= LEAST[env]
    said = read_json(folder / "results.json")["mean_reward"]
    assert said >= LEAST[env]
    text, number = (FOLDER / "README.md").read_text(), f"{said:.2f}".rstrip("0").rstrip(".").replace("-", "−")
    config = read_config(folder)
    command = f"gsrl train --env {env} --steps {config.steps} --net-arch 32 32 --eval-episodes 100"
    assert re.search(rf"discrete-sac-{env}\S* \| {re.escape(number)} .*`{re.escape(command)}`", text)
    assert (config.seed, config.settings.net_arch) == (0, (32, 32))


@pytest.mark.parametrize("env", LEAST)
def test_folders_are_small_and_hold_no_replay(env: str) -> None:
    folder = FOLDER / f"discrete-sac-{env}"
    assert sum(path.stat().st_size for path in folder.iterdir()) < LARGEST
    model = DiscreteSAC.load(folder / "model.zip")
    assert not model.replay_buffer


def test_recordings_of_the_docs_are_small() -> None:
    files = [*(ROOT / "docs" / "recordings").glob("*.gif")]
    assert len(files) == 3
    assert all(path.stat().st_size < 150_000 for path in files)
