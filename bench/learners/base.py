"""What the suite asks of every learner: one stack of cells in, one outcome a cell out."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol

from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor

from bench.bounds import Bound, Count, check_bounds, one_of
from bench.config import Cell
from bench.errors import require
from bench.status import Status

Accelerator = Annotated[str, one_of(["auto", "cpu", "gpu", "cuda", "mps"])]
Seconds = Annotated[float, Bound("at least 0 seconds", lambda value: value >= 0)]


@dataclass
class TrainerConfig:
    """What the schemas in `configs/trainer/` have in common.

    Parameters
    ----------
    accelerator : str
        Lightning's accelerator: ``"auto"``, ``"cpu"``, ``"gpu"``, ...
    checkpoint_every_s : float
        Seconds between two checkpoints.
    """

    accelerator: Accelerator = "auto"
    checkpoint_every_s: Seconds = 60.0

    def __post_init__(self) -> None:
        check_bounds("trainer", self)


@dataclass
class EpochsConfig(TrainerConfig):
    """Schema of `configs/trainer/epochs.yaml`.

    Parameters
    ----------
    max_epochs : int
        Passes over the training data at most.
    log_every_n_epochs : int
        Epochs between two measurements of train and test error.
    """

    max_epochs: Count = 1000
    log_every_n_epochs: Count = 20


@dataclass
class Outcome:
    """How one cell ended.

    Parameters
    ----------
    status : Status
        The end.
    metrics : dict
        The final numbers by name.
    weights : dict
        The trained parameters by name, on the CPU.
    """

    status: Status
    metrics: dict[str, float]
    weights: dict[str, Tensor] = field(default_factory=dict)


class Learner(LightningModule):
    """Trains the predictors of one or more cells together.

    A Lightning epoch is one interval: the training between two measurements. A learner stops the
    trainer when every cell has an outcome.

    Attributes
    ----------
    cells : sequence of Cell
        What is trained.
    curves : list of list of dict
        For each cell its measurements so far: the step and metrics by name.
    outcomes : list of Outcome or None
        For each cell its outcome, once it has ended.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__()
        self.cells = list(cells)
        self.curves: list[list[dict[str, float]]] = [[] for _ in cells]
        self.outcomes: list[Outcome | None] = [None for _ in cells]

    @abstractmethod
    def progress(self) -> tuple[float, float]:
        """Return the share of the work that is done, and the mean current loss."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what belongs to the run beside weights and optimizer."""
        checkpoint["run_keys"] = [cell.run_key for cell in self.cells]
        checkpoint["curves"] = self.curves
        checkpoint["outcomes"] = [
            outcome and {**vars(outcome), "status": str(outcome.status)}
            for outcome in self.outcomes
        ]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the checkpoint of the same cells stopped."""
        ours = [cell.run_key for cell in self.cells]
        require(
            checkpoint.get("run_keys") == ours,
            f"a checkpoint of {len(checkpoint.get('run_keys', []))} other cells",
            f"the checkpoint of these {len(ours)} cells",
            "remove the checkpoint to start anew",
        )
        self.curves = checkpoint["curves"]
        self.outcomes = [
            outcome and Outcome(**{**outcome, "status": Status(outcome["status"])})
            for outcome in checkpoint["outcomes"]
        ]


class LearnerConfig(Protocol):
    """What a learner's schema in `configs/learner/` offers beside its fields.

    Attributes
    ----------
    step : str
        What the horizontal axis of its curves counts, such as ``"epoch"``.
    accepts : dict of str to type
        The schemas that it can be combined with, by config group.
    """

    step: ClassVar[str]
    accepts: ClassVar[dict[str, type]]

    def check(self, cells: Sequence[Cell], root: str | None) -> None:
        """Raise `UserError` for what can be known to fail before any training."""
        ...

    def stack_key(self, cell: Cell) -> str:
        """Return a key that cells share if they can train together; the run key if none can."""
        ...

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the memory, in bytes, that training the cells together takes at most."""
        ...

    def build(
        self, cells: Sequence[Cell], trainer: Any, root: str | None
    ) -> tuple[Learner, LightningDataModule]:
        """Return a learner of the cells and its data."""
        ...
