"""Steps of the other benchmarks beside the obvious way to take them."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet

from bench.core.seeding import generator
from bench.models.cp import CPConfig
from bench.models.hierarchical import HierarchicalConfig
from bench.optim import GroupRMSprop
from bench.perf.timing import training_step
from bench.regularizers import InputGradientChange, Patch
from data_prep.problems import LossConfig, ObservedEntries, RecoveryProblem

SMALL = {"init_mean": 0.0, "init_std": 0.05}
Step = Callable[[], Tensor]  # takes a step and returns the loss before it
Comparison = tuple[str, Step, Step]  # a slow step and a fast one, from equal parameters


def comparisons() -> list[Comparison]:
    """Return what is timed; a step is forward, backward and update, in float32."""
    return [
        regularized_step(batch=32, side=64),
        completion_step(CPConfig(rank=1000, **SMALL), [10] * 4, observed=2000),
        completion_step(CPConfig(rank=256, **SMALL), [16] * 3, observed=2048),
        completion_step(HierarchicalConfig(width=512), [8] * 4, observed=2048),
    ]


def cp_network(model: Any, inputs: Tensor) -> Tensor:
    """Evaluate a CP factorization as a network on one-hot inputs [TF]."""
    return torch.einsum("bnd,ndr->bnr", inputs, model.factors).prod(1).sum(1)


def hierarchical_network(model: Any, inputs: Tensor) -> Tensor:
    """Evaluate a hierarchical factorization as its network [HTF].

    As it was published: a contraction per level, then the product over the last dimension of
    windows of two. With a batched product per node in place of the contraction it takes less than
    half the time (`bench.models.product_pooling`).
    """
    hidden = inputs
    for weights in (model.leaf_weights, *model.inner_weights):
        hidden = torch.einsum("bnd,ndr->bnr", hidden, weights)
        hidden = hidden.mT.unflatten(-1, (-1, 2)).prod(-1).mT
    return hidden.squeeze(1) @ model.root_weights


NETWORKS = {"cp": cp_network, "hierarchical": hierarchical_network}


def completion_step(config: Any, mode_dims: Sequence[int], observed: int) -> Comparison:
    """Compare a full-batch step entry by entry with one by way of the full tensor."""
    rng = generator(0, "perf completion")
    entries = torch.randperm(prod(mode_dims), generator=rng)[:observed].sort().values
    target = torch.randn(*mode_dims, generator=rng) / prod(mode_dims) ** 0.5
    problem = RecoveryProblem(target, ObservedEntries(entries, mode_dims), LossConfig())
    indices = torch.stack(torch.unravel_index(entries, mode_dims), 1)
    inputs = functional.one_hot(indices, max(mode_dims)).float()
    slow, fast = (config.factorize(mode_dims, seed=0) for _ in range(2))
    optimizers = [GroupRMSprop(model.parameters()) for model in (slow, fast)]
    network = NETWORKS[config.name]
    sizes = "x".join(map(str, mode_dims))
    size = f"rank {config.rank}" if config.name == "cp" else f"width {config.width}"
    return (
        f"{config.name} factorization of {sizes}, {size}: each observation / full tensor",
        training_step(optimizers[0], lambda: problem.loss(network(slow, inputs) - problem.values)),
        training_step(optimizers[1], lambda: problem(fast.full_tensor())),
    )


def regularized_step(batch: int, side: int) -> Comparison:
    """Compare gradients of a small ResNet with the regularizer and without; the loss is plain."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=2)
    rng = generator(0, "perf regularizer")
    images = torch.randn(batch, 3, side, side, generator=rng)
    targets = torch.randint(2, (batch,), generator=rng)
    size = side // 4
    corners = Patch(0, 0, size, size), Patch(side - size, side - size, size, size)
    regularizer = InputGradientChange(*corners)

    def step(evaluate: Callable[[], tuple[Tensor, Tensor | float]]) -> Tensor:
        network.zero_grad()
        outputs, penalty = evaluate()
        loss = functional.cross_entropy(outputs, targets)
        (loss + penalty).backward()
        return loss.detach()

    return (
        f"ResNet of 4 blocks, {batch} images of {side} x {side}: step with regularizer / without",
        lambda: step(lambda: regularizer.evaluate(network, images, targets)),
        lambda: step(lambda: (network(images), 0.0)),
    )
