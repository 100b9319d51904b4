"""Steps of the dynamics benchmarks, timed against evaluating each observation on its own."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from bench.core.seeding import generator
from bench.models.cp import CPFactorization
from bench.models.hierarchical import HierarchicalTensorFactorization
from bench.optim import GroupRMSprop
from data_prep.problems import (
    CompletionConfig,
    LossConfig,
    MeasurementConfig,
    ObservedEntries,
    RecoveryProblem,
    TargetConfig,
)

Comparison = tuple[str, Callable[[], Tensor], Callable[[], Tensor]]
BOTH = "each observation / full tensor"


def comparisons() -> list[Comparison]:
    """Return name, a full-batch step entry by entry, and the same step of the suite.

    Both are forward, backward and update, in float32; they start from equal parameters.
    """
    return [
        cp_step(order=4, mode_dim=10, rank=1000, observed=2000),
        cp_step(order=3, mode_dim=16, rank=256, observed=2048),
        hierarchical_step(mode_dims=[8, 8, 8, 8], width=512, observed=2048),
    ]


def cp_step(order: int, mode_dim: int, rank: int, observed: int) -> Comparison:
    """Compare steps of a CP factorization; the slow one as a network on one-hot inputs [TF]."""
    dims = [mode_dim] * order
    problem = _problem("cp", dims, observed)
    inputs = _one_hot_inputs(problem, dims)
    start = {"init_mean": 0.0, "init_std": 0.05}
    fast, slow = (
        CPFactorization(order, mode_dim, rank, generator=generator(0, "perf"), **start)
        for _ in range(2)
    )

    def network() -> Tensor:
        hidden = torch.einsum("bnd,ndr->bnr", inputs, slow.factors)
        return hidden.prod(1).sum(1)

    name = f"CP step, order {order}, {mode_dim}^{order}, R = {rank:,}: {BOTH}"
    entries = _step(slow, lambda: problem.loss(network() - problem.values))
    return name, entries, _step(fast, lambda: problem(fast.full_tensor()))


def hierarchical_step(mode_dims: list[int], width: int, observed: int) -> Comparison:
    """Compare steps of a hierarchical factorization; the slow one as its network [HTF].

    The network as it was published: a contraction per level, then the product over the last
    dimension of windows of two. With a batched product per node in place of the contraction it
    takes less than half the time (`bench.models.product_pooling`).
    """
    problem = _problem("hierarchical", mode_dims, observed)
    inputs = _one_hot_inputs(problem, mode_dims)
    fast, slow = (HierarchicalTensorFactorization(mode_dims, width, seed=0) for _ in range(2))

    def network() -> Tensor:
        hidden = inputs
        for weights in (slow.leaf_weights, *slow.inner_weights):
            hidden = torch.einsum("bnd,ndr->bnr", hidden, weights)
            hidden = hidden.mT.unflatten(-1, (-1, 2)).prod(-1).mT
        return hidden.squeeze(1) @ slow.root_weights

    name = f"hierarchical step, order {len(mode_dims)}, width {width:,}: {BOTH}"
    entries = _step(slow, lambda: problem.loss(network() - problem.values))
    return name, entries, _step(fast, lambda: problem(fast.full_tensor()))


def _problem(
    family: Literal["cp", "hierarchical"], mode_dims: list[int], observed: int
) -> RecoveryProblem:
    target = TargetConfig(family=family, mode_dims=tuple(mode_dims), rank=5)
    measurements = MeasurementConfig(count=observed)
    data = CompletionConfig(name=family, target=target, measurements=measurements)
    return data.problem(0, LossConfig(), torch.float32)


def _one_hot_inputs(problem: RecoveryProblem, mode_dims: list[int]) -> Tensor:
    """Return the observed indices as one-hot vectors, shape (observed, order, mode_dim)."""
    assert isinstance(problem.operator, ObservedEntries)
    indices = torch.unravel_index(problem.operator.indices, mode_dims)
    return nn.functional.one_hot(torch.stack(indices, 1), max(mode_dims)).float()


def _step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a function that takes one step and returns the loss before it."""
    optimizer = GroupRMSprop(model.parameters())

    def step() -> Tensor:
        optimizer.zero_grad()
        before = loss()
        before.backward()
        optimizer.step()
        return before.detach()

    return step
