"""Against slow-downs: how many tensor operations an update and a step take.

A small network spends its time on the operations, not in them, so their number is what can grow unnoticed; and unlike
seconds it is the same on every machine. The limits are the counts of the day they were written and 3 % more, for what
another version of torch may do in another way. Whoever needs more operations, and knows why, raises a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from gsrl import DiscreteSAC


class Counter(TorchDispatchMode):
    """Counts the operations that reach the kernels: of forward passes, backward passes and optimiser alike."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def count(action: Callable[[], Any]) -> int:
    with Counter() as counter:
        action()
    return counter.count


# Of soft actor-critic as it was published, and with all that learning without units takes: normalised observations and
# layers, a coefficient of values, and targets for which the target networks are asked about every step of a window.
SETTINGS: dict[str, dict[str, Any]] = {
    "published": {
        "n_steps": 1,
        "reward_scale": 1.0,
        "ent_coef": "auto",
        "critics": "min",
        "entropy_in_target": True,
        "policy_kwargs": {"layer_norm": False, "normalize_observations": False},
    },
    "without units": {
        "n_steps": 3,
        "n_step_correction": True,
        "reward_scale": "auto",
        "ent_coef": "relative",
        "critics": "mean",
        "entropy_in_target": False,
        "policy_kwargs": {"layer_norm": True, "normalize_observations": True},
    },
}


@pytest.fixture(scope="module", params=SETTINGS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="module", params=["st-gumbel", "exact"])
def model(kind: str, request: pytest.FixtureRequest) -> DiscreteSAC:
    settings = {**SETTINGS[kind], "batch_size": 64, "learning_starts": 64, "exploration_eps": 0.0}
    settings["policy_kwargs"] = {**settings["policy_kwargs"], "net_arch": [64, 64]}
    model = DiscreteSAC("MlpPolicy", "CartPole-v1", estimator=request.param, seed=0, device="cpu", **settings)
    return model.learn(70)


def test_update(model: DiscreteSAC, kind: str) -> None:
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(64)
    limits = {"published": {"st-gumbel": 190, "exact": 179}, "without units": {"st-gumbel": 286, "exact": 274}}
    assert 100 < count(lambda: model.update(batch)) <= 1.03 * limits[kind][model.estimator.name]


def test_acting(model: DiscreteSAC, kind: str) -> None:
    limit = {"published": 19, "without units": 21}[kind]
    assert 10 < count(lambda: model.policy.act(np.zeros((1, 4), np.float32))) <= limit


def test_replay(model: DiscreteSAC, kind: str) -> None:
    """Transitions are kept and put together in NumPy: torch only takes over the finished arrays."""
    assert model.replay_buffer is not None
    limit = {"published": 5, "without units": 7}[kind]
    assert count(lambda: model.replay_buffer.sample(64)) <= limit  # type: ignore[union-attr]
