"""The figure of the benchmark `hierarchical`: errors and locality against width and coefficient."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures import (
    REFERENCE,
    STYLES,
    VARIANTS,
    bare,
    curve,
    in_order,
    legend,
    panels,
    reference_entry,
)
from bench.report.spec import ReportSpec
from bench.report.tables import Section

WIDTH, TREE, COEFFICIENT = "model.width", "model.tree", "learner.coefficient"
PANELS = ["train_error", "test_error", "locality"]
DASHES = {"grid": "-", "cp": "--", "half": ":", "adjacent": "-."}
STYLE = dict(zip(VARIANTS, STYLES, strict=False))


def draw(parts: list[Section], spec: ReportSpec, frame: pd.DataFrame, runs_dir: Path) -> Figure:
    """Draw a row of panels for each section: a colour a variant, a line style a mode tree.

    Errors and locality of predictors without regularizer stand against the width. Where several
    coefficients were run, one more row has them on the horizontal axis, at the greatest width.

    Parameters
    ----------
    parts : list of Section
        The benchmark's summarized runs.
    spec : ReportSpec
        Words for columns.
    frame, runs_dir
        Not needed here; see `bench.report.figures.draw`.
    """
    rows = [(part, *row) for part in parts for row in _panel_rows(part.rows)]
    figure, axes = panels(len(rows), len(PANELS), 4.4 * len(PANELS), 3.6 * len(rows))
    for line, (part, x, shown) in zip(axes, rows, strict=True):
        for axis, metric in zip(line, PANELS, strict=True):
            _panel(axis, shown, x, metric, spec)
            if metric.endswith("error"):
                axis.axhline(part.reference, **REFERENCE)
        line[0].set_title(part.title, loc="left", fontsize=10)
    entries = {n.replace("_", " "): STYLE[n] for n in in_order(VARIANTS, parts, "variant")}
    for tree in in_order([*DASHES], parts, TREE):
        entries[f"{spec.label(TREE)}: {tree}"] = {"color": "0.2", "ls": DASHES[tree]}
    legend(figure, entries | reference_entry(parts, spec), 4)
    return figure


def _panel_rows(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the column on the horizontal axis, and the table rows, of each row of panels."""
    plain = rows[rows[COEFFICIENT] == 0]
    result = [(WIDTH, plain)] if len(plain) else []
    if rows[COEFFICIENT].nunique() > 1 or plain.empty:
        widest = rows[rows[COEFFICIENT] > 0][WIDTH].max()
        result.append((COEFFICIENT, rows[rows[WIDTH] == widest]))
    return result


def _panel(axis: Axes, rows: pd.DataFrame, x: str, metric: str, spec: ReportSpec) -> None:
    for (variant, tree), line in rows.groupby(["variant", TREE]):
        curve(axis, line, x, metric, STYLE[variant], DASHES[tree])
    axis.set(xlabel=spec.label(x), ylabel=spec.label(metric))
    axis.set_ylim(bottom=0)
    ticks = sorted(rows[x].unique())
    if x == WIDTH:
        axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    bare(axis, "y")
