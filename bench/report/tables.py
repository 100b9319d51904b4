"""Benchmark tables: Markdown, CSV and LaTeX from recorded runs."""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.core.errors import require
from bench.core.status import Status
from bench.report.intervals import estimate
from bench.report.report_config import ReportConfig, in_words
from bench.store.results import MISSING, metric_columns, numbers, settings, usable

BUDGETS = ("trainer.max_epochs", "trainer.max_steps")
# How runs end that give no numbers, in the order in which a table names them.
WITHOUT_NUMBERS = [Status.DIVERGED, Status.FAILED, Status.STOPPED, MISSING]
# Fits that are no better than a trivial predictor, and how a table names them.
POOR = {"dead": "with output 0", "worse": "worse than the trivial predictor"}
EXTREMES = {"smallest": "min", "largest": "max"}
LEFTOVER = 0.1  # a setting with this share of a data set's runs, or less, has no section of its own
NARROW = 3  # as many metrics need not be divided into questions
ROUNDING = 1e-6

Setting = dict[str, Any]  # what is particular to some runs, by column


@dataclass
class Section:
    """The part of a table that holds for one data set in one setting.

    Parameters
    ----------
    title : str
        The data set, how long the fits train, and what else is particular to the setting.
    rows : DataFrame
        One row per row of the table: the columns of section and row, the counts `expected`, `done`,
        `diverged`, `failed`, `stopped`, `missing`, `dead`, `worse`, and for each metric
        ``<metric>`` (mean), ``<metric>_std``, the ends ``<metric>_low`` and ``<metric>_high`` of
        the interval over independent units, ``<metric>_published``, ``<metric>_baseline`` (mean).
    reference : float
        The mean of the reference metric; NaN if the benchmark has none.
    caption : str
        Setting, number of runs and spread, in words.
    runs : DataFrame
        The runs themselves.
    leftover : bool
        Whether these are few runs beside those of another setting: only the CSV file has them.
    """

    title: str
    rows: pd.DataFrame
    reference: float
    caption: str
    runs: pd.DataFrame
    leftover: bool = False


def sections(frame: pd.DataFrame, config: ReportConfig) -> list[Section]:
    """Summarize runs as the sections of a benchmark's table."""
    frame = frame.reindex(columns=[*dict.fromkeys([*frame, *config.columns])])
    frame, beside = without_baseline(frame, config)
    result = []
    known = {*config.columns, *(name for name in frame if str(name).startswith(config.within))}
    for name, part in frame.groupby(config.section, sort=True, dropna=False):
        apart = [(*pair, len(pair[1]) <= LEFTOVER * len(part)) for pair in settings(part, known)]
        others = [setting for setting, _, leftover in apart if not leftover]
        for setting, runs, leftover in apart:
            title, rest = _heading(name, setting, runs, [setting, *others], config)
            rows = _rows(runs, beside, config)
            reference = references(runs[usable(runs)], config).mean()
            caption = _caption(runs, config, rest)
            result.append(Section(title, rows, reference, caption, runs, leftover))
    return result


