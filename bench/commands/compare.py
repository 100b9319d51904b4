"""Print paired comparisons."""

import click

from bench.commands.common import config_dir, overrides, print_frame
from bench.commands.reading import conditions, folders, read, source
from bench.core.errors import require
from bench.report import tables
from bench.report.compare import as_text, compare, compare_published
from bench.report.report_config import ReportConfig


@click.command(
    epilog="Example: rankbench compare tensor_rank --by variant --metric train_error"
    " --where model.rank=5"
)
@click.argument("name")
@click.option("--by", "factor", metavar="FACTOR", help="A configuration column.")
@click.option("--metric", required=True, help="A metric, such as train_error.")
@click.option(
    "--reference",
    metavar="VALUE",
    help="The factor's value to compare with (default: the first), or `published`: every row of"
    " the table with its published value, without --by.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "csv", "latex"]),
    help="How the table is written; by default as wide as the terminal.",
)
@conditions
@source
@config_dir
@overrides
@click.pass_context
def command(
    context: click.Context,
    name: str,
    factor: str | None,
    metric: str,
    reference: str | None,
    form: str | None,
    conditions: tuple[str, ...],
    source: str,
    overrides: tuple[str, ...],
) -> None:
    """Compare runs that differ in one factor: paired differences with intervals."""
    expected = "--by with a factor, as --by variant, or --reference published"
    named = factor or reference == "published"
    require(bool(named), "`rankbench compare` without --by", expected)
    results, config = read(name, source, folders(overrides))
    if reference == "published":
        result = compare_published(results.frame, config, metric, factor, conditions)
    else:
        result = compare(results.frame, config, str(factor), metric, reference, conditions)
    title, text = f"{metric} by {factor or 'row'}", as_text(result)
    if form == "csv":
        click.echo(tables.as_csv(result), nl=False)
    elif form == "latex":
        click.echo(tables.as_latex(text, 1, f"{title}. {_note(config, reference)}"))
    elif form == "markdown":
        click.echo(f"{tables.as_markdown(text)}\n\n{_note(config, reference)}")
    else:
        print_frame(text, title)
        click.echo(_note(config, reference))
    context.exit(1 if (result.refused != "").all() else 0)


def _note(config: ReportConfig, reference: str | None) -> str:
    """Say what the numbers are."""
    over = " and ".join(map(config.label, config.over))
    pairs = "a run and the published value" if reference == "published" else f"over {over}"
    unit = f"means over each {config.label(config.unit)}" if config.unit else "pairs"
    return (
        f"Pairs: {pairs}. Intervals (95 %) and tests are those of the {unit}: t intervals, of the"
        " logarithm for ratios. p: paired t test; exact: sign flips. Both with Benjamini and"
        " Hochberg's correction within each section, or as the benchmark's families say."
    )
