"""How a network on images ties near and far pixels together."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.measures.separation_rank import estimate_separation_rank

SAMPLES = 32  # rows and columns of a sampled matrix


def partitions(height: int, width: int) -> dict[str, Tensor]:
    """Return two partitions of an image's pixels, as masks of shape (height, width), bool.

    ``halves``: left and right, so that neighbors are on one side but for one border.
    ``checkerboard``: every pixel's neighbors are on the other side.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return {"halves": columns < width // 2, "checkerboard": (rows + columns) % 2 == 0}


def locality(
    network: Callable[[Tensor], Tensor], images: Tensor, seed: int = 0, samples: int = SAMPLES
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
