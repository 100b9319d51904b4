import pytest
import torch

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.core.settings import validate
from bench.kernels.tproduct import from_fourier, t_transpose, to_fourier
from bench.models.replicates import stack_replicates
from bench.models.tubal import TubalConfig, TubalFactorization


def t_product(first, second):
    return from_fourier(to_fourier(first) @ to_fourier(second), first.shape[-1])


def model(size, tube_length, overestimated_rank, seed=0, **options):
    options = {"overestimated_rank": overestimated_rank, **options}
    config = validate(TubalConfig, options, "model")
    return TubalFactorization(size, tube_length, config, generator(seed, "test"))


def tube_norms(factorization):
    return factorization.learned_norms()["singular_tube"]


def test_full_tensor_is_the_factor_times_its_transpose():
    factorization = model(3, 4, 2, init_std=1.0).double()
    factor = factorization.factor.detach()
    end = factorization.full_tensor().detach()
    torch.testing.assert_close(end, t_product(factor, t_transpose(factor)))
    torch.testing.assert_close(t_transpose(end), end)
    norms = tube_norms(factorization)
    torch.testing.assert_close(norms.square().sum(), end.square().sum())
    assert norms[2] < 1e-12 < norms[1]


def test_the_start_is_scaled_by_the_overestimated_rank():
    factor = model(20, 4, 100, init_std=1e-2).factor
    assert factor.shape == (20, 100, 4)
    assert factor.std().item() == pytest.approx(1e-3, rel=0.05)


def test_stacked_replicates_equal_solo_models():
    solos = [model(3, 4, 5, seed=seed, init_std=10.0**-seed).double() for seed in range(3)]
    stacked = stack_replicates(solos)
    for i, solo in enumerate(solos):
        torch.testing.assert_close(stacked.full_tensor()[i], solo.full_tensor())
        torch.testing.assert_close(tube_norms(stacked)[i], tube_norms(solo))


def test_the_gradient_is_the_published_one():
    """The gradient of half the sum of squares is sum_j residual_j (A_j + A_j^T) * U [TUB]."""
    factorization = model(3, 4, 5, init_std=1.0).double()
    draw = generator(0, "operators")
    operators = torch.randn(6, 3, 3, 4, generator=draw, dtype=torch.float64)
    residuals = (operators * factorization.full_tensor()).sum((1, 2, 3)) - 1
    (gradient,) = torch.autograd.grad(residuals.square().sum() / 2, factorization.factor)
    summed = torch.einsum("j,jabc->abc", residuals.detach(), operators)
    expected = t_product(summed + t_transpose(summed), factorization.factor.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_a_configuration_builds_the_model_it_describes():
    config = TubalConfig(overestimated_rank=5, init_std=0.1)
    built = config.factorize([3, 3, 4], 0)
    expected = TubalFactorization(3, 4, config, generator(0, "initialization"))
    assert torch.equal(built.factor, expected.factor)


@pytest.mark.parametrize(
    ("sizes", "options", "named"),
    [
        ((3, 4, 0), {}, "model.overestimated_rank=0"),
        ((3, 4, 2), {"init_std": -1.0}, "model.init_std=-1.0"),
    ],
)
def test_bad_input_is_named(sizes, options, named):
    with pytest.raises(UserError, match=named):
        model(*sizes, **options)
