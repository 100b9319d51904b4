"""Quantities that gradient flow keeps constant."""

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
