"""Paired comparisons of runs, which say what the two runs of a pair differ in."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bench.core.errors import require
from bench.core.status import Status
from bench.report.intervals import (
    EXACT_UP_TO,
    ROUNDING,
    mean_interval,
    ratio_interval,
    sign_flip_p,
    unit_means,
)
from bench.report.report_config import ReportConfig, in_words, options
from bench.report.tables import sections
from bench.store.results import config_columns, metric_columns, usable

ENDS = ("", "_low", "_high")
# Both means, their difference and their ratio (first over second) with intervals, the mean
# difference in units of its standard deviation, and the p values of the paired t test and, up to
# fifteen units, of the exact sign-flip test.
STATISTICS = ["first", "second", *(f"difference{end}" for end in ENDS)]
STATISTICS += [*(f"ratio{end}" for end in ENDS), "effect_size", "p", "p_exact"]
EXPERIMENT = "experiment"  # the column that tells the runs of two experiments apart


def compare(
    frame: pd.DataFrame,
    config: ReportConfig,
    factor: str,
    metric: str,
    reference: Any = None,
    conditions: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare every value of a factor with a reference value, over pairs of runs.

    The runs of a pair agree in the columns `config.agree`, and in all other settings if there are
    such runs; otherwise every setting of the one side is compared with every one of the other.
    Statistics are those of the pairs' means over each `config.unit`.

    Parameters
    ----------
    frame : DataFrame
        Runs, as `bench.store.results.Results` holds them.
    config : ReportConfig
        The benchmark's report: what must agree, and the families of tests.
    factor : str
        A configuration column, the last part of its name, or a group, such as ``"model"``.
    metric : str
        A metric column.
    reference : optional
        The value of `factor` that the others are compared with; by default the first.
    conditions : sequence of str
        What to show, as ``column=value``. What is not shown still belongs to its family of tests.

    Returns
    -------
    DataFrame
        One row per comparison: the columns fixed in it, as "other vs first" where they differ;
        `comparison`; the counts `pairs` and `units`; `STATISTICS`, p values corrected by families;
        and `refused`, the reason where there are no numbers.

    Raises
    ------
    UserError
        If the factor or metric does not exist, the factor has one value only, or no pair agrees.
    """
    known = [*config_columns(frame), *(name for name in frame if name == EXPERIMENT)]
    frame, factor, settings = _factor(frame, known, factor)
    require(metric in (m := metric_columns(frame)), f"--metric {metric}", f"one of {', '.join(m)}")
    fixed, over = _agreeing(frame, config, factor, settings)
    shown = [c for c in conditions if c.partition("=")[0] in fixed]
    frame = where(frame, [c for c in conditions if c not in shown])
    frame, first, values = _values(frame, factor, reference)
    others = [name for name in known if name not in (factor, *settings, *fixed, *over)]
    groups = [*frame.groupby(fixed, dropna=False)] if fixed else [((), frame)]
    apart = [n for n in others if any(group[n].nunique(dropna=False) > 1 for _, group in groups)]
    rows = [
        dict(zip(fixed, key, strict=True)) | row
        for key, group in groups
        for other in values
        for row in _compared(group, config, (factor, first, other), metric, over, apart)
    ]
    given = f"--by {factor} with values that share no setting of {', '.join(fixed)}"
    require(bool(rows), given, "runs that agree in these columns")
    return where(_corrected(pd.DataFrame(rows), config, factor), shown)


