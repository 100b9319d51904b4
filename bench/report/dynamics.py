"""Figures of what is learned when, from the curves of recorded runs."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures import PALETTE
from bench.report.frame import MISSING, load_curves, usable
from bench.report.spec import ReportSpec
from bench.report.tables import Section

NORM = re.compile(r"^(component|singular_value|singular_tube|level_\d+_node_\d+)_\d+$")
WORDS = {
    "component": "component norm",
    "singular_value": "singular value",
    "singular_tube": "norm of singular tube",
}


def draw_components(
    parts: list[Section], spec: ReportSpec, frame: pd.DataFrame, runs_dir: Path
) -> Figure:
    """Draw what is learned one after another, as in [TF] and [HTF]: a row of panels a section.

    First the leading norms against iterations, for each initialization scale (or for each node of
    a tree at the smallest scale), of the first seed that ended; then the reconstruction errors of
    all seeds against iterations; last the final errors against the scale.
    """
    rows = [(part, part.runs, _curves_of(part.runs, runs_dir)) for part in parts]
    panels = [_norm_panels(runs, curves) for _, runs, curves in rows]
    columns = max(map(len, panels)) + 2
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(3.1 * columns, 3.0 * len(rows)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for line, (part, runs, curves), chosen in zip(axes, rows, panels, strict=True):
        for axis, (key, group) in zip(line, chosen, strict=False):
            _draw_norms(axis, curves[curves.run_key == key], group, runs.loc[key])
        for axis in line[len(chosen) : columns - 2]:
            axis.set_axis_off()
        _draw_errors(line[-2], runs, curves)
        _draw_final_errors(line[-1], part, runs, spec)
        title = line[0].get_title(loc="left")
        line[0].set_title(f"{part.title}\n{title}", fontsize=9, loc="left")
    return figure


def _curves_of(runs: pd.DataFrame, runs_dir: Path) -> pd.DataFrame:
    """Return the curves of the runs that are recorded."""
    return load_curves(runs_dir, runs.benchmark.iloc[0], runs.index[runs.status != MISSING])


def _norm_panels(runs: pd.DataFrame, curves: pd.DataFrame) -> list[tuple[str, str]]:
    """Return run and group of norms of each panel."""
    good = runs[usable(runs)].sort_values(["model.init_std", "seed"], ascending=[False, True])
    first = good.groupby("model.init_std", sort=False).head(1).index
    groups = dict.fromkeys(name.rpartition("_")[0] for name in curves if NORM.match(str(name)))
    if len(groups) > 1:
        return [(first[-1], group) for group in groups]
    return [(key, group) for key in first for group in groups]


def _draw_norms(axis: Axes, curve: pd.DataFrame, group: str, run: pd.Series) -> None:
    names = [name for name in curve if str(name).rpartition("_")[0] == group]
    for i, name in enumerate(names):
        axis.plot(curve.iteration, curve[name], color=PALETTE[i % len(PALETTE)], linewidth=1.4)
    words = WORDS.get(group, f"local component norm, {group.replace('_', ' ')}")
    axis.set(ylabel=words, ylim=(0, None))
    axis.set_title(f"scale {run['model.init_std']:g}, seed {run.seed}", fontsize=9, loc="left")
    finish(axis, "iteration")


def _draw_errors(axis: Axes, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    scales = sorted(runs["model.init_std"].unique(), reverse=True)
    for key, curve in curves.groupby("run_key"):
        place = scales.index(runs.loc[str(key), "model.init_std"])
        label = f"scale {scales[place]:g}"
        axis.plot(
            curve.iteration, curve.reconstruction_error, color=PALETTE[place], linewidth=0.9,
            alpha=0.8, label=label,
        )  # fmt: skip
    axis.set(ylabel="reconstruction error", yscale="log")
    axis.set_title("each seed", fontsize=9, loc="left")
    legend_once(axis)
    finish(axis, "iteration")


def _draw_final_errors(axis: Axes, part: Section, runs: pd.DataFrame, spec: ReportSpec) -> None:
    good = runs[usable(runs)]
    axis.plot(good["model.init_std"], good.reconstruction_error, "o", color="0.6", markersize=4,
              label="seeds")  # fmt: skip
    rows = part.rows.sort_values("model.init_std")
    axis.plot(rows["model.init_std"], rows.reconstruction_error, "-o", color=PALETTE[0],
              markersize=5, label=spec.summary)  # fmt: skip
    published = rows.reconstruction_error_published
    if published.notna().any():
        axis.plot(rows["model.init_std"], published, linestyle="none", marker="_", markersize=14,
                  color=PALETTE[1], markeredgewidth=2, label="published")  # fmt: skip
    axis.set(xscale="log", yscale="log", ylabel="final reconstruction error")
    axis.set_xticks(rows["model.init_std"], [f"{scale:g}" for scale in rows["model.init_std"]])
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=7)
    finish(axis, "initialization scale")


def legend_once(axis: Axes) -> None:
    """Put one entry a label into the legend, in alphabetical order."""
    handles, labels = axis.get_legend_handles_labels()
    once = dict(sorted(zip(labels, handles, strict=True), key=lambda entry: entry[0]))
    axis.legend(once.values(), once.keys(), frameon=False, fontsize=7)


def finish(axis: Axes, xlabel: str) -> None:
    """Name the horizontal axis and take away what does not carry data."""
    axis.set_xlabel(xlabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.tick_params(labelsize=8)


def draw_norms(
    parts: list[Section], spec: ReportSpec, frame: pd.DataFrame, runs_dir: Path
) -> Figure:
    """Draw the unobserved entry and the effective rank against the loss, as in [NORM].

    A colour a depth; a row of panels a kind of start.
    """
    rows = [
        (start, runs, _curves_of(runs, runs_dir))
        for part in parts
        for start, runs in part.runs.groupby("model.start")
    ]
    figure, axes = plt.subplots(
        len(rows), 2, figsize=(8.4, 3.4 * len(rows)), squeeze=False, layout="constrained"
    )
    for (entry, rank), (start, runs, curves) in zip(axes, rows, strict=True):
        depths = sorted(runs["model.depth"].unique())
        for key, curve in curves.groupby("run_key"):
            place = depths.index(runs.loc[str(key), "model.depth"])
            style = {"color": PALETTE[place], "linewidth": 1.0, "label": f"depth {depths[place]}"}
            learning = curve[curve.train_loss < curve.train_loss.iloc[0]]
            entry.plot(learning.train_loss, learning.unobserved_entry, **style)
            rank.plot(learning.train_loss, learning.effective_rank, **style)
        losses = np.geomspace(max(curves.train_loss.min(), 1e-8), 0.1, 50)
        entry.plot(losses, (3 * losses) ** -0.5, "--", color="0.4", linewidth=1.2)
        entry.annotate(r"$1/\sqrt{3\,\mathrm{loss}}$", (losses[10], (3 * losses[10]) ** -0.5),
                       xytext=(8, 4), textcoords="offset points", fontsize=8)  # fmt: skip
        entry.set(yscale="log", ylim=(0.05, None), ylabel="|unobserved entry|")
        rank.set(ylabel="effective rank")
        for axis in (entry, rank):
            axis.set_title(f"{start} start", fontsize=9, loc="left")
            axis.set_xscale("log")
            axis.invert_xaxis()
            legend_once(axis)
            finish(axis, "train loss")
    return figure


def draw_tubal(
    parts: list[Section], spec: ReportSpec, frame: pd.DataFrame, runs_dir: Path
) -> Figure:
    """Draw test error by R and by scale, and the two phases: angles and singular tubes [TUB]."""
    rows = [(part, part.runs, _curves_of(part.runs, runs_dir)) for part in parts]
    figure, axes = plt.subplots(
        len(rows), 4, figsize=(14.5, 3.2 * len(rows)), squeeze=False, layout="constrained"
    )
    for line, (part, runs, curves) in zip(axes, rows, strict=True):
        keys = ["model.init_std", "model.overestimated_rank"]
        smallest = runs["model.init_std"] == _widest_varied(runs)
        _draw_mean_errors(line[0], runs[smallest], curves, keys[1], "R = {:g}")
        widest = runs[keys[1]] == 200 if (runs[keys[1]] == 200).any() else runs[keys[1]] > 0
        _draw_mean_errors(line[1], runs[widest], curves, keys[0], "scale {:.0e}")
        _draw_published_errors(line[0], part, spec, keys)
        first = runs[usable(runs) & smallest].sort_values([keys[1], "seed"]).index[0]
        _draw_phases(line[2], line[3], curves[curves.run_key == first])
        line[0].set_title(part.title, fontsize=9, loc="left")
    return figure


def _widest_varied(runs: pd.DataFrame) -> float:
    """Return the initialization scale for which most values of R were run."""
    counts = runs.groupby("model.init_std")["model.overestimated_rank"].nunique()
    return float(counts.idxmax())  # pyright: ignore[reportArgumentType]


def _draw_mean_errors(
    axis: Axes, runs: pd.DataFrame, curves: pd.DataFrame, key: str, words: str
) -> None:
    joined = curves.merge(runs[[key]], left_on="run_key", right_index=True)
    for place, (value, part) in enumerate(joined.groupby(key)):
        errors = part.groupby("iteration").reconstruction_error
        color = PALETTE[place % len(PALETTE)]
        axis.plot(errors.mean(), color=color, linewidth=1.4, label=words.format(value))
        low, high = errors.min(), errors.max()
        axis.fill_between(low.index, low, high, color=color, alpha=0.12, linewidth=0)
    axis.set(yscale="log", ylabel="mean test error")
    axis.set_title("mean, least and largest", fontsize=9, loc="left")
    axis.legend(frameon=False, fontsize=7)
    finish(axis, "iteration")


def _draw_published_errors(axis: Axes, part: Section, spec: ReportSpec, keys: list[str]) -> None:
    scale = part.rows.groupby(keys[0])[keys[1]].nunique().idxmax()
    rows = part.rows[part.rows[keys[0]] == scale].reset_index(drop=True)
    for place, row in rows.iterrows():
        values = {int(name.rpartition("_")[2]): row[f"{name}_published"] for name in spec.metrics}
        axis.plot(list(values), list(values.values()), linestyle="none", marker="_", markersize=8,
                  color=PALETTE[int(str(place)) % len(PALETTE)])  # fmt: skip


def _draw_phases(angles: Axes, tubes: Axes, curve: pd.DataFrame) -> None:
    """Draw one run: its angles, and its leading singular tubes."""
    first = curve[curve.reconstruction_error > 1e-3]
    shown = first if len(first) > 2 else curve
    angles.plot(shown.iteration, shown.angle_to_projection, color=PALETTE[0],
                label="to the back-projection")  # fmt: skip
    angles.plot(shown.iteration, shown.angle_to_target, color=PALETTE[1], label="to the target")
    angles.set(ylabel="sine of the principal angle", ylim=(0, 1.02))
    for i, name in enumerate(name for name in curve if str(name).startswith("singular_tube_")):
        label = f"tube {str(name).rpartition('_')[2]}"
        tubes.plot(curve.iteration, curve[name], color=PALETTE[i], label=label)
    tubes.set(yscale="log", ylabel="norm of singular tube")
    for axis in (angles, tubes):
        axis.legend(frameon=False, fontsize=7)
        finish(axis, "iteration")
