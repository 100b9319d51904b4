"""Symmetric tubal factorization of third-order tensors."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.core.errors import require
from bench.core.seeding import generator
from bench.core.settings import Count, Positive, Settings, settings
from bench.kernels.tproduct import singular_tubes, t_gram


@settings
class TubalConfig(Settings):
    """Settings of `configs/model/tubal.yaml`.

    Parameters
    ----------
    overestimated_rank : int
        The R of U's shape (n, R, k); far above the rank sought, and above n too if one likes.
    init_std : float
        The alpha of the start: U's entries are drawn from N(0, alpha^2 / R).
    """

    name: ClassVar[str] = "tubal"

    overestimated_rank: Count = 50
    init_std: Positive = 1e-7

    def factorize(self, mode_dims: Sequence[int], seed: int) -> "TubalFactorization":
        """Return a freshly started factorization of tensors of shape `mode_dims`."""
        square = len(mode_dims) == 3 and mode_dims[0] == mode_dims[1]
        given = f"model=tubal for a tensor of shape {list(mode_dims)}"
        require(square, given, "three modes n, n, k: square slices")
        _, size, tube_length = mode_dims
        return TubalFactorization(size, tube_length, self, generator(seed, "initialization"))


class TubalFactorization(nn.Module):
    """The tensor ``U * U^T`` under the t-product [TUB, problem statement].

    Parameters
    ----------
    size : int
        The n of the end tensor's shape (n, n, k).
    tube_length : int
        Its k.
    config : TubalConfig
        The number R of U's columns, and the scale of the start.
    rng : torch.Generator
        Source of the start values.

    Attributes
    ----------
    factor : Parameter
        U, shape (n, R, k), or the same with leading replicate dimensions.
    """

    def __init__(
        self, size: int, tube_length: int, config: TubalConfig, rng: torch.Generator
    ) -> None:
        super().__init__()
        rank = config.overestimated_rank
        normal = torch.randn(size, rank, tube_length, generator=rng)
        self.factor = nn.Parameter(normal * (config.init_std / rank**0.5))

    def full_tensor(self) -> Tensor:
        """Return the end tensor, shape (..., size, size, tube_length)."""
        return t_gram(self.factor)

    def learned_norms(self) -> dict[str, Tensor]:
        """Return the norms of the singular tubes, which training raises one after another."""
        tubes = singular_tubes(self.full_tensor())
        return {"singular_tube": torch.linalg.vector_norm(tubes, dim=-1)}
