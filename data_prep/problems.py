"""Recovering a tensor of low rank from some of its entries, or from linear measurements of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.bounds import Count, NotNegative, Positive, check_bounds, one_of
from bench.errors import require
from bench.kernels.khatri_rao import khatri_rao
from bench.kernels.tproduct import t_gram, t_svd, t_transpose
from bench.seeding import generator


@dataclass
class LossConfig:
    """How the residuals at the measurements become one loss.

    Parameters
    ----------
    kind : str
        ``square``: r^2. ``l1``: abs(r). ``huber``: r^2 / 2 up to the threshold, then linear.
    huber_threshold : float
        Above 0.
    reduction : str
        ``mean`` or ``sum`` over the measurements.
    """

    kind: Annotated[str, one_of(["square", "l1", "huber"])] = "square"
    huber_threshold: Positive = 1.0
    reduction: Annotated[str, one_of(["mean", "sum"])] = "mean"

    def __post_init__(self) -> None:
        check_bounds("learner.loss", self)

    def __call__(self, residuals: Tensor) -> Tensor:
        """Reduce residuals of shape (..., measurements) to losses of shape (...)."""
        if self.kind == "square":
            losses = residuals.square()
        elif self.kind == "l1":
            losses = residuals.abs()
        else:
            zero = torch.zeros_like(residuals)
            losses = functional.huber_loss(
                residuals, zero, reduction="none", delta=self.huber_threshold
            )
        return losses.mean(-1) if self.reduction == "mean" else losses.sum(-1)


@dataclass
class TargetConfig:
    """The tensor to recover.

    Parameters
    ----------
    family : str
        Which rank is given: of a ``matrix``, the ``cp`` rank, the ``hierarchical`` rank at every
        node of the tree that pools neighbouring modes in pairs, or the ``tubal`` rank.
    mode_dims : list of int
        The shape. Tubal tensors have shape (n, n, k).
    rank : int
        At least 1, and at most what the shape allows.
    norm : float, optional
        Frobenius norm; by default that of the draw: Gaussian factors, and for tubal tensors
        ``T * T^T`` with orthonormal T [TUB, experiments].
    orthonormal : bool
        Of a hierarchical target: weights with orthonormal columns in place of Gaussian ones, and a
        root whose weights fall from `rank` to 1 by ones. Then no singular value of a node is close
        to zero; the last one of a Gaussian target's root often is, too small to be learned.
    """

    family: Annotated[str, one_of(["matrix", "cp", "hierarchical", "tubal"])]
    mode_dims: list[int]
    rank: int
    norm: Positive | None = 1.0
    orthonormal: bool = False

    def __post_init__(self) -> None:
        check_bounds("data.target", self)
        positive = all(mode_dim >= 1 for mode_dim in self.mode_dims)
        require(positive, f"data.target.mode_dims={self.mode_dims}", "integers of at least 1")
        square = len(self.mode_dims) == 3 and self.mode_dims[0] == self.mode_dims[1]
        fits, allowed = {
            "matrix": (len(self.mode_dims) == 2, "two dimensions"),
            "tubal": (square, "three dimensions n, n, k: square slices"),
        }.get(self.family, (len(self.mode_dims) >= 2, "two dimensions or more"))
        given = f"data.target.mode_dims={self.mode_dims} for a {self.family} target"
        require(fits, given, allowed)
        largest = self.largest_rank()
        require(
            1 <= self.rank <= largest,
            f"data.target.rank={self.rank} for a {self.family} target of shape {self.mode_dims}",
            f"an integer from 1 to {largest}",
        )
        require(
            not self.orthonormal or self.family == "hierarchical",
            f"data.target.orthonormal=true for a {self.family} target",
            "data.target.family=hierarchical",
        )

    def largest_rank(self) -> int:
        """Return the largest rank that the family and the shape allow for."""
        if self.family == "cp":
            return math.prod(self.mode_dims) // max(self.mode_dims)
        if self.family == "tubal":
            return self.mode_dims[0]
        return min(self.mode_dims)

    def draw(self, draw: torch.Generator) -> Tensor:
        """Return a target, float64."""
        if self.family == "tubal":
            tensor = _tubal_tensor(self.mode_dims, self.rank, draw)
        elif self.family == "hierarchical":
            tensor = _hierarchical_tensor(self.mode_dims, self.rank, self.orthonormal, draw)
        else:
            tensor = _cp_tensor(self.mode_dims, self.rank, draw)
        return tensor if self.norm is None else tensor * (self.norm / tensor.norm())


@dataclass
class MeasurementConfig:
    """What of the target is seen.

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
    kind: Annotated[str, one_of(["entries", "gaussian", "symmetric_gaussian"])] = "entries"
    noise_std: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_bounds("data.measurements", self)


