"""On a GPU: estimators conform, updates are the CPU's, resuming is exact, and no update waits for the device.

``benchmarks/gpu/check.sh`` runs these; where there is no GPU, they are skipped. ``GSRL_TEST_DEVICE`` names another
device than ``cuda``, such as ``cpu``, on which they show that they run.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gsrl import DiscreteSAC, Population
from gsrl.algorithms.extractors import SmallCNN
from gsrl.estimators import ESTIMATORS
from gsrl.testing import check_estimator
from tests.unit.test_estimator_conformance import CONFORMING

DEVICE = os.environ.get("GSRL_TEST_DEVICE", "cuda")

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        "GSRL_TEST_DEVICE" not in os.environ and not torch.cuda.is_available(), reason="there is no GPU of NVIDIA's"
    ),
]

IMAGES: dict[str, Any] = {
    "features_extractor_class": SmallCNN,
    "features_extractor_kwargs": {"channels": 4, "features_dim": 16},
    "net_arch": [16],
    "share_features_extractor": True,
}
NETWORKS: dict[str, dict[str, Any]] = {"vectors": {"net_arch": [16, 16]}, "images": IMAGES}


class Pictures(gym.Env[Any, np.int64]):
    """As MinAtar's: noise of booleans, whose episodes end by chance."""

    observation_space = spaces.Box(0, 1, (10, 10, 4), np.bool_)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.np_random.random((10, 10, 4)) < 0.5, {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.np_random.random((10, 10, 4)) < 0.5, float(action), self.np_random.random() < 0.1, False, {}


def env_of(name: str) -> Any:
    return Pictures if name == "images" else "CartPole-v1"


def settings_of(name: str, **more: Any) -> dict[str, Any]:
    settings = {"buffer_size": 500, "learning_starts": 40, "batch_size": 16, "policy_kwargs": NETWORKS[name]}
    return {**settings, "device": DEVICE, **more}


def single(name: str, **more: Any) -> DiscreteSAC:
    policy = "CnnPolicy" if name == "images" else "MlpPolicy"
    env = env_of(name)
    return DiscreteSAC(policy, env() if callable(env) else env, seed=0, **settings_of(name, **more))


@contextmanager
def exact_products() -> Iterator[None]:
    """Convolutions in float32, as products are by default, and not in TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """For as long as it lasts, what makes the host wait for the GPU raises an error."""
    if not DEVICE.startswith("cuda"):
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_conform(name: str) -> None:
    if name not in CONFORMING:  # of several sizes of samples
        name = next(case for case in CONFORMING if case.partition(",")[0] == name)
    make, arguments = CONFORMING[name]
    check_estimator(make, device=DEVICE, **arguments)


@pytest.mark.parametrize("name", NETWORKS)
def test_updates_are_those_of_the_cpu(name: str) -> None:
    host = single(name, device="cpu").learn(60)
    there: Any = single(name)
    state = host.state_dict()
    there.policy.load_state_dict(host.policy.state_dict())
    there.learner.load_state_dict(host.learner.state_dict())
    with exact_products():
        for _ in range(10):
            assert host.replay_buffer is not None
            batch = host._normalization.normalized(host.replay_buffer.sample(16))
            noise = host.estimator.draw_noise(host._template, host.generator)
            for model in (host, there):
                given = tree_map_only(Tensor, partial(Tensor.to, device=model.device), (batch, noise))
                model.learner.update(*given, model._target_entropy, None, learning_rate=1e-3, tau=0.1)
    moved = 0.0
    for key, value in host.policy.state_dict().items():
        torch.testing.assert_close(there.policy.state_dict()[key].cpu(), value, rtol=1e-3, atol=1e-5)
        moved += float((value - state["parameters"]["policy"][key]).abs().sum())
    assert moved > 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_members_are_single_agents(name: str) -> None:
    policy = "CnnPolicy" if name == "images" else "MlpPolicy"
    with exact_products():
        population = Population(DiscreteSAC, env_of(name), [1, 0], policy=policy, **settings_of(name)).learn(50)
        alone = single(name).learn(50)
    member: Any = population.member(1)
    for key, value in alone.policy.state_dict().items():
        torch.testing.assert_close(member.policy.state_dict()[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_resuming_is_exact(name: str, tmp_path: Path) -> None:
    model = single(name).learn(60)
    model.save(tmp_path / "model", include=["replay_buffer"])
    env = env_of(name)
    loaded = DiscreteSAC.load(tmp_path / "model", env=env() if callable(env) else gym.make(env), device=DEVICE)
    before = copy.deepcopy(model.policy.state_dict())
    for each in (model, loaded):
        assert each.device.type == torch.device(DEVICE).type
        each.train(5)
    for key, value in model.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[key]), key
    assert any(not torch.equal(value, before[key]) for key, value in model.policy.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_no_update_waits_for_the_device(name: str) -> None:
    policy = "CnnPolicy" if name == "images" else "MlpPolicy"
    model = single(name).learn(60)
    population: Any = Population(DiscreteSAC, env_of(name), [1, 0], policy=policy, **settings_of(name)).learn(60)
    with waiting_is_an_error():
        model.train(5)
        for _ in range(5):
            population.update(population._normalization.normalized(population.sample()))
    assert model._n_updates == 25
