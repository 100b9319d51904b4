"""Hierarchical tensor factorization: one weight matrix per node of a mode tree."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain, groupby, islice
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.core.seeding import generator
from bench.core.settings import AtLeastTwo, Count, Finite, NonNegative, Settings, settings
from bench.kernels.khatri_rao import khatri_rao
from bench.measures.ranks import effective_rank
from bench.models.mode_tree import ModeTree, WindowGroup, mode_tree, split_windows

MAX_FULL_TENSOR = 2**20  # entries up to which the full tensor is formed for measures


@settings
class HierarchicalConfig(Settings):
    """Settings of `configs/model/hierarchical.yaml`.

    Parameters
    ----------
    width : int
        Number of local components of every inner node.
    arity : int
        How many nodes a window of the mode tree pools.
    pattern : str
        Pattern of the mode tree, see `bench.models.mode_tree.mode_tree`.
    init_mean, init_std : float
        Weights start as independent draws from N(init_mean, init_std^2).
    """

    name: ClassVar[str] = "hierarchical"

    width: Count = 16
    arity: AtLeastTwo = 2
    pattern: Literal["adjacent", "grid", "half"] = "adjacent"
    init_mean: Finite = 0.0
    init_std: NonNegative = 1e-2

    def factorize(self, mode_dims: Sequence[int], seed: int) -> "HierarchicalTensorFactorization":
        """Return a freshly started factorization of tensors of shape `mode_dims`."""
        shape = mode_dims, self.width, self.arity, self.pattern
        start = {"init_mean": self.init_mean, "init_std": self.init_std, "seed": seed}
        return HierarchicalTensorFactorization(*shape, **start)


class HierarchicalTensorFactorization(nn.Module):
    """A tensor built up a mode tree, products of children's tensors mixed at each node.

    As a network on one-hot inputs: locally connected 1 x 1 convolutions, product pooling over the
    windows of the tree, level by level, and a linear output [HTF, section 3 and equation 4].

    All parameters may have leading replicate dimensions (`bench.models.replicates`); every result
    then has them too.

    Parameters
    ----------
    mode_dims : sequence of int
        Dimensions d_n of the modes, at least 2 modes.
    widths : int or sequence of int
        Number of local components of the inner nodes, from the first level above the leaves to the
        root; one integer stands for all levels.
    arity : int
        How many nodes a window pools, see `bench.models.mode_tree.mode_tree`.
    pattern : str
        ``adjacent``, ``grid`` or ``half``.
    tree : ModeTree, optional
        The mode tree itself, in place of `arity` and `pattern`.
    init_mean, init_std : float
        Weights start as independent draws from N(init_mean, init_std^2).
    seed : int
        Seed of the start.

    Attributes
    ----------
    leaf_weights : Parameter
        Shape (..., order, max(mode_dims), widths[0]), in the tree's leaf order. Rows beyond a
        mode's dimension are zero and stay zero.
    inner_weights : ParameterList
        For each level between leaves and root, shape (..., nodes, width, width of the parent).
    root_weights : Parameter
        Shape (..., widths[-1]).

    Raises
    ------
    UserError
        For an order, arity or pattern that do not fit together.
    """

    def __init__(
        self,
        mode_dims: Sequence[int],
        widths: int | Sequence[int],
        arity: int = 2,
        pattern: str = "adjacent",
        *,
        tree: ModeTree | None = None,
        init_mean: float = 0.0,
        init_std: float = 1e-2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.mode_dims = tuple(mode_dims)
        self.tree = tree or mode_tree(len(self.mode_dims), arity, pattern)
        self.widths = [widths] * self.tree.depth if isinstance(widths, int) else list(widths)
        rng = generator(seed, "hierarchical factorization")

        def normal(*shape: int) -> Tensor:
            return init_mean + init_std * torch.randn(shape, generator=rng)

        leaves = normal(self.tree.order, max(self.mode_dims), self.widths[0])
        rows = torch.arange(max(self.mode_dims)) < torch.tensor(self._tree_dims).unsqueeze(-1)
        self.leaf_weights = nn.Parameter(leaves * rows.unsqueeze(-1))
        nodes = map(len, self.tree.levels[:-1])
        shapes = zip(nodes, self.widths[:-1], self.widths[1:], strict=True)
        self.inner_weights = nn.ParameterList(normal(*shape) for shape in shapes)
        self.root_weights = nn.Parameter(normal(self.widths[-1]))

    @property
    def _tree_dims(self) -> list[int]:
        """The modes' dimensions in tree order."""
        return [self.mode_dims[mode] for mode in self.tree.leaf_order]

    def full_tensor(self) -> Tensor:
        """Return the end tensor, shape ``(..., *mode_dims)``, by halves.

        The root's children are multiplied in two groups, by one matrix product [HTF, equation 3].
        """
        rows = zip(self.leaf_weights.unbind(-3), self._tree_dims, strict=True)
        nodes = [weights[..., :dim, :] for weights, dim in rows]
        for groups, weights in zip(self.tree.window_groups, self.inner_weights, strict=False):
            nodes = _node_tensors(nodes, groups, weights)
        sizes = [node.shape[-2] for node in nodes]
        both = [math.prod(sizes[:at]) + math.prod(sizes[at:]) for at in range(1, len(sizes))]
        split = both.index(min(both)) + 1
        first = khatri_rao(nodes[:split]) * self.root_weights.unsqueeze(-2)
        tensor = first @ khatri_rao(nodes[split:]).mT
        tensor, order = tensor.reshape(*tensor.shape[:-2], *self._tree_dims), self.tree.order
        natural = [mode - order for mode in self.tree.leaf_order]
        return tensor.movedim(list(range(-order, 0)), natural)

    def _levels(self) -> Iterator[tuple[Tensor, Tensor, Sequence[WindowGroup]]]:
        """Yield for each level the weights of the children and of the nodes, and the windows."""
        levels = [self.leaf_weights, *self.inner_weights, self.root_weights[..., None, :, None]]
        return zip(levels[:-1], levels[1:], self.tree.window_groups, strict=True)

    def local_component_norms(self) -> list[Tensor]:
        """Return the norms of the local components, level by level from the leaves' parents up.

        That of component r at node nu is the product of the norms of the children's r-th columns
        and of the node's own r-th row [HTF, definition 3].

        Returns
        -------
        list of Tensor
            For each level shape (..., nodes, width), in tree order; the root's last.
        """
        norms = []
        for children, own, groups in self._levels():
            columns = torch.linalg.vector_norm(children, dim=-2)
            norms.append(_products(columns, groups, 1) * torch.linalg.vector_norm(own, dim=-1))
        return norms

    def learned_norms(self) -> dict[str, Tensor]:
        """Return the local components' norms of every node, which training raises one by one."""
        levels = self.local_component_norms()
        return {
            f"level_{level}_node_{node}": norms
            for level, each in enumerate(levels, 1)
            for node, norms in enumerate(each.unbind(-2), 1)
        }

    @property
    def vectors_per_component(self) -> int:
        """How many vectors a local component above the leaves is the outer product of: K + 1."""
        return len(self.tree.levels[0][0]) + 1

    def component_drives(self) -> Tensor:
        """Return ``<-grad L(W), normalized local component>`` from the gradients of the weights.

        Shape (..., local components), in the order of `local_component_norms`. By multilinearity
        the inner product of a node's own row with its gradient suffices [HTF, theorem 1].
        """
        drives = []
        own = [*self.inner_weights, self.root_weights]
        for weights, norms in zip(own, self.local_component_norms(), strict=True):
            assert weights.grad is not None
            product = (weights * weights.grad).view(*norms.shape, -1).sum(-1)
            drives.append((-product / norms).flatten(-2))
        return torch.cat(drives, -1)

    def conserved_differences(self) -> Tensor:
        """Return what gradient flow conserves: one number per local component and child [HTF].

        The difference between the squared norms of the child's column and the node's own row.
        """
        differences = []
        for children, own, groups in self._levels():
            columns, rows = children.square().sum(-2), own.square().sum(-1)
            parts = rows.split([group.windows for group in groups], -2)
            for windows, row in zip(split_windows(columns, groups, 1), parts, strict=True):
                differences.append((windows - row.unsqueeze(-2)).flatten(-3))
        return torch.cat(differences, -1)

    def matricization_singular_values(self) -> dict[tuple[int, ...], Tensor]:
        """Return the singular values of the end tensor's matricization at every node but the root.

        Their number above zero is the hierarchical tensor rank [HTF, definition 2]. Tensors of at
        most 2**20 entries are matricized and decomposed as they are. Of larger ones only Gram
        matrices are formed, in float64; there values below 1e-8 of the largest are rounding.

        Returns
        -------
        dict of tuple of int to Tensor
            For the modes of each node, rising, singular values, falling, shape (..., k).
        """
        small = math.prod(self.mode_dims) <= MAX_FULL_TENSOR
        return self._values_by_decomposition() if small else self._values_by_grams()

    def effective_ranks(self) -> dict[tuple[int, ...], Tensor]:
        """Return the effective rank of each matricization, shape (...) for the modes of a node."""
        values = self.matricization_singular_values()
        return {modes: effective_rank(each) for modes, each in values.items()}

    @torch.no_grad()
    def _values_by_decomposition(self) -> dict[tuple[int, ...], Tensor]:
        tensor = self.full_tensor()
        leading = tensor.ndim - self.tree.order
        values = {}
        for node in chain.from_iterable(self.tree.nodes[:-1]):
            modes = tuple(sorted(node))
            rows = tensor.movedim([leading + mode for mode in modes], list(range(-len(modes), 0)))
            values[modes] = torch.linalg.svdvals(rows.flatten(-len(modes)).flatten(leading, -2))
        return values

    @torch.no_grad()
    def _values_by_grams(self) -> dict[tuple[int, ...], Tensor]:
        """Singular values of U V^T from the Gram matrices U^T U and V^T V, for every node."""
        grams, log_scale = self._grams()
        root = self.root_weights.double()
        outside = (root.unsqueeze(-1) * root.unsqueeze(-2)).unsqueeze(-3)
        squared_norm = (grams[-1].prod(-3, keepdim=True) * outside).sum((-3, -2, -1))
        norm = ((squared_norm.log() + log_scale) / 2)[..., None, None].exp()
        values = {}
        for level in reversed(range(self.tree.depth)):
            if level < len(self.inner_weights):
                above = self.inner_weights[level].double()
                outside = above @ outside @ above.mT
            siblings = _siblings(grams[level], outside, self.tree.window_groups[level])
            outside = _normalized(siblings)[0]
            roots = _square_root(grams[level]).mT @ _square_root(outside)
            singular = torch.nn.functional.normalize(torch.linalg.svdvals(roots), dim=-1)
            singular = (singular * norm).to(self.root_weights.dtype)
            nodes = [tuple(sorted(node)) for node in self.tree.nodes[level]]
            values |= zip(nodes, singular.unbind(-2), strict=True)
        return values

    def _grams(self) -> tuple[list[Tensor], Tensor]:
        """Return Gram matrices of the node tensors up to factors, and the sum of their logarithms.

        The Gram matrix of a Khatri-Rao product is the Hadamard product of those of its factors.
        """
        leaves = self.leaf_weights.double()
        gram, log_scale = _normalized(leaves.mT @ leaves)
        grams = [gram]
        for groups, weights in zip(self.tree.window_groups, self.inner_weights, strict=False):
            pooled = _products(gram, groups, 2)
            gram, more = _normalized(weights.double().mT @ pooled @ weights.double())
            log_scale = log_scale + more
            grams.append(gram)
        return grams, log_scale


