"""Statistics of a few seeds: by hand, by their properties, and against rliable."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from benchmarks.studies import coverage
from gsrl.bench.stats import (
    expanded_confidence,
    holm,
    interval,
    iqm,
    iqm_curve,
    iqm_interval,
    mann_whitney,
    performance_profile,
    probability_of_improvement,
    rank_probabilities,
    steps_to_threshold,
)
from gsrl.runs.scores import interquartile_mean

SCORES = st.lists(st.integers(-20, 20).map(float), min_size=2, max_size=9).map(np.array)


def rliables() -> tuple[np.ndarray, np.ndarray]:
    """Scores [runs, environments] of two agents, as they were given to rliable."""
    rng = np.random.default_rng(7)
    x, y = (np.round(np.clip(rng.normal(mean, 0.3, (10, 3)), 0, 1.2), 3) for mean in (0.8, 0.6))
    return x, y


def test_iqm_leaves_a_quarter_out_at_either_end_of_all_strata_together() -> None:
    assert iqm(np.array([9.0, 1.0, 2.0, 100.0])) == 5.5
    assert iqm(np.array([9.0, 1.0]), np.array([2.0, 100.0])) == 5.5
    assert iqm(np.array([1.0, 2.0, 6.0])) == 3.0  # a quarter of three is no whole value
    np.testing.assert_array_equal(iqm(np.array([[1.0, 5.0], [3.0, 7.0]]), axis=1), [3.0, 5.0])


@given(SCORES)
def test_iqm_is_that_of_the_zoo(scores: np.ndarray) -> None:
    assert iqm(scores) == pytest.approx(interquartile_mean(scores))


def test_expanded_confidence_by_hand() -> None:
    # n = 5: t = 2.776445 with 4 degrees of freedom, sqrt(5/4) t = 3.104160, Phi(-3.104160) = 0.000954
    assert (1 - expanded_confidence([5])) / 2 == pytest.approx(0.000954, abs=1e-6)
    assert expanded_confidence([100_000]) == pytest.approx(0.95, abs=1e-5)
    assert 0.95 < expanded_confidence([5, 5, 5]) < expanded_confidence([5])


def test_an_interval_is_the_bootstraps() -> None:
    scores = np.arange(1.0, 11.0)
    estimate, low, high = interval([scores], lambda x, axis: x.mean(axis=axis), expanded=False, resamples=50_000)
    assert estimate == 5.5
    # The mean of resamples has the standard deviation sqrt(8.25 / 10) = .9083 around 5.5.
    assert low == pytest.approx(5.5 - 1.96 * 0.9083, abs=0.05)
    assert high == pytest.approx(5.5 + 1.96 * 0.9083, abs=0.05)
    assert iqm_interval([scores]) == iqm_interval([scores])  # its own random numbers
    wide = iqm_interval([scores])
    narrow = iqm_interval([scores], expanded=False)
    assert wide.low < narrow.low < wide.estimate < narrow.high < wide.high


def test_resampling_keeps_to_its_stratum() -> None:
    # Each environment is the same for all seeds: nothing can vary.
    assert iqm_interval([np.full(4, 1.0), np.full(4, 3.0)])[:] == (2.0, 2.0, 2.0)


def test_of_one_seed_there_is_no_interval() -> None:
    estimate, low, high = iqm_interval([np.array([4.0])])
    assert estimate == 4.0
    assert math.isnan(low)
    assert math.isnan(high)
    with pytest.raises(ValueError, match=r"strata must hold scores, but got \[3, 0\]"):
        iqm_interval([np.ones(3), np.ones(0)])


@given(SCORES)
def test_an_interval_holds_its_estimate(scores: np.ndarray) -> None:
    estimate, low, high = iqm_interval([scores], resamples=100)
    assert scores.min() - 1e-9 <= low <= estimate <= high <= scores.max() + 1e-9


@given(SCORES, SCORES)
def test_rank_probabilities_are_mann_and_whitneys(x: np.ndarray, y: np.ndarray) -> None:
    assert rank_probabilities(x, y) == pytest.approx(mannwhitneyu(x, y).statistic / (len(x) * len(y)))
    assert rank_probabilities(x, y) + rank_probabilities(y, x) == pytest.approx(1)


def test_the_test_is_scipys_where_there_is_one_stratum_without_ties() -> None:
    rng = np.random.default_rng(0)
    for m, n in ((2, 3), (5, 5), (10, 5), (10, 10)):
        x, y = rng.normal(size=m), rng.normal(0.5, size=n)
        assert mann_whitney([x], [y]) == pytest.approx(mannwhitneyu(x, y, method="exact").pvalue)
    many = rng.normal(size=60), rng.normal(0.3, size=70)
    assert mann_whitney([many[0]], [many[1]]) == pytest.approx(mannwhitneyu(*many, method="asymptotic").pvalue)
    tied = np.round(many[0]), np.round(many[1])
    assert mann_whitney([tied[0]], [tied[1]]) == pytest.approx(mannwhitneyu(*tied, method="asymptotic").pvalue)
    # Where counting ends, both agree but for what the normal law is off by.
    few = many[0][:50], many[1][:50]
    assert mann_whitney([few[0]], [few[1]]) == pytest.approx(mannwhitneyu(*few, method="asymptotic").pvalue, rel=0.02)


@given(st.lists(st.tuples(SCORES, SCORES).map(lambda pair: (pair[0][:3], pair[1][:3])), min_size=1, max_size=2))
def test_the_test_counts_all_ways_to_share_out_the_scores(strata: list[tuple[np.ndarray, np.ndarray]]) -> None:
    def shift(x: np.ndarray, y: np.ndarray) -> float:
        return len(x) * len(y) * (float(rank_probabilities(x, y)) - 0.5)

    laws = []
    for x, y in strata:
        both = np.concatenate([x, y])
        drawn = [list(chosen) for chosen in combinations(range(len(both)), len(x))]
        laws.append([shift(both[chosen], np.delete(both, chosen)) for chosen in drawn])
    sums = [sum(each) for each in product(*laws)]
    observed = abs(sum(shift(x, y) for x, y in strata))
    expected = np.mean([abs(each) >= observed - 1e-9 for each in sums])
    assert mann_whitney([x for x, _ in strata], [y for _, y in strata]) == pytest.approx(expected)


def test_strata_add_up() -> None:
    low, high = np.arange(3.0), np.arange(3.0) + 10
    assert mann_whitney([high], [low]) == pytest.approx(2 / 20)  # three seeds cannot say: 2 of 6 over 3 ways
    assert mann_whitney([high, high], [low, low]) == pytest.approx(2 / 400)
    assert mann_whitney([high, low], [low, high]) == pytest.approx(1)
    assert mann_whitney([low * 0], [low * 0]) == 1
    assert mann_whitney([low], [low]) == pytest.approx(1)
    # Ten above ten others: 2 of 184,756 ways, where the normal law says .00018.
    assert mann_whitney([np.arange(10.0) + 50], [np.arange(10.0)]) == pytest.approx(2 / 184_756)


def test_probability_of_improvement_by_hand() -> None:
    x, y = [np.array([1.0, 2.0, 3.0]), np.array([5.0, 5.0])], [np.array([0.0, 2.0]), np.array([5.0, 6.0])]
    # First: of 6 pairs 4 above and one tie, 4.5/6. Second: 2 ties of 4, 1/4. Mean .5.
    assert probability_of_improvement(x, y).estimate == pytest.approx(0.5)


def test_all_above_all_others_is_not_certain() -> None:
    many = probability_of_improvement([np.arange(10.0) + 20], [np.arange(10.0)])
    assert (many.estimate, many.high) == (1, 1)
    assert many.low == pytest.approx(0.025 ** (1 / 10))
    few = probability_of_improvement([np.arange(2.0)], [np.arange(2.0) + 20])
    assert (few.estimate, few.low) == (0, 0)
    assert few.high == pytest.approx(1 - 0.025 ** (1 / 2))


def test_a_profile_is_the_share_above() -> None:
    share, low, high = performance_profile([np.array([0.1, 0.5]), np.array([0.5, 0.9])], np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(share, [1, 0.25, 0])
    assert (low <= share).all()
    assert (share <= high).all()


def test_curves_keep_seeds_whole() -> None:
    curves = np.arange(8.0)[:, None] + np.array([0.0, 100.0, 200.0])
    middle, low, high = iqm_curve([curves])
    np.testing.assert_allclose(middle, [3.5, 103.5, 203.5])
    np.testing.assert_allclose(high - middle, np.full(3, high[0] - middle[0]))
    np.testing.assert_allclose(middle - low, np.full(3, middle[0] - low[0]))


def test_steps_to_a_threshold() -> None:
    assert steps_to_threshold([10, 20, 30], [1.0, 5.0, 4.0], 5.0) == 20
    assert steps_to_threshold([10, 20], [1.0, 2.0], 5.0) == math.inf


def test_as_rliable_1_2_0_has_it() -> None:
    x, y = rliables()
    assert iqm(*x.T) == pytest.approx(0.7085, abs=1e-12)
    assert iqm(*y.T) == pytest.approx(0.5923125, abs=1e-12)
    assert probability_of_improvement(x.T, y.T).estimate == pytest.approx(0.6066666666666666, abs=1e-12)
    profile = performance_profile(x.T, np.linspace(0, 1, 6)).estimate
    np.testing.assert_allclose(profile, [1, 29 / 30, 26 / 30, 0.7, 1 / 3, 2 / 30], atol=1e-12)
    # Its intervals are plain percentile ones, of 50,000 resamples.
    plain = iqm_interval(x.T, expanded=False, resamples=50_000)
    assert (plain.low, plain.high) == pytest.approx((0.6069375, 0.78875156), abs=2e-3)
    plain = probability_of_improvement(x.T, y.T, expanded=False, resamples=20_000)
    assert (plain.low, plain.high) == pytest.approx((0.47666667, 0.75004167), abs=8e-3)


def test_against_rliable() -> None:
    metrics = pytest.importorskip("rliable.metrics")
    library = pytest.importorskip("rliable.library")
    x, y = rliables()
    assert iqm(*x.T) == pytest.approx(metrics.aggregate_iqm(x), abs=1e-12)
    improvement = probability_of_improvement(x.T, y.T, expanded=False, resamples=10_000)
    assert improvement.estimate == pytest.approx(metrics.probability_of_improvement(x, y), abs=1e-12)
    _, intervals = library.get_interval_estimates(
        {"x": x},
        lambda scores: np.array([metrics.aggregate_iqm(scores)]),
        reps=10_000,
        random_state=np.random.RandomState(0),
    )
    ours = iqm_interval(x.T, expanded=False, resamples=10_000)
    np.testing.assert_allclose([ours.low, ours.high], intervals["x"][:, 0], atol=5e-3)
    thresholds = np.linspace(0, 1, 11)
    profiles, _ = library.create_performance_profile({"x": x}, thresholds, reps=10)
    np.testing.assert_allclose(performance_profile(x.T, thresholds).estimate, profiles["x"], atol=1e-12)


def test_the_laws_of_the_coverage_study() -> None:
    # The middle half of the normal is symmetric around its mean; of the uniform on [0, 500], too.
    assert coverage.true_iqm([coverage.SHAPES["normal"]]) == pytest.approx(450, abs=1e-6)
    assert coverage.true_iqm([coverage.SHAPES["uniform"]]) == pytest.approx(250, abs=1e-6)
    # 40 % are at 500: of the middle half, [.25, .75], .35 lie on a line from 266.67 to 500, the rest at 500.
    expected = (0.35 * (100 + 400 * (0.25 / 0.6) + 500) / 2 + 0.15 * 500) / 0.5
    assert coverage.true_iqm([coverage.SHAPES["ceiling, 40 % at it"]]) == pytest.approx(expected, abs=1e-3)


def test_few_seeds_need_the_wider_interval() -> None:
    # Of 400 trials with 5 seeds: .94 and .897 in the committed table, standard errors .012 and .015, so that each of
    # the bounds is passed by chance with a probability below 1e-3. The random numbers are fixed.
    shares = coverage.coverage([coverage.SHAPES["normal"]], 5, 400, 500, np.random.default_rng(0))
    assert shares["percentile"] < 0.94
    assert shares["expanded"] > 0.90
    assert shares["expanded width"] > 1.15 * shares["percentile width"]


def test_holm_by_hand() -> None:
    # Sorted: .005 * 4, .01 * 3, .03 * 2, and .04 * 1, which may not be below the one before it.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert holm([0.04]) == [0.04]
    assert len(holm([])) == 0
