"""Recovering a tensor of low rank from some of its entries, or from linear measurements of it."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Literal

import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional

from bench.core.errors import require
from bench.core.seeding import generator
from bench.core.settings import Count, NonNegative, Positive, settings
from bench.kernels.khatri_rao import khatri_rao
from bench.kernels.tproduct import (
    from_fourier,
    leading_tubal_subspace,
    t_gram,
    t_transpose,
    to_fourier,
)


@settings
class LossConfig:
    """How the residuals at the measurements become one loss.

    Parameters
    ----------
    kind : str
        ``square``: r^2. ``half_square``: r^2 / 2. ``l1``: abs(r). ``huber``: r^2 / 2 up to the
        threshold, then linear.
    huber_threshold : float
        Above 0.
    reduction : str
        ``mean`` or ``sum`` over the measurements.
    """

    kind: Literal["square", "half_square", "l1", "huber"] = "square"
    huber_threshold: Positive = 1.0
    reduction: Literal["mean", "sum"] = "mean"

    def __call__(self, residuals: Tensor) -> Tensor:
        """Reduce residuals of shape (..., measurements) to losses of shape (...)."""
        losses = {
            "square": torch.square,
            "half_square": lambda r: r.square() / 2,
            "l1": torch.abs,
            "huber": lambda r: functional.huber_loss(
                r, torch.zeros_like(r), reduction="none", delta=self.huber_threshold
            ),
        }[self.kind](residuals)
        return losses.mean(-1) if self.reduction == "mean" else losses.sum(-1)


@settings
class TargetConfig:
    """The tensor to recover.

    Parameters
    ----------
    family : str
        Which rank is given: of a ``matrix``, the ``cp`` rank, the ``hierarchical`` rank at every
        node of the tree that pools neighboring modes in pairs, or the ``tubal`` rank.
    mode_dims : tuple of int
        The shape. Tubal tensors have shape (n, n, k).
    rank : int
        At least 1, and at most what the shape allows.
    norm : float, optional
        Frobenius norm; with null that of the sample: Gaussian factors, and for tubal tensors
        ``T * T^T`` with orthonormal T [TUB, experiments].
    orthonormal : bool
        Of a hierarchical target: weights with orthonormal columns in place of Gaussian ones, and a
        root whose weights fall from `rank` to 1 by ones. Then no singular value of a node is close
        to zero; the last one of a Gaussian target's root often is, too small to be learned.
    photograph : bool
        Of a tubal target of shape (n, n, 3): T is a photograph of n x n pixels, scikit-learn's
        "china.jpg" less its mean color, projected to the tubal rank. Its colors are the tubes.
    """

    later: ClassVar[frozenset[str]] = frozenset({"photograph"})

    family: Literal["matrix", "cp", "hierarchical", "tubal"]
    mode_dims: tuple[Count, ...]
    rank: Count
    norm: Positive | None = 1.0
    orthonormal: bool = False
    photograph: bool = False

    def __post_init__(self) -> None:
        dims, shape = self.mode_dims, list(self.mode_dims)
        square = len(dims) == 3 and dims[0] == dims[1]
        fits, expected = {
            "matrix": (len(dims) == 2, "two dimensions"),
            "tubal": (square, "three dimensions n, n, k: square slices"),
        }.get(self.family, (len(dims) >= 2, "two dimensions or more"))
        target = f"a {self.family} target"
        require(fits, f"data.target.mode_dims={shape} for {target}", expected)
        largest = {"cp": math.prod(dims) // max(dims), "tubal": dims[0]}.get(self.family, min(dims))
        given = f"data.target.rank={self.rank} for {target} of shape {shape}"
        require(self.rank <= largest, given, f"an integer from 1 to {largest}")
        fits = not self.orthonormal or self.family == "hierarchical"
        given = f"data.target.orthonormal=true for {target}"
        require(fits, given, "data.target.family=hierarchical")
        fits = not self.photograph or (self.family, dims[-1]) == ("tubal", 3)
        given = f"data.target.photograph=true for {target} of shape {shape}"
        require(fits, given, "data.target.family=tubal and three colors")

    def sample(self, rng: torch.Generator) -> Tensor:
        """Return a target, float64."""
        if self.photograph:
            tensor = t_gram(_photograph(self.mode_dims[0], self.rank))
        elif self.family == "tubal":
            size, _, tube_length = self.mode_dims
            normal = _normal(rng, size, self.rank, tube_length)
            tensor = t_gram(leading_tubal_subspace(normal, self.rank))
        elif self.family == "hierarchical":
            tensor = _hierarchical_tensor(self.mode_dims, self.rank, self.orthonormal, rng)
        else:
            factors = [_normal(rng, mode_dim, self.rank) for mode_dim in self.mode_dims]
            tensor = khatri_rao(factors).sum(-1).reshape(self.mode_dims)
        return tensor if self.norm is None else tensor * (self.norm / tensor.norm())


@settings
class MeasurementConfig:
    """Which part of the target is observed.

    Parameters
    ----------
    count : int
        Number of measurements.
    kind : str
        ``entries``: entries drawn without replacement (completion). ``gaussian``: inner products
        with tensors whose entries are drawn from N(0, 1 / number of entries), so that a
        measurement is as large as an entry (sensing [TF]). ``symmetric_gaussian``: inner products
        with ``G + G^T`` under the t-product, G of standard normal entries, for tubal problems
        [TUB].
    noise_std : float
        Standard deviation of Gaussian noise on each measurement.
    """

    count: Count
    kind: Literal["entries", "gaussian", "symmetric_gaussian"] = "entries"
    noise_std: NonNegative = 0.0

    def sample(self, dims: Sequence[int], rng: torch.Generator) -> "Operator":
        """Return what reads or measures tensors of shape (..., *dims)."""
        if self.kind == "entries":
            indices = torch.randperm(math.prod(dims), generator=rng)[: self.count].sort().values
            return ObservedEntries(indices, dims)
        operators = _normal(rng, self.count, *dims)
        if self.kind == "gaussian":
            operators = operators / math.prod(dims) ** 0.5
        else:
            operators = operators + t_transpose(operators)
        return InnerProducts(operators.flatten(1), len(dims))


class ObservedEntries(nn.Module):
    """Reads entries of a tensor.

    Parameters
    ----------
    indices : Tensor
        Shape (measurements,), int64: positions in the flattened tensor; or (..., measurements),
        with the leading dimensions of the tensors that will be read.
    mode_dims : sequence of int
        The tensor's shape, without leading dimensions.
    """

    def __init__(self, indices: Tensor, mode_dims: Sequence[int]) -> None:
        super().__init__()
        self.order, self.entries = len(mode_dims), math.prod(mode_dims)
        self.indices: Tensor = nn.Buffer(indices)

    def forward(self, tensor: Tensor) -> Tensor:
        """Read tensors of shape (..., *mode_dims): shape (..., measurements)."""
        entries = tensor.flatten(-self.order)
        return entries.gather(-1, self.indices.expand(*entries.shape[:-1], -1))

    def least_norm(self, values: Tensor) -> Tensor:
        """Return the flattened tensor of least norm with these entries: 0 where none is read."""
        return values.new_zeros(self.entries).index_copy(0, self.indices, values)


class InnerProducts(nn.Module):
    """Takes the inner products of a tensor with given ones.

    Parameters
    ----------
    operators : Tensor
        Shape (measurements, entries): the flattened tensors; or (..., measurements, entries).
    order : int
        The number of modes of the tensors that will be measured.
    """

    def __init__(self, operators: Tensor, order: int) -> None:
        super().__init__()
        self.order = order
        self.operators: Tensor = nn.Buffer(operators)

    def forward(self, tensor: Tensor) -> Tensor:
        """Measure tensors of shape (..., *mode_dims): shape (..., measurements)."""
        entries = tensor.flatten(-self.order)
        if self.operators.ndim == 2:
            return entries @ self.operators.mT
        return (self.operators @ entries.unsqueeze(-1)).squeeze(-1)

    def back_project(self, values: Tensor) -> Tensor:
        """Return ``sum_j values_j A_j``, flattened, from values of shape (..., measurements)."""
        return (values.unsqueeze(-2) @ self.operators).squeeze(-2)

    def least_norm(self, values: Tensor) -> Tensor:
        """Return the flattened tensor of least norm with these inner products."""
        return self._inverse @ values

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.linalg.pinv(self.operators)


Operator = ObservedEntries | InnerProducts


class RecoveryProblem(nn.Module):
    """A target, measurements of it and the loss of an end tensor at them.

    A module without parameters, so that it moves between devices and precisions, and so that
    replicates of it stack (`bench.models.replicates`).

    Parameters
    ----------
    target : Tensor
        Shape mode_dims; NaN at entries that have no right value.
    operator : ObservedEntries or InnerProducts
        What reads or measures tensors.
    loss : LossConfig
        The loss of the residuals.
    noise : Tensor, optional
        Shape (measurements,), added to the measured values.
    """

    def __init__(
        self, target: Tensor, operator: Operator, loss: LossConfig, noise: Tensor | None = None
    ) -> None:
        super().__init__()
        self.order = target.ndim
        self.loss = loss
        self.operator: Operator = operator
        values = operator(target)
        self.target: Tensor = nn.Buffer(target)
        self.values: Tensor = nn.Buffer(values if noise is None else values + noise)

    def forward(self, end_tensor: Tensor) -> Tensor:
        """Return the loss of end tensors of shape ``(..., *mode_dims)``: shape (...)."""
        return self.loss(self.operator(end_tensor) - self.values)

    def train_error(self, end_tensor: Tensor) -> Tensor:
        """Return the norm of the residuals over that of the measured values: shape (...)."""
        residuals = self.operator(end_tensor) - self.values
        return residuals.norm(dim=-1) / self.values.norm(dim=-1)

    def reconstruction_error(self, end_tensor: Tensor) -> Tensor:
        """Return ``||W - W*|| / ||W*||``, shape (...), the published test error."""
        target = self.target.flatten(-self.order)
        difference = end_tensor.flatten(-self.order) - target
        return difference.norm(dim=-1) / target.norm(dim=-1)


@settings
class CompletionConfig:
    """Settings of the completion and sensing problems in `configs/data/`.

    Parameters
    ----------
    name : str
        What tables and W&B call the problem.
    target : TargetConfig
        The tensor to recover.
    measurements : MeasurementConfig
        What of it is seen.
    """

    name: str
    target: TargetConfig
    measurements: MeasurementConfig

    def __post_init__(self) -> None:
        target, kind, count = self.target, self.measurements.kind, self.measurements.count
        entries = math.prod(target.mode_dims)
        given = f"data.measurements.count={count} of shape {list(target.mode_dims)}"
        expected = f"an integer from 1 to {entries}, the number of entries"
        require(kind != "entries" or count <= entries, given, expected)
        given = f"data.measurements.kind={kind} for a {target.family} target"
        fits = kind != "symmetric_gaussian" or target.family == "tubal"
        require(fits, given, "data.target.family=tubal", "take data.measurements.kind=gaussian")

    @property
    def mode_dims(self) -> tuple[int, ...]:
        """The target's shape."""
        return self.target.mode_dims

    @property
    def rank(self) -> int:
        """The target's rank."""
        return self.target.rank

    def problem(self, seed: int, loss: LossConfig, dtype: torch.dtype) -> RecoveryProblem:
        """Sample a problem; target, measurements and noise each depend on the seed alone."""
        measurements = self.measurements
        target = self.target.sample(generator(seed, "target", self.target.family))
        rng = generator(seed, "measurements", measurements.kind)
        operator = measurements.sample(self.mode_dims, rng)
        noise = _normal(generator(seed, "noise"), measurements.count) * measurements.noise_std
        return RecoveryProblem(target, operator, loss, noise).to(dtype)


