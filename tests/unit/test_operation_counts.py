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


@pytest.fixture(scope="module", params=["st-gumbel", "exact"])
def model(request: pytest.FixtureRequest) -> DiscreteSAC:
    settings: dict[str, Any] = {"policy_kwargs": {"net_arch": [64, 64]}, "batch_size": 64, "learning_starts": 64}
    model = DiscreteSAC("MlpPolicy", "CartPole-v1", estimator=request.param, seed=0, device="cpu", **settings)
    return model.learn(70)


def test_update(model: DiscreteSAC) -> None:
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(64)
    limit = {"st-gumbel": 190, "exact": 179}[model.estimator.name]
    assert 100 < count(lambda: model.update(batch)) <= 1.03 * limit


def test_acting(model: DiscreteSAC) -> None:
    assert 10 < count(lambda: model.policy.act(np.zeros((1, 4), np.float32))) <= 19


def test_replay(model: DiscreteSAC) -> None:
    """Transitions are kept and put together in NumPy: torch only takes over the finished arrays."""
    assert model.replay_buffer is not None
    assert count(lambda: model.replay_buffer.sample(64)) <= 5  # type: ignore[union-attr]
