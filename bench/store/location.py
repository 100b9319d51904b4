"""Where runs are recorded, and how."""

from dataclasses import dataclass
from pathlib import Path

from bench.store.wandb_runs import TrackingConfig


@dataclass(frozen=True)
class RunLocation:
    """Where runs are recorded, and how.

    Parameters
    ----------
    runs_dir : Path
        The folder of all runs.
    benchmark : str
        The benchmark that the runs belong to.
    tracking : TrackingConfig
        How W&B is used.
    command : str
        The command that asks for the runs, without folders.
    """

    runs_dir: Path
    benchmark: str
    tracking: TrackingConfig
    command: str = ""

    @property
    def folder(self) -> Path:
        """The benchmark's folder."""
        return self.runs_dir / self.benchmark
