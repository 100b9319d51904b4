"""Paired comparisons of runs that differ in one factor alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bench.errors import UserError, require
from bench.report.frame import config_columns, usable
from bench.report.spec import ReportSpec
from bench.report.tables import sections

CONFIDENCE = 0.95
RESAMPLES = 5000
STATISTICS = ["difference", "difference_low", "difference_high", "ratio", "ratio_low", "ratio_high"]
STATISTICS += ["effect_size", "p"]
ROUNDING = 1e-12  # differences that vary less, relative to the values, do not vary


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
    factor = _column(factor, config_columns(frame), f"--by {factor}")
    _require_metric(frame, metric)
    values = _ordered(frame[factor])
    require(len(values) > 1, f"--by {factor} with {len(values)} recorded value", "at least two")
    first = _matching(values, reference) if reference is not None else values[0]
    fixed = _fixed_columns(frame, spec, factor, config_columns(frame))
    rows = []
    for key, group in frame.groupby(fixed, dropna=False, sort=True) if fixed else [((), frame)]:
        named = dict(zip(fixed, key, strict=True))
        for other in values:
            if other != first:
                rows.append(named | _pair_up(group, spec.over, factor, metric, first, other))
    return _corrected(rows)


def compare_published(
    frame: pd.DataFrame, spec: ReportSpec, metric: str, factor: str | None = None
) -> pd.DataFrame:
    """Compare every row of a benchmark's table with the value that was published for it.

    Each run makes a pair with the published value, which is the mean over runs of its own.

    Parameters
    ----------
    frame, spec, metric
        As for `compare`.
    factor : str, optional
        A column of the table, whose values the comparisons are named by.

    Returns
    -------
    DataFrame
        As of `compare`, the published value being the reference.
    """
    keys = [spec.section, *spec.rows]
    if factor is not None:
        factor = _column(factor, keys, f"--by {factor} --reference published")
    _require_metric(frame, metric)
    known = [name for name in spec.metrics if spec.published and name in spec.published_values]
    given = f"--metric {metric} --reference published"
    require(metric in known, given, ", ".join(known) or "none: this benchmark has none published")
    rows = []
    for part in sections(frame, spec):
        for _, row in part.rows.drop_duplicates(spec.rows).iterrows():
            runs = part.runs[(part.runs[spec.rows] == row[spec.rows]).all(axis="columns")]
            named = {spec.section: part.title, **row[spec.rows]}
            named["comparison"] = f"{named.pop(factor) if factor else 'ours'} - published"
            rows.append(named | _with_published(runs, metric, row[f"{metric}_published"]))
    return _corrected(rows)


def _with_published(runs: pd.DataFrame, metric: str, published: float) -> dict[str, Any]:
    values = runs[metric][usable(runs)].dropna().to_numpy()
    missing = len(runs) - len(values)
    refused = f"{missing} of {len(runs)} runs are missing" if missing else ""
    refused = "no published value for this setting" if pd.isna(published) else refused
    return _statistics(np.full(len(values), published), values, refused)


def _column(name: str, columns: list[str], given: str) -> str:
    """Return the one column that a name, or the last part of a dotted one, stands for."""
    meant = [column for column in columns if name in (column, column.rpartition(".")[2])]
    require(len(meant) == 1, given, ", ".join(columns))
    return meant[0]


def _require_metric(frame: pd.DataFrame, metric: str) -> None:
    others = [*config_columns(frame), "attempt", "wall_time_s", "stacked_with"]
    metrics = [str(name) for name in frame.select_dtypes("number") if name not in others]
    require(metric in metrics, f"--metric {metric}", ", ".join(metrics))


def _corrected(rows: list[dict[str, Any]]) -> pd.DataFrame:
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
    missing = expected - len(wide)
    refused = f"{missing} of {expected} pairs are missing" if missing else ""
    named = {"comparison": f"{other} - {first}"}
    return named | _statistics(wide[first].to_numpy(), wide[other].to_numpy(), refused)


def _statistics(first: np.ndarray, other: np.ndarray, refused: str) -> dict[str, Any]:
    """Return the numbers of one comparison, or the reason why there are none."""
    if not refused and len(first) < 2:
        refused = "an interval needs at least two pairs"
    numbers = {} if refused else paired_statistics(first, other)
    nothing = dict.fromkeys(STATISTICS, float("nan"))
    return {"pairs": len(first), "refused": refused, **nothing, **numbers}


def paired_statistics(first: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the statistics of `compare` for two aligned samples of shape (pairs,)."""
    difference = other - first
    mean, spread = difference.mean(), difference.std(ddof=1)
    low, high, effect, p = mean, mean, float("nan"), float("nan")
    if spread > ROUNDING * max(np.abs(first).max(), np.abs(other).max()):
        test = stats.ttest_rel(other, first)
        low, high = test.confidence_interval(CONFIDENCE)
        effect, p = mean / spread, test.pvalue
    ratio = first.mean() / other.mean() if other.mean() else float("nan")
    numbers = [mean, low, high, ratio, *ratio_interval(first, other), effect, p]
    return dict(zip(STATISTICS, numbers, strict=True))


def ratio_interval(first: np.ndarray, other: np.ndarray) -> tuple[float, float]:
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
    """Return a comparison as text for a table; numbers have four significant digits."""
    shown = ["comparison", "pairs", "difference", "ratio", "effect_size", "p", "refused"]
    text = result[
        [name for name in result if name not in shown and not name.endswith(("low", "high"))]
    ]
    text = text.astype(str).assign(comparison=result.comparison, pairs=result.pairs.astype(str))
    for name in ("difference", "ratio"):
        columns = (result[f"{name}{end}"] for end in ("", "_low", "_high"))
        text[f"{name} [95 %]"] = [
            "-" if pd.isna(middle) else f"{middle:.4g} [{low:.4g}, {high:.4g}]"
            for middle, low, high in zip(*columns, strict=True)
        ]
    text["effect size"] = [_short(value) for value in result["effect_size"]]
    text["p"] = [_short(value) for value in result.p]
    if result.refused.any():
        text["refused"] = result.refused
    return text


def _short(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2g}"
