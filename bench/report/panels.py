"""The panels of a figure: what each kind shows, and of which runs."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from pandas.api.types import is_numeric_dtype

from bench.core.errors import require
from bench.report.report_config import Panel, ReportConfig, in_words
from bench.report.tables import Section, matching
from bench.store.results import Results, usable

# Okabe and Ito's colors, distinct for color-blind readers and, with the markers, in grayscale.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
REFERENCE = {"color": "0.45", "linewidth": 0.8}
THEORY = {"color": "0.4", "linewidth": 0.8, "ls": "--"}
BASELINE = {"ls": "--", "linewidth": 0.8}
PUBLISHED = {"ls": ":", "marker": "x", "linewidth": 0.7, "ms": 5.5}
WITHOUT = {"color": "0.5", "marker": "o"}  # a row that has no such setting
# These come first, so that they look the same in every figure.
VARIANTS = ("original", "random_images", "random_labels")

CHARACTER = 0.04  # the share of the axis that one character of a tick label takes

Style = dict[str, Any]
Styles = dict[Any, Style]  # by the value of a column
Dashes = dict[Any, str]


class PlottedPanel:
    """A panel with what it shows of one section, or across sections.

    Parameters
    ----------
    panel : Panel
        What to plot.
    parts : list of Section
        The section, or all sections.
    config : ReportConfig
        The benchmark's report.
    results : Results
        The runs' curves.
    """

    def __init__(
        self, panel: Panel, parts: list[Section], config: ReportConfig, results: Results
    ) -> None:
        self.panel, self.config, self.hue = panel, config, panel.hue or config.hue
        self.ends = config.ends(panel.y[0])  # milestones have those of their metrics
        self.y = "value" if panel.kind == "milestones" else panel.y[0]
        self.title = "" if panel.across else parts[0].title
        self.reference = parts[0].reference
        runs = pd.concat([part.runs for part in parts])
        self.runs = matching(runs[usable(runs)], panel.where)
        rows = pd.concat([part.rows for part in parts], ignore_index=True)
        self.rows = matching(rows, panel.where)
        self.x = panel.x or self._horizontal()
        if panel.kind == "milestones":
            self.rows, self.x = _melted(self.rows, panel.y), "iteration"
        elif panel.kind in ("curves", "one run"):
            self.curves = curves_of(self.runs, results)
            self.x = panel.x or ("epoch" if "epoch" in self.curves else "iteration")

    def _horizontal(self) -> str:
        """Return the report's `x`, or else the last numeric column that has several values."""
        names = [self.config.x, *reversed(self.config.rows)]
        numeric = (name for name in names if is_numeric_dtype(self.rows[name]))
        return next((name for name in numeric if self.rows[name].nunique() > 1), self.config.x)

    def shows_something(self) -> bool:
        """Return whether there is more than a single point."""
        if self.panel.kind in ("curves", "one run"):
            return any(map(self._is_meant, self.curves))
        known = self.rows.dropna(subset=self.y) if self.y in self.rows else self.rows.iloc[:0]
        return len(known) > 1 and (self.panel.kind == "rows" or known[self.x].nunique() > 1)

    def draw(self, axis: Axes, styles: Styles, dashes: Dashes, room: int) -> dict[str, Style]:
        """Draw the panel; return the legend's entries.

        `room` is how many characters a line of its title has; 0 for a panel that does not lead.
        """
        label = self.config.label
        axis.set(xlabel=label(self.x), ylabel=fill(label(self.y), 30))
        for name in self.panel.log:
            getattr(axis, f"set_{name}scale")("log")
        kind = self.panel.kind
        if kind == "rows":
            entries = self._rows(axis, styles, bool(room))
        elif kind == "curves":
            entries = self._curves(axis, styles)
        elif kind == "one run":
            entries = self._one_run(axis)
        else:
            entries = self._summary(axis, styles, dashes)
        if self.panel.slope is not None:
            entries |= self._theory(axis, self.panel.slope)
        if self.panel.inverted:
            axis.invert_xaxis()
        own = [self.config.words(name, self.runs[name].iloc[0]) for name in self.panel.where]
        own += [f"seed {self._first().seed}"] * (kind == "one run")
        titles = [fill(self.title, room) if room else "", fill(", ".join(own), 28)]
        axis.set_title("\n".join(filter(None, titles)))
        return entries

    def _summary(self, axis: Axes, styles: Styles, dashes: Dashes) -> dict[str, Style]:
        """Plot a line with intervals per color and line style, and the published values."""
        y, config, entries = self.y, self.config, {}
        apart = [name for name in config.rows if name not in (self.x, self.hue)] or self.hue
        for value, style in styles.items():
            rows = self.rows[self.rows[self.hue] == value].dropna(subset=y).sort_values(self.x)
            for _, line in rows.groupby(apart, dropna=False):
                dash = dashes[line[config.dash].iloc[0]] if dashes else "-"
                filled = style["color"] if dash == "-" else "white"
                axis.errorbar(line[self.x], line[y], self._bars(line), **style, ls=dash, mfc=filled)
                color = style["color"]
                axis.plot(line[self.x], line[f"{y}_published"], **PUBLISHED, color=color)
                if config.baseline and len(beside := line.dropna(subset=f"{y}_baseline")):
                    axis.plot(beside[self.x], beside[f"{y}_baseline"], **BASELINE, color=color)
                    entries[config.baseline.name] = BASELINE | {"color": "0.2"}
            if len(rows) and (self.hue != config.section or self.panel.across):  # else the title
                entries[self._words(value)] = style
        for value, dash in dashes.items():
            entries[f"{config.label(config.dash)}: {value}"] = {"color": "0.2", "ls": dash}
        if not config.unit and y in self.runs and y not in config.proportions:
            axis.scatter(self.runs[self.x], self.runs[y], 4, "0.6", zorder=0)
            entries["each run"] = {"color": "0.6", "ls": "none", "marker": ".", "ms": 4}
        entries |= self._marks(axis)
        ticks = sorted(self.rows.dropna(subset=y)[self.x].unique())
        if self.panel.log:
            axis.xaxis.minorticks_off()
        elif self.rows[y].min() >= 0 and not y.endswith("accuracy") and not self.panel.slope:
            axis.set_ylim(bottom=0)
        step = len(ticks) // 9 + 1
        named = {tick: f"{tick:,.5g}" for tick in ticks[::step]}
        width = 0.0 if "x" in self.panel.log else CHARACTER * np.ptp(ticks)
        for tick in ticks[step::step]:  # whose name would cover that of the one before
            if tick - max(other for other in named if other < tick) < width * len(named[tick]):
                named.pop(tick)
        axis.set_xticks(ticks, [named.get(tick, "") for tick in ticks])
        return entries

    def _marks(self, axis: Axes) -> dict[str, Style]:
        """Plot the trivial predictor's error; return what the legend says of marks and bars."""
        config, entries = self.config, {}
        unit = config.label(config.unit or config.over[-1])
        words = f"95 % interval, unit: {unit}" if "low" in self.ends else "least to largest"
        entries[f"bars: {words}"] = {"color": "0.2", "ls": "none", "marker": "|", "ms": 8}
        if self.rows[f"{self.y}_published"].notna().any():
            entries["published"] = PUBLISHED | {"color": "0.2"}
        if self.y.endswith("_error") and self.reference == self.reference and not self.panel.log:
            axis.axhline(self.reference, **REFERENCE)
            trivial = config.reference if isinstance(config.reference, str) else "zero"
            entries[config.label(trivial)] = REFERENCE
        if self.y.endswith("accuracy"):  # an interval may reach beyond 1
            limit = axis.set_xlim if self.panel.kind == "rows" else axis.set_ylim
            limit(None, min(limit()[1], 1.01))
        return entries

    def _rows(self, axis: Axes, styles: Styles, leads: bool) -> dict[str, Style]:
        """Plot the table's rows one below the other, named by what differs."""
        config, entries = self.config, {}
        others = [name for name in config.rows if name != self.hue]
        varying = [name for name in others if self.rows[name].nunique(dropna=False) > 1]
        heights = -np.arange(len(self.rows))
        for height, (_, row) in zip(heights, self.rows.iterrows(), strict=True):
            style = styles.get(row[self.hue], WITHOUT)
            axis.errorbar(row[self.y], height, xerr=self._bars(row.to_frame().T), **style)
            if style is not WITHOUT:
                entries[self._words(row[self.hue])] = style
        axis.set(xlabel=config.label(self.y), ylabel="", ylim=(heights[-1] - 0.5, 0.5))
        names = []
        for row in self.rows[varying].to_dict("records") if leads else ():
            shown = {n: v for n, v in row.items() if v is not False and pd.notna(v)}
            words = [config.label(n) if v is True else config.words(n, v) for n, v in shown.items()]
            names.append(fill(", ".join(words), 36))
        axis.set_yticks(heights, names or [""] * len(heights))
        axis.tick_params(axis="y", labelsize=6.5)
        return entries | self._marks(axis)

    def _bars(self, rows: pd.DataFrame) -> np.ndarray:
        """Return how far an interval reaches below and above, shape (2, rows); 0 without one."""
        low, high = (rows[f"{self.y}_{end}"].astype(float) for end in self.ends)
        middle = rows[self.y].astype(float)
        return np.nan_to_num(np.stack([middle - low, high - middle]))

    def _curves(self, axis: Axes, styles: Styles) -> dict[str, Style]:
        """Plot a curve per run."""
        joined = self.curves.merge(self.runs[[self.hue]], left_on="run_key", right_index=True)
        entries = {}
        for (value, _), curve in joined.groupby([self.hue, "run_key"]):
            if self.panel.inverted:  # from where the loss begins to fall
                curve = curve[curve[self.x] < 0.99 * curve[self.x].iloc[0]]
            style = {"color": styles[value]["color"], "linewidth": 0.8}
            axis.plot(curve[self.x], curve[self.y], **style, alpha=0.8)
            entries[self._words(value)] = style
        return entries

    def _one_run(self, axis: Axes) -> dict[str, Style]:
        """Plot curves of the first seed."""
        curve = self.curves[self.curves.run_key == self._first().name]
        for color, name in zip(cycle(PALETTE), filter(self._is_meant, curve), strict=False):
            label = fill(self.config.label(name), 20)
            axis.plot(curve[self.x], curve[name], color=color, label=label)
        if len(self.panel.y) > 1:
            axis.legend()
            axis.set_ylabel("")
        return {}

    def _first(self) -> pd.Series:
        return self.runs.sort_values("seed").iloc[0]

    def _theory(self, axis: Axes, slope: float) -> dict[str, Style]:
        """Plot a line of this slope: through what was measured, or through the origin."""
        data = self.curves if self.panel.kind == "curves" else self.rows
        data = data[[self.x, self.y]].dropna().sort_values(self.x)
        x = np.geomspace(data[self.x].min(), data[self.x].max(), 50)
        if self.panel.log == "xy":
            x0, y0 = data.iloc[0] if self.panel.inverted else np.exp(np.log(data).mean())
            axis.plot(x, y0 * (x / x0) ** slope, **THEORY)
        else:
            axis.plot(x, slope * x, **THEORY)
        return {f"theory: slope {slope:g}": THEORY}

    def _is_meant(self, name: Any) -> bool:
        return any(fnmatchcase(str(name), pattern) for pattern in self.panel.y)

    def _words(self, value: Any) -> str:
        """Return a value of the colored column as the legend shows it."""
        return in_words(value) if isinstance(value, str) else self.config.words(self.hue, value)


