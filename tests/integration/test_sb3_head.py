"""The action head outside of DiscreteSAC: in Stable-Baselines3's PPO and A2C, and in a plain PyTorch loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.distributions import make_proba_distribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn

import envs
from gsrl import ActionHead, CategoricalActorCriticPolicy

SPACES = [spaces.Discrete(3), spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 4, 3]), spaces.MultiBinary(4)]


class AllOnes(gym.Env):
    """Rewards the share of factors that take their second choice; eight steps an episode."""

    def __init__(self, action_space: spaces.Space) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,))
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        self.time += 1
        reward = float(np.mean(np.asarray(action) - getattr(self.action_space, "start", 0) == 1))
        return np.zeros(2, np.float32), reward, self.time == 8, False, {}


def make_agent(algorithm: Any, space: spaces.Space, **settings: Any) -> Any:
    return algorithm(
        CategoricalActorCriticPolicy, AllOnes(space), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **settings
    )


def test_ppo_learns_cartpole() -> None:
    model = PPO(
        CategoricalActorCriticPolicy,
        make_vec_env("CartPole-v1", 8, seed=1),
        learning_rate=3e-3,
        n_steps=64,
        batch_size=64,
        n_epochs=8,
        gae_lambda=0.9,
        gamma=0.98,
        policy_kwargs={"net_arch": [64]},
        seed=1,
        device="cpu",
    ).learn(8192)
    mean, _ = evaluate_policy(model, make_vec_env("CartPole-v1", 5, seed=1), n_eval_episodes=10)
    assert mean > 150


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_log_prob_and_entropy_are_those_of_stable_baselines3(algorithm: Any, space: spaces.Space) -> None:
    policy = make_agent(algorithm, space).policy
    observations = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    ours = policy.get_distribution(observations)
    torch.manual_seed(0)
    actions = ours.sample()
    assert actions.shape == (6, *space.shape)  # type: ignore[misc]
    assert all(np.asarray(action, dtype=space.dtype) in space for action in actions)
    _, log_prob, entropy = policy.evaluate_actions(observations, actions)

    logits = policy.action_net(policy.mlp_extractor(observations)[0]).logits
    if isinstance(space, spaces.MultiBinary):
        logits, first = logits[..., 1] - logits[..., 0], 0.0  # the log-odds
    else:
        logits, first = logits[~logits.isneginf()].view(6, -1), float(space.start if space.shape == () else 0)
    theirs = make_proba_distribution(space).proba_distribution(logits)
    torch.testing.assert_close(log_prob, theirs.log_prob(actions - first))
    torch.testing.assert_close(entropy, theirs.entropy())
    torch.testing.assert_close(ours.mode() - first, theirs.mode().float())


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_every_space_is_learned(algorithm: Any, space: spaces.Space) -> None:
    settings = {"n_steps": 128, "batch_size": 64} if algorithm is PPO else {"n_steps": 8}
    model = make_agent(algorithm, space, learning_rate=1e-2, gamma=0.0, **settings).learn(1024)
    mean, _ = evaluate_policy(model, model.env, n_eval_episodes=2)
    assert mean == 8.0


def test_saving_and_loading(tmp_path: Path) -> None:
    model = make_agent(PPO, spaces.MultiDiscrete([2, 3]), n_steps=16, batch_size=16).learn(32)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=AllOnes(spaces.MultiDiscrete([2, 3])), device="cpu")
    assert isinstance(loaded.policy, CategoricalActorCriticPolicy)
    observations = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        model.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )
    for p, q in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(p, q)
    loaded.learn(16)


def test_stable_baselines3_initialises_the_head() -> None:
    # ActorCriticPolicy scales the action layer by 0.01, so that it starts near the uniform policy.
    head = make_agent(PPO, spaces.Discrete(3)).policy.action_net
    assert isinstance(head, ActionHead)
    assert head.bias.abs().max() == 0.0
    torch.testing.assert_close(head.weight @ head.weight.T, 1e-4 * torch.eye(3), rtol=1e-3, atol=1e-8)


def test_other_action_spaces_are_refused() -> None:
    with pytest.raises(TypeError, match="must be Discrete, MultiDiscrete or MultiBinary, but got Box"):
        make_agent(PPO, spaces.Box(-1.0, 1.0, (2,)))


def test_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), ActionHead(16, spaces.Discrete(2)))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    env = envs.probes.ObservationAction()
    for _ in range(400):
        observation, _ = env.reset()
        policy = network(torch.as_tensor(observation))
        one_hot = policy.sample(generator=generator)
        reward = env.step(network[-1].codec.decode(one_hot).item())[1]
        optimizer.zero_grad()
        (-(reward - 0.5) * policy.log_prob(one_hot)).backward()
        optimizer.step()
    for sign in (-1.0, 1.0):
        assert network(torch.tensor([sign])).probs[0, int(sign > 0)] > 0.9
