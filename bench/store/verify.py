"""Holding each record against the W&B file of the same run."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.store.record import DamagedRecord, Record, finite_or_none, read_record
from bench.store.results import record_paths
from bench.store.wandb_runs import BESIDE_CONFIG, number, read_wandb_file


def verify_records(runs_dir: Path) -> list[str]:
    """Compare every record with its W&B file; return what does not agree, a line each."""
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(verify_record, record_paths(runs_dir))
    return [problem for problems in found for problem in problems]


def verify_record(path: Path) -> list[str]:
    """Compare one record with its W&B file in configuration, metrics, status and curve."""
    try:
        record = read_record(path)
    except DamagedRecord:
        return []  # named by `Results.damaged` already
    if record.wandb.trouble:
        return [f"{path}: its W&B run is not whole ({record.wandb.trouble})"]
    if record.wandb.mode == "disabled":
        return []
    files = list((path.parent / (record.wandb.path or "")).glob("*.wandb"))
    if len(files) != 1:
        return [f"{path}: the W&B run {record.wandb.path} has {len(files)} .wandb files"]
    stored = read_wandb_file(files[0])
    return [f"{path}: {name} differs from {files[0].name}" for name in _differences(record, stored)]


def _differences(record: Record, stored: dict[str, Any]) -> list[str]:
    config = {name: v for name, v in stored["config"].items() if name not in BESIDE_CONFIG}
    names = ("run_key", "benchmark", "attempt")
    expected = {**record.config, **{name: getattr(record, name) for name in names}}
    summary = finite_or_none({name: number(stored["summary"].get(name)) for name in record.metrics})
    names = list(record.curve[0]) if record.curve else []
    curve = [{name: number(row.get(name)) for name in names} for row in stored["history"]]
    pairs = {
        "the configuration": (expected, config),
        "the metrics": (record.metrics, summary),
        "the status": (record.status, stored["summary"].get("status")),
        "the curve": (record.curve, finite_or_none(curve) if record.curve else []),
        "the run id": (record.wandb.run_id, stored.get("run_id")),
    }
    return [name for name, (ours, theirs) in pairs.items() if ours != theirs]
