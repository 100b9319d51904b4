"""Figures: the same color for the same variant, and none that a new value breaks."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from bench.report import circuit_figure, figures, non_local_figure
from bench.report.figures import PALETTE, dashes_of, styles_of
from bench.report.report_config import ReportConfig
from bench.report.tables import Section, sections
from bench.store.results import Results


def part_of(values):
    return Section("", pd.DataFrame({"hue": values}), 0.0, "", pd.DataFrame())


def colors(values):
    return {value: style["color"] for value, style in styles_of([part_of(values)], "hue").items()}


def test_variants_have_the_same_color_in_every_figure():
    assert [*colors(["random_labels", "original"])] == ["original", "random_labels"]
    shown = {**colors(["random_labels"]), **colors(["mine", "original"])}
    assert shown == {"random_labels": PALETTE[2], "original": PALETTE[0], "mine": PALETTE[3]}


def test_other_values_take_the_palette_in_order_and_then_again():
    assert colors([0.0, 1.0]) == {0.0: PALETTE[0], 1.0: PALETTE[1]}
    assert colors(range(9))[8] == colors(range(9))[1] == PALETTE[1]
    assert dashes_of("abcde")["e"] == dashes_of("abcde")["a"]


@pytest.mark.parametrize("plot", [figures.plot, circuit_figure.plot, non_local_figure.plot])
def test_more_values_than_colors_and_styles_are_plotted(plot, tmp_path):
    variants = ["original", "mine", *(f"control_{i}" for i in range(8))]
    trees = ["grid", "oak", "elm", "ash", "fir"]
    rows = [(v, t, w, c) for v in variants for t in trees for w in (1, 2) for c in (0.0, 1.0)]
    names = ["variant", "model.tree", "model.width", "regularizer.coefficient"]
    metrics = ["train_error", "test_error", "locality", "test_accuracy"]
    frame = pd.DataFrame(rows, columns=names).assign(
        **{"data.name": "digits", "seed": 0, "status": "max_steps"},
        **{metric: 0.1 * (1 + i) for i, metric in enumerate(metrics)},
    )
    config = ReportConfig(
        title="",
        section="data.name",
        rows=tuple(names),
        over=("seed",),
        metrics=tuple(metrics),
        x="model.width",
        hue="variant",
    )
    figure = plot(sections(frame, config), config, Results(frame, pd.DataFrame()))
    figures.save(figure, tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    plt.close("all")
