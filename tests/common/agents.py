"""Agents on the command line, with settings by which each trains in a second."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import run_agent
from gsrl.runs.cards import cards, get_card
from tests.common.command_line import read_json

PPO = ["--steps", "256", "--n-envs", "2", "--n-steps", "16", "--batch-size", "32", "--n-epochs", "2"]


SAC = ["--learning-starts", "50", "--batch-size", "16"]


DQN = ["--steps", "200", "--learning-starts", "20", "--train-freq", "4", "--gradient-steps", "1"]


SMALL = {
    "ppo": PPO,
    "maskable-ppo": [*PPO, "--env", "gsrl/MaskedGrid-v0"],
    "a2c": ["--steps", "200", "--n-envs", "2", "--normalize"],
    "dqn": DQN,
    "qrdqn": [*DQN, "--n-quantiles", "10"],
    "gumbel-sac": [*SAC, "--steps", "200", "--n-steps", "3"],
    "discrete-sac": [*SAC, "--steps", "200"],
    "exact-sac": [*SAC, "--steps", "200", "--n-steps", "3"],
    "reinforce": ["--steps", "200", "--n-episodes", "2", "--baseline", "running-mean"],
    "reinforce-baseline": ["--steps", "200", "--n-episodes", "2", "--n-envs", "2", "--gae-lambda", "0.9"],
    "reinforce-rloo": ["--steps", "200", "--n-episodes", "2", "--normalize-advantage"],
    "reinforce-relax": ["--steps", "200", "--n-episodes", "2", "--ent-coef", "0.01"],
    "sac": [*SAC, "--env", "Pendulum-v1", "--steps", "100", "--eval-every", "20"],
}
"""Settings with which each agent trains in a second, in CartPole unless they say otherwise."""


AGENTS = [card.name for card in cards() if card.environments is None]
"""Those for environments of Gymnasium's."""


OURS = " or ".join(name for name in AGENTS if get_card(name).masks == "kept")
"""The agents of this project, as an error lists them."""


WITHOUT_CARTPOLE = {"maskable-ppo": "gsrl/MaskedGrid-v0", "sac": "Pendulum-v1"}
"""Environments of the agents that cannot act in CartPole."""


MASKABLE_PPO = pytest.param(
    "maskable-ppo", marks=pytest.mark.skipif(find_spec("sb3_contrib") is None, reason="needs sb3-contrib")
)


def train(folder: Path, agent: str, *options: str) -> dict[str, Any]:
    argv = ["train", "--agent", agent, *SMALL[agent], "--eval-episodes", "6", "--out", str(folder), *options]
    assert run_agent.main(argv) == 0
    return read_json(folder / "summary.json")
