"""Where runs are recorded, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.core.cell import Cell
from bench.store.record import write_plan
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

    def write_plan(self, cells: Sequence[Cell]) -> None:
        """Keep the command and its cells, so that a table can count those that are missing."""
        write_plan(self.folder, self.command, {cell.run_key: cell.config for cell in cells})
