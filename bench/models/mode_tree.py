"""Mode trees: which modes of a hierarchical tensor factorization are pooled together, and when."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np
from torch import Tensor

from bench.core.errors import require

PATTERNS = ("adjacent", "grid", "half")
Window = tuple[int, ...]


class WindowGroup(NamedTuple):
    """Neighboring windows of one level that pool equally many nodes."""

    windows: int
    arity: int


@dataclass(frozen=True)
class ModeTree:
    """A tree whose leaves are the modes and whose root holds them all [HTF, section 3].

    Parameters
    ----------
    levels : tuple of tuples of tuples of int
        ``levels[l]`` lists the windows of level l, from the leaves up: the numbers of the nodes of
        level l (of the modes, for l = 0) that are pooled into one node of level l + 1. Every node
        of a level is in one window, and the last level has one window.
    """

    levels: tuple[tuple[Window, ...], ...]

    @cached_property
    def order(self) -> int:
        """Number of modes."""
        return sum(map(len, self.levels[0]))

    @property
    def depth(self) -> int:
        """Number of pooling levels."""
        return len(self.levels)

    @cached_property
    def nodes(self) -> tuple[tuple[Window, ...], ...]:
        """The modes below each node, level by level from the leaves to the root, in tree order."""
        below: list[Window] = [(mode,) for mode in range(self.order)]
        levels = [tuple(below[mode] for mode in self.leaf_order)]
        for windows, order in zip(self.levels, self._depth_first[1:], strict=True):
            below = [tuple(mode for node in window for mode in below[node]) for window in windows]
            levels.append(tuple(below[node] for node in order))
        return tuple(levels)

    @cached_property
    def _depth_first(self) -> tuple[tuple[int, ...], ...]:
        """The nodes of each level, leaves first, in the order of a depth-first walk."""
        orders: list[tuple[int, ...]] = [(0,)]
        for windows in reversed(self.levels):
            orders.append(tuple(child for node in orders[-1] for child in windows[node]))
        return tuple(reversed(orders))

    @property
    def leaf_order(self) -> tuple[int, ...]:
        """The modes in tree order: a depth-first walk, in which every window is contiguous."""
        return self._depth_first[0]

    @cached_property
    def window_groups(self) -> tuple[tuple[WindowGroup, ...], ...]:
        """For each level its windows in tree order, in groups of equal arity."""
        levels = []
        for windows, order in zip(self.levels, self._depth_first[1:], strict=True):
            lengths = groupby(len(windows[node]) for node in order)
            levels.append(tuple(WindowGroup(len(list(group)), arity) for arity, group in lengths))
        return tuple(levels)


def mode_tree(
    order: int,
    arity: int = 2,
    pattern: str = "adjacent",
    grid_shape: tuple[int, int] | None = None,
) -> ModeTree:
    """Build the mode tree of a pattern.

    Parameters
    ----------
    order : int
        Number of modes, at least 2.
    arity : int
        How many nodes a window pools, at least 2. For the pattern ``grid`` a square number: 4 means
        2 x 2 windows.
    pattern : str
        ``adjacent``: neighbors first; the nodes left over at a level form one smaller window.
        ``half``: the two halves interleaved, node i before node i + n/2 and of an odd number the
        middle one last, then windows of neighbors in this order [HTF, released code].
        ``grid``: square windows of an image as long as they divide the grid, then one last window
        that pools all that is left: 28 -> 14 -> 7 -> 1 for 2 x 2 windows.
    grid_shape : (int, int), optional
        Height and width of the grid, whose modes are counted row by row; by default a square.

    Raises
    ------
    UserError
        For an order, arity, pattern or grid that do not fit together.
    """
    require(order >= 2, f"a mode tree of {order} modes", "at least 2 modes")
    require(arity >= 2, f"arity={arity}", "an integer of at least 2")
    require(pattern in PATTERNS, f"pattern={pattern}", " or ".join(PATTERNS))
    if pattern == "grid":
        return _grid_tree(order, arity, grid_shape or (math.isqrt(order), math.isqrt(order)))
    levels, nodes = [], order
    while nodes > 1:
        pooled = range(nodes) if pattern == "adjacent" else _interleaved_halves(nodes)
        levels.append(tuple(tuple(pooled[at : at + arity]) for at in range(0, nodes, arity)))
        nodes = len(levels[-1])
    return ModeTree(tuple(levels))


def _interleaved_halves(nodes: int) -> list[int]:
    half = nodes // 2
    pairs = zip(range(half), range(nodes - half, nodes), strict=True)
    return [*chain.from_iterable(pairs), *range(half, nodes - half)]


def _grid_tree(order: int, arity: int, shape: tuple[int, int]) -> ModeTree:
    (rows, columns), side = shape, math.isqrt(arity)
    given = f"a grid of {rows} x {columns} for {order} modes"
    require(rows * columns == order, given, "a height and a width whose product is their number")
    given = f"arity={arity} with pattern=grid"
    require(side**2 == arity, given, "a square number such as 4 or 9")
    levels = []
    while rows * columns > 1:
        divided = max(rows, columns) > side and rows % side == 0 and columns % side == 0
        height, width = (side, side) if divided else (rows, columns)
        nodes = np.arange(rows * columns).reshape(rows // height, height, columns // width, width)
        windows = nodes.swapaxes(1, 2).reshape(-1, height * width).tolist()
        levels.append(tuple(map(tuple, windows)))
        rows, columns = rows // height, columns // width
    return ModeTree(tuple(levels))


def split_windows(values: Tensor, groups: Sequence[WindowGroup], node_dims: int) -> list[Tensor]:
    """Split nodes, a dimension before the last `node_dims`, into (windows, arity) by groups."""
    nodes = -1 - node_dims
    if len(groups) == 1:
        return [values.unflatten(nodes, groups[0])]  # the gradient of a split would be a copy
    parts = values.split([group.windows * group.arity for group in groups], nodes)
    return [part.unflatten(nodes, group) for part, group in zip(parts, groups, strict=True)]
