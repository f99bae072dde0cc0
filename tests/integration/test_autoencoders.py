"""Autoencoders with discrete codes as tasks: lock-step, files, and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import run_agent
from gsrl import checkpoint, make_estimator
from gsrl.perception.autoencoders import Autoencoder, ImageVAE, ImageVQVAE
from gsrl.runs.cards import TaskCard
from gsrl.temperature import ExponentialTemperature
from tests.common.command_line import assert_same_run, events, read_json

pytest.importorskip("sklearn")

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 4, "device": "cpu"}
MADE: dict[str, Any] = {
    "rloo": lambda seeds: ImageVAE(seeds, n=2, K=3, estimator="rloo", unimix=0.01, **SMALL),
    "baseline": lambda seeds: ImageVAE(
        seeds, n=2, K=3, estimator=make_estimator("reinforce", baseline="running-mean"), **SMALL
    ),
    "schedule": lambda seeds: ImageVAE(
        seeds,
        n=20,
        K=10,
        estimator=make_estimator("st-gumbel", temperature=ExponentialTemperature(1.0, 0.1, 50)),
        **SMALL,
    ),
    "gumbel": lambda seeds: ImageVQVAE(seeds, num_codes=8, width=4, **SMALL),
    "ema": lambda seeds: ImageVQVAE(seeds, num_codes=8, width=4, method="ema", revival=0.5, **SMALL),
}


@pytest.mark.parametrize("name", MADE)
def test_files_go_on_to_the_same_numbers(name: str, tmp_path: Path) -> None:
    task: Autoencoder = MADE[name]((0, 1)).learn(40)
    task.save(tmp_path / "task.zip")
    loaded = type(task).load(tmp_path / "task.zip", device="cpu")
    assert np.array_equal(task.evaluate(), loaded.evaluate())
    for each in (task, loaded):
        each.learn(40)
    states = [[loss.state_dict() for loss in each.lockstep.losses] for each in (task, loaded)]
    for own, other in zip(*states, strict=True):
        assert own.keys() == other.keys()
        assert all(torch.equal(own[key], other[key]) for key in own)
    assert np.array_equal(task.evaluate(), loaded.evaluate())


@pytest.mark.parametrize("name", MADE)
def test_members_are_what_they_are_alone(name: str) -> None:
    both, alone = MADE[name]((0, 1)).learn(40), MADE[name]((1,)).learn(40)
    np.testing.assert_allclose(both.evaluate()[1], alone.evaluate()[0], rtol=1e-4)
    assert not np.allclose(both.evaluate()[0], both.evaluate()[1])


def test_estimators_and_codes_advance_with_updates() -> None:
    scheduled = MADE["schedule"]((0,)).learn(40)
    assert scheduled.lockstep.losses[0].estimator.temperature.count == 10
    ema = MADE["ema"]((0,)).learn(40)
    quantizer = ema.lockstep.losses[0].quantizer
    assert quantizer.seen.sum() == 40 * 16
    assert not {"latents", "indices"} & ema.lockstep.metrics.keys()
    assert 1 <= ema.perplexity(ema.images())[0] <= 8
    assert quantizer.seen.sum() == 40 * 16  # it is the images' own
    psnr = ema.evaluate(episodes=5)
    decoded, _ = ema.lockstep.losses[0].reconstruct(ema.images(5))
    errors = (decoded - ema.images(5)).square().flatten(1).mean(1)
    np.testing.assert_allclose(psnr[0], -10 * np.log10(errors.detach().numpy()), rtol=1e-5)


def test_bounds_are_learned() -> None:
    task = ImageVAE((0,), n=2, K=4, estimator="exact", hidden=16, batch_size=50, learning_rate=1e-2, device="cpu")
    before = task.evaluate().mean()
    assert before == pytest.approx(-64 * np.log(2), abs=2)  # of pixels that are even odds
    assert task.learn(50 * 150).evaluate().mean() > -27


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dataset must be one of .*'digits'.*, but got 'letters'\."):
        ImageVAE(dataset="letters")
    with pytest.raises(ValueError, match=r"hidden must be an integer of at least 1, but got 0\."):
        ImageVQVAE(hidden=0)
    with pytest.raises(ValueError, match="K must be an integer of at least 2, but got 1"):
        ImageVAE(K=1)


def test_a_file_of_other_sizes_is_refused(tmp_path: Path) -> None:
    MADE["rloo"]((0,)).save(tmp_path / "task.zip")
    tree = checkpoint.load(tmp_path / "task.zip")
    checkpoint.save(tmp_path / "task.zip", {**tree, "hidden": 10**9})
    with pytest.raises(checkpoint.CheckpointError, match="does not fit the settings"):
        ImageVAE.load(tmp_path / "task.zip")
    with pytest.raises(checkpoint.CheckpointError, match="not a saved ImageVQVAE"):
        ImageVQVAE.load(tmp_path / "task.zip")


@pytest.mark.parametrize("agent", ["categorical-vae", "vq-vae"])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--seeds", "2", "--steps", "400", "--hidden", "8", "--batch-size", "10"]

    def train(folder: Path) -> int:
        return run_agent.main(["train", "--agent", agent, "--env", "digits", *options, "--out", str(folder)])

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole) == 0
    summary = read_json(whole / "summary.json")
    assert (summary["status"], summary["steps"], summary["seeds"]) == ("finished", 400, [0, 1])
    assert "eval/mean_return" in events(whole / "seed_1")
    learn = TaskCard.learn

    def interrupted(card: Any, model: Any, *arguments: Any) -> None:
        learn(card, model, *arguments)
        if model.steps >= 200:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskCard, "learn", interrupted)
        assert train(killed) == 130
    assert run_agent.main(["train", "--resume", str(killed)]) == 0
    assert_same_run(whole, killed, ("evaluations.csv", "progress.csv"))
