"""One run: lock, learner, training, record. A stack of cells is run like one cell."""

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as lightning

from bench.core.cell import Cell
from bench.execute.checkpoints import Checkpoints, stack_folder
from bench.execute.logging_setup import log, quiet_libraries
from bench.execute.replicas import other_devices
from bench.learners.base import Hook, Learner
from bench.store.location import RunLocation
from bench.store.tracker import Tracker

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def run(
    cells: Sequence[Cell],
    location: RunLocation,
    on_progress: Hook = lambda learner: None,
) -> None:
    """Train cells together, from their checkpoint if there is one, and record each of them.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal stack keys.
    location : RunLocation
        Where and how they are recorded.
    on_progress : callable
        Called with the learner after each interval.

    Raises
    ------
    Held
        If other processes train all of them, or if all have ended.
    """
    first = cells[0]
    with Tracker(cells, location, first.learner.step) as tracker:
        folder = stack_folder(location.folder, [cell.run_key for cell in tracker.cells])
        checkpoints = Checkpoints(folder, first.execution.checkpoint_every_s, tracker.usage)
        hooks = [tracker.after_interval, on_progress, checkpoints.after_interval]
        path = checkpoints.existing()
        try:
            _fit(tracker.cells, hooks, path)
        except Exception as error:
            if path is None or checkpoints.trained:
                raise
            # Intact, but nothing that this learner can continue from: of another version, say.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            log.warning("%s: unfit checkpoint (%s); its runs start anew", path, reason)
            _fit(tracker.cells, hooks)
    checkpoints.discard()


def _fit(cells: Sequence[Cell], hooks: Sequence[Hook], checkpoint: Path | None = None) -> None:
    """Train, on all devices that the cells ask for."""
    with other_devices(_fit_replica, cells, checkpoint):
        _prepared(cells).fit(hooks, checkpoint)


def _fit_replica(cells: Sequence[Cell], checkpoint: Path | None) -> None:
    quiet_libraries()
    _prepared(cells).fit([], checkpoint)


def _prepared(cells: Sequence[Cell]) -> Learner:
    """Return a learner at its start, with the process's random state and threads set for it."""
    _keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic CUDA products
    lightning.seed_everything(cells[0].seed, verbose=False)
    return cells[0].learner.build(cells)


def _keep_freed_memory() -> None:
    """Let the GNU C library keep memory that a step frees, for the next step.

    Otherwise it returns the pages to the system and fetches them again, which takes a tenth of a
    network's step and a fifth to a third of a step of stacked factorizations.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it takes
