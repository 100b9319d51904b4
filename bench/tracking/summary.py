"""A benchmark's figure and table as a W&B run of their own."""

import shutil
import sys
from pathlib import Path

import pandas as pd
import wandb

from bench.tracking.place import Place
from bench.tracking.wandb_runs import open_run


def log_summary(place: Place, folder: Path) -> None:
    """Log a benchmark's figure and table as one more W&B run of its group, the newest only.

    They are written already: if W&B cannot be reached any more, that is said, and all.
    """
    if place.mode == "disabled":
        return
    try:
        _log_figure_and_table(place, folder)
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"W&B has no run of the figure and the table: {told}", file=sys.stderr)


def _log_figure_and_table(place: Place, folder: Path) -> None:
    own = place.folder / ".summary"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    run = open_run(
        own,
        place.tracking,
        mode=place.mode,
        benchmark=place.benchmark,
        job_type="summary",
        name=f"{place.benchmark} summary",
        step=None,
        values={},
    )
    table = wandb.Table(dataframe=pd.read_csv(folder / "table.csv"))
    run.log({"figure": wandb.Image(str(folder / "figure.png")), "table": table})
    run.finish()
