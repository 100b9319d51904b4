"""List runs, and remove some."""

import shutil
from pathlib import Path

import click
import pandas as pd

from bench.commands.common import config_dir, overrides, print_damaged, print_frame
from bench.commands.reading import conditions, folders
from bench.core.errors import UserError, require
from bench.core.words import counted
from bench.report.compare import where
from bench.store.results import MISSING, Results
from bench.store.run_locks import RunLocks


@click.command(epilog="Example: rankbench runs --where status=failed --remove")
@conditions
@click.option("--remove", is_flag=True, help="Remove them, with their weights and W&B files.")
@click.option("--verify", is_flag=True, help="Compare each record with its W&B file.")
@overrides
@config_dir
def command(
    conditions: tuple[str, ...], remove: bool, verify: bool, overrides: tuple[str, ...]
) -> int:
    """List the recorded runs with their status."""
    require(bool(conditions) or not remove, "--remove without --where", "the runs to remove")
    require(not (remove and verify), "--remove with --verify", "one of the two")
    runs_dir = Path(folders(overrides)["runs_dir"])
    results = Results.from_runs(runs_dir)
    print_damaged(results)
    if results.frame.empty:
        raise UserError(f"runs_dir={runs_dir} without records", "a folder with recorded runs")
    frame = where(results.frame, conditions)
    keys = [name for name in ("benchmark", "data.name", "variant") if name in frame]
    groups = frame.groupby([*keys, "status"], dropna=False)
    counts = groups.size().unstack(fill_value=0).reset_index()
    print_frame(counts.astype(str), f"{counted(len(frame), 'run')} in {runs_dir}")
    problems = []
    if remove:
        _remove(runs_dir, frame.loc[frame.status != MISSING])
    if verify:
        from bench.store.wandb_files import verify_records  # only this option needs W&B

        problems = verify_records(runs_dir)
        print("".join(f"{problem}\n" for problem in problems), end="")
        print(f"{counted(len(frame), 'run')} verified, {counted(len(problems), 'problem')}")
    return 1 if problems or results.damaged else 0


def _remove(runs_dir: Path, frame: pd.DataFrame) -> None:
    """Remove the folders of runs, but of none that another process trains right now."""
    removed = 0
    for benchmark, runs in frame.groupby("benchmark"):
        with RunLocks(runs_dir / str(benchmark)) as locks:
            locks.take([*runs.index])
            for key in locks.attempts:
                shutil.rmtree(locks.folder / key)
            removed += len(locks.attempts)
    left = len(frame) - removed
    print(f"{counted(removed, 'run')} removed{f'; {left} being trained' if left else ''}")
