"""Stacks of predictors that read the same images, each of which tells its class from all others."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.cell import Cell
from bench.core.seeding import batches
from bench.core.status import Status
from bench.kernels.tiles import total_errors
from bench.learners.base import Outcome, as_points
from bench.learners.interval import IntervalLearner, max_epochs
from bench.learners.losses import ERROR_UNIT
from data_prep.images import ImageData
from data_prep.one_versus_all import POSITIVE_TARGET, Part, read_parts


class PredictorStack(IntervalLearner):
    """Trains predictors on the squared loss [TF, section 5 and appendix].

    Every predictor sees what it would see alone: the same batches, its own loss, its own share of
    the optimizer's state. One that has converged or diverged is taken out and costs nothing more.

    Attributes
    ----------
    block : CPBlock or ModuleBlock
        The predictors that still train, with their optimizer's state. Both kinds of blocks have
        `members`, the predictors' places in the stack; `ranks`, of how many numbers each one's
        score is the sum; `select`; and `trained`.
    epoch : Tensor
        Scalar, int64: how many epochs are done.
    losses, last_finite_losses : Tensor
        Shape (cells,): mean losses of the last epoch, and of the last in which they were finite.
    epochs_below : Tensor
        Shape (cells,), int64: for how many epochs in a row each loss has met the stop criterion.
    """

    block: Any

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(cells)
        first = cells[0]
        self.config = first.learner
        self.max_epochs = max_epochs(first)
        self.every = first.execution.log_every_n_epochs
        self.data: ImageData = first.data
        self.epoch: Tensor = nn.Buffer(torch.tensor(0))
        self.losses: Tensor = nn.Buffer(torch.full((len(cells),), torch.nan))
        self.last_finite_losses: Tensor = nn.Buffer(self.losses.clone())
        self.epochs_below: Tensor = nn.Buffer(torch.zeros(len(cells), dtype=torch.int64))
        self.parts: dict[str, Part] = {}

    @staticmethod
    @abstractmethod
    def check(cells: Sequence[Cell]) -> None:
        """Raise `UserError` for a model, optimizer or batch that such a stack cannot train."""

    @staticmethod
    @abstractmethod
    def shared(cell: Cell) -> tuple[Any, ...] | None:
        """Return what cells must share, beside their images, to be trained together.

        None if the cell can only be trained alone.
        """

    @staticmethod
    @abstractmethod
    def memory(cells: Sequence[Cell]) -> float:
        """Return the bytes that training the cells together takes."""

    def load_data(self) -> None:
        """Bring the images to the device."""
        self.read(read_parts(self.run_log.cells, self.device))

    def read(self, parts: dict[str, Part]) -> None:
        """Take samples to train and measure on."""
        self.parts = parts

    def batches(self, epoch: int) -> tuple[Tensor, ...]:
        """Return the index tensors of an epoch's batches."""
        data = self.data
        return batches(data.counts["train"], data.batch_size, data.order_seed, epoch)

    def train_interval(self) -> None:
        """Train to a whole multiple of the interval, as a resumed run would, then measure."""
        start, config = int(self.epoch), self.config
        end = min(start // self.every * self.every + self.every, self.max_epochs)
        for epoch in range(start, end):
            self.train_epoch(self.batches(epoch))
            self.epoch += 1
            self.epochs_below = (self.epochs_below + 1) * (self.losses < config.converged_below)
            self._end_early(self.run_log.ended(self.losses, self.epochs_below >= config.patience))
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

    @abstractmethod
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

    @abstractmethod
    def predict(self, name: str, chosen: slice) -> tuple[Tensor, Tensor]:
        """Evaluate every predictor at samples of a part.

        Returns
        -------
        predictions : Tensor
            Shape (predictors, samples).
        underflows : Tensor
            Shape (predictors,), int64: how many of the numbers that the scores are sums of are 0.
        """

    def targets(self, name: str, chosen: Tensor | slice) -> Tensor:
        """Return the targets of samples, shape (predictors, samples)."""
        targets = self.parts[name].targets(self.block.members, chosen)
        return POSITIVE_TARGET * targets.to(self.losses.dtype)

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
        for start in range(0, samples, self.data.batch_size):
            chosen = slice(start, min(start + self.data.batch_size, samples))
            predictions, counts = self.predict(name, chosen)
            wanted = self.targets(name, chosen).cpu().numpy()
            total_errors(predictions.cpu().numpy(), wanted, ERROR_UNIT, most, totals.numpy())
            underflows += counts.cpu()
        return totals / samples, underflows / (samples * block.ranks.cpu())

    def _measure(self) -> None:
        """Add a point to the curves of the block's predictors."""
        (train, underflow), (test, _) = self.errors("train"), self.errors("test")
        losses = self.losses[self.block.members].double().cpu()
        columns = {"train_loss": losses, "running_train_error": losses / ERROR_UNIT}
        columns |= {"train_error": train, "test_error": test, "underflow_share": underflow}
        for index, point in zip(self.block.members.tolist(), as_points(columns), strict=True):
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
        self.optimizer = self.make_optimizer()

    @torch.no_grad()
    def complexities(self) -> dict[str, Tensor]:
        """Return what may tell apart, beside their rank, predictors that generalize.

        Returns
        -------
        dict of str to Tensor
            Shape (predictors,): ``margin``, the tenth percentile, over a batch of training samples,
            of how far a score is on the right side of 1, halfway between the targets.
        """
        first = slice(0, min(self.data.batch_size, len(self.parts["train"])))
        above = self.predict("train", first)[0] - POSITIVE_TARGET / 2
        wanted = self.targets("train", first) > 0
        return {"margin": torch.where(wanted, above, -above).quantile(0.1, dim=1)}

    def _end(self, statuses: Mapping[int, Status]) -> None:
        """Give the block's predictors their outcomes; `constant_error` is the label's variance."""
        members = self.block.members
        shares = self.parts["train"].targets(members).double().mean(1).tolist()
        found = as_points(self.complexities())
        rows = zip(members.tolist(), shares, found, self.block.trained(), strict=True)
        for index, share, complexity, (weights, parameters) in rows:
            metrics = {**self.run_log.curves[index][-1], "constant_error": share * (1 - share)}
            metrics |= {"parameters": parameters, **complexity}
            if statuses[index] is Status.DIVERGED:
                metrics["last_finite_loss"] = float(self.last_finite_losses[index])
            self.run_log.end(index, Outcome(statuses[index], metrics, weights))

    def share_done(self) -> float:
        """Return the share of epochs done."""
        return int(self.epoch) / self.max_epochs

    def extra_state(self) -> dict[str, Any]:
        """Return which predictors still train, and the random state that a module may use."""
        return {"members": self.block.members.cpu(), "rng": torch.get_rng_state()}

    def adopt(self, extra: Mapping[str, Any]) -> None:
        """Take the shape of a checkpoint's block, so that its values fit, and its random state."""
        kept = torch.isin(self.block.members, extra["members"].to(self.device))
        self.block = self.block.select(kept)
        torch.set_rng_state(extra["rng"])
