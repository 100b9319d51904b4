import pytest
import torch
from torch import nn

from bench.measures.receptive_field import receptive_field
from bench.models.arithmetic_circuit import CircuitConfig
from bench.models.resnet import CompactResNetConfig, ResNetConfig


@pytest.mark.parametrize(("depth", "size"), [(18, 99), (34, 179)])
def test_torchvision_s_networks_see_what_is_known_of_them(depth, size):
    network = ResNetConfig(depth=depth).build((200, 200), 2, 1, 0)
    network.layer3 = network.layer4 = network.fc = nn.Identity()  # 435 and 899 with them
    rows, columns = receptive_field(network, (2, 200))
    assert columns.sum(1).max() == size
    assert rows.all()


def test_stacked_convolutions_by_the_recurrence():
    layers, size, jump = [], 1, 1
    for kernel, stride in [(5, 2), (3, 1), (3, 2), (3, 1)]:
        layers += [nn.Conv2d(1, 1, kernel, stride, kernel // 2), nn.ReLU()]
        size, jump = size + (kernel - 1) * jump, jump * stride
    network = nn.Sequential(*layers, nn.MaxPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(1))
    rows, columns = receptive_field(network, (12, 64))
    assert columns.sum(1).max() == size + 2 * jump
    assert rows.shape == (12 // jump, 12)
    assert columns.shape == (64 // jump, 64)


def test_what_a_unit_sees_is_what_its_gradient_can_reach():
    network = CompactResNetConfig(stem=(4, 3, 1), widths=(4, 4), strides=(2, 1)).build(
        (9, 40), 2, 1, 0
    )
    _, columns = receptive_field(network, (9, 40))
    features = network[: len(network) - 4].eval()
    image = torch.rand(1, 1, 9, 40).requires_grad_()
    for unit, seen in enumerate(columns):
        (gradient,) = torch.autograd.grad(features(image)[..., unit].square().sum(), image)
        reached = gradient.abs().sum((0, 1, 2)) > 0
        assert not (reached & ~seen).any()
        assert reached.sum() > 0.8 * seen.sum()


def test_a_circuit_has_no_map():
    circuit = CircuitConfig(width=2, features="affine").build((8, 8), 2, 1, 0)
    assert receptive_field(circuit, (8, 8)) is None
