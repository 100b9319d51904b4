"""One class against all others: settings, and the kinds of stacks that train predictors."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from bench.core.cell import Cell
from bench.core.settings import Count, Positive, settings
from bench.learners.base import DRIVEN, LearnerConfig
from bench.learners.cp_stack import CPStack
from bench.learners.interval import device_of, max_epochs
from bench.learners.module_stack import ModuleStack
from bench.learners.predictor_stack import PredictorStack
from bench.models.cp import CPConfig
from bench.models.network import PredictorConfig
from data_prep.images import ImageData
from data_prep.one_versus_all import check_problems, images_key


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
    accepts: ClassVar[dict[str, type]] = {"data": ImageData, "model": PredictorConfig} | DRIVEN

    converged_below: Positive = 1e-8
    patience: Count = 11

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise `UserError` for a variant, file, device, model, optimizer or Trainer that is unfit.

        Each kind of stack checks what is particular to its predictors.
        """
        check_problems(cells)
        device_of(cells[0])
        for cell in cells:
            max_epochs(cell)
        for kind in (CPStack, ModuleStack):
            kind.check([cell for cell in cells if self._kind(cell) is kind])

    def _kind(self, cell: Cell) -> type[PredictorStack]:
        """Return what trains a cell: compiled steps for CP predictors, torch for all others."""
        return CPStack if isinstance(cell.model, CPConfig) else ModuleStack

    def stack_key(self, cell: Cell) -> str:
        """Return what cells must share to be trained together: images and training, at least."""
        shared = self._kind(cell).shared(cell)
        return cell.run_key if shared is None else images_key(cell, self, *shared, max_epochs(cell))

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes that the images, targets, predictors and a step take."""
        return self._kind(cells[0]).memory(cells)

    def module(self, cell: Cell) -> nn.Module:
        """Return an untrained predictor."""
        return cell.model.predictor(cell.data.image_shape, cell.data.levels, cell.seed)

    def build(self, cells: Sequence[Cell]) -> PredictorStack:
        """Return a learner of the cells."""
        return self._kind(cells[0])(cells)
