import math

import pytest
import torch

from bench.core.seeding import generator
from bench.kernels.khatri_rao import cp_full_tensor
from bench.measures.ranks import component_norms
from bench.measures.trajectories import fit_growth_law
from bench.models.cp import CPFactorization
from bench.models.matrix import MatrixConfig


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def test_component_drives_are_inner_products_with_normalized_components():
    model = CPFactorization(3, 4, 5)
    factors = model.factors = torch.nn.Parameter(normal(2, 3, 4, 5))
    target = normal(4, 4, 4)
    end = model.full_tensor()
    (end_gradient,) = torch.autograd.grad((end - target).square().sum(), end, retain_graph=True)
    (end - target).square().sum().backward()
    drives = model.component_drives()
    for replicate in range(2):
        for r in range(5):
            component = cp_full_tensor(factors[replicate, :, :, r : r + 1])
            expected = -(end_gradient[replicate] * component).sum() / component.norm()
            torch.testing.assert_close(drives[replicate, r], expected)


def leading_drive(product, gradient):
    """Return -u^T G v of the first singular vectors."""
    left, _, right = torch.linalg.svd(product)
    return -(left[:, 0] @ gradient @ right[0]).item()


@pytest.mark.parametrize("vectors", [2, 3, 4])
def test_the_exponent_of_a_solved_law_is_recovered(vectors):
    exponent = 2 - 2 / vectors
    times = torch.linspace(0, 1, 200, dtype=torch.float64)
    start = 1e-3
    if vectors == 2:
        norms = start * torch.exp(2 * times)
    else:
        power = 1 - exponent
        norms = (start**power + power * vectors * times * 0.9) ** (1 / power)
    drives = torch.full_like(times, 1.0 if vectors == 2 else 0.9)
    fitted, coefficient = fit_growth_law(times, norms, drives)
    assert fitted == pytest.approx(exponent, abs=1e-3)
    assert coefficient == pytest.approx(vectors, rel=1e-2)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_singular_values_of_a_balanced_product_grow_by_the_law(depth):
    config = MatrixConfig(depth=depth, start="balanced", init_std=1e-3)
    model = config.factorize([4, 4], 0).double()
    target = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    times, norms, drives, time = [], [], [], 0.0
    while len(times) < 150 and (not norms or norms[-1] < 2):
        for _ in range(5):
            end = model.full_tensor()
            end_gradient = (end - target).detach()
            gradients = torch.autograd.grad(end, list(model.factors), end_gradient)
            step = 1e-2 / sum(float(g.square().sum()) for g in gradients) ** 0.5
            for factor, gradient in zip(model.factors, gradients, strict=True):
                factor.data.sub_(step * gradient)
            time += step
        end = model.full_tensor().detach()
        times.append(time)
        norms.append(torch.linalg.svdvals(end)[0].item())
        drives.append(leading_drive(end, end - target))
    series = (torch.tensor(s, dtype=torch.float64) for s in (times, norms, drives))
    exponent, coefficient = fit_growth_law(*series)
    assert exponent == pytest.approx(2 - 2 / depth, abs=0.02)
    assert coefficient == pytest.approx(depth, rel=0.05)


def test_only_where_a_component_grows_is_it_fitted():
    times, drives = torch.arange(6.0), torch.ones(6)
    assert fit_growth_law(times, torch.arange(6.0, 0, -1), drives) is None
    norms = torch.tensor([1.0, 2.0, 4.0, 3.0, 6.0, 12.0])  # doubled in each step, but for one fall
    exponent, coefficient = fit_growth_law(times, norms, drives)
    assert exponent == pytest.approx(1.0)
    assert coefficient == pytest.approx(math.log(2))
    drives[:2] = -1.0
    assert fit_growth_law(times, norms, drives) is None


def test_norms_of_a_trajectory_are_those_the_law_speaks_of():
    factors = normal(3, 4, 1)
    torch.testing.assert_close(component_norms(factors)[0], cp_full_tensor(factors).norm())
