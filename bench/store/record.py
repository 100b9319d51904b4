"""The record of a run: one JSON file, written last and atomically, so that it exists only whole."""

import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_core import from_json, to_json

from bench.core.cell import SCIENCE
from bench.core.errors import UserError, require
from bench.core.files import write_atomically
from bench.core.settings import Finite, NonNegative, adapter, settings
from bench.core.status import Status

RECORD_FILE = "record.json"
PLANS = ".plans"  # lists of the runs that were asked for, in a benchmark's folder
# Whoever adds, removes or redefines a field raises this number: then no older version of the suite
# takes the record for a damaged one and writes over it.
FORMAT = 2
# Names of columns that every run has in a frame, so that no metric may have them.
RESERVED = (
    "run_key", "benchmark", "status", "attempt", "wall_time_s", "stacked_with", "created",
    "wandb_path", "commit", "dirty", "versions", "host", "command", "variant", "seed",
)  # fmt: skip

T = TypeVar("T")
Number = Annotated[int, Field(ge=1, le=2**53)]
Mode = Literal["offline", "online", "disabled"]  # of W&B
Metrics = dict[str, Finite | None]  # None stands for a number that JSON has no word for


class DamagedRecord(UserError):
    """A file that is not what `write_record` writes; the message is one line."""


class NewerRecord(DamagedRecord):
    """A record of a later version of the suite, never to be overwritten."""


@settings
class Git:
    """The commit of the running source, and whether it was changed; None outside of git."""

    commit: str | None
    dirty: bool | None


@settings
class Host:
    """What the speed and the rounding of a run depend on, over all attempts at it.

    Parameters
    ----------
    system, processor : str
        The operating system and the processor's name.
    cores : int
        The cores that the process may use.
    accelerator : str, optional
        The name of the GPU.
    instruction_sets : tuple of str
        Every vector instruction set that PyTorch used, sorted.
    threads : tuple of int
        Every number of threads that PyTorch used, sorted.
    """

    system: str
    processor: str
    cores: Number
    accelerator: str | None
    instruction_sets: tuple[str, ...]
    threads: tuple[Number, ...]


@settings
class WandbLink:
    """The W&B run of a record.

    Parameters
    ----------
    mode : str
        ``"offline"``, ``"online"`` or ``"disabled"``.
    run_id : str, optional
        Its id.
    path : str, optional
        Its folder, relative to the run's own.
    trouble : str, optional
        What W&B raised: its run is not whole.
    """

    mode: Mode
    run_id: str | None = None
    path: str | None = None
    trouble: str | None = None

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path or "")
        inside = not path.is_absolute() and ".." not in path.parts and "\0" not in str(path)
        require(inside, f"wandb.path={str(path)!r}", "a path inside the run's folder")


@settings
class Record:
    """A run that has ended: what was asked for, what came out, and where it comes from.

    Parameters
    ----------
    format : int
        `FORMAT`.
    benchmark : str
        The benchmark that the run belongs to.
    run_key : str
        The name of the run and of its folder.
    status : Status
        How it ended.
    error : str, optional
        The traceback, if it failed.
    attempt : int
        How often the run was begun.
    seed : int
        The seed, as in `config`.
    config : dict
        `bench.core.cell.Cell.config`: nested plain values.
    metrics : dict
        The last numbers by name.
    curve : list of dict
        The measurements: the step and metrics by name.
    wall_time_s : float
        Seconds, over all attempts, of the whole stack that trained together.
    stacked_with : int
        How many runs trained together.
    created : str
        When it ended: ISO 8601, UTC.
    command : str
        The command that asked for it, without folders.
    versions : dict
        The versions of Python and of packages by name.
    git, host, wandb
        See their classes.
    """

    format: Literal[2]
    benchmark: str
    run_key: str
    status: Status
    error: str | None
    attempt: Number
    seed: Annotated[int, Field(ge=0)]
    config: dict[str, Any]
    metrics: Metrics
    curve: list[Metrics]
    wall_time_s: NonNegative
    stacked_with: Number
    created: str
    command: str
    versions: dict[str, str]
    git: Git
    host: Host
    wandb: WandbLink

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.created)
        check_config(self.config)
        require(self.config["seed"] == self.seed, f"seed={self.seed}", "the configuration's seed")
        for name in {name for values in (self.metrics, *self.curve) for name in values}:
            free = "." not in name and name not in RESERVED
            require(free, f"the metric {name!r}", "a name without dots that no column has")


