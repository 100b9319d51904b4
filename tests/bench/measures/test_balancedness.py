import pytest
import torch

from bench.core.seeding import generator
from bench.kernels.khatri_rao import cp_full_tensor
from bench.measures.balancedness import vector_differences
from bench.models.hierarchical import HierarchicalTensorFactorization
from bench.models.matrix import MatrixConfig


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def test_differences_are_between_neighbours():
    squared_norms = torch.tensor([[4.0, 1.0], [1.0, 2.0], [0.5, 2.0]])
    assert vector_differences(squared_norms).tolist() == [[3.0, -1.0], [0.5, 0.0]]


def largest_change(values):
    return max((value - values[0]).abs().max().item() for value in values)


def cp_drift(step_size):
    factors = (0.4 * normal(3, 4, 2)).requires_grad_()
    target = cp_full_tensor(normal(3, 4, 1, seed=1))
    differences = []
    for _ in range(round(0.4 / step_size)):
        differences.append(vector_differences(factors.detach().square().sum(-2)))
        loss = (cp_full_tensor(factors) - target).square().sum() / 2
        (gradient,) = torch.autograd.grad(loss, factors)
        factors.data.sub_(step_size * gradient)
    return largest_change(differences)


def matrix_drift(step_size):
    model = MatrixConfig(depth=3, init_std=0.5).factorize([3, 4], 0).double()
    target = normal(3, 4)
    differences = []
    for _ in range(round(0.4 / step_size)):
        differences.append(model.conserved_differences().detach())
        loss = (model.full_tensor() - target).square().sum() / 2
        gradients = torch.autograd.grad(loss, list(model.factors))
        for factor, gradient in zip(model.factors, gradients, strict=True):
            factor.data.sub_(step_size * gradient)
    return largest_change(differences)


def hierarchical_drift(step_size):
    model = HierarchicalTensorFactorization([2, 3, 2, 2, 3], 3, init_std=0.7).double()
    target = normal(2, 3, 2, 2, 3)
    differences = []
    for _ in range(round(0.4 / step_size)):
        differences.append(model.conserved_differences().detach())
        loss = (model.full_tensor() - target).square().sum() / 2
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for weights, gradient in zip(model.parameters(), gradients, strict=True):
            weights.data.sub_(step_size * gradient)
    return largest_change(differences)


@pytest.mark.parametrize("drift", [cp_drift, matrix_drift, hierarchical_drift])
def test_drift_falls_linearly_with_the_step_size(drift):
    coarse, fine = drift(1e-2), drift(2.5e-3)
    assert coarse / fine == pytest.approx(4, rel=0.1)
