"""The figure of the benchmark `hierarchical`: errors and locality by width and coefficient."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures import (
    REFERENCE,
    bare,
    dashes_of,
    legend,
    panels,
    plot_summary,
    reference_entry,
    styles_of,
    values_of,
    words,
)
from bench.report.report_config import ReportConfig
from bench.report.tables import Section
from bench.store.results import Results

WIDTH, TREE, COEFFICIENT = "model.width", "model.tree", "regularizer.coefficient"
PANELS = ("train_error", "test_error", "locality")
TREES = ("grid", "cp", "half", "adjacent")


def plot(parts: list[Section], config: ReportConfig, results: Results) -> Figure:
    """Plot a row of panels per section: a color per variant, a line style per mode tree.

    Errors and locality of predictors without regularizer are plotted against the width. Where
    several coefficients were run, another row of panels has them on the horizontal axis, at the
    greatest width. Parameters are those of `bench.report.figures.plot`.
    """
    rows = [(part, *row) for part in parts for row in _panel_rows(part.rows)]
    figure, axes = panels(len(rows), len(PANELS), 4.4 * len(PANELS), 3.6 * len(rows))
    styles, trees = styles_of(parts, "variant"), values_of(parts, TREE)
    dashes = dashes_of([*TREES, *(tree for tree in trees if tree not in TREES)])
    for line, (part, x, shown) in zip(axes, rows, strict=True):
        for axis, metric in zip(line, PANELS, strict=True):
            for (variant, tree), values in shown.groupby(["variant", TREE]):
                plot_summary(axis, values, x, metric, styles[variant], dashes[tree])
            _finish(axis, shown, x, metric, config)
            if metric.endswith("error"):
                axis.axhline(part.reference, **REFERENCE)
        line[0].set_title(part.title, loc="left", fontsize=10)
    entries = {words(name): style for name, style in styles.items()}
    for tree in sorted(trees, key=[*dashes].index):
        entries[f"{config.label(TREE)}: {tree}"] = {"color": "0.2", "ls": dashes[tree]}
    legend(figure, entries | reference_entry(parts, config), 4)
    return figure


def _panel_rows(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the column on the horizontal axis, and the table rows, of each row of panels."""
    plain = rows[rows[COEFFICIENT].fillna(0) == 0]
    result = [(WIDTH, plain)] if len(plain) else []
    if rows[COEFFICIENT].nunique() > 1 or plain.empty:
        widest = rows[rows[COEFFICIENT] > 0][WIDTH].max()
        result.append((COEFFICIENT, rows[rows[WIDTH] == widest]))
    return result


def _finish(axis: Axes, rows: pd.DataFrame, x: str, metric: str, config: ReportConfig) -> None:
    axis.set(xlabel=config.label(x), ylabel=config.label(metric))
    axis.set_ylim(bottom=0)
    ticks = sorted(rows[x].unique())
    if x == WIDTH:
        axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    bare(axis, "y")
