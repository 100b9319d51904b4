"""A learner that takes no time, for tests of what runs learners: gradient steps on one number."""

import errno
import os
import signal
import time
from typing import ClassVar

import torch

from bench.core.settings import Count, NonNegative, Settings, settings
from bench.core.status import Status
from bench.learners.base import LearnerConfig, Outcome
from bench.learners.interval import IntervalLearner


@settings
class ToyData(Settings):
    """Settings of `data/toy.yaml`."""

    name: ClassVar[str] = "toy"


@settings
class ToyModel(Settings):
    """Settings of `model/toy.yaml`: `rank` numbers to learn, and what goes wrong with them."""

    name: ClassVar[str] = "toy"
    rank: Count = 1
    fault: str = ""
    faulty_rank: int = 2


@settings
class ToyLearner(LearnerConfig):
    """Settings of `learner/toy.yaml`: a number of intervals, each of which may take a while."""

    name: ClassVar[str] = "toy"
    accepts: ClassVar[dict[str, type]] = {"data": ToyData, "model": ToyModel}
    intervals: Count = 3
    pause_s: NonNegative = 0.0
    cell_bytes: Count = 1000

    def check(self, cells):
        """Everything can be trained."""

    def stack_key(self, cell):
        """All cells can be trained together."""
        return "toy"

    def memory(self, cells):
        """Each cell takes as much."""
        return float(self.cell_bytes * len(cells))

    def build(self, cells):
        """Return the learner."""
        return Toy(cells)


class Toy(IntervalLearner):
    """Halves one parameter per cell in each interval."""

    def __init__(self, cells):
        super().__init__(cells)
        self.values = torch.nn.Parameter(torch.tensor([1.0 + c.seed + c.model.rank for c in cells]))
        self.register_buffer("done", torch.tensor(0))

    def train_interval(self):
        """Halve, measure, and do what goes wrong."""
        settings = self.run_log.cells[0].learner
        time.sleep(settings.pause_s)
        for cell in self.run_log.cells:
            if cell.model.fault and cell.model.rank == cell.model.faulty_rank:
                fail(cell.model.fault, len(self.run_log.cells))
        with torch.no_grad():
            self.values /= 2
        self.done += 1
        for i, cell in enumerate(self.run_log.cells):
            error = float(self.values[i].detach())
            point = {"epoch": float(self.done), "train_error": error, "test_error": 2 * error}
            self.run_log.add_point(i, point)
            if self.done == settings.intervals:
                weights = {"values": self.values[i].detach().clone()}
                status = Status.CONVERGED if cell.seed % 2 else Status.MAX_STEPS
                self.run_log.end(i, Outcome(status, point, weights))

    def share_done(self):
        """Return the share of intervals."""
        return float(self.done) / self.run_log.cells[0].learner.intervals


def fail(fault, cells):
    """Fail as asked for."""
    if fault == "error":
        raise RuntimeError("a fault of its own")
    if fault == "long":
        raise RuntimeError("x" * 3000)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "files" and cells > 2:
        raise OSError(errno.EMFILE, "Too many open files")
    if fault == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
