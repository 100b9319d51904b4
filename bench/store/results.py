"""The one reader of runs: each plan and each record of a benchmark is opened once."""

# pandas' own types call every column "Series or DataFrame or scalar".
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from pandas.api.types import is_object_dtype

from bench.core.errors import UserError, expecting, require
from bench.core.status import Status
from bench.store.record import (
    PLANS,
    RECORD_FILE,
    RESERVED,
    DamagedRecord,
    Record,
    read_plan,
    read_record,
)

T = TypeVar("T")
Point = Mapping[str, float | None]  # of a curve
Curves = Mapping[str, Sequence[Point]]  # by run key
MISSING = "missing"  # a planned run that has no record
RUNS_FILE, CURVES_FILE = "runs.parquet", "curves.parquet"
OWN_COLUMNS = [name for name in RESERVED if name not in ("run_key", "variant", "seed")]


@dataclass(frozen=True, eq=False)
class Results:
    """All that is known of some runs.

    Parameters
    ----------
    frame : DataFrame
        One row per run, indexed by `run_key` (str), with the columns

        ======================= ===== =============================================================
        `benchmark`             str   the benchmark that the run belongs to
        `status`                str   see `bench.core.status.Status`; ``"missing"``: no record
        `attempt`               float how often the run was begun
        `wall_time_s`           float seconds, of the whole stack that trained together
        `stacked_with`          float how many runs trained together
        `created`               str   when it ended: ISO 8601, UTC
        `wandb_path`            str   its W&B folder, inside the run's own folder
        `commit`, `dirty`       any   the commit of the source, and whether it was changed
        `versions`, `host`      str   packages with their versions, and the machine
        `command`               str   the command that asked for it
        `format`                float the format of its record
        `variant`, `seed`       any   which data, and the seed of every random draw
        ``model.rank``, ...     any   a column per configuration value, by its dotted key
        ``train_error``, ...    float a column per metric: the run's last measurement
        ======================= ===== =============================================================

        Numbers are NaN and texts None where a run has none; `attempt` and the like are floats for
        that reason. Lists are text, as are columns whose values have several types.
    curves : DataFrame
        One row per measurement: `run_key`, the step (such as `epoch`) and the metrics.
    damaged : tuple of str
        One line per file that could not be read.
    """

    frame: pd.DataFrame
    curves: pd.DataFrame
    damaged: tuple[str, ...] = ()

    @classmethod
    def from_runs(cls, runs_dir: str | Path = "runs", benchmark: str = "*") -> "Results":
        """Read all recorded and all planned runs.

        Parameters
        ----------
        runs_dir : path
            The folder of all runs.
        benchmark : str
            A benchmark's name, or ``"*"`` for all.
        """
        rows: dict[str, dict[str, Any]] = {}
        curves: dict[str, Sequence[Point]] = {}
        damaged: list[str] = []
        plans = sorted(Path(runs_dir).glob(f"{benchmark}/{PLANS}/*.json"))
        for path, plan in readable(read_plan, plans, damaged):
            shared = {"benchmark": path.parts[-3], "status": MISSING, "command": plan.command}
            rows |= {key: {**shared, **flatten(c)} for key, c in plan.cells.items()}
        for _, record in readable(read_record, record_paths(Path(runs_dir), benchmark), damaged):
            rows[record.run_key] = row_of(record)
            curves[record.run_key] = record.curve
        return cls.of(rows, curves, damaged)

    @classmethod
    def of(
        cls, rows: Mapping[str, Mapping[str, Any]], curves: Curves, damaged: Iterable[str] = ()
    ) -> "Results":
        """Return results made of rows, as of `row_of`, and of curves, both by run key."""
        # Sums depend on the order of the runs in their last bits, and it must not on the source.
        return cls(_frame(dict(sorted(rows.items()))), _curve_frame(curves), tuple(damaged))

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Results":
        """Read the committed results of a benchmark, as `write` has written them.

        Raises
        ------
        UserError
            If there are none, or if a file is damaged.
        """
        runs, curves = Path(folder) / RUNS_FILE, Path(folder) / CURVES_FILE
        require(runs.is_file(), f"{folder} without {RUNS_FILE}", "a folder of results")
        with expecting(str(folder), "whole Parquet files"):
            frame = pd.read_parquet(runs, page_checksum_verification=True)
            points = _curve_frame({})
            if curves.exists():
                points = pd.read_parquet(curves, page_checksum_verification=True)
        return cls(frame, points)

    def write(self, folder: Path) -> None:
        """Write the runs and, if there are any, their curves into a folder that exists."""
        options: Any = {"compression": "zstd", "write_page_checksum": True}
        self.frame.to_parquet(folder / RUNS_FILE, **options)
        if not self.curves.empty:
            self.curves.to_parquet(folder / CURVES_FILE, **options)

    def __or__(self, other: "Results") -> "Results":
        """Merge: of two runs of one configuration the other's is kept, unless it is missing."""
        parts = [frame for frame in (self.frame, other.frame) if len(frame)]
        if not parts:
            return self
        frame = pd.concat(parts)
        frame = frame.sort_values("status", key=lambda status: status != MISSING, kind="stable")
        frame = frame.loc[~frame.index.duplicated(keep="last")]
        frame = frame.loc[~frame.duplicated(config_columns(frame), keep="last")].sort_index()
        first = self.curves[~self.curves.run_key.isin(other.curves.run_key)]
        curves = [part for part in (first, other.curves) if len(part)] or [first]
        joined = pd.concat(curves)
        kept = joined.loc[joined.run_key.isin(frame.index)].reset_index(drop=True)
        damaged = tuple(dict.fromkeys((*self.damaged, *other.damaged)))
        return Results(_one_type_each(frame), kept, damaged)

    def finished(self) -> set[str]:
        """Return the keys of the runs that need not be done again."""
        final = [status for status in Status if status.final]
        return set(self.frame.index[self.frame.status.isin(final)]) if len(self.frame) else set()


