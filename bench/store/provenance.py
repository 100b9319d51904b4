"""Where a run's numbers come from: versions of packages, commit and machine."""

import os
import platform
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from joblib import cpu_count

from bench.store.record import Git, Host

PACKAGES = ("rankbench", "torch", "pytorch-lightning", "torchvision", "wandb", "hydra-core")
PACKAGES += ("numpy", "numba")


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape the numbers."""
    result = {"python": platform.python_version(), **dict.fromkeys(PACKAGES, "not installed")}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            result[package] = version(package)
    return result


@cache
def git_state() -> Git:
    """Return the commit of the running source and whether it was changed; None outside of git.

    Called when a process starts to train: what is committed later is not what it runs.
    """
    source = Path(__file__).resolve().parents[2]
    # Inside a git hook these name another repository.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    with suppress(OSError, ValueError, subprocess.CalledProcessError):
        if Path(git("rev-parse", "--show-toplevel")).resolve() == source:
            changed = git("status", "--porcelain", "--", "bench", "data_prep", "configs")
            return Git(commit=git("rev-parse", "HEAD"), dirty=bool(changed))
    return Git(commit=None, dirty=None)


def host(usage: "Usage") -> Host:
    """Return what the speed and the rounding of a run depend on."""
    return Host(
        system=platform.system(),
        processor=_processor_name(),
        cores=cpu_count(),
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        instruction_sets=tuple(sorted(usage.instruction_sets)),
        threads=tuple(sorted(usage.threads)),
    )


@dataclass
class Usage:
    """What a stack has used so far, over all attempts at it; checkpoints keep it.

    Parameters
    ----------
    elapsed_s : float
        Seconds spent by earlier attempts.
    instruction_sets : set of str
        The vector instruction sets of PyTorch.
    threads : set of int
        The numbers of threads of PyTorch.
    since : float
        When this attempt began, by the monotonic clock.
    """

    elapsed_s: float = 0.0
    instruction_sets: set[str] = field(default_factory=set)
    threads: set[int] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)

    def update(self) -> None:
        """Add what is used now."""
        self.instruction_sets.add(torch.backends.cpu.get_cpu_capability())
        self.threads.add(torch.get_num_threads())

    @property
    def wall_time_s(self) -> float:
        """Seconds spent so far."""
        return self.elapsed_s + time.monotonic() - self.since


@cache
def _processor_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
