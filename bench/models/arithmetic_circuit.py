"""Convolutional arithmetic circuits on images."""

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.core.errors import require
from bench.core.seeding import generator
from bench.core.settings import AtLeastTwo, Count, NonNegative, Settings, settings
from bench.models.hierarchical import HierarchicalTensorFactorization, checked_widths
from bench.models.mode_tree import Arity, mode_tree
from bench.models.network import NetworkConfig
from bench.models.product_pooling import evaluate_tree


@settings
class CircuitConfig(Settings, NetworkConfig):
    """Settings of `configs/model/circuit.yaml`.

    Parameters
    ----------
    width : int
        Number of channels after each convolution. For the tree ``cp``: the predictor has, up to
        rounding, as many parameters as the tree ``grid`` of this width.
    tree : str
        ``grid``, ``adjacent`` or ``half``, see `bench.models.mode_tree.mode_tree`; or ``cp``: all
        pixels are pooled at once, which makes a CP predictor.
    arity : int
        How many locations a window pools, at every level as long as they divide.
    features : str
        ``one_hot``: of the pixel's level; ``affine``: a learned affine function of its gray value.
    shared : bool
        Whether all locations share a convolution's weights.
    init_std : float
        Noise of the start, see `ConvArithmeticCircuit`.
    """

    name: ClassVar[str] = "circuit"
    stackable: ClassVar[bool] = True

    width: Count = 4
    tree: Literal["grid", "adjacent", "half", "cp"] = "grid"
    arity: AtLeastTwo = 4
    features: Literal["one_hot", "affine"] = "one_hot"
    shared: bool = False
    init_std: NonNegative = 0.5

    def build(
        self, image_shape: tuple[int, ...], levels: int, outputs: int, seed: int
    ) -> "ConvArithmeticCircuit":
        """Return a freshly started circuit for images of `levels` gray values."""
        circuit = partial(
            ConvArithmeticCircuit,
            image_shape,
            levels=levels if self.features == "one_hot" else None,
            shared=self.shared,
            outputs=outputs,
            init_std=self.init_std,
            seed=seed,
        )
        if self.tree != "cp":
            return circuit(self.width, self.arity, self.tree)
        all_at_once = [math.prod(image_shape)]
        wanted = circuit(self.width, self.arity, "grid").parameter_count
        a_component = circuit(1, all_at_once, "adjacent").parameter_count
        return circuit(max(1, round(wanted / a_component)), all_at_once, "adjacent")

    def predictor(
        self, image_shape: tuple[int, ...], levels: int, seed: int
    ) -> "ConvArithmeticCircuit":
        """Return a freshly started circuit with one output."""
        return self.build(image_shape, levels, 1, seed)


class ConvArithmeticCircuit(nn.Module):
    """1 x 1 convolutions and product pooling in turn, then a linear output [HTF, section 3].

    On one-hot features, with weights of its own at each location and one output, it is the
    hierarchical tensor factorization that `factorization` returns. A product over hundreds of
    pixels is evaluated without over- or underflow, see `bench.models.product_pooling`.

    The start is near a CP predictor: leaves at 1, inner nodes passing their inputs on, the output
    their mean, and Gaussian noise on leaves and inner nodes. The noise is such that products over
    all pixels neither vanish nor explode: see `init_std`.

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
    levels : int, optional
        The pixels are integers below it and the features are one-hot. None: the pixels are real
        and the features a learned affine function of them.
    shared : bool
        Whether all locations share a convolution's weights.
    outputs : int
        Number of outputs.
    init_std : float
        Noise of the start: the standard deviation, to first order, of the logarithm of a channel's
        product over the whole image, level by level.
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
        image_shape: tuple[int, ...],
        widths: int | Sequence[int],
        arity: Arity = 4,
        pattern: str = "grid",
        *,
        levels: int | None = 2,
        shared: bool = False,
        outputs: int = 1,
        init_std: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        height, width = self.image_shape = image_shape
        grid_shape = (height, width) if pattern == "grid" else None
        self.tree = mode_tree(height * width, arity, pattern, grid_shape)
        require(outputs >= 1, f"outputs={outputs}", "an integer of at least 1")
        self.levels = levels
        self.shared = shared
        self.outputs = outputs
        self.widths = checked_widths(widths, self.tree.depth)
        self._start(init_std, generator(seed, "convolutional arithmetic circuit"))

    def _start(self, std: float, rng: torch.Generator) -> None:
        means = [_leaf_mean(self.levels, self.widths[0])]
        means += [_pass_on(*pair) for pair in zip(self.widths, self.widths[1:], strict=False)]
        inputs = [1, *self.widths]  # of one-hot features one is not zero
        convolutions = []
        for mean, fan_in, level in zip(means, inputs, self.tree.nodes, strict=False):
            count = 1 if self.shared else len(level)
            # The logarithm of the output sums over a level's nodes and each node's inputs; noise
            # that nodes share adds up, other noise does as its square.
            share = std / (len(level) * fan_in * len(level) / count) ** 0.5
            convolutions.append(mean + share * torch.randn(count, *mean.shape, generator=rng))
        self.convolutions = nn.ParameterList(convolutions)
        self.root_weights = nn.Parameter(
            torch.full((self.widths[-1], self.outputs), 1 / self.widths[-1])
        )

    def forward(self, images: Tensor) -> Tensor:
        """Evaluate the circuit.

        Parameters
        ----------
        images : Tensor
            Shape (batch, ...) with height * width pixels each: integers for one-hot features, else
            real numbers. Or real features themselves, as `one_hot` returns them.

        Returns
        -------
        Tensor
            Shape (..., batch, outputs), or (..., batch) for a single output.
        """
        if images.shape[1:] == (self.levels, *self.image_shape) and images.is_floating_point():
            features = images.flatten(2)[..., self.tree.leaf_order]
            return self.evaluate(features.permute(2, 0, 1))
        pixels = images.flatten(1)
        require(
            pixels.shape[1] == self.tree.order,
            f"images of {pixels.shape[1]} pixels",
            f"{self.tree.order} pixels, {self.image_shape[0]} x {self.image_shape[1]}",
        )
        features = self._features(pixels[:, self.tree.leaf_order].t())
        return self.evaluate(features)

    def one_hot(self, images: Tensor) -> Tensor:
        """Return integer images as one-hot features, shape (batch, levels, height, width).

        For what differentiates the network with respect to its inputs.
        """
        require(self.levels is not None, "one-hot features with levels=None", "a number of levels")
        levels = torch.arange(self.levels or 0, device=images.device).view(-1, 1, 1)
        return (images.reshape(-1, 1, *self.image_shape) == levels).to(self.root_weights.dtype)

    @property
    def parameter_count(self) -> int:
        """Number of weights of one replicate."""
        convolutions = sum(math.prod(weights.shape[-3:]) for weights in self.convolutions)
        return convolutions + math.prod(self.root_weights.shape[-2:])

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
