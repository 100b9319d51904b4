"""Where runs are recorded, and how."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import typed
from bench.errors import require
from bench.tracking.wandb_runs import TrackingConfig


@dataclass(frozen=True)
class Place:
    """Where runs are recorded, and how.

    Parameters
    ----------
    runs_dir : Path
        The folder of all runs.
    benchmark : str
        The benchmark that the runs belong to.
    tracking : TrackingConfig
        How W&B is used.
    mode : str
        The W&B mode in use, from `bench.tracking.wandb_runs.reachable_mode`.
    """

    runs_dir: Path
    benchmark: str
    tracking: TrackingConfig
    mode: str

    @property
    def folder(self) -> Path:
        """The benchmark's folder."""
        return self.runs_dir / self.benchmark

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Place":
        """Return what a configuration says."""
        given = config["runs_dir"]
        require(bool(given), f"runs_dir={given}", "the path of a folder")
        tracking: TrackingConfig = typed(config["tracking"], "tracking")
        return cls(Path(given), config["benchmark"]["name"], tracking, tracking.mode)
