import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.core.seeding import generator
from bench.kernels.khatri_rao import cp_full_tensor, khatri_rao


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def tensorly_full(factors):
    return torch.from_numpy(tensorly.cp_to_tensor((None, [mode.numpy() for mode in factors])))


@given(
    order=st.integers(2, 6),
    mode_dim=st.integers(1, 3),
    rank=st.integers(1, 5),
    seed=st.integers(0, 10**6),
)
def test_full_tensor_equals_tensorly(order, mode_dim, rank, seed):
    factors = normal(order, mode_dim, rank, seed=seed)
    torch.testing.assert_close(
        cp_full_tensor(factors), tensorly_full(factors), rtol=1e-12, atol=1e-12
    )


def test_khatri_rao_of_unequal_matrices_equals_tensorly():
    matrices = [normal(rows, 4, seed=rows) for rows in (2, 3, 5)]
    expected = tensorly.tenalg.khatri_rao([matrix.numpy() for matrix in matrices])
    torch.testing.assert_close(khatri_rao(matrices), torch.from_numpy(expected))


def test_leading_dimensions_are_replicates():
    factors = normal(2, 3, 5, 2, 4)
    stacked = cp_full_tensor(factors)
    assert stacked.shape == (2, 3, 2, 2, 2, 2, 2)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(stacked[i, j], cp_full_tensor(factors[i, j]))


@pytest.mark.parametrize("shape", [(2, 3, 2), (5, 2, 2), (2, 3, 2, 2)])
def test_gradient_equals_finite_differences(shape):
    assert torch.autograd.gradcheck(cp_full_tensor, normal(*shape).requires_grad_())
