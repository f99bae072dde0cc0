"""Time of one update of discrete SAC: gsrl against a plain eager implementation, side by side.

The plain one has the shape that single-file implementations share: an actor, two critics and two target critics as
separate networks, an optimiser and a backward pass for each of actor, critics and temperature, and Polyak averaging in
a loop. Both do the same work: 64x64 networks, batch of 64, four observations, two actions, one thread. Rounds are
interleaved, so that the machine's drift meets both; the medians are compared.

    python benchmarks/update_speed.py [--rounds 40] [--out benchmarks/results/update_speed.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from gsrl import DiscreteSAC, __version__
from gsrl.buffers import ReplayBatch

OBSERVATIONS, ACTIONS, WIDTH, BATCH = 4, 2, 64, 64
GAMMA, TAU, LEARNING_RATE, TARGET_ENTROPY = 0.99, 0.005, 1e-3, 0.07
UPDATES_A_ROUND = 100


def mlp() -> nn.Sequential:
    """A network from observations to one number for each action."""
    return nn.Sequential(
        nn.Linear(OBSERVATIONS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, ACTIONS)
    )


class Plain:
    """Discrete SAC with everything separate."""

    def __init__(self) -> None:
        self.actor, self.q1, self.q2, self.q1_target, self.q2_target = (mlp() for _ in range(5))
        self.q1_target.load_state_dict(self.q1.state_dict())
        self.q2_target.load_state_dict(self.q2.state_dict())
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.q_optimizer = torch.optim.Adam([*self.q1.parameters(), *self.q2.parameters()], lr=LEARNING_RATE)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=LEARNING_RATE)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=LEARNING_RATE)

    def policy(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and log-probabilities ``[B, A]``."""
        logits = self.actor(observations)
        return Categorical(logits=logits).probs, F.log_softmax(logits, dim=1)

    def update(self, batch: ReplayBatch) -> None:
        """One update of all networks."""
        alpha = self.log_alpha.exp().item()
        with torch.no_grad():
            probs, log_probs = self.policy(batch.next_observations)
            next_q = torch.min(self.q1_target(batch.next_observations), self.q2_target(batch.next_observations))
            next_value = (probs * (next_q - alpha * log_probs)).sum(1)
            target = batch.rewards + batch.discounts * next_value
        q1 = self.q1(batch.observations).gather(1, batch.actions).squeeze(1)
        q2 = self.q2(batch.observations).gather(1, batch.actions).squeeze(1)
        q_loss = F.mse_loss(q1, target) + F.mse_loss(q2, target)
        self.q_optimizer.zero_grad()
        q_loss.backward()
        self.q_optimizer.step()

        probs, log_probs = self.policy(batch.observations)
        with torch.no_grad():
            q = torch.min(self.q1(batch.observations), self.q2(batch.observations))
        actor_loss = (probs * (alpha * log_probs - q)).sum(1).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()

        entropy = -(probs.detach() * log_probs.detach()).sum(1)
        alpha_loss = (self.log_alpha.exp() * (entropy - TARGET_ENTROPY)).mean()
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()

        for source, target_network in ((self.q1, self.q1_target), (self.q2, self.q2_target)):
            for parameter, slow in zip(source.parameters(), target_network.parameters(), strict=True):
                slow.data.copy_(TAU * parameter.data + (1 - TAU) * slow.data)


def random_batch(generator: torch.Generator) -> ReplayBatch:
    """Transitions of noise: the time does not depend on them."""
    return ReplayBatch(
        observations=torch.randn(BATCH, OBSERVATIONS, generator=generator),
        actions=torch.randint(ACTIONS, (BATCH, 1), generator=generator),
        rewards=torch.randn(BATCH, generator=generator),
        next_observations=torch.randn(BATCH, OBSERVATIONS, generator=generator),
        discounts=torch.full((BATCH,), GAMMA),
    )


def gsrl_update(estimator: str) -> Callable[[ReplayBatch], object]:
    """The update of a :class:`DiscreteSAC`, noise included."""
    model = DiscreteSAC(
        "MlpPolicy",
        gym.make("CartPole-v1"),
        estimator=estimator,
        learning_rate=LEARNING_RATE,
        buffer_size=1000,
        policy_kwargs={"net_arch": [WIDTH, WIDTH]},
        seed=0,
        device="cpu",
    )
    return model.update


def main() -> None:
    """Measures, prints and, on request, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as run_agent.py does
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    batches = [random_batch(generator) for _ in range(UPDATES_A_ROUND)]
    updates: dict[str, Callable[[ReplayBatch], object]] = {
        "plain": Plain().update,
        "gsrl exact": gsrl_update("exact"),
        "gsrl st-gumbel": gsrl_update("st-gumbel"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for round_index in range(arguments.rounds + 1):
        for name, update in updates.items():
            start = time.perf_counter()
            for batch in batches:
                update(batch)
            if round_index > 0:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / UPDATES_A_ROUND)

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        "command": f"python benchmarks/update_speed.py --rounds {arguments.rounds}",
        "versions": {
            "gsrl": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "median_milliseconds": {name: round(1e3 * value, 3) for name, value in medians.items()},
        "share_of_plain": {name: round(value / medians["plain"], 3) for name, value in medians.items()},
    }
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
