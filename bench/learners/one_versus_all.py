"""One class against all others, for all predictors that read the same images at once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.bounds import Positive, check_bounds
from bench.config import Cell, typed
from bench.kernels.indicators import IndicatorBatch
from bench.learners.base import EpochsConfig, Learner, Outcome
from bench.models.cp import CPBlock, CPConfig, blocks_of
from bench.seeding import generator
from bench.status import Status
from data_prep.controls import control
from data_prep.images import ImageData
from data_prep.one_versus_all import POSITIVE_TARGET, OneVersusAllStack, Part, Problem

BLOCK_VALUES = 256 * 5000  # so many float32 values and their digits stay in a processor's cache
ONE_THREAD_WORK = 10**7  # multiply-adds a step below which threads wait for each other
# The squared error is in units of the targets' distance, so that it reads as for labels 0 and 1.
ERROR_UNIT = POSITIVE_TARGET**2


@dataclass
class OneVersusAllConfig:
    """Schema of `configs/learner/one_versus_all.yaml`.

    Parameters
    ----------
    learning_rate : float
        Adam's step size; its other settings are PyTorch's defaults.
    converged_below : float
        Training stops when an epoch's mean squared loss is under this value.
    """

    learning_rate: Positive = 5e-4
    converged_below: Positive = 1e-8

    step: ClassVar[str] = "epoch"
    accepts: ClassVar[dict[str, type]] = {
        "data": ImageData,
        "model": CPConfig,
        "trainer": EpochsConfig,
    }

    def __post_init__(self) -> None:
        check_bounds("learner", self)

    def check(self, cells: Sequence[Cell], root: str | None) -> None:
        """Raise `UserError` if a variant does not exist or a file is missing or damaged."""
        problems = [problem_of(cell) for cell in cells]
        for variant in {problem.variant for problem in problems}:
            control(variant)
        for data in {problem.data.name: problem.data for problem in problems}.values():
            data.files(root)

    def stack_key(self, cell: Cell) -> str:
        """Return what cells must share to be trained in one matrix product."""
        shared = (problem_of(cell).images_key(), cell.config["learner"], cell.config["trainer"])
        return hashlib.sha256(repr(shared).encode()).hexdigest()[:16]

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes that the images, targets, parameters and one block take."""
        data = problem_of(cells[0]).data
        columns = (data.levels - 1) * data.SIDE**2 + 1
        samples = sum(data.COUNTS.values())
        images = samples * columns + data.batch_size * columns
        ranks = [cell.config["model"]["rank"] for cell in cells]
        # Parameter, gradient, Adam's two moments, and the copy that a frozen predictor leaves.
        parameters = 5 * 4 * sum(ranks) * data.levels * data.SIDE**2
        # Values, their gradient and digits in int32 and int8, for the largest block.
        block = min(sum(ranks), max(block_components(data), *ranks))
        work = 40 * block * data.batch_size
        return images + len(cells) * samples + parameters + work

    def build(
        self, cells: Sequence[Cell], trainer: EpochsConfig, root: str | None
    ) -> tuple["OneVersusAll", OneVersusAllStack]:
        """Return a learner of the cells and the images that they share."""
        problems = [problem_of(cell) for cell in cells]
        data = OneVersusAllStack(problems, root, trainer.max_epochs, trainer.log_every_n_epochs)
        return OneVersusAll(cells, data, self, trainer.max_epochs), data


def problem_of(cell: Cell) -> Problem:
    """Return the one-versus-all problem that a cell asks for."""
    data: ImageData = typed(cell.config["data"], "data")
    return Problem(data, cell.config["variant"], cell.config["seed"])


def block_components(data: ImageData) -> int:
    """Return how many components are evaluated together: all of them on a GPU."""
    return (2**31 if torch.cuda.is_available() else BLOCK_VALUES) // data.batch_size


def initial_factors(cell: Cell) -> Tensor:
    """Return a cell's start values, shape (rank, levels, pixels)."""
    data: ImageData = typed(cell.config["data"], "data")
    model: CPConfig = typed(cell.config["model"], "model")
    draw = generator(cell.config["seed"], "initialization")
    factors = model.build(data.SIDE**2, data.levels, draw).factors
    return factors.detach().permute(2, 1, 0).contiguous()


