import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.models.mode_tree import mode_tree


@given(st.integers(2, 40), st.integers(2, 5), st.sampled_from(["adjacent", "half"]))
def test_every_level_divides_the_modes(order, arity, pattern):
    tree = mode_tree(order, arity, pattern)
    for level in tree.nodes:
        assert sorted(mode for node in level for mode in node) == list(range(order))
    assert len(tree.nodes[-1]) == 1
    assert all(0 < run.arity <= arity for runs in tree.window_groups for run in runs)


@given(st.integers(2, 40), st.integers(2, 5), st.sampled_from(["adjacent", "half"]))
def test_nodes_in_tree_order_are_the_unions_of_the_windows(order, arity, pattern):
    tree = mode_tree(order, arity, pattern)
    modes = [(mode,) for mode in range(order)]
    for windows, nodes in zip(tree.levels, tree.nodes[1:], strict=True):
        modes = [tuple(m for child in window for m in modes[child]) for window in windows]
        assert sorted(map(sorted, modes)) == sorted(map(sorted, nodes))


def test_adjacent_pools_neighbours_first_and_left_over_modes_together():
    assert mode_tree(5).levels[0] == ((0, 1), (2, 3), (4,))
    assert mode_tree(8, 3).levels[0] == ((0, 1, 2), (3, 4, 5), (6, 7))


def test_half_pools_neighbours_last():
    tree = mode_tree(8, 2, "half")
    assert tree.levels[0] == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert sorted(map(sorted, tree.nodes[2])) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert mode_tree(5, 2, "half").levels[0] == ((0, 3), (1, 4), (2,))


def published_half_windows(modes, arity):
    """The released code: interleave the halves, an odd number's middle last, and cut windows."""
    half = modes // 2
    order = [0] * modes
    order[0 : 2 * half : 2] = range(half)
    order[1 : 2 * half : 2] = range(modes - half, modes)
    if modes % 2:
        order[-1] = half
    return tuple(tuple(order[start : start + arity]) for start in range(0, modes, arity))


@given(st.integers(2, 40), st.integers(2, 5))
def test_half_trees_of_any_arity_are_the_published_ones(order, arity):
    for windows in mode_tree(order, arity, "half").levels:
        nodes = sum(map(len, windows))
        assert windows == published_half_windows(nodes, arity)


def test_grid_pools_square_windows_of_an_image():
    assert mode_tree(16, 4, "grid").levels[0][1] == (2, 3, 6, 7)


@pytest.mark.parametrize(
    ("side", "counts"), [(28, [784, 196, 49, 1]), (8, [64, 16, 4, 1]), (7, [49, 1])]
)
def test_a_grid_that_windows_do_not_divide_ends_in_one_window(side, counts):
    tree = mode_tree(side * side, 4, "grid")
    assert [len(level) for level in tree.nodes] == counts


def test_grids_need_not_be_square():
    assert [len(level) for level in mode_tree(8, 4, "grid", (2, 4)).nodes] == [8, 2, 1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"order": 1},
        {"order": 4, "arity": 1},
        {"order": 4, "pattern": "checkerboard"},
        {"order": 10, "arity": 4, "pattern": "grid"},
        {"order": 16, "arity": 3, "pattern": "grid"},
        {"order": 16, "arity": 4, "pattern": "grid", "grid_shape": (4, 5)},
    ],
)
def test_what_does_not_fit_together_is_refused(arguments):
    with pytest.raises(UserError, match="expected"):
        mode_tree(**arguments)
