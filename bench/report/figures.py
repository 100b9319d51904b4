"""Benchmark figures as in the papers, from the same summaries as the tables."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.spec import ReportSpec
from bench.report.tables import Section

# Okabe and Ito's colours, apart for colour-blind readers and, with the markers, in greyscale.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
STYLES = [{"color": c, "marker": m} for c, m in zip(PALETTE, MARKERS, strict=True)]
REFERENCE = {"color": "0.45", "linewidth": 1}
VARIANTS = ["original", "random_images", "random_labels"]
DASHES = ["-", "--", ":"]


def draw(parts: list[Section], spec: ReportSpec, frame: pd.DataFrame, runs_dir: Path) -> Figure:
    """Draw each section as a panel: metrics against `spec.x`, a colour a value of `spec.hue`.

    Parameters
    ----------
    parts : list of Section
        The benchmark's summarized runs.
    spec : ReportSpec
        What to draw.
    frame : DataFrame
        The runs themselves, as `bench.report.load_runs` returns them; not needed here.
    runs_dir : Path
        The folder of all runs, for figures that draw curves; not needed here.
    """
    figure, axes = panels(1, len(parts), max(6.8, 5.2 * len(parts)), 4.6)
    names = in_order(VARIANTS, parts, spec.hue)
    dashes = dict(zip(spec.metrics, DASHES, strict=False))
    for axis, part in zip(axes.flat, parts, strict=True):
        for name, style in zip(names, STYLES, strict=False):
            rows = part.rows[part.rows[spec.hue] == name]
            for metric, dash in dashes.items():
                curve(axis, rows, spec.x, metric, style, dash)
        axis.axhline(part.reference, **REFERENCE)
        axis.set(title=part.title, xlabel=spec.label(spec.x), ylabel="error", ylim=(0, None))
        axis.set_xticks(sorted(part.rows[spec.x].unique()))
        bare(axis, "y")
    entries = {str(name).replace("_", " "): STYLES[i] for i, name in enumerate(names)}
    entries |= {spec.label(name): {"color": "0.2", "ls": dash} for name, dash in dashes.items()}
    entries |= reference_entry(parts, spec)
    published = [f"{metric}_published" for metric in spec.metrics]
    if any(part.rows[published].notna().any(axis=None) for part in parts):
        label = f"published ({spec.published_setting.split(';')[0]})"
        entries[label] = {"color": "0.2", "ls": "none", "marker": "_"}
    legend(figure, entries, 3 if len(parts) == 1 else 4)
    return figure


def draw_nothing(
    parts: list[Section], spec: ReportSpec, frame: pd.DataFrame, runs_dir: Path
) -> Figure:
    """Say that there is nothing to draw, where no run has ended with numbers."""
    figure = plt.figure(figsize=(6.8, 1.2))
    counts = ", ".join(f"{count} {status}" for status, count in frame.status.value_counts().items())
    figure.text(0.5, 0.5, f"no run has ended with numbers: {counts}", ha="center", va="center")
    return figure


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure, with its size in inches, and its axes of shape (rows, columns)."""
    size = (width, height)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def curve(
    axis: Axes, rows: pd.DataFrame, x: str, metric: str, style: dict[str, Any], dash: str
) -> None:
    """Draw a summarized metric with its spread, and the published values as strokes."""
    rows, color = rows.sort_values(x), style["color"]
    filled = color if dash == "-" else "white"
    line = {"ls": dash, "linewidth": 1.6, "markersize": 5, "markerfacecolor": filled}
    axis.plot(rows[x], rows[metric], **style, **line)
    spread = rows[f"{metric}_std"].fillna(0)
    low, high = rows[metric] - spread, rows[metric] + spread
    axis.fill_between(rows[x], low, high, color=color, alpha=0.12, linewidth=0)
    published = rows[f"{metric}_published"]
    axis.plot(rows[x], published, ls="none", marker="_", color=color, markersize=9)


def in_order(first: list[str], parts: list[Section], column: str) -> list[Any]:
    """Return a column's values: those of a list in its order, then the others."""
    found = {name for part in parts for name in part.rows[column]}
    return [*(name for name in first if name in found), *sorted(found - {*first})]


def bare(axis: Axes, lines: str = "both") -> None:
    """Take away what does not carry data; leave faint lines along an axis or both."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=lines, alpha=0.3, linewidth=0.6)  # pyright: ignore[reportArgumentType]


def reference_entry(parts: list[Section], spec: ReportSpec) -> dict[str, dict[str, Any]]:
    """Return the legend's entry for the reference, if any section has one."""
    known = any(part.reference == part.reference for part in parts)
    return {spec.label(spec.reference): REFERENCE} if known else {}


def legend(figure: Figure, entries: dict[str, dict[str, Any]], columns: int) -> None:
    """Put a legend below the panels: labels and how their lines look."""
    handles = [Line2D([], [], label=label, **style) for label, style in entries.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def save(figure: Figure, folder: Path) -> Path:
    """Write `figure.png` and `figure.svg` into a folder; return the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "rankbench"}):
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
    figure.savefig(folder / "figure.png", dpi=160)
    plt.close(figure)
    return folder / "figure.png"
