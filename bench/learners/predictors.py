"""What the learners of predictors that read the same images have in common."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bench.config import Cell, typed
from bench.learners.base import EpochsConfig, Learner, Outcome
from bench.status import Status
from data_prep.controls import control
from data_prep.images import ImageData
from data_prep.one_versus_all import OneVersusAllStack, Part, Problem

ONE_THREAD_WORK = 10**7  # multiply-adds a step below which threads wait for each other


def problem_of(cell: Cell) -> Problem:
    """Return the one-versus-all problem that a cell asks for."""
    data: ImageData = typed(cell.config["data"], "data")
    return Problem(data, cell.config["variant"], cell.config["seed"])


def check_problems(cells: Sequence[Cell], root: str | None) -> None:
    """Raise `UserError` if a variant does not exist or a file is missing or damaged."""
    problems = [problem_of(cell) for cell in cells]
    for variant in {problem.variant for problem in problems}:
        control(variant)
    for data in {problem.data.name: problem.data for problem in problems}.values():
        data.files(root)


def images_key(cell: Cell, *shared: Any) -> str:
    """Return a key of cells that read the same images and agree in what else is given."""
    return hashlib.sha256(repr((problem_of(cell).images_key(), shared)).encode()).hexdigest()[:16]


class PredictorStack(Learner):
    """Trains predictors epoch by epoch; ends each when it has converged or diverged.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal stack keys.
    data : OneVersusAllStack
        Their images and targets.
    config : dataclass
        The learner's schema, whose `converged_below` is the stop criterion.
    trainer : EpochsConfig
        The number of epochs at most, and of those between two measurements.

    Attributes
    ----------
    epoch : Tensor
        Scalar, int64: how many epochs are done.
    losses, last_finite_losses : Tensor
        Shape (cells,): mean losses of the last epoch, and of the last in which they were finite.
    calm : Tensor
        Shape (cells,), int64: for how many epochs in a row each loss has met the criterion.
    patience : int
        For how many it must.
    """

    epoch: Tensor
    losses: Tensor
    last_finite_losses: Tensor
    calm: Tensor
    patience: int = 1

    def __init__(
        self, cells: Sequence[Cell], data: OneVersusAllStack, config: Any, trainer: EpochsConfig
    ) -> None:
        super().__init__(cells)
        self.automatic_optimization = False
        self.data = data
        self.config = config
        self.limits = trainer
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("losses", torch.full((len(cells),), torch.nan))
        self.register_buffer("last_finite_losses", self.losses.clone())
        self.register_buffer("calm", torch.zeros(len(cells), dtype=torch.int64))
        self.parts: dict[str, Part] = {}

    @abstractmethod
    def channels(self) -> int:
        """Return how many numbers a step computes for every pixel of a batch."""

    @abstractmethod
    def train_epoch(self, batches: Sequence[Tensor], optimizer: Optimizer) -> None:
        """Step through an epoch's batches and keep each predictor's mean loss."""

    @abstractmethod
    def end_early(self, statuses: Mapping[int, Status], optimizer: Optimizer) -> None:
        """Measure and end the predictors that have converged or diverged, if there are any."""

    @abstractmethod
    def measure(self) -> None:
        """Add a point to the curves of the predictors that train."""

    @abstractmethod
    def end(self, status: Status) -> None:
        """Give the predictors that train their outcomes."""

    def on_fit_start(self) -> None:
        """Bring the data to the device; do small problems on one thread."""
        self.threads = torch.get_num_threads()
        if self.channels() * self.data.data.batch_size * self.data.data.SIDE**2 < ONE_THREAD_WORK:
            torch.set_num_threads(1)
        self.parts = {name: part.to(self.device) for name, part in self.data.parts.items()}

    def on_fit_end(self) -> None:
        """Leave the threads as they were."""
        torch.set_num_threads(self.threads)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Train to a whole multiple of the interval, as a resumed run would, then measure."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        start, every = int(self.epoch), self.limits.log_every_n_epochs
        for epoch in range(start, min(start // every * every + every, self.limits.max_epochs)):
            self.train_epoch(self.data.batches(epoch), optimizer)
            self.epoch += 1
            self.calm = (self.calm + 1) * (self.losses < self.config.converged_below)
            self.end_early(self.ended(), optimizer)
            if all(self.outcomes):
                break
        if self.training_places():
            self.measure()
            if self.epoch >= self.limits.max_epochs:
                self.end(Status.MAX_STEPS)
        if all(self.outcomes):
            self.trainer.should_stop = True

    def training_places(self) -> list[int]:
        """Return the places in the stack of the predictors that train."""
        return [place for place, outcome in enumerate(self.outcomes) if outcome is None]

    def ended(self) -> dict[int, Status]:
        """Return how predictors ended of those that trained, by their places."""
        finite = self.losses.isfinite().tolist()
        converged = (self.calm >= self.patience).tolist()
        return {
            place: Status.CONVERGED if finite[place] else Status.DIVERGED
            for place in self.training_places()
            if converged[place] or not finite[place]
        }

    def add_points(self, places: Sequence[int], columns: Mapping[str, Tensor]) -> None:
        """Add a point to the curves of some predictors, whose numbers are given by name."""
        rows = torch.stack(list(columns.values()), 1).tolist()
        for place, row in zip(places, rows, strict=True):
            point = dict(zip(columns, row, strict=True))
            self.curves[place].append({"epoch": int(self.epoch), **point})

    def end_one(
        self, place: int, status: Status, metrics: Mapping[str, float], weights: dict[str, Tensor]
    ) -> None:
        """Give a predictor its outcome: its last point and the metrics of its whole training."""
        metrics = {**self.curves[place][-1], **metrics}
        if status is Status.DIVERGED:
            metrics["last_finite_loss"] = float(self.last_finite_losses[place])
        self.outcomes[place] = Outcome(status, metrics, weights)

    def progress(self) -> tuple[float, float]:
        """Return the share of epochs done and the mean loss of the predictors still training."""
        losses = self.losses[self.training_places()].tolist()
        mean = sum(losses) / len(losses) if losses else float("nan")
        return int(self.epoch) / self.limits.max_epochs, mean
