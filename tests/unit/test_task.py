"""A task of one's own: the loop, schedules, members that diverge, copies, files."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gsrl import checkpoint
from gsrl.learning import Task


class Line(nn.Module):
    """Squared error of a line."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        error = (self.linear(x) - y).square().mean()
        return error, {"error": error.detach()}


class Fitting(Task):
    """y = 2 x + noise of each member's own."""

    SETTINGS = ("seeds", "slope", "batch_size", "learning_rate")
    unit, score, member = "point", "fit", "line"

    def __init__(self, seeds: Any = (0, 1), slope: float = 2.0, batch_size: int = 8, **settings: Any) -> None:
        self.slope = slope
        self.rates: list[float] = []
        super().__init__(
            seeds, **{"learning_rate": 0.05, "device": "cpu", **settings}, batch_size=batch_size, rngs={"play": "data"}
        )

    def make_loss(self, seed: int) -> nn.Module:
        return Line()

    def collect(self) -> tuple[Tensor, Tensor]:
        x = torch.stack([torch.from_numpy(rng.normal(size=(self.batch_size, 1))) for rng in self.rngs["play"]]).float()
        shape = (self.batch_size, 1)
        noise = torch.stack([torch.randn(shape, generator=each) for each in self.lockstep.generators])
        y = self.slope * x + 0.1 * noise
        return (x, y) if self.lockstep.is_stacked else (x[0], y[0])

    def play(self, index: int, episodes: int, seed: int, **how: Any) -> NDArray[np.float64]:
        x = np.random.default_rng(seed).normal(size=(episodes, 1))
        with torch.no_grad():
            found = self.lockstep.losses[index].linear(torch.from_numpy(x).float()).numpy()
        fit: NDArray[np.float64] = -np.abs(found - self.slope * x)[:, 0]
        return fit


class Spied(Fitting):
    """Remembers the share that remained at each update."""

    def _update(self, remaining: float) -> None:
        self.rates.append(remaining)
        super()._update(remaining)


def weights(task: Task) -> list[Tensor]:
    return [p.detach().clone() for loss in task.lockstep.losses for p in loss.parameters()]


def test_all_members_learn_as_they_would_alone() -> None:
    task = Fitting().learn(8 * 200, log_interval=100)
    assert (task.num_updates, task.steps, task.lockstep.counts) == (200, 1600, [200, 200])
    assert [row["points"] for row in task.history] == [800, 1600]
    assert min(task.history[-1]["fit"]) > -0.1
    assert task.evaluate(5).shape == (2, 5)
    alone = Fitting([1]).learn(8 * 200)
    for p, q in zip(weights(task)[2:], weights(alone), strict=True):
        torch.testing.assert_close(p, q)
    assert not torch.equal(weights(task)[0], weights(task)[2])
    names = {"train/error", "train/gradient_norm_linear", "time/updates", "time/points"}
    assert all(set(row) == names for row in task.scalars())


def test_a_task_that_is_alone_is_its_learner_to_the_bit() -> None:
    task, other = Fitting([3], alone=True), Fitting([3], alone=True)
    learner = copy.deepcopy(task.lockstep.learners[0])
    task.learn(8 * 5)
    for _ in range(5):
        learner.update(*other.collect(), learning_rate=0.05)
    assert all(map(torch.equal, weights(task), learner.loss.parameters()))


@pytest.mark.parametrize("parts", [[24], [8, 8, 8], [20, 4]])
def test_schedules_go_over_the_whole_training(parts: list[int]) -> None:
    task = Spied(learning_rate=lambda remaining: 0.1 * remaining)
    for part in parts:
        task.learn(8 * part, total=8 * 24)
    np.testing.assert_allclose(task.rates, 1 - np.arange(24) / 24)
    once = Spied(learning_rate=lambda remaining: 0.1 * remaining).learn(8 * 24)
    assert all(map(torch.equal, weights(task), weights(once)))


def test_a_total_that_is_over_leaves_nothing() -> None:
    task = Spied(learning_rate=lambda remaining: 0.1 * remaining).learn(16, total=8)
    assert task.rates == [1.0, 0.0]


def test_a_callback_ends_the_training() -> None:
    seen: list[int] = []

    def enough(task: Fitting) -> bool:
        seen.append(task.num_updates)
        return len(seen) < 3

    assert Fitting().learn(8 * 100, enough, log_interval=4).num_updates == 12
    assert seen == [4, 8, 12]


def test_members_diverge_alone_and_a_training_ends_with_the_last() -> None:
    task = Fitting().learn(16)
    before = weights(task)
    with torch.no_grad():
        task.lockstep.losses[1].linear.weight.fill_(torch.nan)
    with pytest.warns(UserWarning, match="the line of seed 1 diverged by 32 points: its loss is not finite"):
        task.learn(16)
    assert task.lockstep.diverged == [False, True]
    assert not torch.equal(weights(task)[0], before[0])
    assert torch.equal(weights(task)[3], before[3])
    with torch.no_grad():
        task.lockstep.losses[0].linear.weight.fill_(torch.nan)
    with pytest.warns(UserWarning, match="the line of seed 0"):
        task.learn(8 * 100)
    assert task.num_updates == 5
    alone = Fitting([0], alone=True)
    with torch.no_grad():
        alone.lockstep.losses[0].linear.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite after 1 updates: the training diverged"):
        alone.learn(8)


def saved(task: Fitting) -> Fitting:
    file = io.BytesIO()
    task.save(file)
    file.seek(0)
    return Fitting.load(file, device="cpu")


@pytest.mark.parametrize("how", [copy.deepcopy, lambda task: pickle.loads(pickle.dumps(task)), saved])
def test_copies_and_files_go_on_to_the_same_bits(how: Any) -> None:
    task = Fitting(slope=3.0).learn(8 * 7, log_interval=5)
    other = how(task)
    assert (other.slope, other.num_updates, other.history) == (3.0, 7, task.history)
    before = weights(task)
    other.learn(8 * 9)
    assert all(map(torch.equal, weights(task), before))
    task.learn(8 * 9)
    assert all(map(torch.equal, weights(task), weights(other)))
    assert not torch.equal(weights(task)[0], before[0])


def test_other_files_are_refused(tmp_path: Path) -> None:
    Fitting().save(tmp_path / "line.zip")
    with pytest.raises(checkpoint.CheckpointError, match="not a saved Spied"):
        Spied.load(tmp_path / "line.zip")
    tree = checkpoint.load(tmp_path / "line.zip")
    tree["members"][1]["loss"]["linear.weight"] = torch.zeros(3, 1)
    checkpoint.save(tmp_path / "other.zip", tree)
    with pytest.raises(checkpoint.CheckpointError, match=r"members\.1\.loss\.linear\.weight has shape \[3, 1\]"):
        Fitting.load(tmp_path / "other.zip")
    del tree["members"][1]
    checkpoint.save(tmp_path / "fewer.zip", tree)
    with pytest.raises(checkpoint.CheckpointError, match="seeds and members must be as many, but got 2 and 1"):
        Fitting.load(tmp_path / "fewer.zip")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": []}, "seeds must hold at least one"),
        ({"seeds": [0, -1]}, "integers of at least 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, but got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive or None"),
        ({"alone": True}, "stacked must be True for 2 members"),
    ],
)
def test_arguments_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fitting(**settings)


def test_the_log_interval_is_checked() -> None:
    with pytest.raises(ValueError, match="log_interval must be at least 1, but got 0"):
        Fitting().learn(8, log_interval=0)
