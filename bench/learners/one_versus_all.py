"""One class against all others, for all predictors that read the same images at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.bounds import Positive, check_bounds
from bench.config import Cell, typed
from bench.kernels.indicators import IndicatorBatch
from bench.learners.base import EpochsConfig
from bench.learners.objectives import ERROR_UNIT
from bench.learners.predictors import PredictorStack, check_problems, images_key, problem_of
from bench.models.cp import CPBlock, CPConfig, blocks_of
from bench.seeding import generator
from bench.status import Status
from data_prep.images import ImageData
from data_prep.one_versus_all import POSITIVE_TARGET, OneVersusAllStack

BLOCK_VALUES = 256 * 5000  # so many float32 values and their digits stay in a processor's cache


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
        check_problems(cells, root)

    def stack_key(self, cell: Cell) -> str:
        """Return what cells must share to be trained in one matrix product."""
        return images_key(cell, cell.config["learner"], cell.config["trainer"])

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
        data = OneVersusAllStack([problem_of(cell) for cell in cells], root)
        return OneVersusAll(cells, data, self, trainer), data


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


class OneVersusAll(PredictorStack):
    """Trains CP predictors by Adam on the squared loss [TF, section 5 and appendix].

    Every predictor sees what it would see alone: the same batches, its own loss, its own share of
    Adam's state. A predictor that has converged or diverged is taken out and costs nothing more.

    Parameters are those of `PredictorStack`.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        data: OneVersusAllStack,
        config: OneVersusAllConfig,
        trainer: EpochsConfig,
    ) -> None:
        super().__init__(cells, data, config, trainer)
        self.levels = data.data.levels
        factors = [initial_factors(cell) for cell in cells]
        ranks = torch.tensor([len(one) for one in factors])
        runs = blocks_of(ranks.tolist(), block_components(data.data))
        self.blocks = nn.ModuleList(
            CPBlock(torch.tensor(run), ranks[run], torch.cat([factors[i] for i in run]))
            for run in runs
        )

    @property
    def stack(self) -> list[CPBlock]:
        """The blocks of the predictors that still train."""
        return list(self.blocks)  # pyright: ignore[reportReturnType]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one Adam for all blocks."""
        rate = self.config.learning_rate
        return torch.optim.Adam(self.blocks.parameters(), lr=rate, fused=True)

    def channels(self) -> int:
        """Return how many components still train."""
        return sum(len(block.factors) for block in self.stack)

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

    def measure(self) -> None:
        """Add a point to the curves of the predictors that train."""
        for block in self.stack:
            self._measure_block(block)

    def _measure_block(self, block: CPBlock) -> None:
        (train, underflow), (test, _) = self.errors(block, "train"), self.errors(block, "test")
        columns = {"train_loss": self.losses[block.members], "train_error": train}
        columns |= {"test_error": test, "underflow_share": underflow}
        self.add_points(block.members.tolist(), columns)

    def end_early(self, statuses: Mapping[int, Status], optimizer: torch.optim.Optimizer) -> None:
        """Take out the predictors that have converged or diverged."""
        if not statuses:
            return
        for place, block in enumerate(self.stack):
            ended = torch.isin(block.members, torch.tensor(list(statuses), device=self.device))
            if not ended.any():
                continue
            leaving, staying = block.select(ended), block.select(~ended)
            self._measure_block(leaving)
            self._end_block(leaving, statuses)
            _replace_parameter(optimizer, block.factors, staying.factors, block.rows(~ended))
            self.blocks[place] = staying
        self.blocks = nn.ModuleList(block for block in self.stack if len(block.members))

    def end(self, status: Status) -> None:
        """Give the predictors that train their outcomes."""
        for block in self.stack:
            self._end_block(block, dict.fromkeys(block.members.tolist(), status))

    def _end_block(self, block: CPBlock, statuses: Mapping[int, Status]) -> None:
        """Give a block's predictors their outcomes; `constant_error` is the label's variance."""
        places = block.members.tolist()
        shares = self.parts["train"].targets(block.members).float().mean(1).tolist()
        for place, share, one in zip(places, shares, block.predictor_factors(), strict=True):
            metrics = {"constant_error": share * (1 - share), "parameters": one.numel()}
            weights = {"factors": one.permute(2, 1, 0).contiguous().cpu()}
            self.end_one(place, statuses[place], metrics, weights)

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
