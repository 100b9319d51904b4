import pytest
import torch

from bench.core.seeding import generator
from bench.kernels.khatri_rao import cp_full_tensor
from bench.measures.balancedness import largest_drift, layer_differences, vector_differences
from bench.models.matrix import MatrixFactorization


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def test_differences_are_between_neighbours():
    squared_norms = torch.tensor([[4.0, 1.0], [1.0, 2.0], [0.5, 2.0]])
    assert vector_differences(squared_norms).tolist() == [[3.0, -1.0], [0.5, 0.0]]


def test_drift_is_the_largest_change_of_each_replicate():
    trajectory = torch.zeros(5, 2, 3, 4)
    trajectory += normal(2, 3, 4).float()
    start = trajectory[0].clone()
    trajectory[3, 0, 1, 2] -= 7
    trajectory[4, 1, 2, 3] += 2
    torch.testing.assert_close(largest_drift(trajectory), torch.tensor([7.0, 2.0]))
    assert torch.equal(trajectory[0], start)


def cp_drift(step_size):
    factors = (0.4 * normal(3, 4, 2)).requires_grad_()
    target = cp_full_tensor(normal(3, 4, 1, seed=1))
    differences = []
    for _ in range(round(0.4 / step_size)):
        differences.append(vector_differences(factors.detach().square().sum(-2)))
        loss = (cp_full_tensor(factors) - target).square().sum() / 2
        (gradient,) = torch.autograd.grad(loss, factors)
        factors.data.sub_(step_size * gradient)
    return largest_drift(torch.stack(differences)).item()


def matrix_drift(step_size):
    model = MatrixFactorization(3, 4, 3, init_std=0.5, generator=generator(0, "start")).double()
    target = normal(3, 4)
    differences = []
    for _ in range(round(0.4 / step_size)):
        factors = [factor.detach() for factor in model.factors]
        differences.append(torch.stack(layer_differences(factors)))
        loss = (model.full_tensor() - target).square().sum() / 2
        gradients = torch.autograd.grad(loss, list(model.factors))
        for factor, gradient in zip(model.factors, gradients, strict=True):
            factor.data.sub_(step_size * gradient)
    return largest_drift(torch.stack(differences), quantity_dims=3).item()


@pytest.mark.parametrize("drift", [cp_drift, matrix_drift])
def test_drift_falls_linearly_with_the_step_size(drift):
    coarse, fine = drift(1e-2), drift(2.5e-3)
    assert coarse / fine == pytest.approx(4, rel=0.1)
