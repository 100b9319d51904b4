"""Benchmark tables: Markdown, CSV and LaTeX from recorded runs."""

from dataclasses import dataclass

import pandas as pd

from bench.report.frame import settings, usable
from bench.report.spec import ReportSpec


@dataclass
class Section:
    """The part of a table that holds for one data set in one setting.

    Parameters
    ----------
    title : str
        The data set and what is particular to the setting.
    rows : DataFrame
        One row a table row: the row's columns, for each metric ``<metric>`` (mean),
        ``<metric>_std``, ``<metric>_published``, and the counts `done`, `expected`, `diverged`.
    reference : float
        The mean of the reference metric; NaN if the benchmark has none.
    caption : str
        Setting, number of runs and spread, in words.
    """

    title: str
    rows: pd.DataFrame
    reference: float
    caption: str


def sections(frame: pd.DataFrame, spec: ReportSpec) -> list[Section]:
    """Summarize runs as the sections of a benchmark's table."""
    result = []
    for name, part in frame.groupby(spec.section, sort=True):
        for title, runs in settings(part, [spec.section, *spec.rows, *spec.over]):
            heading = f"{name} ({title})" if title else str(name)
            result.append(_section(heading, runs, spec))
    return result


def _section(title: str, runs: pd.DataFrame, spec: ReportSpec) -> Section:
    good = runs[usable(runs)]
    grouped = runs.groupby(spec.rows, sort=True)
    rows = grouped.size().rename("expected").to_frame()
    rows["done"] = good.groupby(spec.rows).size().reindex(rows.index, fill_value=0)
    diverged = runs[runs.status == "diverged"].groupby(spec.rows).size()
    rows["diverged"] = diverged.reindex(rows.index, fill_value=0)
    keys = pd.MultiIndex.from_frame(
        rows.index.to_frame(index=False).assign(**{spec.section: runs[spec.section].iloc[0]})
    ).reorder_levels([spec.section, *spec.rows])
    for metric in spec.metrics:
        values = good.groupby(spec.rows)[metric] if metric in good else None
        for name, statistic in _statistics(metric, spec).items():
            rows[name] = float("nan") if values is None else values.agg(statistic)
        known, wanted = spec.published_values, spec.published_for.items()
        comparable = all(key in runs and (runs[key] == v).all() for key, v in wanted)
        published = known[metric].reindex(keys) if comparable and metric in known else None
        rows[f"{metric}_published"] = float("nan") if published is None else published.to_numpy()
    reference = good[spec.reference].mean() if spec.reference in good else float("nan")
    return Section(title, rows.reset_index(), reference, _caption(runs, spec))


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
        f" done; at most {budget}, numbers of the last measurement."
    )


def cells_as_text(section: Section, spec: ReportSpec, plus_minus: str) -> pd.DataFrame:
    """Return a section as text: what the Markdown and LaTeX tables show."""
    rows = section.rows
    text = pd.DataFrame({spec.label(key): rows[key].astype(str) for key in spec.rows})
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
        f"{done}/{expected}" + (f" ({diverged} diverged)" if diverged else "")
        for done, expected, diverged in rows[["done", "expected", "diverged"]].to_numpy()
    ]
    return text


def _number(value: float) -> str:
    if pd.isna(value):
        return "-"
    if float(value).is_integer() and value:
        return f"{value:.0f}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


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
        text = cells_as_text(section, spec, "±")
        header = [list(text.columns), ["---"] * len(text.columns)]
        lines = [f"| {' | '.join(row)} |" for row in [*header, *text.to_numpy().tolist()]]
        blocks += [f"## {section.title}", "\n".join(lines), "\n".join(notes(section, spec))]
    return "\n\n".join(blocks) + "\n"


def latex(parts: list[Section], spec: ReportSpec) -> str:
    """Return the table in LaTeX, for the booktabs package."""
    blocks = []
    for section in parts:
        text = cells_as_text(section, spec, r"$\pm$").map(_tex)
        columns = "l" * len(spec.rows) + "r" * (len(text.columns) - len(spec.rows))
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
