"""What ``gsrl gradients`` measures: test problems, the actor of a run, and the estimators that fit them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from gsrl import checkpoint
from gsrl.algorithms.discrete_sac import DiscreteSAC
from gsrl.callbacks import STATISTICS, GradientDiagnosticsCallback, actor_problem
from gsrl.diagnostics import Comparison, CriticSlope, adapt, compare, critic_slope
from gsrl.estimators import ESTIMATORS, Estimator, make_estimator
from gsrl.objectives import Problem, make_objective
from gsrl.runs.cards import has_temperature, with_estimator
from gsrl.runs.config import read_config
from gsrl.runs.environments import make_environments
from gsrl.runs.errors import UsageError, nearest
from gsrl.runs.storage import check_sizes, load_state_dict

__all__ = [
    "ADAPTED",
    "ADAPT_STEPS",
    "OPTIONS",
    "actor_gradient",
    "choose_estimators",
    "describe",
    "fitting_estimators",
    "load_problem",
    "make_problem",
    "measure",
    "slope_at_actions",
]

OPTIONS = {
    "quadratic": {"K": "K"},
    "cubic": {"n": "n", "K": "K"},
    "bernoulli": {"exponent": "exponent"},
    "polynomial": {"n": "latents", "exponent": "exponent"},
}
"""The command line's options of each test problem, and what :mod:`gsrl.objectives` calls them."""

MAX_CALLS = 4096
"""Estimators that call the objective more often for one estimate are left out."""

NUM_SAMPLES = 10
"""Of the estimators that take several samples; the unordered set at most half of all configurations."""

ADAPTED = ("rebar", "relax")
"""Estimators that are fitted to the problem before they are measured."""

ADAPT_STEPS = 500
"""Updates of that fit."""

OBSERVATIONS = 64
"""How many states of a run's replay make its problem."""


def fitting_estimators(
    n: int, K: int, temperature: float = 1.0, configurations: int | None = None
) -> dict[str, Estimator]:
    """Builds every estimator that is of use for ``n`` factors of ``K`` choices, by its name.

    All relaxations have the same temperature, but ReinMax, which is defined from 1 up. ``decoupled-st`` samples at
    twice the temperature of its backward pass; at equal ones it would be ``straight-through``.

    Args:
        n: Factors.
        K: Choices of each.
        temperature: Of the relaxations; where ``rebar`` and ``relax`` begin.
        configurations: How many are legal; all ``K**n`` if None.
    """
    configurations = K**n if configurations is None else configurations
    settings: dict[str, dict[str, Any]] = {
        **{name: {"temperature": temperature} for name in ESTIMATORS if has_temperature(name)},
        "decoupled-st": {"forward_temperature": 2 * temperature, "backward_temperature": temperature},
        "gumbel-rao": {"temperature": temperature, "num_samples": NUM_SAMPLES},
        "reinmax": {"temperature": max(1.0, temperature)},
        "rloo": {"num_samples": NUM_SAMPLES},
        "unordered-set": {"num_samples": _unordered(configurations)},
    }
    unfit = _unfit(n, K, configurations)
    return {
        name: make_estimator(name, shape=(n, K), **settings.get(name, {})) for name in ESTIMATORS if name not in unfit
    }


def choose_estimators(names: Sequence[str], problem: Problem, temperature: float) -> dict[str, Estimator]:
    """Returns the named ones of the :func:`fitting_estimators` of a problem, or all of them if none is named.

    Raises:
        UsageError: One is unknown, named twice or does not fit; the message says why.
    """
    policy = problem.policy()
    n, K = policy.event_shape
    # Of the row with the fewest, and no more than matter: the number itself may overflow.
    configurations = round(math.exp(min(policy.max_entropy().min().item(), math.log(MAX_CALLS))))
    fitting = fitting_estimators(n, K, temperature, configurations)
    for name in names:
        if name not in ESTIMATORS:
            raise UsageError(f"unknown estimator {name!r}; {nearest(name, ESTIMATORS)}")
        if name not in fitting:
            raise UsageError(f"{name} does not fit n = {n}, K = {K}: {_unfit(n, K, configurations)[name]}")
    if len(set(names)) < len(names):
        raise UsageError(f"--estimators must not name one twice, but got {' '.join(names)}")
    return {name: fitting[name] for name in names or fitting}


def describe(estimators: Mapping[str, Estimator], temperature: float) -> str:
    """Says in a few lines how the estimators that :func:`choose_estimators` returned were set up and fitted."""
    samples = {name: estimator.settings.get("num_samples") for name, estimator in estimators.items()}
    adapted = [name for name in ADAPTED if name in estimators]
    lines = [f"temperature {temperature:g}"]
    if "decoupled-st" in estimators:
        lines[0] += f", decoupled-st samples at {2 * temperature:g}"
    if any(samples.values()):
        lines.append("samples in an estimate: " + ", ".join(f"{name} {m}" for name, m in samples.items() if m))
    if adapted:
        lines.append(f"{' and '.join(adapted)} fitted to the problem first, by {ADAPT_STEPS} updates")
    return "\n".join(lines)


def _unordered(configurations: int) -> int:
    """Samples of the unordered set: all configurations would be enumeration."""
    return min(NUM_SAMPLES, configurations // 2)


def _unfit(n: int, K: int, configurations: int) -> dict[str, str]:
    """Says of each estimator that does not fit why."""
    calls = {"exact": K**n, "local-expectation": n * K, "arsm": math.comb(K, 2) + 1}
    unfit = {
        name: f"an estimate takes more than {MAX_CALLS} calls" for name, count in calls.items() if count > MAX_CALLS
    }
    if K != 2:
        unfit |= dict.fromkeys(("arm", "disarm"), "it needs K = 2")
    if _unordered(configurations) < 2:
        unfit["unordered-set"] = f"there are only {configurations} configurations to draw from"
    return unfit


def make_problem(objective: str, settings: Mapping[str, float]) -> Problem:
    """Builds a test problem from the options of the command line.

    Args:
        objective: A key of :data:`OPTIONS`.
        settings: Options given, by their names.

    Raises:
        UsageError: There is no such problem, it has no such option, or a value is out of range.
    """
    if objective not in OPTIONS:
        raise UsageError(f"unknown objective {objective!r}; {nearest(objective, OPTIONS)}")
    arguments = OPTIONS[objective]
    least = {"n": 1, "K": 2, "exponent": 1}
    for name, value in settings.items():
        if name not in arguments:
            raise UsageError(f"{objective} has no --{name}; it has {' and '.join('--' + known for known in arguments)}")
        if not least[name] <= value < math.inf:
            raise UsageError(f"--{name} must be at least {least[name]}, but got {value}")
    return make_objective(objective, **{arguments[name]: value for name, value in settings.items()})


def load_problem(folder: Path, seed: int, *, trusted: bool = False) -> Problem:
    """Builds the problem that the actor of a run faces: the value of its legal actions, at states of its replay.

    Args:
        folder: Folder of the run, of a soft actor-critic agent.
        seed: Of the choice of observations.
        trusted: Whether the module of an environment ``module:name`` is imported.

    Raises:
        UsageError: There is no such run, its agent has no critic of its actions, or it has not taken a step.
        gsrl.checkpoint.CheckpointError: The checkpoint is damaged.
    """
    config = read_config(folder, trusted=trusted)
    if config.agent not in with_estimator():
        raise UsageError(f"gradients needs a run of a soft actor-critic agent, but {folder} is one of {config.agent}")
    if config.seeds is not None:
        raise UsageError(f"gradients needs a run of one agent, but {folder} is one of several in lock-step")
    path = folder / "checkpoint.zip"
    if not path.exists():
        raise UsageError(f"{folder} has no checkpoint.zip")
    state = checkpoint.load(path, device="cpu")
    check_sizes(state, config.settings, path)
    env = make_environments(config.env, config.n_envs, config.seed, **config.making)
    try:
        model = config.card.make(env, config.settings, seed=config.seed, device="cpu")
        with checkpoint.fitting(path):
            load_state_dict(model, state)
        if not model.replay_buffer:
            raise UsageError(f"{folder} holds no observation yet: its training has not taken a step")
        name = f"{config.agent} on {config.env}"
        return actor_problem(model, OBSERVATIONS, np.random.default_rng(seed), name)
    finally:
        env.close()


def measure(
    problem: Problem, estimators: Mapping[str, Estimator], num_samples: int, seed: int, *, progress: bool = False
) -> Comparison:
    """Fits the estimators that learn, then measures all of them.

    Args:
        problem: What they are measured on.
        estimators: By label; those named in :data:`ADAPTED` are changed.
        num_samples: Estimates drawn of each.
        seed: Of all noise.
        progress: Whether a progress bar is shown.
    """
    policy = problem.policy()
    for name in ADAPTED:
        if name in estimators:
            adapt(estimators[name], policy, problem.f, ADAPT_STEPS, seed=seed)
    # Without a closed form, the comparison finds a reference of its own, and says which.
    exact = None if problem.expected is None else problem.exact_gradient()
    comparison = compare(policy, problem.f, estimators, num_samples, exact=exact, seed=seed, progress=progress)
    return comparison if exact is None else replace(comparison, reference="closed form")


def actor_gradient(model: BaseAlgorithm, num_samples: int, seed: int) -> dict[str, float]:
    """Measures the estimator of a soft actor-critic agent on its actor and critics as they stand.

    The agent is not disturbed; the random numbers depend on the seed and the agent's steps alone.

    Args:
        model: The agent.
        num_samples: Estimates drawn.
        seed: Of states and noise.

    Returns:
        The figures of :class:`gsrl.callbacks.GradientDiagnosticsCallback`; none before the first update.
    """
    assert isinstance(model, DiscreteSAC)  # Config.check refuses others
    if not model.replay_buffer or model._n_updates == 0:
        return {}
    callback = GradientDiagnosticsCallback(estimators=[model.estimator], num_samples=num_samples, seed=seed)
    callback.model, callback.num_timesteps = model, model.num_timesteps
    comparison, _ = callback._measure()
    return {"norm": comparison.gradient_norm, **{name: getattr(comparison.rows[0], name) for name in STATISTICS}}


def slope_at_actions(problem: Problem, seed: int) -> CriticSlope:
    """Compares the objective's slope, at one action drawn for each row, with the differences between actions."""
    policy = problem.policy()
    one_hot = policy.sample(generator=torch.Generator().manual_seed(seed))
    return critic_slope(problem.f, one_hot, policy.mask)
