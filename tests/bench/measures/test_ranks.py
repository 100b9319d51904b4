import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.core.seeding import generator
from bench.kernels.khatri_rao import cp_full_tensor
from bench.measures.ranks import (
    component_norms,
    effective_rank,
    log_norm,
    numerical_rank,
    rank_one_distance,
)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


@given(rank=st.integers(1, 6), zeros=st.integers(0, 4), scale=st.floats(1e-6, 1e6))
def test_effective_rank_of_equal_values_is_their_number(rank, zeros, scale):
    values = torch.cat([torch.full((rank,), scale), torch.zeros(zeros)]).double()
    assert effective_rank(values).item() == pytest.approx(rank, rel=1e-9)


def test_effective_rank_of_known_values():
    # Entropy of (1/2, 1/4, 1/4) is 1.5 ln 2.
    values = torch.tensor([[2.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(effective_rank(values), torch.tensor([2.0**1.5, 1.0]))


def test_numerical_rank_counts_relative_to_the_largest_in_any_order():
    values = torch.tensor([[0.5, 100.0, 1.5], [1.0, 1.0, 1.0]])
    assert numerical_rank(values).tolist() == [2, 3]
    assert numerical_rank(values, tolerance=1e-3).tolist() == [3, 3]


def test_component_norms_are_frobenius_norms_of_the_components():
    factors = normal(2, 4, 3, 5)
    for replicate in range(2):
        for r in range(5):
            component = cp_full_tensor(factors[replicate, :, :, r : r + 1])
            torch.testing.assert_close(
                component_norms(factors)[replicate, r], torch.linalg.vector_norm(component)
            )


def test_rank_one_distance_of_a_matrix_is_the_tail_of_its_singular_values():
    matrix = normal(4, 6)
    tail = torch.linalg.svdvals(matrix)[1:].square().sum().sqrt()
    torch.testing.assert_close(rank_one_distance(matrix), tail)


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 2, 4, 2)])
def test_power_method_agrees_with_singular_values_where_a_tensor_is_a_matrix(shape):
    """A tensor whose further modes have one nonzero slice is a matrix in disguise."""
    tensor = torch.zeros(shape, dtype=torch.float64)
    matrix = normal(*shape[:2])
    tensor[(..., *[0] * (len(shape) - 2))] = matrix
    tail = torch.linalg.svdvals(matrix)[1:].norm()
    torch.testing.assert_close(rank_one_distance(tensor), tail, rtol=1e-6, atol=0)


@given(seed=st.integers(0, 10**6), order=st.integers(3, 4))
def test_an_orthogonal_tensor_is_as_far_as_its_smaller_components(seed, order):
    """For orthogonal components the largest is the nearest rank-one tensor."""
    bases = [torch.linalg.qr(normal(4, 3, seed=seed + n)).Q for n in range(order)]
    weights = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    bases[0] = bases[0] * weights
    distance = rank_one_distance(cp_full_tensor(torch.stack(bases)))
    assert distance.item() == pytest.approx(5**0.5, rel=1e-6)


@pytest.mark.parametrize("order", [3, 4])
def test_a_nearly_rank_one_tensor_keeps_its_small_distance(order):
    tensor = cp_full_tensor(normal(order, 5, 1))
    assert rank_one_distance(tensor) < 1e-12 * tensor.norm()
    noise = 1e-9 * normal(*tensor.shape)
    assert rank_one_distance(tensor + noise) <= noise.norm()
    assert rank_one_distance(tensor + noise) > 0.5 * noise.norm()


def test_power_method_is_at_least_as_near_as_tensorly_s_and_random_search():
    for seed in range(5):
        tensor = normal(3, 4, 5, seed=seed)
        weight, vectors = tensorly.decomposition.parafac_power_iteration(
            tensor.numpy(), 1, n_repeat=50, n_iteration=50
        )
        rebuilt = torch.from_numpy(tensorly.cp_to_tensor((weight, vectors)))
        assert rank_one_distance(tensor) <= (tensor - rebuilt).norm() * (1 + 1e-6)


def test_log_norm_is_that_of_the_full_tensor():
    factors = normal(5, 3, 4)  # order, mode_dim, rank
    tensor = cp_full_tensor(factors)
    expected = tensor.square().mean().sqrt().log()
    torch.testing.assert_close(log_norm(factors.permute(2, 0, 1)), expected)
    # Of 784 modes, where the norm leaves float64, doubling one vector of each component adds log 2.
    many = 1 + 0.5 * normal(7, 784, 2, seed=1)
    twice = many.clone()
    twice[:, 3] *= 2
    torch.testing.assert_close(log_norm(twice) - log_norm(many), torch.tensor(2.0).double().log())
    assert log_norm(many**9) > 1000
