"""Upload runs."""

from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from bench.commands.common import config_dir, overrides, report
from bench.commands.reading import folders
from bench.core.errors import require
from bench.store import sync
from bench.store.wandb_runs import offline_reason


@click.command(epilog="Example: rankbench sync runs_dir=runs")
@overrides
@config_dir
def command(overrides: tuple[str, ...]) -> int:
    """Upload the runs that are offline to W&B, with W&B's own `wandb sync`."""
    runs_dir = Path(folders(overrides)["runs_dir"])
    require(runs_dir.is_dir(), f"runs_dir={runs_dir}", "a folder of recorded runs")
    files = sync.offline_runs(runs_dir)
    if not files:
        print(f"nothing to upload: no offline run in {runs_dir} that W&B does not have")
        return 0
    reason = offline_reason()
    require(not reason, f"`rankbench sync` while {reason}", "a W&B key and a server that answers")
    with Progress(console=Console(stderr=True)) as display:
        task = display.add_task("uploading to W&B", total=len(files))
        failed = sync.sync(files, lambda count: display.advance(task, count))
    for path, message in failed.items():
        report(f"not uploaded: {path.parents[2].relative_to(runs_dir)}: {message}")
    print(f"{len(files) - len(failed)} of {len(files)} runs uploaded")
    return 1 if failed else 0
