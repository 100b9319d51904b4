"""What happens at the end of each interval: recording, display, checkpoint."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from bench.learners.base import Learner
from bench.tracking.records import write_atomically
from bench.tracking.tracker import Tracker

CELLS_FILE = "cells.json"


class Recorder(Callback):
    """Hands new measurements and outcomes to the tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the curves' new points and record the cells that have ended."""
        assert isinstance(pl_module, Learner)
        for i, (curve, outcome) in enumerate(
            zip(pl_module.curves, pl_module.outcomes, strict=True)
        ):
            if not self.tracker.open[i]:
                continue
            for point in curve[len(self.tracker.curves[i]) :]:
                self.tracker.log(i, point)
            if outcome is not None:
                self.tracker.finish(i, outcome.status, outcome.metrics, outcome.weights)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the process trains with, once the learner has chosen its threads."""
        self.tracker.take_part()

    def state_dict(self) -> dict[str, Any]:
        """Return the time spent so far, and with what."""
        return {
            "elapsed": time.monotonic() - self.tracker.start,
            "instruction_sets": sorted(self.tracker.instruction_sets),
            "threads": sorted(self.tracker.threads),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the time that earlier attempts spent, and from what they trained with."""
        self.tracker.start -= state_dict["elapsed"]
        self.tracker.instruction_sets |= set(state_dict["instruction_sets"])
        self.tracker.threads |= set(state_dict["threads"])


class Progress(Callback):
    """Calls a function with the learner after every interval."""

    def __init__(self, on_progress: Callable[[Learner], None]) -> None:
        self.on_progress = on_progress

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report."""
        assert isinstance(pl_module, Learner)
        self.on_progress(pl_module)


class Checkpoints(Callback):
    """Keeps one checkpoint, replaced atomically at a set interval of time.

    Lightning's own callback writes in place; a kill in the middle would leave half a file.

    Parameters
    ----------
    path : Path
        The checkpoint file; beside it, a list of the cells that it holds.
    every_s : float
        Seconds between two checkpoints.
    """

    def __init__(self, path: Path, every_s: float) -> None:
        self.path = path
        self.every_s = every_s
        self.last = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if it is time."""
        if time.monotonic() - self.last < self.every_s or trainer.should_stop:
            return
        assert isinstance(pl_module, Learner)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        keys = [cell.run_key for cell in pl_module.cells]
        write_atomically(self.path.with_name(CELLS_FILE), json.dumps(keys).encode())
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        trainer.save_checkpoint(temporary, weights_only=False)  # optimizer and position too
        temporary.replace(self.path)
        self.last = time.monotonic()

    def existing(self) -> Path | None:
        """Return the checkpoint to go on from, if there is one that is whole and free of code."""
        try:
            torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError):
            return None
        return self.path

    def discard(self) -> None:
        """Remove the checkpoint of a stack whose cells are all recorded."""
        shutil.rmtree(self.path.parent, ignore_errors=True)


def checkpointed(folder: Path) -> Iterator[list[str]]:
    """Yield the run keys of each stack of a benchmark's folder that has a checkpoint."""
    for path in sorted(folder.glob(f".stacks/*/{CELLS_FILE}")):
        with suppress(OSError, ValueError):  # a damaged list: its cells start anew
            yield [str(key) for key in json.loads(path.read_bytes())]
