"""DiscreteSAC on the probes, in what it promises alone: policies, entropies and coefficients of closed forms.

Every training is deterministic, so that no test fails by chance; the tolerances hold for other seeds too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.envs import IdentityEnvMultiBinary
from stable_baselines3.common.evaluation import evaluate_policy
from torch import Tensor

import envs
from gsrl import DiscreteSAC, make_estimator
from gsrl.estimators import Estimator
from tests.common.probes import GAMMA, assert_close, policy, train_sac, values, vector

LOG_2 = math.log(2)
ALPHA = 0.5


def entropy(probabilities: Tensor) -> float:
    return float(torch.special.entr(probabilities).sum())


# Values, without entropy


@pytest.mark.parametrize("critics", ["min", "mean"])
@pytest.mark.parametrize("probe", ["Truncation", "ObservationAction"])
def test_both_ways_of_combining_critics(probe: str, critics: str) -> None:
    model = train_sac(probe, critics=critics)
    expected = 1 / (1 - GAMMA) if probe == "Truncation" else [0.0, 1.0]
    observation = vector(0.0 if probe == "Truncation" else 1.0)
    assert_close(values(model, observation), expected, 0.03)


def test_clipping_slows_the_critics_but_leaves_their_fixed_point() -> None:
    assert_close(values(train_sac("Truncation", q_clip=0.5), vector(0.0)), 1 / (1 - GAMMA), 0.03)


# Policies, with entropy: softmax(Q / alpha) is optimal


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("Action", {0.0: [0.0, 1.0]}),
        ("ObservationAction", {-1.0: [1.0, 0.0], 1.0: [0.0, 1.0]}),
        ("Start", {0.0: [0.0, 0.5, 1.0]}),
        ("OneStep", {0.0: [1.0, 1.0]}),
    ],
)
def test_the_exact_gradient_finds_the_soft_optimal_policy(probe: str, expected: dict[float, list[float]]) -> None:
    model = train_sac(probe, ent_coef=ALPHA)
    for observation, q in expected.items():
        optimal = torch.tensor(q).div(ALPHA).softmax(-1)
        assert_close(policy(model, vector(observation)), optimal, 0.02)
        assert entropy(policy(model, vector(observation))) == pytest.approx(entropy(optimal), abs=0.02)


@pytest.mark.parametrize(
    "estimator",
    [
        make_estimator("reinforce"),
        make_estimator("reinforce", baseline="running-mean"),
        make_estimator("rloo"),
        make_estimator("straight-through"),
    ],
    ids=["reinforce", "running-mean", "rloo", "straight-through"],
)
def test_unbiased_gradients_find_it_too(estimator: Estimator) -> None:
    model = train_sac("Action", ent_coef=ALPHA, estimator=estimator)
    assert_close(policy(model, vector(0.0)), torch.tensor([0.0, 1 / ALPHA]).softmax(-1), 0.05)


def relaxed_optimum(q: float, alpha: float, temperature: float) -> Tensor:
    """The policy that maximises q E[y_1] + alpha H, of two actions worth 0 and q, for y the relaxed sample.

    y_1 = sigmoid((theta + L) / temperature) with L logistic; the expectation is over 4,000 quantiles of L.
    """
    noise = ((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000).logit()
    theta = torch.linspace(0.0, 12.0, 2401, dtype=torch.float64)
    relaxed = ((theta[:, None] + noise) / temperature).sigmoid().mean(1)
    probabilities = torch.stack([-theta, theta], -1).div(2).softmax(-1)
    objective = q * relaxed + alpha * torch.special.entr(probabilities).sum(-1)
    return probabilities[objective.argmax()].float()


@pytest.mark.parametrize("estimator", ["st-gumbel", "gumbel-softmax"])
@pytest.mark.parametrize(
    ("alpha", "biased"),
    [
        (1.0, 0.6726),  # optimal: 0.7311
        (0.5, 1.0),  # optimal: 0.8808; too small an alpha to hold the policy back, whose relaxed value is q at most
    ],
)
def test_gumbel_softmax_finds_the_policy_of_its_own_objective(alpha: float, biased: float, estimator: str) -> None:
    # The critic is linear in the action, so that both have the gradient of the relaxed objective: a biased one.
    expected = relaxed_optimum(1.0, alpha, temperature=1.0)
    assert float(expected[1]) == pytest.approx(biased, abs=1e-3)
    model = train_sac("Action", ent_coef=alpha, estimator=make_estimator(estimator, temperature=1.0))
    assert_close(policy(model, vector(0.0)), expected, 0.03)


# Entropy in the target


@pytest.mark.parametrize(
    ("probe", "entropy_in_target", "expected"),
    [
        # The policy is uniform: both actions are worth the same.
        ("Discount", True, GAMMA * (1 + ALPHA * LOG_2)),
        ("Discount", False, GAMMA),
        ("Truncation", True, (1 + GAMMA * ALPHA * LOG_2) / (1 - GAMMA)),
        ("Truncation", False, 1 / (1 - GAMMA)),
    ],
)
def test_entropy_in_the_target(probe: str, entropy_in_target: bool, expected: float) -> None:
    model = train_sac(probe, ent_coef=ALPHA, entropy_in_target=entropy_in_target)
    assert_close(values(model, vector(0.0)), expected, 0.03)
    assert_close(policy(model, vector(0.0)), 0.5, 0.03)


@pytest.mark.parametrize(
    ("n_steps", "corrected", "bonus"),
    # One bonus for each later action; a window of three steps that are summed holds none, as documented.
    [
        (1, False, ALPHA * LOG_2 * (GAMMA + GAMMA**2)),
        (3, False, 0.0),
        (3, True, ALPHA * LOG_2 * (GAMMA + GAMMA**2)),
    ],
)
def test_delayed_rewards(n_steps: int, corrected: bool, bonus: float) -> None:
    model = train_sac("Delay", ent_coef=ALPHA, n_steps=n_steps, n_step_correction=corrected)
    assert_close(values(model, vector(0.0, 0.0)), [bonus, bonus + GAMMA**2], 0.05)


# The entropy coefficient


@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_a_learned_coefficient_reaches_its_target_entropy(ratio: float) -> None:
    model = train_sac("Action", 1000, ent_coef="auto", target_entropy_ratio=ratio)
    learned = policy(model, vector(0.0))
    assert entropy(learned) == pytest.approx(ratio * LOG_2, abs=0.03)
    # At the optimum the log-odds are (1 - 0) / alpha.
    assert float(model.entropy_coefficient()) == pytest.approx(1 / float(learned[1].logit()), rel=0.05)


def test_a_learned_coefficient_makes_up_for_a_biased_gradient() -> None:
    # At temperature 1 no policy of small entropy is a maximum of the relaxed objective, so the ratio must not be small.
    model = train_sac("Action", 1000, ent_coef="auto", target_entropy_ratio=0.75, estimator="st-gumbel")
    assert entropy(policy(model, vector(0.0))) == pytest.approx(0.75 * LOG_2, abs=0.05)


@pytest.mark.parametrize("estimator", ["exact", "rloo"])
@pytest.mark.parametrize(("scale", "coefficient"), [(1.0, 0.7), (1.0, 1.5), (64.0, 0.7), ("auto", 0.7)])
def test_a_relative_coefficient_weighs_values_by_what_choices_differ_by(
    estimator: str, scale: Any, coefficient: float
) -> None:
    model = train_sac("Start", 1200, ent_coef=f"relative_{coefficient}", estimator=estimator, reward_scale=scale)
    # Values 0, 1/2 and 1 have the deviation sqrt(1 / 6), in any unit; the floor adds half a percent.
    spread = math.hypot(1, 0.1) * math.sqrt(1 / 6)
    logits = torch.tensor([0.0, 0.5, 1.0]) * math.log(3) / (coefficient * spread)
    assert_close(policy(model, vector(0.0)), logits.softmax(-1), 0.03)


def test_the_target_entropy_counts_the_actions() -> None:
    model = train_sac("Start", 1000, ent_coef="auto", target_entropy_ratio=0.6)
    assert entropy(policy(model, vector(0.0))) == pytest.approx(0.6 * math.log(3), abs=0.03)


# Exploration


def test_a_long_streak_is_found_by_exploration_that_lasts_and_by_no_other() -> None:
    # One step, for longer returns that are not corrected would go through what was explored and be biased.
    settings: dict[str, Any] = {"gamma": 0.9, "ent_coef": 0.005, "policy_kwargs": {"net_arch": [64, 64]}}
    without = train_sac("Streak", 4000, **settings)
    assert not without.replay_buffer.state_dict()["rewards"].any()  # type: ignore[union-attr]
    model = train_sac("Streak", 4000, exploration_eps=0.1, **settings)
    for streak in (0, 8, 15):
        observation = vector(streak / 16)
        assert_close(values(model, observation), [0.9 ** (15 - streak), 0.9**16], 0.05)
        assert model.predict(observation, deterministic=True)[0] == 0


# Other observations


def test_dict_observations() -> None:
    model = train_sac(
        "DictObservation",
        policy="MultiInputPolicy",
        ent_coef=ALPHA,
        estimator="st-gumbel",
        policy_kwargs={"net_arch": [32]},
    )
    for sign in (-1.0, 1.0):
        for switch in (0, 1):
            observation = {"sign": vector(sign), "switch": np.int64(switch)}
            best = int((sign > 0) != bool(switch))
            assert_close(values(model, observation), [1.0 - best, float(best)], 0.1)
            action, _ = model.predict(observation, deterministic=True)
            assert action == best


def test_images() -> None:
    model = train_sac(
        "Image",
        150,
        policy="CnnPolicy",
        learning_rate=1e-3,
        learning_starts=32,
        batch_size=32,
        ent_coef=ALPHA,
        policy_kwargs={"net_arch": [], "features_extractor_kwargs": {"features_dim": 16}},
    )
    for sign in (-1, 1):
        env = envs.probes.Image()
        env.sign = sign
        best = int(sign > 0)
        assert_close(values(model, env.observe()), [1.0 - best, float(best)], 0.1)
        optimal = torch.tensor([1.0 - best, float(best)]).div(ALPHA).softmax(-1)
        assert_close(policy(model, env.observe()), optimal, 0.05)


def test_a_reward_that_needs_all_factors_right_is_learned_as_it_comes() -> None:
    env = IdentityEnvMultiBinary(4)
    model = DiscreteSAC("MlpPolicy", env, 2e-3, learning_starts=0, gamma=0.4, seed=0, device="cpu").learn(1_200)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=10, warn=False)
    assert mean >= 90
