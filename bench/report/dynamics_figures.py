"""Figures of what is learned when, from the curves of recorded runs."""

import re
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.core.errors import require
from bench.report.figures import PALETTE, bare, panels
from bench.report.report_config import ReportConfig
from bench.report.tables import Section
from bench.store.results import Results, usable

NORM = re.compile(r"^(component|singular_value|singular_tube|level_\d+_node_\d+)_\d+$")
WORDS = {
    "component": "component norm",
    "singular_value": "singular value",
    "singular_tube": "norm of singular tube",
}
SCALE, RANK, DEPTH = "model.init_std", "model.overestimated_rank", "model.depth"


def plot_components(parts: list[Section], config: ReportConfig, results: Results) -> Figure:
    """Plot what is learned one after another, as in [TF] and [HTF]: a row of panels per section.

    First the leading norms against iterations, for each initialization scale (or for each node of
    a tree at the smallest scale), of the first seed that ended; then the reconstruction errors of
    all seeds against iterations; last the final errors against the scale.
    """
    rows = [(part, part.runs, curves_of(part.runs, results)) for part in parts]
    norms = [_norm_panels(runs, curves) for _, runs, curves in rows]
    columns = max(map(len, norms)) + 2
    figure, axes = panels(len(rows), columns, 3.1 * columns, 3.0 * len(rows))
    for line, (part, runs, curves), chosen in zip(axes, rows, norms, strict=True):
        for axis, (key, group) in zip(line, chosen, strict=False):
            _plot_norms(axis, curves[curves.run_key == key], group, runs.loc[key])
        for axis in line[len(chosen) : columns - 2]:
            axis.set_axis_off()
        ordered = runs.sort_values(SCALE, ascending=False)
        style = {"linewidth": 0.9, "alpha": 0.8}
        plot_runs(line[-2], ordered, curves, SCALE, "reconstruction_error", "scale {:g}", **style)
        finish(line[-2], "each seed", "iteration", "reconstruction error", yscale="log")
        _plot_final_errors(line[-1], part, config)
        title = line[0].get_title(loc="left")
        line[0].set_title(f"{part.title}\n{title}", fontsize=9, loc="left")
    return figure