class ObservedEntries(nn.Module):
    """Reads entries of a tensor.

    Parameters
    ----------
    places : Tensor
        Shape (measurements,), int64: places in the flattened tensor; or (..., measurements), with
        the leading dimensions of the tensors that will be read.
    order : int
        The tensor's number of modes.
    """

    places: Tensor

    def __init__(self, places: Tensor, order: int) -> None:
        super().__init__()
        self.order = order
        self.register_buffer("places", places)

    def forward(self, tensor: Tensor) -> Tensor:
        """Read tensors of shape (..., *mode_dims): shape (..., measurements)."""
        entries = tensor.flatten(-self.order)
        if self.places.ndim == 1:
            return entries.index_select(-1, self.places)
        return entries.gather(-1, self.places)


class InnerProducts(nn.Module):
    """Takes the inner products of a tensor with given ones.

    Parameters
    ----------
    operators : Tensor
        Shape (measurements, entries): the flattened tensors; or (..., measurements, entries).
    order : int
        The number of modes of the tensors that will be measured.
    """

    operators: Tensor

    def __init__(self, operators: Tensor, order: int) -> None:
        super().__init__()
        self.order = order
        self.register_buffer("operators", operators)

    def forward(self, tensor: Tensor) -> Tensor:
        """Measure tensors of shape (..., *mode_dims): shape (..., measurements)."""
        entries = tensor.flatten(-self.order)
        if self.operators.ndim == 2:
            return entries @ self.operators.mT
        return (self.operators @ entries.unsqueeze(-1)).squeeze(-1)

    def back_project(self, values: Tensor) -> Tensor:
        """Return ``sum_j values_j A_j``, flattened, from values of shape (..., measurements)."""
        return (values.unsqueeze(-2) @ self.operators).squeeze(-2)


class RecoveryProblem(nn.Module):
    """A target, measurements of it and the loss of an end tensor at them.

    A module without parameters, so that it moves between devices and precisions, and so that
    replicates of it stack (`bench.models.replicates`).

    Parameters
    ----------
    target : Tensor
        Shape mode_dims; NaN at entries that have no right value.
    operator : nn.Module
        `ObservedEntries` or `InnerProducts`.
    loss : LossConfig
        The loss of the residuals.
    noise : Tensor, optional
        Shape (measurements,), added to the measured values.
    """

    target: Tensor
    values: Tensor

    def __init__(
        self, target: Tensor, operator: nn.Module, loss: LossConfig, noise: Tensor | None = None
    ) -> None:
        super().__init__()
        self.order = target.ndim
        self.loss = loss
        self.operator = operator
        values = operator(target)
        self.register_buffer("target", target)
        self.register_buffer("values", values if noise is None else values + noise)

    def forward(self, end_tensor: Tensor) -> Tensor:
        """Return the loss of end tensors of shape (..., *mode_dims): shape (...)."""
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


def check_together(target: TargetConfig, measurements: MeasurementConfig) -> None:
    """Raise `UserError` for more observed entries than there are, or unsuitable measurements."""
    entries = math.prod(target.mode_dims)
    require(
        measurements.kind != "entries" or measurements.count <= entries,
        f"data.measurements.count={measurements.count} of shape {target.mode_dims}",
        f"an integer from 1 to {entries}, the number of entries",
    )
    require(
        measurements.kind != "symmetric_gaussian" or target.family == "tubal",
        f"data.measurements.kind=symmetric_gaussian for a {target.family} target",
        "data.target.family=tubal",
        "take data.measurements.kind=gaussian",
    )


