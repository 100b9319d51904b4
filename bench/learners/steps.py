"""Training that is counted in steps: its schema, its schedule and its intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from bench.errors import require
from bench.learners.base import TrainerConfig

SPACINGS = ("linear", "logarithmic")


@dataclass
class StepsConfig(TrainerConfig):
    """Schema of `configs/trainer/steps.yaml`.

    Parameters
    ----------
    max_steps : int
        Steps at most.
    time_limit : float, optional
        Time of gradient flow, the sum of step sizes, at most; to compare step sizes.
    measurements : int
        How many times to measure, beside the start. The measured curves are a result, so that
        another schedule is another run.
    spacing : str
        ``linear`` or ``logarithmic``: how the measurements are spaced over the steps.
    """

    max_steps: int = 20_000
    time_limit: float | None = None
    measurements: int = 200
    spacing: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_steps", "measurements"):
            value = getattr(self, name)
            require(value >= 1, f"trainer.{name}={value}", "an integer of at least 1")
        possible = self.time_limit is None or self.time_limit > 0
        require(possible, f"trainer.time_limit={self.time_limit}", "a number above 0, or null")
        require(self.spacing in SPACINGS, f"trainer.spacing={self.spacing}", " or ".join(SPACINGS))

    def schedule(self) -> list[int]:
        """Return the steps after which to measure, rising, the last step among them."""
        shares = np.arange(1, self.measurements + 1) / self.measurements
        steps = self.max_steps * shares if self.spacing == "linear" else self.max_steps**shares
        return sorted({max(round(step), 1) for step in steps})


class Intervals(LightningDataModule):
    """One empty batch an epoch, for a learner that holds its data and counts its steps itself."""

    def train_dataloader(self) -> DataLoader:
        """Return a loader that gives one batch each time it is iterated."""
        return DataLoader(_OneInterval(), batch_size=None)


class _OneInterval(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        yield 0
