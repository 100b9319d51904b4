import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.kernels.khatri_rao import cp_full_tensor
from bench.measures.ranks import component_norms
from bench.measures.trajectories import (
    component_drives,
    expected_exponent,
    fit_growth_law,
    pool_growth_laws,
    singular_value_drives,
)
from bench.models.matrix import MatrixFactorization


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def test_component_drives_are_inner_products_with_normalized_components():
    factors = normal(2, 3, 4, 5).requires_grad_()
    target = normal(4, 4, 4)
    end = cp_full_tensor(factors)
    (end_gradient,) = torch.autograd.grad((end - target).square().sum(), end, retain_graph=True)
    (gradient,) = torch.autograd.grad((end - target).square().sum(), factors)
    drives = component_drives(factors, gradient)
    for replicate in range(2):
        for r in range(5):
            component = cp_full_tensor(factors[replicate, :, :, r : r + 1])
            expected = -(end_gradient[replicate] * component).sum() / component.norm()
            torch.testing.assert_close(drives[replicate, r], expected)


def test_singular_value_drives_are_the_rate_of_change_along_the_gradient():
    """Moving W itself against the gradient changes sigma_r at the rate of its drive."""
    product, gradient = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    step = 1e-6
    moved = torch.linalg.svdvals(product - step * gradient)
    back = torch.linalg.svdvals(product + step * gradient)
    torch.testing.assert_close(
        singular_value_drives(product, gradient), (moved - back) / (2 * step), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("vectors", [2, 3, 4])
def test_the_exponent_of_a_solved_law_is_recovered(vectors):
    exponent = expected_exponent(vectors)
    times = torch.linspace(0, 1, 200, dtype=torch.float64)
    start = 1e-3
    if vectors == 2:
        norms = start * torch.exp(2 * times)
    else:
        power = 1 - exponent
        norms = (start**power + power * vectors * times * 0.9) ** (1 / power)
    drives = torch.full_like(times, 1.0 if vectors == 2 else 0.9)
    law = fit_growth_law(times, norms, drives)
    assert law.exponent == pytest.approx(exponent, abs=1e-3)
    assert law.coefficient == pytest.approx(vectors, rel=1e-2)
    assert law.observations == 199


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_singular_values_of_a_balanced_product_grow_by_the_law(depth):
    start = generator(0, "start")
    model = MatrixFactorization(4, 4, depth, start="balanced", init_std=1e-3, generator=start)
    model = model.double()
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
        norms.append(model.singular_values()[0].item())
        drives.append(singular_value_drives(end, end - target)[0].item())
    law = fit_growth_law(*(torch.tensor(s, dtype=torch.float64) for s in (times, norms, drives)))
    assert law.exponent == pytest.approx(expected_exponent(depth), abs=0.02)
    assert law.coefficient == pytest.approx(depth, rel=0.05)


def test_the_interval_covers_the_exponent_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        sigma = np.exp(np.linspace(-5, 0, 21))
        growth = np.log(sigma[1:] / sigma[:-1]) * np.exp(-random.normal(0, 0.1, 20))
        middle = np.sqrt(sigma[1:] * sigma[:-1])
        times = np.concatenate([[0], np.cumsum(growth / (3 * middle ** (1 / 3)))])
        series = [torch.from_numpy(one) for one in (times, sigma, np.ones(21))]
        low, high = fit_growth_law(*series, confidence=0.9).interval
        covered += low <= 4 / 3 <= high
    assert 0.85 < covered / 300 < 0.95


def test_a_component_that_does_not_grow_is_refused_and_falls_are_left_out():
    times, drives = torch.arange(6.0), torch.ones(6)
    with pytest.raises(UserError, match="grows between 0 pairs"):
        fit_growth_law(times, torch.arange(6.0, 0, -1), drives)
    norms = torch.tensor([1.0, 2.0, 4.0, 3.0, 6.0, 12.0])
    assert fit_growth_law(times, norms, drives).observations == 4
    drives[0] = -1.0
    assert fit_growth_law(times, norms, drives).observations == 3


def test_pooling_gives_the_mean_and_student_s_interval():
    times = torch.linspace(0, 1, 20, dtype=torch.float64)
    laws = [
        fit_growth_law(times, torch.exp(2 * times), torch.exp(slope * times))
        for slope in (-0.2, 0.0, 0.2)
    ]
    pooled = pool_growth_laws(laws)
    # Exponents are 1 - slope / 2; the t quantile for two degrees of freedom is 4.3027.
    assert [law.exponent for law in laws] == pytest.approx([1.1, 1.0, 0.9], abs=1e-9)
    half = 4.3027 * 0.1 / 3**0.5
    assert pooled.exponent == pytest.approx(1.0)
    assert pooled.interval == pytest.approx((1 - half, 1 + half), rel=1e-4)
    assert pooled.observations == 3
    with pytest.raises(UserError, match="1 trajectories"):
        pool_growth_laws(laws[:1])


def test_norms_of_a_trajectory_are_those_the_law_speaks_of():
    factors = normal(3, 4, 1)
    torch.testing.assert_close(component_norms(factors)[0], cp_full_tensor(factors).norm())
