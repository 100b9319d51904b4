"""Recording the runs of one stack: curves while they train, records when they end."""

import io
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import wandb
from torch import Tensor

from bench.config import Cell
from bench.status import Status
from bench.tracking import provenance, records
from bench.tracking.claims import Claims, Held
from bench.tracking.place import Place
from bench.tracking.wandb_runs import open_run

WEIGHTS_FILE = "model.pt"


class Tracker:
    """Records the cells that train together; each has its own W&B run, folder and record.

    Curves are against `step`, the name of an entry of each of their points.

    Cells whose record is already final are left as they are, and those that another process trains
    are left out of `cells`. Used as a context manager: cells that have not ended when it closes are
    recorded as stopped, or as failed with the traceback.

    W&B must not cost a training: what it raises is kept in the record, and the run goes on.

    Raises
    ------
    Held
        On entering, if other processes train all that is not final.
    """

    def __init__(self, cells: Sequence[Cell], place: Place, step: str = "epoch") -> None:
        self.place = place
        self.step = step
        self.cells = list(cells)
        self.claims = Claims(place.folder)
        self.start = time.monotonic()
        self.disconnected = False
        self.git = provenance.git_state()  # before the source can change under a long run
        self.instruction_sets: set[str] = set()
        self.threads: set[int] = set()

    def take_part(self) -> None:
        """Note that the process trains, with the instruction set and the threads that it has."""
        self.instruction_sets.add(torch.backends.cpu.get_cpu_capability())
        self.threads.add(torch.get_num_threads())

    def __enter__(self) -> "Tracker":
        self.claims.__enter__()
        try:
            self._begin()
        except BaseException:
            self.claims.__exit__()
            raise
        return self

    def _begin(self) -> None:
        self._claim()
        self.open = [cell.run_key in self.claims.attempts for cell in self.cells]
        self.curves: list[list[dict[str, float]]] = [[] for _ in self.cells]
        self.runs: list[wandb.Run | None] = [None for _ in self.cells]
        nowhere = {"mode": "disabled", "run_id": None, "path": None}
        self.links: list[dict[str, Any]] = [dict(nowhere) for _ in self.cells]
        for i in range(len(self.cells)):
            if self.open[i] and self.place.mode == "online":
                self._guarded(i, lambda i=i: self._open(i))
                if self.runs[i] is None:  # the network has gone; `wandb sync` can upload later
                    self.place = replace(self.place, mode="offline")
            if self.open[i] and self.place.mode == "offline":
                self._guarded(i, lambda i=i: self._open(i))

    def _claim(self) -> None:
        """Claim the cells without a final record; where others hold some, keep only our own."""
        wanted = self._unfinished()
        self.claims.take(wanted)
        # Somebody may have ended a run between our look at its record and our claim.
        wanted = [key for key in self._unfinished() if key in wanted]
        mine = {key: n for key, n in self.claims.attempts.items() if key in wanted}
        self.claims.attempts = mine
        if len(mine) < len(wanted):
            self.cells = [cell for cell in self.cells if cell.run_key in mine]
        if wanted and not mine:
            raise Held(f"{len(wanted)} runs are being trained by another process")

    def _unfinished(self) -> list[str]:
        keys = [cell.run_key for cell in self.cells]
        done = records.finished_keys_among(self.place.folder, keys)
        return [key for key in keys if key not in done]

    def _open(self, i: int) -> None:
        cell = self.cells[i]
        folder = (self.place.folder / cell.run_key).absolute()
        extra = {"run_key": cell.run_key, "attempt": self.claims.attempts[cell.run_key]}
        run = open_run(
            folder,
            self.place.tracking,
            mode=self.place.mode,
            benchmark=self.place.benchmark,
            job_type=f"{cell.config['data']['name']}/{cell.config['variant']}",
            name=cell.run_key,
            step=self.step,
            values={**cell.config, **extra},
        )
        path = Path(run.settings.sync_dir).absolute().relative_to(folder).as_posix()
        self.links[i] = {"mode": self.place.mode, "run_id": run.id, "path": path}
        self.runs[i] = run

    def _guarded(self, i: int, call: Callable[[], Any]) -> None:
        """Call W&B; if it raises, keep what it said for the record and let the cell go on."""
        try:
            call()
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.links[i].setdefault("trouble", said)
            self.runs[i] = None

    def log(self, i: int, point: Mapping[str, float]) -> None:
        """Add a point to a cell's curve; its entry `step` is its place."""
        self.curves[i].append(dict(point))
        run = self.runs[i]
        if run is not None:
            self._guarded(i, lambda: run.log(dict(point), step=int(point[self.step]), commit=True))

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
        if self.claims.lost(cell.run_key):
            self.open[i] = False  # it is the other owner's to record
            return
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
            "attempt": self.claims.attempts[cell.run_key],
            "seed": cell.config["seed"],
            "config": cell.config,
            "metrics": dict(metrics),
            "curve": self.curves[i],
            "wall_time_s": elapsed,
            "stacked_with": len(self.cells),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": provenance.versions(),
            "git": self.git,
            "host": provenance.host(self.instruction_sets, self.threads),
            "wandb": link,
        }
        records.write_record(folder, record)
        self.open[i] = False

    def _close_run(self, i: int, summary: Mapping[str, Any]) -> dict[str, Any]:
        run = self.runs[i]
        if run is not None:
            words = {name: _finite_or_word(value) for name, value in summary.items()}
            self._guarded(i, lambda: run.summary.update(words))
            code = 0 if Status(summary["status"]).final else 1
            self._guarded(i, lambda: self._finish_run(i, run, code))
        self.runs[i] = None
        return self.links[i]

    def _finish_run(self, i: int, run: wandb.Run, code: int) -> None:
        """Wait until W&B has a run; if it does not in time, `wandb sync` can upload the file later.

        The others are then left to W&B's own end, which waits for all of them at once.
        """
        try:
            if not self.disconnected:
                run.finish(exit_code=code)
        except TimeoutError:
            self.disconnected = True
        if self.disconnected:
            self.links[i]["mode"] = "offline"

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            self._end(error)
        finally:
            self.claims.__exit__()

    def _end(self, error: BaseException | None) -> None:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        status = Status.STOPPED if error is None or interrupted else Status.FAILED
        text = None
        if status is Status.FAILED:
            text = short_traceback(error)
        for i, still_open in enumerate(self.open):
            if still_open:
                last = self.curves[i][-1] if self.curves[i] else {}
                # An error is on its way already; a full disk must not hide it.
                with suppress(OSError) if error else nullcontext():
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
