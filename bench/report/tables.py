"""Benchmark tables: Markdown, CSV and LaTeX from recorded runs."""

import html
import re
from dataclasses import dataclass

import pandas as pd

from bench.core.status import Status
from bench.report.report_config import ReportConfig
from bench.store.results import AT_BEST, MISSING, settings, usable

# The rules by which a run's numbers are taken from its curve, and how a metric's column ends.
SELECTIONS = {"last": "", "best validation": AT_BEST}
RULES = {
    "last": "Selection last: a run's last measurement.",
    "best validation": "Selection best validation: the measurement with the best validation.",
}
BUDGETS = ("trainer.max_epochs", "trainer.max_steps")
# The ends, apart from those that count, in the order in which a table names them.
WITHOUT_NUMBERS = [Status.DIVERGED, Status.FAILED, Status.STOPPED, MISSING]


@dataclass
class Section:
    """The part of a table that holds for one data set in one setting.

    Parameters
    ----------
    title : str
        The data set and what is particular to the setting.
    rows : DataFrame
        One row per row of the table: the row's columns, the rule of `selection`, for each metric
        ``<metric>`` (mean), ``<metric>_std``, ``<metric>_published``, and the counts `expected`,
        `done`, `diverged`, `failed`, `stopped`, `missing`.
    reference : float
        The mean of the reference metric; NaN if the benchmark has none.
    caption : str
        Setting, number of runs and spread, in words.
    runs : DataFrame
        The runs themselves.
    """

    title: str
    rows: pd.DataFrame
    reference: float
    caption: str
    runs: pd.DataFrame


def sections(frame: pd.DataFrame, config: ReportConfig) -> list[Section]:
    """Summarize runs as the sections of a benchmark's table."""
    absent = [name for name in config.columns if name not in frame]
    frame = frame.assign(**dict.fromkeys(absent, float("nan")))
    result = []
    for name, part in frame.groupby(config.section, sort=True, dropna=False):
        for title, runs in settings(part, config.columns):
            heading = f"{name} ({title})" if title else str(name)
            result.append(_section(heading, runs, config))
    return result


def _section(title: str, runs: pd.DataFrame, config: ReportConfig) -> Section:
    rows = pd.concat([_summarize(runs, config, rule) for rule in config.selections])
    rows = rows.sort_values([*config.rows], kind="stable", ignore_index=True)
    keys = rows[[*config.rows]].assign(**{config.section: runs[config.section].iloc[0]})
    keys = pd.MultiIndex.from_frame(keys).reorder_levels([config.section, *config.rows])
    known, wanted = config.published_values, config.published_for.items()
    comparable = all(key in runs and (runs[key] == value).all() for key, value in wanted)
    for metric in config.metrics:
        published = known[metric].reindex(keys) if comparable and metric in known else None
        rows[f"{metric}_published"] = float("nan") if published is None else published.to_numpy()
    good = runs[usable(runs)]
    reference = good[config.reference].mean() if config.reference in good else float("nan")
    return Section(title, rows, reference, _caption(runs, config), runs)


def _summarize(runs: pd.DataFrame, config: ReportConfig, rule: str) -> pd.DataFrame:
    """Return counts and summarized metrics of each table row, by one rule of selection."""
    keys = [*config.rows]
    counts = runs.groupby(keys, dropna=False).status.value_counts().unstack(fill_value=0)
    rows = counts.sum(axis="columns").rename("expected").to_frame()
    done = counts.drop(columns=WITHOUT_NUMBERS, errors="ignore").sum(axis="columns")
    rows["done"] = done.astype(int)  # the sum of no columns is a float
    rows = rows.join(counts.reindex(columns=[*map(str, WITHOUT_NUMBERS)], fill_value=0))
    good = runs[usable(runs)].groupby(keys, dropna=False)
    for metric in config.metrics:
        column = f"{metric}{SELECTIONS[rule]}"
        for name, statistic in _statistics(metric, config).items():
            rows[name] = good[column].agg(statistic) if column in runs else float("nan")
    rows = rows.reset_index()
    rows.insert(len(keys), "selection", rule)
    return rows


def _statistics(metric: str, config: ReportConfig) -> dict[str, str]:
    """Return the columns that summarize a metric, by the names of pandas' aggregations."""
    std = {f"{metric}_std": "std"}
    if config.summary == "mean":
        return {metric: "mean", **std}
    return {metric: "median", **std, f"{metric}_min": "min", f"{metric}_max": "max"}


def _caption(runs: pd.DataFrame, config: ReportConfig) -> str:
    """Say what is averaged, how many runs there are, and in which setting."""
    averaged = [f"{runs[key].nunique()} {config.label(key)} values" for key in config.over]
    count = int(usable(runs).sum())
    budgets = [name for name in BUDGETS if name in runs and runs[name].max() > 0]
    summary = "Mean ± standard deviation" if config.summary == "mean" else "Median [least, largest]"
    budget = " and ".join(f"{runs[name].max():,.0f} {name.rpartition('_')[2]}" for name in budgets)
    counted = f"{count} of {len(runs)} runs done{f'; at most {budget}' if budget else ''}"
    rules = " ".join(RULES[rule] for rule in config.selections)
    return f"{summary} over {' and '.join(averaged)}; {counted}. {rules}"


