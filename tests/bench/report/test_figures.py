"""Figures: the same color for the same variant, nothing that a new value breaks, what is shown."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from bench.core.errors import UserError
from bench.report import figures
from bench.report.figures import COLUMN, PAGE
from bench.report.panels import PALETTE, PUBLISHED, dashes_of, styles_of
from bench.report.report_config import Panel, ReportConfig
from bench.report.tables import Section, sections
from bench.store.results import Results

NAMES = ("variant", "model.tree", "model.width", "regularizer.coefficient")
CONFIG = ReportConfig(
    title="",
    section="data.name",
    rows=NAMES,
    over=("seed",),
    metrics=("train_error", "test_accuracy"),
    x="model.width",
    hue="variant",
    dash="model.tree",
)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def part_of(values):
    return Section("", pd.DataFrame(), 0.0, "", pd.DataFrame({"hue": values}))


def colors(values):
    return {value: style["color"] for value, style in styles_of([part_of(values)], "hue").items()}


def runs(variants=("original",), trees=("grid",), widths=(1, 2), coefficients=(0.0,), seeds=(0, 1)):
    rows = [
        (v, t, w, c, seed)
        for v in variants
        for t in trees
        for w in widths
        for c in coefficients
        for seed in seeds
    ]
    frame = pd.DataFrame(rows, columns=[*NAMES, "seed"]).rename_axis("run_key")
    frame.index = frame.index.astype(str)
    return frame.assign(
        **{"data.name": "digits", "status": "max_steps", "train_error": 0.1 + 0.02 * frame.seed},
        test_accuracy=0.9,
    )


def curves(frame):
    points = [(key, step, 1.0 / step) for key in frame.index for step in (1, 10, 100)]
    return pd.DataFrame(points, columns=["run_key", "iteration", "train_loss"])


def plotted(frame, config=CONFIG, known=None):
    known = pd.DataFrame() if known is None else known
    return figures.plot(sections(frame, config), config, Results(frame, known))


def test_variants_have_the_same_color_in_every_figure():
    assert [*colors(["random_labels", "original"])] == ["original", "random_labels"]
    shown = {**colors(["random_labels"]), **colors(["mine", "original"])}
    assert shown == {"random_labels": PALETTE[2], "original": PALETTE[0], "mine": PALETTE[3]}


def test_other_values_take_the_palette_in_order_and_then_again():
    assert colors([0.0, 1.0]) == {0.0: PALETTE[0], 1.0: PALETTE[1]}
    assert colors(range(9))[8] == colors(range(9))[1] == PALETTE[1]
    dashes = dashes_of([part_of([*"abcde"])], "hue")
    assert dashes["e"] == dashes["a"]


@pytest.mark.parametrize("kind", ["summary", "rows"])
def test_more_values_than_colors_and_styles_are_plotted(kind, tmp_path):
    variants = ["original", "mine", *(f"control_{i}" for i in range(8))]
    frame = runs(variants, ["grid", "oak", "elm", "ash", "fir"], (1, 2), (0.0, 1.0))
    config = replace(CONFIG, panels=(Panel(y=("train_error",), kind=kind),))
    figures.save(plotted(frame, config), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_rows_without_the_setting_that_colors_tell_apart_are_plotted():
    frame = runs(coefficients=(0.0, 1.0))
    frame["model.tree"] = frame["model.tree"].where(frame["regularizer.coefficient"] > 0)
    config = replace(
        CONFIG, hue="model.tree", dash="", panels=(Panel(y=("train_error",), kind="rows"),)
    )
    axis = plotted(frame, config).axes[0]
    assert len(axis.containers) == 4
    assert [text for text in legend_of(axis.figure) if "nan" in text] == []


def test_bars_are_the_t_interval_of_the_units_and_the_title_says_how_long_it_trained():
    figure = plotted(runs().assign(**{"trainer.max_epochs": 3000}))
    axis = figure.axes[0]
    assert axis.get_title(loc="left") == "digits, 3,000 epochs"
    (bars,) = axis.containers
    low, high = bars[2][0].get_segments()[0][:, 1]
    half = 12.706 * 0.02 / 2**0.5 / 2**0.5  # of two seeds: t for one degree of freedom
    assert (low, high) == pytest.approx((0.11 - half, 0.11 + half), rel=1e-3)
    assert "bars: 95 % interval, unit: seed" in legend_of(figure)


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_published_values_are_marked_apart_from_ours():
    frame = runs().rename(columns={"model.width": "model.rank"}).assign(**{"data.name": "mnist"})
    config = replace(
        CONFIG, rows=("variant", "model.rank"), x="model.rank", dash="", published="tensor_rank.csv"
    )
    figure = plotted(frame, config)
    marks = [line for line in figure.axes[0].lines if line.get_marker() == PUBLISHED["marker"]]
    assert [*marks[0].get_ydata()] == [0.023, 0.0155]
    assert "published" in legend_of(figure)


def test_a_single_point_is_no_panel():
    assert len(plotted(runs(widths=(1, 2))).axes) == 2
    empty = plotted(runs(widths=(1,)))
    assert "no two points" in empty.texts[0].get_text()


def test_single_points_are_shown_along_training():
    frame = runs(widths=(1,), variants=("original", "random_labels"))
    known = curves(frame).rename(columns={"iteration": "epoch", "train_loss": "train_error"})
    (axis,) = plotted(frame, known=known).axes  # the other metric has no curve
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "train error")
    assert [line.get_color() for line in axis.lines] == [PALETTE[0]] * 2 + [PALETTE[2]] * 2
    assert [*axis.lines[0].get_ydata()] == [1.0, 0.1, 0.01]


def test_another_column_takes_the_axis_where_the_usual_one_has_one_value():
    figure = plotted(runs(widths=(4,), coefficients=(0.0, 0.1, 1.0)))
    assert figure.axes[0].get_xlabel() == "coefficient"


def test_figures_are_as_wide_as_a_column_or_a_page():
    one = replace(CONFIG, panels=(Panel(y=("train_error",)),))
    assert plotted(runs(), one).get_size_inches()[0] == COLUMN
    assert plotted(runs()).get_size_inches()[0] == PAGE


def test_curves_of_runs_and_of_one_run_and_the_slope_of_theory():
    frame = runs()
    slope = Panel(y=("train_loss",), kind="curves", log="xy", inverted=True, slope=-1.0)
    config = replace(CONFIG, panels=(slope, Panel(y=("train_*",), kind="one run")))
    every, single = plotted(frame, config, curves(frame)).axes
    *ours, theory = every.lines
    assert len(ours) == 4
    assert np.interp(10, theory.get_xdata(), theory.get_ydata()) == pytest.approx(0.1, rel=0.05)
    assert [*single.lines[0].get_ydata()] == [1.0, 0.1, 0.01]
    with pytest.raises(UserError, match="1 of 4 runs without a curve"):
        plotted(frame, config, curves(frame.iloc[1:]))
    mixed = replace(CONFIG, panels=(slope, Panel(y=("train_error",))))
    (only,) = plotted(frame, mixed, curves(frame.iloc[:0])).axes  # no run has a curve to show
    assert only.get_ylabel() == "train error"


def test_milestones_stand_at_their_iteration():
    frame = runs().assign(error_at_5=0.5, error_at_50=0.25)
    panel = Panel(y=("error_at_5", "error_at_50"), kind="milestones")
    config = replace(CONFIG, metrics=panel.y, panels=(panel,))
    line = plotted(frame, config).axes[0].containers[0][0]
    assert [*line.get_xdata()] == [5, 50]
    assert [*line.get_ydata()] == [0.5, 0.25]
