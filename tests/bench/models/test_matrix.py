from functools import reduce

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.core.settings import validate
from bench.models.matrix import MatrixConfig, MatrixFactorization
from bench.models.replicates import stack_replicates


def model(rows, columns, depth=3, seed=0, **options):
    config = validate(MatrixConfig, {"depth": depth, **options}, "model")
    return MatrixFactorization(rows, columns, config, generator(seed, "test"))


def singular_values(factorization):
    return factorization.learned_norms()["singular_value"]


@given(rows=st.integers(1, 5), columns=st.integers(1, 5), depth=st.integers(1, 4))
def test_full_tensor_is_the_product_of_the_factors(rows, columns, depth):
    factorization = model(rows, columns, depth, init_std=1.0).double()
    factors = [factor.detach() for factor in factorization.factors]
    expected = reduce(torch.matmul, reversed(factors))
    end = factorization.full_tensor().detach()
    torch.testing.assert_close(end, expected, rtol=1e-12, atol=1e-12)
    squares = singular_values(factorization).square().sum()
    torch.testing.assert_close(squares, end.square().sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("width", [None, 7])
@pytest.mark.parametrize(("rows", "columns", "depth"), [(4, 4, 2), (3, 6, 3), (6, 3, 4)])
def test_a_balanced_start_is_balanced_and_draws_the_end_matrix(rows, columns, depth, width):
    balanced = model(rows, columns, depth, width=width, start="balanced", init_std=0.5)
    differences = balanced.conserved_differences()
    inner = [len(factor) for factor in balanced.factors[:-1]]
    assert len(differences) == sum(size**2 for size in inner)
    assert differences.abs().max() < 1e-6
    direct = model(rows, columns, 1, start="balanced", init_std=0.5)
    torch.testing.assert_close(balanced.full_tensor(), direct.full_tensor())


def test_a_gaussian_start_has_the_given_standard_deviation():
    factorization = model(60, 80, 3, width=70, init_std=1e-3)
    assert [tuple(f.shape) for f in factorization.factors] == [(70, 80), (70, 70), (60, 70)]
    for factor in factorization.factors:
        assert factor.std().item() == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("start", ["gaussian", "balanced"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_determinant_has_the_sign_asked_for(depth, start, sign):
    for seed in range(6):
        options = {"start": start, "init_std": 8e-3, "determinant_sign": sign}
        end = model(2, 2, depth, seed=seed, **options).full_tensor()
        assert torch.linalg.det(end.double()).sign() == sign


def test_an_enforced_sign_keeps_a_balanced_start_balanced():
    for sign in (-1, 1):
        balanced = model(3, 3, 3, start="balanced", init_std=1.0, determinant_sign=sign)
        assert balanced.conserved_differences().abs().max() < 1e-5


def test_stacked_replicates_equal_solo_models():
    solos = [model(3, 4, 3, seed=seed, init_std=10.0**-seed).double() for seed in range(3)]
    stacked = stack_replicates(solos)
    for i, solo in enumerate(solos):
        torch.testing.assert_close(stacked.full_tensor()[i], solo.full_tensor())
        torch.testing.assert_close(singular_values(stacked)[i], singular_values(solo))


def test_a_configuration_builds_the_model_it_describes():
    config = MatrixConfig(depth=2, init_std=0.1)
    built = config.factorize([3, 4], 0)
    expected = MatrixFactorization(3, 4, config, generator(0, "initialization"))
    assert torch.equal(built.full_tensor(), expected.full_tensor())


@pytest.mark.parametrize(
    ("sizes", "options", "named"),
    [
        ((3, 3, 0), {}, "model.depth=0"),
        ((3, 3), {"width": 0}, "model.width=0"),
        ((3, 3), {"init_std": 0.0}, "model.init_std=0.0"),
        ((3, 3), {"start": "zero"}, "model.start='zero'"),
        ((3, 3), {"start": "balanced", "width": 2}, "model.start=balanced for a 3 x 3 .* 2 wide"),
        ((3, 3), {"determinant_sign": 0}, "model.determinant_sign=0"),
        ((3, 4), {"determinant_sign": 1}, "model.determinant_sign=1 for a 3 x 4"),
        ((3, 3), {"determinant_sign": 1, "width": 2}, "2 wide"),
    ],
)
def test_bad_input_is_named(sizes, options, named):
    with pytest.raises(UserError, match=named):
        model(*sizes, **options)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_an_identity_start_is_a_multiple_of_the_unit_matrix(depth):
    end = model(3, 3, depth, start="identity", init_std=0.5).full_tensor()
    torch.testing.assert_close(end, 0.5**depth * torch.eye(3))
    with pytest.raises(UserError, match=r"model\.start=identity for a 3 x 4"):
        model(3, 4, depth, start="identity")


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_perturbed_identity_starts_are_symmetric_balanced_and_differ(depth):
    starts = [
        model(2, 2, depth, seed, start="perturbed_identity", init_std=0.5).double()
        for seed in (0, 1)
    ]
    ends = [start.full_tensor() for start in starts]
    assert not torch.equal(*ends)
    for start, end in zip(starts, ends, strict=True):
        assert not start.conserved_differences().any()
        torch.testing.assert_close(end, end.T, rtol=1e-15, atol=1e-16)
        assert (torch.linalg.eigvalsh(end) > 0).all()
        assert (end / 0.5**depth - torch.eye(2)).abs().max() < 1