def readable(
    read: Callable[[Path], T], paths: Iterable[Path], damaged: list[str]
) -> Iterator[tuple[Path, T]]:
    """Yield the files that can be read; note why others cannot."""
    for path in paths:
        try:
            yield path, read(path)
        except FileNotFoundError:  # removed meanwhile
            continue
        except DamagedRecord as error:
            damaged.append(str(error))


def load_runs(runs_dir: str | Path = "runs", benchmark: str = "*") -> pd.DataFrame:
    """Return `Results.frame` of recorded runs."""
    return Results.from_runs(runs_dir, benchmark).frame


def record_paths(runs_dir: Path, benchmark: str = "*") -> list[Path]:
    """Return the paths of the record files of a benchmark, sorted."""
    return sorted(runs_dir.glob(f"{benchmark}/*/{RECORD_FILE}"), key=str)  # paths compare slowly


def row_of(record: Record) -> dict[str, Any]:
    """Return a record as one row of `Results.frame`."""
    names = ("benchmark", "attempt", "wall_time_s", "stacked_with", "created", "command", "format")
    return {
        **{name: getattr(record, name) for name in names},
        "status": str(record.status),
        "wandb_path": record.wandb.path,
        **vars(record.git),
        "versions": _in_words(record.versions),
        "host": _in_words(vars(record.host)),
        **flatten(record.config),
        **measurements(record.metrics),
    }


def measurements(metrics: Point) -> dict[str, float]:
    """Return the last numbers of a run."""
    return {name: np.nan if value is None else float(value) for name, value in metrics.items()}


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration with dotted keys; lists and huge integers become text."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            huge = isinstance(value, int) and abs(value) >= 2**63
            flat[f"{prefix}{name}"] = str(value) if huge or isinstance(value, list) else value
    return flat


def _in_words(values: Mapping[str, Any]) -> str:
    """Return values with their names in a line; several values of one name with a plus."""
    several = {name: v if isinstance(v, tuple) else (v,) for name, v in values.items()}
    return ", ".join(f"{name} {'+'.join(map(str, v))}" for name, v in several.items())


def _frame(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a frame: our own columns first, then the others as they come."""
    own = OWN_COLUMNS if rows else []
    names = dict.fromkeys([*own, *(name for row in rows.values() for name in row)])
    columns = {name: [row.get(name) for row in rows.values()] for name in names}
    index = pd.Index([*rows], name="run_key", dtype="str")
    return _one_type_each(pd.DataFrame(columns, index=index))


def _one_type_each(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn columns whose values have several types, which no file format holds, into text."""
    for name in frame.columns[frame.dtypes.map(is_object_dtype)]:
        values = frame[name].dropna()
        if values.map(type).nunique() > 1:
            frame[name] = values.map(str).astype("str").reindex(frame.index)
    return frame


def _curve_frame(curves: Curves) -> pd.DataFrame:
    points = [point for curve in curves.values() for point in curve]
    names = dict.fromkeys(name for point in points for name in point)
    columns = {name: np.array([point.get(name) for point in points], float) for name in names}
    keys = np.repeat([*curves], [len(curve) for curve in curves.values()])
    return pd.DataFrame({"run_key": pd.Series(keys, dtype="str"), **columns})


def config_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that are configuration values."""
    return [str(name) for name in frame if "." in str(name) or name in ("variant", "seed")]


def metric_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that are metrics."""
    others = [*config_columns(frame), *OWN_COLUMNS, "format"]
    return [str(name) for name in frame.select_dtypes("number") if name not in others]


def numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as floats; NaN where there is none."""
    return pd.Series(frame.get(column, np.nan), frame.index, dtype=float)


def require_runs(frame: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """Raise `UserError` if nothing is recorded."""
    if frame.empty or (frame.status == MISSING).all():
        hint = f"run `rankbench bench {benchmark}` first, or set runs_dir"
        raise UserError(f"the benchmark {benchmark} without recorded runs", "recorded runs", hint)
    return frame


def usable(frame: pd.DataFrame) -> pd.Series:
    """Return which runs have ended with numbers that count."""
    return frame.status.isin([Status.CONVERGED, Status.MAX_STEPS])


def settings(
    frame: pd.DataFrame, known: Collection[str]
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Divide runs into those that differ in the `known` columns alone.

    Yields
    ------
    setting : dict
        What is particular to these runs, by column; empty if all runs share one setting.
    part : DataFrame
        The runs.
    """
    apart = [n for n in config_columns(frame) if n not in known and n != "trainer.name"]
    varying = [name for name in apart if frame[name].nunique(dropna=False) > 1]
    parts = frame.groupby(varying, dropna=False, sort=True) if varying else [((), frame)]
    for values, part in parts:
        yield dict(zip(varying, values, strict=True)), part
