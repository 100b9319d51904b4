"""The cells that one command trains, and what becomes of them."""

import errno
import math
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any

from bench.core.cell import Cell
from bench.core.errors import UserError
from bench.core.status import Status
from bench.core.words import counted
from bench.execute.checkpoints import checkpointed, stack_folder
from bench.plan import SweepConfig, stacks
from bench.store.location import RunLocation
from bench.store.record import RECORD_FILE, DamagedRecord, read_record
from bench.store.run_locks import last_attempt
from bench.store.tracker import is_finished

# Of what the system refuses, this grows with the stack; a full disk, say, does not.
GROWS_WITH_THE_STACK = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


@dataclass
class Work:
    """Cells to train, and how far they are.

    Parameters
    ----------
    asked : sequence of Cell
        What is asked for.
    location : RunLocation
        Where and how it is recorded.
    sweep : SweepConfig
        How much of the machine is used.
    launcher : mapping
        Hydra's launcher and its settings.
    finished : collection of str
        The keys of the cells that are recorded already: their records are not opened again.

    Attributes
    ----------
    cells : dict of str to Cell
        What is asked for, by run key.
    errors : dict of str to str
        By run key, why cells have failed in this call.

    Raises
    ------
    NewerRecord
        If a later version of the suite has recorded one of the cells.
    """

    asked: InitVar[Sequence[Cell]]
    location: RunLocation
    sweep: SweepConfig
    launcher: Mapping[str, Any]
    finished: InitVar[Collection[str]] = ()

    def __post_init__(self, asked: Sequence[Cell], finished: Collection[str]) -> None:
        self.cells = {cell.run_key: cell for cell in asked}
        self.errors: dict[str, str] = {}
        self._missing = {key: cell for key, cell in self.cells.items() if key not in finished}
        self._tried = {key: last_attempt(self.location.folder / key) for key in self.missing()}

    def part(self, cells: Sequence[Cell]) -> "Work":
        """Return the work on some of the cells, for one process."""
        alone = SweepConfig(max_memory=self.sweep.max_memory)
        return Work(cells, self.location, alone, self.launcher)

    def missing(self) -> dict[str, Cell]:
        """Return the cells that have no final record, by run key."""
        folder = self.location.folder
        known = self._missing.items()
        self._missing = {key: cell for key, cell in known if not is_finished(folder / key)}
        return self._missing

    def pending(self) -> dict[str, Cell]:
        """Return the missing cells that have not failed in this call, here or elsewhere."""
        return {key: cell for key, cell in self.missing().items() if not self._error(key)}

    def failures(self) -> list[str]:
        """Return why cells are missing, one line per reason."""
        reasons = Counter(self._error(key) or "their process is gone" for key in self.missing())
        return [
            f"{counted(n, 'run')} failed and will be retried: {why}" for why, n in reasons.items()
        ]

    def _error(self, key: str) -> str | None:
        try:
            record = read_record(self.location.folder / key / RECORD_FILE)
        except (FileNotFoundError, DamagedRecord):
            return self.errors.get(key)
        new = record.status is Status.FAILED and record.attempt > self._tried[key]
        last_line = (record.error or "failed").splitlines()[-1]
        return self.errors.get(key) or (last_line if new else None)

    def after(self, stack: Sequence[Cell], error: Exception) -> list[list[Cell]]:
        """Return what to train in place of a stack that failed.

        If the error may be that of one cell, or of too many, as when the memory does not suffice,
        that is the halves of the stack, so that in the end it is that cell's alone.
        """
        missing = self.missing()
        rest = [cell for cell in stack if cell.run_key in missing]
        general = isinstance(error, OSError) and error.errno not in GROWS_WITH_THE_STACK
        if len(rest) > 1 and not general and not isinstance(error, UserError):
            keys = [cell.run_key for cell in stack]
            shutil.rmtree(stack_folder(self.location.folder, keys), ignore_errors=True)
            return [rest[len(rest) // 2 :], rest[: len(rest) // 2]]
        message = " ".join(f"{type(error).__name__}: {error}".split())
        self.errors |= {cell.run_key: message for cell in rest}
        return []

    def stacks(self) -> list[list[Cell]]:
        """Divide the pending cells into stacks, one per job at least where there are enough.

        Those with a checkpoint come first, as they were.
        """
        pending = dict(self.pending())
        result = []
        for keys in checkpointed(self.location.folder):
            if all(key in self.cells for key in keys) and any(key in pending for key in keys):
                result.append([self.cells[key] for key in keys])
                for key in keys:
                    pending.pop(key, None)
        if pending:
            most = math.ceil(len(pending) / self.sweep.jobs)
            result += stacks(list(pending.values()), self.sweep.max_memory, most)
        return result
