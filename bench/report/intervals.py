"""Intervals and tests on independent units; `tests/bench/report/test_intervals.py` simulates them.

The t interval covers as often as it says for units that are about normal, from three units on, and
less often for skewed ones: 88 % of lognormal units of log deviation 0.9 with 10 of them, 89 % with
30. The bootstrap does not help: at 30 units BCa covers 92 % of normal ones and 89 % of those.
"""

import numpy as np
import pandas as pd
from scipy import stats

from bench.report.report_config import ReportConfig

CONFIDENCE = 0.95
# Up to this number of units the exact test stands beside the t test: at most 2^15 sign patterns.
EXACT_UP_TO = 15
ROUNDING = 1e-12  # differences that vary less, relative to the values, do not vary

Interval = tuple[np.ndarray, np.ndarray]


def unit_means(values: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Return the means over each independent unit; `values` is indexed by what it is over."""
    return values.groupby(level=unit).mean() if unit in values.index.names else values


def estimate(pairs: pd.DataFrame, config: ReportConfig, metric: str) -> tuple[float, float, float]:
    """Return a number with its interval, as in a table or a claim; of two columns, their ratio."""
    if pairs.empty:
        return float("nan"), float("nan"), float("nan")
    first, *second = (pairs[name] for name in pairs)
    if metric in config.proportions and not second:
        return first.mean(), *proportion_interval(int(first.sum()), len(first))
    if config.summary == "median":
        values = first / second[0] if second else first
        return values.median(), values.min(), values.max()
    number = first.mean() / second[0].mean() if second else first.mean()
    units = unit_means(pairs, config.unit).to_numpy().T
    low, high = ratio_interval(*units) if second else mean_interval(units[0])
    return float(number), float(low), float(high)


def mean_interval(units: np.ndarray) -> Interval:
    """Return the t interval of the mean over the last axis; NaN for a single unit."""
    return _t_interval(units.mean(-1), units)


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray) -> Interval:
    """Return the interval of mean(numerators) / mean(denominators) over the last axis, in pairs.

    It is the t interval of the ratio's logarithm, linearized: near the means, a unit changes the
    logarithm by its share in the numerator minus its share in the denominator. NaN where a mean is
    not positive.
    """
    means = numerators.mean(-1), denominators.mean(-1)
    positive = (means[0] > 0) & (means[1] > 0)
    top, bottom = (np.where(positive, mean, np.nan) for mean in means)
    shares = numerators / top[..., None] - denominators / bottom[..., None]
    low, high = _t_interval(np.log(top / bottom), shares)
    return np.exp(low), np.exp(high)


def proportion_interval(successes: int, count: int) -> tuple[float, float]:
    """Return the exact binomial interval of a share (Clopper and Pearson 1934)."""
    found = stats.binomtest(successes, count).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def sign_flip_p(differences: np.ndarray) -> float:
    """Return the exact two-sided p value of a mean difference of zero, for shape (units,).

    Under the hypothesis, each unit's difference has either sign with equal probability. With n
    units p is at least 2^(1 - n).
    """
    count = len(differences)
    bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    sums = np.abs((2 * bits - 1) @ differences)
    return float((sums >= np.abs(differences.sum()) * (1 - ROUNDING)).mean())


def _t_interval(center: np.ndarray, units: np.ndarray) -> Interval:
    count = units.shape[-1]
    half = np.nan
    if count > 1:
        half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * stats.sem(units, axis=-1)
    return center - half, center + half
