"""Reading W&B's files: as results, and to check each record against them."""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wandb.util import get_core_path

from bench.store.record import Record, finite_or_none, read_record
from bench.store.results import MISSING, Results, flatten, measurements, readable, record_paths

BESIDE_CONFIG = ("_wandb", "provenance")  # in the configuration of a W&B run, not of its cell


def wandb_file(folder: Path) -> Path | None:
    """Return the newest ``.wandb`` file of a run's folder."""
    files = folder.glob("wandb/*run-*/run-*.wandb")
    return max(files, key=lambda path: path.stat().st_mtime, default=None)


def read_wandb_file(path: Path) -> dict[str, Any]:
    """Read a ``.wandb`` file through W&B's own inspector.

    Returns
    -------
    dict
        ``config``, ``summary``, ``history`` (a list of rows) and ``run`` (its id, project, group
        and job type, as W&B names them). Of a damaged file what can be read of it.
    """
    # What `wandb leet inspect` runs, without 0.4 s of Python start-up a file.
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json"]
    command += ["--run-file", str(path.resolve()), str(path.parent)]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    result: dict[str, Any] = {"run": {}, "config": {}, "summary": {}, "history": []}
    for line in lines:
        entry = json.loads(line)
        kind = entry.get("type")
        content = entry.get(kind, {})
        if kind == "run":
            result["run"] = content
            config = content.get("config", {}).get("update", {})
            result["config"] |= {n: v for n, v in config.items() if n not in BESIDE_CONFIG}
        elif kind == "summary":
            result["summary"] |= _numbers(content.get("update", {}))
        elif kind == "history":
            result["history"].append(_numbers(content.get("item", {})))
    return result


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read numbers of W&B's files: whole ones stand there as integers, infinite ones as words."""
    words = ("NaN", "Infinity", "-Infinity")
    return {n: float(v) if type(v) is int or v in words else v for n, v in values.items()}


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
    rows, curves = {}, {}
    for file, run in zip(files, _in_threads(read_wandb_file, files), strict=True):
        config, summary = run["config"], run["summary"]
        key, attempt = config.pop("run_key", file.parents[2].name), config.pop("attempt", None)
        curves[key] = [{n: v for n, v in row.items() if n[0] != "_"} for row in run["history"]]
        status, elapsed = summary.pop("status", MISSING), summary.pop("wall_time_s", None)
        metrics = {n: v for n, v in summary.items() if isinstance(v, float) and n[0] != "_"}
        rows[key] = {
            "benchmark": config.pop("benchmark", benchmark),
            "status": status,
            "attempt": attempt,
            "wall_time_s": elapsed,
            "wandb_path": file.parent.relative_to(file.parents[2]).as_posix(),
            **flatten(config),
            **measurements(metrics),
        }
    return Results.of(rows, curves)


def verify_records(runs_dir: Path) -> list[str]:
    """Compare every record with its W&B file; return what does not agree, a line each."""
    found = [*readable(read_record, record_paths(runs_dir), [])]  # `Results.damaged` names the rest
    return [line for lines in _in_threads(_problems, found) for line in lines]


def _in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(4) as pool:
        return [*pool.map(function, items)]


def _problems(found: tuple[Path, Record]) -> list[str]:
    """Compare one record with its W&B file in configuration, metrics, status and curve."""
    path, record = found
    if record.wandb.trouble:
        return [f"{path}: its W&B run is not whole ({record.wandb.trouble})"]
    if record.wandb.mode == "disabled":
        return []
    files = list((path.parent / (record.wandb.path or "")).glob("*.wandb"))
    if len(files) != 1:
        return [f"{path}: the W&B run {record.wandb.path} has {len(files)} .wandb files"]
    stored = read_wandb_file(files[0])
    summary, names = stored["summary"], record.curve[0] if record.curve else ()
    own = {name: getattr(record, name) for name in ("run_key", "benchmark", "attempt")}
    curve = [{name: row.get(name) for name in names} for row in stored["history"]]
    pairs = {
        "the configuration": (record.config | own, stored["config"]),
        "the metrics": (record.metrics, {name: summary.get(name) for name in record.metrics}),
        "the status": (record.status, summary.get("status")),
        "the curve": (record.curve, curve if record.curve else []),
        "the run id": (record.wandb.run_id, stored["run"].get("run_id")),
    }
    wrong = [name for name, (ours, theirs) in pairs.items() if ours != finite_or_none(theirs)]
    return [f"{path}: {name} differs from {files[0].name}" for name in wrong]
