"""Separation rank: how many products g(x_A) h(x_rest) a function is the sum of.

For a function of discrete inputs it is the rank of its tensor's matricization [HTF, section 5]. For
a network on images the matrix is sampled: a row for each content of the pixels in A, a column
for each content of the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.core.errors import require
from bench.core.seeding import generator
from bench.measures.ranks import effective_rank, numerical_rank

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SeparationRank:
    """Singular values of a matricization and the ranks read off them.

    Parameters
    ----------
    singular_values : Tensor
        Shape (..., k), falling.
    effective, numerical : Tensor
        Shape (...): effective rank, and number of values above the tolerance times the largest.
    effective_error : Tensor or None
        Standard error of the effective rank over the choice of samples; None if it is exact.
    """

    singular_values: Tensor
    effective: Tensor
    numerical: Tensor
    effective_error: Tensor | None = None


def separation_rank(
    tensor: Tensor, modes: Sequence[int], tolerance: float = 1e-6
) -> SeparationRank:
    """Return the separation rank of a tensor with respect to some of its modes and the others.

    Parameters
    ----------
    tensor : Tensor
        Shape (d_1, ..., d_N), small enough to be decomposed.
    modes : sequence of int
        The modes on one side: at least one, not all, each once.
    tolerance : float
        Singular values of at most this share of the largest count as zero.

    Returns
    -------
    SeparationRank
        Exact up to rounding.
    """
    chosen = sorted(set(modes))
    require(
        len(chosen) == len(modes)
        and 0 < len(chosen) < tensor.ndim
        and set(chosen) <= set(range(tensor.ndim)),
        f"modes={list(modes)} of a tensor of order {tensor.ndim}",
        f"some, not all, of the modes 0 to {tensor.ndim - 1}, each once",
    )
    sizes = [tensor.shape[mode] for mode in chosen]
    rows = int(torch.tensor(sizes).prod())
    matrix = tensor.movedim(chosen, list(range(len(chosen)))).reshape(rows, -1)
    return _ranks(torch.linalg.svdvals(matrix), tolerance)


def _ranks(values: Tensor, tolerance: float, error: Tensor | None = None) -> SeparationRank:
    return SeparationRank(values, effective_rank(values), numerical_rank(values, tolerance), error)


@torch.no_grad()
def estimate_separation_rank(
    network: Network,
    images: Tensor,
    mask: Tensor,
    *,
    samples: int = 64,
    tolerance: float = 1e-4,
    batch_size: int = 1024,
    seed: int = 0,
) -> SeparationRank:
    """Estimate the separation rank of a network between the pixels of a mask and the others.

    Two disjoint sets of images are sampled. Entry (i, j) of a matrix is the output at the image
    whose masked pixels are those of image i of the first set and whose other pixels are those of
    image j of the second. The matrix's rank never exceeds the network's separation rank, so the
    numerical rank is a lower bound of it, and `samples` is the most it can be.

    Parameters
    ----------
    network : callable
        Maps (batch, ...) images to (batch,), (batch, 1) or (batch, outputs). Put it in evaluation
        mode, so that samples of a batch do not mix.
    images : Tensor
        Shape (count, ...), count at least 2 * samples.
    mask : Tensor
        Bool, of a shape that broadcasts to one image's; true on one side, at least one pixel on
        each.
    samples : int
        Rows and columns of the matrix, at least 3.
    tolerance : float
        Singular values of at most this share of the largest count as zero; float32 outputs carry
        rounding of about 1e-6.
    batch_size : int
        Most images evaluated at once.
    seed : int
        Seed of the choice of images.

    Returns
    -------
    SeparationRank
        Leading dimension: the outputs, none if there is one. NaN and 0 for an output that is not
        finite at all mixed images. `effective_error` is the standard
        error by the jackknife, a row and a column left out at a time; the effective rank of the
        sampled matrix moreover grows with `samples`, so compare networks at equal `samples`.
    """
    require(samples >= 3, f"samples={samples}", "an integer of at least 3")
    require(
        len(images) >= 2 * samples,
        f"{len(images)} images for samples={samples}",
        f"at least {2 * samples} images",
    )
    mask = mask.to(images.device)
    require(bool(mask.any() and not mask.all()), "a mask of one side only", "pixels on both sides")
    chosen = torch.randperm(len(images), generator=generator(seed, "separation rank"))
    rows, columns = images[chosen[:samples]], images[chosen[samples : 2 * samples]]
    matrix = _sampled_matrix(network, rows, columns, mask, batch_size)
    matrix = matrix.where(matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), 0.0)
    values = torch.linalg.svdvals(matrix)
    return _ranks(values, tolerance, _jackknife_error(matrix))


def _sampled_matrix(
    network: Network, rows: Tensor, columns: Tensor, mask: Tensor, batch_size: int
) -> Tensor:
    """Return the outputs at all mixed images, shape (rows, columns) or (outputs, rows, columns)."""
    pairs = torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(columns)))
    outputs = torch.cat(
        [
            network(torch.where(mask, rows[pair[:, 0]], columns[pair[:, 1]]))
            for pair in pairs.split(batch_size)
        ]
    )
    matrix = outputs.reshape(len(rows), len(columns), -1).movedim(-1, 0)
    return matrix.squeeze(0)


def _jackknife_error(matrix: Tensor) -> Tensor:
    """Return the standard error of the effective rank, from leaving out row i and column i."""
    samples = matrix.shape[-1]
    left_out = []
    for index in range(samples):
        kept = torch.arange(samples, device=matrix.device) != index
        left_out.append(effective_rank(torch.linalg.svdvals(matrix[..., kept, :][..., kept])))
    ranks = torch.stack(left_out)
    return (ranks.var(0, correction=0) * (samples - 1)).sqrt()