def curves_of(runs: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Return the curves of the runs.

    Raises
    ------
    UserError
        If those of a run that counts are not there: a figure of the others would mislead.
    """
    known = {*results.curves.run_key} if len(results.curves) else set()
    counted = runs.index[usable(runs)]
    given = f"{sum(key not in known for key in counted)} of {len(counted)} runs without a curve"
    require(known >= {*counted}, given, "all curves, in curves.parquet or in the runs' folder")
    curves = results.curves[results.curves.run_key.isin(runs.index)]
    return curves.dropna(axis="columns", how="all")


def _norm_panels(runs: pd.DataFrame, curves: pd.DataFrame) -> list[tuple[str, str]]:
    """Return run and group of norms of each panel."""
    good = runs[usable(runs)].sort_values([SCALE, "seed"], ascending=[False, True])
    first = good.groupby(SCALE, sort=False).head(1).index
    groups = dict.fromkeys(name.rpartition("_")[0] for name in curves if NORM.match(str(name)))
    if len(groups) > 1:
        return [(first[-1], group) for group in groups]
    return [(key, group) for key in first for group in groups]


def _plot_norms(axis: Axes, curve: pd.DataFrame, group: str, run: pd.Series) -> None:
    names = [name for name in curve if str(name).rpartition("_")[0] == group]
    for color, name in zip(cycle(PALETTE), names, strict=False):
        axis.plot(curve.iteration, curve[name], color=color, linewidth=1.4)
    words = WORDS.get(group, f"local component norm, {group.replace('_', ' ')}")
    title = f"scale {run[SCALE]:g}, seed {run.seed}"
    finish(axis, title, "iteration", words, ylim=(0, None))


def plot_runs(
    axis: Axes,
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    column: str,
    metric: str,
    words: str,
    x: str = "iteration",
    **style: Any,
) -> None:
    """Plot a curve per run, with a color per value of a column, in the order of the runs."""
    joined = runs[[column]].merge(curves, left_index=True, right_on="run_key")
    values = joined.groupby(column, sort=False)
    for color, (value, part) in zip(cycle(PALETTE), values, strict=False):
        for _, curve in part.groupby("run_key"):
            axis.plot(curve[x], curve[metric], color=color, label=words.format(value), **style)


def plot_seeds(axis: Axes, runs: pd.DataFrame, column: str, metric: str, label: str) -> None:
    """Plot a metric of each run and its mean, or median, against a column."""
    axis.plot(runs[column], runs[metric], "o", color="0.6", markersize=4, label="seeds")
    summary = runs.groupby(column)[metric].agg("median" if label == "median" else "mean")
    axis.plot(summary, "-o", color=PALETTE[0], markersize=5, label=label)
    axis.set(xscale="log", yscale="log")


def _plot_final_errors(axis: Axes, part: Section, config: ReportConfig) -> None:
    metric = "reconstruction_error"
    plot_seeds(axis, part.runs[usable(part.runs)], SCALE, metric, config.summary)
    rows = part.rows.dropna(subset=f"{metric}_published")
    if len(rows):
        style = {"color": PALETTE[1], "markersize": 14, "markeredgewidth": 2}
        axis.plot(rows[SCALE], rows[f"{metric}_published"], "_", label="published", **style)
    scales = part.rows[SCALE]
    axis.set_xticks(scales, [f"{scale:g}" for scale in scales])
    axis.minorticks_off()
    finish(axis, "", "initialization scale", "final reconstruction error")


def finish(axis: Axes, title: str, x: str, y: str, **settings: Any) -> None:
    """Name a panel and its axes, with one entry per label in its legend."""
    axis.set(xlabel=x, ylabel=y, **settings)
    axis.set_title(title, fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    bare(axis)
    handles, labels = axis.get_legend_handles_labels()
    if labels:
        once = dict(zip(labels, handles, strict=True))
        axis.legend(once.values(), once.keys(), frameon=False, fontsize=7)


def plot_norms(parts: list[Section], config: ReportConfig, results: Results) -> Figure:
    """Plot the unobserved entry and the effective rank against the loss, as in [NORM].

    One color per depth; one row of panels per kind of start.
    """
    rows = [kind for part in parts for kind in part.runs.groupby("model.start")]
    figure, axes = panels(len(rows), 2, 8.4, 3.4 * len(rows))
    for (entry, rank), (start, runs) in zip(axes, rows, strict=True):
        curves = curves_of(runs, results)
        plot_entry(entry, f"{start} start", runs, curves)
        _plot_against_loss(rank, runs, curves, "effective_rank")
        finish(rank, f"{start} start", "train loss", "effective rank", xscale="log")
        rank.invert_xaxis()
    return figure


def plot_entry(axis: Axes, title: str, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Plot the unobserved entry against the loss, and what it is by the theory of [NORM]."""
    _plot_against_loss(axis, runs, curves, "unobserved_entry")
    losses = np.geomspace(max(curves.train_loss.min(), 1e-8), 0.1, 50)
    # The sum of the three squared residuals, of which the last alone stays, in terms of the loss
    squares = 2 if (runs["learner.loss.kind"] == "half_square").all() else 3
    label = rf"theory, $1/\sqrt{{{squares}\,loss}}$"
    axis.plot(losses, (squares * losses) ** -0.5, "--", color="0.4", linewidth=1.2, label=label)
    scales = {"xscale": "log", "yscale": "log", "ylim": (0.05, None)}
    finish(axis, title, "train loss", "|unobserved entry|", **scales)
    axis.invert_xaxis()


def _plot_against_loss(axis: Axes, runs: pd.DataFrame, curves: pd.DataFrame, metric: str) -> None:
    """Plot a metric of each run from where its loss begins to fall, one color per depth."""
    learning = curves[curves.train_loss < curves.groupby("run_key").train_loss.transform("first")]
    ordered = runs.sort_values(DEPTH)
    plot_runs(axis, ordered, learning, DEPTH, metric, "depth {:g}", "train_loss", linewidth=1.0)


def plot_tubal(parts: list[Section], config: ReportConfig, results: Results) -> Figure:
    """Plot test error by R and by scale, and the two phases: angles and singular tubes [TUB].

    Errors of repeats that go on from one another are shown as the table averages them: each over
    the repeats of a run, at equal iterations since their beginnings.
    """
    figure, axes = panels(len(parts), 4, 14.5, 3.2 * len(parts))
    for line, part in zip(axes, parts, strict=True):
        runs, curves = part.runs, curves_of(part.runs, results)
        folded = _by_repeat(runs, curves)
        good = runs[usable(runs)]
        smallest = runs[SCALE] == good.groupby(SCALE)[RANK].nunique().idxmax()
        widest = runs[RANK] == 200 if (runs[RANK] == 200).any() else runs[RANK] > 0
        for axis, chosen, column, other, words in (
            (line[0], runs[smallest], RANK, SCALE, "R = {:g}"),
            (line[1], runs[widest], SCALE, RANK, "scale {:.0e}"),
        ):
            _plot_mean_errors(axis, chosen, folded, column, words)
            shown = part.rows[part.rows[other].isin(chosen[other])]
            _plot_published_errors(axis, shown.sort_values(column), config)
        first = good[smallest[good.index]].sort_values([RANK, "seed"]).index[0]
        phases = curves[(curves.run_key == first) & (curves.iteration <= folded.iteration.max())]
        _plot_phases(line[2], line[3], phases)
        line[0].set_title(part.title, fontsize=9, loc="left")
    return figure


def _by_repeat(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Count the iterations of each repeat from its own beginning."""
    settings = curves[["run_key"]].join(runs.filter(like="learner.milestone_"), on="run_key")
    since = (curves.iteration - 1) % settings["learner.milestone_period"] + 1
    single = settings["learner.milestone_repeats"] == 1
    counted = curves.assign(iteration=curves.iteration.where(single, since))
    return counted[single | (curves.iteration > 0)]


def _plot_mean_errors(
    axis: Axes, runs: pd.DataFrame, curves: pd.DataFrame, column: str, words: str
) -> None:
    joined = curves.merge(runs[[column]], left_on="run_key", right_index=True)
    for color, (value, part) in zip(cycle(PALETTE), joined.groupby(column), strict=False):
        of_runs = part.groupby(["iteration", "run_key"]).reconstruction_error.mean()
        errors = of_runs.groupby("iteration")
        axis.plot(errors.mean(), color=color, linewidth=1.4, label=words.format(value))
        low, high = errors.min(), errors.max()
        axis.fill_between(low.index, low, high, color=color, alpha=0.12, linewidth=0)
    title = "mean, least and largest; marks: published"
    finish(axis, title, "iteration", "mean test error", yscale="log")


def _plot_published_errors(axis: Axes, rows: pd.DataFrame, config: ReportConfig) -> None:
    iterations = [int(name.rpartition("_")[2]) for name in config.metrics]
    errors = rows[[f"{name}_published" for name in config.metrics]].to_numpy()
    for color, values in zip(cycle(PALETTE), errors, strict=False):
        axis.plot(iterations, values, "_", markersize=8, color=color)


def _plot_phases(angles: Axes, tubes: Axes, curve: pd.DataFrame) -> None:
    """Plot one run: its angles, and its leading singular tubes."""
    first = curve[curve.reconstruction_error > 1e-3]
    shown = first if len(first) > 2 else curve
    words = {"angle_to_projection": "to the back-projection", "angle_to_target": "to the target"}
    for color, (name, label) in zip(PALETTE, words.items(), strict=False):
        angles.plot(shown.iteration, shown[name], color=color, label=label)
    finish(angles, "", "iteration", "sine of the principal angle", ylim=(0, 1.02))
    names = [str(name) for name in curve if str(name).startswith("singular_tube_")]
    for color, name in zip(PALETTE, names, strict=False):
        label = f"tube {name.rpartition('_')[2]}"
        tubes.plot(curve.iteration, curve[name], color=color, label=label)
    finish(tubes, "", "iteration", "norm of singular tube", yscale="log")
