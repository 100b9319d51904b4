"""Tensors of low CP rank, alone and stacked."""

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.core.errors import require
from bench.core.seeding import generator as seeded
from bench.core.seeding import standard_normal
from bench.core.settings import Count, Finite, NonNegative, Settings, settings
from bench.kernels.cp import cp_components, slow_cp_components
from bench.kernels.indicators import IndicatorBatch
from bench.kernels.khatri_rao import cp_full_tensor
from bench.kernels.lanes import LANES
from bench.kernels.tiles import tile
from bench.measures.ranks import component_norms


@settings
class CPConfig(Settings):
    """Settings of `configs/model/cp.yaml`.

    Parameters
    ----------
    rank : int
        Number of components R, an upper bound of the CP rank.
    init_mean, init_std : float
        Factor entries start as independent draws from N(init_mean, init_std^2).
    """

    name: ClassVar[str] = "cp"

    rank: Count = 5
    init_mean: Finite = 1.0
    init_std: NonNegative = 1e-3

    def factorize(self, mode_dims: Sequence[int], seed: int) -> "CPFactorization":
        """Return a freshly started factorization of tensors of shape `mode_dims`."""
        cube = len(set(mode_dims)) == 1 and len(mode_dims) >= 2
        given = f"model=cp for a tensor of shape {list(mode_dims)}"
        require(cube, given, "two modes or more, of equal dimension")
        start = {"init_mean": self.init_mean, "init_std": self.init_std}
        rng = seeded(seed, "initialization")
        return CPFactorization(len(mode_dims), mode_dims[0], self.rank, **start, generator=rng)

    def predictor(self, image_shape: tuple[int, ...], levels: int, seed: int) -> "CPPredictor":
        """Return a freshly started predictor."""
        made = CPPredictor(prod(image_shape), levels, self.rank)
        start = standard_normal((*made.factors.shape,), seed, "initialization")
        made.factors.data = (self.init_mean + self.init_std * start).float()
        return made


class CPPredictor(nn.Module):
    """A CP predictor: the entry of a tensor of low rank at each input [TF, equation 3].

    Parameters
    ----------
    order, mode_dim, rank : int
        Number of inputs, how many values each takes, and number of components.

    Attributes
    ----------
    factors : Parameter
        Shape (order, mode_dim, rank), float32; zero until a state is loaded.
    """

    def __init__(self, order: int, mode_dim: int, rank: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.zeros(order, mode_dim, rank))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores of inputs of shape (batch, order), integers, as (batch,) float32."""
        return slow_cp_components(self.factors.permute(2, 1, 0), inputs.long()).sum(0)


class CPFactorization(CPPredictor):
    """A sum of R rank-one tensors, sum_r w_r^1 (x) ... (x) w_r^N [TF, equation 3].

    As a network: a locally connected 1 x 1 convolution of one-hot inputs, a global product pooling
    and a sum.

    Parameters
    ----------
    order : int
        Number of modes (inputs) N.
    mode_dim : int
        Dimension of each mode: how many values an input takes, at least 2.
    rank : int
        Number of components R.
    init_mean, init_std : float
        Factor entries start as independent draws from N(init_mean, init_std^2).
    generator : torch.Generator, optional
        Source of the start values.

    Attributes
    ----------
    factors : Parameter
        Shape (order, mode_dim, rank), float32.
    """

    def __init__(
        self,
        order: int,
        mode_dim: int,
        rank: int,
        *,
        init_mean: float = 1.0,
        init_std: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        given = f"order={order}, mode_dim={mode_dim} and rank={rank}"
        require(order >= 1 and mode_dim >= 2 and rank >= 1, given, "at least 1, 2 and 1")
        super().__init__(order, mode_dim, rank)
        start = torch.randn(order, mode_dim, rank, generator=generator)
        self.factors.data = init_mean + init_std * start

    def full_tensor(self) -> Tensor:
        """Return the tensor of shape (mode_dim,) * order; for small orders only."""
        return cp_full_tensor(self.factors)

    def learned_norms(self) -> dict[str, Tensor]:
        """Return the components' norms, which training raises one after another [TF]."""
        return {"component": component_norms(self.factors)}

    @property
    def vectors_per_component(self) -> int:
        """How many vectors a component is the outer product of: the order."""
        return self.factors.shape[-3]

    def component_drives(self) -> Tensor:
        """Return ``<-grad L(W), normalized component>`` from the gradient in `factors.grad`.

        By multilinearity it equals ``-<grad of w_r^n, w_r^n> / sigma_r`` for every mode n, so that
        the parameters' gradient suffices; the mean over the modes is taken. Shape (..., rank).
        """
        assert self.factors.grad is not None
        projections = (self.factors * self.factors.grad).sum(-2).mean(-2)
        return -projections / component_norms(self.factors)

    def conserved_differences(self) -> Tensor:
        """Return what gradient flow conserves, shape (..., (order - 1) * rank) [TF].

        For each component ``||w^n||^2 - ||w^(n+1)||^2``, with w^n its vector of mode n.
        """
        squared_norms = self.factors.square().sum(-2)
        return (squared_norms[..., :-1, :] - squared_norms[..., 1:, :]).flatten(-2)


