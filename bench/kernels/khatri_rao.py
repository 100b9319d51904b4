"""The full tensor of a CP factorization: two Khatri-Rao products and one matrix product.

Reading m entries through R components one by one costs m N R multiplications and as many scattered
reads. A matrix product of the two halves' Khatri-Rao products costs d^N R, in the one operation
that runs at the machine's peak; for tensors small enough to be held at all it is the faster way.
"""

from collections.abc import Sequence
from functools import reduce

from torch import Tensor


def khatri_rao(matrices: Sequence[Tensor]) -> Tensor:
    """Return the column-wise Kronecker product of matrices, the first one's rows varying slowest.

    Parameters
    ----------
    matrices : sequence of Tensor
        Shapes (..., d_n, rank), with the same leading dimensions and the same rank.

    Returns
    -------
    Tensor
        Shape (..., d_1 d_2 ..., rank).
    """
    return reduce(lambda a, b: (a.unsqueeze(-2) * b.unsqueeze(-3)).flatten(-3, -2), matrices)


def cp_full_tensor(factors: Tensor) -> Tensor:
    """Evaluate every entry of a sum of rank-one tensors [TF, tensor factorization].

    The matricization of the first half of the modes against the second is the product of the two
    halves' Khatri-Rao products.

    Parameters
    ----------
    factors : Tensor
        Shape (..., order, mode_dim, rank), order at least 2. Leading dimensions hold replicates.

    Returns
    -------
    Tensor
        Shape (..., mode_dim, ..., mode_dim), with `order` modes.
    """
    *leading, order, mode_dim, _ = factors.shape
    modes = factors.unbind(-3)
    first, second = khatri_rao(modes[: order // 2]), khatri_rao(modes[order // 2 :])
    return (first @ second.mT).reshape(*leading, *[mode_dim] * order)
