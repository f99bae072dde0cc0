"""The command `gsrl` of the wheel, without a checkout: it trains, compares, and finds what is installed beside it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.common.wheels import build, run_python

AGENT = """
import gymnasium as gym
from gsrl import Reinforce
from gsrl.runs.cards import Card, register

register(Card(name="theirs", algorithm=Reinforce, summary="from a package", fixed={"baseline": "running-mean"}))
"""

ENVIRONMENT = """
import gymnasium as gym
import numpy as np

class Coin(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), float(action), True, False, {}

gym.register("Coin-v0", Coin)
"""

SUITE = """
seeds = 2
eval_every = 60
eval_episodes = 2

[environments.CartPole-v1]
steps = 60
low = 22.0
high = 500.0

[[runs]]
agents = ["reinforce-rloo", "theirs", "ppo"]
settings = { net_arch = [8] }
"""

COMMANDS = """
train --env CartPole-v1 --steps 300 --net-arch 8 --eval-episodes 2 --out runs/one
eval runs/one --episodes 2
train --agent theirs --steps 60 --net-arch 8 --eval-episodes 2 --out runs/theirs
train --agent a2c --env coin:Coin-v0 --path here --steps 40 --eval-episodes 2 --out runs/coin
search --steps 80 --net-arch 8 --grid learning_rate=1e-3,1e-2 --rungs 1 --confirm 0 --eval-episodes 2 --out runs/search
bench suite.toml --processes 1 --out runs/bench
report runs/bench
train --agent signalling --steps 1280 --out runs/talk
protocol runs/talk
list
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel, and a package with an agent, are installed, and a user's files lie."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("site", "user/here"):
        (folder / name).mkdir(parents=True)
    with zipfile.ZipFile(build(folder)) as archive:
        archive.extractall(folder / "site")
    (folder / "site" / "their_agents.py").write_text(AGENT)
    info = folder / "site" / "their_agents-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-agents\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gsrl.agents]\ntheirs = their_agents\n")
    (folder / "user" / "here" / "coin.py").write_text(ENVIRONMENT)
    (folder / "user" / "suite.toml").write_text(SUITE)
    return folder


def test_all_that_a_checkout_does(place: Path) -> None:
    code = f"""
import sys
sys.argv[0] = "gsrl"
from gsrl.__main__ import main
for command in {COMMANDS.strip().splitlines()!r}:
    code = main(command.split())
    assert code == 0, (command, code)
assert not {{"agents", "envs", "benchmarks"}} & {{*sys.modules}}, "the checkout was imported"
import gsrl
print(gsrl.__file__)
"""
    user = place / "user"
    printed = run_python(code, cwd=user, PYTHONPATH=str(place / "site"), COLUMNS="80")
    assert printed.splitlines()[-1] == str(place / "site" / "gsrl" / "__init__.py")
    for name in ("one/model.zip", "search/results.md", "bench/report.html", "talk/seed_0/protocol.md"):
        assert (user / "runs" / name).exists()
    assert "gsrl.DiscreteSAC.load(" in printed
    assert "theirs" in (user / "runs" / "bench" / "results.csv").read_text()


def test_what_lies_in_the_folder_is_not_imported_unasked(place: Path) -> None:
    code = """
import subprocess, sys
command = [sys.executable, "-m", "gsrl", "train", "--agent", "a2c", "--env", "coin:Coin-v0", "--steps", "40"]
done = subprocess.run(command, capture_output=True, text=True)
print(done.returncode, done.stderr)
"""
    printed = run_python(code, cwd=place / "user" / "here", PYTHONPATH=str(place / "site"))
    assert printed.startswith("2 ")
    assert "coin" in printed
    assert not (place / "user" / "here" / "runs").exists()
