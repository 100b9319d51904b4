"""The results of a benchmark from W&B's files alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.store.results import MISSING, Results, flatten, measurements
from bench.store.wandb_runs import BESIDE_CONFIG, number, read_wandb_file, wandb_file


def load_wandb_results(runs_dir: str | Path, benchmark: str) -> Results:
    """Load the runs of a benchmark from W&B's files alone: no record is read.

    Returns
    -------
    Results
        As of `Results.from_runs`, without provenance. A run that was killed is ``"missing"``; runs
        that were planned and never begun are not there.
    """
    folders = sorted(path for path in Path(runs_dir).glob(f"{benchmark}/[!.]*") if path.is_dir())
    files = [file for file in map(wandb_file, folders) if file]
    with ThreadPoolExecutor(4) as pool:
        stored = list(pool.map(read_wandb_file, files))
    rows, curves = {}, {}
    for file, run in zip(files, stored, strict=True):
        config = {name: v for name, v in run["config"].items() if name not in BESIDE_CONFIG}
        summary = {name: number(value) for name, value in run["summary"].items()}
        key, attempt = config.pop("run_key", file.parents[2].name), config.pop("attempt", None)
        curves[key] = [
            {name: number(v) for name, v in point.items() if not name.startswith("_")}
            for point in run["history"]
        ]
        rows[key] = {
            "benchmark": config.pop("benchmark", benchmark),
            "status": summary.pop("status", MISSING),
            "attempt": attempt,
            "wall_time_s": summary.pop("wall_time_s", None),
            "wandb_path": file.parent.relative_to(file.parents[2]).as_posix(),
            **flatten(config),
            **measurements(
                {n: v for n, v in summary.items() if isinstance(v, int | float) and n[0] != "_"},
                curves[key],
            ),
        }
    return Results.of(rows, curves)
