"""The figures of `is_same_class` and `pathfinder`: what a distance costs and what is won back."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench.report.figures import STYLES, bare, in_order, panels
from bench.report.spec import ReportSpec
from bench.report.tables import Section

PANELS = ["test_accuracy", "train_accuracy", "penalty", "locality"]
BARS = {"capsize": 2, "linewidth": 1.6, "markersize": 5}


def draw(parts: list[Section], spec: ReportSpec, frame: pd.DataFrame, runs_dir: Path) -> Figure:
    """Draw a row of panels for each section: metrics against `spec.x`.

    Each value of `spec.hue` has a colour; published values are a dotted line of the same.

    Parameters
    ----------
    parts : list of Section
        The benchmark's summarized runs.
    spec : ReportSpec
        What to draw.
    frame, runs_dir
        Not needed here; see `bench.report.figures.draw`.
    """
    metrics = [metric for metric in PANELS if metric in spec.metrics]
    figure, axes = panels(len(parts), len(metrics), 3.7 * len(metrics), 3.6 * len(parts))
    names = in_order([], parts, spec.hue)
    handles = {}
    for part, line in zip(parts, axes, strict=True):
        line[0].set_title(part.title, loc="left", fontsize=10)
        for metric, axis in zip(metrics, line, strict=True):
            for name, rows in part.rows.sort_values(spec.x).groupby(spec.hue):
                style = STYLES[names.index(name)]
                spread = rows[f"{metric}_std"].fillna(0)
                handles[name] = axis.errorbar(rows[spec.x], rows[metric], spread, **BARS, **style)
                published = rows[f"{metric}_published"]
                axis.plot(rows[spec.x], published, color=style["color"], linestyle=":")
            axis.set(xlabel=spec.label(spec.x), ylabel=spec.label(metric))
            axis.set_xticks(sorted(part.rows[spec.x].unique()))
            bare(axis, "y")
            if metric.endswith("accuracy"):
                axis.set_ylim(0.45, 1.01)
    words = [f"{spec.label(spec.hue)}: {name}" for name in handles]
    figure.legend(handles.values(), words, loc="outside lower center", ncols=4, frameon=False)
    return figure
