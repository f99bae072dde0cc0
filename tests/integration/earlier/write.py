"""Writes the files beside it, and what the code that wrote them makes of them; for commit 60efbe2 on the path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from gsrl import DiscreteSAC, Population

FOLDER = Path(__file__).parent
ENV = "CartPole-v1"
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "learning_starts": 20, "device": "cpu"}
OBSERVATIONS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)


def actions(agent: Any) -> np.ndarray:
    chosen: np.ndarray = agent.predict(OBSERVATIONS, deterministic=True)[0]
    return chosen


def parameters(agent: DiscreteSAC) -> np.ndarray:
    tensors = [*agent.policy.state_dict().values(), agent.entropy_coefficient.log_value.detach()]
    return torch.cat([tensor.flatten() for tensor in tensors]).numpy()


def learn_on(agent: DiscreteSAC) -> DiscreteSAC:
    agent.set_env(gym.make(ENV))
    agent.env.seed(0)
    return agent.learn(60, reset_num_timesteps=False)


def main() -> None:
    torch.set_num_threads(1)
    expected: dict[str, Any] = {}

    agent = DiscreteSAC("MlpPolicy", ENV, buffer_size=200, seed=0, **SMALL).learn(60)
    agent.save(FOLDER / "agent.zip", include=["replay_buffer"], exclude=["tau", "ent_coef"])
    agent.policy.save(FOLDER / "policy.zip")
    expected["actions"] = actions(agent)
    expected["parameters"] = parameters(learn_on(DiscreteSAC.load(FOLDER / "agent.zip", device="cpu")))

    population = Population(DiscreteSAC, ENV, [0, 1], buffer_size=100, gamma=[0.9, 0.99], **SMALL).learn(40)
    population.save(FOLDER / "population.zip")
    members = [population.member(index) for index in range(2)]
    expected["actions of members"] = np.stack([actions(member) for member in members])
    population = Population.load(FOLDER / "population.zip", DiscreteSAC, ENV, device="cpu").learn(40)
    expected["parameters of members"] = np.stack([parameters(population.member(index)) for index in range(2)])

    np.savez_compressed(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
