"""Print paired comparisons."""

from pathlib import Path
from typing import Any

import click
import pandas as pd

from bench.commands.common import print_frame
from bench.commands.reading import folders, read, reads_runs, written
from bench.core.errors import require
from bench.report import tables
from bench.report.compare import EXPERIMENT, as_text, beside_published, compare
from bench.report.report_config import ReportConfig
from bench.store.results import RUNS_FILE


@click.command(
    epilog="Example: rankbench compare tensor_rank --by variant --metric train_error"
    " --where model.rank=5; rankbench compare tensor_rank --by model --metric train_error"
)
@click.option(
    "--by", "factor", metavar="FACTOR", help="A configuration column, or a group such as `model`."
)
@click.option("--metric", required=True, help="A metric, such as train_error.")
@click.option(
    "--reference",
    metavar="VALUE",
    help="The factor's value to compare with (default: the first), or `published`: every row of"
    " the table with its published value, without --by.",
)
@click.option(
    "--against", metavar=EXPERIMENT.upper(), help="Compare with the runs of another experiment."
)
@written(None)
@reads_runs
def command(
    name: str,
    factor: str | None,
    metric: str,
    reference: str | None,
    against: str | None,
    form: str | None,
    conditions: tuple[str, ...],
    source: str,
    overrides: tuple[str, ...],
) -> int:
    """Compare runs in pairs: differences and ratios with intervals, and what else differs."""
    given = [bool(factor), bool(against), reference == "published"]
    said = f"{sum(given)} of the options --by, --against and --reference published"
    require(sum(given) == 1, said, "one of them, such as --by variant")
    settings = folders(overrides)
    results, config = read(name, source, settings)
    frame = results.frame
    if not f"{factor}.".startswith("model."):
        frame, _ = tables.without_baseline(frame, config)
    if against:
        frame, reference = _beside(frame, name, against, source, settings), name
    elif not factor:
        frame = beside_published(frame, config, metric)
    result = compare(frame, config, factor or EXPERIMENT, metric, reference, conditions)
    title = f"{metric} by {factor or EXPERIMENT}"
    text, same = as_text(result, config)
    note = f"{same} {_note(config, reference)}".strip()
    if form == "csv":
        click.echo(tables.as_csv(result), nl=False)
    elif form == "latex":
        click.echo(tables.as_latex(text, f"{title}. {note}"), nl=False)
    elif form == "markdown":
        click.echo(f"{tables.as_markdown(text)}\n\n{note}")
    else:
        print_frame(text, title)
        click.echo(note)
    return int((result.refused != "").all())


def _beside(
    frame: pd.DataFrame, name: str, against: str, source: str, settings: dict[str, Any]
) -> pd.DataFrame:
    """Return runs with those of another experiment: a results folder, or their command's."""
    folder = Path(settings["results_dir"] or "results") / against
    if source == "results" and folder.is_dir():
        others = read(name, source, {**settings, "results_dir": str(folder)})[0].frame
    else:
        pattern = rf"experiment=(?:{name}/)?([\w/]+)"
        made_by = frame.command.str.extract(pattern, expand=False).fillna("")
        there = [path.parts[-3] for path in folder.parent.glob(f"*/{name}/{RUNS_FILE}")]
        known = sorted({*made_by, *there} - {""}) or ["none"]
        expected = f"a recorded experiment of {name}: {', '.join(known)}"
        require(against in {*made_by}, f"--against {against}", expected)
        others, frame = frame.loc[made_by == against], frame.loc[made_by != against]
    return pd.concat([frame.assign(experiment=name), others.assign(experiment=against)])


def _note(config: ReportConfig, reference: str | None) -> str:
    """Say what the numbers are."""
    over = " and ".join(map(config.label, config.over))
    pairs = "a run and the published value" if reference == "published" else f"over {over}"
    unit = f"means over each {config.label(config.unit)}" if config.unit else "pairs"
    return (
        f"Pairs: {pairs}. Intervals (95 %) and tests are those of the {unit}: t intervals, of the"
        " logarithm for ratios. p: paired t test; exact: sign flips. Both with Benjamini and"
        " Hochberg's correction within the benchmark's families, in each section."
    )
