"""Record files: one JSON file a run, written last and atomically, so that it exists only whole."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.status import Status

RECORD_FILE = "record.json"
PLANS = ".plans"  # lists of the runs that were asked for, in a benchmark's folder
FORMAT = 1
FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "benchmark": str,
    "run_key": str,
    "status": str,
    "attempt": int,
    "seed": int,
    "config": dict,
    "metrics": dict,
    "curve": list,
    "wall_time_s": (int, float),
    "stacked_with": int,
    "created": str,
    "versions": dict,
    "git": dict,
    "host": dict,
    "wandb": dict,
}


class DamagedRecord(ValueError):
    """A record file that is not what `write_record` writes."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, whatever happens, it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def finite_or_none(value: Any) -> Any:
    """Replace floats that JSON has no word for by None, in nested dicts and lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return value


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a run's record into its folder."""
    text = json.dumps(finite_or_none(record), allow_nan=False, indent=1)
    write_atomically(folder / RECORD_FILE, text.encode())


def read_record(path: Path) -> dict[str, Any]:
    """Read a record file.

    Raises
    ------
    DamagedRecord
        If the file cannot be read, is not JSON, or lacks a field; the message is one line.
    """
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedRecord(f"{path}: not a readable JSON file ({type(error).__name__})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DamagedRecord(f"{path}: not a record of format {FORMAT}")
    for name, kind in FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise DamagedRecord(f"{path}: the field {name!r} is missing or of the wrong type")
    if not all(map(_numbers, [record["metrics"], *record["curve"]])):
        raise DamagedRecord(f"{path}: a metric, or one of the curve, is not a number")
    if record["status"] not in list(Status) or record["run_key"] != path.parent.name:
        raise DamagedRecord(f"{path}: unknown status, or a record of another folder")
    return record


def _numbers(values: Any) -> bool:
    """Return whether a value holds numbers by name; None stands for one that JSON has not."""
    known = (int, float, type(None))
    return isinstance(values, dict) and all(type(value) in known for value in values.values())


def record_paths(runs_dir: Path, benchmark: str = "*") -> Iterator[Path]:
    """Yield the paths of all record files of a benchmark, sorted."""
    yield from sorted(runs_dir.glob(f"{benchmark}/*/{RECORD_FILE}"))


def finished_keys_among(folder: Path, keys: Iterable[str]) -> set[str]:
    """Return those of `keys` whose runs in a benchmark's folder need not be done again.

    A damaged record counts as none: the run is done again; `rankbench runs` names the damage.
    """
    finished = set()
    for key in keys:
        path = folder / key / RECORD_FILE
        if path.is_file():
            with suppress(DamagedRecord):
                if Status(read_record(path)["status"]).final:
                    finished.add(key)
    return finished


def failure(run: Path) -> tuple[int, str | None]:
    """Return the attempt that a run's record is of, and its error's last line if it failed."""
    try:
        record = read_record(run / RECORD_FILE)
    except DamagedRecord:
        return 0, None
    failed = record["status"] == Status.FAILED
    return record["attempt"], (record.get("error") or "failed").splitlines()[-1] if failed else None


def require_writable(folder: Path, setting: str = "runs_dir") -> None:
    """Raise `UserError` unless files can be written into `folder`, which is made if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe, link = (folder / f".{name}.{os.getpid()}" for name in ("writable", "linked"))
        probe.touch()
        os.link(probe, link)  # what claims are made of
        probe.unlink()
        link.unlink()
    except OSError as error:
        allowed = f"a folder that can be written, with hard links ({error.strerror})"
        raise UserError(f"{setting}={folder}", allowed, f"set {setting}") from error