def without_baseline(runs: pd.DataFrame, config: ReportConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a benchmark's own runs and those of its baseline; these alone are its own."""
    beside = matching(runs, config.baseline.where) if config.baseline else runs.iloc[:0]
    return (runs.drop(beside.index), beside) if len(beside) < len(runs) else (runs, beside)


def matching(frame: pd.DataFrame, where: dict[str, Any]) -> pd.DataFrame:
    """Return the rows that have all values, or extremes; none if a column does not exist."""
    for name, value in where.items():
        if name not in frame:
            return frame.iloc[:0]
        frame = frame[frame[name] == resolved(frame[name], value)]
    return frame


def resolved(values: pd.Series, value: Any) -> Any:
    """Return a value of a condition: ``smallest`` and ``largest`` stand for those of `values`."""
    return getattr(values, EXTREMES[value])() if value in EXTREMES else value


def _heading(
    name: Any, setting: Setting, runs: pd.DataFrame, others: list[Setting], config: ReportConfig
) -> tuple[str, str]:
    """Return a section's title and the rest of its setting: no more than tells it from others."""
    budgets = [n for n in BUDGETS if n in runs and n not in config.rows and runs[n].max() > 0]
    words = {n: f"{runs[n].max():,.0f} {in_words(n)}" for n in budgets}
    named = dict.fromkeys(budgets)
    for column in setting:
        same = [o for o in others if all(str(o[n]) == str(setting[n]) for n in named if n in o)]
        if len(same) > 1 and len({str(other[column]) for other in same}) > 1:
            named[column] = None
        if column not in words and setting[column] == setting[column]:
            words[column] = config.words(column, setting[column])
    title = [in_words(name), *(words[n] for n in named if n in words)]
    return ", ".join(title), ", ".join(text for n, text in words.items() if n not in named)


def _rows(runs: pd.DataFrame, beside: pd.DataFrame, config: ReportConfig) -> pd.DataFrame:
    """Return the rows of a section, see `Section`; `beside` are runs of the baseline."""
    keys, metrics, good = [config.section, *config.rows], [*config.metrics], runs[usable(runs)]
    ends = {str(end): runs.status == end for end in WITHOUT_NUMBERS}
    counted = {"expected": True, "done": usable(runs), **ends, **poor_fits(runs, config)}
    rows = pd.DataFrame(runs[keys].assign(**counted).groupby(keys, dropna=False).sum())
    for metric in metrics:
        values = good[[*keys, *config.over]].assign(value=numbers(good, metric))
        values = values.dropna(subset="value").set_index([*config.over])
        share, grouped = metric in config.proportions, values.groupby(keys, dropna=False)
        given = f"benchmark.report.proportions with {metric}"
        binary = not share or values.value.isin([0, 1]).all()
        require(binary, given, "a metric that is 0 or 1 in each run")
        rows[metric] = grouped.value.agg("mean" if share else config.summary)
        rows[f"{metric}_std"] = grouped.value.std()
        ends = grouped.apply(_interval, config, metric).reindex(columns=range(2))
        rows[[f"{metric}_{end}" for end in config.ends(metric)]] = ends
    wanted = config.published_for.items()
    comparable = all(key in runs and (runs[key] == value).all() for key, value in wanted)
    known = {"published": config.published_values if comparable else pd.DataFrame()}
    if config.baseline:
        beside = beside[usable(beside)].reindex(columns=[*keys, *metrics])
        known["baseline"] = beside.groupby(keys).mean()
    for end, table in known.items():
        there = table.reindex(index=rows.index, columns=metrics)
        rows[[f"{metric}_{end}" for metric in metrics]] = there
    return rows.reset_index().sort_values([*config.rows], kind="stable", ignore_index=True)


def _interval(values: pd.DataFrame, config: ReportConfig, metric: str) -> pd.Series:
    return pd.Series(estimate(values, config, metric)[1:])


def references(runs: pd.DataFrame, config: ReportConfig) -> pd.Series:
    """Return what a trivial predictor reaches in each run; NaN where that is not known."""
    if isinstance(config.reference, str):
        return numbers(runs, config.reference)
    return pd.Series(config.reference, runs.index)


def poor_fits(runs: pd.DataFrame, config: ReportConfig) -> pd.DataFrame:
    """Return which fits are dead (their output is 0), and which others worse than a trivial one.

    The error of 0 is 1 for relative errors. For labels 0 and 1, of which a share p is 1, it is p,
    and the best constant's, the reference, is p (1 - p): the output is a constant where the error
    is p or 1 - p. All samples may also have underflowed.
    """
    trivial, count = references(runs, config), usable(runs)
    errors = numbers(runs, config.compared)
    half = (1 - 4 * trivial).clip(lower=0) ** 0.5 / 2
    zeros = [0.5 - half, 0.5 + half] if isinstance(config.reference, str) else [trivial]
    dead = np.any([np.isclose(errors, zero, rtol=ROUNDING) for zero in zeros], 0)
    dead |= numbers(runs, "underflow_share") == 1
    worse = errors > trivial * (1 + ROUNDING)
    return pd.DataFrame({"dead": count & dead, "worse": count & worse & ~dead})


def _caption(runs: pd.DataFrame, config: ReportConfig, rest: str) -> str:
    """Say what is averaged, how many runs there are, and the rest of the setting."""
    counts = {key: runs[key].nunique() for key in config.over}
    averaged = [f"{n} {config.label(key)} value{'s' * (n != 1)}" for key, n in counts.items()]
    summary = "Mean ± standard deviation" if config.summary == "mean" else "Median [least, largest]"
    counted = f"{int(usable(runs).sum())} of {len(runs)} runs done"
    rest = f" {rest[:1].upper()}{rest[1:]}." if rest else ""
    known = [name for name in config.proportions if numbers(runs, name).notna().any()]
    shares = map(config.label, known)
    exact = f" {', '.join(shares)}: share of the runs [exact 95 % interval]." if known else ""
    over = " and ".join(averaged)
    return f"{summary} over {over}; {counted}. Each run's last measurement.{exact}{rest}"


def cells_as_text(
    section: Section, config: ReportConfig, metrics: Sequence[str] = ()
) -> tuple[pd.DataFrame, str]:
    """Return a section as text, and the columns with a single value, which its caption names."""
    rows = section.rows
    # What no run has, as a setting that is younger than all of them, is left out.
    keys = [key for key in config.rows if rows[key].notna().any()]
    text = rows[keys].map(lambda value: "-" if pd.isna(value) else str(value))
    for name in {*keys} & {*metric_columns(rows)}:
        text[name] = rows[name].map(_number)
    text = text.rename(columns=config.label)
    wanted = metrics or config.metrics
    measured = [metric for metric in wanted if rows[metric].notna().any()] or wanted
    for metric in measured:
        share = metric in config.proportions
        spread = config.summary == "mean" and not share
        ends = ("std",) if spread else config.ends(metric)
        shown = rows[[metric, *(f"{metric}_{end}" for end in ends)]].to_numpy(float)
        write = _mean_and_std if spread else _share if share else _median_and_range
        text[config.label(metric)] = [write(*values) for values in shown]
    names = {"baseline": config.baseline.name} if config.baseline else {}
    for end, name in (names | {"published": "published"}).items():
        for metric in measured:
            values = rows[f"{metric}_{end}"]
            if values.notna().any():
                text[f"{name} {config.label(metric)}"] = values.map(_number)
    text["runs"] = [_counted(row) for row in rows.to_dict("records")]
    named = [*map(config.label, keys), "runs"]
    single = [name for name in named if text[name].nunique() == 1 and len(text) > 1]
    said = [f"{name} {text[name].iloc[0]}" for name in single]
    return text.drop(columns=single), f"In every row: {', '.join(said)}." if said else ""


def _counted(row: dict[str, Any]) -> str:
    """Say how many runs of a row are done, and what has become of the others."""
    names = {end: end for end in WITHOUT_NUMBERS} | POOR
    others = ", ".join(f"{row[name]} {words}" for name, words in names.items() if row[name])
    return f"{row['done']}/{row['expected']}" + (f" ({others})" if others else "")


def _number(value: float) -> str:
    if pd.isna(value):
        return "-"
    if value and abs(value) < 1e9 and (float(value).is_integer() or abs(value) >= 1e5):
        return f"{value:.0f}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def _mean_and_std(mean: float, std: float) -> str:
    """Return a mean, to its spread's last digit at least, and two digits of the spread.

    A spread below a millionth of the mean is left out.
    """
    if pd.isna(mean) or pd.isna(std) or std <= ROUNDING * abs(mean):
        return _number(mean)
    size = max(abs(mean), std)
    power = 0 if 1e-3 <= size < 1e5 else math.floor(math.log10(size))
    mean, std = mean / 10.0**power, std / 10.0**power
    digits = max(0, 1 - math.floor(math.log10(std)))
    more = 2 - math.floor(math.log10(abs(mean))) if mean else 0  # three digits of the mean
    text = f"{mean:.{max(digits, more)}f} ± {std:.{digits}f}"
    return f"({text})e{power:+03d}" if power else text


def _share(share: float, low: float, high: float) -> str:
    return "-" if pd.isna(share) else f"{share:.2f} [{low:.2f}, {high:.2f}]"


def _median_and_range(median: float, least: float, largest: float) -> str:
    known = pd.notna(median) and least != largest
    return _number(median) + (f" [{_number(least)}, {_number(largest)}]" if known else "")


def grids(section: Section, config: ReportConfig) -> list[tuple[str, pd.DataFrame, list[str]]]:
    """Return a section's tables, one per question: title, table of text, and what stands below."""
    below = []
    if section.reference == section.reference:
        trivial = config.label(config.reference) if isinstance(config.reference, str) else "zero"
        below = [f"Trivial predictor: {trivial}, {_number(section.reference)}."]
    published = section.rows[[f"{metric}_published" for metric in config.metrics]]
    if published.notna().any(axis=None) and config.published_setting:
        below.append(f"Published values: {config.published_setting}.")
    if config.baseline and section.rows.filter(regex="_baseline$").notna().any(axis=None):
        below.append(f"{config.baseline.name}: {config.baseline.says}.")
    wide = section.rows[[*config.metrics]].notna().any().sum() > NARROW
    questions = config.questions if wide and config.questions else {"": config.metrics}
    result = []
    for question, metrics in questions.items():
        text, single = cells_as_text(section, config, metrics)
        title = f"{section.title}: {question}" if question else section.title
        result.append((title, text, [f"{section.caption} {single}".strip(), *below]))
    return result


def without_leftovers(parts: list[Section]) -> tuple[list[Section], list[str]]:
    """Return the sections that are published, and a line on each of the others."""
    left = [part for part in parts if part.leftover]
    lines = [f"Only in table.csv: {len(part.runs)} run(s) of {part.title}." for part in left]
    return [part for part in parts if not part.leftover], lines


def markdown(parts: list[Section], config: ReportConfig, outcomes: Sequence[str] = ()) -> str:
    """Return the table in Markdown, with the outcomes of the benchmark's claims."""
    blocks = [f"# {_markdown(config.title)}"]
    parts, left = without_leftovers(parts)
    for title, text, below in (grid for part in parts for grid in grids(part, config)):
        blocks += [f"## {_markdown(title)}", as_markdown(text), "\n".join(map(_markdown, below))]
    blocks += map(_markdown, left)
    if outcomes:
        blocks += ["## Claims", "\n".join(f"- {_markdown(line)}" for line in outcomes)]
    return "\n\n".join(blocks) + "\n"


def as_markdown(text: pd.DataFrame) -> str:
    """Return a table of text in Markdown."""
    rows = [map(_markdown, row) for row in (text.columns, *text.to_numpy())]
    rows.insert(1, iter(["---"] * len(text.columns)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _markdown(text: str) -> str:
    """Return text for a cell of a table: not markup, and no end of the cell."""
    return html.escape(str(text), quote=False).replace("|", r"\|").replace("\n", " ")


def latex(parts: list[Section], config: ReportConfig, outcomes: Sequence[str] = ()) -> str:
    """Return the tables in LaTeX, for the booktabs package; outcomes are comments."""
    parts, left = without_leftovers(parts)
    name, shown = config.title.rstrip("."), [grid for part in parts for grid in grids(part, config)]
    blocks = [as_latex(text, f"{name}: {title}. {' '.join(below)}") for title, text, below in shown]
    comments = "".join(f"% {line}\n" for line in (*left, *outcomes))
    return "\n".join(blocks) + comments


LATEX = {character: rf"\{character}" for character in "&%$#_{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"±": r"$\pm$", "<": r"$<$", ">": r"$>$", "\n": " "}
LATEX = str.maketrans(LATEX)


def as_latex(text: pd.DataFrame, caption: str) -> str:
    """Return a table of text in LaTeX, numbers flush right."""
    cells = text.map(lambda cell: str(cell).translate(LATEX))
    first = cells.columns[0]
    cells[first] = cells[first].str.replace(r"^\[", "{}[", regex=True)  # not an option of \\
    numeric = [text[name].str.match(r"[(\d.+-]").all() for name in text]
    cells = cells.rename(columns=lambda name: name.translate(LATEX))
    columns = "".join("r" if number else "l" for number in numeric)
    caption = caption.translate(LATEX)
    table = cells.to_latex(index=False, escape=False, caption=caption, column_format=columns)
    return table.replace("\n", "\n\\centering\n", 1)


def csv(parts: list[Section], config: ReportConfig, outcomes: Sequence[str] = ()) -> str:
    """Return the table's numbers as CSV, one line per row of any section."""
    tables = [part.rows.assign(section=part.title, reference=part.reference) for part in parts]
    return as_csv(pd.concat(tables, ignore_index=True).drop(columns=config.section))


def as_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV, whose texts no spreadsheet takes for formulas."""
    return table.map(_csv).to_csv(index=False)


def _csv(value: object) -> object:
    """Return a cell: a text that looks like a formula gets a leading apostrophe."""
    return f"'{value}" if isinstance(value, str) and re.match(r"[=+\-@\t\r]", value) else value
