"""Benchmark figures as in the papers, from the same summaries as the tables."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.spec import ReportSpec
from bench.report.tables import Section

# Okabe and Ito's colours, apart for colour-blind readers and, with the markers, in greyscale.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
ORDER = {"original": 0, "random_images": 1, "random_labels": 2}
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
    figure, axes = plt.subplots(
        1,
        len(parts),
        figsize=(max(6.8, 5.2 * len(parts)), 4.6),
        squeeze=False,
        layout="constrained",
    )
    names = sorted(
        {name for part in parts for name in part.rows[spec.hue]},
        key=lambda name: (ORDER.get(name, len(ORDER)), name),
    )
    for axis, part in zip(axes.flat, parts, strict=True):
        _panel(axis, part, spec, names)
    _legend(figure, parts, spec, names)
    return figure


def _panel(axis: Axes, part: Section, spec: ReportSpec, names: list[str]) -> None:
    for i, name in enumerate(names):
        rows = part.rows[part.rows[spec.hue] == name].sort_values(spec.x)
        for metric, dash in zip(spec.metrics, DASHES, strict=False):
            _curve(axis, rows, spec.x, metric, PALETTE[i], MARKERS[i], dash)
    if part.reference == part.reference:
        axis.axhline(part.reference, color="0.45", linewidth=1)
    axis.set(title=part.title, xlabel=spec.label(spec.x), ylabel="error", ylim=(0, None))
    axis.set_xticks(sorted(part.rows[spec.x].unique()))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.3, linewidth=0.6)


def _curve(
    axis: Axes, rows: pd.DataFrame, x: str, metric: str, color: str, marker: str, dash: str
) -> None:
    filled = color if dash == "-" else "white"
    style = {"color": color, "marker": marker, "markersize": 5, "markerfacecolor": filled}
    axis.plot(rows[x], rows[metric], linestyle=dash, linewidth=1.6, **style)
    spread = rows[f"{metric}_std"].fillna(0)
    low, high = rows[metric] - spread, rows[metric] + spread
    axis.fill_between(rows[x], low, high, color=color, alpha=0.12, linewidth=0)
    published = rows[f"{metric}_published"]
    if published.notna().any():
        axis.plot(rows[x], published, linestyle="none", marker="_", color=color, markersize=9)


def _legend(figure: Figure, parts: list[Section], spec: ReportSpec, names: list[str]) -> None:
    handles = [
        Line2D([], [], color=PALETTE[i], marker=MARKERS[i], label=str(name).replace("_", " "))
        for i, name in enumerate(names)
    ]
    handles += [
        Line2D([], [], color="0.2", linestyle=dash, label=spec.label(metric))
        for metric, dash in zip(spec.metrics, DASHES, strict=False)
    ]
    if any(part.reference == part.reference for part in parts):
        handles.append(Line2D([], [], color="0.45", linewidth=1, label=spec.label(spec.reference)))
    published = [f"{metric}_published" for metric in spec.metrics]
    if any(part.rows[published].notna().any(axis=None) for part in parts):
        label = f"published ({spec.published_setting.split(';')[0]})"
        handles.append(Line2D([], [], color="0.2", linestyle="none", marker="_", label=label))
    columns = 3 if len(parts) == 1 else 4
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def save(figure: Figure, folder: Path) -> Path:
    """Write `figure.png` and `figure.svg` into a folder; return the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "rankbench"}):
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
    figure.savefig(folder / "figure.png", dpi=160)
    plt.close(figure)
    return folder / "figure.png"