@settings
class NormsOrRankConfig:
    """Settings of `configs/data/norms_or_rank.yaml`: 2 x 2 completion [NORM].

    Parameters
    ----------
    name : str
        What tables and W&B call the problem.
    """

    name: str = "norms or rank"

    mode_dims: ClassVar[tuple[int, ...]] = (2, 2)
    rank: ClassVar[int] = 1  # the infimum over all matrices that fit the observations

    def problem(self, seed: int, loss: LossConfig, dtype: torch.dtype) -> RecoveryProblem:
        """Return the problem, the same for every seed, in which norms diverge and the rank falls.

        Observed: 1 off the diagonal and 0 in the lower right corner. The upper left entry is not
        observed and has no right value: NaN in the target.
        """
        target = torch.tensor([[math.nan, 1.0], [1.0, 0.0]], dtype=torch.float64)
        observed = ObservedEntries(torch.tensor([1, 2, 3]), self.mode_dims)
        return RecoveryProblem(target, observed, loss).to(dtype)


def _photograph(size: int, rank: int) -> Tensor:
    """Return a photograph less its mean color, shape (size, size, 3), of tubal rank `rank`."""
    pixels = torch.from_numpy(load_sample_image("china.jpg") / 255)
    colors = functional.adaptive_avg_pool2d(pixels.permute(2, 0, 1), size).permute(1, 2, 0)
    colors = colors - colors.mean((0, 1))
    projection = to_fourier(t_gram(leading_tubal_subspace(colors, rank)))
    return from_fourier(projection @ to_fourier(colors), 3)


def _hierarchical_tensor(
    mode_dims: Sequence[int], rank: int, orthonormal: bool, rng: torch.Generator
) -> Tensor:
    """Pool neighboring modes in pairs, level by level, up to one tensor [HTF]."""

    def weights(rows: int) -> Tensor:
        normal = _normal(rng, rows, rank)
        return torch.linalg.qr(normal).Q if orthonormal else normal

    nodes = [weights(mode_dim) for mode_dim in mode_dims]
    while len(nodes) > 2:
        pairs = [nodes[i : i + 2] for i in range(0, len(nodes), 2)]
        nodes = [khatri_rao(pair) @ weights(rank) for pair in pairs]
    falling = torch.arange(rank, 0, -1, dtype=torch.float64).unsqueeze(1)
    root = falling if orthonormal else _normal(rng, rank, 1)
    return (khatri_rao(nodes) @ root).reshape(tuple(mode_dims))


def _normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=rng, dtype=torch.float64)
