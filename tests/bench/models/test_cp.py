"""CP factorizations against tensorly."""

import itertools

import pytest
import tensorly
import torch

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.core.settings import validate
from bench.kernels.indicators import IndicatorBatch
from bench.models.cp import CPBlock, CPConfig, CPFactorization


def factorization(order=4, mode_dim=3, rank=5):
    draw = generator(0, "model test")
    model = CPFactorization(order, mode_dim, rank, init_mean=0.0, init_std=1.0, generator=draw)
    return model.double()


def test_every_entry_is_tensorly_s():
    model = factorization()
    factors = [mode.detach().numpy() for mode in model.factors]
    oracle = torch.from_numpy(tensorly.cp_to_tensor((None, factors)))
    indices = torch.tensor(list(itertools.product(range(3), repeat=4)))
    torch.testing.assert_close(model.full_tensor(), oracle, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(indices), oracle.flatten(), rtol=1e-12, atol=1e-12)


def test_the_start_is_the_published_one_and_follows_the_generator():
    model = CPConfig(rank=15).factorize([2] * 784, seed=0)
    assert model.factors.shape == (784, 2, 15)
    assert model.factors.mean().item() == pytest.approx(1, abs=1e-4)
    assert model.factors.std().item() == pytest.approx(1e-3, rel=0.02)
    again = CPConfig(rank=15).factorize([2] * 784, seed=0)
    assert torch.equal(model.factors, again.factors)


def test_a_block_gives_each_predictor_its_own_value():
    models = [factorization(rank=rank) for rank in (2, 4, 1)]
    factors = [model.factors.detach().permute(2, 1, 0) for model in models]
    block = CPBlock(torch.tensor([5, 6, 9]), torch.tensor([2, 4, 1]), torch.cat(factors))
    indices = torch.randint(3, (8, 4), generator=generator(0, "indices"))
    inputs = IndicatorBatch(indices, 3)
    predictions, underflows = block(inputs)
    for row, model in zip(predictions, models, strict=True):
        torch.testing.assert_close(row, model(indices), rtol=1e-12, atol=1e-12)
    assert underflows.tolist() == [0, 0, 0]
    kept = block.select(torch.tensor([True, False, True]))
    assert kept.members.tolist() == [5, 9]
    torch.testing.assert_close(kept(inputs)[0], predictions[[0, 2]], rtol=1e-12, atol=1e-12)
    assert len(block.select(torch.zeros(3, dtype=torch.bool)).members) == 0


def test_a_part_of_a_block_keeps_the_moments_and_steps():
    ranks = torch.tensor([2, 20, 1])
    factors = torch.randn(23, 3, 5, generator=generator(0, "part"))
    block = CPBlock(torch.tensor([5, 6, 9]), ranks, factors)
    assert torch.equal(block.components(), factors)
    moments = torch.randn(23, 3, 5, generator=generator(0, "moments"))
    block.fill(block.first_moments, moments)
    block.fill(block.second_moments, moments**2)
    block.steps.fill_(7)
    part = block.select(torch.tensor([True, False, True]))
    kept = [0, 1, 22]
    assert torch.equal(part.components(), factors[kept])
    assert torch.equal(part.components(part.first_moments), moments[kept])
    assert torch.equal(part.components(part.second_moments), moments[kept] ** 2)
    assert int(part.steps) == 7
    assert [state["factors"].shape[-1] for state, _ in part.trained()] == [2, 1]


@pytest.mark.parametrize(("order", "mode_dim", "rank"), [(0, 2, 1), (3, 1, 1), (3, 2, 0)])
def test_impossible_shapes_are_refused(order, mode_dim, rank):
    with pytest.raises(UserError, match="at least"):
        CPFactorization(order, mode_dim, rank)


@pytest.mark.parametrize("values", [{"rank": 0}, {"rank": 2, "init_std": -1.0}])
def test_impossible_configurations_are_refused(values):
    with pytest.raises(UserError, match="model"):
        validate(CPConfig, values, "model")
