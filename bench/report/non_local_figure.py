"""The figure of `is_same_class` and `pathfinder`: what a distance costs, and what is won back."""

from matplotlib.figure import Figure

from bench.report.figures import bare, panels, styles_of
from bench.report.report_config import ReportConfig
from bench.report.tables import Section
from bench.store.results import Results

PANELS = ("test_accuracy", "train_accuracy", "penalty", "locality")
BARS = {"capsize": 2, "linewidth": 1.6, "markersize": 5}


def plot(parts: list[Section], config: ReportConfig, results: Results) -> Figure:
    """Plot a row of panels per section: metrics against `config.x`.

    Each value of `config.hue` has a color; published values are a dotted line of the same color.
    Parameters are those of `bench.report.figures.plot`.
    """
    metrics = [metric for metric in PANELS if metric in config.metrics]
    figure, axes = panels(len(parts), len(metrics), 3.7 * len(metrics), 3.6 * len(parts))
    styles, handles = styles_of(parts, config.hue), {}
    for part, line in zip(parts, axes, strict=True):
        line[0].set_title(part.title, loc="left", fontsize=10)
        for metric, axis in zip(metrics, line, strict=True):
            for name, rows in part.rows.sort_values(config.x).groupby(config.hue):
                x, style = rows[config.x], styles[name]
                spread = rows[f"{metric}_std"].fillna(0)
                handles[name] = axis.errorbar(x, rows[metric], spread, **BARS, **style)
                published = rows[f"{metric}_published"]
                axis.plot(x, published, color=style["color"], linestyle=":")
            axis.set(xlabel=config.label(config.x), ylabel=config.label(metric))
            axis.set_xticks(sorted(part.rows[config.x].unique()))
            bare(axis, "y")
            if metric.endswith("accuracy"):
                axis.set_ylim(0.45, 1.01)
    labels = [f"{config.label(config.hue)}: {name}" for name in handles]
    figure.legend(handles.values(), labels, loc="outside lower center", ncols=4, frameon=False)
    return figure
