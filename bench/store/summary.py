"""A benchmark's figure and table as a W&B run of their own."""

import hashlib
import shutil
import sys
from pathlib import Path

import pandas as pd

from bench.store.location import RunLocation
from bench.store.wandb_runs import open_run

LOGGED_FILE = "logged"  # what the summary's W&B run holds: mode and SHA-256 of the table


def log_summary(location: RunLocation, folder: Path) -> None:
    """Log a benchmark's figure and table as one more W&B run of its group, the newest only.

    They are written already: if W&B cannot be reached any more, that is only reported. A table that
    has been logged is not logged again.
    """
    if location.tracking.mode == "disabled":
        return
    own = location.folder / ".summary"
    digest = hashlib.sha256((folder / "table.csv").read_bytes()).hexdigest()
    text = f"{location.tracking.mode} {digest}"
    try:
        if (own / LOGGED_FILE).is_file() and (own / LOGGED_FILE).read_text() == text:
            return
        import wandb

        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        named = {"group": location.benchmark, "name": f"{location.benchmark} summary"}
        run = open_run(own, location.tracking, **named, job_type="summary")
        table = wandb.Table(dataframe=pd.read_csv(folder / "table.csv"))
        run.log({"figure": wandb.Image(str(folder / "figure.png")), "table": table})
        run.finish()
        (own / LOGGED_FILE).write_text(text)
    except Exception as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"W&B has no run of the figure and the table: {message}", file=sys.stderr)