class CPBlock(nn.Module):
    """Components of several CP predictors that are trained together, with Adam's moments.

    They are kept as `bench.kernels.tiles` reads them. Predictors do not influence each other.

    Parameters
    ----------
    members : Tensor
        Shape (predictors,), int64: the predictors' places in the whole stack.
    ranks : Tensor
        Shape (predictors,), int64: how many components each predictor has.
    factors : Tensor
        Shape (components, mode_dim, order): the components of one predictor after another.

    Attributes
    ----------
    owner : Tensor
        Shape (components,), int64: which of the block's predictors a component belongs to.
    lanes : Tensor
        Shape (components,), int64: each component's lane, counted over all tiles.
    tiled, first_moments, second_moments : Tensor
        Shape (tiles, order, mode_dim, LANES): the factors and Adam's moments. Lanes without a
        component hold ones, and zeros.
    steps : Tensor
        Scalar, int64: how many steps Adam has taken.
    """

    def __init__(self, members: Tensor, ranks: Tensor, factors: Tensor) -> None:
        super().__init__()
        self.tiling = tile(ranks.cpu().numpy())
        self.members: Tensor = nn.Buffer(members)
        self.ranks: Tensor = nn.Buffer(ranks)
        self.owner: Tensor = nn.Buffer(torch.repeat_interleave(ranks))
        self.lanes: Tensor = nn.Buffer(torch.from_numpy(self.tiling.lanes).to(ranks.device))
        tiles, (levels, order) = int(self.tiling.tile_starts[-1]), factors.shape[1:]
        ones = factors.new_ones(tiles, order, levels, LANES)
        self.tiled: Tensor = nn.Buffer(ones)
        self.first_moments: Tensor = nn.Buffer(torch.zeros_like(ones))
        self.second_moments: Tensor = nn.Buffer(torch.zeros_like(ones))
        self.steps: Tensor = nn.Buffer(torch.tensor(0))
        self.fill(self.tiled, factors)

    def fill(self, tiled: Tensor, values: Tensor) -> None:
        """Write values of shape (components, mode_dim, order) to the components' lanes."""
        places = self.lanes // LANES, self.lanes % LANES
        tiled.permute(0, 3, 1, 2)[places] = values.mT

    def components(self, tiled: Tensor | None = None) -> Tensor:
        """Return the factors, or what is tiled alike, as (components, mode_dim, order)."""
        tiled = self.tiled if tiled is None else tiled
        return tiled.permute(0, 3, 2, 1)[self.lanes // LANES, self.lanes % LANES]

    def forward(
        self, inputs: IndicatorBatch, factors: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Evaluate every predictor at a batch, as any device can.

        Parameters
        ----------
        inputs : IndicatorBatch
            The batch.
        factors : Tensor, optional
            In place of the components, to be differentiated by; of the same shape.

        Returns
        -------
        predictions : Tensor
            Shape (predictors, batch).
        underflows : Tensor
            Shape (predictors,), int64: see `bench.kernels.cp.cp_components`.
        """
        factors = self.components() if factors is None else factors
        values, underflows = cp_components(factors, inputs)
        shape = (len(self.members), len(inputs))
        predictions = values.new_zeros(shape).index_add(0, self.owner, values)
        counts = underflows.new_zeros(shape[0]).index_add(0, self.owner, underflows)
        return predictions, counts

    def trained(self) -> list[tuple[dict[str, Tensor], int]]:
        """Return the state of each predictor's `CPPredictor`, and how many parameters it has."""
        parts = self.components().split(self.ranks.tolist())
        factors = [part.permute(2, 1, 0).contiguous().cpu() for part in parts]
        return [({"factors": one}, one.numel()) for one in factors]

    def select(self, chosen: Tensor) -> "CPBlock":
        """Return a block of the predictors that a mask marks, with copies of what they hold."""
        rows = chosen[self.owner]
        part = CPBlock(self.members[chosen], self.ranks[chosen], self.components()[rows])
        for name in ("first_moments", "second_moments"):
            part.fill(getattr(part, name), self.components(getattr(self, name))[rows])
        part.steps.copy_(self.steps)
        return part.to(self.tiled.device)
