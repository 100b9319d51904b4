"""One class against all others, for all predictors that read the same images at once."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.bounds import Count, Positive, check_bounds
from bench.config import Cell, typed
from bench.kernels import cp_stack
from bench.kernels.indicators import IndicatorBatch, indicator_matrix
from bench.kernels.lanes import LANES
from bench.kernels.patterns import READ, Dictionary, TokenLists
from bench.learners.base import EpochsConfig
from bench.learners.objectives import ERROR_UNIT
from bench.learners.predictors import PredictorStack, check_problems, images_key, problem_of
from bench.models.cp import CPBlock, CPConfig
from bench.seeding import derive_seed
from bench.status import Status
from data_prep.images import ImageData
from data_prep.one_versus_all import POSITIVE_TARGET, PixelStack

COMPILER = 60e6  # bytes that Numba takes once it has loaded the compiled steps


@dataclass
class OneVersusAllConfig:
    """Schema of `configs/learner/one_versus_all.yaml`.

    Parameters
    ----------
    learning_rate : float
        Adam's step size; its other settings are PyTorch's defaults.
    converged_below : float
        Training stops when the mean squared loss has been under this value ...
    patience : int
        ... for so many epochs in a row.
    """

    learning_rate: Positive = 5e-4
    converged_below: Positive = 1e-8
    patience: Count = 11

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
        """Return the bytes that the images, their patterns, targets and parameters take."""
        data = problem_of(cells[0]).data
        samples, order = sum(data.COUNTS.values()), data.SIDE**2
        images = 2 * samples * order  # as they are read, and quantized or random
        patterns = 12 * min(READ, data.COUNTS["train"]) * order  # while they are counted
        ranks = [cell.config["model"]["rank"] for cell in cells]
        lanes = math.ceil(sum(ranks) / LANES) * LANES
        # Parameters and Adam's two moments, and both as copies when predictors leave.
        parameters = 6 * 4 * lanes * data.levels * order
        values = 4 * data.batch_size * (max(ranks) + LANES)
        targets = len(cells) * (9 * data.batch_size + samples)
        return COMPILER + images + patterns + parameters + values + targets

    def build(
        self, cells: Sequence[Cell], trainer: EpochsConfig, root: str | None
    ) -> tuple["OneVersusAll", PixelStack]:
        """Return a learner of the cells and the images that they share."""
        data = PixelStack([problem_of(cell) for cell in cells], root)
        return OneVersusAll(cells, data, self, trainer), data


def initial_factors(cell: Cell) -> Tensor:
    """Return a cell's start values, shape (rank, levels, pixels), float32.

    NumPy's draws, unlike PyTorch's, do not depend on the processor's instruction set.
    """
    data: ImageData = typed(cell.config["data"], "data")
    model: CPConfig = typed(cell.config["model"], "model")
    seed = derive_seed(cell.config["seed"], "initialization")
    draw = np.random.Generator(np.random.Philox(seed))
    start = draw.standard_normal((data.SIDE**2, data.levels, model.rank))
    factors = model.init_mean + model.init_std * start
    return torch.from_numpy(factors.astype(np.float32)).permute(2, 1, 0).contiguous()


class OneVersusAll(PredictorStack):
    """Trains CP predictors by Adam on the squared loss [TF, section 5 and appendix].

    Every predictor sees what it would see alone: the same batches, its own loss, its own share of
    Adam's state. A predictor that has converged or diverged is taken out and costs nothing more.

    On a CPU a step is one pass of `bench.kernels.cp_stack`; its result does not depend on the
    stack, the threads or the processor. On other devices, and in float64, it is made of PyTorch's
    own operations.

    Parameters are those of `PredictorStack`.

    Attributes
    ----------
    block : CPBlock
        The predictors that still train, with Adam's state.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        data: PixelStack,
        config: OneVersusAllConfig,
        trainer: EpochsConfig,
    ) -> None:
        super().__init__(cells, data, config, trainer)
        self.patience = config.patience
        self.levels = data.data.levels
        factors = [initial_factors(cell) for cell in cells]
        ranks = torch.tensor([len(one) for one in factors])
        self.block = CPBlock(torch.arange(len(cells)), ranks, torch.cat(factors))
        self.compiled: CompiledSteps | None = None

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return none: Adam's state is the block's."""
        return []

    def channels(self) -> int:
        """Return how many components still train."""
        return len(self.block.lanes)

    def on_fit_start(self) -> None:
        """Bring the data to the device, and list their patterns if it is a CPU."""
        super().on_fit_start()
        self.prepare()

    def prepare(self) -> None:
        """Get ready to train on `parts`."""
        tiled = self.block.tiled
        if tiled.device.type == "cpu" and tiled.dtype == torch.float32:
            images = {name: part.inputs.numpy() for name, part in self.parts.items()}
            self.compiled = CompiledSteps(images, self.levels, self.data.data.batch_size)

    def train_epoch(self, batches: Sequence[Tensor], optimizer: Any = None) -> None:
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
        wanted = self.wanted("train", indices.to(self.device))
        rate = self.config.learning_rate
        self.block.steps += 1
        if self.compiled is not None:
            return self.compiled.step(self.block, indices, wanted, rate)
        inputs = self.inputs("train", indices.to(self.device))
        return plain_step(self.block, inputs, wanted, rate)

    def wanted(self, name: str, chosen: Tensor | slice) -> Tensor:
        """Return the targets of samples, shape (predictors, samples)."""
        targets = self.parts[name].targets(self.block.members, chosen)
        return POSITIVE_TARGET * targets.to(self.block.tiled.dtype)

    def inputs(self, name: str, chosen: Tensor | slice) -> IndicatorBatch:
        """Return samples as matrix products read them."""
        return IndicatorBatch(
            indicator_matrix(self.parts[name].inputs[chosen], self.levels), self.levels
        )

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
        totals = torch.zeros(len(block.members), dtype=torch.float64, device=self.device)
        underflows = torch.zeros_like(totals)
        size = self.data.data.batch_size
        for start in range(0, samples, size):
            chosen = slice(start, min(start + size, samples))
            wanted = self.wanted(name, chosen)
            if self.compiled is not None:
                predictions, counts = self.compiled.predict(block, name, chosen)
                arrays = predictions.numpy(), wanted.numpy()
                cp_stack.total_errors(*arrays, ERROR_UNIT, most, totals.numpy())
            else:
                predictions, counts = block(self.inputs(name, chosen))
                errors = (predictions - wanted).square() / ERROR_UNIT
                totals += errors.clamp(max=most).sum(1)
            underflows += counts
        return totals / samples, underflows / (samples * block.ranks)

    def measure(self) -> None:
        """Add a point to the curves of the predictors that train."""
        (train, underflow), (test, _) = self.errors("train"), self.errors("test")
        losses = self.losses[self.block.members].double()
        columns = {"train_loss": losses, "running_train_error": losses / ERROR_UNIT}
        columns |= {"train_error": train, "test_error": test, "underflow_share": underflow}
        self.add_points(self.block.members.tolist(), columns)

    def end_early(self, statuses: Mapping[int, Status], optimizer: Any = None) -> None:
        """Take out the predictors that have converged or diverged."""
        if not statuses:
            return
        ended = torch.isin(self.block.members, torch.tensor(list(statuses), device=self.device))
        leaving, staying = self.block.select(ended), self.block.select(~ended)
        self.block = leaving
        self.measure()
        self._end(statuses)
        self.block = staying

    def end(self, status: Status) -> None:
        """Give the predictors that train their outcomes."""
        self._end(dict.fromkeys(self.block.members.tolist(), status))

    def _end(self, statuses: Mapping[int, Status]) -> None:
        """Give the block's predictors their outcomes; `constant_error` is the label's variance."""
        block = self.block
        places = block.members.tolist()
        positive = self.parts["train"].targets(block.members).sum(1).tolist()
        samples = len(self.parts["train"])
        for place, count, one in zip(places, positive, block.predictor_factors(), strict=True):
            share = count / samples
            metrics = {"constant_error": share * (1 - share), "parameters": one.numel()}
            weights = {"factors": one.permute(2, 1, 0).contiguous().cpu()}
            self.end_one(place, statuses[place], metrics, weights)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep which predictors still train."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["block"] = (self.block.members, self.block.ranks)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the shape of the checkpoint's block, so that its values fit."""
        super().on_load_checkpoint(checkpoint)
        members, ranks = checkpoint["block"]
        shape = (int(ranks.sum()), self.levels, self.data.data.SIDE**2)
        self.block = CPBlock(members, ranks, torch.ones(shape))


