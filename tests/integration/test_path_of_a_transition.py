"""How many files a transition comes by on its way from `env.step` to Adam: what a reader has to know."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import gsrl
from gsrl import DiscreteSAC
from gsrl.learning.learner import adam_
from gsrl.vec_env import SyncVecEnv

ROOT = Path(gsrl.__file__).parent

COLLECTED = {
    "vec_env.py",  # whether somebody else has stepped the environments
    "masking.py",  # the masks of the next actions
    "checks.py",  # finite numbers, shapes
    "spaces.py",  # actions as indices
    "algorithms/base.py",
    "algorithms/discrete_sac.py",
    "replay/checks.py",
    "replay/buffer.py",
    "replay/ring.py",
    "normalization.py",
    "timing.py",
    "_trees.py",
}
SAMPLED = {"replay/windows.py"}
LEARNED = {
    "learning/learner.py",
    "learning/trace.py",  # once it is recorded, this is all that runs of the loss
    "estimators/base.py",  # noise
    "relaxations.py",
    "algorithms/policies.py",  # training mode, networks
}
LOSS = {
    "algorithms/sac_loss.py",
    "losses.py",
    "values.py",
    "distributions.py",
    "heads.py",
    "estimators/pathwise.py",
    "temperature.py",
    "_modes.py",
}


def files_from_step_to_adam(model: DiscreteSAC) -> set[str]:
    """The files of ours of which something is called between the return of `env.step` and the call of `adam_`."""
    files: set[str] = set()
    is_under_way = False

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal is_under_way
        if event == "return" and frame.f_code is SyncVecEnv.step_wait.__code__:
            is_under_way = True
            files.add("algorithms/discrete_sac.py")  # whose loop this is
        elif event == "call" and frame.f_code.co_name == adam_.__name__:
            is_under_way = False
        elif event == "call" and is_under_way and Path(frame.f_code.co_filename).is_relative_to(ROOT):
            files.add(Path(frame.f_code.co_filename).relative_to(ROOT).as_posix())

    before = model._n_updates
    sys.setprofile(profile)
    try:
        model.learn(1, reset_num_timesteps=False)
    finally:
        sys.setprofile(None)
    assert model._n_updates == before + 1
    return files


@pytest.fixture(scope="module")
def model() -> DiscreteSAC:
    settings: dict[str, Any] = {"learning_starts": 20, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
    return DiscreteSAC("MlpPolicy", "CartPole-v1", seed=0, device="cpu", **settings)


def test_no_file_comes_between_that_is_not_known(model: DiscreteSAC) -> None:
    """Whoever puts a file into this way, or takes one out, says so here. There were 28, and ten are the aim."""
    model.learn(25)
    expected = COLLECTED | SAMPLED | LEARNED | LOSS
    assert files_from_step_to_adam(model) == expected
    assert len(expected) <= 26


def test_of_an_update_that_is_recorded_the_loss_is_not_called(model: DiscreteSAC) -> None:
    model.learn(130, reset_num_timesteps=False)
    assert files_from_step_to_adam(model) == COLLECTED | SAMPLED | LEARNED
