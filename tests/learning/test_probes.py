"""Every learner on every probe, of known values and best actions: a new learner is one more line of ``LEARNERS``.

Every training is deterministic, so that no test fails by chance; the tolerances hold for other seeds too. What one
kind of learner alone promises (soft-optimal policies, entropies, other observations) is in files of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_by_sb3

import envs
from gsrl import DiscreteSAC, Reinforce
from tests.common.probes import (
    GAMMA,
    REINFORCE,
    SAC,
    assert_close,
    policy,
    probe_id,
    train_population,
    train_reinforce,
    train_sac,
    values,
    vector,
)

# The probes themselves

PROBES = sorted(name for name in gym.registry if name.startswith("gsrl/Probe"))


def test_every_probe_is_registered() -> None:
    assert len(PROBES) == 11
    for name in PROBES:
        env = gym.make(name).unwrapped
        assert isinstance(env, envs.probes.Probe)
        assert name == probe_id(type(env).__name__)


@pytest.mark.parametrize("name", PROBES)
def test_probes_keep_the_environment_contracts(name: str) -> None:
    env = gym.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice: about images below 84 pixels, and action spaces that start at 5
        check_env(env.unwrapped, skip_render_check=True)
        check_env_by_sb3(env)


def test_instances_do_not_share_spaces() -> None:
    one, other = (gym.make("gsrl/ProbeAction-v0") for _ in range(2))
    assert one.action_space is not other.action_space
    assert one.observation_space is not other.observation_space


# Learners

OPTIMAL: dict[str, dict[tuple[float, ...], list[float]]] = {
    "OneStep": {(0.0,): [1.0, 1.0]},
    "Observation": {(-1.0,): [-1.0, -1.0], (1.0,): [1.0, 1.0]},
    "Action": {(0.0,): [0.0, 1.0]},
    "ObservationAction": {(-1.0,): [1.0, 0.0], (1.0,): [0.0, 1.0]},
    "Start": {(0.0,): [0.0, 0.5, 1.0]},
    "Discount": {(0.0,): [GAMMA, GAMMA], (1.0,): [1.0, 1.0]},
    "Truncation": {(0.0,): [1 / (1 - GAMMA), 1 / (1 - GAMMA)]},
    "Delay": {(0.0, 0.0): [0.0, GAMMA**2], (0.5, 1.0): [GAMMA, GAMMA], (1.0, 1.0): [1.0, 1.0]},
}
"""Values of each action, by observation, of each probe."""

UNDECIDED = [name for name, cases in OPTIMAL.items() if all(len(set(q)) == 1 for q in cases.values())]
"""Probes in which all actions are worth the same: they are for values alone."""


@dataclass(frozen=True)
class Learner:
    """What is trained on a probe, for how long, and what is asked of it.

    ``values``: whether its values, of actions or of states, come within 0.1 of the optimal ones. ``best``: the least
    probability of the best action. ``longer``: the steps of probes that take more than the others.
    """

    train: Callable[[str, int], list[Any]]
    steps: int
    values: bool
    best: float = 0.9
    longer: tuple[tuple[str, int], ...] = ()


def reinforce(baseline: str, values: bool = False, **settings: Any) -> Learner:
    def train(probe: str, steps: int) -> list[Any]:
        return [train_reinforce(probe, steps, baseline=baseline, **settings)]

    return Learner(train, 600, values, longer=(("Truncation", 900), ("Delay", 1200)) if values else ())


def as_it_comes(probe: str, steps: int) -> list[Any]:
    """But for the discount factor, which is the probe's. (Its values are in units of its own.)"""
    return [DiscreteSAC("MlpPolicy", gym.make(probe_id(probe)), gamma=GAMMA, seed=0, device="cpu").learn(steps)]


LEARNERS = {
    "sac, as it comes": Learner(as_it_comes, 300, values=False, best=0.8),
    "sac, exact": Learner(lambda *how: [train_sac(*how)], 250, values=True, longer=(("Delay", 600),)),
    "sac, st-gumbel": Learner(
        lambda *how: [train_sac(*how, estimator="st-gumbel")], 250, values=True, longer=(("Delay", 600),)
    ),
    "reinforce, none": reinforce("none"),
    "reinforce, running-mean": reinforce("running-mean"),
    "reinforce, value": reinforce("value", values=True),
    "reinforce, value, lambda 0.7": reinforce("value", values=True, gae_lambda=0.7),
    "reinforce, leave-one-out": reinforce("leave-one-out"),
    "reinforce, relax": reinforce("relax"),
    "population of sac": Learner(
        lambda *how: train_population(DiscreteSAC, *how, **SAC, buffer_size=1000),
        250,
        values=True,
        longer=(("Delay", 600),),
    ),
    "population of reinforce": Learner(
        lambda *how: train_population(Reinforce, *how, **REINFORCE),
        600,
        values=True,
        longer=(("Truncation", 900), ("Delay", 1200)),
    ),
}


@pytest.mark.parametrize(
    ("name", "probe"),
    [
        pytest.param(name, probe, id=f"{name} on {probe}")
        for name, learner in LEARNERS.items()
        for probe in OPTIMAL
        if learner.values or probe not in UNDECIDED
    ],
)
def test_what_is_optimal_is_learned(name: str, probe: str) -> None:
    learner = LEARNERS[name]
    for agent in learner.train(probe, dict(learner.longer).get(probe, learner.steps)):
        for observation, q in OPTIMAL[probe].items():
            if learner.values:
                held = values(agent, vector(*observation))
                assert_close(held, torch.tensor(q) if held.dim() else max(q), 0.1)
            if len(set(q)) > 1:
                assert policy(agent, vector(*observation))[q.index(max(q))] > learner.best
