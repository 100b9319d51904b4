"""Write the page of all results."""

from pathlib import Path
from tempfile import TemporaryDirectory

import click

from bench.commands.common import config_dir, overrides, report
from bench.commands.reading import folders
from bench.configuration import benchmarks
from bench.core.errors import require
from bench.core.files import require_writable, write_atomically
from bench.report import figures
from bench.report.page import Chapter, data_uri, render
from bench.report.publish import plotted
from bench.report.report_config import ReportConfig
from bench.report.tables import sections
from bench.store.results import RUNS_FILE, Results, record_paths


@click.command(epilog="Example: rankbench report --from results")
@click.option(
    "--from",
    "source",
    type=click.Choice(["runs", "results"]),
    help="Recorded runs, or the folder of results (default: runs, if there are any).",
)
@config_dir
@overrides
def command(source: str | None, overrides: tuple[str, ...]) -> int:
    """Write one HTML page of all claims, tables, figures and runs; it needs nothing beside it."""
    settings = folders(overrides)
    runs_dir, results_dir = Path(settings["runs_dir"]), Path(settings["results_dir"] or "results")
    paths = record_paths(runs_dir)
    source = source or ("runs" if paths else "results")
    from_runs = source == "runs"
    errors: list[str] = []
    if from_runs:
        found = sorted({path.parents[1] for path in paths})
    else:
        found = [path.parent for path in sorted(results_dir.rglob(RUNS_FILE))]
    given = f"{runs_dir if from_runs else results_dir} without results"
    hint = "run `rankbench bench tensor_rank` first, or set runs_dir or results_dir"
    require(bool(found), given, "a folder of runs or of results", hint)
    folder = Path(settings["results_dir"] or runs_dir) if from_runs else results_dir
    require_writable(folder, "results_dir")
    if from_runs:
        chapters = [_chapter_of_runs(runs_dir, path.name, errors) for path in found]
    else:
        chapters = [_chapter_of_results(path, results_dir) for path in found]
    page = folder / "index.html"
    write_atomically(page, render(chapters).encode())
    for error in errors:
        report(error)
    click.echo(f"{page}: {page.stat().st_size / 1e6:.2f} MB, from the {source}")
    return int(bool(errors))


def _chapter_of_results(folder: Path, results_dir: Path) -> Chapter:
    """Read the results of one benchmark with their figure."""
    name = folder.relative_to(results_dir).as_posix()
    return Chapter(name, Results.from_folder(folder), _config(folder.name), data_uri(folder))


def _chapter_of_runs(runs_dir: Path, name: str, errors: list[str]) -> Chapter:
    """Read and plot the runs of one benchmark.

    A figure that cannot be plotted yet, as in the middle of a sweep, is named in `errors`. Runs of
    `rankbench run` belong to no benchmark: they are listed and no more.
    """
    report(f"{name} ...")
    results = Results.from_runs(runs_dir, name)
    config, uri = _config(name), ""
    if config is None or results.frame.empty:
        if name != "single":
            reason = "no record can be read" if config else "there is no such benchmark"
            errors.append(f"{name}: listed only, because {reason}")
        return Chapter(name, results)
    try:
        with TemporaryDirectory() as temporary:
            figure = plotted(sections(results.frame, config), config, results)
            uri = data_uri(figures.save(figure, Path(temporary)).parent)
    except Exception as error:
        message = " ".join(str(error).split())
        errors.append(f"{name}: not plotted ({type(error).__name__}: {message})")
    return Chapter(name, results, config, uri)


def _config(name: str) -> ReportConfig | None:
    """Return a benchmark's report; None if there is no such benchmark."""
    return ReportConfig.of(name) if name in benchmarks() else None
