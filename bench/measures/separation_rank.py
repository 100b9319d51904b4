"""Separation rank: how many products g(x_A) h(x_rest) a function is the sum of.

For a function of discrete inputs it is the rank of its tensor's matricization [HTF, section 5]. For
a network on images the matrix is sampled: a row for each content of the pixels in A, a column
for each content of the others.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.core.errors import require
from bench.core.seeding import generator
from bench.measures.ranks import effective_rank

Network = Callable[[Tensor], Tensor]


@torch.no_grad()
def estimate_separation_rank(
    network: Network,
    images: Tensor,
    mask: Tensor,
    *,
    samples: int = 64,
    batch_size: int = 1024,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Estimate the separation rank of a network between the pixels of a mask and the others.

    Two disjoint sets of images are sampled. Entry (i, j) of a matrix is the output at the image
    whose masked pixels are those of image i of the first set and whose other pixels are those of
    image j of the second. The matrix's rank never exceeds the network's separation rank, and
    `samples` is the most it can be.

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
    batch_size : int
        Most images evaluated at once.
    seed : int
        Seed of the choice of images.

    Returns
    -------
    effective, error : Tensor
        The effective rank and its standard error over the choice of images, that of the jackknife,
        a row and a column left out at a time. Shape (outputs,), or () for one output. An output
        that is not finite at all mixed images has the effective rank NaN. The effective rank of the
        sampled matrix grows with `samples`, so compare networks at equal `samples`.
    """
    require(samples >= 3, f"samples={samples}", "an integer of at least 3")
    given = f"{len(images)} images for samples={samples}"
    require(len(images) >= 2 * samples, given, f"at least {2 * samples} images")
    mask = mask.to(images.device)
    require(bool(mask.any() and not mask.all()), "a mask of one side only", "pixels on both sides")
    chosen = torch.randperm(len(images), generator=generator(seed, "separation rank"))
    rows, columns = images[chosen[:samples]], images[chosen[samples : 2 * samples]]
    matrix = _sampled_matrix(network, rows, columns, mask, batch_size)
    matrix = matrix.where(matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), 0.0)
    return effective_rank(torch.linalg.svdvals(matrix)), _jackknife_error(matrix)


def _sampled_matrix(
    network: Network, rows: Tensor, columns: Tensor, mask: Tensor, batch_size: int
) -> Tensor:
    """Return the outputs at all mixed images, shape (rows, columns) or (outputs, rows, columns)."""
    pairs = torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(columns)))
    chunks = (pair.T for pair in pairs.split(batch_size))
    outputs = [network(torch.where(mask, rows[row], columns[column])) for row, column in chunks]
    matrix = torch.cat(outputs).reshape(len(rows), len(columns), -1).movedim(-1, 0)
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
