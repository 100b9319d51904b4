"""Paired comparisons of runs that differ in one factor alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bench.core.errors import UserError, require
from bench.report.intervals import (
    EXACT_BELOW,
    ROUNDING,
    mean_interval,
    ratio_interval,
    sign_flip_p,
)
from bench.report.report_config import ReportConfig
from bench.report.tables import sections
from bench.store.results import config_columns, usable

STATISTICS = ("difference", "difference_low", "difference_high", "ratio", "ratio_low", "ratio_high")
STATISTICS += ("effect_size", "p", "p_exact")


def compare(
    frame: pd.DataFrame,
    config: ReportConfig,
    factor: str,
    metric: str,
    reference: Any = None,
    conditions: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare every value of a factor with a reference value, over pairs of runs.

    Two runs make a pair if their configurations are equal but for `factor`. Pairs are collected
    over the columns `config.over`; everything else keeps its own row. Statistics are those of the
    means of the pairs of each value of `config.unit`.

    Parameters
    ----------
    frame : DataFrame
        Runs, as `bench.store.results.Results` holds them.
    config : ReportConfig
        The benchmark's report: the columns to average over, and the families of tests.
    factor : str
        A configuration column, such as ``"variant"``; of ``"model.rank"``, ``"rank"`` will do if
        no other column ends so.
    metric : str
        A metric column.
    reference : optional
        The value of `factor` that the others are compared with; by default the first.
    conditions : sequence of str
        What to show, as ``column=value``. What is not shown still belongs to its family of tests.

    Returns
    -------
    DataFrame
        One row per comparison: the columns that are fixed in it; `comparison`, as in "random_images
        vs original"; `pairs`, and the `units` that they belong to; the mean `difference`, first
        minus second, with its interval (`difference_low`, `difference_high`); the `ratio` of the
        means, first over second, with its interval; `effect_size`, the mean difference in units of
        its standard deviation; `p` of the paired t test and, below ten units, `p_exact` of the
        sign-flip test, after Benjamini and Hochberg's correction within each family; and
        `refused`, the reason where there are no numbers.

    Raises
    ------
    UserError
        If the factor or metric does not exist, or the factor has one value only.
    """
    factor = _column(factor, config_columns(frame), f"--by {factor}")
    _require_metric(frame, metric)
    over = [name for name in config.over if name != factor]
    require(bool(over), f"--by {factor}", f"another factor than the pairs', {config.over[0]}")
    fixed = _fixed_columns(frame, config, factor)
    frame = where(frame, [c for c in conditions if c.partition("=")[0] not in fixed])
    values = _ordered(frame[factor])
    require(len(values) > 1, f"--by {factor} with {len(values)} recorded value", "at least two")
    first = _matching(values, reference) if reference is not None else values[0]
    rows = []
    for key, group in frame.groupby(fixed, dropna=False, sort=True) if fixed else [((), frame)]:
        named = dict(zip(fixed, key, strict=True))
        for other in values:
            if other != first:
                rows.append(named | _pair_up(group, config, factor, metric, first, other))
    result = _corrected(pd.DataFrame(rows), config, [n for n in fixed if n not in config.rows])
    return where(result, [c for c in conditions if c.partition("=")[0] in fixed])


