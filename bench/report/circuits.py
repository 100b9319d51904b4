"""The figure of the benchmark `hierarchical`: errors and locality against width and coefficient."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.figures import MARKERS, ORDER, PALETTE
from bench.report.spec import ReportSpec
from bench.report.tables import Section

WIDTH, TREE, COEFFICIENT = "model.width", "model.tree", "learner.coefficient"
PANELS = ["train_error", "test_error", "locality"]
DASHES = {"grid": "-", "cp": "--", "half": ":", "adjacent": "-."}


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
    figure, axes = plt.subplots(
        len(rows),
        len(PANELS),
        figsize=(4.4 * len(PANELS), 3.6 * len(rows)),
        squeeze=False,
        layout="constrained",
    )
    for line, (part, x, shown) in zip(axes, rows, strict=True):
        for axis, metric in zip(line, PANELS, strict=True):
            _panel(axis, shown, x, metric, spec)
            if metric.endswith("error") and part.reference == part.reference:
                axis.axhline(part.reference, color="0.45", linewidth=1)
        line[0].set_title(part.title, loc="left", fontsize=10)
    variants, trees = (_values(parts, name) for name in ("variant", TREE))
    handles = [
        Line2D([], [], color=_color(name), marker=_marker(name), label=name.replace("_", " "))
        for name in variants
    ]
    handles += [
        Line2D([], [], color="0.2", linestyle=DASHES[name], label=f"{spec.label(TREE)}: {name}")
        for name in trees
    ]
    if any(part.reference == part.reference for part in parts):
        handles.append(Line2D([], [], color="0.45", linewidth=1, label=spec.label(spec.reference)))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _panel_rows(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the column on the horizontal axis, and the table rows, of each row of panels."""
    plain = rows[rows[COEFFICIENT] == 0]
    result = [(WIDTH, plain)] if len(plain) else []
    if rows[COEFFICIENT].nunique() > 1 or plain.empty:
        regularized = rows[rows[COEFFICIENT] > 0]
        widest = regularized[WIDTH].max()
        result.append((COEFFICIENT, rows[rows[WIDTH] == widest]))
    return result


def _panel(axis: Axes, rows: pd.DataFrame, x: str, metric: str, spec: ReportSpec) -> None:
    for (variant, tree), line in rows.groupby(["variant", TREE]):
        line = line.sort_values(x)
        color = _color(variant)
        filled = color if tree == "grid" else "white"
        axis.plot(
            line[x],
            line[metric],
            color=color,
            linestyle=DASHES[tree],
            linewidth=1.6,
            marker=_marker(variant),
            markersize=5,
            markerfacecolor=filled,
        )
        spread = line[f"{metric}_std"].fillna(0)
        low, high = line[metric] - spread, line[metric] + spread
        axis.fill_between(line[x], low, high, color=color, alpha=0.1, linewidth=0)
    axis.set(xlabel=spec.label(x), ylabel=spec.label(metric))
    axis.set_ylim(bottom=0)
    ticks = sorted(rows[x].unique())
    if x == WIDTH:
        axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.3, linewidth=0.6)


def _values(parts: list[Section], column: str) -> list[str]:
    found = {name for part in parts for name in part.rows[column]}
    order = [*ORDER, *DASHES]
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def _color(variant: str) -> str:
    return PALETTE[ORDER[variant]]


def _marker(variant: str) -> str:
    return MARKERS[ORDER[variant]]
