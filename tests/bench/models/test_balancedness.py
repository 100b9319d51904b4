import pytest
import torch

from bench.core.seeding import generator
from bench.models.cp import CPConfig, CPFactorization
from bench.models.hierarchical import HierarchicalTensorFactorization
from bench.models.matrix import MatrixConfig


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def test_differences_are_between_neighbours():
    model = CPFactorization(3, 2, 2)
    squares = torch.tensor([[4.0, 1.0], [1.0, 2.0], [0.5, 2.0]])
    model.factors = torch.nn.Parameter(torch.stack([squares.sqrt(), torch.zeros(3, 2)], 1))
    torch.testing.assert_close(model.conserved_differences(), torch.tensor([3.0, -1.0, 0.5, 0.0]))


MODELS = {
    "cp": (
        lambda: CPConfig(rank=2, init_mean=0.0, init_std=0.4).factorize([4, 4, 4], 0),
        (4, 4, 4),
    ),
    "matrix": (lambda: MatrixConfig(depth=3, init_std=0.5).factorize([3, 4], 0), (3, 4)),
    "hierarchical": (
        lambda: HierarchicalTensorFactorization([2, 3, 2, 2, 3], 3, init_std=0.7),
        (2, 3, 2, 2, 3),
    ),
}


def drift(name, step_size):
    """Return the largest change over a given time of gradient flow."""
    build, shape = MODELS[name]
    model, target = build().double(), normal(*shape)
    differences = []
    for _ in range(round(0.4 / step_size)):
        differences.append(model.conserved_differences().detach())
        loss = (model.full_tensor() - target).square().sum() / 2
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for weights, gradient in zip(model.parameters(), gradients, strict=True):
            weights.data.sub_(step_size * gradient)
    return max((value - differences[0]).abs().max().item() for value in differences)


@pytest.mark.parametrize("name", MODELS)
def test_drift_falls_linearly_with_the_step_size(name):
    coarse, fine = drift(name, 1e-2), drift(name, 2.5e-3)
    assert coarse / fine == pytest.approx(4, rel=0.1)
