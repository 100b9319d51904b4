"""Where a run's numbers come from: versions of packages, commit and machine."""

import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# What tells git about another repository than the one a folder is in.
ELSEWHERE = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)
PACKAGES = (
    "rankbench",
    "torch",
    "pytorch-lightning",
    "torchvision",
    "wandb",
    "hydra-core",
    "numpy",
    "numba",
)


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape the numbers."""
    result = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            result[package] = "not installed"
    return result


@cache
def git_state() -> dict[str, Any]:
    """Return the commit of the running source and whether it was changed; nulls outside git.

    It is read once a process, so ask for it when the source has just been imported.
    """
    source = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return found.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != source:
            return {"commit": None, "dirty": None}
        changed = git("status", "--porcelain", "--", "bench", "data_prep", "configs")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def host(
    instruction_sets: Iterable[str] | None = None, threads: Iterable[int] | None = None
) -> dict[str, Any]:
    """Return what the run's speed and rounding depend on: processor, memory, accelerator.

    Parameters
    ----------
    instruction_sets : iterable of str, optional
        Those that took part in PyTorch's operations, if not only the current one.
    threads : iterable of int, optional
        Likewise, the numbers of threads.
    """
    return {
        "system": platform.system(),
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "instruction_sets": sorted(instruction_sets or [torch.backends.cpu.get_cpu_capability()]),
        "threads": sorted(threads or [torch.get_num_threads()]),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@cache
def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
