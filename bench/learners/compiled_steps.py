"""A training step of stacked CP predictors: compiled for CPUs, and of PyTorch's own operations."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.kernels import tiles
from bench.kernels.indicators import IndicatorBatch
from bench.kernels.lanes import LANES
from bench.kernels.patterns import Dictionary
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

    def __init__(self, images: dict[str, NDArray[np.uint8]], levels: int, batch_size: int) -> None:
        self.images = images
        self.batch_size = batch_size
        self.dictionary = Dictionary(images["train"], levels, batch_size)
        self.tokens = {name: self.dictionary.encode(part) for name, part in images.items()}
        self._room: dict[tuple[int, int], tiles.Workspace] = {}

    def _run(
        self,
        kernel: Callable[..., None],
        state: object,
        block: CPBlock,
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
        dictionary, tiling = self.dictionary, block.tiling
        lists = dictionary.lists(self.tokens[name], indices)
        inputs = tiles.Inputs(dictionary.patterns, lists, self.images[name], indices)
        outputs = torch.empty(len(block.members), tiles.filled_up(len(indices)))
        largest = int(np.diff(tiling.tile_starts).max(initial=0))

        def run(thread: int, groups: tuple[int, int]) -> None:
            key = (thread, largest)
            if key not in self._room:
                self._room[key] = tiles.workspace(dictionary, largest, self.batch_size)
            kernel(inputs, state, tiling, groups, self._room[key], outputs.numpy(), *others)

        runs = tiles.shares(tiling, torch.get_num_threads())
        if len(runs) == 1:
            run(0, runs[0])
        else:
            with ThreadPoolExecutor(len(runs)) as pool:
                list(pool.map(run, range(len(runs)), runs))
        return outputs[:, : len(indices)]

    def step(self, block: CPBlock, indices: Tensor, targets: Tensor, rate: float) -> Tensor:
        """Take a step of Adam; return the losses before it, shape (predictors,), float64."""
        state = tuple(map(_rows, (block.tiled, block.first_moments, block.second_moments)))
        losses = torch.empty(len(block.members), dtype=torch.float64)
        last = targets.numpy(), tiles.adam_constants(int(block.steps), rate), losses.numpy()
        self._run(tiles.descend, state, block, "train", indices.numpy(), *last)
        return losses

    def predict(self, block: CPBlock, name: str, chosen: slice) -> tuple[Tensor, Tensor]:
        """Return what `CPBlock.forward` does, for samples of a part."""
        underflows = torch.zeros(len(block.members), dtype=torch.int64)
        indices = np.arange(chosen.start, chosen.stop)
        last = _rows(block.tiled), block, name, indices, underflows.numpy()
        return self._run(tiles.predict, *last), underflows


def _rows(tiled: Tensor) -> NDArray[np.float32]:
    return tiled.view(-1, LANES).numpy()


class PlainSteps:
    """The same by PyTorch's operations, on any device and in any precision.

    Parameters
    ----------
    images : dict of str to Tensor
        The data set's parts, shape (samples, pixels), uint8.
    levels : int
        How many values a pixel takes.
    """

    def __init__(self, images: Mapping[str, Tensor], levels: int) -> None:
        self.images = images
        self.levels = levels

    def _inputs(self, name: str, chosen: Tensor | slice) -> IndicatorBatch:
        return IndicatorBatch(self.images[name][chosen], self.levels)

    def step(self, block: CPBlock, indices: Tensor, targets: Tensor, rate: float) -> Tensor:
        """Take a step of Adam; return the losses before it, shape (predictors,), float64."""
        factors = block.components().requires_grad_()
        predictions, _ = block(self._inputs("train", indices.to(factors.device)), factors)
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

    def predict(self, block: CPBlock, name: str, chosen: slice) -> tuple[Tensor, Tensor]:
        """Return what `CPBlock.forward` does, for samples of a part."""
        return block(self._inputs(name, chosen))
