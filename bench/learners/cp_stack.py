"""Stacks of CP predictors, in compiled steps on a CPU."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.core.cell import Cell
from bench.core.errors import require
from bench.core.settings import identity
from bench.kernels.lanes import LANES
from bench.kernels.patterns import MOST_SAMPLES, READ
from bench.learners.compiled_steps import CompiledSteps, PlainSteps
from bench.learners.predictor_stack import PredictorStack
from bench.measures.ranks import log_norm
from bench.models.cp import CPBlock
from data_prep.images import ImageData
from data_prep.one_versus_all import Part

COMPILER = 60e6  # bytes that Numba takes once it has loaded the compiled steps


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
        self.steps: CompiledSteps | PlainSteps

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
        data, images = self.data, {name: part.inputs for name, part in parts.items()}
        if self.device.type == "cpu" and self.block.tiled.dtype == torch.float32:
            arrays = {name: part.numpy() for name, part in images.items()}
            self.steps = CompiledSteps(arrays, data.levels, data.batch_size)
        else:
            self.steps = PlainSteps(images, data.levels)

    def train_step(self, indices: Tensor) -> Tensor:
        """Take one step of every predictor."""
        targets = self.targets("train", indices.to(self.device))
        self.block.steps += 1
        return self.steps.step(self.block, indices, targets, self.rate)

    def predict(self, name: str, chosen: slice) -> tuple[Tensor, Tensor]:
        """Evaluate every predictor at samples of a part."""
        return self.steps.predict(self.block, name, chosen)

    def complexities(self) -> dict[str, Tensor]:
        """Return the tensors' norms, too: ``log10_norm``, see `bench.measures.ranks.log_norm`."""
        parts = self.block.components().split(self.block.ranks.tolist())
        norms = torch.stack([log_norm(part.mT) for part in parts]) / math.log(10)
        return {**super().complexities(), "log10_norm": norms}

    def adopt(self, extra: Mapping[str, Any]) -> None:
        """Take the shape of a checkpoint's block, so that its values fit."""
        ranks = torch.tensor(extra["ranks"])
        shape = (int(ranks.sum()), self.data.levels, self.data.pixels)
        self.block = CPBlock(torch.tensor(extra["members"]), ranks, torch.ones(shape))
