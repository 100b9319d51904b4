"""How a network on images ties near and far pixels together, by its separation ranks.

The separation rank is how many products g(x_A) h(x_rest) a function is the sum of. For a function
of discrete inputs it is the rank of its tensor's matricization [HTF, section 5]. For a network on
images the matrix is sampled: a row for each content of the pixels in A, a column for each content
of the others.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.core.errors import require
from bench.core.seeding import generator
from bench.measures.ranks import effective_rank

SAMPLES = 32  # rows and columns of a sampled matrix
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
    return torch.cat(outputs).reshape(len(rows), len(columns), -1).movedim(-1, 0).squeeze(0)


def _jackknife_error(matrix: Tensor) -> Tensor:
    """Return the standard error of the effective rank, from leaving out row i and column i."""
    samples = matrix.shape[-1]
    left_out = []
    for index in range(samples):
        kept = torch.arange(samples, device=matrix.device) != index
        left_out.append(effective_rank(torch.linalg.svdvals(matrix[..., kept, :][..., kept])))
    return (torch.stack(left_out).var(0, correction=0) * (samples - 1)).sqrt()


def partitions(height: int, width: int) -> dict[str, Tensor]:
    """Return two partitions of an image's pixels, as masks of shape (height, width), bool.

    ``halves``: left and right, so that neighbors are on one side but for one border.
    ``checkerboard``: every pixel's neighbors are on the other side.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return {"halves": columns < width // 2, "checkerboard": (rows + columns) % 2 == 0}


def locality(
    network: Network, images: Tensor, seed: int = 0, samples: int = SAMPLES
) -> dict[str, Tensor]:
    """Estimate how much more a network ties together pixels that are near than pixels far apart.

    A network of low separation rank between the halves of the image, and of high one between the
    squares of a checkerboard, models dependencies of near pixels rather than of far ones [HTF,
    section 5].

    Parameters
    ----------
    network : callable
        Maps (batch, ..., height, width) images to (batch,) or (batch, outputs).
    images : Tensor
        Shape (count, ..., height, width), count at least 2 * samples.
    seed : int
        Seed of the choice of images.
    samples : int
        Size of the sampled matrices; see `estimate_separation_rank`.

    Returns
    -------
    dict of str to Tensor
        Shape (outputs,), or () for one output: ``separation_rank_halves`` and
        ``separation_rank_checkerboard``, effective ranks, and ``..._error``, their standard errors
        over the choice of images; ``locality``, the second rank over the first.
    """
    found = {}
    for name, mask in partitions(*images.shape[-2:]).items():
        rank, error = estimate_separation_rank(network, images, mask, samples=samples, seed=seed)
        found |= {f"separation_rank_{name}": rank, f"separation_rank_{name}_error": error}
    ratio = found["separation_rank_checkerboard"] / found["separation_rank_halves"]
    return {**found, "locality": ratio}
