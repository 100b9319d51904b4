"""Product pooling up a mode tree, without over- or underflow.

A product over hundreds of inputs leaves the range of any float. As the network is linear in each
node, every node's vector may be divided by a power of two if the output is multiplied by it again:
powers of two are exact, so the values are those of the plain evaluation, and so are the gradients,
which pass through the scaled vectors and never see the scale.

The time goes into reading and writing what the lowest levels hold. So leaves are multiplied up to
four at a time before there is anything for each channel and sample, see `_leaves`, and the batch is
the last dimension throughout, as channels are few.
"""

import math

import torch
from torch import Tensor

from bench.models.mode_tree import ModeTree, split_windows

MOST_PRODUCTS = 16  # of features of neighbors: more of them cost more than they save
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
    values, total = features.mT, torch.zeros((), dtype=torch.int64, device=features.device)
    for level, (weights, groups) in enumerate(zip(levels, tree.window_groups, strict=False)):
        weights, exponents = _rescale(weights, (-2, -1))
        # A shared weight counts once for every node that uses it.
        nodes = len(tree.nodes[level])
        total = total + nodes // weights.shape[-3] * exponents.sum((-3, -1))
        mixing = weights.movedim(-3, 0).mT.expand(nodes, *[-1] * (weights.ndim - 1))
        sides = (split_windows(each, groups, each.ndim - 1) for each in (values, mixing))
        pooled = []
        for windows, own in zip(*sides, strict=True):
            mixed = own @ windows if level else _leaves(windows, own)
            product, exponents = _window_product(mixed, rescaled=level > 0)
            pooled.append(product)
            total = total + exponents
        values = pooled[0] if len(pooled) == 1 else torch.cat(pooled)
    root, exponents = _rescale(root, (-2, -1))
    return _restore(values.squeeze(0).mT @ root, (total + exponents.squeeze(-1)).unsqueeze(-1))


def _leaves(features: Tensor, mixing: Tensor) -> Tensor:
    """Mix the features of leaves, and multiply up to four neighbors of a window.

    A product of linear functions is linear in the products of their inputs. For two features a
    leaf, four leaves have 16 of these, and all channels of all predictors share them.

    Parameters
    ----------
    features : Tensor
        Shape (windows, arity, features, batch).
    mixing : Tensor
        Shape (windows, arity, ..., channels, features).

    Returns
    -------
    Tensor
        Shape (windows, arity / neighbors, ..., channels, batch).
    """
    (_, arity, count, _), joined = features.shape, 1
    while arity % (2 * joined) == 0 and count ** (2 * joined) <= MOST_PRODUCTS:
        joined *= 2
        first, second = (features[:, start::2] for start in (0, 1))
        features = (first.unsqueeze(-2) * second.unsqueeze(-3)).flatten(-3, -2)
        first, second = (mixing[:, start::2] for start in (0, 1))
        mixing = (first.unsqueeze(-1) * second.unsqueeze(-2)).flatten(-2)
    values = mixing.flatten(2, -2) @ features
    return values.unflatten(2, mixing.shape[2:-1])


def _rescale(values: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Bring the largest magnitude over `dims` to [0.5, 1), and return the exponents, int64."""
    largest = values.detach().abs().amax(dims, keepdim=True)
    exponents = torch.frexp(largest).exponent.clamp_(-EXPONENT_LIMIT, EXPONENT_LIMIT)
    return values * torch.exp2(-exponents.to(values.dtype)), exponents.long()


def _window_product(values: Tensor, rescaled: bool) -> tuple[Tensor, Tensor]:
    """Multiply over the second dimension, four at a time; zeros need no special care.

    Rescale between, and before unless that is done. Also return the exponents, summed over windows:
    shape (..., batch).
    """
    total = torch.zeros((), dtype=torch.int64, device=values.device)
    while not rescaled or values.shape[1] > 1:
        values, exponents = _rescale(_halve(_halve(values)) if rescaled else values, (-2,))
        total, rescaled = total + exponents.sum((0, 1)).squeeze(-2), True
    return values.squeeze(1), total


def _halve(values: Tensor) -> Tensor:
    """Multiply the first half of the second dimension with the second; an odd one is left over."""
    half, odd = divmod(values.shape[1], 2)
    if half == 0:
        return values
    first, second, rest = values.split([half, half, odd], 1)
    return torch.cat([first * second, rest], 1) if odd else first * second


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
