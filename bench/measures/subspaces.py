"""Angles between the subspaces that tensors span under the t-product."""

import torch
from torch import Tensor

from bench.kernels.tproduct import to_fourier


def tubal_principal_angle(first: Tensor, second: Tensor) -> Tensor:
    """Return the sine of the largest principal angle between two tubal subspaces.

    It is the spectral norm of ``first_perp^T * second`` [TUB, spectral phase]: the largest over the
    Fourier slices, in which subspaces of equal dimension are compared one by one.

    Parameters
    ----------
    first, second : Tensor
        Shape (..., n, r, k), orthonormal columns under the t-product.

    Returns
    -------
    Tensor
        Shape (...): 0 for equal subspaces, 1 where a direction of one is orthogonal to the other.
    """
    base, other = to_fourier(first), to_fourier(second)
    outside = other - base @ (base.mH @ other)
    return torch.linalg.matrix_norm(outside, ord=2).amax(-1)
