"""The parameter-matched linear baseline of one-versus-all problems, solved exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.bounds import Positive, check_bounds
from bench.config import Cell, typed
from bench.learners.base import EpochsConfig, Learner, Outcome
from bench.learners.objectives import ERROR_UNIT
from bench.learners.predictors import check_problems, images_key, problem_of
from bench.models.linear import LinearConfig, LinearPredictor
from bench.seeding import generator
from bench.status import Status
from data_prep.images import ImageData
from data_prep.one_versus_all import POSITIVE_TARGET, OneVersusAllStack, Part

CHUNK = 5000  # samples whose features are held at once


@dataclass
class LeastSquaresConfig:
    """Schema of `configs/learner/least_squares.yaml`.

    Parameters
    ----------
    ridge : float
        The weight of the squared norm, which makes the solution unique where pixels never vary.
    """

    ridge: Positive = 1e-3

    step: ClassVar[str] = "epoch"
    accepts: ClassVar[dict[str, type]] = {
        "data": ImageData,
        "model": LinearConfig,
        "trainer": EpochsConfig,
    }

    def __post_init__(self) -> None:
        check_bounds("learner", self)

    def check(self, cells: Sequence[Cell], root: str | None) -> None:
        """Raise `UserError` if a variant does not exist or a file is missing or damaged."""
        check_problems(cells, root)

    def stack_key(self, cell: Cell) -> str:
        """Return what cells must share to be solved with one matrix: images and features."""
        return images_key(cell, cell.config["model"], cell.config["seed"], self.ridge)

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes of the images, the normal matrix with its factor, and a chunk."""
        data = problem_of(cells[0]).data
        columns = data.SIDE**2 * (data.levels - 1) + 1
        features = columns * cells[0].config["model"]["rank"]
        samples = sum(data.COUNTS.values())
        return samples * (columns + len(cells)) + 8 * features * (2 * features + CHUNK)

    def build(
        self, cells: Sequence[Cell], trainer: EpochsConfig, root: str | None
    ) -> tuple["LeastSquares", OneVersusAllStack]:
        """Return a learner of the cells and the images that they share."""
        data = OneVersusAllStack([problem_of(cell) for cell in cells], root)
        return LeastSquares(cells, data, self.ridge), data


class LeastSquares(Learner):
    """Solves the normal equations of all cells, which share their features, at once.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal `LeastSquaresConfig.stack_key`.
    data : OneVersusAllStack
        Their images and targets.
    ridge : float
        See `LeastSquaresConfig`.
    """

    def __init__(self, cells: Sequence[Cell], data: OneVersusAllStack, ridge: float) -> None:
        super().__init__(cells)
        self.automatic_optimization = False
        self.data = data
        self.ridge = ridge
        config = cells[0].config
        draw = generator(config["seed"], "feature pairs")
        images = data.data
        model = typed(config["model"], "model").build(images.SIDE**2, images.levels, draw)
        self.model: LinearPredictor = model

    def configure_optimizers(self) -> None:
        """Return nothing: there are no steps."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Solve, then measure."""
        parts = {name: part.to(self.device) for name, part in self.data.parts.items()}
        weights = self._solve(parts["train"])
        train, test = (self._errors(parts[name], weights, name) for name in ("train", "test"))
        shares = parts["train"].targets(slice(None)).double().mean(1)
        rows = zip(train.tolist(), test.tolist(), shares.tolist(), strict=True)
        for i, (train_error, test_error, share) in enumerate(rows):
            point = {"epoch": 1, "train_error": train_error, "test_error": test_error}
            self.curves[i].append(point)
            extra = {"constant_error": share * (1 - share), "parameters": len(weights)}
            one = {"weight": weights[:, i].float().cpu(), "pairs": self.model.pairs.cpu()}
            self.outcomes[i] = Outcome(Status.CONVERGED, {**point, **extra}, one)
        self.trainer.should_stop = True

    def _chunks(self, part: Part) -> list[slice]:
        return [slice(start, start + CHUNK) for start in range(0, len(part), CHUNK)]

    def _solve(self, part: Part) -> Tensor:
        """Return the weights of all cells, shape (features, cells), float64."""
        size = self.model.weight.numel()
        normal = self.ridge * torch.eye(size, dtype=torch.float64, device=self.device)
        right = normal.new_zeros(size, len(self.cells))
        for chunk in self._chunks(part):
            # Sums of 0/1 products below 2**24 are exact in float32.
            features = self.model.features(part.inputs[chunk]).float()
            targets = POSITIVE_TARGET * part.targets(slice(None), chunk).float()
            normal += (features.T @ features).double()
            right += (targets @ features).T.double()
        return torch.cholesky_solve(right, torch.linalg.cholesky(normal))

    def _errors(self, part: Part, weights: Tensor, name: str) -> Tensor:
        """Return each cell's mean error, as `bench.learners.one_versus_all` defines it."""
        total = weights.new_zeros(len(self.cells))
        for chunk in self._chunks(part):
            predictions = self.model.features(part.inputs[chunk]).double() @ weights
            wanted = POSITIVE_TARGET * part.targets(slice(None), chunk).T
            error = (predictions - wanted).square() / ERROR_UNIT
            total += (error.clamp(max=1) if name == "test" else error).sum(0)
        return total / len(part)

    def progress(self) -> tuple[float, float]:
        """Return whether it is done, and the mean train error."""
        errors = [curve[-1]["train_error"] for curve in self.curves if curve]
        return float(bool(errors)), sum(errors) / max(1, len(errors))