def make_problem(
    target: TargetConfig,
    measurements: MeasurementConfig,
    loss: LossConfig,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> RecoveryProblem:
    """Draw a problem; target, measurements and noise each depend on the seed alone.

    Raises
    ------
    UserError
        For more observed entries than the target has, and for measurements that do not suit it.
    """
    check_together(target, measurements)
    tensor = target.draw(generator(seed, "target", target.family))
    draw = generator(seed, "measurements", measurements.kind)
    operator = OPERATORS[measurements.kind](target.mode_dims, measurements.count, draw)
    normal = torch.randn(
        measurements.count, generator=generator(seed, "noise"), dtype=torch.float64
    )
    return RecoveryProblem(tensor, operator, loss, normal * measurements.noise_std).to(dtype)


def norms_or_rank_problem(loss: LossConfig, dtype: torch.dtype = torch.float32) -> RecoveryProblem:
    """Return the 2 x 2 completion problem in which norms diverge and rank falls [NORM].

    Observed: 1 off the diagonal and 0 in the lower right corner. The upper left entry is not
    observed and has no right value: NaN in the target.
    """
    target = torch.tensor([[math.nan, 1.0], [1.0, 0.0]], dtype=torch.float64)
    return RecoveryProblem(target, ObservedEntries(torch.tensor([1, 2, 3]), 2), loss).to(dtype)


def _cp_tensor(mode_dims: list[int], rank: int, draw: torch.Generator) -> Tensor:
    factors = [_normal(draw, mode_dim, rank) for mode_dim in mode_dims]
    return khatri_rao(factors).sum(-1).reshape(mode_dims)


def _hierarchical_tensor(
    mode_dims: list[int], rank: int, orthonormal: bool, draw: torch.Generator
) -> Tensor:
    """Pool neighbouring modes in pairs, level by level, up to one tensor [HTF]."""

    def weights(rows: int) -> Tensor:
        normal = _normal(draw, rows, rank)
        return torch.linalg.qr(normal).Q if orthonormal else normal

    nodes = [weights(mode_dim) for mode_dim in mode_dims]
    while len(nodes) > 2:
        pairs = [nodes[i : i + 2] for i in range(0, len(nodes), 2)]
        nodes = [khatri_rao(pair) @ weights(rank) for pair in pairs]
    falling = torch.arange(rank, 0, -1, dtype=torch.float64).unsqueeze(1)
    root = falling if orthonormal else _normal(draw, rank, 1)
    return (khatri_rao(nodes) @ root).reshape(mode_dims)


def _tubal_tensor(mode_dims: list[int], rank: int, draw: torch.Generator) -> Tensor:
    size, _, tube_length = mode_dims
    return t_gram(t_svd(_normal(draw, size, rank, tube_length)).left)


def _observed_entries(mode_dims: list[int], count: int, draw: torch.Generator) -> ObservedEntries:
    places = torch.randperm(math.prod(mode_dims), generator=draw)[:count].sort().values
    return ObservedEntries(places, len(mode_dims))


def _gaussian(mode_dims: list[int], count: int, draw: torch.Generator) -> InnerProducts:
    operators = _normal(draw, count, *mode_dims).flatten(1)
    return InnerProducts(operators / operators.shape[1] ** 0.5, len(mode_dims))


def _symmetric_gaussian(mode_dims: list[int], count: int, draw: torch.Generator) -> InnerProducts:
    normal = _normal(draw, count, *mode_dims)
    return InnerProducts((normal + t_transpose(normal)).flatten(1), len(mode_dims))


def _normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=draw, dtype=torch.float64)


OPERATORS: dict[str, Callable[[list[int], int, torch.Generator], nn.Module]] = {
    "entries": _observed_entries,
    "gaussian": _gaussian,
    "symmetric_gaussian": _symmetric_gaussian,
}
