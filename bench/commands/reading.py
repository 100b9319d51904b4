"""What the commands that read runs share."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench.commands.common import config_dir, overrides, print_damaged
from bench.configuration import compose, parse, require_benchmark
from bench.core.errors import require
from bench.report.compare import where
from bench.report.report_config import ReportConfig
from bench.store.results import Results, require_runs

conditions = click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only such runs, as in `--where model.rank=5`; may be repeated.",
)


def reads_runs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take a benchmark, what to read its runs from, and which runs."""
    source = click.option(
        "--from",
        "source",
        type=click.Choice(["records", "wandb", "results"]),
        default="records",
        help="Their records (default), W&B's files alone, or the folder of results.",
    )
    return click.argument("name")(conditions(source(config_dir(overrides(function)))))


def written(default: str | None) -> Callable[..., Any]:
    """Let a command take `--format`."""
    forms = click.Choice(["markdown", "csv", "latex"])
    text = f"How the table is written{'' if default else '; by default as wide as the terminal'}."
    return click.option("--format", "form", type=forms, default=default, help=text)


def folders(overrides: Sequence[str], also: Sequence[str] = ()) -> dict[str, Any]:
    """Return the configuration; raise `UserError` if overrides set more than where things are."""
    known = ("runs_dir", "results_dir", *also)
    for override in parse(overrides):
        group = override.key_or_group.partition(".")[0]
        expected = f"one of {', '.join(known)}"
        require(group in known, str(override.input_line), expected, "--where selects runs")
    return compose(overrides)


def read(
    name: str, source: str, config: dict[str, Any], conditions: Sequence[str] = ()
) -> tuple[Results, ReportConfig]:
    """Return a benchmark's runs that meet the conditions, and its report; say what is damaged."""
    require_benchmark(name)
    report = ReportConfig.of(name)
    if source == "results":
        results = Results.from_folder(Path(config["results_dir"] or "results") / name)
    elif source == "wandb":
        from bench.store.wandb_files import load_wandb_results  # needs W&B

        results = load_wandb_results(Path(config["runs_dir"]), name)
    else:
        results = Results.from_runs(config["runs_dir"], name)
    print_damaged(results)
    require_runs(results.frame, name)
    return replace(results, frame=where(results.frame, conditions)), report
