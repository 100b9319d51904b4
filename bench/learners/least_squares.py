"""The parameter-matched linear baseline of one-versus-all problems, solved exactly."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.core.cell import Cell
from bench.core.seeding import generator
from bench.core.settings import Positive, settings
from bench.core.status import Status
from bench.kernels.indicators import indicator_matrix
from bench.learners.base import LearnerConfig, Outcome
from bench.learners.interval import IntervalLearner, device_of
from bench.learners.losses import ERROR_UNIT
from bench.models.linear import LinearConfig, LinearPredictor, pair_features
from data_prep.images import ImageData
from data_prep.one_versus_all import POSITIVE_TARGET, Part, check_problems, images_key, read_parts

CHUNK = 5000  # samples whose features are held at once


@settings
class LeastSquaresConfig(LearnerConfig):
    """Settings of `configs/learner/least_squares.yaml`.

    Parameters
    ----------
    ridge : float
        The weight of the squared norm, which makes the solution unique where pixels never vary.
    """

    ridge: Positive = 1e-3

    name: ClassVar[str] = "least_squares"
    accepts: ClassVar[dict[str, type]] = {"data": ImageData, "model": LinearConfig}

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise `UserError` if a variant does not exist or a file is missing or damaged."""
        device_of(cells[0])
        check_problems(cells)

    def stack_key(self, cell: Cell) -> str:
        """Return what cells must share to be solved with one matrix: images and features."""
        return images_key(cell, cell.model, cell.seed, self)

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes of the images, the normal matrix with its factor, and a chunk."""
        data: ImageData = cells[0].data
        columns = data.pixels * (data.levels - 1) + 1
        features = columns * cells[0].model.rank
        samples = sum(data.counts.values())
        return samples * (columns + len(cells)) + 8 * features * (2 * features + CHUNK)

    def module(self, cell: Cell) -> nn.Module:
        """Return an untrained predictor."""
        return LinearPredictor(cell.model, cell.data.pixels, cell.data.levels)

    def build(self, cells: Sequence[Cell]) -> "LeastSquares":
        """Return a learner of the cells, which share their images."""
        return LeastSquares(cells, self.ridge)


class LeastSquares(IntervalLearner):
    """Solves the normal equations of all cells, which share their features, at once.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal `LeastSquaresConfig.stack_key`.
    ridge : float
        See `LeastSquaresConfig`.
    """

    def __init__(self, cells: Sequence[Cell], ridge: float) -> None:
        super().__init__(cells)
        self.ridge = ridge
        self.data: ImageData = cells[0].data
        model, rng = cells[0].model, generator(cells[0].seed, "feature pairs")
        self.pairs = nn.Buffer(model.pairs(self.data.pixels * (self.data.levels - 1), rng))
        self.parts: dict[str, Part] = {}

    def load_data(self) -> None:
        """Read the images that all cells share."""
        self.parts = read_parts(self.run_log.cells, self.device)

    def train_interval(self) -> None:
        """Solve, then measure."""
        weights = self._solve(self.parts["train"])
        train, test = (self._errors(part, weights, name) for name, part in self.parts.items())
        shares = self.parts["train"].targets(slice(None)).double().mean(1)
        rows = zip(train.tolist(), test.tolist(), shares.tolist(), strict=True)
        for index, (train_error, test_error, share) in enumerate(rows):
            point = {"epoch": 1, "train_error": train_error, "test_error": test_error}
            self.run_log.add_point(index, point)
            extra = {"constant_error": share * (1 - share), "parameters": len(weights)}
            kept = {"weight": weights[:, index].float().cpu(), "pairs": self.pairs.cpu()}
            self.run_log.end(index, Outcome(Status.CONVERGED, {**point, **extra}, kept))

    def _features(self, part: Part, chunk: slice) -> Tensor:
        return pair_features(indicator_matrix(part.inputs[chunk], self.data.levels), self.pairs)

    def _solve(self, part: Part) -> Tensor:
        """Return the weights of all cells, shape (features, cells), float64."""
        size = self._features(part, slice(0, 1)).shape[1]
        normal = self.ridge * torch.eye(size, dtype=torch.float64, device=self.device)
        right = normal.new_zeros(size, len(self.run_log.cells))
        for chunk in _chunks(part):
            # Sums of 0/1 products below 2**24 are exact in float32.
            features = self._features(part, chunk).float()
            targets = POSITIVE_TARGET * part.targets(slice(None), chunk).float()
            normal += (features.T @ features).double()
            right += (targets @ features).T.double()
        return torch.cholesky_solve(right, torch.linalg.cholesky(normal))

    def _errors(self, part: Part, weights: Tensor, name: str) -> Tensor:
        """Return each cell's mean error; on test data each sample counts at most 1."""
        total = weights.new_zeros(len(self.run_log.cells))
        for chunk in _chunks(part):
            predictions = self._features(part, chunk).double() @ weights
            wanted = POSITIVE_TARGET * part.targets(slice(None), chunk).T
            error = (predictions - wanted).square() / ERROR_UNIT
            total += (error.clamp(max=1) if name == "test" else error).sum(0)
        return total / len(part)

    def share_done(self) -> float:
        """Return whether it is done."""
        return float(not self.run_log.training())


def _chunks(part: Part) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, len(part), CHUNK)]
