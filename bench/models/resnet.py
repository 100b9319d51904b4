"""Residual networks on gray images: torchvision's, and a compact one for two cores."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from bench.core.errors import require
from bench.core.seeding import derive_seed
from bench.core.settings import Count, Settings, ShareBelowOne, settings
from bench.models.network import NetworkConfig

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
    """

    name: ClassVar[str] = "resnet"

    depth: Literal[18, 34] = 18
    dropout: ShareBelowOne = 0.0

    def build(self, image_shape: tuple[int, int], levels: int, outputs: int, seed: int) -> ResNet:
        """Return torchvision's network with a stem for one channel."""
        with _seeded(seed):
            network = ResNet(BasicBlock, DEPTHS[self.depth], num_classes=outputs)
            network.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
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
    """

    name: ClassVar[str] = "compact_resnet"

    stem: tuple[Count, Count, Count] = (16, 7, 4)
    widths: tuple[Count, ...] = (32, 64, 64, 64)
    strides: tuple[Count, ...] = (2, 2, 1, 1)
    dropout: ShareBelowOne = 0.0

    def __post_init__(self) -> None:
        require(self.stem[1] % 2 == 1, f"model.stem={list(self.stem)}", "an odd kernel size")
        given = f"model.widths={list(self.widths)} and model.strides={list(self.strides)}"
        require(len(self.widths) == len(self.strides) > 0, given, "as many of each, one or more")

    def build(
        self, image_shape: tuple[int, int], levels: int, outputs: int, seed: int
    ) -> nn.Sequential:
        """Return the network, started as torchvision's."""
        width, kernel, stride = self.stem
        with _seeded(seed):
            layers: list[nn.Module] = [
                nn.Conv2d(1, width, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
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
