"""What the commands that train share."""

import os
from collections.abc import Callable
from typing import Any

import click
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from bench.commands.common import report
from bench.core.cell import Cell
from bench.core.errors import require
from bench.core.files import require_writable
from bench.core.words import counted
from bench.execute.estimate import estimated_memory, estimated_time
from bench.execute.launch import is_slurm, launch
from bench.execute.work import Work
from bench.plan import Plan, stacks
from bench.store.location import RunLocation
from bench.store.record import write_plan
from bench.store.results import Results


def preview(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command show what it would train: `--cfg job`, as of Hydra's, and `--dry-run`."""
    cfg = click.option("--cfg", type=click.Choice(["job"]), help="Print the configuration only.")
    dry = click.option("--dry-run", is_flag=True, help="Print cells, stacks, memory and time only.")
    return cfg(dry(function))


def previewed(plan: Plan, cfg: str | None, dry_run: bool) -> bool:
    """Print what was asked for instead of training; return whether anything was."""
    if cfg:
        print(yaml.safe_dump(plan.config, sort_keys=False), end="")
    if dry_run:
        divided = stacks(plan.cells, plan.sweep.max_memory, -(-len(plan.cells) // plan.sweep.jobs))
        print("\n".join(_describe(stack) for stack in divided))
        cells, jobs = counted(len(plan.cells), "cell"), plan.sweep.jobs
        print(f"{cells} in {counted(len(divided), 'stack')}, {jobs} at a time")
        print(f"estimated memory: {estimated_memory(divided)}, with the libraries'")
        print(estimated_time(plan))
    return bool(cfg or dry_run)


def _describe(stack: list[Cell]) -> str:
    first = stack[0]
    gigabytes = first.learner.memory(stack) / 1e9
    variants = ", ".join(dict.fromkeys(cell.variant for cell in stack))
    return f"{len(stack):5} cells {gigabytes:7.3f} GB  {first.data.name}  {variants}"


def benchmarked(plan: Plan) -> tuple[Work, Results]:
    """Train the cells of a benchmark that are not recorded yet; return all of its results."""
    location = locate(plan, len(plan.cells) + 1)
    require_writable(plan.results_dir / plan.benchmark, "results_dir")
    results = Results.from_runs(plan.runs_dir, plan.benchmark)
    work = Work(plan.cells, location, plan.sweep, plan.launcher, results.finished())
    pending, divided = work.pending(), work.stacks()
    needed = f" in {counted(len(divided), 'stack')}, {estimated_memory(divided)}" if pending else ""
    report(f"{plan.benchmark}: {counted(len(work.cells), 'cell')}, {len(pending)} to run{needed}")
    write_plan(location.folder, plan.command, {cell.run_key: cell.config for cell in plan.cells})
    if pending:
        train(work, len(pending))
        results = Results.from_runs(plan.runs_dir, plan.benchmark)
    for line in work.failures():
        report(f"rankbench: {line}")
    return work, results


def locate(plan: Plan, wandb_runs: int) -> RunLocation:
    """Return where a plan's runs are recorded, once it is known that they can be.

    Parameters
    ----------
    plan : Plan
        What is asked for.
    wandb_runs : int
        How many W&B runs that takes.
    """
    given, run_id = f"WANDB_RUN_ID with {wandb_runs} W&B runs", os.environ.get("WANDB_RUN_ID")
    require(wandb_runs == 1 or not run_id, given, "one run", "unset WANDB_RUN_ID")
    is_slurm(plan.launcher)  # or it is another launcher that can be used
    require_writable(plan.runs_dir / plan.benchmark, "runs_dir")
    return RunLocation(plan.runs_dir, plan.benchmark, plan.tracking.reachable(), plan.command)


def train(work: Work, total: int) -> None:
    """Train the pending cells, `total` in number, under one progress display."""
    columns = ["{task.description}", BarColumn(), "{task.fields[cells]} cells"]
    columns += [TimeElapsedColumn(), "left", TimeRemainingColumn(), "{task.fields[loss]}"]
    with Progress(*columns, console=Console(stderr=True)) as display:
        task = display.add_task(work.location.benchmark, total=total, cells=f"0/{total}", loss="")

        def on_progress(done: float, ended: int, loss: float) -> None:
            display.update(task, completed=done, cells=f"{ended}/{total}")
            if loss == loss:  # not NaN, as it is when nothing trains in this process
                display.update(task, loss=f"loss {loss:.3g}")

        launch(work, on_progress)
