"""Recording the runs of one stack: curves while they train, records when they end."""

import io
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import wandb
from torch import Tensor

from bench.config import Cell
from bench.status import Status
from bench.tracking import records
from bench.tracking.wandb_runs import TrackingConfig, open_run

WEIGHTS_FILE = "model.pt"


@dataclass(frozen=True)
class Place:
    """Where runs are recorded, and how.

    Parameters
    ----------
    runs_dir : Path
        The folder of all runs.
    benchmark : str
        The benchmark that the runs belong to.
    tracking : TrackingConfig
        How W&B is used.
    mode : str
        The W&B mode in use, from `bench.tracking.wandb_runs.reachable_mode`.
    """

    runs_dir: Path
    benchmark: str
    tracking: TrackingConfig
    mode: str

    @property
    def folder(self) -> Path:
        """The benchmark's folder."""
        return self.runs_dir / self.benchmark


class Tracker:
    """Records the cells that train together; each has its own W&B run, folder and record.

    Curves are against `step`, the name of an entry of each of their points.

    Cells whose record is already final are left as they are. Used as a context manager: cells that
    have not ended when it closes are recorded as stopped, or as failed with the traceback.
    """

    def __init__(self, cells: Sequence[Cell], place: Place, step: str = "epoch") -> None:
        self.place = place
        self.step = step
        self.cells = list(cells)
        done = records.finished_keys_among(place.folder, [cell.run_key for cell in cells])
        self.open = [cell.run_key not in done for cell in cells]
        self.runs: list[wandb.Run | None] = [None for _ in cells]
        self.attempts = [1 for _ in cells]
        self.curves: list[list[dict[str, float]]] = [[] for _ in cells]
        self.start = time.monotonic()

    def __enter__(self) -> "Tracker":
        for i, cell in enumerate(self.cells):
            if self.open[i]:
                folder = self.place.folder / cell.run_key
                folder.mkdir(parents=True, exist_ok=True)
                self.attempts[i] = 1 + len(list(folder.glob("wandb/*run-*")))
                if self.place.mode != "disabled":
                    self.runs[i] = self._open(i, folder)
        return self

    def _open(self, i: int, folder: Path) -> wandb.Run:
        cell = self.cells[i]
        extra = {"run_key": cell.run_key, "attempt": self.attempts[i]}
        return open_run(
            folder,
            self.place.tracking,
            mode=self.place.mode,
            benchmark=self.place.benchmark,
            job_type=f"{cell.config['data']['name']}/{cell.config['variant']}",
            name=cell.run_key,
            step=self.step,
            values={**cell.config, **extra},
        )

    def log(self, i: int, point: Mapping[str, float]) -> None:
        """Add a point to a cell's curve; its entry `step` is its place."""
        self.curves[i].append(dict(point))
        run = self.runs[i]
        if run is not None:
            run.log(dict(point), step=int(point[self.step]), commit=True)

    def finish(
        self,
        i: int,
        status: Status,
        metrics: Mapping[str, float],
        weights: Mapping[str, Tensor] | None = None,
        error: str | None = None,
    ) -> None:
        """End a cell: weights, then the W&B run, then the record, last and atomically."""
        if not self.open[i]:
            return
        cell = self.cells[i]
        folder = self.place.folder / cell.run_key
        if weights:
            buffer = io.BytesIO()
            torch.save(dict(weights), buffer)
            records.write_atomically(folder / WEIGHTS_FILE, buffer.getvalue())
        elapsed = time.monotonic() - self.start
        link = self._close_run(i, {**metrics, "status": str(status), "wall_time_s": elapsed})
        record = {
            "format": records.FORMAT,
            "benchmark": self.place.benchmark,
            "run_key": cell.run_key,
            "status": str(status),
            "error": error,
            "attempt": self.attempts[i],
            "seed": cell.config["seed"],
            "config": cell.config,
            "metrics": dict(metrics),
            "curve": self.curves[i],
            "wall_time_s": elapsed,
            "stacked_with": len(self.cells),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": records.versions(),
            "git": records.git_state(),
            "host": records.host(),
            "wandb": link,
        }
        records.write_record(folder, record)
        self.open[i] = False

    def _close_run(self, i: int, summary: Mapping[str, Any]) -> dict[str, Any]:
        run, self.runs[i] = self.runs[i], None
        if run is None:
            return {"mode": "disabled", "run_id": None, "path": None}
        run.summary.update({name: _finite_or_word(value) for name, value in summary.items()})
        folder = (self.place.folder / self.cells[i].run_key).absolute()
        path = Path(run.settings.sync_dir).absolute().relative_to(folder)
        run.finish(exit_code=0 if Status(summary["status"]).final else 1)
        return {"mode": self.place.mode, "run_id": run.id, "path": path.as_posix()}

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        status = Status.STOPPED if error is None or interrupted else Status.FAILED
        text = None
        if status is Status.FAILED:
            text = short_traceback(error)
        for i, still_open in enumerate(self.open):
            if still_open:
                last = self.curves[i][-1] if self.curves[i] else {}
                self.finish(i, status, last, error=text)


def _finite_or_word(value: Any) -> Any:
    """Return floats that are not finite as the words that W&B's history has for them.

    W&B drops them from an update of the summary and would keep an older value.
    """
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"


def short_traceback(error: BaseException | None) -> str:
    """Return an exception's traceback without the machine's folders."""
    summary = traceback.TracebackException(type(error), error, error and error.__traceback__)  # pyright: ignore
    for frame in summary.stack:
        frame.filename = "/".join(Path(frame.filename).parts[-3:])
    return "".join(summary.format(chain=False))
