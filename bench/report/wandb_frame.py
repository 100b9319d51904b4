"""Recorded runs as one tidy table, from W&B's files alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from bench.report.frame import MISSING, row_of
from bench.tracking.wandb_runs import number, read_wandb_file, wandb_file


def load_wandb_runs(runs_dir: str | Path, benchmark: str) -> pd.DataFrame:
    """Load the runs of a benchmark from W&B's files alone: no record is read.

    Returns
    -------
    DataFrame
        As of `load_runs`, without `stacked_with` and `created`. A run that was killed is
        ``"missing"``; runs that were planned and never begun are not there.
    """
    folders = sorted(path for path in Path(runs_dir).glob(f"{benchmark}/[!.]*") if path.is_dir())
    files = [file for file in map(wandb_file, folders) if file]
    with ThreadPoolExecutor(4) as pool:
        stored = list(pool.map(read_wandb_file, files))
    rows = {}
    for file, run in zip(files, stored, strict=True):
        config = {name: v for name, v in run["config"].items() if name != "_wandb"}
        summary = {name: number(value) for name, value in run["summary"].items()}
        key, attempt = config.pop("run_key", file.parents[2].name), config.pop("attempt", None)
        curve = [{name: number(v) for name, v in point.items()} for point in run["history"]]
        rows[key] = row_of({
            "benchmark": run["group"],
            "status": summary.pop("status", MISSING),
            "attempt": attempt,
            "wall_time_s": summary.pop("wall_time_s", None),
            "wandb": {"path": file.parent.relative_to(file.parents[2]).as_posix()},
            "config": config,
            "metrics": {
                name: value
                for name, value in summary.items()
                if isinstance(value, int | float) and not name.startswith("_")
            },
            "curve": curve,
        })  # fmt: skip
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run_key")
    frame.attrs["damaged"] = []
    return frame
