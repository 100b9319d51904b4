"""What a benchmark's YAML file says about its table, its figure and its claims."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from bench import configuration
from bench.core.errors import require
from bench.core.settings import NonNegative, settings, validate

PUBLISHED = Path(__file__).parent / "published"
# Names as they are written in a text; other underscores become spaces.
NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar10_jpeg": "CIFAR-10 as JPEG",
    "pathfinder": "Pathfinder",
    "trainer.max_epochs": "epochs",
    "trainer.max_steps": "steps",
    "data.train": "training samples",
}


def in_words(value: Any) -> str:
    """Return a name or a value as it is written in a text."""
    if isinstance(value, float | np.floating):
        return f"{value:g}"
    return NAMES.get(value, value.replace("_", " ")) if isinstance(value, str) else str(value)


@settings
class Claim:
    """A number and the interval that it must lie in.

    Parameters
    ----------
    says : str
        The claim in a sentence.
    metric : str
        The metric that it is about.
    where : dict
        The runs that it is about: columns and their values; ``smallest`` and ``largest`` stand for
        the extreme ones among the runs. A column that is not one of the table names the setting.
    ratio : dict
        A factor and two of its values: the number is the metric at the first over that at the
        second, over pairs of runs that are equal otherwise.
    per : str
        Another metric that divides it, run by run.
    above, below : float
        The bounds of the number.
    within : float
        In place of the two, an equivalence: the whole interval of a ratio must lie between
        1 / (1 + `within`) and 1 + `within`.
    published : float
        The published number, or the one that theory gives; without it, the same number is made of
        the table's published values.
    """

    says: str
    metric: str
    where: dict[str, Any] = field(default_factory=dict)
    ratio: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    per: str = ""
    above: float = -np.inf
    below: float = np.inf
    within: NonNegative = 0.0
    published: float | None = None

    def __post_init__(self) -> None:
        given = f"a claim's ratio={self.ratio}"
        require(len(self.ratio) < 2, given, "one factor with a list of two values")
        alone = bool(self.ratio) and not np.isfinite([self.above, self.below]).any()
        given = f"a claim with within={self.within:g}"
        require(alone or not self.within, given, "a ratio, and neither above nor below")

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds of the number."""
        margin = 1 + self.within
        return (1 / margin, margin) if self.within else (self.above, self.below)

    @property
    def expects(self) -> str:
        """The interval that is claimed, in words."""
        bounds = zip(("above", "below"), self.bounds, strict=True)
        return " and ".join(f"{name} {b:.3g}" for name, b in bounds if np.isfinite(b))

    def allows(self, number: float) -> bool:
        """Return whether a number is as claimed."""
        return bool(self.bounds[0] < number < self.bounds[1])


@settings
class Panel:
    """One panel of a benchmark's figure.

    Parameters
    ----------
    y : tuple of str
        What is plotted: a metric of the table, or columns of the curves; a star at the end stands
        for all columns that begin so.
    x : str
        The horizontal axis; by default the report's.
    kind : str
        ``summary``: a row of the table is a point, with an interval. ``rows``: the same, with the
        rows one below the other. ``milestones``: metrics such as ``error_at_500`` against the
        number at their end. ``curves``: each run is a curve. ``one run``: curves of the first seed.
    hue : str
        The column that has a color; by default the report's.
    where : dict
        The runs shown, as in a claim.
    across : bool
        Whether one panel shows all sections that have the metric; they take the colors.
    log : str
        The logarithmic axes: ``x``, ``y`` or ``xy``.
    inverted : bool
        Whether the horizontal axis runs from large to small, as for losses.
    slope : float
        The slope by theory, in logarithms where an axis is logarithmic; a dashed line shows it.
    """

    y: tuple[str, ...]
    x: str = ""
    kind: Literal["summary", "rows", "milestones", "curves", "one run"] = "summary"
    hue: str = ""
    where: dict[str, Any] = field(default_factory=dict)
    across: bool = False
    log: Literal["", "x", "y", "xy"] = ""
    inverted: bool = False
    slope: float | None = None


