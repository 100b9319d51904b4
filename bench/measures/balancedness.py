"""Quantities that gradient flow keeps constant."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor


def vector_differences(squared_norms: Tensor) -> Tensor:
    """Return the differences that gradient flow conserves in each component.

    For a component that is the outer product of K vectors, ``||w^n||^2 - ||w^(n+1)||^2`` is
    constant in time [TF and HTF, dynamical characterization].

    Parameters
    ----------
    squared_norms : Tensor
        Shape (..., K, components): squared Euclidean norms of the components' vectors. For CP
        factors of shape (..., order, mode_dim, rank) they are ``factors.square().sum(-2)``.

    Returns
    -------
    Tensor
        Shape (..., K - 1, components).
    """
    return squared_norms[..., :-1, :] - squared_norms[..., 1:, :]


def layer_differences(factors: Sequence[Tensor]) -> list[Tensor]:
    """Return ``W_{l+1}^T W_{l+1} - W_l W_l^T``, conserved by gradient flow [NORM].

    Parameters
    ----------
    factors : sequence of Tensor
        W_1 to W_L of a matrix factorization, shapes (..., width_l, width_(l-1)).

    Returns
    -------
    list of Tensor
        L - 1 tensors of shapes (..., width_l, width_l).
    """
    return [after.mT @ after - before @ before.mT for before, after in pairwise(factors)]
