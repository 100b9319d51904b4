"""Mode trees: which modes of a hierarchical tensor factorization are pooled together, and when."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, product, repeat

import numpy as np

from bench.core.errors import require

PATTERNS = ("adjacent", "grid", "half")
Window = tuple[int, ...]
Arity = int | Sequence[int]


@dataclass(frozen=True)
class WindowGroup:
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
        level l (of the modes, for l = 0) that are pooled into one node of level l + 1. The last
        level has one window.

    Raises
    ------
    UserError
        Unless every level's windows hold each node of the level once and the last is one window.
    """

    levels: tuple[tuple[Window, ...], ...]

    def __post_init__(self) -> None:
        require(len(self.levels) > 0, "a mode tree without levels", "at least one level")
        sizes = [self.order, *map(len, self.levels)]
        for level, windows in enumerate(self.levels):
            pooled = sorted(node for window in windows for node in window)
            require(
                pooled == list(range(sizes[level])) and all(windows),
                f"a mode tree whose level {level} pools the nodes {_shorten(pooled)}",
                f"windows that hold each of the nodes 0 to {sizes[level] - 1} once",
            )
        require(sizes[-1] == 1, f"a mode tree that ends in {sizes[-1]} windows", "one last window")

    @cached_property
    def order(self) -> int:
        """Number of modes."""
        return sum(map(len, self.levels[0]))

    @property
    def depth(self) -> int:
        """Number of pooling levels."""
        return len(self.levels)

    @cached_property
    def nodes(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
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


def _shorten(numbers: list[int], most: int = 12) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return f"[{shown}, ... {len(numbers)} in all]" if len(numbers) > most else f"[{shown}]"


def mode_tree(
    order: int,
    arity: Arity = 2,
    pattern: str = "adjacent",
    grid_shape: tuple[int, int] | None = None,
) -> ModeTree:
    """Build the mode tree of a pattern.

    Parameters
    ----------
    order : int
        Number of modes, at least 2.
    arity : int or sequence of int
        How many nodes a window pools: at every level, or level by level from the leaves. For the
        pattern ``grid`` a square number: 4 means 2 x 2 windows.
    pattern : str
        ``adjacent``: neighbors first; the nodes left over at a level form one smaller window.
        ``half``: the two halves interleaved, node i before node i + n/2 and of an odd number the
        middle one last, then windows of neighbors in this order [HTF, released code].
        ``grid``: square windows of an image. An arity for all levels is kept as long as its
        windows divide the grid, then one last window pools all that is left: 28 -> 14 -> 7 -> 1
        for 2 x 2 windows. One arity per level may leave smaller windows at the far borders.
    grid_shape : (int, int), optional
        Height and width of the grid, whose modes are counted row by row; by default a square.

    Returns
    -------
    ModeTree

    Raises
    ------
    UserError
        For an order, arity, pattern or grid that do not fit together.
    """
    require(order >= 2, f"a mode tree of {order} modes", "at least 2 modes")
    require(pattern in PATTERNS, f"pattern={pattern}", " or ".join(PATTERNS))
    given = [arity] if isinstance(arity, int) else list(arity)
    for size in given:
        require(size >= 2, f"arity={size}", "an integer of at least 2")
    if pattern == "grid":
        return _grid_tree(_checked_grid(order, grid_shape), arity)
    levels, nodes = [], order
    for size in repeat(arity) if isinstance(arity, int) else given:
        if nodes == 1:
            break
        pooled = range(nodes) if pattern == "adjacent" else _interleaved_halves(nodes)
        levels.append(tuple(tuple(pooled[at : at + size]) for at in range(0, nodes, size)))
        nodes = len(levels[-1])
    require(
        nodes == 1 and (isinstance(arity, int) or len(given) == len(levels)),
        f"arity={given} for {order} modes, of which {len(levels)} levels make {nodes} nodes",
        "arities that end in one node, and only at the last level",
        f"append {nodes}" if nodes > 1 else f"give {len(levels)} arities",
    )
    return ModeTree(tuple(levels))


def _interleaved_halves(nodes: int) -> list[int]:
    half = nodes // 2
    pairs = zip(range(half), range(nodes - half, nodes), strict=True)
    return [*chain.from_iterable(pairs), *range(half, nodes - half)]


def _checked_grid(order: int, grid_shape: tuple[int, int] | None) -> tuple[int, int]:
    side = math.isqrt(order)
    height, width = grid_shape or (side, side)
    given = f"a grid of {height} x {width} for {order} modes"
    expected = "a height and a width whose product is the number of modes"
    require(height * width == order, given, expected, "give grid_shape=(height, width)")
    return height, width


def _window_side(arity: int) -> int:
    side = math.isqrt(arity)
    given = f"arity={arity} with pattern=grid"
    require(side * side == arity, given, "a square number such as 4 or 9")
    return side


def _grid_tree(shape: tuple[int, int], arity: Arity) -> ModeTree:
    levels, shapes = [], [shape]
    for height, width in _grid_windows(shape, arity):
        rows, columns = shapes[-1]
        nodes = np.arange(rows * columns).reshape(rows, columns)
        corners = product(range(0, rows, height), range(0, columns, width))
        blocks = [nodes[top : top + height, left : left + width] for top, left in corners]
        levels.append(tuple(tuple(block.ravel().tolist()) for block in blocks))
        shapes.append((math.ceil(rows / height), math.ceil(columns / width)))
    require(
        shapes[-1] == (1, 1) and (1, 1) not in shapes[:-1],
        f"arity={arity} for a grid whose levels are {' -> '.join(f'{h} x {w}' for h, w in shapes)}",
        "arities that end in one node, and only at the last level",
    )
    return ModeTree(tuple(levels))


def _grid_windows(shape: tuple[int, int], arity: Arity) -> list[tuple[int, int]]:
    """Return the height and width of the windows of each level."""
    if not isinstance(arity, int):
        return [(side, side) for side in map(_window_side, arity)]
    side, windows = _window_side(arity), []
    while max(shape) > side and shape[0] % side == 0 and shape[1] % side == 0:
        windows.append((side, side))
        shape = shape[0] // side, shape[1] // side
    return [*windows, shape]
