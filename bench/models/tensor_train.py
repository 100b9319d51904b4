"""Tensor trains, or matrix product states: a product of matrices, one per input."""

from math import log, prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.core.errors import require
from bench.core.seeding import standard_normal
from bench.core.settings import Count, NonNegative, Settings, settings

MOST_PRODUCTS = 16  # products of neighboring matrices that are formed before a sample is read


@settings
class TensorTrainConfig(Settings):
    """Settings of `configs/model/tensor_train.yaml`.

    Parameters
    ----------
    rank : int
        The tensor train rank, or bond dimension: the matrices are of shape (rank, rank).
    init_std : float
        Noise of the start, see `TensorTrain`.
    """

    name: ClassVar[str] = "tensor_train"
    stackable: ClassVar[bool] = True

    rank: Count = 3
    init_std: NonNegative = 1e-2

    def predictor(self, image_shape: tuple[int, ...], levels: int, seed: int) -> "TensorTrain":
        """Return a freshly started predictor."""
        return TensorTrain(prod(image_shape), levels, self.rank, init_std=self.init_std, seed=seed)


class TensorTrain(nn.Module):
    """The entry of a tensor of low tensor train rank at each input.

    It is ``first[x_1] @ cores[0, x_2] @ ... @ cores[-1, x_(N-1)] @ last[x_N]`` (Oseledets 2011),
    trained to tell classes apart as by Stoudenmire and Schwab (2016). With diagonal matrices it is
    a CP predictor of the same rank.

    The start is near the identity: all matrices are the identity and all scores 1, but for normal
    noise of standard deviation `init_std`, so that a product of hundreds of matrices neither
    vanishes nor explodes.

    All parameters may have leading replicate dimensions (`bench.models.replicates`); the scores
    then have them too.

    Parameters
    ----------
    order, mode_dim, rank : int
        Number of inputs, at least 2; how many values each takes; and the tensor train rank.
    init_std : float
        Noise of the start.
    seed : int
        Seed of the start.

    Attributes
    ----------
    ends : Parameter
        Shape (..., 2, mode_dim, rank), float32: the vectors `first` and `last`.
    cores : Parameter
        Shape (..., order - 2, mode_dim, rank, rank), float32.
    """

    def __init__(
        self, order: int, mode_dim: int, rank: int, *, init_std: float = 1e-2, seed: int = 0
    ) -> None:
        super().__init__()
        require(order >= 2, f"model=tensor_train for {order} input", "two inputs or more")

        def near(mean: Tensor, name: str) -> nn.Parameter:
            noise = init_std * standard_normal((*mean.shape,), seed, "tensor train", name)
            return nn.Parameter((mean + noise).float())

        eye = torch.eye(rank, dtype=torch.float64)
        self.ends = near(torch.full((2, mode_dim, rank), rank**-0.5, dtype=torch.float64), "ends")
        self.cores = near(eye.expand(order - 2, mode_dim, rank, rank), "cores")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores of inputs of shape (batch, order), integers, as (..., batch)."""
        levels, rank = self.ends.shape[-2:]
        products, size = self._products()
        codes = nn.functional.pad(inputs[:, 1:-1].T.long(), (0, 0, 0, -(len(inputs.T) - 2) % size))
        places = levels ** torch.arange(size - 1, -1, -1, device=codes.device)
        codes = (codes.unflatten(0, (-1, size)) * places[:, None]).sum(1)
        chosen = products.flatten(-2).mT @ self._one_hot(codes, levels**size)
        first, last = (self.ends.mT @ self._one_hot(inputs[:, [0, -1]].T, levels)).unbind(-3)
        for matrices in chosen.unflatten(-2, (rank, rank)).unbind(-4):
            first = (first.unsqueeze(-2) * matrices).sum(-3)
        return (first * last).sum(-2)

    def _products(self) -> tuple[Tensor, int]:
        """Return all products of neighboring matrices, and of how many matrices each is.

        There are few of them, and a batch shares them. Shape (..., groups, combinations of values,
        rank, rank); the last group is filled up with identity matrices.
        """
        levels, rank = self.ends.shape[-2:]
        size = max(1, int(log(MOST_PRODUCTS) / log(levels)))
        missing = -self.cores.shape[-4] % size
        identity = torch.eye(rank, dtype=self.cores.dtype, device=self.cores.device)
        shape = (*self.cores.shape[:-4], missing, levels, rank, rank)
        groups = torch.cat([self.cores, identity.expand(shape)], -4).unflatten(-4, (-1, size))
        products, *others = groups.unbind(-4)
        for cores in others:
            products = (products.unsqueeze(-3) @ cores.unsqueeze(-4)).flatten(-4, -3)
        return products, size

    def _one_hot(self, codes: Tensor, values: int) -> Tensor:
        """Return codes of shape (inputs, batch) as (inputs, values, batch)."""
        every = torch.arange(values, device=codes.device)[:, None]
        return (codes.unsqueeze(-2) == every).to(self.cores.dtype)