class OneVersusAll(Learner):
    """Trains CP predictors by Adam on the squared loss [TF, section 5 and appendix].

    Every predictor sees what it would see alone: the same batches, its own loss, its own share of
    Adam's state. A predictor that has converged or diverged is taken out and costs nothing more.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal `OneVersusAllConfig.stack_key`.
    data : OneVersusAllStack
        Their images and targets.
    config : OneVersusAllConfig
        The optimizer's settings and the stop criterion.
    max_epochs : int
        Passes over the training data at most.
    """

    epoch: Tensor
    losses: Tensor
    last_finite_losses: Tensor

    def __init__(
        self,
        cells: Sequence[Cell],
        data: OneVersusAllStack,
        config: OneVersusAllConfig,
        max_epochs: int,
    ) -> None:
        super().__init__(cells)
        self.automatic_optimization = False
        self.config = config
        self.data = data
        self.levels = data.data.levels
        self.max_epochs = max_epochs
        factors = [initial_factors(cell) for cell in cells]
        ranks = torch.tensor([len(one) for one in factors])
        runs = blocks_of(ranks.tolist(), block_components(data.data))
        self.blocks = nn.ModuleList(
            CPBlock(torch.tensor(run), ranks[run], torch.cat([factors[i] for i in run]))
            for run in runs
        )
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("losses", torch.full((len(cells),), torch.nan))
        self.register_buffer("last_finite_losses", self.losses.clone())
        self.parts: dict[str, Part] = {}

    @property
    def stack(self) -> list[CPBlock]:
        """The blocks of the predictors that still train."""
        return list(self.blocks)  # pyright: ignore[reportReturnType]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one Adam for all blocks."""
        rate = self.config.learning_rate
        return torch.optim.Adam(self.blocks.parameters(), lr=rate, fused=True)

    def on_fit_start(self) -> None:
        """Bring the data to the device; do small problems on one thread."""
        components = sum(len(block.factors) for block in self.stack)
        self.threads = torch.get_num_threads()
        if components * self.data.data.batch_size * self.data.data.SIDE**2 < ONE_THREAD_WORK:
            torch.set_num_threads(1)
        self.parts = {name: part.to(self.device) for name, part in self.data.parts.items()}

    def on_fit_end(self) -> None:
        """Leave the threads as they were."""
        torch.set_num_threads(self.threads)

    def training_step(self, batch: list[Sequence[Tensor]], batch_idx: int) -> None:
        """Train for one interval, then measure."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        for epoch in batch:
            self.train_epoch(epoch, optimizer)
            self.epoch += 1
            self._freeze(optimizer)
            if not self.blocks:
                break
        for block in self.stack:
            self._measure(block)
        if self.epoch >= self.max_epochs:
            for block in self.stack:
                self._end(block, [Status.MAX_STEPS] * len(block.members))
        if all(self.outcomes):
            self.trainer.should_stop = True

    def train_epoch(self, batches: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Step through an epoch's batches and keep each predictor's mean loss."""
        sums = torch.zeros_like(self.losses)
        for indices in batches:
            for block, losses in zip(self.stack, self.train_step(indices, optimizer), strict=True):
                sums[block.members] += losses * len(indices)
                last = self.last_finite_losses[block.members]
                self.last_finite_losses[block.members] = losses.where(losses.isfinite(), last)
        samples = sum(len(indices) for indices in batches)
        for block in self.stack:
            self.losses[block.members] = sums[block.members] / samples

    def train_step(self, indices: Tensor, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """Take one step of every predictor.

        Parameters
        ----------
        indices : Tensor
            Shape (batch,), int64: the samples of the batch.
        optimizer : Optimizer
            Over the parameters of all blocks.

        Returns
        -------
        list of Tensor
            For each block its predictors' mean squared losses before the step.
        """
        part, indices = self.parts["train"], indices.to(self.device)
        inputs = IndicatorBatch(part.inputs.index_select(0, indices), self.levels)
        losses = []
        for block in self.stack:
            predictions, _ = block(inputs)
            wanted = POSITIVE_TARGET * part.targets(block.members, indices).to(predictions.dtype)
            loss = (predictions - wanted).square().mean(1)
            loss.sum().backward()
            losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        return losses

    @torch.no_grad()
    def errors(self, block: CPBlock, name: str) -> tuple[Tensor, Tensor]:
        """Return each predictor's mean error on a part of the data, and its share of underflow.

        The error is the squared error divided by 4, that is, in units of labels 0 and 1; on test
        data each sample counts at most 1 [TF, appendix].
        """
        part = self.parts[name]
        total = torch.zeros(len(block.members), device=self.device)
        underflows = torch.zeros_like(total)
        size = self.data.data.batch_size
        for start in range(0, len(part), size):
            chosen = slice(start, start + size)
            predictions, counts = block(IndicatorBatch(part.inputs[chosen], self.levels))
            wanted = POSITIVE_TARGET * part.targets(block.members, chosen)
            error = (predictions - wanted).square() / ERROR_UNIT
            total += (error.clamp(max=1) if name == "test" else error).sum(1)
            underflows += counts
        return total / len(part), underflows / (len(part) * block.ranks)

    def _measure(self, block: CPBlock) -> None:
        """Add a point to the curves of a block's predictors."""
        (train, underflow), (test, _) = self.errors(block, "train"), self.errors(block, "test")
        columns = (self.losses[block.members], train, test, underflow)
        rows = torch.stack(columns, 1).tolist()
        for place, row in zip(block.members.tolist(), rows, strict=True):
            curve = self.curves[place]
            epoch = int(self.epoch)
            if curve and curve[-1]["epoch"] == epoch:
                continue
            names = ("train_loss", "train_error", "test_error", "underflow_share")
            curve.append({"epoch": epoch, **dict(zip(names, row, strict=True))})

    def _freeze(self, optimizer: torch.optim.Optimizer) -> None:
        """Take out the predictors that have converged or diverged."""
        diverged = ~self.losses.isfinite()
        done = diverged | (self.losses < self.config.converged_below)
        for place, block in enumerate(self.stack):
            ended = done[block.members]
            if not ended.any():
                continue
            leaving, staying = block.select(ended), block.select(~ended)
            self._measure(leaving)
            flags = diverged[leaving.members].tolist()
            self._end(leaving, [Status.DIVERGED if d else Status.CONVERGED for d in flags])
            _replace_parameter(optimizer, block.factors, staying.factors, block.rows(~ended))
            self.blocks[place] = staying
        self.blocks = nn.ModuleList(block for block in self.stack if len(block.members))

    def _end(self, block: CPBlock, statuses: Sequence[Status]) -> None:
        """Give a block's predictors their outcomes; `constant_error` is the label's variance."""
        shares = self.parts["train"].targets(block.members).float().mean(1).tolist()
        factors = block.predictor_factors()
        for place, one, status, share in zip(
            block.members.tolist(), factors, statuses, shares, strict=True
        ):
            metrics = dict(self.curves[place][-1])
            if status is Status.DIVERGED:
                metrics["last_finite_loss"] = float(self.last_finite_losses[place])
            metrics["constant_error"] = share * (1 - share)
            metrics["parameters"] = one.numel()
            weights = {"factors": one.permute(2, 1, 0).contiguous().cpu()}
            self.outcomes[place] = Outcome(status, metrics, weights)

    def progress(self) -> tuple[float, float]:
        """Return the share of epochs done and the mean loss of the predictors still training."""
        running = [loss for loss in self.losses.tolist() if loss == loss]
        mean = sum(running) / len(running) if running else float("nan")
        return int(self.epoch) / self.max_epochs, mean

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep which predictors still train, and in which blocks."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["blocks"] = [(block.members, block.ranks) for block in self.blocks]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the shape of the checkpoint's blocks, so that their values fit."""
        super().on_load_checkpoint(checkpoint)
        shape = (self.levels, self.data.data.SIDE**2)
        self.blocks = nn.ModuleList(
            CPBlock(members, ranks, torch.empty(int(ranks.sum()), *shape))
            for members, ranks in checkpoint["blocks"]
        )


def _replace_parameter(
    optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, rows: Tensor
) -> None:
    """Let an optimizer go on with some rows of a parameter, its state cut alike."""
    (group,) = optimizer.param_groups
    place = next(i for i, parameter in enumerate(group["params"]) if parameter is old)
    state = optimizer.state.pop(old, {})
    if not rows.any():
        del group["params"][place]
        return
    group["params"][place] = new
    optimizer.state[new] = {
        name: value[rows] if value.shape == old.shape else value for name, value in state.items()
    }
