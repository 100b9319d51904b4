"""One class against all others, for all CP predictors that read the same images at once."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.cell import Cell
from bench.core.errors import require
from bench.core.seeding import derive_seed
from bench.core.settings import Count, Positive, identity, settings
from bench.core.status import Status
from bench.kernels.lanes import LANES
from bench.kernels.patterns import MOST_SAMPLES, READ
from bench.kernels.tiles import total_errors
from bench.learners.base import LearnerConfig, Outcome
from bench.learners.compiled_steps import CompiledSteps, PlainSteps
from bench.learners.interval import IntervalLearner, device_of, max_epochs
from bench.learners.losses import ERROR_UNIT
from bench.models.cp import CPBlock, CPConfig, CPPredictor
from data_prep.images import ImageData
from data_prep.one_versus_all import (
    POSITIVE_TARGET,
    OneVersusAllStack,
    Part,
    check_problems,
    images_key,
    problem_of,
)

COMPILER = 60e6  # bytes that Numba takes once it has loaded the compiled steps


@settings
class OneVersusAllConfig(LearnerConfig):
    """Settings of `configs/learner/one_versus_all.yaml`.

    Parameters
    ----------
    converged_below : float
        Training stops when the mean squared loss has been under this value ...
    patience : int
        ... for so many epochs in a row.
    """

    name: ClassVar[str] = "one_versus_all"
    step: ClassVar[str] = "epoch"
    uses: ClassVar[tuple[str, ...]] = ("optimizer", "trainer")
    accepts: ClassVar[dict[str, type]] = {"data": ImageData, "model": CPConfig}

    converged_below: Positive = 1e-8
    patience: Count = 11

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise `UserError` for a variant, file, device, optimizer or Trainer that does not fit."""
        check_problems(cells)
        for cell in {cell.optimizer: cell for cell in cells}.values():
            given = f"optimizer={cell.optimizer.name} with {cell.optimizer.arguments}"
            fits = cell.optimizer.name == "Adam" and [*cell.optimizer.arguments] == ["lr"]
            hint = f"learner={self.name} takes Adam's steps itself"
            require(fits, given, "optimizer=adam with optimizer.lr alone", hint)
            rate = cell.optimizer.arguments["lr"]
            number = isinstance(rate, int | float) and 0 < rate < math.inf
            require(number, f"optimizer.lr={rate}", "a number greater than 0")
        device_of(cells[0])
        for cell in cells:
            max_epochs(cell)
            most = f"at most {MOST_SAMPLES}, as the lists of a batch hold 16-bit numbers"
            size = cell.data.batch_size
            require(size <= MOST_SAMPLES, f"data.batch_size={size}", most)

    def stack_key(self, cell: Cell) -> str:
        """Return what cells must share to be trained together: images and training."""
        return images_key(cell, self, identity(cell.optimizer), max_epochs(cell))

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes that the images, their patterns, targets and parameters take."""
        data: ImageData = cells[0].data
        samples, order = sum(data.counts.values()), data.pixels
        images = 2 * samples * order  # as they are read, and quantized or random
        patterns = 12 * min(READ, data.counts["train"]) * order  # while they are counted
        ranks = [cell.model.rank for cell in cells]
        lanes = math.ceil(sum(ranks) / LANES) * LANES
        # Parameters and Adam's two moments, and both as copies when predictors leave.
        parameters = 6 * 4 * lanes * data.levels * order
        values = 4 * data.batch_size * (max(ranks) + LANES)
        targets = len(cells) * (9 * data.batch_size + samples)
        return COMPILER + images + patterns + parameters + values + targets

    def module(self, cell: Cell) -> nn.Module:
        """Return an untrained predictor."""
        return CPPredictor(cell.data.pixels, cell.data.levels, cell.model.rank)

    def build(self, cells: Sequence[Cell]) -> "OneVersusAll":
        """Return a learner of the cells."""
        return OneVersusAll(cells)


def initial_factors(cell: Cell) -> Tensor:
    """Return a cell's start values, shape (rank, levels, pixels), float32.

    NumPy's normal numbers, unlike PyTorch's, do not depend on the processor's instruction set.
    """
    model, data = cell.model, cell.data
    rng = np.random.Generator(np.random.Philox(derive_seed(cell.seed, "initialization")))
    start = rng.standard_normal((data.pixels, data.levels, model.rank))
    factors = model.init_mean + model.init_std * start
    return torch.from_numpy(factors.astype(np.float32)).permute(2, 1, 0).contiguous()


class OneVersusAll(IntervalLearner):
    """Trains CP predictors by Adam on the squared loss [TF, section 5 and appendix].

    Every predictor sees what it would see alone: the same batches, its own loss, its own share of
    Adam's state. A predictor that has converged or diverged is taken out and costs nothing more.

    On a CPU a step is one pass of `bench.kernels.tiles`: its result depends neither on the stack,
    nor on the threads, nor on the processor. Elsewhere it is made of PyTorch's own operations.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal stack keys.

    Attributes
    ----------
    block : CPBlock
        The predictors that still train, with Adam's state.
    epoch : Tensor
        Scalar, int64: how many epochs are done.
    losses, last_finite_losses : Tensor
        Shape (cells,): mean losses of the last epoch, and of the last in which they were finite.
    epochs_below : Tensor
        Shape (cells,), int64: for how many epochs in a row each loss has met the stop criterion.
    """

    epoch: Tensor
    losses: Tensor
    last_finite_losses: Tensor
    epochs_below: Tensor

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(cells)
        first = cells[0]
        self.config: OneVersusAllConfig = first.learner
        self.max_epochs = max_epochs(first)
        self.every = first.execution.log_every_n_epochs
        self.rate = float(first.optimizer.arguments["lr"])
        self.stack = OneVersusAllStack([problem_of(cell) for cell in cells], first.execution.root)
        factors = [initial_factors(cell) for cell in cells]
        ranks = torch.tensor([len(one) for one in factors])
        self.block = CPBlock(torch.arange(len(cells)), ranks, torch.cat(factors))
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("losses", torch.full((len(cells),), torch.nan))
        self.register_buffer("last_finite_losses", self.losses.clone())
        self.register_buffer("epochs_below", torch.zeros(len(cells), dtype=torch.int64))
        self.parts: dict[str, Part] = {}
        self.steps: CompiledSteps | PlainSteps

    def load_data(self) -> None:
        """Bring the images to the device."""
        self.read({name: part.to(self.device) for name, part in self.stack.parts().items()})

    def read(self, parts: dict[str, Part]) -> None:
        """Take samples to train and measure on, and list their patterns if they are on a CPU."""
        self.parts, data = parts, self.stack.data
        images = {name: part.inputs for name, part in parts.items()}
        if self.device.type == "cpu" and self.block.tiled.dtype == torch.float32:
            arrays = {name: part.numpy() for name, part in images.items()}
            self.steps = CompiledSteps(arrays, data.levels, data.batch_size)
        else:
            self.steps = PlainSteps(images, data.levels)

    def threads(self) -> int:
        """Return how many threads are asked for; by default one, as stacks share the cores."""
        return self.run_log.cells[0].execution.threads or 1

    def train_interval(self) -> None:
        """Train to a whole multiple of the interval, as a resumed run would, then measure."""
        start = int(self.epoch)
        for epoch in range(
            start, min(start // self.every * self.every + self.every, self.max_epochs)
        ):
            self.train_epoch(self.stack.batches(epoch))
            self.epoch += 1
            self.epochs_below = (self.epochs_below + 1) * (
                self.losses < self.config.converged_below
            )
            self._end_early(self._ended())
            if not self.run_log.training():
                return
        self._measure()
        if self.epoch >= self.max_epochs:
            self._end(dict.fromkeys(self.run_log.training(), Status.MAX_STEPS))

    def train_epoch(self, batches: Sequence[Tensor]) -> None:
        """Step through an epoch's batches and keep each predictor's mean loss."""
        members = self.block.members
        sums = torch.zeros(len(members), dtype=torch.float64, device=self.device)
        for indices in batches:
            losses = self.train_step(indices)
            sums += losses * len(indices)
            losses = losses.to(self.losses.dtype)
            last = self.last_finite_losses[members]
            self.last_finite_losses[members] = losses.where(losses.isfinite(), last)
        samples = sum(len(indices) for indices in batches)
        self.losses[members] = (sums / samples).to(self.losses.dtype)

    def train_step(self, indices: Tensor) -> Tensor:
        """Take one step of every predictor.

        Parameters
        ----------
        indices : Tensor
            Shape (batch,), int64: the samples of the batch.

        Returns
        -------
        Tensor
            Shape (predictors,), float64: mean squared losses before the step.
        """
        targets = self.targets("train", indices.to(self.device))
        self.block.steps += 1
        return self.steps.step(self.block, indices, targets, self.rate)

    def targets(self, name: str, chosen: Tensor | slice) -> Tensor:
        """Return the targets of samples, shape (predictors, samples)."""
        targets = self.parts[name].targets(self.block.members, chosen)
        return POSITIVE_TARGET * targets.to(self.block.tiled.dtype)

    @torch.no_grad()
    def errors(self, name: str) -> tuple[Tensor, Tensor]:
        """Return each predictor's mean error on a part of the data, and its share of underflow.

        The error is the squared error divided by 4, that is, in units of labels 0 and 1; on test
        data each sample counts at most 1 [TF, appendix].

        Returns
        -------
        errors, underflow_shares : Tensor
            Shape (predictors,), float64, for the predictors of the block.
        """
        block, samples = self.block, len(self.parts[name])
        most = 1.0 if name == "test" else torch.inf
        totals = torch.zeros(len(block.members), dtype=torch.float64)
        underflows = torch.zeros_like(totals)
        size = self.stack.data.batch_size
        for start in range(0, samples, size):
            chosen = slice(start, min(start + size, samples))
            predictions, counts = self.steps.predict(block, name, chosen)
            wanted = self.targets(name, chosen).cpu().numpy()
            total_errors(predictions.cpu().numpy(), wanted, ERROR_UNIT, most, totals.numpy())
            underflows += counts.cpu()
        return totals / samples, underflows / (samples * block.ranks.cpu())

    def _ended(self) -> dict[int, Status]:
        """Return how predictors ended of those that trained, by their index."""
        finite = self.losses.isfinite().tolist()
        converged = (self.epochs_below >= self.config.patience).tolist()
        return {
            index: Status.CONVERGED if finite[index] else Status.DIVERGED
            for index in self.run_log.training()
            if converged[index] or not finite[index]
        }

    def _measure(self) -> None:
        """Add a point to the curves of the block's predictors."""
        (train, underflow), (test, _) = self.errors("train"), self.errors("test")
        losses = self.losses[self.block.members].double().cpu()
        columns = {"train_loss": losses, "running_train_error": losses / ERROR_UNIT}
        columns |= {"train_error": train, "test_error": test, "underflow_share": underflow}
        rows = torch.stack(list(columns.values()), 1).tolist()
        for index, row in zip(self.block.members.tolist(), rows, strict=True):
            point = dict(zip(columns, row, strict=True))
            self.run_log.add_point(index, {"epoch": int(self.epoch), **point})

    def _end_early(self, statuses: Mapping[int, Status]) -> None:
        """Take out the predictors that have converged or diverged."""
        if not statuses:
            return
        ended = torch.isin(self.block.members, torch.tensor(list(statuses), device=self.device))
        leaving, staying = self.block.select(ended), self.block.select(~ended)
        self.block = leaving
        self._measure()
        self._end(statuses)
        self.block = staying

    def _end(self, statuses: Mapping[int, Status]) -> None:
        """Give the block's predictors their outcomes; `constant_error` is the label's variance."""
        members = self.block.members
        shares = self.parts["train"].targets(members).double().mean(1).tolist()
        rows = zip(members.tolist(), shares, self.block.predictor_factors(), strict=True)
        for index, share, factors in rows:
            metrics = {**self.run_log.curves[index][-1], "constant_error": share * (1 - share)}
            metrics["parameters"] = factors.numel()
            if statuses[index] is Status.DIVERGED:
                metrics["last_finite_loss"] = float(self.last_finite_losses[index])
            weights = {"factors": factors.permute(2, 1, 0).contiguous().cpu()}
            self.run_log.end(index, Outcome(statuses[index], metrics, weights))

    def progress(self) -> tuple[float, float]:
        """Return the share of epochs done and the mean loss of the predictors still training."""
        losses = self.losses[self.run_log.training()].tolist()
        mean = sum(losses) / len(losses) if losses else float("nan")
        return int(self.epoch) / self.max_epochs, mean

    def extra_state(self) -> dict[str, Any]:
        """Return which predictors still train."""
        return {"members": self.block.members.tolist(), "ranks": self.block.ranks.tolist()}

    def adopt(self, extra: Mapping[str, Any]) -> None:
        """Take the shape of a checkpoint's block, so that its values fit."""
        data, ranks = self.stack.data, torch.tensor(extra["ranks"])
        shape = (int(ranks.sum()), data.levels, data.pixels)
        self.block = CPBlock(torch.tensor(extra["members"]), ranks, torch.ones(shape))
