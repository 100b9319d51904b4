import math

import pytest
import torch
from scipy.linalg import subspace_angles

from bench.core.seeding import generator
from bench.kernels.tproduct import (
    from_fourier,
    leading_tubal_subspace,
    t_gram,
    to_fourier,
    tubal_principal_angle,
)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def test_a_subspace_does_not_depend_on_its_basis():
    basis = leading_tubal_subspace(normal(6, 3, 4), 3)
    turned = from_fourier(
        to_fourier(basis) @ to_fourier(leading_tubal_subspace(normal(3, 3, 4, seed=1), 3)), 4
    )
    assert tubal_principal_angle(basis, turned) < 1e-12


def test_the_leading_subspace_of_a_gram_tensor_is_that_of_its_factor():
    factor = normal(6, 3, 4)
    angle = tubal_principal_angle(
        leading_tubal_subspace(t_gram(factor), 3), leading_tubal_subspace(factor, 3)
    )
    assert angle < 1e-10


def test_a_tube_length_of_one_gives_the_angle_of_matrices():
    bases = [torch.linalg.qr(normal(7, 3, seed=seed)).Q for seed in (0, 1)]
    expected = math.sin(subspace_angles(bases[0].numpy(), bases[1].numpy()).max())
    angle = tubal_principal_angle(bases[0][..., None], bases[1][..., None])
    assert angle.item() == pytest.approx(expected, rel=1e-10)


def test_small_angles_keep_their_digits_and_orthogonal_subspaces_give_one():
    basis = torch.zeros(3, 1, 4, dtype=torch.float64)
    basis[0, 0, 0] = 1
    near, orthogonal = torch.zeros_like(basis), torch.zeros_like(basis)
    near[0, 0, 0], near[1, 0, 0] = math.cos(1e-9), math.sin(1e-9)
    orthogonal[2, 0, 0] = 1
    stacked = tubal_principal_angle(basis, torch.stack([near, orthogonal]))
    torch.testing.assert_close(stacked, torch.tensor([1e-9, 1.0], dtype=torch.float64))
