"""Uploading offline W&B runs with W&B's own `wandb sync`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.store.record import RECORD_FILE, DamagedRecord, read_record

BATCH = 20  # runs that one `wandb sync` uploads, between two movements of the progress display


def offline_runs(runs_dir: Path) -> list[Path]:
    """Return the ``.wandb`` files of all offline runs that `wandb sync` has not uploaded yet.

    Among them are those that were online when they began and whose connection was lost.
    """
    files = runs_dir.glob("*/*/wandb/*run-*/run-*.wandb")
    return sorted(path for path in files if not _marker(path).exists() and _is_offline(path))


def _is_offline(path: Path) -> bool:
    """Return whether a run was offline from the beginning, or is so according to its record."""
    if path.parent.name.startswith("offline-"):
        return True
    try:
        link = read_record(path.parents[2] / RECORD_FILE).wandb
    except (DamagedRecord, FileNotFoundError):
        return False
    return link.mode == "offline" and link.path == f"wandb/{path.parent.name}"


def sync(files: list[Path], on_progress: Callable[[int], None]) -> dict[Path, str]:
    """Upload runs; return those that were not uploaded, with W&B's message.

    Parameters
    ----------
    files : list of Path
        From `offline_runs`.
    on_progress : callable
        Called with the number of runs dealt with since the last call.
    """
    failed = {}
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        message = _wandb_sync(batch)
        failed |= {path: message for path in batch if not _marker(path).exists()}
        on_progress(len(batch))
    return failed


def _wandb_sync(files: list[Path]) -> str:
    """Run `wandb sync`; return the last line that it printed, the last error if there are any."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online"]
    command += [str(path.resolve()) for path in files]
    environment = {name: v for name, v in os.environ.items() if name != "WANDB_SILENT"}
    with TemporaryDirectory() as scratch:  # where W&B leaves logs of the upload itself
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=scratch)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "rror:" in line]
    return (errors or lines or ["nothing"])[-1].strip()


def _marker(path: Path) -> Path:
    """Return the file that W&B leaves beside a run that is uploaded whole."""
    return path.with_suffix(".wandb.synced")
