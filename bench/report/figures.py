"""The figure of a benchmark: panels of what its tables and the curves of its runs hold."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.panels import PlottedPanel, Style, dashes_of, styles_of
from bench.report.report_config import Panel, ReportConfig
from bench.report.tables import Section, without_leftovers
from bench.store.results import Results

COLUMN, PAGE, HEIGHT = 3.4, 7.0, 2.1  # inches: a column's and a page's width, a panel's height
COLUMNS = 3
TITLE = 26, 42  # characters per line of a title, above one panel and above two
STYLE = Path(__file__).with_name("figure.mplstyle")


def plot(parts: list[Section], config: ReportConfig, results: Results) -> Figure:
    """Plot the benchmark's panels: a row per section, as wide as a column or a page of a paper.

    Panels that would show nothing, or a single point, are left out; if those are all, the values
    are plotted along training instead. Where sections have different numbers of panels, these
    follow one another.

    Parameters
    ----------
    parts : list of Section
        The sections of the benchmark's table that have ended runs.
    config : ReportConfig
        What to plot.
    results : Results
        The runs themselves and their curves.
    """
    panels = config.panels or [Panel(y=(metric,)) for metric in config.metrics]
    parts, _ = without_leftovers(parts)
    rows = shown(panels, parts, config, results)
    if not rows and "run_key" in results.curves:
        along = [replace(panel, kind="curves") for panel in panels]
        rows = shown(along, parts, config, results)
    if not rows:
        return plot_nothing(parts, config, results)
    if len({*map(len, rows)}) > 1:
        rows = [[one for row in rows for one in row]]
    lines = [line for row in rows for line in np.array_split(row, ceil(len(row) / COLUMNS))]
    width = max(map(len, lines))
    with plt.style.context(STYLE):
        inches = COLUMN if width == 1 else PAGE
        figure = plt.figure(layout="constrained")
        axes = figure.subplots(len(lines), width, squeeze=False)
        dashes = dashes_of(parts, config.dash)
        entries: dict[str, Style] = {}
        title = None
        for line, row in zip(lines, axes, strict=True):
            for axis in row[len(line) :]:
                axis.set_axis_off()
            for axis, one, other in zip(row, line, [*line[1:], line[0]], strict=False):
                # A title has the room of two panels where the next has none of its own.
                room = TITLE[one.title == other.title] if one.title != title else 0
                title = one.title
                entries |= one.draw(axis, styles_of(parts, one.hue), dashes, room)
        handles = [Line2D([], [], label=label, **style) for label, style in entries.items()]
        longest = max(map(len, entries), default=0)
        columns = max(1, min(4, int(inches / (0.45 + 0.05 * longest))))
        figure.set_size_inches(inches, HEIGHT * len(lines) + 0.15 * (1 + len(entries) / columns))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


def shown(
    panels: Sequence[Panel], parts: list[Section], config: ReportConfig, results: Results
) -> list[list[PlottedPanel]]:
    """Return the panels that show something: a list per section, and those across sections."""
    rows = []
    for group, across in [*(([part], False) for part in parts), (parts, True)]:
        own = [panel for panel in panels if panel.across == across]
        plotted = [PlottedPanel(panel, group, config, results) for panel in own]
        rows.append([one for one in plotted if one.shows_something()])
    return [row for row in rows if row]


def plot_nothing(parts: list[Section], config: ReportConfig, results: Results) -> Figure:
    """Say that there is nothing to plot: no run has ended, or no panel has two points."""
    figure = plt.figure(figsize=(PAGE, 1.2))
    counts = results.frame.status.value_counts().items()
    text = ", ".join(f"{count} {status}" for status, count in counts)
    figure.text(0.5, 0.5, f"no two points to plot; runs: {text}", ha="center", va="center")
    return figure


def save(figure: Figure, folder: Path) -> Path:
    """Write `figure.png` and `figure.svg` into a folder; return the path of the first."""
    with plt.rc_context({"svg.hashsalt": "rankbench"}):
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
    figure.savefig(folder / "figure.png", dpi=220)
    plt.close(figure)
    return folder / "figure.png"
