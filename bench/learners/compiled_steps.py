"""A training step of stacked CP predictors: compiled for CPUs, and of PyTorch's own operations."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.kernels import tiles
from bench.kernels.indicators import IndicatorBatch
from bench.kernels.lanes import LANES
from bench.kernels.patterns import Dictionary, TokenLists
from bench.learners.losses import ERROR_UNIT
from bench.models.cp import CPBlock


class CompiledSteps:
    """Training and evaluation by `bench.kernels.tiles`.

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
        self._room: dict[tuple[int, int, int], tiles.Workspace] = {}

    def inputs(self, name: str, indices: NDArray[np.int64]) -> tiles.Inputs:
        """Return a batch of a part's samples."""
        lists = self.dictionary.lists(self.tokens[name], indices)
        return tiles.Inputs(self.dictionary.patterns, lists, self.images[name], indices)

    def in_threads(self, block: CPBlock, work: Callable[..., object]) -> None:
        """Call `work` with runs of groups and a workspace for each, one thread a run."""
        largest = int(np.diff(block.tiling.tile_starts).max(initial=0))
        members = int(np.diff(block.tiling.predictor_starts).max(initial=0))

        def one(thread: int, groups: tuple[int, int]) -> None:
            key = (thread, largest, members)
            if key not in self._room:
                self._room[key] = tiles.workspace(self.dictionary, block.tiling, self.batch_size)
            work(groups, self._room[key])

        runs = tiles.shares(block.tiling, torch.get_num_threads())
        tiles.in_threads(one, list(runs))

    def step(self, block: CPBlock, indices: Tensor, targets: Tensor, rate: float) -> Tensor:
        """Take a step of Adam; return the losses before it, shape (predictors,), float64."""
        inputs = self.inputs("train", indices.numpy())
        losses = torch.empty(len(block.members), dtype=torch.float64)
        state = (block.tiled, block.first_moments, block.second_moments)
        arrays = tuple(one.view(-1, LANES).numpy() for one in state)
        adam = tiles.Adam.at(int(block.steps), rate)
        last = (targets.numpy(), adam, losses.numpy())
        self.in_threads(
            block,
            lambda groups, room: tiles.descend(inputs, arrays, block.tiling, groups, room, *last),
        )
        return losses

    def gradient(self, block: CPBlock, indices: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of the sum of losses, shape (components, levels, pixels)."""
        inputs = self.inputs("train", indices.numpy())
        gradients = torch.zeros_like(block.tiled)
        factors, found = (one.view(-1, LANES).numpy() for one in (block.tiled, gradients))
        last = (targets.numpy(), np.empty(len(block.members)), found)
        self.in_threads(
            block,
            lambda groups, room: tiles.differentiate(
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
            lambda groups, room: tiles.predict(inputs, factors, block.tiling, groups, room, *found),
        )
        return predictions, underflows

    def add_errors(
        self,
        block: CPBlock,
        name: str,
        chosen: slice,
        targets: Tensor,
        most: float,
        totals: Tensor,
    ) -> Tensor:
        """Add the errors of samples of a part, each at most `most`, to each predictor's total.

        Parameters
        ----------
        targets : Tensor
            Shape (predictors, samples), float32.
        totals : Tensor
            Shape (predictors,), float64.

        Returns
        -------
        Tensor
            Shape (predictors,), int64: how many values of components underflow.
        """
        predictions, underflows = self.predict(block, name, chosen)
        arrays = predictions.numpy(), targets.numpy()
        tiles.total_errors(*arrays, ERROR_UNIT, most, totals.numpy())
        return underflows


def plain_step(block: CPBlock, inputs: IndicatorBatch, targets: Tensor, rate: float) -> Tensor:
    """Do what `CompiledSteps.step` does by PyTorch's operations, on any device."""
    factors = block.components().requires_grad_()
    predictions, _ = block.evaluate(factors, inputs)
    losses = (predictions - targets).square().mean(1)
    (gradient,) = torch.autograd.grad(losses.sum(), factors)
    tiled = torch.zeros_like(block.tiled)
    block.fill(tiled, gradient)
    first, second = tiles.ADAM_BETAS
    step = int(block.steps)
    block.first_moments.lerp_(tiled, 1 - first)
    block.second_moments.mul_(second).addcmul_(tiled, tiled, value=1 - second)
    root = block.second_moments.sqrt() / math.sqrt(1 - second**step) + tiles.ADAM_EPSILON
    block.tiled.addcdiv_(block.first_moments, root, value=-rate / (1 - first**step))
    return losses.detach().double()