def check_config(config: Mapping[str, Any]) -> None:
    """Raise `UserError` for a configuration that is not one of a cell."""
    groups = {name: value for name, value in config.items() if name not in ("variant", "seed")}
    known = {"data", "model", "learner"} <= {*groups} <= {*SCIENCE}
    named = isinstance(config.get("variant"), str) and type(config.get("seed")) is int
    nested = all(isinstance(group, dict) for group in groups.values())
    require(known and named and nested, "config", "a cell's configuration")


def finite_or_none(value: Any) -> Any:
    """Replace floats that JSON has no word for by None, in nested dicts and lists."""
    return from_json(to_json(value, inf_nan_mode="null"))


def write_record(folder: Path, record: Record) -> None:
    """Write a run's record into its folder."""
    write_atomically(folder / RECORD_FILE, adapter(Record).dump_json(record, indent=1))


def read_record(path: Path) -> Record:
    """Read a record file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    NewerRecord
        If a later version of the suite has written it.
    DamagedRecord
        If it is not what `write_record` writes.
    """
    record = _read(path, Record)
    if record.run_key != path.parent.name:
        raise DamagedRecord(str(path), "a record of this folder", "it is that of another run")
    return record


def _read(path: Path, schema: type[T]) -> T:
    try:
        content = path.read_bytes()
        return adapter(schema).validate_json(content)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedRecord(str(path), f"a file that can be read ({error.strerror})") from error
    except ValidationError as error:
        raise _damage(path, content, error) from None


def _damage(path: Path, content: bytes, error: ValidationError) -> DamagedRecord:
    """Return what is wrong with a file: its version, or the first field that does not fit."""
    try:
        record = json.loads(content)
        number, version = record["format"], record["versions"]["rankbench"]
    except (ValueError, KeyError, TypeError, RecursionError):
        number, version = None, "a later version"
    if number == 1:
        hint = "run it again, or read it with rankbench 0.1"
        return DamagedRecord(f"{path}, written by rankbench 0.1 (format 1)", "format 2", hint)
    if type(number) is int and number > FORMAT:
        given, expected = f"{path} of format {str(number)[:9]}", f"format {FORMAT} or older"
        return NewerRecord(given, expected, f"use rankbench {str(version)[:40]} or newer")
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:40] for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return DamagedRecord(str(path), f"a file of format {FORMAT} ({where} {message})"[:500])


@settings
class PlanFile:
    """What one command has asked for, kept so that a table can count the runs that are missing.

    Parameters
    ----------
    format : int
        `FORMAT`.
    command : str
        The command, without folders.
    cells : dict
        The configurations by run key.
    """

    format: Literal[2]
    command: str
    cells: dict[str, dict[str, Any]]

    def __post_init__(self) -> None:
        for config in self.cells.values():
            check_config(config)


def write_plan(folder: Path, command: str, cells: Mapping[str, dict[str, Any]]) -> None:
    """Write a plan into a benchmark's folder; the same cells have one file."""
    name = sha256("".join(sorted(cells)).encode()).hexdigest()[:16]
    path = folder / PLANS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    plan = PlanFile(format=FORMAT, command=command, cells=dict(cells))
    write_atomically(path, adapter(PlanFile).dump_json(plan))


def read_plan(path: Path) -> PlanFile:
    """Read a plan; it raises what `read_record` does."""
    return _read(path, PlanFile)