def _products(values: Tensor, groups: Sequence[WindowGroup], node_dims: int) -> Tensor:
    """Multiply the nodes of each window: shape (..., windows, ...)."""
    windows = split_windows(values, groups, node_dims)
    return torch.cat([window.prod(-1 - node_dims) for window in windows], -1 - node_dims)


def _node_tensors(
    nodes: list[Tensor], groups: Sequence[WindowGroup], weights: Tensor
) -> list[Tensor]:
    """Pool the nodes' tensors, each (..., entries, width), and mix them; equal windows at once."""
    children = iter(nodes)
    arities = (group.arity for group in groups for _ in range(group.windows))
    windows = [list(islice(children, arity)) for arity in arities]
    pooled: list[Tensor] = []
    for _, equal in groupby(windows, lambda window: [node.shape[-2] for node in window]):
        product = khatri_rao([torch.stack(child, -3) for child in zip(*equal, strict=True)])
        first, last = len(pooled), len(pooled) + product.shape[-3]
        pooled += (product @ weights[..., first:last, :, :]).unbind(-3)
    return pooled


def _normalized(grams: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each Gram matrix by its largest entry; return also the sum of the logs of those."""
    largest = grams.diagonal(dim1=-2, dim2=-1).amax(-1)
    scale = largest.where(largest > 0, 1.0)
    return grams / scale[..., None, None], scale.log().sum(-1)


def _siblings(grams: Tensor, outside: Tensor, groups: Sequence[WindowGroup]) -> Tensor:
    """Multiply what is outside each window with the Gram matrices of a node's siblings."""
    products = []
    for windows in split_windows(grams, groups, 2):
        ones = torch.ones_like(windows[..., :1, :, :])
        before = torch.cat([ones, windows[..., :-1, :, :]], -3).cumprod(-3)
        after = torch.cat([ones, windows[..., 1:, :, :].flip(-3)], -3).cumprod(-3).flip(-3)
        products.append(before * after)
    parts = outside.split([group.windows for group in groups], -3)
    both = zip(products, parts, strict=True)
    return torch.cat([(each * part.unsqueeze(-3)).flatten(-4, -3) for each, part in both], -3)


def _square_root(grams: Tensor) -> Tensor:
    """Return L with L L^T the given positive semi-definite matrices."""
    values, vectors = torch.linalg.eigh(grams)
    return vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
