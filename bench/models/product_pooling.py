"""Product pooling up a mode tree, without over- or underflow.

A product over hundreds of inputs leaves the range of any float. As the network is linear in each
node, every node's vector may be divided by a power of two if the output is multiplied by it again:
powers of two are exact, so the values are those of the plain evaluation, and so are the gradients,
which pass through the scaled vectors and never see the scale.
"""

import math

import torch
from torch import Tensor

from bench.models.mode_tree import ModeTree, split_windows

EXPONENT_LIMIT = 100  # keeps the power of two and its inverse in the range of float32


def evaluate_tree(features: Tensor, levels: list[Tensor], root: Tensor, tree: ModeTree) -> Tensor:
    """Mix and pool features level by level up a mode tree, then apply a linear output.

    Parameters
    ----------
    features : Tensor
        Shape (order, batch, features), in the tree's leaf order.
    levels : list of Tensor
        For each level, from the leaves up, weights of shape (..., nodes, inputs, outputs); a level
        that shares its weights has one node.
    root : Tensor
        Shape (..., inputs, outputs).
    tree : ModeTree
        Which nodes are pooled.

    Returns
    -------
    Tensor
        Shape (..., batch, outputs).

    Raises
    ------
    FloatingPointError
        If every output is too small for the dtype: its gradients would silently be zero.
    """
    values, total = features, torch.zeros((), dtype=torch.int64, device=features.device)
    for weights, nodes, groups in zip(levels, tree.nodes, tree.window_groups, strict=False):
        weights, exponents = _rescale(weights, (-2, -1))
        # A shared weight counts once for every node that uses it.
        uses = len(nodes) // weights.shape[-3]
        total = total + uses * exponents.sum((-3, -1))
        pooled = []
        for windows in split_windows(values @ weights, groups, 2):
            product, exponents = _window_product(windows)
            pooled.append(product)
            total = total + exponents
        values = pooled[0] if len(pooled) == 1 else torch.cat(pooled, -3)
    root, exponents = _rescale(root, (-2, -1))
    return _restore(values.squeeze(-3) @ root, (total + exponents.squeeze(-1)).unsqueeze(-1))


def _rescale(values: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Bring the largest magnitude over `dims` to [0.5, 1), and return the exponents, int64."""
    largest = values.detach().abs().amax(dims, keepdim=True)
    exponents = torch.frexp(largest).exponent.clamp_(-EXPONENT_LIMIT, EXPONENT_LIMIT)
    return values * torch.exp2(-exponents.to(values.dtype)), exponents.long()


def _window_product(values: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply over dimension -3, four at a time, rescaling between; zeros need no special care.

    Also return the exponents, summed over windows: shape (..., batch).
    """
    total = torch.zeros((), dtype=torch.int64, device=values.device)
    while values.shape[-3] > 1:
        values, exponents = _rescale(_halve(_halve(values)), (-1,))
        total = total + exponents.sum((-4, -3, -1))
    return values.squeeze(-3), total


def _halve(values: Tensor) -> Tensor:
    """Multiply the first half of dimension -3 with the second; an odd one is left over."""
    half = values.shape[-3] // 2
    if half == 0:
        return values
    product = values.narrow(-3, 0, half) * values.narrow(-3, half, half)
    rest = values.narrow(-3, 2 * half, values.shape[-3] - 2 * half)
    return torch.cat([product, rest], -3) if rest.shape[-3] else product


def _restore(values: Tensor, exponents: Tensor) -> Tensor:
    """Multiply by 2**exponents, in two steps as one may overflow where the product does not."""
    limit = 2 * (math.frexp(torch.finfo(values.dtype).max)[1] - 2)
    exponents = exponents.clamp(-limit, limit)
    half = exponents // 2
    restored = values * torch.exp2(half.to(values.dtype))
    restored = restored * torch.exp2((exponents - half).to(values.dtype))
    vanished = (restored == 0) & (values != 0)
    if values.numel() and bool(vanished.all()):
        given = f"all outputs of the network are below the smallest {values.dtype}"
        raise FloatingPointError(f"{given}; start with larger weights, or lower optimizer.lr")
    return restored
