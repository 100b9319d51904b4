"""Residual networks: torchvision's, and a compact one for two cores."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from bench.core.errors import require
from bench.core.seeding import derive_seed
from bench.core.settings import Count, Settings, ShareBelowOne, settings
from bench.models.network import NetworkConfig, Shape

DEPTHS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}


@settings
class ResNetConfig(Settings, NetworkConfig):
    """Settings of `configs/model/resnet18.yaml` and `resnet34.yaml` [He et al. 2016].

    Parameters
    ----------
    depth : int
        18 or 34.
    dropout : float
        The share of the pooled features that is dropped in training.
    channels : int
        1 for gray images, 3 for color.
    stem_start : str
        How the first convolution starts: ``kaiming_normal``, as all others do, or ``default``, as
        PyTorch starts a convolution: so does the published network if images are gray.
    """

    name: ClassVar[str] = "resnet"
    later: ClassVar[frozenset[str]] = frozenset({"channels", "stem_start"})

    depth: Literal[18, 34] = 18
    dropout: ShareBelowOne = 0.0
    channels: Literal[1, 3] = 1
    stem_start: Literal["kaiming_normal", "default"] = "kaiming_normal"

    def build(self, image_shape: Shape, levels: int, outputs: int, seed: int) -> ResNet:
        """Return torchvision's network; its stem is another one if images are gray."""
        with _seeded(seed):
            network = ResNet(BasicBlock, DEPTHS[self.depth], num_classes=outputs)
            if self.channels == 1 or self.stem_start == "default":
                network.conv1 = nn.Conv2d(self.channels, 64, 7, stride=2, padding=3, bias=False)
            if self.channels == 1 and self.stem_start == "kaiming_normal":
                nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.fc = nn.Sequential(nn.Dropout(self.dropout), network.fc)  # pyright: ignore
        return network


@settings
class CompactResNetConfig(Settings, NetworkConfig):
    """Settings of `configs/model/compact_resnet.yaml`: the same parts, fewer and narrower.

    Parameters
    ----------
    stem : (int, int, int)
        Width, kernel size and stride of the first convolution.
    widths, strides : tuple of int
        Those of the residual blocks, each of two 3 x 3 convolutions.
    dropout : float
        The share of the pooled features that is dropped in training.
    channels : int
        1 for gray images, 3 for color.
    """

    name: ClassVar[str] = "compact_resnet"
    later: ClassVar[frozenset[str]] = frozenset({"channels"})

    stem: tuple[Count, Count, Count] = (16, 7, 4)
    widths: tuple[Count, ...] = (32, 64, 64, 64)
    strides: tuple[Count, ...] = (2, 2, 1, 1)
    dropout: ShareBelowOne = 0.0
    channels: Literal[1, 3] = 1

    def __post_init__(self) -> None:
        require(self.stem[1] % 2 == 1, f"model.stem={list(self.stem)}", "an odd kernel size")
        given = f"model.widths={list(self.widths)} and model.strides={list(self.strides)}"
        require(len(self.widths) == len(self.strides) > 0, given, "as many of each, one or more")

    def build(self, image_shape: Shape, levels: int, outputs: int, seed: int) -> nn.Sequential:
        """Return the network, started as torchvision's."""
        width, kernel, stride = self.stem
        with _seeded(seed):
            layers: list[nn.Module] = [
                nn.Conv2d(self.channels, width, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            for planes, stride in zip(self.widths, self.strides, strict=True):
                shortcut = None
                if (stride, planes) != (1, width):
                    projection = nn.Conv2d(width, planes, 1, stride, bias=False)
                    shortcut = nn.Sequential(projection, nn.BatchNorm2d(planes))
                layers.append(BasicBlock(width, planes, stride, shortcut))
                width = planes
            head = [nn.Flatten(), nn.Dropout(self.dropout), nn.Linear(width, outputs)]
            network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *head)
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return network


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let torch's own initialization depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "network"))
        yield