class CompiledSteps:
    """Training and evaluation by `bench.kernels.cp_stack`.

    Parameters
    ----------
    images : dict of str to ndarray
        The data set's parts, shape (samples, pixels), uint8; the dictionary is made for "train".
    levels : int
        How many values a pixel takes.
    batch_size : int
        Training samples a step, and samples evaluated together.
    """

    def __init__(
        self, images: Mapping[str, NDArray[np.uint8]], levels: int, batch_size: int
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.dictionary = Dictionary(images["train"], levels, batch_size)
        self.tokens: dict[str, TokenLists] = {
            name: self.dictionary.encode(part) for name, part in images.items()
        }
        self._room: dict[tuple[int, int, int], cp_stack.Workspace] = {}

    def inputs(self, name: str, indices: NDArray[np.int64]) -> cp_stack.Inputs:
        """Return a batch of a part's samples."""
        lists = self.dictionary.lists(self.tokens[name], indices)
        return cp_stack.Inputs(self.dictionary.patterns, lists, self.images[name], indices)

    def in_threads(self, block: CPBlock, work: Callable[..., object]) -> None:
        """Call `work` with runs of groups and a workspace for each, one thread a run."""
        largest = int(np.diff(block.tiling.tile_starts).max(initial=0))
        members = int(np.diff(block.tiling.predictor_starts).max(initial=0))

        def one(thread: int, groups: tuple[int, int]) -> None:
            key = (thread, largest, members)
            if key not in self._room:
                self._room[key] = cp_stack.workspace(self.dictionary, block.tiling, self.batch_size)
            work(groups, self._room[key])

        runs = cp_stack.shares(block.tiling, torch.get_num_threads())
        cp_stack.in_threads(one, list(runs))

    def step(self, block: CPBlock, indices: Tensor, wanted: Tensor, rate: float) -> Tensor:
        """Take a step of Adam; return the losses before it, shape (predictors,), float64."""
        inputs = self.inputs("train", indices.numpy())
        losses = torch.empty(len(block.members), dtype=torch.float64)
        state = (block.tiled, block.first_moments, block.second_moments)
        arrays = tuple(one.view(-1, LANES).numpy() for one in state)
        adam = cp_stack.Adam.at(int(block.steps), rate)
        last = (wanted.numpy(), adam, losses.numpy())
        self.in_threads(
            block,
            lambda groups, room: cp_stack.descend(
                inputs, arrays, block.tiling, groups, room, *last
            ),
        )
        return losses

    def gradient(self, block: CPBlock, indices: Tensor, wanted: Tensor) -> Tensor:
        """Return the gradient of the sum of losses, shape (components, levels, pixels)."""
        inputs = self.inputs("train", indices.numpy())
        gradients = torch.zeros_like(block.tiled)
        factors, found = (one.view(-1, LANES).numpy() for one in (block.tiled, gradients))
        last = (wanted.numpy(), np.empty(len(block.members)), found)
        self.in_threads(
            block,
            lambda groups, room: cp_stack.differentiate(
                inputs, factors, block.tiling, groups, room, *last
            ),
        )
        return block.components(gradients)

    def predict(self, block: CPBlock, name: str, chosen: slice) -> tuple[Tensor, Tensor]:
        """Return what `CPBlock.forward` does, for samples of a part."""
        indices = np.arange(chosen.start, chosen.stop)
        inputs = self.inputs(name, indices)
        predictions = torch.empty(len(block.members), len(indices))
        underflows = torch.empty(len(block.members), dtype=torch.int64)
        factors = block.tiled.view(-1, LANES).numpy()
        found = (predictions.numpy(), underflows.numpy())
        self.in_threads(
            block,
            lambda groups, room: cp_stack.predict(
                inputs, factors, block.tiling, groups, room, *found
            ),
        )
        return predictions, underflows


def plain_step(block: CPBlock, inputs: IndicatorBatch, wanted: Tensor, rate: float) -> Tensor:
    """Do what `CompiledSteps.step` does by PyTorch's operations, on any device."""
    factors = block.components().requires_grad_()
    predictions, _ = block.evaluate(factors, inputs)
    losses = (predictions - wanted).square().mean(1)
    (gradient,) = torch.autograd.grad(losses.sum(), factors)
    tiled = torch.zeros_like(block.tiled)
    block.fill(tiled, gradient)
    first, second = cp_stack.ADAM_BETAS
    step = int(block.steps)
    block.first_moments.lerp_(tiled, 1 - first)
    block.second_moments.mul_(second).addcmul_(tiled, tiled, value=1 - second)
    root = block.second_moments.sqrt() / math.sqrt(1 - second**step) + cp_stack.ADAM_EPSILON
    block.tiled.addcdiv_(block.first_moments, root, value=-rate / (1 - first**step))
    return losses.detach().double()
