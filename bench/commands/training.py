"""What the commands that train share."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.commands.common import reachable
from bench.core.files import require_writable
from bench.execute.launch import launch
from bench.execute.work import Work
from bench.plan import Plan
from bench.store.location import RunLocation


def locate(plan: Plan) -> RunLocation:
    """Return where a plan's runs are recorded, once it is known that they can be."""
    require_writable(plan.runs_dir / plan.benchmark, "runs_dir")
    return RunLocation(plan.runs_dir, plan.benchmark, reachable(plan.tracking), plan.command)


def train(work: Work, total: int) -> None:
    """Train the pending cells, `total` in number, under one progress display."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[cells]} cells"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.3g}"),
    ]
    with Progress(*columns, console=Console(stderr=True)) as display:
        name, nan = work.location.benchmark, float("nan")
        task = display.add_task(name, total=total, cells=f"0/{total}", loss=nan)

        def on_progress(done: float, ended: int, loss: float) -> None:
            display.update(task, completed=done, cells=f"{ended}/{total}")
            if loss == loss:  # not NaN, as it is when nothing trains in this process
                display.update(task, loss=loss)

        launch(work, on_progress)