def compare_published(
    frame: pd.DataFrame,
    config: ReportConfig,
    metric: str,
    factor: str | None = None,
    conditions: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare every row of a benchmark's table with the value that was published for it.

    Each run makes a pair with the published value, which is the mean over runs of its own.

    Parameters
    ----------
    frame, config, metric, conditions
        As for `compare`.
    factor : str, optional
        A column of the table, whose values the comparisons are named by.

    Returns
    -------
    DataFrame
        As of `compare`, the published value being the reference.
    """
    keys = [config.section, *config.rows]
    if factor is not None:
        factor = _column(factor, keys, f"--by {factor} --reference published")
    _require_metric(frame, metric)
    known = [name for name in config.metrics if name in config.published_values]
    given = f"--metric {metric} --reference published"
    expected = (
        f"one of {', '.join(known)}" if known and config.published else "none: none published"
    )
    require(bool(config.published) and metric in known, given, expected)
    frame = where(frame, [c for c in conditions if c.partition("=")[0] not in config.rows])
    table_rows = [*config.rows]
    rows = []
    for part in sections(frame, config):
        for _, row in part.rows.drop_duplicates(table_rows).iterrows():
            runs = part.runs[(part.runs[table_rows] == row[table_rows]).all(axis="columns")]
            named = {config.section: part.title, **row[table_rows]}
            named["comparison"] = f"{row[factor] if factor else 'ours'} vs published"
            numbers = _with_published(runs, config, metric, row[f"{metric}_published"])
            rows.append(named | numbers)
    result = _corrected(pd.DataFrame(rows), config, [config.section])
    result = where(result, [c for c in conditions if c.partition("=")[0] in config.rows])
    return result.drop(columns=[factor] if factor else [])


def _with_published(
    runs: pd.DataFrame, config: ReportConfig, metric: str, published: float
) -> dict[str, Any]:
    values = runs[usable(runs)].set_index([*config.over])[metric].dropna()
    missing = len(runs) - len(values)
    refused = f"{missing} of {len(runs)} runs are missing" if missing else ""
    refused = "no published value for this setting" if pd.isna(published) else refused
    pairs = pd.DataFrame({"published": published, "ours": values})
    return _statistics(pairs, config, refused)


def _column(name: str, columns: Sequence[str], given: str) -> str:
    """Return the one column that a name, or the last part of a dotted one, stands for."""
    meant = [column for column in columns if name in (column, column.rpartition(".")[2])]
    require(len(meant) == 1, given, f"one of {', '.join(columns)}")
    return meant[0]


def _require_metric(frame: pd.DataFrame, metric: str) -> None:
    others = [*config_columns(frame), "attempt", "wall_time_s", "stacked_with", "format", "dirty"]
    metrics = [str(name) for name in frame.select_dtypes("number") if name not in others]
    require(metric in metrics, f"--metric {metric}", f"one of {', '.join(metrics)}")


def _corrected(result: pd.DataFrame, config: ReportConfig, setting: Sequence[str]) -> pd.DataFrame:
    """Correct p values within each family: a setting's tests that meet the same condition."""
    families = [_family(row, config.families) for _, row in result.iterrows()]
    keys = [result[name].astype(str) for name in setting]
    for name in ("p", "p_exact"):
        tested = result[result[name].notna()]
        groups = [pd.Series(families, result.index), *keys]
        for _, family in tested.groupby([group[tested.index] for group in groups]):
            result.loc[family.index, name] = stats.false_discovery_control(family[name])
    return result


def _family(row: pd.Series, families: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of the first family whose conditions a comparison meets; else none's."""
    for number, conditions in enumerate(families):
        if all(row.get(name) == value for name, value in conditions.items()):
            return number
    return len(families)


def _ordered(values: pd.Series) -> list[Any]:
    return sorted(values.dropna().unique(), key=lambda value: (value != "original", value))


def _matching(values: Sequence[Any], wanted: Any) -> Any:
    matches = [value for value in values if str(value) == str(wanted)]
    require(bool(matches), f"--reference {wanted}", f"one of {', '.join(map(str, values))}")
    return matches[0]


def _fixed_columns(frame: pd.DataFrame, config: ReportConfig, factor: str) -> list[str]:
    """Return the columns that tell comparisons apart, without those that follow from others."""
    free = {factor, *config.over}
    leading = [name for name in (config.section, *config.rows) if name not in free]
    others = [
        name
        for name in config_columns(frame)
        if name not in free
        and name not in leading
        and (frame.groupby(leading, dropna=False)[name].nunique(dropna=False) > 1).any()
    ]
    return [name for name in (*leading, *others) if name in frame]


def _pair_up(
    group: pd.DataFrame, config: ReportConfig, factor: str, metric: str, first: Any, other: Any
) -> dict[str, Any]:
    """Compare two values of a factor within one setting."""
    over = [name for name in config.over if name != factor]
    planned = group[group[factor].isin([first, other])]
    good = planned[usable(planned)]
    pairs = good.pivot_table(index=over, columns=factor, values=metric, aggfunc="first")
    pairs = pairs.reindex(columns=[first, other]).dropna()
    expected = len(planned[over].drop_duplicates())
    missing = expected - len(pairs)
    refused = f"{missing} of {expected} pairs are missing" if missing else ""
    return {"comparison": f"{other} vs {first}"} | _statistics(pairs, config, refused)


def _statistics(pairs: pd.DataFrame, config: ReportConfig, refused: str) -> dict[str, Any]:
    """Return the numbers of one comparison, or the reason why there are none."""
    by_unit = config.unit in pairs.index.names
    units = pairs.groupby(level=config.unit).mean() if by_unit else pairs
    refused = refused or ("" if len(pairs) else "no pairs")
    counts = {"pairs": len(pairs), "units": len(units), "refused": refused}
    if refused:
        return counts | dict.fromkeys(STATISTICS, float("nan"))
    return counts | paired_statistics(*units.to_numpy(float).T)


def paired_statistics(first: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the statistics of `compare` for two aligned samples of shape (units,)."""
    difference = other - first
    mean = difference.mean()
    ratio = other.mean() / first.mean() if first.mean() else float("nan")
    numbers = [mean, *mean_interval(difference), ratio, *ratio_interval(other, first)]
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    effect = p = exact = float("nan")
    if spread > ROUNDING * max(np.abs(first).max(), np.abs(other).max()):
        effect, p = mean / spread, stats.ttest_rel(other, first).pvalue
        exact = sign_flip_p(difference) if len(difference) < EXACT_BELOW else exact
    return dict(zip(STATISTICS, map(float, [*numbers, effect, p, exact]), strict=True))


def where(frame: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Return the rows for which every condition ``column=value`` holds."""
    for condition in conditions:
        column, equals, value = condition.partition("=")
        expected = f"column=value with one of the columns {', '.join(map(str, frame.columns))}"
        require(bool(equals) and column in frame, f"--where {condition}", expected)
        kept = frame[frame[column].astype(str) == value]
        if kept.empty:
            present = ", ".join(sorted(frame[column].astype(str).unique()))
            raise UserError(f"--where {condition}", f"one of the recorded values {present}")
        frame = kept
    return frame


def as_text(result: pd.DataFrame) -> pd.DataFrame:
    """Return a comparison as text for a table; numbers have four significant digits."""
    own = ["comparison", "pairs", "units", "refused", *STATISTICS]
    text = result[[name for name in result if name not in own]].astype(str)
    for name in ("comparison", "pairs", "units"):
        text[name] = result[name].astype(str)
    for name, signs in (("difference", "first - second"), ("ratio", "first / second")):
        columns = (result[f"{name}{end}"] for end in ("", "_low", "_high"))
        text[f"{signs} [95 %]"] = [
            _with_interval(*numbers) for numbers in zip(*columns, strict=True)
        ]
    text["effect size"] = [_short(value) for value in result["effect_size"]]
    text["p"] = [_short(value) for value in result["p"]]
    if result["p_exact"].notna().any():
        text["p, exact"] = [_short(value) for value in result["p_exact"]]
    if result["refused"].any():
        text["refused"] = result["refused"]
    return text


def _with_interval(middle: float, low: float, high: float) -> str:
    if pd.isna(middle):
        return "-"
    return f"{middle:.4g}" if pd.isna(low) else f"{middle:.4g} [{low:.4g}, {high:.4g}]"


def _short(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2g}"
