"""The linear baseline against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from bench.core.seeding import generator
from bench.core.status import Status
from bench.kernels.indicators import indicator_matrix
from bench.models.linear import LinearConfig, pair_features
from bench.plan import check, plan_benchmark, stacks
from data_prep.digits import Digits


def test_it_is_scikit_learn_s_ridge_regression():
    grid = ["case=tensor_rank/linear", "classes=[3,5]", "ranks=[1,3]", "seeds=[0]"]
    cells = plan_benchmark("tensor_rank", grid).cells
    check(cells, 1.0)
    divided = stacks(cells, 1.0, len(cells))
    assert len(divided) == 4  # two sets of images, two of features
    outcomes = {}
    for stack in divided:
        learner = stack[0].learner.build(stack)
        learner.fit([])
        assert learner.share_done() == 1
        outcomes |= dict(zip(stack, learner.run_log.outcomes, strict=True))
    assert {outcome.status for outcome in outcomes.values()} == {Status.CONVERGED}
    sizes = {(cell.model.rank, outcome.metrics["parameters"]) for cell, outcome in outcomes.items()}
    assert sizes == {(1, 65), (3, 195)}
    data = Digits()
    train, test = (data.split(None, name) for name in ("train", "test"))
    matrices = [indicator_matrix(part.inputs, 2).numpy()[:, :-1] for part in (train, test)]
    targets = [2.0 * (part.labels.numpy() == 3) for part in (train, test)]
    oracle = Ridge(alpha=1e-3).fit(matrices[0], targets[0])
    errors = [
        (oracle.predict(matrix) - target) ** 2 / 4
        for matrix, target in zip(matrices, targets, strict=True)
    ]
    (metrics,) = (
        outcome.metrics
        for cell, outcome in outcomes.items()
        if (cell.variant, cell.data.target_class, cell.model.rank) == ("original", 3, 1)
    )
    # scikit-learn does not shrink the constant, ours does by a hair.
    assert metrics["train_error"] == pytest.approx(errors[0].mean(), rel=1e-4)
    assert metrics["test_error"] == pytest.approx(np.minimum(errors[1], 1).mean(), rel=1e-3)


def test_features_are_indicators_and_products_of_pairs():
    pairs = LinearConfig(rank=2).pairs(12, generator(0, "pairs"))
    indices = torch.randint(3, (20, 6), generator=generator(0, "inputs"))
    matrix = indicator_matrix(indices, 3)
    features = pair_features(matrix, pairs)
    assert features.shape == (20, 2 * 13)
    assert torch.equal(features[:, :13], matrix)
    first, second = pairs
    for column in range(13):
        product = matrix[:, first[column]] & matrix[:, second[column]]
        assert torch.equal(features[:, 13 + column], product)