@settings
class Baseline:
    """Another model whose numbers stand beside those of the benchmark's own in each row.

    Parameters
    ----------
    where : dict
        The baseline's runs: columns and their values.
    name : str
        What a column of the table and a line of the figure are called.
    says : str
        What the model is, for the caption.
    """

    where: dict[str, Any]
    name: str
    says: str


@settings
class ReportConfig:
    """Settings of the key `benchmark.report`.

    Parameters
    ----------
    title : str
        What the benchmark measures; whether its claims hold is left to their outcomes.
    section : str
        The column that divides the table into sections.
    rows : tuple of str
        The columns that make a row of the table.
    over : tuple of str
        The columns over which a row is averaged.
    within : tuple of str
        What the names of columns begin with that may differ inside a section without a column of
        their own, such as ``model.`` where each of several models has its own settings.
    unit : str
        The one of `over` whose values are independent samples; intervals and tests are made of the
        means over everything else. Without it, every run is a sample of its own.
    metrics : tuple of str
        The columns that are shown as mean and standard deviation.
    proportions : tuple of str
        Those of `metrics` that are 1 or 0 for each run: shown as the share of runs, with the exact
        binomial interval.
    questions : dict
        Names and the metrics of the tables into which a wide one is folded.
    reference : str or float
        What a trivial predictor reaches, as a metric or a number: the error of the best constant,
        or the relative error of zero. It is a line in the figure, and fits that are worse are
        counted; they are held to it by the first of `metrics` that ends in ``_error``.
    baseline : Baseline, optional
        A model of other cases of the benchmark, shown beside its own.
    profile : str
        A value of `hue`, such as ``original``. The outcomes say from which `x` on its first metric
        is lower than that of all other values at the largest `x`.
    trained : dict
        From which values of a column on, such as the published number of epochs, a fit that has
        not converged counts as trained; see `bench.report.claims.trained`.
    agree : tuple of str
        The columns in which two runs must agree to be compared; by default `section`, `rows` and
        `over`. What else they differ in is named.
    x, hue, dash : str
        The figure's horizontal axis, and the columns that have a color and a line style.
    labels : dict
        Words for columns.
    published : str
        A file of published values, in `bench/report/published` or in the folder of configurations
        that the benchmark comes from, with columns `section`, `rows` and `metrics`; a value is
        shown beside ours where these agree and `published_for` holds.
    published_for : dict
        Configuration values that the published ones hold for.
    published_setting : str
        What else the reader must know about the published values.
    claims : tuple of Claim
        What the benchmark's runs are held against.
    families : tuple of dict
        Conditions on the columns of a comparison, and on the factor `by` which it is: a value or a
        list of values. The tests of a section that meet all conditions of a family are corrected
        for one another; those that meet no family's make one more. No two families may overlap. So
        neither another data set nor `--where` changes a p value.
    summary : str
        ``mean``: mean and standard deviation. ``median``: median, least and largest value.
    panels : tuple of Panel
        What the figure shows of each section; by default one panel per metric.
    plot : str
        The dotted name of the function that plots the figure; see `bench.report.figures.plot`.
    curves : tuple of str
        What the names of the columns begin with that the figure takes from the runs' curves.
    """

    title: str
    section: str
    rows: tuple[str, ...]
    over: tuple[str, ...]
    metrics: tuple[str, ...]
    x: str
    hue: str
    unit: str = ""
    dash: str = ""
    within: tuple[str, ...] = ()
    proportions: tuple[str, ...] = ()
    questions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reference: str | float = ""
    baseline: Baseline | None = None
    profile: str = ""
    trained: dict[str, float] = field(default_factory=dict)
    agree: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    published: str = ""
    published_for: dict[str, Any] = field(default_factory=dict)
    published_setting: str = ""
    claims: tuple[Claim, ...] = ()
    families: tuple[dict[str, Any], ...] = ()
    summary: Literal["mean", "median"] = "mean"
    panels: tuple[Panel, ...] = ()
    plot: str = "bench.report.figures.plot"
    curves: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shown = (self.section, *self.rows)
        for name, known in (("unit", ("", *self.over)), ("x", shown), ("hue", shown)):
            given = f"benchmark.report.{name}={getattr(self, name)}"
            expected = f"one of {', '.join(filter(None, known))}"
            require(getattr(self, name) in known, given, expected)
        for one, other in combinations(self.families, 2):
            apart = any(not {*options(one[n])} & {*options(other[n])} for n in one if n in other)
            given = f"benchmark.report.families {one} and {other}, which overlap"
            require(apart, given, "a column whose values differ between the two")

    @classmethod
    def of(cls, benchmark: str) -> "ReportConfig":
        """Return what `configs/benchmark/<benchmark>.yaml` says; see `read`."""
        return cls.read(configuration.compose([f"benchmark={benchmark}"])["benchmark"])

    @classmethod
    def read(cls, benchmark: Any) -> "ReportConfig":
        """Return what the key `benchmark` of a composed configuration says of its report.

        Raises
        ------
        UserError
            If it says nothing, or something that is not known.
        """
        described = benchmark if isinstance(benchmark, Mapping) else {}
        node: Any = described.get("report")
        given = f"the benchmark {described.get('name', benchmark)}"
        expected = "one with a key benchmark.report"
        require(isinstance(node, Mapping), given, expected)
        if node.get("published"):
            folders = [PUBLISHED, *configuration.FOLDERS]
            paths = [folder / str(node["published"]) for folder in folders]
            found = next((path for path in paths if path.is_file()), None)
            given = f"benchmark.report.published={node['published']}"
            require(found is not None, given, f"a file in {' or '.join(map(str, folders[1:]))}")
            node = {**node, "published": str(found)}
        return validate(cls, node, "benchmark.report")

    @cached_property
    def published_values(self) -> pd.DataFrame:
        """The published values, indexed by section and rows; empty if there are none."""
        keys = [self.section, *self.rows]
        if not self.published:
            return pd.DataFrame(columns=[*keys, *self.metrics]).set_index(keys)
        return pd.read_csv(PUBLISHED / self.published, comment="#").set_index(keys)

    @property
    def columns(self) -> list[str]:
        """The columns of the table: its section, its rows, and what they are averaged over."""
        return [self.section, *self.rows, *self.over]

    @property
    def compared(self) -> str:
        """The metric that is held to `reference`; empty if there is none."""
        errors = (name for name in self.metrics if name.endswith("_error"))
        return next(errors, "") if self.reference != "" else ""

    def ends(self, metric: str) -> tuple[str, str]:
        """Return how the columns end that hold what a metric lies between."""
        median = self.summary == "median" and metric not in self.proportions
        return ("min", "max") if median else ("low", "high")

    def label(self, column: str) -> str:
        """Return the words for a column; for a name, those for the group that has it.

        The last part of a dotted name says enough, unless two of the table's rows have it.
        """
        name, *others = (each.removesuffix(".name") for each in (column, *self.rows))
        last = name.rpartition(".")[2]
        alone = sum(other.rpartition(".")[2] == last for other in others) < 2
        return self.labels.get(column) or NAMES.get(column) or in_words(last if alone else name)

    def words(self, column: str, value: Any) -> str:
        """Return a column with a value: "160 epochs", or "width 8"."""
        words = (in_words(value), self.label(column))
        return " ".join(words if column in NAMES else words[::-1])


def options(value: Any) -> Sequence[Any]:
    """Return the values that a condition allows, which names one or a list of them."""
    return value if isinstance(value, list | tuple) else [value]
