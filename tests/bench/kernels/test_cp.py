import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.core.seeding import generator
from bench.kernels import indicators
from bench.kernels.cp import cp_components, slow_cp_components
from bench.kernels.indicators import IndicatorBatch


def case(components=6, levels=3, order=7, batch=40, dtype=torch.float64, seed=0, scale=1.0):
    draw = generator(seed, "kernel test")
    factors = torch.randn(components, levels, order, generator=draw, dtype=torch.float64) * scale
    indices = torch.randint(levels, (batch, order), generator=draw)
    return factors.to(dtype).requires_grad_(), indices


def batch_of(indices, levels):
    return IndicatorBatch(indices, levels)


def values_and_gradient(function, factors, inputs, weights):
    values = function(factors, inputs)
    values = values[0] if isinstance(values, tuple) else values
    (gradient,) = torch.autograd.grad((values * weights).sum(), factors)
    return values.detach(), gradient


@given(
    components=st.integers(1, 5),
    levels=st.integers(2, 4),
    order=st.integers(1, 9),
    zeros=st.integers(0, 6),
    seed=st.integers(0, 10**6),
)
def test_equals_the_slow_version_with_signs_and_zeros(components, levels, order, zeros, seed):
    factors, indices = case(components, levels, order, seed=seed)
    draw = generator(seed, "zeros")
    with torch.no_grad():
        flat = factors.view(-1)
        flat[torch.randint(len(flat), (zeros,), generator=draw)] = 0
    weights = torch.randn(components, len(indices), generator=draw, dtype=torch.float64)
    fast = values_and_gradient(cp_components, factors, batch_of(indices, levels), weights)
    slow = values_and_gradient(slow_cp_components, factors, indices, weights)
    for ours, oracle in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-12)


def test_gradient_agrees_with_finite_differences():
    factors, indices = case(components=3, order=4, batch=9)
    with torch.no_grad():
        factors[0, 0, 0] = 0
    inputs = batch_of(indices, 3)
    assert torch.autograd.gradcheck(lambda w: cp_components(w, inputs)[0], (factors,))


def test_second_derivative_is_refused():
    factors, indices = case()
    values, _ = cp_components(factors, batch_of(indices, 3))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(values.sum(), factors, create_graph=True)


@pytest.mark.parametrize("spread", [1e-3, 0.1])
def test_float32_is_accurate_at_784_inputs(spread):
    draw = generator(0, "accuracy")
    factors = (1 + spread * torch.randn(5, 2, 784, generator=draw)).requires_grad_()
    indices = (torch.rand(500, 784, generator=draw) < 0.2).long()
    weights = torch.randn(5, 500, generator=draw)
    fast = values_and_gradient(cp_components, factors, batch_of(indices, 2), weights)
    exact = factors.detach().double().requires_grad_()
    slow = values_and_gradient(slow_cp_components, exact, indices, weights.double())
    for ours, oracle in zip(fast, slow, strict=True):
        error = (ours.double() - oracle).flatten(1).norm(dim=1) / oracle.flatten(1).norm(dim=1)
        assert error.max() < 2e-5


def test_a_level_that_no_sample_takes_has_gradient_exactly_zero():
    factors, indices = case(levels=2, order=50, dtype=torch.float32, scale=0.1)
    factors = (1 + factors.detach()).requires_grad_()
    indices[:, :10], indices[:, 10:20] = 0, 1
    weights = torch.randn(6, len(indices), generator=generator(1, "weights"))
    _, gradient = values_and_gradient(cp_components, factors, batch_of(indices, 2), weights)
    assert (gradient[:, 1, :10] == 0).all()
    assert (gradient[:, 0, 10:20] == 0).all()
    assert (gradient[:, :, 20:] != 0).all()


def test_underflow_is_counted_and_an_exact_zero_is_not():
    factors = torch.full((3, 2, 200), 0.5)  # 2**-200 is below the smallest normal float32
    factors[1, 1] = 1.0  # normal as soon as most inputs are 1
    factors[2, :, :] = 1.0
    factors[2, 0, 0] = 0.0
    indices = torch.zeros(4, 200, dtype=torch.int64)
    indices[2:] = 1
    values, underflows = cp_components(factors, batch_of(indices, 2))
    assert underflows.tolist() == [4, 2, 0]
    torch.testing.assert_close(values[2], torch.tensor([0.0, 0, 1, 1]), rtol=0, atol=1e-17)


def test_one_component_that_is_not_finite_leaves_the_others_alone():
    factors, indices = case(levels=2, order=30, dtype=torch.float32)
    inputs = batch_of(indices, 2)
    good = cp_components(factors.detach(), inputs)[0]
    broken = factors.detach().clone()
    broken[2, 1, 3] = torch.nan
    values = cp_components(broken, inputs)[0]
    others = [i for i in range(len(broken)) if i != 2]
    assert torch.equal(values[others], good[others])
    assert values[2].isnan().any()


def test_bfloat16_pieces_give_a_float32_product():
    values = torch.randn(5, 784, generator=generator(0, "pieces"))
    exact = (torch.rand(784, 90, generator=generator(0, "matrix")) < 0.3).double()
    pieces = indicators.split_bfloat16(values)
    product = sum(piece.double() @ exact for piece in pieces)
    torch.testing.assert_close(product, values.double() @ exact, rtol=1e-6, atol=1e-5)


@pytest.mark.gpu
def test_cuda_product_equals_the_float64_product():
    values = torch.randn(64, 2, 784, generator=generator(0, "cuda")) * 0.01
    indices = (torch.rand(1000, 784, generator=generator(0, "cuda inputs")) < 0.2).long()
    oracle = batch_of(indices, 2).select_sum(values.double())
    ours = batch_of(indices.cuda(), 2).select_sum(values.cuda()).cpu().double()
    torch.testing.assert_close(ours, oracle, rtol=2e-6, atol=2e-6)
