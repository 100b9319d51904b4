"""Residual networks start as torchvision's, and their stems as the published ones."""

import torch
from torch import nn
from torchvision.models import resnet18

from bench.core.seeding import derive_seed
from bench.models.resnet import ResNetConfig


def test_in_color_the_network_is_torchvision_s():
    ours = ResNetConfig(channels=3).build((224, 224), 2, 1, seed=5)
    torch.manual_seed(derive_seed(5, "network"))
    theirs = resnet18(num_classes=1)
    for name, weights in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name.replace("fc.", "fc.1.")], weights), name


def test_the_published_stem_for_gray_images_starts_as_pytorch_s_convolutions():
    weights = ResNetConfig(stem_start="default").build((150, 150), 2, 1, 0).conv1.weight
    bound = nn.Conv2d(1, 64, 7).weight.abs().max()  # uniform to 1 / sqrt(49)
    assert weights.shape == (64, 1, 7, 7)
    assert 0.13 < weights.abs().max() <= 1 / 7
    assert abs(weights.abs().max() - bound) < 0.01
    normal = ResNetConfig().build((150, 150), 2, 1, 0).conv1.weight
    assert abs(normal.std() - (2 / (64 * 49)) ** 0.5) < 1e-3
