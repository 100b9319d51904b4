"""Symmetric tubal factorization of third-order tensors."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.core.errors import require
from bench.core.seeding import generator as seeded
from bench.core.settings import Count, Positive, Settings, settings, validate
from bench.kernels.tproduct import singular_tubes, t_gram


@settings
class TubalConfig(Settings):
    """Settings of `configs/model/tubal.yaml`; see `TubalFactorization` for the meanings."""

    name: ClassVar[str] = "tubal"

    overestimated_rank: Count = 50
    init_std: Positive = 1e-7

    def factorize(self, mode_dims: Sequence[int], seed: int) -> "TubalFactorization":
        """Return a freshly started factorization of tensors of shape `mode_dims`."""
        square = len(mode_dims) == 3 and mode_dims[0] == mode_dims[1]
        given = f"model=tubal for a tensor of shape {list(mode_dims)}"
        require(square, given, "three modes n, n, k: square slices")
        rng = seeded(seed, "initialization")
        return TubalFactorization(*mode_dims[1:], **asdict(self), generator=rng)


class TubalFactorization(nn.Module):
    """The tensor ``U * U^T`` under the t-product [TUB, problem statement].

    Parameters
    ----------
    size : int
        The n of the end tensor's shape (n, n, k).
    tube_length : int
        Its k.
    overestimated_rank : int
        The R of U's shape (n, R, k); far above the rank sought, and above n too if one likes.
    init_std : float
        The alpha of the start: U's entries are drawn from N(0, alpha^2 / R).
    generator : torch.Generator, optional
        Source of the start values.

    Attributes
    ----------
    factor : Parameter
        U, shape (n, R, k), or the same with leading replicate dimensions.

    Raises
    ------
    UserError
        For a size below 1 or a standard deviation not above 0.
    """

    def __init__(
        self,
        size: int,
        tube_length: int,
        overestimated_rank: int,
        *,
        init_std: float = 1e-7,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        given = {"overestimated_rank": overestimated_rank, "init_std": init_std}
        validate(TubalConfig, given, "model")
        for name, length in (("size", size), ("tube_length", tube_length)):
            require(length >= 1, f"{name}={length}", "an integer of at least 1")
        normal = torch.randn(size, overestimated_rank, tube_length, generator=generator)
        self.factor = nn.Parameter(normal * (init_std / overestimated_rank**0.5))

    def full_tensor(self) -> Tensor:
        """Return the end tensor, shape (..., size, size, tube_length)."""
        return t_gram(self.factor)

    def forward(self, indices: Tensor) -> Tensor:
        """Return the entries at `indices`, shape (batch, 3), int64: shape (..., batch)."""
        return self.full_tensor()[..., indices[:, 0], indices[:, 1], indices[:, 2]]

    def singular_tube_norms(self) -> Tensor:
        """Return the norms of the end tensor's singular tubes, falling: shape (..., size)."""
        return torch.linalg.vector_norm(singular_tubes(self.full_tensor()), dim=-1)

    def learned_norms(self) -> dict[str, Tensor]:
        """Return the norms of the singular tubes, which training raises one after another."""
        return {"singular_tube": self.singular_tube_norms()}
