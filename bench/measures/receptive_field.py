"""Which pixels the last feature map of a convolutional network depends on."""

import copy

import torch
from torch import Tensor, nn


def receptive_field(
    network: nn.Module, image_shape: tuple[int, int], channels: int = 1
) -> list[Tensor] | None:
    """Find which rows and which columns of an image each unit before the global pooling sees.

    After the pooling a network is linear, so only what one unit sees can interact. Found by
    following not-a-number through the network: whatever a NaN can reach becomes NaN.

    Parameters
    ----------
    network : nn.Module
        A network of rectangular kernels that keeps an image of one row one row high.
    image_shape : (int, int)
        Height and width of its images.
    channels : int
        Their channels.

    Returns
    -------
    list of Tensor or None
        For rows and for columns, shape (units, pixels), bool. None for a network without an
        `nn.AdaptiveAvgPool2d`, whose units are not placed on a map.
    """
    # In float64 on a CPU no convolution takes a shortcut that mixes neighboring windows.
    probe = copy.deepcopy(network).cpu().double().eval()
    pools = [module for module in probe.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    if not pools:
        return None
    maps: list[Tensor] = []

    pools[-1].register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    for axis, length in enumerate(image_shape):
        lines = torch.zeros(length, length, dtype=torch.float64).fill_diagonal_(torch.nan)
        with torch.no_grad():
            images = lines.view(length, 1, length, 1).expand(-1, channels, -1, -1)
            probe(images if axis == 0 else images.mT)
    return [values.isnan().any(1).flatten(1).T for values in maps]
