import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.core.seeding import generator
from bench.kernels.tproduct import (
    from_fourier,
    leading_tubal_subspace,
    singular_tubes,
    t_gram,
    t_transpose,
    to_fourier,
)

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def identity(size, length):
    """The unit of the t-product."""
    tubes = torch.eye(1, length, dtype=torch.float64).expand(size, -1)
    return torch.diag_embed(tubes.T).movedim(0, -1)


def t_product(first, second):
    return from_fourier(to_fourier(first) @ to_fourier(second), first.shape[-1])


def circular_convolution_product(first, second):
    """The definition: entries are tubes, which multiply by circular convolution."""
    length = first.shape[-1]
    product = torch.zeros(first.shape[0], second.shape[1], length, dtype=first.dtype)
    for i in range(length):
        for j in range(length):
            product[..., (i + j) % length] += first[..., i] @ second[..., j]
    return product


@given(sizes=SIZES, columns=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_product_is_circular_convolution_of_tubes(sizes, columns, seed):
    first = normal(*sizes, seed=seed)
    second = normal(sizes[1], columns, sizes[2], seed=seed + 1)
    assert_close(t_product(first, second), circular_convolution_product(first, second))


@given(sizes=SIZES, seed=st.integers(0, 10**6))
def test_identity_transpose_and_gram(sizes, seed):
    first, second = normal(*sizes, seed=seed), normal(sizes[1], 2, sizes[2], seed=seed + 1)
    assert_close(t_product(identity(sizes[0], sizes[2]), first), first)
    assert_close(t_transpose(t_transpose(first)), first)
    assert_close(
        t_transpose(t_product(first, second)), t_product(t_transpose(second), t_transpose(first))
    )
    assert_close(t_gram(first), t_product(first, t_transpose(first)))


@given(sizes=SIZES, seed=st.integers(0, 10**6))
def test_all_left_singular_slices_are_orthonormal_and_span_the_tensor(sizes, seed):
    tensor, rank = normal(*sizes, seed=seed), min(sizes[:2])
    left = leading_tubal_subspace(tensor, rank)
    assert_close(t_product(t_transpose(left), left), identity(rank, sizes[2]))
    coordinates = t_product(t_transpose(left), tensor)
    assert_close(t_product(left, coordinates), tensor)
    tubes = singular_tubes(tensor)
    assert (tubes.norm(dim=-1).diff() <= 1e-12).all()
    assert_close(tubes.square().sum(), tensor.square().sum())
    # Each slice carries the singular tube of its number.
    gram = t_gram(coordinates)
    energies = torch.stack([gram[i, i, 0] for i in range(rank)])
    assert_close(energies, tubes.square().sum(-1))


@pytest.mark.parametrize("length", [1, 4, 5])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_gram_tensor_has_as_many_singular_tubes_as_its_factor_is_wide(rank, length):
    norms = singular_tubes(t_gram(normal(5, rank, length))).norm(dim=-1)
    assert (norms > 1e-6 * norms[0]).sum() == rank


def test_a_tube_length_of_one_is_matrix_algebra():
    first, second = normal(3, 4, 1), normal(4, 2, 1, seed=1)
    assert_close(t_product(first, second)[..., 0], first[..., 0] @ second[..., 0])
    assert_close(singular_tubes(first)[..., 0], torch.linalg.svdvals(first[..., 0]))


def test_leading_dimensions_are_replicates():
    tensors = normal(3, 4, 2, 4)
    assert_close(t_gram(tensors)[1], t_gram(tensors[1]))
    assert_close(singular_tubes(tensors)[1], singular_tubes(tensors[1]))
    assert_close(leading_tubal_subspace(tensors, 2)[1], leading_tubal_subspace(tensors[1], 2))


@pytest.mark.parametrize("length", [3, 4])
def test_gram_gradient_equals_finite_differences(length):
    assert torch.autograd.gradcheck(t_gram, normal(2, 3, length).requires_grad_())
