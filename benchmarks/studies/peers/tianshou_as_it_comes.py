"""Tianshou 2's DiscreteSAC as it comes, in the environments of the suite ``no-tuning`` that it can be used in.

As it comes: the defaults of its constructor (a fixed entropy coefficient of .2, ``tau`` .005, one-step returns), and
the networks, learning rate and batches of its high-level interface (64x64, 1e-3, 64). Only what makes it comparable is
other: one environment, an update a step instead of 2,048 updates after 2,048 steps, and a replay that holds all steps
instead of the last 4,096. Greedy returns of the final parameters, as in the suite.

It runs in the environment of ``tianshou_sac.py``, and imports nothing of gsrl's. Rows are appended as they come, and
those that are there are not made again:

    .venv-peers/bin/python -m benchmarks.studies.peers.tianshou_as_it_comes [--only CartPole-v1] [--seeds 5]
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import FlattenObservation, TransformReward
from tianshou.data import Batch

from benchmarks.studies.peers.tianshou_sac import TianshouSAC

RESULTS = Path(__file__).resolve().parents[2] / "results" / "no-tuning" / "tianshou.csv"

ENVIRONMENTS = {
    "CartPole-v1": ("CartPole-v1", 1.0, 10_000),
    "gsrl/CartPole-x100-v1": ("CartPole-v1", 100.0, 10_000),
    "gsrl/CartPole-x0.01-v1": ("CartPole-v1", 0.01, 10_000),
    "Acrobot-v1": ("Acrobot-v1", 1.0, 20_000),
    "FrozenLake-v1": ("FrozenLake-v1", 1.0, 20_000),
    "MountainCar-v0": ("MountainCar-v0", 1.0, 40_000),
    "LunarLander-v3": ("LunarLander-v3", 1.0, 80_000),
}
"""Of the suite: an id of Gymnasium's, what rewards are multiplied by, and steps."""
EPISODES = 20
EVALUATION_SEED = 10_000
"""Of the first episode of an evaluation."""


def maker(env_id: str, factor: float) -> Callable[[], gym.Env]:
    """What makes an environment, with states that are numbered as one-hot vectors."""

    def make() -> gym.Env:
        env: gym.Env = gym.make(env_id)
        if isinstance(env.observation_space, gym.spaces.Discrete):
            env = FlattenObservation(env)
        return env if factor == 1.0 else TransformReward(env, lambda reward: factor * float(reward))

    return make


def greedy_returns(agent: TianshouSAC, env: gym.Env) -> list[float]:
    """Of episodes with the most probable actions."""
    returns = []
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=EVALUATION_SEED + episode)
        total, ended = 0.0, False
        while not ended:
            with torch.no_grad():
                logits, _ = agent.algorithm.policy.actor(Batch(obs=observation[None]).obs)
            observation, reward, terminated, truncated, _ = env.step(int(logits.argmax(-1)))
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


def main() -> None:
    """Trains and evaluates what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    there = set()
    if arguments.out.exists():
        with arguments.out.open(newline="", encoding="utf-8") as file:
            there = {(row["env"], int(row["seed"])) for row in csv.DictReader(file)}
    for name in arguments.only:
        env_id, factor, steps = ENVIRONMENTS[name]
        make = maker(env_id, factor)
        for seed in range(arguments.seeds):
            if (name, seed) in there:
                continue
            begin = time.perf_counter()
            agent = TianshouSAC(make, seed=seed, buffer_size=steps, learning_starts=1, alpha=0.2)
            agent.learn(steps - 1)
            returns = greedy_returns(agent, make())
            row = [name, seed, steps, np.mean(returns), np.std(returns), EPISODES, time.perf_counter() - begin]
            is_new = not arguments.out.exists()
            with arguments.out.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if is_new:
                    writer.writerow(["env", "seed", "steps", "mean_return", "std_return", "episodes", "seconds"])
                writer.writerow([*row[:3], *(round(value, 3) for value in row[3:])])
            print(f"{name}, seed {seed}: {row[3]:.4g} in {row[6]:.0f} s", flush=True)


if __name__ == "__main__":
    main()
