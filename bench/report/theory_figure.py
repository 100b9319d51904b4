"""The figure of the theory checks: one panel per claim."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.dynamics_figures import curves_of, finish, plot_entry, plot_seeds
from bench.report.figures import PALETTE, panels, plot_nothing
from bench.report.report_config import ReportConfig
from bench.report.tables import Section
from bench.store.results import Results, usable

STEP, SCALE = "optimizer.lr", "model.init_std"


def plot(parts: list[Section], config: ReportConfig, results: Results) -> Figure:
    """Plot one panel for each of the claims (a) to (e) that was measured.

    (a) drift of conserved differences against step size; (b) fitted exponents beside theory;
    (c) distance to rank one against initialization scale; (d) unobserved entry against loss;
    (e) angle, norm and error of the tubal phases against iterations. Parameters are those of
    `bench.report.figures.plot`.
    """
    good = results.frame[usable(results.frame)]
    measured = {
        claim: good[good["data.name"].str.startswith(claim) & good[metric].notna()]
        for claim, (metric, _) in PANELS.items()
        if metric in good
    }
    measured = {claim: runs for claim, runs in measured.items() if len(runs)}
    if not measured:
        return plot_nothing(parts, config, results)
    figure, axes = panels(1, len(measured), 3.5 * len(measured), 3.4)
    for axis, (claim, runs) in zip(axes.flat, measured.items(), strict=True):
        PANELS[claim][1](axis, claim, runs, curves_of(runs, results))
    return figure


def _conserved(axis: Axes, title: str, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    label = "mean"
    if runs[STEP].nunique() > 1:
        slope = np.polyfit(np.log(runs[STEP].astype(float)), np.log(runs.largest_drift), 1)[0]
        label += f", slope {slope:.3f}"
    plot_seeds(axis, runs, STEP, "largest_drift", label)
    finish(axis, title, "step size, equal time", "drift of conserved differences")


def _growth(axis: Axes, title: str, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    laws = runs.groupby("data.name").agg(
        mean=("exponent", "mean"), error=("exponent", "sem"), theory=("theory", "first")
    )
    names = laws.index.str.split(" of ", n=1).str[1]
    short = names.str.replace("(local )?components (of|with) ", "", regex=True)
    short = short.str.replace(" ", "\n", n=1)
    bars = {"fmt": "o", "color": PALETTE[0], "capsize": 3, "label": "fitted"}
    axis.errorbar(short, laws["mean"], 1.96 * laws.error, **bars)
    strokes = {"color": PALETTE[1], "markersize": 18, "markeredgewidth": 2}
    axis.plot(short, laws.theory, "_", label="theory", **strokes)
    axis.margins(x=0.15)
    finish(axis, title, "", "exponent of the growth law")


def _rank_one(axis: Axes, title: str, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    plot_seeds(axis, runs, SCALE, "largest_rank_one_distance", "mean")
    finish(axis, title, "initialization scale", "largest distance to rank one")


def _tubal(axis: Axes, title: str, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    curve = curves[curves.run_key == runs.sort_values("seed").index[0]].set_index("iteration")
    tube = curve.singular_tube_1 / curve.singular_tube_1.max()
    axis.plot(curve.angle_to_projection, color=PALETTE[0], label="angle to back-projection")
    axis.plot(tube, color=PALETTE[2], label="leading tube, relative")
    axis.plot(curve.reconstruction_error, color=PALETTE[1], label="test error")
    finish(axis, title, "iteration", "sine, norm or error", yscale="log")


# What each panel needs to have been measured, and how it is plotted
PANELS: dict[str, tuple[str, Callable[[Axes, str, pd.DataFrame, pd.DataFrame], None]]] = {
    "(a)": ("largest_drift", _conserved),
    "(b)": ("exponent", _growth),
    "(c)": ("largest_rank_one_distance", _rank_one),
    "(d)": ("unobserved_entry", plot_entry),
    "(e)": ("angle_to_projection", _tubal),
}
