"""Matrix factorization: a linear network without biases, its end matrix the product of weights."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.core.errors import require
from bench.core.seeding import generator as seeded
from bench.core.settings import Count, Positive, Settings, settings, validate
from bench.measures.balancedness import layer_differences


@settings
class MatrixConfig(Settings):
    """Settings of `configs/model/matrix.yaml`; see `MatrixFactorization` for the meanings."""

    name: ClassVar[str] = "matrix"

    depth: Count = 3
    width: Count | None = None
    start: Literal["gaussian", "balanced", "identity"] = "gaussian"
    init_std: Positive = 1e-3
    determinant_sign: Literal[-1, 1] | None = None

    def factorize(self, mode_dims: Sequence[int], seed: int) -> "MatrixFactorization":
        """Return a freshly started factorization of matrices of shape `mode_dims`."""
        given = f"model=matrix for a tensor of shape {list(mode_dims)}"
        require(len(mode_dims) == 2, given, "two modes")
        rng = seeded(seed, "initialization")
        return MatrixFactorization(*mode_dims, **asdict(self), generator=rng)


class MatrixFactorization(nn.Module):
    """The product ``W_L ... W_2 W_1`` of L matrices [NORM, matrix factorization].

    Parameters
    ----------
    rows, columns : int
        Shape of the end matrix.
    depth : int
        Number L of factors, at least 1.
    width : int, optional
        Inner dimension of the factors; by default the smaller of rows and columns, so that the
        product is not bounded in rank.
    start : str
        ``gaussian``: every entry of every factor is drawn from N(0, init_std^2). ``balanced``: the
        end matrix is drawn from N(0, init_std^2) and split so that
        ``W_{l+1}^T W_{l+1} = W_l W_l^T`` for all l. ``identity``: every factor is init_std times
        the unit matrix; for symmetric problems of depth 2 the end matrix then stays positive
        semi-definite, in floating point too.
    init_std : float
        Standard deviation or, for ``identity``, scale; above 0.
    determinant_sign : int, optional
        1 or -1: the sign of the end matrix's determinant at the start, enforced by negating a row.
    generator : torch.Generator, optional
        Source of the start values.

    Attributes
    ----------
    factors : ParameterList
        W_1 to W_L, shapes (width, columns), (width, width), ..., (rows, width), or the same with
        leading replicate dimensions.

    Raises
    ------
    UserError
        For sizes, a start or a sign that are not possible together.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        depth: int = 3,
        *,
        width: int | None = None,
        start: str = "gaussian",
        init_std: float = 1e-3,
        determinant_sign: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        given = {"depth": depth, "width": width, "start": start, "init_std": init_std}
        validate(MatrixConfig, {**given, "determinant_sign": determinant_sign}, "model")
        for name, size in (("rows", rows), ("columns", columns)):
            require(size >= 1, f"{name}={size}", "an integer of at least 1")
        smaller = min(rows, columns)
        sizes = [columns, *[width or smaller] * (depth - 1), rows]
        _check_together(sizes, start, determinant_sign)
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        factors = BEGINNINGS[start](shapes, init_std, generator)
        if determinant_sign and torch.linalg.slogdet(_product(factors)).sign != determinant_sign:
            factors[-1][0].neg_()
        self.factors = nn.ParameterList([factor.float() for factor in factors])

    def full_tensor(self) -> Tensor:
        """Return the end matrix, shape (..., rows, columns)."""
        return _product(self.factors)

    def forward(self, indices: Tensor) -> Tensor:
        """Return the entries at `indices`, shape (batch, 2), int64: shape (..., batch)."""
        return self.full_tensor()[..., indices[:, 0], indices[:, 1]]

    def singular_values(self) -> Tensor:
        """Return the end matrix's singular values, falling: shape (..., min(rows, columns))."""
        return torch.linalg.svdvals(self.full_tensor())

    def learned_norms(self) -> dict[str, Tensor]:
        """Return the singular values, which training raises one after another."""
        return {"singular_value": self.singular_values()}

    def conserved_differences(self) -> Tensor:
        """Return what gradient flow conserves, shape (..., sum of squared inner widths) [NORM]."""
        differences = layer_differences(list(self.factors))
        return torch.cat([difference.flatten(-2) for difference in differences], -1)


def _identity_factors(
    shapes: list[tuple[int, int]], scale: float, generator: torch.Generator | None
) -> list[Tensor]:
    return [torch.eye(*shape, dtype=torch.float64) * scale for shape in shapes]


def _check_together(sizes: list[int], start: str, determinant_sign: int | None) -> None:
    columns, rows, narrowest = sizes[0], sizes[-1], min(sizes)
    require(
        start != "balanced" or narrowest == min(rows, columns),
        f"model.start=balanced with model.width={narrowest}",
        f"a width of at least {min(rows, columns)}, the smaller side of the matrix",
        "widen the factorization or take model.start=gaussian",
    )
    square = rows == columns == narrowest == max(sizes)
    given = f"model.start=identity for a {rows} x {columns} matrix"
    require(start != "identity" or square, given, "a square matrix with factors of its size")
    require(
        determinant_sign is None or rows == columns == narrowest,
        f"model.determinant_sign={determinant_sign} for a {rows} x {columns} matrix whose "
        f"factors are {narrowest} wide",
        "a square matrix with factors at least as wide",
        "take model.determinant_sign=null",
    )


def _gaussian_factors(
    shapes: list[tuple[int, int]], std: float, generator: torch.Generator | None
) -> list[Tensor]:
    return [torch.randn(shape, generator=generator, dtype=torch.float64) * std for shape in shapes]


def _balanced_factors(
    shapes: list[tuple[int, int]], std: float, generator: torch.Generator | None
) -> list[Tensor]:
    """Split a Gaussian end matrix: ``U S V^T = (U S^(1/L)) S^(1/L) ... (S^(1/L) V^T)``.

    Directions that the inner width has beyond the end matrix's rank start, and so stay, at zero.
    """
    rows, columns, depth = shapes[-1][0], shapes[0][1], len(shapes)
    end = std * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    if depth == 1:
        return [end]
    left, values, right = torch.linalg.svd(end, full_matrices=False)
    root = values.pow(1 / depth).diag()
    blocks = [root @ right, *[root] * (depth - 2), left @ root]
    factors = [end.new_zeros(shape) for shape in shapes]
    for factor, block in zip(factors, blocks, strict=True):
        factor[: block.shape[0], : block.shape[1]] = block
    return factors


BEGINNINGS: dict[str, Callable[..., list[Tensor]]] = {
    "gaussian": _gaussian_factors,
    "balanced": _balanced_factors,
    "identity": _identity_factors,
}


def _product(factors: Iterable[Tensor]) -> Tensor:
    """Return ``W_L ... W_2 W_1``."""
    return reduce(lambda product, factor: factor @ product, factors)
