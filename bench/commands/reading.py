"""What the commands that read runs share."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench.commands.common import print_damaged
from bench.configuration import compose, parse, require_benchmark
from bench.core.errors import require
from bench.report.compare import where
from bench.report.report_config import ReportConfig
from bench.store.results import Results, require_runs

source = click.option(
    "--from",
    "source",
    type=click.Choice(["records", "wandb", "results"]),
    default="records",
    help="What the runs are read from: their records (default), W&B's files alone, or the folder"
    " of results.",
)
conditions = click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only such runs, as in `--where model.rank=5`; may be repeated.",
)


def folders(overrides: Sequence[str], also: Sequence[str] = ()) -> dict[str, Any]:
    """Return the configuration; raise `UserError` if overrides set more than where things are."""
    known = ("runs_dir", "results_dir", *also)
    for override in parse(overrides):
        group = override.key_or_group.partition(".")[0]
        expected = f"one of {', '.join(known)}"
        require(group in known, str(override.input_line), expected, "--where selects runs")
    return compose(overrides)


def read(name: str, source: str, config: dict[str, Any]) -> tuple[Results, ReportConfig]:
    """Return the runs of a benchmark and its report; print what could not be read."""
    require_benchmark(name)
    report = ReportConfig.of(name)
    if source == "results":
        results = Results.from_folder(Path(config["results_dir"] or "results") / name)
    elif source == "wandb":
        from bench.store.wandb_results import load_wandb_results  # needs W&B

        results = load_wandb_results(Path(config["runs_dir"]), name)
    else:
        results = Results.from_runs(config["runs_dir"], name)
    print_damaged(results)
    require_runs(results.frame, name)
    return results, report


def select(results: Results, conditions: Sequence[str]) -> Results:
    """Return the results of the runs for which all conditions hold."""
    return replace(results, frame=where(results.frame, conditions)) if conditions else results
