"""Exported policies, run without gsrl: the actions are those of the policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from gsrl import DiscreteSAC, Reinforce
from gsrl.export import ActionModule, save_onnx, save_torchscript
from gsrl.masking import to_matrix

VECTOR = spaces.Box(-2, 2, (3,))
IMAGES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DICT = spaces.Dict({"image": IMAGES, "number": spaces.Discrete(4), "vector": VECTOR})
UNEVEN, BITS, ONE = spaces.MultiDiscrete([2, 4], start=[1, 0]), spaces.MultiBinary(3), spaces.Discrete(5, start=-2)
POLICIES = {
    "Mlp": ("MlpPolicy", VECTOR, ONE, {"net_arch": [8]}),
    "Mlp of factors": ("MlpPolicy", VECTOR, UNEVEN, {"net_arch": [8]}),
    "Cnn": ("CnnPolicy", IMAGES, BITS, {"features_extractor_kwargs": {"features_dim": 8}}),
    "MultiInput": ("MultiInputPolicy", DICT, UNEVEN, {"net_arch": [8]}),
}
CASES = [(name, algorithm) for name in POLICIES for algorithm in (DiscreteSAC, Reinforce)]
IN_ONNX = [("Mlp of factors", DiscreteSAC, True), ("Cnn", Reinforce, False), ("MultiInput", DiscreteSAC, False)]
"""An export takes seconds: each kind of policy once, one of them with masks."""


class Dummy(gym.Env):
    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def make(name: str, algorithm: type[Any]) -> Any:
    policy, observation_space, action_space, arguments = POLICIES[name]
    settings = {"buffer_size": 10} if algorithm is DiscreteSAC else {}
    env = Dummy(observation_space, action_space)
    return algorithm(policy, env, seed=1, policy_kwargs=arguments, **settings).policy


def inputs(module: ActionModule, count: int) -> list[np.ndarray]:
    """Random observations of a policy, by the names of its inputs, and masks."""
    rng, space = np.random.default_rng(0), module.actor.observation_space
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    values: list[Any] = []
    for part in parts:
        if isinstance(part, spaces.Discrete):
            values.append(rng.integers(part.n, size=count))
        elif part.dtype == np.uint8:
            values.append(rng.integers(256, size=(count, *part.shape), dtype=np.uint8))
        else:
            values.append(rng.normal(size=(count, *part.shape)).astype(np.float32))
    if module.action_masks:
        masks = rng.random((count, sum(module.actor.head.codec.sizes))) < 0.5
        first = np.cumsum((0, *module.actor.head.codec.sizes[:-1]))
        masks[:, first] |= ~to_matrix(module.actor.head.codec, masks, validate_args=False).any(-1)
        values.append(masks)
    return values


def expected(policy: Any, module: ActionModule, values: list[np.ndarray]) -> np.ndarray:
    masks = values[-1] if module.action_masks else None
    observation = values[0] if module.keys is None else dict(zip(module.keys, values, strict=False))
    return policy.predict(observation, deterministic=True, action_masks=masks)[0]


def open_onnx(path: Path, module: ActionModule) -> Callable[[list[np.ndarray]], np.ndarray]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == list(module.names)
    return lambda values: session.run(["actions"], dict(zip(module.names, values, strict=True)))[0]


def open_script(path: Path) -> Callable[[list[np.ndarray]], np.ndarray]:
    script = torch.jit.load(path)
    return lambda values: script(*map(torch.as_tensor, values)).numpy()


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("name", "algorithm"), CASES)
def test_torchscript_takes_the_actions_of_the_policy(
    name: str, algorithm: type[Any], masks: bool, tmp_path: Path
) -> None:
    policy = make(name, algorithm)
    module = ActionModule(policy, action_masks=masks)
    save_torchscript(policy, tmp_path / "policy.pt", action_masks=masks)
    assert all(part.training for part in policy.modules())  # as it was
    for count in (1, 7):
        values = inputs(module, count)
        actions = open_script(tmp_path / "policy.pt")(values)
        np.testing.assert_array_equal(actions, expected(policy, module, values))
        assert actions.dtype == policy.action_space.dtype


@pytest.mark.parametrize(("name", "algorithm", "masks"), IN_ONNX)
def test_onnx_takes_the_actions_of_the_policy(name: str, algorithm: type[Any], masks: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    policy = make(name, algorithm)
    module = ActionModule(policy.actor, action_masks=masks)
    save_onnx(policy.actor, tmp_path / "policy.onnx", action_masks=masks)
    for count in (1, 7):
        values = inputs(module, count)
        actions = open_onnx(tmp_path / "policy.onnx", module)(values)
        np.testing.assert_array_equal(actions, expected(policy, module, values))
        assert actions.dtype == policy.action_space.dtype


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_sampled_actions_have_the_probabilities_of_the_policy(form: str, tmp_path: Path) -> None:
    policy = make("Mlp", Reinforce)
    module, path, count = ActionModule(policy, deterministic=False), tmp_path / "policy", 20_000
    values = [np.broadcast_to(np.array([0.5, -1.0, 2.0], np.float32), (count, 3)).copy()]
    if form == "onnx":
        pytest.importorskip("onnxscript")
        save_onnx(policy, path, deterministic=False)
        run = open_onnx(path, module)
    else:
        save_torchscript(policy, path, deterministic=False)
        run = open_script(path)
    first, second = run(values), run(values)
    assert (first != second).any()
    probabilities = policy.actor(torch.as_tensor(values[0][:1])).probs[0, 0].detach().numpy()
    counts = np.bincount(first + 2, minlength=5)
    # Chi-square with 4 degrees of freedom: above 25 in one of 20,000 cases. ONNX Runtime's seed is not ours to choose.
    assert ((counts - count * probabilities) ** 2 / (count * probabilities)).sum() < 25


def test_onnx_as_in_the_guide_of_stable_baselines3(tmp_path: Path) -> None:
    """A module of the user's that calls the actor."""
    pytest.importorskip("onnxscript")

    class Exported(torch.nn.Module):
        def __init__(self, actor: Any) -> None:
            super().__init__()
            self.actor = actor

        def forward(self, observation: torch.Tensor) -> torch.Tensor:
            return self.actor(observation, deterministic=True)

    policy = make("Mlp", DiscreteSAC)
    observation = torch.zeros(1, 3)
    path = tmp_path / "policy.onnx"
    torch.onnx.export(Exported(policy.actor), (observation,), path, input_names=["observation"], dynamo=True)
    runtime = pytest.importorskip("onnxruntime")
    (actions,) = runtime.InferenceSession(path).run(None, {"observation": observation.numpy()})
    np.testing.assert_array_equal(actions, policy.predict(observation.numpy(), deterministic=True)[0])
