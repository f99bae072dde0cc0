"""Tianshou 2's DiscreteSAC on CartPole-v1: one environment, one update a step, as ``throughput.py`` times it.

Tianshou wants an older virtualenv, and so an older filelock, than ``constraints.txt`` has; the versions that count,
torch, gymnasium and NumPy, it takes as they are. It therefore lives in an environment of its own, and this file imports
nothing of gsrl's:

    python -m venv .venv-peers
    .venv-peers/bin/pip install ".[peers]" --constraint benchmarks/studies/peers/constraints.txt
    .venv-peers/bin/python benchmarks/studies/peers/tianshou_sac.py [--steps 20000]

trains and prints the returns of the last episodes. With ``--serve`` it is the other end of
``benchmarks/studies/speed/throughput.py --tianshou-python .venv-peers/bin/python``: it fills its replay, prints a line
of JSON with its versions, then reads a number of steps from each line of its input, trains that long, and answers with
the processor's seconds that it took.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import tianshou
import torch
from tianshou.algorithm import DiscreteSAC
from tianshou.algorithm.modelfree.discrete_sac import DiscreteSACPolicy
from tianshou.algorithm.modelfree.sac import AutoAlpha
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainer, OffPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic


class TianshouSAC:
    """Its DiscreteSAC, collector and trainer; tests and logging are off.

    Args:
        env: Id of an environment with vectors as observations and ``Discrete`` actions, or what makes one.
        width: Of both hidden layers.
        learning_rate: Of all optimisers.
        buffer_size: Transitions kept for replay.
        learning_starts: Steps with uniformly random actions before the first update.
        batch_size: Transitions in an update.
        seed: Of everything.
        alpha: Weight of the entropy; None: learned, for a target of .07 nats.
    """

    def __init__(
        self,
        env: str | Callable[[], gym.Env],
        width: int = 64,
        *,
        learning_rate: float = 1e-3,
        buffer_size: int = 20_000,
        learning_starts: int = 500,
        batch_size: int = 64,
        seed: int = 0,
        alpha: float | None = None,
    ) -> None:
        np.random.seed(seed)
        torch.manual_seed(seed)
        first: Any = gym.make(env) if isinstance(env, str) else env()
        envs = DummyVectorEnv([lambda: first])
        envs.seed(seed)
        # Not those of envs, which are of what is below all wrappers.
        observation_space, action_space = first.observation_space, first.action_space
        shape, actions = observation_space.shape, int(action_space.n)
        adam = AdamOptimizerFactory(lr=learning_rate)

        def torso() -> Net:
            return Net(state_shape=shape, hidden_sizes=[width, width])

        algorithm = DiscreteSAC(
            policy=DiscreteSACPolicy(
                actor=DiscreteActor(preprocess_net=torso(), action_shape=actions, softmax_output=False),
                action_space=action_space,
                observation_space=observation_space,
            ),
            policy_optim=adam,
            critic=DiscreteCritic(preprocess_net=torso(), last_size=actions),
            critic_optim=adam,
            critic2=DiscreteCritic(preprocess_net=torso(), last_size=actions),
            critic2_optim=adam,
            tau=0.005,
            gamma=0.99,
            alpha=AutoAlpha(0.07, 0.0, adam) if alpha is None else alpha,
        )
        self.algorithm = algorithm
        self.collector = Collector[CollectStats](algorithm, envs, VectorReplayBuffer(buffer_size, 1))
        self.trainer = OffPolicyTrainer(
            algorithm,
            OffPolicyTrainerParams(
                training_collector=self.collector,
                batch_size=batch_size,
                collection_step_num_env_steps=1,
                update_step_num_gradient_steps_per_sample=1.0,
                show_progress=False,
                verbose=False,
            ),
        )
        self.trainer.reset()
        self.collector.collect(n_step=learning_starts, random=True)

    def learn(self, steps: int) -> None:
        """Goes on for so many steps, an update each."""
        self.trainer.params.epoch_num_steps = steps
        self.trainer.execute_epoch()

    def returns(self) -> list[float]:
        """The returns of the episodes in the replay buffer; a reward is 1 in CartPole."""
        buffer = self.collector.buffer
        ends = np.flatnonzero(buffer.done[: len(buffer)])
        return np.diff(ends).tolist()


def main() -> None:
    """Trains, or serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help="train as long as each line of the input says")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON: arguments of TianshouSAC")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    agent = TianshouSAC("CartPole-v1", seed=arguments.seed, **arguments.settings)
    if not arguments.serve:
        agent.learn(arguments.steps)
        print(f"returns of the last episodes after {arguments.steps} steps: {agent.returns()[-20:]}")
        return
    versions = {"tianshou": tianshou.__version__, "torch": torch.__version__, "gymnasium": gym.__version__}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        start = time.process_time()
        agent.learn(int(line))
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
