"""A plain eager discrete SAC: what a single-file implementation looks like, and what gsrl is timed against.

Its shape is the one that such files share: an actor, two critics and two target critics as separate networks, an
optimiser and a backward pass for each of actor, critics and temperature, ``torch.distributions.Categorical``, Polyak
averaging parameter by parameter, Stable-Baselines3's replay buffer, a vector environment of one, one update a step. No
network is evaluated more often than the losses need.

    python benchmarks/studies/peers/plain.py [--steps 20000] [--seed 0]

trains it on CartPole-v1 and prints the returns of the last episodes.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from benchmarks.studies.common import start


class PlainUpdate:
    """The networks of discrete SAC with everything separate, and their update.

    Args:
        observations: Numbers in an observation.
        actions: Choices.
        width: Of both hidden layers.
        learning_rate: Of all optimisers.
        gamma: Discount factor.
        tau: Polyak's coefficient.
        target_entropy: In nats.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        width: int = 64,
        *,
        learning_rate: float = 1e-3,
        gamma: float = 0.99,
        tau: float = 0.005,
        target_entropy: float = 0.07,
    ) -> None:
        def network() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(observations, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, actions)
            )

        self.gamma, self.tau, self.target_entropy = gamma, tau, target_entropy
        self.actor, self.q1, self.q2, self.q1_target, self.q2_target = (network() for _ in range(5))
        self.q1_target.load_state_dict(self.q1.state_dict())
        self.q2_target.load_state_dict(self.q2.state_dict())
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.q_optimizer = torch.optim.Adam([*self.q1.parameters(), *self.q2.parameters()], lr=learning_rate)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=learning_rate)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=learning_rate)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Samples actions."""
        with torch.no_grad():
            return Categorical(logits=self.actor(torch.as_tensor(observations))).sample().numpy()

    def policy(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and log-probabilities ``[B, A]``."""
        logits = self.actor(observations)
        return Categorical(logits=logits).probs, F.log_softmax(logits, dim=1)

    def update(self, batch: ReplayBufferSamples) -> None:
        """One update of all networks."""
        alpha = self.log_alpha.exp().item()
        with torch.no_grad():
            probs, log_probs = self.policy(batch.next_observations)
            next_q = torch.min(self.q1_target(batch.next_observations), self.q2_target(batch.next_observations))
            next_value = (probs * (next_q - alpha * log_probs)).sum(1)
            target = batch.rewards.flatten() + self.gamma * (1 - batch.dones.flatten()) * next_value
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
        alpha_loss = (self.log_alpha.exp() * (entropy - self.target_entropy)).mean()
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()

        for source, target_network in ((self.q1, self.q1_target), (self.q2, self.q2_target)):
            for parameter, slow in zip(source.parameters(), target_network.parameters(), strict=True):
                slow.data.copy_(self.tau * parameter.data + (1 - self.tau) * slow.data)


class PlainSAC:
    """The loop around it, in one environment.

    Args:
        env: Id of an environment with vectors as observations and ``Discrete`` actions.
        width: Of both hidden layers.
        learning_rate: Of all optimisers.
        buffer_size: Transitions kept for replay.
        learning_starts: Steps with uniformly random actions before the first update.
        batch_size: Transitions in an update.
        seed: Of everything; torch's and NumPy's global generators are seeded, as in the files that this stands for.
    """

    def __init__(
        self,
        env: str,
        width: int = 64,
        *,
        learning_rate: float = 1e-3,
        buffer_size: int = 20_000,
        learning_starts: int = 500,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        np.random.seed(seed)
        torch.manual_seed(seed)
        self.envs = SyncVectorEnv(
            [lambda: RecordEpisodeStatistics(gym.make(env))], autoreset_mode=AutoresetMode.SAME_STEP
        )
        self.envs.action_space.seed(seed)
        observation_space, action_space = self.envs.single_observation_space, self.envs.single_action_space
        assert isinstance(observation_space, spaces.Box)
        assert isinstance(action_space, spaces.Discrete)
        self.networks = PlainUpdate(observation_space.shape[0], int(action_space.n), width, learning_rate=learning_rate)
        self.buffer = ReplayBuffer(
            buffer_size, observation_space, action_space, "cpu", handle_timeout_termination=False
        )
        self.learning_starts, self.batch_size = learning_starts, batch_size
        self.observations, _ = self.envs.reset(seed=seed)
        self.steps = 0
        self.returns: list[float] = []

    def learn(self, steps: int) -> None:
        """Goes on for so many steps."""
        for _ in range(steps):
            if self.steps < self.learning_starts:
                actions = self.envs.action_space.sample()
            else:
                actions = self.networks.act(self.observations)
            following, rewards, terminations, truncations, infos = self.envs.step(actions)
            successors = following
            if "final_obs" in infos:
                successors = following.copy()
                for i in (terminations | truncations).nonzero()[0]:
                    successors[i] = infos["final_obs"][i]
                    self.returns.append(float(infos["final_info"]["episode"]["r"][i]))
            self.buffer.add(self.observations, successors, actions, rewards, terminations, [infos])
            self.observations = following
            self.steps += 1
            if self.steps > self.learning_starts:
                self.networks.update(self.buffer.sample(self.batch_size))


def main(*, steps: int = 20_000, seed: int = 0) -> None:
    """Trains and prints."""
    agent = PlainSAC("CartPole-v1", seed=seed)
    agent.learn(steps)
    print(f"returns of the last episodes after {agent.steps} steps: {agent.returns[-20:]}")


if __name__ == "__main__":
    start(main, __doc__)
