"""Settings that are assigned to an agent that is built: each holds from the next step on, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gsrl import DiscreteSAC, Population, Reinforce, make_estimator
from gsrl.comms import Channel, LewisGame, SignallingGame
from gsrl.schedules import ExponentialSchedule

BASES: dict[type[Any], dict[str, Any]] = {
    DiscreteSAC: {
        "learning_starts": 8,
        "batch_size": 4,
        "buffer_size": 100,
        "n_steps": 2,
        "n_step_correction": True,
        "reward_scale": 1.0,
        "ent_coef": 0.1,
        "critics": "min",
        "entropy_in_target": True,
        "seed": 0,
    },
    Reinforce: {"n_episodes": 2, "critic_updates": 2, "seed": 0},
}
NETWORKS = {"net_arch": [4]}

# Of every setting, a value that is neither the default nor the one above.
OTHERS: dict[type[Any], dict[str, Any]] = {
    DiscreteSAC: {
        "learning_rate": 0.01,
        "buffer_size": 50,
        "learning_starts": 4,
        "batch_size": 8,
        "tau": 0.5,
        "gamma": 0.5,
        "train_freq": (2, "step"),
        "gradient_steps": 2,
        "n_steps": 3,
        "n_step_correction": False,
        "reward_scale": 0.1,
        "estimator": make_estimator("exact"),
        "ent_coef": ExponentialSchedule(1.0, 0.1),
        "target_entropy": 0.3,
        "target_entropy_ratio": 0.9,
        "critics": "mean",
        "entropy_in_target": False,
        "q_clip": 0.01,
        "max_grad_norm": 0.01,
        "target_update_interval": 3,
        "exploration_eps": 0.9,
        "optimize_memory_usage": True,
        "policy_kwargs": {"net_arch": [5]},
        "stats_window_size": 3,
        "tensorboard_log": "log",
        "verbose": 1,
        "seed": 1,
    },
    Reinforce: {
        "learning_rate": 0.01,
        "n_episodes": 3,
        "gamma": 0.5,
        "baseline": "none",
        "gae_lambda": 0.5,
        "normalize_advantage": True,
        "ent_coef": 0.5,
        "critic_updates": 5,
        "max_grad_norm": 0.01,
        "policy_kwargs": {"net_arch": [5]},
        "stats_window_size": 3,
        "tensorboard_log": "log",
        "verbose": 1,
        "seed": 1,
    },
}
CASES = [(algorithm, name) for algorithm in OTHERS for name in algorithm.SETTINGS]


def make(algorithm: type[Any], **settings: Any) -> Any:
    return algorithm("MlpPolicy", "CartPole-v1", **(BASES[algorithm] | {"policy_kwargs": NETWORKS} | settings))


def trace(model: Any) -> dict[str, Any]:
    """What a short training comes to."""
    model.learn(20)
    return {
        "parameters": [p.detach() for p in model.policy.parameters()],
        "window": model.ep_info_buffer.maxlen,
        "log": model.logger.dir is not None,
        "outputs": [type(output) for output in model.logger.output_formats],
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for a, b in zip(one.pop("parameters"), other.pop("parameters"), strict=True):
        assert torch.equal(a, b)
    assert one == other


@pytest.mark.parametrize(("algorithm", "name"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_setting_is_honoured_or_refused(
    algorithm: type[Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = OTHERS[algorithm][name]
    more = {"ent_coef": "auto"} if name in ("target_entropy", "target_entropy_ratio") else {}
    model = make(algorithm, **more)
    if name in algorithm.FIXED:
        before = getattr(model, name)
        with pytest.raises(AttributeError, match=f"{name} must stay what it was when the agent was built: "):
            setattr(model, name, value)
        assert getattr(model, name) == before
        setattr(model, name, before)  # no change, no complaint
        return
    setattr(model, name, value)
    expected, usual = trace(make(algorithm, **more, **{name: value})), trace(make(algorithm, **more))
    assert_same(trace(model), dict(expected))
    if name not in ("tensorboard_log", "verbose", "stats_window_size"):  # the test would see it otherwise
        pairs = zip(expected["parameters"], usual["parameters"], strict=True)
        assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("algorithm", BASES)
def test_every_setting_is_an_argument_with_a_test(algorithm: type[Any]) -> None:
    assert OTHERS[algorithm].keys() == set(algorithm.SETTINGS)


@pytest.mark.parametrize(
    ("algorithm", "name", "value", "message"),
    [
        (DiscreteSAC, "gamma", 2.0, r"gamma must .* \[0, 1\]"),
        (DiscreteSAC, "tau", 7, r"tau must be in \[0, 1\], but got 7"),
        (DiscreteSAC, "n_step_correction", 1, "n_step_correction must be True or False, but got 1"),
        (DiscreteSAC, "batch_size", 0, "batch_size must be an integer of at least 1, but got 0"),
        (DiscreteSAC, "ent_coef", "auto", "ent_coef must stay fixed, .* but got 'auto'"),
        (DiscreteSAC, "reward_scale", "auto", "reward_scale must stay a number, as it was built, but got 'auto'"),
        (DiscreteSAC, "ent_coef", -1.0, "ent_coef must be .* but got -1.0"),
        (DiscreteSAC, "train_freq", 0, "train_freq must be at least 1 step or episode, but got 0"),
        (DiscreteSAC, "learning_rate", 0.0, "learning_rate must be a positive number or a function, but got 0.0"),
        (DiscreteSAC, "stats_window_size", 0, "stats_window_size must be an integer of at least 1, but got 0"),
        (Reinforce, "gamma", 2.0, r"gamma must be in \[0, 1\], but got 2.0"),
        (Reinforce, "max_grad_norm", -1.0, "max_grad_norm must be positive or None, but got -1.0"),
    ],
)
def test_values_are_checked_as_by_the_constructor(algorithm: type[Any], name: str, value: Any, message: str) -> None:
    model = make(algorithm)
    before = getattr(model, name)
    with pytest.raises((TypeError, ValueError), match=message):
        setattr(model, name, value)
    assert getattr(model, name) == before
    model.learn(12)  # as if nothing had happened


def test_what_is_changed_while_it_learns_holds_from_the_next_update_on() -> None:
    model = make(DiscreteSAC, gamma=0.9, n_steps=1)
    discounts = []

    def watch(batch: Any) -> None:
        discounts.append(batch.discounts.max().item())
        update(batch)

    def change(local: dict[str, Any], _: Any) -> bool:
        if local["self"].num_timesteps == 15:
            model.gamma = 0.5
        return True

    update, model.update = model.update, watch
    model.learn(20, callback=change)
    np.testing.assert_allclose(discounts, [0.9] * 6 + [0.5] * 6, rtol=1e-6)


def test_the_entropy_coefficient_may_become_one_of_values() -> None:
    model, expected = make(DiscreteSAC), make(DiscreteSAC, ent_coef="relative_0.5")
    model.ent_coef = "relative_0.5"
    assert_same(trace(model), trace(expected))


@pytest.mark.parametrize(
    "changes",
    [{"q_clip": 0.01, "critics": "mean", "max_grad_norm": 0.1}, {"n_step_correction": False}, {"n_steps": 3}],
    ids=lambda changes: ", ".join(changes),
)
def test_recorded_updates_take_a_change_over(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def learned(recorded: bool) -> list[Tensor]:
        monkeypatch.setattr("gsrl.learning.learner.EAGER_UPDATES", 2 if recorded else 1000)
        model = make(DiscreteSAC).learn(14)
        assert bool(model.learner._update.traced._records) == recorded
        for name, value in changes.items():
            setattr(model, name, value)
        model.learn(10, reset_num_timesteps=False)
        return [p.detach() for p in model.policy.parameters()]

    for a, b in zip(learned(True), learned(False), strict=True):
        torch.testing.assert_close(a, b)


def test_settings_of_learners_in_lockstep_cannot_change() -> None:
    population = Population(DiscreteSAC, "CartPole-v1", [0, 1], policy_kwargs=NETWORKS, buffer_size=50)
    game = SignallingGame(LewisGame(4), Channel(4, 1), hidden=4, seeds=[0, 1])
    for learner, names in ((population, ("seeds", "settings", "n_envs")), (game, ("learning_rate", "max_grad_norm"))):
        for name in names:
            with pytest.raises(AttributeError, match=f"{name} must stay what it was when the .* was built: make a new"):
                setattr(learner, name, 3)
    with pytest.raises(TypeError):
        population.settings[0]["gamma"] = 0.5  # type: ignore[index]
    population.keep([1])
    assert population.seeds == [1]
