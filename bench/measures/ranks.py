"""Ranks of an end tensor, and how far it is from rank one."""

from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bench.core.seeding import generator
from bench.kernels.khatri_rao import khatri_rao


def effective_rank(singular_values: Tensor) -> Tensor:
    """Return the exponential of the entropy of the normalized singular values.

    A number from 1 to the rank, continuous in the matrix (Roy & Vetterli, *The effective rank*,
    2007); [NORM, effective rank].

    Parameters
    ----------
    singular_values : Tensor
        Shape (..., k), not negative.

    Returns
    -------
    Tensor
        Shape (...); NaN where all singular values are zero.
    """
    weights = singular_values / singular_values.sum(-1, keepdim=True)
    return torch.special.entr(weights).sum(-1).exp()


def numerical_rank(singular_values: Tensor, tolerance: float = 1e-2) -> Tensor:
    """Count the values above `tolerance` times the largest: shape (..., k) to (...), int64.

    For component norms, local-component norms and norms of singular tubes, too.
    """
    threshold = tolerance * singular_values.amax(-1, keepdim=True)
    return (singular_values > threshold).sum(-1)


def component_norms(factors: Tensor) -> Tensor:
    """Return the Frobenius norms of a CP factorization's components.

    Parameters
    ----------
    factors : Tensor
        Shape (..., order, mode_dim, rank).

    Returns
    -------
    Tensor
        Shape (..., rank): products of the vectors' Euclidean norms [TF].
    """
    return torch.linalg.vector_norm(factors, dim=-2).prod(-2)


def log_norm(components: Tensor) -> Tensor:
    """Return the logarithm of a CP tensor's norm over the root of its number of entries.

    It is the root mean square of the predictor's scores over all inputs, each as likely. By the
    Gram matrix of the components, whose entries are products over the modes of inner products: in
    logarithms, as there may be hundreds of modes.

    Parameters
    ----------
    components : Tensor
        Shape (rank, order, mode_dim).

    Returns
    -------
    Tensor
        Scalar, float64; minus infinity for the tensor 0.
    """
    vectors = components.double().movedim(1, 0)
    grams = vectors @ vectors.mT / vectors.shape[-1]  # a mean over the mode's values
    logs, signs = grams.abs().log().sum(0), grams.sign().prod(0)
    largest = logs.max()
    total = ((logs - largest).exp() * signs).sum().clamp(min=0)
    return (largest + total.log()) / 2


def rank_one_distance(
    tensor: Tensor, starts: int = 8, max_sweeps: int = 200, seed: int = 0
) -> Tensor:
    """Return the Frobenius distance from a tensor to the nearest tensor of rank one.

    For matrices it is exact, by the singular values; for higher orders an upper bound, the best of
    `rank_one_directions`, as the problem is NP-hard.

    Parameters
    ----------
    tensor : Tensor
        One tensor of order at least 2, without leading dimensions.
    starts, max_sweeps, seed
        See `rank_one_directions`.

    Returns
    -------
    Tensor
        Scalar; divide by the tensor's norm for the relative distance.
    """
    if tensor.ndim == 2:
        return torch.linalg.vector_norm(torch.linalg.svdvals(tensor)[1:])
    vectors, values = rank_one_directions(tensor, starts, max_sweeps, seed)
    best = int(values.argmax())
    nearest = values[best] * khatri_rao([vector[best, :, None] for vector in vectors])
    return torch.linalg.vector_norm(tensor - nearest.view_as(tensor))


def rank_one_directions(
    tensor: Tensor, starts: int, max_sweeps: int = 200, seed: int = 0
) -> tuple[list[Tensor], Tensor]:
    """Return unit vectors whose outer product has a locally largest inner product with a tensor.

    By the higher-order power method, once from the leading singular vectors of the unfoldings and
    otherwise from Gaussian vectors (De Lathauwer, De Moor & Vandewalle, *On the best rank-1
    approximation of higher-order tensors*, 2000).

    Parameters
    ----------
    tensor : Tensor
        One tensor of order at least 2, without leading dimensions.
    starts : int
        Number of runs, at least 1.
    max_sweeps : int
        Bound on the passes over all modes; they end when no run's value grows any more.
    seed : int
        Seed of the Gaussian starts.

    Returns
    -------
    vectors : list of Tensor
        For each mode, shape (starts, mode_dim).
    values : Tensor
        Shape (starts,): the inner products, not negative.
    """
    vectors = _power_method_starts(tensor, starts, seed)
    values = tensor.new_zeros(starts)
    for _ in range(max_sweeps):
        before = values
        for mode in range(tensor.ndim):
            contracted = _contract_all_but(tensor, vectors, mode)
            values = torch.linalg.vector_norm(contracted, dim=1)
            vectors[mode] = normalize(contracted, dim=1)
        if (values - before <= 4 * torch.finfo(tensor.dtype).eps * values).all():
            break
    return vectors, values


def _power_method_starts(tensor: Tensor, starts: int, seed: int) -> list[Tensor]:
    """Return, for each mode, unit vectors of shape (starts, mode_dim)."""
    rng = generator(seed, "rank-one distance")
    vectors = []
    for mode, mode_dim in enumerate(tensor.shape):
        unfolding = tensor.movedim(mode, 0).flatten(1)
        leading = torch.linalg.eigh(unfolding @ unfolding.mT).eigenvectors[:, -1]
        normal = torch.randn(starts - 1, mode_dim, generator=rng).to(tensor)
        vectors.append(normalize(torch.cat([leading[None], normal]), dim=1))
    return vectors


def _contract_all_but(tensor: Tensor, vectors: list[Tensor], mode: int) -> Tensor:
    """Contract every mode but one with that mode's vectors, run by run: (starts, mode_dim)."""
    modes, run = [*range(tensor.ndim)], tensor.ndim
    others = [(vectors[n], [run, n]) for n in modes if n != mode]
    return torch.einsum(tensor, modes, *chain.from_iterable(others), [run, mode])
