"""Convolutional arithmetic circuits on images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.errors import require
from bench.models.hierarchical import HierarchicalTensorFactorization, checked_widths
from bench.models.mode_tree import PATTERNS, Arity, ModeTree, mode_tree
from bench.models.product_pooling import evaluate_tree
from bench.seeding import generator


@dataclass
class CircuitConfig:
    """Schema of `configs/model/convnet.yaml`; the fields are those of `ConvArithmeticCircuit`."""

    width: int
    levels: int | None = 2
    arity: int = 4
    pattern: str = "grid"
    shared: bool = False
    outputs: int = 1
    init_std: float = 1e-2

    def __post_init__(self) -> None:
        require(self.width >= 1, f"model.width={self.width}", "an integer of at least 1")
        require(
            self.levels is None or self.levels >= 2,
            f"model.levels={self.levels}",
            "an integer of at least 2, or null for real pixels",
        )
        require(self.arity >= 2, f"model.arity={self.arity}", "an integer of at least 2")
        require(self.pattern in PATTERNS, f"model.pattern={self.pattern}", " or ".join(PATTERNS))
        require(self.outputs >= 1, f"model.outputs={self.outputs}", "an integer of at least 1")
        require(
            math.isfinite(self.init_std) and self.init_std >= 0,
            f"model.init_std={self.init_std}",
            "a number of at least 0",
        )

    def build(self, image_shape: tuple[int, int], seed: int) -> "ConvArithmeticCircuit":
        """Return a freshly started circuit."""
        return ConvArithmeticCircuit(
            image_shape,
            self.width,
            self.arity,
            self.pattern,
            levels=self.levels,
            shared=self.shared,
            outputs=self.outputs,
            init_std=self.init_std,
            seed=seed,
        )


class ConvArithmeticCircuit(nn.Module):
    """1 x 1 convolutions and product pooling in turn, then a linear output [HTF, section 3].

    On one-hot features, with weights of its own at each location and one output, it is the
    hierarchical tensor factorization that `factorization` returns. A product over hundreds of
    pixels is evaluated without over- or underflow, see `bench.models.product_pooling`.

    The start is near a CP predictor: leaves at 1, inner nodes passing their inputs on, the output
    their mean, and Gaussian noise on the leaves and inner nodes.

    Parameters
    ----------
    image_shape : (int, int)
        Height and width. What happens to sizes that no window divides, `mode_tree` says.
    widths : int or sequence of int
        Number of channels after each convolution; one integer stands for all.
    arity : int or sequence of int
        How many locations a window pools: 4 for 2 x 2 windows, or level by level.
    pattern : str
        Pattern of the mode tree: ``grid``, ``adjacent`` or ``half``.
    tree : ModeTree, optional
        The mode tree itself, in place of `arity` and `pattern`.
    levels : int, optional
        The pixels are integers below it and the features are one-hot. None: the pixels are real
        and the features a learned affine function of them.
    shared : bool
        Whether all locations share a convolution's weights.
    outputs : int
        Number of outputs.
    init_std : float
        Standard deviation of the start's noise.
    seed : int
        Seed of the start.

    Attributes
    ----------
    convolutions : ParameterList
        For each level shape (..., nodes, channels in, channels out), in tree order, with one node
        where weights are shared.
    root_weights : Parameter
        Shape (..., widths[-1], outputs).

    Raises
    ------
    UserError
        For sizes, widths or a tree that do not fit together.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        widths: int | Sequence[int],
        arity: Arity = 4,
        pattern: str = "grid",
        *,
        tree: ModeTree | None = None,
        levels: int | None = 2,
        shared: bool = False,
        outputs: int = 1,
        init_std: float = 1e-2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        height, width = self.image_shape = image_shape
        grid_shape = (height, width) if pattern == "grid" else None
        self.tree = tree or mode_tree(height * width, arity, pattern, grid_shape)
        require(
            self.tree.order == height * width,
            f"a mode tree over {self.tree.order} modes for images of {height} x {width}",
            "a tree that covers the pixels, each once",
        )
        require(outputs >= 1, f"outputs={outputs}", "an integer of at least 1")
        self.levels = levels
        self.shared = shared
        self.outputs = outputs
        self.widths = checked_widths(widths, self.tree.depth)
        self._draw(init_std, generator(seed, "convolutional arithmetic circuit"))

    def _draw(self, std: float, draw: torch.Generator) -> None:
        nodes = [1 if self.shared else len(level) for level in self.tree.nodes[:-1]]
        means = [_leaf_mean(self.levels, self.widths[0])]
        means += [_pass_on(*pair) for pair in zip(self.widths, self.widths[1:], strict=False)]
        # Noise that locations share adds up over them; divided so, its share of the output is
        # that of weights of their own.
        stds = [
            std * (count / len(level)) ** 0.5
            for count, level in zip(nodes, self.tree.nodes, strict=False)
        ]
        self.convolutions = nn.ParameterList(
            mean + std * torch.randn(count, *mean.shape, generator=draw)
            for count, mean, std in zip(nodes, means, stds, strict=True)
        )
        self.root_weights = nn.Parameter(
            torch.full((self.widths[-1], self.outputs), 1 / self.widths[-1])
        )

    def forward(self, images: Tensor) -> Tensor:
        """Evaluate the circuit.

        Parameters
        ----------
        images : Tensor
            Shape (batch, ...) with height * width pixels each: integers for one-hot features, else
            real numbers.

        Returns
        -------
        Tensor
            Shape (..., batch, outputs), or (..., batch) for a single output.
        """
        pixels = images.flatten(1)
        require(
            pixels.shape[1] == self.tree.order,
            f"images of {pixels.shape[1]} pixels",
            f"{self.tree.order} pixels, {self.image_shape[0]} x {self.image_shape[1]}",
        )
        features = self._features(pixels[:, self.tree.leaf_order].t())
        return self.evaluate(features)

    def _features(self, pixels: Tensor) -> Tensor:
        """Return the pixels' features: (order, batch) to (order, batch, features)."""
        dtype = self.root_weights.dtype
        if self.levels is None:
            return torch.stack([torch.ones_like(pixels, dtype=dtype), pixels.to(dtype)], -1)
        require(
            not pixels.is_floating_point(),
            f"pixels of {pixels.dtype} with levels={self.levels}",
            f"integers from 0 to {self.levels - 1}",
            "quantize the images, or take levels=None",
        )
        return (pixels.unsqueeze(-1) == torch.arange(self.levels, device=pixels.device)).to(dtype)

    def evaluate(self, features: Tensor) -> Tensor:
        """Evaluate the circuit at features of shape (order, batch, features), in tree order."""
        outputs = evaluate_tree(features, list(self.convolutions), self.root_weights, self.tree)
        return outputs.squeeze(-1) if self.outputs == 1 else outputs

    @torch.no_grad()
    def factorization(self, output: int = 0) -> HierarchicalTensorFactorization:
        """Return the hierarchical tensor factorization of one output, with copied weights."""
        features = self.convolutions[0].shape[-2]
        result = HierarchicalTensorFactorization(
            [features] * self.tree.order, self.widths, tree=self.tree
        ).to(self.root_weights)
        levels = [result.leaf_weights, *result.inner_weights]
        for weights, own in zip(levels, self.convolutions, strict=True):
            weights.data = own.expand(*own.shape[:-3], *weights.shape).clone()
        result.root_weights.data = self.root_weights[..., output].clone()
        return result


def _leaf_mean(levels: int | None, width: int) -> Tensor:
    """Return leaf weights that give 1 in every channel, whatever the pixel."""
    if levels is None:
        return torch.stack([torch.ones(width), torch.zeros(width)])
    require(levels >= 2, f"levels={levels}", "an integer of at least 2, or None for real pixels")
    return torch.ones(levels, width)


def _pass_on(inputs: int, outputs: int) -> Tensor:
    """Return a matrix that passes each output one of the inputs, in turn."""
    return torch.eye(inputs)[:, torch.arange(outputs) % inputs]