def _agreeing(
    frame: pd.DataFrame, config: ReportConfig, factor: str, settings: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the columns in which pairs agree: those that comparisons hold for, and those over."""
    agree = [n for n in config.agree or config.columns if n in frame and n not in settings]
    over = [name for name in agree if name in config.over]
    require(bool(over), f"--by {factor}", f"another factor than the pairs', {config.over[0]}")
    return [name for name in agree if name not in over], over


def _values(
    frame: pd.DataFrame, factor: str, reference: Any
) -> tuple[pd.DataFrame, Any, list[Any]]:
    """Return the runs, the factor's value that others are compared with, and the others."""
    if frame[factor].nunique() == 1:  # no record holds a younger setting that is at its default
        frame = frame.assign(**{factor: frame[factor].map(str).where(frame[factor].notna(), "-")})
    values = sorted(frame[factor].dropna().unique(), key=lambda value: (value != "original", value))
    require(len(values) > 1, f"--by {factor} with {len(values)} recorded value", "at least two")
    named = [True] if reference is None else _named(values, str(reference))
    expected = f"one of {', '.join(map(str, values))}"
    require(any(named), f"--reference {reference}", expected)
    first = values[named.index(True)]
    return frame, first, [value for value in values if value != first]


def _compared(
    group: pd.DataFrame,
    config: ReportConfig,
    values: tuple[str, Any, Any],
    metric: str,
    over: list[str],
    others: list[str],
) -> list[dict[str, Any]]:
    """Compare two values of a factor in each of their settings; `others` are the columns of one."""
    factor, first, other = values
    sides = []
    for value in (first, other):
        runs = group[group[factor] == value]
        parts = runs.groupby(others, dropna=False) if others else [((), runs)]
        sides.append([(key, part.set_index(over)) for key, part in parts if len(part)])
    pairs = [*product(*sides)]
    same = [pair for pair in pairs if str(pair[0][0]) == str(pair[1][0])]
    rows = []
    for (setting, ours), (another, theirs) in same or pairs:
        settings = zip(others, setting, another, strict=True)
        row = {n: a if str(a) == str(b) else f"{_words(b)} vs {_words(a)}" for n, a, b in settings}
        good = [side[usable(side)][metric].dropna() for side in (ours, theirs)]
        aligned = pd.concat(good, axis="columns", join="inner", keys=["first", "other"])
        expected = len(ours.index.intersection(theirs.index))
        missing = expected - len(aligned)
        refused = f"{missing} of {expected} pairs are missing" if missing else ""
        refused = refused or ("" if expected else "no pairs")
        units = unit_means(aligned, config.unit)
        numbers = dict.fromkeys(STATISTICS, float("nan"))
        numbers = numbers if refused else paired_statistics(*units.to_numpy(float).T)
        counts = {"pairs": len(aligned), "units": len(units), "refused": refused}
        rows.append(row | {"comparison": f"{other} vs {first}"} | counts | numbers)
    return rows


def beside_published(frame: pd.DataFrame, config: ReportConfig, metric: str) -> pd.DataFrame:
    """Return the runs for which a value is published, and for each run one more with that value.

    The column `experiment` tells them apart. A published value is the mean over runs of its own.
    """
    known = [name for name in config.metrics if name in config.published_values]
    expected = f"one of {', '.join(known)}" if config.published else "none: none published"
    given = f"--metric {metric} --reference published"
    require(bool(config.published) and metric in known, given, expected)
    twins, keys = [], [*config.rows]
    for part in sections(frame, config):
        rows = part.rows.set_index(keys)
        published = part.runs[keys].join(rows[f"{metric}_published"], on=keys).iloc[:, -1]
        done = {"status": Status.CONVERGED, EXPERIMENT: "published", metric: published}
        twins.append(part.runs.assign(**done).dropna(subset=metric))
    both = pd.concat(twins)
    require(len(both) > 0, given, "a setting for which values are published")
    return pd.concat([frame.loc[both.index].assign(**{EXPERIMENT: "ours"}), both])


def _factor(
    frame: pd.DataFrame, known: Sequence[str], name: str
) -> tuple[pd.DataFrame, str, list[str]]:
    """Return the runs, the factor that is meant, which they have, and the columns that it sums up.

    One column is meant by its name or the last part of it. A group stands for the name of what was
    chosen from it or, if that is always the same, for all settings that are not.
    """
    meant = [column for column in known if name in (column, column.rpartition(".")[2])]
    group = [column for column in known if column.startswith(f"{name}.")]
    if group and not meant:
        settings = [column for column in group if frame[column].nunique() > 1]
        require(bool(settings), f"--by {name} with one recorded setting", "at least two")
        meant = [column for column in settings if column == f"{name}.name"] or settings
        if len(meant) > 1:
            together = frame[meant].apply(_setting, axis="columns")
            return frame.assign(**{name: together}), name, meant
    require(len(meant) == 1, f"--by {name}", f"one of {', '.join(known)}")
    return frame, meant[0], meant


def _setting(values: pd.Series) -> str:
    """Return the settings of a group in words; a switch is named where it is on."""
    names = {name: in_words(name.rpartition(".")[2]) for name in values.index}
    shown = {name: value for name, value in values.items() if value is not False}
    words = [names[n] if v is True else f"{names[n]} {_words(v)}" for n, v in shown.items()]
    return "; ".join(words)


def _corrected(result: pd.DataFrame, config: ReportConfig, factor: str) -> pd.DataFrame:
    """Correct p values within each family: a setting's tests that meet the same conditions."""
    own = [*config.rows, "comparison", "pairs", "units", "refused", *STATISTICS]
    keys = [result[name].map(str) for name in result if name not in own]
    rows = result.assign(by=factor).to_dict("records")
    families = pd.Series([_family(row, config.families) for row in rows], result.index)
    for name in ("p", "p_exact"):
        tested = result[name].dropna().groupby([families, *keys])
        result[name] = tested.transform(stats.false_discovery_control)
    return result


def _family(row: Mapping[str, Any], families: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of the family whose conditions a comparison meets; else none's."""
    met = (all(row.get(n) in options(v) for n, v in family.items()) for family in families)
    return [*met, True].index(True)


def paired_statistics(first: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the statistics of `compare` for two aligned samples of shape (units,)."""
    difference = other - first
    mean = difference.mean()
    ratio = other.mean() / first.mean() if first.mean() else float("nan")
    numbers = [other.mean(), first.mean(), mean, *mean_interval(difference)]
    numbers += [ratio, *ratio_interval(other, first)]
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    effect = p = exact = float("nan")
    if spread > ROUNDING * max(np.abs(first).max(), np.abs(other).max()):
        effect, p = mean / spread, stats.ttest_rel(other, first).pvalue
        exact = sign_flip_p(difference) if len(difference) <= EXACT_UP_TO else exact
    return dict(zip(STATISTICS, map(float, [*numbers, effect, p, exact]), strict=True))


def where(frame: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Return the rows for which every condition ``column=value`` holds."""
    for condition in conditions:
        column, equals, value = condition.partition("=")
        expected = f"column=value with one of the columns {', '.join(map(str, frame.columns))}"
        require(bool(equals) and column in frame, f"--where {condition}", expected)
        met = _named(frame[column], value)
        present = ", ".join(sorted({*map(_words, frame[column])}))
        require(any(met), f"--where {condition}", f"one of the recorded values {present}")
        frame = frame[met]
    return frame


def _named(values: Iterable[Any], word: str) -> list[bool]:
    """Return for each value whether a word names it: as it is printed, or as an override."""
    names = {word}
    with suppress(ValueError):
        names.add(_words(json.loads(word)))  # 5e-3, 40.0, true, null
    return [not names.isdisjoint((str(value), _words(value))) for value in values]


def as_text(result: pd.DataFrame, config: ReportConfig) -> tuple[pd.DataFrame, str]:
    """Return a comparison as text for a table, and what is the same in all of several rows.

    The settings in which a pair need not agree share a column: those in which it does not, and
    those that tell rows apart.
    """
    own = ["comparison", "pairs", "units", "refused", *STATISTICS]
    fixed = result[[name for name in result if name not in own]].map(_words).astype("str")
    same = [name for name in fixed if len(fixed) > 1 and fixed[name].nunique() == 1]
    others = [name for name in fixed if name not in (*same, *(config.agree or config.columns))]
    text = fixed.drop(columns=[*same, *others])
    settings = _settings(fixed[others], config)
    if any(settings):
        text["settings"] = settings
    text = text.join(result[["comparison", "pairs", "units"]].astype(str))
    means = result[["first", "second"]].to_numpy(float)
    text["first, second"] = ["-" if np.isnan(a) else f"{a:.4g}, {b:.4g}" for a, b in means]
    for name, signs in (("difference", "first - second"), ("ratio", "first / second")):
        numbers = result[[f"{name}{end}" for end in ENDS]].to_numpy(float)
        text[f"{signs} [95 %]"] = [_with_interval(*values) for values in numbers]
    for name, words in (("effect_size", "effect size"), ("p", "p"), ("p_exact", "p, exact")):
        if name != "p_exact" or result[name].notna().any():
            text[words] = ["-" if pd.isna(value) else f"{value:.2g}" for value in result[name]]
    if result["refused"].any():
        text["refused"] = result["refused"]
    said = ", ".join(f"{name} {fixed[name].iloc[0]}" for name in same)
    return text, f"In every row: {said}." if said else ""


def _settings(fixed: pd.DataFrame, config: ReportConfig) -> list[str]:
    """Return for each row in which settings its pairs differ, and what else tells it apart."""
    differing = fixed.map(lambda value: " vs " in value).astype(bool)
    apart = fixed.where(~differing).nunique() > 1
    shown = fixed.where((differing | apart) & (fixed != "-")).to_dict("records")
    return [
        ", ".join(f"{config.label(name)} {value}" for name, value in row.items() if value == value)
        for row in shown
    ]


def _words(value: Any) -> str:
    """Return a setting as text, a raw name as it is; a dash where there is none."""
    return value if isinstance(value, str) else "-" if pd.isna(value) else in_words(value)


def _with_interval(middle: float, low: float, high: float) -> str:
    if pd.isna(middle):
        return "-"
    return f"{middle:.4g}" if pd.isna(low) else f"{middle:.4g} [{low:.4g}, {high:.4g}]"
