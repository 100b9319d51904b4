"""Print a benchmark's table."""

from dataclasses import replace

import click

from bench.commands.reading import folders, read, reads_runs, written
from bench.core.errors import require
from bench.report import tables
from bench.report.claims import outcomes
from bench.report.report_config import ReportConfig
from bench.store.results import metric_columns


@click.command(epilog="Example: rankbench table tensor_rank --columns test_error,parameters")
@click.option("--columns", metavar="A,B,...", help="Metrics to show in place of the benchmark's.")
@reads_runs
@written("markdown")
def command(
    name: str,
    columns: str | None,
    form: str,
    conditions: tuple[str, ...],
    source: str,
    overrides: tuple[str, ...],
) -> None:
    """Print a benchmark's table from its recorded runs, and what has come of its claims."""
    results, config = read(name, source, folders(overrides), conditions)
    claims = outcomes(tables.sections(results.frame, config), config, results.curves)
    if columns is not None:
        shown = [name for name in metric_columns(results.frame) if name not in config.rows]
        config = _with_columns(config, columns.split(","), shown)
    parts = tables.sections(results.frame, config)
    write = {"markdown": tables.markdown, "csv": tables.csv, "latex": tables.latex}[form]
    click.echo(write(parts, config, claims), nl=False)


def _with_columns(config: ReportConfig, columns: list[str], known: list[str]) -> ReportConfig:
    """Return a report that shows these metrics in one table."""
    for column in columns:
        require(column in known, f"--columns {column}", f"some of {', '.join(known)}")
    require(len({*columns}) == len(columns), f"--columns {','.join(columns)}", "each of them once")
    return replace(config, metrics=tuple(columns), questions={})
