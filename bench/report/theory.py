"""The figure of the theory checks: one panel a claim."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.dynamics import finish, legend_once
from bench.report.figures import PALETTE
from bench.report.frame import load_curves, usable
from bench.report.spec import ReportSpec
from bench.report.tables import Section

STEP, SCALE = "learner.learning_rate", "model.init_std"


def draw(parts: list[Section], spec: ReportSpec, frame: pd.DataFrame, runs_dir: Path) -> Figure:
    """Draw one panel for each of the claims (a) to (e) that was measured.

    (a) drift of conserved differences against step size; (b) fitted exponents beside theory;
    (c) distance to rank one against initialization scale; (d) unobserved entry against loss;
    (e) angle, norm and error of the tubal phases against iterations.
    """
    good = frame[usable(frame)]
    drawn = [(claim, good[good["data.name"].str.startswith(claim)]) for claim in PANELS]
    drawn = [(claim, runs) for claim, runs in drawn if len(runs)]
    figure, axes = plt.subplots(
        1, len(drawn), figsize=(3.5 * len(drawn), 3.4), squeeze=False, layout="constrained"
    )
    for axis, (claim, runs) in zip(axes.flat, drawn, strict=True):
        curves = load_curves(runs_dir, str(runs.benchmark.iloc[0]), runs.index)
        axis.set_title(claim, loc="left", fontsize=10)
        PANELS[claim](axis, runs, curves)
    return figure


def _conserved(axis: Axes, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    drift = runs.groupby(STEP).largest_drift
    slope = np.polyfit(np.log(runs[STEP].astype(float)), np.log(runs.largest_drift), 1)[0]
    axis.plot(runs[STEP], runs.largest_drift, "o", color="0.6", markersize=4, label="seeds")
    axis.plot(drift.mean(), "-", color=PALETTE[0], label=f"mean, slope {slope:.3f}")
    axis.set(xscale="log", yscale="log", ylabel="drift of conserved differences")
    legend_once(axis)
    finish(axis, "step size, equal time")


def _growth(axis: Axes, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    for place, (_, part) in enumerate(runs.groupby("data.name")):
        mean, error = part.exponent.mean(), part.exponent.sem()
        axis.errorbar(place, mean, yerr=1.96 * error, fmt="o", color=PALETTE[0], capsize=3,
                      label="fitted")  # fmt: skip
        axis.plot(place, part.theory.iloc[0], "_", color=PALETTE[1], markersize=18,
                  markeredgewidth=2, label="theory")  # fmt: skip
    names = [str(name).split(" of ", 1)[1] for name in sorted(runs["data.name"].unique())]
    short = [
        name.replace("components of ", "").replace("local components with ", "") for name in names
    ]
    axis.set_xticks(range(len(short)), [name.replace(" ", "\n", 1) for name in short], fontsize=8)
    axis.set_ylabel("exponent of the growth law")
    axis.margins(x=0.15)
    legend_once(axis)
    finish(axis, "")


def _rank_one(axis: Axes, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    distance = runs.groupby(SCALE).largest_rank_one_distance
    axis.plot(runs[SCALE], runs.largest_rank_one_distance, "o", color="0.6", markersize=4,
              label="seeds")  # fmt: skip
    axis.plot(distance.mean(), "-", color=PALETTE[0], label="mean")
    axis.set(xscale="log", yscale="log", ylabel="largest distance to rank one")
    legend_once(axis)
    finish(axis, "initialization scale")


def _norms(axis: Axes, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    for key, curve in curves.groupby("run_key"):
        depth = int(runs.loc[str(key), "model.depth"])
        learning = curve[curve.train_loss < curve.train_loss.iloc[0]]
        axis.plot(learning.train_loss, learning.unobserved_entry, color=PALETTE[depth - 2],
                  linewidth=1.2, label=f"depth {depth}")  # fmt: skip
    losses = np.geomspace(curves.train_loss.min(), 0.1, 30)
    axis.plot(losses, (3 * losses) ** -0.5, "--", color="0.4", label=r"theory, $1/\sqrt{3\,loss}$")
    axis.set(xscale="log", yscale="log", ylim=(0.05, None), ylabel="|unobserved entry|")
    axis.invert_xaxis()
    legend_once(axis)
    finish(axis, "train loss")


def _tubal(axis: Axes, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    curve = curves[curves.run_key == runs.sort_values("seed").index[0]]
    axis.plot(curve.iteration, curve.angle_to_projection, color=PALETTE[0],
              label="angle to back-projection")  # fmt: skip
    axis.plot(curve.iteration, curve.singular_tube_1 / curve.singular_tube_1.max(),
              color=PALETTE[2], label="leading tube, relative")  # fmt: skip
    axis.plot(curve.iteration, curve.reconstruction_error, color=PALETTE[1], label="test error")
    axis.set(yscale="log", ylabel="sine, norm or error")
    legend_once(axis)
    finish(axis, "iteration")


PANELS: dict[str, Callable[[Axes, pd.DataFrame, pd.DataFrame], None]] = {
    "(a)": _conserved,
    "(b)": _growth,
    "(c)": _rank_one,
    "(d)": _norms,
    "(e)": _tubal,
}
