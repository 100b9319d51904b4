"""The verbs that write results, and the one that uploads runs."""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import Progress

from bench.config import compose, plain, require_benchmark, results_folder
from bench.errors import require
from bench.report.page import render
from bench.report.publish import publish, publish_all
from bench.tracking import sync as uploads
from bench.tracking.place import Place
from bench.tracking.records import record_paths, require_writable, write_atomically
from bench.tracking.summary import log_summary
from bench.tracking.wandb_runs import reachable_mode
from bench.verbs.output import say


def figure(arguments: argparse.Namespace) -> int:
    """Write a benchmark's figure and all its other results."""
    require_benchmark(arguments.name)
    config = plain(compose(arguments.overrides))
    place = reachable(replace(Place.of(config), benchmark=arguments.name))
    print(write_results(place, results_folder(config)))
    return 0


def write_results(place: Place, results_dir: Path) -> Path:
    """Write a benchmark's results, and log them to W&B; return the figure's path."""
    path = publish(place.benchmark, place.runs_dir, results_dir)
    log_summary(place, path.parent)
    return path


def reachable(place: Place) -> Place:
    """Return the place with the W&B mode that is possible; say why if it is another."""
    mode, reason = reachable_mode(place.tracking.mode)
    if reason:
        say(f"tracking.mode=online is not possible: {reason}; runs are kept offline")
    return replace(place, mode=mode)


def report(arguments: argparse.Namespace) -> int:
    """Write the page of all results, from recorded runs or from a results folder."""
    config = plain(compose(arguments.overrides))
    runs_dir, results_dir = Path(config["runs_dir"]), Path(config["results_dir"] or "results")
    source = arguments.source or ("runs" if any(record_paths(runs_dir)) else "results")
    folder = results_dir if source == "results" else results_folder(config)
    require_writable(folder, "results_dir")
    errors = []
    if source == "results":
        text = render(results_dir)
    else:
        with TemporaryDirectory() as temporary:
            errors = publish_all(runs_dir, Path(temporary), say)
            text = render(Path(temporary))
    path = folder / "index.html"
    write_atomically(path, text.encode())
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, from the {source}")
    return 1 if errors else 0


def sync(arguments: argparse.Namespace) -> int:
    """Upload the runs that are offline; say which were not."""
    runs_dir = Path(plain(compose(arguments.overrides))["runs_dir"])
    files = uploads.offline_runs(runs_dir)
    if not files:
        print(f"nothing to upload: no offline run in {runs_dir} that W&B does not have")
        return 0
    _, reason = reachable_mode("online")
    require(not reason, f"`rankbench sync` while {reason}", "a W&B key and a server that answers")
    with Progress(console=Console(stderr=True)) as display:
        task = display.add_task("uploading to W&B", total=len(files))
        failed = uploads.sync(files, lambda count: display.advance(task, count))
    for path, said in failed.items():
        say(f"not uploaded: {path.parents[2].relative_to(runs_dir)}: {said}")
    print(f"{len(files) - len(failed)} of {len(files)} runs uploaded")
    return 1 if failed else 0
