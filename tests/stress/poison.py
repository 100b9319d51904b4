"""A learner and a model with a poisoned start: in one cell something goes wrong for real."""

import os
import resource
import signal
from pathlib import Path

import torch

from bench.core.settings import settings
from bench.learners.one_versus_all import OneVersusAllConfig
from bench.models.cp import CPConfig

POISONED_RANK = 2


@settings
class PoisonedModel(CPConfig):
    """A CP model that, at rank 2, starts where its first product is not finite."""

    def __post_init__(self):
        if self.rank == POISONED_RANK:
            object.__setattr__(self, "init_mean", 1e30)


@settings
class PoisonedLearner(OneVersusAllConfig):
    """A learner that, at rank 2, allocates too much or kills its process."""

    how: str = ""

    def build(self, cells):
        if any(cell.model.rank == POISONED_RANK for cell in cells):
            {"memory": _memory, "kill": _kill}[self.how]()
        return super().build(cells)


def _memory():
    """Ask for more memory than the process may have."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, limits[1]))
    try:
        torch.zeros(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _kill():
    """Do what the kernel does to a process that has taken too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
