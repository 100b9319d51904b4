"""One-layer predictors with as many free parameters as a CP factorization."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.core.settings import Count, Settings, settings


@settings
class LinearConfig(Settings):
    """Settings of `configs/model/linear.yaml`.

    Parameters
    ----------
    rank : int
        The CP rank whose number of free parameters is matched.
    """

    name: ClassVar[str] = "linear"

    rank: Count = 5

    def build(self, order: int, mode_dim: int, generator: torch.Generator) -> "LinearPredictor":
        """Return an untrained predictor."""
        return LinearPredictor(order, mode_dim, self.rank, generator=generator)


class LinearPredictor(nn.Module):
    """A linear function of indicator features and of random products of pairs of them.

    A CP component has order * (mode_dim - 1) + 1 free parameters: its factors, less the scales that
    can be moved between them. A linear function of all indicators has as many. For each further
    component, as many products of two random indicators are added, so that both predictors have
    the same number of free parameters.

    Parameters
    ----------
    order, mode_dim : int
        Number of inputs, and how many values each takes.
    rank : int
        The CP rank that is matched.
    generator : torch.Generator
        Source of the pairs.

    Attributes
    ----------
    weight : Parameter
        Shape (features,), float32; zero until trained.
    """

    pairs: Tensor

    def __init__(
        self, order: int, mode_dim: int, rank: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        indicators = order * (mode_dim - 1)
        shape = (2, (rank - 1) * (indicators + 1))
        self.register_buffer("pairs", torch.randint(indicators, shape, generator=generator))
        self.weight = nn.Parameter(torch.zeros(indicators + 1 + shape[1]))

    def features(self, matrix: Tensor) -> Tensor:
        """Return the features of an indicator matrix.

        Parameters
        ----------
        matrix : Tensor
            Shape (batch, indicators + 1), int8: see `bench.kernels.indicators.indicator_matrix`.

        Returns
        -------
        Tensor
            Shape (batch, features), int8.
        """
        first, second = self.pairs
        return torch.cat([matrix, matrix[:, first] * matrix[:, second]], 1)

    def forward(self, matrix: Tensor) -> Tensor:
        """Return the predictions for an indicator matrix, shape (batch,)."""
        return self.features(matrix).to(self.weight.dtype) @ self.weight
