"""What each verb of the command line does."""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench import sweep as sweeps
from bench.config import Cell, choices, compose, plain, scientific, typed
from bench.errors import UserError, require
from bench.launch import launch
from bench.perf import report as perf_report
from bench.report import samples, tables
from bench.report.compare import as_text, compare_published, where
from bench.report.compare import compare as compare_runs
from bench.report.frame import load_published, load_runs, load_wandb_runs, require_runs
from bench.report.page import render
from bench.report.publish import log_summary, publish, publish_all
from bench.report.spec import ReportSpec
from bench.run import Settings
from bench.run import run as run_cells
from bench.tracking.claims import Held
from bench.tracking.records import record_paths, require_writable, write_atomically
from bench.tracking.sync import offline_runs
from bench.tracking.sync import sync as upload
from bench.tracking.verify import verify_records
from bench.tracking.wandb_runs import reachable_mode
from data_prep.images import ImageData
from data_prep.labelled_images import LabelledImages
from data_prep.torchvision_images import data_root

IMAGES = (ImageData, LabelledImages)  # the other data are drawn in memory
LOCATIONS = ("runs_dir=", "results_dir=", "data.root=", "hydra", "sweep.jobs=")


def bench(arguments: argparse.Namespace) -> int:
    """Run a benchmark's pending cells, then print its table and name its figure."""
    sweep = sweeps.prepare(arguments.name, arguments.overrides)
    sweep.settings = _with_reachable_tracking(sweep.settings)
    pending, stacks = len(sweep.pending()), len(sweep.stacks())
    _say(f"{arguments.name}: {len(sweep.cells)} cells, {pending} to run in {stacks} stacks")
    # Where things lie and run is nobody else's business.
    words = [word for word in arguments.overrides if not word.startswith(LOCATIONS)]
    sweep.write_plan(shlex.join(["rankbench", "bench", arguments.name, *words]))
    _launch(sweep, pending)
    errors = sweep.failures()
    for error in errors:
        _say(f"rankbench: {error}")
    place = sweep.settings.place
    _print_table(arguments.name, place.runs_dir)
    figure = publish(arguments.name, place.runs_dir, sweep.results_dir)
    log_summary(place, figure.parent)
    print(f"\nfigure: {figure}\nruns:   {place.folder}")
    return 1 if errors else 0


def _launch(sweep: sweeps.Sweep, total: int) -> None:
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[cells]} cells"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.3g}"),
    ]
    with Progress(*columns, console=Console(stderr=True), disable=not total) as display:
        nan = float("nan")
        task = display.add_task(
            sweep.settings.place.benchmark, total=total, cells=f"0/{total}", loss=nan
        )

        def on_progress(done: float, ended: int, loss: float) -> None:
            display.update(task, completed=done, cells=f"{ended}/{total}")
            if loss == loss:  # not NaN, as it is when nothing trains here
                display.update(task, loss=loss)

        launch(sweep, on_progress)


def run(arguments: argparse.Namespace) -> int:
    """Run one configuration, or a Hydra multirun of several."""
    combinations = sweeps.combinations(arguments.overrides, multirun=arguments.multirun)
    configs = [plain(compose(overrides)) for overrides in combinations]
    checked = [_single(config) for config in configs]
    if not arguments.multirun:
        return _run_one(configs[0])
    code = sweeps.hydra_multirun(arguments.overrides, _run_one)
    # A launcher may have run them elsewhere: what counts is what is recorded.
    done = all(sweeps.recorded([cell], settings) for cell, settings in checked)
    return max(code, 0 if done else 1)


def _single(config: dict[str, Any]) -> tuple[Cell, Settings]:
    """Check one configuration."""
    cell, settings = Cell.of(scientific(config)), sweeps.settings_of(config)
    sweeps.check([cell], settings, sweeps.memory_of(config))
    return cell, settings


def _run_one(config: dict[str, Any]) -> int:
    cell, settings = _single(config)
    settings = _with_reachable_tracking(settings)
    folder = settings.place.folder / cell.run_key
    if cell.run_key in sweeps.recorded([cell], settings):
        print(f"already recorded: {folder}")
        return 0
    try:
        learner = run_cells([cell], settings)
    except Held as held:
        _say(f"{held}; call again when it has ended")
        return 1
    (outcome,) = learner.outcomes
    if outcome is None:
        return 1
    numbers = "  ".join(f"{name} {value:.6g}" for name, value in outcome.metrics.items())
    print(f"{outcome.status}  {numbers}\nrun: {folder}")
    return 0


