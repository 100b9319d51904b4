"""The linear baseline against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from bench.kernels.indicators import indicator_matrix
from bench.models.linear import LinearPredictor
from bench.report import load_runs
from bench.seeding import generator
from data_prep.digits import Digits


def test_it_is_scikit_learn_s_ridge_regression(rankbench, tmp_path):
    code, _, _ = rankbench(
        "bench",
        "tensor_rank",
        "experiment=linear_baseline",
        "classes=[3,5]",
        "ranks=[1,3]",
        "seeds=[0]",
        f"runs_dir={tmp_path}",
    )
    assert code == 0
    frame = load_runs(tmp_path, "tensor_rank")
    assert (frame.status == "converged").all()
    assert frame.groupby("model.rank").parameters.unique().map(list).tolist() == [[65], [195]]
    data = Digits("digits")
    train, test = (data.split(None, name) for name in ("train", "test"))
    matrices = [indicator_matrix(part.inputs, 2).numpy()[:, :-1] for part in (train, test)]
    targets = [2.0 * (part.labels.numpy() == 3) for part in (train, test)]
    oracle = Ridge(alpha=1e-3).fit(matrices[0], targets[0])
    errors = [
        (oracle.predict(matrix) - target) ** 2 / 4
        for matrix, target in zip(matrices, targets, strict=True)
    ]
    chosen = (frame["variant"] == "original") & (frame["data.target_class"] == 3)
    (row,) = frame[chosen & (frame["model.rank"] == 1)].to_dict("records")
    # scikit-learn does not shrink the constant, ours does by a hair.
    assert row["train_error"] == pytest.approx(errors[0].mean(), rel=1e-4)
    assert row["test_error"] == pytest.approx(np.minimum(errors[1], 1).mean(), rel=1e-3)


def test_features_are_indicators_and_products_of_pairs():
    model = LinearPredictor(6, 3, 2, generator=generator(0, "pairs"))
    indices = torch.randint(3, (20, 6), generator=generator(0, "inputs"))
    matrix = indicator_matrix(indices, 3)
    features = model.features(matrix)
    assert features.shape == (20, 2 * 13)
    assert torch.equal(features[:, :13], matrix)
    first, second = model.pairs
    for column in range(13):
        product = matrix[:, first[column]] & matrix[:, second[column]]
        assert torch.equal(features[:, 13 + column], product)
    with torch.no_grad():
        model.weight.copy_(torch.arange(26.0))
    assert torch.allclose(model(matrix), features.float() @ torch.arange(26.0))
