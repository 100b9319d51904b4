"""One checkpoint per stack: whole, unaltered and free of code, or not used.

A stack's folder is named by the hash of its run keys. In it `stack.json` names the checkpoint file
by the SHA-256 of its bytes; it is replaced atomically once that file is written, so that a kill at
any moment leaves the older checkpoint or the newer one.
"""

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from bench.core.files import write_atomically
from bench.core.settings import Count, NonNegative, adapter, settings
from bench.execute.logging_setup import log
from bench.learners.base import Learner
from bench.store.provenance import Usage

STACKS = ".stacks"
MANIFEST_FILE = "stack.json"


@settings
class Manifest:
    """What a stack's folder holds.

    Parameters
    ----------
    run_keys : tuple of str
        The cells of the stack, in order.
    checkpoint : str
        The SHA-256 of the checkpoint file, which it is named by.
    elapsed_s, instruction_sets, threads
        See `bench.store.provenance.Usage`.
    """

    run_keys: tuple[str, ...]
    checkpoint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    elapsed_s: NonNegative
    instruction_sets: tuple[str, ...]
    threads: tuple[Count, ...]


@dataclass
class Checkpoints:
    """Keeps the checkpoint of one stack, replaced at a set interval of time.

    Parameters
    ----------
    folder : Path
        The stack's folder; see `stack_folder`.
    every_s : float
        Seconds between two checkpoints.
    usage : Usage
        What the stack has used so far, which is kept too.

    Attributes
    ----------
    trained : bool
        Whether an interval has ended since this object was made.
    """

    folder: Path
    every_s: float
    usage: Usage
    trained: bool = False
    last: float = field(default_factory=time.monotonic)

    def after_interval(self, learner: Learner) -> None:
        """Write a checkpoint if it is time and there is something left to train."""
        self.trained = True
        if time.monotonic() - self.last < self.every_s or not learner.run_log.training():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{uuid.uuid4().hex}.tmp"
        try:
            learner.save_checkpoint(temporary)
            digest = _digest(temporary, flush=True)
            temporary.replace(self.folder / f"{digest}.ckpt")
        finally:
            temporary.unlink(missing_ok=True)
        manifest = Manifest(
            run_keys=tuple(cell.run_key for cell in learner.run_log.cells),
            checkpoint=digest,
            elapsed_s=self.usage.wall_time_s,
            instruction_sets=tuple(sorted(self.usage.instruction_sets)),
            threads=tuple(sorted(self.usage.threads)),
        )
        write_atomically(self.folder / MANIFEST_FILE, adapter(Manifest).dump_json(manifest))
        for path in self.folder.glob("*.ckpt"):
            if path.stem != digest:
                path.unlink(missing_ok=True)
        self.last = time.monotonic()

    def existing(self) -> Path | None:
        """Return the checkpoint to go on from, if there is one whose bytes are as written.

        What the stack had used by then is added to `usage`.
        """
        manifest = _manifest(self.folder)
        if manifest is None:
            if any(self.folder.glob("*.ckpt")):
                log.warning("%s: no readable %s; its runs start anew", self.folder, MANIFEST_FILE)
            return None
        path = self.folder / f"{manifest.checkpoint}.ckpt"
        unaltered = False
        with suppress(OSError):
            unaltered = _digest(path) == manifest.checkpoint
        if not unaltered:
            log.warning("%s: damaged or missing checkpoint; its runs start anew", path)
            return None
        self.usage.elapsed_s += manifest.elapsed_s
        self.usage.instruction_sets.update(manifest.instruction_sets)
        self.usage.threads.update(manifest.threads)
        return path

    def discard(self) -> None:
        """Remove the checkpoint."""
        shutil.rmtree(self.folder, ignore_errors=True)


def stack_folder(benchmark_folder: Path, run_keys: Sequence[str]) -> Path:
    """Return the folder of the checkpoint of runs that train together."""
    name = hashlib.sha256("".join(sorted(run_keys)).encode()).hexdigest()[:16]
    return benchmark_folder / STACKS / name


def checkpointed(benchmark_folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the run keys of each stack of a benchmark's folder that has a checkpoint."""
    for path in sorted(benchmark_folder.glob(f"{STACKS}/*/{MANIFEST_FILE}")):
        if manifest := _manifest(path.parent):  # the cells of a damaged one start anew
            yield manifest.run_keys


def _manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a stack's folder, if it is whole and belongs to this folder."""
    try:
        manifest = adapter(Manifest).validate_json((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    ours = stack_folder(folder.parents[1], manifest.run_keys) == folder
    return manifest if ours else None


def _digest(path: Path, *, flush: bool = False) -> str:
    """Return the SHA-256 of a file, flushed to the disk first if `flush`."""
    with path.open("r+b" if flush else "rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore
