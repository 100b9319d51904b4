"""Stacks of CP predictors, in compiled steps on a CPU."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.core.cell import Cell
from bench.core.errors import require
from bench.core.settings import identity
from bench.kernels import tiles
from bench.kernels.indicators import IndicatorBatch
from bench.kernels.lanes import LANES
from bench.kernels.patterns import MOST_SAMPLES, READ, Dictionary
from bench.learners.predictor_stack import PredictorStack
from bench.measures.ranks import log_norm
from bench.models.cp import CPBlock
from data_prep.images import ImageData
from data_prep.one_versus_all import Part

COMPILER = 60e6  # bytes that Numba takes once it has loaded the compiled steps


def _rows(tiled: Tensor) -> NDArray[np.float32]:
    return tiled.view(-1, LANES).numpy()


class CPStack(PredictorStack):
    """Trains CP predictors by Adam.

    On a CPU a step is one pass of `bench.kernels.tiles`: its result depends neither on the stack,
    nor on the threads, nor on the processor. Elsewhere it is made of PyTorch's own operations.
    """

    block: CPBlock

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(cells)
        self.rate = float(cells[0].optimizer.arguments["lr"])
        started = [cell.learner.module(cell).factors.detach() for cell in cells]
        factors = [factors.permute(2, 1, 0) for factors in started]
        ranks = torch.tensor([len(one) for one in factors])
        self.block = CPBlock(torch.arange(len(cells)), ranks, torch.cat(factors))
        self.dictionary: Dictionary | None = None

    @staticmethod
    def check(cells: Sequence[Cell]) -> None:
        """Raise `UserError` for another optimizer than Adam or too large a batch."""
        for cell in {cell.optimizer: cell for cell in cells}.values():
            given = f"optimizer={cell.optimizer.name} with {cell.optimizer.arguments}"
            fits = cell.optimizer.name == "Adam" and [*cell.optimizer.arguments] == ["lr"]
            hint = "learner=one_versus_all takes Adam's steps of model=cp itself"
            require(fits, given, "optimizer=adam with optimizer.lr alone", hint)
            rate = cell.optimizer.arguments["lr"]
            number = isinstance(rate, int | float) and 0 < rate < math.inf
            require(number, f"optimizer.lr={rate}", "a number greater than 0")
        for size in {cell.data.batch_size for cell in cells}:
            most = f"at most {MOST_SAMPLES}, as the lists of a batch hold 16-bit numbers"
            require(size <= MOST_SAMPLES, f"data.batch_size={size}", most)

    @staticmethod
    def shared(cell: Cell) -> tuple[Any, ...]:
        """Return the optimizer: predictors of any rank are trained together."""
        return (identity(cell.optimizer),)

    @staticmethod
    def memory(cells: Sequence[Cell]) -> float:
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

    def read(self, parts: dict[str, Part]) -> None:
        """Take samples to train and measure on, and list their patterns if they are on a CPU."""
        super().read(parts)
        if self.device.type == "cpu" and self.block.tiled.dtype == torch.float32:
            self.images = {name: part.inputs.numpy() for name, part in parts.items()}
            levels, batch_size = self.data.levels, self.data.batch_size
            self.dictionary = Dictionary(self.images["train"], levels, batch_size)
            self.tokens = {name: self.dictionary.encode(each) for name, each in self.images.items()}
            self.room: dict[tuple[int, int], tiles.Workspace] = {}

    def train_step(self, indices: Tensor) -> Tensor:
        """Take one step of every predictor."""
        targets = self.targets("train", indices.to(self.device))
        block = self.block
        block.steps += 1
        if self.dictionary is None:
            return self._plain_step(indices, targets)
        state = tuple(map(_rows, (block.tiled, block.first_moments, block.second_moments)))
        losses = torch.empty(len(block.members), dtype=torch.float64)
        last = targets.numpy(), tiles.adam_constants(int(block.steps), self.rate), losses.numpy()
        self._run(self.dictionary, tiles.descend, state, "train", indices.numpy(), *last)
        return losses

    def _run(
        self,
        dictionary: Dictionary,
        kernel: Callable[..., None],
        state: object,
        name: str,
        indices: NDArray[np.int64],
        *others: object,
    ) -> Tensor:
        """Call a kernel of `bench.kernels.tiles` for samples of a part, runs of groups in threads.

        Returns
        -------
        Tensor
            Shape (predictors, samples), float32: what the kernel has made of its `outputs`.
        """
        tiling, lists = self.block.tiling, dictionary.lists(self.tokens[name], indices)
        inputs = tiles.Inputs(dictionary.patterns, lists, self.images[name], indices)
        outputs = torch.empty(len(self.block.members), tiles.filled_up(len(indices)))
        largest = int(np.diff(tiling.tile_starts).max(initial=0))

        def run(thread: int, groups: tuple[int, int]) -> None:
            key = (thread, largest)
            if key not in self.room:
                self.room[key] = tiles.workspace(dictionary, largest, self.data.batch_size)
            kernel(inputs, state, tiling, groups, self.room[key], outputs.numpy(), *others)

        runs = tiles.shares(tiling, torch.get_num_threads())
        if len(runs) == 1:
            run(0, runs[0])
        else:
            with ThreadPoolExecutor(len(runs)) as pool:
                list(pool.map(run, range(len(runs)), runs))
        return outputs[:, : len(indices)]

    def _plain_step(self, indices: Tensor, targets: Tensor) -> Tensor:
        """Take the step by PyTorch's operations, on any device and in any precision."""
        block, step = self.block, int(self.block.steps)
        factors = block.components().requires_grad_()
        predictions, _ = block(self._inputs("train", indices.to(self.device)), factors)
        losses = (predictions - targets).square().mean(1)
        (gradient,) = torch.autograd.grad(losses.sum(), factors)
        tiled = torch.zeros_like(block.tiled)
        block.fill(tiled, gradient)
        first, second = tiles.ADAM_BETAS
        block.first_moments.lerp_(tiled, 1 - first)
        block.second_moments.mul_(second).addcmul_(tiled, tiled, value=1 - second)
        root = block.second_moments.sqrt() / math.sqrt(1 - second**step) + tiles.ADAM_EPSILON
        block.tiled.addcdiv_(block.first_moments, root, value=-self.rate / (1 - first**step))
        return losses.detach().double()

    def _inputs(self, name: str, chosen: Tensor | slice) -> IndicatorBatch:
        return IndicatorBatch(self.parts[name].inputs[chosen], self.data.levels)

    def predict(self, name: str, chosen: slice) -> tuple[Tensor, Tensor]:
        """Evaluate every predictor at samples of a part."""
        if self.dictionary is None:
            return self.block(self._inputs(name, chosen))
        underflows = torch.zeros(len(self.block.members), dtype=torch.int64)
        last = np.arange(chosen.start, chosen.stop), underflows.numpy()
        state = _rows(self.block.tiled)
        return self._run(self.dictionary, tiles.predict, state, name, *last), underflows

    def complexities(self) -> dict[str, Tensor]:
        """Return the tensors' norms, too: ``log10_norm``, see `bench.measures.ranks.log_norm`."""
        parts = self.block.components().split(self.block.ranks.tolist())
        norms = torch.stack([log_norm(part.mT) for part in parts]) / math.log(10)
        return {**super().complexities(), "log10_norm": norms}
