"""The cost of a training step with the non-locality regularizer, against one without."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet

from bench.core.seeding import generator
from bench.regularizers import InputGradientChange, Patch


def regularized_step(
    batch: int = 32, side: int = 64
) -> tuple[str, Callable[[], Tensor], Callable[[], Tensor]]:
    """Return a name, a step of a small ResNet with the regularizer, and one without.

    Both return the cross entropy.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=2)
    rng = generator(0, "perf regularizer")
    images = torch.randn(batch, 3, side, side, generator=rng)
    targets = torch.randint(2, (batch,), generator=rng)
    size = side // 4
    corners = Patch(0, 0, size, size), Patch(side - size, side - size, size, size)
    regularizer = InputGradientChange(*corners)

    def plain() -> Tensor:
        network.zero_grad()
        loss = functional.cross_entropy(network(images), targets)
        loss.backward()
        return loss.detach()

    def regularized() -> Tensor:
        network.zero_grad()
        outputs, penalty = regularizer.evaluate(network, images, targets)
        loss = functional.cross_entropy(outputs, targets)
        (loss + penalty).backward()
        return loss.detach()

    name = f"regularized step: ResNet of 4 blocks, {batch} images of {side} x {side}"
    return name, regularized, plain
