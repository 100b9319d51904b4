"""The usual figure of a benchmark, and what all figures share."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.report_config import ReportConfig
from bench.report.tables import Section
from bench.store.results import Results

# Okabe and Ito's colors, distinct for color-blind readers and, with the markers, in grayscale.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
REFERENCE = {"color": "0.45", "linewidth": 1}
# These come first, so that they look the same in every figure.
VARIANTS = ("original", "random_images", "random_labels")

Style = dict[str, Any]


def plot(parts: list[Section], config: ReportConfig, results: Results) -> Figure:
    """Plot each section as a panel: metrics against `config.x`, a color per `config.hue`.

    Parameters
    ----------
    parts : list of Section
        The sections of the benchmark's table that have ended runs.
    config : ReportConfig
        What to plot.
    results : Results
        The runs themselves and their curves, for figures that show more than the table.
    """
    figure, axes = panels(1, len(parts), max(6.8, 5.2 * len(parts)), 4.6)
    styles, dashes = styles_of(parts, config.hue), dashes_of(config.metrics)
    for axis, part in zip(axes.flat, parts, strict=True):
        for name, style in styles.items():
            rows = part.rows[part.rows[config.hue] == name]
            for metric, dash in dashes.items():
                plot_summary(axis, rows, config.x, metric, style, dash)
        axis.axhline(part.reference, **REFERENCE)
        axis.set_title(fill(part.title, 36))
        axis.set(xlabel=config.label(config.x), ylabel="error", ylim=(0, None))
        axis.set_xticks(sorted(part.rows[config.x].unique()))
        bare(axis, "y")
    entries = {words(name): style for name, style in styles.items()}
    entries |= {config.label(name): {"color": "0.2", "ls": dash} for name, dash in dashes.items()}
    entries |= reference_entry(parts, config)
    published = [f"{metric}_published" for metric in config.metrics]
    if any(part.rows[published].notna().any(axis=None) for part in parts):
        label = f"published ({config.published_setting.split(';')[0]})"
        entries[label] = {"color": "0.2", "ls": "none", "marker": "_"}
    legend(figure, entries, 3 if len(parts) == 1 else 4)
    return figure


def plot_nothing(parts: list[Section], config: ReportConfig, results: Results) -> Figure:
    """Say that there is nothing to plot, where no run has ended with numbers."""
    figure = plt.figure(figsize=(6.8, 1.2))
    counts = results.frame.status.value_counts().items()
    text = ", ".join(f"{count} {status}" for status, count in counts)
    figure.text(0.5, 0.5, f"no run has ended with numbers: {text}", ha="center", va="center")
    return figure


def styles_of(parts: list[Section], column: str) -> dict[Any, Style]:
    """Return a color and a marker for each value of a column; past the last color they repeat.

    The three variants of the papers come first and look the same in every figure.
    """
    found = values_of(parts, column)
    fixed = VARIANTS if {*found} & {*VARIANTS} else ()
    order = [*fixed, *(value for value in found if value not in fixed)]
    styles = zip(order, cycle(PALETTE), cycle(MARKERS), strict=False)
    return {value: {"color": c, "marker": m} for value, c, m in styles if value in found}


def dashes_of(values: Iterable[Any]) -> dict[Any, str]:
    """Return a line style for each value; past the last one they repeat."""
    return dict(zip(values, cycle(DASHES), strict=False))


def values_of(parts: list[Section], column: str) -> list[Any]:
    """Return a column's values: the variants of the papers in their order, then the others."""
    found = {value for part in parts for value in part.rows[column].dropna()}
    others = found - {*VARIANTS}
    return [
        *(variant for variant in VARIANTS if variant in found),
        *sorted(others, key=lambda value: (isinstance(value, str), value)),
    ]


def words(name: Any) -> str:
    """Return a value in words."""
    return str(name).replace("_", " ")


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure, with its size in inches, and its axes of shape (rows, columns)."""
    size = (width, height)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def plot_summary(
    axis: Axes, rows: pd.DataFrame, x: str, metric: str, style: Style, dash: str
) -> None:
    """Plot a summarized metric with its spread, and the published values as strokes."""
    rows, color = rows.sort_values(x), style["color"]
    filled = color if dash == "-" else "white"
    line = {"ls": dash, "linewidth": 1.6, "markersize": 5, "markerfacecolor": filled}
    axis.plot(rows[x], rows[metric], **style, **line)
    spread = rows[f"{metric}_std"].fillna(0)
    low, high = rows[metric] - spread, rows[metric] + spread
    axis.fill_between(rows[x], low, high, color=color, alpha=0.12, linewidth=0)
    published = rows[f"{metric}_published"]
    axis.plot(rows[x], published, ls="none", marker="_", color=color, markersize=9)


def bare(axis: Axes, lines: str = "both") -> None:
    """Take away what does not carry data; leave faint lines along an axis or both."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=lines, alpha=0.3, linewidth=0.6)  # pyright: ignore[reportArgumentType]


def reference_entry(parts: list[Section], config: ReportConfig) -> dict[str, Style]:
    """Return the legend's entry for the reference, if any section has one."""
    known = any(part.reference == part.reference for part in parts)
    return {config.label(config.reference): REFERENCE} if known else {}


def legend(figure: Figure, entries: dict[str, Style], columns: int) -> None:
    """Put a legend below the panels: labels and how their lines look."""
    handles = [Line2D([], [], label=label, **style) for label, style in entries.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def save(figure: Figure, folder: Path) -> Path:
    """Write `figure.png` and `figure.svg` into a folder; return the path of the first."""
    with plt.rc_context({"svg.hashsalt": "rankbench"}):
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
    figure.savefig(folder / "figure.png", dpi=160)
    plt.close(figure)
    return folder / "figure.png"
