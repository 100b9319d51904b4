"""What the suite asks of every learner: it trains one stack of cells and ends each of them once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from bench.core.cell import Cell
from bench.core.errors import UserError, require
from bench.core.settings import Factory, Settings
from bench.core.status import Status

# What most learners are driven by.
DRIVEN: dict[str, type] = {"optimizer": Factory, "trainer": Factory}
MOST_BYTES = 2.0**63  # of a tensor whose size PyTorch can express


@dataclass(frozen=True)
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


class RunLog:
    """The measurements and outcomes of the cells that train together.

    Parameters
    ----------
    cells : sequence of Cell
        The cells of one stack; every other argument called `index` is a position in it.

    Attributes
    ----------
    curves : list of list of dict
        For each cell its measurements so far: the step and metrics by name.
    outcomes : list of Outcome or None
        For each cell its outcome, once it has ended.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = tuple(cells)
        self.curves: list[list[dict[str, float]]] = [[] for _ in cells]
        self.outcomes: list[Outcome | None] = [None for _ in cells]

    def add_point(self, index: int, point: Mapping[str, float]) -> None:
        """Add a measurement to a cell's curve."""
        self.curves[index].append(dict(point))

    def end(self, index: int, outcome: Outcome) -> None:
        """Give a cell its outcome."""
        self.outcomes[index] = outcome

    def training(self) -> list[int]:
        """Return the indices of the cells that have not ended."""
        return [index for index, outcome in enumerate(self.outcomes) if outcome is None]

    def ended(self, losses: Tensor, converged: Tensor) -> dict[int, Status]:
        """Return how cells ended of those that trained, given tensors of shape (cells,)."""
        finite, done = losses.isfinite().tolist(), converged.tolist()
        ended = [index for index in self.training() if done[index] or not finite[index]]
        return {i: Status.CONVERGED if finite[i] else Status.DIVERGED for i in ended}

    def mean_loss(self) -> float:
        """Return the mean of the last losses that were measured of the cells that train."""
        curves = [self.curves[index] for index in self.training()]
        last = [curve[-1].get("train_loss", torch.nan) for curve in curves if curve]
        return float(torch.tensor(last).mean())

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as plain values and tensors."""
        keys = [cell.run_key for cell in self.cells]
        outcomes = [end and {**vars(end), "status": str(end.status)} for end in self.outcomes]
        return {"run_keys": keys, "curves": self.curves, "outcomes": outcomes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of the same cells.

        Raises
        ------
        UserError
            If it is one of other cells.
        """
        given = f"a checkpoint of {len(state['run_keys'])} other cells"
        expected = f"the checkpoint of these {len(self.cells)} cells"
        same = state["run_keys"] == [cell.run_key for cell in self.cells]
        require(same, given, expected, "remove the checkpoint to start anew")
        self.curves = state["curves"]
        ends: list[Any] = state["outcomes"]
        self.outcomes = [end and Outcome(**end | {"status": Status(end["status"])}) for end in ends]


def as_points(columns: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Return what was measured of some cells, tensors of shape (cells,) by name, cell by cell."""
    rows = torch.stack([values.double().cpu() for values in columns.values()], 1).tolist()
    return [dict(zip(columns, row, strict=True)) for row in rows]


def sizes(module: nn.Module, inputs: Tensor) -> tuple[int, int]:
    """Return the bytes of a module's state, and those that it keeps of a sample for gradients.

    The latter are those of `inputs`, an even number of samples, less those of their first half.
    """
    kept: dict[int, int] = {}

    def keep(values: Tensor) -> Tensor:
        kept[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
        return values

    totals, half = [], len(inputs) // 2
    for batch in (inputs[:half].clone(), inputs):
        kept.clear()
        with saved_tensors_hooks(keep, lambda values: values):
            outputs = module(batch)
        totals.append(sum(kept.values()) + outputs.nbytes)
    state = sum(values.nbytes for values in module.state_dict().values())
    return state, max(0, totals[1] - totals[0]) // half


class Learner(ABC):
    """What trains a stack: an `IntervalLearner` or a `NetworkLearner`."""

    run_log: RunLog

    @abstractmethod
    def share_done(self) -> float:
        """Return the share of the work that is done."""

    def fit(self, hooks: Sequence["Hook"], checkpoint: Path | None = None) -> None:
        """Train until every cell has its outcome, on the threads that the cells ask for.

        Parameters
        ----------
        hooks : sequence of Hook
            Called in this order after each interval, or measurement.
        checkpoint : Path, optional
            What `save_checkpoint` has written; training resumes from it, bit for bit.
        """
        threads = torch.get_num_threads()
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.set_num_threads(self.run_log.cells[0].execution.threads or 1)
        # Filling memory that is written before it is read took 14 % of a short step.
        filled = torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore
        try:
            self.run(hooks, checkpoint)
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = filled  # pyright: ignore

    @abstractmethod
    def run(self, hooks: Sequence["Hook"], checkpoint: Path | None) -> None:
        """Train as `fit` says."""

    @abstractmethod
    def save_checkpoint(self, path: Path) -> None:
        """Write all that `fit` can go on from, in a file without code."""


# What happens between two intervals, recording, display or checkpoints: it is called with a learner
# whose `run_log` is up to date.
Hook = Callable[[Learner], None]


class LearnerConfig(Settings, ABC):
    """What the settings in `configs/learner/` have in common.

    Attributes
    ----------
    step : str
        What the horizontal axis of its curves counts: ``"epoch"`` or ``"iteration"``.
    accepts : dict of str to type
        Which config groups it reads, and of what kind each must be: a class, or a protocol checked
        at run time.
    """

    step: ClassVar[str] = "epoch"
    accepts: ClassVar[dict[str, type]]

    @abstractmethod
    def check(self, cells: Sequence[Cell]) -> None:
        """Raise `UserError` for what can be known to fail before any training."""

    @abstractmethod
    def stack_key(self, cell: Cell) -> str:
        """Return a key that cells share if they can train together; the run key if none can."""

    @abstractmethod
    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the memory, in bytes, that training the cells together takes at most."""

    def module(self, cell: Cell) -> nn.Module:
        """Return an untrained module whose state is what a run's `model.pt` holds."""
        raise UserError(f"a model of learner={self.name}", "a learner with a method module(cell)")

    def least_memory(self, cell: Cell) -> float:
        """Return the bytes that training a cell takes at least, without building its model.

        Those are four times the parameters': with gradients and an optimizer's two moments. Their
        shapes are found on PyTorch's device ``meta``, where tensors have no values. 0 for a model
        that needs values to be built; what is wrong with it `check` says.
        """
        try:
            with torch.device("meta"):
                parameters = [*self.module(cell).parameters()]
        except Exception as error:
            return MOST_BYTES if "overflow" in str(error).lower() else 0.0
        return 4.0 * sum(values.nbytes for values in parameters)

    @abstractmethod
    def build(self, cells: Sequence[Cell]) -> Learner:
        """Return a learner of the cells."""
