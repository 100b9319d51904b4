"""Recorded runs as one tidy table."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import UserError, require
from bench.status import Status
from bench.tracking.records import PLANS, RECORD_FILE, DamagedRecord, read_record, record_paths

MISSING = "missing"  # a planned run that has no record
# What "the best validation" is the best of, by the first that a curve has.
VALIDATION = {"validation_error": min, "validation_loss": min, "validation_accuracy": max}
AT_BEST = "@best_validation"


def load_runs(runs_dir: str | Path = "runs", benchmark: str = "*") -> pd.DataFrame:
    """Load all recorded and all planned runs of a benchmark.

    Parameters
    ----------
    runs_dir : path
        The folder of all runs.
    benchmark : str
        A benchmark's name, or ``"*"`` for all.

    Returns
    -------
    DataFrame
        One row a run, indexed by `run_key` (str), with the columns

        ==================== ======= ==============================================================
        `benchmark`          str     the benchmark that the run belongs to
        `status`             str     see `bench.status.Status`; ``"missing"``: planned, no record
        `attempt`            float   how often the run was begun
        `wall_time_s`        float   seconds, of the whole stack that trained together
        `stacked_with`       float   how many runs trained together
        `created`            str     when it ended: ISO 8601, UTC
        `wandb_path`         str     its W&B folder, inside the run's own folder
        `variant`, `seed`    str,int which data, and the seed of every random draw
        ``model.rank``, ...  any     a column a configuration value, by its dotted key; lists as str
        ``train_error``, ... float   a column a metric: the run's last measurement
        ``...@best_validation`` float the same where the run's validation was best, if it has one
        ==================== ======= ==============================================================

        Numbers are NaN and texts None where a run has none (`attempt` and the like are floats for
        that reason). ``frame.attrs["damaged"]`` lists what could not be read, a line a file.
    """
    rows: dict[str, dict[str, Any]] = {}
    damaged = []
    for path in sorted(Path(runs_dir).glob(f"{benchmark}/{PLANS}/*.json")):
        try:
            for key, config in json.loads(path.read_bytes())["cells"].items():
                name = path.parts[-3]
                rows[key] = {"benchmark": name, "status": MISSING, **flatten(config)}
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            damaged.append(f"{path}: not a readable plan")
    for path in record_paths(Path(runs_dir), benchmark):
        try:
            record = read_record(path)
            if not {"variant", "seed", "data"} <= {*record["config"]}:
                raise DamagedRecord(f"{path}: the configuration is not one of rankbench's")
        except DamagedRecord as error:
            damaged.append(str(error))
            continue
        rows[record["run_key"]] = row_of(record)
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run_key")
    frame.attrs["damaged"] = damaged
    return frame


def load_published(results_dir: str | Path, benchmark: str) -> pd.DataFrame:
    """Load the runs of a benchmark's committed results: columns as `load_runs` gives them.

    Raises
    ------
    UserError
        If there are none.
    """
    path = Path(results_dir) / benchmark / "runs.parquet"
    require(path.is_file(), f"{path.parent} without runs.parquet", "a benchmark with results")
    frame = pd.read_parquet(path)
    frame.attrs["damaged"] = []
    return frame


def load_curves(runs_dir: str | Path, benchmark: str, keys: Iterable[str]) -> pd.DataFrame:
    """Load the curves of recorded runs.

    Parameters
    ----------
    runs_dir, benchmark
        As for `load_runs`.
    keys : iterable of str
        The runs' keys.

    Returns
    -------
    DataFrame
        One row a measurement: `run_key`, the step (such as `epoch`) and the metrics.
    """
    folder = Path(runs_dir) / benchmark
    records = {key: read_record(folder / key / RECORD_FILE) for key in keys}
    rows = [{"run_key": key, **p} for key, record in records.items() for p in record["curve"]]
    return pd.DataFrame(rows)


def row_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as one row of `load_runs`."""
    names = ("benchmark", "status", "attempt", "wall_time_s", "stacked_with", "created")
    return {
        **{name: record.get(name) for name in names},
        "wandb_path": record["wandb"].get("path"),
        **flatten(record["config"]),
        **{name: float("nan" if v is None else v) for name, v in record["metrics"].items()},
        **{f"{name}{AT_BEST}": v for name, v in best_validation(record["curve"]).items()},
    }


def best_validation(curve: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the first point of a curve with the best validation; empty if it has none."""
    for name, best in VALIDATION.items():
        points = [point for point in curve if point.get(name) is not None]
        if points:
            return best(points, key=lambda point: point[name])
    return {}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration with dotted keys; lists become text."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value) if isinstance(value, list) else value
    return flat


def config_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that are configuration values."""
    return [str(name) for name in frame if "." in str(name) or name in ("variant", "seed")]


def require_runs(frame: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """Raise `UserError` if nothing is recorded."""
    if frame.empty or (frame.status == MISSING).all():
        mend = f"run `rankbench bench {benchmark}` first, or set runs_dir"
        raise UserError(f"the benchmark {benchmark} without recorded runs", "recorded runs", mend)
    return frame


def usable(frame: pd.DataFrame) -> pd.Series:
    """Return which runs have ended with numbers that count."""
    return frame.status.isin([Status.CONVERGED, Status.MAX_STEPS])


def settings(frame: pd.DataFrame, known: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Divide runs into those that differ in the `known` columns alone.

    Yields
    ------
    title : str
        What is particular to these runs; empty if all runs share one setting.
    part : DataFrame
        The runs.
    """
    apart = [n for n in config_columns(frame) if n not in known and n != "trainer._target_"]
    varying = [name for name in apart if frame[name].nunique(dropna=False) > 1]
    if not varying:
        yield "", frame
        return
    for values, part in frame.groupby(varying, dropna=False, sort=True):
        pairs = zip(varying, values, strict=True)
        yield ", ".join(setting_words(name, v) for name, v in pairs if v == v), part


def setting_words(column: str, value: Any) -> str:
    """Return a configuration value in words; a schema's name stands for its group's choice."""
    group, _, name = column.rpartition(".")
    if name == "_target_":
        return f"{group}: {str(value).rpartition('.')[2].removesuffix('Config')}"
    return f"{column}={value}"
