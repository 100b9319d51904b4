"""Paired comparisons of runs that differ in one factor alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bench.errors import UserError, require
from bench.report.frame import usable
from bench.report.spec import ReportSpec

CONFIDENCE = 0.95
RESAMPLES = 5000


def compare(
    frame: pd.DataFrame, spec: ReportSpec, factor: str, metric: str, reference: Any = None
) -> pd.DataFrame:
    """Compare every value of a factor with a reference value, over pairs of runs.

    Two runs make a pair if their configurations are equal but for `factor`. Pairs are collected
    over the columns `spec.over`; everything else keeps its own row.

    Parameters
    ----------
    frame : DataFrame
        Runs, as `bench.report.load_runs` returns them.
    spec : ReportSpec
        The benchmark's report, for the columns to average over.
    factor : str
        A configuration column, such as ``"variant"``; of ``"model.rank"``, ``"rank"`` will do if
        no other column ends so.
    metric : str
        A metric column.
    reference : optional
        The value of `factor` that the others are compared with; by default the first.

    Returns
    -------
    DataFrame
        One row a comparison: the columns that are fixed in it; `comparison`; `pairs`; the mean
        `difference` with its t interval (`difference_low`, `difference_high`); the `ratio` of the
        means, reference over other, with its bootstrap interval; `effect_size`, the mean difference
        in units of its standard deviation; `p`, the paired t test's p value after Benjamini and
        Hochberg's correction for all rows; and `refused`, the reason where there are no numbers.

    Raises
    ------
    UserError
        If the factor or metric does not exist, or the factor has one value only.
    """
    config = [name for name in frame if "." in str(name) or name in ("variant", "seed")]
    meant = [name for name in config if factor in (name, name.rpartition(".")[2])]
    require(len(meant) == 1, f"--by {factor}", ", ".join(config))
    (factor,) = meant
    metrics = [
        str(name) for name in frame.select_dtypes("number") if name not in [*config, "attempt"]
    ]
    require(metric in metrics, f"--metric {metric}", ", ".join(metrics))
    values = _ordered(frame[factor])
    require(len(values) > 1, f"--by {factor} with {len(values)} recorded value", "at least two")
    first = _matching(values, reference) if reference is not None else values[0]
    fixed = _fixed_columns(frame, spec, factor, config)
    rows = []
    for key, group in frame.groupby(fixed, dropna=False, sort=True) if fixed else [((), frame)]:
        named = dict(zip(fixed, key, strict=True))
        for other in values:
            if other != first:
                rows.append(named | _pair_up(group, spec.over, factor, metric, first, other))
    result = pd.DataFrame(rows)
    tested = result["p"].notna()
    result.loc[tested, "p"] = stats.false_discovery_control(result.loc[tested, "p"])
    return result


def _ordered(values: pd.Series) -> list[Any]:
    found = sorted(values.dropna().unique(), key=lambda value: (value != "original", value))
    return list(found)


def _matching(values: Sequence[Any], wanted: Any) -> Any:
    matches = [value for value in values if str(value) == str(wanted)]
    require(bool(matches), f"--reference {wanted}", ", ".join(map(str, values)))
    return matches[0]


def _fixed_columns(
    frame: pd.DataFrame, spec: ReportSpec, factor: str, config: Sequence[str]
) -> list[str]:
    """Return the columns that tell comparisons apart, without those that follow from others."""
    free = {factor, *spec.over}
    leading = [name for name in (spec.section, *spec.rows) if name not in free]
    others = [
        name
        for name in config
        if name not in free
        and name not in leading
        and (frame.groupby(leading, dropna=False)[name].nunique(dropna=False) > 1).any()
    ]
    return [name for name in (*leading, *others) if name in frame]


def _pair_up(
    group: pd.DataFrame, over: Sequence[str], factor: str, metric: str, first: Any, other: Any
) -> dict[str, Any]:
    """Compare two values of a factor within one setting."""
    pairs_over = [name for name in over if name != factor]
    planned = group[group[factor].isin([first, other])]
    good = planned[usable(planned)]
    wide = good.pivot_table(index=pairs_over, columns=factor, values=metric, aggfunc="first")
    wide = wide.reindex(columns=[first, other]).dropna()
    expected = len(planned[pairs_over].drop_duplicates())
    row: dict[str, Any] = {"comparison": f"{other} - {first}", "pairs": len(wide), "refused": ""}
    if len(wide) < expected:
        row["refused"] = f"{expected - len(wide)} of {expected} pairs are missing"
    elif len(wide) < 2:
        row["refused"] = "an interval needs at least two pairs"
    if row["refused"]:
        return row | {"p": float("nan")}
    return row | paired_statistics(wide[first].to_numpy(), wide[other].to_numpy())


def paired_statistics(first: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the statistics of `compare` for two aligned samples of shape (pairs,)."""
    difference = other - first
    mean, error = difference.mean(), stats.sem(difference)
    low, high = mean, mean
    if error > 0:
        low, high = stats.t.interval(CONFIDENCE, len(difference) - 1, mean, error)
    ratio_low, ratio_high = _ratio_interval(first, other)
    spread = difference.std(ddof=1)
    return {
        "difference": mean,
        "difference_low": low,
        "difference_high": high,
        "ratio": first.mean() / other.mean() if other.mean() else float("nan"),
        "ratio_low": ratio_low,
        "ratio_high": ratio_high,
        "effect_size": mean / spread if spread else float("nan"),
        "p": stats.ttest_rel(other, first).pvalue if spread else float("nan"),
    }


def _ratio_interval(first: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the percentile bootstrap interval of mean(first) / mean(other), pairs resampled."""
    draws = np.random.default_rng(0).integers(len(first), size=(RESAMPLES, len(first)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = first[draws].mean(1) / other[draws].mean(1)
    if not np.isfinite(ratios).all():
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def where(frame: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Return the runs for which every condition ``column=value`` holds."""
    for condition in conditions:
        column, equals, value = condition.partition("=")
        allowed = "column=value with a column of " + ", ".join(map(str, frame.columns))
        require(bool(equals) and column in frame, f"--where {condition}", allowed)
        kept = frame[frame[column].astype(str) == value]
        if kept.empty:
            present = ", ".join(sorted(frame[column].astype(str).unique()))
            raise UserError(f"--where {condition}", f"the recorded values {present}")
        frame = kept
    return frame


def as_text(result: pd.DataFrame) -> pd.DataFrame:
    """Return a comparison as text for a table."""
    shown = ["comparison", "pairs", "difference", "ratio", "effect_size", "p", "refused"]
    text = result[
        [name for name in result if name not in shown and not name.endswith(("low", "high"))]
    ]
    text = text.astype(str).assign(comparison=result.comparison, pairs=result.pairs.astype(str))
    for name in ("difference", "ratio"):
        columns = (result.get(f"{name}{end}") for end in ("", "_low", "_high"))
        text[f"{name} [95 %]"] = [
            "-" if pd.isna(middle) else f"{middle:.4f} [{low:.4f}, {high:.4f}]"
            for middle, low, high in zip(*columns, strict=True)
        ]
    text["effect size"] = [_short(value) for value in result.effect_size]
    text["p"] = [_short(value) for value in result.p]
    if result.refused.any():
        text["refused"] = result.refused
    return text


def _short(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2g}"
