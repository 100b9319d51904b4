"""Print a benchmark's table."""

import click

from bench.commands.reading import folders, read, reads_runs, written
from bench.report import tables
from bench.report.claims import outcomes


@click.command(epilog="Example: rankbench table tensor_rank --format latex")
@reads_runs
@written("markdown")
def command(
    name: str, form: str, conditions: tuple[str, ...], source: str, overrides: tuple[str, ...]
) -> None:
    """Print a benchmark's table from its recorded runs, and what has come of its claims."""
    results, config = read(name, source, folders(overrides), conditions)
    parts = tables.sections(results.frame, config)
    write = {"markdown": tables.markdown, "csv": tables.csv, "latex": tables.latex}[form]
    click.echo(write(parts, config, outcomes(parts, config, results.curves)), nl=False)
