"""CPU time of a team's step of training: eight teams in lock-step, beside a plain loop.

The plain loop is what one would write: networks, optimisers and targets of each agent by themselves, a world of
``mpe2``, replay in NumPy arrays. It learns the same: speaker and listener, two critics of 64 and 64 units for each,
straight-through Gumbel-softmax, an update of 128 transitions every 32 steps. Ours are eight members of
:class:`gsrl.multi_agent.MultiAgentSAC` with 32 worlds each, on the worlds in arrays and on ``mpe2``'s own. One thread;
rounds are interleaved, so that the machine's drift meets all; medians of CPU time are compared.

    python benchmarks/studies/teams/speed.py [--members 8] [--rounds 15] [--out FILE]
"""

from __future__ import annotations

import copy
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.studies.common import in_turns, record, repeated, start
from envs.mpe import SpeakerListenerEnv
from gsrl.multi_agent import MultiAgentSAC

EVERY, BATCH, WARM_UP = 32, 128, 130
"""Steps between updates, transitions of one, and updates before any is timed: by then ours are recorded."""


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of 64 units."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


class PlainAgent:
    """One agent of the plain loop: its networks, their optimisers, and its alpha."""

    def __init__(self, inputs: int, choices: int, seen: int) -> None:
        self.choices = choices
        self.actor, self.critics = network(inputs, choices), nn.ModuleList([network(seen, 1) for _ in range(2)])
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = torch.zeros((), requires_grad=True)
        self.optimisers = [
            torch.optim.Adam(parameters, 3e-3)
            for parameters in (self.actor.parameters(), self.critics.parameters(), [self.log_alpha])
        ]

    def step(self, which: int, loss: Tensor) -> None:
        """A step of an optimiser."""
        self.optimisers[which].zero_grad()
        loss.backward()
        self.optimisers[which].step()


class PlainLoop:
    """A team that is trained by a plain loop in one world."""

    def __init__(self, env: Any, capacity: int = 100_000) -> None:
        self.env, self.names = env, list(env.possible_agents)
        inputs = [env.observation_space(name).shape[0] for name in self.names]
        choices = [int(env.action_space(name).n) for name in self.names]
        seen = sum(inputs) + sum(choices)
        self.agents = [PlainAgent(size, count, seen) for size, count in zip(inputs, choices, strict=True)]
        self.observations, self.after = ([np.zeros((capacity, size), np.float32) for size in inputs] for _ in range(2))
        self.actions = np.zeros((capacity, len(inputs)), np.int64)
        self.rewards = np.zeros((capacity, len(inputs)), np.float32)
        self.count, self.capacity, self.rng = 0, capacity, np.random.default_rng(0)
        self.seen, _ = env.reset(seed=0)

    @torch.no_grad()
    def act(self) -> None:
        """A step of the world, by drawn actions; its transition is kept."""
        row = self.count % self.capacity
        actions = {}
        for i, (name, agent) in enumerate(zip(self.names, self.agents, strict=True)):
            logits = agent.actor(torch.from_numpy(self.seen[name]))
            actions[name] = int(torch.distributions.Categorical(logits=logits).sample())
            self.observations[i][row], self.actions[row, i] = self.seen[name], actions[name]
        self.seen, rewards, _, _, _ = self.env.step(actions)
        for i, name in enumerate(self.names):
            self.after[i][row], self.rewards[row, i] = self.seen[name], rewards[name]
        self.count += 1
        if not self.env.agents:
            self.seen, _ = self.env.reset()

    def update(self) -> None:
        """An update of all agents, one after another."""
        rows = self.rng.integers(min(self.count, self.capacity), size=BATCH)
        seen = [torch.from_numpy(each[rows]) for each in self.observations]
        after = [torch.from_numpy(each[rows]) for each in self.after]
        taken = [
            F.one_hot(torch.from_numpy(self.actions[rows, i]), agent.choices).float()
            for i, agent in enumerate(self.agents)
        ]
        for i, agent in enumerate(self.agents):
            alpha = agent.log_alpha.detach().exp()
            with torch.no_grad():
                nexts = [F.log_softmax(each.actor(x), -1) for each, x in zip(self.agents, after, strict=True)]
                drawn = [F.gumbel_softmax(logits, hard=True) for logits in nexts]
                inputs = torch.cat([*after, *drawn], -1)
                value = torch.min(*(target(inputs) for target in agent.targets)).squeeze(-1)
                value = value - alpha * (nexts[i].exp() * nexts[i]).sum(-1)
                goal = torch.from_numpy(self.rewards[rows, i]) + 0.95 * value
            inputs = torch.cat([*seen, *taken], -1)
            errors = [(critic(inputs).squeeze(-1) - goal).square().mean() for critic in agent.critics]
            agent.step(1, 0.5 * (errors[0] + errors[1]))
            logits = F.log_softmax(agent.actor(seen[i]), -1)
            with torch.no_grad():
                chosen = [
                    F.gumbel_softmax(F.log_softmax(each.actor(x), -1), hard=True)
                    for each, x in zip(self.agents, seen, strict=True)
                ]
            chosen[i] = F.gumbel_softmax(logits, hard=True)
            inputs = torch.cat([*seen, *chosen], -1)
            q = torch.min(*(critic(inputs) for critic in agent.critics)).squeeze(-1)
            entropy = -(logits.exp() * logits).sum(-1)
            agent.step(0, -(q + alpha * entropy).mean())
            agent.step(2, agent.log_alpha * (entropy.detach().mean() - 0.2 * np.log(agent.choices)))
            with torch.no_grad():
                for critic, target in zip(agent.critics.parameters(), agent.targets.parameters(), strict=True):
                    target.lerp_(critic, 0.01)

    def train(self) -> None:
        """As many steps as lie between two updates, and an update."""
        for _ in range(EVERY):
            self.act()
        self.update()


