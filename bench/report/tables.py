"""Benchmark tables: Markdown, CSV and LaTeX from recorded runs."""

from dataclasses import dataclass

import pandas as pd

from bench.report.frame import AT_BEST, MISSING, settings, usable
from bench.report.spec import ReportSpec
from bench.status import Status

# The rules by which a run's numbers are taken from its curve, and what a metric's column ends with.
SELECTIONS = {"last": "", "best validation": AT_BEST}
RULES = {
    "last": "Selection last: a run's last measurement.",
    "best validation": "Selection best validation: the measurement with the best validation.",
}
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
        One row a table row: the row's columns, the rule of `selection`, for each metric
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


def sections(frame: pd.DataFrame, spec: ReportSpec) -> list[Section]:
    """Summarize runs as the sections of a benchmark's table."""
    result = []
    for name, part in frame.groupby(spec.section, sort=True, dropna=False):
        for title, runs in settings(part, [spec.section, *spec.rows, *spec.over]):
            heading = f"{name} ({title})" if title else str(name)
            result.append(_section(heading, runs, spec))
    return result


def _section(title: str, runs: pd.DataFrame, spec: ReportSpec) -> Section:
    rows = pd.concat([_summarize(runs, spec, rule) for rule in spec.selections])
    rows = rows.sort_values(spec.rows, kind="stable", ignore_index=True)
    keys = rows[spec.rows].assign(**{spec.section: runs[spec.section].iloc[0]})
    keys = pd.MultiIndex.from_frame(keys).reorder_levels([spec.section, *spec.rows])
    known, wanted = spec.published_values, spec.published_for.items()
    comparable = all(key in runs and (runs[key] == value).all() for key, value in wanted)
    for metric in spec.metrics:
        published = known[metric].reindex(keys) if comparable and metric in known else None
        rows[f"{metric}_published"] = float("nan") if published is None else published.to_numpy()
    good = runs[usable(runs)]
    reference = good[spec.reference].mean() if spec.reference in good else float("nan")
    return Section(title, rows, reference, _caption(runs, spec), runs)


def _summarize(runs: pd.DataFrame, spec: ReportSpec, rule: str) -> pd.DataFrame:
    """Return counts and summarized metrics of each table row, by one rule of selection."""
    counts = runs.groupby(spec.rows, dropna=False).status.value_counts().unstack(fill_value=0)
    rows = counts.sum(axis="columns").rename("expected").to_frame()
    done = counts.drop(columns=WITHOUT_NUMBERS, errors="ignore").sum(axis="columns")
    rows["done"] = done.astype(int)  # the sum of no columns is a float
    rows = rows.join(counts.reindex(columns=[*map(str, WITHOUT_NUMBERS)], fill_value=0))
    good = runs[usable(runs)].groupby(spec.rows, dropna=False)
    for metric in spec.metrics:
        column = f"{metric}{SELECTIONS[rule]}"
        for name, statistic in _statistics(metric, spec).items():
            rows[name] = good[column].agg(statistic) if column in runs else float("nan")
    rows = rows.reset_index()
    rows.insert(len(spec.rows), "selection", rule)
    return rows


def _statistics(metric: str, spec: ReportSpec) -> dict[str, str]:
    """Return the columns that summarize a metric, by the names of pandas' aggregations."""
    std = {f"{metric}_std": "std"}
    if spec.summary == "mean":
        return {metric: "mean", **std}
    return {metric: "median", **std, f"{metric}_min": "min", f"{metric}_max": "max"}


def _caption(runs: pd.DataFrame, spec: ReportSpec) -> str:
    """Say what is averaged, how many runs there are, and in which setting."""
    averaged = [f"{runs[key].nunique()} {spec.label(key)} values" for key in spec.over]
    count = int(usable(runs).sum())
    budgets = [name for name in runs if str(name).startswith("trainer.max_")]
    summary = "Mean ± standard deviation" if spec.summary == "mean" else "Median [least, largest]"
    budget = " and ".join(f"{runs[name].max():,.0f} {name.rpartition('_')[2]}" for name in budgets)
    return (
        f"{summary} over {' and '.join(averaged)}; {count} of {len(runs)} runs"
        f" done; at most {budget}. {' '.join(RULES[rule] for rule in spec.selections)}"
    )