def _with_reachable_tracking(settings: Settings) -> Settings:
    mode, reason = reachable_mode(settings.place.tracking.mode)
    if reason:
        _say(f"tracking.mode=online is not possible: {reason}; runs are kept offline")
    return replace(settings, place=replace(settings.place, mode=mode))


def table(arguments: argparse.Namespace) -> int:
    """Print a benchmark's table."""
    _print_table(arguments.name, _place(arguments), arguments.format, arguments.source)
    return 0


def figure(arguments: argparse.Namespace) -> int:
    """Write a benchmark's figure and all its other results."""
    require_benchmark(arguments.name)
    config = plain(compose(arguments.overrides))
    settings = _with_reachable_tracking(sweeps.settings_of(config))
    place = replace(settings.place, benchmark=arguments.name)
    path = publish(arguments.name, place.runs_dir, sweeps.results_folder(config))
    log_summary(place, path.parent)
    print(path)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write the page of all results, from recorded runs or from a results folder."""
    config = plain(compose(arguments.overrides))
    runs_dir, results_dir = Path(config["runs_dir"]), Path(config["results_dir"] or "results")
    source = arguments.source or ("runs" if any(record_paths(runs_dir)) else "results")
    folder = results_dir if source == "results" else sweeps.results_folder(config)
    require_writable(folder, "results_dir")
    errors = []
    if source == "results":
        text = render(results_dir)
    else:
        with TemporaryDirectory() as temporary:
            errors = publish_all(runs_dir, Path(temporary), _say)
            text = render(Path(temporary))
    path = folder / "index.html"
    write_atomically(path, text.encode())
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, from the {source}")
    return 1 if errors else 0


def sync(arguments: argparse.Namespace) -> int:
    """Upload the runs that are offline; say which were not."""
    runs_dir = _runs_dir(arguments)
    files = offline_runs(runs_dir)
    if not files:
        print(f"nothing to upload: no offline run in {runs_dir} that W&B does not have")
        return 0
    _, reason = reachable_mode("online")
    require(not reason, f"`rankbench sync` while {reason}", "a W&B key and a server that answers")
    with Progress(console=Console(stderr=True)) as display:
        task = display.add_task("uploading to W&B", total=len(files))
        failed = upload(files, lambda count: display.advance(task, count))
    for path, said in failed.items():
        _say(f"not uploaded: {path.parents[2].relative_to(runs_dir)}: {said}")
    print(f"{len(files) - len(failed)} of {len(files)} runs uploaded")
    return 1 if failed else 0


def _runs_dir(arguments: argparse.Namespace) -> Path:
    return Path(plain(compose(arguments.overrides))["runs_dir"])


def _place(arguments: argparse.Namespace) -> Path:
    """Return the folder that the runs are read from."""
    if arguments.source == "results":
        return Path(plain(compose(arguments.overrides))["results_dir"] or "results")
    return _runs_dir(arguments)


def require_benchmark(name: str) -> None:
    """Raise `UserError` unless there is such a benchmark."""
    known = [known for known in choices("benchmark") if known != "single"]
    require(name in known, f"the benchmark {name}", ", ".join(known))


def _loaded(name: str, place: Path, source: str = "records") -> tuple[pd.DataFrame, ReportSpec]:
    require_benchmark(name)
    spec = ReportSpec.of(name)
    readers = {"records": load_runs, "wandb": load_wandb_runs, "results": load_published}
    frame = readers[source](place, name)
    _say_damaged(frame)
    return require_runs(frame, name), spec


def _say_damaged(frame: pd.DataFrame) -> None:
    damaged = frame.attrs["damaged"]
    for line in damaged:
        _say(f"left out: {line}")
    if damaged:
        _say(f"{len(damaged)} files left out, {len(frame)} runs read")


def _print_table(
    name: str, runs_dir: Path, form: str = "markdown", source: str = "records"
) -> None:
    frame, spec = _loaded(name, runs_dir, source)
    print(getattr(tables, form)(tables.sections(frame, spec), spec), end="")


def compare(arguments: argparse.Namespace) -> int:
    """Print paired comparisons."""
    allowed = "--by with a factor, as --by variant, or --reference published"
    named = arguments.by or arguments.reference == "published"
    require(bool(named), "`rankbench compare` without --by", allowed)
    # `--where` takes all words that follow it, so an override may be among them.
    places = ("runs_dir=", "results_dir=")
    conditions = [word for word in arguments.where if not word.startswith(places)]
    arguments.overrides += [word for word in arguments.where if word not in conditions]
    frame, spec = _loaded(arguments.name, _place(arguments), arguments.source)
    chosen = where(frame, conditions)
    factor, metric, reference = arguments.by, arguments.metric, arguments.reference
    if reference == "published":
        result = compare_published(chosen, spec, metric, factor)
        pairs = "Pairs: a run and the published value"
    else:
        result = compare_runs(chosen, spec, factor, metric, reference)
        pairs = f"Pairs over {' and '.join(spec.label(name) for name in spec.over)}"
    _print_frame(as_text(result), f"{metric} by {factor or 'row'}")
    print(
        f"{pairs}. Difference: mean with"
        " t interval. Ratio: mean of the reference over mean of the other, bootstrap interval."
        " p: paired t test, Benjamini-Hochberg corrected."
    )
    return 1 if (result.refused != "").all() else 0


def runs(arguments: argparse.Namespace) -> int:
    """List the recorded runs; with --verify, hold each record against its W&B file."""
    runs_dir = _runs_dir(arguments)
    frame = load_runs(runs_dir)
    _say_damaged(frame)
    if frame.empty:
        raise UserError(f"runs_dir={runs_dir} without records", "a folder with recorded runs")
    keys = [name for name in ("benchmark", "data.name", "variant") if name in frame]
    counts = frame.groupby([*keys, "status"]).size().unstack(fill_value=0).reset_index()
    _print_frame(counts.astype(str), f"{len(frame)} runs in {runs_dir}")
    problems = verify_records(runs_dir) if arguments.verify else []
    for problem in problems:
        print(problem)
    if arguments.verify:
        print(f"{len(frame)} runs verified, {len(problems)} problems")
    return 1 if problems or frame.attrs["damaged"] else 0


def perf(arguments: argparse.Namespace) -> int:
    """Measure speed and print the table."""
    given = f"--rounds {arguments.rounds}"
    require(arguments.rounds >= 1, given, "an integer of at least 1")
    if arguments.out:
        require_writable(Path(arguments.out), "--out")
    measured = perf_report.measure(arguments.rounds)
    _print_frame(measured, "speed")
    if arguments.out:
        command = ["rankbench", "perf", "--rounds", str(arguments.rounds)]
        perf_report.write(measured, Path(arguments.out), command)
    return 0


def data(arguments: argparse.Namespace) -> int:
    """Describe data sets; those asked for by name are downloaded or drawn if they are missing."""
    overrides = arguments.overrides + [word for word in arguments.names if "=" in word]
    asked = [word for word in arguments.names if "=" not in word]
    known = [name for name in choices("data") if isinstance(_images(_with_data(name)), IMAGES)]
    for name in asked:
        require(name in known, f"the data set {name}", ", ".join(known))
    configs = [_with_data(name, *overrides) for name in asked or known]
    for images in map(_images, configs):
        shown = isinstance(images, LabelledImages) or not arguments.show
        require(shown, f"--show with {images.name}", "a task of two classes, by its name")
    rows = [
        _describe(_images(config), config["data"]["root"], download=bool(asked))
        for config in configs
    ]
    _print_frame(pd.DataFrame(rows), "data sets")
    for config in configs if arguments.show else []:
        images, folder = _images(config), sweeps.results_folder(config)
        print(samples.write(images, config["data"]["root"], folder / f"{images.name}_samples.png"))
    return 0


def _with_data(name: str, *overrides: str) -> dict[str, Any]:
    return plain(compose([f"data={name}", *overrides]))


def _images(config: dict[str, Any]) -> Any:
    return typed(config["data"], "data")


def _describe(
    images: ImageData | LabelledImages, root: str | None, *, download: bool
) -> dict[str, str]:
    if isinstance(images, LabelledImages):
        counts, shape, classes = (images.train, images.test), images.image_shape, 2
    else:
        counts, shape, classes = images.COUNTS.values(), [images.SIDE] * 2, images.CLASSES
    row = {
        "name": images.name,
        "train + test": " + ".join(f"{count:,}" for count in counts),
        "size": f"{' x '.join(map(str, shape))}, {classes} classes",
    }
    try:
        files = images.files(root, download=download)
    except UserError as error:
        if download:
            raise
        _say(f"{images.name}: {error}")
        return row | {"state": "missing or damaged", "root": "-", "SHA-256": "-"}
    checksums = "\n".join(f"{path.name} {digest[:16]}..." for path, digest in files)
    place = str(data_root(root)) if files else "inside scikit-learn"
    return row | {"state": "verified", "root": place, "SHA-256": checksums or "-"}


def _print_frame(frame: pd.DataFrame, title: str) -> None:
    view = Table(title=title, title_justify="left", show_lines=False)
    for column in frame:
        view.add_column(str(column), overflow="fold")
    for row in frame.to_numpy().tolist():
        view.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 200).print(view)


def _say(text: Any) -> None:
    print(text, file=sys.stderr)
