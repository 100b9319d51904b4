"""What a benchmark's YAML file says about its table, its figure and its claims."""

from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from bench.core.errors import UserError, require
from bench.core.settings import settings, validate

PUBLISHED = Path(__file__).parent / "published"
Selection = Literal["last", "best validation"]


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
        A metric by which the metric is divided, run by run.
    above, below : float
        What the number must lie between.
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
    published: float | None = None

    def __post_init__(self) -> None:
        given = f"a claim's ratio={self.ratio}"
        require(len(self.ratio) < 2, given, "one factor with a list of two values")

    @property
    def expects(self) -> str:
        """The interval that is claimed, in words."""
        bounds = {"above": self.above, "below": self.below}
        return " and ".join(f"{name} {b:g}" for name, b in bounds.items() if np.isfinite(b))

    def allows(self, number: float) -> bool:
        """Return whether a number is as claimed."""
        return bool(self.above < number < self.below)

    def is_about(self, run: pd.Series, columns: list[str]) -> bool:
        """Return whether a run has the setting that `where` names outside the table's columns."""
        setting = {name: value for name, value in self.where.items() if name not in columns}
        return all(run.get(name) == value for name, value in setting.items())


@settings
class ReportConfig:
    """Settings of the key `benchmark.report`.

    Parameters
    ----------
    title : str
        The claim that the benchmark tests, in a sentence.
    section : str
        The column that divides the table into sections.
    rows : tuple of str
        The columns that make a row of the table.
    over : tuple of str
        The columns over which a row is averaged.
    unit : str
        The one of `over` whose values are independent samples; intervals and tests are made of the
        means over everything else. Without it, every run is a sample of its own.
    metrics : tuple of str
        The columns that are shown as mean and standard deviation.
    reference : str
        A metric shown as a line: what a trivial predictor reaches.
    x, hue : str
        The figure's horizontal axis, and the column that has a color.
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
    selections : tuple of str
        By which rules a run's numbers are taken from its curve: ``last``, ``best validation``; the
        table has rows for each.
    claims : tuple of Claim
        What must hold if the title is true.
    families : tuple of dict
        Conditions on the columns of a comparison. The tests of a section that meet the first of
        them are corrected for one another, those that meet the second likewise, and so on; those
        that meet none make one more family. So neither another data set nor a selection changes a
        p value.
    summary : str
        ``mean``: mean and standard deviation. ``median``: median, least and largest value.
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
    reference: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    published: str = ""
    published_for: dict[str, Any] = field(default_factory=dict)
    published_setting: str = ""
    selections: tuple[Selection, ...] = ("last",)
    claims: tuple[Claim, ...] = ()
    families: tuple[dict[str, Any], ...] = ()
    summary: Literal["mean", "median"] = "mean"
    plot: str = "bench.report.figures.plot"
    curves: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shown = (self.section, *self.rows)
        for name, known in (("unit", ("", *self.over)), ("x", shown), ("hue", shown)):
            given = f"benchmark.report.{name}={getattr(self, name)}"
            expected = f"one of {', '.join(filter(None, known))}"
            require(getattr(self, name) in known, given, expected)

    @classmethod
    def of(cls, benchmark: str) -> "ReportConfig":
        """Return what `configs/benchmark/<benchmark>.yaml` says.

        Raises
        ------
        UserError
            If it says nothing, or something that is not known.
        """
        from bench.configuration import FOLDERS, compose  # the one place that reads YAML files

        node = compose([f"benchmark={benchmark}"])["benchmark"].get("report")
        given, expected = f"the benchmark {benchmark}", "one with a key benchmark.report"
        require(isinstance(node, Mapping), given, expected)
        if node.get("published"):
            paths = [folder / str(node["published"]) for folder in (PUBLISHED, *FOLDERS)]
            found = next((path for path in paths if path.is_file()), None)
            given = f"benchmark.report.published={node['published']}"
            require(found is not None, given, f"a file in {' or '.join(map(str, FOLDERS))}")
            node = {**node, "published": str(found)}
        return validate(cls, node, "benchmark.report")

    @cached_property
    def published_values(self) -> pd.DataFrame:
        """The published values, indexed by section and rows; empty if there are none."""
        keys = [self.section, *self.rows]
        if not self.published:
            return pd.DataFrame(columns=[*keys, *self.metrics]).set_index(keys)
        return pd.read_csv(PUBLISHED / self.published, comment="#").set_index(keys)

    @cached_property
    def plotter(self) -> Callable[..., Any]:
        """The function that `plot` names."""
        module, _, name = self.plot.rpartition(".")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            given, hint = f"benchmark.report.plot={self.plot}", " ".join(str(error).split())
            raise UserError(given, "the dotted name of a function", hint) from error

    @property
    def columns(self) -> list[str]:
        """The columns of the table: its section, its rows, and what they are averaged over."""
        return [self.section, *self.rows, *self.over]

    def label(self, column: str) -> str:
        """Return the words for a column."""
        return self.labels.get(column, column.rpartition(".")[2].replace("_", " "))