def cells_as_text(section: Section, spec: ReportSpec, plus_minus: str) -> pd.DataFrame:
    """Return a section as text: what the Markdown and LaTeX tables show."""
    rows = section.rows
    keys = [*spec.rows, "selection"]
    text = pd.DataFrame({spec.label(key): rows[key].astype(str) for key in keys})
    measured = [metric for metric in spec.metrics if rows[metric].notna().any()]
    for metric in measured or spec.metrics:
        pairs = zip(rows[metric], rows[f"{metric}_std"], strict=True)
        shown = [_mean_and_std(mean, std, plus_minus) for mean, std in pairs]
        if spec.summary == "median":
            triples = rows[[metric, f"{metric}_min", f"{metric}_max"]].to_numpy()
            shown = [_median_and_range(*triple) for triple in triples]
        text[spec.label(metric)] = shown
    for metric in measured or spec.metrics:
        values = rows[f"{metric}_published"]
        if values.notna().any():
            shown = [_number(value) for value in values]
            text[f"published {spec.label(metric)}"] = shown
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


def _mean_and_std(mean: float, std: float, plus_minus: str) -> str:
    if pd.isna(mean) or pd.isna(std) or std == 0:
        return _number(mean)
    return f"{_number(mean)} {plus_minus} {_number(std)}"


def _median_and_range(median: float, least: float, largest: float) -> str:
    if pd.isna(median) or least == largest:
        return _number(median)
    return f"{_number(median)} [{_number(least)}, {_number(largest)}]"


def notes(section: Section, spec: ReportSpec) -> list[str]:
    """Return what stands below a section's table."""
    lines = [section.caption]
    if section.reference == section.reference:
        lines.append(f"{spec.label(spec.reference)}: {section.reference:.4f}.")
    published = section.rows[[f"{metric}_published" for metric in spec.metrics]]
    if published.notna().any(axis=None) and spec.published_setting:
        lines.append(f"Published values: {spec.published_setting}.")
    return lines


def markdown(parts: list[Section], spec: ReportSpec) -> str:
    """Return the table in Markdown."""
    blocks = [f"# {spec.title}"]
    for section in parts:
        text = as_markdown(cells_as_text(section, spec, "±"))
        blocks += [f"## {section.title}", text, "\n".join(notes(section, spec))]
    return "\n\n".join(blocks) + "\n"


def as_markdown(text: pd.DataFrame) -> str:
    """Return a table of text in Markdown."""
    rows = [text.columns, ["---"] * len(text.columns), *text.to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def latex(parts: list[Section], spec: ReportSpec) -> str:
    """Return the table in LaTeX, for the booktabs package."""
    blocks = []
    for section in parts:
        text = cells_as_text(section, spec, r"$\pm$").map(_tex)
        columns = "l" * (len(spec.rows) + 1) + "r" * (len(text.columns) - len(spec.rows) - 1)
        body = [" & ".join(row) + r" \\" for row in text.to_numpy().tolist()]
        caption = _tex(f"{spec.title} {section.title}. {' '.join(notes(section, spec))}")
        lines = [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{caption}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            f"    {' & '.join(_tex(str(name)) for name in text.columns)}" + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _tex(text: str) -> str:
    for plain, escaped in (("_", r"\_"), ("%", r"\%"), ("±", r"$\pm$"), ("#", r"\#")):
        text = text.replace(plain, escaped)
    return text


def csv(parts: list[Section], spec: ReportSpec) -> str:
    """Return the table's numbers as CSV, one line a row of any section."""
    tables = [part.rows.assign(section=part.title, reference=part.reference) for part in parts]
    return pd.concat(tables, ignore_index=True).to_csv(index=False)
