"""Where a run's numbers come from: versions of packages, commit and machine."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "rankbench",
    "torch",
    "pytorch-lightning",
    "torchvision",
    "wandb",
    "hydra-core",
    "numpy",
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
    """Return the commit of the running source and whether it was changed; nulls outside git."""
    source = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != source:
            return {"commit": None, "dirty": None}
        changed = git("status", "--porcelain", "--", "bench", "data_prep", "configs")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


@cache
def host() -> dict[str, Any]:
    """Return what the run's speed and rounding depend on: processor, memory, accelerator."""
    return {
        "system": platform.system(),
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
