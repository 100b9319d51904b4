"""Stacks of arbitrary predictor modules: together if it carries replicates, else one by one."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.core.cell import Cell
from bench.core.errors import expecting, require
from bench.core.settings import identity
from bench.learners.base import sizes
from bench.learners.interval import ELEMENTWISE, require_optimizers
from bench.learners.predictor_stack import PredictorStack
from bench.models.replicates import select_optimizer_state, select_replicates, stack_replicates
from data_prep.images import ImageData

EXPECTED = "a module that maps pixels, shape (batch, pixels), uint8, to scores, shape (batch,)"
TRIED = 3  # samples
SIZES: dict[str, tuple[int, int]] = {}  # by `_kind`, as they are asked again and again


def is_stackable(cell: Cell) -> bool:
    """Return whether a cell's predictor and optimizer treat replicates each on its own."""
    stackable = getattr(cell.model, "stackable", False)
    return stackable and cell.optimizer.name in ELEMENTWISE


class ModuleBlock(nn.Module):
    """Predictors that are trained together, with their optimizer.

    Parameters
    ----------
    modules : sequence of nn.Module
        The predictors.
    stacked : bool
        Whether they are replicates in one module; if not there is one of them.
    make_optimizer : callable
        Makes the optimizer of parameters.

    Attributes
    ----------
    members : Tensor
        Shape (predictors,), int64: the predictors' places in the whole stack.
    ranks : Tensor
        Shape (predictors,), int64: ones; unlike that of a CP predictor a score is a single number.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        stacked: bool,
        make_optimizer: Callable[[Any], Optimizer],
    ) -> None:
        super().__init__()
        self.stacked = stacked
        self.module = stack_replicates(modules) if stacked else modules[0]
        self.optimizer = make_optimizer(self.module.parameters())
        self.members: Tensor = nn.Buffer(torch.arange(len(modules)))
        self.ranks: Tensor = nn.Buffer(torch.ones_like(self.members))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores of inputs of shape (batch, pixels), as (predictors, batch)."""
        scores = self.module(inputs)
        return scores if self.stacked else scores.unsqueeze(0)

    def select(self, chosen: Tensor) -> "ModuleBlock":
        """Return a block of the predictors that a mask marks, with copies of what they hold."""
        part = copy.deepcopy(self)
        if self.stacked:
            select_optimizer_state(part.optimizer, chosen)
            select_replicates(part, chosen)
        else:
            part.members, part.ranks = self.members[chosen], self.ranks[chosen]
        return part

    def trained(self) -> list[tuple[dict[str, Tensor], int]]:
        """Return each predictor's state, on the CPU, and how many parameters it has."""
        state, count = self.module.state_dict(), len(self.members)
        size = sum(p.numel() for p in self.module.parameters()) // max(1, count)
        return [
            ({name: (v[i] if self.stacked else v).cpu().clone() for name, v in state.items()}, size)
            for i in range(count)
        ]


class ModuleStack(PredictorStack):
    """Trains predictors by an optimizer and automatic differentiation.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal stack keys.
    """

    block: ModuleBlock

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(cells)
        modules = [cell.learner.module(cell) for cell in cells]
        self.block = ModuleBlock(modules, is_stackable(cells[0]), cells[0].optimizer)

    @staticmethod
    def check(cells: Sequence[Cell]) -> None:
        """Raise `UserError` for an optimizer that cannot be made, or an unfit predictor."""
        require_optimizers(cells)
        for cell in {_kind(cell): cell for cell in cells}.values():
            _try(cell)

    @staticmethod
    def shared(cell: Cell) -> tuple[Any, ...] | None:
        """Return model and optimizer, if the predictor carries replicates."""
        both = identity(cell.model), identity(cell.optimizer)
        return both if is_stackable(cell) else None

    @staticmethod
    def memory(cells: Sequence[Cell]) -> float:
        """Return the bytes that the images, targets, parameters and a batch's values take."""
        data: ImageData = cells[0].data
        samples, batch = sum(data.counts.values()), data.batch_size
        kind = _kind(cells[0])
        if kind not in SIZES:
            inputs = torch.zeros(2 * TRIED, data.pixels, dtype=torch.uint8)
            SIZES[kind] = sizes(cells[0].learner.module(cells[0]), inputs)
        parameters, values = SIZES[kind]
        # Gradient, two moments, copies of all when predictors leave; values and their gradients.
        each = 8 * parameters + 2 * values * batch + 9 * batch + samples
        return 2 * samples * data.pixels + len(cells) * each

    def make_optimizer(self) -> Optimizer:
        """Return the block's optimizer."""
        return self.block.optimizer

    def train_step(self, indices: Tensor) -> Tensor:
        """Take one step of every predictor."""
        indices = indices.to(self.device)
        scores = self.block.train()(self.parts["train"].inputs[indices])
        losses = (scores - self.targets("train", indices)).square().mean(1)
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        return losses.detach().double()

    def predict(self, name: str, chosen: slice) -> tuple[Tensor, Tensor]:
        """Evaluate every predictor at samples of a part."""
        scores = self.block.eval()(self.parts[name].inputs[chosen])
        return scores, (scores == 0).sum(1)


def _try(cell: Cell) -> None:
    """Raise `UserError` unless a predictor, alone and as a replicate, has the scores expected."""
    given, data = f"model={cell.model.name} with learner={cell.learner.name}", cell.data
    inputs = (torch.arange(TRIED * data.pixels) % data.levels).to(torch.uint8)
    inputs = inputs.view(TRIED, data.pixels)
    with expecting(given, EXPECTED):
        modules = [cell.model.predictor(data.image_shape, data.levels, s).eval() for s in (0, 1)]
        scores = [module(inputs) for module in modules]
        stacked = stack_replicates(modules)(inputs) if is_stackable(cell) else scores[:1]
    found = f"{given} and scores of shape {tuple(scores[0].shape)} and {scores[0].dtype}"
    fits = scores[0].shape == (TRIED,) and scores[0].is_floating_point()
    require(fits and scores[0].requires_grad, found, EXPECTED)
    alike = all(
        one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-5)
        for one, other in zip(stacked, scores, strict=False)
    )
    hint = "without stackable = True it is trained one by one"
    require(
        alike, f"{given} and stackable = True", "replicates with the scores of each alone", hint
    )


def _kind(cell: Cell) -> str:
    """Return what the shapes of a cell's predictor depend on."""
    return repr((cell.model, cell.data.image_shape, cell.data.levels, cell.optimizer.name))
