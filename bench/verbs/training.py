"""The verbs that train."""

import argparse
import shlex
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import sweep as sweeps
from bench.config import Cell, compose, plain, scientific
from bench.launch import launch
from bench.run import Settings
from bench.run import run as run_cells
from bench.tracking.claims import Held
from bench.verbs.output import say
from bench.verbs.publishing import reachable, write_results
from bench.verbs.reading import print_table

LOCATIONS = ("runs_dir=", "results_dir=", "data.root=", "hydra", "sweep.jobs=")


def bench(arguments: argparse.Namespace) -> int:
    """Run a benchmark's pending cells, then print its table and name its figure."""
    sweep = sweeps.prepare(arguments.name, arguments.overrides)
    place = reachable(sweep.settings.place)
    sweep.settings = replace(sweep.settings, place=place)
    pending, stacks = len(sweep.pending()), len(sweep.stacks())
    say(f"{arguments.name}: {len(sweep.cells)} cells, {pending} to run in {stacks} stacks")
    # Where things lie and run is nobody else's business.
    words = [word for word in arguments.overrides if not word.startswith(LOCATIONS)]
    sweep.write_plan(shlex.join(["rankbench", "bench", arguments.name, *words]))
    _launch(sweep, pending)
    errors = sweep.failures()
    for error in errors:
        say(f"rankbench: {error}")
    print_table(arguments.name, place.runs_dir)
    print(f"\nfigure: {write_results(place, sweep.results_dir)}\nruns:   {place.folder}")
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
    settings = replace(settings, place=reachable(settings.place))
    folder = settings.place.folder / cell.run_key
    if cell.run_key in sweeps.recorded([cell], settings):
        print(f"already recorded: {folder}")
        return 0
    try:
        learner = run_cells([cell], settings)
    except Held as held:
        say(f"{held}; call again when it has ended")
        return 1
    (outcome,) = learner.outcomes
    if outcome is None:
        return 1
    numbers = "  ".join(f"{name} {value:.6g}" for name, value in outcome.metrics.items())
    print(f"{outcome.status}  {numbers}\nrun: {folder}")
    return 0
