"""Convolutional arithmetic circuits on images."""

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.core.errors import require
from bench.core.seeding import generator
from bench.core.settings import AtLeastTwo, Count, NonNegative, Settings, settings
from bench.models.hierarchical import HierarchicalTensorFactorization
from bench.models.mode_tree import mode_tree
from bench.models.network import NetworkConfig, Shape
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
        self, image_shape: Shape, levels: int, outputs: int, seed: int
    ) -> "ConvArithmeticCircuit":
        """Return a freshly started circuit for images of `levels` gray values."""

        def circuit(**changes: Any) -> ConvArithmeticCircuit:
            config = replace(self, **changes)
            return ConvArithmeticCircuit(config, image_shape, levels, outputs, seed)

        if self.tree != "cp":
            return circuit()
        at_once = {"tree": "adjacent", "arity": math.prod(image_shape)}
        wanted, component = circuit(tree="grid"), circuit(**at_once, width=1)
        width = max(1, round(wanted.parameter_count / component.parameter_count))
        return circuit(**at_once, width=width)

    def predictor(self, image_shape: Shape, levels: int, seed: int) -> "ConvArithmeticCircuit":
        """Return a freshly started circuit with one output."""
        return self.build(image_shape, levels, 1, seed)


class ConvArithmeticCircuit(nn.Module):
    """1 x 1 convolutions and product pooling in turn, then a linear output [HTF, section 3].

    On one-hot features, with weights of its own at each location and one output, it is the
    hierarchical tensor factorization that `factorization` returns. A product over hundreds of
    pixels is evaluated without over- or underflow, see `bench.models.product_pooling`.

    The start is near a CP predictor: leaves at 1, inner nodes passing their inputs on, the output
    their mean, and Gaussian noise on leaves and inner nodes. The noise is such that products over
    all pixels neither vanish nor explode: `init_std` is, to first order, the standard deviation of
    the logarithm of a channel's product over the whole image, level by level.

    Parameters
    ----------
    config : CircuitConfig
        Width, tree (any but ``cp``), features and start.
    image_shape : (int, int)
        Height and width. What happens to sizes that no window divides, `mode_tree` says.
    levels : int
        For one-hot features: the pixels are integers below it. Else they are real.
    outputs : int
        Number of outputs.
    seed : int
        Seed of the start.

    Attributes
    ----------
    convolutions : ParameterList
        For each level shape (..., nodes, channels in, channels out), in tree order, with one node
        where weights are shared.
    root_weights : Parameter
        Shape (..., width, outputs).

    Raises
    ------
    UserError
        For sizes that do not fit together.
    """

    def __init__(
        self,
        config: CircuitConfig,
        image_shape: Shape,
        levels: int,
        outputs: int,
        seed: int,
    ) -> None:
        super().__init__()
        height, width = self.image_shape = image_shape
        self.tree = mode_tree(height * width, config.arity, config.tree, (height, width))
        self.levels = levels if config.features == "one_hot" else None
        self.outputs = outputs
        self.width = config.width
        # Leaves give 1 in every channel, whatever the pixel; inner nodes pass their inputs on.
        leaf = torch.ones(levels, 1) if self.levels else torch.eye(2, 1)
        means = [leaf.expand(-1, self.width), *[torch.eye(self.width)] * (self.tree.depth - 1)]
        rng, convolutions = generator(seed, "convolutional arithmetic circuit"), []
        for mean, level in zip(means, self.tree.nodes, strict=False):
            count = 1 if config.shared else len(level)
            fan_in = len(mean) if convolutions else 1  # of one-hot features one is not zero
            # The logarithm of the output sums over a level's nodes and each node's inputs; noise
            # that nodes share adds up, other noise does as its square.
            share = config.init_std / (len(level) * fan_in * len(level) / count) ** 0.5
            convolutions.append(mean + share * torch.randn(count, *mean.shape, generator=rng))
        self.convolutions = nn.ParameterList(convolutions)
        self.root_weights = nn.Parameter(torch.full((self.width, outputs), 1 / self.width))

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
        pixels, (height, width) = images.flatten(1), self.image_shape
        expected = f"{self.tree.order} pixels, {height} x {width}"
        require(pixels.shape[1] == self.tree.order, f"images of {pixels.shape[1]} pixels", expected)
        return self.evaluate(self._features(pixels.t()[[*self.tree.leaf_order]]))

    def one_hot(self, images: Tensor) -> Tensor:
        """Return integer images as one-hot features, shape (batch, levels, height, width).

        For what differentiates the network with respect to its inputs.
        """
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
            return torch.stack([torch.ones_like(pixels, dtype=dtype), pixels.to(dtype)], 1).mT
        given = f"pixels of {pixels.dtype} with levels={self.levels}"
        hint = "quantize the images, or take levels=None"
        require(not pixels.is_floating_point(), given, f"integers below {self.levels}", hint)
        levels = torch.arange(self.levels, device=pixels.device).view(-1, 1)
        return (pixels.unsqueeze(1) == levels).to(dtype).mT

    def evaluate(self, features: Tensor) -> Tensor:
        """Evaluate the circuit at features of shape (order, batch, features), in tree order."""
        outputs = evaluate_tree(features, list(self.convolutions), self.root_weights, self.tree)
        return outputs.squeeze(-1) if self.outputs == 1 else outputs

    @torch.no_grad()
    def factorization(self, output: int = 0) -> HierarchicalTensorFactorization:
        """Return the hierarchical tensor factorization of one output, with copied weights."""
        mode_dims = [self.convolutions[0].shape[-2]] * self.tree.order
        result = HierarchicalTensorFactorization(mode_dims, self.width, tree=self.tree)
        result.to(self.root_weights)
        levels = [result.leaf_weights, *result.inner_weights]
        for weights, own in zip(levels, self.convolutions, strict=True):
            weights.data = own.expand(*own.shape[:-3], *weights.shape).clone()
        result.root_weights.data = self.root_weights[..., output].clone()
        return result
