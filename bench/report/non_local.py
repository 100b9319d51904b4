"""The figures of `is_same_class` and `pathfinder`: what a distance costs and what is won back."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from bench.report.figures import MARKERS, PALETTE
from bench.report.spec import ReportSpec
from bench.report.tables import Section

PANELS = ["test_accuracy", "train_accuracy", "penalty", "locality"]


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
    panels = [metric for metric in PANELS if metric in spec.metrics]
    figure, axes = plt.subplots(
        len(parts),
        len(panels),
        figsize=(3.7 * len(panels), 3.6 * len(parts)),
        squeeze=False,
        layout="constrained",
    )
    names = sorted({name for part in parts for name in part.rows[spec.hue]})
    handles = {}
    for part, line in zip(parts, axes, strict=True):
        line[0].set_title(part.title, loc="left", fontsize=10)
        for metric, axis in zip(panels, line, strict=True):
            for name, rows in part.rows.sort_values(spec.x).groupby(spec.hue):
                i = names.index(name)
                spread = rows[f"{metric}_std"].fillna(0)
                style = {"color": PALETTE[i], "marker": MARKERS[i], "markersize": 5}
                handles[name] = axis.errorbar(
                    rows[spec.x], rows[metric], spread, capsize=2, linewidth=1.6, **style
                )
                published = rows[f"{metric}_published"]
                if published.notna().any():
                    axis.plot(rows[spec.x], published, color=PALETTE[i], linestyle=":")
            axis.set(xlabel=spec.label(spec.x), ylabel=spec.label(metric))
            axis.set_xticks(sorted(part.rows[spec.x].unique()))
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="y", alpha=0.3, linewidth=0.6)
            if metric.endswith("accuracy"):
                axis.set_ylim(0.45, 1.01)
    words = [f"{spec.label(spec.hue)}: {name}" for name in handles]
    figure.legend(handles.values(), words, loc="outside lower center", ncols=4, frameon=False)
    return figure