def cells_as_text(section: Section, config: ReportConfig) -> pd.DataFrame:
    """Return a section as text: what all tables for readers show."""
    rows = section.rows
    # What no run has, as a setting that is younger than all of them, is left out.
    keys = [key for key in (*config.rows, "selection") if rows[key].notna().any()]
    text = pd.DataFrame(
        {config.label(key): rows[key].astype(str).where(rows[key].notna(), "-") for key in keys}
    )
    measured = [metric for metric in config.metrics if rows[metric].notna().any()]
    for metric in measured or config.metrics:
        pairs = zip(rows[metric], rows[f"{metric}_std"], strict=True)
        shown = [_mean_and_std(mean, std) for mean, std in pairs]
        if config.summary == "median":
            triples = rows[[metric, f"{metric}_min", f"{metric}_max"]].to_numpy()
            shown = [_median_and_range(*triple) for triple in triples]
        text[config.label(metric)] = shown
    for metric in measured or config.metrics:
        values = rows[f"{metric}_published"]
        if values.notna().any():
            shown = [_number(value) for value in values]
            text[f"published {config.label(metric)}"] = shown
    text["runs"] = [
        f"{done}/{expected}" + (f" ({without})" if without else "")
        for done, expected, without in zip(
            rows.done, rows.expected, rows[WITHOUT_NUMBERS].apply(_counted, axis=1), strict=True
        )
    ]
    return text


def _counted(counts: pd.Series) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _number(value: float) -> str:
    if pd.isna(value):
        return "-"
    if value and abs(value) < 1e9 and (float(value).is_integer() or abs(value) >= 1e5):
        return f"{value:.0f}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def _mean_and_std(mean: float, std: float) -> str:
    if pd.isna(mean) or pd.isna(std) or std == 0:
        return _number(mean)
    return f"{_number(mean)} ± {_number(std)}"


def _median_and_range(median: float, least: float, largest: float) -> str:
    if pd.isna(median) or least == largest:
        return _number(median)
    return f"{_number(median)} [{_number(least)}, {_number(largest)}]"


def notes(section: Section, config: ReportConfig) -> list[str]:
    """Return what stands below a section's table."""
    lines = [section.caption]
    if section.reference == section.reference:
        lines.append(f"{config.label(config.reference)}: {section.reference:.4f}.")
    published = section.rows[[f"{metric}_published" for metric in config.metrics]]
    if published.notna().any(axis=None) and config.published_setting:
        lines.append(f"Published values: {config.published_setting}.")
    return lines


def markdown(parts: list[Section], config: ReportConfig) -> str:
    """Return the table in Markdown."""
    blocks = [f"# {_markdown(config.title)}"]
    for section in parts:
        text = as_markdown(cells_as_text(section, config))
        below = "\n".join(map(_markdown, notes(section, config)))
        blocks += [f"## {_markdown(section.title)}", text, below]
    return "\n\n".join(blocks) + "\n"


def as_markdown(text: pd.DataFrame) -> str:
    """Return a table of text in Markdown."""
    rows = [map(_markdown, row) for row in (text.columns, *text.to_numpy())]
    rows.insert(1, iter(["---"] * len(text.columns)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _markdown(text: str) -> str:
    """Return text for a cell of a table: not markup, and no end of the cell."""
    return html.escape(str(text), quote=False).replace("|", r"\|").replace("\n", " ")


def latex(parts: list[Section], config: ReportConfig) -> str:
    """Return the table in LaTeX, for the booktabs package."""
    blocks = []
    for section in parts:
        caption = f"{config.title} {section.title}. {' '.join(notes(section, config))}"
        text = cells_as_text(section, config)
        blocks.append(as_latex(text, len(config.rows) + 1, caption))
    return "\n\n".join(blocks) + "\n"


def as_latex(text: pd.DataFrame, keys: int, caption: str) -> str:
    """Return a table of text in LaTeX, the first `keys` columns flush left."""
    header, *body = [" & ".join(map(_latex, row)) for row in (text.columns, *text.to_numpy())]
    body = [f"{{}}{row}" if row.startswith("[") else row for row in body]  # not an option of \\\\
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(caption)}}}",
        rf"  \begin{{tabular}}{{{'l' * keys + 'r' * (len(text.columns) - keys)}}}",
        r"    \toprule",
        rf"    {header} \\",
        r"    \midrule",
        *(rf"    {row} \\" for row in body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


LATEX = {character: rf"\{character}" for character in "&%$#_{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"±": r"$\pm$", "<": r"$<$", ">": r"$>$", "\n": " "}


def _latex(text: str) -> str:
    """Return text that LaTeX sets as it is."""
    return "".join(LATEX.get(character, character) for character in str(text))


def csv(parts: list[Section], config: ReportConfig) -> str:
    """Return the table's numbers as CSV, one line per row of any section."""
    tables = [part.rows.assign(section=part.title, reference=part.reference) for part in parts]
    return as_csv(pd.concat(tables, ignore_index=True))


def as_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV, whose texts no spreadsheet takes for formulas."""
    return table.map(_csv).to_csv(index=False)


def _csv(value: object) -> object:
    """Return a cell: a text that looks like a formula gets a leading apostrophe."""
    return f"'{value}" if isinstance(value, str) and re.match(r"[=+\-@\t\r]", value) else value
