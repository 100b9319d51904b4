"""What a benchmark's YAML file says about its table and figure."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bench.config import compose, plain
from bench.errors import require

PUBLISHED = Path(__file__).parent / "published"


@dataclass
class ReportSpec:
    """Schema of the key `benchmark.report`.

    Parameters
    ----------
    title : str
        The claim that the benchmark tests, in a sentence.
    section : str
        The column that divides the table into sections.
    rows : list of str
        The columns that make a row of the table.
    over : list of str
        The columns over which a row is averaged.
    metrics : list of str
        The columns that are shown as mean +- standard deviation.
    reference : str
        A metric drawn as a line: what a trivial predictor reaches.
    x, hue : str
        The figure's horizontal axis, and the column that has a colour.
    labels : dict
        Words for columns.
    published : str
        A file of published values in `bench/report/published`, with columns `section`, `rows` and
        `metrics`; a value beside ours where these agree and `published_for` holds.
    published_for : dict
        Configuration values that the published ones hold for.
    published_setting : str
        What else the reader must know of the published values.
    selections : list of str
        By which rules a run's numbers are taken from its curve: ``last``, ``best validation``; the
        table has rows for each.
    claims : list of dict
        What must hold if the title is true; see `bench.report.verdicts.Claim`.
    summary : str
        ``mean``: mean and standard deviation. ``median``: median, least and largest value.
    draw : str
        The dotted name of the function that draws the figure; see `bench.report.figures.draw`.
    """

    title: str
    section: str
    rows: list[str]
    over: list[str]
    metrics: list[str]
    x: str
    hue: str
    reference: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    published: str = ""
    published_for: dict[str, Any] = field(default_factory=dict)
    published_setting: str = ""
    selections: list[str] = field(default_factory=lambda: ["last"])
    claims: list[dict[str, Any]] = field(default_factory=list)
    summary: str = "mean"
    draw: str = "bench.report.figures.draw"

    @classmethod
    def of(cls, benchmark: str) -> "ReportSpec":
        """Return what `configs/benchmark/<benchmark>.yaml` says."""
        config = plain(compose([f"benchmark={benchmark}"]))["benchmark"]
        given, allowed = f"the benchmark {benchmark}", "one with a key benchmark.report"
        require("report" in config, given, allowed)
        return cls(**config["report"])

    @cached_property
    def published_values(self) -> pd.DataFrame:
        """The published values, indexed by section and rows; empty if there are none."""
        keys = [self.section, *self.rows]
        if not self.published:
            return pd.DataFrame(columns=[*keys, *self.metrics]).set_index(keys)
        return pd.read_csv(PUBLISHED / self.published, comment="#").set_index(keys)

    def label(self, column: str) -> str:
        """Return the words for a column."""
        return self.labels.get(column, column.rpartition(".")[2].replace("_", " "))
