"""Intervals and tests: scipy where it has them, simulation for how often intervals cover."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from bench.report.intervals import mean_interval, proportion_interval, ratio_interval, sign_flip_p

SIMULATIONS = 4000


def unit_means(draw, count, mean, unequal):
    """Return the means of 3 runs of each unit, of shape (simulations, units)."""
    shape = (SIMULATIONS, count, 1)
    spread = draw.uniform(0.02, 0.5, shape) if unequal else 0.1
    centers = mean * (1 + draw.normal(0, 0.15, shape))
    return (centers + mean * spread * draw.normal(size=(*shape[:2], 3))).mean(-1)


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("count", [5, 10, 30])
def test_intervals_cover_the_truth_as_often_as_they_say(count, unequal):
    draw = np.random.default_rng(count)
    first = unit_means(draw, count, 1.0, unequal)
    other = unit_means(draw, count, 0.4, unequal) * first  # pairs share what their unit is like
    assert 0.92 <= covered(mean_interval(other - first), -0.6) <= 0.985
    assert 0.92 <= covered(ratio_interval(other, first), 0.4) <= 0.985


def test_skewed_units_are_covered_less_often_than_the_interval_says():
    units = np.random.default_rng(0).lognormal(0, 0.9, (4000, 10))
    assert 0.85 <= covered(mean_interval(units), np.exp(0.405)) <= 0.92


@pytest.mark.parametrize("count", [5, 10, 20, 30])
def test_a_share_is_covered_at_least_as_often_as_its_exact_interval_says(count):
    intervals = np.array([proportion_interval(k, count) for k in range(count + 1)])
    for truth in np.linspace(0.01, 0.99, 99):
        inside = (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])
        assert stats.binom.pmf(np.arange(count + 1), count, truth)[inside].sum() >= 0.95


def covered(interval, truth):
    low, high = interval
    return ((low <= truth) & (truth <= high)).mean()


@pytest.mark.parametrize("count", [5, 40])
def test_units_have_scipy_s_t_interval(count):
    units = np.random.default_rng(0).normal(1, 0.3, count)
    expected = stats.ttest_1samp(units, 0).confidence_interval(0.95)
    assert mean_interval(units) == pytest.approx(tuple(expected))


def test_a_ratio_of_ones_is_a_relative_mean():
    units = np.random.default_rng(0).normal(1, 0.01, 8)
    low, high = ratio_interval(units, np.ones(8))
    assert (low, high) == pytest.approx(mean_interval(units), rel=1e-3)


def test_one_unit_has_no_interval_and_a_ratio_needs_positive_means():
    assert np.isnan([*mean_interval(np.ones(1)), *ratio_interval(np.ones(1), np.ones(1))]).all()
    assert np.isnan(ratio_interval(-np.ones(5), np.ones(5))).all()
    assert np.isnan(ratio_interval(np.ones(40), np.zeros(40))).all()


@pytest.mark.parametrize("count", [2, 5, 9, 12])
def test_the_exact_p_counts_all_sign_patterns(count):
    values = np.random.default_rng(count).normal(0.5, 1, count)
    sums = [abs(np.dot(signs, values)) for signs in product((-1, 1), repeat=count)]
    expected = np.mean([total >= abs(values.sum()) - 1e-12 for total in sums])
    assert sign_flip_p(values) == expected
    assert sign_flip_p(np.abs(values)) == 2.0 ** (1 - count)
