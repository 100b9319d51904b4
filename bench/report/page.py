"""One self-contained HTML page of all results: no server, no network, no file beside it."""

import shlex
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.core.errors import UserError
from bench.report import tables
from bench.report.claims import findings
from bench.report.compare import EXPERIMENT, as_text, beside_published, compare
from bench.report.publish import provenance
from bench.report.report_config import ReportConfig
from bench.store.results import Results, config_columns, usable

MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Chapter:
    """What the page shows of one folder of runs.

    Parameters
    ----------
    name : str
        Its name on the page, such as ``"ten_classes/hierarchical"``.
    results : Results
        The runs.
    config : ReportConfig, optional
        The report of their benchmark; runs without one are listed and no more.
    figure : str
        The figure as a data URI; empty if there is none.
    """

    name: str
    results: Results
    config: ReportConfig | None = None
    figure: str = ""

    @property
    def benchmark(self) -> str:
        """The benchmark that the runs belong to."""
        return self.name.rpartition("/")[2]


class Grid(NamedTuple):
    """A table of text, with what it shows and what stands below it."""

    title: str
    frame: pd.DataFrame
    notes: list[str]


def render(chapters: Sequence[Chapter]) -> str:
    """Return the page as HTML."""
    options = {"autoescape": True, "undefined": StrictUndefined}
    options |= {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("bench.report", "."), **options)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    frames = [chapter.results.frame for chapter in chapters]
    shared = pd.concat([frame.reindex(columns=["created", "status"]) for frame in frames])
    made = shared.created.dropna()
    return environment.get_template("page.html.jinja").render(
        chapters=[_shown(chapter, chapter.config) for chapter in chapters if chapter.config],
        status=shared.status.value_counts().to_dict(),
        made=(made.min(), made.max()) if len(made) else None,
        runs=_listed(chapters),
    )


def data_uri(folder: Path) -> str:
    """Return the smaller image of a folder's figure as a URI; empty if there is none."""
    paths = [path for suffix in MEDIA if (path := folder / f"figure{suffix}").is_file()]
    if not paths:
        return ""
    path = min(paths, key=lambda path: path.stat().st_size)
    return f"data:{MEDIA[path.suffix]};base64,{b64encode(path.read_bytes()).decode()}"


def _shown(chapter: Chapter, config: ReportConfig) -> dict[str, Any]:
    """Return what the template shows of a chapter."""
    frame, curves = chapter.results.frame, chapter.results.curves
    parts, left = tables.without_leftovers(tables.sections(frame, config))
    done = sum(int(usable(part.runs).sum()) for part in parts)
    counted = f"{done} of {sum(len(part.runs) for part in parts)} runs done."
    return {
        **vars(chapter),
        "benchmark": chapter.benchmark,
        "caption": f"{'; '.join(part.title for part in parts)}. {counted}",
        "tables": [Grid(*grid) for part in parts for grid in tables.grids(part, config)],
        "comparisons": [*_comparisons(chapter, parts, config)],
        "findings": findings(parts, config, curves),
        "provenance": provenance(frame, chapter.benchmark),
        "left_out": [*left, *chapter.results.damaged],
    }


def _comparisons(
    chapter: Chapter, parts: list[tables.Section], config: ReportConfig
) -> Iterator[Grid]:
    """Compare, within each section, the values of what the figure tells apart; then published ones.

    The metric is the first that the section's runs have.
    """
    frame, shown = chapter.results.frame, [*config.metrics]
    for part in parts:
        measured = [metric for metric in shown if part.rows[metric].notna().any()]
        factors = [column for column in (config.hue, config.x) if part.runs[column].nunique() > 1]
        if measured and factors:
            condition = f"{config.section}={part.runs[config.section].iloc[0]}"
            words = ["--by", factors[0], "--metric", measured[0], "--where", condition]
            with suppress(UserError):  # no two runs of the section agree
                result = compare(part.runs, config, factors[0], measured[0])
                yield _compared(result, config, [chapter.benchmark, *words])
    known = [name for name in shown if name in config.published_values and name in frame]
    if config.published and known:
        words = ["--reference", "published", "--metric", known[0]]
        with suppress(UserError):  # nothing is published for these settings
            both = beside_published(frame, config, known[0])
            result = compare(both, config, EXPERIMENT, known[0], "published")
            yield _compared(result, config, [chapter.benchmark, *words])


def _compared(result: pd.DataFrame, config: ReportConfig, words: list[str]) -> Grid:
    """Return the comparisons that have numbers, and the count of those refused."""
    refused = result[result.refused != ""].refused.value_counts()
    notes = [f"{count} of {len(result)} refused: {reason}." for reason, count in refused.items()]
    text, same = as_text(result[result.refused == ""], config)
    command = shlex.join(["rankbench", "compare", *words])
    return Grid(command, text, [*filter(None, [same]), *notes])


def _listed(chapters: Sequence[Chapter]) -> list[list[Any]]:
    """Return the rows of the table of all runs."""
    rows = []
    for chapter in chapters:
        frame = chapter.results.frame
        listed = chapter.config.metrics if chapter.config else ("train_error", "test_error")
        listed = [metric for metric in listed if metric in frame]
        runs = frame.to_dict("records")
        for key, setting, run in zip(frame.index, _settings(frame), runs, strict=True):
            shown = {name: _short(run[name]) for name in listed if run[name] == run[name]}
            row = [chapter.name, run["data.name"], setting, run["status"], shown]
            path = run["wandb_path"]
            rows.append([*row, _short(run["wall_time_s"]), path if path == path else "", key])
    return rows


def _settings(frame: pd.DataFrame) -> list[str]:
    """Return in words what tells each run of a benchmark from the others."""
    names = [name for name in config_columns(frame) if name != "data.name"]
    names = [name for name in names if frame[name].nunique(dropna=False) > 1]
    last = {name: name.removesuffix(".name").rpartition(".")[2] for name in names}
    return [
        " ".join(f"{last[name]}={value}" for name, value in run.items() if value == value)
        for run in frame[names].to_dict("records")
    ]


def _short(value: float) -> float | str | None:
    if value != value:
        return None
    return float(f"{value:.5g}") if np.isfinite(value) else str(value)