def _melted(rows: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Return a row per milestone, whose iteration is at the end of its metric's name."""
    parts = []
    for metric in metrics:
        names = {name: name.replace(metric, "value") for name in rows}
        iteration = int(metric.rpartition("_")[2])
        parts.append(rows.rename(columns=names).assign(iteration=iteration))
    return pd.concat(parts)


def curves_of(runs: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Return the curves of the runs; none if no run has one.

    Raises
    ------
    UserError
        If some have and some have not: a figure of the others would mislead.
    """
    missing = int((~runs.index.isin(results.curves.run_key)).sum())
    given = f"{missing} of {len(runs)} runs without a curve"
    expected = "all curves, in curves.parquet or in the runs' folder"
    require(missing in (0, len(runs)), given, expected)
    return results.curves[results.curves.run_key.isin(runs.index)].dropna(axis="columns", how="all")


def styles_of(parts: list[Section], column: str) -> Styles:
    """Return a color and a marker for each value of a column; past the last color they repeat.

    The three variants of the papers come first and look the same in every figure.
    """
    found = values_of(parts, column)
    order = dict.fromkeys([*VARIANTS, *found] if {*found} & {*VARIANTS} else found)
    styles = zip(order, cycle(PALETTE), cycle(MARKERS), strict=False)
    return {value: {"color": c, "marker": m} for value, c, m in styles if value in found}


def dashes_of(parts: list[Section], column: str) -> Dashes:
    """Return a line style for each value of a column; past the last one they repeat."""
    return dict(zip(values_of(parts, column), cycle(DASHES), strict=False)) if column else {}


def values_of(parts: list[Section], column: str) -> list[Any]:
    """Return a column's values: the variants of the papers in their order, then the others."""
    found = {value for part in parts for value in part.runs[column].dropna()}
    others = sorted(found - {*VARIANTS}, key=lambda value: (isinstance(value, str), value))
    return [*(variant for variant in VARIANTS if variant in found), *others]
