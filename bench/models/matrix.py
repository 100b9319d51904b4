"""Matrix factorization: a linear network without biases, its end matrix the product of weights."""

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.core.errors import require
from bench.core.seeding import generator
from bench.core.settings import Count, Positive, Settings, settings


@settings
class MatrixConfig(Settings):
    """Settings of `configs/model/matrix.yaml`.

    Parameters
    ----------
    depth : int
        Number L of factors.
    width : int, optional
        Inner dimension of the factors; by default the smaller of rows and columns, so that the
        product is not bounded in rank.
    start : str
        ``gaussian``: every entry of every factor is drawn from N(0, init_std^2). ``balanced``: the
        end matrix is drawn from N(0, init_std^2) and split so that
        ``W_{l+1}^T W_{l+1} = W_l W_l^T`` for all l. ``identity``: every factor is init_std times
        the unit matrix; for symmetric problems of depth 2 the end matrix then stays positive
        semi-definite, in floating point too. ``perturbed_identity``: to the unit matrix is added a
        tenth of a symmetric matrix with Gaussian entries, the same for all factors, so that seeds
        differ and the start is still symmetric and balanced.
    init_std : float
        Standard deviation or, for the last two starts, scale.
    determinant_sign : int, optional
        1 or -1: the sign of the end matrix's determinant at the start, enforced by negating a row.
    """

    name: ClassVar[str] = "matrix"

    depth: Count = 3
    width: Count | None = None
    start: Literal["gaussian", "balanced", "identity", "perturbed_identity"] = "gaussian"
    init_std: Positive = 1e-3
    determinant_sign: Literal[-1, 1] | None = None

    def factorize(self, mode_dims: Sequence[int], seed: int) -> "MatrixFactorization":
        """Return a freshly started factorization of matrices of shape `mode_dims`."""
        given = f"model=matrix for a tensor of shape {list(mode_dims)}"
        require(len(mode_dims) == 2, given, "two modes")
        rows, columns = mode_dims
        return MatrixFactorization(rows, columns, self, generator(seed, "initialization"))


class MatrixFactorization(nn.Module):
    """The product ``W_L ... W_2 W_1`` of L matrices [NORM, matrix factorization].

    Parameters
    ----------
    rows, columns : int
        Shape of the end matrix.
    config : MatrixConfig
        Depth, width and start.
    rng : torch.Generator
        Source of the start values.

    Attributes
    ----------
    factors : ParameterList
        W_1 to W_L, shapes (width, columns), (width, width), ..., (rows, width), or the same with
        leading replicate dimensions.

    Raises
    ------
    UserError
        For a shape, a width, a start and a sign that are not possible together.
    """

    def __init__(self, rows: int, columns: int, config: MatrixConfig, rng: torch.Generator) -> None:
        super().__init__()
        inner = [config.width or min(rows, columns)] * (config.depth - 1)
        sizes = [columns, *inner, rows]
        _check_together(sizes, config)
        factors = _started(list(zip(sizes[1:], sizes[:-1], strict=True)), config, rng)
        sign = config.determinant_sign
        if sign and torch.linalg.slogdet(_product(factors)).sign != sign:
            factors[-1][0].neg_()
        self.factors = nn.ParameterList([factor.float() for factor in factors])

    def full_tensor(self) -> Tensor:
        """Return the end matrix, shape (..., rows, columns)."""
        return _product(self.factors)

    def learned_norms(self) -> dict[str, Tensor]:
        """Return the end matrix's singular values, which training raises one after another."""
        return {"singular_value": torch.linalg.svdvals(self.full_tensor())}

    def conserved_differences(self) -> Tensor:
        """Return what gradient flow conserves, ``W_{l+1}^T W_{l+1} - W_l W_l^T`` [NORM].

        Shape (..., sum of squared inner widths), one pair of neighboring factors after the other.
        """
        pairs = pairwise(self.factors)
        differences = [after.mT @ after - before @ before.mT for before, after in pairs]
        return torch.cat([difference.flatten(-2) for difference in differences], -1)


def _check_together(sizes: list[int], config: MatrixConfig) -> None:
    columns, rows, narrowest = sizes[0], sizes[-1], min(sizes)
    square = rows == columns == narrowest
    matrix = f"for a {rows} x {columns} matrix whose narrowest factor is {narrowest} wide"
    given = f"model.start={config.start} {matrix}"
    if config.start == "balanced":
        require(narrowest == min(rows, columns), given, f"a width of {min(rows, columns)} or more")
    elif config.start.endswith("identity"):
        fits = square and narrowest == max(sizes)
        require(fits, given, "a square matrix with factors of its size")
    if config.determinant_sign is not None:
        given = f"model.determinant_sign={config.determinant_sign} {matrix}"
        hint = "take model.determinant_sign=null"
        require(square, given, "a square matrix with factors at least as wide", hint)


def _started(
    shapes: list[tuple[int, int]], config: MatrixConfig, rng: torch.Generator
) -> list[Tensor]:
    """Return factors of these shapes, float64, W_1 first; see `MatrixConfig`."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    if config.start == "gaussian":
        return [normal(*shape) * config.init_std for shape in shapes]
    if config.start == "balanced":
        return _balanced(shapes, config.init_std * normal(shapes[-1][0], shapes[0][1]))
    factor = torch.eye(*shapes[0], dtype=torch.float64)
    if config.start == "perturbed_identity":
        noise = normal(*shapes[0])
        factor += (noise + noise.T) / 20
    return [factor * config.init_std for _ in shapes]


def _balanced(shapes: list[tuple[int, int]], end: Tensor) -> list[Tensor]:
    """Split an end matrix: ``U S V^T = (U S^(1/L)) S^(1/L) ... (S^(1/L) V^T)``.

    Directions that the inner width has beyond the end matrix's rank start, and so stay, at zero.
    """
    depth = len(shapes)
    if depth == 1:
        return [end]
    left, values, right = torch.linalg.svd(end, full_matrices=False)
    root = values.pow(1 / depth).diag()
    blocks = [root @ right, *[root] * (depth - 2), left @ root]
    factors = [end.new_zeros(shape) for shape in shapes]
    for factor, block in zip(factors, blocks, strict=True):
        factor[: block.shape[0], : block.shape[1]] = block
    return factors


def _product(factors: Iterable[Tensor]) -> Tensor:
    """Return ``W_L ... W_2 W_1``."""
    return reduce(lambda product, factor: factor @ product, factors)
