"""The algebra of third-order tensors under the t-product [TUB, preliminaries].

A tensor of shape (n, m, k) is an n x m matrix whose entries are tubes of length k, and tubes
multiply by circular convolution. The discrete Fourier transform along the tubes turns the product
into k matrix products; for real tensors k // 2 + 1 of them determine the rest.
"""

import torch
from torch import Tensor


def t_gram(tensor: Tensor) -> Tensor:
    """Return ``tensor * t_transpose(tensor)``, shape (..., n, n, k), with half the transforms."""
    slices = to_fourier(tensor)
    return from_fourier(slices @ slices.mH, tensor.shape[-1])


def t_transpose(tensor: Tensor) -> Tensor:
    """Transpose every frontal slice and reverse the order of slices 2 to k."""
    transposed = tensor.transpose(-3, -2)
    return torch.cat([transposed[..., :1], transposed[..., 1:].flip(-1)], dim=-1)


def leading_tubal_subspace(tensor: Tensor, rank: int) -> Tensor:
    """Return the first left singular slices under the t-product [TUB, preliminaries].

    Parameters
    ----------
    tensor : Tensor
        Shape (..., n, m, k), real.
    rank : int
        How many slices, at most min(n, m).

    Returns
    -------
    Tensor
        Shape (..., n, rank, k), orthonormal columns under the t-product.
    """
    slices, length = to_fourier(tensor), tensor.shape[-1]
    left = torch.linalg.svd(slices, full_matrices=False).U
    # Slices of frequency 0 and k/2 are real, but complex routines may turn the phase of their
    # singular vectors, and the inverse transform would drop the imaginary parts.
    real = torch.tensor([0] if length % 2 else [0, length // 2], device=tensor.device)
    real_left = torch.linalg.svd(slices[..., real, :, :].real, full_matrices=False).U
    left[..., real, :, :] = real_left.to(left.dtype)
    return from_fourier(left, length)[..., :rank, :]


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


def singular_tubes(tensor: Tensor) -> Tensor:
    """Return the singular tubes of a tensor of shape (..., n, m, k), shape (..., min(n, m), k)."""
    slices = to_fourier(tensor)
    values = torch.linalg.svdvals(slices).to(slices.dtype)
    return torch.fft.irfft(values.mT, n=tensor.shape[-1])


def to_fourier(tensor: Tensor) -> Tensor:
    """Return the first k // 2 + 1 Fourier slices of a real (..., n, m, k): (..., slices, n, m)."""
    return torch.fft.rfft(tensor, dim=-1).movedim(-1, -3)


def from_fourier(slices: Tensor, tube_length: int) -> Tensor:
    """Undo `to_fourier` for tubes of length `tube_length`."""
    return torch.fft.irfft(slices.movedim(-3, -1), n=tube_length, dim=-1)
