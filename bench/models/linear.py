"""One-layer predictors with as many free parameters as a CP factorization.

A CP component has order * (mode_dim - 1) + 1 free parameters: its factors, less the scales that can
be moved between them. A linear function of all indicators has as many. For each further component,
as many products of two random indicators are added, so that both predictors have the same number of
free parameters.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.core.settings import Count, Settings, settings
from bench.kernels.indicators import indicator_matrix


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

    def pairs(self, indicators: int, generator: torch.Generator) -> Tensor:
        """Return the random pairs of that many indicators, shape (2, pairs), int64."""
        shape = (2, (self.rank - 1) * (indicators + 1))
        return torch.randint(indicators, shape, generator=generator)


class LinearPredictor(nn.Module):
    """A trained linear function of `pair_features`.

    Parameters
    ----------
    config : LinearConfig
        The model's settings.
    order, mode_dim : int
        Number of inputs, and how many values each takes.

    Attributes
    ----------
    weight : Parameter
        Shape (features,), float32; zero until a state is loaded, like `pairs`.
    """

    def __init__(self, config: LinearConfig, order: int, mode_dim: int) -> None:
        super().__init__()
        self.levels = mode_dim
        indicators = order * (mode_dim - 1)
        pairs = config.pairs(indicators, torch.Generator())
        self.pairs: Tensor = nn.Buffer(torch.zeros_like(pairs))
        self.weight = nn.Parameter(torch.zeros(indicators + 1 + pairs.shape[1]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores of inputs of shape (batch, order), integers, as (batch,) float32."""
        features = pair_features(indicator_matrix(inputs, self.levels), self.pairs)
        return features.float() @ self.weight


def pair_features(matrix: Tensor, pairs: Tensor) -> Tensor:
    """Return the features that a predictor is linear in.

    Parameters
    ----------
    matrix : Tensor
        Shape (batch, indicators + 1), int8: see `bench.kernels.indicators.indicator_matrix`.
    pairs : Tensor
        Shape (2, pairs), int64: see `LinearConfig.pairs`.

    Returns
    -------
    Tensor
        Shape (batch, indicators + 1 + pairs), int8.
    """
    return torch.cat([matrix, matrix[:, pairs[0]] * matrix[:, pairs[1]]], 1)
