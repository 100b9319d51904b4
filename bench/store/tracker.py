"""Recording the runs of one stack: curves while they train, records when they end."""

import io
import json
import math
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.core.cell import Cell
from bench.core.files import write_atomically
from bench.core.status import Status
from bench.learners.base import Learner, Outcome
from bench.store import provenance
from bench.store.location import RunLocation
from bench.store.record import (
    FORMAT,
    RECORD_FILE,
    DamagedRecord,
    NewerRecord,
    Record,
    WandbLink,
    finite_or_none,
    read_record,
    write_record,
)
from bench.store.run_locks import Held, RunLocks
from bench.store.wandb_runs import log_point, open_run

if TYPE_CHECKING:
    import wandb

WEIGHTS_FILE = "model.pt"
# W&B runs that are open at a time: each takes file descriptors. The others are opened at their end.
MOST_OPEN = 64


class Tracker:
    """Records the cells that train together; each has its own W&B run, folder and record.

    Cells whose record is already final are left as they are, and those that another process trains
    are left out of `cells`. Used as a context manager: cells that have not ended when it closes are
    recorded as stopped, or as failed with the traceback.

    Trouble with W&B never ends a training: what it raises is kept in the record.

    Parameters
    ----------
    cells : sequence of Cell
        What trains together.
    location : RunLocation
        Where and how it is recorded.
    step : str
        What curves are plotted against: the name of an entry of each of their points.

    Attributes
    ----------
    open : list of bool
        For each cell whether it is still to be recorded.
    curves : list of list of dict
        For each cell the points logged so far.
    usage : Usage
        What the stack has used so far.

    Raises
    ------
    Held
        On entering, if other processes train all that is not final, or if all is.
    NewerRecord
        On entering, if a later version of the suite has recorded one of the cells.
    """

    def __init__(self, cells: Sequence[Cell], location: RunLocation, step: str = "epoch") -> None:
        self.location = location
        self.step = step
        self.cells = list(cells)
        self.locks = RunLocks(location.folder)
        self.usage = provenance.Usage()
        self.disconnected = False

    def __enter__(self) -> "Tracker":
        provenance.git_state()  # read now, not when a run ends and the source may be another
        with ExitStack() as stack:
            stack.enter_context(self.locks)
            self._begin()
            self._held = stack.pop_all()
        return self

    def _begin(self) -> None:
        self._lock()
        self.open = [cell.run_key in self.locks.attempts for cell in self.cells]
        self.curves: list[list[dict[str, float]]] = [[] for _ in self.cells]
        self.runs: list[wandb.Run | None] = [None for _ in self.cells]
        self.links = [WandbLink(mode="disabled") for _ in self.cells]
        ours = [i for i, is_open in enumerate(self.open) if is_open]
        self.late = {*ours[MOST_OPEN:]}
        for i in ours[:MOST_OPEN]:
            self._open(i)

    def _lock(self) -> None:
        """Lock the cells without a final record; where others hold some, keep only our own."""
        wanted = self._unfinished()
        self.locks.take(wanted)
        # Somebody may have ended a run between our look at its record and our lock.
        wanted = [key for key in self._unfinished() if key in wanted]
        ours = {key: n for key, n in self.locks.attempts.items() if key in wanted}
        self.locks.attempts = ours
        if len(ours) < len(wanted):
            self.cells = [cell for cell in self.cells if cell.run_key in ours]
        if not ours:
            raise Held(f"{len(wanted)} runs are trained by another process, the others have ended")

    def _unfinished(self) -> list[str]:
        keys = [cell.run_key for cell in self.cells]
        return [key for key in keys if not is_finished(self.location.folder / key)]

    def _open(self, i: int) -> None:
        """Open a cell's W&B run; without a network offline, so that `wandb sync` can upload it."""
        if self.location.tracking.mode == "online":
            self._guarded(i, self._open_run, i)
            if self.runs[i] is None:
                offline = replace(self.location.tracking, mode="offline")
                self.location = replace(self.location, tracking=offline)
                self.links[i] = replace(self.links[i], trouble=None)  # offline it will be whole
        if self.location.tracking.mode == "offline":
            self._guarded(i, self._open_run, i)

    def _open_run(self, i: int) -> None:
        cell = self.cells[i]
        folder = (self.location.folder / cell.run_key).absolute()
        made_by = asdict(provenance.git_state()) | asdict(provenance.host(self.usage))
        run = open_run(
            folder,
            self.location.tracking,
            self.step,
            group=self.location.benchmark,
            job_type=f"{cell.data.name}/{cell.variant}",
            name=cell.label,
            config={
                **cell.config,
                "run_key": cell.run_key,
                "benchmark": self.location.benchmark,
                "attempt": self.locks.attempts[cell.run_key],
                "provenance": made_by | {"versions": provenance.versions()},
            },
        )
        path = Path(run.settings.sync_dir).absolute().relative_to(folder).as_posix()
        mode = self.location.tracking.mode
        self.links[i] = replace(self.links[i], mode=mode, run_id=run.id, path=path)
        self.runs[i] = run

    def _guarded(self, i: int, call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Call W&B; if it raises, keep the message for the record and let the cell go on."""
        try:
            call(*arguments, **named)
        except Exception as error:
            message = without_folders(f"{type(error).__name__}: {' '.join(str(error).split())}")
            self.links[i] = replace(self.links[i], trouble=self.links[i].trouble or message)
            self.runs[i] = None

    def after_interval(self, learner: Learner) -> None:
        """Log the new points of a learner's curves, and record the cells that have ended."""
        self.usage.update()
        log = learner.run_log
        for i, (curve, outcome) in enumerate(zip(log.curves, log.outcomes, strict=True)):
            for point in curve[len(self.curves[i]) :] if self.open[i] else ():
                self.log(i, point)
            if outcome is not None:
                self.finish(i, outcome)

    def log(self, i: int, point: Mapping[str, float]) -> None:
        """Add a point to a cell's curve."""
        self.curves[i].append(dict(point))
        self._log_point(i, point)

    def _log_point(self, i: int, point: Mapping[str, float]) -> None:
        if self.runs[i] is not None:
            self._guarded(i, log_point, self.runs[i], self.step, point)

    def finish(self, i: int, outcome: Outcome, error: str | None = None) -> None:
        """End a cell: weights, then the W&B run, then the record, last and atomically."""
        if not self.open[i]:
            return
        cell = self.cells[i]
        if self.locks.lost(cell.run_key):
            self.open[i] = False  # it is for the other owner to record
            return
        folder = self.location.folder / cell.run_key
        if outcome.weights:
            # A view would bring along its whole storage, such as the parameters of the whole stack.
            own = {
                name: value.detach().clone(memory_format=torch.contiguous_format)
                for name, value in outcome.weights.items()
            }
            buffer = io.BytesIO()
            torch.save(own, buffer)
            write_atomically(folder / WEIGHTS_FILE, buffer.getvalue())
        self.usage.update()
        elapsed = self.usage.wall_time_s
        self._close_run(i, outcome, elapsed)
        record = Record(
            format=FORMAT,
            benchmark=self.location.benchmark,
            run_key=cell.run_key,
            status=outcome.status,
            error=error,
            attempt=self.locks.attempts[cell.run_key],
            seed=cell.seed,
            config=finite_or_none(cell.config),
            metrics=_as_numbers(outcome.metrics),
            curve=[*map(_as_numbers, self.curves[i])],
            wall_time_s=elapsed,
            stacked_with=len(self.cells),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=self.location.command,
            versions=provenance.versions(),
            git=provenance.git_state(),
            host=provenance.host(self.usage),
            wandb=self.links[i],
        )
        write_record(folder, record)
        self.open[i] = False

    def _close_run(self, i: int, outcome: Outcome, elapsed: float) -> None:
        if i in self.late:
            self.late.remove(i)
            self._open(i)
            for point in self.curves[i]:
                self._log_point(i, point)
        run, key = self.runs[i], self.cells[i].run_key
        if run is not None:
            # W&B drops what is not finite from an update, and would keep an older value: in words.
            last = {n: v if math.isfinite(v) else json.dumps(v) for n, v in outcome.metrics.items()}
            last |= {"status": str(outcome.status), "wall_time_s": elapsed}
            self._guarded(i, lambda: run.summary.update(last))
            weights = self.location.folder / key / WEIGHTS_FILE
            if self.location.tracking.models and weights.exists():
                self._guarded(i, run.log_artifact, weights, name=f"model-{key}", type="model")
            self._guarded(i, self._finish_run, i, run, 0 if outcome.status.final else 1)
        self.runs[i] = None

    def _finish_run(self, i: int, run: "wandb.Run", code: int) -> None:
        """Wait until W&B has a run; if it does not in time, `wandb sync` can upload the file later.

        The others are then left to W&B's own end, which waits for all of them at once.
        """
        try:
            if not self.disconnected:
                run.finish(exit_code=code)
        except TimeoutError:
            self.disconnected = True
        if self.disconnected:
            self.links[i] = replace(self.links[i], mode="offline")

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        with self._held:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        status = Status.STOPPED if error is None or interrupted else Status.FAILED
        text = short_traceback(error) if error and status is Status.FAILED else None
        for i, still_open in enumerate(self.open):
            if still_open:
                last = self.curves[i][-1] if self.curves[i] else {}
                # An error is on its way already; a full disk must not hide it.
                with suppress(OSError) if error else nullcontext():
                    self.finish(i, Outcome(status, last), error=text)


def is_finished(folder: Path) -> bool:
    """Return whether a run need not be done again.

    A damaged record counts as none: the run is done again; `rankbench runs` names the damage.

    Raises
    ------
    NewerRecord
        If a later version of the suite has recorded the run.
    """
    try:
        return read_record(folder / RECORD_FILE).status.final
    except (FileNotFoundError, DamagedRecord) as error:
        if isinstance(error, NewerRecord):
            raise
        return False


def _as_numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    return finite_or_none({name: float(value) for name, value in values.items()})


def short_traceback(error: BaseException) -> str:
    """Return an exception's traceback without the machine's folders."""
    summary = traceback.TracebackException.from_exception(error)
    for frame in summary.stack:
        frame.filename = "/".join(Path(frame.filename).parts[-3:])
    return without_folders("".join(summary.format(chain=False)))


def without_folders(text: str) -> str:
    """Return a text with the last part of each absolute path in it alone."""
    return re.sub(r"(?<![\w.~/])~?/(?:[^/\s'\"]+/)+", "", text)