def main(*, members: int = 8, rounds: int = 15, out: Path | None = None) -> None:
    """Measures, prints and, on request, writes the result."""
    theirs = importlib.import_module("mpe2.simple_speaker_listener_v4").parallel_env
    loop = PlainLoop(theirs())
    how: dict[str, Any] = {"n_envs": EVERY, "batch_size": BATCH, "learning_starts": 500}
    teams = [MultiAgentSAC(make, range(members), **how) for make in (SpeakerListenerEnv, theirs)]
    for _ in range(EVERY):
        loop.train()
    for team in teams:
        team.learn(team.steps_of(WARM_UP), log_interval=10**9)
    batch = teams[0].collect()
    subjects = {
        "loop": repeated(loop.train),
        "ours": repeated(lambda: teams[0]._update(1.0)),
        "ours on mpe2": repeated(lambda: teams[1]._update(1.0)),
        "update of the loop": repeated(loop.update),
        "update of ours": repeated(lambda: teams[0].lockstep.update(*batch, learning_rate=3e-3, tau=0.01)),
    }
    calls = {"loop": 4, "ours": 20, "ours on mpe2": 3, "update of the loop": 10, "update of ours": 20}
    medians = in_turns(subjects, calls, rounds, clock=time.process_time).median()
    steps = {name: EVERY * (1 if name == "loop" else members) / medians[name] for name in list(subjects)[:3]}
    result = {
        "members": members,
        "member_steps_a_second": {name: round(each) for name, each in steps.items()},
        "times_the_loop": {name: round(float(steps[name] / steps["loop"]), 2) for name in ("ours", "ours on mpe2")},
        "milliseconds_of_an_update": {
            "loop": round(float(1e3 * medians["update of the loop"]), 2),
            "ours, a member": round(float(1e3 * medians["update of ours"] / members), 2),
            "times": round(float(members * medians["update of the loop"] / medians["update of ours"]), 2),
        },
    }
    for name, value in result.items():
        print(f"{name}: {value}")
    record(out, {"rounds": rounds, **result})


if __name__ == "__main__":
    start(main, __doc__)
