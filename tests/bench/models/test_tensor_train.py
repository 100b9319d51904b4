"""Tensor trains against the product that defines them, and against CP predictors."""

import pytest
import torch

from bench.core.errors import UserError
from bench.models.cp import CPPredictor
from bench.models.replicates import stack_replicates
from bench.models.tensor_train import TensorTrain, TensorTrainConfig


def train_of(order, levels, rank, seed=0, std=0.3):
    return TensorTrain(order, levels, rank, init_std=std, seed=seed).double()


def inputs_of(batch, order, levels):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(levels, (batch, order), generator=generator).to(torch.uint8)


def slow_scores(train, inputs):
    scores = []
    for sample in inputs.tolist():
        vector = train.ends[0, sample[0]]
        for core, value in zip(train.cores, sample[1:-1], strict=True):
            vector = vector @ core[value]
        scores.append(vector @ train.ends[1, sample[-1]])
    return torch.stack(scores)


SHAPES = [(2, 2, 3), (3, 2, 2), (6, 2, 1), (11, 2, 3), (9, 3, 2), (5, 17, 2)]


@pytest.mark.parametrize(("order", "levels", "rank"), SHAPES)
def test_a_score_and_its_gradient_are_those_of_the_product_of_matrices(order, levels, rank):
    train, inputs = train_of(order, levels, rank), inputs_of(7, order, levels)
    gradients = []
    for scores in (train(inputs), slow_scores(train, inputs)):
        torch.testing.assert_close(scores, slow_scores(train, inputs))
        parameters = [train.ends, train.cores][: order - 1]  # of two inputs there are no cores
        gradients.append(torch.autograd.grad(scores.square().sum(), parameters))
    torch.testing.assert_close(*gradients)


def test_a_train_of_diagonal_matrices_is_a_cp_predictor():
    train, predictor = train_of(8, 3, 4), CPPredictor(8, 3, 4).double()
    train.cores.data *= torch.eye(4)
    chain = [train.ends.data[0], *train.cores.data.diagonal(dim1=-2, dim2=-1), train.ends.data[1]]
    predictor.factors.data = torch.stack(chain)
    inputs = inputs_of(20, 8, 3)
    torch.testing.assert_close(train(inputs), predictor(inputs))


def test_replicates_have_the_scores_of_each_alone():
    trains, inputs = [train_of(7, 2, 3, seed) for seed in range(3)], inputs_of(5, 7, 2)
    together = stack_replicates(trains)(inputs)
    torch.testing.assert_close(together, torch.stack([train(inputs) for train in trains]))


def test_the_start_is_near_one_for_as_many_inputs_as_mnist_has():
    inputs = inputs_of(50, 784, 2)
    for rank in (1, 4, 8):
        scores = TensorTrainConfig(rank=rank).predictor((28, 28), 2, 0)(inputs)
        assert scores.min() > 0.2
        assert scores.max() < 5
    assert not torch.equal(train_of(5, 2, 2, 0).cores, train_of(5, 2, 2, 1).cores)


def test_it_has_as_many_parameters_as_its_matrices_have_entries():
    train = train_of(64, 2, 3)
    assert sum(p.numel() for p in train.parameters()) == 62 * 2 * 9 + 2 * 2 * 3


def test_a_single_input_is_refused():
    with pytest.raises(UserError, match="expected two inputs or more"):
        train_of(1, 2, 2)
