"""Print a benchmark's table."""

import click

from bench.commands.common import config_dir, overrides
from bench.commands.reading import conditions, folders, read, select, source
from bench.report import tables


@click.command(epilog="Example: rankbench table tensor_rank --format latex")
@click.argument("name")
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "csv", "latex"]),
    default="markdown",
    help="How the table is written.",
)
@conditions
@source
@config_dir
@overrides
def command(
    name: str, form: str, conditions: tuple[str, ...], source: str, overrides: tuple[str, ...]
) -> None:
    """Print a benchmark's table from its recorded runs."""
    results, config = read(name, source, folders(overrides))
    parts = tables.sections(select(results, conditions).frame, config)
    write = {"markdown": tables.markdown, "csv": tables.csv, "latex": tables.latex}[form]
    click.echo(write(parts, config), nl=False)
