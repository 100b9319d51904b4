"""Write a benchmark's results folder."""

from pathlib import Path

import click

from bench.commands.reading import folders, read, reads_runs
from bench.core.settings import load
from bench.report.publish import publish
from bench.store.location import RunLocation
from bench.store.results import RUNS_FILE, Results
from bench.store.summary import log_summary


@click.command(epilog="Example: rankbench figure tensor_rank --add results_dir=results")
@click.option(
    "--add", is_flag=True, help="Keep the runs that the results folder holds, beside these."
)
@reads_runs
def command(
    name: str, add: bool, conditions: tuple[str, ...], source: str, overrides: tuple[str, ...]
) -> None:
    """Write a benchmark's figure and tables from its recorded runs."""
    settings = folders(overrides, ("tracking",))
    results, config = read(name, source, settings, conditions)
    default = "results" if source == "results" else settings["runs_dir"]
    folder = Path(settings["results_dir"] or default) / name
    if add and (folder / RUNS_FILE).is_file():
        results = Results.from_folder(folder) | results
    click.echo(publish(results, config, folder))
    tracking = load(settings["tracking"], "tracking").reachable()
    log_summary(RunLocation(Path(settings["runs_dir"]), name, tracking), folder)
