"""A model with a poisoned start: in one cell of a benchmark something goes wrong for real."""

import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.models.cp import CPConfig

POISONED_RANK = 2


@dataclass
class Poisoned(CPConfig):
    """A CP model that, at rank 2, starts with NaN, allocates too much, or kills its process."""

    how: str = ""

    def build(self, order, mode_dim, generator):
        model = super().build(order, mode_dim, generator)
        if self.rank == POISONED_RANK:
            {"nan": _nan, "memory": _memory, "kill": _kill, "": lambda model: None}[self.how](model)
        return model


def _nan(model):
    with torch.no_grad():
        model.factors[0, 0, 0] = torch.nan


def _memory(model):
    """Ask for more memory than the process may have."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, limits[1]))
    try:
        model.factors = torch.nn.Parameter(torch.zeros(2**30))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _kill(model):
    """Do what the kernel does to a process that has taken too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
